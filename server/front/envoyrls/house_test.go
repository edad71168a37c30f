package envoyrls

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/gate/envoy/envoytest"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/store/memstore"
)

// house is a door over a gate, on a real server, and an Envoy.
type house struct {
	testing.TB
	gate   *gate.Gate
	door   *Service
	client pb.RateLimitServiceClient
	now    time.Time
	caller front.Caller
}

// open returns a house with a policy; change may change the door's configuration.
func open(t testing.TB, policy string, change func(*Config)) *house {
	t.Helper()
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: envoytest.Start.UnixMicro() - 1})
	return openOn(t, gate.Config{Policy: []byte(policy), Store: store}, change)
}

func openOn(t testing.TB, c gate.Config, change func(*Config)) *house {
	t.Helper()
	g, err := gate.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{TB: t, gate: g, now: envoytest.Start, caller: front.Anybody{}}
	config := Config{Gate: g, Unnamed: envoy.Unnamed, Now: func() int64 { return h.now.UnixMicro() }}
	if change != nil {
		change(&config)
	}
	h.door = New(config)
	h.client = pb.NewRateLimitServiceClient(serve(t, func(s *grpc.Server) { h.door.Register(s) },
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(front.With(ctx, h.caller), req)
		})))
	return h
}

// convert makes a policy of a configuration of envoyproxy/ratelimit.
func convert(t testing.TB, config string) string {
	t.Helper()
	data, _, err := envoy.Convert([]envoy.File{{Name: "config.yaml", Data: []byte(config)}}, envoy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// serve returns a connection to a server of its own.
func serve(t testing.TB, register func(*grpc.Server), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	register(s)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		<-ended
	})
	return conn
}

// operator may do everything.
type operator struct{ front.Anybody }

func (operator) Operates() bool { return true }

// limited reaches one application.
type limited string

func (l limited) Reaches(application string) bool { return application == string(l) }
func (limited) Everywhere() bool                  { return false }
func (limited) Operates() bool                    { return true }

// descriptor is "key=value,key=value" as an Envoy sends it.
func descriptor(s string) *common.RateLimitDescriptor {
	d := new(common.RateLimitDescriptor)
	if s == "" {
		return d
	}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(pair, "=")
		d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	return d
}

func hits(d *common.RateLimitDescriptor, n uint64) *common.RateLimitDescriptor {
	d.HitsAddend = wrapperspb.UInt64(n)
	return d
}

func back(d *common.RateLimitDescriptor) *common.RateLimitDescriptor {
	d.IsNegativeHits = true
	return d
}

func says(d *common.RateLimitDescriptor, n uint32, unit typev3.RateLimitUnit, multiplier uint32) *common.RateLimitDescriptor {
	d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: unit}
	if multiplier != 0 {
		d.Limit.UnitMultiplier = wrapperspb.UInt32(multiplier)
	}
	return d
}

func (h *house) ask(domain string, ds ...*common.RateLimitDescriptor) *pb.RateLimitResponse {
	h.Helper()
	r, err := h.send(&pb.RateLimitRequest{Domain: domain, Descriptors: ds})
	if err != nil {
		h.Fatal(err)
	}
	return r
}

func (h *house) send(r *pb.RateLimitRequest) (*pb.RateLimitResponse, error) {
	return h.client.ShouldRateLimit(h.Context(), r)
}

// refused checks that a call is an error with the code and, in its message, the words.
func (h *house) refused(r *pb.RateLimitRequest, code codes.Code, words string) {
	h.Helper()
	answer, err := h.send(r)
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		h.Errorf("%v, %v; want %v: %s", answer, err, code, words)
	}
}

// short is the overall code and the statuses as the examples write them.
func short(r *pb.RateLimitResponse) string {
	words := []string{"OK"}
	if r.OverallCode == pb.RateLimitResponse_OVER_LIMIT {
		words[0] = "OVER"
	}
	for _, s := range r.Statuses {
		switch {
		case s.Code == pb.RateLimitResponse_OVER_LIMIT:
			words = append(words, "over")
		case s.Code != pb.RateLimitResponse_OK:
			words = append(words, "unknown")
		case s.CurrentLimit != nil:
			words = append(words, "ok")
		case s.LimitRemaining == 1<<32-1:
			words = append(words, "unlimited")
		default:
			words = append(words, "none")
		}
	}
	return strings.Join(words, " ")
}

// check asks and compares what short makes of the answer.
func (h *house) check(want, domain string, ds ...*common.RateLimitDescriptor) *pb.RateLimitResponse {
	h.Helper()
	r := h.ask(domain, ds...)
	if got := short(r); got != want {
		h.Errorf("%.200s: %s, want %s", fmt.Sprint(ds), got, want)
	}
	return r
}

// broken is a store that can be away.
type broken struct {
	headgate.Store
	err error
}

func (b *broken) Apply(ctx context.Context, batch *headgate.Batch) error {
	if b.err != nil {
		return b.err
	}
	return b.Store.Apply(ctx, batch)
}
