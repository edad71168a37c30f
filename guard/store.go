package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

// Config sizes a guard. The zero value is a good one.
type Config struct {
	// MaxInFlight is how many calls may wait for the store at once; others fail.
	// 0 means 1,024.
	MaxInFlight int
	// LocalBytes caps the memory that Local keeps state in, in bytes: at least 1
	// MiB, 0 means 64 MiB.
	LocalBytes int64
	// Logger is told when the store is away and when it is back; nil discards it.
	Logger *slog.Logger
}

const (
	defaultInFlight   = 1024
	defaultLocalBytes = 64 << 20
	leastLocalBytes   = 1 << 20
)

// Store is a [headgate.Store] in front of one that can be away: it bounds how
// long calls take and how many there are, and fails them at once while asking is
// of no use. Make one with [New], or an [Authority] with [NewAuthority]. It is
// safe for concurrent use.
//
// The clock that decides is that of the store behind it, so a Store is no
// [headgate.Clock].
type Store struct {
	inner  headgate.Store
	config Config
	log    *slog.Logger
	start  time.Time
	local  *Local
	census census
	counts counts

	mu         sync.Mutex
	breaker    breaker
	inFlight   int
	population population
}

// New returns a guard of inner, which it closes when it is closed. If inner is a
// [headgate.Census] it begins to count nodes. Panics if c.MaxInFlight is negative,
// or c.LocalBytes neither 0 nor at least 1 MiB.
func New(inner headgate.Store, c Config) *Store {
	c.MaxInFlight = cmp.Or(c.MaxInFlight, defaultInFlight)
	c.LocalBytes = cmp.Or(c.LocalBytes, defaultLocalBytes)
	if c.MaxInFlight < 0 || c.LocalBytes < leastLocalBytes {
		panic(fmt.Sprintf("guard: MaxInFlight %d, LocalBytes %d: must be positive, and at least %d", c.MaxInFlight, c.LocalBytes, leastLocalBytes))
	}
	s := &Store{inner: inner, config: c, log: c.Logger, start: time.Now(), local: newLocal(c.LocalBytes)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.census.begin(s)
	return s
}

// Local returns the store to ask while this one is away.
func (s *Store) Local() *Local { return s.local }

// StoreNow returns what the clock of the store behind s shows, in microseconds since
// the Unix epoch: as of its last word, and as much later as has passed since. Before
// the first word it is the machine's.
func (s *Store) StoreNow() int64 { return s.local.clock.now() }

// Close tells the store that this node is gone, for which it waits no longer than
// half a second, and closes Local and the store behind s.
func (s *Store) Close() error {
	s.end()
	return errors.Join(s.local.Close(), s.inner.Close())
}

var (
	errOpen     = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("guard: the store is away: it is asked again in less than a second")}
	errFull     = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("guard: as many calls wait for the store as may")}
	errPatience = errors.New("guard: the store took longer than the caller can wait")
)

// Apply passes b on to the store behind s, which keeps to b.Patience by itself.
func (s *Store) Apply(ctx context.Context, b *headgate.Batch) error {
	patience := time.Duration(b.Patience) * time.Microsecond
	err := s.do(ctx, patience, s.config.MaxInFlight, func() error { return s.inner.Apply(ctx, b) })
	if err == nil {
		s.local.see(b)
	}
	return err
}

// doWithin makes a call that has no patience of its own.
func (s *Store) doWithin(ctx context.Context, patience time.Duration, most int, what func(context.Context) error) error {
	inner, cancel := context.WithTimeoutCause(ctx, patience, errPatience)
	defer cancel()
	return s.do(ctx, patience, most, func() error { return what(inner) })
}

// do makes a call that may take as long as patience, 0 for as long as ctx, if
// fewer than most are in flight.
func (s *Store) do(ctx context.Context, patience time.Duration, most int, what func() error) error {
	began := time.Since(s.start)
	l, err := s.enter(began, most)
	if err != nil {
		return err
	}
	r := void // unless it panics
	defer func() { s.exit(l, r, err) }()
	err = what()
	r, err = s.judge(ctx, err, time.Since(s.start)-began, patience)
	return err
}

