package storetest

import (
	"time"

	"github.com/headgate/headgate"
)

func holdRules() []rule {
	return []rule{{
		name:  "a hold is freed once",
		why:   "Release frees every slot that the hold took, whatever the cost named, and a second release, a foreign one or one of an unseen key frees nothing.",
		check: released,
	}, {
		name: "slots without a hold cannot be named",
		why:  "A Take with hold 0 takes slots that only their TTL frees. Release and Renew of hold 0 find nothing.",
		check: func(w *world) {
			l := slow(w, headgate.Concurrency, "slots", 3)
			w.held(take, 0, ours(l, 1))
			w.held(take, 0, ours(l, 1))
			w.held(headgate.Release, 0, ours(l, 1))
			w.used(ours(l, 0), 2)
			if b := w.held(headgate.Renew, 0, ours(l, 1)); b.Allowed {
				w.Fatal("hold 0 was renewed")
			}
			w.used(ours(l, 0), 2)
		},
	}, {
		name: "only concurrency knows holds",
		why:  "Release and Renew leave every other limit of the batch as it is, and allow it.",
		check: func(w *world) {
			slots := slow(w, headgate.Concurrency, "slots", 3)
			charges := []headgate.Charge{ours(slots, 2)}
			for _, a := range counting {
				if a != headgate.Concurrency {
					charges = append(charges, ours(slow(w, a, a.String(), 5), 2))
				}
			}
			if b := w.held(take, 7, charges...); !b.Allowed {
				w.Fatalf("%+v", b.Outcomes())
			}
			for _, op := range []headgate.Op{headgate.Renew, headgate.Release} {
				if b := w.held(op, 7, charges...); !b.Allowed {
					w.Fatalf("%v: %+v", op, b.Outcomes())
				}
			}
			w.used(charges[0], 0)
			for _, c := range charges[1:] {
				w.used(c, 2)
			}
		},
	}, {
		name: "a refused batch takes no slot",
		why:  "The hold of a refused Take holds nothing: its release must not free what another request took with the same id later.",
		check: func(w *world) {
			slots, none := slow(w, headgate.Concurrency, "slots", 3), slow(w, headgate.FixedWindow, "none", 1)
			w.passes(take, ours(none, 1))
			if w.held(take, 7, ours(slots, 1), ours(none, 1)).Allowed {
				w.Fatal("passed")
			}
			w.used(ours(slots, 0), 0)
			if w.held(headgate.Renew, 7, ours(slots, 1)).Allowed {
				w.Fatal("a hold that took nothing was renewed")
			}
		},
	}, {
		name:    "a hold expires unless renewed",
		why:     "A slot that is neither released nor renewed frees itself after its TTL, to the microsecond. Renewing an expired hold fails and takes nothing.",
		travels: true,
		check:   expired,
	}, {
		name:    "holds keep through other numbers",
		why:     "Fewer slots or another TTL drop no hold: what is in flight is in flight. The new TTL counts from the next take or renewal.",
		travels: true,
		check: func(w *world) {
			wide, tight := prepare(w, headgate.InFlight(5, 10*sec).WithName("slots")), prepare(w, headgate.InFlight(2, time.Minute).WithName("slots"))
			for id := range uint64(4) {
				w.held(take, id+1, ours(wide, 1))
			}
			if b := w.refuses(take, ours(tight, 1)); b.Outcomes()[0].Used != 4 || b.Outcomes()[0].Overage != 2 {
				w.Fatalf("%+v", b.Outcomes()[0])
			}
			for id := range uint64(3) {
				w.held(headgate.Release, id+1, ours(tight, 1))
			}
			w.used(ours(tight, 0), 1)
			if !w.held(headgate.Renew, 4, ours(tight, 1)).Allowed {
				w.Fatal("the hold was lost")
			}
			w.at(59 * sec)
			w.used(ours(tight, 0), 1)
			w.at(60 * sec)
			w.used(ours(tight, 0), 0)
		},
	}}
}

