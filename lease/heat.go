package lease

import (
	"math/bits"
	"sync/atomic"
)

// heat counts how often budgets that are not leased are charged, in fixed memory:
// entries of a tag, a period and a count, four to a set. A budget that is charged
// rarely gives way to those that are charged more often.
type heat struct {
	sets []heatSet
	hot  uint64
}

type heatSet [4]atomic.Uint64

const (
	heatPeriod = 1_000_000 // in microseconds
	heatCount  = 1<<16 - 1
)

// newHeat returns a count for 4n budgets or some more at once, n at least 1.
func newHeat(n, hot int) heat {
	return heat{make([]heatSet, 1<<bits.Len(uint(n-1))), uint64(hot)}
}

// An entry holds the tag in its upper 32 bits, the period in the next 16 and the
// count in the lowest.
func heatEntry(tag, period, count uint64) uint64 { return tag<<32 | period<<16 | count }

// charge counts a charge of the budget with the hash and reports whether there
// were hot of them within about a second. A count may be lost when two calls
// meet.
func (h *heat) charge(hash uint64, now int64) bool {
	set := &h.sets[hash>>32&uint64(len(h.sets)-1)]
	tag, period := hash&(1<<32-1), uint64(now/heatPeriod)&heatCount
	least, fewest := 0, uint64(heatCount+1)
	for i := range set {
		e := set[i].Load()
		n := e & heatCount
		switch age := (period - e>>16) & heatCount; {
		case age == 1:
			n /= 2
		case age > 1:
			n = 0
		}
		if n > 0 && e>>32 == tag {
			n = min(n+1, heatCount)
			set[i].CompareAndSwap(e, heatEntry(tag, period, n))
			return n >= h.hot
		}
		if n < fewest {
			least, fewest = i, n
		}
	}
	e := set[least].Load()
	if fewest > 1 {
		set[least].CompareAndSwap(e, heatEntry(e>>32, period, fewest-1))
		return false
	}
	set[least].CompareAndSwap(e, heatEntry(tag, period, 1))
	return h.hot <= 1
}
