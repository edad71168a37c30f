package proxy

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestPages: browsers get a page for what the proxy answers itself, and are told when an
// upstream is looked at again if a check says so.
func TestPages(t *testing.T) {
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	noHTTP, _ := script(t, says("SSH-2.0-OpenSSH\r\n"))
	for name, tt := range map[string]struct {
		pool    Pool
		path    string
		checked bool // that no server is up
		status  int
		detail  string
	}{
		"unavailable":          {Pool{Servers: []string{closedPort(t)}}, "/", false, 503, "cannot be reached at the moment"},
		"unavailable, checked": {Pool{Servers: []string{closedPort(t)}}, "/", true, 503, "cannot be reached at the moment"},
		"failed":               {Pool{Servers: []string{noHTTP}}, "/", false, 502, "sent what is no answer"},
		"failed, checked":      {Pool{Servers: []string{noHTTP}}, "/", true, 502, "sent what is no answer"},
		"timeout":              {Pool{Servers: []string{silent(t)}, ResponseTimeout: 20 * time.Millisecond}, "/", false, 504, "did not answer in time"},
		"no path of ours":      {Pool{Servers: []string{noHTTP}}, "/a%00", true, 400, "control character"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, config(tt.pool))
			if tt.checked {
				only := s.pools[0].servers[0]
				only.down, only.checkAt = true, time.Now().Add(time.Hour)
			}
			for _, accept := range []string{browser, "text/plain", "*/*"} {
				r := request(t, "GET", s.url+tt.path, nil)
				r.Header.Set("Accept", accept)
				res, body := s.do(t, r)
				retry := res.Header.Get("Retry-After")
				if res.StatusCode != tt.status || !strings.Contains(body, tt.detail) || res.Header.Get("Vary") != "Accept" || (retry != "") != (tt.checked && tt.status >= 500) {
					t.Errorf("%s: %s %v\n%s", accept, res.Status, res.Header, body)
				}
				page := accept == browser
				if media := res.Header.Get("Content-Type"); page != (media == "text/html; charset=utf-8") || page != strings.Contains(body, "<!doctype html>") {
					t.Errorf("%s: %s\n%s", accept, media, body)
				}
				if page && strings.Contains(body, "Try again in "+retry+" s.") != (retry != "") {
					t.Errorf("Retry-After %q, and the page says\n%s", retry, body)
				}
			}
		})
	}
}

// TestNextCheck: only checks know when a server is looked at again, and only if none is up.
func TestNextCheck(t *testing.T) {
	p, now := testPool(t, RoundRobin, 2), time.Unix(1000, 0)
	a, b := p.servers[0], p.servers[1]
	check := func(want time.Duration) {
		t.Helper()
		if got, ok := p.nextCheck(now); got != want || ok != (want > 0) {
			t.Errorf("%v %v, want %v", got, ok, want)
		}
	}
	p.unconnected(a, now)
	p.unconnected(b, now)
	check(0) // nothing is checked
	p.checkedNext(a, now.Add(5*time.Second))
	p.checkedNext(b, now.Add(3*time.Second))
	check(3 * time.Second)
	p.connected(b)
	check(0)
	b.down = true
	check(3 * time.Second)
}

// TestAsterisk: OPTIONS * names no path that could be decided, by HTTP/2 neither.
func TestAsterisk(t *testing.T) {
	s := open(t, config(Pool{Servers: []string{showing(t).URL}}))
	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	for _, client := range []*http.Client{s.client, {Transport: &http.Transport{Protocols: &http2}, Timeout: patience}} {
		r := request(t, "OPTIONS", s.url, nil)
		r.URL.Opaque = "*"
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		client.CloseIdleConnections()
		if res.StatusCode != 400 {
			t.Errorf("%s: %s", res.Proto, res.Status)
		}
	}
}
