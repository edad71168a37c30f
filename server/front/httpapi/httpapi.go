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
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
)

// MaxBody is the largest body of a request in bytes; of a batch it is
// [MaxBatchBody].
const MaxBody = 64 << 10

// decider is what the door needs of a gate.
type decider interface {
	Take(context.Context, *gate.Request, *gate.Decision) error
	Peek(context.Context, *gate.Request, *gate.Decision) error
	Explain(context.Context, *gate.Request, *gate.Decision, *gate.Explanation) error
	TakeAll(context.Context, []*gate.Request, []*gate.Decision) (failed int, err error)
	Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error
	Settle(context.Context, *gate.Claim, *gate.Decision) error
	Renew(context.Context, *gate.Claim, *gate.Decision) error
	Release(context.Context, *gate.Claim, *gate.Decision) error
	Throttle(context.Context, *gate.Throttle, *gate.Decision) error
	Ready() error
}

// Config is what a door is made of. Gate is required.
type Config struct {
	Gate decider
	// Admit finds who asks for a decision, or says what is wrong; answer gets the
	// header fields of the problem. It is called before the body is read. nil
	// lets everybody ask about everything.
	Admit func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem)
	// Routes are served beside the door's own; the keys are patterns of
	// [http.ServeMux].
	Routes map[string]http.Handler
	// Now reads the store's own clock, if that is the process's: see
	// [headgate.Clock]. All items of a batch are decided at one reading. nil
	// lets the store read its clock for each.
	Now func() int64
	// Decided is called after each decision that may have charged, with the
	// time it took from the decoded request to the encoded answer, without that
	// in line. It must not keep d. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Corrected is called after each settlement or release. It must not keep d. nil for
	// nobody.
	Corrected func(d *gate.Decision)
	// Panicked is called after a panic in a handler was answered. nil for
	// nobody.
	Panicked func()
	// Logger takes what is not told to clients; nil discards it.
	Logger *slog.Logger
}

type door struct {
	Config
	mux    *http.ServeMux
	faults faultlog.Faults
}

// New returns the handler of [Routes] and those of the Config. It panics if two
// of them conflict.
func New(c Config) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	if c.Corrected == nil {
		c.Corrected = func(*gate.Decision) {}
	}
	if c.Admit == nil {
		c.Admit = func(http.Header, *http.Request) (front.Caller, *problem.Problem) { return front.Anybody{}, nil }
	}
	if c.Panicked == nil {
		c.Panicked = func() {}
	}
	d := &door{Config: c, mux: http.NewServeMux()}
	for _, r := range routes {
		d.mux.Handle(r.Path, post(d.admitted(r.serve)))
	}
	d.mux.Handle("/healthz", ReadOnly(http.HandlerFunc(d.healthz)))
	d.mux.Handle("/readyz", ReadOnly(http.HandlerFunc(d.readyz)))
	d.mux.Handle("/", http.HandlerFunc(notFound))
	for pattern, h := range c.Routes {
		d.mux.Handle(pattern, h)
	}
	return d
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
		d.panicked(r, p, debug.Stack())
		(&problem.Problem{Name: "internal", Status: http.StatusInternalServerError, Detail: "the server failed; its log says how"}).ServeHTTP(w, r)
	}()
	d.mux.ServeHTTP(w, r)
}

// panicked reports a panic.
func (d *door) panicked(r *http.Request, p any, stack []byte) {
	d.Logger.Error("panic in a handler", "path", r.URL.Path, "panic", p, "stack", string(stack))
	d.Panicked()
}

// call is everything that one request needs, used again for the next one.
type call struct {
	ask
	caller front.Caller
	d      gate.Decision
	in     []byte
	out    []byte
}

var calls = sync.Pool{New: func() any { return &call{in: make([]byte, 0, 1024), out: make([]byte, 0, 2048)} }}

// free returns the call for use by others. What the decision's strings point
// to is gone after it.
func (c *call) free() {
	c.ask.reset()
	c.caller = nil
	if cap(c.in) > MaxBody || cap(c.out) > MaxBody {
		return // grown for a batch: many of them would be kept for nothing
	}
	calls.Put(c)
}

// read returns the body as one string, of which all strings of the request are
// parts.
func (c *call) read(w http.ResponseWriter, r *http.Request, most int64) (string, *problem.Problem) {
	if !isJSON(first(r.Header["Content-Type"])) {
		return "", &problem.Problem{
			Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType,
			Detail: "the body must be sent as Content-Type: application/json",
		}
	}
	b, body := c.in[:0], r.Body
	switch {
	case r.ContentLength > most: // none of it needs to come
		w.Header()["Connection"] = closing
		return "", tooLarge(most)
	case r.ContentLength < 0:
		body = http.MaxBytesReader(w, body, most)
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
			return "", tooLarge(most)
		}
		return "", problem.BadRequest("", "the body ended before it was complete")
	}
}

var closing = []string{"close"}

func tooLarge(most int64) *problem.Problem {
	return &problem.Problem{
		Name: "body_too_large", Status: http.StatusRequestEntityTooLarge,
		Detail: "the body must not be larger than " + strconv.FormatInt(most, 10) + " bytes",
	}
}

// first is the value of a header field, or "". Unlike Header.Get it is given
// names in canonical form, and need not check that they are.
func first(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[0]
}

var contentType = []string{"application/json"}

func (c *call) write(w http.ResponseWriter) {
	c.out = append(c.appendAnswer(c.out[:0], &c.d), '\n')
	c.send(w)
}

// buffered is what net/http gathers before it sends. It counts the bytes of
// what fits in, and does so for less than we.
const buffered = 2048

func (c *call) send(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = contentType
	if len(c.out) > buffered {
		h["Content-Length"] = []string{strconv.Itoa(len(c.out))}
	}
	w.Write(c.out)
}

// fail answers an error of the gate or of a decoder.
func (d *door) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem.Of(err)
	if p.Status >= http.StatusInternalServerError {
		d.log(r, err)
	}
	p.ServeHTTP(w, r)
}

func (d *door) log(r *http.Request, err error) {
	code := headgate.CodeOf(err).String()
	d.faults.Log(d.Logger, slog.LevelError, code, "no decision", "path", r.URL.Path, "code", code, "error", err)
}

func (d *door) healthz(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") }

func (d *door) readyz(w http.ResponseWriter, r *http.Request) {
	if err := d.Gate.Ready(); err != nil {
		d.faults.Log(d.Logger, slog.LevelWarn, "ready", "not ready", "error", err)
		(&problem.Problem{Name: "not_ready", Status: http.StatusServiceUnavailable, Detail: "the server cannot decide at the moment"}).ServeHTTP(w, r)
		return
	}
	io.WriteString(w, "ok\n")
}

func notFound(w http.ResponseWriter, r *http.Request) {
	(&problem.Problem{
		Name: "not_found", Status: http.StatusNotFound,
		Detail: lost,
	}).ServeHTTP(w, r)
}
