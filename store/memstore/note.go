package memstore

import (
	"errors"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// pending is a state that the journal does not have as it should.
type pending struct {
	// limit has the numbers of the newest image; nil of one that is gone.
	limit *headgate.Prepared
	// mark is what the journal surely has, zero if that is not known, and queued that
	// of the newest image, which it is about to have.
	mark, queued algo.Mark
	// seq is the round that has the newest image, at place slot of its notes. Both
	// are guarded by the keeper's lock.
	seq  uint64
	slot int
	// leaving says that the state leaves memory when the newest image is written.
	leaving bool
}

// note is one state as the journal is to have it.
type note struct {
	*pending
	shard uint32
	id    ident
	limit *headgate.Prepared
	mark  algo.Mark
	Record
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

// note makes sure that the journal will have what the batch has moved, all of it or
// nothing, and says when.
func (s *Store) note(op headgate.Op, charges []headgate.Charge, cells []cell, now int64) *round {
	var few [4]note
	wait, notes := false, few[:0]
	for i := range cells {
		c, l := &cells[i], charges[i].Limit
		if c.moved {
			s.repack(c, l, now)
		}
		switch {
		case op == headgate.Reset && !c.moved:
			wait = s.noteGone(&notes, c, l, now) || wait
		case (c.moved || c.stays) && !c.shared:
			wait = s.noteMoved(&notes, op, c, l, now) || wait
		}
	}
	return s.kept.add(notes, wait, now)
}

// repack puts a bucket into one word that has no need of more any longer: in words it
// has no marks, and every charge would have to be written.
func (s *Store) repack(c *cell, l *headgate.Prepared, now int64) {
	at, found := c.shard.find(c.id)
	if _, lent := c.shard.leases[c.id]; !found || c.shared || lent {
		return
	}
	e := &c.shard.table[at]
	if e.version&wide == 0 || e.version&^flags != l.Serial {
		return
	}
	if s.pack(&cell{shard: c.shard, at: at}, l, now); e.version&wide == 0 {
		e.version |= unsure
	}
}

// noteGone is for a state that was forgotten.
func (s *Store) noteGone(notes *[]note, c *cell, l *headgate.Prepared, now int64) bool {
	if !s.kept.looked(l, now) {
		return false
	}
	c.shard.evicted++
	s.kept.ban(c.id, true)
	*notes = append(*notes, c.drop())
	return true
}

// drop notes that the journal is to have nothing of a state.
func (c *cell) drop() note {
	p := c.shard.pend(c.id)
	p.limit, p.mark, p.queued, p.leaving = nil, algo.Mark{}, algo.Mark{}, false
	return note{pending: p, shard: c.number, id: c.id, Record: Record{Key: Key{c.id.hi, c.id.lo}}}
}

// noteMoved is for a state that has moved. It reports whether nobody may hear of
// that before it is written.
func (s *Store) noteMoved(notes *[]note, op headgate.Op, c *cell, l *headgate.Prepared, now int64) bool {
	sh := c.shard
	at, found := sh.find(c.id)
	if !found {
		return false
	}
	e := &sh.table[at]
	if !sh.lasts(e, l, now) {
		if e.version&unsure == 0 && !c.journaled {
			return false
		}
		// What the journal has of it is of no use any more.
		e.version |= unsure
		*notes = append(*notes, c.drop())
		return true
	}
	var has algo.Mark // what the journal has, if nothing is pending
	switch {
	case c.fresh || c.other:
	case c.unsure:
		has = c.mark
	default:
		has = c.mark.Ahead(l)
	}
	after := sh.markAt(e, l)
	ahead := after.Ahead(l)
	p, covered, will := sh.pending[c.id], has.Covers(after), has
	if p != nil {
		covered, will = p.mark.Covers(after) && p.queued.Covers(after), p.queued
	}
	covered = covered && op == headgate.Take && !c.fresh && !c.other
	if covered && will == ahead {
		return false
	}
	if covered && s.kept.crowd.Load() {
		e.version |= unsure // what the journal has covers this state, and need not cover the next step
		return false
	}
	if p == nil && l.Algorithm == headgate.Ban && s.kept.crowd.Load() {
		e.version |= unsure // nobody waits for it, and it may wait for the next denial
		return false
	}
	switch {
	case p == nil:
		p = sh.pend(c.id)
		p.mark = has
	case c.fresh || c.other:
		p.mark = algo.Mark{}
	}
	p.limit, p.queued, p.leaving = l, ahead, false
	*notes = append(*notes, s.image(p, c, e, l, ahead))
	if covered {
		return false
	}
	e.version |= unsure
	// Forgetting a denial, or that something was released, harms nobody.
	return l.Algorithm != headgate.Ban && (op != headgate.Release || c.other)
}

// image is the note of a state raised to a mark.
func (s *Store) image(p *pending, c *cell, e *entry, l *headgate.Prepared, m algo.Mark) note {
	n := note{pending: p, shard: c.number, id: c.id, limit: l, mark: m, Record: Record{Key: Key{c.id.hi, c.id.lo}}}
	s.record(&n.Record, c.shard, e, l, m)
	return n
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

// add puts notes into the next round, together, and returns it if somebody has to
// wait for it. The caller holds the locks of their shards.
func (k *keeper) add(notes []note, wait bool, now int64) *round {
	if len(notes) == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range notes {
		k.enqueue(notes[i])
	}
	k.latest = max(k.latest, now)
	if !wait {
		wake(k.lazy)
		return nil
	}
	wake(k.kick)
	return k.round
}

// enqueue puts a note into the next round, instead of an earlier one of the same
// state.
func (k *keeper) enqueue(n note) {
	if n.seq == k.seq {
		k.notes[n.slot] = n
		return
	}
	n.seq, n.slot = k.seq, len(k.notes)
	k.notes = append(k.notes, n)
	if len(k.notes) >= k.most {
		k.crowd.Store(true)
	}
}

const (
	// backlogBytes is of how many bytes of the store's memory one note may wait, of
	// which each takes about a third of that beside them; leastBacklog is how many may
	// in any case.
	backlogBytes = 1024
	leastBacklog = 1024
)

// errBacklog says that a batch has to wait for the journal before it is decided.
var errBacklog = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("journal: too many states wait to be written")}

// backlog reports whether a batch would add to what waits for the journal while that
// does not get on: charges of states that it knows of, or hardly has to, go on.
func (s *Store) backlog(op headgate.Op, reserves bool, charges []headgate.Charge, cells []cell) bool {
	if op != headgate.Take || !s.kept.crowd.Load() {
		return false
	}
	for i := range cells {
		c, l := &cells[i], charges[i].Limit
		if c.shard.pending[c.id] != nil || !s.durable(l) && !reserves || l.Algorithm == headgate.Ban {
			continue
		}
		if _, found := c.shard.find(c.id); !found || reserves || !algo.Stepped(l) {
			return true
		}
	}
	return false
}

// wake tells the writer.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
