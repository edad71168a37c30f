package algo_test

import (
	"math/rand/v2"
	"testing"

	"github.com/headgate/headgate"
)

// bytesSource turns a fuzzer's bytes into random numbers: each two of them
// stand in all parts of one number, so that they decide a choice whichever
// bits of it are looked at.
type bytesSource struct {
	data []byte
	rest rand.PCG
}

func (s *bytesSource) Uint64() uint64 {
	if len(s.data) < 2 {
		s.data = nil
		return s.rest.Uint64()
	}
	n := uint64(s.data[0])<<8 | uint64(s.data[1])
	s.data = s.data[2:]
	return n * 0x0001_0001_0001_0001
}

// FuzzApply reads a limit and operations out of bytes and holds algo against
// the reference.
func FuzzApply(f *testing.F) {
	r := rand.New(rand.NewPCG(4, 4))
	for a := headgate.TokenBucket; a <= headgate.Ban; a++ {
		for range 4 {
			data := make([]byte, 600)
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			f.Add(uint8(a), data)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		source := &bytesSource{data: data}
		s := newSession(rand.New(source), headgate.Algorithm(kind%8))
		for len(source.data) > 0 && s.steps < sessionOps && s.live() {
			if err := s.step(); err != nil {
				t.Fatalf("%v\n%s", err, s.history())
			}
		}
	})
}
