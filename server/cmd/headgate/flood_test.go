package main

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// `make flood` sets these: 10 million keys, and the times are judged.
var (
	floodKeys  = flag.Int("flood.keys", 50_000, "`NUMBER` of random clients in TestFlood")
	floodBytes = flag.Int64("flood.bytes", 2<<20, "`BYTES` that state may take in TestFlood")
	floodTimed = flag.Bool("flood.timed", false, "judge the latency of others in TestFlood")
)

// Three limits a client, so that every kind of state is flooded: a bucket in one
// word, a window in a block, and a quota that nothing ends for a day.
const floodPolicy = `
version: 1
applications:
  web:
    identity: [ip]
    rules:
      - name: page
        match: {path: "/{rest...}"}
        limits:
          - {name: burst, rate: 10/d, burst: 5}
          - {name: window, algorithm: sliding_window, rate: 40/h, slices: 10}
          - {name: daily, algorithm: quota, rate: 40/day}
`

// floodBurst is what the tightest limit gives a client.
const floodBurst = 5

// flood asks a daemon's handler about requests of clients, as a proxy would.
type flood struct {
	t       *testing.T
	handler http.Handler
	req     *http.Request
	from    []string // the value of X-Forwarded-For
	out     answerCode
}

// answerCode is a ResponseWriter that keeps the status.
type answerCode struct {
	header http.Header
	code   int
}

func (a *answerCode) Header() http.Header         { return a.header }
func (a *answerCode) Write(b []byte) (int, error) { return len(b), nil }
func (a *answerCode) WriteHeader(code int)        { a.code = code }

func newFlood(t *testing.T, handler http.Handler) *flood {
	f := &flood{t: t, handler: handler, from: []string{""}}
	f.out.header = make(http.Header)
	f.req = &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/v1/forward-auth/web"}, Host: "127.0.0.1",
		RemoteAddr: "127.0.0.1:40000", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
		Header: http.Header{"X-Original-Method": {"GET"}, "X-Original-Uri": {"/page?q=1"}, "User-Agent": {"flood"}, "Accept": {"*/*"}},
	}
	f.req.Header["X-Forwarded-For"] = f.from
	return f
}

// ask returns whether a client's request passes.
func (f *flood) ask(client string) bool {
	f.from[0] = client
	clear(f.out.header)
	f.out.code = http.StatusOK
	f.handler.ServeHTTP(&f.out, f.req)
	switch f.out.code {
	case http.StatusNoContent:
		return true
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return false
	}
	f.t.Fatalf("client %s: status %d", client, f.out.code)
	return false
}

// client returns a random address of its own /64.
func client(r *rand.Rand) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], 0x2000_0000_0000_0000|r.Uint64()>>3)
	return netip.AddrFrom16(b).String()
}

// TestFlood: random clients in numbers that the memory cannot hold. Memory stays
// within its cap, nobody who has used up his budget gets another one, neither
// those from before the flood nor those from the midst of it, and the metrics
// stay as few as they were.
func TestFlood(t *testing.T) {
	store := memstore.New(memstore.Config{MaxBytes: *floodBytes})
	defer store.Close()
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(floodPolicy), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	h := houseOf(g, store)
	h.journal = nil
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := newFlood(t, h.handlerAt(l))

	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	spent := make([]string, 200) // clients that have used up their budgets
	for i := range spent {
		spent[i] = client(r)
		for n := range floodBurst {
			if !f.ask(spent[i]) {
				t.Fatalf("request %d of client %s is refused", n+1, spent[i])
			}
		}
	}
	series := scrape(f)
	times := make([]time.Duration, 0, 40_000+*floodKeys/4)
	heap := heapAlloc()
	steady := func(keep []time.Duration) []time.Duration {
		for _, c := range spent[:20] {
			began := time.Now()
			passed := f.ask(c)
			keep = append(keep, time.Since(began))
			if passed {
				t.Fatalf("client %s has used up its budget and passes", c)
			}
		}
		return keep
	}
	for range 2_000 {
		times = steady(times)
	}
	before := p99(times)
	times = times[:0]

	peak, taken := heap, make(map[string]int)
	for i := range *floodKeys {
		c := client(r)
		passed := f.ask(c)
		if i%(*floodKeys/1000) == 0 {
			if passed {
				taken[c]++
			}
			for range floodBurst { // from the midst of the flood
				if f.ask(c) {
					taken[c]++
				}
			}
		}
		if i%100 == 0 {
			times = steady(times)
		}
		if i%(*floodKeys/20) == 0 {
			peak = max(peak, heapAlloc())
		}
	}
	during := p99(times)
	peak = max(peak, heapAlloc())
	for c, n := range taken {
		for range floodBurst {
			if f.ask(c) {
				n++
			}
		}
		if n > floodBurst {
			t.Errorf("client %s got %d requests in all, its burst is %d", c, n, floodBurst)
		}
	}
	for _, c := range spent {
		if f.ask(c) {
			t.Errorf("client %s has used up its budget before the flood and passes after it", c)
		}
	}
	st := store.Stats()
	if st.Bytes > st.MaxBytes {
		t.Errorf("state takes %d bytes, the cap is %d", st.Bytes, st.MaxBytes)
	}
	if st.Overflow == 0 {
		t.Errorf("the flood fits in %d bytes: nothing was tried", st.MaxBytes)
	}
	if grown := int64(peak - heap); grown > st.MaxBytes*11/10 {
		t.Errorf("the heap grew by %d bytes, the cap is %d", grown, st.MaxBytes)
	}
	// Refused requests have series that did not exist before.
	if n := scrape(f); n > series+40 {
		t.Errorf("%d series after the flood, %d before it", n, series)
	}
	t.Logf("%d clients, cap %d: state %d bytes, heap +%d, keys %d, shared cells %d, 1000 clients watched, %d of them let in, none above its burst; others' p99 %v before, %v during",
		*floodKeys, st.MaxBytes, st.Bytes, int64(peak-heap), st.Keys, st.Overflow, len(taken), before, during)
	if *floodTimed && during > 2*before {
		t.Errorf("others' p99 is %v during the flood, %v before it", during, before)
	}
}

// heapAlloc is the live heap.
func heapAlloc() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// scrape counts the series that the daemon shows.
func scrape(f *flood) int {
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	n := 0
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	if w.Code != http.StatusOK || n == 0 {
		f.t.Fatalf("metrics: status %d, %d series", w.Code, n)
	}
	return n
}

func p99(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)*99/100]
}
