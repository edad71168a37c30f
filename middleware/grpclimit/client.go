package grpclimit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/pause"
)

// ClientConfig says how a client's calls are limited. The zero value charges 1
// to the connection's target, and fails calls that are refused. Its functions
// must be safe for concurrent use.
type ClientConfig struct {
	// Key names whose budget a call uses; nil means [ByTarget]. An error or an
	// empty key ends the call with INVALID_ARGUMENT if it is a *headgate.Error
	// with code InvalidRequest, else with INTERNAL.
	Key func(Call) (string, error)
	// Cost is the number of tokens that a unary call or a stream takes; nil means
	// 1. 0 checks and charges nothing, what is not within 0 and headgate.MaxInt
	// ends the call with INVALID_ARGUMENT.
	Cost func(Call) int64
	// Skip lets the calls for which it is true pass uncharged; nil skips none.
	Skip func(Call) bool

	// MaxWait is how long a call may wait to be sent; 0 means not at all. A call
	// that would not pass within MaxWait and before its deadline fails at once.
	// Calls that wait are not served in order, and one that waits for a slot of a
	// concurrency limit is told the time until the slot's TTL has run out: it
	// fails at once if MaxWait is shorter. A leaky bucket's delay is waited for
	// besides.
	MaxWait time.Duration
	// MaxPause is how long a server may stop the calls of a key; 0 means that
	// what servers say is left to the caller. A call that ends with
	// RESOURCE_EXHAUSTED or UNAVAILABLE and says by RetryInfo or by
	// grpc-retry-pushback-ms when to come back, the later of the two, stops its
	// key until then, at most for MaxPause: further calls of the key wait within
	// MaxWait, or fail with the code that the server sent and the reason PAUSED.
	// A push-back of -1 stops nothing: it says only that the call is not to be
	// repeated. 10,000 keys are stopped at most; of more, any one is forgotten.
	MaxPause time.Duration

	// FailOpen sends calls that the limiter could not decide. Otherwise they fail
	// with UNAVAILABLE.
	FailOpen bool
	// OnError is told of every call that could not be decided, and of slots that
	// could not be released; nil means nobody is.
	OnError func(Call, error)
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.Key == nil {
		c.Key = ByTarget
	}
	if c.Cost == nil {
		c.Cost = func(Call) int64 { return 1 }
	}
	if c.Skip == nil {
		c.Skip = func(Call) bool { return false }
	}
	if c.OnError == nil {
		c.OnError = func(Call, error) {}
	}
	return c
}

func (c ClientConfig) validate() error {
	if c.MaxWait < 0 {
		return fmt.Errorf("max wait %v: must not be negative", c.MaxWait)
	}
	if c.MaxPause < 0 {
		return fmt.Errorf("max pause %v: must not be negative", c.MaxPause)
	}
	return nil
}

// Client charges calls before they are sent. One that is refused fails as the
// server's would, without having been sent, its ErrorInfo's metadata with origin
// "client". It is safe for concurrent use, and by several connections.
//
// It stands before grpc's own retries: a call is charged once, however often its
// retry policy sends it.
type Client struct {
	config ClientConfig
	plan   plan
	pauses pause.Keys[codes.Code]
}

// NewClient returns a Client that charges calls to lim. It panics if lim is nil
// or the ClientConfig is at fault.
func NewClient(lim *headgate.Limiter, c ClientConfig) *Client {
	if lim == nil {
		panic("grpclimit: NewClient without a limiter")
	}
	if err := c.validate(); err != nil {
		panic("grpclimit: ClientConfig." + err.Error())
	}
	return &Client{config: c.withDefaults(), plan: newPlan(lim)}
}

// Unary is a grpc.UnaryClientInterceptor.
func (cl *Client) Unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	c := Call{Context: ctx, Method: method, Message: req, Target: cc.Target()}
	if cl.config.Skip(c) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	key, held, err := cl.admit(c)
	if held != nil {
		defer cl.release(c, held)
	}
	if err != nil {
		return err
	}
	if cl.config.MaxPause == 0 {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	var trailer metadata.MD
	err = invoker(ctx, method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer))...)
	cl.heed(key, err, trailer)
	return err
}

// Stream is a grpc.StreamClientInterceptor.
func (cl *Client) Stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (cs grpc.ClientStream, err error) {
	c := Call{Context: ctx, Method: method, Target: cc.Target()}
	if cl.config.Skip(c) {
		return streamer(ctx, desc, cc, method, opts...)
	}
	key, held, err := cl.admit(c)
	if err != nil {
		if held != nil {
			cl.release(c, held)
		}
		return nil, err
	}
	if held == nil && cl.config.MaxPause == 0 {
		return streamer(ctx, desc, cc, method, opts...)
	}
	var trailer metadata.MD
	var ended sync.Once
	end := func(err error) {
		ended.Do(func() {
			if held != nil {
				cl.release(c, held)
			}
			cl.heed(key, err, trailer)
		})
	}
	defer func() {
		if cs == nil {
			end(err)
		}
	}()
	return streamer(ctx, desc, cc, method, append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer), grpc.OnFinish(end))...)
}

// admit decides a call, and waits if it may. The call is sent unless there is an
// error, a status. The state is nil unless slots are held: then it is to be
// released, with an error or without.
func (cl *Client) admit(c Call) (key string, held *state, err error) {
	key, err = keyOf(cl.config.Key, c)
	if err != nil {
		return "", nil, cl.fault(c, fmt.Errorf("key: %w", err))
	}
	w := pause.Patience{Most: cl.config.MaxWait}
	if cl.config.MaxPause > 0 {
		if err := cl.pass(c.Context, key, &w); err != nil {
			return "", nil, err
		}
	}
	st := states.Get().(*state)
	d, err := cl.decide(c, &w, st, key)
	if cl.plan.holds && d.Allowed {
		held = st
	} else {
		states.Put(st)
	}
	if err == nil {
		err = sleep(c.Context, d.Delay)
	}
	return key, held, err
}

// decide charges a call, again and again as long as it may wait. The error is a
// status.
func (cl *Client) decide(c Call, w *pause.Patience, st *state, key string) (headgate.Decision, error) {
	cost := cl.config.Cost(c)
	for {
		d, err := cl.plan.decide(c.Context, &st.batch, key, cost)
		switch {
		case err != nil:
			return d, cl.undecided(c, err)
		case d.Allowed:
			return d, nil
		case !d.Retryable || !w.Covers(c.Context, d.RetryAfter):
			return d, st.refusal(d, d.RetryAfter, "Not sent: the client's own limit refuses", "client")
		}
		if err := sleep(c.Context, d.RetryAfter); err != nil {
			return d, err
		}
	}
}

func (cl *Client) release(c Call, held *state) {
	if err := cl.plan.Release(context.WithoutCancel(c.Context), &held.batch); err != nil {
		cl.config.OnError(c, fmt.Errorf("release: %w", err))
	}
	states.Put(held)
}

func (cl *Client) undecided(c Call, err error) error {
	if headgate.CodeOf(err) == headgate.InvalidRequest {
		return cl.fault(c, err)
	}
	cl.config.OnError(c, err)
	if cl.config.FailOpen {
		return nil
	}
	_, closed := undecidedStatus(err)
	return closed
}

func (cl *Client) fault(c Call, err error) error {
	cl.config.OnError(c, err)
	return faultStatus(err)
}
