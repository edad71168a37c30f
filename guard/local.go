package guard

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// Local is a [headgate.Store] for the time in which the store that all nodes
// share cannot be asked: it admits this node's share of each limit, from memory.
// It is [Store.Local] of the store that it stands in for, and safe for
// concurrent use.
//
// Outcomes are those of the share: Limit is its capacity, and Leased is true, as
// the rest of the budget is with other nodes. Holds are known to this node only,
// and only here. A batch fails with code Unavailable on a node that never met
// the store, and if it costs more than a share ever holds: a share of less than
// one token admits nothing.
type Local struct {
	bytes  int64
	clock  storeClock
	nodes  atomic.Int32 // when the store was last asked; 0 for never
	shares shares
	notes  *notes

	make   sync.Once
	memory atomic.Pointer[memstore.Store] // nil until it is needed
}

// storeClock is the store's clock as far as this process knows: as of its last
// answer, and as many microseconds later as have passed since by the process's
// clock, which is not the machine's and is never set.
type storeClock struct {
	start  time.Time
	offset atomic.Int64 // from the time since start, in microseconds
}

func (c *storeClock) init() {
	c.start = time.Now()
	c.offset.Store(c.start.UnixMicro())
}

// set says that the store's clock shows now.
func (c *storeClock) set(now int64) { c.offset.Store(now - time.Since(c.start).Microseconds()) }

// now returns microseconds since the Unix epoch.
func (c *storeClock) now() int64 { return c.offset.Load() + time.Since(c.start).Microseconds() }

func newLocal(bytes int64) *Local {
	l := &Local{bytes: bytes, notes: newNotes()}
	l.clock.init()
	return l
}

var (
	errNeverMet = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("this node has not met the store that others share: it has no share of its limits")}
	errNoShare  = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the request costs more than this node's share of a limit ever holds")}
)

// scaled is a batch with the shares of another's limits.
type scaled struct {
	batch headgate.Batch
	// places are of the other's charges, -1 for one that is left out; banned, of
	// each charge in batch, is until when it is known to refuse, 0 for not.
	places []int
	banned []int64
}

var scaledPool = sync.Pool{New: func() any { return new(scaled) }}

// Apply does b.Op on the shares of b's limits; see [headgate.Store]. It never
// blocks on anything but locks.
func (l *Local) Apply(ctx context.Context, b *headgate.Batch) error {
	nodes := int(l.nodes.Load())
	if nodes == 0 {
		return errNeverMet
	}
	s := scaledPool.Get().(*scaled)
	defer scaledPool.Put(s)
	s.start(b, cmp.Or(b.Now, l.clock.now()))
	if err := l.scale(s, b, nodes); err != nil {
		return err
	}
	memory := l.state(s.batch.Now)
	refused := false
	switch b.Op {
	case headgate.Take, headgate.Peek:
		var err error
		if refused, err = l.recall(ctx, s); err != nil {
			return err
		}
	case headgate.Reset:
		for _, c := range b.Charges() {
			set, tag := l.notes.set(c.Limit, c.Owner)
			set.erase(tag)
		}
	}
	if refused {
		s.batch.Op = headgate.Peek // nothing moves
	}
	if err := memory.Apply(ctx, &s.batch); err != nil {
		return err
	}
	s.answer(b, refused)
	return nil
}

// Share returns this node's share of a limit, which is the limit itself where that is not shared
// out, and nil where the node admits nothing of it.
func (l *Local) Share(whole *headgate.Prepared) *headgate.Prepared {
	nodes := int(l.nodes.Load())
	if nodes == 0 {
		return nil
	}
	return l.shares.of(whole, nodes)
}

// state returns the memory, which is made when it is first needed.
func (l *Local) state(now int64) *memstore.Store {
	l.make.Do(func() { l.memory.Store(memstore.New(memstore.Config{MaxBytes: l.bytes, Origin: now})) })
	return l.memory.Load()
}

// sweep gives memory back for what has run out.
func (l *Local) sweep() {
	if memory := l.memory.Load(); memory != nil {
		memory.Sweep()
	}
}

// see notes what the store said of a batch.
func (l *Local) see(b *headgate.Batch) {
	if b.At != 0 {
		l.clock.set(b.At)
	}
	if b.Op != headgate.Take && b.Op != headgate.Peek && b.Op != headgate.Reset {
		return
	}
	nodes, outcomes := max(1, int(l.nodes.Load())), b.Outcomes()
	for i, c := range b.Charges() {
		l.notes.see(c.Limit, c.Owner, &outcomes[i], b.At, nodes)
	}
}

// seeLeases notes what the store said of the budgets of leases.
func (l *Local) seeLeases(requests []headgate.LeaseRequest, replies []headgate.LeaseReply) {
	now, nodes := l.clock.now(), max(1, int(l.nodes.Load()))
	for i := range replies {
		if r := &requests[i]; replies[i].Status == headgate.LeaseOK {
			l.notes.see(r.Limit, r.Owner, &replies[i].State, now, nodes)
		}
	}
}

// Close drops all state. Apply fails from then on.
func (l *Local) Close() error { return l.state(l.clock.now()).Close() }

