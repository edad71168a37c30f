package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/server/front/problem"
)

// Why an exchange was cut.
var (
	errClient   = errors.New("the client neither sends nor takes")
	errTimeout  = errors.New("no answer in time")
	errIdle     = errors.New("nothing has passed for the idle time-out")
	errStopping = errors.New("the server stops")
	errTooLarge = errors.New("the request's body is too large")
	errInterim  = errors.New("interim answers without an end")
)

// past is a deadline that is over.
var past = time.Unix(1, 0)

type exchangeKey struct{}

// exchange is one request on its way to an upstream, and the answer on its way back.
type exchange struct {
	proxy   *Proxy
	pool    *pool
	trusted []netip.Prefix
	in      *http.Request
	ctx     context.Context // of the request to the upstream
	cancel  context.CancelCauseFunc
	began   time.Time

	body    *body       // the client's, nil for none
	header  http.Header // of the answer
	before  []told      // what was set of it when the exchange began
	server  *server     // that was picked last, nil for none
	status  int         // of the answer, 0 for none
	interim int         // answers before it
	took    time.Duration

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	due   time.Time // when the timer counts; it may fire too early
	// answered is whether the upstream has begun to answer; reading and writing are
	// whether the client is waited for.
	answered, reading, writing, over bool
	left                             bool      // the client sends no more on a WebSocket
	read                             sync.Cond // a reader of the body has ended
	control                          *http.ResponseController
	user                             net.Conn  // the client's, once it is the upstream's to talk on
	tunnel                           *upgraded // the upstream's then
}

// answer is the writer of an exchange.
type answer struct {
	http.ResponseWriter
	x *exchange
}

func (p *pool) serve(proxy *Proxy, trusted []netip.Prefix, w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancelCause(r.Context())
	x := &exchange{
		proxy: proxy, pool: p, trusted: trusted, in: r, ctx: ctx, cancel: cancel, began: time.Now(),
		header: w.Header(), before: toldIn(w.Header()), control: http.NewResponseController(w),
	}
	if r.ContentLength != 0 && r.Body != nil {
		x.body = &body{x: x, from: r.Body}
	}
	x.read.L = &x.mu
	out := &answer{w, x}
	x.timer = time.AfterFunc(time.Hour, x.expire)
	x.arm()
	p.stats.begin()
	defer x.end()
	if most := proxy.MaxBody; most > 0 && r.ContentLength > most {
		x.fail(out, r, errTooLarge)
		return
	}
	proxy.forward.ServeHTTP(out, r.WithContext(context.WithValue(ctx, exchangeKey{}, x)))
}

// linger is how long what is left of a body is read of a connection that is then closed:
// closed at once it might be reset, and the answer be lost.
const linger = 2 * time.Second

// unread is whether something may be left of a body of HTTP/1.
func (x *exchange) unread() bool {
	return x.body != nil && !x.body.ended.Load() && x.in.ProtoMajor == 1
}

// end is called when nothing more may pass.
func (x *exchange) end() {
	x.mu.Lock()
	x.over = true
	x.timer.Stop()
	x.endBodyLocked()
	x.mu.Unlock()
	x.cancel(nil)
	if x.server != nil {
		x.pool.done(x.server)
	}
	if x.tunnel != nil {
		x.tunnel.Close() // if it was not begun; else it is closed already
		x.proxy.forget(x)
	}
	took := x.took
	if took == 0 {
		took = time.Since(x.began)
	}
	if x.took > 0 || x.status >= http.StatusInternalServerError {
		x.pool.stats.add(time.Now(), took, x.status >= http.StatusInternalServerError)
	}
	x.pool.stats.end()
	x.proxy.Forwarded(x.pool.name, x.status, took)
}

// endBodyLocked leaves what is left of a body to net/http, for a while. A reader that is
// still there must go first: net/http would send it away, and the deadline with it.
func (x *exchange) endBodyLocked() {
	if !x.unread() {
		return
	}
	for x.reading {
		x.control.SetReadDeadline(past)
		x.read.Wait()
	}
	x.control.SetReadDeadline(time.Now().Add(linger))
}

// arm starts the time-out of whom the exchange waits for.
func (x *exchange) arm() {
	x.mu.Lock()
	x.armLocked()
	x.mu.Unlock()
}

