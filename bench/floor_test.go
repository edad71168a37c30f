package bench

import (
	"sync/atomic"
	"testing"
	"time"
)

// start is what floors read the monotonic clock against.
var start = time.Now()

// cas is the least that an exact limiter of one key can do: it reads the clock
// and moves one word, the instant at which the bucket is full.
type cas struct {
	full  atomic.Int64
	every int64
	depth int64
}

func (c *cas) take(now int64) bool {
	for {
		old := c.full.Load()
		next := max(old, now) + c.every
		if next-now > c.depth {
			return false
		}
		if c.full.CompareAndSwap(old, next) {
			return true
		}
	}
}

func floor(r rule) *contestant {
	c := &cas{every: int64(r.every), depth: int64(r.window())}
	return shared(func(string) bool { return c.take(int64(time.Since(start))) })
}

// floorBatch reads the clock once for every networkRead decisions.
func floorBatch(r rule) *contestant {
	c := &cas{every: int64(r.every), depth: int64(r.window())}
	f := shared(nil)
	f.worker = func() take {
		var now int64
		var n uint
		return func(string) bool {
			if n%networkRead == 0 {
				now = int64(time.Since(start))
			}
			n++
			return c.take(now)
		}
	}
	return f
}

// BenchmarkFloor is the work of BenchmarkHotKey and its kin with no limiter.
func BenchmarkFloor(b *testing.B) {
	b.Run("clock", func(b *testing.B) {
		var last time.Duration
		for b.Loop() {
			last = time.Since(start)
		}
		if last <= 0 {
			b.Fatal("the clock stands")
		}
	})
	b.Run("cas", func(b *testing.B) {
		n, allowed := serial(b, floor(roomy).worker())
		check(b, n, allowed, n)
	})
	b.Run("cas-batch", func(b *testing.B) {
		n, allowed := serial(b, floorBatch(roomy).worker())
		check(b, n, allowed, n)
	})
	b.Run("cas-parallel", func(b *testing.B) {
		n, allowed := parallel(b, floor(roomy))
		check(b, n, allowed, n)
	})
	b.Run("cas-denial", func(b *testing.B) {
		t := floor(spent).worker()
		if !t(hotKey) {
			b.Fatal("the first call was refused")
		}
		n, allowed := serial(b, t)
		check(b, n, allowed, 0)
	})
}
