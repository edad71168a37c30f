package bench

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

// TestContestantsKeepTheRule makes sure that a benchmark compares limiters, and
// not adapters that forgot to limit.
func TestContestantsKeepTheRule(t *testing.T) {
	const burst, keys = 7, 100
	for _, name := range perKey {
		t.Run(name, func(t *testing.T) {
			c := contestants[name](t, rule{burst: burst, every: time.Hour})
			defer c.close()
			ask := c.worker()
			for k := range uint32(keys) {
				for n := range 2 * burst {
					if got, want := ask(key(k)), n < burst; got != want {
						t.Fatalf("call %d of key %d: allowed %v, want %v", n, k, got, want)
					}
				}
			}
			if n := c.keys(); n != keys && n != -1 {
				t.Errorf("%d keys are kept, want %d", n, keys)
			}
		})
	}
}

func TestLedger(t *testing.T) {
	o := newOrder([]uint32{0, 1, 1, 2})
	l := make(ledger, 4)
	l.add(o, 2, 7) // 1 2 0 1 1
	if allowed, keys := l.allowed(2); allowed != 1+2+1 || keys != 3 {
		t.Errorf("%d allowed of %d keys, want 4 of 3", allowed, keys)
	}
	if o.keys[3] != key(2) {
		t.Errorf("key 3 is %q, want %q", o.keys[3], key(2))
	}
}

func TestOrders(t *testing.T) {
	l := make(ledger, million)
	l.add(uniform(), 0, million)
	if _, keys := l.allowed(1); keys != million {
		t.Errorf("half of the uniform order has %d keys, want %d", keys, million)
	}
	l = make(ledger, million)
	l.add(zipf(), 0, cycle)
	most := uint32(0)
	for _, n := range l {
		most = max(most, n)
	}
	// The most frequent of 2^20 keys has a share of 1/sum(1/k^1.1) = 0.12.
	if share := float64(most) / cycle; share < 0.115 || share > 0.13 {
		t.Errorf("the most frequent key has a share of %.4f", share)
	}
}

func TestNoAllocations(t *testing.T) {
	for _, name := range slices.Concat(handles, []string{"headgate", "headgate-batch"}) {
		for what, r := range map[string]rule{"allowed": roomy, "denied": spent} {
			open := oneKey[name]
			if open == nil {
				open = contestants[name]
			}
			c := open(t, r)
			ask := c.worker()
			ask(hotKey)
			if n := testing.AllocsPerRun(1000, func() { ask(hotKey) }); n != 0 {
				t.Errorf("%s %s: %v allocations, want 0", name, what, n)
			}
			c.close()
		}
	}
	g, r, ctx := openGate(t), ask(hotKey), context.Background()
	var d gate.Decision
	n := testing.AllocsPerRun(1000, func() {
		if err := g.Take(ctx, r, &d); err != nil || !correct(&d) {
			t.Fatal(err, d.Decision)
		}
	})
	if n != 0 {
		t.Errorf("a whole policy: %v allocations, want 0", n)
	}
}
