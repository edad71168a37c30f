package grpcapi

import (
	"context"
	"strings"
	"testing"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// plenty is a gate that never refuses.
func plenty(tb testing.TB) *gate.Gate {
	tb.Helper()
	g, err := gate.Open(tb.Context(), gate.Config{Policy: []byte(strings.ReplaceAll(testPolicy, "2/h", "1000000/ms")), Store: memstore.New(memstore.Config{})})
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

func small() *headgatev1.TakeRequest {
	return &headgatev1.TakeRequest{Application: "a", Operation: "o", Subject: "alice", Cost: new(int64(1))}
}

// reading is how a call of the door gets a message.
func reading(tb testing.TB, m proto.Message) func(any) error {
	tb.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return func(v any) error {
		in := v.(*inbound)
		in.err = in.read(raw)
		return nil
	}
}

// TestTakeAllocations: the subject, the cost and the decision's id are all
// that a decision leaves to the collector, before gRPC's own.
func TestTakeAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	d := &door{Config: Config{Gate: plenty(t), Decided: func(*gate.Decision, time.Duration) {}}}
	read := reading(t, small())
	if n := testing.AllocsPerRun(200, func() {
		answer, err := d.call(t.Context(), &methods[0], read)
		if err != nil || !answer.(*call).reply.decision.Allowed {
			t.Fatalf("%v, %v", answer, err)
		}
		answer.(*call).free()
	}); n > 3 {
		t.Errorf("%v allocations, want 3", n)
	}
}

// BenchmarkTake is the door and the whole engine behind it, without gRPC.
func BenchmarkTake(b *testing.B) {
	d := &door{Config: Config{Gate: plenty(b), Decided: func(*gate.Decision, time.Duration) {}}}
	read := reading(b, small())
	b.ReportAllocs()
	for b.Loop() {
		answer, err := d.call(b.Context(), &methods[0], read)
		if err != nil || !answer.(*call).reply.decision.Allowed {
			b.Fatalf("%v, %v", answer, err)
		}
		if _, err := proto.Marshal(answer.(*call).out); err != nil {
			b.Fatal(err)
		}
		answer.(*call).free()
	}
}

// empty is the least that a gRPC service can do for a decision: it answers with one.
type empty struct {
	headgatev1.UnimplementedHeadgateServiceServer
	answer *headgatev1.Decision
}

func (e *empty) Take(context.Context, *headgatev1.TakeRequest) (*headgatev1.Decision, error) {
	return e.answer, nil
}

// BenchmarkLoopback compares the door, and the engine behind it, with an empty service
// that sends the same answer: 64 calls in flight on a connection.
func BenchmarkLoopback(b *testing.B) {
	g := plenty(b)
	stub, _ := serve(b, Config{Gate: g})
	answer, err := stub.Take(b.Context(), small())
	if err != nil {
		b.Fatal(err)
	}
	bare := func() *grpc.Server {
		s := grpc.NewServer()
		headgatev1.RegisterHeadgateServiceServer(s, &empty{answer: answer})
		return s
	}
	door := func() *grpc.Server { return New(Config{Gate: g}) }
	for _, tt := range []struct {
		name string
		open func() *grpc.Server
	}{{"bare", bare}, {"take", door}} {
		b.Run(tt.name, func(b *testing.B) {
			stub := headgatev1.NewHeadgateServiceClient(dial(b, listen(b, tt.open())))
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				in := small()
				for pb.Next() {
					if d, err := stub.Take(b.Context(), in); err != nil || !d.Allowed || len(d.Limits) != 1 {
						b.Errorf("%v, %v", d, err)
						return
					}
				}
			})
		})
	}
	b.Run("client", func(b *testing.B) {
		c := newClient(b, listen(b, door()), client.Options{Timeout: 10 * time.Second})
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			r := gate.Request{Application: "a", Operation: "o", Subject: "alice", Cost: 1, CostSaid: true}
			var d gate.Decision
			for pb.Next() {
				if err := c.Take(b.Context(), &r, &d); err != nil || !d.Allowed || len(d.Limits()) != 1 {
					b.Errorf("%+v, %v", d.Decision, err)
					return
				}
			}
		})
	})
	b.Run("batch of 100", func(b *testing.B) {
		stub := headgatev1.NewHeadgateServiceClient(dial(b, listen(b, door())))
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			in := items(100, small())
			for pb.Next() {
				out, err := stub.TakeBatch(b.Context(), in)
				if err != nil || len(out.Results) != 100 || !out.Results[99].GetDecision().GetAllowed() {
					b.Errorf("%v, %v", out, err)
					return
				}
			}
		})
	})
}
