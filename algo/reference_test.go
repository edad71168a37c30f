package algo_test

import (
	"math/big"
	"slices"

	"github.com/headgate/headgate"
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
	do(op headgate.Op, now, cost int64, hold uint64) headgate.Outcome
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

// convertRef carries a model over to other numbers, as the doc of Convert says.
func convertRef(old ref, l *headgate.Prepared, now int64) ref {
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
			d.events, d.last = o.live(now), o.last
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
	dst.do(headgate.Debit, now, old.used(now), 0)
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

// refBucket holds its level in units of 1/period token: a microsecond refills
// count of them, whatever divisors the numbers share.
type refBucket struct {
	leaky                     bool
	burst                     int64
	count, period, top, level *big.Int // top is the level of a full bucket
	at                        int64
}

func newRefBucket(l *headgate.Prepared, now int64) *refBucket {
	b := &refBucket{leaky: l.Algorithm == headgate.LeakyBucket, burst: l.Burst, at: now}
	b.count, b.period = big.NewInt(l.Count), big.NewInt(l.Period.Microseconds())
	b.top = new(big.Int).Mul(big.NewInt(l.Burst), b.period)
	b.level = new(big.Int).Set(b.top)
	return b
}

func (b *refBucket) noted() int64 { return b.at }

func (b *refBucket) levelAt(t int64) (*big.Int, int64) {
	v := new(big.Int).Set(b.level)
	if t <= b.at {
		return v, b.at
	}
	v.Add(v, new(big.Int).Mul(b.count, big.NewInt(t-b.at)))
	if v.Cmp(b.top) > 0 {
		v.Set(b.top)
	}
	return v, t
}

func (b *refBucket) passes(t, cost int64) bool {
	v, _ := b.levelAt(t)
	return cost == 0 || v.Cmp(new(big.Int).Mul(big.NewInt(cost), b.period)) >= 0
}

func (b *refBucket) spent(_, t int64) bool {
	v, at := b.levelAt(t)
	return at <= t && v.Cmp(b.top) == 0
}

func (b *refBucket) used(t int64) int64 {
	v, _ := b.levelAt(t)
	return b.burst - floorBig(v, b.period).Int64()
}

// waits returns when what is queued has left a leaky bucket.
func (b *refBucket) waits(now int64) (idle bool, started func(t int64) bool) {
	before := &refBucket{count: b.count, period: b.period, top: b.top}
	before.level, before.at = b.levelAt(now)
	return before.level.Cmp(b.top) == 0, func(t int64) bool { return before.spent(now, t) }
}

func (b *refBucket) do(op headgate.Op, now, cost int64, _ uint64) headgate.Outcome {
	v, at := b.levelAt(now)
	before := new(big.Int).Set(v)
	amount := new(big.Int).Mul(big.NewInt(cost), b.period)
	allowed, never := true, false
	switch {
	case asks(op) && cost > b.burst:
		allowed, never = false, true
	case asks(op) && !b.passes(now, cost):
		allowed = false
	case op == headgate.Take:
		v.Sub(v, amount)
	case op == headgate.Refund && !b.leaky:
		if v.Add(v, amount); v.Cmp(b.top) > 0 {
			v.Set(b.top)
		}
	case op == headgate.Debit:
		// As many whole tokens as the debt has room for.
		room := floorBig(new(big.Int).Add(v, b.top), b.period)
		if room.Cmp(big.NewInt(cost)) > 0 {
			room.SetInt64(cost)
		}
		v.Sub(v, room.Mul(room, b.period))
	}
	if v.Cmp(before) != 0 {
		b.level, b.at = v, at
	}
	o := counted(b.burst-floorBig(v, b.period).Int64(), b.burst)
	o.Allowed, o.Never = allowed, never
	return o
}

// refFixed counts in one window since the epoch.
type refFixed struct{ limit, width, window, n int64 }

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

func (f *refFixed) do(op headgate.Op, now, cost int64, _ uint64) headgate.Outcome {
	n := f.used(now)
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(n, cost, f.limit)
	}
	if allowed {
		n = moved(op, n, cost)
	}
	if allowed && op != headgate.Peek {
		f.window, f.n = max(f.window, floor(now, f.width)), n
	}
	o := counted(n, f.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// moved is a counter of n after an operation that is allowed.
func moved(op headgate.Op, n, cost int64) int64 {
	switch op {
	case headgate.Take, headgate.Debit:
		return min(headgate.MaxInt, n+cost)
	case headgate.Refund:
		return max(0, n-cost)
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
	refSlots
	limit int64
}

func (s *refSliding) noted() int64              { return s.newest * s.slice }
func (s *refSliding) used(t int64) int64        { return s.sum(t) }
func (s *refSliding) passes(t, cost int64) bool { return s.sum(t)+cost <= s.limit }
func (s *refSliding) spent(_, t int64) bool     { return s.sum(t) == 0 }

func (s *refSliding) do(op headgate.Op, now, cost int64, _ uint64) headgate.Outcome {
	sum := s.sum(now)
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(sum, cost, s.limit)
	}
	switch {
	case op == headgate.Take && allowed && cost > 0:
		s.note(now)
		s.counts[s.newest] += cost
	case op == headgate.Debit:
		s.note(now)
		s.counts[s.newest] += min(cost, headgate.MaxInt-sum)
	case op == headgate.Refund:
		s.note(now)
		for i := s.newest - s.k; i <= s.newest; i++ {
			n := min(cost, s.counts[i])
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

func (c *refClassic) do(op headgate.Op, now, cost int64, _ uint64) headgate.Outcome {
	allowed, never := true, false
	if asks(op) && cost > 0 {
		never = cost > c.limit
		allowed = !never && c.passes(now, cost)
	}
	if allowed && op != headgate.Peek {
		c.window = max(c.window, floor(now, c.width))
		for w := range c.counts {
			if w < c.window-1 {
				delete(c.counts, w)
			}
		}
		if n := moved(op, c.counts[c.window], cost); n > 0 {
			c.counts[c.window] = n
		} else {
			delete(c.counts, c.window)
		}
	}
	o := counted(c.used(now), c.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

// refLog is the list of what was charged.
type refLog struct {
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

func (g *refLog) do(op headgate.Op, now, cost int64, _ uint64) headgate.Outcome {
	sum := g.used(now)
	allowed, never := true, false
	if asks(op) {
		allowed, never = asked(sum, cost, g.limit)
	}
	switch {
	case op == headgate.Take && allowed && cost > 0:
		g.add(now, cost)
	case op == headgate.Debit:
		g.add(now, min(cost, headgate.MaxInt-sum))
	case op == headgate.Refund:
		g.events = g.live(now)
		for i := range g.events {
			n := min(cost, g.events[i].n)
			g.events[i].n -= n
			cost -= n
		}
		g.events = slices.DeleteFunc(g.events, func(e event) bool { return e.n == 0 })
	}
	o := counted(g.used(now), g.limit)
	o.Allowed, o.Never = allowed, never
	return o
}

func (g *refLog) add(now, n int64) {
	g.events = g.live(now)
	if n > 0 {
		g.last = max(now, g.last)
		g.events = append(g.events, event{g.last, n})
	}
}

func floor(t, width int64) int64 {
	return floorBig(big.NewInt(t), big.NewInt(width)).Int64()
}

// floorBig divides by b > 0, for which Euclid's division is that to the floor.
func floorBig(a, b *big.Int) *big.Int { return new(big.Int).Div(a, b) }
