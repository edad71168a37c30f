package meter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

// start is when tests begin, a Sunday noon in UTC.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// engine is a gate whose time is the clock's.
type engine struct {
	*gate.Gate
	tb    testing.TB
	clock *clock
}

func newEngine(tb testing.TB, c *clock, policy string) *engine {
	tb.Helper()
	g, err := gate.Open(tb.Context(), gate.Config{
		Policy: []byte(policy), Store: memstore.New(memstore.Config{Origin: start.UnixMicro()}),
		Now: func() int64 { return c.now().UnixMicro() },
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = g.Close() })
	return &engine{g, tb, c}
}

// take decides a request now.
func (e *engine) take(r gate.Request) *gate.Decision {
	e.tb.Helper()
	d := new(gate.Decision)
	r.Now = e.clock.now().UnixMicro()
	if err := e.Take(e.tb.Context(), &r, d); err != nil {
		e.tb.Fatal(err)
	}
	return d
}

// sends is so many requests of a subject in one.
func sends(subject string, cost int64) gate.Request {
	return gate.Request{Application: "email", Operation: "send", Subject: subject, Cost: cost, CostSaid: true}
}

// openRecords opens new records.
func openRecords(tb testing.TB) *records.DB {
	tb.Helper()
	db, err := records.Open(tb.Context(), records.Config{URL: "sqlite:" + filepath.Join(tb.TempDir(), "records.db")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func flush(tb testing.TB, m *Meter) {
	tb.Helper()
	if err := m.Flush(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// usage lists all spans that a query asks for, by small pages.
func usage(tb testing.TB, m *Meter, q records.UsageQuery) (all []Row) {
	tb.Helper()
	for q.Limit = 97; ; {
		rows, last, more, err := m.Usage(tb.Context(), q)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, rows...)
		if !more {
			return all
		}
		q.After = last
	}
}

// ledger is records that are asked to misbehave, and that look whether a meter does.
type ledger struct {
	store // for what it has not
	tb    testing.TB
	clock *clock

	mu      sync.Mutex
	fail    func() error    // before anything is done; nil for nothing
	lose    func() error    // after it is done
	hang    <-chan struct{} // for as long as it is not closed, or the context lives
	asked   int
	reports map[string]int64
	hours   map[records.Usage]count // by what a row is without its counts
	events  map[string]records.Event
	puts    int // of events
}

func newLedger(tb testing.TB, c *clock) *ledger {
	return &ledger{tb: tb, clock: c, reports: make(map[string]int64), hours: make(map[records.Usage]count), events: make(map[string]records.Event)}
}

func (l *ledger) misbehave(fail, lose func() error, hang <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail, l.lose, l.hang = fail, lose, hang
}

// begin and end stand around a write. The lock is held between them unless begin fails.
func (l *ledger) begin(ctx context.Context) error {
	l.mu.Lock()
	l.asked++
	fail, hang := l.fail, l.hang
	l.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		if err := fail(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	return nil
}

func (l *ledger) end() error {
	defer l.mu.Unlock()
	if l.lose != nil {
		return l.lose()
	}
	return nil
}

func (l *ledger) Report(ctx context.Context, reporter string, number int64, hours []records.Usage) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	if number <= l.reports[reporter] {
		return l.end()
	}
	l.reports[reporter] = number
	if len(hours) == 0 || len(hours) > reportRows {
		l.tb.Errorf("a report of %d rows", len(hours))
	}
	seen := make(map[records.Usage]bool)
	for _, u := range hours {
		by := count{u.Allowed, u.Denied, u.Cost, u.Overage}
		u.Allowed, u.Denied, u.Cost, u.Overage = 0, 0, 0, 0
		if seen[u] {
			l.tb.Errorf("%+v is twice in a report", u)
		}
		seen[u] = true
		for _, s := range []string{u.Application, u.Subject, u.Operation, u.Plan} {
			if !utf8.ValidString(s) || len(s) > gate.MaxSubject || slices.Contains([]byte(s), 0) {
				l.tb.Errorf("%q goes on record", s)
			}
		}
		if zone, err := time.LoadLocation(u.Timezone); err != nil {
			l.tb.Error(err)
		} else if end := hourEnd(u.Period, zone); !l.clock.now().Before(end.Add(Final)) {
			l.tb.Errorf("the hour from %v to %v changes at %v, when it is final", u.Period, end, l.clock.now())
		}
		c := l.hours[u]
		c.add(by)
		l.hours[u] = c
	}
	return l.end()
}

func (l *ledger) PutEvent(ctx context.Context, e records.Event, _ []string) (bool, error) {
	if err := l.begin(ctx); err != nil {
		return false, err
	}
	l.puts++
	_, known := l.events[e.ID]
	if !known {
		l.events[e.ID] = e
	}
	if err := l.end(); err != nil {
		return false, err
	}
	return !known, nil
}

func (l *ledger) ClaimDelivery(context.Context, string, time.Time, time.Time) (records.Delivery, error) {
	return records.Delivery{}, records.ErrNotFound
}

func (l *ledger) FoldUsage(context.Context, records.Span, time.Time, func(*records.Usage) (time.Time, error)) (int, error) {
	return 0, nil
}

// total adds up the rows that a test is about.
func (l *ledger) total(is func(u *records.Usage) bool) (all count) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for u, c := range l.hours {
		if is(&u) {
			all.add(c)
		}
	}
	return all
}

func requests(u *records.Usage) bool { return u.Unit == "requests" }

// hourBegin is when the hour of the local clock begins, and where it moves by a part of an
// hour, that of what is left of one.
func hourBegin(at time.Time, zone *time.Location) time.Time {
	at = at.In(zone)
	begin := at.Add(-time.Duration(at.Minute())*time.Minute - time.Duration(at.Second())*time.Second - time.Duration(at.Nanosecond()))
	if moved, _ := at.ZoneBounds(); moved.After(begin) {
		_, now := at.Zone()
		_, before := moved.Add(-time.Second).Zone()
		if (now-before)%3600 != 0 {
			begin = moved
		}
	}
	return begin.UTC()
}

// hourEnd is when an hour ends.
func hourEnd(begin time.Time, zone *time.Location) time.Time {
	end := begin.Add(time.Minute)
	for hourBegin(end, zone).Equal(begin) {
		end = end.Add(time.Minute)
	}
	return end
}

var errAway = errors.New("the records are away")

const simple = `
version: 1
plans:
  free:
    limits:
      - {name: daily, algorithm: quota, rate: 1000000000/day}
      - {name: monthly, algorithm: quota, rate: 10000000000/month}
applications:
  email:
    default_plan: free
    rules:
      - {name: send, match: {operation: send}}
`

// Whatever happens at once is counted once.
func TestCountTogether(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	const routines, rounds, subjects = 8, 500, 50
	decisions := make([]*gate.Decision, subjects)
	for i := range decisions {
		decisions[i] = e.take(sends(fmt.Sprint("s", i), int64(i)))
	}
	done := make(chan struct{})
	var all, flusher sync.WaitGroup
	flusher.Go(func() {
		for {
			flush(t, m)
			m.Rates(time.Minute)
			m.Top(ByCost, "", 10)
			m.Ratios(10)
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range routines {
		all.Go(func() {
			for n := range rounds {
				m.Count(decisions[n%subjects])
			}
		})
	}
	all.Wait()
	close(done)
	flusher.Wait()
	flush(t, m)
	for i := range subjects {
		want := count{allowed: routines * rounds / subjects, cost: int64(i) * routines * rounds / subjects}
		if got := l.total(func(u *records.Usage) bool { return u.Subject == fmt.Sprint("s", i) }); got != want {
			t.Fatalf("subject %d: %+v, want %+v", i, got, want)
		}
	}
	if s := m.Stats(); s != (Stats{}) {
		t.Errorf("%+v", s)
	}
}

// Counting waits for nobody: not for records that hang.
func TestCountNeverWaits(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now, MaxRows: 100})
	free := make(chan struct{})
	l.misbehave(nil, nil, free)
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { m.Run(ctx) })
	const requested = 5_000
	for n := range requested { // beyond what may wait, of rows and of events
		m.Count(e.take(sends(fmt.Sprint("s", n), 900_000_000)))
	}
	if s := m.Stats(); s.Rows < 100 || s.Rows > 100+2*shards || s.Unattributed < requested-100-shards {
		t.Errorf("%+v", s)
	}
	close(free)
	cancel()
	run.Wait()
	if got, want := l.total(requests), (count{allowed: requested, cost: requested * 900_000_000}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCountAllocatesNothing(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, model)
	m := New(Config{Records: newLedger(t, c), Now: c.now})
	for name, d := range map[string]*gate.Decision{
		"quotas":         e.take(sends("alice", 1)),
		"another zone":   e.take(gate.Request{Application: "email", Operation: "send", Subject: "howe", Plan: "premium"}),
		"units":          e.take(gate.Request{Application: "email", Operation: "ask", Subject: "bob", Costs: map[string]int64{"tokens": 3}}),
		"denied":         e.take(gate.Request{Application: "email", Operation: "send", Subject: "mallory"}),
		"beyond a quota": e.take(sends("carol", 50)),
		"unmatched":      e.take(gate.Request{Application: "email", Operation: "else", Subject: "dan"}),
	} {
		m.Count(d)
		if n := testing.AllocsPerRun(1000, func() { m.Count(d) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Without records there is nothing to count for.
func TestNewPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	New(Config{})
}

// A limit that the caller has described is of no application; a settlement that ended
// nothing corrects nothing.
func TestCountNothing(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	var d gate.Decision
	if err := e.Throttle(t.Context(), &gate.Throttle{Key: "k", Count: 1, Period: time.Second, Burst: 1, Cost: 1, Now: c.now().UnixMicro()}, &d); err != nil {
		t.Fatal(err)
	}
	m.Count(&d)
	m.Correct(e.take(sends("alice", 5)))
	flush(t, m)
	if len(l.hours) != 0 || l.asked != 0 {
		t.Errorf("%v", l.hours)
	}
	if r := m.Rates(time.Second); r.Seconds[0].Allowed != 1 {
		t.Errorf("%+v", r)
	}
}
