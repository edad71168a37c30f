package httplimit

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
)

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
		rs[i] = request()
		rs[i].RemoteAddr = "203.0." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250) + ":4711"
	}
	return rs
}

func TestAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	passed := 0
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ })
	allow := New(inMemory(t, headgate.PerSecond(1_000_000), headgate.QuotaPer(1_000_000, headgate.Day)), Config{})(next)
	refuse := New(inMemory(t, headgate.PerHour(1)), Config{})(next)
	w, r := &sink{header: http.Header{}}, request()
	refuse.ServeHTTP(w, r)
	passed = 0
	const runs = 1000
	if n := testing.AllocsPerRun(runs, func() { w.reset(); allow.ServeHTTP(w, r) }); n > 1 || passed != runs+1 {
		t.Errorf("allowed: %v allocations and %d passed, want 1 at most and %d", n, passed, runs+1)
	}
	passed = 0
	if n := testing.AllocsPerRun(runs, func() { w.reset(); refuse.ServeHTTP(w, r) }); n > 1 || passed != 0 || w.status != 429 {
		t.Errorf("refused: %v allocations, %d passed, status %d, want 1 at most, 0 and 429", n, passed, w.status)
	}
}

func BenchmarkServe(b *testing.B) {
	for _, bm := range []struct {
		name    string
		limits  []headgate.Limit
		allowed bool
	}{
		{"allowed", []headgate.Limit{headgate.PerSecond(100_000_000)}, true},
		{"allowed/rate+quota", []headgate.Limit{headgate.PerSecond(100_000_000), headgate.QuotaPer(1_000_000_000_000, headgate.Day)}, true},
		{"refused", []headgate.Limit{headgate.QuotaPer(1, headgate.Year)}, false},
	} {
		b.Run(bm.name, func(b *testing.B) {
			passed, calls, rs := 0, 0, clients(1000)
			h := New(inMemory(b, bm.limits...), Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }))
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
			if want := map[bool]int{true: calls, false: 0}[bm.allowed]; passed != want {
				b.Fatalf("%d of %d passed, want %d", passed, calls, want)
			}
			if w.header.Get("RateLimit") == "" {
				b.Fatal("no RateLimit field")
			}
		})
	}
}
