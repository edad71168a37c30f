package gate

import (
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// charges puts every limit that applies into the batch.
func (q *question) charges(d *Decision) error {
	if err := q.charge(d, &d.tally, q.app.limits); err != nil {
		return err
	}
	if err := q.charge(d, &d.tally, q.rule.limits); err != nil {
		return err
	}
	if err := q.charge(d, &d.tally, q.planLimits()); err != nil {
		return err
	}
	// Bans hold for all requests, also those that no limit has a say in.
	if err := q.banned(d, q.app.ban); err != nil {
		return err
	}
	if err := q.banned(d, q.rule.ban); err != nil {
		return err
	}
	q.delay(&d.batch)
	d.batch.Patience = q.patience(q.quota)
	if q.op != headgate.Take || d.n == 0 {
		return nil // nothing is charged, once or twice
	}
	return q.remember(d)
}

// patience is how long the store may take to decide, in microseconds.
func (q *question) patience(quota bool) int64 {
	p := q.gate.config.Patience
	if quota {
		p = max(p, q.gate.config.QuotaPatience)
	}
	if q.request.Patience > 0 {
		p = min(p, q.request.Patience)
	}
	return max(1, p.Microseconds()) // 0 would be no bound
}

// planLimits returns the limits of the plan, if they have a say.
func (q *question) planLimits() []*limit {
	if q.plan == nil || q.rule == q.app.noRule && q.app.onNoMatch == policy.NoMatchAllow {
		return nil
	}
	return q.plan.limits
}

// charge adds limits to t.
func (q *question) charge(d *Decision, t *tally, limits []*limit) error {
	for _, l := range limits {
		p, over, from, err := q.numbers(l)
		if err != nil {
			return err
		}
		if p == nil || over != nil && over.Unlimited {
			continue
		}
		c, shown := headgate.Charge{Limit: p, Cost: d.Cost, Parent: l.owner != policy.OwnerSubject}, p
		if l.unit != policy.Requests {
			cost, found := d.unitCost(l.unit)
			if !found {
				if l.skip {
					continue
				}
				return invalid("costs", "costs.%s is required by limit %s", l.unit, l.id)
			}
			c.Cost = cost
		}
		asked := c.Cost
		switch {
		case from == NumbersSaid:
			shown = q.said.shown
		case from == NumbersOfLimit && l.shown != nil:
			shown = l.shown
		}
		if shown.Count == 0 && c.Cost > 0 {
			c.Cost = overNothing
		}
		owner, charged, err := q.owner(d, l, &c)
		if err != nil {
			return err
		}
		if !charged {
			continue
		}
		if l.held && q.op == headgate.Take && t == &d.tally {
			if !q.request.Releases && q.holdFor == 0 {
				return &headgate.Error{Code: headgate.InvalidRequest, Field: "application", Err: errors.New(
					"limit " + l.id + " holds slots until they are released, which callers of this protocol cannot do: give it release: ttl in the policy")}
			}
			d.ticketed = true
		}
		by, away := q.shadow(d, l), l.away
		if c.Shadow = by != NotShadow; c.Shadow {
			away = policy.Open // it refuses nothing
		}
		i, err := t.batch.Add(c)
		if err != nil {
			return err
		}
		q.quota = q.quota || p.Algorithm == headgate.Quota
		s := &t.limits[i]
		if i == t.n { // else merged with the same budget in a wider scope
			t.n++
			*s = LimitState{
				ID: l.id, Limit: shown, Owner: owner, Unit: l.unit, ShadowBy: by, Numbers: from, Override: over,
				away: away, quotaMode: l.quotaMode,
			}
		}
		merged := &t.batch.Charges()[i]
		s.Cost, s.Shadow = s.Cost+asked, merged.Shadow
		s.quotaMode = s.quotaMode && l.quotaMode && !s.Shadow
		if !s.Shadow {
			s.ShadowBy = NotShadow
		}
		s.away = stricter(s.away, away)
	}
	return nil
}

func (d *Decision) unitCost(unit string) (cost int64, found bool) {
	for i := range d.costs {
		if d.costs[i].Unit == unit {
			return d.costs[i].Cost, true
		}
	}
	return 0, false
}

// numbers returns l as it holds for the request: with the numbers of the plan,
// and with those and the zone that the subject's record gives it. It is nil if
// it is unlimited; one whose override is unlimited comes with its usual numbers.
func (q *question) numbers(l *limit) (p *headgate.Prepared, over *policy.Override, from NumbersSource, err error) {
	if l.said {
		return q.said.prepared, nil, NumbersSaid, nil
	}
	p, from = l.forPlan(q.plan)
	// In another zone for one application, a budget across them would start anew
	// at the midnights of both.
	if q.record == nil || l.owner != policy.OwnerSubject || l.across {
		return p, nil, from, nil
	}
	if len(q.record.overrides) > 0 {
		over = q.record.override(l.id, q.now())
	}
	if over != nil {
		from = NumbersOfOverride
	}
	if over == nil && (p == nil || q.record.timezone == nil && q.record.anchor == 0) || over != nil && over.Unlimited {
		return p, over, from, nil
	}
	base := l.bare
	if p != nil {
		base = &p.Limit
	}
	if over == nil && base.Algorithm != headgate.Quota {
		return p, nil, from, nil
	}
	adjusted, err := q.snap.adjusted.adjust(base, q.record, over)
	if err == nil || over == nil {
		return adjusted, over, from, err
	}
	// The record knew another policy.
	q.gate.unfit(over, q.request.Subject, err)
	if _, from = l.forPlan(q.plan); p == nil {
		return nil, nil, from, nil
	}
	p, err = q.snap.adjusted.adjust(base, q.record, nil)
	return p, nil, from, err
}

// owner finds whose budget the limit is. charged is false if nobody's, and the
// policy lets that pass.
func (q *question) owner(d *Decision, l *limit, c *headgate.Charge) (kind string, charged bool, err error) {
	kind = ownerNames[l.owner]
	switch l.owner {
	case policy.OwnerApplication, policy.OwnerGlobal:
		return kind, true, nil
	case policy.OwnerExpr:
		name, err := l.ownerExpr.String(q.ask(d))
		if err == nil && name == "" {
			err = errors.New("the owner of limit " + l.id + " is empty")
		}
		if err != nil {
			if l.skip {
				return "", false, nil
			}
			return "", false, missing(err)
		}
		c.Owner = name
		return kind, true, checkOwner("attributes", name)
	default:
		if c.Owner = d.Subject; c.Owner == "" && !q.app.shared {
			if l.skip {
				return "", false, nil
			}
			return "", false, invalid("subject", "is required by limit %s", l.id)
		}
		return kind, true, nil
	}
}

var ownerNames = [...]string{
	policy.OwnerSubject: "subject", policy.OwnerApplication: "application", policy.OwnerGlobal: "global", policy.OwnerExpr: "expression",
}

// shadow says why a limit refuses nobody, if it does not.
func (q *question) shadow(d *Decision, l *limit) ShadowCause {
	switch {
	case q.forced != nil && q.forced.Shadow:
		return ShadowByOperator
	case q.forced != nil:
		return NotShadow
	case l.shadow:
		return ShadowByPolicy
	case l.percent != 0:
		if q.place == 0 {
			q.place = 1 + percentile(q.app.name, d.Subject)
		}
		if q.place > l.percent {
			return ShadowByPercent
		}
	}
	return NotShadow
}

// banned adds a ban. Requests without a subject share one budget, but nobody is
// banned for what others did.
func (q *question) banned(d *Decision, l *limit) error {
	if l == nil || d.Subject == "" {
		return nil
	}
	by := q.shadow(d, l)
	i, err := d.batch.Add(headgate.Charge{Limit: l.prepared, Owner: d.Subject, Shadow: by != NotShadow})
	if err != nil {
		return err
	}
	d.n++
	d.limits[i] = LimitState{ID: l.id, Limit: l.prepared, Owner: "subject", Unit: l.unit, Shadow: by != NotShadow, ShadowBy: by, away: l.away}
	return nil
}

// delay bounds how long a leaky bucket may let the request wait.
func (q *question) delay(b *headgate.Batch) {
	wait, said := q.wait()
	switch {
	case said:
		b.MaxDelay = max(1, wait.Microseconds()) // 0 would be no bound
	case q.request.WaitCap > 0:
		b.MaxDelay = max(1, q.request.WaitCap.Microseconds())
	}
}
