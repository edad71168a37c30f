package algo

import (
	"math"

	"github.com/headgate/headgate"
)

// The state of a concurrency limit: slots held, each with the id of its hold,
// the instant at which it frees itself, and its weight; ordered by instant.
const (
	heldLen   = iota // number of holds
	heldSum          // sum of their weights
	heldFirst        // where the first of them stands, counted in holds
	heldSlots        // 3 words a hold
)

const heldWidth = 3

func heldWords(n int64) int { return heldSlots + heldWidth*int(n) }

// heldAt returns hold i, counted from the one that expires first.
func heldAt(st []int64, i int64) []int64 {
	at := heldSlots + heldWidth*(st[heldFirst]+i)
	return st[at : at+heldWidth : at+heldWidth]
}

// heldExpired returns how many holds have freed themselves by now, and their
// weight. A hold counts until its instant, exclusive.
func heldExpired(st []int64, now int64) (n, weight int64) {
	for n < st[heldLen] {
		h := heldAt(st, n)
		if h[1] > now {
			break
		}
		weight += h[2]
		n++
	}
	return n, weight
}

func heldNeed(l *headgate.Prepared, st []int64, now int64) int {
	room := int64(len(st)-heldSlots) / heldWidth
	if st[heldLen] < room {
		return len(st)
	}
	if n, _ := heldExpired(st, now); n > 0 {
		return len(st)
	}
	return heldWords(max(room+1, min(2*room, l.Count)))
}

func heldApply(op headgate.Op, l *headgate.Prepared, st []int64, now, cost int64, hold uint64, o *headgate.Outcome) {
	expired, weight := heldExpired(st, now)
	sum := st[heldSum] - weight
	switch op {
	case headgate.Take, headgate.Peek:
		switch {
		case cost == 0:
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost > l.Count-sum:
			o.Allowed = false
			o.RetryAfter = duration(heldRetry(st, expired, sum+cost-l.Count) - now)
		case op == headgate.Take:
			heldDrop(st, expired, weight)
			heldInsert(st, int64(hold), now+l.TTLMicros, cost)
			sum += cost
		}
	case headgate.Release:
		heldDrop(st, expired, weight)
		heldRemove(st, int64(hold))
		sum = st[heldSum]
	case headgate.Renew:
		heldDrop(st, expired, weight)
		w := heldRemove(st, int64(hold))
		if w > 0 {
			heldInsert(st, int64(hold), now+l.TTLMicros, w)
		}
		o.Allowed = w > 0
	}
	used(o, sum, l.Count)
	if sum > 0 {
		o.ResetAfter = duration(heldAbsentAt(st) - now)
	}
}

// heldRetry returns the instant at which holds of weight excess have expired.
func heldRetry(st []int64, from, excess int64) int64 {
	for i := from; i < st[heldLen]; i++ {
		h := heldAt(st, i)
		if excess -= h[2]; excess <= 0 {
			return h[1]
		}
	}
	return math.MaxInt64
}

func heldDrop(st []int64, n, weight int64) {
	st[heldFirst] += n
	st[heldLen] -= n
	st[heldSum] -= weight
	if st[heldLen] == 0 {
		st[heldFirst] = 0
	}
}

// heldInsert adds a hold in order of expiry: nearly always at the end, as the
// ttl is the same for all but those taken before it was changed.
func heldInsert(st []int64, id, until, weight int64) {
	if end := st[heldFirst] + st[heldLen]; heldWords(end+1) > len(st) {
		copy(st[heldSlots:], st[heldSlots+heldWidth*st[heldFirst]:])
		st[heldFirst] = 0
	}
	i := st[heldLen]
	st[heldLen]++
	st[heldSum] += weight
	for ; i > 0; i-- {
		before := heldAt(st, i-1)
		if before[1] <= until {
			break
		}
		copy(heldAt(st, i), before)
	}
	h := heldAt(st, i)
	h[0], h[1], h[2] = id, until, weight
}

// heldRemove frees every slot of the hold and returns their weight. Slots taken
// without a hold have id 0, which nobody can name.
func heldRemove(st []int64, id int64) int64 {
	if id == 0 {
		return 0
	}
	var weight, kept int64
	for i := range st[heldLen] {
		h := heldAt(st, i)
		if h[0] == id {
			weight += h[2]
			continue
		}
		if kept != i {
			copy(heldAt(st, kept), h)
		}
		kept++
	}
	st[heldLen] = kept
	st[heldSum] -= weight
	return weight
}

func heldAbsentAt(st []int64) int64 {
	if st[heldLen] == 0 {
		return math.MinInt64
	}
	return heldAt(st, st[heldLen]-1)[1]
}
