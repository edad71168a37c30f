package memstore

import (
	"hash/maphash"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// applyAll decides any batch.
func (s *Store) applyAll(b *headgate.Batch, charges []headgate.Charge, now int64) error {
	if s.versions.due() {
		s.collectVersions()
	}
	var buf [headgate.MaxCharges]cell
	cells := buf[:len(charges)]
	s.locate(cells, charges)
	var locks [headgate.MaxCharges]uint32
	held := lockOrder(locks[:0], cells)
	for _, n := range held {
		sh := &s.shards[n]
		sh.mu.Lock()
		now = max(now, sh.last)
	}
	defer func() {
		for _, n := range held {
			s.shards[n].mu.Unlock()
		}
	}()
	for _, n := range held {
		if s.shards[n].closed {
			return errClosed
		}
		s.shards[n].last = now
	}
	unpin(cells)
	b.At = now
	switch b.Op {
	case headgate.Take, headgate.Debit:
		return s.spend(b, charges, cells, now)
	case headgate.Reset:
		s.forget(b, charges, cells, now)
		return nil
	default:
		return s.visit(b, charges, cells, now)
	}
}

// locate finds each charge's shard and identity. Charges of one owner, which
// come in a row, share the hashes.
func (s *Store) locate(cells []cell, charges []headgate.Charge) {
	var h1, h2 uint64
	for i := range charges {
		c := &charges[i]
		if i == 0 || c.Owner != charges[i-1].Owner {
			h1, h2 = maphash.String(s.owner1, c.Owner), maphash.String(s.owner2, c.Owner)
		}
		n := uint32(h1 >> s.shift)
		cells[i] = cell{shard: &s.shards[n], number: n, id: identify(h1, h2, c.Limit), at: -1}
	}
}

// lockOrder lists the shards of cells without repetition, ascending.
func lockOrder(order []uint32, cells []cell) []uint32 {
	for i := range cells {
		n := cells[i].number
		at := len(order)
		for at > 0 && order[at-1] > n {
			at--
		}
		if at > 0 && order[at-1] == n {
			continue
		}
		order = append(order, 0)
		copy(order[at+1:], order[at:])
		order[at] = n
	}
	return order
}

// spend does Take and Debit: first it makes sure that every charge has a cell
// with room, then it decides, and only then does anything move.
func (s *Store) spend(b *headgate.Batch, charges []headgate.Charge, cells []cell, now int64) error {
	defer s.tidy(cells, now)
	if err := s.ready(b.Op, charges, cells, now); err != nil {
		return err
	}
	outcomes := b.Outcomes()
	b.Allowed = true
	full := false
	asked := b.Op == headgate.Take && (len(charges) > 1 || len(charges) == 1 && cells[0].tight)
	if asked {
		for i := range charges {
			c := &charges[i]
			s.run(headgate.Peek, &cells[i], c.Limit, now, c.Cost+cells[i].before, 0, &outcomes[i])
			if o := &outcomes[i]; cells[i].tight && o.Allowed && c.Cost > 0 {
				if cells[i].shared {
					o.Allowed, o.RetryAfter = false, o.ResetAfter // when there is surely room
				} else {
					full = true
				}
			}
			b.Allowed = b.Allowed && (outcomes[i].Allowed || c.Shadow)
		}
		if b.Allowed && full { // else it is refused, with room or without
			b.Allowed = false
			return errFull
		}
		if !b.Allowed {
			for i := range cells {
				cells[i].goesOn(&outcomes[i])
			}
			s.countDenial(charges, cells, outcomes, now)
			return nil
		}
	}
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if !asked || o.Allowed { // else a shadow that refuses
			s.run(b.Op, &cells[i], c.Limit, now, c.Cost, b.Hold, o)
			cells[i].moved = o.Allowed && c.Cost > 0
			b.Allowed = b.Allowed && (o.Allowed || c.Shadow)
		}
		cells[i].goesOn(o)
	}
	return nil
}

// goesOn keeps a cell under the numbers to which it was carried over if they
// refuse the charge: else a bucket that refuses all goes on refilling at its old
// rate. A cell that lets the charge pass, in a batch that does not, and one that
// can never hold the cost become again what they were: a refusal is free.
func (c *cell) goesOn(o *headgate.Outcome) {
	if c.was.version != 0 && !o.Allowed && !o.Never {
		c.shard.release(c.was)
		c.was = entry{}
	}
}

// ready gives every charge a cell of its limit's present numbers, with room for
// what the charge may add.
func (s *Store) ready(op headgate.Op, charges []headgate.Charge, cells []cell, now int64) error {
	anyMoved := false
	for i := range charges {
		moved, err := s.materialise(&cells[i], charges[i].Limit, now, cells)
		if err != nil {
			return err
		}
		anyMoved = anyMoved || moved
	}
	for i := range cells {
		c := &cells[i]
		if anyMoved {
			c.at, _ = c.shard.find(c.id)
		}
		if c.shared {
			l := charges[i].Limit
			if !s.keptUnder(c, l) {
				return errFull
			}
			for j := range i {
				if !cells[j].same(c) {
					continue
				}
				if l.Algorithm == headgate.Concurrency {
					return errFull // there is no room for two holds
				}
				c.before += charges[j].Cost
			}
		}
		if err := c.shard.widen(c.at, charges[i].Limit, now); err != nil {
			if op != headgate.Take {
				return err
			}
			c.tight = true
		}
	}
	return nil
}

