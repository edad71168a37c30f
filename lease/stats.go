package lease

import (
	"math/rand/v2"
	"sync/atomic"
)

// Stats says what a store leased and decided.
type Stats struct {
	// Leases is the number of budgets of which something may be spent now, and
	// Tracked that of all that are looked after.
	Leases, Tracked int
	// Outstanding is the number of tokens that may be spent without asking.
	Outstanding int64
	// Local and Remote count what was decided here and what the authority was
	// asked to.
	Local, Remote int64
	// Calls counts calls of Acquire, and Failures those that brought nothing.
	Calls, Failures int64
	// Grants counts grants, Granted the tokens that they brought, Returned those
	// that were given back, Late those of them that came too late to be spent,
	// and Dropped those that were void, or may be: where no answer came, also
	// what was asked for, and what was given back and perhaps never arrived.
	Grants, Granted, Returned, Late, Dropped int64
}

// Stats counts. It looks at every lease.
func (s *Store) Stats() Stats {
	n := &s.counters
	st := Stats{
		Remote: n.remote.Load(), Calls: n.calls.Load(), Failures: n.failures.Load(),
		Grants: n.grants.Load(), Granted: n.granted.Load(), Returned: n.returned.Load(),
		Late: n.late.Load(), Dropped: n.dropped.Load(),
	}
	for i := range n.stripes {
		st.Local += n.stripes[i].n.Load()
	}
	now, _ := s.clock.now()
	s.table.all(func(c *cell) {
		st.Tracked++
		if l := c.holder.Lease(); l.Live(now) {
			st.Leases++
			st.Outstanding += l.Left()
		}
	})
	return st
}

type counters struct {
	remote, calls, failures                  atomic.Int64
	grants, granted, returned, late, dropped atomic.Int64
	stripes                                  [stripes]stripe
}

// Local decisions are counted in several places, so that processors do not
// contend for one.
const stripes = 16

type stripe struct {
	n atomic.Int64
	_ [56]byte
}

func (c *counters) local() { c.stripes[rand.Uint32()%stripes].n.Add(1) }
