package algo

import "github.com/headgate/headgate"

// A bucket's state: its level in units of 1/P token at an instant.
const (
	bucketLevel = iota // -Cap to Cap; below 0 is debt
	bucketAt
	bucketWords
)

// level returns the bucket's level at now, and the instant that it is true for:
// now, or a later one that was already seen.
func level(l *headgate.Prepared, st []int64, now int64) (v, at int64) {
	v, at = st[bucketLevel], st[bucketAt]
	elapsed := now - at
	if elapsed <= 0 {
		return v, at
	}
	if missing := l.Cap - v; elapsed > missing/l.N {
		return l.Cap, now
	}
	return v + elapsed*l.N, now
}

func bucketApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	if c.HoldFor != 0 || reservations(st, bucketWords).len() > 0 {
		escrowApply(c, l, st, o)
		return
	}
	v, at := level(l, st, c.Now)
	next := bucketCall(c, l, v, at-c.Now, o)
	if next != v {
		st[bucketLevel], st[bucketAt] = next, at
	}
}

// bucketCall does the call on a level v and returns the level after it. skew is
// by how much v is true later than the call.
func bucketCall(c *Call, l *headgate.Prepared, v, skew int64, o *headgate.Outcome) int64 {
	if c.MaxDelay == 0 || c.Cost == 0 || l.Algorithm != headgate.LeakyBucket || v == l.Cap ||
		c.Op != headgate.Take && c.Op != headgate.Peek {
		return bucketStep(c.Op, l, v, skew, c.Cost, o)
	}
	late := ceilDiv(l.Cap-v, l.N) + skew - c.MaxDelay
	if late <= 0 {
		return bucketStep(c.Op, l, v, skew, c.Cost, o)
	}
	bucketStep(headgate.Peek, l, v, skew, c.Cost, o)
	o.Allowed, o.Delay = false, 0
	if !o.Never {
		o.RetryAfter = max(o.RetryAfter, duration(late))
	}
	return v
}

// bucketStep is bucketCall for whom no delay is too long.
func bucketStep(op headgate.Op, l *headgate.Prepared, v, skew, cost int64, o *headgate.Outcome) int64 {
	switch op {
	case headgate.Take, headgate.Peek:
		if cost > l.Burst {
			o.Allowed, o.Never = false, true
			break
		}
		c := cost * l.P
		if cost > 0 && v < c {
			o.Allowed = false
			o.RetryAfter = duration(ceilDiv(c-v, l.N) + skew)
			break
		}
		if l.Algorithm == headgate.LeakyBucket && v < l.Cap {
			o.Delay = duration(ceilDiv(l.Cap-v, l.N) + skew)
		}
		if op == headgate.Take {
			v -= c
		}
	case headgate.Refund:
		if l.Algorithm == headgate.LeakyBucket {
			break
		}
		if cost > (l.Cap-v)/l.P {
			v = l.Cap
		} else {
			v += cost * l.P
		}
	case headgate.Debit:
		if room := max(0, (v+l.Cap)/l.P); cost > room { // a clock that went back may see it below the deepest debt
			cost = room
		}
		v -= cost * l.P
	case headgate.Settle: // of a bucket without holds
		o.Allowed = false
	}
	o.Limit = l.Burst
	if v >= 0 {
		o.Remaining = v / l.P
		o.Used = l.Burst - o.Remaining
	} else {
		used(o, l.Burst-floorDiv(v, l.P), l.Burst)
	}
	o.ResetAfter = duration(ceilDiv(l.Cap-v, l.N) + skew)
	return v
}

// maxUptime bounds the time over which a packed bucket keeps counting: ten
// years in microseconds.
const maxUptime = 10 * 365 * 24 * 3600 * 1_000_000

// Packable reports whether the bucket can be kept in one word for ten years to
// either side of its origin.
func Packable(l *headgate.Prepared) bool {
	return l.Algorithm == headgate.TokenBucket && l.N <= (1<<62)/maxUptime
}

// PackedRange reports whether t, microseconds since the origin, is within ten
// years of it.
func PackedRange(t int64) bool { return t >= -maxUptime && t <= maxUptime }

// A packed bucket is one word, x = N * (the instant at which it is full), with
// instants in microseconds since an origin that the store chooses: ticks of
// 1/N microsecond, so that x is exact for every rate. It is the same bucket as
// the two-word form as long as instants never decrease, which the store has to
// see to; an earlier instant only ever denies more. A bucket that was never
// seen is any x <= N*t.

// PackedLevel returns the level at t of the bucket packed in x.
func PackedLevel(l *headgate.Prepared, x, t int64) int64 {
	if behind := x - l.N*t; behind > 0 {
		return l.Cap - behind
	}
	return l.Cap
}

// Pack returns the word for a bucket of level v at t.
func Pack(l *headgate.Prepared, v, t int64) int64 { return l.N*t + l.Cap - v }

// PackedApply is [Apply] on a packed bucket, which has no reservations and gets
// none: it returns the word after op.
func PackedApply(op headgate.Op, l *headgate.Prepared, x, t, cost int64, o *headgate.Outcome) int64 {
	*o = headgate.Outcome{Allowed: true}
	v := PackedLevel(l, x, t)
	next := bucketStep(op, l, v, 0, cost, o)
	if next == v {
		return x
	}
	return Pack(l, next, t)
}

// PackedTake takes cost from the bucket packed in x at t. It returns the word
// after and whether the bucket held the cost: what [PackedApply] of a Take does,
// without the outcome.
func PackedTake(l *headgate.Prepared, x, t, cost int64) (next int64, allowed bool) {
	if cost > l.Burst {
		return x, false
	}
	if cost == 0 {
		return x, true
	}
	full := l.N * t
	next = max(x, full) + cost*l.P
	if next-full > l.Cap {
		return x, false
	}
	return next, true
}

// Unpack writes the two-word state of the bucket packed in x.
func Unpack(l *headgate.Prepared, st []int64, x, t, now int64) {
	st[bucketLevel], st[bucketAt] = PackedLevel(l, x, t), now
}

// PackWords packs a bucket kept in two words, without reservations, for a store of
// the origin.
func PackWords(l *headgate.Prepared, st []int64, origin int64) int64 {
	return Pack(l, st[bucketLevel], st[bucketAt]-origin)
}

// Repack packs a bucket kept in words, as it stands at t, which is now. It
// reports false if the bucket cannot be packed or has reservations open.
func Repack(l *headgate.Prepared, st []int64, t, now int64) (x int64, ok bool) {
	h := reservations(st, bucketWords)
	if !Packable(l) || st[bucketAt] > now || h.last() > now {
		return 0, false
	}
	full := tideOf(l, st, h)
	full.rise(now)
	return Pack(l, full.v, t), true
}
