package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"
)

// Balance is how a server of several is chosen.
type Balance string

// The ways to choose.
const (
	// LeastRequests takes the one of two, drawn by lot, that has fewer requests in flight.
	LeastRequests Balance = "least_requests"
	RoundRobin    Balance = "round_robin"
)

// The defaults of a [Pool] and its [Health].
const (
	DefaultConnectTimeout  = 2 * time.Second
	DefaultResponseTimeout = 60 * time.Second
	DefaultIdleTimeout     = time.Hour
	DefaultMaxIdle         = 100
	DefaultInterval        = 5 * time.Second
	DefaultTimeout         = time.Second
	DefaultUnhealthy       = 3
	DefaultHealthy         = 2
)

// Pool is an upstream: servers of which each can answer every request. Servers is
// required.
type Pool struct {
	// Servers are URLs without a path: http://HOST:PORT, https:// with HTTP/2 where the
	// server speaks it, or h2c:// for HTTP/2 without TLS.
	Servers []string
	// Balance is how one is chosen; "" is LeastRequests.
	Balance Balance
	// Health is how servers are checked; without a path they are not.
	Health Health
	// Host is what requests say as Host; "" is what the client said.
	Host string
	// ConnectTimeout bounds how long connecting may take, and the handshake of TLS again;
	// 0 is DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// ResponseTimeout bounds how long a server may take to begin its answer, since it got
	// the last byte; 0 is DefaultResponseTimeout, -1 no bound.
	ResponseTimeout time.Duration
	// IdleTimeout bounds for how long nothing may pass in either direction once the answer
	// has begun, such as between events or on a WebSocket; 0 is DefaultIdleTimeout, -1 no
	// bound.
	IdleTimeout time.Duration
	// MaxIdle is how many connections to a server are kept open without a request; 0 is
	// DefaultMaxIdle.
	MaxIdle int
	// TLS says what is believed of servers with https; nil is the roots of the system.
	TLS *tls.Config
}

// Health is how the servers of a pool are checked.
type Health struct {
	// Path is asked for with GET; a status below 400 is good. "" checks nothing.
	Path string
	// Interval is the time between checks, and Timeout how long one may take; 0 is
	// DefaultInterval and DefaultTimeout.
	Interval, Timeout time.Duration
	// Unhealthy is how many checks must fail one after the other before a server gets no
	// more requests, Healthy how many must succeed before it does again; 0 is
	// DefaultUnhealthy and DefaultHealthy.
	Unhealthy, Healthy int
}

func (c Pool) withDefaults() Pool {
	c.Balance = cmp.Or(c.Balance, LeastRequests)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, DefaultConnectTimeout)
	c.ResponseTimeout = cmp.Or(c.ResponseTimeout, DefaultResponseTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.MaxIdle = cmp.Or(c.MaxIdle, DefaultMaxIdle)
	h := &c.Health
	h.Interval, h.Timeout = cmp.Or(h.Interval, DefaultInterval), cmp.Or(h.Timeout, DefaultTimeout)
	h.Unhealthy, h.Healthy = cmp.Or(h.Unhealthy, DefaultUnhealthy), cmp.Or(h.Healthy, DefaultHealthy)
	return c
}

func (c Pool) validate() error {
	var errs []error
	if len(c.Servers) == 0 {
		errs = append(errs, errors.New("servers: needs at least one"))
	}
	for _, s := range c.Servers {
		if err := CheckServer(s); err != nil {
			errs = append(errs, fmt.Errorf("servers: %w", err))
		}
	}
	if c.Balance != LeastRequests && c.Balance != RoundRobin {
		errs = append(errs, fmt.Errorf("balance %q: must be %s or %s", c.Balance, LeastRequests, RoundRobin))
	}
	if p := c.Health.Path; p != "" && p[0] != '/' {
		errs = append(errs, fmt.Errorf("health path %q: must start with '/'", p))
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"connect", c.ConnectTimeout}, {"health", c.Health.Timeout}, {"interval of health", c.Health.Interval}} {
		if t.d < 0 {
			errs = append(errs, fmt.Errorf("%s: %v: must not be negative", t.name, t.d))
		}
	}
	if c.MaxIdle < 0 || c.Health.Healthy < 0 || c.Health.Unhealthy < 0 {
		errs = append(errs, errors.New("counts must not be negative"))
	}
	return errors.Join(errs...)
}

