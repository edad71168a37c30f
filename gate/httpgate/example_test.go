package httpgate_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

const shop = `
version: 1
applications:
  shop:
    trusted_proxies: [10.0.0.0/8]
    identity: [ip]
    rules:
      - {name: login, match: {path: /login, methods: [POST]}, limits: [{name: tries, rate: 3/h, burst: 1}], message: Too many tries.}
      - {name: api, match: {path: "/api/{rest...}"}, limits: [{name: burst, rate: 60/min}]}
`

func Example() {
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(shop), Store: memstore.New(memstore.Config{})})
	if err != nil {
		panic(err)
	}
	defer g.Close()
	site := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	h := httpgate.New(g, httpgate.Config{Application: "shop"})(site)

	for _, accept := range []string{"*/*", "*/*", "text/html"} {
		r := httptest.NewRequest("POST", "/login", nil)
		r.RemoteAddr = "10.0.0.1:4711" // the proxy in front
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("RateLimit-Policy"), w.Header().Get("Content-Type"))
	}
	// Output:
	// 200 "login/tries";q=1;w=1200 text/plain; charset=utf-8
	// 429 "login/tries";q=1;w=1200 application/problem+json
	// 429 "login/tries";q=1;w=1200 text/html; charset=utf-8
}

// The program says who asks and on which plan, and learns how long handlers take.
func Example_config() {
	const policy = `
version: 1
plans:
  free: {limits: [{name: rate, rate: 100/h}]}
  premium: {limits: [{name: rate, rate: 1000/h}]}
applications: {default: {default_plan: free}}
`
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{})})
	if err != nil {
		panic(err)
	}
	defer g.Close()
	plans := map[string]string{"alice": "premium"} // from your own records, never from the client
	h := httpgate.New(g, httpgate.Config{
		Key:  httplimit.ByHeader("X-User"), // set by the authenticating proxy in front
		Plan: func(r *http.Request) string { return plans[r.Header.Get("X-User")] },
		Ended: func(r *http.Request, by httpgate.Passed, status int, took time.Duration) {
			fmt.Println(by.Subject, by.Plan, status, took > 0)
		},
	})(http.NotFoundHandler())

	for _, name := range []string{"alice", "bob"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-User", name)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Header().Get("RateLimit-Policy"))
	}
	// Output:
	// alice premium 404 true
	// "plan/rate";q=1000;w=3600
	// bob free 404 true
	// "plan/rate";q=100;w=3600
}
