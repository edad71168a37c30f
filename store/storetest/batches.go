package storetest

import (
	"context"
	"fmt"
	"strings"

	"github.com/headgate/headgate"
)

func batchRules() []rule {
	rules := []rule{{
		name:  "equal charges are merged",
		why:   "Two charges of one budget in a batch are one charge of both costs: of a burst of 5, a cost of 3 and again 3 never pass together.",
		check: merged,
	}, {
		name:  "a batch of the most charges",
		why:   "A batch holds up to MaxCharges budgets, of one owner or of several, and all of them are charged.",
		check: most,
	}, {
		name: "an empty batch passes",
		why:  "Where no limit applies there is nothing to refuse.",
		check: func(w *world) {
			if b := w.passes(take); len(b.Outcomes()) != 0 {
				w.Fatalf("%d outcomes", len(b.Outcomes()))
			}
		},
	}, {
		name:  "a shadow charge decides nothing",
		why:   "A shadow is charged when it and the batch pass, lets the batch pass when it refuses, and is not charged when another charge refuses.",
		check: shadows,
	}, {
		name: "a peek writes nothing",
		why:  "Reading never writes: not on a budget that was never seen, not under other numbers, not for a whole batch.",
		check: func(w *world) {
			for _, a := range counting {
				l, other := slow(w, a, a.String(), 5), slow(w, a, a.String(), 3)
				for range 3 {
					w.passes(peek, ours(l, 5))
				}
				w.passes(take, ours(l, 4))
				for range 3 {
					w.refuses(peek, ours(other, 2))
					w.passes(peek, ours(l, 1))
				}
				w.used(ours(l, 0), 4)
				w.passes(take, ours(l, 1))
			}
		},
	}, {
		name:  "a closed store says so",
		why:   "After Close every Apply fails with the code Closed, and closing again does no harm.",
		check: closed,
	}, {
		name:  "an ended context is no refusal",
		why:   "A store either decides as always or fails with the code Unavailable. It never takes the end of a context for an answer.",
		check: cancelled,
	}, {
		name:  "keys meet only if they are equal",
		why:   "Scope, name and owner are bytes: no choice of separators, lengths or zero bytes makes two budgets one. Equal ones are one, whoever prepared the limit.",
		check: identities,
	}}
	for _, a := range counting {
		rules = append(rules, rule{
			name:  "a refused batch moves no " + a.String(),
			why:   "All limits of a batch are decided together: if one refuses, in whatever place, none has moved (but a ban's counter).",
			check: func(w *world) { w.refusedBatch(a) },
		})
	}
	return rules
}

func merged(w *world) {
	for _, a := range counting {
		l, again := slow(w, a, a.String(), 5), slow(w, a, a.String(), 5)
		b := w.refuses(take, ours(l, 3), ours(again, 3))
		if n := len(b.Outcomes()); n != 1 || !b.Outcomes()[0].Never {
			w.Fatalf("%v: %d outcomes, %+v", a, n, b.Outcomes()[0])
		}
		w.used(ours(l, 0), 0)
		w.passes(take, ours(l, 3), ours(again, 2))
		w.used(ours(l, 0), 5)
	}
}

func most(w *world) {
	several := func(owner func(i int) string) {
		var charges []headgate.Charge
		for i := range headgate.MaxCharges {
			l := slow(w, counting[i%len(counting)], fmt.Sprintf("limit-%d", i), int64(10+i))
			charges = append(charges, theirs(owner(i), l, int64(1+i)))
		}
		b := w.passes(take, charges...)
		for i, c := range charges {
			if o := b.Outcomes()[i]; o.Limit != int64(10+i) || o.Used != c.Cost {
				w.Fatalf("charge %d: %+v", i, o)
			}
		}
		// The last limit refuses: 16 of 25 are used.
		charges[headgate.MaxCharges-1].Cost = 10
		for i := range charges[:headgate.MaxCharges-1] {
			charges[i].Cost = 1
		}
		w.refuses(take, charges...)
		for i, c := range charges {
			w.used(c, int64(1+i))
		}
	}
	several(func(int) string { return "alice" })
	several(func(i int) string { return strings.Repeat("x", i+1) })
}

