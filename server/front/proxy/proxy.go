package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/server/front/problem"
)

// DefaultClientTimeout is how long a client may neither send nor take anything.
const DefaultClientTimeout = 60 * time.Second

// Config is what a proxy is made of. Pools and Routes are required.
type Config struct {
	// Pools are the upstreams by name.
	Pools map[string]Pool
	// Routes say what is forwarded where. The longest prefix of a path wins; what none
	// fits is answered with 404.
	Routes []Route
	// Limit returns what decides the requests of an application before they are forwarded;
	// nil lets all pass.
	Limit func(application string) func(http.Handler) http.Handler
	// Trusted returns the addresses of proxies whose X-Forwarded-For is believed; nil
	// believes the machine's own.
	Trusted func(application string) []netip.Prefix
	// MaxBody bounds the body of a request, in bytes; 0 is no bound.
	MaxBody int64
	// ClientTimeout is how long a client may take nothing of an answer, or send nothing of
	// a body before the answer begins, and for how long nothing may pass on a WebSocket
	// whose client has closed its side; 0 is DefaultClientTimeout.
	ClientTimeout time.Duration
	// Forwarded is called at the end of a request with the status of its answer, 0 if the
	// client left before there was one, and the time until that began. nil for nobody.
	Forwarded func(upstream string, status int, took time.Duration)
	// Failed is called with the name of a problem that is answered instead of an
	// upstream. nil for nobody.
	Failed func(name string)
	// Logger takes what clients are not told; nil discards it.
	Logger *slog.Logger
}

// Route is a part of the paths.
type Route struct {
	// Prefix begins and ends with a slash; "/" is all. /api/ fits /api too.
	Prefix string
	// Upstream is the name of a pool.
	Upstream string
	// Application is whose policy rules; "" is "default".
	Application string
}

// CheckPrefix says what is wrong with the prefix of a route.
func CheckPrefix(prefix string) error {
	clean, err := canonical(prefix)
	if err != nil || clean != prefix || prefix[len(prefix)-1] != '/' {
		return fmt.Errorf("%.100q: must begin and end with a slash, without '//', '.' and '..'", prefix)
	}
	return nil
}

// Proxy is the handler of a listener. It is safe for concurrent use.
type Proxy struct {
	Config
	forward *httputil.ReverseProxy
	debug   *log.Logger
	pools   []*pool // by name
	routes  []route // longest prefix first

	mu       sync.Mutex
	stopping bool
	tunnels  map[*exchange]struct{}
	empty    chan struct{} // closed when there are no tunnels while stopping
}

type route struct {
	prefix  string
	handler http.Handler
}

// New returns a proxy. The error says what is wrong with its configuration.
func New(c Config) (*Proxy, error) {
	c.ClientTimeout = cmp.Or(c.ClientTimeout, DefaultClientTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Limit == nil {
		c.Limit = func(string) func(http.Handler) http.Handler { return func(h http.Handler) http.Handler { return h } }
	}
	if c.Trusted == nil {
		c.Trusted = func(string) []netip.Prefix { return clientip.Loopback() }
	}
	if c.Forwarded == nil {
		c.Forwarded = func(string, int, time.Duration) {}
	}
	if c.Failed == nil {
		c.Failed = func(string) {}
	}
	p := &Proxy{Config: c, debug: slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug), tunnels: map[*exchange]struct{}{}, empty: make(chan struct{})}
	p.forward = newForward(p)
	pools := map[string]*pool{}
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		made, err := newPool(name, c.Pools[name], c.Logger)
		if err != nil {
			return nil, err
		}
		pools[name] = made
		p.pools = append(p.pools, made)
	}
	if len(c.Routes) == 0 {
		return nil, errors.New("routes: needs at least one")
	}
	for _, r := range c.Routes {
		if err := CheckPrefix(r.Prefix); err != nil {
			return nil, fmt.Errorf("routes: prefix %w", err)
		}
		to := pools[r.Upstream]
		if to == nil {
			return nil, fmt.Errorf("routes: %s: there is no upstream %q", r.Prefix, r.Upstream)
		}
		if slices.ContainsFunc(p.routes, func(o route) bool { return o.prefix == r.Prefix }) {
			return nil, fmt.Errorf("routes: %s is there twice", r.Prefix)
		}
		application := cmp.Or(r.Application, "default")
		p.routes = append(p.routes, route{r.Prefix, c.Limit(application)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			to.serve(p, c.Trusted(application), w, r)
		}))})
	}
	slices.SortFunc(p.routes, func(a, b route) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return p, nil
}

