// Package httpapi is the JSON door: it decodes requests, asks the gate and
// encodes its decisions. It knows HTTP and JSON, and nothing of policies.
package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front/problem"
)

// MaxBody is the largest body of a request in bytes.
const MaxBody = 64 << 10

// decider is what the door needs of a gate.
type decider interface {
	Take(context.Context, *gate.Request, *gate.Decision) error
	Peek(context.Context, *gate.Request, *gate.Decision) error
	Throttle(context.Context, *gate.Throttle, *gate.Decision) error
	Ready() error
}

// Config is what a door is made of. Gate is required.
type Config struct {
	Gate decider
	// Routes are served beside the door's own; the keys are patterns of
	// [http.ServeMux].
	Routes map[string]http.Handler
	// Decided is called after each decision that may have charged, with the
	// time it took from the decoded request to the encoded answer. It must not
	// keep d. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Panicked is called after a panic in a handler was answered. nil for
	// nobody.
	Panicked func()
	// Logger takes what is not told to clients; nil discards it.
	Logger *slog.Logger
}

type door struct {
	Config
	mux *http.ServeMux
}

// New returns the handler of the door's routes: /v1/take, /v1/peek,
// /v1/throttle, /healthz, /readyz and those of the Config. It panics if two of
// them conflict.
func New(c Config) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	if c.Panicked == nil {
		c.Panicked = func() {}
	}
	d := &door{Config: c, mux: http.NewServeMux()}
	d.mux.Handle("/v1/take", post(d.take))
	d.mux.Handle("/v1/peek", post(d.peek))
	d.mux.Handle("/v1/throttle", post(d.throttle))
	d.mux.Handle("/healthz", ReadOnly(http.HandlerFunc(d.healthz)))
	d.mux.Handle("/readyz", ReadOnly(http.HandlerFunc(d.readyz)))
	d.mux.Handle("/", http.HandlerFunc(notFound))
	for pattern, h := range c.Routes {
		d.mux.Handle(pattern, h)
	}
	return d
}

// NewServer returns a server for the door with the time-outs and bounds that
// keep slow and greedy clients from holding it. BaseContext and Addr are left
// to the caller.
//
// Headers may be larger than what nginx lets through by default (32 KiB): a
// proxy that passes on the headers of a client would take our refusal to read
// them for a failure, and where it then lets requests pass, the client would.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second, // longer, so that a body that is too slow gets its answer
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers one request. A panic ends it with 500, and the server goes
// on.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		d.Logger.Error("panic in a handler", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		d.Panicked()
		(&problem.Problem{Name: "internal", Status: http.StatusInternalServerError, Detail: "the server failed; its log says how"}).ServeHTTP(w, r)
	}()
	d.mux.ServeHTTP(w, r)
}

// call is everything that one request needs, used again for the next one.
type call struct {
	req   gate.Request
	attrs map[string]string
	head  http.Header
	d     gate.Decision
	in    []byte
	out   []byte
}

var calls = sync.Pool{New: func() any { return &call{in: make([]byte, 0, 1024), out: make([]byte, 0, 2048)} }}

// free returns the call for use by others. What the decision's strings point
// to is gone after it.
func (c *call) free() {
	c.req = gate.Request{}
	c.attrs = emptied(c.attrs)
	c.head = emptied(c.head)
	calls.Put(c)
}

// maxKept is the number of attributes or headers above which a request's map
// is left to the collector instead of being used again.
const maxKept = 64

func emptied[M ~map[string]V, V any](m M) M {
	if len(m) > maxKept {
		return nil
	}
	clear(m)
	return m
}

func (d *door) take(w http.ResponseWriter, r *http.Request) { d.decide(w, r, d.Gate.Take, d.Decided) }

func (d *door) peek(w http.ResponseWriter, r *http.Request) {
	d.decide(w, r, d.Gate.Peek, func(*gate.Decision, time.Duration) {})
}

