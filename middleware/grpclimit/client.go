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
	"github.com/headgate/headgate/middleware/grpclimit/answer"
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

	// FailOpen sends calls that could not be decided. Otherwise they fail with
	// UNAVAILABLE. Those that are at fault or name what does not exist fail whatever
	// it says.
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

// Budget is what the calls of a Client are charged to: a limiter, see
// [NewClient], or what asks a policy, such as that of package grpcgate. It is safe
// for concurrent use.
type Budget interface {
	// Acquire charges cost to key for a call that is about to be made, or refuses
	// it and charges nothing. The error means that nothing was decided.
	//
	// release gives back what is held for as long as the call lasts: it is called
	// once, when the call has ended, possibly by another goroutine and after the
	// call's context has ended. It is nil where nothing is held, as in all refusals
	// and errors.
	Acquire(c Call, key string, cost int64) (v answer.Verdict, release func() error, err error)
}

// limiterBudget is the Budget of a limiter.
type limiterBudget struct{ plan }

// Acquire implements Budget.
func (b limiterBudget) Acquire(c Call, key string, cost int64) (answer.Verdict, func() error, error) {
	st := states.Get().(*state)
	d, err := b.decide(c.Context, &st.batch, key, cost)
	switch {
	case err == nil && d.Allowed && b.holds:
		return answer.Verdict{Decision: d}, func() error {
			defer states.Put(st)
			return b.Release(context.WithoutCancel(c.Context), &st.batch)
		}, nil
	case err == nil && !d.Allowed:
		v := st.verdict(d)
		states.Put(st)
		return v, nil, nil
	}
	states.Put(st)
	return answer.Verdict{Decision: d}, nil, err
}

// Client charges calls before they are sent. One that is refused fails as the
// server's would, without having been sent, its ErrorInfo's metadata with origin
// "client". It is safe for concurrent use, and by several connections.
//
// It stands before grpc's own retries: a call is charged once, however often its
// retry policy sends it.
type Client struct {
	config ClientConfig
	budget Budget
	pauses pause.Keys[codes.Code]
}

// NewClient returns a Client that charges calls to lim. It panics if lim is nil
// or the ClientConfig is at fault.
func NewClient(lim *headgate.Limiter, c ClientConfig) *Client {
	if lim == nil {
		panic("grpclimit: NewClient without a limiter")
	}
	return NewClientOver(limiterBudget{newPlan(lim)}, c)
}

// NewClientOver is NewClient with a Budget of another kind. It panics if b is nil
// or the ClientConfig is at fault.
func NewClientOver(b Budget, c ClientConfig) *Client {
	if b == nil {
		panic("grpclimit: NewClientOver without a budget")
	}
	if err := c.validate(); err != nil {
		panic("grpclimit: ClientConfig." + err.Error())
	}
	return &Client{config: c.withDefaults(), budget: b}
}

// Unary is a grpc.UnaryClientInterceptor.
func (cl *Client) Unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	c := Call{Context: ctx, Method: method, Message: req, Target: cc.Target()}
	if cl.config.Skip(c) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	key, release, err := cl.admit(c)
	if release != nil {
		defer cl.release(c, release)
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
	key, release, err := cl.admit(c)
	if err != nil {
		if release != nil {
			cl.release(c, release)
		}
		return nil, err
	}
	if release == nil && cl.config.MaxPause == 0 {
		return streamer(ctx, desc, cc, method, opts...)
	}
	var trailer metadata.MD
	var ended sync.Once
	end := func(err error) {
		ended.Do(func() {
			if release != nil {
				cl.release(c, release)
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
// error, a status. What is held is to be released unless release is nil, with an
// error or without.
func (cl *Client) admit(c Call) (key string, release func() error, err error) {
	key, err = keyOf(cl.config.Key, c)
	if err != nil {
		return "", nil, cl.fault(c, fmt.Errorf("key: %w", err))
	}
	w := pause.Patience{Most: cl.config.MaxWait}
	delay, release, err := cl.decide(c, &w, key)
	if err == nil && delay > 0 {
		if err = sleep(c.Context, delay); err == nil {
			err = cl.pass(c.Context, key, &w)
		}
	}
	return key, release, err
}

// decide charges a call, again and again as long as it may wait, and not while its key is
// stopped. It passes after the delay, or the error is a status.
func (cl *Client) decide(c Call, w *pause.Patience, key string) (delay time.Duration, release func() error, err error) {
	cost := cl.config.Cost(c)
	for {
		if err := cl.pass(c.Context, key, w); err != nil {
			return 0, nil, err
		}
		v, release, err := cl.budget.Acquire(c, key, cost)
		switch {
		case err != nil:
			return 0, nil, cl.undecided(c, err)
		case v.Allowed:
			return v.Delay, release, nil
		case !v.Retryable || v.RetryAfter <= 0 || !w.Covers(c.Context, v.RetryAfter):
			return 0, nil, v.Refusal(v.RetryAfter, answer.Message(v.Reason, "Not sent: the client's own limit refuses"), "client")
		}
		if err := sleep(c.Context, v.RetryAfter); err != nil {
			return 0, nil, err
		}
	}
}

func (cl *Client) release(c Call, release func() error) {
	if err := release(); err != nil {
		cl.config.OnError(c, fmt.Errorf("release: %w", err))
	}
}

func (cl *Client) undecided(c Call, err error) error {
	if code := headgate.CodeOf(err); code == headgate.InvalidRequest || code == headgate.NotFound {
		return cl.fault(c, err)
	}
	cl.config.OnError(c, err)
	if cl.config.FailOpen {
		return nil
	}
	_, closed := answer.Undecided(err)
	return closed
}

func (cl *Client) fault(c Call, err error) error {
	cl.config.OnError(c, err)
	return answer.Fault(err)
}
