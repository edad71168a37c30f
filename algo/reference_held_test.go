package algo_test

import (
	"math"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// refHeld is the list of slots that are held.
type refHeld struct {
	limit, ttl int64
	holds      []held
}

type held struct {
	id       uint64
	until, n int64
}

func (h *refHeld) noted() int64 { return math.MinInt64 }

func (h *refHeld) live(t int64) []held {
	return slices.DeleteFunc(slices.Clone(h.holds), func(x held) bool { return x.until <= t })
}

func (h *refHeld) used(t int64) int64 {
	var n int64
	for _, x := range h.holds {
		if x.until > t {
			n += x.n
		}
	}
	return n
}

func (h *refHeld) passes(t, cost int64) bool { return h.used(t)+cost <= h.limit }
func (h *refHeld) spent(_, t int64) bool     { return h.used(t) == 0 }

func (h *refHeld) do(c algo.Call) headgate.Outcome {
	op, now, cost, hold := c.Op, c.Now, c.Cost, c.Hold
	until := now + h.ttl
	if c.HoldFor > 0 {
		until = now + c.HoldFor
	}
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(h.used(now), cost, h.limit)
	}
	switch {
	case op == headgate.Take && allowed && cost > 0:
		h.holds = append(h.live(now), held{hold, until, cost})
	case op == headgate.Release, op == headgate.Renew, op == headgate.Settle:
		var n int64
		if op != headgate.Release && !slices.ContainsFunc(h.live(now), func(x held) bool { return x.id == hold && hold != 0 }) {
			allowed = false
			break
		}
		h.holds = slices.DeleteFunc(h.live(now), func(x held) bool {
			if x.id != hold || hold == 0 {
				return false
			}
			n += x.n
			return true
		})
		if op == headgate.Renew {
			h.holds = append(h.holds, held{hold, until, n})
		}
	}
	o := counted(h.used(now), h.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// refBan counts denials in six slots and the current one.
type refBan struct {
	refSlots
	limit, ttl, until int64
}

func (b *refBan) noted() int64              { return b.newest * b.slice }
func (b *refBan) used(t int64) int64        { return b.sum(t) }
func (b *refBan) passes(t, cost int64) bool { return t >= b.until }
func (b *refBan) spent(_, t int64) bool {
	return t >= b.until && b.sum(t) == 0 && t >= b.noted()
}

func (b *refBan) deny(now int64) {
	if now < b.until {
		return
	}
	b.note(now)
	b.counts[b.newest]++
	if b.sum(now) >= b.limit {
		clear(b.counts)
		b.until = now + b.ttl
	}
}

func (b *refBan) do(c algo.Call) headgate.Outcome {
	now := c.Now
	if now < b.until {
		o := counted(b.limit, b.limit)
		o.Allowed = !asks(c.Op)
		return o
	}
	return counted(min(b.limit, b.sum(now)), b.limit)
}
