// Package grpcapi is the gRPC door: it decodes requests, asks the gate and
// encodes its decisions. It knows gRPC and protocol buffers, and nothing of
// policies.
package grpcapi

import (
	"context"
	"crypto/tls"
	"log/slog"
	"runtime"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/server/front"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that ours is based on
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

// Bounds of what clients send.
const (
	// MaxMessage is the largest message in bytes; of a batch it is [MaxBatch].
	MaxMessage = 64 << 10
	MaxBatch   = 1 << 20
	// MaxItems is the largest number of items of a batch; an atomic one holds at
	// most [gate.MaxAtomic].
	MaxItems = 1000
	// MaxStreams is the largest number of calls at one time on a connection.
	MaxStreams = 256
	// MaxHeader is the largest size of a call's metadata in bytes.
	MaxHeader = 16 << 10
)

const (
	// resetPause is for how long a call that was reset counts as under way.
	resetPause = 100 * time.Millisecond
	// handshake is how long a new connection may take to say that it speaks HTTP/2.
	handshake = 5 * time.Second
	// Connections that say nothing for pingAfter are asked whether they are there,
	// and closed where they do not answer within pingTimeout; so are those on which
	// nothing was asked for maxIdle. All are ended from time to time, so that
	// clients spread over the nodes there are.
	pingAfter   = time.Minute
	pingTimeout = 20 * time.Second
	maxIdle     = 10 * time.Minute
	maxAge      = 30 * time.Minute
	ageGrace    = time.Minute
	// minPing is how often clients may ask that of us.
	minPing = 10 * time.Second
	// The windows bound what a connection has sent and nobody has read yet.
	streamWindow = 64 << 10
	connWindow   = 1 << 20
	// buffer is what is read ahead of each connection, also of idle ones.
	buffer = 8 << 10
)

// decider is what the door needs of a gate.
type decider interface {
	Take(context.Context, *gate.Request, *gate.Decision) error
	Peek(context.Context, *gate.Request, *gate.Decision) error
	Explain(context.Context, *gate.Request, *gate.Decision, *gate.Explanation) error
	TakeAll(context.Context, []*gate.Request, []*gate.Decision) (failed int, err error)
	Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error
	Settle(context.Context, *gate.Claim, *gate.Decision) error
	Renew(context.Context, *gate.Claim, *gate.Decision) error
	Release(context.Context, *gate.Claim, *gate.Decision) error
	Throttle(context.Context, *gate.Throttle, *gate.Decision) error
	Ready() error
}

// Config is what a door is made of. Gate is required.
type Config struct {
	Gate decider
	// Admit finds who asks, by the address of the connection and the token that the
	// call shows, "" for none. It is called before the message is read, for every
	// service but health. Its errors are those of [Unauthenticated], [Forbidden] and
	// [TooMany]; another is answered as INTERNAL. nil lets everybody ask about
	// everything.
	Admit func(ctx context.Context, peer, token string) (front.Caller, error)
	// Register adds further services, whose handlers find the caller by [front.Of].
	// nil adds none.
	Register func(grpc.ServiceRegistrar)
	// TLS is for the connections; nil leaves them plain.
	TLS *tls.Config
	// Now reads the store's own clock, if that is the process's: see
	// [headgate.Clock]. All items of a batch are decided at one reading. nil
	// lets the store read its clock for each.
	Now func() int64
	// Stopping is closed when the server is about to stop: health says so from then
	// on, and calls that watch it end. nil is never.
	Stopping <-chan struct{}
	// Decided is called after each decision that may have charged, with the time it
	// took from the decoded request, without that in line. It must not keep d. nil
	// for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Corrected is called after each settlement or release. It must not keep d. nil
	// for nobody.
	Corrected func(d *gate.Decision)
	// Panicked is called after a panic in a handler was answered. nil for nobody.
	Panicked func()
	// Logger takes what is not told to clients; nil discards it.
	Logger *slog.Logger
}

type door struct {
	Config
	faults faultlog.Faults
}

// New returns a server with HeadgateService, health, reflection and what the Config
// registers. Who serves it bounds its connections: see [front.Bound].
//
// A call that its client has given up when its turn comes is not decided, and one
// connection has no more than [MaxStreams] calls under way, those included that
// were reset, for 100 ms more: so resetting calls charges nobody for what he did not
// wait for, and makes little work beside the others.
func New(c Config) *grpc.Server {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	if c.Corrected == nil {
		c.Corrected = func(*gate.Decision) {}
	}
	if c.Panicked == nil {
		c.Panicked = func() {}
	}
	d := &door{Config: c}
	s := grpc.NewServer(d.options()...)
	s.RegisterService(d.service(), d)
	others := admitting{s, d}
	if c.Register != nil {
		c.Register(others)
	}
	healthpb.RegisterHealthServer(others, newHealth(d, s))
	reflection.Register(s)
	return s
}

func (d *door) options() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.StreamInterceptor(d.stream),
		grpc.MaxRecvMsgSize(MaxBatch),
		grpc.MaxConcurrentStreams(MaxStreams),

		grpc.MaxHeaderListSize(MaxHeader),
		grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: maxIdle, MaxConnectionAge: maxAge, MaxConnectionAgeGrace: ageGrace, Time: pingAfter, Timeout: pingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(buffer),
		grpc.NumStreamWorkers(uint32(workers * runtime.GOMAXPROCS(0))),
		grpc.WaitForHandlers(true),
	}
	secured := insecure.NewCredentials()
	if d.TLS != nil {
		secured = credentials.NewTLS(d.TLS)
	}
	return append(options, grpc.Creds(linking{secured}))
}

// workers is how many goroutines a processor keeps for calls, whose stacks have grown
// already; where they are busy, calls get others.
const workers = 16
