package algo_test

import (
	"math/big"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// The reference is written from the definitions of the algorithms, not from the
// code: plain lists of what happened, big integers, and no formula for any
// wait. A model only says whether a cost passes at an instant and whether its
// state is spent by then; a wait is right if the instant that it names passes
// and the microsecond before does not.
//
// What all models share: a Peek and a refusal leave no trace, not even of
// their instant. An instant before the latest one that a state has noted is
// taken for that one.

// ref is the model of one budget.
type ref interface {
	// do returns what the operation comes to; its waits are left 0.
	do(c algo.Call) headgate.Outcome
	// passes reports whether cost would pass at t if nobody else came.
	passes(t, cost int64) bool
	// spent reports whether what an answer given at now tells of is over at t:
	// nothing used is left, or the window has ended.
	spent(now, t int64) bool
	// noted is the latest instant that the state has noted.
	noted() int64
	// used is what counts at t, in whole tokens.
	used(t int64) int64
}

func newRef(l *headgate.Prepared, now int64) ref {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return newRefBucket(l, now)
	case headgate.FixedWindow:
		return &refFixed{limit: l.Count, width: l.Period.Microseconds(), window: floor(now, l.Period.Microseconds())}
	case headgate.SlidingWindow:
		width := l.Period.Microseconds()
		if l.Slices == 1 {
			return &refClassic{limit: l.Count, width: width, window: floor(now, width), counts: map[int64]int64{}}
		}
		return &refSliding{limit: l.Count, refSlots: newRefSlots(int64(l.Slices), width/int64(l.Slices), now)}
	case headgate.SlidingLog:
		return &refLog{limit: l.Count, width: l.Period.Microseconds(), last: now}
	case headgate.Quota:
		q := &refQuota{l: l.Limit}
		q.period = q.at(now)
		return q
	case headgate.Concurrency:
		return &refHeld{limit: l.Count, ttl: l.TTL.Microseconds()}
	default:
		slice := (l.Period.Microseconds() + 5) / 6
		return &refBan{limit: l.Count, ttl: l.TTL.Microseconds(), refSlots: newRefSlots(6, slice, now)}
	}
}

// carryRef carries a model over to other numbers, without reservations.
func carryRef(old ref, l *headgate.Prepared, now int64) ref {
	now = max(now, old.noted())
	dst := newRef(l, now)
	switch o := old.(type) {
	case *refBucket:
		if d, ok := dst.(*refBucket); ok {
			level, at := o.levelAt(now)
			// In units of 1/l.P token, rounded down, within the capacity either way.
			unit := big.NewInt(l.P)
			v := floorBig(new(big.Int).Mul(level, unit), o.period)
			if most := big.NewInt(l.Cap); v.Cmp(most) > 0 {
				v = most
			} else if least := new(big.Int).Neg(most); v.Cmp(least) < 0 {
				v = least
			}
			d.level.Mul(v, new(big.Int).Div(d.period, unit))
			d.at = at
			return d
		}
	case *refFixed:
		if d, ok := dst.(*refFixed); ok {
			d.n = o.used(now)
			return d
		}
	case *refSliding:
		if d, ok := dst.(*refSliding); ok && d.k == o.k && d.slice == o.slice {
			d.refSlots = o.refSlots
			return d
		}
	case *refClassic:
		if d, ok := dst.(*refClassic); ok && d.width == o.width {
			d.window, d.counts = o.window, o.counts
			return d
		}
	case *refLog:
		if d, ok := dst.(*refLog); ok {
			d.events, d.last = o.live(now), now
			return d
		}
	case *refQuota:
		if d, ok := dst.(*refQuota); ok {
			_, n, carry := o.roll(now)
			d.n, d.carry = n, min(l.Rollover, carry)
			return d
		}
	case *refHeld:
		if d, ok := dst.(*refHeld); ok {
			d.holds = o.holds
		}
		return dst
	case *refBan:
		if d, ok := dst.(*refBan); ok {
			d.until = o.until
			d.counts[d.newest] = min(o.sum(now), l.Count-1)
		}
		return dst
	}
	dst.do(algo.Call{Op: headgate.Debit, Now: now, Cost: old.used(now)})
	return dst
}

// counted fills in an outcome from what counts against a limit.
func counted(n, limit int64) headgate.Outcome {
	return headgate.Outcome{Allowed: true, Limit: limit, Used: n, Remaining: max(0, limit-n), Overage: max(0, n-limit)}
}

// asked reports whether a cost passes a counter of n, and whether it never can.
func asked(n, cost, limit int64) (allowed, never bool) {
	switch {
	case cost == 0:
		return true, false
	case cost > limit:
		return false, true
	}
	return n+cost <= limit, false
}

func asks(op headgate.Op) bool { return op == headgate.Take || op == headgate.Peek }

