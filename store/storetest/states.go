package storetest

import (
	"time"

	"github.com/headgate/headgate"
)

func stateRules() []rule {
	return []rule{{
		name: "reset is never seen",
		why:  "A reset forgets a budget, whatever state it is in and under whatever numbers, and no other budget of the same owner or limit.",
		check: func(w *world) {
			for _, a := range counting {
				l, other := slow(w, a, a.String(), 5), slow(w, a, "other-"+a.String(), 5)
				w.passes(take, ours(l, 5), ours(other, 5))
				w.passes(take, theirs("bob", l, 5))
				b := w.passes(headgate.Reset, ours(l, 0))
				w.expect(b, 0, w.do(peek, ours(l, 0)).Outcomes()[0])
				w.used(ours(l, 0), 0)
				w.used(ours(other, 0), 5)
				w.used(theirs("bob", l, 0), 5)
				w.passes(take, ours(l, 5))
				w.passes(headgate.Reset, ours(slow(w, a, a.String(), 4), 0), ours(other, 0))
				w.used(ours(l, 0), 0)
				w.used(ours(other, 0), 0)
				w.passes(headgate.Reset, theirs("nobody", l, 0))
				w.used(theirs("nobody", l, 0), 0)
			}
		},
	}, {
		name: "a refund gives back no more than was taken",
		why:  "A refund never lifts a budget above its capacity. Leaky buckets and concurrency limits ignore it, and so does a budget that was never seen.",
		check: func(w *world) {
			for _, a := range counting {
				l := slow(w, a, a.String(), 5)
				w.passes(headgate.Refund, ours(l, 3))
				w.used(ours(l, 0), 0)
				w.passes(take, ours(l, 4))
				w.passes(headgate.Refund, ours(l, 3))
				if a == headgate.LeakyBucket || a == headgate.Concurrency {
					w.used(ours(l, 0), 4)
					continue
				}
				w.used(ours(l, 0), 1)
				w.passes(headgate.Refund, ours(l, headgate.MaxInt))
				w.used(ours(l, 0), 0)
				w.refuses(take, ours(l, 6))
				w.passes(take, ours(l, 5))
			}
		},
	}, {
		name: "a debit asks nobody",
		why: "A debit charges work that is already done: beyond the limit it is overage, a bucket goes into debt by at most its capacity," +
			" and concurrency limits ignore it.",
		check: func(w *world) {
			for _, a := range counting {
				l := slow(w, a, a.String(), 5)
				b := w.passes(headgate.Debit, ours(l, 7))
				want := int64(7)
				if a == headgate.Concurrency {
					want = 0
				}
				if o := b.Outcomes()[0]; o.Used != want || o.Overage != max(0, want-5) {
					w.Fatalf("%v: %+v", a, o)
				}
				w.used(ours(l, 0), want)
				if want == 0 {
					continue
				}
				w.refuses(take, ours(l, 1))
				w.passes(headgate.Debit, ours(l, headgate.MaxInt))
				want = headgate.MaxInt
				if a == headgate.TokenBucket || a == headgate.LeakyBucket {
					want = 10
				}
				w.used(ours(l, 0), want)
			}
		},
	}, {
		name:    "state that ran out is never seen",
		why:     "A bucket that has refilled, a window that has ended, an expired hold and a ban that is over are as if the key had never come: also under other numbers.",
		travels: true,
		check: func(w *world) {
			for _, l := range ledgers {
				small, large := l.limit, l.limit
				small.Name, large.Name = "limit", "limit"
				large.Count *= 2
				if large.Burst > 0 {
					large.Burst *= 2
				}
				p, q := prepare(w, small), prepare(w, large)
				c := theirs(l.name, p, 1)
				o := w.passes(take, c).Outcomes()[0]
				end := o.ResetAfter
				if p.Rollover > 0 {
					end += 24 * time.Hour // what the day left is gone a day later
				}
				w.now += end.Microseconds()
				c.Limit, c.Cost = q, 0
				b, fresh := w.do(peek, c), w.do(peek, theirs("nobody", q, 0))
				w.expect(b, 0, fresh.Outcomes()[0])
			}
		},
	}, {
		name:    "the clock never goes back",
		why:     "An instant before the latest one of a key counts as that one: it mints nothing, ends nothing twice, and the answer says when it was decided.",
		travels: true,
		check: func(w *world) {
			for _, a := range counting {
				limit := slow(w, a, a.String(), 5).Limit
				if a == headgate.FixedWindow {
					limit.Period = 1000 * time.Hour
				}
				l := prepare(w, limit)
				w.at(24 * time.Hour)
				latest := w.passes(take, ours(l, 5)).At
				for _, back := range []time.Duration{us, sec, 9000 * time.Hour} {
					w.at(24*time.Hour - back)
					if b := w.refuses(take, ours(l, 1)); b.At < latest {
						w.Fatalf("%v: decided at %d, after %d", a, b.At, latest)
					}
				}
			}
		},
	}}
}

