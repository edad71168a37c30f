package grpcapi

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/server/front"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// only is a caller who reaches some applications.
type only []string

func (o only) Reaches(application string) bool { return slices.Contains(o, application) }
func (only) Everywhere() bool                  { return false }
func (only) Operates() bool                    { return false }

// as admits everybody as somebody who reaches some applications.
func as(applications ...string) func(context.Context, string, string) (front.Caller, error) {
	return func(context.Context, string, string) (front.Caller, error) { return only(applications), nil }
}

// tokens admits who shows "good".
func tokens(_ context.Context, peer, token string) (front.Caller, error) {
	switch {
	case !strings.HasPrefix(peer, "127.0.0.1:"):
		return nil, errors.New("peer " + peer)
	case token == "good":
		return only{"a"}, nil
	case token == "weak":
		return nil, Forbidden("this token lacks the scope decide")
	case token == "again":
		return nil, TooMany("too many wrong tokens from here; try again in 7 s", 7*time.Second)
	case token == "store":
		return nil, errors.New("secret of the store")
	}
	return nil, Unauthenticated("this token is not known, or is not valid any more")
}

// echo is a further service, which counts the messages that it reads: it says which
// application its caller reaches.
var echo = grpc.ServiceDesc{
	ServiceName: "test.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Who", Handler: func(reads any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		reads.(*atomic.Int64).Add(1)
		in := new(headgatev1.TakeRequest)
		if err := read(in); err != nil {
			return nil, err
		}
		if in.Subject == "bug" {
			panic("secret")
		}
		c := front.Of(ctx)
		return &headgatev1.Decision{Allowed: c.Reaches("a") && !c.Reaches("b")}, nil
	}}},
}

// TestAdmit: every service but health takes a token, before a message is read.
func TestAdmit(t *testing.T) {
	panics := 0
	var reads atomic.Int64
	f := &fakeGate{}
	conn := dial(t, listen(t, New(Config{
		Gate: f, Admit: tokens, Panicked: func() { panics++ },
		Register: func(r grpc.ServiceRegistrar) { r.RegisterService(&echo, &reads) },
	})))
	calls := map[string]func(context.Context) error{
		"Take": func(ctx context.Context) error {
			_, err := headgatev1.NewHeadgateServiceClient(conn).Take(ctx, &headgatev1.TakeRequest{Application: "a"})
			return err
		},
		"another service": func(ctx context.Context) error {
			d := new(headgatev1.Decision)
			err := conn.Invoke(ctx, "/test.Echo/Who", &headgatev1.TakeRequest{}, d)
			if err == nil && !d.Allowed {
				err = errors.New("another caller")
			}
			return err
		},
		"reflection": func(ctx context.Context) error { _, err := services(ctx, conn); return err },
	}
	for _, tt := range []struct {
		fields  []string
		code    codes.Code
		reason  string
		message string
	}{
		{[]string{"authorization", "Bearer good"}, codes.OK, "", ""},
		{[]string{"authorization", "bearer  good "}, codes.OK, "", ""},
		{[]string{"headgate-token", "good"}, codes.OK, "", ""},
		{[]string{"headgate-token", "good", "authorization", "Basic eDp5"}, codes.OK, "", ""},
		{nil, codes.Unauthenticated, "UNAUTHENTICATED", "this token is not known, or is not valid any more"},
		{[]string{"authorization", "Bearer bad"}, codes.Unauthenticated, "UNAUTHENTICATED", "this token is not known, or is not valid any more"},
		{[]string{"authorization", "good"}, codes.Unauthenticated, "UNAUTHENTICATED", "authorization must be: Bearer TOKEN"},
		{[]string{"authorization", "Bearer good", "authorization", "Bearer good"}, codes.Unauthenticated, "UNAUTHENTICATED", "more than one token was sent"},
		{[]string{"headgate-token", "good", "headgate-token", "bad"}, codes.Unauthenticated, "UNAUTHENTICATED", "more than one token was sent"},
		{[]string{"headgate-token", "weak"}, codes.PermissionDenied, "FORBIDDEN", "this token lacks the scope decide"},
		{[]string{"headgate-token", "again"}, codes.ResourceExhausted, "RATE_LIMITED", "too many wrong tokens from here; try again in 7 s"},
		{[]string{"headgate-token", "store"}, codes.Internal, "INTERNAL", "the server could not decide; its log says why"},
	} {
		asked, read := f.asked.Load(), reads.Load()
		for name, call := range calls {
			err := call(metadata.AppendToOutgoingContext(t.Context(), tt.fields...))
			if tt.code == codes.OK {
				if err != nil {
					t.Errorf("%s with %q: %v", name, tt.fields, err)
				}
				continue
			}
			wantStatus(t, err, tt.code, tt.reason, "", tt.message)
			if tt.code == codes.ResourceExhausted && !slices.ContainsFunc(status.Convert(err).Details(), func(d any) bool {
				r, ok := d.(*errdetails.RetryInfo)
				return ok && r.RetryDelay.AsDuration() == 7*time.Second
			}) {
				t.Errorf("%s: no retry delay in %v", name, status.Convert(err).Details())
			}
		}
		if n := f.asked.Load() - asked; n > 0 != (tt.code == codes.OK) {
			t.Errorf("%q: asked %d times", tt.fields, n)
		}
		if n := reads.Load() - read; n > 0 != (tt.code == codes.OK) {
			t.Errorf("%q: the other service read %d messages", tt.fields, n)
		}
	}
	health := healthpb.NewHealthClient(conn)
	if h, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health without a token: %v, %v", h, err)
	}
	good := metadata.AppendToOutgoingContext(t.Context(), "headgate-token", "good")
	err := conn.Invoke(good, "/test.Echo/Who", &headgatev1.TakeRequest{Subject: "bug"}, new(headgatev1.Decision))
	wantStatus(t, err, codes.Internal, "INTERNAL", "", "the server could not decide; its log says why")
	if panics != 1 {
		t.Errorf("%d panics were reported", panics)
	}
	// The bound of its messages is that of the server.
	long := func(n int) error {
		in := &headgatev1.TakeRequest{Subject: strings.Repeat("x", n)}
		in.Subject = in.Subject[:2*n-proto.Size(in)] // without as much as goes around it
		if got := proto.Size(in); got != n {
			t.Fatalf("%d bytes, want %d", got, n)
		}
		return conn.Invoke(good, "/test.Echo/Who", in, new(headgatev1.Decision))
	}
	if err := long(MaxBatch); err != nil {
		t.Errorf("a message of %d bytes: %v", MaxBatch, err)
	}
	if err := long(MaxBatch + 1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of %d bytes: %v", MaxBatch+1, err)
	}
}

