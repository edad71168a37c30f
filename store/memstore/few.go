package memstore

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

const (
	// few is the largest number of charges that applyFew decides.
	few = 4
	// fewWords is how many words of states outside of the table they may have.
	fewWords = 24
)

// spot is where a charge of a small batch finds its state.
type spot struct {
	shard *shard
	id    ident
	entry *entry    // nil for a ban that nothing counts towards
	words []int64   // nil for a packed bucket
	mark  algo.Mark // of words, before
	next  int64     // of a packed bucket, if the batch passes
}

// applyFew does a Take of a few charges whose keys are all known under their
// limits' present numbers, in one pass: each charge is taken, and given back if a
// later one refuses. It declines, and nothing has moved, where applyAll has more
// to do: keys that are new, pinned or out of room, shadows, and refusals that a
// ban has to count.
func (s *Store) applyFew(b *headgate.Batch, charges []headgate.Charge, now int64) bool {
	var buf [few]spot
	var numbers [few]uint32
	spots, held := buf[:len(charges)], numbers[:0]
	var h1, h2 uint64
	for i := range charges {
		c := &charges[i]
		if c.Shadow {
			return false
		}
		if i == 0 || c.Owner != charges[i-1].Owner {
			h1, h2 = s.hash.sum(c.Owner)
			held = insertLock(held, uint32(h1>>s.shift))
		}
		spots[i].shard, spots[i].id = &s.shards[h1>>s.shift], identify(h1, h2, c.Limit)
	}
	for _, n := range held {
		sh := &s.shards[n]
		sh.mu.Lock()
		now = max(now, sh.last)
	}
	done := s.findFew(spots, charges, now) && s.takeFew(b, spots, charges, now)
	for _, n := range held {
		sh := &s.shards[n]
		if done {
			sh.last = now
		}
		sh.mu.Unlock()
	}
	return done
}

// findFew finds the states of all charges.
func (s *Store) findFew(spots []spot, charges []headgate.Charge, now int64) bool {
	words := 0
	call := algo.Call{Op: headgate.Take, Now: now}
	for i := range spots {
		p, l := &spots[i], charges[i].Limit
		at, found := p.shard.find(p.id)
		if !found {
			if l.Algorithm != headgate.Ban || p.shard.closed || s.kept.banned(p.id) {
				return false
			}
			continue // nothing was counted: it passes, and needs no cell
		}
		p.entry = &p.shard.table[at]
		switch {
		case p.entry.version == l.Serial:
			if p.entry.state == parked {
				return false
			}
		case p.entry.version == l.Serial|wide:
			p.words = p.shard.arena.state(p.entry.state)
			if len(p.shard.leases) > 0 && algo.Reserved(l, p.words) {
				return false // something of it may be leased out
			}
			words += len(p.words)
			call.Cost = charges[i].Cost
			if n := algo.Need(&call, l, p.words); words > fewWords || n > len(p.words) || n < 0 {
				return false
			}
			if s.kept != nil && p.shard.lasts(p.entry, l, now) {
				if p.mark = algo.MarkOf(l, p.words); !p.mark.OK && l.Algorithm != headgate.Ban {
					return false
				}
			}
		default:
			return false
		}
	}
	return true
}

// takeFew takes all charges or none.
func (s *Store) takeFew(b *headgate.Batch, spots []spot, charges []headgate.Charge, now int64) bool {
	var saved [fewWords]int64
	outcomes, t, kept := b.Outcomes(), now-s.origin, 0
	call := algo.Call{Op: headgate.Take, Now: now, Hold: b.Hold, MaxDelay: b.MaxDelay}
	for i := range spots {
		p, c, o := &spots[i], &charges[i], &outcomes[i]
		if p.entry == nil {
			*o = headgate.Outcome{Allowed: true, Limit: c.Limit.Count, Remaining: c.Limit.Count}
			continue
		}
		if p.words == nil {
			p.next = algo.PackedApply(headgate.Take, c.Limit, p.entry.state, t, c.Cost, o)
		} else {
			kept += copy(saved[kept:], p.words)
			call.Cost = c.Cost
			algo.Apply(&call, c.Limit, p.words, o)
		}
		if !o.Allowed {
			return s.refuseFew(b, &call, spots, charges, i, saved[:kept])
		}
		if s.kept != nil && !p.stays(c.Limit) {
			giveBack(spots[:i+1], saved[:kept])
			return false
		}
	}
	for i := range spots {
		if p := &spots[i]; p.words == nil && p.entry != nil {
			p.entry.state = p.next
		}
	}
	b.Allowed, b.At, b.Replayed = true, now, false
	return true
}

// stays reports whether the journal need not hear of what a spot was charged.
func (p *spot) stays(l *headgate.Prepared) bool {
	if p.words == nil {
		return p.entry.stays(l, p.next)
	}
	return !p.mark.OK || p.mark.Ahead(l) == algo.MarkOf(l, p.words).Ahead(l)
}

// giveBack makes the words of spots again what was saved of them.
func giveBack(spots []spot, saved []int64) {
	for i := range spots {
		saved = saved[copy(spots[i].words, saved):]
	}
}

// refuseFew gives back what was taken before the charge numbered refused, and
// answers how all limits stand.
func (s *Store) refuseFew(b *headgate.Batch, call *algo.Call, spots []spot, charges []headgate.Charge, refused int, saved []int64) bool {
	giveBack(spots[:refused], saved)
	for i := range charges {
		if charges[i].Limit.Algorithm == headgate.Ban {
			return false
		}
	}
	call.Op = headgate.Peek
	for i := range spots {
		p, c, o := &spots[i], &charges[i], &b.Outcomes()[i]
		if p.words == nil {
			algo.PackedApply(headgate.Peek, c.Limit, p.entry.state, call.Now-s.origin, c.Cost, o)
		} else {
			call.Cost = c.Cost
			algo.Apply(call, c.Limit, p.words, o)
		}
	}
	b.Allowed, b.At, b.Replayed = false, call.Now, false
	return true
}
