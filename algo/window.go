package algo

import (
	"math/bits"

	"github.com/headgate/headgate"
)

// A fixed window's state: where the window ends and what it holds. A
// reservation's tag is the end of its window.
const (
	fixedEnd = iota
	fixedUsed
	fixedWords
)

func windowEnd(now, width int64) int64 { return (floorDiv(now, width) + 1) * width }

func fixedApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	end, n := st[fixedEnd], st[fixedUsed]
	if c.Now >= end {
		end, n = windowEnd(c.Now, l.WindowMicros), 0
	}
	h, seen := reservations(st, fixedWords), max(c.Now, end-l.WindowMicros)
	if c.Op == headgate.Settle || c.Op == headgate.Renew {
		n = countSettle(h, c, seen, end, n, o)
	} else {
		n = countStep(c, h, seen, end, n, l.Count, o)
	}
	used(o, n, l.Count)
	o.ResetAfter = duration(end - c.Now)
	if c.Op == headgate.Peek || !o.Allowed {
		return
	}
	st[fixedEnd], st[fixedUsed] = end, n
	if c.Reserves(l.Algorithm) {
		h.add(c, seen, c.Cost, end)
	}
}

// countStep does a call at now on a counter of limit that starts anew at end, and
// returns the counter after it.
func countStep(c *Call, h holds, now, end, n, limit int64, o *headgate.Outcome) int64 {
	switch c.Op {
	case headgate.Take, headgate.Peek:
		switch {
		case c.Cost == 0:
		case c.Cost > limit:
			o.Allowed, o.Never = false, true
		case c.Cost > limit-n:
			o.Allowed, o.RetryAfter = false, duration(end-c.Now)
		case c.Op == headgate.Take:
			n += c.Cost
		}
	case headgate.Refund:
		h.dropEnded(now)
		n -= min(c.Cost, n-h.by(end))
	case headgate.Debit:
		n = min(headgate.MaxInt, n+c.Cost)
	}
	return n
}

// countSettle does Settle and Renew at now on a counter that starts anew at end,
// the tag of what was reserved from it. It returns the counter after it.
func countSettle(h holds, c *Call, now, end, n int64, o *headgate.Outcome) int64 {
	switch change, tag := h.apply(c, now, o); {
	case change > 0:
		return min(headgate.MaxInt, n+change)
	case tag == end:
		return max(0, n+change)
	}
	return n
}

// The classic sliding window's state: the index of the current window, and
// what the one before it and it itself hold. A reservation's tag is the index of
// its window: only the current one takes credit.
const (
	classicIndex = iota
	classicPrev
	classicCur
	classicWords
)

// classicApply estimates what the last Period holds as the current window and
// the share of the previous one that the period still covers:
// prev*(W-elapsed)/W + cur, compared without division in 128 bits.
func classicApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	w, now, cost := l.WindowMicros, c.Now, c.Cost
	index, prev, cur := st[classicIndex], st[classicPrev], st[classicCur]
	if at := floorDiv(now, w); at > index {
		if at > index+1 {
			cur = 0
		}
		index, prev, cur = at, cur, 0
	}
	elapsed := now - index*w
	skew := int64(0)
	if elapsed < 0 {
		elapsed, skew = 0, -elapsed
	}
	h, seen := reservations(st, classicWords), max(now, index*w)
	switch c.Op {
	case headgate.Take, headgate.Peek:
		switch room := l.Count - cur - cost; {
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost == 0:
		case room >= 0 && covers(room, w, prev, w-elapsed):
			if c.Op == headgate.Take {
				cur += cost
			}
		case room >= 0:
			o.Allowed = false
			o.RetryAfter = duration(w - mulDiv(room, w, prev) - elapsed + skew)
		default:
			// Nothing passes in this window: the next one has cur before it.
			o.Allowed = false
			wait := w - elapsed
			if rest := l.Count - cost; rest < cur {
				wait += w - mulDiv(rest, w, cur)
			}
			o.RetryAfter = duration(wait + skew)
		}
	case headgate.Refund:
		h.dropEnded(seen)
		cur -= min(cost, cur-h.by(index))
	case headgate.Debit:
		cur = min(headgate.MaxInt, cur+cost)
	case headgate.Settle, headgate.Renew:
		cur = countSettle(h, c, seen, index, cur, o)
	}
	used(o, min(headgate.MaxInt, cur+mulDivCeil(prev, w-elapsed, w)), l.Count)
	switch {
	case cur > 0:
		o.ResetAfter = duration((index+2)*w - now)
	case prev > 0:
		o.ResetAfter = duration((index+1)*w - now)
	}
	if c.Op == headgate.Peek || !o.Allowed {
		return
	}
	st[classicIndex], st[classicPrev], st[classicCur] = index, prev, cur
	if c.Reserves(l.Algorithm) {
		h.add(c, seen, cost, index)
	}
}

func classicAbsentAt(l *headgate.Prepared, st []int64) int64 {
	switch {
	case st[classicCur] > 0:
		return (st[classicIndex] + 2) * l.WindowMicros
	case st[classicPrev] > 0:
		return (st[classicIndex] + 1) * l.WindowMicros
	default:
		return st[classicIndex] * l.WindowMicros
	}
}

// covers reports whether a*b >= c*d, none of them negative.
func covers(a, b, c, d int64) bool {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	hi2, lo2 := bits.Mul64(uint64(c), uint64(d))
	return hi > hi2 || hi == hi2 && lo >= lo2
}

// mulDiv returns floor(a*b/c), which must fit, none of them negative, c not 0.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(q)
}

// mulDivCeil returns ceil(a*b/c), which must fit, none of them negative, c not
// 0.
func mulDivCeil(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, r := bits.Div64(hi, lo, uint64(c))
	if r > 0 {
		q++
	}
	return int64(q)
}
