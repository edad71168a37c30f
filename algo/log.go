package algo

import "github.com/headgate/headgate"

// A sliding log's state: a ring of (instant, weight) pairs, oldest first, in
// which charges of one instant share an entry.
const (
	logHead  = iota // index of the oldest entry
	logLen          // number of entries
	logSum          // sum of their weights
	logLast         // latest instant seen
	logPairs        // 2 words an entry
)

func logWords(entries int64) int { return logPairs + 2*int(entries) }

func logCapacity(st []int64) int64 { return int64(len(st)-logPairs) / 2 }

// logAt returns the position of entry i, counted from the oldest.
func logAt(st []int64, i int64) int64 {
	return logPairs + 2*((st[logHead]+i)%logCapacity(st))
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

func logNeed(l *headgate.Prepared, st []int64, now int64) int {
	if st[logLen] < logCapacity(st) {
		return len(st)
	}
	if n, _ := logExpired(l, st, now); n > 0 {
		return len(st)
	}
	return logWords(min(2*logCapacity(st), headgate.MaxLog+1))
}

func logGrow(dst, src []int64) {
	clear(dst)
	n := src[logLen]
	dst[logLen], dst[logSum], dst[logLast] = n, src[logSum], src[logLast]
	for i := range n {
		from := logAt(src, i)
		copy(dst[logPairs+2*i:], src[from:from+2])
	}
}

func logApply(op headgate.Op, l *headgate.Prepared, st []int64, now, cost int64, o *headgate.Outcome) {
	seen := max(now, st[logLast])
	expired, weight := logExpired(l, st, seen)
	sum := st[logSum] - weight
	switch op {
	case headgate.Take, headgate.Peek:
		switch {
		case cost == 0:
		case cost > l.Count:
			o.Allowed, o.Never = false, true
		case cost > l.Count-sum:
			o.Allowed = false
			o.RetryAfter = duration(logRetry(l, st, expired, sum+cost-l.Count) - now)
		case op == headgate.Take:
			logDrop(st, expired, weight)
			logAppend(st, seen, cost)
			sum += cost
		}
	case headgate.Refund:
		logDrop(st, expired, weight)
		sum -= logRefund(st, cost)
	case headgate.Debit:
		cost = min(cost, headgate.MaxInt-sum)
		logDrop(st, expired, weight)
		if cost > 0 {
			logAppend(st, seen, cost)
		}
		sum += cost
	}
	used(o, sum, l.Count)
	if sum > 0 {
		o.ResetAfter = duration(logAbsentAt(l, st) - now)
	}
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

func logDrop(st []int64, n, weight int64) {
	if n == 0 {
		return
	}
	st[logHead] = (st[logHead] + n) % logCapacity(st)
	st[logLen] -= n
	st[logSum] -= weight
}

// logAppend adds weight at now. Where debits have filled the ring beyond what
// takes can, the newest entry moves to now: it then counts longer, never less.
func logAppend(st []int64, now, weight int64) {
	st[logLast] = now
	st[logSum] += weight
	if n := st[logLen]; n > 0 {
		last := logAt(st, n-1)
		if st[last] == now || n == logCapacity(st) {
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
// soonest, so that the sum never falls below the truth.
func logRefund(st []int64, cost int64) int64 {
	left := cost
	for left > 0 && st[logLen] > 0 {
		at := logAt(st, 0)
		n := min(left, st[at+1])
		st[at+1] -= n
		st[logSum] -= n
		left -= n
		if st[at+1] == 0 {
			logDrop(st, 1, 0)
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
