package grpcapi

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/middleware/grpcgate"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
	"github.com/headgate/headgate/server/front/fronttest"
)

const interceptorPolicy = `
version: 1
applications:
  shop:
    identity: [ip]
    rules:
      - {name: unary, match: {path: /grpc.testing.TestService/EmptyCall}, limits: [{name: burst, rate: 3/h}], message: Three an hour.}
      - {name: stream, match: {path: /grpc.testing.TestService/FullDuplexCall}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 1h}]}
`

// Two gRPC servers whose calls a server decides share rates and slots.
func TestInterceptorsOverAServer(t *testing.T) {
	address := listen(t, New(Config{Gate: fronttest.Open(t, interceptorPolicy)}))
	var houses []*grpctest.House
	var clients []testgrpc.TestServiceClient
	for range 2 {
		engine := newClient(t, address, client.Options{Timeout: 10 * time.Second})
		limits := grpcgate.NewServer(engine, grpcgate.ServerConfig{Application: "shop", OnError: func(_ grpclimit.Call, err error) { t.Error(err) }})
		h := &grpctest.House{Server: grpctest.Recovering()}
		c, end := h.Limit(limits).Open(t)
		defer end()
		houses, clients = append(houses, h), append(clients, c)
	}
	passed := 0
	for i := range 8 {
		a := grpctest.Ask(t, clients[i%2], "x-forwarded-for", "198.51.100.7", "trace-bin", "\xff")
		if a.Status.Code() == codes.OK {
			passed++
			continue
		}
		quota, retry, info := grpctest.Details(a.Status)
		wait := retry.GetRetryDelay().AsDuration()
		if a.Status.Code() != codes.ResourceExhausted || a.Status.Message() != "Three an hour." || info.GetReason() != "RATE_LIMITED" ||
			quota.GetViolations()[0].GetQuotaId() != "unary/burst" || wait < 19*time.Minute || wait > 20*time.Minute {
			t.Errorf("refused with %v, %v, %v", a, quota, info)
		}
	}
	if passed != 3 {
		t.Errorf("%d passed, want 3", passed)
	}
	for i, end := range []func() error{
		func() error { return nil },
		func() error { return errors.New("broken") },
		func() error { panic("broken") },
		func() error { return nil },
	} {
		leave := make(chan struct{})
		houses[i%2].Service.Duplex = func(s grpctest.Duplex) error {
			if err := s.SendHeader(metadata.MD{}); err != nil {
				return err
			}
			<-leave
			return end()
		}
		s, err := clients[i%2].FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if md, err := s.Header(); err != nil || strings.Join(md["headgate-reason"], "") != "ok" {
			t.Fatalf("stream %d: got %v, %v", i, md, err)
		}
		other := grpctest.Converse(t, clients[1-i%2], 0)
		if _, _, info := grpctest.Details(other.Status); info.GetReason() != "CONCURRENCY_EXCEEDED" {
			t.Errorf("beside stream %d: got %v", i, other)
		}
		close(leave)
		s.Recv() // until it has ended, and its slot is free
	}
}

// What a server says is at fault, what it is not asked, what cannot be sent to it, and
// one that is away.
func TestInterceptorsFaults(t *testing.T) {
	address := listen(t, New(Config{Gate: fronttest.Open(t, interceptorPolicy)}))
	engine := newClient(t, address, client.Options{Timeout: 10 * time.Second})
	gone := newClient(t, "127.0.0.1:1", client.Options{Timeout: 10 * time.Second})
	for _, tt := range []struct {
		name   string
		engine grpcgate.Engine
		config grpcgate.ServerConfig
		pairs  []string
		want   codes.Code
		told   headgate.Code
	}{
		{"application that is not there", engine, grpcgate.ServerConfig{Application: "lost", FailOpen: true}, nil, codes.Internal, headgate.NotFound},
		{"line break in the key", engine, grpcgate.ServerConfig{Application: "shop", FailOpen: true, Key: func(grpclimit.Call) (string, error) { return "a\nb", nil }}, nil, codes.InvalidArgument, headgate.InvalidRequest},
		{"key that is no UTF-8", engine, grpcgate.ServerConfig{Application: "shop", FailOpen: true, Key: func(grpclimit.Call) (string, error) { return "\xff", nil }}, nil, codes.InvalidArgument, headgate.Unknown},
		{"large metadata", engine, grpcgate.ServerConfig{Application: "shop", FailOpen: true}, []string{"x", strings.Repeat("x", 100<<10)}, codes.InvalidArgument, headgate.InvalidRequest},
		{"no server", gone, grpcgate.ServerConfig{Application: "shop"}, nil, codes.Unavailable, headgate.Unavailable},
		{"no server, open", gone, grpcgate.ServerConfig{Application: "shop", FailOpen: true}, nil, codes.OK, headgate.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told error
			tt.config.OnError = func(_ grpclimit.Call, err error) { told = err }
			c, end := new(grpctest.House).Limit(grpcgate.NewServer(tt.engine, tt.config)).Open(t)
			defer end()
			if a := grpctest.Ask(t, c, tt.pairs...); a.Status.Code() != tt.want || told == nil || headgate.CodeOf(told) != tt.told {
				t.Errorf("told %v, got %v", told, a)
			}
		})
	}
	// The largest metadata that is shown fits a message to the server.
	c, end := new(grpctest.House).Limit(grpcgate.NewServer(engine, grpcgate.ServerConfig{Application: "shop"})).Open(t)
	defer end()
	if a := grpctest.Ask(t, c, "x", strings.Repeat("x", 31<<10)); a.Status.Code() != codes.OK {
		t.Errorf("31 KiB of metadata: got %v", a)
	}
}

// Two processes share over a server what they may call.
func TestOutgoingCallsOverAServer(t *testing.T) {
	address := listen(t, New(Config{Gate: fronttest.Open(t, interceptorPolicy)}))
	var clients []testgrpc.TestServiceClient
	var reached atomic.Int64
	for range 2 {
		engine := newClient(t, address, client.Options{Timeout: 10 * time.Second})
		budget := grpcgate.Outgoing(engine, grpcgate.OutgoingConfig{Application: "shop", OnError: func(_ grpclimit.Call, err error) { t.Error(err) }})
		h := new(grpctest.House).LimitClient(grpclimit.NewClientOver(budget, grpclimit.ClientConfig{Key: func(grpclimit.Call) (string, error) { return "partner", nil }}))
		h.Service.Unary = func(context.Context) error {
			reached.Add(1)
			return nil
		}
		c, end := h.Open(t)
		defer end()
		clients = append(clients, c)
	}
	made := int64(0)
	for i := range 8 {
		a := grpctest.Ask(t, clients[i%2])
		if _, _, info := grpctest.Details(a.Status); a.Status.Code() == codes.OK {
			made++
		} else if a.Status.Code() != codes.ResourceExhausted || info.GetMetadata()["origin"] != "client" {
			t.Errorf("got %v, %v", a, info)
		}
	}
	if made != 3 || reached.Load() != 3 {
		t.Errorf("%d were made and %d reached their server, want 3", made, reached.Load())
	}
}
