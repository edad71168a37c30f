package memstore

import (
	"sync"
	"sync/atomic"

	"github.com/headgate/headgate"
)

// versions remembers the limits under which state is kept, by their serial.
// Lock order: a shard's lock before this one.
type versions struct {
	mu    sync.RWMutex
	known map[uint32]*version
	round atomic.Uint64 // of collections; written under mu
	size  atomic.Int64  // of known
	full  atomic.Int64  // size at which the next collection is due
	last  atomic.Int64  // instant of the latest one that was due
}

type version struct {
	limit   *headgate.Prepared
	touched atomic.Uint64 // round in which a cell last took it
}

// get returns the limit with the serial, which some cell has.
func (v *versions) get(serial uint32) *headgate.Prepared {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.known[serial].limit
}

// touch remembers l and returns what it keeps of it, nil if there are too many.
// The caller holds the lock of the shard in which a cell is about to take l.
func (v *versions) touch(l *headgate.Prepared) *version {
	if known := v.retake(l); known != nil {
		return known
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxVersions {
		return nil
	}
	n := &version{limit: l}
	n.touched.Store(v.round.Load())
	v.known[l.Serial] = n
	v.size.Store(int64(len(v.known)))
	return n
}

// retake is touch for a limit that is known. A collection waits for it, or would
// forget the limit in between.
func (v *versions) retake(l *headgate.Prepared) *version {
	v.mu.RLock()
	defer v.mu.RUnlock()
	known, round := v.known[l.Serial], v.round.Load()
	if known == nil {
		return nil
	}
	// Never back: another shard may have seen a later round by now.
	for t := known.touched.Load(); t < round && !known.touched.CompareAndSwap(t, round); {
		t = known.touched.Load()
	}
	return known
}

// collectEvery is how many microseconds there are at least between two
// collections while as many limits are known as may be.
const collectEvery = 1_000_000

// due reports whether limits have to be forgotten, as of now.
func (v *versions) due(now int64) bool {
	size := v.size.Load()
	if size < max(v.full.Load(), 1024) {
		return false
	}
	since := now - v.last.Load()
	return size < maxVersions || since >= collectEvery || since <= -collectEvery // instants that callers say may go back
}

// collectDue does a collection that is due. Where no new limit comes in no new
// key does, which would drop what has run out: it does that itself.
func (s *Store) collectDue(now int64) {
	s.versions.last.Store(now)
	if s.versions.size.Load() >= maxVersions {
		for i := range s.shards {
			sh := &s.shards[i]
			sh.mu.Lock()
			s.sweep(sh, len(sh.table)+sh.used, sh.last)
			sh.mu.Unlock()
		}
	}
	s.collectVersions()
}

// collectVersions forgets the limits that no cell is kept under. A cell that
// takes a limit while this runs is either seen in its shard, or takes it in the
// new round.
func (s *Store) collectVersions() {
	v := &s.versions
	v.mu.Lock()
	round := v.round.Add(1)
	v.mu.Unlock()
	live := make(map[uint32]struct{})
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for j := range sh.table {
			if e := &sh.table[j]; e.version != 0 {
				live[e.version&^flags] = struct{}{}
			}
		}
		sh.mu.Unlock()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for serial, known := range v.known {
		if _, ok := live[serial]; !ok && known.touched.Load() < round {
			delete(v.known, serial)
		}
	}
	// Twice as many, or half of what is left, so that a store nearly full of
	// live limits does not look for others with every new one.
	n := len(v.known)
	v.size.Store(int64(n))
	v.full.Store(int64(min(maxVersions, max(n+1, min(2*n, (n+maxVersions)/2)))))
}
