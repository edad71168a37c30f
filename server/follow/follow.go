// Package follow keeps a gate by the records: [Follower.Load] reads all that decisions
// need, and [Follower.Run] follows what changes, on this node or another. While the
// records are away the gate goes on with what it knows.
package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/records"
)

// Config is what a follower works with. All but Tokens and Logger is required.
type Config struct {
	Records *records.DB
	Gate    *gate.Gate
	// Pinned says that another policy rules than the newest on record.
	Pinned bool
	// Tokens, if not nil, is told of tokens that are new or have changed; whole says
	// that there are no others.
	Tokens func(list []records.Token, whole bool)
	// Logger is told of what cannot be followed; nil discards it.
	Logger *slog.Logger
}

// Follower brings the records to a gate. Make one with [New].
type Follower struct {
	Config
	cursor   records.Cursor
	subjects *gate.Records // in force; nil before all was read
	next     *gate.Records // that are being read; nil if only changes are
	zones    map[string]*time.Location

	mu     sync.Mutex
	status Status
	seen   int64         // the number of the last write that is in force
	bell   chan struct{} // closed with the next
}

// Status says how well the gate knows the records.
type Status struct {
	// At is when all changes were last known; zero for never.
	At time.Time
	// Err is why not since then; nil if nothing is in the way.
	Err error
}

// New returns a follower that has read nothing yet.
func New(c Config) *Follower {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Follower{Config: c, zones: make(map[string]*time.Location), bell: make(chan struct{})}
}

// Load reads everything and puts it in force.
func (f *Follower) Load(ctx context.Context) error {
	err := f.catchUp(ctx)
	f.note(err)
	return err
}

// retryEvery is how often the records are asked again that are away.
const retryEvery = time.Second

// Run follows changes until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	for ctx.Err() == nil {
		f.Records.Wait(ctx)
		err := f.catchUp(ctx)
		if ctx.Err() != nil {
			return
		}
		f.note(err)
		if err != nil {
			timer := time.NewTimer(retryEvery)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
	}
}

// Status returns how well the gate knows the records.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Reach waits until a write is in force here, by its number, or ctx ends.
func (f *Follower) Reach(ctx context.Context, version int64) {
	for {
		f.mu.Lock()
		seen, bell := f.seen, f.bell
		f.mu.Unlock()
		if seen >= version {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-bell:
		}
	}
}

// note notes how an attempt has ended, and says so where that is news.
func (f *Follower) note(err error) {
	f.mu.Lock()
	was := f.status.Err
	if f.status.Err = err; err == nil {
		f.status.At, f.seen = time.Now(), f.cursor.Seen()
		close(f.bell)
		f.bell = make(chan struct{})
	}
	f.mu.Unlock()
	switch {
	case err != nil && was == nil:
		f.Logger.Error("records cannot be read, decisions go on with what is known", "error", err)
	case err == nil && was != nil:
		f.Logger.Info("records are read again")
	}
}

// readTime is how long one reading of the records may take.
const readTime = 5 * time.Second

// catchUp reads until there is nothing new.
func (f *Follower) catchUp(ctx context.Context) error {
	for {
		// A connection may be dead without a word.
		within, cancel := context.WithTimeout(ctx, readTime)
		v, err := f.Records.Next(within, &f.cursor)
		cancel()
		if err != nil {
			return err
		}
		if v.Whole {
			f.next = gate.NewRecords()
		}
		f.bring(&v, cmp.Or(f.next, f.subjects))
		switch {
		case v.More:
			continue
		case f.next != nil:
			f.subjects, f.next = f.next, nil
			f.Gate.SetRecords(f.subjects)
		}
		return nil
	}
}

// bring puts a view in force, its subjects into one set of records.
func (f *Follower) bring(v *records.View, into *gate.Records) {
	if v.Policy != nil && !f.Pinned {
		f.policy(v.Policy)
	}
	for i := range v.Subjects {
		into.Put(f.record(&v.Subjects[i]))
	}
	for i := range v.Modes {
		f.mode(&v.Modes[i])
	}
	if f.Tokens != nil && (v.Whole || len(v.Tokens) > 0) {
		f.Tokens(v.Tokens, v.Whole)
	}
}

// policy puts a revision in force. One that this program does not understand, as a
// newer one may have written it, is passed over, and said.
func (f *Follower) policy(p *records.Policy) {
	source := gate.Source{Name: fmt.Sprintf("revision %d", p.Revision), Data: []byte(p.Document), Revision: uint64(p.Revision)}
	err := f.Gate.Apply(source)
	if err == nil {
		return
	}
	faults, _ := errors.AsType[policy.Faults](err)
	for _, fault := range faults {
		f.Logger.Error("policy fault", "fault", fault.Error())
	}
	f.Logger.Error("a policy on record cannot be put in force, the old one stays", "revision", p.Revision, "author", p.Author, "faults", len(faults))
}

// record is a subject as the gate wants it.
func (f *Follower) record(s *records.Subject) *gate.Record {
	r := &gate.Record{
		Application: s.Application, Subject: s.Name, Known: s.Known, Plan: s.Plan, Anchor: s.Anchor,
		Ban: gate.Ban{Until: s.Ban.Until, Reason: s.Ban.Reason},
	}
	if s.Timezone != "" {
		r.Timezone = f.zone(s.Timezone)
	}
	if len(s.Overrides) > 0 {
		said, err := policy.ParseSubject(nil, s.Application, s.Name, fmt.Appendf(nil, `{"overrides":%s}`, s.Overrides))
		if err != nil {
			f.Logger.Error("overrides on record cannot be read, and are passed over", "application", s.Application, "subject", s.Name, "error", err)
		}
		r.Overrides = said.Overrides
	}
	return r
}

// zone returns a time zone; nil for one that this machine does not know.
func (f *Follower) zone(name string) *time.Location {
	zone, known := f.zones[name]
	if !known {
		var err error
		if zone, err = time.LoadLocation(name); err != nil {
			f.Logger.Error("a time zone on record is not known, the limits' own holds", "timezone", name, "error", err)
		}
		f.zones[name] = zone
	}
	return zone
}

// mode puts an operator's mode in force. Its application or rule may have left the
// policy.
func (f *Follower) mode(m *records.Mode) {
	err := f.Gate.SetMode(gate.Mode{Application: m.Application, Rule: m.Rule, Shadow: m.Shadow, Until: m.Until})
	if err != nil && headgate.CodeOf(err) != headgate.NotFound {
		f.Logger.Error("a mode on record cannot be put in force", "application", m.Application, "rule", m.Rule, "error", err)
	}
}