func released(w *world) {
	l := slow(w, headgate.Concurrency, "slots", 5)
	w.held(headgate.Release, 9, ours(l, 1))
	w.used(ours(l, 0), 0)
	for id, weight := range map[uint64]int64{1: 2, 2: 3} {
		if b := w.held(take, id, ours(l, weight)); !b.Allowed {
			w.Fatalf("%+v", b.Outcomes()[0])
		}
	}
	w.held(headgate.Release, 3, ours(l, 1))
	w.held(headgate.Release, 1, theirs("bob", l, 1))
	w.used(ours(l, 0), 5)
	w.used(theirs("bob", l, 0), 0)
	for range 2 {
		w.held(headgate.Release, 1, ours(l, 1))
		w.used(ours(l, 0), 3)
	}
	if w.held(headgate.Renew, 1, ours(l, 1)).Allowed {
		w.Fatal("a released hold was renewed")
	}
	if !w.held(headgate.Renew, 2, ours(l, 1)).Allowed {
		w.Fatal("a live hold was not renewed")
	}
	w.used(ours(l, 0), 3)
	w.held(headgate.Release, 2, ours(l, 1))
	w.used(ours(l, 0), 0)
	// Many holds, released out of order.
	l = slow(w, headgate.Concurrency, "many", 100)
	for id := range uint64(100) {
		w.held(take, id+1, ours(l, 1))
	}
	w.refuses(take, ours(l, 1))
	for id := range uint64(100) {
		w.held(headgate.Release, id*37%100+1, ours(l, 1))
		w.used(ours(l, 0), int64(99-id))
	}
}

func expired(w *world) {
	l := prepare(w, headgate.InFlight(3, 10*sec))
	for id := range uint64(3) {
		w.at(time.Duration(id) * sec)
		w.held(take, id+1, ours(l, 1))
	}
	w.at(5 * sec)
	if b := w.held(headgate.Renew, 1, ours(l, 1)); !b.Allowed || b.Outcomes()[0].ResetAfter != 10*sec {
		w.Fatalf("%+v", b.Outcomes()[0])
	}
	w.at(11*sec - us)
	w.expect(w.do(take, ours(l, 1)), 0, refused(3, 3, us, 4*sec+us))
	w.at(11 * sec)
	w.used(ours(l, 0), 2)
	if w.held(headgate.Renew, 2, ours(l, 1)).Allowed {
		w.Fatal("an expired hold was renewed")
	}
	w.held(headgate.Release, 2, ours(l, 1))
	w.used(ours(l, 0), 2)
	if !w.held(take, 2, ours(l, 1)).Allowed {
		w.Fatal("the freed slot was not given out again")
	}
	w.at(15*sec - us)
	w.used(ours(l, 0), 2)
	w.at(15 * sec)
	w.used(ours(l, 0), 1)
	w.at(21 * sec)
	w.used(ours(l, 0), 0)
}

