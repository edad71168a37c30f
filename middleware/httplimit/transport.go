package httplimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/pause"
)

// TransportConfig says how outgoing requests are limited. The zero value charges 1
// to the origin that is asked, and fails requests that are refused. Its functions
// must be safe for concurrent use.
type TransportConfig struct {
	// Key names whose budget a request uses; nil means [ByOrigin]. An error or an
	// empty key ends the request.
	Key func(*http.Request) (string, error)
	// Cost is the number of tokens a request takes each time that it is sent; nil
	// means 1. 0 checks and charges nothing, what is not within 0 and
	// headgate.MaxInt ends the request.
	Cost func(*http.Request) int64
	// Skip sends the requests for which it is true uncharged, whatever the server
	// has asked for; nil skips none.
	Skip func(*http.Request) bool

	// MaxWait is how long a request may wait to be sent, counted from its first
	// wait and over all its tries; 0 means not at all. One that would not pass
	// within MaxWait and before its deadline fails at once with a *LimitedError.
	// Requests that wait are not served in order, and one that waits for a slot of
	// a concurrency limit is told the time until the slot's TTL has run out: it
	// fails at once if MaxWait is shorter. A leaky bucket's delay is waited for
	// besides.
	MaxWait time.Duration
	// MaxPause is how long a server may stop the requests of a key; 0 means that
	// what servers say is left to the caller. An answer stops its key that has
	//
	//   - status 429 or 503 and Retry-After, seconds or a date, or else
	//   - RateLimit with r=0 and t (draft-ietf-httpapi-ratelimit-headers-11), unless
	//     RateLimit-Policy says that it counts requests at one time, or else
	//   - RateLimit-Remaining or X-RateLimit-Remaining of 0 and the Reset beside it,
	//     in seconds, or since the Unix epoch where it is 1,000,000,000 or more.
	//
	// Dates and epochs are held against the answer's own Date. Values that are
	// malformed count as absent. Further requests of the key wait within MaxWait,
	// or fail. 10,000 keys are stopped at most; of more, any one is forgotten.
	MaxPause time.Duration
	// Retries is how often a request is sent again that is answered with 429 or
	// 503; 0 means never. It is sent again if the answer says when, by one of the
	// ways above, if that is within MaxPause and may be waited for, and if the
	// request has no body or has GetBody, as those of http.NewRequest over a
	// bytes.Buffer, bytes.Reader or strings.Reader have. It waits for 100 to 200 ms
	// at the least, at random, also where the server asks for less. Each try is
	// charged, and gives its slots back before it waits for the next. If that one
	// may not be sent within MaxWait, or for any other reason but the end of the
	// context, the caller gets the answer that there is, its body unread. Needs
	// MaxWait and MaxPause.
	Retries int

	// FailOpen sends requests that could not be decided. Otherwise they fail, as do
	// those that are at fault or name what does not exist, whatever it says.
	FailOpen bool
	// OnError is told of every request that could not be decided, and of slots
	// that could not be released; nil means nobody is.
	OnError func(*http.Request, error)
}

func (c TransportConfig) withDefaults() TransportConfig {
	if c.Key == nil {
		c.Key = ByOrigin
	}
	if c.Cost == nil {
		c.Cost = func(*http.Request) int64 { return 1 }
	}
	if c.Skip == nil {
		c.Skip = func(*http.Request) bool { return false }
	}
	if c.OnError == nil {
		c.OnError = func(*http.Request, error) {}
	}
	return c
}

func (c TransportConfig) validate() error {
	switch {
	case c.MaxWait < 0:
		return fmt.Errorf("max wait %v: must not be negative", c.MaxWait)
	case c.MaxPause < 0:
		return fmt.Errorf("max pause %v: must not be negative", c.MaxPause)
	case c.Retries < 0:
		return fmt.Errorf("retries %d: must not be negative", c.Retries)
	case c.Retries > 0 && (c.MaxWait == 0 || c.MaxPause == 0):
		return errors.New("retries without max wait and max pause: a request is sent again after a wait only")
	}
	return nil
}

// Budget is what the requests of a Transport are charged to: a limiter, see
// [NewTransport], or what asks a policy, such as that of package gate/httpgate. It is
// safe for concurrent use.
type Budget interface {
	// Acquire charges cost to key for a request that is about to be sent, or
	// refuses it and charges nothing. The error means that nothing was decided.
	//
	// release gives back what is held for as long as the request is under way: it
	// is called once, when the answer was read or closed, possibly by another
	// goroutine and after the request's context has ended. The last Read, or Close,
	// waits for it: what may take long goes on behind it. It is nil where nothing is
	// held, as in all refusals and errors.
	Acquire(r *http.Request, key string, cost int64) (d headgate.Decision, release func() error, err error)
}

// limiterBudget is the Budget of a limiter.
type limiterBudget struct{ plan }

