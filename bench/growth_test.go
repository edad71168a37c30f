package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// ruleCounts are the sizes of policy of BenchmarkRules.
var ruleCounts = []int{10, 1_000, 10_000}

// perApplication is how many rules an application may have.
const perApplication = 2_000

// rules is a policy of n rules for paths of three segments, every other one with
// a variable in it.
func rules(n int) string {
	var b strings.Builder
	b.WriteString("version: 1\napplications:\n")
	for i := range n {
		if i%perApplication == 0 {
			fmt.Fprintf(&b, "  shop%d:\n    rules:\n", i/perApplication)
		}
		pattern := fmt.Sprintf("/v1/things%d/all", i)
		if i%2 == 1 {
			pattern = fmt.Sprintf("/v1/things%d/{id}", i)
		}
		fmt.Fprintf(&b, "      - name: r%d\n        match: {path: %q, methods: [GET]}\n        limits: [{name: burst, rate: 1/10s, burst: 100000000}]\n", i, pattern)
	}
	return b.String()
}

// BenchmarkRules decides requests for paths all over a policy of so many rules.
func BenchmarkRules(b *testing.B) {
	const paths = 64
	for _, n := range ruleCounts {
		b.Run(fmt.Sprintf("rules%d", n), func(b *testing.B) {
			g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(rules(n)), Store: memstore.New(memstore.Config{})})
			if err != nil {
				b.Fatal(err)
			}
			var requests [paths]gate.Request
			var names [paths]string
			for i := range requests {
				at := (n - 1) - i*n/paths
				requests[i] = gate.Request{Application: fmt.Sprintf("shop%d", at/perApplication), Method: "GET", Path: fmt.Sprintf("/v1/things%d/all", at), Subject: hotKey}
				names[i] = fmt.Sprintf("r%d", at)
			}
			ctx, calls, wrong := context.Background(), int64(0), 0
			var d gate.Decision
			b.ReportAllocs()
			began := cpu(b)
			for b.Loop() {
				i := calls % paths
				if err := g.Take(ctx, &requests[i], &d); err != nil || !d.Allowed || d.Rule != names[i] {
					wrong++
				}
				calls++
			}
			reportCPU(b, began, calls)
			if wrong != 0 {
				b.Fatalf("%d of %d wrong, the last one: %+v", wrong, calls, d.Decision)
			}
		})
	}
}

// keyCounts are the numbers of keys of BenchmarkKeys.
var keyCounts = []struct {
	name string
	n    int
}{{"1k", 1_000}, {"1M", 1_000_000}, {"10M", 10_000_000}}

// someOf is an order in which cycle calls bring keys below n, uniformly.
func someOf(n int) *order {
	r := rand.New(rand.NewPCG(uint64(n), 5))
	numbers := make([]uint32, cycle)
	for i := range numbers {
		numbers[i] = uint32(r.IntN(n))
	}
	return newOrder(numbers)
}

// BenchmarkKeys decides for keys that come uniformly out of so many, beside a
// floor that hashes the key, reads the clock, and reads and writes one place of
// a table as large: what the machine's caches make of it.
func BenchmarkKeys(b *testing.B) {
	for _, c := range keyCounts {
		b.Run("headgate-"+c.name, func(b *testing.B) {
			s := memstore.New(memstore.Config{MaxBytes: 1 << 30})
			defer s.Close()
			l, err := headgate.New(s, headgate.Per(1, many.every).WithBurst(many.burst))
			if err != nil {
				b.Fatal(err)
			}
			ctx := context.Background()
			fillFast(c.n, func(key string) {
				if d, err := l.Take(ctx, key, 1); err != nil || !d.Allowed {
					b.Fatal(d, err)
				}
			})
			o, calls, allowed := someOf(c.n), int64(0), int64(0)
			runtime.GC()
			b.ReportAllocs()
			began := cpu(b)
			for b.Loop() {
				if d, err := l.Take(ctx, o.keys[calls%cycle], 1); err == nil && d.Allowed {
					allowed++
				}
				calls++
			}
			reportCPU(b, began, calls)
			check(b, calls, allowed, calls)
			if st := s.Stats(); st.Keys != int64(c.n) || st.Overflow != 0 {
				b.Fatalf("%+v: want %d keys", st, c.n)
			}
		})
		b.Run("floor-"+c.name, func(b *testing.B) {
			type place struct{ a, b, full int64 } // as large as Headgate's
			table, seed := make([]place, c.n*4/3), maphash.MakeSeed()
			for i := range table {
				table[i].a = 1
			}
			o, calls, sum := someOf(c.n), int64(0), int64(0)
			runtime.GC()
			began := cpu(b)
			for b.Loop() {
				at, _ := bits.Mul64(maphash.String(seed, o.keys[calls%cycle]), uint64(len(table)))
				p := &table[at]
				p.full = max(p.full, int64(time.Since(start))) + 1
				sum += p.a
				calls++
			}
			reportCPU(b, began, calls)
			check(b, calls, sum, calls)
		})
	}
}

// fillFast calls f with n keys, whose bytes are only valid during the call.
func fillFast(n int, f func(key string)) {
	const digits = "0123456789abcdef"
	text := []byte(key(0))
	for i := range n {
		var be [8]byte
		binary.BigEndian.PutUint64(be[:], uint64(i))
		for j, c := range be[4:] {
			text[8+2*j], text[9+2*j] = digits[c>>4], digits[c&15]
		}
		f(unsafe.String(unsafe.SliceData(text), len(text)))
	}
}
