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

// PackedDecision sums up, as [headgate.Batch.Decision] does for a batch of one
// charge, a Take or Peek of cost that left the bucket packed in x at t.
func PackedDecision(l *headgate.Prepared, x, t, cost int64, allowed bool) headgate.Decision {
	v := PackedLevel(l, x, t)
	d := headgate.Decision{
		Allowed:    allowed,
		Reason:     headgate.OK,
		Retryable:  true,
		Limit:      l.Burst,
		ResetAfter: duration(ceilDiv(l.Cap-v, l.N)),
	}
	if v > 0 {
		d.Remaining = v / l.P
	}
	switch {
	case allowed:
	case cost > l.Burst:
		d.Reason, d.Retryable = headgate.CostExceedsLimit, false
	default:
		d.Reason = headgate.RateLimited
		d.RetryAfter = duration(ceilDiv(cost*l.P-v, l.N))
	}
	return d
}
