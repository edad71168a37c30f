package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

var (
	_ headgate.Store     = (*Store)(nil)
	_ headgate.Store     = (*Local)(nil)
	_ headgate.Authority = (*Authority)(nil)
)

// How long a call took is judged by the caller's patience.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		s := open(t, r, Config{})
		l := prepare(t, headgate.PerSecond(5))
		for _, c := range []struct {
			took, patience, ctx, want time.Duration
			ok                        bool
		}{
			{20 * ms, 25 * ms, 0, 20 * ms, true},
			{26 * ms, 25 * ms, 0, 25 * ms, false},
			{200 * ms, 250 * ms, 0, 200 * ms, true},
			{time.Hour, 250 * ms, 0, 250 * ms, false},
			{time.Hour, 250 * ms, 10 * ms, 10 * ms, false},
			{49 * ms, 0, 0, 49 * ms, true},
		} {
			r.set(func(r *remote) { r.took = c.took })
			ctx := t.Context()
			if c.ctx > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.ctx)
				defer cancel()
			}
			b := batch(t, l, "a", 0)
			b.Patience = c.patience.Microseconds()
			began := time.Now()
			err := s.Apply(ctx, b)
			if took := time.Since(began); took != c.want || (err == nil) != c.ok {
				t.Errorf("%+v: %v after %v", c, err, took)
			}
			if err != nil && headgate.CodeOf(err) != headgate.Unavailable && c.ctx == 0 {
				t.Errorf("%+v: %v of code %v", c, err, headgate.CodeOf(err))
			}
		}
		if f := s.Stats().Failures; f.Timeouts != 2 || f.Slow != 1 || f.Errors != 0 {
			t.Errorf("%+v", f)
		}
	})
}

// While the breaker is open no call is made, and each fails at once; when the
// store is back it is found within 600 ms though nobody asks, by the heartbeat.
func TestOpenAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		r := newRemote()
		s := open(t, r, Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		l := prepare(t, headgate.PerSecond(5))
		breakIt(t, s, r)
		calls, began := r.count(), time.Now()
		for range 100 {
			if err := s.Apply(t.Context(), batch(t, l, "a", 1)); headgate.CodeOf(err) != headgate.Unavailable {
				t.Fatal(err)
			}
		}
		if n := r.count(); n != calls || time.Since(began) > 0 {
			t.Errorf("%d calls in %v while it was open", n-calls, time.Since(began))
		}
		// Away for long: it is asked about twice a second.
		r.set(func(r *remote) { r.took = ms })
		pass(10*time.Second - ms)
		synctest.Wait()
		if f := s.Stats().Failures; f.Refused != 100 || f.Errors < breakRun+16 || f.Errors > breakRun+25 {
			t.Errorf("after 10 s: %+v", f)
		}
		r.set(func(r *remote) { r.err = nil })
		pass(probeEvery + probeSpread + 2*ms)
		synctest.Wait()
		if st := s.Stats(); !st.Up || st.State != Closed || st.InFlight != 0 {
			t.Errorf("not back: %+v", st)
		}
		if ok, _ := take(t, s, l, "a", 1); !ok {
			t.Error("refused")
		}
		if got := logged.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, "nodes=1") || !strings.Contains(got, "connection refused") || !strings.Contains(got, "is back") {
			t.Errorf("logged\n%s", got)
		}
	})
}

// A request probes as well, one at a time.
func TestRequestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		s := New(struct{ headgate.Store }{r}, Config{}) // counts no nodes
		defer s.Close()
		l := prepare(t, headgate.PerSecond(1000))
		breakIt(t, s, r)
		r.set(func(r *remote) { r.err, r.took = nil, 20*ms })
		calls := r.count()
		pass(probeEvery + probeSpread)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _ = s.Apply(t.Context(), batch(t, l, "a", 1)) })
		}
		synctest.Wait()
		if st := s.Stats(); st.State != HalfOpen || st.InFlight != 1 {
			t.Errorf("%+v while the probe is under way", st)
		}
		wg.Wait()
		if n := r.count() - calls; n != 1 {
			t.Errorf("%d probes", n)
		}
		if st := s.Stats(); st.State != Closed || st.Failures.Refused != 49 {
			t.Errorf("after the probe: %+v", st)
		}
		if err := s.Meet(t.Context()); err == nil || s.Stats().Nodes != 0 {
			t.Errorf("met %d nodes of a store that counts none", s.Stats().Nodes)
		}
	})
}

// Those who waited for the store come back bit by bit, and calls beyond what may
// be in flight fail at once.
func TestNoStampede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		s := open(t, r, Config{MaxInFlight: 100})
		l := prepare(t, headgate.PerSecond(1000))
		inFlight := func(n int) int {
			calls := r.count()
			r.set(func(r *remote) { r.took = 40 * ms })
			defer r.set(func(r *remote) { r.took = 0 })
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if err := s.Apply(t.Context(), batch(t, l, "a", 0)); err != nil && headgate.CodeOf(err) != headgate.Unavailable {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			defer wg.Wait()
			if in := s.Stats().InFlight; in != r.count()-calls {
				t.Errorf("%d are in flight, %d were made", in, r.count()-calls)
			}
			return r.count() - calls
		}
		if n := inFlight(300); n != 100 || s.Stats().Failures.Full != 200 {
			t.Errorf("%d of 300 were made: %+v", n, s.Stats())
		}
		breakIt(t, s, r)
		r.set(func(r *remote) { r.err = nil })
		for !s.Stats().Up {
			pass(ms)
		}
		for i, want := range []int{8, 16, 32, 64, 100, 100} {
			if n := inFlight(300); n != want {
				t.Errorf("%d of 300 were made in step %d after it was back, want %d", n, i, want)
			}
			pass(rampDouble - 40*ms)
		}
	})
}

