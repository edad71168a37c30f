package algo

import (
	"math"

	"github.com/headgate/headgate"
)

// The state of an idempotency limit: the requests that are remembered, in no
// order.
const (
	keysLen = iota
	keysList
)

// A remembered request's words.
const (
	keyID    = iota // two words
	keyPrint = iota + 1
	keyHold
	keyUntil // exclusive
	keyWidth
)

func keysWords(n int64) int { return keysList + keyWidth*int(n) }

func keyAt(st []int64, i int64) []int64 {
	at := keysList + keyWidth*i
	return st[at : at+keyWidth : at+keyWidth]
}

// keysLive returns how many requests are remembered at now, and when the last of
// them is forgotten.
func keysLive(st []int64, now int64) (n, last int64) {
	last = math.MinInt64
	for i := range st[keysLen] {
		if k := keyAt(st, i); k[keyUntil] > now {
			n++
			last = max(last, k[keyUntil])
		}
	}
	return n, last
}

func keysNeed(l *headgate.Prepared, st []int64, now int64) int {
	room := int64(len(st)-keysList) / keyWidth
	if st[keysLen] < room {
		return len(st)
	}
	if n, _ := keysLive(st, now); n < room || n >= l.Count {
		return len(st)
	}
	return keysWords(max(room+1, min(2*room, l.Count)))
}

// Remembered looks a request up in the state of an idempotency limit: it returns
// the print and the hold that it was remembered with.
func Remembered(st []int64, id [2]uint64, now int64) (print, hold uint64, found bool) {
	for i := range st[keysLen] {
		k := keyAt(st, i)
		if uint64(k[keyID]) == id[0] && uint64(k[keyID+1]) == id[1] && k[keyUntil] > now {
			return uint64(k[keyPrint]), uint64(k[keyHold]), true
		}
	}
	return 0, 0, false
}

// Remember keeps a request in the state of an idempotency limit, which has the
// room that [Need] says. It reports false if as many as the limit allows are
// remembered: nothing is forgotten before its time.
func Remember(l *headgate.Prepared, st []int64, now int64, key headgate.RequestKey, hold uint64) bool {
	kept := int64(0)
	for i := range st[keysLen] {
		if k := keyAt(st, i); k[keyUntil] > now {
			copy(keyAt(st, kept), k)
			kept++
		}
	}
	st[keysLen] = kept
	if kept >= l.Count || keysWords(kept+1) > len(st) {
		return false
	}
	k := keyAt(st, kept)
	k[keyID], k[keyID+1] = int64(key.ID[0]), int64(key.ID[1])
	k[keyPrint], k[keyHold], k[keyUntil] = int64(key.Print), int64(hold), now+l.TTLMicros
	st[keysLen]++
	return true
}

func keysApply(l *headgate.Prepared, st []int64, now int64, o *headgate.Outcome) {
	n, last := keysLive(st, now)
	used(o, n, l.Count)
	if n > 0 {
		o.ResetAfter = duration(last - now)
	}
}

func keysAbsentAt(st []int64) int64 {
	_, last := keysLive(st, math.MinInt64)
	return last
}
