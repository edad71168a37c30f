package memstore

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/headgate/headgate/algo"
)

// spread is where processors find tokens that were taken ahead: a pin that is
// spread is not decided by its word, but by slots, which a call reaches without
// a reading of the clock.
type spread struct {
	salt  atomic.Uint64 // which goroutine takes which slot
	slots []slot        // a power of two

	// The shard's lock guards these.
	full  int64 // the packed bucket, without what is out
	out   int64 // tokens that were put into slots and not charged yet
	puts  uint  // how often tokens were put into a slot
	seen  uint  // puts at the latest look of the watch
	watch bool  // a timer runs

	crowded bool // by processors that contend
}

type slot struct {
	left atomic.Int64
	met  atomic.Uint32 // how often two goroutines met here
	put  int64         // tokens that left started with; guarded by the shard's lock
	_    [104]byte
}

const (
	// mostAhead is how many tokens are taken ahead at once: enough to make the
	// lock and the clock cheap.
	mostAhead = 64
	// outShare is the part of a burst that may be taken ahead in all.
	outShare = 16
	// spreadFrom is the part of a burst that must be left to begin spreading,
	// and spreadTo the part below which it ends.
	spreadFrom, spreadTo = 4, 8
	// remapEvery is how often goroutines meet in a slot until all are given
	// others.
	remapEvery = 64
	// watchEvery is how long no slot is filled before spreading ends.
	watchEvery = 5 * time.Millisecond
	// sampleEvery is how many microseconds there are to each in which a call
	// may begin to take ahead: keys that are asked often meet one soon.
	sampleEvery = 1024
)

// slotCount is so much above the number of processors that few of them meet.
var slotCount = sync.OnceValue(func() int {
	n := 4
	for n < 4*runtime.GOMAXPROCS(0) {
		n *= 2
	}
	return n
})

// of returns the slot of the goroutine on whose stack here is: stacks do not
// overlap, and a goroutine mostly calls from the same depth.
func (sp *spread) of(here *byte) *slot {
	at := (uint64(uintptr(unsafe.Pointer(here)))>>11 ^ sp.salt.Load()) * 0x9e3779b97f4a7c15
	return &sp.slots[at>>32&uint64(len(sp.slots)-1)]
}

// spend takes cost tokens, if they are there.
func (sl *slot) spend(sp *spread, cost int64) bool {
	for range 3 {
		left := sl.left.Load()
		if left < cost {
			return false
		}
		if sl.left.CompareAndSwap(left, left-cost) {
			return true
		}
		if sl.met.Add(1)%remapEvery == 0 {
			sp.salt.Add(1)
		}
	}
	return false
}

// spreadOut spreads an active pin. Processors contend for it if it is crowded:
// only then may a bucket be spread that could become full meanwhile.
func (p *pin) spreadOut(crowded bool) {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	x := p.word.Load()
	if x == parked {
		return
	}
	if p.slots == nil {
		p.slots = &spread{slots: make([]slot, slotCount())}
	}
	p.slots.full, p.slots.out, p.slots.crowded = p.word.Swap(parked), 0, crowded
	p.spread.Store(p.slots)
	if !p.slots.watch {
		p.slots.watch = true
		time.AfterFunc(watchEvery, p.look)
	}
}

// look ends spreading when processors no longer ask: what they spent is charged
// then, and refills.
func (p *pin) look() {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	sp := p.slots
	if sp.seen == sp.puts {
		p.recall()
	}
	sp.seen = sp.puts
	if sp.watch = p.spread.Load() != nil; sp.watch {
		time.AfterFunc(watchEvery, p.look)
	}
}

// empty takes what is left out of a slot and charges what was spent. It dates
// that at an instant after all of it: what is out counts as there until then, so
// that the bucket has not refilled for it.
func (p *pin) empty(sl *slot) {
	if sl.put == 0 {
		return
	}
	sp, l := p.slots, p.limit
	spent := sl.put - sl.left.Swap(0)
	sp.out -= sl.put
	sl.put = 0
	if spent > 0 {
		sp.full = max(sp.full, l.N*(p.store.Now()-p.store.origin)) + spent*l.P
	}
}

// refill takes cost tokens from a pin that is spread, and more ahead for the
// caller's slot. It reports false if there is not plenty of both.
func (p *pin) refill(sl *slot, cost int64) bool {
	sp, l := p.slots, p.limit
	p.empty(sl)
	t := p.store.Now() - p.store.origin
	if cost > l.Burst || !sp.crowded && !p.far(sp.full, t) || algo.PackedLevel(l, sp.full, t)-(sp.out+p.ahead+cost)*l.P < l.Cap/spreadTo {
		return false
	}
	sp.full, _ = algo.PackedTake(l, sp.full, t, cost)
	sp.puts++
	sl.put = p.ahead
	sp.out += p.ahead
	sl.left.Store(p.ahead)
	return true
}

// recall makes a pin that is spread active again, with all that was not spent.
func (p *pin) recall() {
	if p.spread.Load() == nil {
		return
	}
	for i := range p.slots.slots {
		p.empty(&p.slots.slots[i])
	}
	p.spread.Store(nil)
	p.word.Store(p.slots.full)
}