// Whatever the store says is passed on, however late: a refusal stays one.
func TestSlowAnswersStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		s := open(t, r, Config{})
		l := prepare(t, headgate.PerHour(3))
		r.set(func(r *remote) { r.took = 60 * ms })
		for i := range 10 {
			ok, _ := take(t, s, l, "a", 1)
			if ok != (i < 3) {
				t.Errorf("take %d: %v", i, ok)
			}
			if s.Stats().State != Closed {
				// From the fifth on the breaker is open: a refusal is an error then.
				if i != breakRun-1 {
					t.Errorf("opened after %d", i)
				}
				break
			}
		}
		if err := s.Apply(t.Context(), batch(t, l, "a", 1)); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("open: %v", err)
		}
		if f := s.Stats().Failures; f.Slow != breakRun {
			t.Errorf("%+v", f)
		}
	})
}

// What says nothing of the store does not open the breaker.
func TestNotTheStoresFault(t *testing.T) {
	gone := func(t *testing.T, after time.Duration) context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(after, cancel)
		return ctx
	}
	for name, c := range map[string]struct {
		err  error
		lost bool
		ctx  func(t *testing.T) context.Context
		up   bool
	}{
		"full":             {err: &headgate.Error{Code: headgate.Overloaded, Err: errors.New("no room")}, up: true},
		"conflict":         {err: fmt.Errorf("redis: %w", &headgate.Error{Code: headgate.Conflict, Err: errors.New("key used")}), up: true},
		"invalid":          {err: &headgate.Error{Code: headgate.InvalidRequest, Err: errors.New("hold without a name")}, up: true},
		"closed":           {err: &headgate.Error{Code: headgate.Closed, Err: errors.New("closed")}, up: true},
		"caller gone":      {lost: true, ctx: func(t *testing.T) context.Context { return gone(t, 10*ms) }, up: true},
		"caller gone late": {lost: true, ctx: func(t *testing.T) context.Context { return gone(t, 13*ms) }},
		"unknown":          {err: errors.New("EOF")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRemote()
				s := open(t, r, Config{})
				r.set(func(r *remote) { r.err, r.lost = c.err, c.lost })
				pass(breakQuiet)
				for range 100 {
					ctx := t.Context()
					if c.ctx != nil {
						ctx = c.ctx(t)
					}
					b := batch(t, prepare(t, headgate.PerSecond(5)), "a", 1)
					b.Patience = (25 * ms).Microseconds()
					err := s.Apply(ctx, b)
					if c.err != nil && s.Stats().Up && !errors.Is(err, c.err) {
						t.Fatalf("%v, want %v", err, c.err)
					}
				}
				if up := s.Stats().Up; up != c.up {
					t.Errorf("up %v: %+v", up, s.Stats())
				}
			})
		})
	}
}

// A call that panics is not in flight for ever.
func TestPanic(t *testing.T) {
	s := New(panics{}, Config{})
	defer s.Close()
	func() {
		defer func() { _ = recover() }()
		_ = s.Apply(t.Context(), new(headgate.Batch))
	}()
	if st := s.Stats(); st.InFlight != 0 || !st.Up {
		t.Errorf("%+v", st)
	}
}

type panics struct{}

func (panics) Apply(context.Context, *headgate.Batch) error { panic("a bug") }
func (panics) Close() error                                 { return nil }

// Leases pass the same breaker, and tell levels.
func TestAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		a := NewAuthority(r, Config{})
		defer a.Close()
		if err := a.Meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := prepare(t, headgate.PerHour(100))
		requests, replies := []headgate.LeaseRequest{{Limit: l, Owner: "a", Want: 10, Min: 1}}, make([]headgate.LeaseReply, 1)
		if err := a.Acquire(t.Context(), requests, replies); err != nil || replies[0].State.Remaining != 1 {
			t.Fatalf("%v, %+v", err, replies[0])
		}
		r.set(func(r *remote) { r.lost = true })
		began := time.Now()
		if err := a.Acquire(t.Context(), requests, replies); headgate.CodeOf(err) != headgate.Unavailable || time.Since(began) != acquirePatience {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		for a.Stats().Up {
			_ = a.Acquire(t.Context(), requests, replies)
		}
		calls := r.count()
		if err := a.Acquire(t.Context(), requests, replies); headgate.CodeOf(err) != headgate.Unavailable || r.count() != calls {
			t.Errorf("open: %v, %d calls", err, r.count()-calls)
		}
		if n := admitted(t, a.Local(), l, "a"); n != 1 {
			t.Errorf("%d are admitted where the authority had 1 left", n)
		}
	})
}

func TestNewPanics(t *testing.T) {
	for _, c := range []Config{{MaxInFlight: -1}, {LocalBytes: 1<<20 - 1}, {LocalBytes: -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v is taken", c)
				}
			}()
			New(panics{}, c)
		}()
	}
}

// BenchmarkApply is what the guard adds to a call.
func BenchmarkApply(b *testing.B) {
	l := prepare(b, headgate.PerSecond(headgate.MaxInt/2_000_000))
	for name, s := range map[string]headgate.Store{"without": newRemote().inner, "guarded": New(struct{ headgate.Store }{newRemote().inner}, Config{})} {
		b.Run(name, func(b *testing.B) {
			q := batch(b, l, "a", 1)
			q.Patience = 25_000
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Apply(b.Context(), q); err != nil || !q.Allowed {
					b.Fatal(err, q.Allowed)
				}
			}
		})
	}
}
