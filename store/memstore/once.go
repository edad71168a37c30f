package memstore

import (
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// once does a Take whose retries are not charged again.
func (s *Store) once(b *headgate.Batch, call *algo.Call, charges []headgate.Charge, cells []cell) error {
	i := slices.IndexFunc(charges, func(c headgate.Charge) bool { return c.Limit.Algorithm == headgate.Idempotency })
	if i < 0 {
		return s.spend(b, call, charges, cells)
	}
	if print, hold, found := s.remembered(&cells[i], b.Key.ID, call.Now); found {
		if print != b.Key.Print {
			return errConflict
		}
		b.Allowed, b.Replayed, b.Hold = true, true, hold
		peek := algo.Call{Op: headgate.Peek, Now: call.Now}
		for j := range charges {
			s.look(&cells[j], &peek, charges[j].Limit, &b.Outcomes()[j])
		}
		return nil
	}
	if s.kept != nil && !b.Again {
		// There may be room as soon as others have left.
		c := &cells[i]
		defer func() {
			c.later = false
			s.tidy(cells[i:i+1], call.Now)
		}()
		c.later = true
		if _, err := s.materialise(c, charges[i].Limit, call.Now, cells, false); err != nil {
			return err
		}
		c.at, _ = c.shard.find(c.id)
		if err := c.shard.widen(c.at, call, charges[i].Limit); err == errFull {
			return err
		}
	}
	if err := s.spend(b, call, charges, cells); err != nil || !b.Allowed {
		return err
	}
	s.remember(&cells[i], call, charges[i].Limit, b, cells)
	s.look(&cells[i], &algo.Call{Op: headgate.Peek, Now: call.Now}, charges[i].Limit, &b.Outcomes()[i])
	return nil
}

// remembered looks a request up in the cell of an idempotency limit, under
// whatever numbers it is kept.
func (s *Store) remembered(c *cell, id [2]uint64, now int64) (print, hold uint64, found bool) {
	at, found := c.shard.find(c.id)
	if !found {
		return 0, 0, false
	}
	e := &c.shard.table[at]
	if e.version&wide == 0 || s.versions.get(e.version&^flags).Algorithm != headgate.Idempotency {
		return 0, 0, false
	}
	return algo.Remembered(c.shard.arena.state(e.state), id, now)
}

// remember keeps an allowed request. Where there is no room, and no journal for others
// to leave to, it was decided, and a retry will be charged: never the other way round.
// Cells that strangers share remember nothing.
func (s *Store) remember(c *cell, call *algo.Call, l *headgate.Prepared, b *headgate.Batch, batch []cell) {
	if !s.own(c, l, call.Now, batch) {
		return
	}
	if c.shard.widen(c.at, call, l) == nil {
		e := &c.shard.table[c.at]
		c.moved = algo.Remember(l, c.shard.arena.state(e.state), call.Now, b.Key, b.Hold)
	}
	s.tidy([]cell{*c}, call.Now)
}