// A budget whose limit comes with other numbers.
func numberRules() []rule {
	return []rule{{
		name: "other numbers keep what was used",
		why: "Lowering or raising a limit gives nobody free tokens: a bucket keeps its level in tokens, windows, logs, quotas and slots keep what was used." +
			" Equal numbers, prepared anew, change nothing.",
		check: func(w *world) {
			for _, a := range counting {
				name := a.String()
				bucket := a == headgate.TokenBucket || a == headgate.LeakyBucket
				w.passes(take, ours(slow(w, a, name, 10), 6))
				w.used(ours(slow(w, a, name, 10), 0), 6)
				w.refuses(take, ours(slow(w, a, name, 10), 5))
				for _, n := range []int64{20, 5, 10, 20} {
					// A bucket has 4 tokens left, whatever it could hold.
					want := int64(6)
					if bucket {
						want = n - 4
					}
					c := ours(slow(w, a, name, n), n)
					w.used(c, want)
					w.refuses(take, c) // carries it over
					w.used(c, want)
				}
				w.passes(take, ours(slow(w, a, name, 20), 4))
				w.refuses(take, ours(slow(w, a, name, 10), 1))
			}
		},
	}, {
		name: "a lowered rate counts from when it was lowered",
		why: "A refusal under new numbers carries the budget over to them. Otherwise a bucket at 10 a second lowered to 1 a second, empty and asked in vain for 10 s," +
			" would be settled for all of them at the old rate: 100 tokens instead of 10.",
		travels: true,
		check: func(w *world) {
			fast, slow := prepare(w, headgate.PerSecond(10).WithBurst(100).WithName("rate")), prepare(w, headgate.PerSecond(1).WithBurst(100).WithName("rate"))
			w.passes(take, ours(fast, 100))
			for i := range 10 {
				w.at(time.Duration(i) * sec)
				w.refuses(take, ours(slow, 50))
			}
			w.at(10 * sec)
			w.used(ours(slow, 0), 90)
			w.passes(take, ours(slow, 10))
			w.refuses(take, ours(slow, 1))
			// The same in a batch that another limit refuses.
			w.passes(take, theirs("bob", fast, 100))
			none := prepare(w, headgate.PerHour(1).WithName("none"))
			w.passes(take, theirs("bob", none, 1))
			w.refuses(take, theirs("bob", slow, 1), theirs("bob", none, 1))
			w.at(20 * sec)
			w.used(theirs("bob", slow, 0), 90)
		},
	}, {
		name: "changing plans back and forth mints nothing",
		why: "State under the numbers of one plan may run out only when it would have run out under all numbers it was kept under:" +
			" else a short visit to a plan that refills at once empties the record of the slow one.",
		travels: true,
		check: func(w *world) {
			premium := prepare(w, headgate.PerMinute(10).WithBurst(100).WithName("plan"))
			free := prepare(w, headgate.PerSecond(10).WithBurst(10).WithName("plan"))
			w.passes(take, ours(premium, 90))
			w.passes(take, ours(free, 1))
			w.at(2 * sec)
			w.passes(peek, ours(free, 10))
			w.used(ours(premium, 0), 90)
			w.passes(take, ours(premium, 10))
			w.refuses(take, ours(premium, 1))
			// Each round, the free plan's ten tokens and not the other's hundred.
			total := int64(0)
			for i := range 60 {
				w.at(2*sec + time.Duration(i)*2*sec)
				for _, l := range []*headgate.Prepared{free, premium} {
					for w.do(take, theirs("bob", l, 1)).Allowed {
						total++
					}
				}
			}
			if most := int64(100 + 10*118); total > most {
				w.Fatalf("%d passed, at most %d are within either plan", total, most)
			}
		},
	}, {
		name: "a refusal under other numbers leaves the old ones as they were",
		why: "A request that names a smaller plan and is refused, by another limit or because the plan can never hold its cost, or that costs nothing," +
			" must not cut the budget of the plan before. Nor may asking under two plans in turn round away what refills in between.",
		travels: true,
		check: func(w *world) {
			big := prepare(w, headgate.PerMinute(600).WithBurst(1200).WithName("rate"))
			free := prepare(w, headgate.PerMinute(60).WithBurst(60).WithName("rate"))
			none := prepare(w, headgate.PerHour(1).WithName("none"))
			w.passes(take, ours(big, 1), ours(none, 1))
			w.refuses(take, ours(free, 100))
			w.passes(take, ours(free, 0))
			w.refuses(take, ours(free, 1), ours(none, 1))
			w.used(ours(big, 0), 1)
			w.passes(take, ours(free, 1))
			w.used(ours(free, 0), 1)
			w.used(ours(big, 0), 1141)
			// At one token a second and less than one between two requests.
			w.passes(take, theirs("bob", free, 60))
			passed := int64(0)
			for i := range 100 {
				w.at(time.Duration(i+1) * 90 * time.Millisecond)
				l := free
				if i%2 == 1 {
					l = prepare(w, headgate.PerMinute(60).WithBurst(50).WithName("rate"))
				}
				if w.do(take, theirs("bob", l, 1)).Allowed {
					passed++
				}
			}
			if passed < 8 {
				w.Fatalf("%d of the 9 tokens that came passed", passed)
			}
		},
	}, {
		name:    "windows keep what was used through a change of period",
		why:     "What a window or a quota has used counts on under a longer or shorter period, until that one ends; an ended one is never seen.",
		travels: true,
		check: func(w *world) {
			hour, day := prepare(w, headgate.Window(10, time.Hour).WithName("window")), prepare(w, headgate.Window(10, 24*time.Hour).WithName("window"))
			hourly, daily := prepare(w, headgate.QuotaPer(10, headgate.Hour).WithName("quota")), prepare(w, headgate.QuotaPer(10, headgate.Day).WithName("quota"))
			for i, p := range [][2]*headgate.Prepared{{hour, day}, {hourly, daily}} {
				owner, start := p[0].Name, time.Duration(i)*48*time.Hour
				w.at(start)
				w.passes(take, theirs(owner, p[0], 8))
				w.refuses(take, theirs(owner, p[1], 3))
				w.at(start + 23*time.Hour)
				w.refuses(take, theirs(owner, p[1], 3))
				w.used(theirs(owner, p[0], 0), 8)
				w.at(start + 24*time.Hour)
				w.passes(take, theirs(owner, p[1], 10))
			}
		},
	}}
}
