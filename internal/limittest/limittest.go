// Package limittest is the suite of HTTP middleware that limits by a headgate.Limiter:
// what clients see must be the same whatever framework stands between.
package limittest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

// Mount returns next behind the middleware with a Config that says what c says, for
// requests of any method and path. next answers through the framework's own writer.
type Mount func(lim *headgate.Limiter, c httplimit.Config, next http.Handler) http.Handler

// Run runs the suite.
func Run(t *testing.T, mount Mount) {
	for name, test := range map[string]func(*testing.T, Mount){
		"AllowThenRefuse":             testAllowThenRefuse,
		"Forms":                       testForms,
		"Undecided":                   testUndecided,
		"Skip":                        testSkip,
		"Cost":                        testCost,
		"Plans":                       testPlans,
		"Keys":                        testKeys,
		"FaultNamesTheField":          testFaultNamesTheField,
		"Headers":                     testHeaders,
		"Labels":                      testLabels,
		"OnLimited":                   testOnLimited,
		"Stacked":                     testStacked,
		"SlotLastsAsLongAsTheHandler": testSlotLastsAsLongAsTheHandler,
		"SlotsAndConnections":         testSlotsAndConnections,
		"ReleaseOutlivesTheClient":    testReleaseOutlivesTheClient,
		"NeverMoreInFlightThanSlots":  testNeverMoreInFlightThanSlots,
		"DelayIsWaitedFor":            testDelayIsWaitedFor,
		"Streams":                     testStreams,
		"Hijack":                      testHijack,
	} {
		t.Run(name, func(t *testing.T) { test(t, mount) })
	}
}

// fakeStore answers every batch with apply.
type fakeStore struct {
	apply func(context.Context, *headgate.Batch) error
}

func (f fakeStore) Close() error { return nil }

func (f fakeStore) Apply(ctx context.Context, b *headgate.Batch) error {
	clear(b.Outcomes()) // of an earlier batch
	return f.apply(ctx, b)
}

