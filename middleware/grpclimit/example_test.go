package grpclimit_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/store/memstore"
)

// serve serves the health service in memory, and returns a connection to it.
func serve(options []grpc.ServerOption, dial ...grpc.DialOption) (*grpc.ClientConn, func()) {
	pipe := bufconn.Listen(1 << 16)
	server := grpc.NewServer(options...)
	healthgrpc.RegisterHealthServer(server, health.NewServer())
	go server.Serve(pipe)
	cc, err := grpc.NewClient("passthrough:///upstream", append(dial,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))...)
	if err != nil {
		panic(err)
	}
	return cc, func() {
		cc.Close()
		server.Stop()
	}
}

func Example() {
	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerHour(60).WithBurst(2).WithName("api"))
	if err != nil {
		panic(err)
	}
	limits := grpclimit.NewServer(lim, grpclimit.ServerConfig{
		Key:     grpclimit.ByMetadata("x-user"), // set by the authenticating proxy in front
		Skip:    func(c grpclimit.Call) bool { return c.Method == "/grpc.health.v1.Health/Watch" },
		Message: "One call a minute, please",
	})
	cc, end := serve([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(limits.Unary),
		grpc.ChainStreamInterceptor(limits.Stream),
	})
	defer end()

	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-user", "alice")
	for range 3 {
		var header, trailer metadata.MD
		_, err := healthgrpc.NewHealthClient(cc).Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
		fmt.Println(status.Code(err), header["ratelimit"], trailer["ratelimit"], trailer["headgate-reason"])
		for _, detail := range status.Convert(err).Details() {
			if quota, ok := detail.(*errdetails.QuotaFailure); ok {
				fmt.Println(quota.Violations[0].Description)
			}
		}
	}
	// Output:
	// OK ["api";r=1;t=60] [] []
	// OK ["api";r=0;t=60] [] []
	// ResourceExhausted [] ["api";r=0;t=60] [rate_limited]
	// rate_limited: 1 asked for, 0 of 2 left
}

// A client keeps within what it may ask of a server, and waits up to a second
// for it.
func ExampleClient() {
	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerSecond(20).WithBurst(1))
	if err != nil {
		panic(err)
	}
	limits := grpclimit.NewClient(lim, grpclimit.ClientConfig{MaxWait: time.Second, MaxPause: time.Minute})
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
