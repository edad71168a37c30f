package httpgate

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/internal/ratefield"
)

// Engine decides: a [gate.Gate] in this process, or a Client of package client, which
// asks a server. One that has the method TrustedProxies of a gate is asked for the
// proxies of its policy.
type Engine = inlet.Engine

// DefaultWaitCap is how long a request waits at most, whatever its rule says.
const DefaultWaitCap = inlet.DefaultWaitCap

// Config says how requests are put to an engine. The zero value asks about application
// "default" and leaves all else to its policy. Functions must be safe for concurrent
// use.
type Config struct {
	// Application is the policy's application; "" means "default".
	Application string
	// Key says who is limited; nil leaves it to the identity of the application, which
	// looks into header fields and at the client's address. An error or an empty key is
	// answered with 400 if it is a *headgate.Error with code InvalidRequest, as those of
	// httplimit.ByHeader are, else with 500.
	Key func(*http.Request) (string, error)
	// Operation is what the request does, for rules that match by operation; nil or ""
	// means that rules match by method, host and path.
	Operation func(*http.Request) string
	// Cost is what the request costs in requests; nil leaves it to the rule. What is not
	// within 0 and headgate.MaxInt is answered with 400.
	Cost func(*http.Request) int64
	// Costs are those in other units, such as tokens; nil leaves them to the rule. A unit
	// that no limit counts is answered with 500.
	Costs func(*http.Request) map[string]int64
	// Skip lets the requests for which it is true pass undecided; nil skips none.
	Skip func(*http.Request) bool
	// Plan is the client's plan where its record names none; nil or "" means the rule's,
	// else that of the application.
	Plan func(*http.Request) string

	// Message is the text of answers with status 429 where the rule has no message; ""
	// means a sentence that says when to come again.
	Message string
	// OnLimited answers a refused request instead of the usual body; nil means that one.
	// The header fields of the decision and Cache-Control are set already; the usual
	// status is Status(d.Reason). It must not keep d.
	OnLimited func(w http.ResponseWriter, r *http.Request, d *gate.Decision)
	// Headers is the set of conventions for the rate limit fields; nil means what the
	// application says, 0 none. Retry-After and Headgate-* are sent with all of them.
	Headers *policy.HeaderStyles

	// TrustedProxies are the addresses from which X-Forwarded-For and X-Real-IP are
	// believed. nil means those of the application where the engine knows them, else
	// 127.0.0.0/8 and ::1; an empty slice believes nobody.
	TrustedProxies []netip.Prefix
	// WaitCap bounds how long a request waits, for its place in line or for a leaky
	// bucket: 0 is DefaultWaitCap, -1 no bound but the rule's. The WriteTimeout of the
	// server must be longer.
	WaitCap time.Duration

	// FailOpen lets requests pass that the engine could not decide as it is away or
	// closed, such as a Client whose server is away. Otherwise they are answered with
	// 503 and a Retry-After of 1 s, as are those that it could not decide for another
	// reason: clients may have caused it. A gate whose store is away does decide: by
	// on_store_error of each limit.
	FailOpen bool
	// OnError is told of every request that was not decided, the client's faults and
	// departures included, and of slots that could not be renewed or released, of these
	// perhaps by another goroutine and when the request has been answered. nil logs with
	// slog.Default what is no client's doing, of each kind one line in 10 s, which says with
	// "more" how many others there were.
	OnError func(*http.Request, error)

	// Decided is called after each decision with the time it took, without that in line.
	// It must not keep d. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Ended is called when the handler of a request that passed has ended, by a panic
	// too, with the status of its answer and the time that it took. The status is 101
	// where the handler took the connection over, and 500 where it panicked before it
	// wrote one. nil for nobody, which costs nothing.
	Ended func(r *http.Request, by Passed, status int, took time.Duration)
}

// Passed is by what a request has passed, in the names of the decision. It is zero if
// nobody decided, and FailOpen let the request pass.
type Passed struct {
	Application, Rule, Operation, Subject, Plan string
}

func (c Config) validate() error {
	if c.Headers != nil && *c.Headers&^policy.HeaderStyles(ratefield.AllStyles) != 0 {
		return fmt.Errorf("headers %#x: not a set of the conventions", uint8(*c.Headers))
	}
	_, err := inlet.WaitCap(c.WaitCap)
	return err
}

func (c Config) withDefaults() Config {
	if c.Application == "" {
		c.Application = "default"
	}
	if c.Skip == nil {
		c.Skip = func(*http.Request) bool { return false }
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	c.WaitCap, _ = inlet.WaitCap(c.WaitCap) // validate has seen it
	return c
}

// New returns middleware that lets e decide each request before it reaches the handler.
// It panics if e is nil or the Config is at fault.
func New(e Engine, c Config) func(http.Handler) http.Handler {
	if e == nil {
		panic("httpgate: New without an engine")
	}
	if err := c.validate(); err != nil {
		panic("httpgate: Config: " + err.Error())
	}
	c = c.withDefaults()
	proxies, err := inlet.NewProxies(e, c.Application, c.TrustedProxies)
	if err != nil {
		panic("httpgate: Config: " + err.Error())
	}
	m := &middleware{Config: c, engine: e, proxies: proxies, faults: faultlog.Faults{Pause: logEvery}}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next) })
	}
}
