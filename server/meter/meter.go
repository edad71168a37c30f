// Package meter counts what is used: by application, subject, operation, plan, unit and
// hour, on its way to the records; and what goes on now, by second, in memory. Counting
// touches nothing but memory, of which it takes a fixed amount at most.
package meter

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
)

const (
	// FlushEvery is how often usage is put on record: what a process that is killed has
	// not told is at most as old, but for the time that the records were away.
	FlushEvery = 5 * time.Second
	// MaxRows is how many rows wait to be put on record, at most, unless Config says
	// otherwise; each takes some 400 bytes and what its names are longer than usual. Usage
	// of further ones is counted for its application, and for no subject, operation or
	// plan.
	MaxRows = 200_000
)

// store is what a meter needs of the records.
type store interface {
	Report(ctx context.Context, reporter string, number int64, hours []records.Usage) error
	Usage(ctx context.Context, q records.UsageQuery) ([]records.Usage, bool, error)
	FoldUsage(ctx context.Context, span records.Span, before time.Time, begin func(*records.Usage) (time.Time, error)) (int, error)
	DropUsage(ctx context.Context, span records.Span, before time.Time) (int, error)
	PutEvent(ctx context.Context, e records.Event, webhooks []string) (bool, error)
	ClaimDelivery(ctx context.Context, webhook string, at, until time.Time) (records.Delivery, error)
	Delivered(ctx context.Context, c *records.Delivery) error
	Undelivered(ctx context.Context, c *records.Delivery, failure string, next time.Time) error
}

// Config is what a meter works with. Records is required.
type Config struct {
	Records store
	// MaxRows is how many rows wait at most; 0 is [MaxRows].
	MaxRows int
	// Now is the time; nil is [time.Now].
	Now func() time.Time
	// Client asks webhooks; nil is one that follows no redirects.
	Client doer
	// Logger takes what goes wrong, and thresholds; nil discards it.
	Logger *slog.Logger
}

// Meter counts. It is safe for concurrent use. Make one with [New].
type Meter struct {
	Config
	reporter   string // of this process
	seed       maphash.Seed
	shards     [shards]shard
	operations operations
	hours      *xsync.Map[string, algo.Period]    // the present one of each zone
	zones      *xsync.Map[string, *time.Location] // by name

	rows    atomic.Int64 // that wait, in shards and in pending
	nobody  atomic.Int64 // decisions that were counted for no subject
	full    chan struct{}
	events  chan event
	due     chan struct{} // holds one where there may be deliveries
	live    atomic.Pointer[Live]
	unheard atomic.Int64 // failures since the last report

	mu      sync.Mutex // of who reports
	number  int64      // of the last report
	pending []report
}

// Live is what may change while a meter works.
type Live struct {
	// Retention is how long usage is kept.
	Retention Retention
	// Webhooks are told of events.
	Webhooks []Webhook
}

// shards is a power of two.
const shards = 32

// shard is a part of what is counted, by subject.
type shard struct {
	mu     sync.Mutex
	rows   rows
	hour   hour
	rates  rates
	tops   tops
	ratios ratios
	marks  marks
	_      [64]byte // nobody shares its cache lines
}

// hour is that of the last decision, in its zone.
type hour struct {
	zone *time.Location
	algo.Period
}

// New returns a meter of this process.
func New(c Config) *Meter {
	if c.Records == nil {
		panic("meter: Config without Records")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Client == nil {
		c.Client = newClient()
	}
	c.MaxRows = cmp.Or(c.MaxRows, MaxRows)
	id := make([]byte, 12)
	rand.Read(id) // never fails
	m := &Meter{
		Config: c, reporter: hex.EncodeToString(id), seed: maphash.MakeSeed(),
		hours: xsync.NewMap[string, algo.Period](), zones: xsync.NewMap[string, *time.Location](),
		full: make(chan struct{}, 1), events: make(chan event, maxEvents), due: make(chan struct{}, 1),
	}
	for i := range m.shards {
		m.shards[i].rows, m.shards[i].marks = make(rows), make(marks)
	}
	m.live.Store(&Live{Retention: DefaultRetention})
	return m
}

// Set puts other settings in force.
func (m *Meter) Set(l Live) { m.live.Store(&l) }

// Count counts a decision that may have charged. It keeps nothing of d.
func (m *Meter) Count(d *gate.Decision) {
	now, owner := m.at(d), m.ownerOf(d.Application, d.Subject)
	s := m.shard(owner)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rates.count(d, now/1e6)
	if d.Application == "" {
		return // a limit that the caller has described is of no application
	}
	s.tops.count(owner.hash, d, now)
	if d.Replayed {
		return // it was counted the first time
	}
	m.use(s, owner, d, now)
	m.notice(s, owner, d, now)
}

// Correct counts the end of a reservation. It keeps nothing of d.
func (m *Meter) Correct(d *gate.Decision) {
	if !d.Corrects {
		return
	}
	now, owner := m.at(d), m.ownerOf(d.Application, d.Subject)
	s := m.shard(owner)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.correct(s, owner, d, now)
	m.notice(s, owner, d, now)
}

// at is when a decision was made, in microseconds since the Unix epoch: by the clock of
// the store, so that it counts in the period in which it was charged.
func (m *Meter) at(d *gate.Decision) int64 {
	if at := d.At(); !at.IsZero() {
		return at.UnixMicro()
	}
	return m.Now().UnixMicro()
}

// owner is hashes of whose decision it is: with a seed of this process, so that no choice
// of names makes two of them meet.
type owner struct{ subject, hash uint64 }

func (m *Meter) ownerOf(application, subject string) owner {
	hash := maphash.String(m.seed, subject)
	return owner{hash, mix(hash, maphash.String(m.seed, application))}
}

// mix makes a hash of two, of which one at least nobody can choose.
func mix(a, b uint64) uint64 { return a*0x9e3779b97f4a7c15 + b }

func (m *Meter) shard(o owner) *shard { return &m.shards[o.hash%shards] }

// Run puts usage on record and tells webhooks, until ctx ends.
func (m *Meter) Run(ctx context.Context) {
	var jobs sync.WaitGroup
	jobs.Go(func() { m.flushes(ctx) })
	jobs.Go(func() { m.tell(ctx) })
	jobs.Go(func() { m.deliver(ctx) })
	jobs.Go(func() { m.sweep(ctx) })
	jobs.Wait()
}

// Stats is the state of a meter.
type Stats struct {
	// Rows wait to be put on record.
	Rows int64
	// Unattributed decisions were counted for no subject, for want of memory.
	Unattributed int64
	// Failures are attempts to put usage on record that have failed since the last that
	// has not.
	Failures int64
}

// Stats returns the state.
func (m *Meter) Stats() Stats {
	return Stats{Rows: m.rows.Load(), Unattributed: m.nobody.Load(), Failures: m.unheard.Load()}
}
