package algo

import (
	"math"
	"time"

	"github.com/headgate/headgate"
)

// Words returns the number of words of a state that was never seen.
func Words(l *headgate.Prepared) int {
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
		return logWords(min(l.Count, 2))
	case headgate.Quota:
		return quotaWords
	case headgate.Concurrency:
		return heldWords(min(l.Count, 2))
	default: // Ban
		return banSlots + slotCounts + headgate.BanSlices + 1
	}
}

// Need returns the number of words that st must have before a Take or Debit at
// now. If it is more than len(st), move the state with [Grow].
func Need(l *headgate.Prepared, st []int64, now int64) int {
	switch l.Algorithm {
	case headgate.SlidingLog:
		return logNeed(l, st, now)
	case headgate.Concurrency:
		return heldNeed(l, st, now)
	default:
		return len(st)
	}
}

// Grow moves the state src into dst, which is longer.
func Grow(l *headgate.Prepared, dst, src []int64) {
	if l.Algorithm == headgate.SlidingLog {
		logGrow(dst, src)
		return
	}
	copy(dst, src)
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
		st[logLast] = now
	case headgate.Quota:
		quotaInit(l, st, now)
	case headgate.Ban:
		st[banSlots+slotNewest] = floorDiv(now, l.SliceMicros)
	}
}

// Apply does op on the state at now and writes the outcome. The state changes
// only if op is not Peek and, for Take, only if the outcome allows. hold names
// the concurrency slots of Take, Release and Renew. A Take or Debit needs the
// room that [Need] says. Reset is not among the operations: use [Init].
func Apply(op headgate.Op, l *headgate.Prepared, st []int64, now, cost int64, hold uint64, o *headgate.Outcome) {
	*o = headgate.Outcome{Allowed: true, Limit: l.Count}
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		bucketApply(op, l, st, now, cost, o)
	case headgate.FixedWindow:
		fixedApply(op, l, st, now, cost, o)
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			classicApply(op, l, st, now, cost, o)
		} else {
			slidingApply(op, l, st, now, cost, o)
		}
	case headgate.SlidingLog:
		logApply(op, l, st, now, cost, o)
	case headgate.Quota:
		quotaApply(op, l, st, now, cost, o)
	case headgate.Concurrency:
		heldApply(op, l, st, now, cost, hold, o)
	default: // Ban
		banApply(op, l, st, now, o)
	}
}

// AbsentAt returns the instant from which the state equals "never seen".
func AbsentAt(l *headgate.Prepared, st []int64) int64 {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return st[bucketAt] + ceilDiv(l.Cap-st[bucketLevel], l.N)
	case headgate.FixedWindow:
		return st[fixedEnd]
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			return classicAbsentAt(l, st)
		}
		return slotsEnd(st, int64(l.Slices), l.SliceMicros)
	case headgate.SlidingLog:
		return logAbsentAt(l, st)
	case headgate.Quota:
		return quotaAbsentAt(l, st)
	case headgate.Concurrency:
		return heldAbsentAt(st)
	default: // Ban
		return banAbsentAt(l, st)
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
