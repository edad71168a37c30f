package httpgate

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

const benchPolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 1000000000/day}]}
applications:
  default:
    identity: [ip]
    rules: [{name: r, match: {path: "/api/{id}"}, limits: [{name: burst, rate: 1000000/s}]}, {name: refused, match: {path: /refused}, limits: [{name: y, rate: 1/h}]}]
  three:
    identity: [ip]
    default_plan: free
    rules: [{name: r, match: {path: "/api/{id}"}, limits: [{name: burst, rate: 1000000/s}, {name: window, algorithm: sliding_window, rate: 1000000000/h}]}]
`

// sink is a response that a test can use again.
type sink struct {
	header http.Header
	status int
	bytes  int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(p []byte) (int, error) { s.bytes += len(p); return len(p), nil }
func (s *sink) reset()                      { clear(s.header); s.status, s.bytes = 0, 0 }

// clients returns requests from n addresses.
func clients(n int) []*http.Request {
	rs := make([]*http.Request, n)
	for i := range rs {
		rs[i] = request("/api/7?a=b")
		rs[i].RemoteAddr = "203.0." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250) + ":4711"
	}
	return rs
}

var benchmarks = []struct {
	name, application string
	limits            int
}{{"1 limit", "default", 1}, {"3 limits", "three", 3}}

// TestAllocations: a request that passes costs its writer, which no other may have.
func TestAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	const most = 1
	g := open(t, benchPolicy, memstore.New(memstore.Config{}))
	for _, bm := range benchmarks {
		passed := 0
		h := New(g, Config{Application: bm.application})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { passed++; w.WriteHeader(200) }))
		w, r := &sink{header: http.Header{}}, request("/api/7?a=b")
		h.ServeHTTP(w, r)
		passed = 0
		const runs = 1000
		if n := testing.AllocsPerRun(runs, func() { w.reset(); h.ServeHTTP(w, r) }); n > most || passed != runs+1 {
			t.Errorf("%s: %v allocations and %d passed, want %d at most and %d", bm.name, n, passed, most, runs+1)
		}
		if got := strings.Count(w.header.Get("RateLimit"), ";r="); got != bm.limits {
			t.Errorf("%s: RateLimit %q", bm.name, w.header.Get("RateLimit"))
		}
	}
	h := New(g, Config{})(http.NotFoundHandler())
	w, r := &sink{header: http.Header{}}, request("/refused")
	h.ServeHTTP(w, r)
	if n := testing.AllocsPerRun(1000, func() { w.reset(); h.ServeHTTP(w, r) }); n > most+1 || w.status != 429 {
		t.Errorf("refused: %v allocations and status %d, want %d at most", n, w.status, most+1)
	}
}

func BenchmarkServe(b *testing.B) {
	g := open(b, benchPolicy, memstore.New(memstore.Config{}))
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			passed, calls, rs := 0, 0, clients(1000)
			h := New(g, Config{Application: bm.application})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { passed++; w.WriteHeader(200) }))
			w := &sink{header: http.Header{}}
			for _, r := range rs {
				h.ServeHTTP(w, r)
			}
			passed = 0
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				h.ServeHTTP(w, rs[calls%len(rs)])
				calls++
			}
			if passed != calls {
				b.Fatalf("%d of %d passed", passed, calls)
			}
			if got := strings.Count(w.header.Get("RateLimit"), ";r="); got != bm.limits {
				b.Fatalf("RateLimit %q", w.header.Get("RateLimit"))
			}
		})
	}
	b.Run("refused", func(b *testing.B) {
		passed, r := 0, request("/refused")
		g := open(b, benchPolicy, memstore.New(memstore.Config{}))
		h := New(g, Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }))
		w := &sink{header: http.Header{}}
		h.ServeHTTP(w, r)
		b.ReportAllocs()
		for b.Loop() {
			w.reset()
			h.ServeHTTP(w, r)
		}
		if passed != 1 || w.status != 429 {
			b.Fatalf("%d passed, status %d", passed, w.status)
		}
	})
}
