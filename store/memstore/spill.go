package memstore

import (
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

const (
	// mostSpills is how often room is made for a batch.
	mostSpills = 3
	// leastSpilled is how many states leave a shard at once, if there are so many.
	leastSpilled = 64
	// spillSlack is the share of an arena, one part in so many, that may stay free.
	spillSlack = 32
)

// spill makes room in the shards of a batch: states that are in the journal leave
// memory. If that was not enough before, what stays moves together, too: the blocks
// of those that have left may be of no use to others of another size.
func (s *Store) spill(h *haste, charges []headgate.Charge, again bool) error {
	cells := make([]cell, len(charges))
	s.locate(cells, charges)
	some, order := false, lockOrder(nil, cells)
	for _, n := range order {
		sh := &s.shards[n]
		sh.mu.Lock()
		some = s.leave(sh, n, cells) || some
		sh.mu.Unlock()
	}
	if !some {
		return errFull
	}
	if err := s.kept.promise().wait(h.context()); err != nil || !again {
		return err
	}
	for _, n := range order {
		sh := &s.shards[n]
		sh.mu.Lock()
		sh.shrink(spillSlack)
		sh.mu.Unlock()
	}
	return nil
}

// leave has some states of a shard leave, but not those of the batch that needs
// the room. Where the table's end is crowded, so that nothing fits there, some of
// them are from there.
func (s *Store) leave(sh *shard, number uint32, batch []cell) bool {
	some := false
	if n := len(sh.table); n > 0 && sh.table[n-1].version != 0 {
		for i := n - tail; i < n; i++ {
			some = s.leaveAt(sh, number, i, batch) || some
		}
	}
	left := max(leastSpilled, sh.used/16)
	for range len(sh.table) {
		if sh.spilled++; sh.spilled >= len(sh.table) {
			sh.spilled = 0
		}
		if s.leaveAt(sh, number, sh.spilled, batch) {
			some = true
			if left--; left == 0 {
				break
			}
		}
	}
	return some
}

// leaveAt has the state at a place leave, if it may. It reports whether there will be
// room sooner or later.
func (s *Store) leaveAt(sh *shard, number uint32, at int, batch []cell) bool {
	e := &sh.table[at]
	if e.version == 0 || e.lo&sharedBit != 0 || pinned(batch, e, sh) {
		return false
	}
	id := ident{e.hi, e.lo}
	if sh.pending[id] != nil {
		return true // it is about to be written, and may leave the next time
	}
	l := s.versions.get(e.version &^ flags)
	if !s.durable(l) || l.Algorithm == headgate.Ban {
		return false
	}
	has := sh.markAt(e, l)
	c := cell{shard: sh, number: number, id: id}
	if s.forgiven(&c, e, l, has) {
		return false
	}
	p := sh.pend(id)
	if p.mark = has; e.version&unsure == 0 {
		p.mark = has.Ahead(l)
	}
	p.limit, p.queued, p.leaving = l, has, true
	e.version |= unsure
	s.kept.add([]note{s.image(p, &c, e, l, has)}, false, sh.last)
	return true
}

// forgiven reports whether a state would come back as another one: after a crash, what
// is loaded is freed of small debts, which may be none.
func (s *Store) forgiven(c *cell, e *entry, l *headgate.Prepared, has algo.Mark) bool {
	if s.kept.past.Clean {
		return false
	}
	r := s.image(nil, c, e, l, has).Words
	was := slices.Clone(r)
	algo.Settled(l, r, s.kept.since)
	return !slices.Equal(was, r)
}
