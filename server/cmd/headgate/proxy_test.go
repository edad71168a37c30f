package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/server/front/proxy"
	"github.com/headgate/headgate/server/observe"
)

// site is an application: it echoes WebSockets, and answers other requests with their path.
func site(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprintf(w, "%s for %s", r.URL.Path, r.Header.Get("X-Forwarded-For"))
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.Copy(c, in)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

const proxyPolicy = `version: 1
applications:
  default:
    identity: [ip]
    rules:
      - name: socket
        match: {path: /ws}
        limits: [{name: open, algorithm: concurrency, max: 1, ttl: 30s}]
      - name: site
        match: {path: "/site/{rest...}"}
        message: Come back later & be <nice>.
        limits: [{name: visits, rate: 2/h}]
      - {name: rest, match: {path: "/{rest...}"}, limits: [{name: all, rate: 1000/h}]}
  api:
    identity: [ip]
    rules: [{name: calls, match: {path: "/api/{rest...}"}, limits: [{name: calls, rate: 1/h}]}]
`

// visit sends one request and returns the answer with its body.
func visit(t *testing.T, url string, fields ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// socket asks for a WebSocket.
func socket(t *testing.T, url string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res, c, in
}

// TestProxyProcess puts the program before an application.
func TestProxyProcess(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, policy, proxyPolicy)
	p := startVerb(t, "proxy", "--listen", "127.0.0.1:0", "--upstream", site(t).URL, "--policy", policy, "--store", "memory", "--http=", "--grpc=", "--resp=", "--admin=")

	res, body := visit(t, p.url+"/site/a", "X-Forwarded-For: 192.0.2.1")
	if res.StatusCode != 200 || body != "/site/a for 192.0.2.1, 127.0.0.1" || res.Header.Get("RateLimit") != `"site/visits";r=1;t=1800` {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	visit(t, p.url+"/site/a", "X-Forwarded-For: 192.0.2.1")
	res, body = visit(t, p.url+"/site//x/../a", "X-Forwarded-For: 192.0.2.1")
	if res.StatusCode != 429 || res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, "Come back later") || res.Header.Get("Retry-After") == "" || res.Header.Get("RateLimit") == "" {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	res, body = visit(t, p.url+"/site/a", "X-Forwarded-For: 192.0.2.1", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")
	if res.StatusCode != 429 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, "Come back later &amp; be &lt;nice&gt;.") {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	if res, body := visit(t, p.url+"/site/a", "X-Forwarded-For: 192.0.2.2"); res.StatusCode != 200 {
		t.Errorf("another client: %s %s", res.Status, body)
	}

	// A WebSocket holds its slot until it ends.
	res, c, in := socket(t, p.url)
	if res.StatusCode != 101 || res.Header.Get("RateLimit") == "" {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	io.WriteString(c, "hello")
	if b := make([]byte, 5); true {
		if _, err := io.ReadFull(in, b); err != nil || string(b) != "hello" {
			t.Errorf("%q %v", b, err)
		}
	}
	if res, _, _ := socket(t, p.url); res.StatusCode != 429 || res.Header.Get("Headgate-Reason") != "concurrency_exceeded" {
		t.Errorf("a second one: %s %v", res.Status, res.Header)
	}
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(in); len(b) > 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
	// The end of the connection is seen before the slot is free.
	for deadline := time.Now().Add(patience); ; {
		res, c, _ = socket(t, p.url)
		if res.StatusCode == 101 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the slot is not free: %s", res.Status)
		}
	}

	// A stop tells the client of it, and ends well.
	in = bufio.NewReader(c)
	stopped := make(chan bool)
	go func() {
		p.stop()
		close(stopped)
	}()
	if b, err := io.ReadAll(in); string(b) != "\x88\x02\x03\xe9" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	c.Close()
	<-stopped
}

// TestProxyOfServe: the configuration names pools and routes, and what happens is to be
// seen.
func TestProxyOfServe(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/policy.yaml", proxyPolicy)
	main, api := site(t), site(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	const text = `version: 1
listen: {http: "127.0.0.1:0", grpc: "", resp: ""}
upstreams:
  app: {servers: ["MAIN"], health: {path: /healthz, interval: 1h}, response_timeout: 5s}
  api: {servers: ["API", "http://GONE"], balance: round_robin}
  gone: {servers: ["http://GONE"]}
proxy:
  listen: 127.0.0.1:0
  upstream: app
  max_body: 1MiB
  routes:
    - {prefix: /api/, upstream: api, application: api}
    - {prefix: /gone/, upstream: gone, application: nowhere}
`
	config := strings.NewReplacer("MAIN", main.URL, "API", api.URL, "GONE", gone.Addr().String()).Replace(text)
	write(t, dir+"/config.yaml", config)
	s := startServe(t, "--config", dir+"/config.yaml", "--policy", dir+"/policy.yaml", "--store", "memory")
	s.await(t, `msg="the policy has no such application: requests to it fail" door=proxy application=nowhere prefix=/gone/`)
	status := "http://" + s.address(t)
	_, at, _ := strings.Cut(s.await(t, "door=proxy address="), "address=")
	url := "http://" + at

	for _, tt := range []struct {
		path, body string
		status     int
	}{{"/x", "/x for 127.0.0.1", 200}, {"/api/x", "/api/x for 127.0.0.1", 200}, {"/api/x", "too many requests", 429}, {"/x/../api/y", "too many requests", 429}, {"/gone/x", "could not be checked", 500}} {
		if res, body := visit(t, url+tt.path); res.StatusCode != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %s %s", tt.path, res.Status, body)
		}
	}
	_, metrics := visit(t, status+"/metrics")
	for _, line := range []string{
		`headgate_proxy_requests_total{status_class="2xx",upstream="api"} 1`, `headgate_proxy_requests_total{status_class="2xx",upstream="app"} 1`,
		`headgate_proxy_requests_in_flight{upstream="app"} 0`, `headgate_proxy_upstream_up{server="` + strings.TrimPrefix(main.URL, "http://") + `",upstream="app"} 1`,
		`headgate_decisions_total{application="api",door="proxy",plan="",reason="rate_limited",rule="calls"} 2`,
		`headgate_proxy_request_duration_seconds_count{application="api",rule="calls",status_class="2xx"} 1`,
		`headgate_request_errors_total{code="not_found",door="proxy"} 1`, `headgate_proxy_upstream_duration_seconds_count{upstream="app"} 1`,
	} {
		if !strings.Contains(metrics, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}

	// What stands behind the proxy takes a restart.
	replace(t, dir+"/config.yaml", strings.Replace(config, "interval: 1h", "interval: 2h", 1))
	s.await(t, `level=WARN msg="takes a restart: upstreams"`)
	replace(t, dir+"/config.yaml", strings.Replace(config, "1MiB", "2MiB", 1))
	s.await(t, `level=WARN msg="takes a restart: proxy"`)
	s.stop(t)
}

// TestReadForwarding: all that the configuration can say of it.
func TestReadForwarding(t *testing.T) {
	c, faults := readTestConfig(t, `version: 1
upstreams:
  app:
    servers: ["http://h:1", "h2c://h:2"]
    balance: round_robin
    host: shop.example
    connect_timeout: 1s
    response_timeout: none
    idle_timeout: 2h
    max_idle: 7
    health: {path: /healthz, interval: 3s, timeout: 200ms, unhealthy: 4, healthy: 5}
proxy: {upstream: app, max_body: 1KiB, client_timeout: 9s, routes: [{prefix: /a/, upstream: app}, {prefix: /b/, upstream: app, application: b}]}
`)
	if faults != "" {
		t.Fatal(faults)
	}
	got, err := readForwarding(c, "", "shop")
	want := forwarding{
		pools: map[string]proxy.Pool{"app": {
			Servers: []string{"http://h:1", "h2c://h:2"}, Balance: proxy.RoundRobin, Host: "shop.example",
			ConnectTimeout: time.Second, ResponseTimeout: -1, IdleTimeout: 2 * time.Hour, MaxIdle: 7,
			Health: proxy.Health{Path: "/healthz", Interval: 3 * time.Second, Timeout: 200 * time.Millisecond, Unhealthy: 4, Healthy: 5},
		}},
		routes:  []proxy.Route{{Prefix: "/a/", Upstream: "app", Application: "shop"}, {Prefix: "/b/", Upstream: "app", Application: "b"}, {Prefix: "/", Upstream: "app", Application: "shop"}},
		maxBody: 1024, clientTimeout: 9 * time.Second,
	}
	if err != nil || !reflect.DeepEqual(got, want) || got.check() != nil {
		t.Errorf("got\n%+v %v\nwant\n%+v", got, err, want)
	}
	if _, err := readForwarding(c, "http://h", "shop"); err == nil || !strings.Contains(err.Error(), "keep one") {
		t.Error(err)
	}
	if got, err = readForwarding(&configFile{}, "http://a https://b", "default"); err != nil || !reflect.DeepEqual(got.pools["default"].Servers, []string{"http://a", "https://b"}) {
		t.Errorf("%+v %v", got, err)
	}
	got.routes = append(got.routes, proxy.Route{Prefix: "/x/", Upstream: "nowhere"})
	if err := got.check(); err == nil || !strings.Contains(err.Error(), `there is no upstream "nowhere"`) {
		t.Error(err)
	}
}

// TestPassed: a client that leaves is no failure of what it asked for.
func TestPassed(t *testing.T) {
	h := &house{metrics: observe.New(observe.Build{}, func() observe.State { return observe.State{} })}
	left, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequest("GET", "/", nil)
	by := httpgate.Passed{Application: "shop", Rule: "pages"}
	h.passed(r, by, 500, time.Second)
	h.passed(r.WithContext(left), by, 500, time.Second)
	h.passed(r.WithContext(left), by, 500, time.Second)
	h.passed(r.WithContext(left), by, 200, time.Second)
	w := httptest.NewRecorder()
	h.metrics.Handler().ServeHTTP(w, r)
	for class, n := range map[string]int{"2xx": 1, "5xx": 1, "none": 2} {
		line := fmt.Sprintf("headgate_proxy_request_duration_seconds_count{application=\"shop\",rule=\"pages\",status_class=%q} %d\n", class, n)
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("no line %s", line)
		}
	}
}