// refFixed counts in one window since the epoch.
type refFixed struct {
	refHolds
	limit, width, window, n int64
}

func (f *refFixed) noted() int64 { return f.window * f.width }

func (f *refFixed) used(t int64) int64 {
	if floor(t, f.width) > f.window {
		return 0
	}
	return f.n
}

func (f *refFixed) passes(t, cost int64) bool { return f.used(t)+cost <= f.limit }

func (f *refFixed) spent(now, t int64) bool {
	return floor(t, f.width) > max(f.window, floor(now, f.width))
}

func (f *refFixed) do(c algo.Call) headgate.Outcome {
	op, now, cost := c.Op, c.Now, c.Cost
	n := f.used(now)
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(n, cost, f.limit)
	}
	window := max(f.window, floor(now, f.width))
	at := max(now, window*f.width)
	if op == headgate.Settle || op == headgate.Renew {
		n, allowed = f.settle(c, at, window, n)
	} else if allowed {
		n = moved(op, n, cost, f.unrefunded(op, window, at))
	}
	if allowed && op != headgate.Peek {
		f.window, f.n = window, n
		f.reserve(c, at, cost, window)
	}
	o := counted(n, f.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// moved is a counter of n after an operation that is allowed. What is held of it
// no refund reaches.
func moved(op headgate.Op, n, cost, held int64) int64 {
	switch op {
	case headgate.Take, headgate.Debit:
		return min(headgate.MaxInt, n+cost)
	case headgate.Refund:
		return max(held, n-cost)
	}
	return n
}

// refSlots counts events by slot; at t those of the current slot and of the k
// before it count.
type refSlots struct {
	k, slice, newest int64
	counts           map[int64]int64
}

func newRefSlots(k, slice, now int64) refSlots {
	return refSlots{k: k, slice: slice, newest: floor(now, slice), counts: map[int64]int64{}}
}

func (s *refSlots) slot(t int64) int64 { return max(s.newest, floor(t, s.slice)) }

func (s *refSlots) sum(t int64) int64 {
	var n int64
	for i, c := range s.counts {
		if i >= s.slot(t)-s.k {
			n += c
		}
	}
	return n
}

func (s *refSlots) note(t int64) {
	s.newest = s.slot(t)
	for i, c := range s.counts {
		if c == 0 || i < s.newest-s.k {
			delete(s.counts, i)
		}
	}
}

type refSliding struct {
	refHolds
	refSlots
	limit int64
}

func (s *refSliding) noted() int64              { return s.newest * s.slice }
func (s *refSliding) used(t int64) int64        { return s.sum(t) }
func (s *refSliding) passes(t, cost int64) bool { return s.sum(t)+cost <= s.limit }
func (s *refSliding) spent(_, t int64) bool     { return s.sum(t) == 0 }

func (s *refSliding) do(c algo.Call) headgate.Outcome {
	op, now, cost := c.Op, c.Now, c.Cost
	sum := s.sum(now)
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(sum, cost, s.limit)
	}
	at := max(now, s.slot(now)*s.slice)
	if allowed {
		s.reserve(c, at, cost, s.slot(now))
	}
	switch {
	case op == headgate.Take && allowed && cost > 0:
		s.note(now)
		s.counts[s.newest] += cost
	case op == headgate.Settle, op == headgate.Renew:
		var h reservation
		if h, allowed = s.end(c, at); !allowed || op == headgate.Renew {
			break
		}
		switch {
		case cost > h.n:
			s.note(now)
			s.counts[s.newest] += min(cost-h.n, headgate.MaxInt-sum)
		case cost < h.n && !h.lost && h.tag >= s.slot(now)-s.k:
			s.note(now)
			s.counts[h.tag] -= h.n - cost
		}
	case op == headgate.Debit:
		s.note(now)
		s.counts[s.newest] += min(cost, headgate.MaxInt-sum)
	case op == headgate.Refund:
		s.note(now)
		s.prune(at)
		for i := s.newest - s.k; i <= s.newest; i++ {
			n := min(cost, s.counts[i]-s.heldOf(i, at))
			s.counts[i] -= n
			cost -= n
		}
	}
	o := counted(s.sum(now), s.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// refClassic estimates prev*(W-elapsed)/W + cur.
type refClassic struct {
	refHolds
	limit, width, window int64
	counts               map[int64]int64
}

func (c *refClassic) noted() int64 { return c.window * c.width }

// parts returns prev*(W-elapsed), and cur, as seen at t.
func (c *refClassic) parts(t int64) (share *big.Int, cur int64) {
	t = max(t, c.noted())
	w := floor(t, c.width)
	share = big.NewInt(c.counts[w-1])
	return share.Mul(share, big.NewInt(c.width-(t-w*c.width))), c.counts[w]
}

func (c *refClassic) passes(t, cost int64) bool {
	share, cur := c.parts(t)
	width := big.NewInt(c.width)
	share.Add(share, new(big.Int).Mul(big.NewInt(cur+cost), width))
	return share.Cmp(width.Mul(width, big.NewInt(c.limit))) <= 0
}

func (c *refClassic) spent(_, t int64) bool {
	share, cur := c.parts(t)
	return share.Sign() == 0 && cur == 0
}

func (c *refClassic) used(t int64) int64 {
	share, cur := c.parts(t)
	share.Add(share, big.NewInt(c.width-1))
	return min(headgate.MaxInt, cur+share.Div(share, big.NewInt(c.width)).Int64())
}

func (c *refClassic) do(call algo.Call) headgate.Outcome {
	op, now, cost := call.Op, call.Now, call.Cost
	allowed, never := true, false
	if asks(op) && cost > 0 {
		never = cost > c.limit
		allowed = !never && c.passes(now, cost)
	}
	window := max(c.window, floor(now, c.width))
	at := max(now, window*c.width)
	n := c.counts[window]
	if op == headgate.Settle || op == headgate.Renew {
		n, allowed = c.settle(call, at, window, n)
	} else if allowed {
		n = moved(op, n, cost, c.unrefunded(op, window, at))
	}
	if allowed && op != headgate.Peek {
		c.window = window
		for w := range c.counts {
			if w < c.window-1 {
				delete(c.counts, w)
			}
		}
		if n > 0 {
			c.counts[c.window] = n
		} else {
			delete(c.counts, c.window)
		}
		c.reserve(call, at, cost, window)
	}
	o := counted(c.used(now), c.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// refLog is the list of what was charged.
type refLog struct {
	refHolds
	limit, width, last int64
	events             []event
}

type event struct{ at, n int64 }

func (g *refLog) noted() int64 { return g.last }

func (g *refLog) live(t int64) []event {
	var live []event
	for _, e := range g.events {
		if e.at > max(t, g.last)-g.width {
			live = append(live, e)
		}
	}
	return live
}

func (g *refLog) used(t int64) int64 {
	var n int64
	for _, e := range g.events {
		if e.at > max(t, g.last)-g.width {
			n += e.n
		}
	}
	return n
}

func (g *refLog) passes(t, cost int64) bool { return g.used(t)+cost <= g.limit }
func (g *refLog) spent(_, t int64) bool     { return g.used(t) == 0 }

func (g *refLog) do(c algo.Call) headgate.Outcome {
	op, now, cost := c.Op, c.Now, c.Cost
	sum := g.used(now)
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(sum, cost, g.limit)
	}
	at := max(now, g.last)
	if allowed {
		g.reserve(c, at, cost, at)
	}
	switch {
	case op == headgate.Take && allowed && cost > 0:
		g.add(now, cost)
	case op == headgate.Settle, op == headgate.Renew:
		var h reservation
		if h, allowed = g.end(c, at); !allowed || op == headgate.Renew {
			break
		}
		if cost > h.n {
			g.add(now, min(cost-h.n, headgate.MaxInt-sum))
			break
		}
		if cost < h.n {
			g.note(now)
		}
		if h.lost {
			break
		}
		for i := range g.events {
			if g.events[i].at == h.tag {
				n := min(h.n-cost, g.events[i].n)
				g.events[i].n -= n
				h.n -= n
			}
		}
		g.events = slices.DeleteFunc(g.events, func(e event) bool { return e.n == 0 })
	case op == headgate.Debit:
		g.add(now, min(cost, headgate.MaxInt-sum))
	case op == headgate.Refund:
		g.note(now)
		g.prune(at)
		held := map[int64]int64{}
		for _, e := range g.events {
			held[e.at] += e.n
		}
		for i := range g.events {
			e := &g.events[i]
			n := min(cost, e.n, held[e.at]-g.heldOf(e.at, at))
			e.n -= n
			held[e.at] -= n
			cost -= n
		}
		g.events = slices.DeleteFunc(g.events, func(e event) bool { return e.n == 0 })
	}
	o := counted(g.used(now), g.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// note forgets what has left, and keeps in mind until when.
func (g *refLog) note(now int64) {
	g.events = g.live(now)
	g.last = max(now, g.last)
}

func (g *refLog) add(now, n int64) {
	g.note(now)
	if n > 0 {
		g.events = append(g.events, event{g.last, n})
	}
}

func floor(t, width int64) int64 {
	return floorBig(big.NewInt(t), big.NewInt(width)).Int64()
}

// floorBig divides by b > 0, for which Euclid's division is that to the floor.
func floorBig(a, b *big.Int) *big.Int { return new(big.Int).Div(a, b) }
