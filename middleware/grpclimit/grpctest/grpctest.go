// Package grpctest is a gRPC server in memory and a client of it, and the tests that
// interceptors with limits have in common.
package grpctest

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// Duplex is the server's side of a stream in both directions.
type Duplex = testgrpc.TestService_FullDuplexCallServer

// Service answers calls as the test says; what it says nothing of succeeds.
type Service struct {
	testgrpc.UnimplementedTestServiceServer
	Unary  func(context.Context) error
	Duplex func(Duplex) error
}

// EmptyCall implements the unary call.
func (s *Service) EmptyCall(ctx context.Context, _ *testgrpc.Empty) (*testgrpc.Empty, error) {
	if s.Unary != nil {
		if err := s.Unary(ctx); err != nil {
			return nil, err
		}
	}
	return &testgrpc.Empty{}, nil
}

// FullDuplexCall implements the stream.
func (s *Service) FullDuplexCall(stream Duplex) error {
	if s.Duplex != nil {
		return s.Duplex(stream)
	}
	return Echo(stream)
}

// Echo answers every message with one.
func Echo(stream Duplex) error {
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

// Client is somebody out there.
var Client net.Addr = &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 4711}

// House is a server in memory and a client of it.
type House struct {
	Peer    net.Addr // of the client; nil means Client
	Server  []grpc.ServerOption
	Client  []grpc.DialOption
	Service Service
}

// ServerInterceptors stand before a server's handlers.
type ServerInterceptors interface {
	Unary(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error)
	Stream(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error
}

// Limit puts s behind what stands before the server already.
func (h *House) Limit(s ServerInterceptors) *House {
	h.Server = append(h.Server, grpc.ChainUnaryInterceptor(s.Unary), grpc.ChainStreamInterceptor(s.Stream))
	return h
}

// ClientInterceptors stand before a client's calls.
type ClientInterceptors interface {
	Unary(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error
	Stream(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error)
}

// LimitClient is Limit for the client.
func (h *House) LimitClient(c ClientInterceptors) *House {
	h.Client = append(h.Client, grpc.WithChainUnaryInterceptor(c.Unary), grpc.WithChainStreamInterceptor(c.Stream))
	return h
}

// Open returns a client, and a function that ends it and the server.
func (h *House) Open(t testing.TB) (testgrpc.TestServiceClient, func()) {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	l := from{pipe, h.Peer}
	if l.addr == nil {
		l.addr = Client
	}
	srv := grpc.NewServer(h.Server...)
	testgrpc.RegisterTestServiceServer(srv, &h.Service)
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(l)
	}()
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) })
	cc, err := grpc.NewClient("passthrough:///upstream", append(h.Client, dial, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	return testgrpc.NewTestServiceClient(cc), func() {
		cc.Close()
		srv.Stop()
		<-served
	}
}

// Answer is what a client sees of a call.
type Answer struct {
	Header, Trailer metadata.MD
	Status          *status.Status
}

// Ask makes a unary call with metadata, pairs of name and value.
func Ask(t testing.TB, c testgrpc.TestServiceClient, pairs ...string) Answer {
	t.Helper()
	var a Answer
	ctx := metadata.AppendToOutgoingContext(t.Context(), pairs...)
	_, err := c.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&a.Header), grpc.Trailer(&a.Trailer))
	a.Status = status.Convert(err)
	return a
}

// Converse sends n messages on a stream, ends it, and reads to its end.
func Converse(t testing.TB, c testgrpc.TestServiceClient, n int) Answer {
	t.Helper()
	stream, err := c.FullDuplexCall(t.Context())
	if err != nil {
		return Answer{Status: status.Convert(err)}
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
	a := Answer{Trailer: stream.Trailer(), Status: status.Convert(err)}
	a.Header, _ = stream.Header() // without one if the stream failed
	return a
}

// String has what we put there, without what grpc does.
func (a Answer) String() string {
	delete(a.Header, "content-type")
	delete(a.Trailer, "content-type")
	var b strings.Builder
	b.WriteString(a.Status.Code().String())
	if a.Status.Message() != "" {
		b.WriteString(": " + a.Status.Message())
	}
	write := func(kind string, md metadata.MD) {
		for _, name := range []string{
			"ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
			"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
			"headgate-reason", "headgate-limit", "headgate-degraded", answer.Pushback, // not headgate-decision-id, which is random
		} {
			if values, ok := md[name]; ok {
				b.WriteString("\n" + kind + name + ": " + strings.Join(values, " | "))
			}
		}
	}
	write("header ", a.Header)
	write("trailer ", a.Trailer)
	return b.String()
}

// Details returns those of ours; a missing one is nil.
func Details(st *status.Status) (quota *errdetails.QuotaFailure, retry *errdetails.RetryInfo, info *errdetails.ErrorInfo) {
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

// Recovering turns a handler's panic into an error, as servers do that live on.
func Recovering() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer func() {
				if recover() != nil {
					err = status.Error(codes.Internal, "panic")
				}
			}()
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer func() {
				if recover() != nil {
					err = status.Error(codes.Internal, "panic")
				}
			}()
			return next(srv, ss)
		}),
	}
}
