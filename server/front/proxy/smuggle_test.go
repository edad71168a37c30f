package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// seen is a request as an upstream has it.
type seen struct {
	Method, URI, Host string
	Header            http.Header
}

// showing is an upstream that answers with the request.
func showing(t *testing.T) *httptest.Server {
	return upstream(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := json.Marshal(seen{r.Method, r.RequestURI, r.Host, r.Header})
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	})
}

// TestFields: what a client may say of itself, and what only proxies may.
func TestFields(t *testing.T) {
	u := showing(t)
	const spoof = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /x\r\nX-Real-IP: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n" +
		"X_Forwarded_For: 192.0.2.7\r\nX-Original-URL: /admin\r\nHeadgate-Reason: ok\r\nHeadgate_Token: x\r\nX.Real.IP: 192.0.2.7\r\n" +
		"Transfer_Encoding: chunked\r\nContent_Length: 9\r\nX_Api_Key: k\r\nProxy: http://evil\r\n"
	for _, tt := range []struct {
		name, send string
		trusted    string
		want       http.Header
	}{
		{"a stranger", spoof, "192.0.2.0/24", http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"}}},
		{"a proxy", spoof, "127.0.0.0/8", http.Header{
			"X-Forwarded-For": {"192.0.2.7, 127.0.0.1"}, "X-Forwarded-Host": {"evil"}, "X-Forwarded-Proto": {"https"},
			"X-Forwarded-Prefix": {"/x"}, "X-Real-Ip": {"192.0.2.7"}, "X-Original-Url": {"/admin"},
		}},
		{"what stands before others", "Cf-Connecting-IP: 192.0.2.7\r\nClient-IP: 192.0.2.7\r\nX-Forwarded: for=192.0.2.7\r\n", "192.0.2.0/24", http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"}}},
		{"a proxy that says nothing", "", "127.0.0.0/8", http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"}}},
		{"Connection names ours", "Connection: X-Forwarded-For, X-Forwarded-Host, RateLimit, Headgate-Reason, X-Api-Key\r\nX-Api-Key: k\r\n", "192.0.2.0/24", http.Header{
			"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"},
		}},
		{"hop by hop", "Keep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: Upgrade, HTTP2-Settings\r\nX-Kept: y\r\n", "192.0.2.0/24", http.Header{
			"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"}, "Te": {"trailers"}, "X-Kept": {"y"},
		}},
		{"Upgrade twice", "Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: upgrade\r\n", "192.0.2.0/24", http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"}}},
		{"Upgrade alone", "Upgrade: websocket\r\n", "192.0.2.0/24", http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := config(Pool{Servers: []string{u.URL}})
			c.Trusted = func(application string) []netip.Prefix {
				if application != "default" {
					t.Errorf("application %q", application)
				}
				return []netip.Prefix{netip.MustParsePrefix(tt.trusted)}
			}
			s := open(t, c)
			in, _ := s.raw(t, "GET / HTTP/1.1\r\nHost: shop\r\n"+tt.send+"\r\n")
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got seen
			if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if got.Host != "shop" || !reflect.DeepEqual(got.Header, tt.want) {
				t.Errorf("%s %v, want %v", got.Host, got.Header, tt.want)
			}
		})
	}
}

// TestTrailer: behind a body nobody says what only the header or only a proxy says.
func TestTrailer(t *testing.T) {
	trailers := make(chan http.Header, 1)
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		trailers <- r.Trailer
	})
	s := open(t, config(Pool{Servers: []string{u.URL}}))
	in, _ := s.raw(t, "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Host, X-Forwarded-For\r\n\r\n1\r\na\r\n0\r\nX-Sum: 42\r\nContent-Digest: d\r\n"+
		"Host: evil\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nAuthorization: a\r\nX-Forwarded-For: 192.0.2.7\r\nX_Forwarded_For: 192.0.2.7\r\nHeadgate-Reason: ok\r\nIf-Match: x\r\n\r\n")
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	if got, want := <-trailers, (http.Header{"X-Sum": {"42"}, "Content-Digest": {"d"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestMethods: by HTTP/2 a method may be anything, and one that is none is the client's
// fault.
func TestMethods(t *testing.T) {
	s := open(t, config(Pool{Servers: []string{showing(t).URL}}))
	for method, want := range map[string]int{"GET /admin HTTP/1.1": 400, "": 400, "G\tT": 400, "GÉT": 400, "a:b": 400, "PROPFIND": 200, "M-SEARCH": 200, "X!#$%&'*+.^_`|~9": 200} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Method = method
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: %d, want %d", method, w.Code, want)
		}
	}
}

// TestSmuggling: what two servers may read in two ways is refused, or reaches the upstream
// in one.
func TestSmuggling(t *testing.T) {
	u := showing(t)
	s := open(t, config(Pool{Servers: []string{u.URL}}))
	for name, tt := range map[string]struct {
		send   string
		status int
	}{
		"TE after CL":           {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nX", 501},
		"two lengths":           {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		"a length with a sign":  {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400},
		"space before a colon":  {"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For : 1.2.3.4\r\n\r\n", 400},
		"a field with a CR":     {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400},
		"a field with a NUL":    {"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400},
		"two hosts":             {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"no host":               {"GET / HTTP/1.1\r\n\r\n", 400},
		"a space in the path":   {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"CRLF in the path":      {"GET /a%0d%0aX:%20b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"a broken escape":       {"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"CONNECT":               {"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 405},
		"a header that floods":  {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 2*maxHeader) + "\r\n\r\n", 431},
		"OPTIONS of no path":    {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"no path":               {"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"a method with a break": {"GE\tT / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	} {
		in, c := s.raw(t, tt.send)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != tt.status {
			t.Errorf("%s: %v %v, want %d", name, res, err, tt.status)
		}
		c.Close()
	}
	// Of both, the encoding counts: what follows is a request of its own, which is decided
	// as any other.
	for len(s.ended) > 0 {
		<-s.ended
	}
	in, c := s.raw(t, "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n")
	defer c.Close()
	for _, want := range []string{"/one", "/two"} {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got seen
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil || got.URI != want || got.Header["Content-Length"] != nil {
			t.Errorf("%+v %v, want %s", got, err, want)
		}
		s.await(t)
	}
}

// TestTarget: what upstreams see of paths and queries.
func TestTarget(t *testing.T) {
	s := open(t, config(Pool{Servers: []string{showing(t).URL}}))
	for send, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "/a//b///c": "/a/b/c", "//evil.example/x": "/evil.example/x", "/a/./b/../c": "/a/c", "/a/%2e%2e/b": "/b", "/a%2Fb": "/a/b",
		"/a/..%2f..%2fb/": "/b/", "/..": "/", "/a/.": "/a/", "/a/..": "/", "/a/": "/a/", "/%41%7e": "/A~", "/a%20b": "/a%20b", "/a%3fb": "/a%3Fb", "/a%23b": "/a%23b",
		"/a%252fb": "/a%252fb", "/%c3%a4": "/%C3%A4", "/a\\b": "/a%5Cb", "/a;b=c": "/a;b=c", "/a?": "/a?", "/a?b=c&d=%20": "/a?b=c&d=%20", "/a?b=../c//d": "/a?b=../c//d",
		"/a?b=1;c=2&d=3": "/a?d=3", "/a?b=%zz&c=1": "/a?c=1", "http://other.example/a": "/a", "/...": "/...",
	} {
		in, c := s.raw(t, "GET "+send+" HTTP/1.1\r\nHost: shop\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(send, err)
		}
		var got seen
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
			t.Fatalf("%s: %s", send, res.Status)
		}
		if got.URI != want {
			t.Errorf("%s: the upstream has %s, want %s", send, got.URI, want)
		}
		c.Close()
	}
}

// TestPathsOfGate: for random paths the gate finds the rule by what the client sent that it
// finds by what is forwarded, and a second time it stays as it is.
func TestPathsOfGate(t *testing.T) {
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	defer store.Close()
	g, err := gate.Open(t.Context(), gate.Config{Store: store, Policy: []byte(`version: 1
applications:
  default:
    rules:
      - {name: exact, match: {path: /a/b}}
      - {name: slash, match: {path: /a/b/}}
      - {name: under, match: {path: "/a/{rest...}"}}
      - {name: one, match: {path: "/{one}"}}
      - {name: dots, match: {path: "/.../{rest...}"}}
      - {name: rest, match: {path: "/{rest...}"}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	rule := func(target string) string {
		var d gate.Decision
		q := gate.Request{Application: "default", Method: "GET", Path: target, Subject: "s"}
		if err := g.Take(context.Background(), &q, &d); err != nil {
			return "error"
		}
		return d.Rule
	}
	parts := []string{"/", "/", "/", "a", "b", ".", "..", "...", "%2f", "%2F", "%2e", "%61", "%62", "%25", "%3f", "%00", "%7f", "%5c", ";", "\\", "%c3", "ä", "%20"}
	r := rand.New(rand.NewPCG(3, 4))
	found := map[string]int{}
	for range 50_000 {
		var sent strings.Builder
		sent.WriteString("/")
		for range r.IntN(9) {
			sent.WriteString(parts[r.IntN(len(parts))])
		}
		u, err := url.ParseRequestURI(sent.String())
		if err != nil {
			t.Fatal(sent.String(), err)
		}
		q := &http.Request{Method: "GET", URL: u, RequestURI: sent.String(), Header: http.Header{}}
		want, got := rule(sent.String()), "error"
		bad := unify(q)
		if bad == nil {
			got = rule(q.RequestURI)
		}
		if got != want {
			t.Fatalf("%s: the gate finds %s; as %s, which is forwarded, it finds %s", sent.String(), want, q.RequestURI, got)
		}
		found[got]++
		if bad != nil {
			continue
		}
		once := q.RequestURI
		if again := unify(q); again != nil || q.RequestURI != once {
			t.Fatalf("%s: %s, then %s", sent.String(), once, q.RequestURI)
		}
	}
	for _, name := range []string{"exact", "slash", "under", "one", "dots", "rest", "error"} {
		if found[name] == 0 {
			t.Errorf("no path met %s: %v", name, fmt.Sprint(found))
		}
	}
}