func limiter(t testing.TB, s headgate.Store, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	lim, err := headgate.New(s, limits...)
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

func inMemory(t testing.TB, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	return limiter(t, memstore.New(memstore.Config{}), limits...)
}

var teapot = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

// request is from 203.0.113.9 with fields of the form "Name: value".
func request(fields ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "203.0.113.9:4711"
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func dump(w *httptest.ResponseRecorder) string {
	var lines []string
	for name, values := range w.Header() {
		lines = append(lines, name+": "+strings.Join(values, "|"))
	}
	slices.Sort(lines)
	return http.StatusText(w.Code) + "\n" + strings.Join(lines, "\n") + "\n" + w.Body.String()
}

func testAllowThenRefuse(t *testing.T, mount Mount) {
	synctest.Test(t, func(t *testing.T) {
		lim := inMemory(t, headgate.PerMinute(60).WithBurst(2).WithName("rate"), headgate.QuotaPer(10, headgate.Day).WithName("daily"))
		h := mount(lim, httplimit.Config{Message: `Slow down, "friend"`}, teapot)
		const first = `I'm a teapot
Ratelimit-Policy: "rate";q=2;w=2, "daily";q=10;w=86400
Ratelimit: "rate";r=1;t=1, "daily";r=9;t=86400
`
		if got := dump(serve(h, request())); got != first {
			t.Errorf("got  %s\nwant %s", got, first)
		}
		serve(h, request())
		<-time.After(time.Millisecond) // the bubble's clock
		const refused = `Too Many Requests
Cache-Control: no-store
Content-Length: 195
Content-Type: application/problem+json
Headgate-Limit: rate
Headgate-Reason: rate_limited
Ratelimit-Policy: "rate";q=2;w=2, "daily";q=10;w=86400
Ratelimit: "rate";r=0;t=1, "daily";r=8;t=86400
Retry-After: 1
Vary: Accept
X-Content-Type-Options: nosniff
{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,"detail":"Slow down, \"friend\"","violated-policies":["rate"],"retry_after_ms":999}
`
		if got := dump(serve(h, request())); got != refused {
			t.Errorf("got  %s\nwant %s", got, refused)
		}
		<-time.After(999 * time.Millisecond)
		if w := serve(h, request()); w.Code != http.StatusTeapot {
			t.Errorf("refused after the time that Retry-After said: %s", dump(w))
		}
	})
}

// What clients are told has the form that they like best.
func testForms(t *testing.T, mount Mount) {
	for _, tt := range []struct{ accept, media, body string }{
		{"*/*", "application/problem+json", `"detail":"Slow & <steady>"`},
		{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8", "<p>Slow &amp; &lt;steady&gt;</p><p>Try again in 3600 s.</p>"},
		{"text/plain", "text/plain; charset=utf-8", "Slow & <steady>\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := mount(inMemory(t, headgate.PerHour(1)), httplimit.Config{Message: "Slow & <steady>"}, teapot)
			serve(h, request())
			w := serve(h, request("Accept: "+tt.accept))
			body := w.Body.String()
			if tt.media == "application/problem+json" {
				body = strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(body)
			}
			if w.Code != 429 || w.Header().Get("Content-Type") != tt.media || w.Header().Get("Vary") != "Accept" || !strings.Contains(body, tt.body) {
				t.Errorf("%s: got %s", tt.accept, dump(w))
			}
			bad := mount(inMemory(t, headgate.PerHour(1)), httplimit.Config{Key: httplimit.ByHeader("X-Api-Key")}, teapot)
			if w := serve(bad, request("Accept: "+tt.accept)); w.Code != 400 || w.Header().Get("Content-Type") != tt.media || w.Header().Get("Vary") != "Accept" {
				t.Errorf("%s, at fault: got %s", tt.accept, dump(w))
			}
		})
	}
}

func testUndecided(t *testing.T, mount Mount) {
	full := &headgate.Error{Code: headgate.Overloaded, Err: errors.New("no room at db.internal")}
	for _, tt := range []struct {
		name     string
		err      error
		failOpen bool
		status   int
		reason   string
		degraded string
	}{
		{"closed", errors.New("dial db.internal: refused"), false, 503, "store_unavailable", "closed"},
		{"closed, full", full, false, 503, "overloaded", "closed"},
		{"open", errors.New("dial db.internal: refused"), true, http.StatusTeapot, "", "open"},
		{"open, full", full, true, http.StatusTeapot, "", "open"},
		{"a bad request never passes", &headgate.Error{Code: headgate.InvalidRequest, Field: "cost", Err: errors.New("db.internal")}, true, 400, "", ""},
	} {
		for _, limit := range []headgate.Limit{headgate.PerMinute(1), headgate.InFlight(1, time.Minute)} {
			t.Run(tt.name+"/"+limit.Algorithm.String(), func(t *testing.T) {
				lim := limiter(t, fakeStore{func(context.Context, *headgate.Batch) error { return tt.err }}, limit)
				var told []error
				w := serve(mount(lim, httplimit.Config{FailOpen: tt.failOpen, OnError: func(_ *http.Request, err error) { told = append(told, err) }}, teapot), request())
				h := w.Header()
				if w.Code != tt.status || h.Get("Headgate-Reason") != tt.reason || h.Get("Headgate-Degraded") != tt.degraded || (h.Get("Retry-After") == "1") != (tt.status == 503) {
					t.Errorf("got %s", dump(w))
				}
				if strings.Contains(w.Body.String(), "db.internal") {
					t.Errorf("the cause was sent to the client: %s", w.Body)
				}
				if tt.status != http.StatusTeapot && (!json.Valid(w.Body.Bytes()) || h.Get("Content-Type") != "application/problem+json") {
					t.Errorf("no problem: %s", dump(w))
				}
				if len(told) != 1 || !errors.Is(told[0], tt.err) {
					t.Errorf("OnError was told %v, want %v", told, tt.err)
				}
			})
		}
	}
}

func testSkip(t *testing.T, mount Mount) {
	h := mount(inMemory(t, headgate.PerHour(1)), httplimit.Config{Skip: func(r *http.Request) bool { return r.URL.Path == "/health" }}, teapot)
	for range 3 {
		r := request()
		r.URL.Path = "/health"
		if w := serve(h, r); w.Code != http.StatusTeapot || len(w.Header()) != 0 {
			t.Fatalf("got %s", dump(w))
		}
	}
	if a, b := serve(h, request()).Code, serve(h, request()).Code; a != http.StatusTeapot || b != 429 {
		t.Errorf("got %d and %d, want 418 and 429", a, b)
	}
}

func testCost(t *testing.T, mount Mount) {
	cost := int64(3)
	h := mount(inMemory(t, headgate.PerHour(10).WithName("rate")), httplimit.Config{Cost: func(*http.Request) int64 { return cost }}, teapot)
	for _, tt := range []struct {
		cost   int64
		status int
		left   string
	}{
		{3, http.StatusTeapot, `"rate";r=7;`},
		{0, http.StatusTeapot, `"rate";r=7;`},
		{8, 429, `"rate";r=0;`},
		{11, 422, `"rate";r=7;`},
		{-1, 400, ""},
		{headgate.MaxInt + 1, 400, ""},
	} {
		cost = tt.cost
		if w := serve(h, request()); w.Code != tt.status || !strings.HasPrefix(w.Header().Get("RateLimit"), tt.left) {
			t.Errorf("cost %d: got %s", tt.cost, dump(w))
		}
	}
}

func testPlans(t *testing.T, mount Mount) {
	store := memstore.New(memstore.Config{})
	free := limiter(t, store, headgate.PerHour(1).WithName("rate"))
	c := httplimit.Config{
		Plan:  func(r *http.Request) string { return r.Header.Get("Plan") },
		Plans: map[string]*headgate.Limiter{"premium": limiter(t, store, headgate.PerHour(100).WithName("rate"))},
	}
	var told error
	c.OnError = func(_ *http.Request, err error) { told = err }
	c.FailOpen = true
	h := mount(free, c, teapot)
	for _, tt := range []struct {
		plan   string
		status int
		policy string
	}{
		{"", http.StatusTeapot, `"rate";q=1;w=3600`},
		{"", 429, `"rate";q=1;w=3600`},
		{"premum", 500, ""},
	} {
		if w := serve(h, request("Plan: "+tt.plan)); w.Code != tt.status || w.Header().Get("RateLimit-Policy") != tt.policy {
			t.Errorf("plan %q: got %s", tt.plan, dump(w))
		}
	}
	if headgate.CodeOf(told) != headgate.NotFound || !strings.Contains(told.Error(), "premum") {
		t.Errorf("OnError was told %v, want the plan's name", told)
	}
	r := request("Plan: premium")
	r.RemoteAddr = "203.0.113.10:1"
	if w := serve(h, r); w.Code != http.StatusTeapot || w.Header().Get("RateLimit-Policy") != `"rate";q=100;w=3600` {
		t.Errorf("premium: got %s", dump(w))
	}
}

func testKeys(t *testing.T, mount Mount) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	broken := func(*http.Request) (string, error) { return "", errors.New("no database") }
	empty := func(*http.Request) (string, error) { return "", nil }
	for _, tt := range []struct {
		name   string
		key    func(*http.Request) (string, error)
		remote string
		fields []string
		want   string // the key, or the status
	}{
		{"peer", nil, "203.0.113.9:1", nil, "203.0.113.9"},
		{"IPv6 by /64", nil, "[2001:db8:1:2:3::9]:1", nil, "2001:db8:1:2::/64"},
		{"loopback is trusted unless said otherwise", nil, "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "198.51.100.7"},
		{"strangers are not", nil, "203.0.113.9:1", []string{"X-Forwarded-For: 198.51.100.7"}, "203.0.113.9"},
		{"unix socket", nil, "@", []string{"X-Real-IP: 198.51.100.7"}, "198.51.100.7"},
		{"ByIP", httplimit.ByIP(inside), "10.1.2.3:1", []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"ByIP trusts what it was given", httplimit.ByIP(inside), "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "127.0.0.1"},
		{"ByIP of nobody", httplimit.ByIP(nil), "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "127.0.0.1"},
		{"malformed X-Forwarded-For", nil, "127.0.0.1:1", []string{"X-Forwarded-For: unknown"}, "400"},
		{"X-Forwarded-For contradicts X-Real-IP", nil, "127.0.0.1:1", []string{"X-Forwarded-For: 1.1.1.1", "X-Real-IP: 198.51.100.7"}, "400"},
		{"malformed RemoteAddr", nil, "pipe", nil, "500"},
		{"ByHeader", httplimit.ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: k1"}, "k1"},
		{"ByHeader, missing", httplimit.ByHeader("x-api-key"), "203.0.113.9:1", nil, "400"},
		{"ByHeader, empty", httplimit.ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: "}, "400"},
		{"ByHeader, twice", httplimit.ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: k1", "X-Api-Key: k2"}, "400"},
		{"ByHeader, long", httplimit.ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: " + strings.Repeat("k", 513)}, "400"},
		{"own function, broken", broken, "203.0.113.9:1", nil, "500"},
		{"own function, empty key", empty, "203.0.113.9:1", nil, "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
				got, b.Allowed = b.Charges()[0].Owner, true
				return nil
			}}, headgate.PerMinute(1))
			r := request(tt.fields...)
			r.RemoteAddr = tt.remote
			w := serve(mount(lim, httplimit.Config{Key: tt.key, FailOpen: true}, teapot), r)
			if w.Code != http.StatusTeapot {
				got = map[int]string{400: "400", 500: "500"}[w.Code]
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %s", got, tt.want, dump(w))
			}
		})
	}
}

func testFaultNamesTheField(t *testing.T, mount Mount) {
	w := serve(mount(inMemory(t, headgate.PerMinute(1)), httplimit.Config{Key: httplimit.ByHeader("X-Api-Key")}, teapot), request())
	if !strings.Contains(w.Body.String(), "request.headers.X-Api-Key") || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got %s", dump(w))
	}
}

func testHeaders(t *testing.T, mount Mount) {
	for _, tt := range []struct {
		name    string
		headers httplimit.Headers
		want    []string
	}{
		{"default", 0, []string{"Ratelimit", "Ratelimit-Policy"}},
		{"none", httplimit.HeadersNone, nil},
		{"x-epoch", httplimit.HeadersXEpoch, []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}},
		{"two", httplimit.HeadersIETF | httplimit.HeadersDraft03, []string{"Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy", "Ratelimit-Remaining", "Ratelimit-Reset"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := mount(inMemory(t, headgate.PerHour(1)), httplimit.Config{Headers: tt.headers}, teapot)
			var got []string
			for name := range serve(h, request()).Header() {
				got = append(got, name)
			}
			if slices.Sort(got); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if w := serve(h, request()); w.Header().Get("Retry-After") == "" || w.Header().Get("Headgate-Reason") == "" {
				t.Errorf("a refusal without its wait or reason: %s", dump(w))
			}
		})
	}
}

// A limit without a name is told of by what its numbers read as.
func testLabels(t *testing.T, mount Mount) {
	h := mount(inMemory(t, headgate.PerMinute(60).WithBurst(1), headgate.PerMinute(60).WithBurst(2)), httplimit.Config{}, teapot)
	serve(h, request())
	w := serve(h, request())
	if got, want := w.Header().Get("RateLimit-Policy"), `"60-per-minute";q=1;w=1, "60-per-minute-2";q=2;w=2`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if w.Header().Get("Headgate-Limit") != "60-per-minute" || !strings.Contains(w.Body.String(), `"violated-policies":["60-per-minute"]`) {
		t.Errorf("got %s", dump(w))
	}
}

func testOnLimited(t *testing.T, mount Mount) {
	h := mount(inMemory(t, headgate.PerHour(1).WithName("rate")), httplimit.Config{OnLimited: func(w http.ResponseWriter, r *http.Request, d headgate.Decision) {
		if w.Header().Get("Retry-After") != "3600" || w.Header().Get("Headgate-Limit") != "rate" {
			t.Errorf("fields are not set: %v", w.Header())
		}
		http.Error(w, d.Reason.String(), httplimit.Status(d.Reason))
	}}, teapot)
	serve(h, request())
	if w := serve(h, request()); w.Code != 429 || w.Body.String() != "rate_limited\n" {
		t.Errorf("got %s", dump(w))
	}
}

func testStacked(t *testing.T, mount Mount) {
	inner := mount(inMemory(t, headgate.PerHour(5).WithName("login")), httplimit.Config{}, teapot)
	outer := mount(inMemory(t, headgate.PerHour(9).WithName("site")), httplimit.Config{}, inner)
	got := serve(outer, request()).Header()["Ratelimit"]
	if want := []string{`"site";r=8;t=3200`, `"login";r=4;t=2880`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A slot is taken while the handler runs and free again however it ends.
func testSlotLastsAsLongAsTheHandler(t *testing.T, mount Mount) {
	lim := inMemory(t, headgate.InFlight(1, time.Hour), headgate.PerHour(100))
	h := func(next http.Handler) http.Handler { return mount(lim, httplimit.Config{}, next) }
	for _, tt := range []struct {
		name string
		end  func()
	}{
		{"returns", func() {}},
		{"panics", func() { panic(http.ErrAbortHandler) }},
		{"returns again", func() {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ran := false
			ctx, cancel := context.WithCancel(t.Context())
			outer := h(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if second := serve(h(teapot), request()); second.Code != 429 || second.Header().Get("Headgate-Reason") != "concurrency_exceeded" {
					t.Errorf("a second request beside the first: got %s", dump(second))
				}
				ran = true
				cancel() // the client leaves before the handler ends
				tt.end()
			}))
			func() {
				defer func() {
					if got := recover(); (got != nil) != (tt.name == "panics") || got != nil && got != http.ErrAbortHandler {
						t.Errorf("recovered %v", got)
					}
				}()
				serve(outer, request().WithContext(ctx))
			}()
			if !ran {
				t.Error("the first request was refused: a slot is still taken")
			}
		})
	}
}

// However a handler treats its connection, its slot is free when it has ended, and what
// it wants of the connection it gets.
func testSlotsAndConnections(t *testing.T, mount Mount) {
	for name, handler := range map[string]func(http.ResponseWriter, *http.Request) error{
		"panics at once":        func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
		"panics after a header": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(200); panic(http.ErrAbortHandler) },
		"panics within a body": func(w http.ResponseWriter, _ *http.Request) error {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"says 103 first": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, err := io.WriteString(w, "then")
			return err
		},
		"panics after 103": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			panic(http.ErrAbortHandler)
		},
		"asks the controller": func(w http.ResponseWriter, _ *http.Request) error {
			c, later := http.NewResponseController(w), time.Now().Add(time.Minute)
			return errors.Join(c.EnableFullDuplex(), c.SetReadDeadline(later), c.SetWriteDeadline(later), c.Flush())
		},
		"hijacks":            func(w http.ResponseWriter, _ *http.Request) error { return hijack(w) },
		"hijacks and panics": func(w http.ResponseWriter, _ *http.Request) error { hijack(w); panic(http.ErrAbortHandler) },
		"fails to hijack what it has begun": func(w http.ResponseWriter, _ *http.Request) error {
			io.WriteString(w, "begun")
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				conn.Close() // some can, with net/http
			}
			return nil
		},
		"ends its goroutine": func(http.ResponseWriter, *http.Request) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			ran := 0
			limited := mount(inMemory(t, headgate.InFlight(1, time.Hour)), httplimit.Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ran++
				if err := handler(w, r); err != nil {
					t.Error(err)
				}
			}))
			InTurn(t, 2, limited, func(int) {}) // the second one needs the slot of the first
			if ran != 2 {
				t.Errorf("%d of 2 handlers ran", ran)
			}
		})
	}
}

