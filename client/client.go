package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// DefaultTimeout is how long a call may take that does not say.
const DefaultTimeout = 500 * time.Millisecond

// MaxConnections is the largest number of connections.
const MaxConnections = 64

// Options say how to reach a server. The zero value is a plain connection without a
// token.
type Options struct {
	// Token is shown with every call; "" for none. Without TLS who listens on the way
	// can read it.
	Token string
	// TLS is for the connections; nil leaves them plain.
	TLS *tls.Config
	// Timeout is how long the server may be silent, beside the context of a call: 0 is
	// DefaultTimeout, -1 no bound. Standing in line is no silence: a request that may
	// wait takes Timeout and besides as long as its MaxWait, WaitCap and NoWait let it,
	// [policy.MaxMaxWait] if none of them says.
	//
	// While it waits longer than Timeout, the server is asked every Timeout whether it
	// lives, by grpc.health.v1.Health/Check on a connection of its own and once for all
	// who wait; any answer will do, also one that it does not know the method. Without
	// an answer within Timeout the call ends with code Unavailable: a server that dies,
	// hangs or is cut off is noticed after twice to three times Timeout, however long
	// the line. A call that had no answer in all its time, although the server has
	// answered such a question within twice Timeout, ends with code Overloaded, one that
	// may not wait too. With several addresses one that lives is enough.
	//
	// With -1 nobody asks. Then, and of a connection on which no call comes back, the
	// pings of HTTP/2 notice it: after 30 s without a word from the server one is sent,
	// and without an answer to that for 10 s the calls of the connection end with code
	// Unavailable.
	Timeout time.Duration
	// Connections is how many are held to each server: 0 is 1, at most
	// MaxConnections. One is enough for some ten thousand calls a second. Settle, Renew
	// and Release have one besides, as those that stand in line may take all the calls
	// that a server lets one connection have, and so has the question whether it lives.
	Connections int
}

// Client asks a server. It is safe for concurrent use, and does not connect before it
// is used.
//
// An error means that nothing was decided, or that nobody knows: it is an
// *[headgate.Error], of code Unavailable if the server could not be reached in time
// (see Options.Timeout), and what happens then is for the caller to say. Nothing is asked
// twice once it may have been charged.
//
// Of a context, its metadata cross no wire: they are for whom the caller is about to call.
// Of a request, Now and Patience do not: the server's store has its own clock and its own
// patience. Of a claim, Now and Reaches: the token says what is reached.
type Client struct {
	timeout time.Duration
	conns   []*grpc.ClientConn
	claims  *grpc.ClientConn // on which nothing stands in line
	lives   *grpc.ClientConn // for questions whether the server lives
	pulse   pulse
	next    atomic.Uint32

	mu      sync.RWMutex
	closed  bool
	calls   sync.WaitGroup
	closing sync.Once
}

// New returns a client for target: HOST:PORT, of which all addresses are used in turn,
// or unix:PATH.
func New(target string, o Options) (*Client, error) {
	if target == "" {
		return nil, errors.New("client: the target is empty: it must be HOST:PORT or unix:PATH")
	}
	if o.Connections < 0 || o.Connections > MaxConnections {
		return nil, fmt.Errorf("client: %d connections: must be 0 to %d", o.Connections, MaxConnections)
	}
	if o.Timeout < 0 && o.Timeout != -1 {
		return nil, fmt.Errorf("client: time-out of %v: must be positive, 0 for %v or -1 for none", o.Timeout, DefaultTimeout)
	}
	c := &Client{timeout: min(cmp.Or(o.Timeout, DefaultTimeout), math.MaxInt64-policy.MaxMaxWait)} // so that a line can be added
	c.pulse.every = c.timeout
	c.pulse.ctx, c.pulse.stop = context.WithCancel(context.Background())
	for range max(o.Connections, 1) + 2 {
		conn, err := grpc.NewClient(target, o.dial()...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("client: %q: %w", target, err), c.Close())
		}
		c.conns = append(c.conns, conn)
	}
	last := len(c.conns) - 2
	c.claims, c.lives, c.conns = c.conns[last], c.conns[last+1], c.conns[:last]
	c.pulse.connect, c.pulse.ask = c.lives.Connect, question(c.lives, c.timeout/2)
	return c, nil
}

