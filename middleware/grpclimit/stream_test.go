package grpclimit

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
)

func TestStreamIsChargedOnce(t *testing.T) {
	c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(2).WithName("x")), ServerConfig{})).Open(t)
	defer end()
	const opened = `OK
header ratelimit-policy: "x";q=2;w=3600
header ratelimit: "x";r=1;t=1800`
	if got := grpctest.Converse(t, c, 50).String(); got != opened {
		t.Errorf("got  %s\nwant %s", got, opened)
	}
	grpctest.Converse(t, c, 0)
	a := grpctest.Converse(t, c, 1)
	if a.Status.Code() != codes.ResourceExhausted || len(a.Header["ratelimit"]) != 0 || len(a.Trailer["ratelimit"]) != 1 || len(a.Trailer[answer.Pushback]) != 1 {
		t.Errorf("a third stream: got %v", a)
	}
}

// size is what a message costs: 1 and a token for each byte it asks for.
func size(c Call) int64 {
	cost := int64(1)
	for _, p := range c.Message.(*testgrpc.StreamingOutputCallRequest).GetResponseParameters() {
		cost += int64(p.GetSize())
	}
	return cost
}

func TestMessagesAreCharged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle func(grpctest.Duplex) error
	}{
		{"echo", grpctest.Echo},
		{"a handler that takes the refusal for the end", func(s grpctest.Duplex) error {
			for {
				if _, err := s.Recv(); err != nil {
					if _, again := s.Recv(); again == nil || errors.Is(again, io.EOF) {
						t.Errorf("received after the refusal: %v", again)
					}
					return nil
				}
				if err := s.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
					return err
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := new(grpctest.House)
			h.Service.Duplex = tt.handle
			c, end := h.Limit(NewServer(inMemory(t, headgate.PerHour(5).WithName("x")), ServerConfig{MessageCost: size})).Open(t)
			defer end()
			stream, err := c.FullDuplexCall(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			for range 3 { // the stream takes 1, two messages 2 each, the third finds nothing
				if stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1}}}) != nil {
					break
				}
				if _, err = stream.Recv(); err != nil {
					break
				}
				got++
			}
			a := grpctest.Answer{Trailer: stream.Trailer(), Status: status.Convert(err)}
			quota, _, _ := grpctest.Details(a.Status)
			if got != 2 || a.Status.Code() != codes.ResourceExhausted || len(quota.GetViolations()) != 1 ||
				!slices.Equal(a.Trailer["ratelimit"], []string{`"x";r=0;t=1440`}) || !slices.Equal(a.Trailer[answer.Pushback], []string{"-1"}) {
				t.Errorf("after %d messages: got %v", got, a)
			}
		})
	}
}

func TestMessageBeforeAnyAnswer(t *testing.T) {
	c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(1).WithName("x")), ServerConfig{MessageCost: size})).Open(t)
	defer end()
	const want = `ResourceExhausted: Too many calls
trailer ratelimit-policy: "x";q=1;w=3600
trailer ratelimit: "x";r=0;t=3600
trailer headgate-reason: rate_limited
trailer headgate-limit: x
trailer grpc-retry-pushback-ms: -1`
	if got := grpctest.Converse(t, c, 1).String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMessagesUndecided(t *testing.T) {
	for _, open := range []bool{false, true} {
		n := 0
		lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
			b.Allowed = true
			if n++; n > 1 {
				return errors.New("away")
			}
			return nil
		}}, headgate.PerHour(1))
		c, end := new(grpctest.House).Limit(NewServer(lim, ServerConfig{FailOpen: open, MessageCost: size})).Open(t)
		a := grpctest.Converse(t, c, 3)
		if want := map[bool]codes.Code{false: codes.Unavailable, true: codes.OK}[open]; a.Status.Code() != want {
			t.Errorf("open %v: got %v", open, a)
		}
		end()
	}
}

