package algo

import (
	"math"
	"slices"

	"github.com/headgate/headgate"
)

// LeaseHold is the id under which what is leased out of a budget stands among
// its reservations: a hold of the tokens that are out, until the last of them
// has run out, with the tag of the window that they were charged to. So every
// rule about what is held is true of leases: it does not refill, and what is not
// spent when it ends is lost. No call can name it.
const LeaseHold = math.MaxUint64

// Lease is the account of one holder, in cumulative tokens.
type Lease struct {
	Holder [2]uint64
	// Granted is what the holder was given, Settled what of it is spent, dropped
	// or returned, Returned what of it is returned.
	Granted, Settled, Returned int64
	// Seen is the instant of its last request.
	Seen int64
}

// Terms are the conditions of leases.
type Terms struct {
	// TTL is how long a grant may be spent, and Grace how much longer it stays
	// held, in microseconds. An account is forgotten after both.
	TTL, Grace int64
	// Least is the smallest capacity, in tokens, of which anything is leased.
	Least int64
	// Nothing is granted once less is left than the capacity divided by Floor, or
	// than PerHolder tokens for each active holder.
	Floor, PerHolder int64
	// Out divides the capacity: never more than that is out.
	Out int64
	// Holders is the largest number of accounts of one budget.
	Holders int
}

// DefaultTerms are the terms of every store that does not say otherwise.
var DefaultTerms = Terms{
	TTL: 1_000_000, Grace: 500_000,
	Least: 1000, Floor: 10, PerHolder: 64, Out: 5, Holders: 1024,
}

// Leasable reports whether anything of the limit may ever be leased: of a token
// bucket, a fixed window, a sliding window of several slices or a quota with room
// for t.Least tokens. Of a ban, it is the word that the owner is not banned.
func Leasable(l *headgate.Prepared, t *Terms) bool {
	switch {
	case l.Algorithm == headgate.Ban:
		return true
	case !Lendable(l):
		return false
	case l.Algorithm == headgate.TokenBucket:
		return l.Burst >= t.Least
	default:
		return l.Count >= t.Least
	}
}

// Lendable reports whether a lease means anything to limits of this kind: an
// authority keeps accounts of those that ask for tokens of it.
func Lendable(l *headgate.Prepared) bool {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.FixedWindow, headgate.Quota:
		return true
	case headgate.SlidingWindow:
		return l.Slices > 1
	default:
		return false
	}
}

// Acquire loads b as r.Limit says and settles what r reports: first the budget
// refills to now with what is still held, then returns are credited, then
// accounts are forgotten that were silent for t.TTL and t.Grace, without credit.
// Then it grants what the terms allow, and holds it. It reports whether the
// record has changed; if not, a store may leave it as it was.
//
// No request can give back more than was granted to its holder, nor raise what is
// left and what is out of a bucket together: be it a duplicate, late, or false.
func (b *Budget) Acquire(r *headgate.LeaseRequest, now int64, e headgate.Epoch, t *Terms, reply *headgate.LeaseReply) (changed bool) {
	b.Load(r.Limit, now, e)
	*reply = headgate.LeaseReply{Epoch: e.ID, TTL: duration(t.TTL), Holders: 1}
	if Lendable(b.Limit) {
		changed = b.lend(r, now, e, t, reply)
	} else {
		b.forgetLeases()
		reply.Status = b.standing(r, e, 0)
	}
	b.Apply(&Call{Op: headgate.Peek, Now: now, Cost: tokens(r.Min)}, e, &reply.State)
	if b.Limit.Algorithm == headgate.Ban && reply.Status == headgate.LeaseOK {
		reply.Granted = tokens(r.Granted)
		if reply.State.Allowed {
			reply.Granted = tokens(reply.Granted + tokens(r.Want))
		}
	}
	return changed
}

// tokens cuts n to what can be a number of tokens.
func tokens(n int64) int64 { return max(0, min(headgate.MaxInt, n)) }

// lend is Acquire on a budget that can be leased.
func (b *Budget) lend(r *headgate.LeaseRequest, now int64, e headgate.Epoch, t *Terms, reply *headgate.LeaseReply) (changed bool) {
	s := b.settle(now)
	b.forgetSilent(s.now, t)
	early := now < e.Since && !bucket(b.Limit.Algorithm)
	if early && r.FloorWindow == s.id {
		n := b.counter()
		if floor := min(r.Floor, headgate.MaxInt); floor > *n {
			*n = floor
			changed = true
		}
	}
	if reply.Status = b.standing(r, e, s.id); reply.Status == headgate.LeaseOK {
		if i := b.account(r, t); i >= 0 {
			b.settleAccount(&b.Leases[i], r)
			b.Leases[i].Seen = s.now
			if x := &b.Leases[i]; x.Granted == r.Granted && !early { // else it is answered again
				g := b.grant(r, s.now, t)
				b.charge(g)
				x.Granted += g
			}
			reply.Granted = b.Leases[i].Granted
			b.removeLease()
			b.insertLease(s.until(t), b.outstanding(), s.tag)
			changed = true
		}
	}
	reply.Window = s.id
	if s.end != 0 {
		reply.WindowLeft = duration(s.end - now)
		reply.Count = *b.counter()
	}
	reply.Holders = b.active(s.now, t)
	if b.find(r.Holder) < 0 {
		reply.Holders++
	}
	return changed
}

