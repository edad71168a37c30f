package lease_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// Callers of several stores take everything there is of one budget, some of them
// in batches with another one: never more than there is, and all of it can be used.
func TestCallersContend(t *testing.T) {
	const count, large, callers = 1_000_000_000, 1_000_000, 6
	k := newBank()
	all := prepare(t, headgate.Window(count, 365*24*time.Hour).WithName("all"))
	own := prepare(t, headgate.Window(5*count, 365*24*time.Hour).WithName("own"))
	var stores [3]*lease.Store
	for i := range stores {
		stores[i] = lease.New(k, lease.Config{Horizon: 5 * time.Millisecond})
	}
	leased := func() bool {
		for _, s := range stores {
			if s.Stats().Local < 2000 {
				return false
			}
		}
		return true
	}
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			s, cost := stores[c%len(stores)], int64(1)
			var b headgate.Batch
			warm := false
			for i, refused := 0, 0; refused < 100; i++ {
				if !warm && i%500 == 499 && leased() {
					warm, cost = true, large
				}
				b.Reset(headgate.Take)
				b.Add(headgate.Charge{Limit: all, Owner: "all", Cost: cost})
				if c%2 == 0 {
					b.Add(headgate.Charge{Limit: own, Owner: strconv.Itoa(c % 4), Cost: cost})
				}
				switch err := s.Apply(context.Background(), &b); {
				case err != nil:
					t.Error(err)
					return
				case b.Allowed:
					admitted.Add(cost)
				case cost > 1:
					cost /= 10
				default:
					refused++
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stores {
		s.Close()
	}
	n, used := admitted.Load(), k.peek(all, "all").Used
	if n > count || used > count || n > used || k.out() != 0 {
		t.Errorf("%d admitted of %d, %d used, %d out", n, count, used, k.out())
	}
	if n < count*9/10 {
		t.Errorf("only %d admitted of %d", n, count)
	}
}