func banRules() []rule {
	return []rule{{
		name: "a ban counts what the subject's own limits refuse",
		why: "Refusals by a parent's limit, of a cost that can never pass, and by shadows are not the subject's doing; neither is what passes, nor a look." +
			" A refusal by any own limit counts once for the batch.",
		check: counted,
	}, {
		name: "a ban refuses everything in its batch",
		why:  "While a ban holds, every batch with it is refused and moves nothing. A reset lifts it, and the count starts anew.",
		check: func(w *world) {
			ban, none, other := slow(w, headgate.Ban, "ban", 2), slow(w, headgate.TokenBucket, "none", 1), slow(w, headgate.TokenBucket, "other", 5)
			w.passes(take, ours(none, 1))
			for range 2 {
				for range 2 {
					w.passes(peek, ours(ban, 0))
					w.refuses(take, ours(ban, 0), ours(none, 1))
				}
				b := w.refuses(take, ours(other, 1), ours(ban, 0))
				if o := b.Outcomes()[1]; o.Allowed || o.Never || o.RetryAfter <= 0 {
					w.Fatalf("%+v", o)
				}
				w.used(ours(other, 0), 0)
				w.passes(take, ours(other, 0))
				w.passes(take, shadow(ours(ban, 0)))
				w.passes(headgate.Reset, ours(ban, 0))
			}
			w.passes(take, ours(other, 1), ours(ban, 0))
		},
	}, {
		name: "a batch of several subjects counts against those who were refused",
		why:  "Where requests are decided together, nobody is banned for what another was refused, and nobody is spared for another's ban.",
		check: func(w *world) {
			ban, none := slow(w, headgate.Ban, "ban", 2), slow(w, headgate.FixedWindow, "none", 1)
			for _, owner := range []string{"bob", "carol"} {
				w.passes(take, theirs(owner, none, 1))
			}
			all := []headgate.Charge{
				ours(none, 1), ours(ban, 0), theirs("bob", none, 1), theirs("bob", ban, 0),
				theirs("carol", none, 1), theirs("carol", ban, 0),
			}
			w.refuses(take, all[2:4]...)
			w.refuses(take, all...)
			w.used(ours(none, 0), 0)
			w.used(ours(ban, 0), 0)
			w.used(all[5], 1)
			w.refuses(peek, all[3])
			w.refuses(take, all...) // bob is banned now, carol is by this
			w.refuses(peek, all[5])
			w.passes(take, all[:2]...)
		},
	}, {
		name:    "a ban ends when it said",
		why:     "Refusals while the ban holds do not count, or it would never end; from its end on the count starts at nothing.",
		travels: true,
		check: func(w *world) {
			ban := prepare(w, headgate.Limit{Name: "ban", Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: 5 * time.Minute})
			none := prepare(w, headgate.PerHour(1).WithName("none"))
			w.passes(take, ours(none, 1))
			for range 3 {
				w.refuses(take, ours(none, 1), ours(ban, 1))
			}
			for _, at := range []time.Duration{0, sec, 4 * time.Minute, 5*time.Minute - us} {
				w.at(at)
				b := w.refuses(take, ours(none, 1), ours(ban, 1))
				if o := b.Outcomes()[1]; o.RetryAfter != 5*time.Minute-at {
					w.Fatalf("at %v: %+v", at, o)
				}
			}
			w.at(5 * time.Minute)
			w.passes(take, ours(ban, 1))
			w.used(ours(ban, 0), 0)
			for range 2 {
				w.refuses(take, ours(none, 1), ours(ban, 1))
			}
			w.passes(take, ours(ban, 1))
			w.refuses(take, ours(none, 1), ours(ban, 1))
			w.refuses(take, ours(ban, 1))
		},
	}, {
		name:    "old denials do not ban",
		why:     "Denials count for the period, in slices: up to a sixth longer, never shorter.",
		travels: true,
		check: func(w *world) {
			ban := prepare(w, headgate.Limit{Name: "ban", Algorithm: headgate.Ban, Count: 2, Period: time.Minute, TTL: time.Hour})
			none := prepare(w, headgate.PerHour(1).WithName("none"))
			for _, s := range []struct {
				owner  string
				gap    time.Duration
				banned bool
			}{{"soon", 59 * sec, true}, {"late", 71 * sec, false}} {
				w.passes(take, theirs(s.owner, none, 1))
				w.refuses(take, theirs(s.owner, none, 1), theirs(s.owner, ban, 1))
				w.now += s.gap.Microseconds()
				w.refuses(take, theirs(s.owner, none, 1), theirs(s.owner, ban, 1))
				if b := w.do(peek, theirs(s.owner, ban, 1)); b.Allowed == s.banned {
					w.Fatalf("after %v: banned %v, want %v", s.gap, !b.Allowed, s.banned)
				}
			}
		},
	}}
}

func counted(w *world) {
	ban := slow(w, headgate.Ban, "ban", 100)
	free := slow(w, headgate.TokenBucket, "free", 1000)
	parent := func(c headgate.Charge) headgate.Charge { c.Parent = true; return c }
	n := int64(0)
	for _, a := range counting {
		none := slow(w, a, "none-"+a.String(), 2)
		org := theirs("org", none, 2)
		w.passes(take, org)
		w.passes(take, ours(none, 2))
		for _, s := range []struct {
			name    string
			adds    int64
			op      headgate.Op
			charges []headgate.Charge
		}{
			{"an own limit", 1, take, []headgate.Charge{ours(none, 1), ours(ban, 1)}},
			{"an own limit, after the ban", 1, take, []headgate.Charge{ours(ban, 1), ours(free, 1), ours(none, 1)}},
			{"an own limit and a parent's", 1, take, []headgate.Charge{ours(ban, 1), parent(org), ours(none, 1)}},
			{"a parent's", 0, take, []headgate.Charge{parent(org), ours(free, 1), ours(ban, 1)}},
			{"a cost that never passes", 0, take, []headgate.Charge{ours(none, 3), ours(ban, 1)}},
			{"a parent's and a cost that never passes", 0, take, []headgate.Charge{parent(org), theirs("carol", none, 3), ours(ban, 1)}},
			{"a shadow", 0, take, []headgate.Charge{shadow(ours(none, 1)), ours(ban, 1)}},
			{"a shadow and a parent's", 0, take, []headgate.Charge{shadow(ours(none, 1)), parent(org), ours(ban, 1)}},
			{"a look", 0, peek, []headgate.Charge{ours(none, 1), ours(ban, 1)}},
			{"what passes", 0, take, []headgate.Charge{ours(free, 1), ours(ban, 1)}},
		} {
			w.do(s.op, s.charges...)
			n += s.adds
			if o := w.do(peek, ours(ban, 0)).Outcomes()[0]; o.Used != n || !o.Allowed {
				w.Fatalf("%v: after a refusal by %s the ban has counted %d, want %d", a, s.name, o.Used, n)
			}
		}
	}
	w.used(theirs("bob", ban, 0), 0)
}
