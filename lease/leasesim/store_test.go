package leasesim

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// partition is a store, or one of those that a cluster is made of: what a script
// would do, on [algo.Budget]. Its data are the budgets and the mark, which a
// failover may take back to an earlier state; run is its process.
type partition struct {
	w *world
	i int
	data
	run    uint64
	down   int64 // the instant until which nobody reaches it
	offset int64 // its clock is true time and that
	calm   int64 // when the quarantine ends, by its clock
	gains  []gain
	gained int64
	copies [8]*data // for failovers to come
	work   []algo.Budget
}

type data struct {
	budgets []algo.Budget // by index of the budget, those of other partitions empty
	mark    mark
}

// mark is what says which incarnation a store is: {run id, seq, since}.
type mark struct {
	run, seq uint64
	since    int64
}

func (m *mark) epoch() headgate.Epoch {
	return headgate.Epoch{ID: m.seq<<20 | m.run&(1<<20-1), Since: m.since}
}

func (d *data) clone() *data {
	c := &data{mark: d.mark}
	for i := range d.budgets {
		c.budgets = append(c.budgets, d.budgets[i].Clone())
	}
	return c
}

// gain is a step forward of the clock: at an instant of true time, by so much.
type gain struct{ at, by int64 }

func newPartition(w *world, i int) *partition {
	s := &partition{w: w, i: i, run: w.fault.Uint64()}
	s.budgets = make([]algo.Budget, len(w.limits))
	return s
}

// clock is what the store's clock shows.
func (s *partition) clock() int64 { return s.w.now + s.offset }

// elapsed is the time since the start of the schedule in which budgets may have
// refilled: true time, and every step forward of the clock.
func (s *partition) elapsed() int64 { return s.w.now - s.w.start + s.gained }

// settled is elapsed without the steps of the last lease life: who got tokens
// before a step may spend them until then.
func (s *partition) settled() int64 {
	t := s.elapsed()
	for _, g := range s.gains {
		if s.w.now < g.at+s.w.terms.TTL {
			t -= g.by
		}
	}
	return t
}

func (s *partition) step(n int64) {
	s.offset += n
	if n > 0 {
		s.gains = append(s.gains, gain{s.w.now, n})
		s.gained += n
	}
	s.w.trace("store %d: clock steps by %d", s.i, n)
}

func (s *partition) happen(e event) {
	w := s.w
	switch e.kind {
	case snapshot:
		s.copies[e.n] = s.data.clone()
	case step:
		w.count.Steps++
		s.step(e.n)
	case failover:
		w.count.Failovers++
		s.run = w.fault.Uint64()
		s.down = w.now + between(w.fault, 0, w.terms.TTL)
		old := s.data.clone()
		if c := s.copies[e.n]; c != nil {
			w.count.Lossy++
			s.data = *c
			s.copies[e.n] = nil
		}
		w.trace("store %d: failover, run %x", s.i, s.run&0xffff)
		s.lost(old)
		if w.has(cuts) { // what took the store away cuts off processes too
			w.push(event{at: w.now, kind: cut, who: w.fault.IntN(w.nodes), n: between(w.fault, 0, 2*w.terms.TTL)})
		}
		back := s.down + w.fault.Int64N(w.terms.TTL) // who has waited comes at once
		for i, p := range w.procs {
			w.push(event{at: back, kind: again, who: i, n: w.fault.Int64N(40) / int64(w.nodes)})
			if w.often {
				p.share = 0.01
			}
		}
		if w.has(clocks) {
			s.step(between(w.fault, -w.terms.TTL, w.terms.TTL))
		}
	case wipe:
		w.count.Wipes++
		w.trace("store %d: wiped", s.i)
		old := s.data.clone()
		s.data = data{budgets: make([]algo.Budget, len(s.budgets))}
		if chance(w.fault, 0.5) {
			s.run = w.fault.Uint64()
		}
		s.lost(old)
		if w.has(amnesia) {
			s.meet(new(known))
		}
	}
}

// lost tells the ledgers what the store no longer knows.
func (s *partition) lost(old *data) {
	for i, b := range s.w.budgets {
		if b.part == s {
			b.lose(&old.budgets[i], &s.budgets[i])
		}
	}
}

// known is what a process knows of a store.
type known struct {
	mark
	met bool
}