// run does op on a cell that is kept under l.
func (s *Store) run(op headgate.Op, c *cell, l *headgate.Prepared, now, cost int64, hold uint64, o *headgate.Outcome) {
	e := &c.shard.table[c.at]
	if e.version&wide == 0 {
		e.state = algo.PackedApply(op, l, e.state, now-s.origin, cost, o)
		return
	}
	algo.Apply(op, l, c.shard.arena.state(e.state), now, cost, hold, o)
}

// countDenial counts a refused batch towards the bans in it, if a limit that
// the subject owns refused. Cells that strangers share are never banned.
func (s *Store) countDenial(charges []headgate.Charge, cells []cell, outcomes []headgate.Outcome, now int64) {
	counts := false
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if o.Allowed || c.Shadow {
			continue
		}
		if c.Limit.Algorithm == headgate.Ban {
			return
		}
		counts = counts || !c.Parent && !o.Never
	}
	for i := range charges {
		if c := &cells[i]; counts && charges[i].Limit.Algorithm == headgate.Ban && !c.shared {
			e := &c.shard.table[c.at]
			algo.CountDenial(charges[i].Limit, c.shard.arena.state(e.state), now)
			c.moved = true
			s.run(headgate.Peek, c, charges[i].Limit, now, 0, 0, &outcomes[i])
		}
	}
}

// tidy ends changes of numbers, removes the cells that were inserted in vain, and
// drops a little of what has run out where new keys came in.
func (s *Store) tidy(cells []cell, now int64) {
	for i := range cells {
		c := &cells[i]
		if c.was.version != 0 {
			c.undoUnlessMoved()
		}
		if !c.fresh {
			continue
		}
		if !slices.ContainsFunc(cells, func(o cell) bool { return o.moved && o.same(c) }) {
			if at, found := c.shard.find(c.id); found {
				s.remove(c.shard, at)
			}
		}
		s.sweep(c.shard, 2, now)
	}
}

// forget does Reset.
func (s *Store) forget(b *headgate.Batch, charges []headgate.Charge, cells []cell, now int64) {
	b.Allowed = true
	for i := range cells {
		c := &cells[i]
		if at, found := c.shard.find(c.id); found {
			s.remove(c.shard, at)
		}
		s.unseen(headgate.Peek, charges[i].Limit, now, 0, &b.Outcomes()[i])
	}
}

// unseen does op on the state of "never seen", which is then dropped.
func (s *Store) unseen(op headgate.Op, l *headgate.Prepared, now, cost int64, o *headgate.Outcome) {
	var buf [headgate.MaxSlices + 8]int64
	st := buf[:algo.Words(l)]
	algo.Init(l, st, now)
	algo.Apply(op, l, st, now, cost, 0, o)
}

// visit does the operations that make no cells: Peek, Refund, Release, Renew.
// All cells are under their limits' numbers before the first of them moves.
func (s *Store) visit(b *headgate.Batch, charges []headgate.Charge, cells []cell, now int64) error {
	for i := range charges {
		c, l := &cells[i], charges[i].Limit
		found := false
		if c.at, found = c.shard.find(c.id); !found {
			c.at = c.shard.standIn(overflowIDs(c.id, l))
		}
		if c.at < 0 || b.Op == headgate.Peek {
			continue
		}
		if err := s.convertForGood(c.shard, c.at, l, now); err != nil {
			return err
		}
	}
	for i := range cells {
		if c := &cells[i]; c.at >= 0 && b.Op != headgate.Peek && !s.keptUnder(c, charges[i].Limit) {
			return errFull
		}
	}
	b.Allowed = true
	for i := range charges {
		c, l, o := &cells[i], charges[i].Limit, &b.Outcomes()[i]
		switch e := c.entry(); {
		case c.at < 0:
			s.unseen(b.Op, l, now, charges[i].Cost, o)
		case b.Op == headgate.Peek && e.version&^wide != l.Serial:
			s.peekOther(c, l, now, charges[i].Cost, o)
		default:
			s.run(b.Op, c, l, now, charges[i].Cost, b.Hold, o)
		}
		b.Allowed = b.Allowed && (o.Allowed || charges[i].Shadow)
	}
	return nil
}

// peekOther peeks at a cell that is kept under other numbers than l, and leaves
// it so. It is rare, and may allocate.
func (s *Store) peekOther(c *cell, l *headgate.Prepared, now, cost int64, o *headgate.Outcome) {
	e := &c.shard.table[c.at]
	old := s.versions.get(e.version &^ wide)
	var two [2]int64
	src, keep := s.words(c.shard, e, old, now, &two)
	if old.SameNumbers(l) {
		algo.Apply(headgate.Peek, l, src, now, cost, 0, o)
		return
	}
	if now >= max(keep, algo.AbsentAt(old, src)) {
		s.unseen(headgate.Peek, l, now, cost, o)
		return
	}
	dst := make([]int64, algo.ConvertWords(old, l, src))
	algo.Convert(old, l, dst, src, now)
	algo.Apply(headgate.Peek, l, dst, now, cost, 0, o)
}
