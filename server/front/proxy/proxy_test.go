package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience ends tests that would hang; none of them waits for it to pass.
const patience = 20 * time.Second

// holder is a limiter that counts what is on its way.
type holder struct {
	held  atomic.Int64
	ended chan struct{} // one for each request that has ended
}

func newHolder() *holder { return &holder{ended: make(chan struct{}, 1000)} }

func (g *holder) limit(application string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			g.held.Add(1)
			defer func() {
				g.held.Add(-1)
				g.ended <- struct{}{}
			}()
			w.Header().Set("RateLimit", `"`+application+`";r=9;t=1`)
			w.Header().Set("Headgate-Reason", "ok")
			next.ServeHTTP(w, r)
		})
	}
}

// await waits until one request has ended.
func (g *holder) await(t *testing.T) {
	t.Helper()
	select {
	case <-g.ended:
	case <-time.After(patience):
		t.Fatal("the request has not ended")
	}
}

// stand is a proxy that listens.
type stand struct {
	*Proxy
	*holder
	url    string
	client *http.Client
}

// config is one pool for all paths.
func config(pool Pool) Config {
	return Config{Pools: map[string]Pool{"app": pool}, Routes: []Route{{Prefix: "/", Upstream: "app"}}}
}

func open(t *testing.T, c Config, change ...func(*httptest.Server)) *stand {
	t.Helper()
	g := newHolder()
	c.Limit = g.limit
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = NewServer(p, c.Logger)
	start := (*httptest.Server).Start
	for _, f := range change {
		f(ts)
		start = (*httptest.Server).StartTLS
	}
	start(ts)
	t.Cleanup(func() {
		p.Close()
		ts.CloseClientConnections()
		ts.Close()
	})
	ts.Client().Timeout = patience
	return &stand{p, g, ts.URL, ts.Client()}
}

func upstream(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// do asks, and returns the answer with its body read.
func (s *stand) do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", res.Status, err)
	}
	return res, string(b)
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// raw writes to the proxy what no client would, and returns the answers.
func (s *stand) raw(t *testing.T, text string) (*bufio.Reader, net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(c), c
}

// TestProtocols sends a request with a trailer by each protocol to an upstream of each,
// and takes interim answers, a trailer and a body back.
func TestProtocols(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("RateLimit", "theirs")
		w.Header().Set("X-RateLimit-Limit", "5")
		w.Header().Set("Headgate-Reason", "theirs")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s %s", r.Proto, b, r.Trailer.Get("X-End"), r.Host)
		w.Header().Set("X-Sum", "42")
	})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	clear := httptest.NewUnstartedServer(h)
	clear.Config.Protocols = &protocols
	clear.Start()
	defer clear.Close()
	encrypted := httptest.NewUnstartedServer(h)
	encrypted.EnableHTTP2 = true
	encrypted.StartTLS()
	defer encrypted.Close()
	trust := encrypted.Client().Transport.(*http.Transport).TLSClientConfig

	for _, up := range []struct{ server, proto string }{
		{clear.URL, "HTTP/1.1"}, {strings.Replace(clear.URL, "http:", "h2c:", 1), "HTTP/2.0"}, {encrypted.URL, "HTTP/2.0"},
	} {
		for _, down := range []string{"http/1.1", "h2c", "h2", "https"} {
			t.Run(down+" to "+up.server[:5]+up.proto, func(t *testing.T) {
				c := config(Pool{Servers: []string{up.server}, TLS: trust})
				var s *stand
				proto := "HTTP/2.0"
				switch down {
				case "h2":
					s = open(t, c, func(ts *httptest.Server) { ts.EnableHTTP2 = true })
				case "https":
					s = open(t, c, func(*httptest.Server) {})
					proto = "HTTP/1.1"
				case "h2c":
					s = open(t, c)
					var only http.Protocols
					only.SetUnencryptedHTTP2(true)
					s.client = &http.Client{Transport: &http.Transport{Protocols: &only}, Timeout: patience}
				default:
					s = open(t, c)
					proto = "HTTP/1.1"
				}
				r := request(t, "POST", s.url+"/x", io.NopCloser(strings.NewReader("body")))
				r.Host = "shop.example"
				r.Trailer = http.Header{"X-End": {"end"}}
				var hints []string
				r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
					return nil
				}}))
				res, body := s.do(t, r)
				if want := up.proto + " body end shop.example"; res.StatusCode != http.StatusAccepted || res.Proto != proto || body != want {
					t.Errorf("%s %s %q, want %q", res.Proto, res.Status, body, want)
				}
				if res.Trailer.Get("X-Sum") != "42" {
					t.Errorf("trailer %v", res.Trailer)
				}
				if want := []string{"103 </style.css>; rel=preload"}; !reflect.DeepEqual(hints, want) {
					t.Errorf("hints %q", hints)
				}
				for name, want := range map[string][]string{"Ratelimit": {`"default";r=9;t=1`}, "X-Ratelimit-Limit": nil, "Headgate-Reason": {"ok"}, "Link": nil} {
					if got := res.Header[name]; !reflect.DeepEqual(got, want) {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
			})
		}
	}
}

