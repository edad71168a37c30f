package httplimit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// fakeStore answers every batch with apply.
type fakeStore struct{ apply func(*headgate.Batch) error }

func (f fakeStore) Apply(_ context.Context, b *headgate.Batch) error { return f.apply(b) }
func (f fakeStore) Close() error                                     { return nil }

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

func TestAllowThenRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := inMemory(t, headgate.PerMinute(60).WithBurst(2).WithName("rate"), headgate.QuotaPer(10, headgate.Day).WithName("daily"))
		h := New(lim, Config{Message: `Slow down, "friend"`})(teapot)
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
Content-Type: application/problem+json
Headgate-Limit: rate
Headgate-Reason: rate_limited
Ratelimit-Policy: "rate";q=2;w=2, "daily";q=10;w=86400
Ratelimit: "rate";r=0;t=1, "daily";r=8;t=86400
Retry-After: 1
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

// TestRefusals holds what each kind of refusal answers.
func TestRefusals(t *testing.T) {
	daily := headgate.QuotaPer(10, headgate.Day).WithName("daily")
	wait := headgate.Outcome{RetryAfter: 1500*time.Millisecond + time.Microsecond}
	for _, tt := range []struct {
		limit      headgate.Limit
		outcome    headgate.Outcome
		status     int
		reason     string
		typ        string
		retryAfter string
		retryMS    any
	}{
		{headgate.PerMinute(9), wait, 429, "rate_limited", registered + "quota-exceeded", "2", 1501.0},
		{daily, wait, 429, "quota_exceeded", registered + "quota-exceeded", "2", 1501.0},
		{headgate.InFlight(3, time.Minute), wait, 429, "concurrency_exceeded", registered + "quota-exceeded", "2", 1501.0},
		{headgate.Limit{Algorithm: headgate.Ban, Count: 9, Period: time.Minute, TTL: time.Hour}, wait, 429, "banned", registered + "abnormal-usage-detected", "2", 1501.0},
		{daily, headgate.Outcome{Never: true, Remaining: 3}, 422, "cost_exceeds_limit", "urn:headgate:problem:cost_exceeds_limit", "", nil},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			lim := limiter(t, fakeStore{func(b *headgate.Batch) error {
				b.Outcomes()[0] = tt.outcome
				return nil
			}}, tt.limit.WithName("x"))
			w := serve(New(lim, Config{})(teapot), request())
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatalf("%v in %s", err, w.Body)
			}
			h := w.Header()
			if w.Code != tt.status || body["status"] != float64(tt.status) || h.Get("Headgate-Reason") != tt.reason || h.Get("Headgate-Limit") != "x" ||
				body["type"] != tt.typ || h.Get("Retry-After") != tt.retryAfter || body["retry_after_ms"] != tt.retryMS || body["title"] == "" {
				t.Errorf("got %s", dump(w))
			}
			if got := body["violated-policies"]; len(got.([]any)) != 1 || got.([]any)[0] != "x" {
				t.Errorf("violated-policies: got %v, want x", got)
			}
		})
	}
}

func TestViolatedPoliciesAreThoseThatRefuse(t *testing.T) {
	lim := limiter(t, fakeStore{func(b *headgate.Batch) error {
		o := b.Outcomes()
		o[0], o[1], o[2] = headgate.Outcome{RetryAfter: time.Second}, headgate.Outcome{Allowed: true}, headgate.Outcome{RetryAfter: time.Minute}
		return nil
	}}, headgate.PerSecond(1).WithName("a"), headgate.PerHour(1).WithName("b"), headgate.PerMinute(1).WithName("c"))
	w := serve(New(lim, Config{})(teapot), request())
	if !strings.Contains(w.Body.String(), `"violated-policies":["a","c"]`) || w.Header().Get("Headgate-Limit") != "c" || w.Header().Get("Retry-After") != "60" {
		t.Errorf("got %s", dump(w))
	}
}

