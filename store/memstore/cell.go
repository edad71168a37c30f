package memstore

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// cell is where the state of one charge lives while its batch is decided. It is
// small: a batch clears room for MaxCharges of them.
type cell struct {
	shard    *shard
	id       ident
	at       int    // place in the table, -1 for none
	was      entry  // what it was before it was carried over to other numbers or unpacked
	before   int64  // cost of earlier charges of this batch to the same cell
	number   uint32 // of the shard
	fresh    bool   // inserted for this batch
	shared   bool   // an overflow cell
	spends   bool   // the charge may change it
	tight    bool   // without room for what the charge would add
	crowded  bool   // with as many reservations open as may be
	moved    bool   // its state has changed
	unpacked bool   // was is the same state in one word
	stays    bool   // it was carried over to other numbers and remains so
	later    bool   // it is needed after the decision

	// With a journal, how it stood before:
	mark      algo.Mark
	unsure    bool // as its version said
	other     bool // under other numbers than the charge's
	journaled bool // the journal has it
}

// same reports whether two charges, of different owners then, meet in a cell.
func (c *cell) same(o *cell) bool { return c.shard == o.shard && c.id == o.id }

// sharedClasses is the number of overflow cells per limit and shard.
const sharedClasses = 16

// overflowID returns the identity of the cell that keys of the class share; that
// of all classes if kind has the lastBit.
func overflowID(l *headgate.Prepared, class uint64, kind uint32) ident {
	hi, lo := bits.Mul64(l.ID[0]^0xa0761d6478bd642f, (l.ID[1]^class*0x9e3779b97f4a7c15)|1)
	return ident{hi ^ lo, uint32(lo>>32)&^(sharedBit|lastBit) | kind}
}

// overflowIDs returns the cells that stand in for a key without room: that of
// its class, and the one for all of the limit's keys if there is no room for
// that either.
func overflowIDs(id ident, l *headgate.Prepared) [2]ident {
	return [2]ident{overflowID(l, 1+uint64(id.lo>>2)%sharedClasses, sharedBit), overflowID(l, 0, sharedBit|lastBit)}
}

// standInFor finds the overflow cell that a charge of l looks at where the key has
// no cell of its own, -1 if there is none.
func (s *Store) standInFor(c *cell, l *headgate.Prepared) int {
	if l.Algorithm == headgate.Ban || l.Algorithm == headgate.Idempotency {
		return -1
	}
	return c.shard.standIn(overflowIDs(c.id, l))
}

// standIn finds the overflow cell that a key without a cell of its own spends
// from, -1 if there is none.
func (sh *shard) standIn(over [2]ident) int {
	if sh.shared > 0 {
		for _, id := range over {
			if at, found := sh.find(id); found {
				return at
			}
		}
	}
	return -1
}

// materialise finds the cell of a charge, or inserts it: without room for one of
// its own, and if share says so, one that keys share. It reports whether places
// in the table have moved.
func (s *Store) materialise(c *cell, l *headgate.Prepared, now int64, batch []cell, share bool) (moved bool, err error) {
	sh := c.shard
	if at, found := sh.find(c.id); found {
		c.at = at
		c.was, err = s.convert(sh, at, l, now)
		return false, err
	}
	over := overflowIDs(c.id, l)
	ok, err := s.createFrom(sh, c.id, over, l, now)
	if err == nil && !ok {
		s.sweepAround(sh, 64, now, batch)
		sh.fit() // the arena may need what an old flood left to the table
		ok, err = s.createFrom(sh, c.id, over, l, now)
	}
	if err != nil {
		return true, err
	}
	if ok {
		c.fresh = true
		return true, nil
	}
	if !share || s.durable(l) {
		return true, errFull
	}
	c.shared = true
	for _, id := range over {
		c.id = id
		if at, found := sh.find(id); found {
			return true, s.convertForGood(sh, at, l, now)
		}
		if ok, err = s.createFrom(sh, id, over, l, now); err != nil || ok {
			break
		}
	}
	if err != nil || !ok {
		return true, cmp.Or[error](err, errFull)
	}
	sh.shared++
	s.overflowed.Add(1)
	c.fresh = true
	return true, nil
}

// createFrom inserts a cell that starts as the overflow cell is that stood in
// for it, if there is one: who has no cell may have spent from it.
func (s *Store) createFrom(sh *shard, id ident, over [2]ident, l *headgate.Prepared, now int64) (bool, error) {
	from := sh.standIn(over)
	if from >= 0 {
		if err := s.convertForGood(sh, from, l, now); err != nil {
			return false, err
		}
	}
	return s.create(sh, id, l, from, now)
}

