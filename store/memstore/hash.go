package memstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// hasher hashes owners under a secret, to the same 128 bits in every process that
// knows it. A block of two words m, n is multiplied as (m+a)*(n+b) under secret
// words a, b of its place, and the products are added: two different owners of the
// same length meet with a probability of 2^-64 for each of two such sums that are
// independent (NH of Black et al., "UMAC: Fast and Secure Message Authentication",
// 1999). The length is a block of its own. What comes out is never shown.
type hasher struct {
	keys [hashBlocks][4]uint64
	ends [4]uint64
}

const (
	// hashBlocks is how many blocks of 16 bytes are hashed so. The few owners that
	// are longer are hashed to 32 bytes before.
	hashBlocks = 32
	hashBytes  = 16 * hashBlocks
)

// newHasher derives the words from a secret; random ones from zeros.
func newHasher(secret [32]byte) *hasher {
	if secret == [32]byte{} {
		rand.Read(secret[:])
	}
	h := new(hasher)
	next, buf := uint64(0), []byte(nil)
	word := func() uint64 {
		if len(buf) == 0 {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(secret[:len(secret):len(secret)], next))
			next, buf = next+1, sum[:]
		}
		w := binary.BigEndian.Uint64(buf)
		buf = buf[8:]
		return w
	}
	for i := range h.keys {
		for j := range h.keys[i] {
			h.keys[i][j] = word()
		}
	}
	for i := range h.ends {
		h.ends[i] = word() | 1
	}
	return h
}

// sum returns two words, each with 64 bits of the hash of owner.
func (h *hasher) sum(owner string) (h1, h2 uint64) {
	if len(owner) > hashBytes {
		return h.long(owner)
	}
	var a, b acc
	n := uint64(len(owner))
	a.add(n+h.ends[0], h.ends[1]) // the length; a block that has no words of owner
	b.add(n+h.ends[2], h.ends[3])
	p := unsafe.StringData(owner)
	keys := h.keys[:]
	for i := 0; i+16 <= len(owner); i += 16 {
		m, n := word(p, i), word(p, i+8)
		k := &keys[0]
		a.add(m+k[0], n+k[1])
		b.add(m+k[2], n+k[3])
		keys = keys[1:]
	}
	if rest := len(owner) & 15; rest > 0 {
		var m, n uint64
		switch at := len(owner) - rest; {
		case rest >= 8:
			m, n = word(p, at), word(p, at+rest-8)>>(8*(16-rest))
		case len(owner) >= 8:
			m = word(p, len(owner)-8) >> (8 * (8 - rest))
		default:
			for i := range rest {
				m |= uint64(owner[at+i]) << (8 * i)
			}
		}
		k := &keys[0]
		a.add(m+k[0], n+k[1])
		b.add(m+k[2], n+k[3])
	}
	return a.fold(h.ends[1]), b.fold(h.ends[3])
}

// long hashes an owner that has more blocks than there are keys.
func (h *hasher) long(owner string) (h1, h2 uint64) {
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(owner), len(owner)))
	h1, h2 = h.sum(string(sum[:]))
	return ^h1, ^h2 // apart from an owner that is these 32 bytes
}

// word returns the 8 bytes at place i, which are there.
func word(p *byte, i int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(p), i))[:])
}

// acc is a sum of products modulo 2^128.
type acc struct{ hi, lo uint64 }

func (a *acc) add(m, n uint64) {
	hi, lo := bits.Mul64(m, n)
	var carry uint64
	a.lo, carry = bits.Add64(a.lo, lo, 0)
	a.hi, _ = bits.Add64(a.hi, hi, carry)
}

// fold makes one word of the sum, in which every bit of the sum changes half of the
// bits (the finaliser is that of MurmurHash3).
func (a *acc) fold(odd uint64) uint64 {
	x := a.lo + a.hi*odd
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
