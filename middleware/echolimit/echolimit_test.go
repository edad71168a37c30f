package echolimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/limittest"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

func inMemory(t testing.TB, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	lim, err := headgate.New(memstore.New(memstore.Config{}), limits...)
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

// engine has one handler behind middleware.
func engine(handler echo.HandlerFunc, middleware ...echo.MiddlewareFunc) *echo.Echo {
	e := echo.New()
	e.Logger = slog.New(slog.DiscardHandler)
	e.Use(middleware...)
	e.Any("/*", handler)
	return e
}

func request(target string, fields ...string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	r.RemoteAddr = "203.0.113.9:4711"
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// config says what c says.
func config(c httplimit.Config) Config {
	g := Config{Plans: c.Plans, Message: c.Message, Headers: c.Headers, RetryJitter: c.RetryJitter, FailOpen: c.FailOpen}
	if c.Key != nil {
		g.Key = ByRequest(c.Key)
	}
	if c.Cost != nil {
		g.Cost = func(x *echo.Context) int64 { return c.Cost(x.Request()) }
	}
	if c.Skip != nil {
		g.Skip = func(x *echo.Context) bool { return c.Skip(x.Request()) }
	}
	if c.Plan != nil {
		g.Plan = func(x *echo.Context) string { return c.Plan(x.Request()) }
	}
	if c.OnLimited != nil {
		g.OnLimited = func(x *echo.Context, d headgate.Decision) error {
			c.OnLimited(x.Response(), x.Request(), d)
			return nil
		}
	}
	if c.OnError != nil {
		g.OnError = func(x *echo.Context, err error) { c.OnError(x.Request(), err) }
	}
	return g
}

func TestSuite(t *testing.T) {
	mount := func(middleware echo.MiddlewareFunc, next http.Handler) http.Handler {
		return engine(func(c *echo.Context) error { next.ServeHTTP(c.Response(), c.Request()); return nil }, middleware)
	}
	t.Run("New", func(t *testing.T) {
		limittest.Run(t, func(lim *headgate.Limiter, c httplimit.Config, next http.Handler) http.Handler {
			return mount(New(lim, config(c)), next)
		})
	})
	t.Run("Wrap", func(t *testing.T) {
		limittest.Run(t, func(lim *headgate.Limiter, c httplimit.Config, next http.Handler) http.Handler {
			return mount(Wrap(httplimit.New(lim, c)), next)
		})
	})
	t.Run("Wrap with a writer", func(t *testing.T) {
		limittest.Run(t, func(lim *headgate.Limiter, c httplimit.Config, next http.Handler) http.Handler {
			return mount(Wrap(func(h http.Handler) http.Handler { return httplimit.New(lim, c)(watch(nil)(h)) }), next)
		})
	})
}

// watched is a response writer of net/http middleware.
type watched struct {
	http.ResponseWriter
	status, size int
}

func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *watched) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(p []byte) (int, error) {
	w.size += len(p)
	return w.ResponseWriter.Write(p)
}

// watch tells end what the handler answered.
func watch(end func(status, size int)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ww := &watched{ResponseWriter: w}
			next.ServeHTTP(ww, r)
			if end != nil {
				end(ww.status, ww.size)
			}
		})
	}
}

// hidden hides the writer below.
type hidden struct{ w http.ResponseWriter }

func (h hidden) Header() http.Header         { return h.w.Header() }
func (h hidden) WriteHeader(status int)      { h.w.WriteHeader(status) }
func (h hidden) Write(p []byte) (int, error) { return h.w.Write(p) }
func (h hidden) Flush()                      { _ = http.NewResponseController(h.w).Flush() }

func hide(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(hidden{w}, r) })
}

// logger tells of each request in a word. As echo's RequestLogger it has errors answered
// first.
func logger(out *strings.Builder) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			err := next(c)
			if err != nil {
				c.Echo().HTTPErrorHandler(c, err)
			}
			resp, _ := echo.UnwrapResponse(c.Response())
			fmt.Fprintf(out, "%d/%d/%t ", resp.Status, resp.Size, err != nil)
			return err
		}
	}
}

