package journal

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

// The bytes that are kept of each text, and of all of them together.
const (
	nameBytes      = 64 // what policies name: they allow no more
	boundBytes     = 136
	operationBytes = 120
	subjectBytes   = 192
	doorBytes      = 16
	degradedBytes  = 8
	textBytes      = 3*nameBytes + boundBytes + operationBytes + subjectBytes + doorBytes + degradedBytes
)

// slot is an entry without pointers, so that the collector does not look at the
// ring.
type slot struct {
	sequence     uint64 // 0 while the slot is empty
	at           int64  // µs since the Unix epoch
	alike        uint64
	subject      uint64 // hash of the whole of it
	id           [2]uint64
	cost, weight int64
	retryAfter   time.Duration

	reason, wouldDeny, candidate                 headgate.Reason
	allowed, retryable, shadow, candidateAllowed bool

	ends [texts]uint16 // where each text ends in text
	text [textBytes]byte
}

// recents is the number of entries that a shard remembers as likely to come
// again; a power of two.
const recents = 256

// shard is a ring of entries and what decides which ones go in.
type shard struct {
	// every is the sampling interval: a decision is kept with a chance of one
	// in every, and then stands for as many. It may be read without the lock.
	every atomic.Int64
	// second is the Unix second that every is for.
	second atomic.Int64
	// missed are decisions that met the lock taken.
	missed atomic.Int64
	quota  int // entries after which every doubles

	mu     sync.Mutex
	slots  []slot
	next   int            // the slot to be written next, the oldest
	kept   int            // entries since every was set
	recent [recents]int32 // by hash: 1 + the slot of an entry that may be alike
}

func (s *shard) init(slots, quota int) {
	s.slots = make([]slot, slots)
	s.quota = max(quota, 1)
	s.every.Store(1)
}

func chosen(every int64) bool { return every <= 1 || rand.Int64N(every) == 0 }

// sample keeps e with a chance of one in every. Most are left out without the
// lock.
func (s *shard) sample(j *Journal, e *Entry, second int64, subject uint64) {
	current := s.second.Load() == second // else every is to be set first
	if current && !chosen(s.every.Load()) {
		return
	}
	if !s.mu.TryLock() {
		s.missed.Add(1)
		return
	}
	defer s.mu.Unlock()
	s.tick(second)
	if current || chosen(s.every.Load()) {
		s.keep(j, e, subject, 0, 1+s.missed.Swap(0))
	}
}

// merge counts e into the entry that is like it, or samples it if there is none
// of the last second.
func (s *shard) merge(j *Journal, e *Entry, second int64, subject, alike uint64) {
	if !s.mu.TryLock() {
		s.missed.Add(1)
		return
	}
	defer s.mu.Unlock()
	s.tick(second)
	stands := 1 + s.missed.Swap(0)
	recent := &s.recent[alike>>8%recents] // the lowest bits chose the shard
	if *recent > 0 {
		old := &s.slots[*recent-1]
		if apart := e.At.UnixMicro() - old.at; old.alike == alike && max(apart, -apart) < time.Second.Microseconds() {
			old.weight += stands
			return
		}
	}
	if chosen(s.every.Load()) {
		*recent = int32(s.next + 1)
		s.keep(j, e, subject, alike, stands)
	}
}

// keep writes e over the oldest entry.
func (s *shard) keep(j *Journal, e *Entry, subject, alike uint64, stands int64) {
	s.slots[s.next].write(e, j.sequence.Add(1), subject, alike, stands*s.every.Load())
	s.next = (s.next + 1) % len(s.slots)
	if s.kept++; s.kept >= s.quota {
		s.kept = 0
		s.every.Store(s.every.Load() * 2)
	}
}

// tick halves the sampling interval for each second that has begun: where there
// are still as many decisions, the first of them double it again.
func (s *shard) tick(second int64) {
	passed := second - s.second.Load()
	if passed == 0 {
		return
	}
	s.second.Store(second)
	s.kept = 0
	if passed < 0 || passed > 62 {
		passed = 62 // the clock was set: begin anew
	}
	s.every.Store(max(s.every.Load()>>passed, 1))
}

