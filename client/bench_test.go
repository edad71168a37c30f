package client

import (
	"context"
	"testing"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"google.golang.org/grpc"
)

// allows is a server that allows everything at once.
type allows struct {
	headgatev1.UnimplementedHeadgateServiceServer
}

func (allows) Take(_ context.Context, in *headgatev1.TakeRequest) (*headgatev1.Decision, error) {
	return &headgatev1.Decision{Allowed: true, Subject: in.Subject}, nil
}

// BenchmarkTake shows what a call pays that may stand in line, for which the server is asked
// whether it lives, beside one that may not.
func BenchmarkTake(b *testing.B) {
	l := tcp(b)
	s := grpc.NewServer()
	headgatev1.RegisterHeadgateServiceServer(s, allows{})
	go s.Serve(l)
	defer s.Stop()
	c := newClient(b, l.Addr().String(), Options{Timeout: 10 * time.Second})
	for _, bm := range []struct {
		name string
		r    gate.Request
	}{{"no wait", gate.Request{Subject: "alice", NoWait: true}}, {"may wait", gate.Request{Subject: "alice"}}} {
		b.Run(bm.name, func(b *testing.B) {
			var d gate.Decision
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Take(b.Context(), &bm.r, &d); err != nil || !d.Allowed || d.Subject != "alice" {
					b.Fatalf("%v, allowed: %v", err, d.Allowed)
				}
			}
		})
	}
}

// BenchmarkMind is the part of that which is the question's.
func BenchmarkMind(b *testing.B) {
	p := pulse{every: time.Hour}
	p.ctx, p.stop = context.WithCancel(b.Context())
	defer p.end()
	b.ReportAllocs()
	for b.Loop() {
		if p.leave(p.enter(func() {})) {
			b.Fatal("silent")
		}
	}
}
