package algo

import (
	"math"
	"time"

	"github.com/headgate/headgate"
)

// Call is one operation on a state. The fields are those of [headgate.Batch] and
// [headgate.Charge] that concern a single limit.
type Call struct {
	Op headgate.Op
	// Now is the instant in microseconds since the Unix epoch.
	Now int64
	// Cost is in tokens, 0 to MaxInt.
	Cost int64
	// Hold names what Take takes and what Release, Renew and Settle mean; 0 is
	// no name.
	Hold uint64
	// HoldFor makes a Take with a Hold a reservation for that many microseconds.
	HoldFor int64
	// MaxDelay, if not 0, is the longest delay of a leaky bucket's charge in
	// microseconds.
	MaxDelay int64
}

// Reserves reports whether the call adds a hold to a limit of the algorithm.
func (c *Call) Reserves(a headgate.Algorithm) bool {
	return c.HoldFor > 0 && c.Hold != 0 && c.Hold != LeaseHold && c.Op == headgate.Take && reservable(a)
}

// Words returns the number of words of a state that was never seen.
func Words(l *headgate.Prepared) int {
	switch l.Algorithm {
	case headgate.SlidingLog:
		return logWords(min(l.Count, 2))
	case headgate.Concurrency:
		return holdsWords(slotWidth, min(l.Count, 2))
	case headgate.Ban:
		return banSlots + slotCounts + headgate.BanSlices + 1
	case headgate.Idempotency:
		return keysWords(1)
	default:
		return base(l, nil)
	}
}

// base returns the number of words before the reservations.
func base(l *headgate.Prepared, st []int64) int {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return bucketWords
	case headgate.FixedWindow:
		return fixedWords
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			return classicWords
		}
		return slotCounts + l.Slices + 1
	case headgate.SlidingLog:
		return logWords(st[logRoom])
	default: // Quota
		return quotaWords
	}
}

// Full is what [Need] returns for a budget that has as many reservations as may
// be open at once.
const Full = -1

// Need returns the number of words that st must have for the call. If it is more
// than len(st), move the state with [Grow]. A Settle does without what it needs,
// at the price of counting some of a sliding log longer.
func Need(c *Call, l *headgate.Prepared, st []int64) int {
	switch l.Algorithm {
	case headgate.SlidingLog:
		return logNeed(c, l, st)
	case headgate.Concurrency:
		if c.Op == headgate.Take && c.Cost > 0 {
			return max(len(st), holdsWords(slotWidth, slots(st).need(c.Now, l.Count)))
		}
	case headgate.Idempotency:
		if c.Op == headgate.Take {
			return keysNeed(l, st, c.Now)
		}
	case headgate.Ban:
	default:
		if c.Reserves(l.Algorithm) {
			n := base(l, st)
			room := reserveRoom(c, l, st, n)
			if room == Full {
				return Full
			}
			return max(len(st), n+holdsWords(tagWidth, room))
		}
	}
	return len(st)
}

// reserveRoom returns how many reservations the state, whose own words are n,
// must have room for to add one, or Full.
func reserveRoom(c *Call, l *headgate.Prepared, st []int64, n int) int64 {
	h, now := reservations(st, n), max(c.Now, seen(l, st))
	if h.len() >= headgate.MaxInFlight {
		if ended, _ := h.ended(now); ended == 0 {
			return Full
		}
	}
	return h.need(now, headgate.MaxInFlight)
}

// Grow moves the state src into dst, which has the words that [Need] said for
// the call, or more.
func Grow(c *Call, l *headgate.Prepared, dst, src []int64) {
	if l.Algorithm == headgate.SlidingLog {
		logGrow(c, l, dst, src)
		return
	}
	clear(dst[copy(dst, src):])
}

// Init makes st the state of a budget that was never seen.
func Init(l *headgate.Prepared, st []int64, now int64) {
	clear(st)
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		st[bucketLevel], st[bucketAt] = l.Cap, now
	case headgate.FixedWindow:
		st[fixedEnd] = windowEnd(now, l.WindowMicros)
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			st[classicIndex] = floorDiv(now, l.WindowMicros)
		} else {
			st[slotNewest] = floorDiv(now, l.SliceMicros)
		}
	case headgate.SlidingLog:
		st[logLast], st[logRoom] = now, int64(len(st)-logPairs)/2
	case headgate.Quota:
		quotaInit(l, st, now)
	case headgate.Ban:
		st[banSlots+slotNewest] = floorDiv(now, l.SliceMicros)
	}
}

// Apply does the call on the state. The state changes only if the operation is
// not Peek and, for Take, Settle and Renew, only if the outcome allows. A Take or
// Debit needs the room that [Need] says. Reset is not among the operations: use
// [Init].
func Apply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	*o = headgate.Outcome{Allowed: true, Limit: l.Count}
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		bucketApply(c, l, st, o)
	case headgate.FixedWindow:
		fixedApply(c, l, st, o)
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			classicApply(c, l, st, o)
		} else {
			slidingApply(c, l, st, o)
		}
	case headgate.SlidingLog:
		logApply(c, l, st, o)
	case headgate.Quota:
		quotaApply(c, l, st, o)
	case headgate.Concurrency:
		slotsApply(c, l, st, o)
	case headgate.Ban:
		banApply(c, l, st, o)
	default: // Idempotency
		keysApply(l, st, c.Now, o)
	}
}

// AbsentAt returns the instant from which the state equals "never seen": not
// before the last reservation has ended.
func AbsentAt(l *headgate.Prepared, st []int64) int64 {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		h := reservations(st, bucketWords)
		if h.len() == 0 {
			return st[bucketAt] + ceilDiv(l.Cap-st[bucketLevel], l.N)
		}
		t := tideOf(l, st, h)
		return max(t.reach(l.Cap), h.last())
	case headgate.Concurrency:
		return slots(st).last()
	case headgate.Ban:
		return banAbsentAt(l, st)
	case headgate.Idempotency:
		return keysAbsentAt(st)
	}
	return max(windowAbsentAt(l, st), reservations(st, base(l, st)).last())
}

func windowAbsentAt(l *headgate.Prepared, st []int64) int64 {
	switch l.Algorithm {
	case headgate.FixedWindow:
		return st[fixedEnd]
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			return classicAbsentAt(l, st)
		}
		return slotsEnd(st, int64(l.Slices), l.SliceMicros)
	case headgate.SlidingLog:
		return logAbsentAt(l, st)
	default: // Quota
		return quotaAbsentAt(l, st)
	}
}

// used counts whole tokens against a limit of count.
func used(o *headgate.Outcome, n, limit int64) {
	o.Limit, o.Used = limit, n
	o.Remaining = max(0, limit-n)
	o.Overage = max(0, n-limit)
}

// duration converts microseconds, at most as long as a Duration can be.
func duration(micros int64) time.Duration {
	if micros > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(max(0, micros)) * time.Microsecond
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ceilDiv divides a, which may be negative, by b > 0.
func ceilDiv(a, b int64) int64 {
	if b == 1 {
		return a
	}
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}
