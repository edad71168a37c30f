package grpcgate

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
)

// used returns how much of the rule's limit the client has used.
func used(t *testing.T, g *gate.Gate, operation string) int64 {
	t.Helper()
	var d gate.Decision
	q := gate.Request{Application: "default", Operation: operation, IP: netip.MustParseAddr("203.0.113.9"), Releases: true}
	if err := g.Peek(t.Context(), &q, &d); err != nil {
		t.Fatal(err)
	}
	return d.Limits()[0].Used
}

func TestSlot(t *testing.T) {
	grpctest.Slot(t, func() grpctest.ServerInterceptors {
		return NewServer(inMemory(t), ServerConfig{Operation: does("slots")})
	})
}

func TestNeverMoreInFlightThanSlots(t *testing.T) {
	g := inMemory(t)
	grpctest.Slots(t, NewServer(g, ServerConfig{Operation: does("slots")}), 1)
	if n := used(t, g, "slots"); n != 0 {
		t.Errorf("%d slots are held", n)
	}
}

// TestSlotOfBrokenHook: a hook that panics keeps no slot.
func TestSlotOfBrokenHook(t *testing.T) {
	g := inMemory(t)
	s := NewServer(g, ServerConfig{Operation: does("slots"), Decided: func(*gate.Decision, time.Duration) { panic("hook") }})
	ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9)}})
	func() {
		defer func() {
			if recover() != "hook" {
				t.Error("no panic")
			}
		}()
		s.Unary(ctx, nil, method, func(context.Context, any) (any, error) { return nil, nil })
	}()
	if n := used(t, g, "slots"); n != 0 {
		t.Errorf("%d slots are held", n)
	}
}

func TestDelayIsWaitedFor(t *testing.T) {
	grpctest.Delay(t, func() grpctest.ServerInterceptors {
		return NewServer(inMemory(t), ServerConfig{Operation: does("leaky")})
	}, 1500*time.Millisecond) // it waits in the gate
}

// TestRenewal: a stream that lasts longer than the TTL keeps its slot, although its client
// has left and a renewal fails now and then, and no longer than it lasts.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		renewals := 0
		e := fake{Gate: g, renew: func(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
			if renewals++; renewals%3 != 0 {
				return errors.New("lost on the way")
			}
			return g.Renew(ctx, c, d)
		}}
		var told []error
		h := house(e, ServerConfig{Operation: does("slots"), OnError: func(_ grpclimit.Call, err error) { told = append(told, err) }})
		ended := make(chan struct{})
		h.Service.Duplex = func(grpctest.Duplex) error {
			defer close(ended)
			for range 39 {
				<-time.After(9 * time.Second)
				if n := used(t, g, "slots"); n != 1 {
					t.Errorf("%d slots are held", n)
				}
			}
			return nil
		}
		c, end := h.Open(t)
		defer end()
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.FullDuplexCall(ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel() // the client leaves
		<-ended
		synctest.Wait()
		if n := used(t, g, "slots"); n != 0 {
			t.Errorf("%d slots are held", n)
		}
		if renewals != 46 || len(told) != 31 || told[0].Error() != "renew: lost on the way" { // each 7.5 of 351 s
			t.Errorf("%d renewals, told %v", renewals, told)
		}
		<-time.After(time.Hour)
		if renewals != 46 {
			t.Errorf("%d renewals after the end", renewals-46)
		}
	})
}

func TestReleaseOutlivesTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released, told error
		e := fake{Gate: inMemory(t), release: func(ctx context.Context, _ *gate.Claim, _ *gate.Decision) error {
			released = ctx.Err()
			return errors.New("lost")
		}}
		h := house(e, ServerConfig{Operation: does("slots"), OnError: func(_ grpclimit.Call, err error) { told = err }})
		h.Service.Unary = func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
		c, end := h.Open(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.EmptyCall(ctx, &testgrpc.Empty{})
		end()
		synctest.Wait()
		if released != nil || told == nil || told.Error() != "release: lost" {
			t.Errorf("released with %v, told %v", released, told)
		}
	})
}

// TestSlotOfBrokenStreams: an error after the first message, and a panic in the middle of a
// stream, end what is held.
func TestSlotOfBrokenStreams(t *testing.T) {
	g := inMemory(t)
	for name, fail := range map[string]func() error{
		"error": func() error { return status.Error(codes.DataLoss, "broken") },
		"panic": func() error { panic("broken") },
	} {
		h := &grpctest.House{Server: grpctest.Recovering()}
		h.Limit(NewServer(g, ServerConfig{Operation: does("slots")}))
		h.Service.Duplex = func(s grpctest.Duplex) error {
			if err := s.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
				return err
			}
			return fail()
		}
		c, end := h.Open(t)
		a := grpctest.Converse(t, c, 0)
		end()
		if len(a.Header["headgate-reason"]) != 1 || a.Status.Code() == codes.OK || used(t, g, "slots") != 0 {
			t.Errorf("%s: %d slots are held, got %v", name, used(t, g, "slots"), a)
		}
	}
}