// services lists what reflection tells of.
func services(ctx context.Context, conn *grpc.ClientConn) (names []string, err error) {
	s, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := s.Send(ask); err != nil && err != io.EOF {
		return nil, err
	}
	out, err := s.Recv()
	if err != nil {
		return nil, err
	}
	for _, one := range out.GetListServicesResponse().GetService() {
		names = append(names, one.Name)
	}
	return names, s.CloseSend()
}

func TestReflection(t *testing.T) {
	conn := dial(t, listen(t, New(Config{Gate: &fakeGate{}})))
	names, err := services(t.Context(), conn)
	if err != nil || !slices.Contains(names, "headgate.v1.HeadgateService") || !slices.Contains(names, "grpc.health.v1.Health") {
		t.Errorf("%q, %v", names, err)
	}
}

// TestReach: what a caller does not reach is answered as what is not there.
func TestReach(t *testing.T) {
	stub, f := serve(t, Config{Admit: as("a")})
	lost := `application: "b" is not in the policy`
	take := &headgatev1.TakeRequest{Application: "b", Operation: "o"}
	_, err := stub.Take(t.Context(), take)
	wantStatus(t, err, codes.NotFound, "NOT_FOUND", "application", lost)
	_, err = stub.Peek(t.Context(), take)
	wantStatus(t, err, codes.NotFound, "NOT_FOUND", "application", lost)
	_, err = stub.Explain(t.Context(), take)
	wantStatus(t, err, codes.NotFound, "NOT_FOUND", "application", lost)
	_, err = stub.Reserve(t.Context(), &headgatev1.ReserveRequest{Take: take})
	wantStatus(t, err, codes.NotFound, "NOT_FOUND", "application", lost)
	_, err = stub.TakeBatch(t.Context(), &headgatev1.TakeBatchRequest{Atomic: true, Items: []*headgatev1.TakeRequest{take}})
	wantStatus(t, err, codes.NotFound, "NOT_FOUND", "items.0.application", "items.0."+lost)
	out, err := stub.TakeBatch(t.Context(), &headgatev1.TakeBatchRequest{Items: []*headgatev1.TakeRequest{take}})
	if err != nil || out.Results[0].GetProblem().GetCode() != int32(codes.NotFound) {
		t.Errorf("%v, %v", out, err)
	}
	_, err = stub.Throttle(t.Context(), &headgatev1.ThrottleRequest{Key: "k", Count: 1, PeriodUs: 1})
	wantStatus(t, err, codes.PermissionDenied, "FORBIDDEN", "", "the keys of this method belong to no application, and this token is not for all of them")
	if f.asked.Load() != 0 {
		t.Errorf("asked %d times", f.asked.Load())
	}
}

// TestOpen: where everybody may ask, nobody is asked for what he shows to others.
func TestOpen(t *testing.T) {
	stub, _ := serve(t, Config{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic eDp5")
	if _, err := stub.Take(ctx, &headgatev1.TakeRequest{}); err != nil {
		t.Error(err)
	}
}
