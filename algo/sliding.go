package algo

import "github.com/headgate/headgate"

// Slots count in k whole slices and the current one: k+1 counters, in a ring.
// Every event of the last k slices' width lies in one of them, so that their
// sum never falls short of the true count. A reservation's tag is the number of
// its slot.
const (
	slotNewest = iota // number of the newest slot: instant / slice width
	slotCounts        // k+1 counters; slot i is at i mod (k+1)
)

func slotIndex(i, k int64) int64 {
	m := i % (k + 1)
	if m < 0 {
		m += k + 1
	}
	return slotCounts + m
}

// slotsSum returns the newest slot as seen at now and the sum of those that
// count then.
func slotsSum(st []int64, k, slice, now int64) (newest, sum int64) {
	newest = max(st[slotNewest], floorDiv(now, slice))
	for i := newest - k; i <= st[slotNewest]; i++ {
		sum += st[slotIndex(i, k)]
	}
	return newest, sum
}

// slotsAdvance forgets the slots that no longer count when newest is current.
func slotsAdvance(st []int64, k, newest int64) {
	if newest-st[slotNewest] > k {
		clear(st[slotCounts : slotCounts+k+1])
	} else {
		for i := st[slotNewest] + 1; i <= newest; i++ {
			st[slotIndex(i, k)] = 0
		}
	}
	st[slotNewest] = newest
}

// slotsEnd returns the instant from which no slot counts.
func slotsEnd(st []int64, k, slice int64) int64 {
	newest := st[slotNewest]
	for i := newest; i >= newest-k; i-- {
		if st[slotIndex(i, k)] > 0 {
			return (i + k + 1) * slice
		}
	}
	return newest * slice
}

func slidingApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	k, slice, now, cost := int64(l.Slices), l.SliceMicros, c.Now, c.Cost
	newest, sum := slotsSum(st, k, slice, now)
	switch c.Op {
	case headgate.Take, headgate.Peek:
		switch {
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost == 0:
		case cost > l.Count-sum:
			o.Allowed = false
			o.RetryAfter = duration(slotsRetry(st, k, slice, newest, sum+cost-l.Count) - now)
		case c.Op == headgate.Take:
			slotsAdvance(st, k, newest)
			st[slotIndex(newest, k)] += cost
			sum += cost
		}
		if o.Allowed && c.Reserves(l.Algorithm) {
			reservations(st, base(l, st)).add(c, max(now, newest*slice), cost, newest)
		}
	case headgate.Refund:
		slotsAdvance(st, k, newest)
		h := reservations(st, base(l, st))
		h.dropEnded(max(now, newest*slice))
		sum -= slotsRefund(st, h, k, newest, cost)
	case headgate.Debit:
		sum += slotsDebit(st, k, newest, sum, cost)
	case headgate.Settle, headgate.Renew:
		change, tag := reservations(st, base(l, st)).apply(c, max(now, newest*slice), o)
		switch {
		case change > 0:
			sum += slotsDebit(st, k, newest, sum, change)
		case change < 0 && tag >= newest-k:
			slotsAdvance(st, k, newest)
			n := &st[slotIndex(tag, k)]
			change = max(change, -*n)
			*n += change
			sum += change
		}
	}
	used(o, sum, l.Count)
	if sum > 0 {
		o.ResetAfter = duration(slotsEnd(st, k, slice) - now)
	}
}

// slotsDebit charges cost without asking and returns what that came to.
func slotsDebit(st []int64, k, newest, sum, cost int64) int64 {
	slotsAdvance(st, k, newest)
	cost = min(cost, headgate.MaxInt-sum)
	st[slotIndex(newest, k)] += cost
	return cost
}

// slotsRetry returns the instant at which slots holding excess have stopped to
// count.
func slotsRetry(st []int64, k, slice, newest, excess int64) int64 {
	for i := newest - k; i <= st[slotNewest]; i++ {
		if excess -= st[slotIndex(i, k)]; excess <= 0 {
			return (i + k + 1) * slice
		}
	}
	return (newest + k + 1) * slice
}

// slotsRefund takes cost out of the oldest slots first, those that stop to
// count soonest, so that the sum never falls below the truth. What is reserved
// stays. It returns what it took.
func slotsRefund(st []int64, h holds, k, newest, cost int64) int64 {
	left := cost
	for i := newest - k; i <= newest && left > 0; i++ {
		c := &st[slotIndex(i, k)]
		n := min(left, *c-h.by(i))
		*c -= n
		left -= n
	}
	return cost - left
}
