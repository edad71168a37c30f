package grpcgate

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
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
      - {name: big, match: {operation: big}, cost: 50, limits: [{name: burst, rate: 10/s}]}
      - {name: polite, match: {operation: polite}, limits: [{name: burst, rate: 1/h}], message: "Slow down,\r\nplease: grün."}
      - {name: month, match: {operation: month}, limits: [{name: quota, algorithm: quota, rate: 1/month}]}
      - {name: line, match: {operation: line}, limits: [{name: burst, rate: 15/min, burst: 1}], max_wait: 5s}
      - {name: ban, match: {operation: ban}, limits: [{name: burst, rate: 1/h}], ban: {after: 1, within: 1m, for: 1h}}
      - {name: slots, match: {operation: slots}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 30s}]}
      - {name: queue, match: {operation: queue}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 30s}], max_wait: 5m}
      - {name: leaky, match: {operation: leaky}, limits: [{name: drip, algorithm: leaky_bucket, rate: 1/s, burst: 4}]}
      - {name: words, match: {operation: words}, limits: [{name: tokens, rate: 100/h, unit: tokens}]}
      - {name: trial, match: {operation: trial}, limits: [{name: burst, rate: 1/h}, {name: new, rate: 1/h, mode: shadow}]}
      - {name: api, match: {path: /grpc.testing.TestService/EmptyCall, methods: [POST]}, limits: [{name: burst, rate: 2/min}]}
      - {name: service, match: {path: "/grpc.testing.TestService/{method}"}, limits: [{name: streams, rate: 1/min}]}
  strict:
    on_no_match: deny
    headers: [x-delta]
    retry_jitter: 100%
    trusted_proxies: [203.0.113.0/24]
    identity: [{header: x-api-key}]
    rules: [{name: one, match: {path: /grpc.testing.TestService/EmptyCall}, limits: [{name: burst, rate: 1/h}]}]
  closed: {on_no_match: deny, rules: [{name: one, match: {path: /grpc.testing.OtherService/EmptyCall}}]}
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

// fake answers with functions; nil ones are those of the gate.
type fake struct {
	*gate.Gate
	take           func(context.Context, *gate.Request, *gate.Decision) error
	renew, release func(context.Context, *gate.Claim, *gate.Decision) error
}

func (f fake) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	if f.take == nil {
		return f.Gate.Take(ctx, r, d)
	}
	return f.take(ctx, r, d)
}

func (f fake) Renew(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	if f.renew == nil {
		return f.Gate.Renew(ctx, c, d)
	}
	return f.renew(ctx, c, d)
}

func (f fake) Release(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	if f.release == nil {
		return f.Gate.Release(ctx, c, d)
	}
	return f.release(ctx, c, d)
}

// does is an Operation.
func does(operation string) func(grpclimit.Call) string {
	return func(grpclimit.Call) string { return operation }
}

// kinds are calls that differ to interceptors.
var kinds = map[string]func(testing.TB, *grpctest.House, ...string) grpctest.Answer{
	"unary": func(t testing.TB, h *grpctest.House, pairs ...string) grpctest.Answer {
		c, end := h.Open(t)
		defer end()
		return grpctest.Ask(t, c, pairs...)
	},
	"stream": func(t testing.TB, h *grpctest.House, _ ...string) grpctest.Answer {
		c, end := h.Open(t)
		defer end()
		return grpctest.Converse(t, c, 1)
	},
}

func house(e Engine, c ServerConfig) *grpctest.House {
	return new(grpctest.House).Limit(NewServer(e, c))
}

// proxied is a House whose client is a proxy of the policy.
func proxied(e Engine, c ServerConfig) *grpctest.House {
	h := house(e, c)
	h.Peer = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4711}
	return h
}

func TestAllowThenRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := house(inMemory(t), ServerConfig{}).Open(t)
		defer end()
		const first = `OK
header ratelimit-policy: "api/burst";q=2;w=60, "plan/daily";q=1000;w=86400
header ratelimit: "api/burst";r=1;t=30, "plan/daily";r=999;t=86400
header headgate-reason: ok
header headgate-limit: api/burst`
		if got := grpctest.Ask(t, c).String(); got != first {
			t.Errorf("got  %s\nwant %s", got, first)
		}
		grpctest.Ask(t, c)
		<-time.After(time.Millisecond) // the bubble's clock
		const refused = `ResourceExhausted: Too many calls
trailer ratelimit-policy: "api/burst";q=2;w=60, "plan/daily";q=1000;w=86400
trailer ratelimit: "api/burst";r=0;t=30, "plan/daily";r=998;t=86400
trailer headgate-reason: rate_limited
trailer headgate-limit: api/burst
trailer grpc-retry-pushback-ms: 29999`
		a := grpctest.Ask(t, c)
		if got := a.String(); got != refused {
			t.Errorf("got  %s\nwant %s", got, refused)
		}
		if id := strings.Join(a.Trailer["headgate-decision-id"], " "); len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
			t.Errorf("decision %q", id)
		}
		<-time.After(29999 * time.Millisecond)
		if a := grpctest.Ask(t, c); a.Status.Code() != codes.OK {
			t.Errorf("refused after the time that the push-back said: %v", a)
		}
		const stream = `OK
header ratelimit-policy: "service/streams";q=1;w=60, "plan/daily";q=1000;w=86400
header ratelimit: "service/streams";r=0;t=60, "plan/daily";r=996;t=86370
header headgate-reason: ok
header headgate-limit: service/streams`
		if got := grpctest.Converse(t, c, 3).String(); got != stream {
			t.Errorf("a stream of 3 messages: got  %s\nwant %s", got, stream)
		}
		if a := grpctest.Converse(t, c, 1); a.Status.Code() != codes.ResourceExhausted || a.Header["ratelimit"] != nil || len(a.Trailer["ratelimit"]) != 1 {
			t.Errorf("a second stream: got %v", a)
		}
	})
}

