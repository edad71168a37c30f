package gate

import (
	"context"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// SubjectState is what stands of a subject at an instant.
type SubjectState struct {
	// Plan is that of its record, else the application's default; "" for none.
	Plan     string
	PlanFrom PlanSource
	// Ban is the one by hand that is in force; zero for none.
	Ban Ban
	// Limits are all of which the subject has a budget of its own, in the order
	// application, rules, plan, and its bans. Nothing was asked of them: Cost is 0.
	Limits []LimitState
	// At is the instant of the states by the store's clock, from which ResetAfter
	// counts; zero if there is no limit.
	At time.Time
	// Revision is the revision of the policy.
	Revision uint64
}

// Inspect returns what stands of a subject now. The error is an *headgate.Error, or
// the store's, beside which there is a state without Limits.
func (g *Gate) Inspect(ctx context.Context, application, subject string) (*SubjectState, error) {
	return g.stand(ctx, headgate.Peek, application, subject, nil)
}

// Reset makes the subject's budgets for which match holds what they were before it was
// ever seen, but for what is leased out to nodes, and returns the states of those. A
// budget that applications share is reset for all of them. The error is as that of
// [Gate.Inspect]: budgets that were reset before it stay reset.
func (g *Gate) Reset(ctx context.Context, application, subject string, match func(*LimitState) bool) (*SubjectState, error) {
	return g.stand(ctx, headgate.Reset, application, subject, match)
}

// stand does op, Peek or Reset, to all budgets of a subject for which match holds, nil
// for all.
func (g *Gate) stand(ctx context.Context, op headgate.Op, application, subject string, match func(*LimitState) bool) (*SubjectState, error) {
	if g.closed.Load() {
		return nil, errClosed
	}
	snap := g.current.Load()
	app := snap.applications[application]
	if app == nil {
		return nil, g.unknownApplication(application)
	}
	if subject == "" {
		return nil, invalid("subject", "is required")
	}
	if err := checkOwner("subject", subject); err != nil {
		return nil, err
	}
	q := question{gate: g, op: op, request: &Request{Subject: subject}, snap: snap, app: app, rule: app.noRule}
	q.record, q.ban = g.recordOf(app, subject, q.now)
	out := &SubjectState{PlanFrom: NoPlan, Revision: snap.revision}
	if q.record != nil && app.plans[q.record.plan] != nil {
		q.plan, out.PlanFrom = app.plans[q.record.plan], PlanOfSubject
	} else if app.defaultPlan != nil {
		q.plan, out.PlanFrom = app.defaultPlan, PlanDefault
	}
	if q.plan != nil {
		out.Plan = q.plan.name
	}
	if q.ban != nil {
		out.Ban = Ban{Until: time.UnixMicro(q.ban.banned), Reason: q.ban.reason}
	}
	var err error
	if out.Limits, err = q.budgets(subject, match); err != nil {
		return nil, err
	}
	b := new(headgate.Batch)
	for from := 0; from < len(out.Limits); from += headgate.MaxCharges {
		part := out.Limits[from:min(from+headgate.MaxCharges, len(out.Limits))]
		b.Reset(op)
		b.Patience = max(g.config.Patience, g.config.QuotaPatience).Microseconds()
		for i := range part {
			if _, err := b.Add(headgate.Charge{Limit: part[i].Limit, Owner: subject}); err != nil {
				return nil, err
			}
		}
		if err := g.store.Apply(ctx, b); err != nil {
			g.reportStore(err)
			if op != headgate.Peek {
				return nil, err
			}
			out.Limits, out.At = nil, time.Time{}
			return out, err
		}
		for i, o := range b.Outcomes() {
			part[i].Outcome = o
		}
		out.At = time.UnixMicro(b.At)
	}
	return out, nil
}

// budgets lists the budgets that are the subject's own and for which match holds.
func (q *question) budgets(subject string, match func(*LimitState) bool) (all []LimitState, err error) {
	seen := make(map[[2]uint64]bool)
	d := &Decision{Subject: subject}
	add := func(l *limit) {
		if err != nil || l == nil || l.owner != policy.OwnerSubject {
			return
		}
		p, over, from := l.prepared, (*policy.Override)(nil), NumbersOfLimit
		if l.written != nil { // it is no ban
			if p, over, from, err = q.numbers(l); err != nil || p == nil || over != nil && over.Unlimited {
				return
			}
			if l.shown != nil && from == NumbersOfLimit {
				return // a limit of nothing has no budget
			}
		}
		if seen[p.ID] {
			return // a wider scope has named it
		}
		seen[p.ID] = true
		by := q.shadow(d, l)
		s := LimitState{ID: l.id, Limit: p, Owner: ownerNames[l.owner], Unit: l.unit, Shadow: by != NotShadow, ShadowBy: by, Numbers: from, Override: over}
		if match == nil || match(&s) {
			all = append(all, s)
		}
	}
	lists := [][]*limit{q.app.limits}
	bans := []*limit{q.app.ban}
	for _, r := range q.app.rules {
		lists, bans = append(lists, r.limits), append(bans, r.ban)
	}
	if q.plan != nil {
		lists = append(lists, q.plan.limits)
	}
	for _, l := range slices.Concat(append(lists, bans)...) {
		add(l)
	}
	return all, err
}
