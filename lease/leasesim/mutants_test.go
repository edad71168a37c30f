package leasesim

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/lease"
)

// mutation is a rule of the protocol that is broken. It is broken where messages
// come and go, so that lease and algo run as they are.
type mutation int

const (
	sound          mutation = iota
	blindDirect             // direct takes refill as if nothing was out
	earlyReturns            // reports are settled before the refill
	noRecovery              // what another incarnation has is taken as it is
	noQuarantine            // a new incarnation starts at once
	creditExpired           // tokens of silent holders are credited
	adoptUnknown            // what an unknown holder says is believed
	keepHolder              // holders keep their ids over epochs, and are believed
	noWindowTag             // leases have no window
	noFloor                 // floors are ignored
	forgetSoon              // accounts are forgotten after half a life
	fromReceipt             // deadlines count from when the reply comes
	staleCheck              // deadlines are not checked again after a pause
	lateUsed                // late replies are used
	toldEarly               // returns are told before they are deducted
	doubleSpend             // what is new in a reply is taken for what it adds to its request
	keptTokens              // a batch that fails on one lease keeps what it took of the others
	longSlice               // leases of a slice live as long as the window
	blindReset              // resets forget what is out
	sleepyClock             // the holder's clock stops while it is paused
	openQuarantine          // grants and takes of windows in quarantine
	plainRecovery           // recovery leaves reservations what they may give back
	blindConvert            // a change of numbers forgets what is out
)

// mutant is a mutation, and the schedules that show it.
type mutant struct {
	kind mutation
	name string
	force
}

var mutants = []*mutant{
	{blindDirect, "direct path blind to outstanding", force{on: directs, off: reserves, only: true}},
	{earlyReturns, "reports settled before the refill", force{only: true}},
	{noRecovery, "no recovery rule", force{on: failovers | losses, only: true}},
	{noQuarantine, "recovery of windows without quarantine", force{on: failovers | losses, only: true, kind: headgate.FixedWindow}},
	{noQuarantine, "recovery of buckets without quarantine", force{on: failovers | cuts | directs, off: several, only: true, often: true}},
	{plainRecovery, "recovery that credits settlements again", force{on: failovers | losses | reserves | repeats, off: several | numbers, only: true, often: true, refill: 20}},
	{blindConvert, "numbers that forget what is out", force{on: numbers | directs, only: true}},
	{openQuarantine, "windows open in quarantine", force{on: failovers | losses, only: true, kind: headgate.FixedWindow}},
	{creditExpired, "credit at expiry", force{on: pauses | slow | cuts, only: true}},
	{adoptUnknown, "unknown holders adopted", force{on: repeats | pauses | cuts, only: true}},
	{keepHolder, "holders kept over epochs", force{on: failovers | losses | repeats, only: true}},
	{noWindowTag, "no window tag", force{only: true, kind: headgate.FixedWindow}},
	{noFloor, "floor ignored", force{on: failovers | losses, only: true, kind: headgate.FixedWindow}},
	{forgetSoon, "accounts forgotten after half a life", force{on: cuts | slow, only: true}},
	{fromReceipt, "deadline from the reply's arrival", force{on: slow, only: true, kind: headgate.FixedWindow}},
	{staleCheck, "deadline not checked again after a pause", force{on: pauses, only: true, kind: headgate.FixedWindow}},
	{lateUsed, "late reply used", force{on: slow, only: true, kind: headgate.FixedWindow}},
	{toldEarly, "return told before it is deducted", force{}},
	{doubleSpend, "what a repeated reply grants is spent twice", force{on: repeats}},
	{keptTokens, "tokens kept when a batch fails", force{on: several}},
	{longSlice, "lease that outlives its slice", force{on: pauses | slow, only: true, kind: headgate.SlidingWindow}},
	{blindReset, "reset that forgets what is out", force{on: resets, only: true}},
	{sleepyClock, "clock that stops in a pause", force{on: pauses, only: true, kind: headgate.FixedWindow}},
}

func (m *mutant) is(k mutation) bool { return m != nil && m.kind == k }

// load loads a budget.
func (m *mutant) load(b *algo.Budget, l *headgate.Prepared, now int64, e headgate.Epoch) (fresh, other bool) {
	if m.is(plainRecovery) && b.Limit != nil && b.Epoch != e.ID && now < b.Absent() {
		forgetOut(b)
		b.Words[0], b.Words[1], b.Epoch = min(b.Words[0], 0), max(b.Words[1], e.Since), e.ID
	}
	fresh, other = b.Load(l, now, e)
	if m.is(blindConvert) && other {
		forgetOut(b)
	}
	return fresh, other
}

// forgetOut makes a token bucket hold nothing that is leased out.
func forgetOut(b *algo.Budget) {
	b.Leases = nil
	const n, sum, first, list = 2, 3, 4, 5 // where a bucket's holds stand, four words each
	if len(b.Words) <= list {
		return
	}
	for i := range b.Words[n] {
		if x := b.Words[list+4*(b.Words[first]+i):]; x[0] == -1 { // algo.LeaseHold
			b.Words[sum] -= x[2]
			x[2] = 0
		}
	}
}

