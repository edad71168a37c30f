package grpclimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// ServerConfig says how a server's calls are limited. The zero value charges 1
// to the client's address and believes proxies on loopback only. Its functions
// must be safe for concurrent use.
type ServerConfig struct {
	// Key names whose budget a call uses; nil means [ByPeer] with proxies on
	// 127.0.0.0/8 and ::1. An error or an empty key is answered with
	// INVALID_ARGUMENT if it is a *headgate.Error with code InvalidRequest, else
	// with INTERNAL.
	Key func(Call) (string, error)
	// Cost is the number of tokens that a unary call or the opening of a stream
	// takes; nil means 1. 0 checks and charges nothing, what is not within 0 and
	// headgate.MaxInt is answered with INVALID_ARGUMENT.
	Cost func(Call) int64
	// MessageCost is the number of tokens that a message takes which a stream
	// receives, in addition to Cost; nil charges none. The request of a call that
	// streams its answer is such a message. A refused message ends the stream:
	// RecvMsg and SendMsg fail with the refusal from then on, the context of the
	// handler ends with it as its cause, and it is the stream's status whatever
	// the handler returns. A leaky bucket's delay holds the next message back. The
	// limiters must have no concurrency limit.
	MessageCost func(Call) int64
	// Skip lets the calls for which it is true pass uncharged; nil skips none.
	Skip func(Call) bool

	// Plan chooses another limiter out of Plans; nil or "" means the one given
	// to NewServer, any other name that is not in Plans is answered with
	// INTERNAL. Limits of one name share what a client has used: give the limits
	// of all plans the same names, or a change of plan is a fresh budget.
	Plan  func(Call) string
	Plans map[string]*headgate.Limiter

	// Message is that of RESOURCE_EXHAUSTED; "" means "Too many calls".
	Message string
	// OnLimited returns the error of a refused call in place of the status with
	// details; nil means that one, as does nil returned. The trailers are set
	// already; the usual code is Code(d.Reason).
	OnLimited func(c Call, d headgate.Decision) error

	// Headers is the set of conventions for metadata about limits; 0 means
	// HeadersIETF. Push-back and headgate-* are sent with all of them.
	Headers Headers
	// RetryJitter spreads the wait that a refusal tells upward by as many
	// percent, 0 to 100; 0 means not at all.
	RetryJitter int
	// MaxRetryHint is the longest wait after which a client's retry policy is
	// told to come back, up to 24 h; longer ones are told as -1, do not retry. 0
	// means a minute. RetryInfo has every wait.
	MaxRetryHint time.Duration

	// FailOpen lets calls and messages pass that the limiter could not decide.
	// Otherwise they are answered with UNAVAILABLE.
	FailOpen bool
	// OnError is told of every call and message that could not be decided, and
	// of slots that could not be released; nil means nobody is. When the client
	// has gone, the error may wrap context.Canceled.
	OnError func(Call, error)
}

func (c ServerConfig) withDefaults() ServerConfig {
	if c.Key == nil {
		c.Key = ByPeer(clientip.Loopback())
	}
	if c.Cost == nil {
		c.Cost = func(Call) int64 { return 1 }
	}
	if c.Skip == nil {
		c.Skip = func(Call) bool { return false }
	}
	if c.Plan == nil {
		c.Plan = func(Call) string { return "" }
	}
	if c.OnLimited == nil {
		c.OnLimited = func(Call, headgate.Decision) error { return nil }
	}
	if c.OnError == nil {
		c.OnError = func(Call, error) {}
	}
	c.Message = cmp.Or(c.Message, "Too many calls")
	c.Headers = cmp.Or(c.Headers, HeadersIETF)
	c.MaxRetryHint = cmp.Or(c.MaxRetryHint, time.Minute)
	return c
}

func (c ServerConfig) validate() error {
	if c.Headers != HeadersNone && c.Headers&^Headers(ratefield.AllStyles) != 0 {
		return fmt.Errorf("headers %#x: not a set of the constants, or HeadersNone beside others", uint8(c.Headers))
	}
	if c.RetryJitter < 0 || c.RetryJitter > 100 {
		return fmt.Errorf("retry jitter %d: must be 0 to 100", c.RetryJitter)
	}
	if c.MaxRetryHint < 0 || c.MaxRetryHint > answer.LongestHint {
		return fmt.Errorf("max retry hint %v: must be 0 to %v", c.MaxRetryHint, answer.LongestHint)
	}
	if c.Plan == nil && len(c.Plans) > 0 {
		return errors.New("plans without a Plan function: nothing would choose among them")
	}
	for name, lim := range c.Plans {
		if name == "" || lim == nil {
			return fmt.Errorf("plans[%q]: needs a name and a limiter", name)
		}
	}
	return nil
}

// Server charges the calls of a grpc.Server before its handlers run. It is safe
// for concurrent use, and by several servers.
type Server struct {
	config ServerConfig
	plans  map[string]plan
	styles ratefield.Styles
}

