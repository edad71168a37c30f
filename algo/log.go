package algo

import (
	"sort"

	"github.com/headgate/headgate"
)

// A sliding log's state: a ring of (instant, weight) pairs, oldest first, in
// which charges of one instant share an entry. A reservation's tag is the instant
// of its entry.
const (
	logHead  = iota // index of the oldest entry
	logLen          // number of entries
	logSum          // sum of their weights
	logLast         // latest instant seen
	logRoom         // number of entries that the ring has room for
	logPairs        // 2 words an entry
)

func logWords(entries int64) int { return logPairs + 2*int(entries) }

// logAt returns the position of entry i, counted from the oldest.
func logAt(st []int64, i int64) int64 {
	return logPairs + 2*((st[logHead]+i)%st[logRoom])
}

// logExpired returns how many entries have left the window that ends at now,
// and their weight. An entry at t counts until t+window, exclusive.
func logExpired(l *headgate.Prepared, st []int64, now int64) (n, weight int64) {
	for n < st[logLen] {
		at := logAt(st, n)
		if st[at] > now-l.WindowMicros {
			break
		}
		weight += st[at+1]
		n++
	}
	return n, weight
}

// logPlan returns the room for entries and for reservations that the call needs,
// never less than there is; Full for too many reservations.
func logPlan(c *Call, l *headgate.Prepared, st []int64) (entries, held int64) {
	entries = st[logRoom]
	held = reservations(st, logWords(entries)).room()
	if c.Op == headgate.Take || c.Op == headgate.Debit || c.Op == headgate.Settle {
		if n, _ := logExpired(l, st, c.Now); n == 0 && st[logLen] == entries {
			entries = max(entries, min(2*entries, headgate.MaxLog+1))
		}
	}
	if c.Reserves(l.Algorithm) {
		held = reserveRoom(c, l, st, logWords(st[logRoom]))
	}
	return entries, held
}

func logNeed(c *Call, l *headgate.Prepared, st []int64) int {
	switch entries, held := logPlan(c, l, st); held {
	case Full:
		return Full
	case 0:
		return max(len(st), logWords(entries))
	default:
		return max(len(st), logWords(entries)+holdsWords(tagWidth, held))
	}
}

func logGrow(c *Call, l *headgate.Prepared, dst, src []int64) {
	entries, held := logPlan(c, l, src)
	if held <= 0 {
		entries = min(headgate.MaxLog+1, int64(len(dst)-logPairs)/2)
	}
	logMove(dst, src, entries)
	if h := reservations(src, logWords(src[logRoom])); h.len() > 0 {
		copy(dst[logWords(entries):], h.w)
	}
}

// logMove moves the entries of src to a ring of that many in dst, without the
// reservations.
func logMove(dst, src []int64, entries int64) {
	clear(dst)
	n := src[logLen]
	dst[logLen], dst[logSum], dst[logLast], dst[logRoom] = n, src[logSum], src[logLast], entries
	for i := range n {
		from := logAt(src, i)
		copy(dst[logPairs+2*i:], src[from:from+2])
	}
}

func logApply(c *Call, l *headgate.Prepared, st []int64, o *headgate.Outcome) {
	now, cost := c.Now, c.Cost
	seen := max(now, st[logLast])
	expired, weight := logExpired(l, st, seen)
	sum := st[logSum] - weight
	switch c.Op {
	case headgate.Take, headgate.Peek:
		switch {
		case cost == 0:
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost > l.Count-sum:
			o.Allowed = false
			o.RetryAfter = duration(logRetry(l, st, expired, sum+cost-l.Count) - now)
		case c.Op == headgate.Take:
			logForget(st, seen, expired, weight)
			logAppend(st, seen, cost)
			sum += cost
		}
		if o.Allowed && c.Reserves(l.Algorithm) {
			reservations(st, base(l, st)).add(c, seen, cost, seen)
		}
	case headgate.Refund:
		logForget(st, seen, expired, weight)
		sum -= logRefund(st, seen, cost)
	case headgate.Debit:
		sum += logDebit(st, expired, weight, seen, cost)
	case headgate.Settle, headgate.Renew:
		change, tag := reservations(st, base(l, st)).apply(c, seen, o)
		switch {
		case change > 0:
			sum += logDebit(st, expired, weight, seen, change)
		case change < 0:
			logForget(st, seen, expired, weight)
			sum += logCredit(st, tag, change)
		}
	}
	used(o, sum, l.Count)
	if sum > 0 {
		o.ResetAfter = duration(logAbsentAt(l, st) - now)
	}
}

