package lease

import (
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

// Lease is what a holder was granted of one budget under one id. Its tokens go
// three ways and never back: they are spent, they are given back to the
// authority, or they are void because the authority has begun anew.
//
// All its methods are safe for concurrent use. All instants are microseconds on
// the holder's own clock, above 0, from whatever origin.
type Lease struct {
	// left are the tokens that may be spent before the deadline. They only rise
	// by a grant, so that what is settled (granted less left) never falls.
	left atomic.Int64
	// deadline is the first instant at which nothing may be spent any more.
	deadline atomic.Int64
	// back are tokens that left without being spent, to be reported as returned.
	back atomic.Int64
	// ends is the instant at which the window ends, or earlier; 0 for buckets,
	// and before the first grant.
	ends atomic.Int64
	// seen is the highest count of the window that a direct answer told.
	seen atomic.Int64

	// The rest belongs to who reports.
	holder            [2]uint64
	epoch             uint64
	window            int64
	granted, returned int64
	sent              int64 // when the latest request was sent that was answered
	settled           int64 // what it reported as settled
	credited          int64 // and as returned
	heard             bool  // epoch and window are known
}

// Take spends cost tokens, 0 or more, and returns how many are left. It refuses
// when fewer are left, or at or after the deadline; a cost of 0 passes before it.
func (l *Lease) Take(cost, now int64) (left int64, ok bool) {
	for {
		left = l.left.Load()
		if left < cost || now >= l.deadline.Load() {
			return left, false
		}
		if cost == 0 || l.left.CompareAndSwap(left, left-cost) {
			return left - cost, true
		}
	}
}

// Undo hands cost tokens that [Lease.Take] took back, to the authority and not
// to the lease: they may have been reported as settled already.
func (l *Lease) Undo(cost int64) { l.back.Add(cost) }

// Revoke gives all back that is left, with the next report.
func (l *Lease) Revoke() { l.back.Add(l.left.Swap(0)) }

// Keep gives back what is left beyond n tokens, with the next report.
func (l *Lease) Keep(n int64) {
	for {
		left := l.left.Load()
		if left <= n {
			return
		}
		if l.left.CompareAndSwap(left, n) {
			l.back.Add(left - n)
			return
		}
	}
}

// Left returns how many tokens are left, be the deadline past or not.
func (l *Lease) Left() int64 { return l.left.Load() }

// Live reports whether tokens may be spent at now.
func (l *Lease) Live(now int64) bool { return now < l.deadline.Load() }

// expires reports whether the deadline is near, at most d away, and not that of
// the window, which nothing prolongs.
func (l *Lease) expires(now, d int64) bool {
	deadline, ends := l.deadline.Load(), l.ends.Load()
	return deadline-now <= d && (ends == 0 || deadline < ends)
}

// Windowed reports whether the lease is one of a window, which [Lease.Saw] may
// be told about.
func (l *Lease) Windowed() bool { return l.ends.Load() != 0 }

// Saw notes that the authority counted used tokens in the lease's window. The
// answer must have arrived by now, to a question that was asked when the lease
// was Windowed already: then, before the window ends, the count is this window's.
func (l *Lease) Saw(used, now int64) {
	if now >= l.ends.Load() {
		return
	}
	for {
		seen := l.seen.Load()
		if used <= seen || l.seen.CompareAndSwap(seen, used) {
			return
		}
	}
}

// Claim is what a batch wants of one lease.
type Claim struct {
	Lease *Lease
	// Cost is in tokens, 0 or more.
	Cost int64
	// Left is how many were left afterwards. Set by [TakeAll].
	Left int64
}

// TakeAll takes every claim, or none. It first looks, so that it hands tokens
// back (see [Lease.Undo]) only if somebody else took the last ones in between.
func TakeAll(claims []Claim, now int64) bool {
	for i := range claims {
		c := &claims[i]
		if c.Lease.left.Load() < c.Cost || !c.Lease.Live(now) {
			return false
		}
	}
	for i := range claims {
		c := &claims[i]
		left, ok := c.Lease.Take(c.Cost, now)
		if !ok {
			for _, taken := range claims[:i] {
				taken.Lease.Undo(taken.Cost)
			}
			return false
		}
		c.Left = left
	}
	return true
}

// Holder is the holder's side of one budget: a lease, and after it another one
// under an id that was never used, whenever the authority or the window's end
// asks for that. Report and Absorb are for one goroutine at a time; Lease is safe
// for concurrent use. Make one with [NewHolder].
type Holder struct {
	lease              atomic.Pointer[Lease]
	floor, floorWindow int64
	spent              int64 // under earlier ids
}

// NewHolder returns a holder whose first lease, without a token, is under id.
func NewHolder(id [2]uint64) *Holder {
	h := new(Holder)
	h.begin(id)
	return h
}

// Lease returns the present lease.
func (h *Holder) Lease() *Lease { return h.lease.Load() }

// begin voids what the lease has left and starts another one. Who has found the
// old one before may still ask it, and gets nothing. void counts, too, what was
// returned and perhaps never arrived.
func (h *Holder) begin(id [2]uint64) (void int64) {
	if l := h.lease.Load(); l != nil {
		l.deadline.Store(0)
		left := l.left.Swap(0) + l.back.Swap(0)
		h.spent += l.granted - l.returned - left
		h.seen(l.window, l.seen.Load())
		void = left + l.returned - l.credited
	}
	h.lease.Store(&Lease{holder: id})
	return void
}

// Spent returns how many tokens were spent under all ids; beside concurrent
// calls of Take it is near that. To be called as Report is.
func (h *Holder) Spent() int64 {
	l := h.Lease()
	return h.spent + l.granted - l.returned - l.back.Load() - l.left.Load()
}

// Unreturned returns how many tokens are neither spent nor known to be back with
// the authority. To be called as Report is.
func (h *Holder) Unreturned() int64 {
	l := h.Lease()
	return l.left.Load() + l.back.Load() + l.returned - l.credited
}

// Settled reports whether the authority knows that nothing is left. To be called
// as Report is.
func (h *Holder) Settled() bool {
	l := h.Lease()
	return l.settled == l.granted && l.back.Load() == 0
}

// seen notes that a window's count was that.
func (h *Holder) seen(window, count int64) {
	switch {
	case window > h.floorWindow:
		h.floorWindow, h.floor = window, count
	case window == h.floorWindow:
		h.floor = max(h.floor, count)
	}
}

// Report fills in r what the authority must know: everything but Limit, Owner,
// Want and Min. A lease whose deadline is past gives back what it has left, and
// one whose window is over is begun anew under next. back are the tokens that r
// returns for the first time, void those that were left in a window that is over.
func (h *Holder) Report(r *headgate.LeaseRequest, now int64, next [2]uint64) (back, void int64) {
	l := h.Lease()
	if ends := l.ends.Load(); ends != 0 && now >= ends {
		void = h.begin(next)
		l = h.Lease()
	} else if !l.Live(now) {
		l.Revoke()
	}
	h.seen(l.window, l.seen.Load())
	back = l.back.Swap(0) // before left is read: what is returned is settled
	l.returned += back
	r.Holder, r.Epoch, r.Window = l.holder, l.epoch, l.window
	r.Granted, r.Settled, r.Returned = l.granted, l.granted-l.left.Load(), l.returned
	r.Floor, r.FloorWindow = h.floor, h.floorWindow
	return back, void
}

// Effect is what a reply did.
type Effect struct {
	// Granted are the new tokens that may be spent.
	Granted int64
	// Late are new tokens that came too late to be spent. They are given back.
	Late int64
	// Void are tokens that were left and may neither be spent nor given back, and
	// those that were given back before without a word that they arrived.
	Void int64
	// Anew says that the lease is another one, without a token: ask again.
	Anew bool
}

// Absorb takes the reply p to the report r that was sent at sent and answered by
// now. It ignores replies of another status than those that exist, which say
// nothing, replies to another lease than the present one, and replies to a
// request that was sent before one whose reply it took. Where it must begin anew
// it does so under next.
func (h *Holder) Absorb(r *headgate.LeaseRequest, p *headgate.LeaseReply, sent, now int64, next [2]uint64) (e Effect) {
	if p.Status >= headgate.LeaseFailed {
		return e
	}
	if p.WindowLeft > 0 {
		h.seen(p.Window, p.Count)
	}
	l := h.Lease()
	if r.Holder != l.holder || sent < l.sent {
		return e
	}
	if p.Status != headgate.LeaseOK {
		return Effect{Void: h.begin(next), Anew: true}
	}
	if !l.heard {
		l.epoch, l.window, l.heard = p.Epoch, p.Window, true
	}
	if p.Epoch != l.epoch || p.Window != l.window {
		return e
	}
	l.sent, l.settled, l.credited = sent, r.Settled, r.Returned
	deadline := sent + shorter(p.TTL)
	if p.WindowLeft > 0 {
		ends := sent + shorter(p.WindowLeft)
		l.ends.Store(ends)
		deadline = min(deadline, ends)
	}
	if r.Limit.Algorithm == headgate.Ban {
		if p.Granted <= r.Granted {
			deadline = 0 // banned
		}
		l.deadline.Store(deadline)
		return e
	}
	l.deadline.Store(deadline)
	n := p.Granted - l.granted
	if n <= 0 {
		return e
	}
	l.granted = p.Granted
	if now < deadline {
		l.left.Add(n)
		e.Granted = n
	} else {
		l.back.Add(n)
		e.Late = n
	}
	return e
}

// shorter is d in microseconds, less one part in 1,024, by which the holder's
// clock may be slower than the authority's.
func shorter(d time.Duration) int64 {
	t := d.Microseconds()
	return t - (t+1023)/1024
}
