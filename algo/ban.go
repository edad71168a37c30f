package algo

import "github.com/headgate/headgate"

// A ban's state: until when it holds, and the slots that count denials.
const (
	banUntil = iota
	banSlots
)

func banApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	now, until := c.Now, st[banUntil]
	_, sum := slotsSum(st[banSlots:], headgate.BanSlices, l.SliceMicros, now)
	used(o, min(sum, l.Count), l.Count)
	if now < until {
		o.Used, o.Remaining = l.Count, 0
		if c.Op == headgate.Take || c.Op == headgate.Peek {
			o.Allowed, o.RetryAfter = false, duration(until-now)
		}
	}
	o.ResetAfter = duration(banAbsentAt(l, st) - now)
}

// CountDenial counts one denial towards the ban at now, and starts the ban when
// there are enough of them. While a ban holds, nothing counts: it would never
// end.
func CountDenial(l *headgate.Prepared, st []int64, now int64) {
	if now < st[banUntil] {
		return
	}
	slots := st[banSlots:]
	newest, sum := slotsSum(slots, headgate.BanSlices, l.SliceMicros, now)
	if sum+1 >= l.Count {
		clear(slots)
		slots[slotNewest] = newest
		st[banUntil] = now + l.TTLMicros
		return
	}
	slotsAdvance(slots, headgate.BanSlices, newest)
	slots[slotIndex(newest, headgate.BanSlices)]++
}

func banAbsentAt(l *headgate.Prepared, st []int64) int64 {
	return max(st[banUntil], slotsEnd(st[banSlots:], headgate.BanSlices, l.SliceMicros))
}