// create inserts a cell for l: with the state of the one at place from, or that
// of "never seen" if from is -1. It reports false if there is no room for it.
func (s *Store) create(sh *shard, id ident, l *headgate.Prepared, from int, now int64) (bool, error) {
	if !s.touch(sh, l) {
		return false, errVersions
	}
	e := entry{hi: id.hi, lo: id.lo, version: l.Serial}
	var src entry
	if from >= 0 {
		src = sh.table[from]
	}
	switch {
	case from >= 0 && src.version&wide == 0:
		e.state = src.state
	case from < 0 && algo.Packable(l):
		e.state = s.initialWord(l, now)
	default:
		var init []int64
		n := algo.Words(l)
		if from >= 0 {
			n = len(sh.arena.state(src.state))
		} else if s.kept != nil {
			init = s.initial(l, make([]int64, n), now)
			n = len(init)
		}
		ref, ok := sh.arena.alloc(n, sh.room(id.lo))
		if !ok {
			return false, nil
		}
		e.version |= wide
		e.state = ref
		*sh.arena.keep(ref) = 0
		switch {
		case from >= 0:
			copy(sh.arena.state(ref), sh.arena.state(src.state))
			*sh.arena.keep(ref) = *sh.arena.keep(src.state)
		case init != nil:
			clear(sh.arena.state(ref)[copy(sh.arena.state(ref), init):])
		default:
			algo.Init(l, sh.arena.state(ref), now)
		}
	}
	if !sh.insert(e) {
		if e.version&wide != 0 {
			sh.arena.release(e.state)
		}
		return false, nil
	}
	return true, nil
}

// initialWord is initial in one word.
func (s *Store) initialWord(l *headgate.Prepared, now int64) int64 {
	if s.kept == nil {
		return algo.Pack(l, l.Cap, now-s.origin)
	}
	var two [2]int64
	return algo.PackWords(l, s.initial(l, two[:], now), s.origin)
}

// widen gives the cell at place at, kept in words, the room that the call needs.
func (sh *shard) widen(at int, call *algo.Call, l *headgate.Prepared) error {
	e := &sh.table[at]
	st := sh.arena.state(e.state)
	n := algo.Need(call, l, st)
	if n == algo.Full {
		return errHolds
	}
	if n <= len(st) {
		return nil
	}
	ref, ok := sh.arena.alloc(n, sh.room(e.lo))
	if !ok {
		return errFull
	}
	algo.Grow(call, l, sh.arena.state(ref), sh.arena.state(e.state))
	*sh.arena.keep(ref) = *sh.arena.keep(e.state)
	sh.arena.release(e.state)
	e.state = ref
	return nil
}

// convert carries the cell at place at over to the numbers of l. It returns what
// the cell was, for the caller to undo or to release; version 0 if there is
// nothing to undo.
func (s *Store) convert(sh *shard, at int, l *headgate.Prepared, now int64) (was entry, err error) {
	e := &sh.table[at]
	if e.version&^flags == l.Serial {
		return entry{}, nil
	}
	old := s.versions.get(e.version &^ flags)
	if !s.touch(sh, l) {
		return entry{}, errVersions
	}
	if old.SameNumbers(l) {
		e.version = l.Serial | e.version&flags
		return entry{}, nil
	}
	var two [2]int64
	src, keep := s.words(sh, e, old, now, &two)
	absent := max(keep, algo.AbsentAt(old, src))
	if s.kept.lacks(l, now) {
		return s.convertLacking(sh, at, l, old, now)
	}
	var is uint32
	if s.kept != nil {
		is = unsure // what the journal has is under other numbers, and stays if the batch is refused
	}
	if now >= absent && algo.Packable(l) {
		sh.release(*e)
		e.version, e.state = l.Serial|is, algo.Pack(l, l.Cap, now-s.origin)
		return entry{}, nil
	}
	ref, ok := sh.arena.alloc(algo.ConvertWords(old, l, src), sh.room(e.lo))
	if !ok {
		return entry{}, errFull
	}
	was = *e
	e.version, e.state = l.Serial|wide|is, ref
	if now >= absent {
		algo.Init(l, sh.arena.state(ref), now)
		*sh.arena.keep(ref) = 0
		sh.release(was)
		return entry{}, nil
	}
	src, _ = s.words(sh, &was, old, now, &two) // the arena may have moved
	algo.Convert(old, l, sh.arena.state(ref), src, now)
	algo.VoidLeases(old, l, sh.arena.state(ref))
	*sh.arena.keep(ref) = absent
	return was, nil
}

