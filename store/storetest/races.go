package storetest

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/headgate/headgate"
)

const racers = 64

func raceRules() []rule {
	rules := []rule{{
		name: "batches that share keys in any order",
		why: "Concurrent batches are decided as if one after the other, in whatever order they name their keys:" +
			" nobody waits for ever, exactly the limits pass, and refused batches leave nothing behind.",
		check: crossing,
	}, {
		name: "slots come and go",
		why:  "However holds are taken and released at once, no more than the limit are held, and in the end none.",
		check: func(w *world) {
			l := slow(w, headgate.Concurrency, "slots", 10)
			var inFlight, most atomic.Int64
			w.race(func(rng *rand.Rand, do func(op headgate.Op, hold uint64, charges ...headgate.Charge) bool) {
				for range 8 {
					id := rng.Uint64() | 1
					if !do(take, id, ours(l, 1)) {
						continue
					}
					n := inFlight.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					inFlight.Add(-1)
					do(headgate.Release, id, ours(l, 1))
				}
			})
			if most.Load() > 10 {
				w.Errorf("%d were in flight, the limit is 10", most.Load())
			}
			w.used(ours(l, 0), 0)
		},
	}}
	rules = append(rules, rule{
		name: "streams at once",
		why:  "A hundred streams that reserve a slot and settle it when they are done: never more than 20 run, and in the end no slot is held.",
		check: func(w *world) {
			l := slow(w, headgate.Concurrency, "streams", 20)
			var running, most, started atomic.Int64
			var g sync.WaitGroup
			for i := range uint64(100) {
				g.Go(func() {
					for n := range uint64(50) {
						id := 1 + i + 1000*n
						b := w.batch(take, ours(l, 1))
						b.Hold, b.HoldFor = id, headgate.MaxHold.Microseconds()
						if err := w.store.Apply(w.Context(), b); err != nil {
							w.Error(err)
						}
						if !b.Allowed {
							continue
						}
						started.Add(1)
						now := running.Add(1)
						for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
						}
						runtime.Gosched()
						running.Add(-1)
						b = w.batch(headgate.Settle, ours(l, 1))
						b.Hold = id
						if err := w.store.Apply(w.Context(), b); err != nil || !b.Allowed {
							w.Errorf("settled %v: %v", b.Allowed, err)
						}
					}
				})
			}
			g.Wait()
			if most.Load() > 20 || started.Load() == 0 {
				w.Errorf("%d ran at once of %d, the limit is 20", most.Load(), started.Load())
			}
			w.used(ours(l, 0), 0)
		},
	}, rule{
		name: "settled by many at once",
		why:  "However many settle a reservation at once, one of them finds it and what is left is given back once.",
		check: func(w *world) {
			for _, a := range reserving {
				l := slow(w, a, a.String(), 100)
				w.passes(take, ours(l, 50))
				for id := range uint64(5) {
					w.reserved(id+1, headgate.MaxHold, ours(l, 10))
					var found atomic.Int64
					var g sync.WaitGroup
					for range 16 {
						g.Go(func() {
							b := w.batch(headgate.Settle, ours(l, 4))
							b.Hold = id + 1
							if err := w.store.Apply(w.Context(), b); err != nil {
								w.Error(err)
							}
							if b.Allowed {
								found.Add(1)
							}
						})
					}
					g.Wait()
					if found.Load() != 1 {
						w.Fatalf("%v: %d found the reservation", a, found.Load())
					}
				}
				want := int64(70)
				if a == headgate.LeakyBucket {
					want = 100
				}
				w.used(ours(l, 0), want)
			}
		},
	})
	for _, a := range counting {
		rules = append(rules, rule{
			name: fmt.Sprintf("%d at once on one %v", racers, a),
			why:  "Concurrent takes of one budget are decided one after the other: exactly the limit passes.",
			check: func(w *world) {
				l := slow(w, a, "hot", 100)
				var passed atomic.Int64
				w.race(func(_ *rand.Rand, do func(op headgate.Op, hold uint64, charges ...headgate.Charge) bool) {
					for range 4 {
						if do(take, 0, ours(l, 1)) {
							passed.Add(1)
						}
					}
				})
				if passed.Load() != 100 {
					w.Errorf("%d passed, want 100", passed.Load())
				}
				w.used(ours(l, 0), 100)
			},
		})
	}
	return rules
}

// race runs f in many goroutines at once and waits for them.
func (w *world) race(f func(rng *rand.Rand, do func(op headgate.Op, hold uint64, charges ...headgate.Charge) bool)) {
	w.Helper()
	var g sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		g.Go(func() {
			var b headgate.Batch
			<-start
			f(rand.New(rand.NewPCG(uint64(i), 1)), func(op headgate.Op, hold uint64, charges ...headgate.Charge) bool {
				b.Reset(op)
				b.Now, b.Hold = w.now, hold
				for _, c := range charges {
					if _, err := b.Add(c); err != nil {
						w.Error(err)
					}
				}
				if err := w.store.Apply(w.Context(), &b); err != nil {
					w.Error(err)
				}
				return b.Allowed
			})
		})
	}
	close(start)
	g.Wait()
	if w.Failed() {
		w.FailNow()
	}
}

func crossing(w *world) {
	for _, a := range counting {
		if w.c.Apart && a == headgate.LeakyBucket {
			continue
		}
		const owners = 5
		l, tight := slow(w, a, a.String(), 60), slow(w, a, "tight-"+a.String(), 100)
		name := func(i int) string { return fmt.Sprintf("%v-%d", a, i) }
		var spent [owners]atomic.Int64
		var passed, refusals atomic.Int64
		w.race(func(rng *rand.Rand, do func(op headgate.Op, hold uint64, charges ...headgate.Charge) bool) {
			for range 6 {
				order := rng.Perm(owners)[:3]
				charges := []headgate.Charge{theirs("all", tight, 1)}
				for _, i := range order {
					charges = append(charges, theirs(name(i), l, 1))
				}
				rng.Shuffle(len(charges), func(i, j int) { charges[i], charges[j] = charges[j], charges[i] })
				if !do(take, 0, charges...) {
					refusals.Add(1)
					continue
				}
				passed.Add(1)
				for _, i := range order {
					spent[i].Add(1)
				}
			}
		})
		if refusals.Load() == 0 || passed.Load() == 0 {
			w.Fatalf("%v: %d passed, %d refused: the race decides nothing", a, passed.Load(), refusals.Load())
		}
		w.used(theirs("all", tight, 0), passed.Load())
		full := passed.Load() == 100
		exhausted := 0
		for i := range owners {
			n := spent[i].Load()
			w.used(theirs(name(i), l, 0), n)
			if n > 60 {
				w.Errorf("%v: %d passed for one owner, the limit is 60", a, n)
			}
			if n == 60 {
				exhausted++
			}
		}
		if !w.c.Apart && !full && exhausted < owners-2 {
			w.Errorf("%v: %d passed with %d owners at their limit, though more would have", a, passed.Load(), exhausted)
		}
	}
}
