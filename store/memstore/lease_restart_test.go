package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/memstore"
)

// borrow sends a holder's request, and makes it the next one, of which all is spent.
func borrow(t testing.TB, s headgate.Authority, r *headgate.LeaseRequest) headgate.LeaseReply {
	t.Helper()
	var replies [1]headgate.LeaseReply
	if err := s.Acquire(t.Context(), []headgate.LeaseRequest{*r}, replies[:]); err != nil {
		t.Fatal(err)
	}
	if p := &replies[0]; p.Status == headgate.LeaseOK {
		r.Epoch, r.Window, r.Granted, r.Settled = p.Epoch, p.Window, p.Granted, p.Granted
	}
	return replies[0]
}

// Who holds leases of a store on a journal goes on in its next life, but not where
// that lacks what was granted; without a journal each life is another epoch.
func TestEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := prepared(t, headgate.QuotaPer(10_000, headgate.Day), "quota")
		fast := prepared(t, headgate.PerSecond(2000), "fast")
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		a := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 500}
		b := headgate.LeaseRequest{Limit: fast, Owner: "alice", Holder: [2]uint64{2}, Want: 100}
		first := borrow(t, s, &a)
		borrow(t, s, &b)
		again := func(s *memstore.Store, life int) *memstore.Store {
			if life%2 == 0 {
				j = j.killed()
				defer s.Close() // on what nobody sees any more
			} else if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return kept(t, j, memstore.Config{})
		}
		for i := range 4 {
			s = again(s, i)
			<-time.After(900 * time.Millisecond)
			if got := borrow(t, s, &a); got.Status != headgate.LeaseOK || got.Granted != int64(500*(i+2)) || got.Epoch != first.Epoch {
				t.Fatalf("life %d: %+v after %+v", i, got, first)
			}
			if got := borrow(t, s, &b); got.Status != headgate.LeaseOK || got.Granted != int64(100*(i+2)) {
				t.Fatalf("life %d: %+v", i, got)
			}
		}
		// What was not leased begins empty after a kill, and the reply says so.
		take(t, s, "bob", 1, fast)
		s = again(s, 0)
		bob := headgate.LeaseRequest{Limit: fast, Owner: "bob", Holder: [2]uint64{3}, Want: 10, Min: 1}
		if got := borrow(t, s, &bob); got.Granted != 0 || got.State.Allowed || !got.State.Recovering {
			t.Errorf("%+v", got)
		}
		// A holder that is silent for long enough is forgotten, also by the next life.
		s.Close()
		<-time.After(1500 * time.Millisecond)
		past := j.past()
		s = memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
		if got := borrow(t, s, &a); got.Status != headgate.LeaseUnknownHolder || got.State.Leased {
			t.Errorf("%+v", got)
		}
		s.Close()
		past = j.past()
		past.Lost = time.Now().UnixMicro()
		lacking := memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
		defer lacking.Close()
		for _, s := range []*memstore.Store{lacking, memstore.New(memstore.Config{}), memstore.New(memstore.Config{Secret: secret})} {
			if got := borrow(t, s, &a); got.Status != headgate.LeaseStale || got.Epoch == first.Epoch || got.Epoch == 0 || got.Epoch >= 1<<53 {
				t.Errorf("%+v after %+v", got, first)
			}
		}
	})
}

// While the journal fails nothing is granted. What it may have been told is granted
// with the same request, once.
func TestLeaseIsWrittenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		l := prepared(t, headgate.Window(10_000, 24*time.Hour), "window")
		r := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 300}
		borrow(t, s, &r)
		fail := func(err error) {
			j.mu.Lock()
			j.fail = err
			j.mu.Unlock()
		}
		fail(errors.New("disk full"))
		again := r
		for range 3 {
			var replies [2]headgate.LeaseReply
			other := headgate.LeaseRequest{Limit: l, Owner: "bob", Holder: [2]uint64{2}, Want: 300}
			if err := s.Acquire(t.Context(), []headgate.LeaseRequest{r, other}, replies[:]); headgate.CodeOf(err) != headgate.Unavailable {
				t.Fatalf("%v, %+v", err, replies)
			}
		}
		fail(nil)
		if got := borrow(t, s, &r); got.Granted != 600 || got.State.Used != 600 {
			t.Errorf("%+v", got)
		}
		if got := borrow(t, kept(t, j.killed(), memstore.Config{}), &again); got.Granted != 600 || got.State.Used != 600 {
			t.Errorf("%+v", got)
		}
		// A peek of what is leased needs no journal, and says so.
		fail(errors.New("disk full"))
		if _, o, err := do(t, s, headgate.Peek, "alice", 0, l); err != nil || !o[0].Leased {
			t.Errorf("%+v, %v", o, err)
		}
		fail(nil)
	})
}

// What is out stays held through a reset and a kill.
func TestResetAndKill(t *testing.T) {
	for _, limit := range []headgate.Limit{headgate.Per(5000, 1000*time.Hour), headgate.QuotaPer(5000, headgate.Year)} {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		l := prepared(t, limit, "limit")
		r := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 300}
		take(t, s, "alice", 1000, l)
		borrow(t, s, &r)
		if _, o, err := do(t, s, headgate.Reset, "alice", 0, l); err != nil || o[0].Used != 300 || !o[0].Leased {
			t.Fatalf("%+v, %v", o, err)
		}
		s = kept(t, j.killed(), memstore.Config{})
		if r.Want, r.Returned = 0, 200; borrow(t, s, &r).State.Used != 100 {
			t.Errorf("%v: %+v", l.Algorithm, borrow(t, s, &r))
		}
	}
}