func (x *exchange) armLocked() {
	if x.over {
		return
	}
	d := x.pool.IdleTimeout
	switch {
	case x.writing, x.reading && !x.answered:
		d = x.proxy.ClientTimeout
	case !x.answered:
		d = x.pool.ResponseTimeout
	case x.left && (d < 0 || d > x.proxy.ClientTimeout):
		d = x.proxy.ClientTimeout // most such clients are gone
	}
	if d < 0 {
		x.timer.Stop()
		x.due = time.Time{}
		return
	}
	x.due = time.Now().Add(d)
	x.timer.Reset(d)
}

// expire cuts what has waited for too long.
func (x *exchange) expire() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over || x.due.IsZero() || time.Now().Before(x.due) {
		return
	}
	switch {
	case x.writing, x.reading && !x.answered:
		x.cutLocked(errClient)
	case !x.answered:
		x.cutLocked(errTimeout)
	default:
		x.cutLocked(errIdle)
	}
}

// cutLocked gives the upstream's connection up, and what waits for the client to take it.
func (x *exchange) cutLocked(why error) {
	x.cancel(why)
	if x.user != nil {
		x.user.SetDeadline(past)
		return
	}
	if x.reading {
		x.control.SetReadDeadline(past) // the transport waits for its reader to end
	}
	if x.writing {
		x.control.SetWriteDeadline(past)
	}
}

// waiting notes that the client is waited for, or no more. It reports false, and notes
// nothing, if the wait would begin when all is over.
func (x *exchange) waiting(what *bool, is bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if is && x.over {
		return false
	}
	*what = is
	x.armLocked()
	return true
}

// WriteHeader sends an interim answer or begins the final one.
func (a *answer) WriteHeader(status int) {
	x := a.x
	restore(a.Header(), x.before)
	if status < http.StatusOK {
		a.writeInterim(status)
		return
	}
	x.status = status
	if x.unread() {
		// Or net/http would first read what the upstream may still wait for. What is left
		// at the end must not pass for another request.
		_ = x.control.EnableFullDuplex() // every server can
		a.Header().Set("Connection", "close")
	}
	a.ResponseWriter.WriteHeader(status)
}

// maxInterim is how many interim answers may come before one.
const maxInterim = 1000

// writeInterim sends an interim answer. The time-out goes on: it is that of the answer.
func (a *answer) writeInterim(status int) {
	x := a.x
	if x.interim++; x.interim > maxInterim {
		x.cancel(errInterim)
		return
	}
	x.mu.Lock()
	x.writing = true
	x.mu.Unlock()
	a.ResponseWriter.WriteHeader(status)
	x.mu.Lock()
	x.writing = false
	x.mu.Unlock()
}

func (a *answer) Write(p []byte) (int, error) {
	a.x.waiting(&a.x.writing, true)
	defer a.x.waiting(&a.x.writing, false)
	return a.ResponseWriter.Write(p)
}

// FlushError sends what was written.
func (a *answer) FlushError() error {
	a.x.waiting(&a.x.writing, true)
	defer a.x.waiting(&a.x.writing, false)
	return a.x.control.Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// received is called with the header of an upstream's answer.
func received(res *http.Response) error {
	x := res.Request.Context().Value(exchangeKey{}).(*exchange)
	x.took = time.Since(x.began)
	x.mu.Lock()
	x.answered = true
	x.armLocked()
	x.mu.Unlock()
	strip(res.Header, x.before)
	if res.StatusCode != http.StatusSwitchingProtocols {
		if len(res.Trailer) > 0 && x.in.ProtoMajor == 1 {
			delete(res.Header, "Content-Length") // HTTP/2 may have both
		}
		res.Body = &watched{ReadCloser: res.Body, x: x}
		return nil
	}
	x.status = res.StatusCode
	restore(x.header, x.before)
	back, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("a connection that cannot be written to")
	}
	x.tunnel = &upgraded{ReadWriteCloser: back, x: x}
	res.Body = x.tunnel
	x.proxy.remember(x)
	return nil
}

// watched is the body of an upstream's answer.
type watched struct {
	io.ReadCloser
	x *exchange
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.x.pool.failed(b.x.ctx, b.x.server, err, time.Now())
	}
	return n, err
}

