package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// traffic takes from the owners' budgets until it is stopped, and counts what
// passed.
type traffic struct {
	stop chan struct{}
	wait sync.WaitGroup

	passed, refused, failed atomic.Int64
	slowest                 atomic.Int64 // of all decisions, in µs
}

// run starts workers, each with an owner of its own.
func (tr *traffic) run(t testing.TB, s headgate.Store, workers int, patience time.Duration, l *headgate.Prepared) {
	tr.stop = make(chan struct{})
	for i := range workers {
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: strconv.Itoa(i), Cost: 1})
		tr.wait.Go(func() {
			for {
				select {
				case <-tr.stop:
					return
				default:
				}
				b.Patience = patience.Microseconds()
				start := time.Now()
				err := s.Apply(t.Context(), b)
				took := time.Since(start).Microseconds()
				for slowest := tr.slowest.Load(); took > slowest && !tr.slowest.CompareAndSwap(slowest, took); slowest = tr.slowest.Load() {
				}
				switch {
				case err != nil:
					tr.failed.Add(1)
				case b.Allowed:
					tr.passed.Add(1)
				default:
					tr.refused.Add(1)
				}
			}
		})
	}
}

func (tr *traffic) end() {
	close(tr.stop)
	tr.wait.Wait()
}

// reaches waits for a counter to grow by n.
func reaches(t testing.TB, c *atomic.Int64, n int64) {
	t.Helper()
	want := c.Load() + n
	eventually(t, func() string {
		if got := c.Load(); got < want {
			return fmt.Sprintf("%d of %d", got, want)
		}
		return ""
	})
}

// Through a failover of sentinels traffic goes on by itself, limits start empty
// under the next epoch, and no more than the limit passes.
func TestSentinelFailover(t *testing.T) {
	for name, fail := range map[string]func(tr *redistest.Trio, t testing.TB) *redistest.Server{
		"ordered": (*redistest.Trio).Failover, "killed": (*redistest.Trio).KillPrimary,
	} {
		t.Run(name, func(t *testing.T) {
			trio := redistest.Sentinel(t)
			s := openStore(t, Config{URL: trio.URL()})
			l := ten(t)
			if !allowed(t, s, l, 4) {
				t.Fatal("refused")
			}
			before := markerOf(t, trio.Primary(t), "hg:")
			quick := prepare(t, headgate.PerSecond(1_000_000).WithName("quick"))
			var tr traffic
			tr.run(t, s, 8, 100*time.Millisecond, quick)
			defer tr.wait.Wait()
			reaches(t, &tr.passed, 100)
			primary := fail(trio, t)
			reaches(t, &tr.passed, 100)
			tr.end()
			if slowest := time.Duration(tr.slowest.Load()) * time.Microsecond; slowest > 5*time.Second {
				t.Errorf("the slowest decision took %v", slowest)
			}
			after := markerOf(t, primary, "hg:")
			if after.seq <= before.seq || after.epoch.Since == 0 {
				t.Errorf("marker %+v, was %+v", after, before)
			}
			if allowed(t, s, l, 1) {
				t.Error("a bucket of another incarnation is not empty")
			}
			t.Logf("%d passed, %d refused, %d failed, slowest %d µs", tr.passed.Load(), tr.refused.Load(), tr.failed.Load(), tr.slowest.Load())
		})
	}
}

// The same in a cluster, where the other masters' limits keep what they have.
func TestClusterFailover(t *testing.T) {
	for name, fail := range map[string]func(r *redistest.Ring, t testing.TB, i int) *redistest.Server{
		"ordered": (*redistest.Ring).Failover, "killed": (*redistest.Ring).KillMaster,
	} {
		t.Run(name, func(t *testing.T) {
			ring := redistest.Cluster(t, 1)
			s := openStore(t, Config{URL: ring.URL()})
			l := ten(t)
			owner := ownersOfMasters(s)
			for _, o := range owner {
				if b, err := take(t, s, headgate.Charge{Limit: l, Owner: o, Cost: 4}); err != nil || !b.Allowed {
					t.Fatal(err, b.Allowed)
				}
			}
			quick := prepare(t, headgate.PerSecond(1_000_000).WithName("quick"))
			var tr traffic
			tr.run(t, s, 16, 100*time.Millisecond, quick)
			defer tr.wait.Wait()
			reaches(t, &tr.passed, 100)
			fail(ring, t, 0)
			failed := tr.failed.Load()
			reaches(t, &tr.passed, 100)
			// All partitions are served again.
			for i, o := range owner {
				var b *headgate.Batch
				eventually(t, func() string {
					var err error
					if b, err = take(t, s, headgate.Charge{Limit: l, Owner: o, Cost: 6}); err != nil {
						return err.Error()
					}
					return ""
				})
				if b.Allowed != (i > 0) {
					t.Errorf("%q on master %d: allowed %v", o, i, b.Allowed)
				}
			}
			tr.end()
			t.Logf("%d passed, %d refused, %d failed (%d in the failover), slowest %d µs", tr.passed.Load(), tr.refused.Load(), tr.failed.Load(), failed, tr.slowest.Load())
		})
	}
}

