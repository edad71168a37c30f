package memstore

import (
	"context"

	"github.com/headgate/headgate"
)

const (
	// mostSpills is how often room is made for a batch.
	mostSpills = 3
	// leastSpilled is how many states leave a shard at once, if there are so many.
	leastSpilled = 64
)

// spill makes room in the shards of a batch: states that are in the journal leave
// memory.
func (s *Store) spill(ctx context.Context, charges []headgate.Charge) error {
	cells := make([]cell, len(charges))
	s.locate(cells, charges)
	some := false
	for _, n := range lockOrder(nil, cells) {
		sh := &s.shards[n]
		sh.mu.Lock()
		some = s.leave(sh, n, cells) || some
		sh.mu.Unlock()
	}
	if !some {
		return errFull
	}
	return s.kept.promise().wait(ctx)
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
	p := sh.pend(id)
	if p.mark = has; e.version&unsure == 0 {
		p.mark = has.Ahead(l)
	}
	p.limit, p.queued, p.leaving = l, has, true
	e.version |= unsure
	c := cell{shard: sh, number: number, id: id}
	s.kept.add([]note{s.image(p, &c, e, l, has)}, false, sh.last)
	return true
}
