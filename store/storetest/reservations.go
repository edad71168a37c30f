package storetest

import (
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// reserving lists the algorithms that keep what a reservation charged.
var reserving = counting[:len(counting)-1]

// reserve takes the charges as a reservation.
func (w *world) reserve(hold uint64, d time.Duration, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := w.batch(take, charges...)
	b.Hold, b.HoldFor = hold, d.Microseconds()
	return w.apply(b)
}

// reserved is reserve, and expects it to be allowed.
func (w *world) reserved(hold uint64, d time.Duration, charges ...headgate.Charge) {
	w.Helper()
	if b := w.reserve(hold, d, charges...); !b.Allowed {
		w.Fatalf("the reservation of %v was refused: %+v", describe(charges), b.Outcomes())
	}
}

// reserveMost makes as many reservations as may be open, many at once: one after
// the other they would take a store that is not in memory long.
func (w *world) reserveMost(c headgate.Charge) {
	w.Helper()
	var g sync.WaitGroup
	for first := range uint64(racers) {
		b := w.batch(take, c)
		g.Go(func() {
			for id := first + 1; id <= headgate.MaxInFlight; id += racers {
				b.Hold, b.HoldFor = id, time.Hour.Microseconds()
				if err := w.store.Apply(w.Context(), b); err != nil || !b.Allowed {
					w.Errorf("reservation %d: %v, allowed %v: %+v", id, err, b.Allowed, b.Outcomes())
					return
				}
			}
		})
	}
	g.Wait()
	if w.Failed() {
		w.FailNow()
	}
}

// settle expects the hold to be found, or not.
func (w *world) settle(hold uint64, found bool, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := w.held(headgate.Settle, hold, charges...)
	if b.Allowed != found {
		w.Fatalf("settling hold %d of %v: found %v, want %v: %+v", hold, describe(charges), b.Allowed, found, b.Outcomes())
	}
	return b
}

func reservationRules() []rule {
	return []rule{{
		name:  "a reservation is settled once",
		why:   "Settle gives back what was reserved and not used, once: a second one, one of another name or key and one of hold 0 find nothing and move nothing.",
		check: settledOnce,
	}, {
		name: "what the work took beyond its reservation is charged",
		why:  "Settle never refuses: the excess is charged like a Debit, as overage or debt if need be.",
		check: func(w *world) {
			for _, a := range reserving {
				l := slow(w, a, a.String(), 10)
				w.reserved(1, time.Hour, ours(l, 2))
				w.settle(1, true, ours(l, 5))
				w.used(ours(l, 0), 5)
				w.reserved(2, time.Hour, ours(l, 5))
				w.settle(2, true, ours(l, 8))
				w.used(ours(l, 0), 13)
				w.refuses(take, ours(l, 1))
			}
		},
	}, {
		name: "a reservation of nothing is settled too",
		why:  "Whoever does not know the cost before reserves 0 and pays once when it is known.",
		check: func(w *world) {
			for _, a := range reserving {
				l := slow(w, a, a.String(), 10)
				w.reserved(1, time.Hour, ours(l, 0))
				w.used(ours(l, 0), 0)
				w.settle(1, true, ours(l, 3))
				w.settle(1, false, ours(l, 3))
				w.used(ours(l, 0), 3)
			}
		},
	}, {
		name: "a refund leaves what is reserved",
		why:  "What a reservation charged is given back by its Settle: a refund that took it too would give it back twice.",
		check: func(w *world) {
			for _, a := range reserving {
				if a == headgate.LeakyBucket {
					continue
				}
				l := slow(w, a, a.String(), 10)
				w.passes(take, ours(l, 3))
				w.reserved(1, time.Hour, ours(l, 4))
				w.passes(headgate.Refund, ours(l, 10))
				w.used(ours(l, 0), 4)
				w.settle(1, true, ours(l, 1))
				w.used(ours(l, 0), 1)
			}
		},
	}, {
		name: "a refused batch reserves nothing",
		why:  "All or nothing holds for reservations: a settling of one that was refused finds nothing, and a shadow that refuses holds nothing.",
		check: func(w *world) {
			none := slow(w, headgate.TokenBucket, "none", 1)
			w.passes(take, ours(none, 1))
			for _, a := range reserving {
				l, tight := slow(w, a, a.String(), 10), slow(w, a, "tight-"+a.String(), 1)
				if w.reserve(1, time.Hour, ours(l, 4), ours(none, 1)).Allowed {
					w.Fatal("passed")
				}
				w.settle(1, false, ours(l, 0))
				w.used(ours(l, 0), 0)
				w.reserved(1, time.Hour, ours(l, 4), shadow(ours(tight, 4)))
				w.settle(1, false, ours(tight, 0))
				w.settle(1, true, ours(l, 0))
			}
		},
	}, {
		name: "a reset forgets reservations",
		why:  "After a Reset the budget is as never seen: settling a forgotten reservation finds nothing and credits nothing.",
		check: func(w *world) {
			for _, a := range reserving {
				l := slow(w, a, a.String(), 10)
				w.reserved(1, time.Hour, ours(l, 6))
				w.passes(headgate.Reset, ours(l, 0))
				w.passes(take, ours(l, 10))
				w.settle(1, false, ours(l, 0))
				w.used(ours(l, 0), 10)
			}
		},
	}, {
		name: "reservations that make no sense are refused",
		why:  "A reservation needs a name and lasts up to MaxHold: all else is an error with the code invalid_request, and moves nothing.",
		check: func(w *world) {
			l := slow(w, headgate.FixedWindow, "window", 10)
			for _, s := range []struct {
				hold              uint64
				holdFor, maxDelay int64
			}{{0, 1, 0}, {1, -1, 0}, {1, headgate.MaxHold.Microseconds() + 1, 0}, {0, 0, -1}} {
				b := w.batch(take, ours(l, 1))
				b.Hold, b.HoldFor, b.MaxDelay = s.hold, s.holdFor, s.maxDelay
				if err := w.store.Apply(w.Context(), b); headgate.CodeOf(err) != headgate.InvalidRequest {
					w.Errorf("%+v: %v", s, err)
				}
			}
			w.used(ours(l, 0), 0)
		},
	}, {
		name: "only so many reservations are open at once",
		why:  "A budget holds MaxInFlight reservations; with one more the store is overloaded, and decides again once one has ended.",
		check: func(w *world) {
			l, other := slow(w, headgate.TokenBucket, "bucket", 1_000_000), slow(w, headgate.SlidingLog, "log", 5)
			w.reserveMost(ours(l, 1))
			b := w.batch(take, ours(other, 1), ours(l, 1))
			b.Hold, b.HoldFor = 1<<40, 1
			if err := w.store.Apply(w.Context(), b); headgate.CodeOf(err) != headgate.Overloaded {
				w.Fatalf("%v, want the code overloaded", err)
			}
			w.used(ours(other, 0), 0)
			w.used(ours(l, 0), headgate.MaxInFlight)
			w.passes(take, ours(l, 1))
			w.settle(headgate.MaxInFlight, true, ours(l, 0))
			w.reserved(1<<40, time.Hour, ours(l, 1))
			w.used(ours(l, 0), headgate.MaxInFlight+1)
		},
	}, {
		name: "reservations keep through other numbers",
		why:  "A reservation made under one plan is settled under another, and leaves nobody with more than the smaller plan holds.",
		check: func(w *world) {
			for _, a := range reserving {
				big, small := slow(w, a, a.String(), 100), slow(w, a, a.String(), 20)
				w.reserved(1, time.Hour, ours(big, 50))
				w.settle(2, false, ours(small, 0))
				w.used(ours(big, 0), 50)
				w.settle(1, true, ours(small, 0))
				w.settle(1, false, ours(small, 0))
				if o := w.do(peek, ours(small, 0)).Outcomes()[0]; o.Remaining > 20 || o.Used < 0 {
					w.Fatalf("%v: %+v", a, o)
				}
			}
			// Nothing is minted by having more held than there is room for.
			big, small := slow(w, headgate.TokenBucket, "rate", 100), slow(w, headgate.TokenBucket, "rate", 20)
			for id := range uint64(9) {
				w.reserved(id+1, time.Hour, ours(big, 10))
			}
			w.refuses(take, ours(small, 1))
			for id := range uint64(9) {
				w.settle(id+1, true, ours(small, 0))
			}
			w.used(ours(small, 0), 0)
			w.passes(take, ours(small, 20))
			w.refuses(take, ours(small, 1))
		},
	}, {
		name:    "a reservation expires unless renewed",
		why:     "From its end on, to the microsecond, a reservation cannot be settled or renewed and its charge is kept.",
		travels: true,
		check: func(w *world) {
			for i, a := range reserving {
				l, start := slow(w, a, a.String(), 10), time.Duration(i)*time.Minute
				w.at(start)
				w.reserved(1, 10*sec, ours(l, 3))
				w.reserved(2, 10*sec, ours(l, 2))
				w.at(start + 10*sec - us)
				b := w.batch(headgate.Renew, ours(l, 0))
				b.Hold, b.HoldFor = 1, (10 * sec).Microseconds()
				if !w.apply(b).Allowed {
					w.Fatalf("%v: not renewed", a)
				}
				w.at(start + 10*sec)
				w.settle(2, false, ours(l, 0))
				b.Hold = 2
				if b.Now = w.now; w.apply(b).Allowed {
					w.Fatalf("%v: renewed after its end", a)
				}
				w.used(ours(l, 0), 5)
				w.at(start + 20*sec - 2*us)
				w.settle(1, true, ours(l, 3))
				w.settle(1, false, ours(l, 3))
				w.used(ours(l, 0), 5)
			}
		},
	}, {
		name: "what is held does not refill",
		why: "Of 100 tokens 10 are reserved: were they to refill while they are held, 100 could be taken and the 10 given back," +
			" 110 at one instant. The waits tell when a hold ends.",
		travels: true,
		check:   escrowed,
	}, {
		name:    "a window is credited while it counts",
		why:     "What was charged in one window is not given back in the next: that would let more than the limit pass there.",
		travels: true,
		check: func(w *world) {
			for i, limit := range []headgate.Limit{
				headgate.Window(10, time.Minute), headgate.Sliding(10, time.Minute), headgate.Sliding(10, time.Minute).WithSlices(1),
				headgate.Log(10, time.Minute), headgate.QuotaPer(10, headgate.Hour),
			} {
				l, start := prepare(w, limit), time.Duration(i)*24*time.Hour
				w.at(start)
				w.reserved(1, 10*time.Hour, ours(l, 6))
				w.reserved(2, 10*time.Hour, ours(l, 2))
				w.at(start + 30*sec)
				w.settle(1, true, ours(l, 1))
				w.used(ours(l, 0), 3)
				w.at(start + 2*time.Hour)
				w.passes(take, ours(l, 4))
				w.settle(2, true, ours(l, 1))
				w.used(ours(l, 0), 4)
				w.reserved(3, 10*time.Hour, ours(l, 1))
				w.at(start + 4*time.Hour)
				w.settle(3, true, ours(l, 3)) // the excess of 2 is of now
				w.used(ours(l, 0), 2)
			}
		},
	}, {
		name:    "reserved slots are held until the reservation ends",
		why:     "A concurrency limit holds reserved slots for as long as the reservation says, and frees them when it is settled or has expired.",
		travels: true,
		check: func(w *world) {
			l := prepare(w, headgate.InFlight(2, 10*sec))
			w.reserved(1, time.Minute, ours(l, 1))
			w.reserved(2, sec, ours(l, 1))
			w.at(sec - us)
			w.refuses(take, ours(l, 1))
			w.at(sec)
			w.settle(2, false, ours(l, 1))
			w.used(ours(l, 0), 1)
			w.at(time.Minute - us)
			w.used(ours(l, 0), 1)
			w.settle(1, true, ours(l, 99))
			w.used(ours(l, 0), 0)
			w.settle(1, false, ours(l, 1))
		},
	}, {
		name:    "a charge that would wait too long is refused",
		why:     "MaxDelay bounds how long a leaky bucket's charge waits for its turn. RetryAfter is when it would wait no longer than that.",
		travels: true,
		check: func(w *world) {
			l := prepare(w, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: sec, Burst: 10})
			ask := func(most time.Duration) *headgate.Batch {
				b := w.batch(take, ours(l, 1))
				b.MaxDelay = most.Microseconds()
				return w.apply(b)
			}
			for i := range 4 {
				if o := ask(3 * sec).Outcomes()[0]; !o.Allowed || o.Delay != time.Duration(i)*sec {
					w.Fatalf("charge %d: %+v", i, o)
				}
			}
			b := ask(3 * sec)
			w.expect(b, 0, headgate.Outcome{Limit: 10, Used: 4, Remaining: 6, RetryAfter: sec, ResetAfter: 4 * sec})
			w.at(sec - us)
			if o := ask(3 * sec).Outcomes()[0]; o.Allowed || o.RetryAfter != us {
				w.Fatalf("%+v", o)
			}
			w.at(sec)
			if o := ask(3 * sec).Outcomes()[0]; !o.Allowed || o.Delay != 3*sec {
				w.Fatalf("%+v", o)
			}
			w.passes(take, ours(l, 0))
			w.used(ours(l, 0), 4)
		},
	}}
}

