package algo

import (
	"time"

	"github.com/headgate/headgate"
)

// tide is a token bucket on its way through time with reservations open. What is
// held does not refill: the level stops at the capacity less what is held, so
// that level and holds together never exceed the capacity, and no settling can
// mint. When a hold ends unsettled the level goes on rising from where it is. In
// a leaky bucket, which gives nothing back, holds stop nothing.
//
// Only a change of numbers can leave more held than the capacity has room for;
// the level then stays at the deepest debt.
type tide struct {
	l     *headgate.Prepared
	h     holds
	next  int64 // the hold that ends next
	v, at int64 // level, and the instant it is true for
	held  int64 // tokens that stop the refill
}

func tideOf(l *headgate.Prepared, st []int64, h holds) tide {
	t := tide{l: l, h: h, v: st[bucketLevel], at: st[bucketAt]}
	if l.Algorithm == headgate.LeakyBucket || h.len() == 0 {
		t.next = h.len()
		return t
	}
	n, amount := h.ended(t.at)
	t.next, t.held = n, h.w[holdsSum]-amount
	return t
}

// ceiling is where the refill stops: not above Cap, not below -Cap.
func (t *tide) ceiling() int64 {
	if t.held > 2*t.l.Burst {
		return -t.l.Cap
	}
	return max(-t.l.Cap, t.l.Cap-t.held*t.l.P)
}

// rise moves to the instant, if it is later.
func (t *tide) rise(to int64) {
	for t.next < t.h.len() {
		x := t.h.at(t.next)
		if x[holdUntil] > to {
			break
		}
		t.fill(x[holdUntil])
		t.held -= x[holdAmount]
		t.next++
	}
	t.fill(to)
}

// fill moves to the instant, if it is later, before which no hold ends.
func (t *tide) fill(to int64) {
	elapsed := to - t.at
	if elapsed <= 0 {
		return
	}
	t.at = to
	if room := t.ceiling() - t.v; elapsed > room/t.l.N {
		t.v += room
	} else {
		t.v += elapsed * t.l.N
	}
}

// reach returns the first instant from t.at on at which the level is that, at
// most Cap, if nobody comes.
func (t tide) reach(level int64) int64 {
	for t.v < level {
		at := t.at + ceilDiv(level-t.v, t.l.N)
		if t.next == t.h.len() {
			return at
		}
		x := t.h.at(t.next)
		if level <= t.ceiling() && at <= x[holdUntil] {
			return at
		}
		t.fill(x[holdUntil])
		t.held -= x[holdAmount]
		t.next++
	}
	return t.at
}

// credit raises the level by tokens, as far as the ceiling.
func (t *tide) credit(tokens int64) {
	room := t.ceiling() - t.v
	if tokens > room/t.l.P {
		t.v += room
	} else {
		t.v += tokens * t.l.P
	}
}

// debit lowers the level by tokens, as far as the deepest debt.
func (t *tide) debit(tokens int64) {
	t.v -= min(tokens, max(0, (t.v+t.l.Cap)/t.l.P)) * t.l.P
}

// escrowApply is bucketApply for a bucket that has reservations or may get one.
func escrowApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	leaky := l.Algorithm == headgate.LeakyBucket
	h := reservations(st, bucketWords)
	t := tideOf(l, st, h)
	t.rise(c.Now)
	v := t.v
	switch {
	case c.Op == headgate.Settle || c.Op == headgate.Renew:
		if o.Allowed = c.Op == headgate.Renew && c.HoldFor == 0; o.Allowed {
			break
		}
		if o.Allowed = h.find(c.Hold, t.at) >= 0; !o.Allowed {
			break
		}
		st[bucketLevel], st[bucketAt] = t.v, t.at
		change, _ := h.apply(c, t.at, o)
		t = tideOf(l, st, h)
		switch {
		case change > 0:
			t.debit(change)
		case change < 0 && !leaky:
			t.credit(-change)
		}
	case c.Op == headgate.Refund && !leaky:
		t.credit(c.Cost)
	default:
		t.v = bucketCall(c, l, t.v, t.at-c.Now, o)
		if !o.Allowed && !o.Never && !leaky {
			o.RetryAfter = duration(t.reach(c.Cost*l.P) - c.Now)
		}
		if o.Allowed && c.Reserves(l.Algorithm) {
			st[bucketLevel], st[bucketAt] = t.v, t.at
			h.add(c, t.at, c.Cost, noTag)
			t = tideOf(l, st, h)
		}
	}
	bucketStep(headgate.Debit, l, t.v, 0, 0, o) // says what the level is in tokens
	o.ResetAfter = duration(t.reach(l.Cap) - c.Now)
	if t.v != v {
		st[bucketLevel], st[bucketAt] = t.v, t.at
		h.dropEnded(t.at)
	}
}

// escrow moves the open reservations of src, kept under old, behind the state
// dst, which was carried over to l at now. Their tags stay if they mean the same.
// What a token bucket holds is at most MaxInt in all.
func escrow(old, l *headgate.Prepared, dst, src []int64, now int64) {
	from := reservations(src, base(old, src))
	ended, _ := from.ended(now)
	if ended == from.len() {
		return
	}
	to := reservations(dst, base(l, dst))
	left := int64(headgate.MaxInt)
	for i := ended; i < from.len(); i++ {
		x := from.at(i)
		amount, tag := x[holdAmount], x[holdTag]
		if !sameTags(old, l) {
			tag = noTag
		}
		if l.Algorithm == headgate.TokenBucket {
			amount = min(amount, left)
			left -= amount
		}
		to.insert(x[holdID], x[holdUntil], amount, tag)
	}
	if bucket(l.Algorithm) {
		t := tideOf(l, dst, to)
		dst[bucketLevel] = min(dst[bucketLevel], t.ceiling())
	}
}

// sameTags reports whether a reservation's tag means the same under both.
func sameTags(old, l *headgate.Prepared) bool {
	if old.Algorithm != l.Algorithm {
		return false
	}
	switch l.Algorithm {
	case headgate.FixedWindow:
		return old.WindowMicros == l.WindowMicros
	case headgate.SlidingWindow:
		return old.Slices == l.Slices && old.SliceMicros == l.SliceMicros
	case headgate.Quota:
		return old.Calendar.Unit == l.Calendar.Unit && old.Calendar.Anchor == l.Calendar.Anchor &&
			zone(old.Calendar.Location) == zone(l.Calendar.Location)
	default: // a log's instants are instants; buckets have no tags
		return true
	}
}

func zone(l *time.Location) string {
	if l == nil {
		return "UTC"
	}
	return l.String()
}