// meet is the handshake of a process that knows k with the store: it agrees with
// the mark there, or writes one.
func (s *partition) meet(k *known) {
	w := s.w
	w.count.Handshakes++
	switch m := &s.mark; {
	case m.seq == 0 && k.seq == 0: // nobody knows anything: a new store
		*m = mark{run: s.run, seq: 1}
		s.calm = 0
		for i, b := range w.budgets {
			if b.part == s {
				s.budgets[i] = algo.Budget{}
				b.anew()
			}
		}
	case m.seq < k.seq || m.run != s.run:
		since := s.clock() + w.terms.TTL
		s.calm = since
		if w.mutant.is(noQuarantine) {
			since = s.clock()
		}
		next := mark{run: s.run, seq: max(m.seq, k.seq) + 1, since: since}
		if w.mutant.is(noRecovery) && m.seq > 0 {
			next = *m
			next.run = s.run
			// The records go on as if nothing had happened.
			for i := range s.budgets {
				s.budgets[i].Epoch = next.epoch().ID
			}
		}
		*m = next
	}
	k.mark, k.met = s.mark, true
	w.trace("store %d: mark seq %d since %d", s.i, s.mark.seq, s.mark.since-w.start)
}

// receive answers a message.
func (s *partition) receive(m *message) {
	w := s.w
	p := w.procs[m.who]
	if w.now < s.down || w.now < p.cut {
		w.drop(m)
		return
	}
	if !m.met || m.mark != s.mark || s.mark.run != s.run {
		if m.inc != p.inc { // nobody is there to ask anew
			w.drop(m)
			return
		}
		s.meet(&p.known[s.i])
		m.known = p.known[s.i]
		if chance(w.net, 0.5) {
			w.push(event{at: w.now + 2*w.hop, kind: ask, msg: m})
			return
		}
	}
	if s.clock() >= s.calm { // and stays so, should the clock go back
		s.calm = 0
	}
	switch {
	case len(m.reports) > 0:
		m.replies = append(m.replies[:0], make([]headgate.LeaseReply, len(m.reports))...)
		for i := range m.reports {
			r := &m.reports[i]
			r.age = w.budgets[r.budget].age
			s.acquire(r.budget, &r.LeaseRequest, &m.replies[i])
		}
	default:
		s.take(m)
	}
	w.send(answer, m)
}

// acquire is one lease request.
func (s *partition) acquire(i int, request *headgate.LeaseRequest, reply *headgate.LeaseReply) {
	w, r := s.w, *request
	now, e, b := s.clock(), s.mark.epoch(), &s.budgets[i]
	l := w.budgets[i]
	w.mutant.load(b, r.Limit, now, e)
	l.floored(&r, now)
	w.mutant.beforeAcquire(s, b, &r, now, e)
	terms := w.terms
	before := s.used(b, now, e) + l.raise(b, &r, now)
	w.mutant.acquire(s, b, &r, now, e, &terms, reply)
	l.charge(b, s.used(b, now, e)-before, l.labelOf(b))
	w.count.reply(&r, reply)
	if w.traced != nil {
		w.trace("store %d: budget %d: holder %d G %d S %d X %d want %d win %d ep %x -> status %d G %d win %d ep %x left %v count %d; used %d -> %d out %d %v", s.i, i, r.Holder[1],
			r.Granted, r.Settled, r.Returned, r.Want, r.Window, r.Epoch, reply.Status, reply.Granted, reply.Window, reply.Epoch, reply.WindowLeft, reply.Count,
			before, s.used(b, now, e), len(b.Leases), b.Words)
	}
	if reply.Status == headgate.LeaseOK {
		x := &w.ids[r.Holder[1]]
		x.granted = max(x.granted, reply.Granted)
	}
}

// used is what is used of a budget that was loaded.
func (s *partition) used(b *algo.Budget, now int64, e headgate.Epoch) int64 {
	var o headgate.Outcome
	b.Apply(&algo.Call{Op: headgate.Peek, Now: now}, e, &o)
	return o.Used
}

