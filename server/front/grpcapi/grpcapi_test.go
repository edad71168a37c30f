package grpcapi

import (
	"context"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// serve starts a door on a fake gate.
func serve(tb testing.TB, c Config) (headgatev1.HeadgateServiceClient, *fakeGate) {
	tb.Helper()
	f := &fakeGate{}
	if c.Gate == nil {
		c.Gate = f
	}
	return headgatev1.NewHeadgateServiceClient(dial(tb, listen(tb, New(c)))), f
}

const testPolicy = `
version: 1
applications:
  a:
    rules:
      - {name: o, match: {operation: o}, limits: [{name: burst, rate: 2/h}]}
      - {name: slots, match: {operation: slots}, limits: [{name: s, algorithm: concurrency, max: 1}]}
`

func realGate(tb testing.TB, policy string) *gate.Gate {
	tb.Helper()
	g, err := gate.Open(tb.Context(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// TestMethods: every method of the API is served.
func TestMethods(t *testing.T) {
	var want, got []string
	for _, m := range headgatev1.HeadgateService_ServiceDesc.Methods {
		want = append(want, m.MethodName)
	}
	for _, m := range methods {
		got = append(got, m.name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("methods %v, want %v", got, want)
	}
}

// TestAsked: everything that a message says reaches the gate.
func TestAsked(t *testing.T) {
	f := &fakeGate{}
	take := &headgatev1.TakeRequest{
		Application: "a", Operation: "o", Subject: "s", Cost: new(int64(5)), Costs: map[string]int64{"tokens": 3, "bytes": 0}, Plan: "p",
		Attributes: map[string]string{"org": "acme"}, IdempotencyKey: "k", MaxWaitMs: new(int64(250)), NoWait: true, WaitCapMs: 20,
		Descriptor_: []*headgatev1.DescriptorEntry{{Key: "k", Value: "v"}, {Key: "k2"}},
		Request: &headgatev1.HttpRequest{
			Method: "POST", Path: "/x?y", Host: "h", Ip: "::ffff:203.0.113.9", Stranger: true,
			Headers: []*headgatev1.Header{{Name: "x-a", Values: []string{"1", "2"}}, {Name: "X-B", Values: []string{""}}},
		},
	}
	want := gate.Request{
		Application: "a", Operation: "o", Subject: "s", Cost: 5, CostSaid: true, Costs: take.Costs, Plan: "p",
		Attributes: take.Attributes, IdempotencyKey: "k", MaxWait: 250 * time.Millisecond, MaxWaitSaid: true, NoWait: true, WaitCap: 20 * time.Millisecond, Stranger: true,
		Descriptor: []gate.Entry{{Key: "k", Value: "v"}, {Key: "k2"}},
		Method:     "POST", Path: "/x?y", Host: "h", IP: netip.MustParseAddr("203.0.113.9"),
		Headers: http.Header{"X-A": {"1", "2"}, "X-B": {""}}, Releases: true,
	}
	var seen gate.Request
	check := func(ttl time.Duration, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(seen, want) || f.ttl != ttl {
			t.Errorf("asked %+v for %v\nwant %+v for %v", seen, f.ttl, want, ttl)
		}
		f.ttl = 0
	}
	s := &snapping{fakeGate: f, seen: &seen}
	stub, _ := serve(t, Config{Gate: s})
	_, err := stub.Take(t.Context(), take)
	check(0, err)
	_, err = stub.Peek(t.Context(), take)
	check(0, err)
	_, err = stub.Explain(t.Context(), take)
	check(0, err)
	_, err = stub.Reserve(t.Context(), &headgatev1.ReserveRequest{Take: take, TtlMs: 86400000})
	check(24*time.Hour, err)
	_, err = stub.Reserve(t.Context(), &headgatev1.ReserveRequest{Take: take})
	check(0, err)
	take.NoRelease, want.Releases = true, false
	_, err = stub.Take(t.Context(), take)
	check(0, err)
	take, want = &headgatev1.TakeRequest{}, gate.Request{Releases: true}
	_, err = stub.Take(t.Context(), take)
	check(0, err)
}

// snapping keeps requests with their maps, which are used again after a call.
type snapping struct {
	*fakeGate
	seen *gate.Request
}

func (s *snapping) snap(r *gate.Request) {
	*s.seen = *r
	s.seen.Headers, s.seen.Descriptor = r.Headers.Clone(), slices.Clone(r.Descriptor)
}

func (s *snapping) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	s.snap(r)
	return s.fakeGate.Take(ctx, r, d)
}

func (s *snapping) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return s.Take(ctx, r, d)
}

func (s *snapping) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	s.snap(r)
	return s.fakeGate.Explain(ctx, r, d, e)
}

func (s *snapping) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	s.snap(r)
	return s.fakeGate.Reserve(ctx, r, ttl, d)
}

func TestClaims(t *testing.T) {
	corrected := 0
	stub, f := serve(t, Config{Corrected: func(*gate.Decision) { corrected++ }, Admit: as("a")})
	check := func(want gate.Claim, d *headgatev1.Decision, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		reaches := f.claim.Reaches
		if f.claim.Reaches = nil; !reflect.DeepEqual(f.claim, want) || d.Held != (want.Ticket == "open") || !reaches("a") || reaches("b") {
			t.Errorf("asked %+v, want %+v; held %t", f.claim, want, d.Held)
		}
	}
	d, err := stub.Settle(t.Context(), &headgatev1.SettleRequest{Ticket: "open", Application: "a", Cost: new(int64(0)), Costs: map[string]int64{"tokens": 9}})
	check(gate.Claim{Ticket: "open", Application: "a", CostSaid: true, Costs: map[string]int64{"tokens": 9}}, d, err)
	d, err = stub.Settle(t.Context(), &headgatev1.SettleRequest{Ticket: "over"})
	check(gate.Claim{Ticket: "over"}, d, err)
	d, err = stub.Renew(t.Context(), &headgatev1.RenewRequest{Ticket: "open", Application: "a", TtlMs: 1})
	check(gate.Claim{Ticket: "open", Application: "a", TTL: time.Millisecond}, d, err)
	d, err = stub.Release(t.Context(), &headgatev1.ReleaseRequest{Ticket: "open", Application: "a"})
	check(gate.Claim{Ticket: "open", Application: "a"}, d, err)
	if corrected != 4 {
		t.Errorf("%d corrections were reported, want 4", corrected)
	}
}

func TestThrottle(t *testing.T) {
	decided := 0
	stub, f := serve(t, Config{Decided: func(*gate.Decision, time.Duration) { decided++ }})
	for _, tt := range []struct {
		in   *headgatev1.ThrottleRequest
		want gate.Throttle
	}{
		{&headgatev1.ThrottleRequest{Key: "k", Count: 5, PeriodUs: 1_500_000}, gate.Throttle{Key: "k", Count: 5, Period: 1500 * time.Millisecond, Cost: 1}},
		{&headgatev1.ThrottleRequest{Key: "k", Count: 5, PeriodUs: 1, Burst: 9, Cost: new(int64(0)), Peek: true}, gate.Throttle{Key: "k", Count: 5, Period: time.Microsecond, Burst: 9, Peek: true}},
	} {
		d, err := stub.Throttle(t.Context(), tt.in)
		if err != nil || f.throttle != tt.want || d.Allowed || d.RetryAfterUs != 1500 || d.Reason != headgatev1.Reason_REASON_RATE_LIMITED {
			t.Errorf("%v: %v, %v; asked %+v", tt.in, d, err, f.throttle)
		}
	}
	if decided != 1 {
		t.Errorf("%d decisions were reported, want that of the one that charges", decided)
	}
}

// wantStatus checks that an error is that status with those details.
func wantStatus(t *testing.T, err error, c codes.Code, reason, field, message string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != c || s.Message() != message {
		t.Errorf("got %v %q\nwant %v %q", s.Code(), s.Message(), c, message)
	}
	var info *errdetails.ErrorInfo
	var bad *errdetails.BadRequest
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.BadRequest:
			bad = d
		}
	}
	if info.GetReason() != reason || info.GetDomain() != "headgate" || info.GetMetadata()["field"] != field {
		t.Errorf("%v: info %v", err, info)
	}
	if (c == codes.InvalidArgument && field != "") != (bad != nil) {
		t.Errorf("%v: bad request %v", err, bad)
	}
	if bad != nil {
		v := bad.FieldViolations[0]
		if v.Field != field || field+": "+v.Description != message {
			t.Errorf("%v: violation %v", err, v)
		}
	}
}

