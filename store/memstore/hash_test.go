package memstore

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/headgate/headgate/internal/racetest"
)

// The hash of an owner depends on every byte of it, on its length and on the secret,
// and on nothing else.
func TestHash(t *testing.T) {
	racetest.Alone(t)
	h := newHasher([32]byte{1})
	seen := make(map[[2]uint64]string)
	add := func(owner string) {
		t.Helper()
		a, b := h.sum(owner)
		if other, ok := seen[[2]uint64{a, b}]; ok && other != owner {
			t.Fatalf("%q and %q meet", other, owner)
		}
		seen[[2]uint64{a, b}] = owner
		if c, d := newHasher([32]byte{1}).sum(strings.Clone(owner)); a != c || b != d {
			t.Fatalf("%q: not the same under the same secret", owner)
		}
		if c, d := newHasher([32]byte{2}).sum(owner); a == c || b == d {
			t.Fatalf("%q: the same under another secret", owner)
		}
	}
	for n := range 70 {
		zeros := make([]byte, n)
		add(string(zeros))
		for i := range zeros {
			for bit := range 8 {
				zeros[i] ^= 1 << bit
				add(string(zeros))
				zeros[i] ^= 1 << bit
			}
		}
	}
	for _, n := range []int{hashBytes - 1, hashBytes, hashBytes + 1, 4 * hashBytes} {
		add(strings.Repeat("x", n))
		add(strings.Repeat("x", n-1) + "y")
	}
}

// Each bit of an owner changes about half of the bits of both words.
func TestHashSpreads(t *testing.T) {
	h := newHasher([32]byte{3})
	r := rand.New(rand.NewPCG(1, 1))
	var ones [64]int
	const runs = 20_000
	for range runs {
		owner := make([]byte, 1+r.IntN(40))
		for i := range owner {
			owner[i] = byte(r.Uint32())
		}
		a, b := h.sum(string(owner))
		owner[r.IntN(len(owner))] ^= 1 << r.IntN(8)
		c, d := h.sum(string(owner))
		for bit := range ones {
			ones[bit] += int((a^c)>>bit&1) + int((b^d)>>bit&1)
		}
	}
	for bit, n := range ones {
		if n < runs*95/100 || n > runs*105/100 {
			t.Errorf("bit %d changes %d times of %d", bit, n, 2*runs)
		}
	}
}
