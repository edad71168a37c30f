package memstore

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// A budget's numbers change, the law for it stays that of its most generous
// ones: the first of its family.
func families(t *testing.T) (all [][]*headgate.Prepared) {
	const ms = time.Millisecond
	leaky := func(count, burst int64) headgate.Limit {
		return headgate.Limit{Algorithm: headgate.LeakyBucket, Count: count, Period: 700 * time.Microsecond, Burst: burst}
	}
	for i, family := range [][]headgate.Limit{
		{headgate.Per(7, ms).WithBurst(20), headgate.Per(7, ms).WithBurst(20), headgate.Per(3, ms).WithBurst(11), headgate.Per(5, ms).WithBurst(20)},
		{leaky(11, 13), leaky(11, 13), leaky(11, 9), leaky(4, 9)},
		{headgate.Window(15, ms), headgate.Window(15, ms), headgate.Window(9, ms)},
		{headgate.Sliding(15, ms).WithSlices(5), headgate.Sliding(15, ms).WithSlices(5), headgate.Sliding(10, ms).WithSlices(5), headgate.Sliding(14, ms).WithSlices(10)},
		{headgate.Log(15, ms), headgate.Log(15, ms), headgate.Log(7, ms)},
		{headgate.InFlight(9, ms/2), headgate.InFlight(9, ms/2), headgate.InFlight(4, 300*time.Microsecond)},
	} {
		var prepared []*headgate.Prepared
		for _, l := range family {
			prepared = append(prepared, prepare(t, l.WithName(fmt.Sprint(i))))
		}
		all = append(all, prepared)
	}
	return all
}

const slots = 5 // the family of concurrency limits

type budget struct {
	family int
	owner  string
}

// event is a cost that passed; a slot's is taken until another instant.
type event struct {
	at, cost, until int64
}

// taken is what a Take with a hold charged.
type taken struct {
	reserved bool
	of       map[budget]*event
}

// law asks a store at random and keeps account of what passed.
type law struct {
	*testing.T
	*rand.Rand
	store  *Store
	limits [][]*headgate.Prepared
	flips  bool // numbers change
	now    int64
	hold   uint64
	holds  []*taken // by hold less 1
	passed map[budget][]*event
	shared int // charges of keys without room
	pins   []headgate.Cell
	pinned []budget
}

func (w *law) limit(family int) *headgate.Prepared {
	if !w.flips {
		return w.limits[family][0]
	}
	return w.limits[family][w.IntN(len(w.limits[family]))]
}

func (w *law) owner() string { return string(rune('a' + w.IntN(4))) }

// any returns a charge of one of the limits.
func (w *law) any(owner string, cost int64) headgate.Charge {
	return headgate.Charge{Limit: w.limit(w.IntN(len(w.limits))), Owner: owner, Cost: cost}
}

// instant is now, or earlier: not all callers read the clock in order.
func (w *law) instant() int64 {
	if w.IntN(10) == 0 {
		return w.now - w.Int64N(1500)
	}
	return w.now
}

// ask does b, which may find the store full. Charges of one budget under
// different numbers were left out.
func (w *law) ask(b *headgate.Batch, charges ...headgate.Charge) bool {
	for _, c := range charges {
		_, _ = b.Add(c)
	}
	err := w.store.Apply(w.Context(), b)
	if err != nil && headgate.CodeOf(err) != headgate.Overloaded {
		w.Fatal(err)
	}
	for _, o := range b.Outcomes() {
		if o.Shared {
			w.shared++
		}
	}
	return err == nil
}

func (w *law) batch(op headgate.Op) *headgate.Batch {
	b := new(headgate.Batch)
	b.Reset(op)
	b.Now = w.instant()
	return b
}

