package leasesim

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// process is a node: it spends from its leases, asks its stores for more, and
// takes at the store what its leases do not hold. Everything it does is dated on
// its own clock.
type process struct {
	w     *world
	i     int
	inc   int // incarnations so far
	alive bool
	// till is the instant before which it stands still, cut that before which
	// nothing it sends or is sent arrives.
	till, cut int64
	slept     int64 // what its clock missed: see mutants
	offset    int64
	drift     int64 // of its clock, in millionths
	known     []known
	seats     []seat
	share     float64 // of the load
	phase     int64   // of the load, in which its requests come
	sulk      int64   // true time before which it takes nothing at a store
	claims    []lease.Claim
}

// seat is a budget as a process sees it.
type seat struct {
	holder  *lease.Holder
	version int
	horizon int64  // how much it likes to have
	flying  int    // reports under way
	hold    int64  // true time before which it asks for nothing on account of a request
	id      uint64 // of its lease
	granted int64  // under that id
}

func newProcess(w *world, i int) *process {
	p := &process{w: w, i: i, offset: between(w.fault, 1, 1<<40)}
	if w.has(clocks) {
		p.drift = between(w.fault, -900, 900)
	}
	p.start()
	return p
}

func (p *process) start() {
	w := p.w
	p.inc++
	p.alive, p.till = true, 0
	p.known = make([]known, w.partitions)
	versions := make([]int, len(w.limits))
	for i := range p.seats {
		versions[i] = p.seats[i].version
	}
	p.seats = make([]seat, len(w.limits))
	for i := range p.seats {
		s := seat{version: versions[i], horizon: p.wants(i)}
		next := w.nextID()
		s.holder = lease.NewHolder(next)
		s.begin(w, next)
		p.seats[i] = s
	}
	w.push(event{at: w.now + w.load.Int64N(w.terms.TTL/4), kind: tick, who: p.i, n: int64(p.inc)})
}

// load is when the next requests of the present phase come.
func (p *process) load() {
	w := p.w
	gap := w.gap / max(p.share, 0.001) * (0.4 + 3.2*w.load.Float64())
	w.push(event{at: w.now + max(1, int64(gap)), kind: arrive, who: p.i, n: p.phase})
}

// wants draws how much a process likes to have of a budget.
func (p *process) wants(i int) int64 {
	limit := p.w.limits[i][0]
	return max(1, max(limit.Burst, limit.Count)/pick[int64](p.w.load, 1, 3, 10, 40))
}

// clock is what the process's clock shows at a true time.
func (p *process) clock(now int64) int64 {
	t := now - p.w.start - p.slept
	return p.offset + t + t*p.drift/1_000_000
}

// nextID is a holder's id that was never used.
func (w *world) nextID() [2]uint64 { return [2]uint64{7, uint64(len(w.ids))} }

// begin notes that the holder uses the next id.
func (s *seat) begin(w *world, next [2]uint64) {
	w.ids = append(w.ids, spending{})
	s.id, s.granted = next[1], 0
}

func (p *process) happen(e event) {
	w := p.w
	switch e.kind {
	case cut:
		p.cut = w.now + e.n
		w.count.Cuts++
		w.trace("process %d: cut off for %d", p.i, e.n)
		return
	case restart:
		p.start()
		w.trace("process %d: starts", p.i)
		return
	case crash:
		if p.alive {
			p.die()
		}
		return
	case arrive:
		if e.n != p.phase {
			return
		}
		p.load()
		e.n = 1 + w.load.Int64N(3)
	}
	if !p.alive || e.kind == tick && e.n != int64(p.inc) {
		if e.kind == answer {
			w.drop(e.msg)
		}
		return
	}
	if w.now < p.till { // it stands still: this waits
		e.at = p.till
		if e.kind == arrive {
			if w.mutant.is(staleCheck) && chance(w.load, 0.5) {
				p.request(p.clock(w.now), p.till)
				return
			}
			if chance(w.load, 0.8) {
				return
			}
			e.kind = again
		}
		if e.kind == tick || e.kind == again || e.kind == answer || e.kind == reload || e.kind == stop {
			w.push(e)
		}
		return
	}
	switch e.kind {
	case arrive, again:
		for range e.n {
			p.request(p.clock(w.now), w.now)
		}
	case tick:
		p.look()
		w.push(event{at: w.now + between(w.load, w.terms.TTL/10, w.terms.TTL/2), kind: tick, who: p.i, n: e.n})
	case answer:
		p.hear(e.msg)
	case pause:
		w.count.Pauses++
		w.trace("process %d: stands still for %d", p.i, e.n)
		p.till = w.now + e.n
		if w.mutant.is(sleepyClock) {
			p.slept += e.n
		}
	case stop:
		w.count.Stops++
		w.trace("process %d: returns everything and stops", p.i)
		for i := range p.seats {
			p.seats[i].holder.Lease().Revoke()
			p.report(i, 0)
		}
		p.die()
	case reload:
		p.reload(int(e.n))
	}
}

