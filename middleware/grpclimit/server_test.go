package grpclimit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
)

func TestAllowThenRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := inMemory(t, headgate.PerMinute(60).WithBurst(2).WithName("rate"), headgate.QuotaPer(10, headgate.Day).WithName("daily"))
		c, end := new(grpctest.House).Limit(NewServer(lim, ServerConfig{Message: "Slow down"})).Open(t)
		defer end()
		const first = `OK
header ratelimit-policy: "rate";q=2;w=2, "daily";q=10;w=86400
header ratelimit: "rate";r=1;t=1, "daily";r=9;t=86400`
		if got := grpctest.Ask(t, c).String(); got != first {
			t.Errorf("got  %s\nwant %s", got, first)
		}
		grpctest.Ask(t, c)
		<-time.After(time.Millisecond) // the bubble's clock
		const refused = `ResourceExhausted: Slow down
trailer ratelimit-policy: "rate";q=2;w=2, "daily";q=10;w=86400
trailer ratelimit: "rate";r=0;t=1, "daily";r=8;t=86400
trailer headgate-reason: rate_limited
trailer headgate-limit: rate
trailer grpc-retry-pushback-ms: 999`
		if got := grpctest.Ask(t, c).String(); got != refused {
			t.Errorf("got  %s\nwant %s", got, refused)
		}
		<-time.After(999 * time.Millisecond)
		if a := grpctest.Ask(t, c); a.Status.Code() != codes.OK {
			t.Errorf("refused after the time that the push-back said: %v", a)
		}
	})
}

// TestRefusals holds what each kind of refusal answers.
func TestRefusals(t *testing.T) {
	daily := headgate.QuotaPer(10, headgate.Day).WithName("x")
	wait := headgate.Outcome{Limit: 10, Remaining: 1, RetryAfter: 1500*time.Millisecond + time.Microsecond}
	long := headgate.Outcome{Limit: 10, RetryAfter: time.Minute + time.Microsecond}
	for _, tt := range []struct {
		name     string
		limit    headgate.Limit
		outcome  headgate.Outcome
		code     codes.Code
		reason   string
		pushback string
	}{
		{"rate", headgate.PerMinute(9).WithName("x"), wait, codes.ResourceExhausted, "rate_limited", "1501"},
		{"quota", daily, wait, codes.ResourceExhausted, "quota_exceeded", "1501"},
		{"concurrency", headgate.InFlight(3, time.Minute).WithName("x"), wait, codes.ResourceExhausted, "concurrency_exceeded", "1501"},
		{"ban", headgate.Limit{Name: "x", Algorithm: headgate.Ban, Count: 9, Period: time.Minute, TTL: time.Hour}, wait, codes.ResourceExhausted, "banned", "1501"},
		{"never", daily, headgate.Outcome{Never: true, Limit: 10, Remaining: 3}, codes.InvalidArgument, "cost_exceeds_limit", "-1"},
		{"beyond the hint", daily, long, codes.ResourceExhausted, "quota_exceeded", "-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
				b.Outcomes()[0] = tt.outcome
				return nil
			}}, tt.limit)
			c, end := new(grpctest.House).Limit(NewServer(lim, ServerConfig{Key: ByMethod})).Open(t)
			defer end()
			a := grpctest.Ask(t, c)
			quota, retry, info := grpctest.Details(a.Status)
			if a.Status.Code() != tt.code || !slices.Equal(a.Trailer[answer.Pushback], []string{tt.pushback}) || !slices.Equal(a.Trailer["headgate-reason"], []string{tt.reason}) {
				t.Errorf("got %v", a)
			}
			if info.GetReason() != strings.ToUpper(tt.reason) || info.GetDomain() != "headgate" || info.GetMetadata()["limit"] != "x" || info.GetMetadata()["origin"] != "server" {
				t.Errorf("ErrorInfo: got %v", info)
			}
			if tt.outcome.Never != (retry == nil) || retry.GetRetryDelay().AsDuration() != tt.outcome.RetryAfter {
				t.Errorf("RetryInfo: got %v, want %v", retry, tt.outcome.RetryAfter)
			}
			if len(quota.GetViolations()) != 1 {
				t.Fatalf("QuotaFailure: got %v", quota)
			}
			v := quota.Violations[0]
			if v.QuotaId != "x" || v.Subject != "limit:x" || v.QuotaValue != 10 || !strings.HasPrefix(v.Description, tt.reason+": 1 asked for, ") ||
				(v.QuotaMetric == "concurrent-requests") != (tt.name == "concurrency") {
				t.Errorf("violation: got %v", v)
			}
			if strings.Contains(a.Status.Proto().String(), "EmptyCall") {
				t.Errorf("the status tells the key: %v", a.Status.Proto())
			}
		})
	}
}