// take decides a batch of charges: all or none.
func (s *partition) take(m *message) {
	w := s.w
	now, e := s.clock(), s.mark.epoch()
	for len(s.work) < len(m.charges) {
		s.work = append(s.work, algo.Budget{})
	}
	call := algo.Call{Op: headgate.Take, Now: now, Hold: m.hold, HoldFor: m.holdFor}
	m.allowed = true
	var refused [8]bool
	for i := range m.charges {
		c, b := &m.charges[i], &s.work[i]
		from := &s.budgets[c.budget]
		words, leases := b.Words[:0], b.Leases[:0]
		*b = *from
		b.Words, b.Leases = append(words, from.Words...), append(leases, from.Leases...)
		c.fresh, c.other = w.mutant.load(b, c.limit, now, e)
		peek := call
		peek.Op, peek.Cost = headgate.Peek, c.cost
		w.mutant.direct(b, &peek, e, &c.out)
		refused[i] = !c.out.Allowed
		m.allowed = m.allowed && c.out.Allowed
	}
	w.count.Direct++
	if !m.allowed {
		w.count.Denied++
	}
	for i := range m.charges {
		c, b := &m.charges[i], &s.work[i]
		if m.allowed {
			call.Cost = c.cost
			w.mutant.direct(b, &call, e, &c.out)
		} else if c.fresh || c.other && (!refused[i] || c.out.Never) {
			continue
		}
		to, l := &s.budgets[c.budget], w.budgets[c.budget]
		*to, *b = *b, *to
		c.label = l.labelOf(to)
		if !m.allowed {
			l.charge(to, 0, c.label)
			continue
		}
		w.trace("store %d: budget %d: process %d takes %d (hold %d), used %d of %d %v", s.i, c.budget, m.who, c.cost, m.hold, c.out.Used, c.out.Limit, to.Words)
		l.charge(to, c.cost, c.label)
		if !m.later || l.kind != headgate.TokenBucket {
			l.admit(c.took, c.label, nil)
		}
	}
	if m.allowed && m.hold != 0 {
		w.count.Reserved++
		k := w.copyOf(m)
		w.push(event{at: w.now + between(w.load, 0, m.holdFor*5/4), kind: settle, msg: k})
	}
}

// settle ends a reservation with what the work took. It comes from any node, and
// arrives, perhaps twice.
func (s *partition) settle(m *message) {
	w := s.w
	s.visit()
	now, e := s.clock(), s.mark.epoch()
	for i := range m.charges {
		c := &m.charges[i]
		b := s.budgets[c.budget].Clone()
		w.mutant.load(&b, c.limit, now, e)
		l := w.budgets[c.budget]
		before := s.used(&b, now, e)
		b.Apply(&algo.Call{Op: headgate.Settle, Now: now, Cost: c.took, Hold: m.hold}, e, &c.out)
		after := s.used(&b, now, e)
		w.trace("store %d: budget %d: hold %d of %d settles at %d: %v, used %d -> %d %v", s.i, c.budget, m.hold, c.cost, c.took, c.out.Allowed, before, after, b.Words)
		if !c.out.Allowed {
			continue
		}
		w.count.Settled++
		s.budgets[c.budget] = b
		if c.settled {
			l.credited(&b, before-after, c.label)
			continue
		}
		c.settled = true
		l.charge(&b, after-before, c.label)
		if m.later && l.kind == headgate.TokenBucket {
			l.admit(c.took, c.label, nil)
		}
	}
	if w.has(repeats) && !m.again && chance(w.load, 0.5) {
		m.again = true
		w.push(event{at: w.now + between(w.load, 0, 4*w.terms.TTL), kind: settle, msg: m})
		return
	}
	w.drop(m)
}

// visit is a handshake of somebody who knows no more than the mark says.
func (s *partition) visit() {
	if s.mark.run != s.run {
		s.meet(&known{mark: s.mark, met: true})
	}
}

// reset is an operator's: the budget is as good as new, but for what is out.
func (s *partition) reset(i int) {
	w := s.w
	if s.mark.seq == 0 || w.has(clocks) && w.budgets[i].kind != headgate.TokenBucket {
		return // a window reset by a clock that went back comes again
	}
	s.visit()
	w.count.Resets++
	now, e, b := s.clock(), s.mark.epoch(), &s.budgets[i]
	l := b.Limit
	if l == nil {
		return
	}
	w.mutant.load(b, l, now, e)
	before := s.used(b, now, e)
	w.mutant.reset(b, now, e)
	after := s.used(b, now, e)
	w.trace("store %d: budget %d: reset, used %d -> %d %v", s.i, i, before, after, b.Words)
	w.budgets[i].permit(b, before-after)
}