// TestWaitInLine: a call waits for its turn, or until its rule or WaitCap ends it.
func TestWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		c, end := house(g, ServerConfig{Operation: does("line")}).Open(t)
		defer end()
		begin := time.Now()
		grpctest.Ask(t, c)
		if a := grpctest.Ask(t, c); a.Status.Code() != codes.OK || time.Since(begin) != 4*time.Second {
			t.Errorf("after %v: %v", time.Since(begin), a)
		}
		h := house(g, ServerConfig{Operation: does("queue")})
		h.Service.Unary = func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
		queue, stop := h.Open(t)
		defer stop()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { queue.EmptyCall(ctx, &testgrpc.Empty{}) })
		synctest.Wait()
		begin = time.Now()
		a := grpctest.Converse(t, queue, 0)
		if _, _, info := grpctest.Details(a.Status); a.Status.Code() != codes.ResourceExhausted || info.GetReason() != "WAIT_TIMEOUT" || time.Since(begin) != DefaultWaitCap {
			t.Errorf("waited %v: %v", time.Since(begin), a)
		}
		cancel()
		wg.Wait()
		synctest.Wait()
		if g.Waiting() != 0 || used(t, g, "queue") != 0 {
			t.Errorf("%d wait, %d slots are held", g.Waiting(), used(t, g, "queue"))
		}
	})
}

// TestClientLeavesTheLine: whose call ends while it waits holds nothing and is not waited
// for, whatever FailOpen says. Who would wait beyond a deadline is refused in time to hear
// of it.
func TestClientLeavesTheLine(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave func(context.Context) (context.Context, context.CancelFunc)
		code  codes.Code
	}{
		{"cancels", context.WithCancel, codes.Canceled},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, codes.ResourceExhausted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := inMemory(t)
				var told error
				var ran atomic.Int64
				h := house(g, ServerConfig{Operation: does("queue"), FailOpen: true, OnError: func(_ grpclimit.Call, err error) { told = err }})
				h.Service.Unary = func(ctx context.Context) error {
					ran.Add(1)
					<-ctx.Done()
					return nil
				}
				c, end := h.Open(t)
				first, endFirst := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { c.EmptyCall(first, &testgrpc.Empty{}) })
				synctest.Wait()
				ctx, leave := tt.leave(t.Context())
				wg.Go(func() {
					if _, err := c.EmptyCall(ctx, &testgrpc.Empty{}); status.Code(err) != tt.code {
						t.Errorf("left: got %v", err)
					}
				})
				synctest.Wait()
				if g.Waiting() != 1 {
					t.Errorf("%d wait, want 1", g.Waiting())
				}
				if tt.name == "deadline" {
					<-time.After(time.Second)
					synctest.Wait()
				}
				leave()
				synctest.Wait()
				if g.Waiting() != 0 || used(t, g, "queue") != 1 || (told == nil) != (tt.name == "deadline") || ran.Load() != 1 {
					t.Errorf("%d wait, %d slots are held, told %v, %d ran", g.Waiting(), used(t, g, "queue"), told, ran.Load())
				}
				endFirst()
				wg.Wait()
				end()
				synctest.Wait()
				if used(t, g, "queue") != 0 {
					t.Errorf("%d slots are held at the end", used(t, g, "queue"))
				}
			})
		})
	}
}

// TestClientLeavesTheBucket: what a leaky bucket has charged stays so where the client
// leaves while it waits, and is counted.
func TestClientLeavesTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rules []string
		c, end := house(inMemory(t), ServerConfig{Operation: does("leaky"), Decided: func(d *gate.Decision, _ time.Duration) { rules = append(rules, d.Rule) }}).Open(t)
		defer end()
		grpctest.Ask(t, c)
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { c.EmptyCall(ctx, &testgrpc.Empty{}) })
		synctest.Wait()
		if len(rules) != 1 {
			t.Errorf("decided %v before its turn", rules)
		}
		leave()
		wg.Wait()
		synctest.Wait()
		if len(rules) != 2 || rules[1] != "leaky" {
			t.Errorf("decided %v", rules)
		}
	})
}

// TestGoneIsNotAway: a client that has left is no reason to run the handler.
func TestGoneIsNotAway(t *testing.T) {
	contexts, _ := calls(1)
	ctx, cancel := context.WithCancel(contexts[0])
	e := fake{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error {
		cancel()
		return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the request was ended")}
	}}
	handler := func(context.Context, any) (any, error) { return nil, errors.New("the handler ran") }
	if _, err := NewServer(e, ServerConfig{FailOpen: true}).Unary(ctx, nil, method, handler); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}

// A slot of one Server is free again where another behind it refuses.
func TestStacked(t *testing.T) {
	g := inMemory(t)
	h := house(g, ServerConfig{Operation: does("slots")})
	h.Limit(NewServer(g, ServerConfig{Operation: does("polite")}))
	c, end := h.Open(t)
	defer end()
	for i, want := range []codes.Code{codes.OK, codes.ResourceExhausted, codes.ResourceExhausted} {
		if a := grpctest.Ask(t, c); a.Status.Code() != want {
			t.Errorf("call %d: got %v", i, a)
		}
		if n := used(t, g, "slots"); n != 0 {
			t.Errorf("call %d: %d slots are held", i, n)
		}
	}
}

// A server that is stopped lets go of what its calls hold.
func TestServerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		h := house(g, ServerConfig{Operation: does("slots")})
		h.Service.Duplex = func(s grpctest.Duplex) error {
			<-s.Context().Done()
			return nil
		}
		c, end := h.Open(t)
		if _, err := c.FullDuplexCall(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := used(t, g, "slots"); n != 1 {
			t.Errorf("%d slots are held", n)
		}
		end()
		synctest.Wait()
		if n := used(t, g, "slots"); n != 0 {
			t.Errorf("%d slots are held after the end", n)
		}
	})
}