// refusedBatch pairs a limit of algorithm a, which has room, with a refusing
// one of every algorithm, before it and behind it.
func (w *world) refusedBatch(a headgate.Algorithm) {
	for _, other := range append(counting, headgate.Ban) {
		for _, cost := range []int64{1, 3} {
			name := fmt.Sprintf("%v-%v-%d", a, other, cost)
			room, rest := slow(w, a, "room-"+name, 5), slow(w, a, "rest-"+name, 5)
			full := slow(w, other, "full-"+name, 3)
			w.fill(full)
			if cost > 1 {
				w.passes(take, ours(room, 2))
			}
			before := w.do(peek, ours(room, cost), ours(rest, cost)).Outcomes()
			for _, charges := range [][]headgate.Charge{
				{ours(room, cost), ours(rest, cost), ours(full, 1)},
				{ours(full, 1), ours(rest, cost), ours(room, cost)},
				{theirs("org", rest, cost), ours(full, 1), ours(room, cost)},
				{ours(room, cost), theirs("", rest, cost), shadow(theirs("org", room, cost)), ours(full, 1)},
			} {
				b := w.refuses(take, charges...)
				for i, c := range charges {
					if o := b.Outcomes()[i]; o.Allowed != (c.Limit != full) {
						w.Fatalf("charge %d of %v: %+v", i, describe(charges), o)
					}
				}
			}
			after := w.do(peek, ours(room, cost), ours(rest, cost))
			for i := range after.Outcomes() {
				w.expect(after, i, before[i])
			}
			for _, owner := range []string{"org", ""} {
				w.used(theirs(owner, rest, 0), 0)
				w.used(theirs(owner, room, 0), 0)
			}
			w.passes(take, ours(room, 3), ours(rest, 5))
		}
	}
}

// fill makes l refuse everything.
func (w *world) fill(l *headgate.Prepared) {
	w.Helper()
	if l.Algorithm != headgate.Ban {
		w.passes(take, ours(l, l.Count))
		return
	}
	other := slow(w, headgate.TokenBucket, "filler", 1)
	w.do(take, ours(other, 1))
	for range l.Count {
		w.refuses(take, ours(other, 1), ours(l, 1))
	}
	w.refuses(take, ours(l, 1))
}

func shadows(w *world) {
	for _, a := range counting {
		l, tight := slow(w, a, "live-"+a.String(), 5), slow(w, a, "shadow-"+a.String(), 2)
		w.passes(take, shadow(ours(tight, 1)), ours(l, 1))
		w.used(ours(tight, 0), 1)
		w.used(ours(l, 0), 1)
		b := w.passes(take, ours(l, 2), shadow(ours(tight, 2)))
		if o := b.Outcomes()[1]; o.Allowed || o.Never || o.Used != 1 {
			w.Fatalf("%v: the shadow's outcome is %+v", a, o)
		}
		w.used(ours(tight, 0), 1)
		w.used(ours(l, 0), 3)
		w.refuses(take, shadow(ours(tight, 1)), ours(l, 3))
		w.used(ours(tight, 0), 1)
		w.used(ours(l, 0), 3)
		if b := w.passes(take, shadow(ours(tight, 3))); !b.Outcomes()[0].Never {
			w.Fatalf("%v: %+v", a, b.Outcomes()[0])
		}
		w.used(ours(tight, 0), 1)
		w.passes(peek, shadow(ours(tight, 2)))
	}
}

