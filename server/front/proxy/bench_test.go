package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/store/memstore"
)

// BenchmarkForward is a GET with an answer of 1 KiB over connections that stay: to the
// upstream itself, through net/http's own proxy, through this one, and through this one
// with a limit.
func BenchmarkForward(b *testing.B) {
	body := make([]byte, 1024)
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(body) }))
	defer u.Close()
	target, err := url.Parse(u.URL)
	if err != nil {
		b.Fatal(err)
	}
	store := memstore.New(memstore.Config{MaxBytes: 16 << 20})
	defer store.Close()
	g, err := gate.Open(b.Context(), gate.Config{Store: store, Policy: []byte(`version: 1
applications:
  default:
    identity: [ip]
    rules: [{name: all, match: {path: "/{rest...}"}, limits: [{name: rate, rate: 1000000000/h}]}]
`)})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	forward := func(limit func(string) func(http.Handler) http.Handler) http.Handler {
		c := config(Pool{Servers: []string{u.URL}})
		c.Limit = limit
		p, err := New(c)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(p.Close)
		return p
	}
	for _, bench := range []struct {
		name    string
		handler http.Handler
	}{
		{"upstream", u.Config.Handler},
		{"ReverseProxy", &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
			Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true},
		}},
		{"proxy", forward(nil)},
		{"limited", forward(func(application string) func(http.Handler) http.Handler {
			return httpgate.New(g, httpgate.Config{Application: application})
		})},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := httptest.NewServer(bench.handler)
			defer s.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
			defer client.CloseIdleConnections()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					res, err := client.Get(s.URL)
					if err != nil {
						b.Error(err)
						return
					}
					n, err := io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if limited := res.Header.Get("RateLimit") != ""; err != nil || res.StatusCode != 200 || n != 1024 || limited != (bench.name == "limited") {
						b.Errorf("%s, %d bytes, %v, %v", res.Status, n, res.Header, err)
						return
					}
				}
			})
		})
	}
}
