package httpgate

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/headgate/headgate/store/memstore"
)

// TestPassedIsKept: Ended is told of its own request, whatever was decided since.
func TestPassedIsKept(t *testing.T) {
	g := open(t, `{version: 1, applications: {default: {identity: [ip], rules: [{name: r, match: {path: "/{rest...}"}, limits: [{name: l, rate: 100/s}]}]}}}`, memstore.New(memstore.Config{}))
	var ended []string
	var h http.Handler
	h = New(g, Config{Ended: func(r *http.Request, by Passed, _ int, _ time.Duration) {
		ended = append(ended, r.URL.Path+" "+by.Subject)
	}})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/outer" {
			for range 8 { // under the race detector a pool gives back only some
				inner := request("/inner")
				inner.RemoteAddr = "198.51.100.77:1"
				h.ServeHTTP(httptest.NewRecorder(), inner)
			}
		}
	}))
	outer := request("/outer")
	outer.RemoteAddr = "203.0.113.5:1"
	h.ServeHTTP(httptest.NewRecorder(), outer)
	if n := len(ended); n != 9 || ended[0] != "/inner 198.51.100.77" || ended[8] != "/outer 203.0.113.5" {
		t.Errorf("told of %q", ended)
	}
}
