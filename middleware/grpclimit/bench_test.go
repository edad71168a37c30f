package grpclimit

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
)

// sink is a transport that takes metadata and does not keep it, so that what is
// measured is ours alone.
type sink struct{ headers, trailers int }

func (s *sink) Method() string                  { return "/a.B/C" }
func (s *sink) SetHeader(md metadata.MD) error  { s.headers += len(md); return nil }
func (s *sink) SendHeader(md metadata.MD) error { return nil }
func (s *sink) SetTrailer(md metadata.MD) error { s.trailers += len(md); return nil }

// calls returns the contexts of calls from n addresses.
func calls(n int) ([]context.Context, *sink) {
	s, contexts := &sink{}, make([]context.Context, n)
	for i := range contexts {
		ctx := grpc.NewContextWithServerTransportStream(context.Background(), s)
		contexts[i] = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(203, 0, byte(i/250), byte(i%250)), Port: 4711}})
	}
	return contexts, s
}

var method = &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}

func TestAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	passed := 0
	var reply any = &testgrpc.Empty{}
	handler := func(context.Context, any) (any, error) {
		passed++
		return reply, nil
	}
	const runs = 1000
	for _, tt := range []struct {
		name   string
		limits []headgate.Limit
		most   float64
	}{
		{"rate+quota", []headgate.Limit{headgate.PerSecond(1_000_000), headgate.QuotaPer(1_000_000, headgate.Day)}, 1},
		{"concurrency", []headgate.Limit{headgate.InFlight(100, headgate.MaxHold)}, 2}, // the context of the release
	} {
		s := NewServer(inMemory(t, tt.limits...), ServerConfig{})
		contexts, sink := calls(1)
		passed = 0
		if n := testing.AllocsPerRun(runs, func() { s.Unary(contexts[0], reply, method, handler) }); n > tt.most || passed != runs+1 || sink.headers != 2*(runs+1) {
			t.Errorf("server, %s: %v allocations, %d passed, %d headers; want %v at most, %d and %d", tt.name, n, passed, sink.headers, tt.most, runs+1, 2*(runs+1))
		}
	}
	cc, err := grpc.NewClient("passthrough:///upstream", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	cl := NewClient(inMemory(t, headgate.PerSecond(1_000_000)), ClientConfig{})
	passed = 0
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		passed++
		return nil
	}
	if n := testing.AllocsPerRun(runs, func() { cl.Unary(t.Context(), "/a.B/C", reply, reply, cc, invoker) }); n > 1 || passed != runs+1 {
		t.Errorf("client: %v allocations, %d passed, want 1 at most and %d", n, passed, runs+1)
	}
}

// BenchmarkUnary is what is added to a handler that does nothing.
func BenchmarkUnary(b *testing.B) {
	for _, bm := range []struct {
		name   string
		limits []headgate.Limit
		code   codes.Code
	}{
		{"allowed", []headgate.Limit{headgate.PerSecond(100_000_000)}, codes.OK},
		{"allowed/rate+quota", []headgate.Limit{headgate.PerSecond(100_000_000), headgate.QuotaPer(1_000_000_000_000, headgate.Day)}, codes.OK},
		{"refused", []headgate.Limit{headgate.QuotaPer(1, headgate.Year)}, codes.ResourceExhausted},
	} {
		b.Run(bm.name, func(b *testing.B) {
			var reply any = &testgrpc.Empty{}
			handler := func(context.Context, any) (any, error) { return reply, nil }
			s := NewServer(inMemory(b, bm.limits...), ServerConfig{})
			contexts, sink := calls(1000)
			for _, ctx := range contexts {
				s.Unary(ctx, reply, method, handler)
			}
			n, answered := 0, 0
			sink.headers, sink.trailers = 0, 0
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Unary(contexts[n%len(contexts)], reply, method, handler); status.Code(err) == bm.code {
					answered++
				}
				n++
			}
			if told := max(sink.headers, sink.trailers); answered != n || told < 2*n {
				b.Fatalf("%d of %d answered %v, with %d fields", answered, n, bm.code, told)
			}
		})
	}
}

// BenchmarkCall is a whole call through memory, with and without limits.
func BenchmarkCall(b *testing.B) {
	for name, h := range map[string]*grpctest.House{
		"bare":    {},
		"limited": new(grpctest.House).Limit(NewServer(inMemory(b, headgate.PerSecond(100_000_000)), ServerConfig{})),
		"silent":  new(grpctest.House).Limit(NewServer(inMemory(b, headgate.PerSecond(100_000_000)), ServerConfig{Headers: HeadersNone})),
	} {
		b.Run(name, func(b *testing.B) {
			c, end := h.Open(b)
			defer end()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.EmptyCall(b.Context(), &testgrpc.Empty{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