func (w *law) take() {
	b := w.batch(headgate.Take)
	w.hold++
	h := &taken{of: make(map[budget]*event)}
	w.holds = append(w.holds, h)
	b.Hold = w.hold
	if h.reserved = w.IntN(3) == 0; h.reserved {
		b.HoldFor = 1 + w.Int64N(2000)
	}
	if w.IntN(5) == 0 {
		b.MaxDelay = 1 + w.Int64N(1000)
	}
	owner := w.owner()
	var charges []headgate.Charge
	for range 1 + w.IntN(2)*w.IntN(6) {
		c := w.any(owner, w.Int64N(6))
		if w.IntN(6) == 0 {
			c.Owner = w.owner()
		}
		c.Shadow = w.IntN(12) == 0
		charges = append(charges, c)
	}
	if !w.ask(b, charges...) || !b.Allowed {
		return
	}
	for i, c := range b.Charges() {
		if !b.Outcomes()[i].Allowed || c.Cost == 0 {
			continue
		}
		until := b.At + c.Limit.TTLMicros
		if h.reserved {
			until = b.At + b.HoldFor
		}
		e, k := &event{b.At, c.Cost, until}, budgetOf(c)
		h.of[k] = e
		w.passed[k] = append(w.passed[k], e)
	}
}

func budgetOf(c headgate.Charge) budget { return budget{int(c.Limit.Name[0] - '0'), c.Owner} }

// end settles, releases or renews one of the latest holds, or part of it.
func (w *law) end() {
	if w.hold == 0 {
		return
	}
	b := w.batch([]headgate.Op{headgate.Settle, headgate.Settle, headgate.Release, headgate.Renew}[w.IntN(4)])
	b.Hold = w.hold - w.Uint64N(min(w.hold, 12))
	if b.Op == headgate.Renew && w.IntN(2) == 0 {
		b.HoldFor = 1 + w.Int64N(1000)
	}
	h := w.holds[b.Hold-1]
	var charges []headgate.Charge
	for family := range w.limits {
		for owner := 'a'; owner < 'e'; owner++ { // a map's order would not repeat
			if e := h.of[budget{family, string(owner)}]; e != nil && w.IntN(4) > 0 {
				charges = append(charges, headgate.Charge{Limit: w.limit(family), Owner: string(owner), Cost: w.Int64N(e.cost + 3)})
			}
		}
	}
	if !w.ask(b, charges...) {
		return
	}
	for i, c := range b.Charges() {
		k := budgetOf(c)
		e := h.of[k]
		switch {
		case !b.Outcomes()[i].Allowed:
		case k.family == slots && b.Op != headgate.Renew:
			e.until = min(e.until, b.At)
		case k.family == slots:
			e.until = b.At + cmp.Or(b.HoldFor, c.Limit.TTLMicros)
		case b.Op == headgate.Settle && h.reserved:
			e.cost = min(e.cost, c.Cost) // what is over is a debit, which may exceed the limit
		}
	}
}

// usePin spends from a pin, or closes it.
func (w *law) usePin() {
	if len(w.pins) == 0 {
		return
	}
	i := w.IntN(len(w.pins))
	if w.IntN(8) == 0 {
		w.pins[i].Close()
		w.pins, w.pinned = slices.Delete(w.pins, i, i+1), slices.Delete(w.pinned, i, i+1)
		return
	}
	cost := 1 + w.Int64N(4)
	if allowed, ok := w.pins[i].Allow(cost, w.now); ok && allowed { // not earlier: no instant is answered
		w.passed[w.pinned[i]] = append(w.passed[w.pinned[i]], &event{at: w.now, cost: cost})
	}
}

// fill leaves next to no room for keys' own cells, for an hour.
func (w *law) fill() {
	l := prepare(w.T, headgate.PerHour(1).WithName("filler"))
	for i := range 40_000 {
		w.ask(w.batch(headgate.Take), headgate.Charge{Limit: l, Owner: fmt.Sprint("filler ", i), Cost: 1})
	}
	w.shared = 0
}

