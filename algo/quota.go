package algo

import "github.com/headgate/headgate"

// A quota's state: the calendar period it is in, what was used of it, and what
// the period before left over. A reservation's tag is the end of its period.
const (
	quotaLabel = iota
	quotaStart
	quotaEnd
	quotaUsed
	quotaCarry
	quotaWords
)

func quotaInit(l *headgate.Prepared, st []int64, now int64) {
	p := PeriodAt(l.Calendar, now)
	st[quotaLabel], st[quotaStart], st[quotaEnd] = p.Label, p.Start, p.End
}

// rollover returns what a period of limit count+carry leaves to the next.
func rollover(l *headgate.Prepared, used, carry int64) int64 {
	return min(l.Rollover, max(0, l.Count+carry-used))
}

// quotaRoll returns the period that counts at now, what was used of it, and
// what the period before left to it.
func quotaRoll(l *headgate.Prepared, st []int64, now int64) (p Period, n, carry int64) {
	p = Period{Label: st[quotaLabel], Start: st[quotaStart], End: st[quotaEnd]}
	n, carry = st[quotaUsed], st[quotaCarry]
	if now < p.End {
		return p, n, carry
	}
	before := p.Label
	p = PeriodAt(l.Calendar, now)
	if l.Rollover > 0 && n > 0 && Follows(l.Calendar, before, p) {
		return p, 0, rollover(l, n, carry)
	}
	return p, 0, 0
}

func quotaApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	now := c.Now
	p, n, carry := quotaRoll(l, st, now)
	limit := l.Count + carry
	h, seen, before := reservations(st, quotaWords), max(now, p.Start), n
	switch {
	case c.Op == headgate.Settle || c.Op == headgate.Renew:
		n = countSettle(h, c, seen, p.End, n, o)
	case l.Soft && c.Op == headgate.Take:
		n = min(headgate.MaxInt, n+c.Cost)
	case l.Soft && c.Op == headgate.Peek:
	default:
		n = countStep(c, h, seen, p.End, n, limit, o)
		if !o.Allowed {
			quotaNext(l, n, carry, c.Cost, p.End-now, o)
		}
	}
	used(o, n, limit)
	o.ResetAfter = duration(p.End - now)
	o.ResetsAt = p.End
	if c.Op == headgate.Peek || !o.Allowed {
		return
	}
	st[quotaLabel], st[quotaStart], st[quotaEnd] = p.Label, p.Start, p.End
	st[quotaUsed], st[quotaCarry] = n, carry
	if c.Reserves(l.Algorithm) {
		h.add(c, seen, n-before, p.End)
	}
}

// quotaNext says whether a refused cost passes in the next period, whose limit
// depends on what this one leaves to it.
func quotaNext(l *headgate.Prepared, n, carry, cost, left int64, o *headgate.Outcome) {
	limit := l.Count
	if n > 0 {
		limit += rollover(l, n, carry)
	}
	o.Never, o.RetryAfter = cost > limit, 0
	if !o.Never {
		o.RetryAfter = duration(left)
	}
}

func quotaAbsentAt(l *headgate.Prepared, st []int64) int64 {
	if l.Rollover > 0 && st[quotaUsed] > 0 && rollover(l, st[quotaUsed], st[quotaCarry]) > 0 {
		return PeriodAt(l.Calendar, st[quotaEnd]).End
	}
	return st[quotaEnd]
}