// start empties s for b at an instant.
func (s *scaled) start(b *headgate.Batch, now int64) {
	n := len(b.Charges())
	s.batch.Reset(b.Op)
	s.batch.Room(n)
	s.batch.Now, s.batch.Hold, s.batch.HoldFor, s.batch.MaxDelay = now, b.Hold, b.HoldFor, b.MaxDelay
	s.batch.Key = b.Key
	s.batch.Again = true // who has used up a share may be within the limit: it counts towards no ban
	s.places, s.banned = s.places[:0], append(s.banned[:0], make([]int64, n)...)
}

// scale fills s with b's charges, of the shares of their limits.
func (l *Local) scale(s *scaled, b *headgate.Batch, nodes int) error {
	asks := b.Op == headgate.Take || b.Op == headgate.Peek
	for _, c := range b.Charges() {
		whole, place := c.Limit, -1
		c.Limit = l.shares.of(whole, nodes)
		if asks && !c.Shadow && tooSmall(c.Limit, whole, c.Cost) {
			return errNoShare
		}
		if c.Limit != nil {
			var err error
			if place, err = s.batch.Add(c); err != nil {
				return err
			}
		}
		s.places = append(s.places, place)
	}
	return nil
}

// tooSmall reports whether the share p, which may be nil, never holds a cost that
// the whole limit can hold: it may pass when the store is back.
func tooSmall(p, whole *headgate.Prepared, cost int64) bool {
	switch {
	case p == nil:
		return true
	case p == whole:
		return false // it is not shared out
	default:
		return cost > capacity(p) && cost <= capacity(whole)
	}
}

// recall lowers the level of each key to what the notes say, which have done
// their duty then, and reports whether one says that an owner is banned. While a
// note is applied nobody else reads its set: no decision passes it by.
func (l *Local) recall(ctx context.Context, s *scaled) (refused bool, err error) {
	now := s.batch.Now
	for i, c := range s.batch.Charges() {
		set, tag := l.notes.set(c.Limit, c.Owner)
		set.mu.Lock()
		switch w := set.find(tag); {
		case w == nil:
		case w.until <= now:
			*w = note{}
		case c.Limit.Algorithm == headgate.Ban:
			s.banned[i] = w.until
			refused = refused || !c.Shadow
		default:
			if err = l.lower(ctx, &c, w.tokens(c.Limit, now), now); err == nil {
				*w = note{}
			}
		}
		set.mu.Unlock()
		if err != nil {
			return false, err
		}
	}
	return refused, nil
}

// tokens returns how many tokens of a node's share p are left at now: those of
// the note and, in a bucket, what the share has refilled since.
func (w *note) tokens(p *headgate.Prepared, now int64) int64 {
	level, most := w.level, capacity(p)
	if p.Algorithm > headgate.LeakyBucket || level >= most {
		return min(level, most)
	}
	elapsed := max(0, now-w.at)
	if elapsed > (most-level)*p.P/p.N {
		return most
	}
	return level + elapsed*p.N/p.P
}

// lower takes what a key has more than tokens. Of a state that it shares with
// strangers nothing is taken: that has no more for it.
func (l *Local) lower(ctx context.Context, c *headgate.Charge, tokens, now int64) error {
	has, err := l.one(ctx, headgate.Peek, c, 0, now)
	if err != nil || has.Shared || has.Remaining <= tokens {
		return err
	}
	_, err = l.one(ctx, headgate.Debit, c, has.Remaining-tokens, now)
	return err
}

// one does op on the budget of c.
func (l *Local) one(ctx context.Context, op headgate.Op, c *headgate.Charge, cost, now int64) (headgate.Outcome, error) {
	s := scaledPool.Get().(*scaled)
	defer scaledPool.Put(s)
	b := &s.batch
	b.Reset(op)
	b.Now = now
	if _, err := b.Add(headgate.Charge{Limit: c.Limit, Owner: c.Owner, Cost: cost}); err != nil {
		return headgate.Outcome{}, err
	}
	err := l.memory.Load().Apply(ctx, b)
	return b.Outcomes()[0], err
}

// answer copies what s says to b. refused is by a ban that is known of.
func (s *scaled) answer(b *headgate.Batch, refused bool) {
	b.Allowed, b.Replayed, b.At = s.batch.Allowed && !refused, s.batch.Replayed, s.batch.At
	if b.Replayed {
		b.Hold = s.batch.Hold
	}
	charges, outcomes := b.Charges(), b.Outcomes()
	for i, place := range s.places {
		o := &outcomes[i]
		if place < 0 {
			*o = headgate.Outcome{Leased: true} // in shadow, or not held
			continue
		}
		*o = s.batch.Outcomes()[place]
		switch until := s.banned[place]; {
		case until > s.batch.At:
			o.Allowed, o.Used, o.Remaining = false, o.Limit, 0
			o.RetryAfter = time.Duration(until-s.batch.At) * time.Microsecond
			o.ResetAfter = max(o.ResetAfter, o.RetryAfter)
		case charges[i].Limit.Algorithm < headgate.Ban:
			o.Leased = true
			o.Never = o.Never && charges[i].Cost > capacity(charges[i].Limit)
		}
	}
}
