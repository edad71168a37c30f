package gate

import (
	"context"

	"github.com/headgate/headgate"
)

// Refund gives back r.Cost, which must be said, of what an earlier Take of the same
// request charged: never more than is on record, and to windows and quotas only what was
// charged in the period that is. Leaky buckets and slots give nothing back, and bans stay.
// It is outside of the law that no interval exceeds its limit: the caller must be trusted
// to tell the truth. d gets the state afterwards; deny and allow lists are not asked.
//
// Errors are those of Take, and the store's: nothing is given back without it.
func (g *Gate) Refund(ctx context.Context, r *Request, d *Decision) error {
	switch {
	case !r.CostSaid:
		return invalid("cost", "is required: how much to give back")
	case r.IdempotencyKey != "":
		return invalid("idempotency_key", "what is given back has none")
	}
	q := question{gate: g, op: headgate.Refund, request: r}
	if settled, err := q.prepare(d); settled || err != nil {
		return err
	}
	if d.n == 0 {
		d.Allowed, d.Reason = true, q.passed()
		return nil
	}
	if err := g.store.Apply(ctx, &d.batch); err != nil {
		g.reportStore(err)
		return err
	}
	d.sum(q.passed())
	if q.rule.hasCandidate {
		q.applyCandidate(ctx, d)
	}
	return nil
}
