package algo_test

import (
	"maps"
	"math/big"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// refAuthority is the authority over one budget without reservations, written
// from the minimal specification of the protocol: a level and what is out, or
// counts by window, and the accounts of holders. It shares no code with algo.
type refAuthority struct {
	l     *headgate.Prepared
	terms algo.Terms
	epoch headgate.Epoch

	fresh bool
	own   uint64 // the epoch of the record
	// A bucket's level in units of 1/P token, true for at; out, which limits the
	// refill until the instant until.
	level, at  int64
	out, until int64
	// The current window, what each has used, and when the present one ends.
	window int64
	counts map[int64]int64
	recs   map[[2]uint64]algo.Lease
}

func newRefAuthority(l *headgate.Prepared, terms algo.Terms, e headgate.Epoch) *refAuthority {
	return &refAuthority{l: l, terms: terms, epoch: e, fresh: true, counts: map[int64]int64{}}
}

func (a *refAuthority) clone() *refAuthority {
	c := *a
	c.counts, c.recs = maps.Clone(a.counts), maps.Clone(a.recs)
	return &c
}

func (a *refAuthority) isBucket() bool { return a.l.Algorithm == headgate.TokenBucket }

// width is that of a window, slice or hour.
func (a *refAuthority) width() int64 {
	switch a.l.Algorithm {
	case headgate.SlidingWindow:
		return a.l.Period.Microseconds() / int64(a.l.Slices)
	case headgate.Quota:
		return time.Hour.Microseconds()
	}
	return a.l.Period.Microseconds()
}

// name is how the protocol calls a window: hours by the minute that they start at.
func (a *refAuthority) name(window int64) int64 {
	if a.l.Algorithm == headgate.Quota {
		return window * 60
	}
	return window
}

// touch brings the record to now, in the order of the specification: epoch,
// window, refill with what was out.
func (a *refAuthority) touch(now int64) {
	if a.gone(now) {
		*a = *newRefAuthority(a.l, a.terms, a.epoch)
		a.level, a.at = a.l.Cap, now
		if a.isBucket() && a.epoch.Since > 0 {
			a.level, a.at = 0, a.epoch.Since
		}
		a.window = floor(now, max(1, a.width()))
	} else if a.own != a.epoch.ID {
		a.recs, a.out = nil, 0
		a.level, a.at = min(a.level, 0), max(a.at, a.epoch.Since)
	}
	a.own = a.epoch.ID
	if !a.isBucket() {
		if w := floor(now, a.width()); w > a.window {
			a.window, a.recs = w, nil
		}
		if a.until <= a.now(now) {
			a.recs, a.out = nil, 0
		}
		return
	}
	if a.out > 0 && now >= a.until {
		a.refill(a.until, a.l.Cap-a.out*a.l.P)
		a.recs, a.out = nil, 0
	}
	if a.until <= max(now, a.at) {
		a.recs, a.out = nil, 0
	}
	a.refill(now, a.l.Cap-a.out*a.l.P)
}

func (a *refAuthority) refill(to, most int64) {
	if to <= a.at {
		return
	}
	gain := new(big.Int).Mul(big.NewInt(to-a.at), big.NewInt(a.l.N))
	if room := big.NewInt(most - a.level); gain.Cmp(room) > 0 {
		gain = room
	}
	a.level, a.at = a.level+gain.Int64(), to
}

// now is the instant that a request is taken to have come at.
func (a *refAuthority) now(now int64) int64 {
	if a.isBucket() {
		return max(now, a.at)
	}
	return max(now, a.window*a.width())
}

// gone reports whether the record is as if never seen.
func (a *refAuthority) gone(now int64) bool {
	if a.fresh {
		return true
	}
	if a.recs != nil && now < a.until {
		return false
	}
	if a.isBucket() {
		c := a.clone()
		c.epoch.ID = c.own
		if c.out > 0 && now >= c.until {
			c.refill(c.until, c.l.Cap-c.out*c.l.P)
		}
		c.refill(now, c.l.Cap)
		return now >= c.at && c.level == c.l.Cap
	}
	// The last window that counts for anything.
	last := a.window
	if a.l.Algorithm == headgate.SlidingWindow {
		k := int64(a.l.Slices)
		for last = a.window; last >= a.window-k && a.counts[last] == 0; last-- {
		}
		if last < a.window-k {
			return now >= a.window*a.width()
		}
		last += k
	}
	return now >= (last+1)*a.width()
}

// used is in whole tokens, what is out included.
func (a *refAuthority) used() int64 {
	if a.isBucket() {
		return a.l.Burst - floor(a.level, a.l.P)
	}
	k := int64(0)
	if a.l.Algorithm == headgate.SlidingWindow {
		k = int64(a.l.Slices)
	}
	sum := int64(0)
	for w, n := range a.counts {
		if w >= a.window-k {
			sum += n
		}
	}
	return sum
}

func (a *refAuthority) limit() int64 {
	if a.isBucket() {
		return a.l.Burst
	}
	return a.l.Count
}

// left is what can be taken or granted.
func (a *refAuthority) left() int64 {
	if a.l.Soft {
		return headgate.MaxInt - a.used()
	}
	return a.limit() - a.used()
}

func (a *refAuthority) charge(n int64) {
	if a.isBucket() {
		a.level -= n * a.l.P
	} else {
		a.counts[a.window] += n
	}
}

func (a *refAuthority) early(now int64) bool { return !a.isBucket() && now < a.epoch.Since }

// passes reports whether a take at now would be allowed.
func (a *refAuthority) passes(now, cost int64) bool {
	c := a.clone()
	c.touch(now)
	switch {
	case cost == 0 || c.l.Soft:
		return true
	case c.early(now):
		return false
	}
	return cost <= c.left()
}

func (a *refAuthority) take(now, cost int64) bool {
	if !a.passes(now, cost) {
		if c := a.clone(); !c.gone(now) {
			// A refusal is written, as far as the record recovers.
			if a.own != a.epoch.ID {
				a.recs, a.out, a.own = nil, 0, a.epoch.ID
				a.level, a.at = min(a.level, 0), max(a.at, a.epoch.Since)
			}
		}
		return false
	}
	if cost > 0 {
		recs, out, window, own := a.recs, a.out, a.window, a.own
		a.touch(now)
		if !a.isBucket() && a.window == window && a.own == own {
			a.recs, a.out = recs, out // a take in the same window notes no instant
		}
		a.charge(cost)
		a.fresh = false
	}
	return true
}

// acquire answers all but the State of a reply, which is for the caller to compare.
func (a *refAuthority) acquire(r *headgate.LeaseRequest, now int64) (reply headgate.LeaseReply, changed bool) {
	a.touch(now)
	seen := a.now(now)
	reply.Epoch, reply.TTL = a.epoch.ID, time.Duration(a.terms.TTL)*time.Microsecond
	window := int64(0)
	if !a.isBucket() {
		window = a.name(a.window)
		reply.WindowLeft = time.Duration((a.window+1)*a.width()-now) * time.Microsecond
	}
	reply.Window = window
	maps.DeleteFunc(a.recs, func(_ [2]uint64, x algo.Lease) bool { return x.Seen+a.terms.TTL+a.terms.Grace <= seen })
	a.out = a.outstanding()
	if a.early(now) && r.FloorWindow == window && r.Floor > a.counts[a.window] {
		a.counts[a.window] = r.Floor
		changed = true
	}
	x, known := a.recs[r.Holder]
	first := r.Epoch == 0 && r.Window == 0 && r.Granted == 0
	switch {
	case !first && (r.Epoch != a.epoch.ID || r.Window != window):
		reply.Status = stale
	case x.Granted < r.Granted:
		reply.Status = unknown
	case known || r.Want > 0 && len(a.recs) < a.terms.Holders:
		changed = true
		before := x
		x.Settled = max(x.Settled, min(r.Granted, r.Settled))
		x.Returned = max(x.Returned, min(r.Returned, x.Settled))
		if spent := before.Settled - before.Returned; a.isBucket() && x.Settled-x.Returned < spent {
			x.Returned = x.Settled - spent // it said that this was spent
		}
		a.charge(before.Returned - x.Returned)
		x.Seen = seen
		if a.recs == nil {
			a.recs = map[[2]uint64]algo.Lease{}
		}
		a.recs[r.Holder] = x
		if x.Granted == r.Granted && !a.early(now) {
			g := a.grant(r, seen)
			a.charge(g)
			x.Granted += g
			a.recs[r.Holder] = x
		}
		reply.Granted = x.Granted
		a.out, a.until = a.outstanding(), seen+a.terms.TTL+a.terms.Grace
		if !a.isBucket() {
			a.until = min(a.until, (a.window+1)*a.width())
		}
	}
	if changed {
		a.fresh = false
	}
	if !a.isBucket() {
		reply.Count = a.counts[a.window]
	}
	if reply.Holders = a.active(seen); a.recs[r.Holder].Seen == 0 {
		reply.Holders++
	}
	return reply, changed
}

func (a *refAuthority) outstanding() (n int64) {
	for _, x := range a.recs {
		n += x.Granted - x.Settled
	}
	return n
}

func (a *refAuthority) active(now int64) (n int) {
	for _, x := range a.recs {
		if x.Seen+2*a.terms.TTL >= now {
			n++
		}
	}
	return n
}

func (a *refAuthority) grant(r *headgate.LeaseRequest, now int64) int64 {
	if a.limit() < a.terms.Least && !(a.l.Soft && a.l.Count >= a.terms.Least) {
		return 0
	}
	g := min(r.Want, a.left())
	if !a.l.Soft {
		holders := int64(a.active(now))
		above := a.left() - max(a.limit()/a.terms.Floor, a.terms.PerHolder*holders)
		g = min(g, above/2/holders, a.limit()/a.terms.Out-a.outstanding())
	}
	if g <= 0 || g < r.Min {
		return 0
	}
	return g
}