// NewServer returns a Server that charges calls to lim. It panics if lim is nil
// or the ServerConfig is at fault.
func NewServer(lim *headgate.Limiter, c ServerConfig) *Server {
	if lim == nil {
		panic("grpclimit: NewServer without a limiter")
	}
	if err := c.validate(); err != nil {
		panic("grpclimit: ServerConfig." + err.Error())
	}
	s := &Server{config: c.withDefaults(), plans: map[string]plan{"": newPlan(lim)}}
	s.styles = ratefield.Styles(s.config.Headers) & ratefield.AllStyles
	for name, lim := range c.Plans {
		s.plans[name] = newPlan(lim)
	}
	for name, p := range s.plans {
		if c.MessageCost != nil && p.holds {
			panic(fmt.Sprintf("grpclimit: ServerConfig.MessageCost with a concurrency limit (plan %q): a message has no end; give the limit a Server of its own", name))
		}
	}
	return s
}

// Unary is a grpc.UnaryServerInterceptor.
func (s *Server) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := Call{Context: ctx, Method: info.FullMethod, Message: req}
	if s.config.Skip(c) {
		return handler(ctx, req)
	}
	p, key, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	md := fields.Get().(metadata.MD)
	held, err := s.admit(c, p, key, md)
	if held != nil {
		defer s.release(c, p, held)
	}
	var resp any
	if err == nil {
		resp, err = handler(ctx, req)
	}
	answer.Unary(ctx, md, err)
	clear(md)
	fields.Put(md)
	return resp, err
}

// Stream is a grpc.StreamServerInterceptor.
func (s *Server) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := Call{Context: ss.Context(), Method: info.FullMethod}
	if s.config.Skip(c) {
		return handler(srv, ss)
	}
	p, key, err := s.subject(c)
	if err != nil {
		return err
	}
	w := &serverStream{Stream: answer.Stream{ServerStream: ss, MD: metadata.MD{}}, server: s, call: c, plan: p, key: key}
	w.ctx, w.end = context.WithCancelCause(c.Context)
	defer w.end(nil)
	held, err := s.admit(c, p, key, w.MD)
	if held != nil {
		defer s.release(c, p, held)
	}
	if err == nil {
		err = handler(srv, w)
	}
	return w.finish(err)
}

// subject finds whose budget the call uses. The error is a status.
func (s *Server) subject(c Call) (p plan, key string, err error) {
	name := s.config.Plan(c)
	p, ok := s.plans[name]
	if !ok {
		return p, "", s.fault(c, &headgate.Error{Code: headgate.NotFound, Field: "plan", Err: fmt.Errorf("unknown plan %q", name)})
	}
	key, err = keyOf(s.config.Key, c)
	if err != nil {
		return p, "", s.fault(c, fmt.Errorf("key: %w", err))
	}
	return p, key, nil
}

// admit decides a call, waits for its delay, and adds to md what its answer
// tells. The call passes unless there is an error, a status. The state is nil
// unless slots are held: then it is to be released, with an error or without.
func (s *Server) admit(c Call, p plan, key string, md metadata.MD) (held *state, err error) {
	st := states.Get().(*state)
	d, err := p.decide(c.Context, &st.batch, key, s.config.Cost(c))
	if err == nil {
		st.describe(md, s.styles)
	}
	err = s.answer(c, st, d, err, md)
	if p.holds && d.Allowed {
		held = st
	} else {
		states.Put(st)
	}
	if err == nil {
		err = sleep(c.Context, d.Delay)
	}
	return held, err
}

// release frees slots. The client may be gone, they must be freed all the same.
func (s *Server) release(c Call, p plan, held *state) {
	if err := p.Release(context.WithoutCancel(c.Context), &held.batch); err != nil {
		s.config.OnError(c, fmt.Errorf("release: %w", err))
	}
	states.Put(held)
}

// answer returns the status of what does not pass.
func (s *Server) answer(c Call, st *state, d headgate.Decision, err error, md metadata.MD) error {
	if err != nil {
		return s.undecided(c, st, err, md)
	}
	if d.Allowed {
		return nil
	}
	v := st.verdict(d)
	st.set(md, "headgate-reason", d.Reason.String())
	if v.Limit != "" {
		st.set(md, "headgate-limit", v.Limit)
	}
	wait := answer.Spread(d.RetryAfter, s.config.RetryJitter)
	st.set(md, answer.Pushback, answer.Hint(d.Retryable, wait, s.config.MaxRetryHint))
	if err := s.config.OnLimited(c, d); err != nil {
		return err
	}
	return v.Refusal(wait, answer.Message(d.Reason, s.config.Message), "server")
}

// undecided returns the status for an error of the limiter, nil if the call
// passes in spite of it.
func (s *Server) undecided(c Call, st *state, err error, md metadata.MD) error {
	if headgate.CodeOf(err) == headgate.InvalidRequest {
		return s.fault(c, err)
	}
	s.config.OnError(c, err)
	if s.config.FailOpen {
		st.set(md, "headgate-degraded", "open")
		return nil
	}
	reason, closed := answer.Undecided(err)
	st.set(md, "headgate-degraded", "closed")
	st.set(md, "headgate-reason", reason.String())
	return closed
}

func (s *Server) fault(c Call, err error) error {
	s.config.OnError(c, err)
	return answer.Fault(err)
}
