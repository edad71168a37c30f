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
// in batches with another one: never more than there is, and little is lost.
func TestCallersContend(t *testing.T) {
	const count, callers = 50_000, 8
	k := newBank()
	all := prepare(t, headgate.Window(count, 365*24*time.Hour).WithName("all"))
	own := prepare(t, headgate.Window(5*count, 365*24*time.Hour).WithName("own"))
	var admitted atomic.Int64
	var wg sync.WaitGroup
	var stores [3]*lease.Store
	for i := range stores {
		stores[i] = lease.New(k, lease.Config{Horizon: 2 * time.Millisecond, Hot: 1})
	}
	for c := range callers {
		wg.Go(func() {
			s := stores[c%len(stores)]
			var b headgate.Batch
			for refused := 0; refused < 100; {
				b.Reset(headgate.Take)
				b.Add(headgate.Charge{Limit: all, Owner: "all", Cost: 1})
				if c%2 == 0 {
					b.Add(headgate.Charge{Limit: own, Owner: strconv.Itoa(c % 4), Cost: 1})
				}
				if err := s.Apply(context.Background(), &b); err != nil {
					t.Error(err)
					return
				}
				if b.Allowed {
					admitted.Add(1)
				} else {
					refused++
				}
			}
		})
	}
	wg.Wait()
	var local int64
	for _, s := range stores {
		local += s.Stats().Local
		s.Close()
	}
	used := k.peek(all, "all").Used
	if n := admitted.Load(); n > count || used > count || n > used {
		t.Errorf("%d admitted of %d, %d used", n, count, used)
	}
	if n := admitted.Load(); used-n > count/50 || n < count*9/10 {
		t.Errorf("%d admitted of %d, %d used", n, count, used)
	}
	if local < 1000 {
		t.Errorf("%d decided locally, which proves little", local)
	}
	if n := k.out(); n != 0 {
		t.Errorf("%d out after Close", n)
	}
}
