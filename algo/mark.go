package algo

import (
	"math/bits"

	"github.com/headgate/headgate"
)

// Horizon is how long, in microseconds, a store that begins after a crash may let
// limits start empty: those that recover within it need no memory of their states.
const Horizon = 10_000_000

// Transient reports whether the limit recovers within [Horizon]: whatever it was
// charged, but for debts and reservations, does not count any more then.
func Transient(l *headgate.Prepared) bool {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return (l.Cap-1)/Horizon < l.N // Cap <= N * Horizon
	case headgate.FixedWindow, headgate.SlidingLog:
		return l.WindowMicros <= Horizon
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			return 2*l.WindowMicros <= Horizon
		}
		return l.WindowMicros+l.SliceMicros <= Horizon
	default:
		return false
	}
}

// marks is how many high-water marks there are at least between nothing and all
// of a limit: a mark stands at most two steps, 1 % of the limit, above what was
// used. Limits below it have a mark at every state.
const marks = 200

// step returns by how many bits a counter of limit n, in any unit, is shifted to
// find the step that it is in; false if each state is a step.
func step(tokens, n int64) (shift int, ok bool) {
	if tokens < marks {
		return 0, false
	}
	return bits.Len64(uint64(n/marks)) - 1, true
}

// lift returns the end of the step after the one that n is in.
func lift(n int64, shift int) int64 { return ((n-1)>>shift + 2) << shift }

// Mark is a bound that a journal has of a state: in the window Label, counters up
// to Top are covered. The zero value covers nothing. For a packed bucket the counter
// is its word, and Label 0.
type Mark struct {
	Label, Top int64
	OK         bool
}

// PackedMark returns the exact mark of a bucket packed in x.
func PackedMark(x int64) Mark { return Mark{Top: x, OK: true} }

// PackedStays reports whether a journal need not hear of a packed bucket's change
// from x to y: both have the same mark ahead of them, or the limit has none.
func PackedStays(l *headgate.Prepared, x, y int64) bool {
	if x == y || Transient(l) {
		return true
	}
	shift, ok := step(l.Burst, l.Cap)
	return ok && (x-1)>>shift == (y-1)>>shift
}

// MarkOf returns the exact mark of a state in words: of the counter that charges go
// to at present, while the others only change with its label. It is zero, which
// covers nothing, for states that have no such counter, or reservations open.
func MarkOf(l *headgate.Prepared, st []int64) Mark {
	label, at := counter(l, st)
	if at < 0 {
		return Mark{}
	}
	return Mark{Label: label, Top: st[at], OK: true}
}

// Ahead returns the mark that goes ahead of an exact one, to the end of the step
// after its own: who spends within these two need not wait for the next mark. A
// counter of nothing stays: it would count longer than the state.
func (m Mark) Ahead(l *headgate.Prepared) Mark {
	if shift, ok := stepOf(l); ok && m.OK && (m.Top != 0 || l.Algorithm == headgate.TokenBucket) {
		m.Top = lift(m.Top, shift)
	}
	return m
}

// stepOf returns the step of a limit in the unit of its marks.
func stepOf(l *headgate.Prepared) (shift int, ok bool) {
	if l.Algorithm == headgate.TokenBucket {
		return step(l.Burst, l.Cap)
	}
	return step(l.Count, l.Count)
}

// Stepped reports whether marks of the limit go ahead of its states.
func Stepped(l *headgate.Prepared) bool {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.FixedWindow, headgate.Quota, headgate.SlidingWindow:
		_, ok := stepOf(l)
		return ok
	default:
		return false
	}
}

// Covers reports whether the mark covers a state of which m2 is the exact mark.
func (m Mark) Covers(m2 Mark) bool { return m.OK && m2.OK && m.Label == m2.Label && m2.Top <= m.Top }

// Lift raises the counter of a state to that of its mark.
func (m Mark) Lift(l *headgate.Prepared, st []int64) {
	if _, at := counter(l, st); at >= 0 && m.OK {
		st[at] = m.Top
	}
}

