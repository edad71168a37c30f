package algo

import "github.com/headgate/headgate"

// ConvertWords returns the number of words that [Convert] needs for dst.
func ConvertWords(old, l *headgate.Prepared, src []int64) int {
	n := Words(l)
	if old.Algorithm == l.Algorithm && (l.Algorithm == headgate.SlidingLog || l.Algorithm == headgate.Concurrency) {
		return max(n, len(src))
	}
	return n
}

// Convert carries the state src, kept under old, over to l at now. A bucket
// keeps its level in whole tokens, up to its new capacity; windows, logs and
// quotas keep what was used; holds and bans stay as they are. Between different
// algorithms what was used is charged anew. Nothing is ever gained: a level
// does not rise, a count does not fall. dst must not overlap src.
func Convert(old, l *headgate.Prepared, dst, src []int64, now int64) {
	Init(l, dst, now)
	switch a := l.Algorithm; {
	case bucket(old.Algorithm) && bucket(a):
		v, at := level(old, src, now)
		tokens := floorDiv(v, old.P)
		dst[bucketAt] = at
		dst[bucketLevel] = l.Cap
		if tokens < l.Burst {
			dst[bucketLevel] = max(-l.Burst, tokens) * l.P
		}
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
	case a == headgate.SlidingWindow:
		var o headgate.Outcome
		Apply(headgate.Peek, old, src, now, 0, 0, &o)
		Apply(headgate.Debit, l, dst, now, o.Used, 0, &o)
	case a == headgate.SlidingLog:
		logGrow(dst, src)
	case a == headgate.Quota:
		if now < src[quotaEnd] {
			dst[quotaUsed] = src[quotaUsed]
			dst[quotaCarry] = min(l.Rollover, src[quotaCarry])
		}
	case a == headgate.Concurrency:
		copy(dst, src)
	case a == headgate.Ban:
		dst[banUntil] = src[banUntil]
		_, sum := slotsSum(src[banSlots:], headgate.BanSlices, old.SliceMicros, now)
		dst[banSlots+slotIndex(dst[banSlots+slotNewest], headgate.BanSlices)] = min(sum, l.Count-1)
	}
}

func bucket(a headgate.Algorithm) bool {
	return a == headgate.TokenBucket || a == headgate.LeakyBucket
}
