package cas

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// step is what is done of a batch on the items of a call.
type step uint8

const (
	// decides does the batch as it stands, or takes the call's part of it.
	decides step = iota
	// looks answers what a Take would. It charges nothing, but refusals count
	// towards bans and numbers go on, as when it is decided.
	looks
	// confirms charges for good what was taken on trial, and remembers the key of
	// the batch. If another batch has that key, nothing moves.
	confirms
	// undoes gives back what was taken, if it was.
	undoes
)

// trialLife is how long what is taken on trial waits for its confirmation. Without
// one it stays charged.
const trialLife = 15 * time.Second

// tried reports whether a charge of the limit is held while it is on trial. A
// leaky bucket gives nothing back, and slots have their own names.
func tried(l *headgate.Prepared) bool {
	return l.Algorithm < headgate.Concurrency && l.Algorithm != headgate.LeakyBucket
}

// mark is what a trial, or a reservation, made of a budget.
type mark struct {
	id     [2]uint64
	kept   bool        // it was kept before
	before algo.Budget // as it was kept
	held   algo.Budget // as it is now
	after  algo.Budget // of a trial: as it is when that is over
}

// charge charges the limit, which allows that. On trial, the outcome is the one
// that it has when that is over.
func (d *decision) charge(x *stake, c *headgate.Charge, o *headgate.Outcome) {
	call := d.call
	call.Cost = c.Cost
	if !d.marking || d.idle(c) {
		x.Apply(&call, d.epoch, o)
		return
	}
	m := mark{id: x.id}
	if at := x.subject.Find(x.id); at >= 0 {
		m.kept, m.before = true, x.subject.Budgets[at].Budget
	}
	if d.trial == 0 {
		x.Apply(&call, d.epoch, o)
	} else {
		if c.Limit.Algorithm == headgate.Concurrency && call.Hold == 0 {
			call.Hold = d.trial
		}
		m.after = x.Clone()
		m.after.Apply(&call, d.epoch, o)
		if call.Hold, call.HoldFor = d.trial, trialLife.Microseconds(); !tried(c.Limit) || !x.Apply(&call, d.epoch, new(headgate.Outcome)) {
			x.Budget = m.after // or it has no room for another hold
		}
	}
	m.held = x.Clone()
	d.marks = append(d.marks, m)
}

// idle reports whether the charge takes nothing.
func (d *decision) idle(c *headgate.Charge) bool {
	return c.Cost == 0 && !d.call.Reserves(c.Limit.Algorithm)
}

// replace makes a budget on which nobody has decided since it was marked what it was
// before that, or is after the trial.
func (d *decision) replace(x *stake, after bool) bool {
	i := slices.IndexFunc(d.marks, func(m mark) bool { return m.id == x.id })
	at := x.subject.Find(x.id)
	if i < 0 || at < 0 || !same(&x.subject.Budgets[at].Budget, &d.marks[i].held) {
		return false
	}
	switch m := &d.marks[i]; {
	case after:
		x.subject.commit(x.id, m.after, d.now)
	case m.kept:
		x.subject.commit(x.id, m.before, d.now)
	default:
		x.subject.drop(x.id, d.now)
	}
	return true
}

// same reports whether both are kept alike.
func same(a, b *algo.Budget) bool {
	return a.Keep == b.Keep && a.Epoch == b.Epoch && slices.Equal(a.Words, b.Words) && slices.Equal(a.Leases, b.Leases) && a.Limit.SameNumbers(b.Limit)
}

// ask answers what a Take would.
func (d *decision) ask() error {
	if found, err := d.recall(d.keyed()); found || err != nil {
		return err
	}
	crowded := d.survey()
	if !d.batch.Allowed {
		d.deny()
		return nil
	}
	if crowded {
		return errHolds
	}
	charges, outcomes := d.batch.Charges(), d.batch.Outcomes()
	for i := range charges {
		x := &d.stakes[i]
		x.moved = d.goesOn(x, &charges[i], &outcomes[i])
	}
	return nil
}

// confirm ends what is on trial and remembers the key.
func (d *decision) confirm() error {
	keys := d.keyed()
	if found, err := d.recall(keys); found || err != nil {
		return err
	}
	charges, outcomes := d.batch.Charges(), d.batch.Outcomes()
	for i := range charges {
		c, x, o := &charges[i], &d.stakes[i], &outcomes[i]
		switch {
		case i == keys:
			d.remember(x, c, o)
		case d.trial != 0 && c.Cost > 0 && tried(c.Limit) && !d.replace(x, true):
			d.settle(x, d.trial, c.Cost)
		}
	}
	return nil
}

// undo gives back what was taken: the state is what it was, or, if others have
// decided on it since, gets back what is held under the name that it was taken with,
// in the window of then.
func (d *decision) undo() {
	name := d.batch.Hold
	if d.trial != 0 {
		name = d.trial
	}
	for i, c := range d.batch.Charges() {
		x := &d.stakes[i]
		switch {
		case d.idle(&c) || d.replace(x, false):
		case c.Limit.Algorithm < headgate.Concurrency:
			d.settle(x, name, 0)
		case c.Limit.Algorithm == headgate.Concurrency:
			call := algo.Call{Op: headgate.Release, Now: d.now, Cost: c.Cost, Hold: d.batch.Hold}
			if call.Hold == 0 {
				call.Hold = name
			}
			var o headgate.Outcome
			was := slices.Clone(x.Words)
			x.Apply(&call, d.epoch, &o)
			x.moved = !x.fresh && !slices.Equal(was, x.Words)
		}
	}
}

// settle ends the hold with the name, if there is one, for work that took cost.
func (d *decision) settle(x *stake, name uint64, cost int64) {
	call := algo.Call{Op: headgate.Settle, Now: d.now, Cost: cost, Hold: name}
	var o headgate.Outcome
	x.Apply(&call, d.epoch, &o)
	x.moved = o.Allowed && !x.fresh
}
