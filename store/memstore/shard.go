package memstore

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// ident is 95 bits of a keyed hash: who and which limit.
type ident struct {
	hi uint64
	lo uint32
}

func (a ident) less(b ident) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// entry is a place in the table. version is 0 where it is free, else the serial
// of the limit under which state is kept: the word itself, or with the bit wide
// a reference to the arena.
type entry struct {
	hi      uint64
	lo      uint32
	version uint32
	state   int64
}

// What else a version says.
const (
	wide   = 1 << 31 // state is a reference to the arena
	unsure = 1 << 30 // the journal's mark is not the one ahead of the state
	flags  = wide | unsure
)

const (
	entryBytes = int64(unsafe.Sizeof(entry{}))
	// tail is the number of places behind the last home, so that no search
	// wraps around.
	tail      = 32
	firstSize = 16
	// firstSizes is how many sizes, up to half as large again, tables begin at.
	firstSizes = 16
)

type shard struct {
	mu     sync.Mutex
	closed bool
	number uint32
	last   int64 // latest instant seen
	budget int64 // bytes
	table  []entry
	used   int
	hand   int // where the sweep goes on
	shared int // overflow cells among used
	arena  arena
	recent *version        // of the latest insert
	pins   map[ident]*pin  // keys kept outside of the table
	leases map[ident]int64 // where in the arena the accounts of states are that are leased; nil while none is
	waits  uint            // calls that had to wait for the lock

	// With a journal:
	pending map[ident]*pending
	evicted uint64 // states that left memory though they count, or were reset
	spilled int    // where spilling goes on

	_   [64]byte // what follows is read without the lock
	hot [hots]atomic.Pointer[pin]
	_   [64 - hots*8]byte // keeps neighbours' locks off this cache line
}

// advance returns now, or the latest instant seen if that is later.
func (sh *shard) advance(now int64) int64 {
	sh.last = max(sh.last, now)
	return sh.last
}

// A cell's kind stands in the two lowest bits of its identity. The smaller
// kinds find room where the greater ones do not: the cells of classes are few
// beside those of keys, and there is one last cell per limit.
const (
	sharedBit = 1 << iota // several keys spend from it
	lastBit               // with sharedBit: all keys without room do
)

// own is how many bytes the table and the states of keys' own cells may take.
// The rest is left to the states of overflow cells.
func (sh *shard) own() int64 { return sh.budget - sh.budget/16 }

// room is how many bytes the arena may take for the state of a cell of the kind
// in lo.
func (sh *shard) room(lo uint32) int64 {
	room := sh.own()
	switch {
	case lo&sharedBit == 0:
	case lo&lastBit == 0:
		room = sh.budget - sh.budget/32
	default:
		room = sh.budget
	}
	return room - int64(len(sh.table))*entryBytes
}

// twentieths is how much of the table, in such parts, may be full after a cell
// of the kind in lo came in.
func twentieths(lo uint32) int {
	switch {
	case lo&sharedBit == 0:
		return 16
	case lo&lastBit == 0:
		return 17
	default:
		return 18
	}
}

func (sh *shard) bytes() int64 { return int64(len(sh.table))*entryBytes + sh.arena.bytes() }

// home is where id would stand in a table of n places.
func home(hi uint64, n int) int {
	h, _ := bits.Mul64(hi, uint64(n-tail))
	return int(h)
}

// find returns the place of id, or the one to insert it at.
func (sh *shard) find(id ident) (int, bool) {
	if len(sh.table) == 0 {
		return 0, false
	}
	i := home(id.hi, len(sh.table))
	for ; i < len(sh.table); i++ {
		e := &sh.table[i]
		if e.version == 0 {
			return i, false
		}
		if e.hi >= id.hi {
			if e.hi == id.hi && e.lo == id.lo {
				return i, true
			}
			if id.less(ident{e.hi, e.lo}) {
				return i, false
			}
		}
	}
	return i, false
}

// insert puts e, which is not in the table, in its place. It reports false if
// the table is full and may not grow.
func (sh *shard) insert(e entry) bool {
	i, _ := sh.find(ident{e.hi, e.lo})
	return sh.insertAt(i, e)
}

// insertAt is insert for who knows the place from find.
func (sh *shard) insertAt(i int, e entry) bool {
	if (sh.used+1)*20 > len(sh.table)*twentieths(e.lo) {
		if !sh.grow() {
			return false
		}
		i, _ = sh.find(ident{e.hi, e.lo})
	}
	for {
		free := i
		for free < len(sh.table) && sh.table[free].version != 0 {
			free++
		}
		if free < len(sh.table) {
			copy(sh.table[i+1:free+1], sh.table[i:free])
			sh.table[i] = e
			sh.used++
			return true
		}
		if !sh.grow() { // an unlucky crowd at the end
			return false
		}
		i, _ = sh.find(ident{e.hi, e.lo})
	}
}

// grow makes the table half as large again, or as much as there are bytes for,
// of which an arena in use keeps half.
func (sh *shard) grow() bool {
	most := int((sh.own() - sh.arena.bytes()) / entryBytes)
	size := len(sh.table) + len(sh.table)/2
	if size == 0 {
		// Tables that begin at different sizes do not all grow at once.
		size = firstSize + tail + int(sh.number%firstSizes)*(firstSize+tail)/(2*firstSizes)
	}
	size = min(size, most)
	if size == most && len(sh.arena.words) > 0 {
		size -= (most - len(sh.table)) / 2
	}
	return size >= len(sh.table)+len(sh.table)/32+firstSize && sh.resize(size, most)
}

