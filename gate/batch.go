package gate

import (
	"context"
	"errors"

	"github.com/headgate/headgate"
)

// MaxAtomic is the largest number of requests that TakeAll decides.
const MaxAtomic = 100

// TakeAll decides the requests together: each is charged, or none is. ds, as
// long as rs, gets the answers; a request that is refused only because of
// another has the reason BatchRefused. Such requests do not wait, have no
// idempotency keys and take no slots that must be released.
//
// With an error nothing is charged; failed is then the request at fault, -1 if
// it is none of them.
func (g *Gate) TakeAll(ctx context.Context, rs []*Request, ds []*Decision) (failed int, err error) {
	if len(rs) == 0 || len(rs) > MaxAtomic {
		return -1, invalid("items", "%d: an atomic batch holds 1 to %d", len(rs), MaxAtomic)
	}
	var all headgate.Batch
	all.Room(len(rs) * headgate.MaxCharges)
	all.Now = rs[0].Now
	qs := make([]question, len(rs))
	places := make([][headgate.MaxCharges]int, len(rs)) // of each charge in all
	decided := make([]bool, len(rs))                    // without a charge
	passes, open := true, true
	for i, r := range rs {
		if err := checkAtomic(r); err != nil {
			return i, err
		}
		qs[i] = question{gate: g, op: headgate.Take, request: r}
		settled, err := qs[i].prepare(ds[i])
		if err != nil {
			return i, err
		}
		if decided[i] = settled; settled {
			passes = passes && ds[i].Allowed
			ds[i].batch.Reset(headgate.Take)
			continue
		}
		open = open && (ds[i].open || ds[i].n == 0)
		if most := ds[i].batch.MaxDelay; most != 0 && (all.MaxDelay == 0 || most < all.MaxDelay) {
			all.MaxDelay = most
		}
		for j, c := range ds[i].batch.Charges() {
			if places[i][j], err = all.Add(c); err != nil {
				return i, err
			}
		}
	}
	if !passes {
		all.Op = headgate.Peek // a list or the lack of a rule refuses: only to tell the states
	}
	if len(all.Charges()) > 0 {
		if err := g.store.Apply(ctx, &all); err != nil {
			return -1, g.degradeAll(qs, ds, open && passes, err)
		}
	} else {
		all.Allowed = true
	}
	allowed := passes && all.Allowed
	wait := all.Decision()
	outcomes := all.Outcomes()
	for i, d := range ds {
		switch {
		case decided[i]:
		case d.n == 0:
			d.Allowed, d.Reason = true, qs[i].passed()
		default:
			mine := d.batch.Outcomes()
			for j := range mine {
				mine[j] = outcomes[places[i][j]]
			}
			d.batch.Allowed, d.batch.At = allowed, all.At
			d.sum(qs[i].passed())
		}
		if !allowed && (d.Allowed || d.Reason == headgate.NoReason) {
			d.Allowed, d.Reason, d.Retryable = false, headgate.BatchRefused, passes && wait.Retryable
			if d.RetryAfter = 0; d.Retryable {
				d.RetryAfter = wait.RetryAfter
			}
		}
		if !decided[i] && qs[i].rule.hasCandidate && d.Reason != headgate.Banned {
			qs[i].applyCandidate(ctx, d)
		}
	}
	return -1, nil
}

// degradeAll decides without the store: requests that a limit had a say in as
// degrade does, all of them open or none; those that were settled before as far
// as the others let them.
func (g *Gate) degradeAll(qs []question, ds []*Decision, open bool, err error) error {
	for i, d := range ds {
		switch d.open = open; {
		case len(d.batch.Charges()) > 0:
			if err := g.degrade(d, qs[i].passed(), err); err != nil {
				return err
			}
		case d.Reason == headgate.NoReason && open:
			d.Allowed, d.Reason = true, qs[i].passed()
		case !open && (d.Allowed || d.Reason == headgate.NoReason):
			d.Allowed, d.Reason, d.RetryAfter = false, headgate.BatchRefused, storeRetry
		}
	}
	return nil
}

func checkAtomic(r *Request) error {
	switch {
	case r.IdempotencyKey != "":
		return invalid("idempotency_key", "requests of an atomic batch have none")
	case r.MaxWaitSaid && r.MaxWait > 0:
		return invalid("max_wait_ms", "requests of an atomic batch do not wait")
	case r.Releases:
		return &headgate.Error{Code: headgate.InvalidRequest, Field: "items", Err: errors.New("requests of an atomic batch get no tickets")}
	}
	return nil
}
