package storetest

import (
	"math"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// model is a store without locks, limits of memory or a clock: a map of states
// and package algo, nothing clever.
type model map[modelKey]*modelState

type modelKey struct {
	id    [2]uint64
	owner string
}

type modelState struct {
	limit *headgate.Prepared
	words []int64
	keep  int64 // before which the state may not be forgotten
	fresh bool  // not in the map
	other bool  // in the map under other numbers
}

// absent is the instant from which the state is as if never seen: under all the
// numbers that it was kept under.
func (s *modelState) absent() int64 { return max(s.keep, algo.AbsentAt(s.limit, s.words)) }

// load returns a copy of a charge's state at now, under the charge's numbers.
func (m model) load(c *headgate.Charge, now int64) *modelState {
	l := c.Limit
	s := m[modelKey{l.ID, c.Owner}]
	if s == nil || now >= s.absent() {
		n := &modelState{limit: l, words: make([]int64, algo.Words(l)), keep: math.MinInt64, fresh: true}
		algo.Init(l, n.words, now)
		return n
	}
	n := &modelState{limit: l, words: append([]int64(nil), s.words...), keep: s.keep}
	if !s.limit.SameNumbers(l) {
		n.words = make([]int64, algo.ConvertWords(s.limit, l, s.words))
		algo.Convert(s.limit, l, n.words, s.words, now)
		n.keep, n.other = s.absent(), true
	}
	return n
}

// run does op on the state, which grows as it needs to.
func (s *modelState) run(op headgate.Op, now, cost int64, hold uint64, o *headgate.Outcome) {
	if n := algo.Need(s.limit, s.words, now); n > len(s.words) && (op == headgate.Take || op == headgate.Debit) {
		words := make([]int64, n)
		algo.Grow(s.limit, words, s.words)
		s.words = words
	}
	algo.Apply(op, s.limit, s.words, now, cost, hold, o)
}

// apply decides b at now as a store must.
func (m model) apply(b *headgate.Batch, now int64) (allowed bool, outcomes []headgate.Outcome) {
	charges := b.Charges()
	states := make([]*modelState, len(charges))
	outcomes = make([]headgate.Outcome, len(charges))
	for i := range charges {
		c := &charges[i]
		if b.Op == headgate.Reset {
			delete(m, modelKey{c.Limit.ID, c.Owner})
		}
		states[i] = m.load(c, now)
	}
	op := b.Op
	switch op {
	case headgate.Reset:
		op = headgate.Peek
		for i := range charges {
			states[i].run(op, now, 0, 0, &outcomes[i])
		}
		return true, outcomes
	case headgate.Take:
		allowed = m.take(b, charges, states, outcomes, now)
	default:
		allowed = true
		for i := range charges {
			c := &charges[i]
			states[i].run(op, now, c.Cost, b.Hold, &outcomes[i])
			allowed = allowed && (outcomes[i].Allowed || c.Shadow)
			states[i].fresh = states[i].fresh && (op != headgate.Debit || c.Cost == 0)
			states[i].other = states[i].other && op == headgate.Debit && c.Cost == 0
		}
	}
	if op != headgate.Peek {
		for i, s := range states {
			if !s.fresh && !s.other {
				m[modelKey{charges[i].Limit.ID, charges[i].Owner}] = s
			}
		}
	}
	return allowed, outcomes
}

// take looks at every limit first, and charges them only if all pass.
func (m model) take(b *headgate.Batch, charges []headgate.Charge, states []*modelState, outcomes []headgate.Outcome, now int64) bool {
	allowed, banned, counts := true, false, false
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		states[i].run(headgate.Peek, now, c.Cost, 0, o)
		if o.Allowed || c.Shadow {
			continue
		}
		allowed = false
		banned = banned || c.Limit.Algorithm == headgate.Ban
		counts = counts || !c.Parent && !o.Never
	}
	for i := range charges {
		c, s, o := &charges[i], states[i], &outcomes[i]
		switch {
		case allowed && o.Allowed:
			s.run(headgate.Take, now, c.Cost, b.Hold, o)
			s.fresh, s.other = s.fresh && c.Cost == 0, s.other && c.Cost == 0
		case !allowed && counts && !banned && c.Limit.Algorithm == headgate.Ban:
			algo.CountDenial(c.Limit, s.words, now)
			s.run(headgate.Peek, now, 0, 0, o)
			s.fresh, s.other = false, false
		case !o.Allowed && !o.Never:
			s.other = false // refused under these numbers: it goes on under them
		}
	}
	return allowed
}