// However handlers answer, client and loggers see what they would without us.
func TestAnswersAreTheSame(t *testing.T) {
	plain := func(next http.Handler) http.Handler { return next }
	for name, handler := range map[string]echo.HandlerFunc{
		"text":       func(c *echo.Context) error { return c.String(201, "hello") },
		"JSON":       func(c *echo.Context) error { return c.JSON(200, map[string]int{"a": 1}) },
		"no content": func(c *echo.Context) error { return c.NoContent(204) },
		"nothing":    func(*echo.Context) error { return nil },
		"error":      func(*echo.Context) error { return errors.New("no database") },
		"HTTP error": func(*echo.Context) error { return echo.NewHTTPError(403, "no") },
		"not found":  func(*echo.Context) error { return echo.ErrNotFound },
		"error late": func(c *echo.Context) error { c.Response().Write([]byte("a")); return errors.New("late") },
		"redirect":   func(c *echo.Context) error { return c.Redirect(302, "/there") },
		"many writes": func(c *echo.Context) error {
			io.WriteString(c.Response(), "a")
			_, err := c.Response().Write([]byte("b"))
			return err
		},
		"flush": func(c *echo.Context) error {
			c.Response().WriteHeader(206)
			return http.NewResponseController(c.Response()).Flush()
		},
		"file":        func(c *echo.Context) error { return c.File("echolimit.go") },
		"panic":       func(*echo.Context) error { panic("handler") },
		"panic late":  func(c *echo.Context) error { io.WriteString(c.Response(), "a"); panic("handler") },
		"broken JSON": func(c *echo.Context) error { return c.JSON(200, func() {}) },
		"stream":      func(c *echo.Context) error { return c.Stream(200, "text/plain", strings.NewReader("s")) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, target := range []string{"GET /", "HEAD /", "GET /nowhere", "PUT /"} {
				answer := func(m ...echo.MiddlewareFunc) string {
					var log strings.Builder
					e := echo.New()
					e.Logger = slog.New(slog.DiscardHandler)
					e.Use(logger(&log), middleware.Recover())
					e.Use(m...)
					e.GET("/", handler)
					method, path, _ := strings.Cut(target, " ")
					r := request(path)
					r.Method = method
					w := serve(e, r)
					for name := range w.Header() {
						if strings.HasPrefix(name, "Ratelimit") {
							w.Header().Del(name)
						}
					}
					return fmt.Sprintf("%d %v %q log %s", w.Code, w.Header(), w.Body, &log)
				}
				lim := inMemory(t, headgate.InFlight(1, time.Hour))
				want := answer()
				for name, m := range map[string]echo.MiddlewareFunc{
					"New":                       New(lim, Config{}),
					"Wrap":                      Wrap(plain),
					"Wrap with a writer":        Wrap(watch(nil)),
					"Wrap with two":             Wrap(func(h http.Handler) http.Handler { return watch(nil)(watch(nil)(h)) }),
					"Wrap with a hidden writer": Wrap(hide),
					"Wrap of a limit":           Wrap(httplimit.New(lim, httplimit.Config{})),
					"New, which was freed":      New(lim, Config{}),
				} {
					if got := answer(m); got != want {
						t.Errorf("%s, %s:\ngot  %s\nwant %s", name, target, got, want)
					}
				}
			}
		})
	}
}

// What middleware with a writer of its own is told of.
func TestWrapTellsTheAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		handler echo.HandlerFunc
		status  int
	}{
		"text":       {func(c *echo.Context) error { return c.String(201, "hello") }, 201},
		"error":      {func(*echo.Context) error { return errors.New("no database") }, 500},
		"HTTP error": {func(*echo.Context) error { return echo.NewHTTPError(403, "no") }, 403},
		"no route":   {func(*echo.Context) error { return echo.ErrNotFound }, 404},
	} {
		got, sent := 0, 0
		e := engine(tt.handler, Wrap(watch(func(status, size int) { got, sent = status, size })))
		if w := serve(e, request("/")); got != tt.status || w.Code != tt.status || sent != w.Body.Len() || sent == 0 {
			t.Errorf("%s: told %d with %d bytes, answered %d %q", name, got, sent, w.Code, w.Body)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, limit := range map[string]func(*headgate.Limiter) echo.MiddlewareFunc{
		"New":  func(lim *headgate.Limiter) echo.MiddlewareFunc { return New(lim, Config{}) },
		"Wrap": func(lim *headgate.Limiter) echo.MiddlewareFunc { return Wrap(httplimit.New(lim, httplimit.Config{})) },
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			ran, handled := 0, 0
			e := engine(func(c *echo.Context) error { ran++; return c.String(200, "hello") }, logger(&log), limit(inMemory(t, headgate.PerHour(1))))
			e.HTTPErrorHandler = func(*echo.Context, error) { handled++ }
			serve(e, request("/"))
			w := serve(e, request("/"))
			want := fmt.Sprintf("200/5/false 429/%d/false ", w.Body.Len())
			if w.Code != 429 || w.Body.Len() == 0 || w.Header().Get("Content-Type") != "application/problem+json" || log.String() != want || ran != 1 || handled != 0 {
				t.Errorf("got %d %v and log %q, %d ran, %d errors; want 429 and %q", w.Code, w.Header(), &log, ran, handled, want)
			}
		})
	}
}