func TestViolationsAreThoseThatRefuse(t *testing.T) {
	lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
		o := b.Outcomes()
		o[0], o[1], o[2] = headgate.Outcome{RetryAfter: time.Second}, headgate.Outcome{Allowed: true}, headgate.Outcome{RetryAfter: time.Minute}
		return nil
	}}, headgate.PerSecond(1).WithName("a"), headgate.PerHour(1).WithName("b"), headgate.PerMinute(1).WithName("c"))
	c, end := new(grpctest.House).Limit(NewServer(lim, ServerConfig{})).Open(t)
	defer end()
	a := grpctest.Ask(t, c)
	quota, _, info := grpctest.Details(a.Status)
	var got []string
	for _, v := range quota.GetViolations() {
		got = append(got, v.QuotaId)
	}
	if !slices.Equal(got, []string{"a", "c"}) || info.GetMetadata()["limit"] != "c" || !slices.Equal(a.Trailer[answer.Pushback], []string{"60000"}) {
		t.Errorf("got violations %v, %v, %v", got, info, a)
	}
}

func TestUndecided(t *testing.T) {
	away := &headgate.Error{Code: headgate.Unavailable, Err: errors.New("10.0.0.5: connection refused")}
	full := &headgate.Error{Code: headgate.Overloaded, Err: errors.New("full")}
	bad := &headgate.Error{Code: headgate.InvalidRequest, Field: "cost", Err: errors.New("9 of 8")}
	none := func(Call) (string, error) { return "", nil }
	for _, tt := range []struct {
		name   string
		err    error
		config ServerConfig
		want   string
		reason string // of ErrorInfo
	}{
		{"closed", away, ServerConfig{}, "Unavailable: The limits of this call could not be checked\ntrailer headgate-reason: store_unavailable\ntrailer headgate-degraded: closed", "STORE_UNAVAILABLE"},
		{"full", full, ServerConfig{}, "Unavailable: The limits of this call could not be checked\ntrailer headgate-reason: overloaded\ntrailer headgate-degraded: closed", "OVERLOADED"},
		{"open", away, ServerConfig{FailOpen: true}, "OK\nheader headgate-degraded: open", ""},
		{"bad cost", bad, ServerConfig{FailOpen: true}, "InvalidArgument: The call cannot be limited as it stands: cost", "INVALID_REQUEST"},
		{"no key", nil, ServerConfig{FailOpen: true, Key: none}, "InvalidArgument: The call cannot be limited as it stands: subject", "INVALID_REQUEST"},
		{"unknown plan", nil, ServerConfig{FailOpen: true, Plan: func(Call) string { return "gold" }}, "Internal: The limits of this call could not be checked", "INTERNAL"},
	} {
		for _, kind := range []string{"unary", "stream"} {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				var told atomic.Int64
				tt.config.OnError = func(Call, error) { told.Add(1) }
				lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
					b.Allowed = true
					return tt.err
				}}, headgate.PerMinute(1))
				c, end := new(grpctest.House).Limit(NewServer(lim, tt.config)).Open(t)
				defer end()
				a := grpctest.Ask(t, c)
				if kind == "stream" {
					a = grpctest.Converse(t, c, 1)
				}
				_, _, info := grpctest.Details(a.Status)
				if a.String() != tt.want || info.GetReason() != tt.reason || told.Load() != map[string]int64{"unary": 1, "stream": 2}[kind] {
					t.Errorf("got %v, reason %q, told %d times\nwant %s", a, info.GetReason(), told.Load(), tt.want)
				}
			})
		}
	}
}

