package gate

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/gate/policy"
)

// Record is what is on record of a subject besides the policy. It beats what the
// policy itself says of the subject.
type Record struct {
	Application, Subject string
	// Known is false where there is nothing but a Ban: what the policy says of the
	// subject then holds.
	Known bool
	// Plan is "" for none of its own. One that the policy does not have counts as one
	// that a request names and that is unknown.
	Plan string
	// Timezone is the zone of its quotas, Anchor the day of the month on which its
	// monthly ones begin, 1 to 31; nil and 0 for the limits' own.
	Timezone *time.Location
	Anchor   int
	// Overrides have ids of limits. One that does not fit the limit as the policy now
	// has it is passed over. They must not be changed later.
	Overrides []policy.Override
	Ban       Ban
}

// Ban refuses a subject until an instant; the zero value is none. A policy's modes have
// no say in it.
type Ban struct {
	// Until is at most MaxBan ahead.
	Until  time.Time
	Reason string
}

// MaxBan is the longest ban.
const MaxBan = 100 * 365 * 24 * time.Hour

// Records are what is on record of subjects. They may change while a gate decides by
// them; each request is decided by one version of its subject's record. Make one with
// [NewRecords].
type Records struct {
	mu     sync.Mutex
	apps   atomic.Pointer[map[string]*registry] // never changed in place
	shared map[profile]*record
}

// profile is a record that many subjects may have.
type profile struct {
	plan, zone string
	anchor     int
}

// NewRecords returns records of nobody.
func NewRecords() *Records { return &Records{shared: make(map[profile]*record)} }

// Len returns how many subjects have a record.
func (r *Records) Len() int {
	n := 0
	for _, app := range r.applications() {
		n += int(app.count.Load())
	}
	return n
}

func (r *Records) applications() map[string]*registry {
	if apps := r.apps.Load(); apps != nil {
		return *apps
	}
	return nil
}

// Put puts a record in force at once, in place of the one that the subject had. One
// that is neither Known nor has a Ban deletes it.
func (r *Records) Put(x *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	apps := r.applications()
	app := apps[x.Application]
	banned := !x.Ban.Until.IsZero()
	if app == nil {
		if !x.Known && !banned {
			return
		}
		app = newRegistry()
		next := make(map[string]*registry, len(apps)+1)
		maps.Copy(next, apps)
		next[x.Application] = app
		r.apps.Store(&next)
	}
	switch {
	case !x.Known && !banned:
		app.put(x.Subject, nil)
	case len(x.Overrides) == 0 && !banned:
		app.put(x.Subject, r.profile(x))
	default:
		app.put(x.Subject, recordOf(x))
	}
}

// profile returns the record that all have who have no more than x.
func (r *Records) profile(x *Record) *record {
	p := profile{plan: x.Plan, anchor: x.Anchor}
	if x.Timezone != nil {
		p.zone = x.Timezone.String()
	}
	known := r.shared[p]
	if known == nil {
		known = recordOf(x)
		r.shared[p] = known
	}
	return known
}

func recordOf(x *Record) *record {
	s := policy.Subject{Plan: x.Plan, Timezone: x.Timezone, Anchor: x.Anchor, Overrides: x.Overrides}
	out := newRecord(&s)
	out.known, out.reason = x.Known, x.Ban.Reason
	if !x.Ban.Until.IsZero() {
		out.banned = x.Ban.Until.UnixMicro()
	}
	return out
}

// find returns the record of a subject; nil if there is none. r may be nil.
func (r *Records) find(application, subject string) *record {
	if r == nil {
		return nil
	}
	if app := r.applications()[application]; app != nil {
		return app.find(subject)
	}
	return nil
}

// SetRecords puts records in force in place of others.
func (g *Gate) SetRecords(r *Records) { g.records.Store(r) }

// recordOf returns what is known of a subject, by the records and by the policy: nil
// for nothing; and the ban, nil for none.
func (g *Gate) recordOf(app *application, subject string, now func() int64) (x *record, ban *record) {
	x = g.records.Load().find(app.name, subject)
	if x == nil {
		return app.subjects[subject], nil
	}
	if x.banned != 0 && now() < x.banned {
		ban = x
	}
	if !x.known {
		x = app.subjects[subject]
	}
	return x, ban
}

// unfit tells of an override that does not fit its limit, ever more rarely.
func (g *Gate) unfit(o *policy.Override, subject string, err error) {
	if n := g.unfits.Add(1); n&(n-1) == 0 {
		g.log.Warn("an override does not fit its limit any more, and is passed over", "limit", o.Limit, "subject", fmt.Sprintf("%.64q", subject), "error", err, "so far", n)
	}
}