// ownersOfMasters returns an owner on each of three masters, which have a third of
// the slots each.
func ownersOfMasters(s *Store) [3]string {
	var all [3]string
	for i := 0; all[0] == "" || all[1] == "" || all[2] == ""; i++ {
		owner := "owner " + strconv.Itoa(i)
		all[s.scheme.partition(owner, never.Limit)*3/s.scheme.partitions()] = owner
	}
	return all
}

// A slot that moves to another master takes its limits along. On the way they
// cannot be decided; there they are those of another incarnation.
func TestSlotMoves(t *testing.T) {
	ring := redistest.Cluster(t, 0)
	s := openStore(t, Config{URL: ring.URL()})
	l := ten(t)
	owner := ownersOfMasters(s)[0]
	partition := s.scheme.partition(owner, l)
	slot := partition * slots / clusterPartitions
	ask := func(patience time.Duration) (*headgate.Batch, error) {
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: owner, Cost: 1})
		b.Patience = patience.Microseconds()
		return b, s.Apply(t.Context(), b)
	}
	if b, err := ask(0); err != nil || !b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	from, to := ring.Owner(t, slot), 2
	if from == to {
		to = 1
	}
	m := ring.StartMigration(t, slot, to)
	if b, err := ask(0); err != nil || !b.Allowed {
		t.Errorf("before a key has moved: %v, allowed %v", err, b.Allowed)
	}
	m.Move(t, s.scheme.key(owner, l))
	if b, err := ask(50 * time.Millisecond); kindOf(err) != kindMoved {
		t.Errorf("on the way: %v, allowed %v", err, b.Allowed)
	}
	m.Finish(t)
	eventually(t, func() string {
		b, err := ask(time.Second)
		if err != nil {
			return err.Error()
		}
		if b.Allowed {
			t.Error("a bucket of another incarnation is not empty")
		}
		return ""
	})
	if inc := s.partitions[partition].present.Load(); inc.seq != 2 || inc.run != ring.Masters[to].Info(t, "run_id") {
		t.Errorf("%+v", inc)
	}
	// The state came along: it is not as never seen.
	b := batchOf(t, headgate.Peek, headgate.Charge{Limit: l, Owner: owner})
	if err := s.Apply(t.Context(), b); err != nil || b.Outcomes()[0].Used < 10 {
		t.Errorf("%v, %+v", err, b.Outcomes()[0])
	}
}

func TestNodes(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.url(t)(prefixed())
			a, b := openStore(t, Config{URL: url}), openStore(t, Config{URL: url})
			count := func(s *Store, node uint64, ttl time.Duration) int {
				t.Helper()
				n, err := s.Nodes(t.Context(), [2]uint64{node, 7}, ttl)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			if n := count(a, 1, time.Minute); n != 1 {
				t.Errorf("%d nodes, want 1", n)
			}
			if n := count(b, 2, 50*time.Millisecond); n != 2 {
				t.Errorf("%d nodes, want 2", n)
			}
			if n := count(a, 1, time.Minute); n > 2 {
				t.Errorf("%d nodes, want 2 at most", n)
			}
			eventually(t, func() string {
				if n := count(a, 1, time.Minute); n != 1 {
					return fmt.Sprintf("%d nodes", n)
				}
				return ""
			})
			if _, err := a.Nodes(t.Context(), [2]uint64{1, 1}, time.Microsecond); headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Error(err)
			}
		})
	}
}

// A node that waits for a server that stands still gives up with its context.
func TestNodesOfServerThatStandsStill(t *testing.T) {
	server := redistest.Standalone(t)
	s := openStore(t, Config{URL: server.URL()})
	server.Pause(t)
	defer server.Resume(t)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Millisecond)
	defer cancel()
	if _, err := s.Nodes(ctx, [2]uint64{1, 1}, time.Second); headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != kindTimeout {
		t.Error(err)
	}
}
