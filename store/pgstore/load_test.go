package pgstore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/servertest"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// load is takes of 1 by callers that ask again and again, for some owners in turn,
// until it is stopped.
type load struct {
	stores []*Store
	limit  *headgate.Prepared
	owners int
	// patience is how long a caller waits: not as long as a store tries.
	patience time.Duration
	passed   []atomic.Int64 // by owner
	failed   []atomic.Int64 // by owner: nobody knows
	done     atomic.Int64
	stop     chan struct{}
	wg       sync.WaitGroup
}

// newLoad starts callers of each store.
func newLoad(t testing.TB, stores []*Store, l *headgate.Prepared, owners, callers int) *load {
	x := &load{stores: stores, limit: l, owners: owners, patience: 300 * time.Millisecond, passed: make([]atomic.Int64, owners), failed: make([]atomic.Int64, owners)}
	x.start(t, callers)
	return x
}

func (x *load) start(t testing.TB, callers int) {
	x.stop = make(chan struct{})
	for _, s := range x.stores {
		for first := range callers {
			x.wg.Go(func() { x.call(t, s, first) })
		}
	}
}

// halt stops the callers.
func (x *load) halt() {
	close(x.stop)
	x.wg.Wait()
}

func (x *load) call(t testing.TB, s *Store, owner int) {
	for {
		select {
		case <-x.stop:
			return
		default:
		}
		owner = (owner + 1) % x.owners
		x.one(t, s, owner)
	}
}

// one takes once and returns why nobody knows whether it has passed.
func (x *load) one(t testing.TB, s *Store, owner int) error {
	b := new(headgate.Batch)
	b.Reset(headgate.Take)
	b.Patience = x.patience.Microseconds()
	_, err := b.Add(headgate.Charge{Limit: x.limit, Owner: fmt.Sprint(owner), Cost: 1})
	if err == nil {
		err = s.Apply(t.Context(), b)
	}
	switch {
	case err != nil:
		x.failed[owner].Add(1)
		if code := headgate.CodeOf(err); code != headgate.Unavailable {
			t.Errorf("%v has code %v", err, code)
		}
	case b.Allowed:
		x.passed[owner].Add(1)
	}
	x.done.Add(1)
	return err
}

// sum returns how many have passed.
func (x *load) sum() (n int64) {
	for i := range x.passed {
		n += x.passed[i].Load()
	}
	return n
}

// more waits until n more have ended.
func (x *load) more(t testing.TB, n int64) {
	t.Helper()
	n += x.done.Load()
	pgtest.Wait(t, "calls", func() error {
		if got := x.done.Load(); got < n {
			return fmt.Errorf("%d of %d have ended", got, n)
		}
		return nil
	})
}

// end stops the callers and spends what is left. It fails the test unless exactly the
// limit was charged: what has passed, and what nobody knows of.
func (x *load) end(t testing.TB) {
	t.Helper()
	x.halt()
	var wg sync.WaitGroup
	for owner := range x.owners {
		wg.Go(func() { x.spend(t, owner) })
	}
	wg.Wait()
}

func (x *load) spend(t testing.TB, owner int) {
	for before := int64(-1); before < x.passed[owner].Load(); {
		before = x.passed[owner].Load()
		err := servertest.Await("spend the limit", func() error { return x.one(t, x.stores[0], owner) })
		if err != nil {
			t.Error(err)
			return
		}
	}
	passed, failed := x.passed[owner].Load(), x.failed[owner].Load()
	if limit := x.limit.Burst; passed > limit || passed+failed < limit {
		t.Errorf("owner %d: %d have passed and %d failed, of %d", owner, passed, failed, limit)
	}
}
