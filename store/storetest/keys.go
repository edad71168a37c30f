package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

func keyed(w *world, count int64) *headgate.Prepared {
	return prepare(w, headgate.Limit{Name: "keys", Algorithm: headgate.Idempotency, Count: count, TTL: time.Minute})
}

// keyed takes the charges under a key.
func (w *world) keyed(id, print uint64, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := w.batch(take, charges...)
	b.Key = headgate.RequestKey{ID: [2]uint64{id, id + 1}, Print: print}
	return w.apply(b)
}

func keyRules() []rule {
	return []rule{{
		name:  "a retry is not charged again",
		why:   "A Take under the key of an allowed one is allowed, says so, moves nothing and returns the hold of the first.",
		check: replayed,
	}, {
		name: "a key belongs to one request",
		why:  "The same key with another print is an error with the code conflict. It moves nothing, and the first request still is remembered.",
		check: func(w *world) {
			keys, l := keyed(w, 64), slow(w, headgate.TokenBucket, "bucket", 10)
			w.keyed(1, 1, ours(keys, 0), ours(l, 2))
			b := w.batch(take, ours(keys, 0), ours(l, 1))
			b.Key = headgate.RequestKey{ID: [2]uint64{1, 2}, Print: 2}
			if err := w.store.Apply(w.Context(), b); headgate.CodeOf(err) != headgate.Conflict {
				w.Fatalf("%v, want the code conflict", err)
			}
			w.used(ours(l, 0), 2)
			if !w.keyed(1, 1, ours(keys, 0), ours(l, 2)).Replayed {
				w.Fatal("the first was forgotten")
			}
			if w.keyed(1, 2, theirs("bob", keys, 0), theirs("bob", l, 1)).Replayed {
				w.Fatal("two subjects' keys have met")
			}
		},
	}, {
		name: "a refusal is not remembered",
		why:  "Only what was allowed is: the honest retry of a refused request must get its chance.",
		check: func(w *world) {
			keys, l := keyed(w, 64), slow(w, headgate.FixedWindow, "window", 2)
			w.passes(take, ours(l, 2))
			for range 2 {
				if b := w.keyed(1, 1, ours(keys, 0), ours(l, 1)); b.Allowed || b.Replayed {
					w.Fatalf("allowed %v, replayed %v", b.Allowed, b.Replayed)
				}
			}
			w.used(ours(keys, 0), 0)
			w.passes(headgate.Refund, ours(l, 1))
			if b := w.keyed(1, 1, ours(keys, 0), ours(l, 1)); !b.Allowed || b.Replayed {
				w.Fatalf("allowed %v, replayed %v", b.Allowed, b.Replayed)
			}
			w.used(ours(keys, 0), 1)
		},
	}, {
		name: "only so many keys are remembered",
		why:  "Beyond the limit's count a request is decided without being remembered: it is charged twice, never free, and pushes no other key out.",
		check: func(w *world) {
			keys, l := keyed(w, headgate.MaxRemembered), slow(w, headgate.SlidingWindow, "window", 1000)
			for id := range uint64(headgate.MaxRemembered + 1) {
				w.keyed(id, 1, ours(keys, 0), ours(l, 1))
			}
			w.used(ours(keys, 0), headgate.MaxRemembered)
			for id := range uint64(headgate.MaxRemembered + 1) {
				if b := w.keyed(id, 1, ours(keys, 0), ours(l, 1)); !b.Allowed || b.Replayed != (id < headgate.MaxRemembered) {
					w.Fatalf("key %d: allowed %v, replayed %v", id, b.Allowed, b.Replayed)
				}
			}
			w.used(ours(l, 0), headgate.MaxRemembered+2)
		},
	}, {
		name: "who asks without a key is not remembered",
		why:  "Without a key the limit refuses nothing and remembers nothing; a key without the limit does nothing; a Peek ignores keys.",
		check: func(w *world) {
			keys, l := keyed(w, 64), slow(w, headgate.TokenBucket, "bucket", 10)
			w.passes(take, ours(keys, 0), ours(l, 1))
			for range 2 {
				if w.keyed(1, 1, ours(l, 1)).Replayed {
					w.Fatal("replayed without the limit")
				}
			}
			w.used(ours(keys, 0), 0)
			w.keyed(1, 1, ours(keys, 0), ours(l, 1))
			b := w.batch(peek, ours(keys, 0), ours(l, 7))
			b.Key = headgate.RequestKey{ID: [2]uint64{1, 2}, Print: 9}
			if w.apply(b); b.Allowed || b.Replayed {
				w.Fatalf("allowed %v, replayed %v", b.Allowed, b.Replayed)
			}
		},
	}, {
		name:    "a key is forgotten when its time is over",
		why:     "A request is remembered for the TTL from when it was charged, to the microsecond; a replay does not prolong it.",
		travels: true,
		check: func(w *world) {
			keys, l := keyed(w, 1), slow(w, headgate.TokenBucket, "bucket", 10)
			w.keyed(1, 1, ours(keys, 0), ours(l, 1))
			w.at(time.Minute - us)
			if !w.keyed(1, 1, ours(keys, 0), ours(l, 1)).Replayed {
				w.Fatal("forgotten early")
			}
			w.keyed(2, 1, ours(keys, 0), ours(l, 1)) // there is room for one
			w.at(time.Minute)
			for _, replays := range []bool{false, true} {
				if b := w.keyed(1, 1, ours(keys, 0), ours(l, 1)); b.Replayed != replays {
					w.Fatalf("replayed %v", b.Replayed)
				}
			}
			w.used(ours(l, 0), 3)
		},
	}, {
		name:  "one key at once",
		why:   "However many retries come at once, exactly one is charged.",
		check: keyRace,
	}, {
		name: "what counts nothing takes no room",
		why:  "Bans, keys and charges of 0 come with every request: an absent one takes room only when there is something to keep.",
		check: func(w *world) {
			if w.c.Footprint == nil {
				return
			}
			keys, l := keyed(w, 64), slow(w, headgate.FixedWindow, "window", 1)
			ban := slow(w, headgate.Ban, "ban", 5)
			known := func(want int64) {
				w.Helper()
				if n, _ := w.c.Footprint(w.store); n != want {
					w.Fatalf("%d keys are known, want %d", n, want)
				}
			}
			for _, a := range counting {
				w.passes(take, ours(keys, 0), ours(ban, 0), ours(slow(w, a, a.String(), 1), 0))
			}
			known(0)
			w.passes(take, ours(keys, 0), ours(ban, 0), ours(l, 1))
			known(1)
			w.refuses(take, ours(keys, 0), ours(ban, 0), ours(l, 1))
			known(2)
			w.keyed(1, 1, ours(keys, 0), ours(ban, 0), ours(l, 0))
			known(3)
			w.used(ours(ban, 0), 1)
			w.passes(headgate.Reset, ours(keys, 0), ours(ban, 0), ours(l, 0))
			known(0)
		},
	}, {
		name:  "a batch with room",
		why:   "Several requests that are decided together are all charged or none is, however many charges they have.",
		check: roomy,
	}}
}