// A leaky bucket lets messages in at its pace.
func TestMessagesAreShaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		h := new(grpctest.House)
		h.Service.Duplex = func(s grpctest.Duplex) error {
			for {
				if _, err := s.Recv(); err != nil {
					return nil
				}
				at = append(at, time.Since(begin))
			}
		}
		lim := inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 2, Period: time.Second, Burst: 2})
		c, end := h.Limit(NewServer(lim, ServerConfig{MessageCost: size})).Open(t)
		defer end()
		if a := grpctest.Converse(t, c, 4); a.Status.Code() != codes.OK {
			t.Errorf("got %v", a)
		}
		if want := []time.Duration{time.Second / 2, time.Second, 3 * time.Second / 2, 2 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("messages after %v, want %v", at, want)
		}
	})
}

func TestHeaderOfStream(t *testing.T) {
	h := new(grpctest.House)
	h.Service.Duplex = func(s grpctest.Duplex) error {
		s.SetHeader(metadata.Pairs("a", "1"))
		if err := s.SendHeader(metadata.Pairs("b", "2")); err != nil {
			return err
		}
		_, err := s.Recv() // the client sends when it has the header
		if err == io.EOF {
			err = nil
		}
		return err
	}
	c, end := h.Limit(NewServer(inMemory(t, headgate.PerHour(1).WithName("x")), ServerConfig{})).Open(t)
	defer end()
	stream, err := c.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	md, err := stream.Header()
	if err != nil || !slices.Equal(md["ratelimit"], []string{`"x";r=0;t=3600`}) || md["a"] == nil || md["b"] == nil {
		t.Errorf("got %v, %v", md, err)
	}
	stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
}

func TestSkippedStream(t *testing.T) {
	c, end := new(grpctest.House).Limit(NewServer(inMemory(t, headgate.PerHour(1)), ServerConfig{
		Skip: func(c Call) bool { return c.Method == testgrpc.TestService_FullDuplexCall_FullMethodName },
	})).Open(t)
	defer end()
	for range 3 {
		if a := grpctest.Converse(t, c, 1); a.Status.Code() != codes.OK || a.Header["ratelimit"] != nil {
			t.Errorf("got %v", a)
		}
	}
}

// TestRefusedMessageEndsTheHandler: a handler that receives in one goroutine and sends, or
// waits, in another does not go on after the refusal.
func TestRefusedMessageEndsTheHandler(t *testing.T) {
	for name, rest := range map[string]func(grpctest.Duplex) error{
		"sends": func(s grpctest.Duplex) error {
			for {
				if err := s.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
					if status.Code(err) != codes.ResourceExhausted {
						t.Errorf("Send: got %v, want the refusal", err)
					}
					return nil
				}
				<-time.After(20 * time.Millisecond)
			}
		},
		"waits": func(s grpctest.Duplex) error {
			<-s.Context().Done()
			if cause := context.Cause(s.Context()); status.Code(cause) != codes.ResourceExhausted {
				t.Errorf("the context ended with %v, want the refusal", cause)
			}
			return s.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := new(grpctest.House)
				h.Service.Duplex = func(s grpctest.Duplex) error {
					go func() {
						for {
							if _, err := s.Recv(); err != nil {
								return
							}
						}
					}()
					return rest(s)
				}
				c, end := h.Limit(NewServer(inMemory(t, headgate.PerHour(2).WithName("x")), ServerConfig{MessageCost: size})).Open(t)
				defer end()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				stream, err := c.FullDuplexCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 { // the stream takes 1, the first message 1, the second finds nothing
					if err := stream.Send(&testgrpc.StreamingOutputCallRequest{}); err != nil {
						t.Fatal(err)
					}
				}
				for err == nil {
					_, err = stream.Recv()
				}
				if status.Code(err) != codes.ResourceExhausted || time.Since(begin) > time.Second {
					t.Errorf("got %v after %v, want the refusal at once", err, time.Since(begin))
				}
			})
		})
	}
}
