package memstore

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// forget does Reset.
func (s *Store) forget(b *headgate.Batch, charges []headgate.Charge, cells []cell, now int64) error {
	for i := range cells {
		if c := &cells[i]; len(c.shard.leases) > 0 && !s.touch(c.shard, charges[i].Limit) {
			return errVersions
		}
	}
	b.Allowed = true
	for i := range cells {
		c := &cells[i]
		if len(c.shard.leases) > 0 && s.resetLent(c, charges[i].Limit, now, &b.Outcomes()[i]) {
			continue
		}
		if at, found := c.shard.find(c.id); found {
			s.remove(c.shard, at)
		}
		s.unseen(&algo.Call{Op: headgate.Peek, Now: now}, charges[i].Limit, &b.Outcomes()[i])
	}
	return nil
}

// unseen does a call on the state of "never seen", which is then dropped.
func (s *Store) unseen(call *algo.Call, l *headgate.Prepared, o *headgate.Outcome) {
	var buf [headgate.MaxSlices + 8]int64
	st := buf[:algo.Words(l)]
	algo.Apply(call, l, s.initial(l, st, call.Now), o)
}

// visit does the operations that make no cells: Peek, Refund, Release, Renew and
// Settle. All cells are under their limits' numbers before the first of them
// moves; one in which nothing was held becomes again what it was.
func (s *Store) visit(b *headgate.Batch, call *algo.Call, charges []headgate.Charge, cells []cell) error {
	outcomes := b.Outcomes()
	b.Allowed = true
	if b.Op == headgate.Peek {
		for i := range charges {
			call.Cost = charges[i].Cost
			s.look(&cells[i], call, charges[i].Limit, &outcomes[i])
			b.Allowed = b.Allowed && (outcomes[i].Allowed || charges[i].Shadow)
		}
		return nil
	}
	defer s.tidy(cells, call.Now)
	for i := range charges {
		c, l := &cells[i], charges[i].Limit
		at, found := c.shard.find(c.id)
		var err error
		if found {
			c.at = at
			c.was, err = s.convert(c.shard, at, l, call.Now)
		} else if c.at = c.shard.standIn(overflowIDs(c.id, l)); c.at >= 0 {
			err = s.convertForGood(c.shard, c.at, l, call.Now)
		}
		if err != nil {
			return err
		}
	}
	for i := range cells {
		if c := &cells[i]; c.at >= 0 && !s.keptUnder(c, charges[i].Limit) {
			return errFull
		}
	}
	for i := range charges {
		c, l, o := &cells[i], charges[i].Limit, &outcomes[i]
		call.Cost = charges[i].Cost
		if c.at < 0 {
			s.unseen(call, l, o)
		} else {
			if b.Op == headgate.Settle {
				_ = s.fit(c, call, l) // without room it does without
			}
			s.run(c, call, l, o)
			c.moved = o.Allowed || b.Op != headgate.Settle && b.Op != headgate.Renew
			if b.Op == headgate.Settle && o.Allowed {
				s.pack(c, l, call.Now)
			}
		}
		b.Allowed = b.Allowed && (o.Allowed || charges[i].Shadow)
	}
	return nil
}

// pack puts a bucket that holds nothing any more back into one word.
func (s *Store) pack(c *cell, l *headgate.Prepared, now int64) {
	e := &c.shard.table[c.at]
	if e.version&wide == 0 || now < *c.shard.arena.keep(e.state) {
		return
	}
	if x, ok := algo.Repack(l, c.shard.arena.state(e.state), now-s.origin, now); ok {
		c.shard.release(*e)
		e.version, e.state = l.Serial|e.version&unsure, x
	}
}

// peekAt peeks at the cell at place at. If it is kept under other numbers than l
// it stays so; that is rare, and may allocate.
func (s *Store) peekAt(sh *shard, at int, call *algo.Call, l *headgate.Prepared, o *headgate.Outcome) {
	e := &sh.table[at]
	if e.version&^flags == l.Serial {
		s.run(&cell{shard: sh, at: at}, call, l, o)
		return
	}
	old := s.versions.get(e.version &^ flags)
	var two [2]int64
	src, keep := s.words(sh, e, old, call.Now, &two)
	switch {
	case old.SameNumbers(l):
		algo.Apply(call, l, src, o)
		o.Leased = sh.leased(e, l, src, call.Now)
	case call.Now >= max(keep, algo.AbsentAt(old, src)):
		s.unseen(call, l, o)
	default:
		var dst []int64
		if s.kept.lacks(l, call.Now) {
			dst, _ = s.worst(sh, at, l, old, call.Now)
		} else {
			dst = make([]int64, algo.ConvertWords(old, l, src))
			algo.Convert(old, l, dst, src, call.Now)
			algo.VoidLeases(old, l, dst)
		}
		algo.Apply(call, l, dst, o)
		o.Leased = sh.leased(e, l, dst, call.Now)
	}
	o.Shared = e.lo&sharedBit != 0
}
