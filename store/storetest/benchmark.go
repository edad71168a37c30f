package storetest

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// benchKeys is the number of keys of the benchmarks over many keys.
const benchKeys = 1 << 20

// Benchmark measures stores that open returns. Every benchmark checks what it
// has measured: the keys that were charged, and what passed and what did not.
func Benchmark(b *testing.B, open func(b *testing.B) headgate.Store, c Capabilities) {
	plenty := headgate.Limit{Count: 1_000_000_000, Period: time.Second, Burst: 1_000_000_000}
	// A token in half a minute: known keys stay known.
	lasting := headgate.Per(100_000_000, headgate.MaxPeriod)
	bench := func(name string, run func(b *testing.B, w *load)) {
		b.Run(name, func(b *testing.B) { run(b, &load{store: open(b), c: c}) })
	}
	bench("hot key", func(b *testing.B, w *load) {
		w.limits = []*headgate.Prepared{prepare(b, plenty)}
		w.serial(b, one, allowed)
	})
	bench("hot key parallel", func(b *testing.B, w *load) {
		w.limits = []*headgate.Prepared{prepare(b, plenty)}
		w.parallel(b, one, allowed)
	})
	bench("denials", func(b *testing.B, w *load) {
		w.limits = []*headgate.Prepared{slow(b, headgate.TokenBucket, "bucket", 1)}
		w.warm(b, 1)
		w.serial(b, one, denied)
	})
	bench("three limits of a subject", func(b *testing.B, w *load) {
		w.limits = []*headgate.Prepared{
			prepare(b, lasting),
			prepare(b, headgate.Sliding(headgate.MaxInt, time.Minute)),
			prepare(b, headgate.QuotaPer(headgate.MaxInt, headgate.Year)),
		}
		w.warm(b, 1000)
		w.serial(b, uniform(1000), allowed)
	})
	bench("new keys", func(b *testing.B, w *load) {
		w.limits = []*headgate.Prepared{prepare(b, lasting)}
		w.serial(b, func(int) func() string {
			n := 0
			return func() string { n++; return strconv.Itoa(n) } // the allocation is this one
		}, allowed)
		w.footprint(b)
	})
	for _, spread := range []struct {
		name string
		keys func(worker int) func() string
	}{{"uniform", uniform(benchKeys)}, {"Zipf", zipf}} {
		for _, run := range []struct {
			name string
			run  func(w *load, b *testing.B, keys func(int) func() string, want verdict)
		}{{"", (*load).serial}, {" parallel", (*load).parallel}} {
			bench("1Mi keys "+spread.name+run.name, func(b *testing.B, w *load) {
				w.limits = []*headgate.Prepared{prepare(b, lasting)}
				w.warm(b, benchKeys)
				run.run(w, b, spread.keys, allowed)
				w.footprint(b)
			})
		}
	}
}

// verdict is what a benchmark expects of its batches.
type verdict uint8

const (
	allowed verdict = iota
	denied
)

// load is what a benchmark runs on.
type load struct {
	store  headgate.Store
	c      Capabilities
	limits []*headgate.Prepared
}

// names lists the known keys, made once.
var names = sync.OnceValue(func() []string {
	names := make([]string, benchKeys)
	for i := range names {
		names[i] = "key-" + strconv.Itoa(i)
	}
	return names
})

func one(int) func() string { return func() string { return "key-0" } }

// uniform names n keys at random, each as often as any other.
func uniform(n int) func(worker int) func() string {
	return func(worker int) func() string {
		names := names()
		rng := rand.New(rand.NewPCG(uint64(worker), 1))
		return func() string { return names[rng.IntN(n)] }
	}
}

// zipf names keys of which a few come all the time.
func zipf(worker int) func() string {
	names := names()
	z := rand.NewZipf(rand.New(rand.NewPCG(uint64(worker), 2)), 1.1, 1, benchKeys-1)
	return func() string { return names[z.Uint64()] }
}

// take charges 1 of every limit to key.
func (w *load) take(b *headgate.Batch, key string) (bool, error) {
	b.Reset(headgate.Take)
	for _, l := range w.limits {
		if _, err := b.Add(headgate.Charge{Limit: l, Owner: key, Cost: 1}); err != nil {
			return false, err
		}
	}
	err := w.store.Apply(context.Background(), b)
	return b.Allowed, err
}

// warm makes n keys known.
func (w *load) warm(b *testing.B, n int) {
	b.Helper()
	var batch headgate.Batch
	names := names()
	for _, key := range names[:n] {
		if ok, err := w.take(&batch, key); err != nil || !ok {
			b.Fatalf("%s: allowed %v, %v", key, ok, err)
		}
	}
	if w.c.Footprint != nil {
		if keys, _ := w.c.Footprint(w.store); keys != int64(n*len(w.limits)) {
			b.Fatalf("%d keys are known, want %d", keys, n*len(w.limits))
		}
	}
}

func (w *load) serial(b *testing.B, keys func(worker int) func() string, want verdict) {
	b.Helper()
	b.ReportAllocs()
	var batch headgate.Batch
	next := keys(0)
	var asked, passed int64
	for b.Loop() {
		ok, err := w.take(&batch, next())
		if err != nil {
			b.Fatal(err)
		}
		asked++
		if ok {
			passed++
		}
	}
	w.verify(b, asked, passed, want)
}

func (w *load) parallel(b *testing.B, keys func(worker int) func() string, want verdict) {
	b.Helper()
	b.ReportAllocs()
	var workers, asked, passed atomic.Int64
	names() // before the clock runs
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var batch headgate.Batch
		next := keys(int(workers.Add(1)))
		var n, ok int64
		for pb.Next() {
			allowed, err := w.take(&batch, next())
			if err != nil {
				b.Error(err)
				return
			}
			n++
			if allowed {
				ok++
			}
		}
		asked.Add(n)
		passed.Add(ok)
	})
	w.verify(b, asked.Load(), passed.Load(), want)
}

// verify fails a benchmark that has measured something else.
func (w *load) verify(b *testing.B, asked, passed int64, want verdict) {
	b.Helper()
	if asked != int64(b.N) {
		b.Fatalf("%d batches in %d rounds", asked, b.N)
	}
	if share := float64(passed) / float64(asked); want == allowed && share != 1 || want == denied && share != 0 {
		b.Fatalf("%.3f of the batches passed", share)
	}
}

// footprint reports bytes a key.
func (w *load) footprint(b *testing.B) {
	b.Helper()
	if w.c.Footprint == nil {
		return
	}
	if keys, bytes := w.c.Footprint(w.store); keys > 0 {
		b.ReportMetric(float64(bytes)/float64(keys), "B/key")
	}
}