func replayed(w *world) {
	keys, ban := keyed(w, 64), slow(w, headgate.Ban, "ban", 2)
	id := uint64(0)
	for _, a := range counting {
		l := slow(w, a, a.String(), 5)
		id++
		ask := func() *headgate.Batch {
			b := w.batch(take, ours(l, 3), ours(ban, 0), ours(keys, 0))
			b.Key = headgate.RequestKey{ID: [2]uint64{id, 7}, Print: 3}
			b.Hold = 1000 + w.rand.Uint64N(1<<40)
			return w.apply(b)
		}
		first := ask()
		if !first.Allowed || first.Replayed {
			w.Fatalf("%v: allowed %v, replayed %v", a, first.Allowed, first.Replayed)
		}
		hold := first.Hold
		for range 3 { // none of them would pass, and three refusals would ban
			b := ask()
			if !b.Allowed || !b.Replayed || b.Hold != hold {
				w.Fatalf("%v: allowed %v, replayed %v, hold %d after %d", a, b.Allowed, b.Replayed, b.Hold, hold)
			}
			if o := b.Outcomes()[0]; !o.Allowed || o.Used != 3 {
				w.Fatalf("%v: %+v", a, o)
			}
		}
		w.used(ours(l, 0), 3)
		w.used(ours(ban, 0), 0)
	}
}

func keyRace(w *world) {
	keys, l := keyed(w, 64), slow(w, headgate.TokenBucket, "bucket", 100)
	var fresh, again atomic.Int64
	var holds sync.Map
	w.race(func(rng *rand.Rand, _ func(op headgate.Op, hold uint64, charges ...headgate.Charge) bool) {
		b := w.batch(take, ours(l, 1), ours(keys, 0))
		b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{5, 6}, Print: 7}, rng.Uint64()|1
		if err := w.store.Apply(w.Context(), b); err != nil || !b.Allowed {
			w.Error(fmt.Errorf("allowed %v, %w", b.Allowed, err))
		}
		holds.Store(b.Hold, true)
		if b.Replayed {
			again.Add(1)
		} else {
			fresh.Add(1)
		}
	})
	if fresh.Load() != 1 || again.Load() != racers-1 {
		w.Errorf("%d charged, %d replayed", fresh.Load(), again.Load())
	}
	n := 0
	holds.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		w.Errorf("%d holds were returned", n)
	}
	w.used(ours(l, 0), 1)
}

func roomy(w *world) {
	const n = 1000
	fill := func(op headgate.Op, cost int64, tight headgate.Charge) *headgate.Batch {
		b := new(headgate.Batch)
		b.Reset(op)
		b.Room(n + 1)
		b.Now = w.now
		for i := range n {
			l := slow(w, counting[i%len(counting)], "limit", 10)
			if _, err := b.Add(theirs(fmt.Sprint("owner-", i), l, cost)); err != nil {
				w.Fatal(err)
			}
		}
		if _, err := b.Add(tight); err != nil {
			w.Fatal(err)
		}
		return w.apply(b)
	}
	l := slow(w, headgate.TokenBucket, "tight", 1)
	if b := fill(take, 3, ours(l, 1)); !b.Allowed {
		w.Fatal("refused")
	}
	if b := fill(take, 3, ours(l, 1)); b.Allowed {
		w.Fatal("passed")
	}
	for i, o := range fill(peek, 0, ours(l, 0)).Outcomes()[:n] {
		if o.Used != 3 || o.Remaining != 7 {
			w.Fatalf("charge %d: %+v", i, o)
		}
	}
}