func (o *Options) dial() []grpc.DialOption {
	secure := insecure.NewCredentials()
	if o.TLS != nil {
		secure = credentials.NewTLS(o.TLS)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDisableRetry(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if o.Token != "" {
		options = append(options, grpc.WithPerRPCCredentials(token{"authorization": "Bearer " + o.Token}))
	}
	return options
}

// token is the metadata of every call.
type token map[string]string

// GetRequestMetadata returns the metadata.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return t, nil
}

// RequireTransportSecurity reports false: it is for the caller to say.
func (token) RequireTransportSecurity() bool { return false }

var errClosed = &headgate.Error{Code: headgate.Closed, Err: errors.New("the client is closed")}

// Close waits for the calls that are under way and closes the connections. Calls fail
// from then on with code Closed.
func (c *Client) Close() error {
	var errs []error
	c.closing.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.calls.Wait()
		c.pulse.end()
		for _, conn := range append(c.conns, c.claims, c.lives) {
			if conn != nil { // New has failed
				errs = append(errs, conn.Close())
			}
		}
	})
	return errors.Join(errs...)
}

// enter begins a call, which ends with c.calls.Done.
func (c *Client) enter() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return errClosed
	}
	c.calls.Add(1)
	return nil
}

// turn returns the connection whose turn it is.
func (c *Client) turn() *grpc.ClientConn {
	return c.conns[int(c.next.Add(1)%uint32(len(c.conns)))]
}

// call asks one method, whose request may stand in line for as long as line.
func (c *Client) call(ctx context.Context, conn *grpc.ClientConn, method string, in, out proto.Message, line time.Duration) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.calls.Done()
	if _, ok := metadata.FromOutgoingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, nil) // it is for others, and may hold secrets
	}
	if c.timeout < 0 {
		return failure(ctx, conn.Invoke(ctx, method, in, out))
	}
	within, cancel := context.WithTimeout(ctx, c.timeout+line)
	defer cancel()
	var w *waiter
	if line > 0 {
		w = c.pulse.enter(cancel)
	}
	err := conn.Invoke(within, method, in, out)
	if w != nil && c.pulse.leave(w) && err != nil && ctx.Err() == nil {
		return errSilent
	}
	err = failure(ctx, err)
	if err != nil && status.Code(errors.Unwrap(err)) == codes.DeadlineExceeded && c.pulse.answered() {
		return errFull
	}
	return err
}

// exchange is the messages of one decision, used again for the next one.
type exchange struct {
	in     asked
	out    headgatev1.Decision
	answer answer
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func (x *exchange) free() {
	x.in.reset()
	x.out.Reset()
	x.answer.reset()
	exchanges.Put(x)
}

// Take decides r as gate.Gate.Take does.
func (c *Client) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return c.decide(ctx, headgatev1.HeadgateService_Take_FullMethodName, r, waits(r), d)
}

// Peek decides r as gate.Gate.Peek does.
func (c *Client) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return c.decide(ctx, headgatev1.HeadgateService_Peek_FullMethodName, r, 0, d)
}

func (c *Client) decide(ctx context.Context, method string, r *gate.Request, line time.Duration, d *gate.Decision) error {
	x := exchanges.Get().(*exchange)
	defer x.free()
	err := x.in.fill(r)
	if err == nil {
		err = c.call(ctx, c.turn(), method, &x.in.take, &x.out, line)
	}
	return x.receive(d, err)
}

// receive makes d the answer, if there is one.
func (x *exchange) receive(d *gate.Decision, err error) error {
	if err != nil {
		d.Kept = false // it may be of an earlier use
		return err
	}
	d.Receive(x.answer.read(&x.out))
	return nil
}

// waits is how long a request may be in line at most. Only the server knows the max_wait of
// its rule.
func waits(r *gate.Request) time.Duration {
	longest := policy.MaxMaxWait
	if r.MaxWaitSaid {
		longest = min(max(r.MaxWait, 0), longest)
	}
	if r.WaitCap > 0 {
		longest = min(r.WaitCap, longest)
	}
	if r.NoWait {
		return 0
	}
	return longest
}

