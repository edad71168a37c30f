package main

import (
	"cmp"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/server/records"
)

// live is what the configuration file says that may change while the server runs. It is
// put in force as a whole, and never altered.
type live struct {
	level     slog.Level
	allowFrom []netip.Prefix
	retention retention
	webhooks  []webhook
	aliases   bool   // metrics have the names too that other systems know
	subjects  string // how metrics name subjects
}

// retention is for how long what has happened is kept; 0 is for good.
type retention struct{ audit, usageHours, usageDays, usageMonths time.Duration }

// records is the part of it that records know.
func (r *retention) records() records.Retention { return records.Retention{Audit: r.audit} }

// keepAudit is how long the audit log is kept where the file does not say. Usage is kept
// as [meter.DefaultRetention] says.
const keepAudit = 400 * 24 * time.Hour

// webhook is where events are sent.
type webhook struct {
	name, url string
	secret    string // signs what is sent; it stands nowhere but in memory
	events    []string
}

// webhookEvents are all events that can be sent.
var webhookEvents = []string{"quota.threshold"}

// readLive returns what a file without faults says, and the defaults of the rest.
func readLive(c *configFile) *live {
	keep := func(key string, usual time.Duration) time.Duration {
		if value, said := c.one(key); said {
			usual, _ = parseKeep(value)
		}
		return usual
	}
	l := &live{retention: retention{
		audit:       keep("retention.audit", keepAudit),
		usageHours:  keep("retention.usage_hours", meter.DefaultRetention.Hours),
		usageDays:   keep("retention.usage_days", meter.DefaultRetention.Days),
		usageMonths: keep("retention.usage_months", meter.DefaultRetention.Months),
	}}
	aliases, _ := c.one("metrics.aliases")
	l.aliases = aliases != "off"
	subjects, _ := c.one("metrics.subjects")
	l.subjects = cmp.Or(subjects, subjectsPlain)
	switch level, _ := c.one("log.level"); level {
	case "debug":
		l.level = slog.LevelDebug
	case "warn":
		l.level = slog.LevelWarn
	case "error":
		l.level = slog.LevelError
	}
	for _, v := range c.values["auth.allow_from"] {
		network, _ := parseNetwork(v)
		l.allowFrom = append(l.allowFrom, network)
	}
	for _, name := range c.names["webhooks"] {
		path := below("webhooks", name)
		w := webhook{name: name, events: webhookEvents}
		w.url, _ = c.one(below(path, "url"))
		w.secret, _ = c.one(below(path, "secret_file"))
		if events, said := c.values[below(path, "events")]; said {
			w.events = events
		}
		l.webhooks = append(l.webhooks, w)
	}
	return l
}

// changed names the keys of which l says something else than another one.
func (l *live) changed(other *live) (keys []string) {
	for _, part := range []struct {
		key  string
		same bool
	}{
		{"log.level", l.level == other.level},
		{"auth.allow_from", slices.Equal(l.allowFrom, other.allowFrom)},
		{"webhooks", reflect.DeepEqual(l.webhooks, other.webhooks)},
		{"retention", l.retention == other.retention},
		{"metrics", l.aliases == other.aliases && l.subjects == other.subjects},
	} {
		if !part.same {
			keys = append(keys, part.key)
		}
	}
	return keys
}

// restart names the keys of which other settings say something else that is only read at
// the start. What a flag or a variable said is in both.
func (s *settings) restart(other *settings) (keys []string) {
	for _, f := range serveSettings {
		if f.key != "" && s.values[f.name] != other.values[f.name] {
			keys = append(keys, f.key)
		}
	}
	if s.envoyOptions != other.envoyOptions {
		keys = append(keys, "envoy")
	}
	if !reflect.DeepEqual(s.forward.pools, other.forward.pools) {
		keys = append(keys, "upstreams")
	}
	if !s.forward.sameRoutes(&other.forward) {
		keys = append(keys, "proxy")
	}
	if s.tls != other.tls {
		keys = append(keys, "tls")
	}
	if cmp.Or(s.logFormat, "text") != cmp.Or(other.logFormat, "text") {
		keys = append(keys, "log.format")
	}
	return keys
}

// configReloader reads the configuration file again.
type configReloader struct {
	settings *settings // those that the server was started with
	metrics  *observe.Metrics
	log      *slog.Logger
	// apply puts what may change in force.
	apply func(*live)

	mu   sync.Mutex // one reads at a time
	last *live
	bad  atomic.Bool
}

// ok is whether the file had no fault when it was last read.
func (r *configReloader) ok() bool { return !r.bad.Load() }

// reload keeps what is in force if the file is bad, all of it.
func (r *configReloader) reload(why string) {
	if r.settings.config == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := resolve(r.settings.words, r.settings.config)
	r.bad.Store(err != nil)
	if err != nil {
		r.metrics.ConfigReloadFailed()
		faults, ok := errors.AsType[configFaults](err)
		for _, f := range faults {
			r.log.Error("configuration fault", "fault", f.Error())
		}
		if ok {
			err = errors.New(count(len(faults), "fault"))
		}
		r.log.Error("configuration not reloaded, the old one stays in force", "because", why, "error", err)
		return
	}
	if keys := r.settings.restart(s); len(keys) > 0 {
		r.log.Warn("takes a restart: "+strings.Join(keys, ", "), "because", why)
	}
	keys := s.live.changed(r.last)
	if len(keys) == 0 {
		r.log.Debug("configuration unchanged", "because", why)
		return
	}
	say := func() {
		r.log.Info("configuration in force", "file", r.settings.config, "changed", strings.Join(keys, ", "), "because", why)
	}
	if s.live.level > r.last.level { // the new level may keep it back
		say()
		say = func() {}
	}
	r.last = s.live
	r.apply(s.live)
	say()
}
