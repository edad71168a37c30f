package grpclimit

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// fakeStore answers every batch with apply, which finds the outcomes empty.
type fakeStore struct {
	apply func(context.Context, *headgate.Batch) error
}

func (f fakeStore) Close() error { return nil }

func (f fakeStore) Apply(ctx context.Context, b *headgate.Batch) error {
	clear(b.Outcomes())
	return f.apply(ctx, b)
}

func limiter(t testing.TB, s headgate.Store, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	lim, err := headgate.New(s, limits...)
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

func inMemory(t testing.TB, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	return limiter(t, memstore.New(memstore.Config{}), limits...)
}

// duplex is the server's side of a stream in both directions.
type duplex = testgrpc.TestService_FullDuplexCallServer

// service answers calls as the test says; what it says nothing of succeeds.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	unary  func(context.Context) error
	duplex func(duplex) error
}

func (s *service) EmptyCall(ctx context.Context, _ *testgrpc.Empty) (*testgrpc.Empty, error) {
	if s.unary != nil {
		if err := s.unary(ctx); err != nil {
			return nil, err
		}
	}
	return &testgrpc.Empty{}, nil
}

func (s *service) FullDuplexCall(stream duplex) error {
	if s.duplex != nil {
		return s.duplex(stream)
	}
	return echo(stream)
}

// echo answers every message with one.
func echo(stream duplex) error {
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// from is a listener whose connections seem to come from an address.
type from struct {
	*bufconn.Listener
	addr net.Addr
}

func (l from) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return conn{c, l.addr}, err
}

type conn struct {
	net.Conn
	addr net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.addr }

// client is somebody out there.
var client = &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 4711}

// house is a server in memory and a client of it.
type house struct {
	peer    net.Addr // nil means client
	server  []grpc.ServerOption
	client  []grpc.DialOption
	service service
}

func (h *house) limit(s *Server) *house {
	h.server = append(h.server, grpc.ChainUnaryInterceptor(s.Unary), grpc.ChainStreamInterceptor(s.Stream))
	return h
}

func (h *house) limitClient(c *Client) *house {
	h.client = append(h.client, grpc.WithChainUnaryInterceptor(c.Unary), grpc.WithChainStreamInterceptor(c.Stream))
	return h
}

// open returns a client, and a function that ends it and the server.
func (h *house) open(t testing.TB) (testgrpc.TestServiceClient, func()) {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	l := from{pipe, h.peer}
	if l.addr == nil {
		l.addr = client
	}
	srv := grpc.NewServer(h.server...)
	testgrpc.RegisterTestServiceServer(srv, &h.service)
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(l)
	}()
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) })
	cc, err := grpc.NewClient("passthrough:///upstream", append(h.client, dial, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	return testgrpc.NewTestServiceClient(cc), func() {
		cc.Close()
		srv.Stop()
		<-served
	}
}

// answer is what a client sees of a unary call.
type answer struct {
	header, trailer metadata.MD
	status          *status.Status
}

// ask makes a unary call with metadata, pairs of name and value.
func ask(t testing.TB, c testgrpc.TestServiceClient, pairs ...string) answer {
	t.Helper()
	var a answer
	ctx := metadata.AppendToOutgoingContext(t.Context(), pairs...)
	_, err := c.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	a.status = status.Convert(err)
	return a
}

// converse sends n messages on a stream, ends it, and reads to its end.
func converse(t testing.TB, c testgrpc.TestServiceClient, n int) answer {
	t.Helper()
	stream, err := c.FullDuplexCall(t.Context())
	if err != nil {
		return answer{status: status.Convert(err)}
	}
	for range n {
		if stream.Send(&testgrpc.StreamingOutputCallRequest{}) != nil {
			break // the status says why
		}
	}
	stream.CloseSend()
	for err == nil {
		_, err = stream.Recv()
	}
	if err == io.EOF {
		err = nil
	}
	a := answer{trailer: stream.Trailer(), status: status.Convert(err)}
	a.header, _ = stream.Header() // without one if the stream failed
	return a
}

// String has what we put there, without what grpc does.
func (a answer) String() string {
	delete(a.header, "content-type")
	delete(a.trailer, "content-type")
	var b strings.Builder
	b.WriteString(a.status.Code().String())
	if a.status.Message() != "" {
		b.WriteString(": " + a.status.Message())
	}
	write := func(kind string, md metadata.MD) {
		for _, name := range []string{
			"ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
			"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
			"headgate-reason", "headgate-limit", "headgate-degraded", pushback,
		} {
			if values, ok := md[name]; ok {
				b.WriteString("\n" + kind + name + ": " + strings.Join(values, " | "))
			}
		}
	}
	write("header ", a.header)
	write("trailer ", a.trailer)
	return b.String()
}

// details returns those of ours; a missing one is nil.
func details(st *status.Status) (quota *errdetails.QuotaFailure, retry *errdetails.RetryInfo, info *errdetails.ErrorInfo) {
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.QuotaFailure:
			quota = d
		case *errdetails.RetryInfo:
			retry = d
		case *errdetails.ErrorInfo:
			info = d
		}
	}
	return quota, retry, info
}
