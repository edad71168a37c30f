package cas

import (
	"errors"
	"fmt"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/record"
)

var (
	errConflict = &headgate.Error{Code: headgate.Conflict, Field: "idempotency_key", Err: errors.New("key was used for another request")}
	errHolds    = &headgate.Error{Code: headgate.Overloaded, Err: fmt.Errorf("%d reservations of one budget are open: at most that many", headgate.MaxInFlight)}
)

// subject is an owner's state as a group of decisions works on it.
type subject struct {
	record.Owner
	at    int64 // the instant of what was last decided on it
	moved bool  // differs from what is kept
}

// commit makes b the state of the budget.
func (s *subject) commit(id [2]uint64, b algo.Budget, now int64) {
	s.moved, s.at = true, now
	at := s.Find(id)
	if at < 0 {
		s.Budgets = append(s.Budgets, record.Budget{ID: id, Budget: b})
		return
	}
	s.Budgets[at].Budget = b
}

// drop makes the budget one that was never seen.
func (s *subject) drop(id [2]uint64, now int64) {
	if at := s.Find(id); at >= 0 {
		s.moved, s.at = true, now
		s.Budgets = slices.Delete(s.Budgets, at, at+1)
	}
}

// stake is the budget of one charge while it is decided: a copy.
type stake struct {
	algo.Budget
	subject *subject
	id      [2]uint64
	fresh   bool // never seen
	other   bool // kept under other numbers
	moved   bool // is to be kept
}

// moment is when and under which epoch a group is decided.
type moment struct {
	now   int64
	epoch headgate.Epoch
}

func (m moment) stake(s *subject, l *headgate.Prepared) stake {
	x := stake{subject: s, id: l.ID}
	if at := s.Find(l.ID); at >= 0 {
		x.Budget = s.Budgets[at].Clone()
	}
	x.fresh, x.other = x.Load(l, m.now, m.epoch)
	return x
}

// decision is one batch under way.
type decision struct {
	moment
	batch   *headgate.Batch
	call    algo.Call
	stakes  []stake
	trial   uint64 // names what is taken on trial; 0 if nothing is
	marking bool   // what is taken may have to be undone
	marks   []mark // then: what it made of the budgets
}

// decide does the call on the subjects of its charges, c.mine. The error is the
// batch's; nothing has moved then.
func (m moment) decide(c *call) error {
	for _, s := range c.mine {
		m.now = max(m.now, s.at)
	}
	b := &c.batch
	b.Hold = c.hold // an earlier round may have answered with another one
	d := decision{
		moment: m, batch: b, trial: c.trial, marking: c.marking, marks: c.marks,
		call: algo.Call{Op: b.Op, Now: m.now, Hold: b.Hold, HoldFor: b.HoldFor, MaxDelay: b.MaxDelay},
	}
	charges := b.Charges()
	for i := range charges {
		c.stakes = append(c.stakes, m.stake(c.mine[i], charges[i].Limit))
	}
	d.stakes = c.stakes
	b.Allowed, b.Replayed, b.At = true, false, m.now
	var err error
	switch {
	case c.step == looks:
		err = d.ask()
	case c.step == confirms:
		err = d.confirm()
	case c.step == undoes:
		d.undo()
	case b.Op == headgate.Take:
		d.marks = nil // of an earlier round
		err = d.take()
		c.marks = d.marks
	case b.Op == headgate.Reset:
		d.reset()
	default:
		err = d.visit()
	}
	if err != nil {
		return err
	}
	for i := range d.stakes {
		if x := &d.stakes[i]; x.moved {
			x.subject.commit(x.id, x.Budget, m.now)
		}
	}
	return nil
}

// run does the call on a stake. It reports false if as many reservations as may
// be are open.
func (d *decision) run(x *stake, cost int64, o *headgate.Outcome) bool {
	call := d.call
	call.Cost = cost
	return x.Apply(&call, d.epoch, o)
}

// look does a Peek of cost, which needs no room.
func (d *decision) look(x *stake, cost int64, o *headgate.Outcome) {
	call := d.call
	call.Op, call.Cost = headgate.Peek, cost
	x.Apply(&call, d.epoch, o)
}

// visit does the operations that ask each limit for itself.
func (d *decision) visit() error {
	b := d.batch
	charges, outcomes := b.Charges(), b.Outcomes()
	for i := range charges {
		c, x, o := &charges[i], &d.stakes[i], &outcomes[i]
		if !d.run(x, c.Cost, o) {
			return errHolds
		}
		b.Allowed = b.Allowed && (o.Allowed || c.Shadow)
		switch b.Op {
		case headgate.Peek:
		case headgate.Debit:
			x.moved = c.Cost > 0 && c.Limit.Algorithm < headgate.Ban
		case headgate.Settle, headgate.Renew:
			x.moved = o.Allowed && !x.fresh
		default:
			x.moved = !x.fresh
		}
	}
	return nil
}

func (d *decision) reset() {
	for i := range d.stakes {
		x := &d.stakes[i]
		x.Reset(d.now, d.epoch)
		if len(x.Leases) > 0 {
			x.subject.commit(x.id, x.Budget, d.now)
		} else {
			x.subject.drop(x.id, d.now)
		}
		d.look(x, 0, &d.batch.Outcomes()[i])
	}
}