// convertLacking is convert where what was charged under other numbers than old may
// have been lost.
func (s *Store) convertLacking(sh *shard, at int, l, old *headgate.Prepared, now int64) (was entry, err error) {
	st, absent := s.worst(sh, at, l, old, now)
	ref, ok := sh.arena.alloc(len(st), sh.room(sh.table[at].lo))
	if !ok {
		return entry{}, errFull
	}
	e := &sh.table[at]
	was = *e
	e.version, e.state = l.Serial|wide|unsure, ref
	clear(sh.arena.state(ref)[copy(sh.arena.state(ref), st):])
	*sh.arena.keep(ref) = absent
	return was, nil
}

// worst returns the state of a cell carried over to l, or that of a budget that was never
// seen, whichever has less left, and until when the cell counts as it is.
func (s *Store) worst(sh *shard, at int, l, old *headgate.Prepared, now int64) (st []int64, absent int64) {
	var two [2]int64
	src, keep := s.words(sh, &sh.table[at], old, now, &two)
	absent = max(keep, algo.AbsentAt(old, src))
	unseen := s.initial(l, make([]int64, algo.Words(l)), now)
	if now >= absent {
		return unseen, 0
	}
	st = make([]int64, algo.ConvertWords(old, l, src))
	algo.Convert(old, l, st, src, now)
	algo.VoidLeases(old, l, st)
	if left(l, unseen, now) < left(l, st, now) {
		st = unseen
	}
	return st, absent
}

// left is what a state has left, below zero what it is over.
func left(l *headgate.Prepared, st []int64, now int64) int64 {
	var o headgate.Outcome
	algo.Apply(&algo.Call{Op: headgate.Peek, Now: now}, l, slices.Clone(st), &o)
	return o.Remaining - o.Overage
}

// convertForGood is convert without a way back.
func (s *Store) convertForGood(sh *shard, at int, l *headgate.Prepared, now int64) error {
	was, err := s.convert(sh, at, l, now)
	sh.release(was)
	return err
}

// words returns a cell's state in words and the instant before which it may not
// be forgotten; two takes the words of a packed one.
func (s *Store) words(sh *shard, e *entry, l *headgate.Prepared, now int64, two *[2]int64) ([]int64, int64) {
	if e.version&wide != 0 {
		return sh.arena.state(e.state), *sh.arena.keep(e.state)
	}
	algo.Unpack(l, two[:], e.state, now-s.origin, now)
	return two[:], -1 << 63
}

// undoUnlessMoved ends a change of numbers.
func (c *cell) undoUnlessMoved() {
	if c.moved {
		c.shard.release(c.was)
		return
	}
	if at, found := c.shard.find(c.id); found {
		e := &c.shard.table[at]
		c.shard.release(*e)
		*e = c.was
	}
}

// remove frees a cell.
func (s *Store) remove(sh *shard, at int) {
	if sh.table[at].lo&sharedBit != 0 {
		sh.shared--
		s.overflowed.Add(-1)
	}
	sh.remove(at)
}

// keptUnder reports whether the state of a cell means the same under l. One cell
// cannot be under two numbers: a later charge of the batch carries a shared one
// over to its own, be it to spend from it or only to start from it.
func (s *Store) keptUnder(c *cell, l *headgate.Prepared) bool {
	v := c.shard.table[c.at].version &^ flags
	return v == l.Serial || s.versions.get(v).SameNumbers(l)
}

// sweep looks at n places and drops what equals "never seen".
func (s *Store) sweep(sh *shard, n int, now int64) { s.sweepAround(sh, n, now, nil) }

// sweepAround is sweep, but for the cells of a batch that is being decided.
func (s *Store) sweepAround(sh *shard, n int, now int64, batch []cell) {
	var serial uint32
	var l *headgate.Prepared
	for range n {
		if sh.hand >= len(sh.table) {
			sh.hand = 0
			if len(sh.table) == 0 {
				return
			}
		}
		e := &sh.table[sh.hand]
		if e.version == 0 {
			sh.hand++
			continue
		}
		if len(sh.leases) > 0 && !pinned(batch, e, sh) {
			s.endLease(sh, sh.hand, now)
		}
		if v := e.version &^ flags; v != serial {
			serial, l = v, s.versions.get(v)
		}
		var two [2]int64
		kept := *e
		if s.durable(l) && e.version&wide == 0 {
			kept.state = algo.PackedMark(e.state).Ahead(l).Top // what the journal has counts longer
		}
		st, keep := s.words(sh, &kept, l, now, &two)
		if now >= max(keep, algo.AbsentAt(l, st)) && !pinned(batch, e, sh) {
			s.remove(sh, sh.hand) // the next one may have moved here
			continue
		}
		sh.hand++
	}
}

func pinned(batch []cell, e *entry, sh *shard) bool {
	for i := range batch {
		if c := &batch[i]; c.shard == sh && c.id == (ident{e.hi, e.lo}) {
			return true
		}
	}
	return false
}
