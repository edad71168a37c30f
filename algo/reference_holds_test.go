package algo_test

import (
	"math/big"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// refHolds is the list of reservations of a model, in the order in which they
// end. Those that have ended are forgotten when one is made, moved or settled, and
// by a refund.
type refHolds struct{ list []reservation }

type reservation struct {
	id       uint64
	until, n int64
	tag      int64 // the window, slot or instant that it was charged in
	lost     bool  // the numbers that gave the tag its meaning are gone
}

func (r *refHolds) reserved() *refHolds { return r }

func (r *refHolds) open(t int64) []reservation {
	return slices.DeleteFunc(slices.Clone(r.list), func(h reservation) bool { return h.until <= t })
}

// heldOf is what is held at t of what was charged under the tag.
func (r *refHolds) heldOf(tag, t int64) (n int64) {
	for _, h := range r.open(t) {
		if h.tag == tag && !h.lost {
			n += h.n
		}
	}
	return n
}

// unrefunded is what a refund at t leaves of what was charged under the tag.
func (r *refHolds) unrefunded(op headgate.Op, tag, t int64) int64 {
	if op == headgate.Refund {
		r.prune(t)
	}
	return r.heldOf(tag, t)
}

// prune forgets what has ended by t.
func (r *refHolds) prune(t int64) { r.list = r.open(t) }

func (r *refHolds) add(h reservation) {
	r.list = append(r.list, h)
	slices.SortStableFunc(r.list, func(a, b reservation) int { return int(min(1, max(-1, a.until-b.until))) })
}

// reserve makes a reservation at t, if the call asks for one.
func (r *refHolds) reserve(c algo.Call, t, n, tag int64) {
	if c.Op == headgate.Take && c.Hold != 0 && c.HoldFor > 0 {
		r.prune(t)
		r.add(reservation{id: c.Hold, until: t + c.HoldFor, n: n, tag: tag})
	}
}

// end does what Settle and Renew do to the list at t.
func (r *refHolds) end(c algo.Call, t int64) (h reservation, found bool) {
	if c.Op == headgate.Renew && c.HoldFor == 0 {
		return h, true
	}
	open := r.open(t)
	i := slices.IndexFunc(open, func(h reservation) bool { return h.id == c.Hold && c.Hold != 0 })
	if i < 0 {
		return h, false
	}
	h = open[i]
	r.list = slices.Delete(open, i, i+1)
	if c.Op == headgate.Renew {
		moved := h
		moved.until = t + c.HoldFor
		r.add(moved)
	}
	return h, true
}

// settle does Settle and Renew at t on a counter of n, that of the window.
func (r *refHolds) settle(c algo.Call, t, window, n int64) (int64, bool) {
	h, found := r.end(c, t)
	switch {
	case !found || c.Op == headgate.Renew:
	case c.Cost > h.n:
		n = min(headgate.MaxInt, n+c.Cost-h.n)
	case h.tag == window && !h.lost:
		n -= h.n - c.Cost
	}
	return n, found
}

// convertRef carries a model over to other numbers, as the doc of Convert says.
func convertRef(old ref, l *headgate.Prepared, now int64) ref {
	now = max(now, old.noted())
	var open []reservation
	if r, ok := old.(interface{ reserved() *refHolds }); ok {
		open = r.reserved().open(now)
	}
	dst := carryRef(old, l, now)
	r, ok := dst.(interface{ reserved() *refHolds })
	if !ok {
		return dst
	}
	same := sameWindows(old, dst)
	left := int64(headgate.MaxInt)
	for i := range open {
		open[i].lost = open[i].lost || !same
		if l.Algorithm == headgate.TokenBucket {
			open[i].n = min(open[i].n, left)
			left -= open[i].n
		}
	}
	r.reserved().list = open
	if b, ok := dst.(*refBucket); ok && b.level.Cmp(b.most(b.at)) > 0 {
		b.level = new(big.Int).Set(b.most(b.at))
	}
	return dst
}

// sameWindows reports whether the windows, slots or periods of two models are
// the same ones.
func sameWindows(old, dst ref) bool {
	switch o := old.(type) {
	case *refFixed:
		d, ok := dst.(*refFixed)
		return ok && d.width == o.width
	case *refSliding:
		d, ok := dst.(*refSliding)
		return ok && d.k == o.k && d.slice == o.slice
	case *refClassic:
		d, ok := dst.(*refClassic)
		return ok && d.width == o.width
	case *refLog:
		_, ok := dst.(*refLog)
		return ok
	case *refQuota:
		d, ok := dst.(*refQuota)
		if !ok {
			return false
		}
		a, b := o.l.Calendar, d.l.Calendar
		return a.Unit == b.Unit && a.Anchor == b.Anchor && a.Location.String() == b.Location.String()
	}
	return false
}
