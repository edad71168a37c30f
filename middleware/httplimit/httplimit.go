package httplimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/internal/pause"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/internal/refusal"
)

// Config says how requests are limited. The zero value charges 1 to the
// client's address and believes proxies on loopback only.
type Config struct {
	// Key names whose budget a request uses; nil means [ByIP] with proxies on
	// 127.0.0.0/8 and ::1. An error or an empty key is answered with 400 if it
	// is a *headgate.Error with code InvalidRequest, else with 500.
	Key func(*http.Request) (string, error)
	// Cost is the number of tokens a request takes; nil means 1. 0 checks and
	// charges nothing, what is not within 0 and headgate.MaxInt is answered
	// with 400.
	Cost func(*http.Request) int64
	// Skip lets the requests for which it is true pass uncharged; nil skips
	// none.
	Skip func(*http.Request) bool

	// Plan chooses another limiter out of Plans; nil or "" means the one given
	// to New, any other name that is not in Plans is answered with 500. Limits
	// of one name share what a client has used: give the limits of all plans
	// the same names, or a change of plan is a fresh budget.
	Plan  func(*http.Request) string
	Plans map[string]*headgate.Limiter

	// Message is the text of answers with status 429; "" means
	// "Too many requests".
	Message string
	// OnLimited answers a refused request instead of the usual body; nil
	// means that one. Rate limit fields, Retry-After, Headgate-Reason,
	// Headgate-Limit and Cache-Control are set already; the usual status is
	// Status(d.Reason).
	OnLimited func(w http.ResponseWriter, r *http.Request, d headgate.Decision)

	// Headers is the set of conventions for the rate limit fields; 0 means
	// HeadersIETF. Retry-After and Headgate-* are sent with all of them.
	Headers Headers
	// RetryJitter spreads Retry-After upward by as many percent, 0 to 100; 0
	// means not at all.
	RetryJitter int

	// FailOpen lets requests pass that the limiter could not decide. Otherwise
	// they are answered with 503 and a Retry-After of 1 s.
	FailOpen bool
	// OnError is told of every request that could not be decided, and of slots
	// that could not be released; nil means nobody is. When the client has
	// gone, the error may wrap context.Canceled. It must be safe for
	// concurrent use, as all functions of Config.
	OnError func(*http.Request, error)
}

// Headers is a set of conventions for rate limit fields.
type Headers uint8

// The conventions. HeadersNone stands alone.
const (
	// HeadersIETF is RateLimit-Policy and RateLimit.
	HeadersIETF = Headers(ratefield.IETF)
	// HeadersDraft03 is RateLimit-Limit, -Remaining and -Reset; Reset in
	// seconds from now.
	HeadersDraft03 = Headers(ratefield.Draft03)
	// HeadersXDelta is X-RateLimit-Limit, -Remaining and -Reset; Reset in
	// seconds from now.
	HeadersXDelta = Headers(ratefield.XDelta)
	// HeadersXEpoch is as HeadersXDelta with Reset in seconds since the Unix
	// epoch.
	HeadersXEpoch = Headers(ratefield.XEpoch)
	// HeadersNone sends no rate limit fields.
	HeadersNone Headers = 1 << 7
)

func (c Config) withDefaults() Config {
	if c.Key == nil {
		c.Key = ByIP(clientip.Loopback())
	}
	if c.Cost == nil {
		c.Cost = func(*http.Request) int64 { return 1 }
	}
	if c.Skip == nil {
		c.Skip = func(*http.Request) bool { return false }
	}
	if c.Plan == nil {
		c.Plan = func(*http.Request) string { return "" }
	}
	if c.OnError == nil {
		c.OnError = func(*http.Request, error) {}
	}
	c.Message = cmp.Or(c.Message, "Too many requests")
	c.Headers = cmp.Or(c.Headers, HeadersIETF)
	return c
}

func (c Config) validate() error {
	if c.Headers != HeadersNone && c.Headers&^Headers(ratefield.AllStyles) != 0 {
		return fmt.Errorf("headers %#x: not a set of the constants, or HeadersNone beside others", uint8(c.Headers))
	}
	if c.RetryJitter < 0 || c.RetryJitter > 100 {
		return fmt.Errorf("retry jitter %d: must be 0 to 100", c.RetryJitter)
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

// New returns middleware that charges requests to lim before it lets them
// through to the handler. It panics if lim is nil or the Config is at fault.
func New(lim *headgate.Limiter, c Config) func(http.Handler) http.Handler {
	if lim == nil {
		panic("httplimit: New without a limiter")
	}
	if err := c.validate(); err != nil {
		panic("httplimit: Config." + err.Error())
	}
	m := &middleware{Config: c.withDefaults(), plans: map[string]plan{"": newPlan(lim)}}
	m.styles = ratefield.Styles(m.Headers) & ratefield.AllStyles
	for name, lim := range c.Plans {
		m.plans[name] = newPlan(lim)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, next) })
	}
}

