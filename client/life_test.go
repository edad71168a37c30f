package client

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// asksForLife makes a server that puts every question whether it lives into asked, and
// answers it if it lives.
func asksForLife(asked chan<- string, lives bool) grpc.ServerOption {
	return grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		asked <- method
		if !lives {
			<-s.Context().Done()
		}
		return status.Error(codes.Unimplemented, "unknown service")
	})
}

func TestWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    gate.Request
		want time.Duration
	}{
		{"only the rule knows", gate.Request{}, policy.MaxMaxWait},
		{"cap", gate.Request{WaitCap: time.Second}, time.Second},
		{"its own word", gate.Request{MaxWait: time.Second, MaxWaitSaid: true}, time.Second},
		{"its own word is 0", gate.Request{MaxWaitSaid: true, WaitCap: time.Second}, 0},
		{"its own word is bad", gate.Request{MaxWait: -1, MaxWaitSaid: true}, 0},
		{"both", gate.Request{MaxWait: time.Minute, MaxWaitSaid: true, WaitCap: time.Second}, time.Second},
		{"more than any rule", gate.Request{MaxWait: time.Hour, MaxWaitSaid: true, WaitCap: time.Hour}, policy.MaxMaxWait},
		{"the caller waits", gate.Request{NoWait: true, WaitCap: time.Second}, 0},
	} {
		if got := waits(&tt.r); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestLine: standing in line is no silence, however short the time-out is. All who wait ask
// once whether the server lives.
func TestLine(t *testing.T) {
	l := tcp(t)
	asked := make(chan string, 1000)
	f := serve(t, l, asksForLife(asked, true))
	c := newClient(t, l.Addr().String(), Options{Timeout: time.Second})
	taken := make(chan error)
	const waiting = 20
	for range waiting {
		go func() {
			taken <- c.Take(t.Context(), &gate.Request{Subject: "waits", WaitCap: time.Minute}, new(gate.Decision))
		}()
		<-f.in
	}
	for range 2 {
		if method := <-asked; method != "/grpc.health.v1.Health/Check" {
			t.Errorf("asked %s", method)
		}
	}
	close(f.hold)
	for range waiting {
		if err := <-taken; err != nil {
			t.Error(err)
		}
	}
	if n := len(asked); n >= waiting {
		t.Errorf("asked %d times more for %d requests", n, waiting)
	}
}

// TestSilence: a server that hangs or is cut off is noticed long before the line would end.
func TestSilence(t *testing.T) {
	hangs := tcp(t)
	serve(t, hangs, asksForLife(make(chan string, 100), false))
	mute := tcp(t) // connections are made, and nobody answers
	for name, l := range map[string]net.Listener{"hangs": hangs, "mute": mute} {
		c := newClient(t, l.Addr().String(), Options{Timeout: 100 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := c.Take(ctx, &gate.Request{Subject: "waits"}, new(gate.Decision))
		if headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), "no sign of life") || ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFull: a request that does not get through for others that wait is no sign that the
// server is away, or a client could switch limits off by filling the line.
func TestFull(t *testing.T) {
	l := tcp(t)
	f := serve(t, l, grpc.MaxConcurrentStreams(1))
	c := newClient(t, l.Addr().String(), Options{Timeout: 500 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan error)
	go func() { taken <- c.Take(ctx, &gate.Request{Subject: "waits"}, new(gate.Decision)) }()
	<-f.in
	err := c.Take(t.Context(), &gate.Request{Subject: "s", WaitCap: time.Second}, new(gate.Decision))
	if headgate.CodeOf(err) != headgate.Overloaded || status.Code(err) == codes.OK {
		t.Errorf("got %v", err)
	}
	cancel()
	<-taken
}