func (d *door) decide(w http.ResponseWriter, r *http.Request,
	ask func(context.Context, *gate.Request, *gate.Decision) error, decided func(*gate.Decision, time.Duration),
) {
	c := calls.Get().(*call)
	defer c.free()
	body, p := c.read(w, r)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	if r.Header.Get("Idempotency-Key") != "" {
		d.fail(w, r, notYet("idempotency_key", "requests are not remembered"))
		return
	}
	if err := c.decodeTake(body); err != nil {
		d.fail(w, r, err)
		return
	}
	began := time.Now()
	if err := ask(r.Context(), &c.req, &c.d); err != nil {
		d.fail(w, r, err)
		return
	}
	c.write(w)
	decided(&c.d, time.Since(began))
}

func (d *door) throttle(w http.ResponseWriter, r *http.Request) {
	c := calls.Get().(*call)
	defer c.free()
	body, p := c.read(w, r)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	t, err := decodeThrottle(body)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	count, period, err := policy.ParseRate(t.rate)
	if err != nil {
		d.fail(w, r, invalid("rate", "%s", strings.TrimPrefix(err.Error(), "rate ")))
		return
	}
	began := time.Now()
	ask := gate.Throttle{Key: t.key, Count: count, Period: period, Burst: t.burst, Cost: t.cost}
	if err := d.Gate.Throttle(r.Context(), &ask, &c.d); err != nil {
		d.fail(w, r, err)
		return
	}
	c.write(w)
	d.Decided(&c.d, time.Since(began))
}

// read returns the body as one string, of which all strings of the request are
// parts.
func (c *call) read(w http.ResponseWriter, r *http.Request) (string, *problem.Problem) {
	if !isJSON(r.Header.Get("Content-Type")) {
		return "", &problem.Problem{
			Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType,
			Detail: "the body must be sent as Content-Type: application/json",
		}
	}
	b, body := c.in[:0], r.Body
	if r.ContentLength < 0 || r.ContentLength > MaxBody {
		body = http.MaxBytesReader(w, body, MaxBody)
	}
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == nil {
			continue
		}
		c.in = b
		if err == io.EOF {
			return string(b), nil
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return "", &problem.Problem{
				Name: "body_too_large", Status: http.StatusRequestEntityTooLarge,
				Detail: "the body must not be larger than " + strconv.Itoa(MaxBody) + " bytes",
			}
		}
		return "", problem.BadRequest("", "the body ended before it was complete")
	}
}

var contentType = []string{"application/json"}

func (c *call) write(w http.ResponseWriter) {
	c.out = appendDecision(c.out[:0], &c.d, c.d.Limits())
	c.out = append(c.out, '\n')
	h := w.Header()
	h["Content-Type"] = contentType
	h["Content-Length"] = []string{strconv.Itoa(len(c.out))}
	w.Write(c.out)
}

// fail answers an error of the gate or of a decoder.
func (d *door) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem.Of(err)
	if p.Status >= http.StatusInternalServerError {
		d.Logger.Error("no decision", "path", r.URL.Path, "code", headgate.CodeOf(err).String(), "error", err)
	}
	p.ServeHTTP(w, r)
}

func (d *door) healthz(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") }

func (d *door) readyz(w http.ResponseWriter, r *http.Request) {
	if err := d.Gate.Ready(); err != nil {
		d.Logger.Warn("not ready", "error", err)
		(&problem.Problem{Name: "not_ready", Status: http.StatusServiceUnavailable, Detail: "the server cannot decide at the moment"}).ServeHTTP(w, r)
		return
	}
	io.WriteString(w, "ok\n")
}

func notFound(w http.ResponseWriter, r *http.Request) {
	(&problem.Problem{
		Name: "not_found", Status: http.StatusNotFound,
		Detail: "no such route; decisions are at POST /v1/take, /v1/peek and /v1/throttle",
	}).ServeHTTP(w, r)
}