func (p *process) die() {
	p.w.count.Crashes++
	p.w.trace("process %d: dies", p.i)
	p.alive = false
	p.w.push(event{at: p.w.now + between(p.w.fault, 0, p.w.terms.TTL), kind: restart, who: p.i})
}

// reload gives a budget its next numbers.
func (p *process) reload(i int) {
	w, s := p.w, &p.seats[i]
	if s.version+1 == len(w.limits[i]) {
		return
	}
	w.count.Reloads++
	s.version++
	w.trace("process %d: budget %d: numbers %d", p.i, i, s.version)
	if chance(w.load, 0.5) {
		s.holder.Lease().Revoke()
	}
}

// request is one request: it passes by leases alone, or the store decides. now is
// what the process's clock shows, at the true time at which it passes.
func (p *process) request(now, at int64) {
	w := p.w
	var which [8]int
	n := 0
	for i := range p.seats {
		if w.has(several) || n == 0 {
			which[n] = i
			n++
		}
	}
	if !w.has(several) {
		which[0] = w.load.IntN(len(p.seats))
	} else if n > 1 && chance(w.load, 0.3) { // some charge fewer
		which[0] = which[w.load.IntN(n)]
		n = 1
	}
	p.claims = p.claims[:0]
	share := 0.05
	if w.often {
		share = 0.3
	}
	reserve := w.has(reserves) && chance(w.load, share)
	for _, i := range which[:n] {
		s := &p.seats[i]
		most := w.costs[i]
		if reserve && chance(w.load, 0.5) {
			most = max(most, w.limits[i][s.version].Count/3)
		}
		p.claims = append(p.claims, lease.Claim{Lease: s.holder.Lease(), Cost: between(w.load, 1, most)})
	}
	if !reserve && w.mutant.takeAll(p.claims, now) {
		w.count.Local++
		for j, c := range p.claims {
			p.spend(which[j], c.Cost, at)
		}
		return
	}
	for _, i := range which[:n] {
		if s := &p.seats[i]; s.flying == 0 && w.now >= s.hold {
			p.report(i, s.horizon)
		}
	}
	if reserve || w.has(directs) && w.now >= p.sulk && chance(w.load, w.asks) {
		p.direct(which[:n], reserve)
	}
}

// spend notes that a lease let n tokens pass. I1.
func (p *process) spend(i int, n, at int64) {
	w := p.w
	id := p.seats[i].id
	x := &w.ids[id]
	x.spent += n
	w.trace("process %d: budget %d: holder %d spends %d (%d of %d)", p.i, i, id, n, x.spent, x.granted)
	if x.spent+x.told > x.granted {
		w.fail("budget %d: holder %d spent %d and returned %d of %d", i, id, x.spent, x.told, x.granted)
	}
	if at == w.now {
		w.budgets[i].admit(n, x.label, x)
	} else {
		w.push(event{at: at, kind: passes, who: i, n: n, msg: &message{hold: id}})
	}
}

// direct asks the store to decide a request. One that charges budgets of several
// stores is not asked for here: that is not the leases' doing.
func (p *process) direct(which []int, reserve bool) {
	w := p.w
	for _, i := range which {
		if w.place[i] != w.place[which[0]] {
			return
		}
	}
	m := w.message(p, w.place[which[0]])
	for j, i := range which {
		s := &p.seats[i]
		c := charge{budget: i, limit: w.limits[i][s.version], cost: p.claims[j].Cost, took: p.claims[j].Cost}
		if reserve {
			c.took = between(w.load, 0, c.cost)
		}
		if l := s.holder.Lease(); l.Windowed() {
			c.lease = l
		}
		m.charges = append(m.charges, c)
	}
	if reserve {
		w.holds++
		m.hold, m.holdFor, m.later = w.holds, between(w.load, 1, pick[int64](w.load, 1, 8)*w.terms.TTL), chance(w.load, 0.5)
	}
	w.send(ask, m)
}

