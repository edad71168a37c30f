package httpgate

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
)

const testPolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 1000/day}]}
  pro: {limits: [{name: daily, algorithm: quota, rate: 5000/day}]}
applications:
  default:
    default_plan: free
    trusted_proxies: [10.0.0.0/8]
    identity: [{header: x-api-key}, ip]
    deny: ["subject:evil", 198.51.100.66]
    rules:
      - {name: api, match: {path: "/api/{rest...}"}, limits: [{name: burst, rate: 2/min}]}
      - {name: big, match: {path: /big}, cost: 50, limits: [{name: burst, rate: 10/s}]}
      - {name: polite, match: {path: /polite}, limits: [{name: burst, rate: 1/h}], message: "Slow <b>down</b>,\r\nplease."}
      - {name: month, match: {path: /month}, limits: [{name: quota, algorithm: quota, rate: 1/month}]}
      - {name: slow, match: {path: /slow}, limits: [{name: burst, rate: 1/min}], max_wait: 5s}
      - {name: ban, match: {path: /ban}, limits: [{name: burst, rate: 1/h}], ban: {after: 1, within: 1m, for: 1h}}
      - {name: slots, match: {path: /slots}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 30s}]}
      - {name: leaky, match: {path: /leaky}, limits: [{name: drip, algorithm: leaky_bucket, rate: 1/s, burst: 3}]}
      - {name: send, match: {operation: send}, limits: [{name: burst, rate: 1/h}]}
      - {name: words, match: {path: /words}, limits: [{name: tokens, rate: 100/h, unit: tokens}]}
  strict:
    on_no_match: deny
    headers: [x-delta]
    trusted_proxies: [203.0.113.0/24, 10.0.0.0/8]
    identity: [{header: x-api-key}]
    rules: [{name: one, match: {path: /one}, limits: [{name: burst, rate: 1/h}]}]
`

func open(t testing.TB, text string, s headgate.Store) *gate.Gate {
	t.Helper()
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(text), Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func inMemory(t testing.TB) *gate.Gate {
	t.Helper()
	return open(t, testPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
}

var teapot = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

// request is from 203.0.113.9 with fields of the form "Name: value"; through a trusted
// proxy where they say who asks.
func request(target string, fields ...string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	r.RemoteAddr = "203.0.113.9:4711"
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
		if name == "X-Api-Key" {
			r.RemoteAddr = "10.0.0.1:4711"
			r.Header.Set("X-Forwarded-For", "203.0.113.9")
		}
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
	for name, values := range w.Result().Header {
		if name == "Headgate-Decision-Id" {
			continue
		}
		lines = append(lines, name+": "+strings.Join(values, "|"))
	}
	slices.Sort(lines)
	return http.StatusText(w.Code) + "\n" + strings.Join(lines, "\n") + "\n" + w.Body.String()
}

// engine answers with functions; nil ones are those of the gate.
type engine struct {
	*gate.Gate
	take           func(context.Context, *gate.Request, *gate.Decision) error
	renew, release func(context.Context, *gate.Claim, *gate.Decision) error
}

func (e engine) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	if e.take == nil {
		return e.Gate.Take(ctx, r, d)
	}
	return e.take(ctx, r, d)
}

func (e engine) Renew(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	if e.renew == nil {
		return e.Gate.Renew(ctx, c, d)
	}
	return e.renew(ctx, c, d)
}

func (e engine) Release(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	if e.release == nil {
		return e.Gate.Release(ctx, c, d)
	}
	return e.release(ctx, c, d)
}

func TestAllowThenRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(inMemory(t), Config{})(teapot)
		const first = `I'm a teapot
Headgate-Limit: api/burst
Headgate-Reason: ok
Ratelimit-Policy: "api/burst";q=2;w=60, "plan/daily";q=1000;w=86400
Ratelimit: "api/burst";r=1;t=30, "plan/daily";r=999;t=86400
`
		if got := dump(serve(h, request("/api/x?y=1"))); got != first {
			t.Errorf("got  %s\nwant %s", got, first)
		}
		serve(h, request("/api/x"))
		<-time.After(time.Millisecond) // the bubble's clock
		const refused = `Too Many Requests
