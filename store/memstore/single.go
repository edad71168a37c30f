package memstore

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// One decides a Take or Peek of one packed bucket; see [headgate.Single].
func (s *Store) One(op headgate.Op, l *headgate.Prepared, owner string, cost int64) (level int64, allowed, ok bool) {
	h1, h2 := s.hash.sum(owner)
	sh := &s.shards[h1>>s.shift]
	id := identify(h1, h2, l)
	now := s.Now()
	t := now - s.origin
	if !algo.PackedRange(t) {
		return 0, false, false
	}
	if p := sh.hotPin(id, l); p != nil {
		if x, allowed, ok := p.try(op, cost, t); ok {
			return algo.PackedLevel(l, x, t), allowed, true
		}
	}
	contended := !sh.mu.TryLock()
	if contended {
		sh.mu.Lock()
	}
	i, found := sh.find(id)
	var x int64
	switch {
	case !found:
		allowed = true
		x, ok = s.insertOne(sh, i, id, op, l, now, cost)
		sh.mu.Unlock()
		if !ok {
			return 0, false, false
		}
	case sh.table[i].version&^unsure != l.Serial:
		sh.mu.Unlock()
		return 0, false, false
	case sh.table[i].state == parked:
		p := sh.active(id)
		p.recall()
		x, allowed, ok = p.try(op, cost, t)
		sh.mu.Unlock()
		if !ok {
			return 0, false, false
		}
	default:
		t = sh.advance(now) - s.origin
		e := &sh.table[i]
		x, allowed = algo.PackedTake(l, e.state, t, cost)
		if op != headgate.Take {
			x = e.state
		}
		if s.kept != nil && !e.stays(l, x) {
			sh.mu.Unlock()
			return 0, false, false
		}
		e.state = x
		if contended {
			s.promote(sh, id, l)
		}
		sh.mu.Unlock()
	}
	return algo.PackedLevel(l, x, t), allowed, true
}

// insertOne does op for a key that was never seen, whose place would be at, and
// returns its word afterwards. It declines where room has to be made or a shared
// cell may stand in for the key.
func (s *Store) insertOne(sh *shard, at int, id ident, op headgate.Op, l *headgate.Prepared, now, cost int64) (int64, bool) {
	if op != headgate.Take || cost == 0 || cost > l.Burst || sh.shared > 0 || sh.closed || !algo.Packable(l) || s.versions.due(now) || !s.quiet(l, now) {
		return 0, false
	}
	now = sh.advance(now)
	if !s.touch(sh, l) {
		return 0, false
	}
	t := now - s.origin
	x, _ := algo.PackedTake(l, algo.Pack(l, l.Cap, t), t, cost)
	if !sh.insertAt(at, entry{hi: id.hi, lo: id.lo, version: l.Serial, state: x}) {
		return 0, false
	}
	// As much as after a batch's insert, but where the processor's cache misses
	// once for many places.
	if sh.used%sweepEvery == 0 {
		s.sweep(sh, 2*sweepEvery, now)
	}
	return x, true
}

// sweepEvery is the number of inserts between two sweeps.
const sweepEvery = 16

// touch is versions.touch, which it asks only if the shard's latest insert was
// under another limit or in an earlier round of collections.
func (s *Store) touch(sh *shard, l *headgate.Prepared) bool {
	if v := sh.recent; v != nil && v.limit == l && v.touched.Load() >= s.versions.round.Load() {
		return true
	}
	v := s.versions.touch(l)
	if v != nil {
		sh.recent = v
	}
	return v != nil
}