// look sees to the leases.
func (p *process) look() {
	w := p.w
	if chance(w.load, 0.1) {
		return
	}
	for i := range p.seats {
		s := &p.seats[i]
		l := s.holder.Lease()
		switch left := l.Left(); {
		case chance(w.load, 0.08): // idle
			l.Revoke()
			p.report(i, 0)
		case chance(w.load, 0.05):
			l.Keep(left / 2)
			p.report(i, 0)
		case left < s.horizon/2 || chance(w.load, 0.2):
			p.report(i, max(0, s.horizon-left))
		default:
			p.report(i, 0)
		}
		if chance(w.load, 0.05) {
			s.horizon = p.wants(i)
		}
	}
}

// report tells the store what became of a lease and asks for more.
func (p *process) report(i int, want int64) {
	w, s := p.w, &p.seats[i]
	m := w.message(p, w.place[i])
	m.sent = p.clock(w.now)
	r := report{budget: i}
	r.Limit, r.Owner = w.limits[i][s.version], "owner"
	r.Want, r.Min = want, pick[int64](w.load, 0, 1, 1, 5)
	next := w.nextID()
	back, _ := s.holder.Report(&r.LeaseRequest, m.sent, next)
	if r.Holder == next {
		s.begin(w, next)
	}
	x := &w.ids[s.id]
	if back > 0 {
		w.count.Returns++
		w.count.Returned += back
	}
	if r.Settled-r.Returned != x.spent {
		w.fail("budget %d: holder %d settled %d and returned %d, but spent %d", i, r.Holder[1], r.Settled, r.Returned, x.spent)
	}
	w.mutant.reported(s, &r.LeaseRequest)
	x.told = max(x.told, r.Returned)
	if x.spent+x.told > x.granted {
		w.fail("budget %d: holder %d returned %d and spent %d of %d", i, r.Holder[1], x.told, x.spent, x.granted)
	}
	m.reports = append(m.reports, r)
	s.flying++
	w.send(ask, m)
}

// hear takes in an answer.
func (p *process) hear(m *message) {
	w := p.w
	if m.inc != p.inc || w.now < p.cut {
		w.drop(m)
		return
	}
	now := p.clock(w.now)
	for i := range m.reports {
		r, s := &m.reports[i], &p.seats[m.reports[i].budget]
		s.flying = 0
		next := w.nextID()
		reply := m.replies[i]
		sent := w.mutant.heard(w, s, r, &reply, m.sent, now)
		e := s.holder.Absorb(&r.LeaseRequest, &reply, sent, now, next)
		if e.Anew {
			s.begin(w, next)
		}
		s.granted += e.Granted + e.Late
		w.count.Late += e.Late
		w.count.Void += e.Void
		if e.Granted > 0 {
			if x := &w.ids[s.id]; !x.dated {
				x.dated, x.age, x.label = true, r.age, m.replies[i].Window
			}
			w.count.Grants++
			w.count.Granted += e.Granted
		}
		w.trace("process %d: budget %d: holder %d hears G %d status %d: %+v", p.i, r.budget, r.Holder[1], reply.Granted, reply.Status, e)
		switch {
		case e.Anew && chance(w.load, 0.7):
			p.report(r.budget, s.horizon)
		case r.Want > 0 && e.Granted == 0:
			s.hold = w.now + between(w.load, 1, w.terms.TTL/4)
		}
	}
	for i := range m.charges {
		c := &m.charges[i]
		if c.lease != nil && c.out.Limit > 0 && p.w.budgets[c.budget].kind != headgate.SlidingWindow {
			c.lease.Saw(c.out.Used, now)
		}
		if !m.allowed {
			p.sulk = max(p.sulk, w.now+min(c.out.RetryAfter.Microseconds(), between(w.load, 1, w.terms.TTL/2)))
		}
	}
	w.drop(m)
}