// standing returns how a request stands to the present epoch and window, and to
// the account of its holder.
func (b *Budget) standing(r *headgate.LeaseRequest, e headgate.Epoch, window int64) headgate.LeaseStatus {
	first := r.Epoch == 0 && r.Window == 0 && r.Granted == 0
	if !first && (r.Epoch != e.ID || r.Window != window) {
		return headgate.LeaseStale
	}
	if b.Limit.Algorithm == headgate.Ban {
		return headgate.LeaseOK // of which there are no accounts
	}
	i := b.find(r.Holder)
	if i < 0 && r.Granted > 0 || i >= 0 && b.Leases[i].Granted < r.Granted {
		return headgate.LeaseUnknownHolder
	}
	return headgate.LeaseOK
}

func (b *Budget) find(holder [2]uint64) int {
	return slices.IndexFunc(b.Leases, func(x Lease) bool { return x.Holder == holder })
}

// account returns the place of the holder's account, which it opens for a holder
// that wants something as long as there is room for one; else -1.
func (b *Budget) account(r *headgate.LeaseRequest, t *Terms) int {
	if i := b.find(r.Holder); i >= 0 || r.Want <= 0 || len(b.Leases) >= t.Holders {
		return i
	}
	b.Leases = append(b.Leases, Lease{Holder: r.Holder})
	return len(b.Leases) - 1
}

// settleAccount takes over what the holder reports, as far as it was granted. What
// was once reported as settled without being returned has begun to refill in a
// bucket, which is then credited no more of it.
func (b *Budget) settleAccount(x *Lease, r *headgate.LeaseRequest) {
	settled := max(0, min(r.Settled, r.Granted)-x.Settled)
	x.Settled += settled
	returned := min(r.Returned, x.Settled) - x.Returned
	if bucket(b.Limit.Algorithm) {
		returned = min(returned, settled)
	}
	if returned > 0 {
		x.Returned += returned
		b.charge(-returned)
	}
}

// grant returns how many tokens the holder is given more.
func (b *Budget) grant(r *headgate.LeaseRequest, now int64, t *Terms) int64 {
	if !Leasable(b.Limit, t) {
		return 0
	}
	left, capacity := b.left()
	g := r.Want
	if b.Limit.Soft {
		g = min(g, headgate.MaxInt-*b.counter())
	} else {
		holders := int64(b.active(now, t))
		floor := max(capacity/t.Floor, t.PerHolder*holders)
		g = min(g, (left-floor)/2/holders, capacity/t.Out-b.outstanding())
	}
	if g < max(1, r.Min) {
		return 0
	}
	return g
}

// active returns how many holders were seen lately.
func (b *Budget) active(now int64, t *Terms) (n int) {
	for i := range b.Leases {
		if now-b.Leases[i].Seen <= 2*t.TTL {
			n++
		}
	}
	return n
}

// outstanding is what is out: granted, and not known to be spent or returned.
func (b *Budget) outstanding() (n int64) {
	for i := range b.Leases {
		n += b.Leases[i].Granted - b.Leases[i].Settled
	}
	return n
}

// holds returns the reservations.
func (b *Budget) holds() holds {
	if !reservable(b.Limit.Algorithm) {
		return holds{}
	}
	return reservations(b.Words, base(b.Limit, b.Words))
}

// lent returns the place of the hold of what is out that counts at now, -1 if
// there is none.
func (b *Budget) lent(now int64) int64 {
	h := b.holds()
	for i := range h.len() {
		if x := h.at(i); uint64(x[holdID]) == LeaseHold && x[holdUntil] > now {
			return i
		}
	}
	return -1
}

// leased reports whether anything is out at now.
func (b *Budget) leased(now int64) bool {
	if len(b.Leases) == 0 {
		return false
	}
	out, _ := Lent(b.Limit, b.Words, now)
	return out > 0
}

// Lent returns how many tokens of a state are out at now. It reports false if the
// accounts of those that held any mean nothing any more: all they had has run out.
func Lent(l *headgate.Prepared, st []int64, now int64) (out int64, ok bool) {
	b := Budget{Limit: l, Words: st}
	i := b.lent(max(now, seen(l, st)))
	if i < 0 {
		return 0, false
	}
	return b.holds().at(i)[holdAmount], true
}

// VoidLeases removes what is out from st, which was carried over from old to l, if
// leases under the one mean nothing under the other. The accounts are void then.
func VoidLeases(old, l *headgate.Prepared, st []int64) {
	if leasesEnd(old, l) {
		b := Budget{Limit: l, Words: st}
		b.removeLease()
	}
}

// leasesEnd reports whether leases under old mean nothing under l.
func leasesEnd(old, l *headgate.Prepared) bool {
	return l.Algorithm != headgate.TokenBucket && !sameTags(old, l)
}