func TestCostsPlansAndSkips(t *testing.T) {
	gold := inMemory(t, headgate.PerHour(100).WithName("rate"))
	c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(10).WithName("rate")), ServerConfig{
		Cost: func(c Call) int64 {
			if _, ok := c.Message.(*testgrpc.Empty); !ok {
				return -1
			}
			return 3
		},
		Plan:  func(c Call) string { return strings.Join(metadata.ValueFromIncomingContext(c.Context, "plan"), "") },
		Plans: map[string]*headgate.Limiter{"gold": gold},
		Skip:  func(c Call) bool { return len(metadata.ValueFromIncomingContext(c.Context, "skip")) > 0 },
	})).Open(t)
	defer end()
	for _, tt := range []struct {
		pairs []string
		want  string
	}{
		{nil, `"rate";r=7;t=2520`},
		{[]string{"plan", "gold"}, `"rate";r=97;t=3492`},
		{[]string{"skip", "1"}, ""},
		{nil, `"rate";r=4;t=1440`},
	} {
		if a := grpctest.Ask(t, c, tt.pairs...); strings.Join(a.Header["ratelimit"], "") != tt.want || a.Status.Code() != codes.OK {
			t.Errorf("%v: got %v, want %s", tt.pairs, a, tt.want)
		}
	}
	if a := grpctest.Converse(t, c, 0); a.Status.Code() != codes.InvalidArgument {
		t.Errorf("a stream at a cost of -1: got %v", a)
	}
}

func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers Headers
		want    []string
	}{
		{"default", 0, []string{"ratelimit", "ratelimit-policy"}},
		{"none", HeadersNone, nil},
		{"x-epoch", HeadersXEpoch, []string{"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}},
		{"all", HeadersIETF | HeadersDraft03 | HeadersXDelta, []string{"ratelimit", "ratelimit-limit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset",
			"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(1)), ServerConfig{Headers: tt.headers})).Open(t)
			defer end()
			a := grpctest.Ask(t, c)
			delete(a.Header, "content-type")
			if got := slices.Sorted(maps.Keys(a.Header)); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if a := grpctest.Ask(t, c); len(a.Trailer[answer.Pushback]) != 1 || len(a.Trailer["headgate-reason"]) != 1 {
				t.Errorf("a refusal without its wait or reason: %v", a)
			}
		})
	}
}

func TestXEpochIsAnInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerSecond(10)), ServerConfig{Headers: HeadersXEpoch})).Open(t)
		defer end()
		<-time.After(time.Microsecond) // the bubble's clock: 2000-01-01 00:00:00.000001
		if a := grpctest.Ask(t, c); !slices.Equal(a.Header["x-ratelimit-reset"], []string{"946684802"}) {
			t.Errorf("got %v, want 946684802", a)
		}
	})
}

func TestRetryJitter(t *testing.T) {
	lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
		b.Outcomes()[0] = headgate.Outcome{RetryAfter: 10 * time.Second}
		return nil
	}}, headgate.PerHour(1))
	c, end := new(grpctest.House).Limit(NewServer(lim, ServerConfig{RetryJitter: 10})).Open(t)
	defer end()
	seen := map[string]bool{}
	for range 50 {
		a := grpctest.Ask(t, c)
		ms, err := strconv.Atoi(strings.Join(a.Trailer[answer.Pushback], " "))
		_, retry, _ := grpctest.Details(a.Status)
		if err != nil || ms < 10_000 || ms > 11_000 || answer.Milliseconds(retry.GetRetryDelay().AsDuration()) != int64(ms) {
			t.Fatalf("got %v, %v, want 10000 to 11000", a, retry)
		}
		seen[a.Trailer[answer.Pushback][0]] = true
	}
	if len(seen) < 2 {
		t.Error("50 equal values: no spread")
	}
	if got := answer.Spread(headgate.MaxPeriod, 100); got < headgate.MaxPeriod || got > 2*headgate.MaxPeriod {
		t.Errorf("the longest wait: got %v", got)
	}
}