// Acquire implements Budget.
func (b limiterBudget) Acquire(r *http.Request, key string, cost int64) (headgate.Decision, func() error, error) {
	if !b.holds {
		d, err := b.Take(r.Context(), key, cost)
		return d, nil, err
	}
	s := states.Get().(*state)
	d, err := b.Limiter.Acquire(r.Context(), &s.batch, key, cost)
	if err != nil || !d.Allowed {
		states.Put(s)
		return d, nil, err
	}
	return d, func() error {
		defer states.Put(s)
		return b.Release(context.WithoutCancel(r.Context()), &s.batch)
	}, nil
}

// Transport is an http.RoundTripper that charges requests before they are sent, and
// heeds servers that say when to come back. One that is refused fails with a
// *LimitedError, without having been sent. What it takes of concurrency limits is
// held until the answer's body is closed or read to its end. It is safe for
// concurrent use.
//
// Each request of a chain of redirects is charged to its own key.
type Transport struct {
	config TransportConfig
	base   http.RoundTripper
	budget Budget
	stops  pause.Keys[int] // with the status of the answer
}

// NewTransport returns a Transport that charges requests to lim and sends them by
// base; nil means http.DefaultTransport. Processes whose limiters are over one store
// share what they may ask for. It panics if lim is nil or the TransportConfig is at
// fault.
func NewTransport(lim *headgate.Limiter, base http.RoundTripper, c TransportConfig) *Transport {
	if lim == nil {
		panic("httplimit: NewTransport without a limiter")
	}
	return NewTransportOver(limiterBudget{newPlan(lim)}, base, c)
}

// NewTransportOver is NewTransport with a Budget of another kind. It panics if b is
// nil or the TransportConfig is at fault.
func NewTransportOver(b Budget, base http.RoundTripper, c TransportConfig) *Transport {
	if b == nil {
		panic("httplimit: NewTransportOver without a budget")
	}
	if err := c.validate(); err != nil {
		panic("httplimit: TransportConfig." + err.Error())
	}
	if base == nil {
		base = http.DefaultTransport
	}
	return &Transport{config: c.withDefaults(), base: base, budget: b}
}

// LimitedError is why a request was not sent. http.Client wraps it: find it with
// errors.AsType or errors.As.
type LimitedError struct {
	// Decision is the refusal; it is zero where the server has stopped the key.
	Decision headgate.Decision
	// Status is that of the answer by which the server has stopped the key, 0 where
	// the budget refuses.
	Status int
	// RetryAfter is when the request would pass, as far as is known now; 0 if it
	// never would, or nobody knows.
	RetryAfter time.Duration
}

// Error implements error. It does not tell the key, which may be a secret.
func (e *LimitedError) Error() string {
	why := "the server asked to wait"
	if e.Status == 0 {
		why = "the client's own limit refuses: " + e.Decision.Reason.String()
	}
	if e.RetryAfter == 0 {
		return "httplimit: not sent: " + why
	}
	return fmt.Sprintf("httplimit: not sent: %s, retry after %v", why, e.RetryAfter)
}

// Temporary reports whether the request can pass later.
func (e *LimitedError) Temporary() bool { return e.Status != 0 || e.Decision.Retryable }

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.config.Skip(r) {
		return t.base.RoundTrip(r)
	}
	key, err := t.config.Key(r)
	if err == nil && key == "" {
		err = invalid("subject", "the key is empty")
	}
	if err != nil {
		closeBody(r)
		t.config.OnError(r, fmt.Errorf("key: %w", err))
		return nil, fmt.Errorf("httplimit: not sent: key: %w", err)
	}
	patience := pause.Patience{Most: t.config.MaxWait}
	ended, err := t.admit(r, key, &patience)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	for retries := t.config.Retries; ; retries-- {
		resp, err := t.send(r, ended)
		if err != nil || t.config.MaxPause == 0 {
			return resp, err
		}
		wait, told := t.heed(key, resp)
		if retries == 0 || !told || !refused(resp) || wait > t.config.MaxPause {
			return resp, nil
		}
		wait = max(wait, leastWait())
		if !patience.Covers(r.Context(), wait) {
			return resp, nil
		}
		again, ok := rewound(r)
		if !ok {
			return resp, nil
		}
		if ended, err = t.admitAgain(again, key, &patience, wait, ended); err != nil {
			closeBody(again)
			if err = r.Context().Err(); err == nil {
				return resp, nil
			}
		}
		// Not read to its end, which may never come, although that costs the connection.
		if resp.Body != nil {
			resp.Body.Close()
		}
		if err != nil {
			return nil, err
		}
		r = again
	}
}

// leastWait is the shortest wait before a request is sent again. Servers may ask for
// none (RFC 9110, section 10.2.3: 0, or a date that is over), but whoever obeys spends all
// its tries before anything can have changed, at the same instant as all others that were
// refused: so it is longer than most round trips, and spread. In whole milliseconds.
func leastWait() time.Duration {
	return time.Duration(100+rand.IntN(101)) * time.Millisecond
}