// counter returns where the counter of the state stands that is charged at present,
// -1 if there is none, and what it belongs to.
func counter(l *headgate.Prepared, st []int64) (label int64, at int) {
	var n int
	switch l.Algorithm {
	case headgate.FixedWindow:
		label, at, n = st[fixedEnd], fixedUsed, fixedWords
	case headgate.Quota:
		label, at, n = st[quotaStart], quotaUsed, quotaWords
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			label, at, n = st[classicIndex], classicCur, classicWords
		} else {
			label, n = st[slotNewest], slotCounts+l.Slices+1
			at = int(slotIndex(label, int64(l.Slices)))
		}
	default:
		return 0, -1
	}
	if reservations(st, n).len() > 0 {
		return 0, -1
	}
	return label, at
}

// Settled takes back from a state what its mark may have gone ahead beyond the
// limit: a bucket is not in debt, and a window not above its count, for that alone.
// Of a bucket that is so at the instant now, when nobody spends from it any more: what
// the mark covers may have been spent until then. A true debt or overage of up to two
// steps is forgiven with it.
func Settled(l *headgate.Prepared, st []int64, now int64) {
	shift, ok := stepOf(l)
	if !ok {
		return
	}
	if l.Algorithm == headgate.TokenBucket {
		switch v, at := level(l, st, now); {
		case v < -l.Cap:
			st[bucketLevel], st[bucketAt] = -l.Cap, at
		case v < 0 && v >= -2<<shift:
			st[bucketLevel], st[bucketAt] = 0, at
		}
		return
	}
	_, at := counter(l, st)
	if at < 0 {
		return
	}
	limit := l.Count
	if l.Algorithm == headgate.Quota {
		limit += st[quotaCarry]
	}
	if st[at] > limit && st[at] <= limit+(2<<shift) {
		st[at] = limit
	}
}

// Reserved reports whether reservations stand in a state, even if they have expired.
func Reserved(l *headgate.Prepared, st []int64) bool {
	return reservable(l.Algorithm) && reservations(st, base(l, st)).len() > 0
}

// Trim returns the words of a state that have to be kept: without room for
// reservations where none are open.
func Trim(l *headgate.Prepared, st []int64) []int64 {
	if reservable(l.Algorithm) && !Reserved(l, st) {
		return st[:base(l, st)]
	}
	return st
}

// Deplete returns the state with nothing left at the instant: what a limit may have
// been charged unseen until then. What cannot be told is the worst. A soft quota,
// which refuses nothing, and bans and remembered requests stay as they are.
func Deplete(l *headgate.Prepared, st []int64, at int64) []int64 {
	call := Call{Op: headgate.Peek, Now: at}
	var o headgate.Outcome
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		depleteBucket(l, st, at)
		return st
	case headgate.Ban, headgate.Idempotency:
		return st
	case headgate.Concurrency:
		Apply(&call, l, st, &o)
		call.Op, call.Cost = headgate.Take, o.Remaining
	default:
		if l.Soft {
			return st
		}
		Apply(&call, l, st, &o)
		call.Op, call.Cost = headgate.Debit, o.Remaining
	}
	if call.Cost != 0 {
		if n := Need(&call, l, st); n > len(st) {
			words := make([]int64, n)
			Grow(&call, l, words, st)
			st = words
		}
		Apply(&call, l, st, &o)
	}
	if reservable(l.Algorithm) {
		if h := reservations(st, base(l, st)); h.len() > 0 {
			h.drop(h.len(), h.w[holdsSum])
		}
	}
	return st
}

// depleteBucket leaves a bucket and its reservations together nothing at the
// instant: a settlement that was lost may come again, and must not give back twice.
func depleteBucket(l *headgate.Prepared, st []int64, at int64) {
	st[bucketAt] = max(st[bucketAt], at)
	t := tideOf(l, st, reservations(st, bucketWords))
	st[bucketLevel] = min(t.v, max(-l.Cap, t.ceiling()-l.Cap))
}