Cache-Control: no-store
Content-Length: 217
Content-Type: application/problem+json
Headgate-Limit: api/burst
Headgate-Reason: rate_limited
Ratelimit-Policy: "api/burst";q=2;w=60, "plan/daily";q=1000;w=86400
Ratelimit: "api/burst";r=0;t=30, "plan/daily";r=998;t=86400
Retry-After: 30
Vary: Accept
X-Content-Type-Options: nosniff
{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,"detail":"too many requests; try again in 30 s","violated-policies":["api/burst"],"retry_after_ms":29999}
`
		w := serve(h, request("/%61pi//x")) // another spelling
		if got := dump(w); got != refused {
			t.Errorf("got  %s\nwant %s", got, refused)
		}
		if id := w.Header().Get("Headgate-Decision-Id"); len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
			t.Errorf("decision %q", id)
		}
		<-time.After(29999 * time.Millisecond)
		if w := serve(h, request("/api/x")); w.Code != http.StatusTeapot {
			t.Errorf("refused after the time that Retry-After said: %s", dump(w))
		}
	})
}

// TestRefusals holds what each kind of refusal answers, in each form.
func TestRefusals(t *testing.T) {
	full := func(_ context.Context, _ *gate.Request, d *gate.Decision) error {
		d.Receive(&gate.Answer{Decision: headgate.Decision{Reason: headgate.OverloadedReason, Retryable: true, RetryAfter: time.Second, BoundBy: -1}})
		return nil
	}
	for _, tt := range []struct {
		name, target string
		before       int // requests before the one that is refused
		fields       []string
		config       Config
		take         func(context.Context, *gate.Request, *gate.Decision) error
		status       int
		reason       string
		retry        string
		detail       string
		members      string
	}{
		{"rate", "/api/x", 2, nil, Config{}, nil, 429, "rate_limited", "30", "too many requests; try again in 30 s", `,"violated-policies":["api/burst"],"retry_after_ms":30000`},
		{"message of Config", "/api/x", 2, nil, Config{Message: "Later & <gone>"}, nil, 429, "rate_limited", "30", "Later & <gone>", `,"violated-policies":["api/burst"],"retry_after_ms":30000`},
		{"message of the rule", "/polite", 1, nil, Config{Message: "no"}, nil, 429, "rate_limited", "3600", "Slow <b>down</b>,\r\nplease.", `,"violated-policies":["polite/burst"],"retry_after_ms":3600000`},
		{"quota", "/month", 1, nil, Config{}, nil, 429, "quota_exceeded", "2678400", "too many requests; try again in 2678400 s", `,"violated-policies":["month/quota"],"retry_after_ms":2678400000`},
		{"cost", "/big", 0, nil, Config{Message: "no"}, nil, 422, "cost_exceeds_limit", "", "this request costs more than its limit can ever hold", `,"violated-policies":["big/burst"]`},
		{"ban", "/ban", 2, nil, Config{}, nil, 429, "banned", "3600", "banned; try again in 3600 s", `,"violated-policies":["ban/burst","ban/ban"],"retry_after_ms":3600000`},
		{"deny list, subject", "/api/x", 0, []string{"X-Api-Key: evil"}, Config{}, nil, 403, "deny_listed", "", "this client may not pass", ""},
		{"no rule", "/other", 0, []string{"X-Api-Key: k"}, Config{Application: "strict"}, nil, 403, "no_rule", "", "no rule lets this request pass", ""},
		{"overloaded", "/api/x", 0, nil, Config{}, full, 503, "overloaded", "1", "the service cannot take this request at the moment; try again in 1 s", `,"retry_after_ms":1000`},
	} {
		for _, form := range []struct{ accept, media, before, after string }{
			{"", "application/problem+json", `"detail":`, ""},
			{"text/html", "text/html; charset=utf-8", "<h1>", "</p></body></html>\n"},
			{"text/plain", "text/plain; charset=utf-8", "", "\n"},
		} {
			t.Run(tt.name+"/"+form.accept, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := New(engine{Gate: inMemory(t), take: tt.take}, tt.config)(teapot)
					for range tt.before {
						serve(h, request(tt.target, tt.fields...))
					}
					r := request(tt.target, tt.fields...)
					if form.accept != "" {
						r.Header.Set("Accept", form.accept)
					}
					w := serve(h, r)
					want := form.before + tt.detail + form.after
					switch form.accept {
					case "":
						detail, err := json.Marshal(tt.detail)
						if err != nil {
							t.Fatal(err)
						}
						want = form.before + string(detail) + tt.members + "}\n"
					case "text/html":
						said, _, _ := strings.Cut(tt.detail, "; try again")
						want = "</h1><p>" + strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;").Replace(said)
						if tt.retry != "" {
							want += "</p><p>Try again in " + tt.retry + " s."
						}
						want += form.after
					}
					fields := w.Result().Header
					if w.Code != tt.status || fields.Get("Headgate-Reason") != tt.reason || fields.Get("Retry-After") != tt.retry ||
						fields.Get("Cache-Control") != "no-store" || fields.Get("Vary") != "Accept" || fields.Get("Content-Type") != form.media ||
						!strings.HasSuffix(w.Body.String(), want) || form.before == "" && w.Body.String() != want {
						t.Errorf("got %s\nwant %d %s %q and %s", dump(w), tt.status, tt.reason, tt.retry, want)
					}
					if safe := fields.Get("Content-Security-Policy"); form.accept == "text/html" && !strings.HasPrefix(safe, "default-src 'none'") {
						t.Errorf("Content-Security-Policy %q", safe)
					}
				})
			})
		}
	}
}

func TestHeadHasNoBody(t *testing.T) {
	h := New(inMemory(t), Config{})(teapot)
	serve(h, request("/polite"))
	r := request("/polite")
	r.Method = "HEAD"
	if w := serve(h, r); w.Code != 429 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "" || w.Header().Get("Headgate-Reason") != "rate_limited" {
		t.Errorf("got %s", dump(w))
	}
}

// TestAsked holds what the engine is asked.
func TestAsked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config Config
		change func(*http.Request)
		want   func(*gate.Request) bool
	}{
		{"plain", Config{}, nil, func(q *gate.Request) bool {
			return q.Application == "default" && q.Method == "GET" && q.Path == "/api/x?y=1" && q.Host == "example.com" && q.Subject == "" &&
				q.Headers.Get("X-Api-Key") == "k" && q.IP == netip.MustParseAddr("203.0.113.9") && !q.CostSaid && q.Releases && q.WaitCap == DefaultWaitCap
		}},
		{"all said", Config{
			Application: "strict", WaitCap: time.Minute,
			Key:       func(*http.Request) (string, error) { return "alice", nil },
			Operation: func(*http.Request) string { return "send" },
			Cost:      func(*http.Request) int64 { return 0 },
			Costs:     func(*http.Request) map[string]int64 { return map[string]int64{"tokens": 7} },
			Plan:      func(*http.Request) string { return "pro" },
		}, nil, func(q *gate.Request) bool {
			return q.Application == "strict" && q.Subject == "alice" && q.Operation == "send" && q.Cost == 0 && q.CostSaid && q.Costs["tokens"] == 7 && q.Plan == "pro" && q.WaitCap == time.Minute
		}},
		{"no bound of waiting", Config{WaitCap: -1}, nil, func(q *gate.Request) bool { return q.WaitCap == 0 }},
		{"absolute form", Config{}, func(r *http.Request) { r.RequestURI = "http://example.com/api/x?y=1" }, func(q *gate.Request) bool { return q.Path == "/api/x?y=1" }},
		{"no request line", Config{}, func(r *http.Request) { r.RequestURI = "" }, func(q *gate.Request) bool { return q.Path == "/api/x?y=1" }},
		{"a '#' that the handler sees in the path", Config{}, func(r *http.Request) {
			r.RequestURI, r.URL.Path, r.URL.RawQuery = "/public#/api/x", "/public#/api/x", ""
		}, func(q *gate.Request) bool { return q.Path == "/public%23/api/x" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			e := engine{Gate: inMemory(t), take: func(_ context.Context, q *gate.Request, d *gate.Decision) error {
				if asked = true; !tt.want(q) {
					t.Errorf("asked %+v", *q)
				}
				d.Receive(&gate.Answer{Decision: headgate.Decision{Allowed: true, Reason: headgate.OK}})
				return nil
			}}
			r := request("/api/x?y=1", "X-Api-Key: k")
			if tt.change != nil {
				tt.change(r)
			}
			if w := serve(New(e, tt.config)(teapot), r); w.Code != http.StatusTeapot || !asked {
				t.Errorf("asked %v, got %s", asked, dump(w))
			}
		})
	}
}

func TestSkip(t *testing.T) {
	h := New(inMemory(t), Config{Skip: func(r *http.Request) bool { return r.URL.Path == "/polite" }})(teapot)
	for range 3 {
		if w := serve(h, request("/polite")); w.Code != http.StatusTeapot || len(w.Header()) != 0 {
			t.Errorf("got %s", dump(w))
		}
	}
}

// unknowing is an engine that knows no proxies, as a Client is.
type unknowing struct{ Engine }

// TestClientAddress holds who a request is from, as the engine is told.
func TestClientAddress(t *testing.T) {
	prefixes := func(list ...netip.Prefix) []netip.Prefix { return append([]netip.Prefix{}, list...) }
	loopback := prefixes(netip.MustParsePrefix("127.0.0.0/8"))
	for _, tt := range []struct {
		name    string
		client  bool // the engine knows no proxies
		trusted []netip.Prefix
		peer    string
		fields  []string
		want    string // the address and whether it is a stranger's, or the status
	}{
		{"stranger", false, nil, "203.0.113.9:1", nil, "203.0.113.9 stranger"},
		{"stranger who forwards", false, nil, "203.0.113.9:1", []string{"X-Forwarded-For: 10.0.0.1"}, "203.0.113.9 stranger"},
		{"stranger who names himself", false, nil, "203.0.113.9:1", []string{"X-Real-IP: 198.51.100.7"}, "203.0.113.9 stranger"},
		{"proxy of the policy", false, nil, "10.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "198.51.100.7"},
		{"client's invention to the left", false, nil, "10.0.0.1:1", []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"loopback is no proxy of the policy", false, nil, "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "127.0.0.1 stranger"},
		{"Config's beat the policy's", false, loopback, "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "198.51.100.7"},
		{"nobody is believed", false, prefixes(), "10.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "10.0.0.1 stranger"},
		{"engine without policy: loopback", true, nil, "127.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "198.51.100.7"},
		{"engine without policy: others", true, nil, "10.0.0.1:1", []string{"X-Forwarded-For: 198.51.100.7"}, "10.0.0.1 stranger"},
		{"malformed", false, nil, "10.0.0.1:1", []string{"X-Forwarded-For: unknown"}, "400 request.ip"},
		{"contradiction", false, nil, "10.0.0.1:1", []string{"X-Forwarded-For: 1.1.1.1", "X-Real-IP: 198.51.100.7"}, "400 request.ip"},
		{"malformed peer", false, nil, "pipe", nil, "500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			g := inMemory(t)
			var e Engine = engine{Gate: g, take: func(ctx context.Context, q *gate.Request, d *gate.Decision) error {
				got = q.IP.String()
				if q.Stranger {
					got += " stranger"
				}
				return g.Take(ctx, q, d)
			}}
			if tt.client {
				e = unknowing{e}
			}
			r := request("/other", tt.fields...)
			r.RemoteAddr = tt.peer
			w := serve(New(e, Config{TrustedProxies: tt.trusted, FailOpen: true})(teapot), r)
			if w.Code != http.StatusTeapot {
				got = strconv.Itoa(w.Code)
				if strings.Contains(w.Body.String(), "request.ip") {
					got += " request.ip"
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %s", got, tt.want, dump(w))
			}
		})
	}
}

func TestOnLimited(t *testing.T) {
	h := New(inMemory(t), Config{OnLimited: func(w http.ResponseWriter, _ *http.Request, d *gate.Decision) {
		if w.Header().Get("Retry-After") != "3600" || w.Header().Get("Headgate-Limit") != "polite/burst" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("fields are not set: %v", w.Header())
		}
		http.Error(w, d.Rule+" "+d.Reason.String(), Status(d.Reason))
	}})(teapot)
	serve(h, request("/polite"))
	if w := serve(h, request("/polite")); w.Code != 429 || w.Body.String() != "polite rate_limited\n" {
		t.Errorf("got %s", dump(w))
	}
}

func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers *policy.HeaderStyles
		want    []string
	}{
		{"the application's", nil, []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}},
		{"none", new(policy.HeaderStyles(0)), nil},
		{"others", new(policy.HeadersIETF | policy.HeadersDraft03), []string{"Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy", "Ratelimit-Remaining", "Ratelimit-Reset"}},
	} {
		h := New(inMemory(t), Config{Application: "strict", Headers: tt.headers})(teapot)
		var got []string
		for name := range serve(h, request("/one", "X-Api-Key: k")).Header() {
			if strings.Contains(name, "Ratelimit") {
				got = append(got, name)
			}
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestWhatIsTold: a client learns of the limits that are its own and that may refuse it,
// and of its share where the store is away.
func TestWhatIsTold(t *testing.T) {
	state := func(id, owner string, shadow bool) gate.LimitState {
		return gate.LimitState{ID: id, Owner: owner, Shadow: shadow, Outcome: headgate.Outcome{Limit: 5}}
	}
	e := engine{Gate: inMemory(t), take: func(_ context.Context, _ *gate.Request, d *gate.Decision) error {
		d.Receive(&gate.Answer{
			Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, RetryAfter: time.Second}, Headers: policy.HeadersIETF, Degraded: "local",
			Limits: []gate.AnsweredLimit{
				{State: state("mine", "subject", false), Numbers: headgate.PerHour(10), Part: new(headgate.Per(5, 30*time.Minute))},
				{State: state("trial", "subject", true), Numbers: headgate.PerHour(10)},
				{State: state("all", "application", false), Numbers: headgate.PerHour(10)},
			},
		})
		return nil
	}}
	w := serve(New(e, Config{})(teapot), request("/"))
	if got := w.Header().Get("RateLimit-Policy"); got != `"mine";q=5;w=1800` || w.Header().Get("Headgate-Limit") != "mine" || w.Header().Get("Headgate-Degraded") != "local" {
		t.Errorf("got %s", dump(w))
	}
	if !strings.Contains(w.Body.String(), `"violated-policies":["mine","all"]`) {
		t.Errorf("got %s", w.Body)
	}
}

func TestDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type said struct {
			reason headgate.Reason
			took   time.Duration
		}
		var got []said
		h := New(inMemory(t), Config{Decided: func(d *gate.Decision, took time.Duration) { got = append(got, said{d.Reason, took}) }})(teapot)
		serve(h, request("/leaky"))
		serve(h, request("/leaky")) // waits for a second
		serve(h, request("/one", "X-Api-Key: evil"))
		want := []said{{headgate.OK, 0}, {headgate.OK, 0}, {headgate.DenyListed, 0}}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestNewPanics(t *testing.T) {
	g := inMemory(t)
	for name, build := range map[string]func(){
		"no engine":     func() { New(nil, Config{}) },
		"unknown style": func() { New(g, Config{Headers: new(policy.HeaderStyles(1 << 6))}) },
		"wait below 0":  func() { New(g, Config{WaitCap: -2}) },
		"no prefix":     func() { New(g, Config{TrustedProxies: []netip.Prefix{{}}}) },
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
