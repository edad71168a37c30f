package storetest

import (
	"math"
	"slices"

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

// run does the call on the state, which grows as it needs to.
func (s *modelState) run(c *algo.Call, o *headgate.Outcome) {
	if n := algo.Need(c, s.limit, s.words); n > len(s.words) {
		words := make([]int64, n)
		algo.Grow(c, s.limit, words, s.words)
		s.words = words
	}
	algo.Apply(c, s.limit, s.words, o)
}

// look does a Peek of cost.
func (s *modelState) look(call algo.Call, cost int64, o *headgate.Outcome) {
	call.Op, call.Cost = headgate.Peek, cost
	s.run(&call, o)
}

// apply decides b at now as a store must. It returns what the store should have
// put into b, or the code of the error.
func (m model) apply(b *headgate.Batch, now int64) (got modelAnswer) {
	charges := b.Charges()
	states := make([]*modelState, len(charges))
	got.outcomes, got.hold = make([]headgate.Outcome, len(charges)), b.Hold
	for i := range charges {
		c := &charges[i]
		if b.Op == headgate.Reset {
			delete(m, modelKey{c.Limit.ID, c.Owner})
		}
		states[i] = m.load(c, now)
	}
	call := algo.Call{Op: b.Op, Now: now, Hold: b.Hold, HoldFor: b.HoldFor, MaxDelay: b.MaxDelay}
	switch b.Op {
	case headgate.Reset:
		got.allowed = true
		for i := range charges {
			states[i].look(call, 0, &got.outcomes[i])
		}
		return got
	case headgate.Take:
		m.take(b, call, charges, states, &got)
	default:
		got.allowed = true
		for i := range charges {
			c, s, o := &charges[i], states[i], &got.outcomes[i]
			call.Cost = c.Cost
			s.run(&call, o)
			got.allowed = got.allowed && (o.Allowed || c.Shadow)
			moved := true
			switch b.Op {
			case headgate.Peek:
				moved = false
			case headgate.Debit:
				moved = c.Cost > 0 && c.Limit.Algorithm < headgate.Ban
				s.fresh = s.fresh && !moved
			case headgate.Settle, headgate.Renew:
				moved = o.Allowed
			}
			s.other = s.other && !moved
		}
	}
	if b.Op != headgate.Peek {
		for i, s := range states {
			if !s.fresh && !s.other {
				m[modelKey{charges[i].Limit.ID, charges[i].Owner}] = s
			}
		}
	}
	return got
}

// modelAnswer is what a store makes of a batch.
type modelAnswer struct {
	allowed, replayed, conflict bool
	hold                        uint64
	outcomes                    []headgate.Outcome
}

// take looks at every limit first, and charges them only if all pass.
func (m model) take(b *headgate.Batch, call algo.Call, charges []headgate.Charge, states []*modelState, got *modelAnswer) {
	keys := -1
	if b.Key != (headgate.RequestKey{}) {
		keys = slices.IndexFunc(charges, func(c headgate.Charge) bool { return c.Limit.Algorithm == headgate.Idempotency })
	}
	if keys >= 0 {
		if print, hold, found := algo.Remembered(states[keys].words, b.Key.ID, call.Now); found {
			if got.conflict = print != b.Key.Print; got.conflict {
				return
			}
			got.allowed, got.replayed, got.hold = true, true, hold
			for i, s := range states {
				s.look(call, 0, &got.outcomes[i])
				s.other = true
			}
			return
		}
	}
	got.allowed = true
	banned, counts := map[string]bool{}, map[string]bool{}
	for i := range charges {
		c, o := &charges[i], &got.outcomes[i]
		states[i].look(call, c.Cost, o)
		if o.Allowed || c.Shadow {
			continue
		}
		got.allowed = false
		banned[c.Owner] = banned[c.Owner] || c.Limit.Algorithm == headgate.Ban
		counts[c.Owner] = counts[c.Owner] || !c.Parent && !o.Never
	}
	for i := range charges {
		c, s, o := &charges[i], states[i], &got.outcomes[i]
		switch {
		case c.Limit.Algorithm == headgate.Ban:
			if !got.allowed && counts[c.Owner] && !banned[c.Owner] {
				algo.CountDenial(c.Limit, s.words, call.Now)
				s.look(call, 0, o)
				s.fresh, s.other = false, false
			}
		case i == keys && got.allowed:
			take := call
			s.run(&take, o)
			if algo.Remember(c.Limit, s.words, call.Now, b.Key, b.Hold) {
				s.fresh, s.other = false, false
			}
			s.look(call, 0, o)
		case got.allowed && o.Allowed:
			call := call
			call.Cost = c.Cost
			s.run(&call, o)
			still := c.Cost == 0 && !call.Reserves(c.Limit.Algorithm)
			s.fresh, s.other = s.fresh && still, s.other && still
		case !o.Allowed && !o.Never && c.Cost > 0:
			s.other = false // refused under these numbers: it goes on under them
		}
	}
}
