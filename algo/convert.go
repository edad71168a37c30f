package algo

import (
	"math"

	"github.com/headgate/headgate"
)

// ConvertWords returns the number of words that [Convert] needs for dst.
func ConvertWords(old, l *headgate.Prepared, src []int64) int {
	n := Words(l)
	if old.Algorithm == l.Algorithm && (l.Algorithm == headgate.SlidingLog || l.Algorithm == headgate.Concurrency) {
		return max(n, len(src))
	}
	return n
}

// Convert carries the state src, kept under old, over to l at now. A bucket
// keeps its level, up to its new capacity, rounded down by less than the new
// unit of 1/P token; windows, logs and
// quotas keep what was used, in the newest slice where a window's slices change;
// holds and bans stay as they are. Between different algorithms what was used is
// charged anew, but for holds and bans, which use nothing up. Nothing is ever gained: a level
// does not rise, a count does not fall; only a debt is cut to the new capacity.
// dst must not overlap src.
func Convert(old, l *headgate.Prepared, dst, src []int64, now int64) {
	// A clock that went back must not take what was used into a window that
	// ends before the one that it was used in.
	now = max(now, seen(old, src))
	Init(l, dst, now)
	switch a := l.Algorithm; {
	case bucket(old.Algorithm) && bucket(a):
		v, at := level(old, src, now)
		dst[bucketLevel], dst[bucketAt] = rescale(old, l, v), at
	case old.Algorithm != a:
		if old.Algorithm == headgate.Concurrency || old.Algorithm == headgate.Ban {
			return
		}
		var o headgate.Outcome
		Apply(headgate.Peek, old, src, now, 0, 0, &o)
		Apply(headgate.Debit, l, dst, now, o.Used, 0, &o)
	case a == headgate.FixedWindow:
		if now < src[fixedEnd] {
			dst[fixedUsed] = src[fixedUsed]
		}
	case a == headgate.SlidingWindow && old.Slices == l.Slices && old.SliceMicros == l.SliceMicros:
		copy(dst, src)
	case a == headgate.SlidingWindow:
		var o headgate.Outcome
		Apply(headgate.Peek, old, src, now, 0, 0, &o)
		Apply(headgate.Debit, l, dst, now, o.Used, 0, &o)
	case a == headgate.SlidingLog:
		logGrow(dst, src)
		// What has left the old window must not come back in a longer one.
		expired, weight := logExpired(old, dst, now)
		logDrop(dst, expired, weight)
	case a == headgate.Quota:
		_, n, carry := quotaRoll(old, src, now)
		dst[quotaUsed], dst[quotaCarry] = n, min(l.Rollover, carry)
	case a == headgate.Concurrency:
		copy(dst, src)
	case a == headgate.Ban:
		dst[banUntil] = src[banUntil]
		_, sum := slotsSum(src[banSlots:], headgate.BanSlices, old.SliceMicros, now)
		dst[banSlots+slotIndex(dst[banSlots+slotNewest], headgate.BanSlices)] = min(sum, l.Count-1)
	}
}

// rescale carries a level in units of 1/old.P token over to units of 1/l.P, with
// at most the capacity of l in tokens or in debt.
func rescale(old, l *headgate.Prepared, v int64) int64 {
	switch tokens := floorDiv(v, old.P); {
	case tokens >= l.Burst:
		return l.Cap
	case tokens < -l.Burst:
		return -l.Cap
	case v >= 0:
		return mulDiv(v, l.P, old.P)
	default:
		return -mulDivCeil(-v, l.P, old.P)
	}
}

// seen returns the latest instant that the state shows to have been seen.
func seen(l *headgate.Prepared, st []int64) int64 {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return st[bucketAt]
	case headgate.FixedWindow:
		return st[fixedEnd] - l.WindowMicros
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			return st[classicIndex] * l.WindowMicros
		}
		return st[slotNewest] * l.SliceMicros
	case headgate.SlidingLog:
		return st[logLast]
	case headgate.Quota:
		return st[quotaStart]
	case headgate.Ban:
		return st[banSlots+slotNewest] * l.SliceMicros
	default: // Concurrency
		return math.MinInt64
	}
}

func bucket(a headgate.Algorithm) bool {
	return a == headgate.TokenBucket || a == headgate.LeakyBucket
}