// An error of OnLimited is answered by echo.
func TestOnLimitedReturnsAnError(t *testing.T) {
	c := Config{OnLimited: func(_ *echo.Context, d headgate.Decision) error {
		return echo.NewHTTPError(httplimit.Status(d.Reason), "slow down")
	}}
	e := engine(func(*echo.Context) error { return nil }, New(inMemory(t, headgate.PerHour(1)), c))
	serve(e, request("/"))
	if w := serve(e, request("/")); w.Code != 429 || w.Body.String() != "{\"message\":\"slow down\"}\n" || w.Header().Get("Retry-After") != "3600" {
		t.Errorf("got %d %s %v", w.Code, w.Body, w.Header())
	}
	if w := serve(e, func() *http.Request { r := request("/"); r.RemoteAddr = "203.0.113.8:1"; return r }()); w.Code != 200 {
		t.Errorf("the error stays: got %d %s", w.Code, w.Body)
	}
}

// The functions of Config see the context, with what echo and other middleware put there.
func TestFunctionsSeeTheContext(t *testing.T) {
	seen := map[string]string{}
	note := func(name string, c *echo.Context) {
		user, _ := c.Get("user").(string)
		seen[name] = c.Path() + " " + c.Param("id") + " " + user
	}
	lim := inMemory(t, headgate.PerHour(1).WithName("rate"))
	failing := errors.New("no database")
	var told error
	cfg := Config{
		Key: func(c *echo.Context) (string, error) {
			note("Key", c)
			if c.Param("id") == "broken" {
				return "", failing
			}
			return c.Get("user").(string), nil
		},
		Cost: func(c *echo.Context) int64 { note("Cost", c); return 1 },
		Skip: func(c *echo.Context) bool { note("Skip", c); return false },
		Plan: func(c *echo.Context) string { note("Plan", c); return "" },
		OnLimited: func(c *echo.Context, d headgate.Decision) error {
			note("OnLimited", c)
			return c.JSON(418, map[string]string{"limited": d.Reason.String()})
		},
		OnError: func(c *echo.Context, err error) { note("OnError", c); told = err },
	}
	e := echo.New()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			c.Set("user", "alice")
			return next(c)
		}
	})
	e.GET("/items/:id", func(c *echo.Context) error { return c.String(200, "hello") }, New(lim, cfg))
	if w := serve(e, request("/items/7")); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := serve(e, request("/items/7")); w.Code != 418 || w.Body.String() != "{\"limited\":\"rate_limited\"}\n" || w.Header().Get("Retry-After") != "3600" {
		t.Errorf("got %d %s %v", w.Code, w.Body, w.Header())
	}
	for _, name := range []string{"Key", "Cost", "Skip", "Plan", "OnLimited"} {
		if seen[name] != "/items/:id 7 alice" {
			t.Errorf("%s saw %q", name, seen[name])
		}
	}
	if w := serve(e, request("/items/broken")); w.Code != 500 || !errors.Is(told, failing) || seen["OnError"] != "/items/:id broken alice" {
		t.Errorf("got %d, told %v, OnError saw %q", w.Code, told, seen["OnError"])
	}
}

// An extractor that believes everybody is not asked.
func TestSpoofedAddress(t *testing.T) {
	echoSaw := map[string]bool{}
	e := engine(func(c *echo.Context) error { return nil }, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error { echoSaw[c.RealIP()] = true; return next(c) }
	}, New(inMemory(t, headgate.PerHour(1)), Config{}))
	e.IPExtractor = echo.LegacyIPExtractor()
	var codes []int
	for i := range 3 {
		codes = append(codes, serve(e, request("/", "X-Forwarded-For: 198.51.100."+strconv.Itoa(i))).Code)
	}
	if fmt.Sprint(codes) != "[200 429 429]" || len(echoSaw) != 3 {
		t.Errorf("got %v, while echo saw %v", codes, echoSaw)
	}
}

