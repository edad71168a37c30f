package algo

import (
	"math/bits"

	"github.com/headgate/headgate"
)

// A fixed window's state: where the window ends and what it holds.
const (
	fixedEnd = iota
	fixedUsed
	fixedWords
)

func windowEnd(now, width int64) int64 { return (floorDiv(now, width) + 1) * width }

func fixedApply(op headgate.Op, l *headgate.Prepared, st []int64, now, cost int64, o *headgate.Outcome) {
	end, n := st[fixedEnd], st[fixedUsed]
	if now >= end {
		end, n = windowEnd(now, l.WindowMicros), 0
	}
	n = countStep(op, n, cost, l.Count, end-now, o)
	o.ResetAfter = duration(end - now)
	if op != headgate.Peek && o.Allowed {
		st[fixedEnd], st[fixedUsed] = end, n
	}
}

// countStep does op on a counter of limit that starts anew after left
// microseconds, and returns the counter after it.
func countStep(op headgate.Op, n, cost, limit, left int64, o *headgate.Outcome) int64 {
	switch op {
	case headgate.Take, headgate.Peek:
		switch {
		case cost == 0:
		case cost > limit:
			o.Allowed, o.Never = false, true
		case cost > limit-n:
			o.Allowed, o.RetryAfter = false, duration(left)
		case op == headgate.Take:
			n += cost
		}
	case headgate.Refund:
		n = max(0, n-cost)
	case headgate.Debit:
		n = min(headgate.MaxInt, n+cost)
	}
	used(o, n, limit)
	return n
}

// The classic sliding window's state: the index of the current window, and
// what the one before it and it itself hold.
const (
	classicIndex = iota
	classicPrev
	classicCur
	classicWords
)

// classicApply estimates what the last Period holds as the current window and
// the share of the previous one that the period still covers:
// prev*(W-elapsed)/W + cur, compared without division in 128 bits.
func classicApply(op headgate.Op, l *headgate.Prepared, st []int64, now, cost int64, o *headgate.Outcome) {
	w := l.WindowMicros
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
	switch op {
	case headgate.Take, headgate.Peek:
		switch room := l.Count - cur - cost; {
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost == 0:
		case room >= 0 && covers(room, w, prev, w-elapsed):
			if op == headgate.Take {
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
		cur = max(0, cur-cost)
	case headgate.Debit:
		cur = min(headgate.MaxInt, cur+cost)
	}
	used(o, min(headgate.MaxInt, cur+mulDivCeil(prev, w-elapsed, w)), l.Count)
	switch {
	case cur > 0:
		o.ResetAfter = duration((index+2)*w - now)
	case prev > 0:
		o.ResetAfter = duration((index+1)*w - now)
	}
	if op != headgate.Peek && o.Allowed {
		st[classicIndex], st[classicPrev], st[classicCur] = index, prev, cur
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
