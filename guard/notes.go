package guard

import (
	"hash/maphash"
	"math/bits"
	"sync"

	"github.com/headgate/headgate"
)

// The notes' memory: noteSets x noteWays of them, 2 MiB.
const (
	noteSets = 1 << 13
	noteWays = 8
)

// notes are what a node knows of the levels of keys, in fixed memory: where there
// is no room for another, the one that is of use for the shortest time goes.
type notes struct {
	seed1, seed2 maphash.Seed
	sets         [noteSets]noteSet
}

type noteSet struct {
	mu   sync.Mutex
	ways [noteWays]note
}

// note is the level of one key at an instant. The zero value is none.
type note struct {
	tag   uint64
	level int64 // tokens that were left; of a ban, which holds until then, 0
	at    int64 // instants in microseconds since the Unix epoch
	until int64 // from which the note is of no use
}

func newNotes() *notes { return &notes{seed1: maphash.MakeSeed(), seed2: maphash.MakeSeed()} }

// set returns where the note of a key is, if there is one, and its tag.
func (n *notes) set(l *headgate.Prepared, owner string) (*noteSet, uint64) {
	h1, h2 := maphash.String(n.seed1, owner), maphash.String(n.seed2, owner)
	hi, lo := bits.Mul64(h1^l.ID[0], 0x9e3779b97f4a7c15^l.ID[1])
	hi2, lo2 := bits.Mul64(h2^l.ID[1], 0xd6e8feb86659fd93^l.ID[0])
	return &n.sets[(hi^lo)%noteSets], hi2 ^ lo2
}

// find returns the note with the tag; nil if there is none. The caller holds mu.
func (s *noteSet) find(tag uint64) *note {
	for i := range s.ways {
		if w := &s.ways[i]; w.tag == tag && w.until != 0 {
			return w
		}
	}
	return nil
}

// write keeps the note.
func (s *noteSet) write(w note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	place := s.find(w.tag)
	if place == nil {
		place = &s.ways[0]
		for i := range s.ways {
			if s.ways[i].until < place.until {
				place = &s.ways[i]
			}
		}
	}
	*place = w
}

// erase forgets the note with the tag.
func (s *noteSet) erase(tag uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.find(tag); w != nil {
		*w = note{}
	}
}

// see notes what the store said of a key at an instant, as far as it leaves less
// than the share of one of nodes; a ban, as long as it holds.
func (n *notes) see(l *headgate.Prepared, owner string, o *headgate.Outcome, at int64, nodes int) {
	useful, until := o.Remaining < share(o.Limit, nodes), at+o.ResetAfter.Microseconds()
	switch {
	case l.Algorithm == headgate.Ban:
		useful, until = !o.Allowed, at+o.RetryAfter.Microseconds()
	case l.Algorithm > headgate.Ban || l.Algorithm == headgate.Concurrency || l.Soft:
		return
	}
	s, tag := n.set(l, owner)
	if useful && until > at {
		s.write(note{tag: tag, level: o.Remaining, at: at, until: until})
	} else {
		s.erase(tag)
	}
}
