package grpcgate_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/middleware/grpcgate"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/store/memstore"
)

// serve serves the health service on loopback, and returns a connection to it.
func serve(options []grpc.ServerOption, dial ...grpc.DialOption) (*grpc.ClientConn, func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer(options...)
	healthgrpc.RegisterHealthServer(server, health.NewServer())
	go server.Serve(listener)
	cc, err := grpc.NewClient(listener.Addr().String(), append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		panic(err)
	}
	return cc, func() {
		cc.Close()
		server.Stop()
	}
}

const shop = `
version: 1
applications:
  shop:
    trusted_proxies: [127.0.0.0/8]
    identity: [{header: x-user}, ip]
    rules:
      - name: check
        match: {path: /grpc.health.v1.Health/Check}
        limits: [{name: rate, rate: 60/h, burst: 2}]
        message: One call a minute, please.
`

func Example() {
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(shop), Store: memstore.New(memstore.Config{})})
	if err != nil {
		panic(err)
	}
	defer g.Close()
	limits := grpcgate.NewServer(g, grpcgate.ServerConfig{Application: "shop"})
	cc, end := serve([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(limits.Unary),
		grpc.ChainStreamInterceptor(limits.Stream),
	})
	defer end()

	// The proxy in front, here this program, says who calls.
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-user", "alice")
	for range 3 {
		var header, trailer metadata.MD
		_, err := healthgrpc.NewHealthClient(cc).Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
		fmt.Println(status.Code(err), status.Convert(err).Message(), header["ratelimit-policy"], trailer["headgate-reason"])
	}
	// Output:
	// OK  ["check/rate";q=2;w=120] []
	// OK  ["check/rate";q=2;w=120] []
	// ResourceExhausted One call a minute, please. [] [rate_limited]
}

// The calls that a program makes wait up to a second for what the policy lets it ask.
func ExampleOutgoing() {
	const policy = `
version: 1
applications:
  partners:
    rules: [{name: health, match: {path: "/grpc.health.v1.Health/{method}"}, limits: [{name: rate, rate: 20/s, burst: 1}]}]
`
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{})})
	if err != nil {
		panic(err)
	}
	defer g.Close()
	budget := grpcgate.Outgoing(g, grpcgate.OutgoingConfig{Application: "partners"})
	limits := grpclimit.NewClientOver(budget, grpclimit.ClientConfig{MaxWait: time.Second})
	cc, end := serve(nil, grpc.WithChainUnaryInterceptor(limits.Unary), grpc.WithChainStreamInterceptor(limits.Stream))
	defer end()

	begin := time.Now()
	for range 5 {
		if _, err := healthgrpc.NewHealthClient(cc).Check(context.Background(), &healthgrpc.HealthCheckRequest{}); err != nil {
			panic(err)
		}
	}
	fmt.Println("5 calls took 200 ms at least:", time.Since(begin) >= 200*time.Millisecond)
	// Output:
	// 5 calls took 200 ms at least: true
}
