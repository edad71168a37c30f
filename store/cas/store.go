package cas

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

// Config says how a store works. Only Table is required.
type Config struct {
	// Table keeps the state. The store closes it.
	Table Table
	// Apart says that Table changes one item at a time only. What concerns several
	// items is then decided item by item, as the package's documentation says.
	Apart bool
	// Lanes is how many groups may be on their way at once; 0 means 8.
	Lanes int
	// Observe, if not nil, is told of every operation when it has ended: its
	// name, how long it took, and what kind of failure it met, "" for none. It is
	// called concurrently and must be fast.
	Observe func(op string, took time.Duration, failure string)
	// ManualClockForTest decides at Batch.Now where it is not 0. Everybody who
	// shares the table must do the same.
	ManualClockForTest bool
}

// Store is a [headgate.Authority] over a table. Make one with [New].
type Store struct {
	table    Table
	apart    bool // it changes one item at a time only
	mostSize int
	observe  func(op string, took time.Duration, failure string)
	manual   bool         // Batch.Now, where it is not 0, is the table's clock
	latest   atomic.Int64 // that was said
	lanes    []lane
	clock    clock
	life     context.Context // ends with Close
	quit     context.CancelFunc
	calls    sync.Pool

	closing sync.Mutex // held where closed changes, or must not
	closed  atomic.Bool
	flights sync.WaitGroup

	groups, rounds, decided, undone atomic.Int64
}

// New returns a store over c.Table.
func New(c Config) *Store {
	if c.Lanes <= 0 {
		c.Lanes = 8
	}
	s := &Store{table: c.Table, apart: c.Apart, observe: c.Observe, manual: c.ManualClockForTest, lanes: make([]lane, c.Lanes)}
	s.mostSize = c.Table.MaxValue()
	s.life, s.quit = context.WithCancel(context.Background())
	s.calls.New = func() any { return &call{done: make(chan struct{}, 1)} }
	for i := range s.lanes {
		s.lanes[i].init(s)
	}
	return s
}

// Stats counts since the store was opened.
type Stats struct {
	// Calls is the number of batches, or steps of them, and lease requests that were decided, Groups
	// that of the groups they went in, and Rounds how often groups were decided:
	// again where somebody else had changed an item.
	Calls, Groups, Rounds int64
	// Undone is how often something was given back, because a batch was refused or
	// failed after some of its items were charged.
	Undone int64
}

// Stats returns what was done so far.
func (s *Store) Stats() Stats {
	return Stats{Calls: s.decided.Load(), Groups: s.groups.Load(), Rounds: s.rounds.Load(), Undone: s.undone.Load()}
}

var errClosed = &headgate.Error{Code: headgate.Closed, Err: errors.New("store is closed")}

// Apply does b.Op by the table's clock; see [headgate.Store].
func (s *Store) Apply(ctx context.Context, b *headgate.Batch) error {
	start := time.Now()
	return s.ended(b.Op.String(), start, s.apply(ctx, b))
}

// ended tells of an operation and returns its error.
func (s *Store) ended(op string, start time.Time, err error) error {
	if err != nil && headgate.CodeOf(err) == headgate.Unknown {
		err = &headgate.Error{Code: headgate.Unavailable, Err: err}
	}
	if s.observe != nil {
		s.observe(op, time.Since(start), kindOf(err))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// kindOf names a failure for metrics; "" for what is no failure of the table.
func kindOf(err error) string {
	if err == nil {
		return ""
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Kind
	}
	switch headgate.CodeOf(err) {
	case headgate.InvalidRequest, headgate.Conflict, headgate.Overloaded:
		return ""
	case headgate.Closed:
		return "closed"
	default:
		return "table"
	}
}

func (s *Store) apply(ctx context.Context, b *headgate.Batch) error {
	if err := b.Validate(); err != nil {
		return err
	}
	if b.Op > headgate.Settle {
		return &headgate.Error{Code: headgate.InvalidRequest, Err: fmt.Errorf("%v is no operation", b.Op)}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c := s.calls.Get().(*call)
	c.ask(s, b)
	if len(c.keys) == 0 {
		m, _ := s.clock.present()
		b.Allowed, b.Replayed, b.At = true, false, m.Now
		s.calls.Put(c)
		return nil
	}
	if s.apart && len(c.keys) > 1 {
		err := s.across(ctx, b, c)
		s.calls.Put(c)
		return err
	}
	s.laneOf(c).enqueue(c)
	if err := s.wait(ctx, c, time.Duration(b.Patience)*time.Microsecond); err != nil {
		return err // the call may still be in use
	}
	err := c.tell(b)
	s.calls.Put(c)
	return err
}

// laneOf returns the lane of a call: that of the item which most callers share.
func (s *Store) laneOf(c *call) *lane {
	k := c.keys[c.widest]
	return &s.lanes[binary.BigEndian.Uint64(k[8:])%uint64(len(s.lanes))]
}

// wait waits for the call. The error is that nobody waits for it any more.
func (s *Store) wait(ctx context.Context, c *call, patience time.Duration) error {
	var over <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		over = timer.C
	}
	var err error
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		if err = context.Cause(ctx); errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = &Failure{Kind: "timeout", Err: err}
		} else {
			err = &Failure{Kind: "canceled", Err: err}
		}
	case <-over:
		err = &Failure{Kind: "timeout", Err: fmt.Errorf("no answer within %v", patience)}
	}
	if c.leave() {
		return err
	}
	return nil
}