// Requests at one time, and within each other, each find their own context.
func TestContextsAreNotMixed(t *testing.T) {
	var e *echo.Echo
	var ran atomic.Int64
	key := func(c *echo.Context) (string, error) { return c.QueryParam("k"), nil }
	handler := func(c *echo.Context) error {
		ran.Add(1)
		if k := c.QueryParam("k"); !strings.HasSuffix(k, "i") {
			if w := serve(e, request("/?k="+k+"i")); w.Code != 200 || w.Body.String() != k+"i" {
				t.Errorf("inside of %s: got %d %s", k, w.Code, w.Body)
			}
		}
		return c.String(200, c.QueryParam("k"))
	}
	e = engine(handler, New(inMemory(t, headgate.PerHour(1)), Config{Key: key}))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				k := fmt.Sprintf("%d-%d-", g, i)
				if w := serve(e, request("/?k="+k)); w.Code != 200 || w.Body.String() != k {
					t.Errorf("%s: got %d %s", k, w.Code, w.Body)
				}
			}
		})
	}
	wg.Wait()
	if ran.Load() != 1600 {
		t.Errorf("%d handlers ran, want 1600", ran.Load())
	}
}

type ctxKey struct{}

func TestWrapPassesTheRequestOn(t *testing.T) {
	built := 0
	m := Wrap(func(next http.Handler) http.Handler {
		built++
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), ctxKey{}, "from the middleware")))
		})
	})
	var inside, outside any
	e := engine(func(c *echo.Context) error { inside = c.Request().Context().Value(ctxKey{}); return nil }, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			err := next(c)
			outside = c.Request().Context().Value(ctxKey{})
			return err
		}
	}, m)
	serve(e, request("/"))
	serve(e, request("/other"))
	if inside != "from the middleware" || outside != nil || built != 1 {
		t.Errorf("inside %v, outside %v, built %d times", inside, outside, built)
	}
}

func TestWrapOfAForgetfulMiddleware(t *testing.T) {
	m := Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r.WithContext(context.Background())) })
	})
	defer func() {
		if got := recover(); got != "echolimit: the middleware has replaced the request's context" {
			t.Errorf("recovered %v", got)
		}
	}()
	serve(engine(func(*echo.Context) error { return nil }, m), request("/"))
}

func TestNewPanics(t *testing.T) {
	for name, build := range map[string]func(){
		"no limiter": func() { New(nil, Config{}) },
		"a fault":    func() { New(inMemory(t, headgate.PerHour(1)), Config{RetryJitter: 101}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			build()
		}()
	}
}

// sink is a response that a test can use again.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// TestAllocations: besides what the limit itself allocates, Wrap makes a request and its
// context.
func TestAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	const most, mostOfWrap = 1, 3
	lim := inMemory(t, headgate.PerSecond(1_000_000))
	ran := 0
	allocs := func(middleware ...echo.MiddlewareFunc) float64 {
		e, w, r := engine(func(*echo.Context) error { ran++; return nil }, middleware...), &sink{http.Header{}}, request("/")
		return testing.AllocsPerRun(1000, func() { clear(w.header); e.ServeHTTP(w, r) })
	}
	bare, limited, wrapped := allocs(), allocs(New(lim, Config{})), allocs(Wrap(httplimit.New(lim, httplimit.Config{})))
	if limited-bare > most || wrapped-bare > most+mostOfWrap || ran != 3*1001 {
		t.Errorf("%v allocations bare, %v with New, %v with Wrap, %d ran; want %d more at most, and %d for Wrap", bare, limited, wrapped, ran, most, most+mostOfWrap)
	}
}

func BenchmarkServe(b *testing.B) {
	lim := inMemory(b, headgate.PerSecond(100_000_000))
	for _, bm := range []struct {
		name       string
		middleware []echo.MiddlewareFunc
	}{
		{"bare", nil},
		{"New", []echo.MiddlewareFunc{New(lim, Config{})}},
		{"Wrap", []echo.MiddlewareFunc{Wrap(httplimit.New(lim, httplimit.Config{}))}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			ran, calls := 0, 0
			e, w, r := engine(func(*echo.Context) error { ran++; return nil }, bm.middleware...), &sink{http.Header{}}, request("/")
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				e.ServeHTTP(w, r)
				calls++
			}
			if ran != calls {
				b.Fatalf("%d of %d ran", ran, calls)
			}
		})
	}
	b.Run("httplimit", func(b *testing.B) {
		ran, calls := 0, 0
		h := httplimit.New(lim, httplimit.Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { ran++ }))
		w, r := &sink{http.Header{}}, request("/")
		b.ReportAllocs()
		for b.Loop() {
			clear(w.header)
			h.ServeHTTP(w, r)
			calls++
		}
		if ran != calls {
			b.Fatalf("%d of %d ran", ran, calls)
		}
	})
}
