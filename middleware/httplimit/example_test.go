package httplimit_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

func Example() {
	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(2).WithName("api"))
	if err != nil {
		panic(err)
	}
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })

	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	mux := http.NewServeMux()
	mux.Handle("/api/", httplimit.New(lim, httplimit.Config{
		Key:     httplimit.ByIP(trusted),
		Skip:    func(r *http.Request) bool { return r.URL.Path == "/api/health" },
		Message: "One request a second, please",
	})(api))

	for range 3 {
		r := httptest.NewRequest("GET", "/api/greeting", nil)
		r.RemoteAddr = "10.0.0.1:4711"
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Printf("%d, RateLimit: %s, Retry-After: %q\n", w.Code, w.Header().Get("RateLimit"), w.Header().Get("Retry-After"))
	}
	// Output:
	// 200, RateLimit: "api";r=1;t=1, Retry-After: ""
	// 200, RateLimit: "api";r=0;t=1, Retry-After: ""
	// 429, RateLimit: "api";r=0;t=1, Retry-After: "1"
}

// Plans are limiters over one store whose limits have the same names, so that
// a client takes along what it has used when its plan changes.
func Example_plans() {
	store := memstore.New(memstore.Config{})
	limiter := func(perHour int64) *headgate.Limiter {
		lim, err := headgate.New(store, headgate.PerHour(perHour).WithName("rate"))
		if err != nil {
			panic(err)
		}
		return lim
	}
	plans := map[string]string{"alice": "premium"} // from your own records, never from the client
	user := httplimit.ByHeader("X-User")           // set by the authenticating proxy in front
	h := httplimit.New(limiter(100), httplimit.Config{
		Key:   user,
		Plan:  func(r *http.Request) string { return plans[r.Header.Get("X-User")] },
		Plans: map[string]*headgate.Limiter{"premium": limiter(1000)},
	})(http.NotFoundHandler())

	for _, name := range []string{"alice", "bob"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-User", name)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(name, w.Header().Get("RateLimit-Policy"))
	}
	// Output:
	// alice "rate";q=1000;w=3600
	// bob "rate";q=100;w=3600
}

// A client that may ask a partner twice an hour, together with all processes over the
// same store.
func ExampleNewTransport() {
	partner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer partner.Close()

	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerHour(2).WithName("partner"))
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: httplimit.NewTransport(lim, nil, httplimit.TransportConfig{
		MaxWait:  10 * time.Second,
		MaxPause: time.Minute,
		Retries:  2,
	})}
	for range 3 {
		resp, err := client.Get(partner.URL)
		if e, ok := errors.AsType[*httplimit.LimitedError](err); ok {
			fmt.Println("not sent:", e.Decision.Reason, e.RetryAfter.Round(time.Minute))
			continue
		}
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	// Output:
	// 200 OK
	// 200 OK
	// not sent: rate_limited 30m0s
}
