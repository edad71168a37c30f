package grpcgate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
	"github.com/headgate/headgate/store/memstore"
)

const outgoingPolicy = `
version: 1
plans:
  bronze: {limits: [{name: hourly, rate: 2/h}]}
applications:
  default:
    rules:
      - {name: charge, match: {operation: charge}, limits: [{name: burst, rate: 2/h}]}
      - {name: line, match: {operation: line}, limits: [{name: burst, rate: 1/s}], max_wait: 30s}
      - {name: slots, match: {operation: slots}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 8s}]}
      - {name: leaky, match: {operation: leaky}, limits: [{name: drip, algorithm: leaky_bucket, rate: 1/s, burst: 3}]}
      - {name: words, match: {operation: words}, limits: [{name: tokens, rate: 100/h, unit: tokens}]}
      - {name: free, match: {operation: free}}
      - {name: call, match: {path: /grpc.testing.TestService/EmptyCall}, limits: [{name: burst, rate: 1/s}]}
`

// out is a House whose client's calls are decided by the engine.
func out(e Engine, c OutgoingConfig, cc grpclimit.ClientConfig) *grpctest.House {
	return new(grpctest.House).LimitClient(grpclimit.NewClientOver(Outgoing(e, c), cc))
}

func TestOutgoing(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name    string
		config  OutgoingConfig
		maxWait time.Duration
		at      []time.Duration // of three calls
		reason  string          // of the last
	}{
		{"waits for the rate", OutgoingConfig{}, time.Minute, []time.Duration{0, s, 2 * s}, ""},
		{"or fails", OutgoingConfig{}, 0, []time.Duration{0}, "RATE_LIMITED"},
		{"it waits itself, not in line", OutgoingConfig{Operation: does("line")}, time.Minute, []time.Duration{0, s, 2 * s}, ""},
		{"and not unless it may", OutgoingConfig{Operation: does("line")}, 0, []time.Duration{0}, "RATE_LIMITED"},
		{"a leaky bucket's delay", OutgoingConfig{Operation: does("leaky")}, 0, []time.Duration{0, s, 2 * s}, ""},
		{"one slot after the other", OutgoingConfig{Operation: does("slots")}, 0, []time.Duration{0, 0, 0}, ""},
		{"an operation", OutgoingConfig{Operation: does("charge")}, 0, []time.Duration{0, 0}, "RATE_LIMITED"},
		{"a plan", OutgoingConfig{Operation: does("free"), Plan: func(grpclimit.Call) string { return "bronze" }}, 0, []time.Duration{0, 0}, "RATE_LIMITED"},
		{"costs", OutgoingConfig{Operation: does("words"), Costs: func(grpclimit.Call) map[string]int64 { return map[string]int64{"tokens": 50} }}, 0, []time.Duration{0, 0}, "RATE_LIMITED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var at []time.Duration
				h := out(open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20})), tt.config, grpclimit.ClientConfig{MaxWait: tt.maxWait})
				h.Service.Unary = func(context.Context) error {
					at = append(at, time.Since(begin))
					return nil
				}
				c, end := h.Open(t)
				defer end()
				var a grpctest.Answer
				for range 3 {
					a = grpctest.Ask(t, c)
				}
				quota, _, info := grpctest.Details(a.Status)
				if !slices.Equal(at, tt.at) || info.GetReason() != tt.reason {
					t.Errorf("made after %v, want %v; the last: %v, want %q", at, tt.at, a, tt.reason)
				}
				if tt.reason != "" && (a.Status.Code() != codes.ResourceExhausted || info.GetMetadata()["origin"] != "client" || len(quota.GetViolations()) != 1 || quota.Violations[0].QuotaId != info.GetMetadata()["limit"]) {
					t.Errorf("the refusal: %v, %v, %v", a, info, quota)
				}
			})
		})
	}
}

