package bench

import (
	"sync/atomic"
	"testing"
	"time"
)

const hotKey = "user:00000000001"

var (
	// roomy never refuses a hot key within a benchmark: it is far below its
	// burst, and never full, so every call writes.
	roomy = rule{burst: 1e9, every: time.Microsecond}
	// spent refuses all but the first call for an hour.
	spent = rule{burst: 1, every: time.Hour}
	// many keeps each of a million keys below full for longer than a benchmark
	// takes, and refuses none.
	many = rule{burst: 1e7, every: 100 * time.Second}
	// tight refuses what a key asks beyond 100 calls, and gives nothing back
	// within a benchmark.
	tight = rule{burst: 100, every: time.Hour}
)

// check fails b unless got of n calls were allowed.
func check(b *testing.B, n, got, want int64) {
	b.Helper()
	if got != want {
		b.Fatalf("%d of %d calls were allowed, want %d", got, n, want)
	}
}

func serial(b *testing.B, t take) (n, allowed int64) {
	began := cpu(b)
	for b.Loop() {
		if t(hotKey) {
			allowed++
		}
		n++
	}
	reportCPU(b, began, n)
	return n, allowed
}

func parallel(b *testing.B, c *contestant) (n, allowed int64) {
	var ns, as atomic.Int64
	began := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		t := c.worker()
		var n, a int64
		for pb.Next() {
			if t(hotKey) {
				a++
			}
			n++
		}
		ns.Add(n)
		as.Add(a)
	})
	reportCPU(b, began, ns.Load())
	return ns.Load(), as.Load()
}

func BenchmarkHotKey(b *testing.B) {
	eachOnOneKey(b, everyone, roomy, func(b *testing.B, c *contestant) {
		b.ReportAllocs()
		n, allowed := serial(b, c.worker())
		check(b, n, allowed, n)
		hotOnly(b, c)
	})
}

func BenchmarkHotKeyParallel(b *testing.B) {
	eachOnOneKey(b, everyone, roomy, func(b *testing.B, c *contestant) {
		b.ReportAllocs()
		n, allowed := parallel(b, c)
		check(b, n, allowed, n)
		hotOnly(b, c)
	})
}

func BenchmarkDenial(b *testing.B) {
	eachOnOneKey(b, denying, spent, func(b *testing.B, c *contestant) {
		b.ReportAllocs()
		t := c.worker()
		if !t(hotKey) {
			b.Fatal("the first call was refused")
		}
		n, allowed := serial(b, t)
		check(b, n, allowed, 0)
		hotOnly(b, c)
	})
}

func BenchmarkDenialParallel(b *testing.B) {
	eachOnOneKey(b, denying, spent, func(b *testing.B, c *contestant) {
		b.ReportAllocs()
		if !c.worker()(hotKey) {
			b.Fatal("the first call was refused")
		}
		n, allowed := parallel(b, c)
		check(b, n, allowed, 0)
		hotOnly(b, c)
	})
}

// hotOnly fails b if other keys than one were kept.
func hotOnly(b *testing.B, c *contestant) {
	b.Helper()
	if n := c.keys(); n != 1 && n != -1 {
		b.Fatalf("%d keys are kept, want 1", n)
	}
}
