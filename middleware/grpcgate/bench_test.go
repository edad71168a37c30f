package grpcgate

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

const benchPolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 1000000000/day}]}
applications:
  default:
    identity: [ip]
    rules: [{name: r, match: {path: /a.B/C}, limits: [{name: burst, rate: 1000000/s}]}]
  three:
    identity: [ip]
    default_plan: free
    rules: [{name: r, match: {path: "/a.B/{method}"}, limits: [{name: burst, rate: 1000000/s}, {name: window, algorithm: sliding_window, rate: 1000000000/h}]}]
  refused:
    identity: [ip]
    rules: [{name: r, match: {path: "/{rest...}"}, limits: [{name: y, algorithm: quota, rate: 1/month}]}]
`

// sink is a transport that takes metadata and does not keep it, so that what is
// measured is ours alone.
type sink struct{ headers, trailers int }

func (s *sink) Method() string                  { return "/a.B/C" }
func (s *sink) SetHeader(md metadata.MD) error  { s.headers += len(md); return nil }
func (s *sink) SendHeader(metadata.MD) error    { return nil }
func (s *sink) SetTrailer(md metadata.MD) error { s.trailers += len(md); return nil }

// calls returns the contexts of calls from n addresses, with the metadata of a client.
func calls(n int) ([]context.Context, *sink) {
	s, contexts := &sink{}, make([]context.Context, n)
	for i := range contexts {
		ctx := grpc.NewContextWithServerTransportStream(context.Background(), s)
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(":authority", "api.example.com", "content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "grpc-accept-encoding", "gzip"))
		contexts[i] = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(203, 0, byte(i/250), byte(i%250)), Port: 4711}})
	}
	return contexts, s
}

var method = &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}

var benchmarks = []struct {
	application string
	code        codes.Code
	fields      int
}{{"default", codes.OK, 5}, {"three", codes.OK, 5}, {"refused", codes.ResourceExhausted, 6}}

func benchGate(t testing.TB) *gate.Gate {
	return open(t, benchPolicy, memstore.New(memstore.Config{}))
}

// TestAllocations: most are those of the copy that grpc makes of a call's metadata, and, of a
// refusal, those of its status.
func TestAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	g := benchGate(t)
	var reply any = &testgrpc.Empty{}
	handler := func(context.Context, any) (any, error) { return reply, nil }
	for _, bm := range benchmarks {
		s := NewServer(g, ServerConfig{Application: bm.application})
		contexts, sink := calls(1)
		s.Unary(contexts[0], reply, method, handler)
		sink.headers, sink.trailers = 0, 0
		const runs = 1000
		answered := 0
		n := testing.AllocsPerRun(runs, func() {
			if _, err := s.Unary(contexts[0], reply, method, handler); status.Code(err) == bm.code {
				answered++
			}
		})
		most := 7.0
		if bm.code != codes.OK {
			most += 45
		}
		if told := sink.headers + sink.trailers; n > most || answered != runs+1 || told != bm.fields*(runs+1) {
			t.Errorf("%s: %v allocations, %d answered %v with %d fields; want %v at most, %d and %d", bm.application, n, answered, bm.code, told, most, runs+1, bm.fields*(runs+1))
		}
	}
}

// BenchmarkUnary is what is added to a handler that does nothing.
func BenchmarkUnary(b *testing.B) {
	for _, bm := range benchmarks {
		b.Run(bm.application, func(b *testing.B) {
			var reply any = &testgrpc.Empty{}
			handler := func(context.Context, any) (any, error) { return reply, nil }
			s := NewServer(benchGate(b), ServerConfig{Application: bm.application})
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
			if told := sink.headers + sink.trailers; answered != n || told != bm.fields*n {
				b.Fatalf("%d of %d answered %v, with %d fields", answered, n, bm.code, told)
			}
		})
	}
}
