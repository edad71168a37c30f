package bench

import (
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkBytesPerKey reports what a million keys add to the heap, those bytes
// of the keys included that the limiter keeps.
func BenchmarkBytesPerKey(b *testing.B) {
	for _, name := range distinct {
		b.Run(name, func(b *testing.B) {
			before := heap()
			var c *contestant
			for b.Loop() {
				if c == nil {
					c = contestants[name](b, many)
				}
				if refused := fill(c.worker(), million); refused != 0 {
					b.Fatalf("%d refused", refused)
				}
			}
			defer c.close()
			b.ReportMetric(float64(heap()-before)/million, "B/key")
			if n := c.keys(); n != million && n != -1 {
				b.Fatalf("%d keys are kept, want %d", n, million)
			}
		})
	}
}

// BenchmarkStatsBytes checks that what the memory store says it holds is what
// it adds to the heap.
func BenchmarkStatsBytes(b *testing.B) {
	s := memstore.New(memstore.Config{})
	l, err := headgate.New(s, headgate.Per(1, many.every).WithBurst(many.burst))
	if err != nil {
		b.Fatal(err)
	}
	before := heap()
	for b.Loop() {
		for i := range uint32(million) {
			if d, err := l.Take(b.Context(), strings.Clone(key(i)), 1); err != nil || !d.Allowed {
				b.Fatal(d, err)
			}
		}
	}
	grown, st := float64(heap()-before), s.Stats()
	if st.Keys != million || st.Overflow != 0 {
		b.Fatalf("%+v", st)
	}
	b.ReportMetric(float64(st.Bytes)/million, "B/key")
	if said := float64(st.Bytes); grown > said*1.1 || grown < said*0.9 {
		b.Fatalf("the store says it holds %.0f bytes, the heap grew by %.0f", said, grown)
	}
}

// fiveMillion is the number of keys of BenchmarkGC.
const fiveMillion = 5_000_000

// BenchmarkGC reports the CPU and the time of one full garbage collection with
// five million keys, and what each adds to the heap. It takes up to two
// gigabytes.
func BenchmarkGC(b *testing.B) {
	for _, name := range distinct {
		b.Run(name, func(b *testing.B) {
			before := heap()
			floor := collect(b)
			c := contestants[name](b, many)
			defer c.close()
			if refused := fill(c.worker(), fiveMillion); refused != 0 {
				b.Fatalf("%d refused", refused)
			}
			perKey := float64(heap()-before) / fiveMillion
			var cpu float64
			var n int
			for b.Loop() {
				cpu += collect(b)
				n++
			}
			b.ReportMetric(max(0, cpu/float64(n)-floor)*1e3, "cpu-ms")
			b.ReportMetric(perKey, "B/key")
			if n := c.keys(); n != fiveMillion && n != -1 {
				b.Fatalf("%d keys are kept, want %d", n, fiveMillion)
			}
		})
	}
}

// collect collects garbage and returns the seconds of CPU that it took, without
// those that the runtime borrowed from idle processors.
func collect(b *testing.B) float64 {
	b.Helper()
	samples := []metrics.Sample{
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
	}
	read := func() float64 {
		metrics.Read(samples)
		return samples[0].Value.Float64() - samples[1].Value.Float64()
	}
	before := read()
	runtime.GC()
	return read() - before
}
