package gate

import (
	"context"
	"errors"
	"slices"
	"sync"

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
	t, err := g.gather(rs, ds)
	if err != nil {
		return -1, err
	}
	defer t.free()
	for i := range rs {
		if err := t.find(i); err != nil {
			return i, err
		}
		if err := t.prepare(i); err != nil {
			return i, err
		}
	}
	return t.decide(ctx)
}

// together is requests that are decided together.
type together struct {
	gate    *Gate
	qs      []question
	ds      []*Decision
	decided []bool                     // without a charge
	places  [][headgate.MaxCharges]int // of each charge in the batch of all
	charged []int64                    // of each charge in the batch, by the requests so far
	passes  bool                       // none of those that are decided is refused
	ordered bool                       // states are those right after the request
	choices []int                      // requests of which one must pass; see choose
	refused headgate.Decision          // if the batch was
	all     headgate.Batch
}

var togethers = sync.Pool{New: func() any { return new(together) }}

// gather makes the requests ready to be decided together.
func (g *Gate) gather(rs []*Request, ds []*Decision) (*together, error) {
	n := len(rs)
	if n == 0 || n > MaxAtomic {
		return nil, invalid("items", "%d: an atomic batch holds 1 to %d", n, MaxAtomic)
	}
	t := togethers.Get().(*together)
	t.gate, t.ds, t.passes, t.ordered = g, ds, true, false
	t.qs, t.decided, t.places = slices.Grow(t.qs[:0], n)[:n], slices.Grow(t.decided[:0], n)[:n], slices.Grow(t.places[:0], n)[:n]
	for i, r := range rs {
		t.qs[i], t.decided[i] = question{gate: g, op: headgate.Take, request: r, called: true}, false
	}
	return t, nil
}

// maxPooled is the number of requests for which a together is kept.
const maxPooled = 16

// free gives t back, with nothing that is its caller's.
func (t *together) free() {
	if cap(t.qs) > maxPooled {
		return
	}
	clear(t.qs)
	t.gate, t.ds = nil, nil
	t.all.Reset(headgate.Take)
	togethers.Put(t)
}

// find finds the rule of request i.
func (t *together) find(i int) error {
	if err := checkAtomic(t.qs[i].request); err != nil {
		return err
	}
	return t.qs[i].find(t.ds[i])
}

// prepare fills the batch of request i, whose rule is found.
func (t *together) prepare(i int) error {
	settled, err := t.qs[i].prepareFound(t.ds[i])
	if err != nil {
		return err
	}
	if settled {
		t.settle(i)
	}
	return nil
}

// settle notes that request i is decided without a charge.
func (t *together) settle(i int) {
	t.decided[i], t.passes = true, t.passes && t.ds[i].Allowed
	t.ds[i].batch.Reset(headgate.Take)
}

// decide lets the store decide.
func (t *together) decide(ctx context.Context) (failed int, err error) {
	failed, err = t.choose(ctx, (*Decision).allCharges, t.gate.store.Apply)
	switch {
	case failed >= 0:
		return failed, err
	case err != nil:
		return -1, t.degrade(ctx, err)
	}
	t.sum(func(i int, d *Decision, allowed bool) {
		d.batch.Allowed, d.batch.At = allowed, t.all.At
		t.outcomes(i, d.batch.Outcomes())
		d.sum(t.qs[i].passed())
		t.later(i, d)
	})
	for i, d := range t.ds {
		if !t.decided[i] && t.qs[i].rule.hasCandidate && d.Reason != headgate.Banned {
			t.qs[i].applyCandidate(ctx, d)
		}
	}
	return -1, nil
}

// allCharges returns how many charges d has.
func (d *Decision) allCharges() int { return len(d.batch.Charges()) }