// What is said of a call to the engine.
func TestOutgoingTells(t *testing.T) {
	var got gate.Request
	e := fake{take: func(_ context.Context, r *gate.Request, d *gate.Decision) error {
		got = *r
		d.Receive(&gate.Answer{Decision: headgate.Decision{Allowed: true, Reason: headgate.OK, BoundBy: -1}})
		return nil
	}}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret")
	for target, host := range map[string]string{"dns:///api.example.com:443": "api.example.com:443", "api.example.com": "api.example.com", "dns://8.8.8.8/api.example.com": "api.example.com"} {
		call := grpclimit.Call{Context: ctx, Method: "/a.B/C", Target: target}
		if v, release, err := Outgoing(e, OutgoingConfig{Application: "partners"}).Acquire(call, "acme", 7); err != nil || !v.Allowed || release != nil {
			t.Errorf("got %+v, %v", v, err)
		}
		want := gate.Request{Application: "partners", Subject: "acme", Cost: 7, CostSaid: true, Method: "POST", Host: host, Path: "/a.B/C", NoWait: true, Releases: true}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

// A slot is held, and renewed beyond its TTL, until the stream has ended.
func TestOutgoingSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []error
		config := OutgoingConfig{Operation: does("slots"), OnError: func(_ grpclimit.Call, err error) { told = append(told, err) }}
		h := out(open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20})), config, grpclimit.ClientConfig{})
		c, end := h.Open(t)
		defer end()
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.FullDuplexCall(ctx); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		a := grpctest.Ask(t, c)
		if _, _, info := grpctest.Details(a.Status); info.GetReason() != "CONCURRENCY_EXCEEDED" {
			t.Errorf("after a minute: got %v", a)
		}
		cancel()
		synctest.Wait()
		if a := grpctest.Ask(t, c); a.Status.Code() != codes.OK || len(told) != 0 {
			t.Errorf("after its end: got %v, told %v", a, told)
		}
	})
}

func TestOutgoingUndecided(t *testing.T) {
	for _, tt := range []struct {
		err      error
		failOpen bool
		want     codes.Code
	}{
		{errors.New("no server"), false, codes.Unavailable},
		{errors.New("no server"), true, codes.OK},
		{&headgate.Error{Code: headgate.NotFound, Field: "application", Err: errors.New("not in the policy")}, true, codes.Internal},
		{&headgate.Error{Code: headgate.InvalidRequest, Field: "subject", Err: errors.New("too long")}, true, codes.InvalidArgument},
	} {
		var told error
		e := fake{take: func(context.Context, *gate.Request, *gate.Decision) error { return tt.err }}
		c, end := out(e, OutgoingConfig{}, grpclimit.ClientConfig{FailOpen: tt.failOpen, OnError: func(_ grpclimit.Call, err error) { told = err }}).Open(t)
		if a := grpctest.Ask(t, c); a.Status.Code() != tt.want || told != tt.err {
			t.Errorf("%v, fail open %v: got %v, told %v", tt.err, tt.failOpen, a, told)
		}
		end()
	}
	g := open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
	c, end := out(g, OutgoingConfig{Application: "partnres"}, grpclimit.ClientConfig{FailOpen: true}).Open(t)
	defer end()
	if a := grpctest.Ask(t, c); a.Status.Code() != codes.Internal {
		t.Errorf("an unknown application: got %v", a)
	}
}

// What is held is given back where the call is never made.
func TestOutgoingNeverMade(t *testing.T) {
	h := out(open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20})), OutgoingConfig{Operation: does("slots")}, grpclimit.ClientConfig{})
	h.Client = append(h.Client, grpc.WithChainUnaryInterceptor(func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
		return status.Error(codes.Unauthenticated, "no token")
	}))
	c, end := h.Open(t)
	defer end()
	for range 3 {
		if _, err := c.EmptyCall(t.Context(), &testgrpc.Empty{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v", err)
		}
	}
}
