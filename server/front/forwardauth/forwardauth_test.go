package forwardauth

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const testPolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 1000/day}]}
applications:
  web:
    default_plan: free
    trusted_proxies: [127.0.0.0/8]
    identity: [{header: x-api-key}, ip]
    headers: [ietf, x-delta]
    limits: [{name: all, rate: 500/s, per: application}]
    rules:
      - name: api
        match: {path: "/api/{rest...}", methods: [GET, POST]}
        cost: {GET: 1, POST: 2}
        limits: [{name: burst, rate: 2/min}]
        message: Slow down.
      - name: big
        match: {path: /big}
        cost: 50
        limits: [{name: burst, rate: 10/s}]
  edge:
    trusted_proxies: [203.0.113.7/32]
    headers: [none]
    on_no_match: deny
    identity: [ip]
    rules:
      - {name: one, match: {path: /one}, limits: [{name: burst, rate: 1/h}]}
`

// clocked decides everything at one instant, for answers that can be compared.
type clocked struct{ *gate.Gate }

func (c clocked) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = time.Date(2026, 3, 9, 23, 0, 0, 0, time.UTC).UnixMicro()
	err := c.Gate.Take(ctx, r, d)
	d.ID = [2]uint64{1, 2}
	return err
}

func newGate(t *testing.T) clocked {
	t.Helper()
	origin := time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC).UnixMicro()
	g, err := gate.Open(t.Context(), gate.Config{
		Policy: []byte(testPolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: origin}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return clocked{g}
}

func newDoor(t *testing.T) http.Handler {
	t.Helper()
	return mount(Config{Gate: newGate(t)})
}

func mount(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(Pattern, New(c))
	return mux
}

// request is what a proxy sends: method, target, peer and "Name: value" lines.
func request(method, target, peer string, lines ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = peer
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// dump writes an answer as the golden files hold it.
func dump(w *httptest.ResponseRecorder) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", w.Code)
	for _, name := range slices.Sorted(maps.Keys(w.Header())) {
		for _, v := range w.Header()[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, v)
		}
	}
	b.WriteByte('\n')
	b.WriteString(w.Body.String())
	return b.String()
}

const (
	local   = "127.0.0.1:5000"
	apiPath = "/v1/forward-auth/web"
)

func TestGolden(t *testing.T) {
	nginx := []string{"X-Original-Method: GET", "X-Original-URI: /api/x?y=1", "X-Real-IP: 198.51.100.9"}
	tests := []struct {
		name   string
		before int // times the request is sent first
		r      func() *http.Request
	}{
		{"nginx-allowed", 0, func() *http.Request { return request("GET", apiPath+"?deny=403", local, nginx...) }},
		{"nginx-denied", 2, func() *http.Request { return request("GET", apiPath+"?deny=403", local, nginx...) }},
		{"traefik-denied", 1, func() *http.Request {
			return request("GET", apiPath, local, "X-Forwarded-Method: POST", "X-Forwarded-Uri: /api/x", "X-Forwarded-For: 198.51.100.9", "X-Forwarded-Host: example.com")
		}},
		{"unix-peer-allowed", 0, func() *http.Request { return request("POST", apiPath, "@", nginx...) }},
		{"cost-exceeds-limit", 0, func() *http.Request {
			return request("GET", apiPath, local, "X-Original-Method: GET", "X-Original-URI: /big", "X-Real-IP: 198.51.100.9")
		}},
		{"no-rule", 0, func() *http.Request {
			return request("GET", "/v1/forward-auth/edge", "203.0.113.7:1", "X-Original-Method: GET", "X-Original-URI: /", "X-Real-IP: 198.51.100.9")
		}},
		{"no-fields", 1, func() *http.Request {
			return request("GET", "/v1/forward-auth/edge", "203.0.113.7:1", "X-Original-Method: GET", "X-Original-URI: /one", "X-Real-IP: 198.51.100.9")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			door := newDoor(t)
			for range tt.before {
				w := httptest.NewRecorder()
				door.ServeHTTP(w, tt.r())
				if w.Code != http.StatusNoContent {
					t.Fatalf("before: %s", dump(w))
				}
			}
			w := httptest.NewRecorder()
			door.ServeHTTP(w, tt.r())
			file := filepath.Join("testdata", tt.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(dump(w)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := dump(w); got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestRefusedRequests(t *testing.T) {
	ok := []string{"X-Original-Method: GET", "X-Original-URI: /api/x", "X-Real-IP: 198.51.100.9"}
	tests := []struct {
		name   string
		r      *http.Request
		status int
		field  string
		detail string
	}{
		{"no such application", request("GET", "/v1/forward-auth/wbe", local, ok...), 404, "application", `application: "wbe": no such application`},
		{"stranger", request("GET", apiPath, "203.0.113.9:1", ok...), 400, "", "203.0.113.9 is not among the trusted_proxies of application web: what it says of a client is not believed"},
		{"loopback is not trusted here", request("GET", "/v1/forward-auth/edge", "@", ok...), 400, "", "127.0.0.1 is not among the trusted_proxies of application edge: what it says of a client is not believed"},
		{"no method", request("GET", apiPath, local, ok[1:]...), 400, "X-Forwarded-Method", "the proxy sent neither X-Forwarded-Method nor X-Original-Method"},
		{"no path", request("GET", apiPath, local, ok[0]), 400, "X-Forwarded-Uri", "the proxy sent neither X-Forwarded-Uri nor X-Original-Uri"},
		{"client adds the other name", request("GET", apiPath, local, append(ok[:3:3], "X-Forwarded-Uri: /free")...), 400, "X-Forwarded-Uri", "X-Forwarded-Uri and X-Original-Uri differ: the proxy must set one and clear the other"},
		{"client adds the same name", request("GET", apiPath, local, append(ok[:3:3], "X-Original-URI: /free")...), 400, "X-Forwarded-Uri", "X-Forwarded-Uri or X-Original-Uri is there twice: the proxy must replace what clients send"},
		{"client adds a host", request("GET", apiPath, local, append(ok[:3:3], "X-Forwarded-Uri: /api/x", "X-Forwarded-Host: free.example")...), 400, "X-Forwarded-Host", "X-Forwarded-Host beside X-Original-Uri differs from Host: the proxy must set one and clear the other"},
		{"client adds a second host", request("GET", apiPath, local, "X-Forwarded-Method: GET", "X-Forwarded-Uri: /api/x", "X-Forwarded-For: 198.51.100.9", "X-Forwarded-Host: free.example", "X-Forwarded-Host: example.com"), 400, "X-Forwarded-Host", "X-Forwarded-Host is there twice: the proxy must replace what clients send"},
		{"client adds its address", request("GET", apiPath, local, append(ok[:3:3], "X-Forwarded-For: 203.0.113.1")...), 400, "", "X-Forwarded-For and X-Real-IP name different clients: the proxy must set one and clear the other"},
		{"no address", request("GET", apiPath, local, "X-Original-Method: GET", "X-Original-URI: /api/x", "X-Forwarded-For: alice"), 400, "", `X-Forwarded-For: "alice" is no address`},
		{"parameter", request("GET", apiPath+"?dney=403", local, ok...), 400, "deny", "the only parameter is deny, and it is 403 or 429"},
		{"deny", request("GET", apiPath+"?deny=500", local, ok...), 400, "deny", "the only parameter is deny, and it is 403 or 429"},
		{"long subject", request("GET", apiPath, local, append(ok[:3:3], "X-Api-Key: "+strings.Repeat("k", 600))...), 400, "subject", "subject: 600 bytes: at most 512"},
		{"no subject", request("GET", apiPath, local, ok[:2]...), 400, "subject", "subject: is required by limit api/burst"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			newDoor(t).ServeHTTP(w, tt.r)
			var p struct {
				Status        int
				Field, Detail string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err, dump(w))
			}
			if w.Code != tt.status || p.Status != tt.status || p.Field != tt.field || p.Detail != tt.detail {
				t.Errorf("got %d %q %q\nwant %d %q %q", w.Code, p.Field, p.Detail, tt.status, tt.field, tt.detail)
			}
		})
	}
}

// TestClientCannotCauseServerError: nginx turns every refusal but 401 and 403
// into its own 500, and many sites let requests pass on a 500 of the limiter.
func TestClientCannotCauseServerError(t *testing.T) {
	ok := []string{"X-Original-Method: GET", "X-Original-URI: /api/x", "X-Real-IP: 198.51.100.9"}
	for name, line := range map[string]string{
		"long key": "X-Api-Key: " + strings.Repeat("k", 600), "other name": "X-Forwarded-Uri: /free", "address": "X-Forwarded-For: alice",
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			newDoor(t).ServeHTTP(w, request("GET", apiPath+"?deny=403", local, append(ok[:3:3], line)...))
			if w.Code != 403 || w.Header().Get("Headgate-Status") != "400" {
				t.Errorf("%s", dump(w))
			}
		})
	}
}

// hostGate keeps the host that it was asked about.
type hostGate struct {
	brokenGate
	host string
}

func (g *hostGate) Take(_ context.Context, r *gate.Request, _ *gate.Decision) error {
	g.host = r.Host
	return g.err
}

func TestHost(t *testing.T) {
	original := []string{"X-Original-Method: GET", "X-Original-URI: /"}
	forwarded := []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /"}
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"nginx", original, "example.com"},
		{"nginx, the same host twice", append(original[:2:2], "X-Forwarded-Host: Example.com"), "example.com"},
		{"Traefik", append(forwarded[:2:2], "X-Forwarded-Host: shop.example"), "shop.example"},
		{"Caddy without the field", forwarded, "example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &hostGate{brokenGate: brokenGate{errors.New("enough")}}
			mount(Config{Gate: g}).ServeHTTP(httptest.NewRecorder(), request("GET", apiPath, local, tt.lines...))
			if g.host != tt.want {
				t.Errorf("host %q, want %q", g.host, tt.want)
			}
		})
	}
}

// brokenGate cannot decide.
type brokenGate struct{ err error }

func (g brokenGate) Take(context.Context, *gate.Request, *gate.Decision) error { return g.err }

func (g brokenGate) TrustedProxies(string) ([]netip.Prefix, bool) {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true
}

func TestOwnErrorsStayErrors(t *testing.T) {
	r := request("GET", apiPath+"?deny=403", local, "X-Original-Method: GET", "X-Original-URI: /")
	for status, err := range map[int]error{
		500: errors.New("secret"), 503: &headgate.Error{Code: headgate.Unavailable, Err: errors.New("secret")},
	} {
		w := httptest.NewRecorder()
		mount(Config{Gate: brokenGate{err}}).ServeHTTP(w, r)
		if w.Code != status || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("want %d: %s", status, dump(w))
		}
	}
}

func TestStatus(t *testing.T) {
	want := map[headgate.Reason]int{
		headgate.RateLimited: 429, headgate.QuotaExceeded: 429, headgate.ConcurrencyExceeded: 429, headgate.Banned: 429, headgate.WaitTimeout: 429,
		headgate.OverloadedReason: 503, headgate.StoreUnavailable: 503, headgate.CostExceedsLimit: 422, headgate.NoRule: 403,
		headgate.DenyListed: 403, headgate.BatchRefused: 429,
	}
	for r := range headgate.Reason(headgate.Reasons) {
		switch r {
		case headgate.NoReason, headgate.OK, headgate.Skipped, headgate.AllowListed: // no refusals
		default:
			if _, ok := want[r]; !ok {
				t.Errorf("%v is not in the table", r)
			}
		}
	}
	for reason, status := range want {
		if p := refusal(&gate.Decision{Decision: headgate.Decision{Reason: reason}}); p.Status != status {
			t.Errorf("%v: %d, want %d", reason, p.Status, status)
		}
	}
}

// localGate answers as a gate does that has lost its store.
type localGate struct{ brokenGate }

func (localGate) Take(_ context.Context, _ *gate.Request, d *gate.Decision) error {
	*d = gate.Decision{
		Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, BoundBy: -1, RetryAfter: 10 * time.Second},
		Degraded: "local", RetryJitter: 100,
	}
	return nil
}

func TestDegradedAndJitter(t *testing.T) {
	door := mount(Config{Gate: localGate{}})
	waits := map[string]bool{}
	for range 200 {
		w := httptest.NewRecorder()
		door.ServeHTTP(w, request("GET", apiPath, local, "X-Original-Method: GET", "X-Original-URI: /"))
		if got := w.Header().Get("Headgate-Degraded"); got != "local" {
			t.Fatalf("%s", dump(w))
		}
		waits[w.Header().Get("Retry-After")] = true
	}
	// 10 to 20 s; 200 draws of 11 values all but surely show more than 5.
	if len(waits) < 6 || waits["9"] || waits["21"] || waits["0"] {
		t.Errorf("Retry-After %v", slices.Sorted(maps.Keys(waits)))
	}
}

func TestDecided(t *testing.T) {
	var reasons []headgate.Reason
	door := mount(Config{Gate: localGate{}, Decided: func(d *gate.Decision, _ time.Duration) { reasons = append(reasons, d.Reason) }})
	door.ServeHTTP(httptest.NewRecorder(), request("GET", apiPath, local, "X-Original-Method: GET", "X-Original-URI: /"))
	door.ServeHTTP(httptest.NewRecorder(), request("GET", apiPath, local))
	if !slices.Equal(reasons, []headgate.Reason{headgate.RateLimited}) {
		t.Errorf("decisions %v", reasons)
	}
}
