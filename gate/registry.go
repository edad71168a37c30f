package gate

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// registry holds what is on record of an application's subjects. A look-up takes no
// lock and allocates nothing; names are not kept, but 128 bits of keyed hash of each.
type registry struct {
	seeds  [2]maphash.Seed
	count  atomic.Int64
	shards [registryShards]registryShard
}

const (
	// registryShards is a power of two.
	registryShards = 64
	// registrySlots is how many slots a table begins with, a power of two.
	registrySlots = 8
)

type registryShard struct {
	table atomic.Pointer[registryTable]

	mu   sync.Mutex // of who writes
	used int        // slots that are taken, also by records that are gone
	live int
}

// registryTable is open-addressed and at most three quarters full.
type registryTable struct{ slots []registrySlot }

// registrySlot is free as long as record is nil. Hash and fingerprint do not change
// once it is taken.
type registrySlot struct {
	hash, print uint64
	record      atomic.Pointer[record]
}

// goneRecord stands in a slot whose subject has no record any more.
var goneRecord = new(record)

func newRegistry() *registry {
	r := new(registry)
	for i := range r.seeds {
		r.seeds[i] = maphash.MakeSeed()
	}
	return r
}

func (r *registry) sum(name string) (hash, print uint64) {
	return maphash.String(r.seeds[0], name), maphash.String(r.seeds[1], name)
}

func (r *registry) shard(hash uint64) *registryShard {
	return &r.shards[hash>>58&(registryShards-1)]
}

// find returns the record of a subject; nil if there is none.
func (r *registry) find(name string) *record {
	if r.count.Load() == 0 {
		return nil
	}
	hash, print := r.sum(name)
	t := r.shard(hash).table.Load()
	if t == nil {
		return nil
	}
	if s := t.find(hash, print); s != nil {
		if found := s.record.Load(); found != goneRecord {
			return found
		}
	}
	return nil
}

// find returns the slot that is taken by a subject; nil if none is.
func (t *registryTable) find(hash, print uint64) *registrySlot {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if s.record.Load() == nil {
			return nil
		}
		if s.hash == hash && s.print == print {
			return s
		}
	}
}

// put makes x the record of a subject; nil deletes it.
func (r *registry) put(name string, x *record) {
	hash, print := r.sum(name)
	s := r.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.live
	s.put(hash, print, x)
	r.count.Add(int64(s.live - was))
}

func (s *registryShard) put(hash, print uint64, x *record) {
	t := s.table.Load()
	if t != nil {
		if slot := t.find(hash, print); slot != nil {
			if slot.record.Load() != goneRecord {
				s.live--
			}
			if x == nil {
				x = goneRecord
			} else {
				s.live++
			}
			slot.record.Store(x)
			return
		}
	}
	if x == nil {
		return
	}
	if t == nil || 4*(s.used+1) > 3*len(t.slots) {
		t = s.grow(t)
	}
	t.add(hash, print, x)
	s.used++
	s.live++
}

// grow puts a table in force that has room for as many records again, and has none
// that are gone.
func (s *registryShard) grow(old *registryTable) *registryTable {
	n := registrySlots
	for 2*n < 4*(s.live+1) {
		n *= 2
	}
	next := &registryTable{make([]registrySlot, n)}
	if old != nil {
		for i := range old.slots {
			slot := &old.slots[i]
			if x := slot.record.Load(); x != nil && x != goneRecord {
				next.add(slot.hash, slot.print, x)
			}
		}
	}
	s.used = s.live
	s.table.Store(next)
	return next
}

// add takes a free slot. The record goes last: who finds it finds the rest.
func (t *registryTable) add(hash, print uint64, x *record) {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.record.Load() == nil {
			s.hash, s.print = hash, print
			s.record.Store(x)
			return
		}
	}
}
