package memstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/storetest"
)

// A known key costs no allocation, whatever is asked and answered.
func TestKnownKeysDoNotAllocate(t *testing.T) {
	limits := []headgate.Limit{
		headgate.PerHour(1_000_000),
		headgate.Limit{Count: 1_000_003, Period: time.Second, Burst: 2_000_000}, // does not fit into one word
		{Algorithm: headgate.LeakyBucket, Count: 1_000_000, Period: time.Hour},
		headgate.Window(1_000_000, time.Hour),
		headgate.Sliding(1_000_000, time.Hour),
		headgate.Sliding(1_000_000, time.Hour).WithSlices(1),
		headgate.Log(10_000, time.Hour),
		headgate.QuotaPer(1_000_000, headgate.Month),
		headgate.InFlight(10_000, time.Hour),
		{Algorithm: headgate.Ban, Count: 1_000_000, Period: time.Hour, TTL: time.Hour},
	}
	prepared := make([]*headgate.Prepared, len(limits))
	for i, l := range limits {
		var err error
		if prepared[i], err = l.WithName(fmt.Sprint("limit-", i)).Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	s := memstore.New(memstore.Config{Shards: 1})
	ctx := context.Background()
	now := time.Now().UnixMicro()
	for i := range prepared {
		for _, charges := range []int{1, 3} {
			var b headgate.Batch
			ask := func(op headgate.Op, cost int64, allowed bool) {
				b.Reset(op)
				b.Now, b.Hold = now, 7
				for j := range charges {
					c := headgate.Charge{Limit: prepared[(i+j)%len(prepared)], Owner: "alice", Cost: cost}
					if _, err := b.Add(c); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Apply(ctx, &b); err != nil {
					t.Fatal(err)
				}
				if b.Allowed != allowed {
					t.Fatalf("%v of cost %d: allowed %v: %+v", op, cost, b.Allowed, b.Outcomes())
				}
			}
			ban := charges == 1 && prepared[i].Algorithm == headgate.Ban
			holds := false
			for j := range charges {
				holds = holds || prepared[(i+j)%len(prepared)].Algorithm == headgate.Concurrency
			}
			for _, test := range []struct {
				op   headgate.Op
				cost int64
			}{{headgate.Take, 1}, {headgate.Take, 0}, {headgate.Take, 3_000_000}, {headgate.Peek, 1}, {headgate.Peek, 3_000_000}, {headgate.Refund, 1}, {headgate.Renew, 1}, {headgate.Release, 1}} {
				allowed := test.cost < 3_000_000 || ban
				run := func() { ask(test.op, test.cost, allowed) }
				if test.op == headgate.Take && test.cost == 1 {
					// A log and slots take more words now and then: free what was taken.
					run = func() {
						ask(headgate.Take, 1, true)
						ask(headgate.Release, 1, true)
						ask(headgate.Refund, 1, true)
					}
				} else if holds {
					ask(headgate.Take, 1, true)
				}
				run()
				if n := testing.AllocsPerRun(50, run); n != 0 {
					t.Errorf("%d of %v from %v on, %v of cost %d: %v allocations", charges, len(limits), prepared[i].Name, test.op, test.cost, n)
				}
				ask(headgate.Release, 1, true)
			}
		}
	}
}

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, opener[*testing.B](memstore.Config{MaxBytes: 1 << 30}), capabilities)
}