// beforeAcquire is what a broken store does before it takes a request.
func (m *mutant) beforeAcquire(s *partition, b *algo.Budget, r *headgate.LeaseRequest, now int64, e headgate.Epoch) {
	switch {
	case m.is(noFloor):
		r.Floor = 0
	case m.is(earlyReturns):
		early, reply := *r, headgate.LeaseReply{}
		early.Want = 0
		b.Acquire(&early, b.Words[1], e, &s.w.terms, &reply)
	case m.is(noWindowTag):
		if r.Window != 0 {
			r.Window = s.w.budgets[0].bySpan(b, now)
		}
	case m.is(keepHolder):
		r.Epoch = e.ID
		m.adopt(s, b, r, now, e)
	case m.is(adoptUnknown):
		m.adopt(s, b, r, now, e)
	}
}

// adopt makes the account say what the holder says.
func (m *mutant) adopt(s *partition, b *algo.Budget, r *headgate.LeaseRequest, now int64, e headgate.Epoch) {
	if r.Granted == 0 || r.Epoch != e.ID {
		return
	}
	of := func(x algo.Lease) bool { return x.Holder == r.Holder }
	i := slices.IndexFunc(b.Leases, of)
	if i < 0 {
		first := headgate.LeaseRequest{Limit: r.Limit, Owner: r.Owner, Holder: r.Holder, Want: 1}
		b.Acquire(&first, now, e, &s.w.terms, new(headgate.LeaseReply))
		if i = slices.IndexFunc(b.Leases, of); i < 0 {
			return
		}
		b.Leases[i] = algo.Lease{Holder: r.Holder, Granted: r.Granted, Settled: r.Settled, Returned: r.Returned, Seen: now}
	}
	b.Leases[i].Granted = max(b.Leases[i].Granted, r.Granted)
}

// acquire is the store's part.
func (m *mutant) acquire(s *partition, b *algo.Budget, r *headgate.LeaseRequest, now int64, e headgate.Epoch, t *algo.Terms, reply *headgate.LeaseReply) {
	switch {
	case m.is(creditExpired):
		before, label := slices.Clone(b.Leases), s.w.budgets[0].labelOf(b)
		b.Acquire(r, now, e, t, reply)
		for _, x := range before {
			known := slices.ContainsFunc(b.Leases, func(y algo.Lease) bool { return x.Holder == y.Holder })
			if !known && s.w.budgets[0].labelOf(b) == label {
				b.Apply(&algo.Call{Op: headgate.Refund, Now: now, Cost: x.Granted - x.Settled}, e, new(headgate.Outcome))
			}
		}
	case m.is(forgetSoon):
		soon := *t
		soon.TTL, soon.Grace = t.TTL/2, 0
		b.Acquire(r, now, e, &soon, reply)
		reply.TTL = time.Duration(t.TTL) * time.Microsecond
	case m.is(openQuarantine):
		open := e
		open.Since = min(e.Since, now)
		b.Acquire(r, now, open, t, reply)
	default:
		b.Acquire(r, now, e, t, reply)
	}
}

// direct is a call on a budget beside leases.
func (m *mutant) direct(b *algo.Budget, c *algo.Call, e headgate.Epoch, o *headgate.Outcome) {
	switch {
	case m.is(blindDirect):
		algo.Apply(c, b.Limit, b.Words[:2:2], o)
	case m.is(openQuarantine):
		e.Since = min(e.Since, c.Now)
		b.Apply(c, e, o)
	default:
		b.Apply(c, e, o)
	}
}

func (m *mutant) reset(b *algo.Budget, now int64, e headgate.Epoch) {
	if m.is(blindReset) {
		l := b.Limit
		*b = algo.Budget{}
		b.Load(l, now, e)
		return
	}
	b.Reset(now, e)
}

// reported is what a broken holder makes of its report.
func (m *mutant) reported(s *seat, r *headgate.LeaseRequest) {
	if m.is(toldEarly) {
		left := s.holder.Lease().Left()
		r.Returned += left
		r.Settled += left
	}
}

// heard is what a broken holder makes of a reply. It returns when the report was
// sent.
func (m *mutant) heard(w *world, s *seat, r *report, reply *headgate.LeaseReply, sent, now int64) int64 {
	switch {
	case m.is(fromReceipt):
		return now
	case m.is(lateUsed):
		if now >= sent+w.terms.TTL {
			return now - w.terms.TTL/2
		}
	case m.is(doubleSpend):
		if n := reply.Granted - r.Granted; n > 0 {
			reply.Granted = s.granted + n
		}
	case m.is(longSlice):
		reply.WindowLeft += time.Duration(r.Limit.WindowMicros) * time.Microsecond
	case m.is(noWindowTag):
		reply.Window, reply.WindowLeft = 1, time.Hour
	case m.is(keepHolder):
		reply.Epoch = 1
	}
	return sent
}

// takeAll takes from all leases or none.
func (m *mutant) takeAll(claims []lease.Claim, now int64) bool {
	if !m.is(keptTokens) {
		return lease.TakeAll(claims, now)
	}
	for i := range claims {
		if _, ok := claims[i].Lease.Take(claims[i].Cost, now); !ok {
			return false
		}
	}
	return true
}
