package algo

import (
	"math"
	"slices"

	"github.com/headgate/headgate"
)

// Budget is one budget as a store that is shared keeps it: its state, under
// which numbers and in which incarnation of the store it was written, and what
// of it is leased out. The zero value was never seen. A store loads a budget
// before it does anything else with it, and works on a copy where it may have to
// leave the record as it was.
type Budget struct {
	// Limit has the numbers that Words are kept under; nil if it was never seen.
	Limit *headgate.Prepared
	Words []int64
	// Keep is the instant before which the record may not be forgotten, because
	// it was kept under other numbers before; 0 is none.
	Keep int64
	// Epoch is the incarnation of the store in which the record was written.
	Epoch uint64
	// Leases are the accounts of those that hold tokens of this budget. While
	// there are any, a hold named [LeaseHold] stands in Words.
	Leases []Lease
}

// Clone returns a copy that shares nothing with b but the limit.
func (b *Budget) Clone() Budget {
	c := *b
	c.Words, c.Leases = slices.Clone(b.Words), slices.Clone(b.Leases)
	return c
}

// Absent returns the instant from which the record is absent, whether it was
// swept or not: under all the numbers that it was kept under.
func (b *Budget) Absent() int64 {
	if b.Limit == nil {
		return math.MinInt64
	}
	return max(b.Keep, AbsentAt(b.Limit, b.Words))
}

// Load makes b the budget under l at now, in the incarnation e of the store.
//
// A record that is absent becomes that of a budget that was never seen. Where
// tokens of an earlier incarnation may have been spent unseen (e.Since is not 0),
// the level of such a bucket is 0 at e.Since. A record of another incarnation may
// have lost writes: its leases are forgotten, and a bucket goes on at e.Since
// with nothing, not even what its reservations may give back. A record under other
// numbers is converted.
//
// fresh says that the record was absent, and other that it was converted. Unless
// the charge then moves it, or refuses though it might pass later, a store leaves
// its record of an other one as it was, and keeps none of a fresh one.
func (b *Budget) Load(l *headgate.Prepared, now int64, e headgate.Epoch) (fresh, other bool) {
	if now >= b.Absent() {
		b.init(l, now, e)
		return true, false
	}
	if b.Epoch != e.ID {
		b.recover(e)
	}
	old := b.Limit
	b.Limit = l
	if old.SameNumbers(l) {
		return false, false
	}
	b.Keep = max(b.Keep, AbsentAt(old, b.Words))
	words := make([]int64, ConvertWords(old, l, b.Words))
	Convert(old, l, words, b.Words, now)
	b.Words = words
	if leasesEnd(old, l) {
		b.forgetLeases()
	}
	return false, true
}

func (b *Budget) init(l *headgate.Prepared, now int64, e headgate.Epoch) {
	*b = Budget{Limit: l, Words: make([]int64, Words(l)), Epoch: e.ID}
	Init(l, b.Words, now)
	if e.Since > 0 && bucket(l.Algorithm) {
		b.Words[bucketLevel], b.Words[bucketAt] = 0, e.Since
	}
}

// recover makes b what can be relied on after writes may have been lost. A bucket
// and its reservations together have nothing at e.Since, when every earlier lease
// has run out: a settlement that was lost may come again, and must not give back
// twice. This is a function of the record and the epoch alone, so that a store
// need not write it.
func (b *Budget) recover(e headgate.Epoch) {
	b.Epoch = e.ID
	b.forgetLeases()
	if bucket(b.Limit.Algorithm) {
		depleteBucket(b.Limit, b.Words, e.Since)
	}
}

// Apply is [Apply] on a budget that was loaded, which grows as the call needs it
// to. Windows, logs and quotas refuse before e.Since, as what of them was lost is
// still being spent. Apply reports false, and does nothing, if as many
// reservations are open as may be.
func (b *Budget) Apply(c *Call, e headgate.Epoch, o *headgate.Outcome) bool {
	n := Need(c, b.Limit, b.Words)
	if n == Full {
		return false
	}
	if n > len(b.Words) {
		words := make([]int64, n)
		Grow(c, b.Limit, words, b.Words)
		b.Words = words
	}
	if b.closed(c, e) {
		peek := *c
		peek.Op = headgate.Peek
		Apply(&peek, b.Limit, b.Words, o)
		o.Allowed = false
		if !o.Never {
			o.RetryAfter = max(o.RetryAfter, duration(e.Since-c.Now))
		}
	} else {
		Apply(c, b.Limit, b.Words, o)
	}
	o.Leased = b.leased(c.Now)
	o.Recovering = !o.Allowed && !o.Never && (c.Op == headgate.Take || c.Op == headgate.Peek) && Recovering(b.Limit, c.Now, e)
	return true
}

// closed reports whether the budget refuses the call because it comes before
// e.Since.
func (b *Budget) closed(c *Call, e headgate.Epoch) bool {
	if c.Now >= e.Since || c.Cost == 0 || c.Op != headgate.Take && c.Op != headgate.Peek {
		return false
	}
	switch b.Limit.Algorithm {
	case headgate.FixedWindow, headgate.SlidingWindow, headgate.SlidingLog:
		return true
	case headgate.Quota:
		return !b.Limit.Soft
	default:
		return false
	}
}

// Recovering reports whether a refusal by the limit may be due to an incarnation of
// the store that began a short while ago, and not to what its owner did: windows are
// closed before e.Since, and a bucket that was empty then is not full again yet. It
// must not count towards a ban.
func Recovering(l *headgate.Prepared, now int64, e headgate.Epoch) bool {
	switch {
	case e.Since == 0 || l.Algorithm >= headgate.Concurrency:
		return false
	case bucket(l.Algorithm):
		return now-e.Since < ceilDiv(l.Cap, l.N)
	default:
		return now < e.Since
	}
}

// Reset makes b, which was loaded, a budget that was never seen, but for what is
// leased out: that stays held, and what is left is the capacity less that. A
// store need not keep the record if there are no Leases.
func (b *Budget) Reset(now int64, e headgate.Epoch) {
	if len(b.Leases) == 0 {
		b.init(b.Limit, now, e)
		return
	}
	s := b.settle(now)
	leases, out := b.Leases, b.outstanding()
	if out == 0 {
		b.init(b.Limit, now, e)
		return
	}
	until := b.holds().at(b.lent(s.now))[holdUntil]
	b.init(b.Limit, s.now, e)
	b.Leases = leases
	b.insertLease(until, out, s.tag)
	if l, st := b.Limit, b.Words; l.Algorithm == headgate.TokenBucket {
		t := tideOf(l, st, b.holds())
		st[bucketLevel] = min(st[bucketLevel], t.ceiling())
		return
	}
	b.charge(out)
}
