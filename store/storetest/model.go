package storetest

import (
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// model is an authority without locks, limits of memory or a clock: a map of
// budgets and package algo, nothing clever.
type model struct {
	epoch   headgate.Epoch
	budgets map[modelKey]algo.Budget
}

func newModel(e headgate.Epoch) model {
	return model{epoch: e, budgets: make(map[modelKey]algo.Budget)}
}

type modelKey struct {
	id    [2]uint64
	owner string
}

func keyOf(c *headgate.Charge) modelKey { return modelKey{c.Limit.ID, c.Owner} }

type modelState struct {
	algo.Budget
	epoch headgate.Epoch
	fresh bool // not in the map
	other bool // in the map under other numbers
}

// load returns a copy of a charge's budget at now, under the charge's numbers.
func (m model) load(c *headgate.Charge, now int64) *modelState {
	kept := m.budgets[keyOf(c)]
	s := &modelState{Budget: kept.Clone(), epoch: m.epoch}
	s.fresh, s.other = s.Load(c.Limit, now, m.epoch)
	return s
}

// run does the call on the state, which grows as it needs to.
func (s *modelState) run(c *algo.Call, o *headgate.Outcome) {
	if !s.Apply(c, s.epoch, o) {
		panic("as many reservations as may be are open")
	}
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
		states[i] = m.load(&charges[i], now)
	}
	call := algo.Call{Op: b.Op, Now: now, Hold: b.Hold, HoldFor: b.HoldFor, MaxDelay: b.MaxDelay}
	switch b.Op {
	case headgate.Reset:
		got.allowed = true
		for i, s := range states {
			s.Reset(now, m.epoch)
			s.look(call, 0, &got.outcomes[i])
			if m.budgets[keyOf(&charges[i])] = s.Budget; len(s.Leases) == 0 {
				delete(m.budgets, keyOf(&charges[i]))
			}
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
				m.budgets[keyOf(&charges[i])] = s.Budget
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
		if print, hold, found := algo.Remembered(states[keys].Words, b.Key.ID, call.Now); found {
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
		counts[c.Owner] = counts[c.Owner] || !c.Parent && !o.Never && !algo.Recovering(c.Limit, call.Now, m.epoch)
	}
	for i := range charges {
		c, s, o := &charges[i], states[i], &got.outcomes[i]
		switch {
		case c.Limit.Algorithm == headgate.Ban:
			if !got.allowed && counts[c.Owner] && !banned[c.Owner] {
				algo.CountDenial(c.Limit, s.Words, call.Now)
				s.look(call, 0, o)
				s.fresh, s.other = false, false
			}
		case i == keys && got.allowed:
			take := call
			s.run(&take, o)
			if algo.Remember(c.Limit, s.Words, call.Now, b.Key, b.Hold) {
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

// acquire answers a request at now as an authority must.
func (m model) acquire(r *headgate.LeaseRequest, now int64) (reply headgate.LeaseReply) {
	k := modelKey{r.Limit.ID, r.Owner}
	kept := m.budgets[k]
	b := kept.Clone()
	if b.Acquire(r, now, m.epoch, &algo.DefaultTerms, &reply) {
		m.budgets[k] = b
	}
	return reply
}
