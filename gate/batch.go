package gate

import (
	"context"
	"errors"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
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
	t := together{
		gate: g, qs: make([]question, len(rs)), ds: ds, decided: make([]bool, len(rs)), passes: true,
		places: make([][headgate.MaxCharges]int, len(rs)),
	}
	for i, r := range rs {
		if err := checkAtomic(r); err != nil {
			return i, err
		}
		t.qs[i] = question{gate: g, op: headgate.Take, request: r}
		settled, err := t.qs[i].prepare(ds[i])
		if err != nil {
			return i, err
		}
		if t.decided[i] = settled; settled {
			t.passes = t.passes && ds[i].Allowed
			ds[i].batch.Reset(headgate.Take)
		}
	}
	all, failed, err := t.batch(func(d *Decision) int { return len(d.batch.Charges()) })
	if err != nil {
		return failed, err
	}
	all.Allowed = true
	if len(all.Charges()) > 0 {
		if err := g.store.Apply(ctx, all); err != nil {
			return -1, t.degrade(ctx, err)
		}
	}
	t.sum(all, func(i int, d *Decision, allowed bool) {
		d.batch.Allowed, d.batch.At = allowed, all.At
		t.outcomes(i, all, d.batch.Outcomes())
		d.sum(t.qs[i].passed())
	})
	for i, d := range ds {
		if !t.decided[i] && t.qs[i].rule.hasCandidate && d.Reason != headgate.Banned {
			t.qs[i].applyCandidate(ctx, d)
		}
	}
	return -1, nil
}

// together is requests that are decided together.
type together struct {
	gate    *Gate
	qs      []question
	ds      []*Decision
	decided []bool                     // without a charge
	places  [][headgate.MaxCharges]int // of each charge in the batch of all
	passes  bool                       // none of those that are decided is refused
}

// batch puts the first charges of each decision, as many as it says, into one
// batch. With an error, failed is the request at fault.
func (t *together) batch(charges func(*Decision) int) (all *headgate.Batch, failed int, err error) {
	all = new(headgate.Batch)
	all.Room(len(t.ds) * headgate.MaxCharges)
	all.Now = t.qs[0].request.Now
	for i, d := range t.ds {
		if most := d.batch.MaxDelay; most != 0 && (all.MaxDelay == 0 || most < all.MaxDelay) {
			all.MaxDelay = most
		}
		all.Patience = max(all.Patience, d.batch.Patience)
		for j, c := range d.batch.Charges()[:charges(d)] {
			if t.places[i][j], err = all.Add(c); err != nil {
				return nil, i, err
			}
		}
	}
	if !t.passes {
		all.Op = headgate.Peek // a list or the lack of a rule refuses: only to tell the states
	}
	return all, -1, nil
}

// outcomes copies those of request i.
func (t *together) outcomes(i int, all *headgate.Batch, to []headgate.Outcome) {
	from := all.Outcomes()
	for j := range to {
		to[j] = from[t.places[i][j]]
	}
}

// sum makes the answers of what was decided of all. one makes that of a request
// which limits had a say in.
func (t *together) sum(all *headgate.Batch, one func(i int, d *Decision, allowed bool)) {
	allowed := t.passes && all.Allowed
	wait := all.Decision()
	for i, d := range t.ds {
		switch {
		case t.decided[i]:
		case d.n == 0:
			d.Allowed, d.Reason = true, t.qs[i].passed()
		default:
			one(i, d, allowed)
		}
		if !allowed && (d.Allowed || d.Reason == headgate.NoReason) {
			d.Allowed, d.Reason, d.Retryable = false, headgate.BatchRefused, t.passes && wait.Retryable
			if d.RetryAfter = 0; d.Retryable {
				d.RetryAfter = wait.RetryAfter
			}
		}
	}
}

// degrade decides without the store, as Gate.degrade does: by the strictest mode
// among the limits of all.
func (t *together) degrade(ctx context.Context, err error) error {
	code, mode := headgate.CodeOf(err), policy.Open
	if code == headgate.InvalidRequest || code == headgate.Conflict {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	t.gate.reportStore(err)
	for _, d := range t.ds {
		mode = stricter(mode, d.away())
	}
	switch {
	case code == headgate.Overloaded && slices.ContainsFunc(t.ds, (*Decision).enforced):
		t.shut(headgate.OverloadedReason)
	case mode == policy.Local:
		t.askLocal(ctx)
	case mode == policy.Open && t.passes:
		all := &headgate.Batch{Allowed: true}
		t.sum(all, t.open)
	default:
		t.shut(headgate.StoreUnavailable)
	}
	return nil
}

// open lets a request pass without its limits.
func (t *together) open(i int, d *Decision, _ bool) {
	d.without(degradedOpen)
	d.Allowed, d.Reason = true, t.qs[i].passed()
}

// shut refuses all.
func (t *together) shut(why headgate.Reason) {
	for i, d := range t.ds {
		switch {
		case !t.decided[i] && d.n > 0:
			d.shut(why)
		case d.Allowed || d.Reason == headgate.NoReason:
			d.Allowed, d.Reason, d.RetryAfter = false, headgate.BatchRefused, storeRetry
		}
	}
}

// askLocal lets Config.Local decide the limits that are local.
func (t *together) askLocal(ctx context.Context) {
	all, _, err := t.batch((*Decision).localFirst)
	if err == nil {
		err = t.gate.applyLocal(ctx, all)
	}
	switch {
	case err == nil:
	case headgate.CodeOf(err) == headgate.Overloaded:
		t.shut(headgate.OverloadedReason)
		return
	default:
		t.shut(headgate.StoreUnavailable)
		return
	}
	t.sum(all, func(i int, d *Decision, allowed bool) {
		b := d.spare()
		b.Reset(headgate.Take)
		n := d.localFirst()
		for _, c := range d.batch.Charges()[:n] {
			_, _ = b.Add(c) // it was in a batch before
		}
		if n == 0 {
			t.open(i, d, allowed)
			return
		}
		t.outcomes(i, all, b.Outcomes())
		b.Allowed, b.At, d.n = allowed, all.At, n
		t.gate.sumLocal(d, b, t.qs[i].passed())
	})
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
