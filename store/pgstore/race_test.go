package pgstore

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// openStores opens n stores on one database.
func openStores(t testing.TB, url string, n int) []*Store {
	t.Helper()
	stores := make([]*Store, n)
	for i := range stores {
		stores[i] = openStore(t, Config{URL: url})
	}
	return stores
}

// bucket is n tokens of which none comes back while a test runs.
func bucket(t testing.TB, n int64) *headgate.Prepared {
	return prepared(t, headgate.Per(n, 800_000*time.Hour).WithBurst(n).WithName("bucket"))
}

// Several nodes at the same few keys let pass exactly the limit.
func TestManyNodes(t *testing.T) {
	const limit, keys, workers, takes = 100, 4, 8, 50
	stores := openStores(t, pgtest.Shared(t).Schema(t), 3)
	l := bucket(t, limit)
	var passed [keys]atomic.Int64
	var wg sync.WaitGroup
	for _, s := range stores {
		for range workers {
			wg.Go(func() {
				for range takes {
					k := rand.IntN(keys)
					b, err := take(t, s, headgate.Charge{Limit: l, Owner: fmt.Sprint(k), Cost: 1})
					if err != nil {
						t.Error(err)
						return
					}
					if b.Allowed {
						passed[k].Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	for k := range passed {
		if n := passed[k].Load(); n != limit {
			t.Errorf("key %d: %d have passed, want %d", k, n, limit)
		}
	}
}

// Batches of several owners in opposite orders never fail by a deadlock, and are
// charged whole or not at all.
func TestDeadlockStorm(t *testing.T) {
	const limit, owners, workers, takes = 60, 6, 16, 40
	stores := openStores(t, pgtest.Shared(t).Schema(t), 3)
	l := bucket(t, limit)
	var passed [owners]atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		s := stores[w%len(stores)]
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range takes {
				var charges []headgate.Charge
				order := rng.Perm(owners)[:3]
				for _, o := range order {
					charges = append(charges, headgate.Charge{Limit: l, Owner: fmt.Sprint(o), Cost: 1})
				}
				b, err := take(t, s, charges...)
				if err != nil {
					t.Error(err)
					return
				}
				if b.Allowed {
					for _, o := range order {
						passed[o].Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	for o := range passed {
		b := new(headgate.Batch)
		b.Reset(headgate.Peek)
		if _, err := b.Add(headgate.Charge{Limit: l, Owner: fmt.Sprint(o), Cost: 1}); err != nil {
			t.Fatal(err)
		}
		if err := stores[0].Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if n, left := passed[o].Load(), b.Outcomes()[0].Remaining; n+left != limit || n == 0 {
			t.Errorf("owner %d: %d have passed and %d are left of %d", o, n, left, limit)
		}
	}
}
