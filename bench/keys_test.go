package bench

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"unsafe"
)

const (
	// million is the number of keys of the benchmarks with many: a power of
	// two near it.
	million = 1 << 20
	keySize = 16
	// cycle is the number of calls after which an order starts again.
	cycle = 2 * million
)

// key returns the key with a number.
func key(n uint32) string { return fmt.Sprintf("user:%011x", n) }

// order is a sequence of keys as calls bring them.
type order struct {
	numbers []uint32
	keys    []string
}

// newOrder writes the keys of numbers one behind the other.
func newOrder(numbers []uint32) *order {
	o := &order{numbers: numbers, keys: make([]string, len(numbers))}
	text := make([]byte, 0, len(numbers)*keySize)
	for i, n := range numbers {
		text = fmt.Appendf(text, "user:%011x", n)
		last := text[i*keySize : (i+1)*keySize]
		o.keys[i] = unsafe.String(unsafe.SliceData(last), keySize)
	}
	return o
}

// uniform brings every key once in each half, shuffled anew.
var uniform = sync.OnceValue(func() *order {
	r := rand.New(rand.NewPCG(1, 2))
	numbers := make([]uint32, 0, cycle)
	for range cycle / million {
		for _, n := range r.Perm(million) {
			numbers = append(numbers, uint32(n))
		}
	}
	return newOrder(numbers)
})

// zipf brings keys with an exponent of 1.1. Which keys are frequent has nothing
// to do with when they were inserted.
var zipf = sync.OnceValue(func() *order {
	r := rand.New(rand.NewPCG(3, 4))
	name := r.Perm(million)
	z := rand.NewZipf(r, 1.1, 1, million-1)
	numbers := make([]uint32, cycle)
	for i := range numbers {
		numbers[i] = uint32(name[z.Uint64()])
	}
	return newOrder(numbers)
})

// fill takes one token of each of n keys. A key's bytes belong to whoever keeps
// it. It returns how many were refused.
func fill(t take, n int) (refused int) {
	for i := range n {
		if !t(strings.Clone(key(uint32(i)))) {
			refused++
		}
	}
	return refused
}

// ledger counts the calls of each key.
type ledger []uint32

// filled is a ledger of one call to each of the million keys.
func filled() ledger {
	l := make(ledger, million)
	for i := range l {
		l[i] = 1
	}
	return l
}

// add enters the calls at positions from to end of o's endless repetition.
func (l ledger) add(o *order, from, end int) {
	for p := from; p < end; p++ {
		l[o.numbers[p%len(o.numbers)]]++
	}
}

// allowed returns how many of the calls a limit of burst tokens allows in a time
// in which none comes back, and to how many keys there were calls.
func (l ledger) allowed(burst int64) (allowed int64, keys int) {
	for _, n := range l {
		if n > 0 {
			keys++
			allowed += min(int64(n), burst)
		}
	}
	return allowed, keys
}