func closed(w *world) {
	l := slow(w, headgate.TokenBucket, "bucket", 5)
	log := slow(w, headgate.SlidingLog, "log", 5)
	ban := slow(w, headgate.Ban, "ban", 2) // which a store may know without a look
	w.passes(take, ours(l, 1), ours(log, 1))
	for range 2 {
		if err := w.store.Close(); err != nil {
			w.Fatal(err)
		}
	}
	for op := take; op <= headgate.Settle; op++ {
		for _, charges := range [][]headgate.Charge{{ours(l, 1)}, {theirs("bob", l, 1)}, {ours(l, 1), ours(log, 1)}, {ours(ban, 0)}} {
			err := w.store.Apply(w.Context(), w.batch(op, charges...))
			if headgate.CodeOf(err) != headgate.Closed {
				w.Errorf("%v of %v: %v, want the code closed", op, describe(charges), err)
			}
		}
	}
}

func cancelled(w *world) {
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	l := slow(w, headgate.TokenBucket, "bucket", 5)
	for range 5 {
		b := w.batch(take, ours(l, 1))
		err := w.store.Apply(ctx, b)
		switch {
		case err == nil && !b.Allowed:
			w.Fatalf("refused: %+v", b.Outcomes()[0])
		case err != nil && headgate.CodeOf(err) != headgate.Unavailable:
			w.Fatalf("%v: want the code unavailable", err)
		}
	}
	if o := w.do(peek, ours(l, 0)).Outcomes()[0]; o.Used > 5 {
		w.Fatalf("five charges used %d", o.Used)
	}
}

func identities(w *world) {
	type key struct{ scope, name, owner string }
	keys := []key{
		{"", "ab", "c"}, {"", "a", "bc"}, {"a", "b", "c"}, {"ab", "c", ""}, {"", "abc", ""}, {"a", "bc", ""},
		{"", "ab", ""}, {"", "ab", "\x00"}, {"", "ab", "\x00\x00"}, {"", "ab", "c\x00"}, {"", "ab", "\x00c"}, {"", "ab", "a\x00b"},
		{"\x00", "ab", "c"}, {"\x00\x00", "ab", "c"}, {"a\x00", "b", "c"}, {"a", "b", "\x00c"},
		{"", "ab", "C"}, {"", "AB", "c"}, {"", "ab", "c "}, {"", "ab", " c"}, {"", "ab", "c:d"}, {"", "ab", "c/d"}, {"c:d", "ab", ""},
		{"", "ab", "{c}"}, {"", "ab", "{c}{d}"}, {"", "ab", "c}"}, {"", "ab", "{"}, {"", "ab", "\xff\xfe"}, {"", "ab", "\xef\xbf\xbd"},
		{"", "ab", "\u00e9"}, {"", "ab", "e\u0301"}, {"", "ab", "c\r\n"}, {"", "ab", "c\n"}, {"", "ab", "'; --"}, {"", "ab", "%00"}, {"", "ab", "*"},
		// A length before each part, written out as a part.
		{"\x00\x00\x00\x00\x00\x00\x00\x01a", "b", "c"}, {"", "a", "\x00\x00\x00\x00\x00\x00\x00\x01b"}, {"1a", "b", ""}, {"1", "ab", ""}, {"1:a", "1", "b"},
		{strings.Repeat("s", 512), "ab", "c"}, {strings.Repeat("s", 511), "ab", "c"}, {strings.Repeat("s", 511), "sab", "c"},
		{"", "ab", strings.Repeat("k", 4096)}, {"", "ab", strings.Repeat("k", 4097)}, {"", "ab", strings.Repeat("k", 4095) + "l"},
	}
	for _, a := range []headgate.Algorithm{headgate.TokenBucket, headgate.SlidingWindow} {
		charge := func(k key) headgate.Charge {
			l := slow(w, a, fmt.Sprintf("%s-%d", k.name, a), 1).Limit
			return theirs(k.owner, prepare(w, l.WithScope(k.scope)), 1)
		}
		for _, k := range keys {
			if !w.do(take, charge(k)).Allowed {
				w.Errorf("%v: %q meets another key", a, k)
			}
		}
		for _, k := range keys {
			if w.do(take, charge(k)).Allowed {
				w.Errorf("%v: %q does not meet itself", a, k)
			}
		}
	}
}
