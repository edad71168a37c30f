// Package journal keeps the decisions of the last minutes for the people who
// are asked about them: who was refused, by what, and for how long. It is
// bounded in memory, sampled under load, and never makes a decision wait.
package journal

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

// Entry is one decision as it is kept, under the names of the JSON API.
type Entry struct {
	// At is when it was made, to the microsecond.
	At time.Time
	// ID is the decision's.
	ID                                    [2]uint64
	Application, Rule, Operation, Subject string
	Plan                                  string
	Cost                                  int64
	Allowed                               bool
	Reason                                headgate.Reason
	// BoundBy is the id of the limit that decided, "" if none did.
	BoundBy string
	// RetryAfter is when the request would have passed; 0 when it was allowed.
	// Retryable is false if it never could have.
	RetryAfter time.Duration
	Retryable  bool
	// WouldDeny is why limits in shadow mode would have refused, Shadow whether
	// one of them was overruled.
	WouldDeny headgate.Reason
	Shadow    bool
	// Candidate is what candidate limits would have answered, NoReason if there
	// were none; CandidateAllowed is whether they would have let it pass.
	Candidate        headgate.Reason
	CandidateAllowed bool
	// Degraded is how it was decided without the store: "", "local", "open" or
	// "closed". Door is the protocol that asked.
	Degraded, Door string
	// Weight is the number of decisions that the entry stands for. Add ignores
	// it; in what Query returns it is at least 1.
	Weight int64
}

// notable is whether somebody may ask about the decision: it was refused, or
// would have been by limits that are not enforced, or the store was away.
func (e *Entry) notable() bool {
	return !e.Allowed || e.WouldDeny != headgate.NoReason || e.Candidate != headgate.NoReason && !e.CandidateAllowed || e.Degraded != ""
}

// Config sizes a journal. The zero value is a good one.
type Config struct {
	// Notable is the number of entries kept of refusals, of what limits in
	// shadow mode or candidates would have refused, and of decisions without
	// the store: 0 means 8,192. Allowances is that of the rest: 0 means 1,024.
	// Both are rounded up to a multiple of 8. An entry takes 760 bytes.
	Notable, Allowances int
	// PerSecond is the number of new entries a second above which they are
	// sampled: 0 means 100 of Notable, and a tenth of it of Allowances, at
	// least 8. A burst may bring a few times as many in its first second.
	PerSecond int
}

// Journal keeps decisions. It is safe for concurrent use. Its memory is
// allocated by [New], about 7 MB with the zero Config, and does not grow: texts
// are cut as [Journal.Add] says.
type Journal struct {
	seed     maphash.Seed
	sequence atomic.Uint64
	notable  [shards]shard
	allowed  [shards]shard
}

// shards is the number of locks of each kind of entry.
const shards = 8

// New returns an empty journal. Panics if a number in c is negative.
func New(c Config) *Journal {
	if c.Notable < 0 || c.Allowances < 0 || c.PerSecond < 0 {
		panic("journal: Config with a negative number")
	}
	perSecond := cmp.Or(c.PerSecond, 100)
	j := &Journal{seed: maphash.MakeSeed()}
	for i := range shards {
		j.notable[i].init((cmp.Or(c.Notable, 8192)+shards-1)/shards, perSecond/shards)
		j.allowed[i].init((cmp.Or(c.Allowances, 1024)+shards-1)/shards, perSecond/10/shards)
	}
	return j
}

// Add records a decision. It keeps no string of e: application, rule and plan
// are cut to 64 bytes each, bound_by to 136, the operation to 120, the door to
// 16 and the subject to 192, but found by the whole of it.
//
// Notable decisions that are alike within a second are one entry. Of those that
// are not, and of allowances, only some are kept when there are many. Add never
// waits: where another goroutine holds the lock, the next entry stands for this
// decision too. So weights add up to the truth as an estimate, not as a count.
func (j *Journal) Add(e *Entry) {
	subject := maphash.String(j.seed, e.Subject)
	second := e.At.Unix()
	if !e.notable() {
		j.allowed[subject%shards].sample(j, e, second, subject)
		return
	}
	alike := j.alike(e, subject)
	j.notable[alike%shards].merge(j, e, second, subject, alike)
}

// alike is a hash over what must be equal in decisions that share an entry; it
// is not 0.
func (j *Journal) alike(e *Entry, subject uint64) uint64 {
	h := subject
	for _, s := range [...]string{e.Application, e.Rule, e.Operation, e.BoundBy, e.Door} {
		h = mix(h, maphash.String(j.seed, s))
	}
	flags := uint64(e.Reason) | uint64(e.WouldDeny)<<8 | uint64(e.Candidate)<<16 | uint64(len(e.Degraded))<<24
	for i, is := range [...]bool{e.Allowed, e.CandidateAllowed, e.Retryable} {
		if is {
			flags |= 1 << (32 + i)
		}
	}
	return mix(h, flags) | 1<<63
}

// mix folds b into a. The constants are the fractions of the golden ratio and
// of the square root of 3: odd, without a pattern.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xbb67ae8584caa73b)
	return hi ^ lo
}

// Query says which entries are wanted; the zero value wants the newest of all.
type Query struct {
	// Application, Rule and Subject must be equal; "" for any.
	Application, Rule, Subject string
	// Reason must be equal; NoReason for any.
	Reason headgate.Reason
	// Allowed must be equal; nil for any.
	Allowed *bool
	// Since is the oldest instant wanted.
	Since time.Time
	// Limit is the number of entries: 1 to MaxPage, 0 means 100.
	Limit int
	// Before is what the page before this one returned as next; 0 for the first.
	Before uint64
}

// MaxPage is the largest Limit of a [Query]; more is cut to it.
const MaxPage = 500

// Query returns the newest entries that fit, newest first, and where the next
// page begins, 0 if this is the last one.
func (j *Journal) Query(q *Query) (entries []Entry, next uint64) {
	limit := min(cmp.Or(q.Limit, 100), MaxPage)
	f := filter{Query: q, subject: maphash.String(j.seed, q.Subject), limit: limit + 1}
	var found []match
	for i := range shards {
		found = j.notable[i].find(&f, found)
		found = j.allowed[i].find(&f, found)
	}
	slices.SortFunc(found, func(a, b match) int { return cmp.Compare(b.sequence, a.sequence) })
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1].sequence
	}
	entries = make([]Entry, len(found))
	for i := range found {
		entries[i] = found[i].entry
	}
	return entries, next
}