// InTurn sends n requests to h on a server, each on a connection of its own, and each when
// the handler of the one before has ended, of which it tells. Handlers may break their
// connections, and end their goroutines.
func InTurn(t *testing.T, n int, h http.Handler, handled func(i int)) {
	t.Helper()
	ended := make(chan struct{}, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		h.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for i := range n {
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "POST", srv.URL+"/slots/x", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			if res, err := client.Do(r); err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
		<-ended
		leave() // a goroutine that ended itself leaves its connection open
		<-answered
		handled(i)
	}
}

// hijack takes the connection over, and ends it.
func hijack(w http.ResponseWriter) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	_, err = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	return errors.Join(err, conn.Close())
}

func testReleaseOutlivesTheClient(t *testing.T, mount Mount) {
	var released error
	lim := limiter(t, fakeStore{func(ctx context.Context, b *headgate.Batch) error {
		if b.Op == headgate.Release {
			released = ctx.Err()
			return errors.New("lost")
		}
		b.Allowed = true
		return nil
	}}, headgate.InFlight(1, time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	var told error
	c := httplimit.Config{OnError: func(_ *http.Request, err error) { told = err }}
	serve(mount(lim, c, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() })), request().WithContext(ctx))
	if released != nil {
		t.Errorf("released with a context that has ended: %v", released)
	}
	if told == nil || told.Error() != "release: lost" {
		t.Errorf("OnError was told %v, want release: lost", told)
	}
}

