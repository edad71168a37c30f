package echolimit

import (
	"net/http"
	"sync"

	"github.com/labstack/echo/v5"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/httplimit"
)

// Config says how requests are limited. The zero value charges 1 to the client's
// address and believes proxies on loopback only. The fields are those of
// httplimit.Config. Its functions must be safe for concurrent use, and must not keep the
// context.
type Config struct {
	// Key names whose budget a request uses; nil means httplimit.ByIP with proxies on
	// 127.0.0.0/8 and ::1. An error or an empty key is answered with 400 if it is a
	// *headgate.Error with code InvalidRequest, else with 500.
	Key func(*echo.Context) (string, error)
	// Cost is the number of tokens a request takes; nil means 1. 0 checks and charges
	// nothing, what is not within 0 and headgate.MaxInt is answered with 400.
	Cost func(*echo.Context) int64
	// Skip lets the requests for which it is true pass uncharged; nil skips none.
	Skip func(*echo.Context) bool

	// Plan chooses another limiter out of Plans; nil or "" means the one given to New,
	// any other name that is not in Plans is answered with 500. Limits of one name share
	// what a client has used: give the limits of all plans the same names, or a change of
	// plan is a fresh budget.
	Plan  func(*echo.Context) string
	Plans map[string]*headgate.Limiter

	// Message is the text of answers with status 429; "" means "Too many requests".
	Message string
	// OnLimited answers a refused request instead of the usual body; nil means that one.
	// The fields that httplimit.Config says are set already; the usual status is
	// httplimit.Status(d.Reason). An error that it returns is answered as those of
	// handlers are, by echo's error handler, such as
	// echo.NewHTTPError(httplimit.Status(d.Reason), "slow down").
	OnLimited func(c *echo.Context, d headgate.Decision) error

	// Headers is the set of conventions for the rate limit fields; 0 means
	// httplimit.HeadersIETF. Retry-After and Headgate-* are sent with all of them.
	Headers httplimit.Headers
	// RetryJitter spreads Retry-After upward by as many percent, 0 to 100; 0 means not at
	// all.
	RetryJitter int

	// FailOpen lets requests pass that the limiter could not decide. Otherwise they are
	// answered with 503.
	FailOpen bool
	// OnError is told of every request that could not be decided, and of slots that could
	// not be released; nil means nobody is. When the client has gone, the error may wrap
	// context.Canceled.
	OnError func(*echo.Context, error)
}

// call is httplimit's middleware for one request at a time: its functions find the
// context here, so that the request need not carry it.
type call struct {
	c       *echo.Context
	next    echo.HandlerFunc
	err     error
	handler http.Handler
}

// New returns middleware that charges requests to lim before it lets them through to the
// next handler. It panics where httplimit.New does: if lim is nil or the Config is at
// fault.
func New(lim *headgate.Limiter, c Config) echo.MiddlewareFunc {
	build := func() *call {
		k := &call{}
		k.handler = httplimit.New(lim, c.of(k))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			k.err = k.next(k.c)
		}))
		return k
	}
	calls := &sync.Pool{New: func() any { return build() }}
	calls.Put(build()) // it panics now or never
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			k := calls.Get().(*call)
			k.c, k.next = c, next
			k.handler.ServeHTTP(c.Response(), c.Request())
			err := k.err
			k.c, k.next, k.err = nil, nil, nil
			calls.Put(k) // not after a panic, which costs nothing but itself
			return err
		}
	}
}

// of returns c with functions that ask about the request of k.
func (c Config) of(k *call) httplimit.Config {
	h := httplimit.Config{Plans: c.Plans, Message: c.Message, Headers: c.Headers, RetryJitter: c.RetryJitter, FailOpen: c.FailOpen}
	if c.Key != nil {
		h.Key = func(*http.Request) (string, error) { return c.Key(k.c) }
	}
	if c.Cost != nil {
		h.Cost = func(*http.Request) int64 { return c.Cost(k.c) }
	}
	if c.Skip != nil {
		h.Skip = func(*http.Request) bool { return c.Skip(k.c) }
	}
	if c.Plan != nil {
		h.Plan = func(*http.Request) string { return c.Plan(k.c) }
	}
	if c.OnLimited != nil {
		h.OnLimited = func(_ http.ResponseWriter, _ *http.Request, d headgate.Decision) { k.err = c.OnLimited(k.c, d) }
	}
	if c.OnError != nil {
		h.OnError = func(_ *http.Request, err error) { c.OnError(k.c, err) }
	}
	return h
}

// ByRequest makes a key of a request, such as httplimit.ByIP and httplimit.ByHeader
// return, one of a context.
func ByRequest(key func(*http.Request) (string, error)) func(*echo.Context) (string, error) {
	return func(c *echo.Context) (string, error) { return key(c.Request()) }
}