// ServeHTTP lets a request be decided and forwards it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if bad := unify(r); bad != nil {
		p.tell(w, r, bad)
		return
	}
	p.handler(r.URL.Path).ServeHTTP(w, r)
	if r.ProtoMajor == 1 {
		// For what is left of the answer; HTTP/2 sees to that itself. The error is that of
		// a connection that was handed over.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(p.ClientTimeout))
	}
}

func (p *Proxy) handler(path string) http.Handler {
	for _, r := range p.routes {
		if strings.HasPrefix(path, r.prefix) || path == r.prefix[:len(r.prefix)-1] || r.prefix == "/" {
			return r.handler
		}
	}
	return http.HandlerFunc(p.noRoute)
}

func (p *Proxy) noRoute(w http.ResponseWriter, r *http.Request) {
	p.tell(w, r, &problem.Problem{Name: "not_found", Status: http.StatusNotFound, Detail: "nothing is served at this path"})
}

// Run checks servers, where that is wanted, until ctx ends.
func (p *Proxy) Run(ctx context.Context) {
	var checks sync.WaitGroup
	for _, pool := range p.pools {
		if pool.Health.Path != "" {
			checks.Go(func() { pool.check(ctx) })
		}
	}
	checks.Wait()
}

// Stop asks the clients of WebSockets to go, now and those that come, and returns when
// all have gone. If ctx ends first it cuts them off and returns its error.
func (p *Proxy) Stop(ctx context.Context) error {
	p.mu.Lock()
	if !p.stopping {
		p.stopping = true
		if len(p.tunnels) == 0 {
			close(p.empty)
		}
		for x := range p.tunnels {
			x.tunnel.leave()
		}
	}
	p.mu.Unlock()
	select {
	case <-p.empty:
		return nil
	case <-ctx.Done():
		p.cut()
		return ctx.Err()
	}
}

// Close cuts WebSockets off and closes idle connections.
func (p *Proxy) Close() {
	p.cut()
	for _, pool := range p.pools {
		pool.close()
	}
}

func (p *Proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for x := range p.tunnels {
		x.mu.Lock()
		x.cutLocked(errStopping)
		x.mu.Unlock()
	}
}

func (p *Proxy) remember(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnels[x] = struct{}{}
	if p.stopping {
		x.tunnel.leave()
	}
}

func (p *Proxy) forget(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tunnels, x)
	if p.stopping && len(p.tunnels) == 0 {
		select {
		case <-p.empty:
		default:
			close(p.empty)
		}
	}
}

// Upstream is how a pool is at the moment.
type Upstream struct {
	Name string
	// InFlight are the requests on their way.
	InFlight int
	// Latency is the mean time until answers began, ErrorShare the share of those with a
	// status of 500 or more, from 0 to 1. The last 10 s count most. Both are 0 before the
	// first request.
	Latency    time.Duration
	ErrorShare float64
	Servers    []Server
}

// Server is how one of a pool is.
type Server struct {
	// Address is its HOST:PORT.
	Address string
	// Up is whether it gets requests while there are others.
	Up bool
}

// Upstreams returns how all pools are, by name.
func (p *Proxy) Upstreams() []Upstream {
	var list []Upstream
	for _, pool := range p.pools {
		u := Upstream{Name: pool.name}
		u.Latency, u.ErrorShare, u.InFlight = pool.stats.read()
		pool.mu.Lock()
		for _, s := range pool.servers {
			u.Servers = append(u.Servers, Server{Address: s.host, Up: !s.down && s.backoff == 0})
		}
		pool.mu.Unlock()
		list = append(list, u)
	}
	return list
}