// CloseIdleConnections closes those of the base, see http.Client.
func (t *Transport) CloseIdleConnections() {
	if b, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		b.CloseIdleConnections()
	}
}

// admitAgain is admit for a request that was answered, after a wait. It ends the earlier
// try first, for which ended is nil if it holds nothing: the next needs what it holds.
func (t *Transport) admitAgain(r *http.Request, key string, p *pause.Patience, wait time.Duration, ended func()) (func(), error) {
	if ended != nil {
		ended()
	}
	if err := pause.Sleep(r.Context(), wait); err != nil {
		return nil, err
	}
	return t.admit(r, key, p)
}

// admit decides whether a request is sent, and waits if it may. What it returns is
// to be called when the request has ended, once or more often; it is nil if nothing is
// held.
func (t *Transport) admit(r *http.Request, key string, p *pause.Patience) (ended func(), err error) {
	ctx, cost := r.Context(), t.config.Cost(r)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err // uncharged
		}
		if err := t.pass(ctx, key, p); err != nil {
			return nil, err
		}
		d, release, err := t.budget.Acquire(r, key, cost)
		switch {
		case err != nil:
			t.config.OnError(r, err)
			if code := headgate.CodeOf(err); t.config.FailOpen && code != headgate.InvalidRequest && code != headgate.NotFound {
				return nil, nil
			}
			return nil, fmt.Errorf("httplimit: not sent: %w", err)
		case d.Allowed:
			ended := t.releaser(r, release)
			if d.Delay > 0 {
				if err = pause.Sleep(ctx, d.Delay); err == nil {
					err = t.pass(ctx, key, p)
				}
			}
			if err != nil {
				if ended != nil {
					ended()
				}
				return nil, err
			}
			return ended, nil
		case !d.Retryable || d.RetryAfter <= 0:
			return nil, &LimitedError{Decision: d}
		case !p.Covers(ctx, d.RetryAfter):
			return nil, &LimitedError{Decision: d, RetryAfter: d.RetryAfter}
		}
		if err := pause.Sleep(ctx, d.RetryAfter); err != nil {
			return nil, err
		}
	}
}

// pass waits until key is not stopped.
func (t *Transport) pass(ctx context.Context, key string, p *pause.Patience) error {
	for {
		left, status := t.stops.Left(key)
		if left <= 0 {
			return nil
		}
		if !p.Covers(ctx, left) {
			return &LimitedError{Status: status, RetryAfter: left}
		}
		if err := pause.Sleep(ctx, left); err != nil {
			return err
		}
	}
}

// send sends a request and sees to it that ended, unless nil, is called when it has.
func (t *Transport) send(r *http.Request, ended func()) (resp *http.Response, err error) {
	if ended == nil {
		return t.base.RoundTrip(r)
	}
	passedOn := false
	defer func() {
		if !passedOn {
			ended()
		}
	}()
	resp, err = t.base.RoundTrip(r)
	if err != nil || resp.Body == nil || resp.Body == http.NoBody {
		return resp, err
	}
	passedOn = true
	b := body{resp.Body, ended}
	resp.Body = b
	if w, ok := b.ReadCloser.(io.Writer); ok { // an upgraded connection
		resp.Body = upgraded{b, w}
	}
	return resp, nil
}

// releaser returns what calls release at its first call, nil for nil.
func (t *Transport) releaser(r *http.Request, release func() error) func() {
	if release == nil {
		return nil
	}
	return sync.OnceFunc(func() {
		if err := release(); err != nil {
			t.config.OnError(r, fmt.Errorf("release: %w", err))
		}
	})
}

// heed stops key if the server asks for it. It returns for how long, and whether the
// server said so.
func (t *Transport) heed(key string, resp *http.Response) (time.Duration, bool) {
	wait, told := said(resp, time.Now())
	if stop := min(wait, t.config.MaxPause); stop > 0 {
		t.stops.Stop(key, stop, resp.StatusCode)
	}
	return wait, told
}

// body ends with its first error, or when it is closed.
type body struct {
	io.ReadCloser
	ended func()
}

// Read implements io.Reader.
func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended()
	}
	return n, err
}

// Close implements io.Closer.
func (b body) Close() error {
	defer b.ended()
	return b.ReadCloser.Close()
}

// upgraded is the body of an answer with status 101.
type upgraded struct {
	body
	io.Writer
}

// refused reports whether the server did not do what it was asked, for now.
func refused(resp *http.Response) bool {
	return resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable
}

// rewound returns a request that can be sent once r was.
func rewound(r *http.Request) (*http.Request, bool) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, true
	}
	if r.GetBody == nil {
		return nil, false
	}
	b, err := r.GetBody()
	if err != nil {
		return nil, false // the caller gets the answer, as if there were none
	}
	again := r.WithContext(r.Context())
	again.Body = b
	return again, true
}

// closeBody closes the body of a request that is not sent, as every RoundTripper must.
func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}
