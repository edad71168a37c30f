package memstore

import (
	"sync/atomic"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// A pin keeps the word of one packed bucket outside of the table, where it is
// decided by compare-and-swap. It is in one of three states, which change under
// the shard's lock only:
//
//   - idle: the word is parked, and the state in the table.
//   - active: the word is the state, and the table's entry parked.
//   - spread: both are parked. The state is full, of which the tokens in slots
//     are not charged yet.
//
// Whoever finds a word parked takes the lock. A parked entry is one that will
// not be full for more than ten years: no sweep drops it, and code that forgot
// to recall it refuses.
type pin struct {
	word atomic.Int64
	_    [56]byte // the fields below are read only, or seldom written

	spread atomic.Pointer[spread] // nil unless spread
	store  *Store
	shard  *shard
	limit  *headgate.Prepared
	id     ident
	ahead  int64 // tokens that go into a slot; 0 if the bucket is too small to spread

	// The shard's lock guards these.
	handles int
	next    *pin // of the same identity under another limit
	slots   *spread
}

// parked is no packed bucket's word: those of [pinnable] limits stay below
// 2^61 + 2^54.
const parked = 1 << 62

// pinnable reports whether the limit's words stay clear of parked, and entries
// that are parked clear of the instants of a store's twenty years.
func pinnable(l *headgate.Prepared) bool {
	const years = 10 * 365 * 24 * 3600 * 1_000_000
	return algo.Packable(l) && l.N <= (1<<61)/years
}

// hots is the number of pins per shard that calls find without a lock.
const hots = 4

// Pin keeps owner's bucket at hand; see [headgate.Pinner].
func (s *Store) Pin(l *headgate.Prepared, owner string) (headgate.Cell, bool) {
	if !pinnable(l) || s.durable(l) {
		return nil, false
	}
	h1, h2 := s.hash.sum(owner)
	sh, id := &s.shards[h1>>s.shift], identify(h1, h2, l)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.pinOf(s, id, l)
	p.handles++
	return p, true
}

// pinOf finds or makes the pin of id under l.
func (sh *shard) pinOf(s *Store, id ident, l *headgate.Prepared) *pin {
	for p := sh.pins[id]; p != nil; p = p.next {
		if p.limit == l {
			return p
		}
	}
	p := &pin{store: s, shard: sh, limit: l, id: id, next: sh.pins[id]}
	if ahead := min(mostAhead, l.Burst/outShare/int64(slotCount())); ahead > 1 {
		p.ahead = ahead
	}
	p.word.Store(parked)
	if sh.pins == nil {
		sh.pins = make(map[ident]*pin)
	}
	sh.pins[id] = p
	return p
}

// active returns the pin that holds the state of a parked entry.
func (sh *shard) active(id ident) *pin {
	p := sh.pins[id]
	for p.word.Load() == parked && p.spread.Load() == nil {
		p = p.next
	}
	return p
}

// hotPin returns the pin of id under l, if it is among those that are found
// without a lock.
func (sh *shard) hotPin(id ident, l *headgate.Prepared) *pin {
	p := sh.hot[id.lo>>2%hots].Load()
	if p != nil && p.limit == l && p.id == id {
		return p
	}
	return nil
}

// activate takes the state out of the table. It declines if the key has no cell
// of its own under the pin's limit: the next batch makes one.
func (p *pin) activate() bool {
	sh := p.shard
	at, found := sh.find(p.id)
	if !found || sh.table[at].version != p.limit.Serial || sh.table[at].state == parked {
		return false
	}
	p.word.Store(sh.table[at].state)
	sh.table[at].state = parked
	hot := &sh.hot[p.id.lo>>2%hots]
	if old := hot.Load(); old != nil && old.handles == 0 {
		sh.park(old.id)
	}
	hot.CompareAndSwap(nil, p)
	return true
}

// park puts the state of the key back into the table, if a pin holds it.
func (sh *shard) park(id ident) {
	at, found := sh.find(id)
	if !found || sh.table[at].state != parked || sh.table[at].version&wide != 0 {
		return
	}
	p := sh.active(id)
	p.recall()
	sh.table[at].state = p.word.Swap(parked)
	sh.hot[id.lo>>2%hots].CompareAndSwap(p, nil)
	if p.handles == 0 {
		sh.forget(p)
	}
}

// unpin puts the states of all cells back into their tables.
func unpin(cells []cell) {
	for i := range cells {
		if c := &cells[i]; len(c.shard.pins) > 0 {
			c.shard.park(c.id)
		}
	}
}

// parkAll puts the states of all pins back into the table.
func (sh *shard) parkAll() {
	for id := range sh.pins {
		sh.park(id)
	}
}

// unpinAll empties all pins of a shard that was closed.
func (sh *shard) unpinAll() {
	for _, p := range sh.pins {
		for ; p != nil; p = p.next {
			p.recall()
			p.word.Store(parked)
		}
	}
	for i := range sh.hot {
		sh.hot[i].Store(nil)
	}
}

// forget removes an idle pin.
func (sh *shard) forget(p *pin) {
	if sh.pins[p.id] == p {
		if p.next == nil {
			delete(sh.pins, p.id)
		} else {
			sh.pins[p.id] = p.next
		}
		return
	}
	for q := sh.pins[p.id]; q != nil; q = q.next {
		if q.next == p {
			q.next = p.next
		}
	}
}

// promoteEvery is how many calls wait for a shard until one of their keys is
// taken for the reason.
const promoteEvery = 16

// promote pins, now and then, a key whose call had to wait for the shard, unless
// its place among those that are found without a lock belongs to a handle.
func (s *Store) promote(sh *shard, id ident, l *headgate.Prepared) {
	if sh.waits++; sh.waits%promoteEvery != 0 || !pinnable(l) || s.durable(l) {
		return
	}
	if old := sh.hot[id.lo>>2%hots].Load(); old == nil || old.handles == 0 {
		sh.pinOf(s, id, l).activate()
	}
}

// demote puts back the keys that no handle pins.
func (sh *shard) demote() {
	for i := range sh.hot {
		if p := sh.hot[i].Load(); p != nil && p.handles == 0 {
			sh.park(p.id)
		}
	}
}

// try does a Take or Peek on an active pin at t. It returns the word afterwards.
func (p *pin) try(op headgate.Op, cost, t int64) (x int64, allowed, ok bool) {
	for {
		x := p.word.Load()
		if x == parked {
			return x, false, false
		}
		next, allowed := algo.PackedTake(p.limit, x, t, cost)
		if next == x || op == headgate.Peek {
			return x, allowed, true
		}
		if p.word.CompareAndSwap(x, next) {
			return next, true, true
		}
	}
}

// apply does a Take or Peek on an active pin at t, with its outcome.
func (p *pin) apply(op headgate.Op, cost, t int64, o *headgate.Outcome) bool {
	for {
		x := p.word.Load()
		if x == parked {
			return false
		}
		next := algo.PackedApply(op, p.limit, x, t, cost, o)
		if next == x || p.word.CompareAndSwap(x, next) {
			return true
		}
	}
}

// now returns the instant of a decision in microseconds since the origin, given
// a caller's reading or 0.
func (s *Store) now(now int64) (t int64, ok bool) {
	if now == 0 {
		now = s.Now()
	}
	t = now - s.origin
	return t, algo.PackedRange(t)
}

// Allow implements [headgate.Cell].
func (p *pin) Allow(cost, now int64) (allowed, ok bool) {
	var here byte
	if now == 0 {
		if sp := p.spread.Load(); sp != nil && sp.of(&here).spend(sp, cost) {
			return true, true
		}
	}
	t, ok := p.store.now(now)
	if !ok {
		return false, false
	}
	l := p.limit
	for {
		x := p.word.Load()
		if x == parked {
			var sl *slot
			if sp := p.spread.Load(); sp != nil && now == 0 {
				sl = sp.of(&here)
			}
			return p.slow(cost, t, sl)
		}
		if t%sampleEvery == 0 && now == 0 && p.far(x, t) && p.plenty(x, t) {
			p.spreadOut(false)
			continue
		}
		next, allowed := algo.PackedTake(l, x, t, cost)
		if next == x || p.word.CompareAndSwap(x, next) {
			return allowed, true
		}
		if now == 0 && p.plenty(x, t) {
			p.spreadOut(true)
		}
	}
}

// plenty reports whether there is enough in the bucket to take some ahead.
func (p *pin) plenty(x, t int64) bool {
	return p.ahead > 0 && algo.PackedLevel(p.limit, x, t) >= p.limit.Cap/spreadFrom
}

// far reports whether the bucket will not be full before what is taken ahead is
// charged: it then makes no difference when that was spent.
func (p *pin) far(x, t int64) bool {
	return x >= p.limit.N*(t+4*watchEvery.Microseconds())
}

// slow is Allow where the word is parked. sl is where tokens may be taken ahead
// to, nil for nowhere.
func (p *pin) slow(cost, t int64, sl *slot) (allowed, ok bool) {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	if sl != nil && p.spread.Load() != nil && p.refill(sl, cost) {
		return true, true
	}
	if !p.ready() {
		return false, false
	}
	_, allowed, ok = p.try(headgate.Take, cost, t)
	return allowed, ok
}

// ready makes the pin active, if it can be. The caller holds the shard's lock.
func (p *pin) ready() bool {
	p.recall()
	return p.word.Load() != parked || p.handles > 0 && !p.shard.closed && p.activate()
}

// Decide implements [headgate.Cell].
func (p *pin) Decide(op headgate.Op, cost int64) (level int64, allowed, ok bool) {
	t, ok := p.store.now(0)
	if !ok {
		return 0, false, false
	}
	x, allowed, ok := p.try(op, cost, t)
	if !ok {
		p.shard.mu.Lock()
		if p.ready() {
			x, allowed, ok = p.try(op, cost, t)
		}
		p.shard.mu.Unlock()
	}
	return algo.PackedLevel(p.limit, x, t), allowed, ok
}

// Close implements [headgate.Cell].
func (p *pin) Close() {
	sh := p.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if p.handles--; p.handles > 0 {
		return
	}
	p.recall()
	if p.word.Load() != parked {
		sh.park(p.id) // which forgets it
	} else {
		sh.forget(p)
	}
}