func TestOnLimited(t *testing.T) {
	answers := []error{status.Error(codes.PermissionDenied, "go away"), nil}
	c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(1)), ServerConfig{OnLimited: func(c Call, d headgate.Decision) error {
		if d.Reason != headgate.RateLimited || !strings.HasSuffix(c.Method, "/EmptyCall") {
			t.Errorf("told of %v, %v", c.Method, d.Reason)
		}
		err := answers[0]
		answers = answers[1:]
		return err
	}})).Open(t)
	defer end()
	grpctest.Ask(t, c)
	if a := grpctest.Ask(t, c); a.Status.Code() != codes.PermissionDenied || !slices.Equal(a.Trailer[answer.Pushback], []string{"-1"}) {
		t.Errorf("got %v", a)
	}
	if a := grpctest.Ask(t, c); a.Status.Code() != codes.ResourceExhausted {
		t.Errorf("nil instead of an error: got %v", a)
	}
}

func TestStacked(t *testing.T) {
	outer := NewServer(inMemory(t, headgate.PerHour(9).WithName("site")), ServerConfig{})
	inner := NewServer(inMemory(t, headgate.PerHour(1).WithName("login")), ServerConfig{})
	c, end := new(grpctest.House).Limit(outer).Limit(inner).Open(t)
	defer end()
	if got, want := grpctest.Ask(t, c).Header["ratelimit"], []string{`"login";r=0;t=3600`, `"site";r=8;t=3200`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	a := grpctest.Ask(t, c)
	if got, want := a.Trailer["ratelimit"], []string{`"login";r=0;t=3600`, `"site";r=7;t=2800`}; !slices.Equal(got, want) || a.Header["ratelimit"] != nil {
		t.Errorf("refused: got %v, want %q in the trailer", a, want)
	}
}

// A handler that sends its header early moves ours to the trailer.
func TestHeaderSentByHandler(t *testing.T) {
	h := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(1).WithName("x")), ServerConfig{}))
	h.Service.Unary = func(ctx context.Context) error { return grpc.SendHeader(ctx, metadata.Pairs("a", "b")) }
	c, end := h.Open(t)
	defer end()
	if a := grpctest.Ask(t, c); !slices.Equal(a.Header["a"], []string{"b"}) || !slices.Equal(a.Trailer["ratelimit"], []string{`"x";r=0;t=3600`}) {
		t.Errorf("got %v", a)
	}
}

func TestNewServerPanics(t *testing.T) {
	lim := inMemory(t, headgate.PerHour(1))
	plan := func(Call) string { return "" }
	for name, build := range map[string]func(){
		"no limiter":            func() { NewServer(nil, ServerConfig{}) },
		"none beside others":    func() { NewServer(lim, ServerConfig{Headers: HeadersNone | HeadersIETF}) },
		"unknown style":         func() { NewServer(lim, ServerConfig{Headers: 1 << 6}) },
		"jitter below 0":        func() { NewServer(lim, ServerConfig{RetryJitter: -1}) },
		"jitter above 100":      func() { NewServer(lim, ServerConfig{RetryJitter: 101}) },
		"hint below 0":          func() { NewServer(lim, ServerConfig{MaxRetryHint: -1}) },
		"hint above 24 h":       func() { NewServer(lim, ServerConfig{MaxRetryHint: 25 * time.Hour}) },
		"plans without Plan":    func() { NewServer(lim, ServerConfig{Plans: map[string]*headgate.Limiter{"a": lim}}) },
		"plan without limiter":  func() { NewServer(lim, ServerConfig{Plan: plan, Plans: map[string]*headgate.Limiter{"a": nil}}) },
		"plan without any name": func() { NewServer(lim, ServerConfig{Plan: plan, Plans: map[string]*headgate.Limiter{"": lim}}) },
		"slots for messages": func() {
			NewServer(inMemory(t, headgate.InFlight(1, time.Hour)), ServerConfig{MessageCost: func(Call) int64 { return 1 }})
		},
		"metadata without name": func() { ByMetadata("") },
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
