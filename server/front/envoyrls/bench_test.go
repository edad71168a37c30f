package envoyrls

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// generous returns a door over a gate that never refuses, and a request on the wire.
func generous(t testing.TB, descriptors ...string) (door *Service, wire []byte) {
	t.Helper()
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	g, err := gate.Open(t.Context(), gate.Config{Store: store, Policy: []byte(convert(t, strings.ReplaceAll(rules, "requests_per_unit: 10}", "requests_per_unit: 4000000000}")))})
	if err != nil {
		t.Fatal(err)
	}
	r := &pb.RateLimitRequest{Domain: "edge"}
	for _, d := range descriptors {
		r.Descriptors = append(r.Descriptors, descriptor(d))
	}
	if wire, err = proto.Marshal(r); err != nil {
		t.Fatal(err)
	}
	return New(Config{Gate: g, Now: store.Now}), wire
}

// passing is a gate that lets everything pass.
type passing struct{ decider }

func (passing) TakeDescriptors(_ context.Context, _ []*gate.Request, ds []*gate.Decision) (bool, int, error) {
	for _, d := range ds {
		d.Allowed = true
	}
	return true, -1, nil
}

// TestAllocations: a call leaves the text of its request and its reply to the collector,
// however many its descriptors are.
func TestAllocations(t *testing.T) {
	one, wireOfOne := generous(t, "path=/x")
	four, wireOfFour := generous(t, "path=/x", "path=/login,user=x", "ghost=y", "header_x=y,subject=z")
	four.Gate = passing{four.Gate}
	for _, c := range []struct {
		door *Service
		wire []byte
	}{{one, wireOfOne}, {four, wireOfFour}} {
		call := newCall()
		want := 2.0
		if c.door == four {
			want++ // the value of the header field
		}
		if n := testing.AllocsPerRun(500, func() {
			if err := proto.Unmarshal(c.wire, call); err != nil {
				t.Fatal(err)
			}
			r, err := c.door.answer(t.Context(), call)
			if err != nil || len(r.wire) < 10 || r.wire[1] != 1 {
				t.Fatalf("%+v, %v", r, err)
			}
			call.empty()
		}); n > want {
			t.Errorf("%v allocations, want %v", n, want)
		}
	}
}

// BenchmarkHandle is the door and the engine behind it, without the network and gRPC.
func BenchmarkHandle(b *testing.B) {
	for _, descriptors := range [][]string{{"path=/x"}, {"path=/x", "path=/y", "path=/z,user=a", "free=x"}} {
		b.Run(fmt.Sprint(len(descriptors)), func(b *testing.B) {
			door, wire := generous(b, descriptors...)
			decode := func(v any) error { return proto.Unmarshal(wire, v.(proto.Message)) }
			b.ReportAllocs()
			for b.Loop() {
				if _, err := handle(door, b.Context(), decode, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// empty is a service that does nothing but answer.
type empty struct {
	pb.UnimplementedRateLimitServiceServer
}

func (empty) ShouldRateLimit(context.Context, *pb.RateLimitRequest) (*pb.RateLimitResponse, error) {
	return &pb.RateLimitResponse{OverallCode: pb.RateLimitResponse_OK, Statuses: []*pb.RateLimitResponse_DescriptorStatus{{Code: pb.RateLimitResponse_OK}}}, nil
}

// BenchmarkRLS is calls of a server over loopback, 64 at one time: of the door, and of a
// service that decides nothing.
func BenchmarkRLS(b *testing.B) {
	for _, c := range []struct {
		name     string
		register func(*grpc.Server)
	}{
		{"empty", func(s *grpc.Server) { pb.RegisterRateLimitServiceServer(s, empty{}) }},
		{"door", func(s *grpc.Server) {
			door, _ := generous(b)
			door.Register(s)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			client := pb.NewRateLimitServiceClient(serve(b, c.register))
			requests := make([]*pb.RateLimitRequest, 1024)
			for i := range requests {
				requests[i] = &pb.RateLimitRequest{Domain: "edge", Descriptors: []*common.RateLimitDescriptor{descriptor(fmt.Sprintf("path=/%d", i))}}
			}
			next := make(chan int)
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for i := range next {
						r, err := client.ShouldRateLimit(b.Context(), requests[i&1023])
						if err != nil || r.OverallCode != pb.RateLimitResponse_OK {
							b.Error(r, err)
						}
					}
				})
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				next <- i
				i++
			}
			close(next)
			wg.Wait()
		})
	}
}