// TestRateLimitOfUpstream: an upstream's own limits pass where nothing was said of ours.
func TestRateLimitOfUpstream(t *testing.T) {
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("RateLimit", "theirs")
		w.Header().Set("Headgate-Reason", "theirs")
	})
	p, err := New(config(Pool{Servers: []string{u.URL}}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if h := w.Header(); h.Get("RateLimit") != "theirs" || h.Get("Headgate-Reason") != "" {
		t.Errorf("%v", h)
	}
}

// TestEvents: each event arrives before the next is sent, also where the length is said.
func TestEvents(t *testing.T) {
	for _, length := range []string{"", "9"} {
		next := make(chan bool)
		u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			for i := range 3 {
				fmt.Fprintf(w, "%d:\n", i)
				http.NewResponseController(w).Flush()
				<-next
			}
		})
		s := open(t, config(Pool{Servers: []string{u.URL}}))
		res, err := s.client.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		for i := range 3 {
			if !lines.Scan() || lines.Text() != fmt.Sprint(i, ":") {
				t.Fatalf("%d: %q %v", i, lines.Text(), lines.Err())
			}
			if n := s.held.Load(); n != 1 && i < 2 {
				t.Errorf("%d held while events come", n)
			}
			next <- true
		}
		if lines.Scan() || lines.Err() != nil {
			t.Errorf("%q %v", lines.Text(), lines.Err())
		}
		res.Body.Close()
		s.await(t)
	}
}

// TestUpload: a body streams too: the upstream has its first part before the second is
// there.
func TestUpload(t *testing.T) {
	first := make(chan string)
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 3)
		io.ReadFull(r.Body, b)
		first <- string(b)
		rest, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s%s", b, rest)
	})
	s := open(t, config(Pool{Servers: []string{u.URL}}))
	in, out := io.Pipe()
	go func() {
		io.WriteString(out, "one")
		if got := <-first; got != "one" {
			t.Errorf("%q", got)
		}
		io.WriteString(out, "two")
		out.Close()
	}()
	if res, body := s.do(t, request(t, "PUT", s.url, in)); res.StatusCode != 200 || body != "onetwo" {
		t.Errorf("%s %q", res.Status, body)
	}
}

// TestRoutes: the longest prefix wins, by whole segments, and brings its application.
func TestRoutes(t *testing.T) {
	named := func(name string) Pool {
		u := upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.RequestURI) })
		return Pool{Servers: []string{u.URL}}
	}
	s := open(t, Config{
		Pools:  map[string]Pool{"app": named("app"), "api": named("api"), "v2": named("v2")},
		Routes: []Route{{Prefix: "/web/", Upstream: "app"}, {Prefix: "/api/", Upstream: "api", Application: "api"}, {Prefix: "/api/v2/", Upstream: "v2"}},
	})
	for path, want := range map[string]string{
		"/web/": "app /web/ default", "/web/a?b=c": "app /web/a?b=c default", "/api/x": "api /api/x api", "/api": "api /api api", "/api/v2/x": "v2 /api/v2/x default",
		"/api/v2": "v2 /api/v2 default", "/api/v22": "api /api/v22 api", "/web/../api/x": "api /api/x api", "/web/..%2fapi/x": "api /api/x api",
	} {
		res, body := s.do(t, request(t, "GET", s.url+path, nil))
		if got := body + " " + strings.Trim(strings.Split(res.Header.Get("RateLimit"), ";")[0], `"`); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"/", "/apix", "/other"} {
		if res, body := s.do(t, request(t, "GET", s.url+path, nil)); res.StatusCode != 404 || !strings.Contains(body, "urn:headgate:problem:not_found") {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
	}
}

