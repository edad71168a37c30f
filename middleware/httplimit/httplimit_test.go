package httplimit

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/refusal"
	"github.com/headgate/headgate/store/memstore"
)

// fakeStore answers every batch with apply.
type fakeStore struct{ apply func(*headgate.Batch) error }

func (f fakeStore) Close() error { return nil }

func (f fakeStore) Apply(_ context.Context, b *headgate.Batch) error {
	clear(b.Outcomes()) // of an earlier batch
	return f.apply(b)
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
		{headgate.PerMinute(9), wait, 429, "rate_limited", refusal.Registered + "quota-exceeded", "2", 1501.0},
		{daily, wait, 429, "quota_exceeded", refusal.Registered + "quota-exceeded", "2", 1501.0},
		{headgate.InFlight(3, time.Minute), wait, 429, "concurrency_exceeded", refusal.Registered + "quota-exceeded", "2", 1501.0},
		{headgate.Limit{Algorithm: headgate.Ban, Count: 9, Period: time.Minute, TTL: time.Hour}, wait, 429, "banned", refusal.Registered + "abnormal-usage-detected", "2", 1501.0},
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
		headgate.BatchRefused: 429, headgate.NoRule: 403, headgate.DenyListed: 403, headgate.CostExceedsLimit: 422, headgate.OverloadedReason: 503, headgate.StoreUnavailable: 503,
	}
	for r := range headgate.Reason(headgate.Reasons) {
		if got := Status(r); got != cmp.Or(want[r], 503) {
			t.Errorf("%v: got %d, want %d", r, got, want[r])
		}
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
