package grpclimit

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
	"github.com/headgate/headgate/store/memstore"
)

// retries is a client whose own back-off would be an hour or so.
var retries = grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "3600s", "maxBackoff": "3600s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "INVALID_ARGUMENT"]}}]}`)

// counted counts the Takes that reach a store.
type counted struct {
	headgate.Store
	takes *atomic.Int64
}

func (c counted) Apply(ctx context.Context, b *headgate.Batch) error {
	if b.Op == headgate.Take {
		c.takes.Add(1)
	}
	return c.Store.Apply(ctx, b)
}

// grpc's own retry policy comes back when it is told to, and not where it is
// told that there is no use.
func TestRetryPolicyHonoursPushback(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limit  headgate.Limit
		config ServerConfig
		code   codes.Code
		waited time.Duration
		takes  int64
	}{
		{"after the wait", headgate.Per(1, 1500*time.Millisecond), ServerConfig{}, codes.OK, 1500 * time.Millisecond, 3},
		{"as long as the hint", headgate.PerMinute(1), ServerConfig{}, codes.OK, time.Minute, 3},
		{"not beyond it", headgate.Per(1, 61*time.Second), ServerConfig{}, codes.ResourceExhausted, 0, 2},
		{"unless it is longer", headgate.PerHour(1), ServerConfig{MaxRetryHint: 24 * time.Hour}, codes.OK, time.Hour, 3},
		{"never", headgate.PerSecond(1), ServerConfig{Cost: func(c Call) int64 { return 2 }}, codes.InvalidArgument, 0, 1},
	} {
		for _, kind := range []string{"unary", "stream"} {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var takes atomic.Int64
					lim := limiter(t, counted{memstore.New(memstore.Config{}), &takes}, tt.limit)
					h := &grpctest.House{Client: []grpc.DialOption{retries}}
					c, end := h.Limit(NewServer(lim, tt.config)).Open(t)
					defer end()
					call := func() grpctest.Answer { return grpctest.Ask(t, c) }
					if kind == "stream" {
						call = func() grpctest.Answer { return grpctest.Converse(t, c, 1) }
					}
					if tt.takes > 1 {
						if a := call(); a.Status.Code() != codes.OK {
							t.Fatalf("the first call: got %v", a)
						}
					}
					begin := time.Now()
					a := call()
					if a.Status.Code() != tt.code || time.Since(begin) != tt.waited || takes.Load() != tt.takes {
						t.Errorf("after %v and %d takes: got %v\nwant %v after %v and %d", time.Since(begin), takes.Load(), a, tt.code, tt.waited, tt.takes)
					}
				})
			})
		}
	}
}

// A client does not retry an error that comes with a header: ours must not
// stand in the way of retries of what the handler answers.
func TestHandlersErrorsAreRetried(t *testing.T) {
	for _, kind := range []string{"unary", "stream"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				fail := func() error {
					if calls++; calls < 3 {
						return status.Error(codes.Unavailable, "starting")
					}
					return nil
				}
				h := &grpctest.House{Client: []grpc.DialOption{retries}}
				h.Service.Unary = func(context.Context) error { return fail() }
				h.Service.Duplex = func(s grpctest.Duplex) error {
					if err := fail(); err != nil {
						return err
					}
					return grpctest.Echo(s)
				}
				c, end := h.Limit(NewServer(inMemory(t, headgate.PerSecond(100).WithName("x")), ServerConfig{})).Open(t)
				defer end()
				a := grpctest.Answer{}
				if kind == "unary" {
					a = grpctest.Ask(t, c)
				} else {
					a = grpctest.Converse(t, c, 1)
				}
				if a.Status.Code() != codes.OK || calls != 3 || len(a.Header["ratelimit"]) != 1 {
					t.Errorf("after %d calls: got %v", calls, a)
				}
			})
		})
	}
}

func TestHandlersErrorsTellOfTheLimits(t *testing.T) {
	h := new(grpctest.House)
	h.Service.Unary = func(context.Context) error { return status.Error(codes.NotFound, "no such thing") }
	h.Service.Duplex = func(grpctest.Duplex) error { return status.Error(codes.NotFound, "no such thing") }
	c, end := h.Limit(NewServer(inMemory(t, headgate.PerHour(2).WithName("x")), ServerConfig{})).Open(t)
	defer end()
	for i, a := range []grpctest.Answer{grpctest.Ask(t, c), grpctest.Converse(t, c, 0)} {
		want := `NotFound: no such thing
trailer ratelimit-policy: "x";q=2;w=3600
trailer ratelimit: "x";` + []string{"r=1;t=1800", "r=0;t=1800"}[i]
		if got := a.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
