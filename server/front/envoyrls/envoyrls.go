// Package envoyrls is the door for Envoy: envoy.service.ratelimit.v3.RateLimitService over
// gRPC, and the same as JSON over HTTP. It knows that protocol, and nothing of policies.
package envoyrls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/server/front"
)

// DefaultPatience is how long a store may take to decide: Envoys wait 20 ms unless they are
// told otherwise, and then do without an answer.
const DefaultPatience = 15 * time.Millisecond

// decider is what the door needs of a gate.
type decider interface {
	Domain(domain string) string
	TakeDescriptors(context.Context, []*gate.Request, []*gate.Decision) (allowed bool, failed int, err error)
	Refund(context.Context, *gate.Request, *gate.Decision) error
}

// UnknownDomain says what becomes of a call for a domain that is not in the policy, or not
// the caller's.
type UnknownDomain uint8

// The ways. AnswerNotFound, the zero value, is the error NOT_FOUND. AnswerOK lets all pass,
// without a limit, as envoyproxy/ratelimit does.
const (
	AnswerNotFound UnknownDomain = iota
	AnswerOK
)

// Config is what a door is made of. Gate is required. The caller of each call is that of
// its context: see [front.With].
type Config struct {
	Gate decider
	// UnknownDomain is for domains that are not in the policy.
	UnknownDomain UnknownDomain
	// Unnamed says which limits have a name that Envoys are not told, as nobody gave it to
	// them. nil for none.
	Unnamed func(limit string) bool
	// Headers adds RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset to responses,
	// of the limit of which the least is left.
	Headers bool
	// DynamicMetadata adds to responses what was asked, and the metadata of the rules that
	// let it pass.
	DynamicMetadata bool
	// AfterTheFact is for Envoys that learn of hits when a response ends, and before it only
	// ask whether any are left (hits_addend: 0): such a check is refused where nothing
	// remains, and hits that a descriptor says itself, more than one, take what remains where
	// they do not fit. Without it a check passes as long as the limit is not exceeded, which
	// it never is, and what is refused takes nothing.
	AfterTheFact bool
	// Patience is how long the store may take to decide, if that is less than what the gate
	// allows; 0 is DefaultPatience. Where only this process could know better, as with a
	// store on its disk, waiting longer costs nobody anything: Envoy goes on at its time-out.
	Patience time.Duration
	// Now reads the store's own clock, if that is the process's: see [headgate.Clock]. All
	// descriptors of a call are decided at one reading. nil lets the store read its clock.
	Now func() int64
	// Decided is called after each decision, one for each descriptor, with the time that
	// all of the call took. It must not keep d. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Corrected is called after hits were given back. It must not keep d. nil for nobody.
	Corrected func(d *gate.Decision)
	// Counted is told the hits of each descriptor that a rule decided, by the rule's label.
	// nil for nobody.
	Counted func(application, label string, c Counts)
	// Panicked is called after a panic was answered. nil for nobody.
	Panicked func()
	// Logger takes what is not told to clients; nil discards it.
	Logger *slog.Logger
}

// Service is the door.
type Service struct {
	Config
	faults faultlog.Faults
}

// New returns the door.
func New(c Config) *Service {
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Unnamed == nil {
		c.Unnamed = func(string) bool { return false }
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	if c.Corrected == nil {
		c.Corrected = func(*gate.Decision) {}
	}
	if c.Counted == nil {
		c.Counted = func(string, string, Counts) {}
	}
	if c.Panicked == nil {
		c.Panicked = func() {}
	}
	return &Service{Config: c}
}

// Register makes the service one of r's. The messages that its interceptors see are not
// those of the generated code.
func (s *Service) Register(r grpc.ServiceRegistrar) { r.RegisterService(&desc, s) }

var desc = grpc.ServiceDesc{
	ServiceName: pb.RateLimitService_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "ShouldRateLimit", Handler: handle}},
	Metadata:    pb.RateLimitService_ServiceDesc.Metadata,
}

// handle answers a call.
func handle(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	s, c := srv.(*Service), newCall()
	defer c.free()
	if err := decode(c); err != nil {
		return nil, err
	}
	if c.malformed != nil {
		return nil, status.Error(codes.InvalidArgument, c.malformed.Error())
	}
	if interceptor == nil {
		return s.answer(ctx, c)
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: pb.RateLimitService_ShouldRateLimit_FullMethodName}
	return interceptor(ctx, c, info, func(ctx context.Context, req any) (any, error) {
		return s.answer(ctx, req.(*call))
	})
}

// call is everything that one request needs, used again for the next one.
type call struct {
	message
	ask
	malformed   error // what is wrong with the message
	application string
	caller      front.Caller
	rs          []*gate.Request
	ds          []*gate.Decision
	spare       *gate.Decision // nil until it is needed
	over        bool           // the overall code
	began       time.Time      // when the store was asked first
	out         []byte
}

var calls = sync.Pool{New: func() any {
	c := &call{message: message{Message: requestType, methods: requestMethods}, out: make([]byte, 0, 512)}
	c.self = c
	return c
}}

func newCall() *call { return calls.Get().(*call) }

// maxOut is the largest response whose memory is used again.
const maxOut = 64 << 10

// free returns the call for use by others.
func (c *call) free() {
	c.empty()
	if cap(c.out) <= maxOut {
		calls.Put(c)
	}
}

// empty makes the call ready for the next request.
func (c *call) empty() {
	c.ask.reset()
	c.application, c.caller, c.over = "", nil, false
	clear(c.rs)
	clear(c.ds)
	c.rs, c.ds = c.rs[:0], c.ds[:0]
}

// answer decides the call. A panic ends it with INTERNAL, and the server goes on.
func (s *Service) answer(ctx context.Context, c *call) (r *reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Logger.Error("panic in a handler", "method", pb.RateLimitService_ShouldRateLimit_FullMethodName, "panic", p, "stack", string(debug.Stack()))
			s.Panicked()
			r, err = nil, status.Error(codes.Internal, "the server failed; its log says how")
		}
	}()
	if err := s.decide(ctx, c); err != nil {
		return nil, s.failed(ctx, err)
	}
	return newReply(c.respond(&s.Config)), nil
}

// failed returns err with the code and the words that callers are told.
func (s *Service) failed(ctx context.Context, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	var code codes.Code
	text := err.Error()
	switch e, _ := errors.AsType[*headgate.Error](err); {
	case e == nil && errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was canceled")
	case e == nil && errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the call's deadline has passed")
	case e == nil:
		code, text = codes.Internal, "the server could not decide; its log says why"
	case e.Code == headgate.InvalidRequest && e.Field == "application":
		code = codes.FailedPrecondition // the policy does not fit this door
	case e.Code == headgate.InvalidRequest, e.Code == headgate.InvalidLimit:
		return status.Error(codes.InvalidArgument, text)
	case e.Code == headgate.NotFound:
		return status.Error(codes.NotFound, text)
	case e.Code == headgate.Closed:
		code, text = codes.Unavailable, "the server is stopping"
	case e.Code == headgate.Unavailable, e.Code == headgate.Overloaded:
		code, text = codes.Unavailable, "the store cannot decide at the moment"
	default:
		code, text = codes.Internal, "the server could not decide; its log says why"
	}
	if ctx.Err() == nil {
		s.faults.Log(s.Logger, slog.LevelError, code.String(), "no decision", "method", pb.RateLimitService_ShouldRateLimit_FullMethodName, "code", code.String(), "error", err)
	}
	return status.Error(code, text)
}

func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}