// batch puts the first charges of each decision, as many as it says, into one
// batch. Limits in quota mode are in shadow, but for those of request chosen. With an
// error, failed is the request at fault.
func (t *together) batch(charges func(*Decision) int, chosen int) (failed int, err error) {
	room := 0
	for _, d := range t.ds {
		room += charges(d)
	}
	all := &t.all
	all.Reset(headgate.Take)
	all.Room(room)
	all.Now = t.qs[0].request.Now
	for i, d := range t.ds {
		if most := d.batch.MaxDelay; most != 0 && (all.MaxDelay == 0 || most < all.MaxDelay) {
			all.MaxDelay = most
		}
		all.Patience = max(all.Patience, d.batch.Patience)
		for j, c := range d.batch.Charges()[:charges(d)] {
			c.Shadow = c.Shadow || t.ordered && d.limits[j].quotaMode && i != chosen
			if t.places[i][j], err = all.Add(c); err != nil {
				return i, err
			}
		}
	}
	if !t.passes {
		all.Op = headgate.Peek // a list or the lack of a rule refuses: only to tell the states
	}
	return -1, nil
}

// outcomes copies those of request i.
func (t *together) outcomes(i int, to []headgate.Outcome) {
	charges, from := t.all.Charges(), t.all.Outcomes()
	own := t.ds[i].batch.Charges()
	for j := range to {
		at := t.places[i][j]
		to[j] = from[at]
		if t.charged[at] += own[j].Cost; t.ordered {
			inOrder(&charges[at], &to[j], t.all.Allowed && t.passes, t.charged[at])
		}
	}
	if !t.all.Allowed || !t.ordered {
		return
	}
	for j := range to {
		// It did not have to pass, as another did.
		if s := &t.ds[i].limits[j]; j < t.ds[i].n && s.quotaMode && !to[j].Allowed {
			own[j].Shadow, s.Shadow, s.ShadowBy = true, true, ShadowByQuotaMode
		}
	}
}

// later says what of the states of request i is due to those behind it.
func (t *together) later(i int, d *Decision) {
	if t.ordered {
		return
	}
	charges := t.all.Charges()
	for j := range d.Limits() {
		at := t.places[i][j]
		d.limits[j].Later = charges[at].Cost - t.charged[at]
	}
}

// sum makes the answers of what was decided of all. one makes that of a request
// which limits had a say in.
func (t *together) sum(one func(i int, d *Decision, allowed bool)) {
	allowed := t.passes && t.all.Allowed
	t.charged = append(t.charged[:0], make([]int64, len(t.all.Charges()))...)
	for i, d := range t.ds {
		switch {
		case t.decided[i]:
		case d.n == 0:
			d.Allowed, d.Reason = true, t.qs[i].passed()
		default:
			one(i, d, allowed)
		}
		if !allowed && (d.Allowed && !d.Replaced || d.Reason == headgate.NoReason) {
			d.Allowed, d.Reason, d.Retryable = false, headgate.BatchRefused, t.passes && t.refused.Retryable
			if d.RetryAfter = 0; d.Retryable {
				d.RetryAfter = t.refused.RetryAfter
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
		t.all.Reset(headgate.Take)
		t.all.Allowed = true
		t.sum(t.open)
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
		case d.Allowed && !d.Replaced || d.Reason == headgate.NoReason:
			d.Allowed, d.Reason, d.RetryAfter = false, headgate.BatchRefused, storeRetry
		}
	}
}

// askLocal lets Config.Local decide the limits that are local.
func (t *together) askLocal(ctx context.Context) {
	_, err := t.choose(ctx, (*Decision).localFirst, t.gate.applyLocal)
	switch {
	case err == nil:
	case headgate.CodeOf(err) == headgate.Overloaded:
		t.shut(headgate.OverloadedReason)
		return
	default:
		t.shut(headgate.StoreUnavailable)
		return
	}
	t.sum(func(i int, d *Decision, allowed bool) {
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
		t.outcomes(i, b.Outcomes())
		for j, c := range d.batch.Charges()[:n] {
			b.Charges()[j].Shadow = c.Shadow // which quota mode may have changed
		}
		b.Allowed, b.At, d.n = allowed, t.all.At, n
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
