package bench

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// population is a contestant with a million keys and what was asked of it. It
// lives as long as the process: benchmarks of one process share it.
type population struct {
	*contestant
	rule    rule
	ledger  ledger
	allowed int64
	since   time.Time
}

var populations = map[string]*population{}

// populate returns the contestant with a million keys in it.
func populate(b *testing.B, name string, r rule) *population {
	b.Helper()
	id := name + r.every.String()
	if p := populations[id]; p != nil {
		return p
	}
	p := &population{contestant: contestants[name](b, r), rule: r, ledger: filled(), since: time.Now()}
	p.allowed = int64(million - fill(p.worker(), million))
	populations[id] = p
	runtime.GC()
	p.check(b)
	return p
}

// check fails b unless the keys and the allowed calls so far are those that the
// calls so far must have led to.
func (p *population) check(b *testing.B) {
	b.Helper()
	if took := time.Since(p.since); took >= p.rule.every {
		b.Fatalf("tokens came back after %v: too slow for this limit", took)
	}
	want, keys := p.ledger.allowed(p.rule.burst)
	if p.allowed != want {
		b.Fatalf("%d calls were allowed, want %d", p.allowed, want)
	}
	if n := p.keys(); n != keys && n != -1 {
		b.Fatalf("%d keys are kept, want %d", n, keys)
	}
}

// eachPopulation runs f for each contestant with a million keys, and checks
// what it did.
func eachPopulation(b *testing.B, r rule, o func() *order, f func(*testing.B, *population, *order)) {
	for _, name := range perKey {
		b.Run(name, func(b *testing.B) {
			keys, p := o(), populate(b, name, r)
			b.ReportAllocs()
			b.ResetTimer()
			f(b, p, keys)
			b.StopTimer()
			p.check(b)
		})
	}
}

func serially(b *testing.B, p *population, o *order) {
	t, n := p.worker(), 0
	began := cpu(b)
	for b.Loop() {
		if t(o.keys[n%cycle]) {
			p.allowed++
		}
		n++
	}
	reportCPU(b, began, int64(n))
	p.ledger.add(o, 0, n)
}

// stretch is how many calls in order a goroutine fetches at once.
const stretch = 4096

func onAllCores(b *testing.B, p *population, o *order) {
	var next, allowed atomic.Int64
	rest := make(chan [2]int, runtime.GOMAXPROCS(0)) // fetched and not done
	began := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		t := p.worker()
		var a int64
		at, end := 0, 0
		for pb.Next() {
			if at == end {
				end = int(next.Add(stretch))
				at = end - stretch
			}
			if t(o.keys[at%cycle]) {
				a++
			}
			at++
		}
		allowed.Add(a)
		rest <- [2]int{at, end}
	})
	reportCPU(b, began, int64(b.N))
	close(rest)
	done := make([]bool, next.Load())
	for i := range done {
		done[i] = true
	}
	for r := range rest {
		clear(done[r[0]:r[1]])
	}
	n := 0
	for i, d := range done {
		if d {
			p.ledger.add(o, i, i+1)
			n++
		}
	}
	if n != b.N {
		b.Fatalf("%d calls, want %d", n, b.N)
	}
	p.allowed += allowed.Load()
}

func BenchmarkUniform(b *testing.B)         { eachPopulation(b, many, uniform, serially) }
func BenchmarkUniformParallel(b *testing.B) { eachPopulation(b, many, uniform, onAllCores) }
func BenchmarkZipfParallel(b *testing.B)    { eachPopulation(b, many, zipf, onAllCores) }

// BenchmarkZipfDenied is the everyday case: few keys ask for far more than they
// may, and most calls are theirs.
func BenchmarkZipfDenied(b *testing.B) { eachPopulation(b, tight, zipf, onAllCores) }

// BenchmarkNewKey inserts a million keys in an empty limiter. An op is one key.
// max-ms is the longest that 1,024 consecutive inserts took.
func BenchmarkNewKey(b *testing.B) {
	const run = 1024
	keys := make([]string, million)
	for _, name := range perKey {
		b.Run(name, func(b *testing.B) {
			var worst, sum time.Duration
			var rounds int
			for b.Loop() {
				b.StopTimer()
				for i := range keys {
					keys[i] = strings.Clone(key(uint32(i)))
				}
				c := contestants[name](b, many)
				t := c.worker()
				runtime.GC()
				b.StartTimer()
				start := time.Now()
				last := start
				refused := 0
				for i, k := range keys {
					if !t(k) {
						refused++
					}
					if i%run == run-1 {
						now := time.Now()
						worst = max(worst, now.Sub(last))
						last = now
					}
				}
				b.StopTimer()
				sum += last.Sub(start)
				rounds++
				if n := c.keys(); refused != 0 || n != million && n != -1 {
					b.Fatalf("%d refused, %d keys are kept of %d", refused, n, million)
				}
				c.close()
				b.StartTimer()
			}
			b.ReportMetric(float64(sum.Nanoseconds())/float64(rounds*million), "ns/op")
			b.ReportMetric(float64(worst.Nanoseconds())/1e6, "max-ms")
		})
	}
}