// take looks at every limit first, and charges them only if all pass.
func (d *decision) take() error {
	keys := d.keyed()
	if found, err := d.recall(keys); found || err != nil {
		return err
	}
	crowded := d.survey()
	if !d.batch.Allowed {
		d.deny()
		return nil
	}
	if crowded {
		d.batch.Allowed = false
		return errHolds
	}
	charges, outcomes := d.batch.Charges(), d.batch.Outcomes()
	for i := range charges {
		c, x, o := &charges[i], &d.stakes[i], &outcomes[i]
		switch {
		case i == keys:
			d.remember(x, c, o)
		case c.Limit.Algorithm == headgate.Ban:
		case o.Allowed:
			d.charge(x, c, o)
			x.moved = !d.idle(c)
		default:
			x.moved = d.goesOn(x, c, o)
		}
	}
	return nil
}

// keyed returns the place of the charge that remembers the batch's key, -1 if
// there is none.
func (d *decision) keyed() int {
	if d.batch.Key == (headgate.RequestKey{}) {
		return -1
	}
	return slices.IndexFunc(d.batch.Charges(), func(c headgate.Charge) bool { return c.Limit.Algorithm == headgate.Idempotency })
}

// recall answers a batch that was allowed before, as the budget at keys remembers.
func (d *decision) recall(keys int) (found bool, err error) {
	if keys < 0 {
		return false, nil
	}
	b := d.batch
	print, hold, found := algo.Remembered(d.stakes[keys].Words, b.Key.ID, d.now)
	if !found {
		return false, nil
	}
	if print != b.Key.Print {
		b.Allowed = false
		return true, errConflict
	}
	b.Replayed, b.Hold = true, hold
	for i := range d.stakes {
		d.look(&d.stakes[i], 0, &b.Outcomes()[i])
	}
	return true, nil
}

// remember keeps the batch's key.
func (d *decision) remember(x *stake, c *headgate.Charge, o *headgate.Outcome) {
	d.run(x, 0, o) // gets the room
	x.moved = algo.Remember(c.Limit, x.Words, d.now, d.batch.Key, d.batch.Hold)
	d.look(x, 0, o)
}

// survey looks at every limit. It reports whether one has no room for another
// reservation.
func (d *decision) survey() (crowded bool) {
	b := d.batch
	charges, outcomes := b.Charges(), b.Outcomes()
	for i := range charges {
		c, x, o := &charges[i], &d.stakes[i], &outcomes[i]
		d.look(x, c.Cost, o)
		if o.Allowed {
			call := d.call
			call.Cost = c.Cost
			crowded = crowded || algo.Need(&call, c.Limit, x.Words) == algo.Full
		} else if !c.Shadow {
			b.Allowed = false
		}
	}
	return crowded
}

// goesOn reports whether a budget that refuses the charge under other numbers
// than it is kept under goes on under them: else a bucket that refuses all goes
// on refilling at its old rate.
func (d *decision) goesOn(x *stake, c *headgate.Charge, o *headgate.Outcome) bool {
	return x.other && !o.Allowed && !o.Never && c.Cost > 0 && c.Limit.Algorithm != headgate.Ban
}

// deny leaves everything as it was, but for numbers that go on and the bans of
// those whose own limits have refused.
func (d *decision) deny() {
	charges, outcomes := d.batch.Charges(), d.batch.Outcomes()
	for i := range charges {
		c, x, o := &charges[i], &d.stakes[i], &outcomes[i]
		if c.Limit.Algorithm != headgate.Ban {
			x.moved = d.goesOn(x, c, o)
		}
	}
	if d.batch.Again {
		return
	}
	denied := make([]bool, len(charges))
	for i := range charges {
		denied[i] = charges[i].Limit.Algorithm == headgate.Ban && counts(charges[i].Owner, charges, outcomes)
	}
	for i := range charges {
		if denied[i] {
			x := &d.stakes[i]
			algo.CountDenial(charges[i].Limit, x.Words, d.now)
			d.look(x, 0, &outcomes[i])
			x.moved = true
		}
	}
}

// counts reports whether a refusal counts towards the ban of owner: one by a limit
// of his own that might have passed the charge, as long as he is not banned.
func counts(owner string, charges []headgate.Charge, outcomes []headgate.Outcome) (yes bool) {
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if o.Allowed || c.Shadow || c.Owner != owner {
			continue
		}
		if c.Limit.Algorithm == headgate.Ban {
			return false
		}
		yes = yes || !c.Parent && !o.Never
	}
	return yes
}

// acquire answers a lease request on the subject's budget.
func (m moment) acquire(r *headgate.LeaseRequest, s *subject, terms *algo.Terms, reply *headgate.LeaseReply) {
	m.now = max(m.now, s.at)
	var b algo.Budget
	if at := s.Find(r.Limit.ID); at >= 0 {
		b = s.Budgets[at].Clone()
	}
	if b.Acquire(r, m.now, m.epoch, terms, reply) {
		s.commit(r.Limit.ID, b, m.now)
	}
}