// crowd lets strangers come who share with those whose account is kept.
func (w *law) crowd() {
	for range 600 {
		w.hold++
		w.holds = append(w.holds, &taken{})
		b := w.batch(headgate.Take)
		if w.IntN(3) == 0 {
			b.Hold, b.HoldFor = w.hold, 300
		}
		w.ask(b, w.any(fmt.Sprint("stranger ", w.hold), 1))
	}
}

func (w *law) step(flood bool) {
	switch w.IntN(6) {
	case 0:
		w.now += w.Int64N(400)
	case 1:
		w.now += w.Int64N(30)
	case 2:
		if w.IntN(40) == 0 {
			w.now += 20_000
		}
	}
	switch n := w.IntN(20); {
	case n < 9:
		w.take()
	case n < 13:
		w.end()
	case n < 14:
		w.ask(w.batch(headgate.Debit), w.any(w.owner(), w.Int64N(8)))
	case n < 15:
		w.ask(w.batch(headgate.Peek), w.any(w.owner(), w.Int64N(8)))
	case n < 16:
		owner := w.owner()
		if p, ok := w.store.Pin(w.limit(0), owner); ok {
			w.pins, w.pinned = append(w.pins, p), append(w.pinned, budget{0, owner})
		}
	case n < 18:
		w.usePin()
	case n < 19 && w.IntN(2) == 0:
		w.store.collectVersions()
	case n < 19:
		w.store.Sweep()
	case flood:
		w.crowd()
	}
}

// within reports whether a family's law admits sum from one instant to another.
func within(family int, sum, from, to int64) bool {
	switch family {
	case 0:
		return sum*1000 <= 20*1000+7*(to-from)
	case 1:
		return sum*700 <= 13*700+11*(to-from)
	case 2:
		return from/1000 != to/1000 || sum <= 15
	default:
		return to-from >= 1000 || sum <= 15
	}
}

// check fails if more has passed in any interval than may.
func (w *law) check() {
	most := 0
	for k, events := range w.passed {
		slices.SortStableFunc(events, func(a, b *event) int { return cmp.Compare(a.at, b.at) })
		most = max(most, len(events))
		for i, from := range events {
			sum := int64(0)
			if k.family == slots {
				for _, e := range events[:i+1] {
					if e.until > from.at {
						sum += e.cost
					}
				}
				if sum > 9 {
					w.Errorf("%v: %d of 9 slots are taken at %d", k, sum, from.at)
				}
				continue
			}
			for _, to := range events[i:] {
				if sum += to.cost; !within(k.family, sum, from.at, to.at) {
					w.Fatalf("%v: %d passed from %d to %d", k, sum, from.at, to.at)
				}
			}
		}
	}
	if most < 5 {
		w.Errorf("at most %d passed of one budget: the test asks for nothing", most)
	}
}

// Whatever is asked, in whatever order, by whatever door and under whatever
// numbers, no interval admits more than the limit: with room, and in a flood.
func TestLaw(t *testing.T) {
	const origin = 1_000_000_000
	run := func(t *testing.T, seeds uint64, c Config, flood bool) {
		limits := families(t)
		for seed := range seeds {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				w := &law{
					T: t, Rand: rand.New(rand.NewPCG(seed, 1)), store: New(c), limits: limits,
					flips: seed%3 > 0, now: origin, passed: make(map[budget][]*event),
				}
				for i := range 600 {
					if flood && i == 50 {
						w.fill()
					}
					w.step(flood)
				}
				w.check()
				if w.shared > 0 != flood {
					t.Errorf("%d charges of shared cells", w.shared)
				}
			})
		}
	}
	t.Run("with room", func(t *testing.T) { run(t, 60, Config{Origin: origin, Shards: 2}, false) })
	t.Run("flood", func(t *testing.T) { run(t, 8, Config{Origin: origin, Shards: 128, MaxBytes: minBytes}, true) })
}
