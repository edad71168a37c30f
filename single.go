package headgate

import "time"

// Single is implemented by stores that decide one charge faster than a batch of
// one. A [Limiter] of one limit asks it first.
type Single interface {
	// One decides as [Store.Apply] does for a batch of one charge of l, a token
	// bucket, at the present instant. op is Take or Peek, cost 0 to MaxInt. It
	// returns the level afterwards in units of 1/P token, below 0 for a debt.
	// It may decline, ok being false, for any limit; nothing has moved then.
	One(op Op, l *Prepared, owner string, cost int64) (level int64, allowed, ok bool)
}

// Pinner is implemented by stores that can keep a key's state at hand.
type Pinner interface {
	// Pin returns the state of l for owner, to be closed by the caller. It
	// reports false for limits that cannot be kept so.
	Pin(l *Prepared, owner string) (Cell, bool)
}

// Cell is the state of one token bucket for one owner, kept at hand: the same
// budget that batches spend from. It may decline, ok being false, and nothing has
// moved then: the caller asks with a batch. cost is 0 to MaxInt. A Cell is safe
// for concurrent use.
type Cell interface {
	// Allow takes cost and reports whether it passed. Where processors contend
	// it may spend what was taken ahead for one of them: while o tokens are
	// taken ahead and not spent, the bucket refills to its capacity less o. now
	// is as in Batch.Now; at an instant given nothing is taken ahead.
	Allow(cost, now int64) (allowed, ok bool)
	// Decide does a Take or Peek and answers as [Single] does. It first hands
	// back what is taken ahead.
	Decide(op Op, cost int64) (level int64, allowed, ok bool)
	// Close hands the state back to the store. To be called once, by who called
	// Pin, and after all other calls.
	Close()
}

// bucket makes d, which is zero, what [Batch.Decision] is for a batch of one
// charge: a Take or Peek of cost that left a token bucket at level v.
func (d *Decision) bucket(l *Prepared, v, cost int64, allowed bool) {
	d.Allowed, d.Reason, d.Retryable = allowed, OK, true
	d.Limit = l.Burst
	d.ResetAfter = time.Duration(ceilDiv(l.Cap-v, l.N)) * time.Microsecond
	if v > 0 {
		d.Remaining = v / l.P
	}
	switch {
	case allowed:
	case cost > l.Burst:
		d.Reason, d.Retryable = CostExceedsLimit, false
	default:
		d.Reason = RateLimited
		d.RetryAfter = time.Duration(ceilDiv(cost*l.P-v, l.N)) * time.Microsecond
	}
}

// ceilDiv divides a >= 0 by b > 0.
func ceilDiv(a, b int64) int64 {
	if b == 1 {
		return a
	}
	return (a + b - 1) / b
}
