package algo

import "github.com/headgate/headgate"

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