// logDebit charges cost without asking and returns what that came to.
func logDebit(st []int64, expired, weight, now, cost int64) int64 {
	cost = min(cost, headgate.MaxInt-(st[logSum]-weight))
	logForget(st, now, expired, weight)
	if cost > 0 {
		logAppend(st, now, cost)
	}
	return cost
}

// logCredit adds change, below 0, to the entry of the instant, if it is there.
// It returns what that came to.
func logCredit(st []int64, instant, change int64) int64 {
	n := st[logLen]
	i := int64(sort.Search(int(n), func(i int) bool { return st[logAt(st, int64(i))] >= instant }))
	if i == n {
		return 0
	}
	at := logAt(st, i)
	if st[at] != instant {
		return 0
	}
	change = max(change, -st[at+1])
	st[at+1] += change
	st[logSum] += change
	if st[at+1] == 0 {
		logRemove(st, i)
	}
	return change
}

// logRemove removes entry i, whose weight is 0.
func logRemove(st []int64, i int64) {
	if i == 0 {
		logDrop(st, 1, 0)
		return
	}
	for ; i+1 < st[logLen]; i++ {
		from := logAt(st, i+1)
		copy(st[logAt(st, i):], st[from:from+2])
	}
	st[logLen]--
}

// logRetry returns the instant at which entries of weight excess have left.
func logRetry(l *headgate.Prepared, st []int64, from, excess int64) int64 {
	at := logAt(st, from)
	for i := from; i < st[logLen]; i++ {
		at = logAt(st, i)
		if excess -= st[at+1]; excess <= 0 {
			break
		}
	}
	return st[at] + l.WindowMicros
}

// logForget drops the first n entries, which have left by now. It notes the
// instant: a clock that goes back must not charge to an entry that is gone, or a
// reservation would be credited what another has used.
func logForget(st []int64, now, n, weight int64) {
	st[logLast] = now
	logDrop(st, n, weight)
}

func logDrop(st []int64, n, weight int64) {
	if n == 0 {
		return
	}
	st[logHead] = (st[logHead] + n) % st[logRoom]
	st[logLen] -= n
	st[logSum] -= weight
}

// logAppend adds weight at now, which was noted. Where debits have filled the ring beyond what
// takes can, the newest entry moves to now: it then counts longer, never less.
func logAppend(st []int64, now, weight int64) {
	st[logSum] += weight
	if n := st[logLen]; n > 0 {
		last := logAt(st, n-1)
		if st[last] == now || n == st[logRoom] {
			st[last] = now
			st[last+1] += weight
			return
		}
	}
	at := logAt(st, st[logLen])
	st[at], st[at+1] = now, weight
	st[logLen]++
}

// logRefund takes cost out of the oldest entries first, those that leave
// soonest, so that the sum never falls below the truth. What is reserved stays.
func logRefund(st []int64, now, cost int64) int64 {
	h := reservations(st, logWords(st[logRoom]))
	h.dropEnded(now)
	left := cost
	for i := int64(0); left > 0 && i < st[logLen]; {
		at := logAt(st, i)
		n := min(left, st[at+1]-h.by(st[at]))
		st[at+1] -= n
		st[logSum] -= n
		left -= n
		if st[at+1] == 0 {
			logRemove(st, i)
		} else {
			i++
		}
	}
	return cost - left
}

func logAbsentAt(l *headgate.Prepared, st []int64) int64 {
	if st[logLen] == 0 {
		return st[logLast]
	}
	return st[logAt(st, st[logLen]-1)] + l.WindowMicros
}