// Acquire settles and grants leases by the table's clock; see
// [headgate.Authority].
func (s *Store) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	start := time.Now()
	return s.ended("acquire", start, s.acquire(ctx, requests, replies))
}

func (s *Store) acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	calls := make([]*call, len(requests))
	for i := range requests {
		c := s.calls.Get().(*call)
		c.askLease(s, &requests[i])
		calls[i] = c
		s.laneOf(c).enqueue(c)
	}
	var failure error
	failed := 0
	for i, c := range calls {
		err := s.wait(ctx, c, 0)
		if err == nil {
			if err = c.err; err == nil {
				replies[i] = c.reply
			}
			s.calls.Put(c)
		}
		if err != nil {
			replies[i] = headgate.LeaseReply{Status: headgate.LeaseFailed}
			failure = err
			failed++
		}
	}
	if failed == len(calls) {
		return failure
	}
	return nil
}

// Close waits for what is on its way and closes the table. Apply fails from then
// on.
func (s *Store) Close() error {
	s.closing.Lock()
	was := s.closed.Swap(true)
	s.closing.Unlock()
	if was {
		return nil
	}
	s.quit()
	for i := range s.lanes {
		s.lanes[i].close()
	}
	s.flights.Wait()
	return s.table.Close()
}

// begin keeps the table open until the function that it returns is called. It
// reports false if the store is closed.
func (s *Store) begin() (end func(), ok bool) {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed.Load() {
		return nil, false
	}
	s.flights.Add(1)
	return s.flights.Done, true
}

// KeyOf returns the item in which the budget of owner under l stands: all budgets
// of an owner are in one. The owner that is empty, as that of an application's
// limits, has one for each limit, or they would all be one hot item.
func KeyOf(owner string, l *headgate.Prepared) (k Key) {
	var space [128]byte
	buf := space[:0]
	if owner != "" {
		buf = append(append(buf, 'o'), owner...)
	} else {
		buf = append(buf, 'l')
		buf = binary.BigEndian.AppendUint64(buf, l.ID[0])
		buf = binary.BigEndian.AppendUint64(buf, l.ID[1])
	}
	d := sha256.Sum256(buf)
	copy(k[:], d[:])
	return k
}

// clock estimates the table's clock between its answers. Within an epoch it does not
// go back, and is never ahead of the table's but where that was set back. Another
// epoch may be that of another server, whose clock alone counts from then on: one
// that is behind would else be believed to be past the instant from which state
// is complete again.
type clock struct {
	mu     sync.Mutex
	moment Moment    // as it was last told
	at     time.Time // when; zero where the epoch may be another one by now
	latest int64     // that was read in this epoch, and not before it was first told
}

// told notes what the table answered to a Read.
func (c *clock) told(m Moment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Epoch != c.moment.Epoch {
		c.at, c.latest = time.Time{}, m.Now
	}
	if c.at.IsZero() || m.Now > c.now() {
		c.moment, c.at = m, time.Now()
	}
}

// confirmed notes what the table answered to a Swap, which may come late: it is of
// the epoch that it was asked for, and that is no news.
func (c *clock) confirmed(m Moment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Epoch == c.moment.Epoch && !c.at.IsZero() && m.Now > c.now() {
		c.moment, c.at = m, time.Now()
	}
}

// stale notes that epoch is over, which may be no news.
func (c *clock) stale(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.moment.Epoch.ID {
		c.at = time.Time{}
	}
}

// now is the estimate: time since then, less one part in 1,024 by which this
// process's clock may be faster.
func (c *clock) now() int64 {
	if c.at.IsZero() {
		return 0
	}
	d := time.Since(c.at).Microseconds()
	return c.moment.Now + d - d/1024
}

// present returns the estimate and the epoch, which belong together. known says that
// there was an answer, and the epoch was not said to be over since.
func (c *clock) present() (m Moment, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest = max(c.latest, c.now())
	return Moment{c.latest, c.moment.Epoch}, !c.at.IsZero()
}
