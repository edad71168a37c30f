package gate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// DefaultHold is how long a reservation holds that does not say.
const DefaultHold = time.Minute

// Reserve is Take at an estimated cost, for work with an end: what it takes is
// held for ttl and does not refill, until [Gate.Settle] corrects it to the real
// cost or [Gate.Release] gives it back. When ttl is over the charge is kept, and
// slots of concurrency limits are free. 0 means DefaultHold; at most
// headgate.MaxHold, whole milliseconds. The decision's ticket names it; every
// reservation that is allowed has one, even if it holds nothing.
func (g *Gate) Reserve(ctx context.Context, r *Request, ttl time.Duration, d *Decision) error {
	if ttl == 0 {
		ttl = DefaultHold
	}
	d.Kept = false // as in resolve, where this error does not come to
	if err := checkHold(ttl); err != nil {
		return err
	}
	q := question{gate: g, op: headgate.Take, request: r, holdFor: ttl}
	return q.decide(ctx, d)
}

// put lets the store decide. A reservation is replayed only as long as it is
// open: once it was given back a retry would be free, so it is charged again.
func (q *question) put(ctx context.Context, d *Decision, passed headgate.Reason) error {
	err := q.gate.ask(ctx, d, passed)
	if err != nil || !d.Replayed || !d.ticketed {
		return err
	}
	var b headgate.Batch
	d.holding(&b, headgate.Renew)
	if q.holdFor == 0 && len(b.Charges()) == 0 {
		return nil
	}
	b.HoldFor = d.batch.HoldFor
	if err := q.gate.keeper(d).Apply(ctx, &b); err != nil {
		return q.gate.degrade(ctx, d, passed, err)
	}
	if anyAllowed(&b) {
		return nil
	}
	d.batch.Key, d.batch.Hold = headgate.RequestKey{}, newHold()
	if d.Degraded == degradedLocal {
		return q.gate.askLocal(ctx, d, passed)
	}
	return q.gate.ask(ctx, d, passed)
}

func anyAllowed(b *headgate.Batch) bool {
	return slices.ContainsFunc(b.Outcomes(), func(o headgate.Outcome) bool { return o.Allowed })
}

// holding fills b with what d holds, at no cost.
func (d *Decision) holding(b *headgate.Batch, op headgate.Op) {
	b.Reset(op)
	b.Hold, b.Now, b.Patience = d.batch.Hold, d.batch.Now, d.batch.Patience
	for i, c := range d.batch.Charges()[:d.n] {
		if d.limits[i].held(&d.batch) {
			c.Cost, c.Shadow = 0, false
			_, _ = b.Add(c) // it was in a batch before
		}
	}
}

func checkHold(ttl time.Duration) error {
	if ttl < time.Millisecond || ttl > headgate.MaxHold {
		return invalid("ttl_ms", "%v: must be 1 ms to %v", ttl, headgate.MaxHold)
	}
	return nil
}

// Claim is what the holder of a ticket asks.
type Claim struct {
	// Ticket is that of a decision.
	Ticket string
	// Application, if not empty, must be that of the ticket.
	Application string
	// Reaches, if not nil, reports whether the caller may know of an application.
	// The ticket of another one is found no more than that of an unknown one.
	Reaches func(application string) bool
	// Cost is the real cost if CostSaid, else that of the reservation; Costs are
	// those in other units. For Settle only.
	Cost     int64
	CostSaid bool
	Costs    map[string]int64
	// TTL is for how long Renew holds from now: 0 as before, at most
	// headgate.MaxHold.
	TTL time.Duration
	// Now is as in Request.
	Now int64
}

// Settle ends a reservation: what it holds beyond the real cost is given back,
// what it took beyond is charged as overage. It never refuses. d gets the state
// of the limits, and Held says whether the ticket was still open: settling again
// or after it has expired changes nothing. A ticket of [Gate.Take] is released.
// Errors are as those of Take, and NotFound for another application's ticket; a
// store that cannot answer is an error here, unless what the ticket holds was
// taken without it.
func (g *Gate) Settle(ctx context.Context, c *Claim, d *Decision) error {
	return g.claim(ctx, headgate.Settle, c, d)
}

