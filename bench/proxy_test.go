package bench

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"

	"github.com/headgate/headgate/server/front/proxy"
)

// proxies are reverse proxies before a site, some with limits by the header field X-User:
// one on "/" that is not reached, and of "/tight" 5 requests of a user pass.
var proxies = map[string]struct {
	limits bool
	open   func(tb testing.TB, site *webApp) *webApp
}{
	// Our own proxy with limits, with a policy that has none, and without a gate that is asked.
	"headgate":      {true, func(tb testing.TB, site *webApp) *webApp { return openProxy(tb, site.addr, proxyLimits) }},
	"headgate-open": {false, func(tb testing.TB, site *webApp) *webApp { return openProxy(tb, site.addr, proxyOpen) }},
	"floor": {false, func(tb testing.TB, site *webApp) *webApp {
		d := startDaemon(tb, floorProxy+"http://"+site.addr)
		return &webApp{addr: d.addr, pid: d.pid}
	}},
	"nginx": {false, func(tb testing.TB, site *webApp) *webApp { return openNginx(tb, nginxProxy(site.addr, "", "")) }},
	// 5 at /tight are one and a burst of 4.
	"nginx-limit_req": {true, func(tb testing.TB, site *webApp) *webApp {
		return openNginx(tb, nginxProxy(site.addr, "limit_req zone=each burst=1000 nodelay;", "limit_req zone=tight burst=4 nodelay;"))
	}},
	// What all of them stand before.
	"site": {false, func(_ testing.TB, site *webApp) *webApp { return site }},
}

const (
	proxyOpen = `version: 1
applications:
  default: {trusted_proxies: [127.0.0.1]}
`
	proxyLimits = `version: 1
applications:
  default:
    trusted_proxies: [127.0.0.1]
    identity: ["header:X-User"]
    rules:
      - {name: tight, match: {path: /tight}, limits: [{name: each, rate: 5/h}]}
      - {name: pages, match: {path: "/{rest...}"}, limits: [{name: each, rate: 1000/s, burst: 1000}]}
`
)

// openProxy starts the daemon with a proxy.
func openProxy(tb testing.TB, site, policy string) *webApp {
	h := startHeadgate(tb, map[string]string{"policy.yaml": policy},
		"--store", "memory", "--policy", "policy.yaml", "--proxy", anyPort, "--upstream", "http://"+site)
	return &webApp{addr: h.doors["proxy"], pid: h.pid}
}

// floorProxy is a proxy that asks nobody, with the address of the site behind it.
const floorProxy = "proxy:"

// openFloorProxy returns it.
func openFloorProxy(site string) (*http.Server, error) {
	p, err := proxy.New(proxy.Config{
		Pools:  map[string]proxy.Pool{"site": {Servers: []string{site}}},
		Routes: []proxy.Route{{Prefix: "/", Upstream: "site"}},
	})
	if err != nil {
		return nil, err
	}
	return proxy.NewServer(p, slog.New(slog.DiscardHandler)), nil
}

// openNginx starts an nginx with the part of its configuration that belongs into http. It
// has a worker for each processor, and servers listen with reuseport, or few workers would
// have most connections.
func openNginx(tb testing.TB, conf func(addr string) string) *webApp {
	tb.Helper()
	addr := freeAddrs(tb, 1)[0]
	p := launch(tb, map[string]string{"nginx.conf": `daemon off;
pid nginx.pid;
error_log stderr;
worker_processes auto;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
` + conf(addr) + "}\n"}, []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin"}, "nginx", "-e", "stderr", "-p", ".", "-c", "nginx.conf")
	await(tb, p, func() error { return listens(addr) })
	return &webApp{addr: addr, pid: p.Pid()}
}

// nginxSite answers every request with a page of 2 bytes, and says how many there were.
func nginxSite(addr string) string {
	return fmt.Sprintf("    server { listen %s reuseport; location / { return 200 ok; } location = /status { stub_status; } }\n", addr)
}

// nginxProxy forwards requests. all and tight are the limits of "/" and "/tight".
func nginxProxy(site, all, tight string) func(string) string {
	return func(addr string) string {
		return fmt.Sprintf(`    limit_req_zone $http_x_user zone=each:16m rate=1000r/s;
    limit_req_zone $http_x_user zone=tight:1m rate=1r/m;
    limit_req_status 429;
    upstream site {
        server %s;
        keepalive %d;
        keepalive_requests 1000000000;
    }
    server {
        listen %s reuseport;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Host $host;
        proxy_set_header X-Forwarded-Proto $scheme;
        location / { %s proxy_pass http://site; }
        location = /tight { %s proxy_pass http://site; }
    }
`, site, inFlight, addr, all, tight)
	}
}

// beforeSite is a contestant and the site behind it.
type beforeSite struct {
	*webApp
	site   string // its address
	passed int64  // requests that the site must have seen
}

// openBeforeSite starts a site, and a contestant before it that lets exactly its limits
// pass.
func openBeforeSite(tb testing.TB, name string) *beforeSite {
	tb.Helper()
	site, c := openNginx(tb, nginxSite), proxies[name]
	s := &beforeSite{webApp: c.open(tb, site), site: site.addr, passed: 2 * webAsked}
	if err := s.check(!c.limits); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	if c.limits {
		s.passed += webTight - webAsked
	}
	return s
}

// balance returns an error unless the site has seen each request that passed once, and so
// many visits, over connections that were kept.
func (s *beforeSite) balance(visits int) error {
	res, err := http.Get("http://" + s.site + "/status")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var now, accepted, handled, requests int64
	if _, err := fmt.Sscanf(string(text), "Active connections: %d\nserver accepts handled requests\n%d %d %d", &now, &accepted, &handled, &requests); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	s.passed++ // this one
	if want := s.passed + int64(visits); requests != want {
		return fmt.Errorf("%d requests reached the site, want %d", requests, want)
	}
	if most := int64(4 * inFlight); accepted > most {
		return fmt.Errorf("%d connections to the site, want at most %d", accepted, most)
	}
	return nil
}

// BenchmarkProxy is a GET through a reverse proxy, 64 in flight, over connections that stay
// on both sides.
func BenchmarkProxy(b *testing.B) {
	for name := range proxies {
		b.Run(name, func(b *testing.B) {
			s := openBeforeSite(b, name)
			s.measure(b)
			if err := s.balance(webWarm + b.N); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// proxyWithout are the contestants with limits, and the same proxy without: with a policy
// that limits nothing, or with nobody to ask.
var proxyWithout = map[string]struct{ with, without string }{
	"headgate":        {"headgate", "headgate-open"},
	"headgate-gate":   {"headgate", "floor"},
	"nginx-limit_req": {"nginx-limit_req", "nginx"},
}

// BenchmarkProxyLimits is what a proxy takes with limits, 64 in flight, in percent of what it
// takes without, and of its processor time: both are asked in turns.
func BenchmarkProxyLimits(b *testing.B) {
	for name, c := range proxyWithout {
		b.Run(name, func(b *testing.B) {
			pair := [2]*beforeSite{openBeforeSite(b, c.without), openBeforeSite(b, c.with)}
			took, used, n := inTurns(b, [2]*webApp{pair[0].webApp, pair[1].webApp}, inFlight, webWarm, webUsers/5)
			for _, s := range pair {
				if err := s.balance(webWarm + n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(100*float64(took[1])/float64(took[0]), "time-%")
			b.ReportMetric(100*float64(used[1])/float64(used[0]), "cpu-%")
		})
	}
}
