package main

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/server/records"
)

// openMeter makes what counts usage on its way to the records.
func (h *house) openMeter(db *records.DB) {
	h.meter = meter.New(meter.Config{Records: db, Now: h.clock, Logger: h.log})
	h.meter.Set(h.live.Load().meter())
}

// meter is what a meter needs of l.
func (l *live) meter() meter.Live {
	m := meter.Live{Retention: meter.Retention{Hours: l.retention.usageHours, Days: l.retention.usageDays, Months: l.retention.usageMonths}}
	for _, w := range l.webhooks {
		m.Webhooks = append(m.Webhooks, meter.Webhook{Name: w.name, URL: w.url, Secret: w.secret, Events: w.events})
	}
	return m
}

// corrected counts what the end of a reservation has changed.
func (h *house) corrected(d *gate.Decision) {
	if h.meter != nil {
		h.meter.Correct(d)
	}
}

// topRatios is how many subjects metrics name.
const topRatios = 20

// How metrics name subjects.
const (
	subjectsPlain  = "plain"
	subjectsHashed = "hashed"
	subjectsOff    = "off"
)

// observeRecords fills in what is seen of the records and of usage.
func (h *house) observeRecords(s *observe.State) {
	if h.follower == nil || h.meter == nil {
		return
	}
	u, live := h.meter.Stats(), h.live.Load()
	s.Records = &observe.Records{Up: h.follower.Status().Err == nil, UsageRows: u.Rows, UsageFailures: u.Failures, Unattributed: uint64(u.Unattributed)}
	s.NoAliases = !live.aliases
	if s.NoAliases || live.subjects == subjectsOff {
		return
	}
	for _, r := range h.meter.Ratios(topRatios) {
		name := r.Subject
		if live.subjects == subjectsHashed {
			sum := sha256.Sum256([]byte(name))
			name = hex.EncodeToString(sum[:8])
		}
		s.Ratios = append(s.Ratios, observe.Ratio{Subject: name, Kind: r.Kind, Used: r.Used})
	}
}