// Release gives a reservation back as if it had cost nothing, and frees the
// slots of a ticket of [Gate.Take]. It fills in d as Settle does.
func (g *Gate) Release(ctx context.Context, c *Claim, d *Decision) error {
	return g.claim(ctx, headgate.Release, c, d)
}

// Renew holds what the ticket holds for another while from now. It fills in d as
// Settle does; what had expired stays so.
func (g *Gate) Renew(ctx context.Context, c *Claim, d *Decision) error {
	return g.claim(ctx, headgate.Renew, c, d)
}

func (g *Gate) claim(ctx context.Context, op headgate.Op, c *Claim, d *Decision) error {
	if g.closed.Load() {
		return errClosed
	}
	t, err := parseTicket(c.Ticket)
	if err != nil {
		return err
	}
	snap := g.current.Load()
	app := snap.applications[t.application]
	if app == nil || c.Application != "" && c.Application != t.application || c.Reaches != nil && !c.Reaches(t.application) {
		return &headgate.Error{Code: headgate.NotFound, Field: "ticket", Err: fmt.Errorf("is of application %.64q", t.application)}
	}
	d.start(op, &Request{Application: t.application, Operation: t.operation, Subject: t.subject, Now: c.Now}, snap.revision)
	d.Rule, d.Plan, d.Cost = t.rule, t.plan, t.cost
	d.Allowed, d.Reason = true, headgate.OK
	switch op {
	case headgate.Settle:
		if c.CostSaid {
			d.Cost = c.Cost
		}
		if err := checkCost("cost", d.Cost); err != nil {
			return err
		}
		for unit, cost := range c.Costs {
			if err := app.checkUnitCost(unit, cost); err != nil {
				return err
			}
		}
	case headgate.Release:
		d.batch.Op, d.Cost = headgate.Settle, 0 // which says whether it was held
	case headgate.Renew:
		d.batch.HoldFor = t.holdFor
		if c.TTL != 0 {
			if err := checkHold(c.TTL); err != nil {
				return err
			}
			d.batch.HoldFor = c.TTL.Microseconds()
		}
	}
	d.batch.Hold = t.hold
	q := question{gate: g, op: op, request: &Request{Now: c.Now}, snap: snap, app: app, plan: app.plans[t.plan]}
	if q.record, _ = g.recordOf(app, t.subject, q.now); q.record != nil && app.plans[q.record.plan] != nil {
		q.plan = app.plans[q.record.plan] // a ticket can be altered: it gives nobody other numbers
	}
	q.bill(d)
	for _, u := range t.costs {
		if _, known := app.units[u.Unit]; !known {
			continue // a ticket can be altered, and the policy too
		}
		u.Reserved = u.Cost
		if n, said := c.Costs[u.Unit]; said && op == headgate.Settle {
			u.Cost = n
		} else if op == headgate.Release {
			u.Cost = 0
		}
		d.costs = append(d.costs, u)
	}
	if m := g.modes.Load(); m != nil {
		q.forced = m.find(app.name, t.rule, q.now())
	}
	for i := range t.n {
		if err := q.reclaim(d, t, &t.charges[i], c); err != nil {
			return err
		}
	}
	if d.n == 0 {
		return nil // nothing of it is left in the policy
	}
	d.batch.Patience = q.patience(q.quota)
	err = g.store.Apply(ctx, &d.batch)
	if err != nil {
		g.reportStore(err)
	}
	if (err != nil || !anyAllowed(&d.batch)) && g.claimLocal(ctx, d) {
		err = nil
	}
	if err != nil {
		return err
	}
	d.fill()
	d.Held = d.batch.Allowed
	if op != headgate.Renew { // what was held of one budget is enough to have been open
		if d.Held = anyAllowed(&d.batch); d.Held {
			g.lines.ring(&d.batch)
		}
		d.Corrects, d.Reserved = d.Held && t.reserved, t.cost
	}
	d.tightest()
	return nil
}

