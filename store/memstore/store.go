package memstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// Config sizes a store. The zero value is a good one.
type Config struct {
	// MaxBytes caps the memory for state, in bytes: at least 1 MiB, 0 means
	// 256 MiB. A token bucket takes about 36 bytes.
	MaxBytes int64
	// Shards is the number of locks, a power of two up to 4096, each with at
	// least 4 KiB of MaxBytes. 0 means 256, or fewer for a small MaxBytes.
	Shards int
	// Origin is the instant, in microseconds since the Unix epoch, from which
	// ten years to either side can be decided. 0 means the time of New; set it
	// to decide about the past.
	Origin int64
	// Journal, if not nil, keeps the state beyond the process: see the package's
	// comment. Secret, random by default, is what keys are hashed under and names
	// the incarnation for leases, and Past is what the journal knows of the process
	// before.
	Journal Journal
	Secret  [32]byte
	Past    Past
}

const (
	minBytes     = 1 << 20
	defaultBytes = 256 << 20
	maxShards    = 4096
	// shardBytes is the least that a shard is worth having for.
	shardBytes = 64 << 10
	leastShard = 4 << 10
	// maxVersions bounds the different limits in use, about 400 bytes each.
	maxVersions = 1 << 16
)

// Store is a [headgate.Authority] in memory. Make one with [New].
type Store struct {
	hash        *hasher
	start       time.Time
	startMicros int64
	origin      int64
	maxBytes    int64
	shift       uint // of an owner's hash, to its shard
	shards      []shard
	versions    versions
	overflowed  atomic.Int64
	kept        *keeper // nil without a journal
	epoch       headgate.Epoch
}

// New returns an empty store. Panics if c.Shards is not a power of two from 0
// to 4096, if c.MaxBytes is neither 0 nor at least 1 MiB, or if that leaves a
// shard less than 4 KiB.
func New(c Config) *Store {
	c.MaxBytes = cmp.Or(c.MaxBytes, defaultBytes)
	if c.MaxBytes < minBytes {
		panic(fmt.Sprintf("memstore: MaxBytes %d: must be at least %d", c.MaxBytes, minBytes))
	}
	if c.Shards < 0 || c.Shards > maxShards || c.Shards&(c.Shards-1) != 0 {
		panic(fmt.Sprintf("memstore: Shards %d: must be a power of two up to %d", c.Shards, maxShards))
	}
	if c.Shards == 0 {
		c.Shards = min(256, 1<<(bits.Len64(uint64(c.MaxBytes/shardBytes))-1))
	}
	if c.MaxBytes/int64(c.Shards) < leastShard {
		panic(fmt.Sprintf("memstore: MaxBytes %d in %d shards: must be at least %d in each", c.MaxBytes, c.Shards, leastShard))
	}
	start := time.Now()
	micros := max(start.UnixMicro(), c.Past.Latest)
	s := &Store{
		hash:        newHasher(c.Secret),
		start:       start,
		startMicros: micros,
		origin:      cmp.Or(c.Origin, micros),
		maxBytes:    c.MaxBytes,
		shift:       uint(64 - bits.TrailingZeros(uint(c.Shards))),
		shards:      make([]shard, c.Shards),
		epoch:       incarnation(&c),
	}
	s.versions.known = make(map[uint32]*version)
	for i := range s.shards {
		s.shards[i].number = uint32(i)
		s.shards[i].budget = c.MaxBytes / int64(c.Shards)
		s.shards[i].last = cmp.Or(c.Past.Latest, -1<<63)
	}
	if c.Journal != nil {
		s.keep(c.Journal, c.Past)
	}
	return s
}

// Now returns the store's clock; see [headgate.Clock].
func (s *Store) Now() int64 { return s.startMicros + time.Since(s.start).Microseconds() }

// Close drops all state, after it has given it to the journal. Apply fails from then
// on.
func (s *Store) Close() error {
	var err error
	if s.kept != nil {
		s.kept.closing.Do(func() { err = s.finish() })
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.overflowed.Add(-int64(sh.shared))
		sh.table, sh.used, sh.shared, sh.arena, sh.leases, sh.closed = nil, 0, 0, arena{}, nil, true
		sh.unpinAll()
		sh.mu.Unlock()
	}
	return err
}

// Stats says how full a store is.
type Stats struct {
	// Keys is the number of keys with a state of their own or a shared one.
	Keys int64
	// Bytes is the memory held for state, at most MaxBytes.
	Bytes, MaxBytes int64
	// Overflow is the number of shared cells.
	Overflow int64
}