type middleware struct {
	Config
	plans  map[string]plan
	styles ratefield.Styles
}

type plan struct {
	*headgate.Limiter
	holds bool // one of the limits is a concurrency limit
}

func newPlan(lim *headgate.Limiter) plan {
	p := plan{Limiter: lim}
	for _, l := range lim.Limits() {
		p.holds = p.holds || l.Algorithm == headgate.Concurrency
	}
	return p
}

// state is what one request needs and the next can use again.
type state struct {
	batch   headgate.Batch
	items   [headgate.MaxCharges]ratefield.Item
	setter  ratefield.Setter
	writer  refusal.Writer
	members []byte // of a refusal's document
}

var states = sync.Pool{New: func() any { return new(state) }}

func (m *middleware) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if m.Skip(r) {
		next.ServeHTTP(w, r)
		return
	}
	name := m.Plan(r)
	p, ok := m.plans[name]
	if !ok {
		m.fault(w, r, &headgate.Error{Code: headgate.NotFound, Field: "plan", Err: fmt.Errorf("unknown plan %q", name)})
		return
	}
	key, err := m.Key(r)
	if err == nil && key == "" {
		err = invalid("subject", "the key is empty")
	}
	if err != nil {
		m.fault(w, r, fmt.Errorf("key: %w", err))
		return
	}
	if p.holds {
		m.serveHolding(w, r, next, p, key)
		return
	}
	s := states.Get().(*state)
	d, err := p.Decide(r.Context(), &s.batch, key, m.Cost(r))
	passed := m.answer(w, r, s, d, err)
	states.Put(s)
	if passed && waited(w, r, d.Delay) {
		next.ServeHTTP(w, r)
	}
}

// serveHolding keeps its state until the handler has ended: the batch knows the
// slots that are to be released.
func (m *middleware) serveHolding(w http.ResponseWriter, r *http.Request, next http.Handler, p plan, key string) {
	s := states.Get().(*state)
	defer states.Put(s)
	d, err := p.Acquire(r.Context(), &s.batch, key, m.Cost(r))
	if err == nil && d.Allowed {
		defer func() {
			// The client may be gone, its slot must be freed all the same.
			if err := p.Release(context.WithoutCancel(r.Context()), &s.batch); err != nil {
				m.OnError(r, fmt.Errorf("release: %w", err))
			}
		}()
	}
	if m.answer(w, r, s, d, err) && waited(w, r, d.Delay) {
		next.ServeHTTP(w, r)
	}
}

// answer sets the fields of the response and, unless the request passes, writes
// it.
func (m *middleware) answer(w http.ResponseWriter, r *http.Request, s *state, d headgate.Decision, err error) bool {
	if err != nil {
		return m.undecided(w, r, err)
	}
	if m.styles != 0 {
		s.setter.Set(w.Header(), m.styles, ratefield.Tightest(s.describe()), time.UnixMicro(s.batch.At))
	}
	if d.Allowed {
		return true
	}
	m.refuse(w, r, s, d)
	return false
}

func (s *state) describe() []ratefield.Item {
	outcomes := s.batch.Outcomes()
	for i, c := range s.batch.Charges() {
		s.items[i] = ratefield.From(c.Limit.Label, c.Limit, &outcomes[i])
	}
	return s.items[:len(outcomes)]
}

func (m *middleware) retryAfter(wait time.Duration) int64 {
	var random uint64
	if m.RetryJitter > 0 {
		random = rand.Uint64()
	}
	return ratefield.RetryAfter(wait, m.RetryJitter, random)
}

// waited waits for d. It reports false, and has answered, if the request ends first, or
// is known to.
func waited(w http.ResponseWriter, r *http.Request, d time.Duration) bool {
	if pause.Sleep(r.Context(), d) == nil {
		return true
	}
	answer(w, r, refusal.ReducedCapacity, "The request was ended while it waited")
	return false
}