func (s *slot) write(e *Entry, sequence, subject, alike uint64, weight int64) {
	s.sequence, s.at, s.subject, s.alike, s.id = sequence, e.At.UnixMicro(), subject, alike, e.ID
	s.cost, s.weight, s.retryAfter = e.Cost, weight, e.RetryAfter
	s.reason, s.wouldDeny, s.candidate = e.Reason, e.WouldDeny, e.Candidate
	s.allowed, s.retryable, s.shadow, s.candidateAllowed = e.Allowed, e.Retryable, e.Shadow, e.CandidateAllowed
	end := 0
	for i, t := range [texts]struct {
		text string
		room int
	}{
		applicationText: {e.Application, nameBytes}, ruleText: {e.Rule, nameBytes}, planText: {e.Plan, nameBytes},
		boundText: {e.BoundBy, boundBytes}, operationText: {e.Operation, operationBytes}, subjectText: {e.Subject, subjectBytes},
		doorText: {e.Door, doorBytes}, degradedText: {e.Degraded, degradedBytes},
	} {
		end += copy(s.text[end:], t.text[:min(len(t.text), t.room)])
		s.ends[i] = uint16(end)
	}
}

// The texts of a slot, by their place.
const (
	applicationText = iota
	ruleText
	planText
	boundText
	operationText
	subjectText
	doorText
	degradedText
	texts // the number of them
)

func (s *slot) part(i int) []byte {
	from := uint16(0)
	if i > 0 {
		from = s.ends[i-1]
	}
	return s.text[from:s.ends[i]]
}

func (s *slot) entry() Entry {
	text := func(i int) string { return string(s.part(i)) }
	return Entry{
		At: time.UnixMicro(s.at), ID: s.id,
		Application: text(applicationText), Rule: text(ruleText), Operation: text(operationText), Subject: text(subjectText), Plan: text(planText),
		Cost: s.cost, Allowed: s.allowed, Reason: s.reason, BoundBy: text(boundText), RetryAfter: s.retryAfter, Retryable: s.retryable,
		WouldDeny: s.wouldDeny, Shadow: s.shadow, Candidate: s.candidate, CandidateAllowed: s.candidateAllowed,
		Degraded: text(degradedText), Door: text(doorText), Weight: s.weight,
	}
}

// filter is a Query made ready.
type filter struct {
	*Query
	subject uint64
	limit   int // matches wanted of each shard
}

func (f *filter) fits(s *slot) bool {
	switch {
	case f.Before != 0 && s.sequence >= f.Before,
		f.Application != "" && string(s.part(applicationText)) != f.Application,
		f.Rule != "" && string(s.part(ruleText)) != f.Rule,
		f.Subject != "" && s.subject != f.subject,
		f.Reason != headgate.NoReason && s.reason != f.Reason,
		f.Allowed != nil && s.allowed != *f.Allowed,
		!f.Since.IsZero() && s.at < f.Since.UnixMicro():
		return false
	}
	return true
}

// match is an entry that fits.
type match struct {
	sequence uint64
	entry    Entry
}

// stretch is how many slots find looks at under one lock, a few µs.
const stretch = 64

// find appends the newest entries that fit to found, newest first.
func (s *shard) find(f *filter, found []match) []match {
	s.mu.Lock()
	at := s.next
	s.mu.Unlock()
	wanted := len(found) + f.limit
	newest := ^uint64(0)
	for looked := 0; looked < len(s.slots); {
		s.mu.Lock()
		for n := 0; n < stretch && looked < len(s.slots); n++ {
			at = (at + len(s.slots) - 1) % len(s.slots)
			looked++
			slot := &s.slots[at]
			if slot.sequence == 0 || slot.sequence >= newest {
				s.mu.Unlock() // the rest is empty, or was written over meanwhile
				return found
			}
			newest = slot.sequence
			if !f.fits(slot) {
				continue
			}
			if found = append(found, match{slot.sequence, slot.entry()}); len(found) == wanted {
				s.mu.Unlock()
				return found
			}
		}
		s.mu.Unlock()
	}
	return found
}
