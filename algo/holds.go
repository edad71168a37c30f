package algo

import (
	"math"

	"github.com/headgate/headgate"
)

// holds is a list of what is held, ordered by the instant at which it ends. It
// is the state of a concurrency limit, and in the others stands behind their own
// words, where zeros are an empty list. Each hold has an id, the instant,
// exclusive, until which it counts, an amount in tokens and, if it is a
// reservation, a tag that says where the amount was charged.
type holds struct {
	w     []int64
	width int64
}

const (
	holdsLen   = iota // number of holds
	holdsSum          // sum of their amounts; wraps around where windows never need it
	holdsFirst        // where the first of them stands, counted in holds
	holdsList
)

// A hold's words.
const (
	holdID = iota
	holdUntil
	holdAmount
	holdTag
)

const (
	slotWidth = 3 // a concurrency limit's slots need no tag
	tagWidth  = 4
	leastHeld = holdsList + tagWidth
	// noTag is where no credit can reach.
	noTag = math.MinInt64
)

func holdsWords(width, n int64) int { return holdsList + int(width*n) }

// reservations returns the list behind base words of a state, which is empty if
// there is no room for any.
func reservations(st []int64, base int) holds {
	if len(st) < base+leastHeld {
		return holds{}
	}
	return holds{st[base:], tagWidth}
}

// reservable reports whether limits of the algorithm keep reservations behind
// their own words.
func reservable(a headgate.Algorithm) bool { return a < headgate.Concurrency }

func (h holds) len() int64 {
	if h.w == nil {
		return 0
	}
	return h.w[holdsLen]
}

func (h holds) room() int64 {
	if h.w == nil {
		return 0
	}
	return int64(len(h.w)-holdsList) / h.width
}

// at returns hold i, counted from the one that ends first.
func (h holds) at(i int64) []int64 {
	at := holdsList + h.width*(h.w[holdsFirst]+i)
	return h.w[at : at+h.width : at+h.width]
}

// last returns the instant at which all have ended.
func (h holds) last() int64 {
	n := h.len()
	if n == 0 {
		return math.MinInt64
	}
	return h.at(n - 1)[holdUntil]
}

// ended returns how many have ended by now, and their amount.
func (h holds) ended(now int64) (n, amount int64) {
	for n < h.len() {
		x := h.at(n)
		if x[holdUntil] > now {
			break
		}
		amount += x[holdAmount]
		n++
	}
	return n, amount
}

// need returns how many holds the list must have room for before one is added at
// now.
func (h holds) need(now, most int64) int64 {
	room := h.room()
	if h.len() < room {
		return room
	}
	if n, _ := h.ended(now); n > 0 {
		return room
	}
	return max(room+1, min(2*room, most))
}

// drop forgets the first n, which amount to that.
func (h holds) drop(n, amount int64) {
	if n == 0 {
		return
	}
	h.w[holdsFirst] += n
	h.w[holdsLen] -= n
	h.w[holdsSum] -= amount
	if h.w[holdsLen] == 0 {
		h.w[holdsFirst] = 0
	}
}

func (h holds) dropEnded(now int64) { h.drop(h.ended(now)) }

// insert adds a hold in order: nearly always at the end, as most are held
// equally long.
func (h holds) insert(id, until, amount, tag int64) {
	if end := h.w[holdsFirst] + h.w[holdsLen]; end == h.room() {
		copy(h.w[holdsList:], h.w[holdsList+h.width*h.w[holdsFirst]:])
		h.w[holdsFirst] = 0
	}
	i := h.w[holdsLen]
	h.w[holdsLen]++
	h.w[holdsSum] += amount
	for ; i > 0; i-- {
		before := h.at(i - 1)
		if before[holdUntil] <= until {
			break
		}
		copy(h.at(i), before)
	}
	x := h.at(i)
	x[holdID], x[holdUntil], x[holdAmount] = id, until, amount
	if h.width == tagWidth {
		x[holdTag] = tag
	}
}

// find returns the place of the hold with the id that counts at now, -1 if there
// is none. What is held without an id has 0, which nobody can name, and what is
// leased out LeaseHold.
func (h holds) find(id uint64, now int64) int64 {
	if id == 0 || id == LeaseHold {
		return -1
	}
	for i := range h.len() {
		if x := h.at(i); uint64(x[holdID]) == id && x[holdUntil] > now {
			return i
		}
	}
	return -1
}

func (h holds) remove(i int64) {
	h.w[holdsSum] -= h.at(i)[holdAmount]
	end := holdsList + h.width*(h.w[holdsFirst]+h.w[holdsLen])
	at := holdsList + h.width*(h.w[holdsFirst]+i)
	copy(h.w[at:], h.w[at+h.width:end])
	h.w[holdsLen]--
	if h.w[holdsLen] == 0 {
		h.w[holdsFirst] = 0
	}
}

// removeAll removes every hold of the id and returns their amount.
func (h holds) removeAll(id uint64) int64 {
	if id == 0 || id == LeaseHold {
		return 0
	}
	var amount, kept int64
	for i := range h.len() {
		x := h.at(i)
		if uint64(x[holdID]) == id {
			amount += x[holdAmount]
			continue
		}
		if kept != i {
			copy(h.at(kept), x)
		}
		kept++
	}
	h.w[holdsLen] = kept
	h.w[holdsSum] -= amount
	return amount
}

// by returns what is held of what was charged under the tag. A refund leaves
// that, which its Settle gives back or nothing, and first drops what has ended:
// a clock that goes back must not bring a hold back on what was refunded.
func (h holds) by(tag int64) int64 {
	var n int64
	for i := range h.len() {
		if x := h.at(i); x[holdTag] == tag {
			n += x[holdAmount]
		}
	}
	return n
}

// add keeps a reservation that was made at now.
func (h holds) add(c *Call, now, amount, tag int64) {
	h.dropEnded(now)
	h.insert(int64(c.Hold), now+c.HoldFor, amount, tag)
}

// apply does Settle and Renew at now, if the hold counts, and says so in the
// outcome. What the work took beyond what was charged under the tag is change;
// if it took less, change is below 0.
func (h holds) apply(c *Call, now int64, o *headgate.Outcome) (change, tag int64) {
	if c.Op == headgate.Renew && c.HoldFor == 0 {
		return 0, noTag
	}
	i := h.find(c.Hold, now)
	if i < 0 {
		o.Allowed = false
		return 0, noTag
	}
	x := h.at(i)
	amount, tag := x[holdAmount], x[holdTag]
	h.remove(i)
	h.dropEnded(now)
	if c.Op == headgate.Renew {
		h.insert(int64(c.Hold), now+c.HoldFor, amount, tag)
		return 0, noTag
	}
	return c.Cost - amount, tag
}