// removeLease removes the hold of what is out.
func (b *Budget) removeLease() {
	if i := b.lent(math.MinInt64); i >= 0 {
		b.holds().remove(i)
	}
}

// insertLease adds the hold of what is out, for which it makes room.
func (b *Budget) insertLease(until, amount, tag int64) {
	h := b.holds()
	if h.len() == h.room() {
		words := make([]int64, base(b.Limit, b.Words)+holdsWords(tagWidth, max(1, 2*h.room())))
		copy(words, b.Words)
		b.Words = words
		h = b.holds()
	}
	id := uint64(LeaseHold)
	h.insert(int64(id), until, amount, tag)
}

// forgetLeases forgets all accounts. What is out is not credited.
func (b *Budget) forgetLeases() {
	if len(b.Leases) > 0 {
		b.Leases = nil
		b.removeLease()
	}
}

// forgetSilent forgets the accounts of holders that are silent for so long that
// nothing they have can still be spent.
func (b *Budget) forgetSilent(now int64, t *Terms) {
	if len(b.Leases) == 0 {
		return
	}
	b.Leases = slices.DeleteFunc(b.Leases, func(x Lease) bool { return now-x.Seen >= t.TTL+t.Grace })
	h := b.holds()
	x := h.at(b.lent(now))
	out := b.outstanding()
	h.w[holdsSum] += out - x[holdAmount]
	x[holdAmount] = out
	if len(b.Leases) == 0 {
		b.removeLease()
	}
}

// span is the stretch of time in which a lease can be spent: a window, slice or
// period.
type span struct {
	id  int64 // its name; 0 of a bucket
	tag int64 // its tag on reservations
	end int64 // 0 of a bucket
	now int64 // the instant of the request, or a later one that was already seen
}

// until is the instant at which all of what is granted has run out: with its
// window at the latest.
func (s *span) until(t *Terms) int64 {
	if until := s.now + t.TTL + t.Grace; s.end == 0 || until < s.end {
		return until
	}
	return s.end
}

// settle brings the budget to now: it refills, with what is out still held, or
// goes on to the window that is current. Accounts of another window are forgotten,
// and those whose hold has ended.
func (b *Budget) settle(now int64) (s span) {
	l, st := b.Limit, b.Words
	switch l.Algorithm {
	case headgate.TokenBucket:
		h := reservations(st, bucketWords)
		t := tideOf(l, st, h)
		t.rise(now)
		st[bucketLevel], st[bucketAt] = t.v, t.at
		s.tag = noTag
	case headgate.FixedWindow:
		if now >= st[fixedEnd] {
			st[fixedEnd], st[fixedUsed] = windowEnd(now, l.WindowMicros), 0
		}
		s.tag, s.end = st[fixedEnd], st[fixedEnd]
		s.id = floorDiv(s.end, l.WindowMicros) - 1
	case headgate.SlidingWindow:
		newest, _ := slotsSum(st, int64(l.Slices), l.SliceMicros, now)
		slotsAdvance(st, int64(l.Slices), newest)
		s.id, s.tag, s.end = newest, newest, (newest+1)*l.SliceMicros
	case headgate.Quota:
		p, n, carry := quotaRoll(l, st, now)
		st[quotaLabel], st[quotaStart], st[quotaEnd] = p.Label, p.Start, p.End
		st[quotaUsed], st[quotaCarry] = n, carry
		s.id, s.tag, s.end = p.Label, p.End, p.End
	}
	s.now = max(now, seen(l, st))
	if b.lent(s.now) < 0 {
		b.forgetLeases() // with its window at the latest
	}
	return s
}

// left returns the tokens that are left in the budget, which was settled, and
// its capacity.
func (b *Budget) left() (left, capacity int64) {
	l, st := b.Limit, b.Words
	switch l.Algorithm {
	case headgate.TokenBucket:
		return floorDiv(st[bucketLevel], l.P), l.Burst
	case headgate.FixedWindow:
		return l.Count - st[fixedUsed], l.Count
	case headgate.SlidingWindow:
		_, sum := slotsSum(st, int64(l.Slices), l.SliceMicros, st[slotNewest]*l.SliceMicros)
		return l.Count - sum, l.Count
	default: // Quota
		capacity = l.Count + st[quotaCarry]
		return capacity - st[quotaUsed], capacity
	}
}

// charge takes tokens out of the budget, which was settled, or gives them back.
func (b *Budget) charge(tokens int64) {
	l := b.Limit
	if l.Algorithm == headgate.TokenBucket {
		v := &b.Words[bucketLevel]
		*v = max(-l.Cap, min(l.Cap, *v-tokens*l.P))
		return
	}
	n := b.counter()
	*n = max(0, *n+tokens)
}

// counter is where the current window, slice or period counts.
func (b *Budget) counter() *int64 {
	switch b.Limit.Algorithm {
	case headgate.FixedWindow:
		return &b.Words[fixedUsed]
	case headgate.SlidingWindow:
		return &b.Words[slotIndex(b.Words[slotNewest], int64(b.Limit.Slices))]
	default: // Quota
		return &b.Words[quotaUsed]
	}
}