// CheckServer says what is wrong with the URL of a server.
func CheckServer(text string) error {
	_, err := parseServer(text)
	return err
}

func parseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("must be a URL such as http://127.0.0.1:3000")
	case u.User != nil:
		return nil, errors.New("must not hold a user or password")
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return nil, fmt.Errorf("%q: must begin with http://, https:// or h2c://", text)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q: must not have a path or query: paths are forwarded as they are", text)
	}
	return u, nil
}

// pool chooses among servers, and remembers how they are.
type pool struct {
	Pool
	name  string
	log   *slog.Logger
	stats decayed

	mu       sync.Mutex
	servers  []*server
	eligible []*server // scratch
	next     int
}

// server is one of a pool. What changes is guarded by the pool's mu.
type server struct {
	scheme, host string
	transport    *http.Transport

	inFlight int
	// down is what checks say; good and bad are the checks since the last of the other
	// kind.
	down      bool
	good, bad int
	checkAt   time.Time // of the next check, zero where there are none
	// backoff is for how long it is left alone after the last failure, 0 if it is not;
	// retryAt is when one request may try it, and probing whether one does.
	backoff time.Duration
	retryAt time.Time
	probing bool

	saidAt time.Time // of the last log line
	unsaid int
}

// The time for which a server is left alone that cannot be connected to.
const minBackoff, maxBackoff = time.Second, time.Minute

// keepIdle is how long a connection without a request is kept. Servers close theirs after
// 5 s (Node), 60 s (Apache, nginx) or later; a request that meets the end is sent again
// only if it may be.
const keepIdle = 30 * time.Second

// maxResponseHeader bounds the header of an upstream's answer, in bytes.
const maxResponseHeader = 256 << 10

func newPool(name string, c Pool, log *slog.Logger) (*pool, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", name, err)
	}
	p := &pool{Pool: c, name: name, log: log}
	for _, text := range c.Servers {
		u, err := parseServer(text)
		if err != nil {
			return nil, err
		}
		p.servers = append(p.servers, newServer(u, &p.Pool))
	}
	return p, nil
}

func newServer(u *url.URL, c *Pool) *server {
	s := &server{scheme: u.Scheme, host: u.Host}
	var protocols http.Protocols
	dial := c.dialWire
	if s.scheme == "h2c" {
		s.scheme = "http"
		dial = c.dial
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
	}
	s.transport = &http.Transport{
		DialContext: dial, DialTLSContext: c.dialTLS, Protocols: &protocols,
		MaxIdleConnsPerHost: c.MaxIdle, IdleConnTimeout: keepIdle, ExpectContinueTimeout: time.Second,
		DisableCompression: true, MaxResponseHeaderBytes: maxResponseHeader,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	return s
}

// dial connects to a server. Its errors are of type *dialError.
func (c *Pool) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: c.ConnectTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, &dialError{err}
	}
	return conn, nil
}

// dialWire is dial for servers that speak HTTP/1.
func (c *Pool) dialWire(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &wire{Conn: conn}, nil
}

// dialTLS is dial for servers with https.
func (c *Pool) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	config := c.TLS.Clone()
	if config == nil {
		config = &tls.Config{}
	}
	config.NextProtos = []string{"h2", "http/1.1"}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	encrypted := tls.Client(conn, config)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &dialError{err}
	}
	if encrypted.ConnectionState().NegotiatedProtocol == "h2" {
		return encrypted, nil // net/http looks for this type
	}
	return &wire{Conn: encrypted}, nil
}

// dialError is that of a server that could not be connected to: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// Timeout is whether it took too long.
func (e *dialError) Timeout() bool {
	t, ok := errors.AsType[net.Error](e.err)
	return ok && t.Timeout()
}

// pick chooses a server for one more request, another one than tried if that is not nil;
// nil if there is no other one. The caller must call done.
func (p *pool) pick(now time.Time, tried *server) *server {
	p.mu.Lock()
	defer p.mu.Unlock()
	up := p.eligible[:0]
	for _, s := range p.servers {
		switch {
		case s == tried || s.down:
		case s.backoff == 0:
			up = append(up, s)
		case !now.Before(s.retryAt): // one tries it, the others wait for what comes of it
			s.retryAt, s.probing = now.Add(s.backoff), true
			s.inFlight++
			return s
		}
	}
	if len(up) == 0 {
		for _, s := range p.servers {
			if s != tried {
				up = append(up, s)
			}
		}
	}
	p.eligible = up
	if len(up) == 0 {
		return nil
	}
	s := p.chooseLocked(up)
	s.inFlight++
	return s
}

