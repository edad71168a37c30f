package algo_test

import (
	"math/big"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// refBucket holds its level in units of 1/period token: a microsecond refills
// count of them, whatever divisors the numbers share.
type refBucket struct {
	refHolds
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

// levelAt goes from the end of one reservation to the next: each stretch refills
// up to what is not held then.
func (b *refBucket) levelAt(t int64) (*big.Int, int64) {
	v, at := new(big.Int).Set(b.level), b.at
	for at < t {
		to := t
		for _, h := range b.open(at) {
			to = min(to, h.until)
		}
		most := b.most(at)
		v.Add(v, new(big.Int).Mul(b.count, big.NewInt(to-at)))
		if v.Cmp(most) > 0 {
			v.Set(most)
		}
		at = to
	}
	return v, at
}

// most is the level of a bucket that is as full as what is held at t lets it be.
func (b *refBucket) most(t int64) *big.Int {
	most := new(big.Int).Set(b.top)
	if b.leaky {
		return most
	}
	for _, h := range b.open(t) {
		most.Sub(most, new(big.Int).Mul(big.NewInt(h.n), b.period))
	}
	if least := new(big.Int).Neg(b.top); most.Cmp(least) < 0 {
		return least
	}
	return most
}

// starts reports whether what is charged at t need not wait longer than most; 0
// is as long as it takes.
func (b *refBucket) starts(t, most int64) bool {
	v, _ := b.levelAt(t)
	return most == 0 || v.Cmp(b.top) == 0 || b.spent(t, t+most)
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

func (b *refBucket) do(c algo.Call) headgate.Outcome {
	op, cost := c.Op, c.Cost
	v, at := b.levelAt(c.Now)
	before := new(big.Int).Set(v)
	credit := func(n int64) {
		if v.Add(v, new(big.Int).Mul(big.NewInt(n), b.period)); v.Cmp(b.most(at)) > 0 {
			v.Set(b.most(at))
		}
	}
	debit := func(n int64) {
		// As many whole tokens as the debt has room for.
		room := floorBig(new(big.Int).Add(v, b.top), b.period)
		if room.Cmp(big.NewInt(n)) > 0 {
			room.SetInt64(n)
		}
		v.Sub(v, room.Mul(room, b.period))
	}
	allowed, never := true, false
	switch {
	case asks(op) && cost > b.burst:
		allowed, never = false, true
	case asks(op) && !b.passes(c.Now, cost), asks(op) && b.leaky && cost > 0 && !b.starts(c.Now, c.MaxDelay):
		allowed = false
	case op == headgate.Take:
		v.Sub(v, new(big.Int).Mul(big.NewInt(cost), b.period))
		b.reserve(c, at, cost, 0)
	case op == headgate.Refund && !b.leaky:
		credit(cost)
	case op == headgate.Debit:
		debit(cost)
	case op == headgate.Settle, op == headgate.Renew:
		var h reservation
		if h, allowed = b.end(c, at); !allowed || op == headgate.Renew {
			break
		}
		if cost > h.n {
			debit(cost - h.n)
		} else if !b.leaky {
			credit(h.n - cost)
		}
	}
	if v.Cmp(before) != 0 || allowed && (op == headgate.Settle || c.HoldFor > 0 && (op == headgate.Renew || c.Reserves(headgate.TokenBucket))) {
		b.level, b.at = v, at
	}
	o := counted(b.burst-floorBig(v, b.period).Int64(), b.burst)
	o.Allowed, o.Never = allowed, never
	return o
}