// TestErrors: what the caller did wrong is told in full, of what went wrong inside only
// the kind; and a refusal is no error.
func TestErrors(t *testing.T) {
	panics := 0
	stub, _ := serve(t, Config{Panicked: func() { panics++ }})
	for _, tt := range []struct {
		in            *headgatev1.TakeRequest
		code          codes.Code
		reason, field string
		message       string
	}{
		{&headgatev1.TakeRequest{Application: "nowhere"}, codes.NotFound, "NOT_FOUND", "application", `application: "nowhere": no such application`},
		{&headgatev1.TakeRequest{Subject: "other"}, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "idempotency_key", "idempotency_key: was used for another request"},
		{&headgatev1.TakeRequest{Subject: "store away"}, codes.Unavailable, "UNAVAILABLE", "", "the store cannot decide at the moment"},
		{&headgatev1.TakeRequest{Subject: "full"}, codes.Unavailable, "OVERLOADED", "", "the store has no room for another key"},
		{&headgatev1.TakeRequest{Subject: "stopping"}, codes.Unavailable, "CLOSED", "", "the server is stopping"},
		{&headgatev1.TakeRequest{Subject: "broken"}, codes.Internal, "INTERNAL", "", "the server could not decide; its log says why"},
		{&headgatev1.TakeRequest{Subject: "bug"}, codes.Internal, "INTERNAL", "", "the server could not decide; its log says why"},
		{&headgatev1.TakeRequest{MaxWaitMs: new(int64(-1))}, codes.InvalidArgument, "INVALID_REQUEST", "max_wait_ms", "max_wait_ms: -1: must be 0 to 300000, which is 5m0s"},
		{&headgatev1.TakeRequest{WaitCapMs: -1}, codes.InvalidArgument, "INVALID_REQUEST", "wait_cap_ms", "wait_cap_ms: -1: must not be negative"},
		{&headgatev1.TakeRequest{Costs: map[string]int64{"a b": 1}}, codes.InvalidArgument, "INVALID_REQUEST", "costs", `costs: name "a b": ' ' is not one of a-z, A-Z, 0-9, '_', '.', '-'`},
		{&headgatev1.TakeRequest{Request: &headgatev1.HttpRequest{Ip: "1.2.3.4:5"}}, codes.InvalidArgument, "INVALID_REQUEST", "request.ip", `request.ip: "1.2.3.4:5": must be an IPv4 or IPv6 address, without port or zone`},
		{&headgatev1.TakeRequest{Request: &headgatev1.HttpRequest{Headers: []*headgatev1.Header{{Name: "x-a"}, {Name: "X-A"}}}}, codes.InvalidArgument, "INVALID_REQUEST", "request.headers.X-A", "request.headers.X-A: given twice"},
	} {
		_, err := stub.Take(t.Context(), tt.in)
		wantStatus(t, err, tt.code, tt.reason, tt.field, tt.message)
	}
	if panics != 1 {
		t.Errorf("%d panics were reported", panics)
	}
	_, err := stub.Reserve(t.Context(), &headgatev1.ReserveRequest{TtlMs: -1})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST", "ttl_ms", "ttl_ms: -1: must be 1 to 86400000, which is 24h0m0s")
	_, err = stub.Renew(t.Context(), &headgatev1.RenewRequest{TtlMs: 86400001})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST", "ttl_ms", "ttl_ms: 86400001: must be 1 to 86400000, which is 24h0m0s")
	_, err = stub.Throttle(t.Context(), &headgatev1.ThrottleRequest{Key: "k", Count: 1})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST", "rate", "rate: period 0 µs: must be 1 to 3153600000000000")
	many := make(map[string]int64)
	for i := range 17 {
		many[strings.Repeat("x", i+1)] = 1
	}
	_, err = stub.Settle(t.Context(), &headgatev1.SettleRequest{Ticket: "open", Costs: many})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST", "costs", "costs: more than 16 units")
	if d, err := stub.Take(t.Context(), &headgatev1.TakeRequest{}); err != nil || !d.Allowed {
		t.Errorf("after all that: %v, %v", d, err)
	}
}