func (p *pool) chooseLocked(up []*server) *server {
	if len(up) == 1 {
		return up[0]
	}
	if p.Balance == RoundRobin {
		p.next++
		return up[p.next%len(up)]
	}
	i, j := rand.IntN(len(up)), rand.IntN(len(up)-1)
	if j >= i {
		j++
	}
	if up[j].inFlight < up[i].inFlight {
		i = j
	}
	return up[i]
}

// done ends a request that pick has begun.
func (p *pool) done(s *server) {
	p.mu.Lock()
	s.inFlight--
	p.mu.Unlock()
}

// connected notes that a server can be connected to.
func (p *pool) connected(s *server) {
	p.mu.Lock()
	back := s.backoff != 0
	s.backoff, s.probing = 0, false
	p.mu.Unlock()
	if back {
		p.log.Info("the server answers again", "upstream", p.name, "server", s.host)
	}
}

// unconnected notes that a server cannot be connected to. Of requests that fail together
// only the first counts.
func (p *pool) unconnected(s *server, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.backoff != 0 && !s.probing && now.Before(s.retryAt) {
		return
	}
	s.probing = false
	s.backoff = min(max(2*s.backoff, minBackoff), maxBackoff)
	s.retryAt = now.Add(s.backoff)
}

// checked notes what a check of a server has come to; err is nil if it was good.
func (p *pool) checked(s *server, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		s.good, s.bad = s.good+1, 0
		s.backoff, s.probing = 0, false
		if s.down && s.good >= p.Health.Healthy {
			s.down = false
			p.log.Info("the server is healthy again", "upstream", p.name, "server", s.host)
		}
		return
	}
	s.good, s.bad = 0, s.bad+1
	if !s.down && s.bad >= p.Health.Unhealthy {
		s.down = true
		p.log.Warn("the server is not healthy and gets no more requests", "upstream", p.name, "server", s.host, "error", err)
	}
}

// sayEvery is how often a server's failures are logged at most.
const sayEvery = time.Second

// failed logs that a request to a server failed, unless it was the client's doing.
func (p *pool) failed(ctx context.Context, s *server, err error, now time.Time) {
	switch cause := context.Cause(ctx); cause {
	case nil:
	case errTimeout, errIdle, errInterim:
		err = cause
	default:
		return
	}
	p.mu.Lock()
	if now.Sub(s.saidAt) < sayEvery {
		s.unsaid++
		p.mu.Unlock()
		return
	}
	more := s.unsaid
	s.saidAt, s.unsaid = now, 0
	p.mu.Unlock()
	p.log.Warn("the upstream failed", "upstream", p.name, "server", s.host, "error", err, "and_before", more)
}

// RoundTrip sends a request to one server, and to another one if it could not be
// connected to and nothing of the request was used.
func (p *pool) RoundTrip(r *http.Request) (*http.Response, error) {
	x := r.Context().Value(exchangeKey{}).(*exchange)
	res, err := p.send(x, p.pick(time.Now(), nil), r)
	if _, ok := errors.AsType[*dialError](err); !ok || r.Context().Err() != nil || x.body != nil && x.body.touched() {
		return res, err
	}
	if other := p.pick(time.Now(), x.server); other != nil {
		res, err = p.send(x, other, r)
	}
	return res, err
}

func (p *pool) send(x *exchange, s *server, r *http.Request) (*http.Response, error) {
	if x.server != nil {
		p.done(x.server)
	}
	x.server = s
	out := r.WithContext(httptrace.WithClientTrace(r.Context(), asking(r.Method)))
	u := *r.URL
	u.Scheme, u.Host = s.scheme, s.host
	out.URL = &u
	res, err := s.transport.RoundTrip(out)
	switch _, undialed := errors.AsType[*dialError](err); {
	case r.Context().Err() != nil:
	case undialed:
		p.unconnected(s, time.Now())
	default:
		p.connected(s)
	}
	if err != nil && !x.body.faulty() {
		p.failed(r.Context(), s, err, time.Now())
	}
	return res, err
}

// close closes idle connections.
func (p *pool) close() {
	for _, s := range p.servers {
		s.transport.CloseIdleConnections()
	}
}
