package lease

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/headgate/headgate"
)

// cell is one budget that is leased, or is about to be.
type cell struct {
	next   atomic.Pointer[cell]
	hash   uint64
	id     [2]uint64
	owner  string
	kind   headgate.Algorithm
	limit  atomic.Pointer[headgate.Prepared] // the latest that it was charged under
	holder Holder
	view   atomic.Pointer[view] // what the authority last told; set before there are any tokens

	low     atomic.Int64 // the keeper is called when fewer tokens are left
	missed  atomic.Int64 // tokens that were charged at the authority for want of a lease
	cost    atomic.Int64 // of such a charge
	used    atomic.Bool  // since the keeper last looked
	called  atomic.Bool  // the keeper was called, or does not want to be
	retired atomic.Bool  // out of the table

	kept
}

// use notes a charge that was decided locally and left so many tokens. It reports
// whether the keeper is to be called.
func (c *cell) use(left int64) bool {
	if !c.used.Load() {
		c.used.Store(true)
	}
	return left < c.low.Load() && !c.called.Load()
}

// miss notes a charge that the authority had to decide.
func (c *cell) miss(cost int64) {
	c.used.Store(true)
	c.missed.Add(cost)
	c.cost.Store(max(1, cost))
}

// table finds cells. Readers take no lock.
type table struct {
	seed  maphash.Seed
	shift uint
	heads []atomic.Pointer[cell]

	mu     sync.Mutex
	n, max int
	closed bool
}

func (t *table) begin(most int) {
	t.seed, t.max = maphash.MakeSeed(), most
	width := bits.Len(uint(2*most - 1))
	t.shift = uint(64 - width)
	t.heads = make([]atomic.Pointer[cell], 1<<width)
}

func (t *table) hash(l *headgate.Prepared, owner string) uint64 {
	return maphash.String(t.seed, owner) ^ l.ID[0]
}

func (t *table) find(hash uint64, l *headgate.Prepared, owner string) *cell {
	for c := t.heads[hash>>t.shift].Load(); c != nil; c = c.next.Load() {
		if c.hash == hash && c.id == l.ID && c.owner == owner {
			return c
		}
	}
	return nil
}

// add returns the cell of the budget, which it makes if there is none: with a
// lease under id and kept as k. It returns nil if there is no room, or the table
// is closed.
func (t *table) add(hash uint64, l *headgate.Prepared, owner string, id [2]uint64, k kept) *cell {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.find(hash, l, owner); c != nil {
		return c
	}
	if t.closed || t.n == t.max {
		return nil
	}
	c := &cell{hash: hash, id: l.ID, owner: strings.Clone(owner), kind: l.Algorithm, kept: k}
	c.limit.Store(l)
	c.holder.begin(id)
	head := &t.heads[hash>>t.shift]
	c.next.Store(head.Load())
	head.Store(c)
	t.n++
	return c
}

// remove takes the cell out. Who has found it before may still ask it.
func (t *table) remove(c *cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := &t.heads[c.hash>>t.shift]; p.Load() != nil; p = &p.Load().next {
		if p.Load() == c {
			p.Store(c.next.Load())
			t.n--
			c.retired.Store(true)
			return
		}
	}
}

// close takes all cells out and admits no other.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for i := range t.heads {
		t.heads[i].Store(nil)
	}
}

// all calls f with every cell.
func (t *table) all(f func(*cell)) {
	for i := range t.heads {
		for c := t.heads[i].Load(); c != nil; c = c.next.Load() {
			f(c)
		}
	}
}