func settledOnce(w *world) {
	for _, a := range reserving {
		l := slow(w, a, a.String(), 10)
		w.reserved(1, time.Hour, ours(l, 4))
		w.reserved(2, time.Hour, ours(l, 3))
		w.used(ours(l, 0), 7)
		w.refuses(take, ours(l, 4))
		w.settle(3, false, ours(l, 0))
		w.settle(0, false, ours(l, 0))
		w.settle(1, false, theirs("bob", l, 0))
		w.used(ours(l, 0), 7)
		w.used(theirs("bob", l, 0), 0)
		left := int64(4) // 1 of 4 and 3 of 3
		if a == headgate.LeakyBucket {
			left = 7 // its slots are in order of time
		}
		w.settle(1, true, ours(l, 1))
		w.used(ours(l, 0), left)
		w.settle(1, false, ours(l, 0))
		w.held(headgate.Release, 2, ours(l, 0))
		w.settle(2, true, ours(l, 3))
		w.settle(2, false, ours(l, 5))
		w.used(ours(l, 0), left)
		w.passes(take, ours(l, 10-left))
		w.refuses(take, ours(l, 1))
	}
}

func escrowed(w *world) {
	l := prepare(w, headgate.PerSecond(10).WithBurst(100))
	w.reserved(1, 20*sec, ours(l, 10))
	w.at(10 * sec)
	w.used(ours(l, 0), 10)
	w.passes(take, ours(l, 90))
	w.settle(1, true, ours(l, 0))
	w.passes(take, ours(l, 10))
	w.refuses(take, ours(l, 1))

	// A hold of 10 for 5 s: empty at 0, 50 when it ends, on to 95.
	c := theirs("soon", l, 95)
	w.reserved(2, 5*sec, theirs("soon", l, 10))
	w.passes(take, theirs("soon", l, 90))
	w.expect(w.do(peek, c), 0, headgate.Outcome{Limit: 100, Used: 100, RetryAfter: 9500 * ms, ResetAfter: 10 * sec})
	// A hold of 10 for 20 s: 90 at 9 s, then nothing until 20 s.
	c = theirs("late", l, 95)
	w.reserved(3, 20*sec, theirs("late", l, 10))
	w.passes(take, theirs("late", l, 90))
	w.expect(w.do(peek, c), 0, headgate.Outcome{Limit: 100, Used: 100, RetryAfter: 20500 * ms, ResetAfter: 21 * sec})
	w.now += (20500*ms - us).Microseconds()
	w.expect(w.do(peek, c), 0, headgate.Outcome{Limit: 100, Used: 6, Remaining: 94, RetryAfter: us, ResetAfter: 500*ms + us})
	w.now++
	w.passes(take, c)
}