// TestGone: who has given up is not charged, and gets the status of that.
func TestGone(t *testing.T) {
	stub, f := serve(t, Config{})
	f.hold = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := stub.Take(ctx, &headgatev1.TakeRequest{Subject: "waits"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	d := &door{Config: Config{Gate: f}}
	asked := f.asked.Load()
	gone, leave := context.WithCancel(t.Context())
	leave()
	read := func(v any) error { return codec{}.Unmarshal(nil, v) }
	if _, err := d.call(gone, &methods[0], read); status.Code(err) != codes.Canceled || f.asked.Load() != asked {
		t.Errorf("%v, asked %d times", err, f.asked.Load()-asked)
	}
}

// TestHooks: what may have charged is reported, and kept requests too.
func TestHooks(t *testing.T) {
	var decided []string
	hook := func(d *gate.Decision, took time.Duration) { decided = append(decided, d.Operation) }
	g := realGate(t, testPolicy)
	stub, _ := serve(t, Config{Gate: g, Decided: hook})
	take := func(operation string) *headgatev1.TakeRequest {
		return &headgatev1.TakeRequest{Application: "a", Operation: operation, Subject: "s"}
	}
	stub.Peek(t.Context(), take("peek"))
	stub.Explain(t.Context(), take("explain"))
	stub.Take(t.Context(), &headgatev1.TakeRequest{Application: "nowhere", Operation: "error"})
	stub.Take(t.Context(), take("take"))
	stub.Reserve(t.Context(), &headgatev1.ReserveRequest{Take: take("reserve")})
	stub.TakeBatch(t.Context(), &headgatev1.TakeBatchRequest{Items: []*headgatev1.TakeRequest{take("one"), {}, take("two")}})
	stub.TakeBatch(t.Context(), &headgatev1.TakeBatchRequest{Atomic: true, Items: []*headgatev1.TakeRequest{take("three"), take("four")}})
	if want := []string{"take", "reserve", "one", "two", "three", "four"}; !slices.Equal(decided, want) {
		t.Errorf("reported %q, want %q", decided, want)
	}
}

func TestExplain(t *testing.T) {
	stub, _ := serve(t, Config{})
	e, err := stub.Explain(t.Context(), &headgatev1.TakeRequest{Subject: "s"})
	if err != nil || e.Decision.Subject != "s" || e.Explanation.Verdict != "Allowed." || len(e.Explanation.Steps) != 1 || e.Explanation.Steps[0].Text != "No rule \"o\"." {
		t.Errorf("%v, %v", e, err)
	}
}

// TestAnyBytes: a subject that was made of something else than text is told as well as
// it can be, and its request is not lost after it was charged.
func TestAnyBytes(t *testing.T) {
	stub, _ := serve(t, Config{Gate: &saying{answer: &gate.Answer{Subject: "a\xffb", Costs: []gate.UnitCost{{Unit: "\xff"}}}}})
	if d, err := stub.Take(t.Context(), &headgatev1.TakeRequest{}); err != nil || d.Subject != "a\ufffdb" {
		t.Errorf("%v, %v", d, err)
	}
}

// TestBadMessages: what is no message, or too large or too rich a one, is the caller's
// fault and is told so.
func TestBadMessages(t *testing.T) {
	f := &fakeGate{}
	conn := dial(t, listen(t, New(Config{Gate: f})))
	attributes := func(n int) []byte {
		var b []byte
		for range n {
			b = append(b, 7<<3|2, 0) // an empty entry
		}
		return b
	}
	headers := func(n int) []byte {
		inner := make([]byte, 0, 2*n)
		for range n {
			inner = append(inner, 4<<3|2, 0)
		}
		return append([]byte{8<<3 | 2, byte(len(inner))&0x7f | 0x80, byte(len(inner) >> 7)}, inner...)
	}
	large, err := proto.Marshal(&headgatev1.TakeRequest{Subject: strings.Repeat("x", MaxMessage)})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw     []byte
		message string
	}{
		"cut off":     {[]byte{1<<3 | 2, 5, 'a'}, errWire.Error()},
		"no tag":      {[]byte{0xff}, errWire.Error()},
		"not UTF-8":   {[]byte{1<<3 | 2, 1, 0xff}, errWire.Error()},
		"too large":   {large, "the message has 65540 bytes: at most 65536"},
		"too many":    {attributes(MaxFields + 1), errTooManyFields.Error()},
		"too many in": {headers(MaxFields), errTooManyFields.Error()},
		"as many":     {attributes(MaxFields), ""},
		"as many in":  {headers(MaxFields - 1), "request.headers.: given twice"},
		"what is new": {[]byte{0xf8, 0x01, 1}, ""},
		"nothing":     {nil, ""},
	} {
		out := new(headgatev1.Decision)
		err := conn.Invoke(t.Context(), headgatev1.HeadgateService_Take_FullMethodName, tt.raw, out, grpc.ForceCodecV2(rawCodec{}))
		switch s := status.Convert(err); {
		case tt.message == "" && (err != nil || !out.Allowed):
			t.Errorf("%s: %v", name, err)
		case s.Message() != tt.message || tt.message != "" && s.Code() != codes.InvalidArgument:
			t.Errorf("%s: got %v %q, want %q", name, s.Code(), s.Message(), tt.message)
		}
	}
	n := f.asked.Load()
	err = conn.Invoke(t.Context(), headgatev1.HeadgateService_TakeBatch_FullMethodName, make([]byte, MaxBatch+1), new(headgatev1.TakeBatchResponse), grpc.ForceCodecV2(rawCodec{}))
	if status.Code(err) != codes.ResourceExhausted || f.asked.Load() != n {
		t.Errorf("a batch that is too large: %v", err)
	}
}

// TestReleases: slots that must be released are only for those who will.
func TestReleases(t *testing.T) {
	stub, _ := serve(t, Config{Gate: realGate(t, testPolicy)})
	in := &headgatev1.TakeRequest{Application: "a", Operation: "slots", Subject: "s", NoRelease: true}
	if _, err := stub.Take(t.Context(), in); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a release: %v", err)
	}
	in.NoRelease = false
	d, err := stub.Take(t.Context(), in)
	if err != nil || d.Ticket == "" {
		t.Fatalf("%v, %v", d, err)
	}
	if d, err := stub.Release(t.Context(), &headgatev1.ReleaseRequest{Ticket: d.Ticket}); err != nil || !d.Held {
		t.Errorf("%v, %v", d, err)
	}
}

var _ decider = (*gate.Gate)(nil)