// TestConfig: what cannot work is said at the start.
func TestConfig(t *testing.T) {
	good := Pool{Servers: []string{"http://h:1"}}
	root := []Route{{Prefix: "/", Upstream: "app"}}
	for want, c := range map[string]Config{
		"routes: needs at least one":                {Pools: map[string]Pool{"app": good}},
		`routes: /: there is no upstream "app"`:     {Routes: root},
		"upstream app: servers: needs at least one": {Pools: map[string]Pool{"app": {}}, Routes: root},
		"must begin with http://, https:// or h2c":  config(Pool{Servers: []string{"ftp://h"}}),
		"must be a URL such as":                     config(Pool{Servers: []string{"localhost:80"}}),
		"must not hold a user":                      config(Pool{Servers: []string{"http://a:secret@h"}}),
		"must not have a path":                      config(Pool{Servers: []string{"http://h/base"}}),
		`balance "x": must be`:                      config(Pool{Servers: good.Servers, Balance: "x"}),
		`health path "x": must start with '/'`:      config(Pool{Servers: good.Servers, Health: Health{Path: "x"}}),
		"connect: -1s: must not be negative":        config(Pool{Servers: good.Servers, ConnectTimeout: -time.Second}),
		"counts must not be negative":               config(Pool{Servers: good.Servers, MaxIdle: -1}),
		`prefix "/api": must begin and end`:         {Pools: map[string]Pool{"app": good}, Routes: []Route{{Prefix: "/api", Upstream: "app"}}},
		`prefix "": must begin`:                     {Pools: map[string]Pool{"app": good}, Routes: []Route{{Upstream: "app"}}},
		`prefix "/a//": must begin`:                 {Pools: map[string]Pool{"app": good}, Routes: []Route{{Prefix: "/a//", Upstream: "app"}}},
		"routes: / is there twice":                  {Pools: map[string]Pool{"app": good}, Routes: []Route{root[0], root[0]}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Error(err)
		}
	}
}

// TestHandshake: a server whose certificate is not believed gets no request.
func TestHandshake(t *testing.T) {
	u := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	defer u.Close()
	u.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s := open(t, config(Pool{Servers: []string{u.URL}, TLS: &tls.Config{}}))
	wantProblem(t, s, request(t, "GET", s.url, nil), 503, "upstream_unavailable")
}

// wantProblem asks, and wants a problem that tells nothing of addresses.
func wantProblem(t *testing.T, s *stand, r *http.Request, status int, name string) {
	t.Helper()
	res, body := s.do(t, r)
	if res.StatusCode != status || res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, `"urn:headgate:problem:`+name+`"`) {
		t.Errorf("%s %s, want %d %s", res.Status, body, status, name)
	}
	if res.Header.Get("RateLimit") == "" {
		t.Error("no RateLimit")
	}
	if strings.Contains(body, "127.0.0.1") || strings.Contains(body, "localhost") {
		t.Errorf("the client is told an address: %s", body)
	}
	s.await(t)
	if n := s.held.Load(); n != 0 {
		t.Errorf("%d held", n)
	}
}

// TestUpstreams: requests are measured by upstream.
func TestUpstreams(t *testing.T) {
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
	})
	type call struct {
		upstream string
		status   int
	}
	calls := make(chan call, 10)
	c := config(Pool{Servers: []string{u.URL}})
	c.Forwarded = func(upstream string, status int, took time.Duration) {
		if took <= 0 {
			t.Errorf("took %v", took)
		}
		calls <- call{upstream, status}
	}
	s := open(t, c)
	for _, path := range []string{"/", "/bad"} {
		s.do(t, request(t, "GET", s.url+path, nil))
		s.await(t)
	}
	if a, b := <-calls, <-calls; a != (call{"app", 200}) || b != (call{"app", 500}) {
		t.Errorf("%v %v", a, b)
	}
	list := s.Upstreams()
	if len(list) != 1 {
		t.Fatal(list)
	}
	got := list[0]
	if got.Latency <= 0 || got.ErrorShare < 0.49 || got.ErrorShare > 0.51 {
		t.Errorf("%+v", got)
	}
	got.Latency, got.ErrorShare = 0, 0
	if want := (Upstream{Name: "app", Servers: []Server{{strings.TrimPrefix(u.URL, "http://"), true}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDecayed(t *testing.T) {
	var d decayed
	if l, e, n := d.read(); l != 0 || e != 0 || n != 0 {
		t.Error(l, e, n)
	}
	at := time.Unix(1000, 0)
	d.add(at, time.Second, true)
	d.add(at, 3*time.Second, false)
	if l, e, _ := d.read(); l != 2*time.Second || e != 0.5 {
		t.Error(l, e)
	}
	d.add(at.Add(time.Hour), time.Second, false) // the others are forgotten
	if l, e, _ := d.read(); l.Round(time.Millisecond) != time.Second || e > 1e-9 {
		t.Error(l, e)
	}
	d.add(at, time.Second, true) // a clock that goes back
	if _, e, _ := d.read(); e < 0.49 || e > 0.51 {
		t.Error(e)
	}
}