// States of which something is leased out may leave memory as others do: who holds
// leases goes on with them.
func TestLeasesSpill(t *testing.T) {
	racetest.Alone(t)
	j := newPaper()
	s := kept(t, j, memstore.Config{MaxBytes: 1 << 20, Shards: 1})
	l := prepared(t, headgate.Per(5000, 1000*time.Hour), "limit")
	filler := prepared(t, headgate.PerHour(1).WithBurst(3), "filler")
	keys, cold := 0, headgate.LeaseRequest{Limit: l, Owner: "cold", Holder: [2]uint64{1}}
	r := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 10}
	for i := range 25 {
		if got := borrow(t, s, &r); got.Status != headgate.LeaseOK || got.Granted != int64(10*(i+1)) {
			t.Fatalf("%+v", got)
		}
		for range 1500 {
			take(t, s, fmt.Sprint(keys), 1, filler)
			keys++
		}
	}
	if st := s.Stats(); st.Bytes > 1<<20 || st.Keys >= int64(keys) {
		t.Fatalf("%+v of %d: nothing has left memory", st, keys)
	}
	// Keys that are not in memory can be leased: others leave it for them.
	take(t, s, cold.Owner, 100, l)
	for range 30_000 {
		take(t, s, fmt.Sprint(keys), 1, filler)
		keys++
	}
	for i := range 200 {
		cold.Owner, cold.Holder, cold.Granted, cold.Settled, cold.Epoch, cold.Want = "cold", [2]uint64{uint64(i + 1)}, 0, 0, 0, 5
		if i > 0 {
			cold.Owner = fmt.Sprint("cold-", i)
		}
		used := int64(5)
		if i == 0 {
			used += 100
		}
		if got := borrow(t, s, &cold); got.Granted != 5 || got.State.Used != used {
			t.Fatalf("%d: %+v", i, got)
		}
	}
}

// While what was leased out is being written the lease ends, and the bucket is to
// be kept in one word again: no charge after that may go unwritten.
func TestLeaseEndsWhileItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		l := prepared(t, headgate.Per(5000, 1000*time.Hour), "bucket")
		take(t, s, "alice", 1, l)
		j.tell(func() { <-time.After(2 * time.Second) })
		var done sync.WaitGroup
		r := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 10}
		done.Go(func() { borrow(t, s, &r) })
		<-time.After(1600 * time.Millisecond)
		if left := remaining(t, s, l, "alice"); left != 4989 {
			t.Errorf("%d left", left)
		}
		done.Wait()
		<-time.After(3 * time.Second)
		j.tell(nil)
		for i := range int64(20) {
			take(t, s, "alice", 1, l)
			if left := remaining(t, kept(t, j.killed(), memstore.Config{}), l, "alice"); left > 4988-i {
				t.Fatalf("%d left after a kill, of 5000 less %d", left, 12+i)
			}
		}
	})
}

// Many callers spend all there is through leases of their nodes, and directly: never
// more than there is.
func TestNodesLease(t *testing.T) {
	open := map[string]func() *memstore.Store{
		"memory":  func() *memstore.Store { return memstore.New(memstore.Config{}) },
		"journal": func() *memstore.Store { return memstore.New(memstore.Config{Journal: newPaper(), Secret: secret}) },
	}
	for name, open := range open {
		for _, l := range []*headgate.Prepared{
			prepared(t, headgate.Per(300_000, 800_000*time.Hour).WithBurst(300_000), "bucket"),
			prepared(t, headgate.Limit{Algorithm: headgate.FixedWindow, Count: 300_000, Period: headgate.MaxPeriod}, "window"),
		} {
			t.Run(name+", "+l.Name, func(t *testing.T) {
				s := open()
				defer s.Close()
				var admitted, local atomic.Int64
				var callers sync.WaitGroup
				spend := func(s headgate.Store) {
					var b headgate.Batch
					for cost, refused := int64(1), 0; refused < 50; {
						b.Reset(headgate.Take)
						b.Add(headgate.Charge{Limit: l, Owner: "all", Cost: cost})
						switch err := s.Apply(context.Background(), &b); {
						case err != nil:
							t.Error(err)
							return
						case b.Allowed:
							admitted.Add(cost)
						default:
							refused++
						}
					}
				}
				for range 3 {
					callers.Go(func() {
						node := lease.New(shared{s}, lease.Config{Horizon: 5 * time.Millisecond})
						var inside sync.WaitGroup
						for range 3 {
							inside.Go(func() { spend(node) })
						}
						inside.Wait()
						local.Add(int64(node.Stats().Local))
						if err := node.Close(); err != nil {
							t.Error(err)
						}
					})
				}
				callers.Wait()
				spend(s) // what came back
				if n := admitted.Load(); n != max(l.Count, l.Burst) || local.Load() < n/10 {
					t.Errorf("%d admitted, %d of them from leases, of %d", n, local.Load(), max(l.Count, l.Burst))
				}
			})
		}
	}
}

// shared is a store that others close.
type shared struct{ *memstore.Store }

func (shared) Close() error { return nil }