// claimLocal reports whether Config.Local held what the store does not, or
// cannot tell of: it was taken while the store was away.
func (g *Gate) claimLocal(ctx context.Context, d *Decision) bool {
	if g.config.Local == nil {
		return false
	}
	b := d.spare()
	b.Reset(d.batch.Op)
	b.Hold, b.HoldFor, b.Now = d.batch.Hold, d.batch.HoldFor, d.batch.Now
	for _, c := range d.batch.Charges() {
		_, _ = b.Add(c) // it was in a batch before
	}
	if err := g.config.Local.Apply(ctx, b); err != nil || !anyAllowed(b) {
		return false
	}
	copy(d.batch.Outcomes(), b.Outcomes())
	d.batch.Allowed, d.batch.At, d.Degraded = b.Allowed, b.At, degradedLocal
	return true
}

// reclaim adds the charge of a budget, if the policy still has it.
func (q *question) reclaim(d *Decision, t *ticket, held *ticketCharge, c *Claim) error {
	l := q.app.budgets[budget{held.id, t.plan}]
	if l != nil && l.owner == policy.OwnerSubject && q.plan != nil {
		l = q.app.budgets[budget{held.id, q.plan.name}] // of the plan that he has
	}
	if l == nil {
		l = q.app.budgets[budget{held.id, ""}]
	}
	if l == nil || l.owner == policy.OwnerSubject && held.owner != t.subject {
		return nil
	}
	p, over, from, err := q.numbers(l)
	if p == nil || err != nil {
		return err
	}
	q.quota = q.quota || p.Algorithm == headgate.Quota
	cost := held.cost
	switch {
	case q.op == headgate.Release:
		cost = 0
	case q.op != headgate.Settle:
	case l.unit == policy.Requests && c.CostSaid:
		cost = scale(held.cost, t.cost, c.Cost)
	case l.unit != policy.Requests:
		if n, said := c.Costs[l.unit]; said {
			cost = scale(held.cost, t.unitCost(l.unit), n)
		}
	}
	i, err := d.batch.Add(headgate.Charge{Limit: p, Owner: held.owner, Cost: cost, Parent: l.owner != policy.OwnerSubject})
	if err != nil {
		return err
	}
	if i == d.n {
		d.n++
		d.limits[i] = LimitState{ID: l.id, Limit: p, Owner: ownerNames[l.owner], Unit: l.unit, Cost: cost, Numbers: from, Override: over}
		if by := q.shadow(d, l); by != NotShadow {
			d.limits[i].Shadow, d.limits[i].ShadowBy = true, by
		}
	}
	return nil
}

// unitCost is what a reservation was charged in a unit, once.
func (t *ticket) unitCost(unit string) int64 {
	for _, u := range t.costs {
		if u.Unit == unit {
			return u.Cost
		}
	}
	return 0
}

// scale is the real cost of a budget that was charged for several times: as the
// same one stood in wider scopes.
func scale(held, reserved, real int64) int64 {
	if reserved <= 0 || held%reserved != 0 || held == reserved {
		return real
	}
	if times := held / reserved; real <= headgate.MaxInt/times {
		return real * times
	}
	return headgate.MaxInt
}

// tightest makes the limit with the fewest tokens left the one that bounds.
func (d *Decision) tightest() {
	outcomes := d.batch.Outcomes()
	for i := range outcomes {
		if d.BoundBy < 0 || outcomes[i].Remaining < outcomes[d.BoundBy].Remaining {
			d.BoundBy = i
		}
	}
	if d.BoundBy >= 0 {
		o := &outcomes[d.BoundBy]
		d.Limit, d.Remaining, d.ResetAfter = o.Limit, o.Remaining, o.ResetAfter
	}
}