func TestStatus(t *testing.T) {
	want := map[headgate.Reason]int{
		headgate.RateLimited: 429, headgate.QuotaExceeded: 429, headgate.ConcurrencyExceeded: 429, headgate.Banned: 429, headgate.WaitTimeout: 429,
		headgate.CostExceedsLimit: 422, headgate.OverloadedReason: 503, headgate.StoreUnavailable: 503,
	}
	for r := range headgate.Reason(headgate.Reasons) {
		if got := Status(r); got != cmp.Or(want[r], 503) {
			t.Errorf("%v: got %d, want %d", r, got, want[r])
		}
	}
}

func TestUndecided(t *testing.T) {
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
				lim := limiter(t, fakeStore{func(*headgate.Batch) error { return tt.err }}, limit)
				var told []error
				w := serve(New(lim, Config{FailOpen: tt.failOpen, OnError: func(_ *http.Request, err error) { told = append(told, err) }})(teapot), request())
				h := w.Header()
				if w.Code != tt.status || h.Get("Headgate-Reason") != tt.reason || h.Get("Headgate-Degraded") != tt.degraded || h.Get("Retry-After") != "" {
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

func TestSkip(t *testing.T) {
	h := New(inMemory(t, headgate.PerHour(1)), Config{Skip: func(r *http.Request) bool { return r.URL.Path == "/health" }})(teapot)
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

func TestCost(t *testing.T) {
	cost := int64(3)
	h := New(inMemory(t, headgate.PerHour(10).WithName("rate")), Config{Cost: func(*http.Request) int64 { return cost }})(teapot)
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

func TestPlans(t *testing.T) {
	store := memstore.New(memstore.Config{})
	free := limiter(t, store, headgate.PerHour(1).WithName("rate"))
	c := Config{
		Plan:  func(r *http.Request) string { return r.Header.Get("Plan") },
		Plans: map[string]*headgate.Limiter{"premium": limiter(t, store, headgate.PerHour(100).WithName("rate"))},
	}
	var told error
	c.OnError = func(_ *http.Request, err error) { told = err }
	c.FailOpen = true
	h := New(free, c)(teapot)
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

func TestKeys(t *testing.T) {
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
		{"ByIP", ByIP(inside), "10.1.2.3:1", []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"ByIP trusts what it was given", ByIP(inside), "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "127.0.0.1"},
		{"ByIP of nobody", ByIP(nil), "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "127.0.0.1"},
		{"malformed X-Forwarded-For", nil, "127.0.0.1:1", []string{"X-Forwarded-For: unknown"}, "400"},
		{"X-Forwarded-For contradicts X-Real-IP", nil, "127.0.0.1:1", []string{"X-Forwarded-For: 1.1.1.1", "X-Real-IP: 198.51.100.7"}, "400"},
		{"malformed RemoteAddr", nil, "pipe", nil, "500"},
		{"ByHeader", ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: k1"}, "k1"},
		{"ByHeader, missing", ByHeader("x-api-key"), "203.0.113.9:1", nil, "400"},
		{"ByHeader, empty", ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: "}, "400"},
		{"ByHeader, twice", ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: k1", "X-Api-Key: k2"}, "400"},
		{"ByHeader, long", ByHeader("x-api-key"), "203.0.113.9:1", []string{"X-Api-Key: " + strings.Repeat("k", 513)}, "400"},
		{"own function, broken", broken, "203.0.113.9:1", nil, "500"},
		{"own function, empty key", empty, "203.0.113.9:1", nil, "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			lim := limiter(t, fakeStore{func(b *headgate.Batch) error {
				got, b.Allowed = b.Charges()[0].Owner, true
				return nil
			}}, headgate.PerMinute(1))
			r := request(tt.fields...)
			r.RemoteAddr = tt.remote
			w := serve(New(lim, Config{Key: tt.key, FailOpen: true})(teapot), r)
			if w.Code != http.StatusTeapot {
				got = map[int]string{400: "400", 500: "500"}[w.Code]
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %s", got, tt.want, dump(w))
			}
		})
	}
}

func TestFaultNamesTheField(t *testing.T) {
	w := serve(New(inMemory(t, headgate.PerMinute(1)), Config{Key: ByHeader("X-Api-Key")})(teapot), request())
	if !strings.Contains(w.Body.String(), "request.headers.X-Api-Key") || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got %s", dump(w))
	}
}

func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers Headers
		want    []string
	}{
		{"default", 0, []string{"Ratelimit", "Ratelimit-Policy"}},
		{"none", HeadersNone, nil},
		{"x-epoch", HeadersXEpoch, []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}},
		{"two", HeadersIETF | HeadersDraft03, []string{"Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy", "Ratelimit-Remaining", "Ratelimit-Reset"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := New(inMemory(t, headgate.PerHour(1)), Config{Headers: tt.headers})(teapot)
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

func TestXEpochIsAnInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(inMemory(t, headgate.PerSecond(10)), Config{Headers: HeadersXEpoch})(teapot)
		<-time.After(time.Microsecond) // the bubble's clock: 2000-01-01 00:00:00.000001
		if got := serve(h, request()).Header().Get("X-RateLimit-Reset"); got != "946684802" {
			t.Errorf("got %s, want 946684802", got)
		}
	})
}

func TestRetryJitter(t *testing.T) {
	lim := limiter(t, fakeStore{func(b *headgate.Batch) error {
		b.Outcomes()[0] = headgate.Outcome{RetryAfter: 1000 * time.Second}
		return nil
	}}, headgate.PerHour(1))
	h := New(lim, Config{RetryJitter: 10})(teapot)
	seen := map[string]bool{}
	for range 50 {
		got := serve(h, request()).Header().Get("Retry-After")
		if len(got) != 4 || got < "1000" || got > "1100" {
			t.Fatalf("got %s, want 1000 to 1100", got)
		}
		seen[got] = true
	}
	if len(seen) < 2 {
		t.Error("50 equal values: no spread")
	}
}

func TestOnLimited(t *testing.T) {
	h := New(inMemory(t, headgate.PerHour(1).WithName("rate")), Config{OnLimited: func(w http.ResponseWriter, r *http.Request, d headgate.Decision) {
		if w.Header().Get("Retry-After") != "3600" || w.Header().Get("Headgate-Limit") != "rate" {
			t.Errorf("fields are not set: %v", w.Header())
		}
		http.Error(w, d.Reason.String(), Status(d.Reason))
	}})(teapot)
	serve(h, request())
	if w := serve(h, request()); w.Code != 429 || w.Body.String() != "rate_limited\n" {
		t.Errorf("got %s", dump(w))
	}
}

func TestStacked(t *testing.T) {
	outer := New(inMemory(t, headgate.PerHour(9).WithName("site")), Config{})
	inner := New(inMemory(t, headgate.PerHour(5).WithName("login")), Config{})
	got := serve(outer(inner(teapot)), request()).Header()["Ratelimit"]
	if want := []string{`"site";r=8;t=3200`, `"login";r=4;t=2880`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNewPanics(t *testing.T) {
	lim := inMemory(t, headgate.PerHour(1))
	plan := func(*http.Request) string { return "" }
	for name, build := range map[string]func(){
		"no limiter":            func() { New(nil, Config{}) },
		"none beside others":    func() { New(lim, Config{Headers: HeadersNone | HeadersIETF}) },
		"unknown style":         func() { New(lim, Config{Headers: 1 << 6}) },
		"jitter below 0":        func() { New(lim, Config{RetryJitter: -1}) },
		"jitter above 100":      func() { New(lim, Config{RetryJitter: 101}) },
		"plans without Plan":    func() { New(lim, Config{Plans: map[string]*headgate.Limiter{"a": lim}}) },
		"plan without limiter":  func() { New(lim, Config{Plan: plan, Plans: map[string]*headgate.Limiter{"a": nil}}) },
		"plan without any name": func() { New(lim, Config{Plan: plan, Plans: map[string]*headgate.Limiter{"": lim}}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			build()
		}()
	}
}