func testNeverMoreInFlightThanSlots(t *testing.T, mount Mount) {
	const slots = 3
	var running, most, passed atomic.Int64
	h := mount(inMemory(t, headgate.InFlight(slots, time.Hour)), httplimit.Config{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		passed.Add(1)
		running.Add(-1)
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				serve(h, request())
			}
		})
	}
	wg.Wait()
	if most.Load() > slots || passed.Load() < 200 {
		t.Errorf("%d in flight of %d slots, %d passed", most.Load(), slots, passed.Load())
	}
	for range slots {
		defer func(w *httptest.ResponseRecorder) {
			if w.Code != http.StatusOK {
				t.Errorf("slots were lost: %s", dump(w))
			}
		}(serve(h, request()))
	}
}

func testDelayIsWaitedFor(t *testing.T, mount Mount) {
	synctest.Test(t, func(t *testing.T) {
		lim := inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 4})
		var starts []time.Duration
		begin := time.Now()
		h := mount(lim, httplimit.Config{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { starts = append(starts, time.Since(begin)) }))
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { serve(h, request()) })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		w := serve(h, request().WithContext(ctx)) // would start after 2 s
		if w.Code != 503 || time.Since(begin) != 0 {
			t.Errorf("one that would start after its deadline: got %s after %v", dump(w), time.Since(begin))
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		w = serve(h, request().WithContext(ctx))
		if w.Code != 503 || time.Since(begin) != 500*time.Millisecond {
			t.Errorf("one that is cancelled while it waits: got %s after %v", dump(w), time.Since(begin))
		}
		wg.Wait()
		if len(starts) != 2 || starts[0] != 0 || starts[1] != time.Second {
			t.Errorf("handlers started after %v, want 0s and 1s", starts)
		}
	})
}

// What is flushed reaches the client while the handler runs on, with its slot held.
func testStreams(t *testing.T, mount Mount) {
	goOn := make(chan struct{})
	srv := httptest.NewServer(mount(inMemory(t, headgate.InFlight(1, time.Hour)), httplimit.Config{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "one\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-goOn
		io.WriteString(w, "two\n")
	})))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); err != nil || line != "one\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if second, err := http.Get(srv.URL); err != nil || second.StatusCode != 429 {
		t.Errorf("beside it: got %v, %v", second, err)
	} else {
		second.Body.Close()
	}
	close(goOn)
	if rest, err := io.ReadAll(body); err != nil || string(rest) != "two\n" || resp.Header.Get("RateLimit") == "" {
		t.Errorf("got %q, %v with %v", rest, err, resp.Header)
	}
}

func testHijack(t *testing.T, mount Mount) {
	srv := httptest.NewServer(mount(inMemory(t, headgate.PerHour(1)), httplimit.Config{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\nX-From: hijacker\r\nConnection: close\r\n\r\n")
		conn.Close()
	})))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil || resp.StatusCode != 204 || resp.Header.Get("X-From") != "hijacker" {
		t.Errorf("got %v, %v", resp, err)
	}
}
