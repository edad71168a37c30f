package guard

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// remote is a store as if behind a network.
type remote struct {
	inner headgate.Store

	mu      sync.Mutex
	err     error         // that calls end with
	took    time.Duration // by every call
	lost    bool          // no call is ever answered
	ahead   time.Duration // its clock is
	calls   int
	beats   int
	members map[[2]uint64]time.Time // nodes, and until when they live
}

func newRemote() *remote {
	return &remote{inner: memstore.New(memstore.Config{}), members: make(map[[2]uint64]time.Time)}
}

var (
	errRefused = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("connection refused")}
	errLate    = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("no answer in time")}
)

// pass lets so much of a bubble's time go by.
func pass(d time.Duration) { <-time.After(d) }

// set changes how the store is.
func (r *remote) set(change func(r *remote)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// travel waits as a call does, for no longer than patience if that is not 0, and
// returns the error that it ends with.
func (r *remote) travel(ctx context.Context, patience time.Duration) error {
	r.mu.Lock()
	took, err := r.took, r.err
	if r.lost {
		took = 1 << 62
	}
	r.mu.Unlock()
	late := patience > 0 && took > patience
	if late {
		took = patience
	}
	if took > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(took):
		}
	}
	if late {
		return errLate
	}
	return err
}

func (r *remote) Apply(ctx context.Context, b *headgate.Batch) error {
	r.set(func(r *remote) { r.calls++ })
	if err := r.travel(ctx, time.Duration(b.Patience)*time.Microsecond); err != nil {
		return err
	}
	r.mu.Lock()
	ahead := r.ahead
	r.mu.Unlock()
	if b.Now != 0 || ahead == 0 {
		return r.inner.Apply(ctx, b)
	}
	b.Now = time.Now().Add(ahead).UnixMicro()
	defer func() { b.Now = 0 }()
	return r.inner.Apply(ctx, b)
}

func (r *remote) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	r.set(func(r *remote) { r.calls++ })
	if err := r.travel(ctx, 0); err != nil {
		return err
	}
	for i := range requests {
		replies[i] = headgate.LeaseReply{State: headgate.Outcome{Allowed: true, Limit: requests[i].Limit.Count, Remaining: 1, ResetAfter: time.Minute}}
	}
	return nil
}

func (r *remote) Nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	if err := r.travel(ctx, 0); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beats++
	now := time.Now()
	if ttl > 0 {
		r.members[node] = now.Add(ttl)
	} else {
		delete(r.members, node)
	}
	n := 0
	for _, until := range r.members {
		if until.After(now) {
			n++
		}
	}
	return n, nil
}

func (r *remote) Close() error { return r.inner.Close() }

// count returns how many calls were made.
func (r *remote) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// batch makes a Take of one charge.
func batch(t testing.TB, l *headgate.Prepared, owner string, cost int64) *headgate.Batch {
	t.Helper()
	b := new(headgate.Batch)
	add(t, b, headgate.Charge{Limit: l, Owner: owner, Cost: cost})
	return b
}

func add(t testing.TB, b *headgate.Batch, c headgate.Charge) {
	t.Helper()
	if _, err := b.Add(c); err != nil {
		t.Fatal(err)
	}
}

// take lets s decide a Take, and fails the test if it cannot.
func take(t testing.TB, s headgate.Store, l *headgate.Prepared, owner string, cost int64) (bool, headgate.Outcome) {
	t.Helper()
	b := batch(t, l, owner, cost)
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b.Allowed, b.Outcomes()[0]
}

// admitted counts how many Takes of one token s allows in a row, at most 10,000.
func admitted(t testing.TB, s headgate.Store, l *headgate.Prepared, owner string) int {
	t.Helper()
	for n := range 10_000 {
		if ok, _ := take(t, s, l, owner, 1); !ok {
			return n
		}
	}
	t.Fatal("all were allowed")
	return 0
}

// open makes a guard, in a bubble, that the test closes. It has met the store.
func open(t *testing.T, r *remote, c Config) *Store {
	t.Helper()
	s := New(r, c)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Meet(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait() // for the first beat
	return s
}

// breakIt takes the store away and asks until the breaker is open.
func breakIt(t *testing.T, s *Store, r *remote) {
	t.Helper()
	r.set(func(r *remote) { r.err = errRefused })
	pass(breakQuiet)
	for range breakRun {
		if err := s.Apply(t.Context(), batch(t, prepare(t, headgate.PerSecond(5)), "breaks", 0)); headgate.CodeOf(err) != headgate.Unavailable {
			t.Fatalf("away: %v", err)
		}
	}
	if st := s.Stats(); st.State != Open || st.Up {
		t.Fatalf("not open: %+v", st)
	}
}