// resize moves all entries, in order, to a table of size places, or a few more
// if they crowd at the end, but at most most.
func (sh *shard) resize(size, most int) bool {
	for ; size <= most; size += size/16 + 1 {
		table := make([]entry, size)
		at := 0
		for i := range sh.table {
			e := &sh.table[i]
			if e.version == 0 {
				continue
			}
			if at = max(at, home(e.hi, size)); at == size {
				break
			}
			table[at] = *e
			at++
		}
		if at < size {
			sh.table, sh.hand = table, 0
			return true
		}
	}
	return false
}

// shrink gives memory back when one part in slack of the arena, or more, is free.
func (sh *shard) shrink(slack int) {
	if sh.used == 0 {
		sh.table, sh.hand, sh.arena, sh.leases = nil, 0, arena{}, nil
		return
	}
	sh.fit()
	live := 0
	for i := range sh.table {
		if e := &sh.table[i]; e.version&wide != 0 {
			live += blockWords(e.state)
		}
	}
	for _, ref := range sh.leases {
		live += blockWords(ref)
	}
	if most := cap(sh.arena.words); live < most-most/slack {
		sh.compact(live)
	}
}

// fit makes the table smaller when little of it is used.
func (sh *shard) fit() {
	if size := sh.used*3/2 + firstSize + tail; size < len(sh.table)/2 {
		sh.resize(size, len(sh.table))
	}
}

// compact moves all blocks, which are live words long, to an arena of their
// size.
func (sh *shard) compact(live int) {
	to := arena{words: make([]int64, 0, live)}
	for i := range sh.table {
		e := &sh.table[i]
		if e.version&wide == 0 {
			continue
		}
		e.state = to.move(&sh.arena, e.state)
	}
	for id, ref := range sh.leases {
		sh.leases[id] = to.move(&sh.arena, ref)
	}
	sh.arena = to
}

// remove frees place i and what it refers to.
func (sh *shard) remove(i int) {
	sh.dropAccounts(ident{sh.table[i].hi, sh.table[i].lo})
	sh.release(sh.table[i])
	for ; i+1 < len(sh.table); i++ {
		next := &sh.table[i+1]
		if next.version == 0 || home(next.hi, len(sh.table)) == i+1 {
			break
		}
		sh.table[i] = *next
	}
	sh.table[i] = entry{}
	sh.used--
}

// release frees what e refers to, if it does.
func (sh *shard) release(e entry) {
	if e.version&wide != 0 {
		sh.arena.release(e.state)
	}
}

// arena holds the states that need more than one word. A block's first word is
// the instant until which it may not be forgotten whatever its state says. A
// reference is the block's offset and its class.
type arena struct {
	words []int64
	free  [classes]int64 // offset+1 of the first free block, which holds the next
}

// classes of block sizes in words: 2, 3, 4, 6, 8, 12, 16, 24 ... 65536.
const classes = 31

func classWords(c int) int { return (2 + c&1) << (c / 2) }

func classFor(n int) int {
	c := 0
	for classWords(c) < n {
		c++
	}
	return c
}

const classBits = 8

// blockWords is how many words the block of a reference takes.
func blockWords(ref int64) int { return classWords(int(ref & (1<<classBits - 1))) }

func (a *arena) bytes() int64 { return int64(cap(a.words)) * 8 }

// alloc returns a block for n words of state. It reports false if there is none
// and the arena may not take room bytes.
func (a *arena) alloc(n int, room int64) (ref int64, ok bool) {
	c := classFor(n + 1)
	if head := a.free[c]; head != 0 {
		at := head - 1
		a.free[c] = a.words[at]
		return at<<classBits | int64(c), true
	}
	at, size := len(a.words), classWords(c)
	left := int(room/8) - at
	if left < size {
		return 0, false
	}
	if at+size > cap(a.words) {
		// Halves of what is left, or the last blocks would each copy all others.
		want := at + max(size, min(max(64, at/4), left/2))
		words := make([]int64, at, want)
		copy(words, a.words)
		a.words = words
	}
	a.words = a.words[:at+size]
	return int64(at)<<classBits | int64(c), true
}

// fit returns a block for n words of state: ref itself, which may be none, if that
// has the room.
func (a *arena) fit(ref int64, n int, room int64) (int64, bool) {
	if ref != none && n < blockWords(ref) {
		return ref, true
	}
	return a.alloc(n, room)
}

// move copies a block of another arena, which is not larger.
func (a *arena) move(from *arena, ref int64) int64 {
	to, _ := a.alloc(blockWords(ref)-1, from.bytes())
	copy(a.state(to), from.state(ref))
	*a.keep(to) = *from.keep(ref)
	return to
}

func (a *arena) release(ref int64) {
	at, c := ref>>classBits, ref&(1<<classBits-1)
	a.words[at] = a.free[c]
	a.free[c] = at + 1
}

// keep returns the instant before which the block may not be forgotten.
func (a *arena) keep(ref int64) *int64 { return &a.words[ref>>classBits] }

// state returns the block's state as n words.
func (a *arena) state(ref int64) []int64 {
	at := int(ref >> classBits)
	end := at + blockWords(ref)
	return a.words[at+1 : end : end]
}