// TestRefusals holds what each kind of refusal answers.
func TestRefusals(t *testing.T) {
	full := func(_ context.Context, _ *gate.Request, d *gate.Decision) error {
		d.Receive(&gate.Answer{Decision: headgate.Decision{Reason: headgate.OverloadedReason, Retryable: true, RetryAfter: time.Second, BoundBy: -1}})
		return nil
	}
	for _, tt := range []struct {
		name       string
		config     ServerConfig
		take       func(context.Context, *gate.Request, *gate.Decision) error
		before     int // calls before the one that is refused
		want       string
		violations string
		retry      time.Duration
	}{
		{"rate", ServerConfig{Operation: does("polite")}, nil, 1, "ResourceExhausted: Slow down,\r\nplease: grün. rate_limited polite/burst -1", "polite/burst requests", time.Hour},
		{"hint", ServerConfig{Operation: does("polite"), MaxRetryHint: 2 * time.Hour}, nil, 1, "ResourceExhausted: Slow down,\r\nplease: grün. rate_limited polite/burst 3600000", "polite/burst requests", time.Hour},
		{"message of the config", ServerConfig{Operation: does("month"), Message: "Later"}, nil, 1, "ResourceExhausted: Later quota_exceeded month/quota -1", "month/quota requests", 31 * 24 * time.Hour},
		{"rule's message goes before", ServerConfig{Operation: does("polite"), Message: "Later"}, nil, 1, "ResourceExhausted: Slow down,\r\nplease: grün. rate_limited polite/burst -1", "polite/burst requests", time.Hour},
		{"cost", ServerConfig{Operation: does("big")}, nil, 0, "InvalidArgument: This call costs more than the limit can ever hold cost_exceeds_limit big/burst -1", "big/burst requests", 0},
		{"ban", ServerConfig{Operation: does("ban")}, nil, 2, "ResourceExhausted: Too many calls banned ban/burst -1", "ban/burst requests, ban/ban requests", time.Hour},
		{"limit on trial", ServerConfig{Operation: does("trial")}, nil, 1, "ResourceExhausted: Too many calls rate_limited trial/burst -1", "trial/burst requests", time.Hour},
		{"tokens", ServerConfig{Operation: does("words"), Costs: func(grpclimit.Call) map[string]int64 { return map[string]int64{"tokens": 60} }}, nil, 1,
			"ResourceExhausted: Too many calls rate_limited words/tokens -1", "words/tokens tokens", 12 * time.Minute},
		{"deny list", ServerConfig{Key: func(grpclimit.Call) (string, error) { return "evil", nil }}, nil, 0, "PermissionDenied: This client may not pass deny_listed  -1", "", 0},
		{"no rule", ServerConfig{Application: "closed", Key: func(grpclimit.Call) (string, error) { return "k", nil }}, nil, 0, "PermissionDenied: No rule lets this call pass no_rule  -1", "", 0},
		{"overloaded", ServerConfig{}, full, 0, "Unavailable: The service is short of capacity overloaded  1000", "", time.Second},
	} {
		for kind, call := range kinds {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := house(fake{Gate: inMemory(t), take: tt.take}, tt.config)
					for range tt.before {
						call(t, h)
					}
					a := call(t, h)
					quota, retry, info := grpctest.Details(a.Status)
					field := func(name string) string { return strings.Join(a.Trailer[name], "|") }
					got := a.Status.Code().String() + ": " + a.Status.Message() + " " + field("headgate-reason") + " " + field("headgate-limit") + " " + field(answer.Pushback)
					var violations []string
					for _, v := range quota.GetViolations() {
						violations = append(violations, v.QuotaId+" "+v.QuotaMetric)
					}
					if got != tt.want || strings.Join(violations, ", ") != tt.violations || retry.GetRetryDelay().AsDuration() != tt.retry {
						t.Errorf("got  %q, %q, %v\nwant %q, %q, %v", got, violations, retry, tt.want, tt.violations, tt.retry)
					}
					if info.GetDomain() != "headgate" || info.GetReason() != strings.ToUpper(field("headgate-reason")) || info.GetMetadata()["limit"] != field("headgate-limit") {
						t.Errorf("ErrorInfo: got %v", info)
					}
					if text := a.Status.Proto().String(); strings.Contains(text, "203.0.113.9") || strings.Contains(text, "evil") {
						t.Errorf("the status tells the key: %s", text)
					}
					if kind == "unary" && a.Header.Len() > 0 {
						t.Errorf("a refusal with a header: %v", a.Header)
					}
				})
			})
		}
	}
}

// TestAsked holds what the engine is asked.
func TestAsked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config ServerConfig
		want   func(*gate.Request) bool
	}{
		{"plain", ServerConfig{}, func(q *gate.Request) bool {
			return q.Application == "default" && q.Method == "POST" && q.Path == "/grpc.testing.TestService/EmptyCall" && q.Host == "upstream" && q.Subject == "" &&
				slices.Equal(q.Headers["X-Api-Key"], []string{"k"}) && slices.Equal(q.Headers["X-Several"], []string{"a", "b"}) && q.Headers["Trace-Bin"] == nil && q.Headers[":authority"] == nil &&
				q.IP == netip.MustParseAddr("203.0.113.9") && q.Stranger && !q.CostSaid && q.Releases && q.WaitCap == DefaultWaitCap
		}},
		{"all said", ServerConfig{
			Application: "strict", WaitCap: time.Minute,
			Key:       grpclimit.ByMetadata("X-Api-Key"),
			Operation: does("send"),
			Cost:      func(grpclimit.Call) int64 { return 0 },
			Costs:     func(grpclimit.Call) map[string]int64 { return map[string]int64{"tokens": 7} },
			Plan:      func(grpclimit.Call) string { return "pro" },
		}, func(q *gate.Request) bool {
			return q.Application == "strict" && q.Subject == "k" && q.Operation == "send" && q.Cost == 0 && q.CostSaid && q.Costs["tokens"] == 7 && q.Plan == "pro" && q.WaitCap == time.Minute && !q.Stranger
		}},
		{"no bound of waiting", ServerConfig{WaitCap: -1}, func(q *gate.Request) bool { return q.WaitCap == 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			e := fake{Gate: inMemory(t), take: func(_ context.Context, q *gate.Request, d *gate.Decision) error {
				if asked = true; !tt.want(q) {
					t.Errorf("asked %+v", *q)
				}
				d.Receive(&gate.Answer{Decision: headgate.Decision{Allowed: true, Reason: headgate.OK}})
				return nil
			}}
			c, end := house(e, tt.config).Open(t)
			defer end()
			a := grpctest.Ask(t, c, "x-api-key", "k", "x-several", "a", "x-several", "b", "trace-bin", "\x00\xff")
			if a.Status.Code() != codes.OK || !asked {
				t.Errorf("asked %v, got %v", asked, a)
			}
		})
	}
}

