package gate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// awayMode is what becomes of requests at a limit when the store cannot decide,
// by the mode that stands nearest to it. A ban that cannot be read refuses nobody
// but where everything is closed.
func awayMode(a headgate.Algorithm, mode policy.StoreErrorMode) policy.StoreErrorMode {
	switch {
	case a == headgate.Ban && mode != policy.ClosedMode:
		return policy.Open
	case mode != policy.Inherit:
		return mode
	case a == headgate.Quota || a == headgate.Concurrency:
		return policy.ClosedMode
	default:
		return policy.Local
	}
}

// stricter returns the mode that beats the other: closed, then local, then open.
func stricter(a, b policy.StoreErrorMode) policy.StoreErrorMode {
	switch {
	case a == policy.ClosedMode || b == policy.ClosedMode:
		return policy.ClosedMode
	case a == policy.Local || b == policy.Local:
		return policy.Local
	default:
		return policy.Open
	}
}

// away is what becomes of the request when the store cannot decide.
func (d *Decision) away() policy.StoreErrorMode {
	mode := policy.Open
	for i := range d.n {
		mode = stricter(mode, d.limits[i].away)
	}
	return mode
}

// enforced reports whether there is a limit that may refuse: who is in shadow alone
// is not refused by a store that has no room either.
func (d *Decision) enforced() bool {
	return slices.ContainsFunc(d.limits[:d.n], func(s LimitState) bool { return !s.Shadow })
}

// storeRetry is when to ask again after the store could not decide.
const storeRetry = time.Second

// The ways in which decisions are made without the store.
const (
	degradedLocal  = "local"
	degradedOpen   = "open"
	degradedClosed = "closed"
)

// degrade decides without the store, which has failed with err: by the strictest
// mode among the request's limits. A store that is there but has no room for
// another key is not away: whoever floods it with keys must not open it. Nor is
// anything decided for a caller that has gone.
func (g *Gate) degrade(ctx context.Context, d *Decision, passed headgate.Reason, err error) error {
	code := headgate.CodeOf(err)
	if code == headgate.InvalidRequest || code == headgate.Conflict {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	g.reportStore(err)
	d.whole()
	switch mode := d.away(); {
	case code == headgate.Overloaded && d.enforced():
		d.shut(headgate.OverloadedReason)
	case mode == policy.Local:
		return g.askLocal(ctx, d, passed)
	case mode == policy.Open:
		d.without(degradedOpen)
		d.Allowed, d.Reason = true, passed
	default:
		d.shut(headgate.StoreUnavailable)
	}
	return nil
}

// without makes d one without limits. Reservations have a ticket all the same.
func (d *Decision) without(degraded string) {
	d.n, d.ticketed, d.Replayed, d.Degraded = 0, d.batch.HoldFor > 0, false, degraded
	d.Decision = headgate.Decision{Retryable: true, BoundBy: -1}
	d.Shadow, d.WouldDeny = false, headgate.NoReason
}

// shut refuses d as the store could not decide.
func (d *Decision) shut(why headgate.Reason) {
	d.without(degradedClosed)
	d.Reason, d.RetryAfter = why, storeRetry
}

// askLocal lets Config.Local decide the limits of d that are local; the others
// let requests pass. It refuses what Local cannot decide either.
//
// A request with an idempotency key is decided anew, as nobody knows whether it
// was before: it may be charged twice, and is never free. Retries of it are
// replays until the store is back.
func (g *Gate) askLocal(ctx context.Context, d *Decision, passed headgate.Reason) error {
	b, n := d.localBatch()
	err := g.applyLocal(ctx, b)
	switch code := headgate.CodeOf(err); {
	case err == nil:
		d.n = n
		g.sumLocal(d, b, passed)
	case code == headgate.Conflict:
		return err
	case code == headgate.Overloaded:
		d.shut(headgate.OverloadedReason)
	default:
		d.shut(headgate.StoreUnavailable)
	}
	return nil
}

var errNoLocal = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("nothing decides while the store is away")}

// applyLocal lets Config.Local decide, if there is one.
func (g *Gate) applyLocal(ctx context.Context, b *headgate.Batch) error {
	if g.config.Local == nil {
		return errNoLocal
	}
	return g.config.Local.Apply(ctx, b)
}

// whole makes d one with all its limits again, after Local decided some of them.
func (d *Decision) whole() {
	if d.Degraded == degradedLocal {
		d.n, d.Degraded = d.charged, ""
	}
}

// localBatch returns a batch of the charges that Local decides, which are the
// first n of d then: those of local limits, and of bans, which it may know of.
func (d *Decision) localBatch() (b *headgate.Batch, n int) {
	d.whole()
	b, d.charged = d.spare(), d.n
	b.Reset(d.batch.Op)
	b.Now, b.Hold, b.HoldFor, b.MaxDelay, b.Again = d.batch.Now, d.batch.Hold, d.batch.HoldFor, d.batch.MaxDelay, d.batch.Again
	n = d.localFirst()
	charges := d.batch.Charges()
	for _, c := range charges[:n] {
		_, _ = b.Add(c) // it was in a batch before
	}
	if b.Key = d.batch.Key; b.Key != (headgate.RequestKey{}) {
		_, _ = b.Add(charges[len(charges)-1])
	}
	return b, n
}

// spare returns a batch of d's own.
func (d *Decision) spare() *headgate.Batch {
	if d.fallback == nil {
		d.fallback = new(headgate.Batch)
	}
	return d.fallback
}

// localFirst moves the limits that Local decides before the others, and returns
// how many they are.
func (d *Decision) localFirst() (n int) {
	charges := d.batch.Charges()
	for i := range d.n {
		s := d.limits[i]
		if s.Shadow || s.away != policy.Local && s.Limit.Algorithm != headgate.Ban {
			continue
		}
		c := charges[i]
		copy(d.limits[n+1:i+1], d.limits[n:i])
		copy(charges[n+1:i+1], charges[n:i])
		d.limits[n], charges[n] = s, c
		n++
	}
	return n
}

// sharer is a Config.Local that decides by shares of limits.
type sharer interface {
	// Share returns the share of l, nil for nothing of it.
	Share(l *headgate.Prepared) *headgate.Prepared
}

// sumLocal makes the answer of what Local says of the first charges of d.
func (g *Gate) sumLocal(d *Decision, b *headgate.Batch, passed headgate.Reason) {
	outcomes := d.batch.Outcomes()
	copy(outcomes[:d.n], b.Outcomes())
	d.batch.Allowed, d.batch.At, d.batch.Replayed, d.batch.Hold = b.Allowed, b.At, b.Replayed, b.Hold
	d.fill()
	showNothing(d.limits[:d.n], b.Outcomes())
	if local, ok := g.config.Local.(sharer); ok {
		for i := range d.n {
			d.limits[i].Share = local.Share(b.Charges()[i].Limit)
		}
	}
	d.Decision = b.Decision()
	d.Replayed, d.Degraded = b.Replayed, degradedLocal
	d.Shadow, d.WouldDeny = false, headgate.NoReason
	if d.Allowed {
		d.Reason = passed
	}
}

// keeper is the store that holds what d holds.
func (g *Gate) keeper(d *Decision) headgate.Store {
	if d.Degraded == degradedLocal {
		return g.config.Local
	}
	return g.store
}