// Stats counts. It takes each shard's lock in turn.
func (s *Store) Stats() Stats {
	st := Stats{MaxBytes: s.maxBytes, Overflow: s.overflowed.Load()}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		st.Keys += int64(sh.used)
		st.Bytes += sh.bytes()
		sh.mu.Unlock()
	}
	return st
}

// Sweep drops all state that equals "never seen" at the present instant. Stores
// do so by themselves as new keys come in; a daemon calls it now and then to
// give memory back after a flood.
func (s *Store) Sweep() {
	now := s.Now()
	if !algo.PackedRange(now - s.origin) {
		now = -1 << 63 // the store decides about another time: as of the latest instant seen
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.demote()
		s.sweep(sh, len(sh.table)+sh.used, sh.advance(now)) // a removal takes a look of its own
		sh.shrink(2)
		sh.mu.Unlock()
	}
	s.kept.forgetBans(now)
	s.collectVersions()
}

var (
	errClosed   = &headgate.Error{Code: headgate.Closed, Err: errors.New("memory store is closed")}
	errFull     = &headgate.Error{Code: headgate.Overloaded, Err: errors.New("memory store has no room for more state: raise its memory cap")}
	errVersions = &headgate.Error{Code: headgate.Overloaded, Err: fmt.Errorf("memory store knows %d different limits in use: at most that many", maxVersions)}
	errInstant  = &headgate.Error{Code: headgate.InvalidRequest, Err: errors.New("instant is more than ten years from the memory store's origin")}
)

// Apply does b.Op; see [headgate.Store]. Without a journal it never blocks on
// anything but its own locks, and ignores ctx.
func (s *Store) Apply(ctx context.Context, b *headgate.Batch) error {
	now := b.Now
	if now == 0 {
		now = s.Now()
	}
	if !algo.PackedRange(now - s.origin) {
		return errInstant
	}
	charges := b.Charges()
	if len(charges) == 1 && b.HoldFor == 0 && (b.Op == headgate.Take || b.Op == headgate.Peek) {
		if s.applyHot(b, &charges[0], now) {
			return nil
		}
	}
	if len(charges) <= few && b.Op == headgate.Take && b.HoldFor == 0 && b.Key == (headgate.RequestKey{}) {
		if s.applyFew(b, charges, now) {
			return nil
		}
	}
	if s.kept != nil {
		return s.applyKept(ctx, b, charges, now)
	}
	if err := b.Validate(); err != nil {
		return err
	}
	return s.applyAll(b, charges, now, nil)
}

// applyHot decides the most common batch: one known bucket in one word.
func (s *Store) applyHot(b *headgate.Batch, c *headgate.Charge, now int64) bool {
	if c.Shadow {
		return false
	}
	h1, h2 := s.hash.sum(c.Owner)
	sh := &s.shards[h1>>s.shift]
	id := identify(h1, h2, c.Limit)
	o := &b.Outcomes()[0]
	if p := sh.hotPin(id, c.Limit); p != nil && p.apply(b.Op, c.Cost, now-s.origin, o) {
		b.Allowed, b.At, b.Replayed = o.Allowed, now, false
		return true
	}
	sh.mu.Lock()
	i, found := sh.find(id)
	if !found {
		x, ok := s.insertOne(sh, i, id, b.Op, c.Limit, now, c.Cost)
		now = max(now, sh.last)
		sh.mu.Unlock()
		if ok {
			algo.PackedApply(headgate.Peek, c.Limit, x, now-s.origin, 0, o)
			b.Allowed, b.At, b.Replayed = true, now, false
		}
		return ok
	}
	e := &sh.table[i]
	if e.version&^unsure != c.Limit.Serial {
		sh.mu.Unlock()
		return false
	}
	if e.state != parked {
		now = sh.advance(now)
		next := algo.PackedApply(b.Op, c.Limit, e.state, now-s.origin, c.Cost, o)
		if s.kept != nil && !e.stays(c.Limit, next) {
			sh.mu.Unlock()
			return false
		}
		e.state = next
	} else {
		p := sh.active(id)
		p.recall()
		p.apply(b.Op, c.Cost, now-s.origin, o)
	}
	sh.mu.Unlock()
	b.Allowed, b.At, b.Replayed = o.Allowed, now, false
	return true
}

// identify mixes the two keyed hashes of an owner with a limit's identity. The
// lowest bit is left to overflow cells.
func identify(h1, h2 uint64, l *headgate.Prepared) ident {
	hi, lo := bits.Mul64(h1^l.ID[0], 0x9e3779b97f4a7c15^l.ID[1])
	hi2, lo2 := bits.Mul64(h2^l.ID[1], 0xd6e8feb86659fd93^l.ID[0])
	return ident{hi ^ lo, uint32(hi2^lo2) &^ sharedBit}
}
