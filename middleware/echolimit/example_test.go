package echolimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/labstack/echo/v5"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/echolimit"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

func Example() {
	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(2).WithName("api"))
	if err != nil {
		panic(err)
	}
	e := echo.New()
	e.Use(echolimit.New(lim, echolimit.Config{
		Key:     echolimit.ByRequest(httplimit.ByHeader("X-User")), // set by the authenticating proxy in front
		Skip:    func(c *echo.Context) bool { return c.Path() == "/health" },
		Message: "One request a second, please",
	}))
	e.GET("/items/:id", func(c *echo.Context) error { return c.String(http.StatusOK, "item "+c.Param("id")) })

	for range 3 {
		r := httptest.NewRequest("GET", "/items/7", nil)
		r.Header.Set("X-User", "alice")
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		fmt.Printf("%d, RateLimit: %s, Retry-After: %q\n", w.Code, w.Header().Get("RateLimit"), w.Header().Get("Retry-After"))
	}
	// Output:
	// 200, RateLimit: "api";r=1;t=1, Retry-After: ""
	// 200, RateLimit: "api";r=0;t=1, Retry-After: ""
	// 429, RateLimit: "api";r=0;t=1, Retry-After: "1"
}

// Any net/http middleware stands in an echo chain, here another limit.
func ExampleWrap() {
	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerHour(1).WithName("api"))
	if err != nil {
		panic(err)
	}
	e := echo.New()
	e.Use(echolimit.Wrap(httplimit.New(lim, httplimit.Config{})))
	e.GET("/", func(c *echo.Context) error { return c.String(http.StatusOK, "hello") })

	for range 2 {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Printf("%d %q\n", w.Code, w.Header().Get("Headgate-Reason"))
	}
	// Output:
	// 200 ""
	// 429 "rate_limited"
}
