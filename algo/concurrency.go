package algo

import (
	"math"

	"github.com/headgate/headgate"
)

// slots is the state of a concurrency limit: what is held, nothing else. Slots
// that were taken without a hold have the id 0.
func slots(st []int64) holds { return holds{st, slotWidth} }

func slotsApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	h, now, cost := slots(st), c.Now, c.Cost
	ended, weight := h.ended(now)
	sum := st[holdsSum] - weight
	until := now + l.TTLMicros
	if c.HoldFor > 0 {
		until = now + c.HoldFor
	}
	switch c.Op {
	case headgate.Take, headgate.Peek:
		switch {
		case cost == 0:
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost > l.Count-sum:
			o.Allowed = false
			o.RetryAfter = duration(slotsFree(h, ended, sum+cost-l.Count) - now)
		case c.Op == headgate.Take:
			h.drop(ended, weight)
			h.insert(int64(c.Hold), until, cost, 0)
			sum += cost
		}
	case headgate.Release, headgate.Settle, headgate.Renew:
		if c.Op != headgate.Release && h.find(c.Hold, now) < 0 {
			o.Allowed = false
			break
		}
		h.drop(ended, weight)
		weight = h.removeAll(c.Hold)
		if c.Op == headgate.Renew {
			h.insert(int64(c.Hold), until, weight, 0)
		}
		sum = st[holdsSum]
	}
	used(o, sum, l.Count)
	if sum > 0 {
		o.ResetAfter = duration(h.last() - now)
	}
}

// slotsFree returns the instant at which holds of weight excess, from the one at
// place from on, have ended.
func slotsFree(h holds, from, excess int64) int64 {
	for i := from; i < h.len(); i++ {
		x := h.at(i)
		if excess -= x[holdAmount]; excess <= 0 {
			return x[holdUntil]
		}
	}
	return math.MaxInt64
}