func TestSkip(t *testing.T) {
	g := inMemory(t)
	for kind, call := range kinds {
		h := house(g, ServerConfig{Operation: does("polite"), Skip: func(grpclimit.Call) bool { return true }})
		for range 3 {
			if a := call(t, h); a.Status.Code() != codes.OK || len(a.Header["headgate-reason"]) != 0 {
				t.Errorf("%s: got %v", kind, a)
			}
		}
	}
}

// unknowing is an engine that knows no proxies, as a Client is.
type unknowing struct{ Engine }

// named is an address of a network that is none of net's.
type named string

func (n named) Network() string { return "pipe" }
func (n named) String() string  { return string(n) }

// TestClientAddress holds who a call is from, as the engine is told.
func TestClientAddress(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711} }
	for _, tt := range []struct {
		name    string
		client  bool // the engine knows no proxies
		trusted []netip.Prefix
		peer    net.Addr
		pairs   []string
		want    string // the address and whether it is a stranger, or the code
	}{
		{"stranger", false, nil, tcp("203.0.113.9"), nil, "203.0.113.9 true"},
		{"stranger who forwards", false, nil, tcp("203.0.113.9"), []string{"x-forwarded-for", "10.0.0.1"}, "203.0.113.9 true"},
		{"stranger's rubbish is not read", false, nil, tcp("203.0.113.9"), []string{"x-forwarded-for", "<>"}, "203.0.113.9 true"},
		{"stranger who names himself", false, nil, tcp("203.0.113.9"), []string{"x-real-ip", "198.51.100.7"}, "203.0.113.9 true"},
		{"proxy of the policy", false, nil, tcp("10.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7 false"},
		{"client's invention to the left", false, nil, tcp("10.0.0.1"), []string{"x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7 false"},
		{"the same on lines of its own", false, nil, tcp("10.0.0.1"), []string{"x-forwarded-for", "1.1.1.1", "x-forwarded-for", "198.51.100.7"}, "198.51.100.7 false"},
		{"loopback is no proxy of the policy", false, nil, tcp("127.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "127.0.0.1 true"},
		{"config's beat the policy's", false, loopback, tcp("127.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7 false"},
		{"nobody is believed", false, []netip.Prefix{}, tcp("10.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "10.0.0.1 true"},
		{"engine without policy: loopback", true, nil, tcp("127.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7 false"},
		{"engine without policy: others", true, nil, tcp("10.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "10.0.0.1 true"},
		{"mapped", false, nil, tcp("::ffff:10.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7 false"},
		{"malformed", false, nil, tcp("10.0.0.1"), []string{"x-forwarded-for", "unknown"}, "InvalidArgument request.ip"},
		{"contradiction", false, nil, tcp("10.0.0.1"), []string{"x-forwarded-for", "1.1.1.1", "x-real-ip", "198.51.100.7"}, "InvalidArgument request.ip"},
		{"pipe", false, nil, named("pipe"), []string{"x-forwarded-for", "10.0.0.1", "x-api-key", "k"}, "InvalidArgument subject"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			g := inMemory(t)
			var e Engine = fake{Gate: g, take: func(ctx context.Context, q *gate.Request, d *gate.Decision) error {
				got = q.IP.String() + " " + strconv.FormatBool(q.Stranger)
				return g.Take(ctx, q, d)
			}}
			if tt.client {
				e = unknowing{e}
			}
			h := house(e, ServerConfig{TrustedProxies: tt.trusted, FailOpen: true})
			h.Peer = tt.peer
			c, end := h.Open(t)
			defer end()
			a := grpctest.Ask(t, c, tt.pairs...)
			if _, _, info := grpctest.Details(a.Status); a.Status.Code() != codes.OK {
				got = a.Status.Code().String() + " " + info.GetMetadata()["field"]
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %v", got, tt.want, a)
			}
		})
	}
}

// TestSpoofedIdentity: who is no proxy gets no budget of his own by naming somebody, and
// a proxy's word counts.
func TestSpoofedIdentity(t *testing.T) {
	g := inMemory(t)
	c, end := house(g, ServerConfig{}).Open(t)
	defer end()
	passed := 0
	for i := range 10 {
		n := strconv.Itoa(i)
		if grpctest.Ask(t, c, "x-api-key", n, "x-forwarded-for", "198.51.100."+n, "x-real-ip", "198.51.100."+n).Status.Code() == codes.OK {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d calls of a stranger passed, want 2", passed)
	}
	c, end = proxied(g, ServerConfig{}).Open(t)
	defer end()
	for i := range 10 {
		if a := grpctest.Ask(t, c, "x-api-key", strconv.Itoa(i)); a.Status.Code() != codes.OK {
			t.Errorf("client %d of a proxy: got %v", i, a)
		}
	}
}

// TestFaults holds what becomes of calls that cannot be decided as they stand: the
// client's faults are INVALID_ARGUMENT, the program's INTERNAL, and none passes although
// FailOpen is set.
func TestFaults(t *testing.T) {
	key := func(s string, err error) func(grpclimit.Call) (string, error) {
		return func(grpclimit.Call) (string, error) { return s, err }
	}
	costs := func(unit string, n int64) func(grpclimit.Call) map[string]int64 {
		return func(grpclimit.Call) map[string]int64 { return map[string]int64{unit: n} }
	}
	for _, tt := range []struct {
		name   string
		config ServerConfig
		pairs  []string
		want   codes.Code
		field  string
	}{
		{"no subject", ServerConfig{Application: "strict"}, nil, codes.InvalidArgument, "subject"},
		{"line break in the key", ServerConfig{Key: key("a\r\nx-user: b", nil)}, nil, codes.InvalidArgument, "subject"},
		{"NUL in the key", ServerConfig{Key: key("a\x00b", nil)}, nil, codes.InvalidArgument, "subject"},
		{"long key", ServerConfig{}, []string{"x-api-key", strings.Repeat("k", 513)}, codes.InvalidArgument, "subject"},
		{"empty key", ServerConfig{Key: key("", nil)}, nil, codes.InvalidArgument, "subject"},
		{"key that is missing", ServerConfig{Key: grpclimit.ByMetadata("x-user")}, nil, codes.InvalidArgument, "request.metadata.x-user"},
		{"key fails", ServerConfig{Key: key("", errors.New("secret of the database"))}, nil, codes.Internal, ""},
		{"many metadata", ServerConfig{}, slices.Repeat([]string{"x", ""}, 1000), codes.InvalidArgument, "request.metadata"},
		{"large metadata", ServerConfig{}, []string{"x", strings.Repeat("x", maxMetadata-32)}, codes.InvalidArgument, "request.metadata"},
		{"cost below 0", ServerConfig{Cost: func(grpclimit.Call) int64 { return -1 }}, nil, codes.InvalidArgument, "cost"},
		{"unknown application", ServerConfig{Application: "lost"}, nil, codes.Internal, ""},
		{"unknown application, proxies said", ServerConfig{Application: "lost", TrustedProxies: []netip.Prefix{}}, nil, codes.Internal, ""},
		{"unknown plan", ServerConfig{Application: "strict", Key: key("k", nil), Plan: func(grpclimit.Call) string { return "lost" }}, nil, codes.Internal, ""},
		{"unknown unit", ServerConfig{Costs: costs("tons", 1)}, nil, codes.Internal, ""},
		{"unit that nobody says", ServerConfig{Operation: does("words")}, nil, codes.Internal, ""},
		{"cost of a unit below 0", ServerConfig{Operation: does("words"), Costs: costs("tokens", -1)}, nil, codes.InvalidArgument, "costs.tokens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told error
			tt.config.FailOpen = true
			tt.config.OnError = func(c grpclimit.Call, err error) {
				if told = err; c.Method != "/grpc.testing.TestService/EmptyCall" {
					t.Errorf("told of %q", c.Method)
				}
			}
			h := proxied(inMemory(t), tt.config)
			h.Service.Unary = func(context.Context) error {
				t.Error("the handler ran")
				return nil
			}
			c, end := h.Open(t)
			defer end()
			a := grpctest.Ask(t, c, tt.pairs...)
			_, _, info := grpctest.Details(a.Status)
			if a.Status.Code() != tt.want || told == nil || info.GetMetadata()["field"] != tt.field || strings.Contains(a.Status.Message(), "secret") {
				t.Errorf("told %v, got %v, %v; want %v, %q", told, a, info, tt.want, tt.field)
			}
		})
	}
}

// TestMetadataAsLargeAsMayBe: what is left out does not count.
func TestMetadataAsLargeAsMayBe(t *testing.T) {
	c, end := house(inMemory(t), ServerConfig{}).Open(t)
	defer end()
	if a := grpctest.Ask(t, c, "x", strings.Repeat("x", maxMetadata-1024), "large-bin", strings.Repeat("x", maxMetadata)); a.Status.Code() != codes.OK {
		t.Errorf("got %v", a)
	}
}

// TestMethodWithoutSlash: a method that is spelled otherwise is not another path.
func TestMethodWithoutSlash(t *testing.T) {
	s := NewServer(inMemory(t), ServerConfig{FailOpen: true})
	contexts, _ := calls(1)
	handler := func(context.Context, any) (any, error) { return nil, errors.New("the handler ran") }
	info := *method
	info.FullMethod = strings.TrimPrefix(info.FullMethod, "/")
	if _, err := s.Unary(contexts[0], nil, &info, handler); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// TestUndecided: an engine that cannot decide at all, such as a client without a server.
func TestUndecided(t *testing.T) {
	for _, tt := range []struct {
		code   headgate.Code
		open   bool
		want   codes.Code
		reason string
	}{
		{headgate.Unavailable, false, codes.Unavailable, "store_unavailable"},
		{headgate.Unavailable, true, codes.OK, ""},
		{headgate.Overloaded, false, codes.Unavailable, "overloaded"},
		{headgate.Closed, false, codes.Unavailable, "store_unavailable"},
		{headgate.Closed, true, codes.OK, ""},
		{headgate.Overloaded, true, codes.Unavailable, "overloaded"},
		{headgate.Unknown, true, codes.Unavailable, "store_unavailable"},
		{headgate.NotFound, true, codes.Internal, ""},
		{headgate.InvalidRequest, true, codes.InvalidArgument, ""},
	} {
		for kind, call := range kinds {
			var told error
			away := &headgate.Error{Code: tt.code, Err: errors.New("secret address")}
			e := fake{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error { return away }}
			a := call(t, house(e, ServerConfig{FailOpen: tt.open, OnError: func(_ grpclimit.Call, err error) { told = err }}))
			if a.Status.Code() != tt.want || strings.Join(a.Trailer["headgate-reason"], "") != tt.reason || told != away || strings.Contains(a.Status.Proto().String(), "secret") {
				t.Errorf("%v, open %v, %s: told %v, got %v", tt.code, tt.open, kind, told, a)
			}
			degraded := map[codes.Code]string{codes.Unavailable: "closed", codes.OK: "open"}[tt.want]
			if got := strings.Join(append(a.Header["headgate-degraded"], a.Trailer["headgate-degraded"]...), ""); got != degraded {
				t.Errorf("%v, open %v, %s: degraded %q, want %q", tt.code, tt.open, kind, got, degraded)
			}
		}
	}
}

// TestNotUTF8: what makes an engine behind a wire fail is the client's fault, and does not
// let it pass.
func TestNotUTF8(t *testing.T) {
	e := fake{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error { return errors.New("cannot be sent") }}
	s := NewServer(e, ServerConfig{FailOpen: true})
	handler := func(context.Context, any) (any, error) { return nil, nil }
	for value, want := range map[string]codes.Code{"\xff": codes.InvalidArgument, "grün": codes.Unavailable} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-a", "ok", "x-a", value))
		if _, err := s.Unary(ctx, nil, method, handler); status.Code(err) != want {
			t.Errorf("%q: got %v, want %v", value, err, want)
		}
	}
}

// away is a store that cannot be asked.
type away struct{}

func (away) Close() error { return nil }

func (away) Apply(context.Context, *headgate.Batch) error {
	return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("secret address")}
}

// TestStoreAway: a gate whose store is away decides by on_store_error, whatever FailOpen
// says.
func TestStoreAway(t *testing.T) {
	for _, tt := range []struct {
		mode           string
		local          headgate.Store
		want           codes.Code
		degraded, told string
	}{
		{"open", nil, codes.OK, "open", "ok"},
		{"closed", nil, codes.Unavailable, "closed", "store_unavailable"},
		{"local", memstore.New(memstore.Config{MaxBytes: 1 << 20}), codes.OK, "local", "ok"},
		{"local", nil, codes.Unavailable, "closed", "store_unavailable"},
	} {
		g, err := gate.Open(t.Context(), gate.Config{Store: away{}, Local: tt.local, Policy: []byte(`
version: 1
applications: {default: {identity: [ip], rules: [{name: r, match: {path: "/{rest...}"}, limits: [{name: l, rate: 2/h, burst: 4, on_store_error: ` + tt.mode + `}]}]}}
`)})
		if err != nil {
			t.Fatal(err)
		}
		for _, failOpen := range []bool{true, false} {
			for kind, call := range kinds {
				a := call(t, house(g, ServerConfig{FailOpen: failOpen}))
				md := a.Header
				if tt.want != codes.OK {
					md = a.Trailer
				}
				if a.Status.Code() != tt.want || strings.Join(md["headgate-degraded"], "") != tt.degraded || strings.Join(md["headgate-reason"], "") != tt.told {
					t.Errorf("%s, local %v, %s: got %v", tt.mode, tt.local != nil, kind, a)
				}
			}
		}
	}
}

func TestOnLimited(t *testing.T) {
	answers := []error{status.Error(codes.PermissionDenied, "go away"), nil}
	c, end := house(inMemory(t), ServerConfig{Operation: does("polite"), OnLimited: func(c grpclimit.Call, d *gate.Decision) error {
		if d.Rule != "polite" || d.Reason != headgate.RateLimited || !strings.HasSuffix(c.Method, "/EmptyCall") {
			t.Errorf("told of %v, %v, %v", c.Method, d.Rule, d.Reason)
		}
		err := answers[0]
		answers = answers[1:]
		return err
	}}).Open(t)
	defer end()
	grpctest.Ask(t, c)
	if a := grpctest.Ask(t, c); a.Status.Code() != codes.PermissionDenied || !slices.Equal(a.Trailer[answer.Pushback], []string{"-1"}) {
		t.Errorf("got %v", a)
	}
	if a := grpctest.Ask(t, c); a.Status.Code() != codes.ResourceExhausted {
		t.Errorf("nil instead of an error: got %v", a)
	}
}

func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers *policy.HeaderStyles
		want    []string
	}{
		{"the application's", nil, []string{"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}},
		{"none", new(policy.HeaderStyles(0)), nil},
		{"others", new(policy.HeadersIETF | policy.HeadersDraft03), []string{"ratelimit", "ratelimit-limit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset"}},
	} {
		c, end := house(inMemory(t), ServerConfig{Application: "strict", Headers: tt.headers, Key: grpclimit.ByMethod}).Open(t)
		a := grpctest.Ask(t, c)
		var got []string
		for name := range a.Header {
			if strings.Contains(name, "ratelimit") {
				got = append(got, name)
			}
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) || len(a.Header["headgate-reason"]) != 1 {
			t.Errorf("%s: got %v, want %v", tt.name, a.Header, tt.want)
		}
		if a := grpctest.Ask(t, c); len(a.Trailer[answer.Pushback]) != 1 || len(a.Trailer["headgate-reason"]) != 1 || a.Trailer["retry-after"] != nil {
			t.Errorf("%s: a refusal: %v", tt.name, a)
		}
		end()
	}
}

func TestRetryJitter(t *testing.T) {
	for _, tt := range []struct {
		jitter      int
		most, least time.Duration
	}{{0, 2 * time.Hour, 70 * time.Minute}, {10, 66 * time.Minute, 61 * time.Minute}} {
		c, end := house(inMemory(t), ServerConfig{Application: "strict", RetryJitter: tt.jitter, Key: grpclimit.ByMethod}).Open(t)
		grpctest.Ask(t, c)
		longest := time.Duration(0)
		for range 100 {
			_, retry, _ := grpctest.Details(grpctest.Ask(t, c).Status)
			wait := retry.GetRetryDelay().AsDuration()
			if wait < 59*time.Minute || wait > tt.most {
				t.Errorf("%d percent: got %v", tt.jitter, wait)
			}
			longest = max(longest, wait)
		}
		if longest < tt.least { // by chance once in 2^100 times or less
			t.Errorf("%d percent: at most %v of 100", tt.jitter, longest)
		}
		end()
	}
}

func TestDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type seen struct {
			rule    string
			allowed bool
			took    time.Duration
		}
		var got []seen
		c, end := house(inMemory(t), ServerConfig{Operation: does("line"), Decided: func(d *gate.Decision, took time.Duration) {
			got = append(got, seen{d.Rule, d.Allowed, took})
		}}).Open(t)
		defer end()
		grpctest.Ask(t, c)
		grpctest.Ask(t, c) // waits 4 s, which is not told
		if want := []seen{{"line", true, 0}, {"line", true, 0}}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// TestConcurrentCalls: calls do not see each other's states.
func TestConcurrentCalls(t *testing.T) {
	g := open(t, `
version: 1
applications: {default: {rules: [{name: r, match: {path: "/{rest...}"}, limits: [{name: l, rate: 50/h}]}]}}
`, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
	c, end := house(g, ServerConfig{Key: grpclimit.ByMetadata("x-user")}).Open(t)
	defer end()
	var passed atomic.Int64
	done := make(chan struct{})
	for i := range 4 {
		go func() {
			for range 100 {
				if grpctest.Ask(t, c, "x-user", strconv.Itoa(i)).Status.Code() == codes.OK {
					passed.Add(1)
				}
			}
			done <- struct{}{}
		}()
	}
	for range 4 {
		<-done
	}
	if passed.Load() != 200 {
		t.Errorf("%d passed, want 50 for each of 4", passed.Load())
	}
}

func TestNewServerPanics(t *testing.T) {
	g := inMemory(t)
	for name, build := range map[string]func(){
		"no engine":           func() { NewServer(nil, ServerConfig{}) },
		"unknown style":       func() { NewServer(g, ServerConfig{Headers: new(policy.HeaderStyles(1 << 7))}) },
		"jitter below 0":      func() { NewServer(g, ServerConfig{RetryJitter: -1}) },
		"jitter above 100":    func() { NewServer(g, ServerConfig{RetryJitter: 101}) },
		"hint below 0":        func() { NewServer(g, ServerConfig{MaxRetryHint: -1}) },
		"hint above 24 h":     func() { NewServer(g, ServerConfig{MaxRetryHint: 25 * time.Hour}) },
		"wait cap below -1":   func() { NewServer(g, ServerConfig{WaitCap: -2}) },
		"no prefix":           func() { NewServer(g, ServerConfig{TrustedProxies: make([]netip.Prefix, 1)}) },
		"outgoing: no engine": func() { Outgoing(nil, OutgoingConfig{}) },
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