// enter asks for leave to make a call.
func (s *Store) enter(now time.Duration, most int) (leave, error) {
	chance := rand.Float64()
	s.mu.Lock()
	defer s.mu.Unlock()
	// A probe is not kept out by calls that the store never answers.
	if s.breaker.state == Closed && s.inFlight >= s.breaker.room(now, most) {
		s.counts.full.Add(1)
		return leave{}, errFull
	}
	l, ok := s.breaker.allow(now, chance)
	if !ok {
		s.counts.refused.Add(1)
		return leave{}, errOpen
	}
	s.inFlight++
	return l, nil
}

// exit hands the result of a call in.
func (s *Store) exit(l leave, r result, err error) {
	now, chance := time.Since(s.start), rand.Float64()
	s.mu.Lock()
	s.inFlight--
	changed := s.breaker.done(now, l, r, chance)
	open := s.breaker.state != Closed
	s.mu.Unlock()
	switch {
	case !changed:
	case !open:
		s.log.Info("the store is back: requests are let in bit by bit")
	case err == nil:
		s.log.Warn("the store is too slow: it counts as away")
	default:
		s.log.Warn("the store is away", "error", err)
	}
	if changed && open {
		s.census.wake()
	}
}

// judge says what a call tells of the store. The error is that of the call, with
// code Unavailable where patience ended it.
func (s *Store) judge(ctx context.Context, err error, took, patience time.Duration) (result, error) {
	if err == nil {
		if slow(took, patience) {
			s.counts.slow.Add(1)
			return failed, nil
		}
		return succeeded, nil
	}
	switch headgate.CodeOf(err) {
	case headgate.Unavailable, headgate.Unknown:
	case headgate.Closed:
		return void, err
	default:
		return succeeded, err // an answer, if not the one that was hoped for
	}
	switch {
	case ctx.Err() != nil && took < worthWaiting(patience):
		return void, err // the caller did not wait for it
	case ctx.Err() != nil || patience > 0 && took >= patience:
		s.counts.timeouts.Add(1)
	default:
		s.counts.errors.Add(1)
	}
	if headgate.CodeOf(err) == headgate.Unknown {
		err = &headgate.Error{Code: headgate.Unavailable, Err: err}
	}
	return failed, err
}

// worthWaiting is for how long a caller must have waited before it went away, for
// that to count against the store.
func worthWaiting(patience time.Duration) time.Duration {
	if patience == 0 {
		return slowFloor
	}
	return patience / 2
}

// counts are since the start.
type counts struct {
	errors, timeouts, slow, refused, full atomic.Uint64
}

// Stats is what a guard knows of its store.
type Stats struct {
	// State is that of the breaker.
	State State
	// Up is whether calls are made: State is Closed.
	Up bool
	// InFlight is the number of calls that wait for the store.
	InFlight int
	// Nodes is how many nodes shared the store when it was last asked, 0 if it
	// never was.
	Nodes int
	// Failures counts calls that the store did not decide, or too slowly.
	Failures Failures
}

// Failures counts failures by kind, since the start.
type Failures struct {
	// Errors are those by which the store did not decide, Timeouts the calls for
	// which patience ended, Slow the answers that came, but late.
	Errors, Timeouts, Slow uint64
	// Refused calls were not made as the breaker was open, and Full ones as too
	// many were in flight.
	Refused, Full uint64
}

// Stats returns what the guard knows of its store.
func (s *Store) Stats() Stats {
	c := &s.counts
	st := Stats{
		Nodes:    int(s.local.nodes.Load()),
		Failures: Failures{c.errors.Load(), c.timeouts.Load(), c.slow.Load(), c.refused.Load(), c.full.Load()},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.State, st.Up, st.InFlight = s.breaker.state, s.breaker.state == Closed, s.inFlight
	return st
}
