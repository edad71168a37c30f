package memstore

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// pending is a state that the journal does not have as it should.
type pending struct {
	// mark is what it surely has, zero if that is not known, and flight what it is
	// about to have while flying.
	mark, flight algo.Mark
	flying       bool
	// dirty says that it is among those to be written.
	dirty bool
	// leaving says that the state leaves memory when it is written as it stands.
	leaving bool
}

// dirt is where a state is that has to be written.
type dirt struct {
	shard uint32
	id    ident
}

// stand notes how every state of the batch stands before it moves.
func (s *Store) stand(cells []cell, charges []headgate.Charge, now int64) {
	for i := range cells {
		c, l := &cells[i], charges[i].Limit
		at, found := c.shard.find(c.id)
		if !found {
			continue
		}
		e := c.shard.table[at]
		if v := e.version &^ flags; v != l.Serial {
			if old := s.versions.get(v); !old.SameNumbers(l) {
				c.other, c.journaled = true, c.shard.lasts(&e, old, now)
				continue
			}
		}
		c.unsure, c.journaled = e.version&unsure != 0, c.shard.lasts(&e, l, now)
		c.mark = c.shard.markAt(&e, l)
	}
}

// lasts reports whether the state of an entry has to be in the journal: it is that
// of a durable limit, still bounds what it was under other numbers, or has
// reservations.
func (sh *shard) lasts(e *entry, l *headgate.Prepared, now int64) bool {
	return !algo.Transient(l) || e.version&wide != 0 && (now < *sh.arena.keep(e.state) || algo.Reserved(l, sh.arena.state(e.state)))
}

// markAt returns the exact mark of a state.
func (sh *shard) markAt(e *entry, l *headgate.Prepared) algo.Mark {
	if e.version&wide == 0 {
		return algo.PackedMark(e.state)
	}
	return algo.MarkOf(l, sh.arena.state(e.state))
}

// note makes sure that the journal will have what the batch has moved, and says
// when.
func (s *Store) note(op headgate.Op, charges []headgate.Charge, cells []cell, now int64) *round {
	wait := false
	for i := range cells {
		c := &cells[i]
		switch {
		case op == headgate.Reset:
			wait = s.noteGone(c, charges[i].Limit, now) || wait
		case (c.moved || c.stays) && !c.shared:
			wait = s.noteMoved(op, c, charges[i].Limit, now) || wait
		}
	}
	if !wait {
		return nil
	}
	return s.kept.promise()
}

// noteGone is for a state that was forgotten.
func (s *Store) noteGone(c *cell, l *headgate.Prepared, now int64) bool {
	if !s.kept.looked(l, now) {
		return false
	}
	c.shard.evicted++
	s.kept.ban(c.id, true)
	p := c.shard.pend(c.id)
	*p = pending{flying: p.flying, dirty: p.dirty}
	s.soil(c, p, now)
	return true
}

// noteMoved is for a state that has moved. It reports whether nobody may hear of
// that before it is written.
func (s *Store) noteMoved(op headgate.Op, c *cell, l *headgate.Prepared, now int64) bool {
	sh := c.shard
	at, found := sh.find(c.id)
	if !found {
		return false
	}
	e := &sh.table[at]
	p := sh.pending[c.id]
	if !sh.lasts(e, l, now) {
		if e.version&unsure == 0 && !c.journaled {
			return false
		}
		// What the journal has of it is of no use any more.
		e.version |= unsure
		if p == nil {
			p = sh.pend(c.id)
		}
		*p = pending{flying: p.flying, dirty: p.dirty}
		s.soil(c, p, now)
		return true
	}
	after := sh.markAt(e, l)
	forced := op != headgate.Take || c.other || !after.OK
	var has algo.Mark // what the journal has
	switch {
	case forced || c.fresh:
	case p != nil:
		has = p.mark
	case c.unsure:
		has = c.mark
	default:
		has = c.mark.Ahead(l)
	}
	covered := has.Covers(after)
	if covered {
		will := has
		if p != nil && p.flying {
			will = p.flight
		}
		if p != nil && p.dirty || will == after.Ahead(l) {
			return false
		}
	}
	if p == nil {
		p = sh.pend(c.id)
		p.mark = has
	}
	p.leaving = false
	if forced {
		p.mark, p.flight = algo.Mark{}, algo.Mark{}
	}
	s.soil(c, p, now)
	if covered {
		return false
	}
	e.version |= unsure
	// Forgetting a denial, or that something was released, harms nobody.
	return l.Algorithm != headgate.Ban && (op != headgate.Release || c.other)
}

// stays reports whether a packed entry may go on to the word x without the journal's
// hearing of it.
func (e *entry) stays(l *headgate.Prepared, x int64) bool {
	return x == e.state || e.version&unsure == 0 && algo.PackedStays(l, e.state, x)
}

// pend finds or makes what is pending of a key.
func (sh *shard) pend(id ident) *pending {
	p := sh.pending[id]
	if p == nil {
		p = new(pending)
		if sh.pending == nil {
			sh.pending = make(map[ident]*pending)
		}
		sh.pending[id] = p
	}
	return p
}

// soil puts a state among those to be written.
func (s *Store) soil(c *cell, p *pending, now int64) {
	k := s.kept
	k.mu.Lock()
	if !p.dirty {
		p.dirty = true
		k.dirty = append(k.dirty, dirt{c.number, c.id})
	}
	k.latest = max(k.latest, now)
	k.mu.Unlock()
	select {
	case k.lazy <- struct{}{}:
	default:
	}
}