// Explain decides r as gate.Gate.Explain does.
func (c *Client) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	x := exchanges.Get().(*exchange)
	defer x.free()
	if err := x.in.fill(r); err != nil {
		return x.receive(d, err)
	}
	var out headgatev1.ExplainResponse
	if err := c.call(ctx, c.turn(), headgatev1.HeadgateService_Explain_FullMethodName, &x.in.take, &out, 0); err != nil {
		return x.receive(d, err)
	}
	if out.Decision == nil {
		return x.receive(d, errAnswer)
	}
	d.Receive(x.answer.read(out.Decision))
	e.Verdict, e.Steps = out.Explanation.GetVerdict(), e.Steps[:0]
	for _, s := range out.Explanation.GetSteps() {
		e.Steps = append(e.Steps, gate.Step{About: s.About, Text: s.Text})
	}
	return nil
}

// Reserve decides r as gate.Gate.Reserve does.
func (c *Client) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	x := exchanges.Get().(*exchange)
	defer x.free()
	ms, err := hold(ttl)
	if err == nil {
		err = x.in.fill(r)
	}
	if err == nil {
		in := headgatev1.ReserveRequest{Take: &x.in.take, TtlMs: ms}
		err = c.call(ctx, c.turn(), headgatev1.HeadgateService_Reserve_FullMethodName, &in, &x.out, waits(r))
	}
	return x.receive(d, err)
}

// Settle ends a reservation as gate.Gate.Settle does.
func (c *Client) Settle(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	in := headgatev1.SettleRequest{Ticket: q.Ticket, Application: q.Application, Costs: q.Costs}
	if q.CostSaid {
		in.Cost = &q.Cost
	}
	return c.claim(ctx, headgatev1.HeadgateService_Settle_FullMethodName, &in, nil, d)
}

// Renew holds for another while as gate.Gate.Renew does.
func (c *Client) Renew(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	ms, err := hold(q.TTL)
	in := headgatev1.RenewRequest{Ticket: q.Ticket, Application: q.Application, TtlMs: ms}
	return c.claim(ctx, headgatev1.HeadgateService_Renew_FullMethodName, &in, err, d)
}

// Release gives back as gate.Gate.Release does.
func (c *Client) Release(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	in := headgatev1.ReleaseRequest{Ticket: q.Ticket, Application: q.Application}
	return c.claim(ctx, headgatev1.HeadgateService_Release_FullMethodName, &in, nil, d)
}

func (c *Client) claim(ctx context.Context, method string, in proto.Message, err error, d *gate.Decision) error {
	x := exchanges.Get().(*exchange)
	defer x.free()
	if err == nil {
		err = c.call(ctx, c.claims, method, in, &x.out, 0)
	}
	return x.receive(d, err)
}

// Throttle decides t as gate.Gate.Throttle does.
func (c *Client) Throttle(ctx context.Context, t *gate.Throttle, d *gate.Decision) error {
	x := exchanges.Get().(*exchange)
	defer x.free()
	if t.Period%time.Microsecond != 0 {
		return x.receive(d, invalid("rate", "period %v: must be whole microseconds", t.Period))
	}
	in := headgatev1.ThrottleRequest{Key: t.Key, Count: t.Count, PeriodUs: t.Period.Microseconds(), Burst: t.Burst, Cost: &t.Cost, Peek: t.Peek}
	err := c.call(ctx, c.turn(), headgatev1.HeadgateService_Throttle_FullMethodName, &in, &x.out, 0)
	return x.receive(d, err)
}

// TakeAll decides the requests together as gate.Gate.TakeAll does.
func (c *Client) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (failed int, err error) {
	if len(rs) == 0 || len(rs) > gate.MaxAtomic {
		return -1, invalid("items", "%d: an atomic batch holds 1 to %d", len(rs), gate.MaxAtomic)
	}
	items := make([]asked, len(rs))
	in := headgatev1.TakeBatchRequest{Atomic: true}
	for i, r := range rs {
		if r.Releases {
			return i, invalid("items", "requests of an atomic batch get no tickets")
		}
		if err := items[i].fill(r); err != nil {
			return i, err
		}
		in.Items = append(in.Items, &items[i].take)
	}
	var out headgatev1.TakeBatchResponse
	if err := c.call(ctx, c.turn(), headgatev1.HeadgateService_TakeBatch_FullMethodName, &in, &out, 0); err != nil {
		return ofItem(err, len(rs))
	}
	if len(out.Results) != len(rs) {
		return -1, errAnswer
	}
	for _, r := range out.Results {
		if r.GetDecision() == nil {
			return -1, errAnswer
		}
	}
	var a answer
	for i, d := range ds {
		d.Receive(a.read(out.Results[i].GetDecision()))
	}
	return -1, nil
}
