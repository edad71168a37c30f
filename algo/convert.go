package algo

import (
	"math"

	"github.com/headgate/headgate"
)

// ConvertWords returns the number of words that [Convert] needs for dst.
func ConvertWords(old, l *headgate.Prepared, src []int64) int {
	n := Words(l)
	if old.Algorithm == l.Algorithm {
		switch l.Algorithm {
		case headgate.SlidingLog:
			n = logWords(max(2, src[logLen]))
		case headgate.Concurrency, headgate.Idempotency:
			return max(n, len(src))
		}
	}
	return n + heldWords(old, l, src)
}

// heldWords returns the number of words that the reservations in src need under
// l.
func heldWords(old, l *headgate.Prepared, src []int64) int {
	if !reservable(old.Algorithm) || !reservable(l.Algorithm) {
		return 0
	}
	if n := reservations(src, base(old, src)).len(); n > 0 {
		return holdsWords(tagWidth, n)
	}
	return 0
}

// Convert carries the state src, kept under old, over to l at now. A bucket
// keeps its level, up to its new capacity, rounded down by less than the new
// unit of 1/P token; windows, logs and
// quotas keep what was used, in the newest slice where a window's slices change;
// slots, bans and remembered requests stay as they are. Between different
// algorithms what was used is charged anew, but for slots, bans and requests,
// which use nothing up. Nothing is ever gained: a level does not rise, a count
// does not fall; only a debt is cut to the new capacity. Reservations stay open
// with their amounts in tokens: a bucket's level leaves room for them below its
// new capacity, and one whose window means nothing under the new numbers is
// credited nothing. dst must not overlap src.
func Convert(old, l *headgate.Prepared, dst, src []int64, now int64) {
	// A clock that went back must not take what was used into a window that
	// ends before the one that it was used in.
	now = max(now, seen(old, src))
	Init(l, dst, now)
	kept := heldWords(old, l, src)
	if l.Algorithm == headgate.SlidingLog {
		dst[logRoom] = min(headgate.MaxLog+1, int64(len(dst)-logPairs-kept)/2)
	}
	carry(old, l, dst, src, now)
	if kept > 0 {
		escrow(old, l, dst, src, now)
	}
}

// carry is Convert without reservations.
func carry(old, l *headgate.Prepared, dst, src []int64, now int64) {
	switch a := l.Algorithm; {
	case bucket(old.Algorithm) && bucket(a):
		t := tideOf(old, src, reservations(src, bucketWords))
		t.rise(now)
		dst[bucketLevel], dst[bucketAt] = rescale(old, l, t.v), t.at
	case old.Algorithm != a:
		if reservable(old.Algorithm) {
			recharge(old, l, dst, src, now)
		}
	case a == headgate.FixedWindow:
		if now < src[fixedEnd] {
			dst[fixedUsed] = src[fixedUsed]
		}
	case a == headgate.SlidingWindow && old.Slices == l.Slices && old.SliceMicros == l.SliceMicros:
		copy(dst, src[:base(old, src)])
	case a == headgate.SlidingWindow:
		recharge(old, l, dst, src, now)
	case a == headgate.SlidingLog:
		logMove(dst, src, dst[logRoom])
		// What has left the old window must not come back in a longer one.
		expired, weight := logExpired(old, dst, now)
		logForget(dst, now, expired, weight)
	case a == headgate.Quota:
		_, n, carry := quotaRoll(old, src, now)
		dst[quotaUsed], dst[quotaCarry] = n, min(l.Rollover, carry)
	case a == headgate.Concurrency, a == headgate.Idempotency:
		copy(dst, src)
	case a == headgate.Ban:
		dst[banUntil] = src[banUntil]
		_, sum := slotsSum(src[banSlots:], headgate.BanSlices, old.SliceMicros, now)
		dst[banSlots+slotIndex(dst[banSlots+slotNewest], headgate.BanSlices)] = min(sum, l.Count-1)
	}
}

// recharge charges what old has used to l.
func recharge(old, l *headgate.Prepared, dst, src []int64, now int64) {
	var o headgate.Outcome
	Apply(&Call{Op: headgate.Peek, Now: now}, old, src, &o)
	Apply(&Call{Op: headgate.Debit, Now: now, Cost: o.Used}, l, dst, &o)
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
	default: // Concurrency, Idempotency
		return math.MinInt64
	}
}

func bucket(a headgate.Algorithm) bool {
	return a == headgate.TokenBucket || a == headgate.LeakyBucket
}
