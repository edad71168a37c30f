package memstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

var (
	errHolds    = &headgate.Error{Code: headgate.Overloaded, Err: fmt.Errorf("%d reservations of one budget are open: at most that many", headgate.MaxInFlight)}
	errConflict = &headgate.Error{Code: headgate.Conflict, Field: "idempotency_key", Err: errors.New("key was used for another request")}
)

// applyAll decides any batch that is valid. f is nil without a journal.
func (s *Store) applyAll(b *headgate.Batch, charges []headgate.Charge, now int64, f *fetch) error {
	if s.versions.due(now) {
		s.collectDue(now)
	}
	var buf [headgate.MaxCharges]cell
	cells := buf[:]
	if len(charges) > len(cells) {
		cells = make([]cell, len(charges))
	}
	cells = cells[:len(charges)]
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
	s.endLeases(cells, now)
	if f != nil {
		if ok, err := s.resolve(f, charges, cells, now); !ok {
			return err
		}
		if s.backlog(b.Op, b.HoldFor > 0, charges, cells) {
			return errBacklog
		}
		s.stand(cells, charges, now)
	}
	b.At, b.Replayed = now, false
	err := s.act(b, charges, cells, now)
	if f != nil {
		if err == nil {
			s.explain(b, charges, now)
		}
		if f.wait = s.note(b.Op, charges, cells, now); f.wait == nil && err == nil && b.Replayed && isPending(cells) {
			f.wait = s.kept.promise() // the first try may still wait to be written
		}
	}
	return err
}

// isPending reports whether something of the cells is about to be written.
func isPending(cells []cell) bool {
	return slices.ContainsFunc(cells, func(c cell) bool { return c.shard.pending[c.id] != nil })
}

// act does the batch.
func (s *Store) act(b *headgate.Batch, charges []headgate.Charge, cells []cell, now int64) error {
	call := algo.Call{Op: b.Op, Now: now, Hold: b.Hold, HoldFor: b.HoldFor, MaxDelay: b.MaxDelay}
	switch b.Op {
	case headgate.Take:
		if b.Key != (headgate.RequestKey{}) {
			return s.once(b, &call, charges, cells)
		}
		return s.spend(b, &call, charges, cells)
	case headgate.Debit:
		return s.spend(b, &call, charges, cells)
	case headgate.Reset:
		return s.forget(b, charges, cells, now)
	default:
		return s.visit(b, &call, charges, cells)
	}
}

// locate finds each charge's shard and identity. Charges of one owner, which
// come in a row, share the hashes.
func (s *Store) locate(cells []cell, charges []headgate.Charge) {
	var h1, h2 uint64
	for i := range charges {
		c := &charges[i]
		if i == 0 || c.Owner != charges[i-1].Owner {
			h1, h2 = s.hash.sum(c.Owner)
		}
		n := uint32(h1 >> s.shift)
		cells[i] = cell{shard: &s.shards[n], number: n, id: identify(h1, h2, c.Limit), at: -1}
	}
}

// lockOrder lists the shards of cells without repetition, ascending.
func lockOrder(order []uint32, cells []cell) []uint32 {
	if len(cells) > headgate.MaxCharges {
		for i := range cells {
			order = append(order, cells[i].number)
		}
		slices.Sort(order)
		return slices.Compact(order)
	}
	for i := range cells {
		order = insertLock(order, cells[i].number)
	}
	return order
}

// insertLock adds a shard's number to an ascending list without repetition.
func insertLock(order []uint32, n uint32) []uint32 {
	at := len(order)
	for at > 0 && order[at-1] > n {
		at--
	}
	if at > 0 && order[at-1] == n {
		return order
	}
	order = append(order, 0)
	copy(order[at+1:], order[at:])
	order[at] = n
	return order
}

