package leasesim

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// message is what a process asks of a store, and the answer: reports on leases,
// or charges.
type message struct {
	who, inc, part int
	known          // what the process knew of the store
	sent           int64

	reports []report
	replies []headgate.LeaseReply

	charges []charge
	hold    uint64
	holdFor int64
	later   bool // a reservation's work is admitted when it is settled
	allowed bool
	again   bool // a settlement that was made before
}

type report struct {
	headgate.LeaseRequest
	budget int
	age    int // of the budget's ledger, when it was answered
}

// charge is one of a batch.
type charge struct {
	budget int
	limit  *headgate.Prepared
	cost   int64
	took   int64 // what the work will have taken, if the charge is a reservation
	lease  *lease.Lease
	label  int64
	out    headgate.Outcome
	// settled: a reservation's settlement was taken before, though perhaps lost.
	settled bool

	fresh, other bool
}

func (w *world) message(p *process, part int) *message {
	m := w.blank()
	m.who, m.inc, m.part, m.known = p.i, p.inc, part, p.known[part]
	return m
}

func (w *world) blank() *message {
	n := len(w.free)
	if n == 0 {
		return new(message)
	}
	m := w.free[n-1]
	w.free = w.free[:n-1]
	*m = message{reports: m.reports[:0], replies: m.replies[:0], charges: m.charges[:0]}
	return m
}

func (w *world) copyOf(m *message) *message {
	c := w.blank()
	reports, replies, charges := c.reports, c.replies, c.charges
	*c = *m
	c.reports = append(reports, m.reports...)
	c.replies = append(replies, m.replies...)
	c.charges = append(charges, m.charges...)
	return c
}

func (w *world) drop(m *message) { w.free = append(w.free, m) }

// send takes a message one way: usually once, after about a hop.
func (w *world) send(way eventKind, m *message) {
	r := w.net
	if w.has(repeats) && chance(r, 0.12) && (m.hold == 0 && len(m.charges) == 0 || way == answer) {
		c := w.copyOf(m)
		late := int64(0)
		if chance(r, 0.5) {
			late = r.Int64N(4 * (w.terms.TTL + w.terms.Grace))
		}
		w.count.Repeats++
		w.push(event{at: w.now + w.delay() + late, kind: way, who: c.who, msg: c})
	}
	if w.has(loss) && chance(r, w.lossy) {
		w.count.Lost++
		w.drop(m)
		return
	}
	w.push(event{at: w.now + w.delay(), kind: way, who: m.who, msg: m})
}

// delay is how long a message takes one way.
func (w *world) delay() int64 {
	r := w.net
	d := between(r, w.hop/4, w.hop)
	switch {
	case w.has(slow) && chance(r, 0.1):
		d += r.Int64N(2 * w.terms.TTL)
	case chance(r, 0.1):
		d += r.Int64N(10 * w.hop)
	}
	return d
}