// body is that of a request. Its Close does nothing: what is left is net/http's.
type body struct {
	x      *exchange
	from   io.Reader
	length int64
	used   atomic.Bool // something was read, or tried to
	ended  atomic.Bool // nothing is left of it
	failed atomic.Bool // the client's fault, not the upstream's
	large  atomic.Bool
}

func (b *body) touched() bool { return b.used.Load() }

// faulty is whether b, which may be nil, is why a request failed.
func (b *body) faulty() bool { return b != nil && (b.failed.Load() || b.large.Load()) }

func (b *body) Read(p []byte) (int, error) {
	b.used.Store(true)
	if !b.x.waiting(&b.x.reading, true) {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.from.Read(p)
	b.x.waiting(&b.x.reading, false)
	b.x.read.Signal()
	b.length += int64(n)
	switch most := b.x.proxy.MaxBody; {
	case most > 0 && b.length > most:
		b.large.Store(true)
		return 0, errTooLarge
	case err == io.EOF:
		cleanTrailer(b.x.in.Trailer)
		b.ended.Store(true)
	case b.length == b.x.in.ContentLength:
		b.ended.Store(true)
	case err != nil:
		b.failed.Store(true)
	}
	return n, err
}

func (b *body) Close() error { return nil }

// failed answers a request that could not be forwarded.
func failed(w http.ResponseWriter, r *http.Request, err error) {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	x.fail(w, r, err)
}

func (x *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	if x.user != nil {
		return // there is nobody to tell
	}
	cause := context.Cause(r.Context())
	if cause == context.Canceled { // the client has left
		panic(http.ErrAbortHandler)
	}
	x.tellFailure(w, x.problemOf(cause, err))
}

// problemOf is what the client is told. It says nothing of addresses: those are logged.
func (x *exchange) problemOf(cause, err error) *problem.Problem {
	dialed, undialed := errors.AsType[*dialError](err)
	switch {
	case errors.Is(err, errTooLarge) || x.body != nil && x.body.large.Load():
		return &problem.Problem{Name: "request_too_large", Status: http.StatusRequestEntityTooLarge, Detail: "the body of the request is larger than this server takes"}
	case cause == errClient || x.body != nil && x.body.failed.Load() && cause == nil && timedOut(err):
		return &problem.Problem{Name: "request_timeout", Status: http.StatusRequestTimeout, Detail: "the body of the request did not come in time"}
	case cause == errTimeout, undialed && dialed.Timeout():
		return &problem.Problem{Name: "upstream_timeout", Status: http.StatusGatewayTimeout, Detail: "the server behind this one did not answer in time"}
	case cause != nil && cause != errInterim:
		return &problem.Problem{Name: "closed", Status: http.StatusServiceUnavailable, Detail: "the server is stopping"}
	case x.body != nil && x.body.failed.Load():
		return problem.BadRequest("body", "the body of the request breaks off or cannot be read")
	case undialed:
		return &problem.Problem{Name: "upstream_unavailable", Status: http.StatusServiceUnavailable, Detail: "the server behind this one cannot be reached at the moment"}
	default:
		return &problem.Problem{Name: "upstream_failed", Status: http.StatusBadGateway, Detail: "the server behind this one broke the connection or sent what is no answer"}
	}
}

func timedOut(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// newForward returns what copies requests and answers.
func newForward(p *Proxy) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Context().Value(exchangeKey{}).(*exchange).rewrite(r)
		},
		Transport:      transport{},
		ModifyResponse: received,
		ErrorHandler:   failed,
		FlushInterval:  flushEvery,
		BufferPool:     buffers{},
		ErrorLog:       p.debug,
	}
}

// flushEvery bounds how long a part of an answer waits whose length is known; those whose
// length is not, such as events, do not wait at all.
const flushEvery = 100 * time.Millisecond

// transport sends a request to the pool of its exchange.
type transport struct{}

// RoundTrip implements [http.RoundTripper].
func (transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return r.Context().Value(exchangeKey{}).(*exchange).pool.RoundTrip(r)
}

// buffers are used again.
type buffers struct{}

var pooled = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get returns a buffer for Put.
func (buffers) Get() []byte  { return pooled.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { pooled.Put((*[32 << 10]byte)(b)) }