// spend does Take and Debit: first it makes sure that every charge has a cell
// with room, then it decides, and only then does anything move. Charges that
// charge nothing get no cell: they only look.
func (s *Store) spend(b *headgate.Batch, call *algo.Call, charges []headgate.Charge, cells []cell) error {
	now := call.Now
	defer s.tidy(cells, now)
	if err := s.ready(call, charges, cells); err != nil {
		return err
	}
	outcomes := b.Outcomes()
	b.Allowed = true
	var full error
	asked := b.Op == headgate.Take && (len(charges) > 1 || len(charges) == 1 && cells[0].tight)
	if asked {
		peek := *call
		peek.Op = headgate.Peek
		for i := range charges {
			c, o := &charges[i], &outcomes[i]
			peek.Cost = c.Cost + cells[i].before
			s.ask(&cells[i], &peek, c.Limit, o)
			o.Recovering = !o.Allowed && s.recovering(c.Limit, now)
			if cells[i].tight && o.Allowed {
				switch {
				case cells[i].crowded:
					full = errHolds
				case cells[i].shared && c.Cost > 0:
					o.Allowed, o.RetryAfter = false, o.ResetAfter // when there is surely room
				default:
					full = errFull
				}
			}
			b.Allowed = b.Allowed && (o.Allowed || c.Shadow)
		}
		if b.Allowed && full != nil { // else it is refused, with room or without
			b.Allowed = false
			return full
		}
		if !b.Allowed {
			for i := range cells {
				cells[i].goesOn(&outcomes[i])
			}
			if !b.Again {
				s.countDenial(charges, cells, outcomes, now)
			}
			return nil
		}
	}
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if !asked || o.Allowed { // else a shadow that refuses
			call.Cost = c.Cost
			if !cells[i].spends {
				look := *call // a Debit of nothing is not even asked
				if b.Op == headgate.Take {
					look.Op = headgate.Peek
				}
				s.look(&cells[i], &look, c.Limit, o)
			} else {
				s.run(&cells[i], call, c.Limit, o)
				cells[i].moved = o.Allowed
			}
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
	if c.was.version != 0 && !c.unpacked && !o.Allowed && !o.Never {
		c.shard.release(c.was)
		c.was, c.stays = entry{}, true
	}
}

// spends reports whether a call may change the state of a limit.
func spends(call *algo.Call, c *headgate.Charge) bool {
	switch c.Limit.Algorithm {
	case headgate.Ban, headgate.Idempotency:
		return false // what they count is written after the decision
	default:
		return c.Cost > 0 || call.Reserves(c.Limit.Algorithm)
	}
}

// ready gives every charge that charges something a cell of its limit's present
// numbers, with room for what the charge may add.
func (s *Store) ready(call *algo.Call, charges []headgate.Charge, cells []cell) error {
	anyMoved := false
	for i := range charges {
		if cells[i].spends = spends(call, &charges[i]); !cells[i].spends {
			continue
		}
		moved, err := s.materialise(&cells[i], charges[i].Limit, call.Now, cells, true)
		if err != nil {
			return err
		}
		anyMoved = anyMoved || moved
	}
	for i := range cells {
		c := &cells[i]
		if !c.spends {
			continue
		}
		if anyMoved {
			c.at, _ = c.shard.find(c.id)
		}
		l := charges[i].Limit
		if c.shared {
			if !s.keptUnder(c, l) {
				return errFull
			}
			for j := range i {
				if !cells[j].spends || !cells[j].same(c) {
					continue
				}
				if l.Algorithm == headgate.Concurrency || call.Reserves(l.Algorithm) {
					return errFull // there is no room for two holds
				}
				c.before += charges[j].Cost
			}
		}
		call.Cost = charges[i].Cost
		if err := s.fit(c, call, l); err != nil {
			if call.Op != headgate.Take {
				return err
			}
			c.tight, c.crowded = true, err == errHolds
		}
	}
	return nil
}

// fit gives a cell the room that the call needs: a packed bucket that is to hold
// something goes to the arena.
func (s *Store) fit(c *cell, call *algo.Call, l *headgate.Prepared) error {
	e := &c.shard.table[c.at]
	if e.version&wide != 0 {
		return c.shard.widen(c.at, call, l)
	}
	if !call.Reserves(l.Algorithm) {
		return nil
	}
	var two [2]int64
	algo.Unpack(l, two[:], e.state, call.Now-s.origin, call.Now)
	ref, ok := c.shard.arena.alloc(algo.Need(call, l, two[:]), c.shard.room(e.lo))
	if !ok {
		return errFull
	}
	algo.Grow(call, l, c.shard.arena.state(ref), two[:])
	*c.shard.arena.keep(ref) = 0
	if !c.shared {
		c.was, c.unpacked = *e, true
	}
	e.version, e.state = e.version|wide, ref
	return nil
}

// run does the call on a cell that is kept under l.
func (s *Store) run(c *cell, call *algo.Call, l *headgate.Prepared, o *headgate.Outcome) {
	e := &c.shard.table[c.at]
	if e.version&wide != 0 {
		st := c.shard.arena.state(e.state)
		algo.Apply(call, l, st, o)
		o.Leased = c.shard.leased(e, l, st, call.Now)
	} else {
		e.state = algo.PackedApply(call.Op, l, e.state, call.Now-s.origin, call.Cost, o)
		if call.Op == headgate.Renew && call.HoldFor > 0 {
			o.Allowed = false // nothing is held
		}
	}
	o.Shared = e.lo&sharedBit != 0
}

// ask does a Peek on what the charge would spend from.
func (s *Store) ask(c *cell, peek *algo.Call, l *headgate.Prepared, o *headgate.Outcome) {
	if c.spends {
		s.run(c, peek, l, o)
		return
	}
	s.look(c, peek, l, o)
}

// look does a Peek: on the cell of the charge, on what stands in for it, or on a
// state that was never seen.
func (s *Store) look(c *cell, call *algo.Call, l *headgate.Prepared, o *headgate.Outcome) {
	at, found := c.shard.find(c.id)
	if !found {
		at = s.standInFor(c, l)
	}
	if at < 0 {
		s.unseen(call, l, o)
		return
	}
	s.peekAt(c.shard, at, call, l, o)
}

// own finds or inserts the key's own cell, kept under l. It reports false if
// there is no room for one.
func (s *Store) own(c *cell, l *headgate.Prepared, now int64, batch []cell) bool {
	if _, err := s.materialise(c, l, now, batch, false); err != nil {
		return false
	}
	c.at, _ = c.shard.find(c.id)
	return true
}

// countDenial counts a refused batch towards the bans of those whose own limits
// have refused. Cells that strangers share are never banned. Without room it is not
// counted: a refusal waits for no disk.
func (s *Store) countDenial(charges []headgate.Charge, cells []cell, outcomes []headgate.Outcome, now int64) {
	for i := range charges {
		c, l := &cells[i], charges[i].Limit
		if l.Algorithm != headgate.Ban || !denied(charges[i].Owner, charges, outcomes) || !s.own(c, l, now, cells) {
			continue
		}
		algo.CountDenial(l, c.shard.arena.state(c.shard.table[c.at].state), now)
		c.moved = true
		s.run(c, &algo.Call{Op: headgate.Peek, Now: now}, l, &outcomes[i])
	}
}

// denied reports whether a refusal counts against owner: one by a limit of his
// own that might have passed the charge, as long as he is not banned already.
func denied(owner string, charges []headgate.Charge, outcomes []headgate.Outcome) bool {
	counts := false
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if o.Allowed || c.Shadow || c.Owner != owner {
			continue
		}
		if c.Limit.Algorithm == headgate.Ban {
			return false
		}
		counts = counts || !c.Parent && !o.Never && !o.Recovering
	}
	return counts
}

// tidy ends changes of numbers, removes the cells that were inserted in vain, and
// drops a little of what has run out where new keys came in.
func (s *Store) tidy(cells []cell, now int64) {
	for i := range cells {
		c := &cells[i]
		if c.later {
			continue
		}
		if c.was.version != 0 {
			c.undoUnlessMoved()
		}
		if !c.fresh {
			continue
		}
		if !c.moved && !(c.shared && slices.ContainsFunc(cells, func(o cell) bool { return o.moved && o.same(c) })) {
			if at, found := c.shard.find(c.id); found {
				s.remove(c.shard, at)
			}
		}
		s.sweepAround(c.shard, 2, now, cells)
	}
}
