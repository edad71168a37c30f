package ginlimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/limittest"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode) // less on standard output
	os.Exit(m.Run())
}

func inMemory(t testing.TB, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	lim, err := headgate.New(memstore.New(memstore.Config{}), limits...)
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

// engine has one handler behind middleware.
func engine(handler gin.HandlerFunc, middleware ...gin.HandlerFunc) *gin.Engine {
	e := gin.New()
	e.Use(middleware...)
	e.Any("/*path", handler)
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
		g.Cost = func(x *gin.Context) int64 { return c.Cost(x.Request) }
	}
	if c.Skip != nil {
		g.Skip = func(x *gin.Context) bool { return c.Skip(x.Request) }
	}
	if c.Plan != nil {
		g.Plan = func(x *gin.Context) string { return c.Plan(x.Request) }
	}
	if c.OnLimited != nil {
		g.OnLimited = func(x *gin.Context, d headgate.Decision) { c.OnLimited(x.Writer, x.Request, d) }
	}
	if c.OnError != nil {
		g.OnError = func(x *gin.Context, err error) { c.OnError(x.Request, err) }
	}
	return g
}

func TestSuite(t *testing.T) {
	mount := func(middleware gin.HandlerFunc, next http.Handler) http.Handler {
		return engine(func(c *gin.Context) { next.ServeHTTP(c.Writer, c.Request) }, middleware)
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

// logger is gin's, telling of each request in a word.
func logger(out *strings.Builder) gin.HandlerFunc {
	return gin.LoggerWithConfig(gin.LoggerConfig{Output: out, Formatter: func(p gin.LogFormatterParams) string {
		return fmt.Sprintf("%d/%d ", p.StatusCode, p.BodySize)
	}})
}

// However handlers answer, client and loggers see what they would without us.
func TestAnswersAreTheSame(t *testing.T) {
	plain := func(next http.Handler) http.Handler { return next }
	for name, handler := range map[string]gin.HandlerFunc{
		"text":            func(c *gin.Context) { c.String(201, "hello") },
		"JSON":            func(c *gin.Context) { c.JSON(200, gin.H{"a": 1}) },
		"status alone":    func(c *gin.Context) { c.Status(202) },
		"no content":      func(c *gin.Context) { c.AbortWithStatus(204) },
		"nothing":         func(*gin.Context) {},
		"abort":           func(c *gin.Context) { c.AbortWithStatusJSON(403, gin.H{"error": "no"}) },
		"not found":       func(c *gin.Context) { c.Status(404) },
		"not found now":   func(c *gin.Context) { c.AbortWithStatus(404) },
		"redirect":        func(c *gin.Context) { c.Redirect(302, "/there") },
		"many writes":     func(c *gin.Context) { c.Writer.WriteString("a"); c.Writer.Write([]byte("b")); c.Writer.Flush() },
		"flush first":     func(c *gin.Context) { c.Status(206); c.Writer.Flush(); c.Writer.WriteString("late") },
		"status too late": func(c *gin.Context) { c.Writer.WriteString("a"); c.Status(500) },
		"file":            func(c *gin.Context) { c.File("ginlimit.go") },
		"stream":          func(c *gin.Context) { c.Stream(func(w io.Writer) bool { io.WriteString(w, "s"); return false }) },
		"panic":           func(*gin.Context) { panic("handler") },
		"panic late":      func(c *gin.Context) { c.Writer.WriteString("a"); panic("handler") },
	} {
		t.Run(name, func(t *testing.T) {
			for _, route := range []string{"route", "no route"} {
				answer := func(middleware ...gin.HandlerFunc) string {
					var log strings.Builder
					e := gin.New()
					e.Use(logger(&log), gin.RecoveryWithWriter(io.Discard))
					e.Use(middleware...)
					e.Use(logger(&log))
					if route == "route" {
						e.GET("/", handler)
					} else {
						e.NoRoute(handler)
					}
					w := serve(e, request("/"))
					for name := range w.Header() {
						if strings.HasPrefix(name, "Ratelimit") {
							w.Header().Del(name)
						}
					}
					return fmt.Sprintf("%d %v %q log %s", w.Code, w.Header(), w.Body, &log)
				}
				lim := inMemory(t, headgate.InFlight(1, time.Hour))
				want := answer()
				for name, m := range map[string]gin.HandlerFunc{
					"New":                  New(lim, Config{}),
					"Wrap":                 Wrap(plain),
					"Wrap with a writer":   Wrap(watch(nil)),
					"Wrap with two":        Wrap(func(h http.Handler) http.Handler { return watch(nil)(watch(nil)(h)) }),
					"Wrap of a limit":      Wrap(httplimit.New(lim, httplimit.Config{})),
					"New, which was freed": New(lim, Config{}),
				} {
					if got := answer(m); got != want {
						t.Errorf("%s, %s:\ngot  %s\nwant %s", name, route, got, want)
					}
				}
			}
		})
	}
}

// What middleware with a writer of its own is told of.
func TestWrapTellsTheAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		handler gin.HandlerFunc
		want    string
	}{
		"text":         {func(c *gin.Context) { c.String(201, "hello") }, "201/5"},
		"status alone": {func(c *gin.Context) { c.Status(202) }, "202/0"},
		"nothing":      {func(*gin.Context) {}, "200/0"},
		"abort":        {func(c *gin.Context) { c.AbortWithStatus(403) }, "403/0"},
	} {
		got := ""
		e := engine(tt.handler, Wrap(watch(func(status, size int) { got = fmt.Sprintf("%d/%d", status, size) })))
		serve(e, request("/"))
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
	got := 0
	e := gin.New()
	e.Use(Wrap(watch(func(status, _ int) { got = status })))
	if w := serve(e, request("/")); got != 404 || w.Code != 404 || w.Body.String() != "404 page not found" {
		t.Errorf("no route: told %d, answered %d %q", got, w.Code, w.Body)
	}
}

func TestRefusedIsAborted(t *testing.T) {
	for name, limit := range map[string]func(*headgate.Limiter) gin.HandlerFunc{
		"New":  func(lim *headgate.Limiter) gin.HandlerFunc { return New(lim, Config{}) },
		"Wrap": func(lim *headgate.Limiter) gin.HandlerFunc { return Wrap(httplimit.New(lim, httplimit.Config{})) },
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			var aborted []bool
			ran := 0
			after := func(c *gin.Context) {
				c.Next()
				aborted = append(aborted, c.IsAborted())
			}
			e := engine(func(c *gin.Context) { ran++; c.String(200, "hello") }, logger(&log), after, limit(inMemory(t, headgate.PerHour(1))), func(c *gin.Context) { ran += 10 })
			serve(e, request("/"))
			w := serve(e, request("/"))
			if want := fmt.Sprintf("200/5 429/%d ", w.Body.Len()); w.Code != 429 || w.Body.Len() == 0 || log.String() != want {
				t.Errorf("got %d and log %q, want 429 and %q", w.Code, &log, want)
			}
			if ran != 11 || len(aborted) != 2 || aborted[0] || !aborted[1] {
				t.Errorf("handlers ran %d, aborted %v", ran, aborted)
			}
		})
	}
}

// The functions of Config see the context, with what gin and other middleware put there.
func TestFunctionsSeeTheContext(t *testing.T) {
	seen := map[string]string{}
	note := func(name string, c *gin.Context) {
		seen[name] = c.FullPath() + " " + c.Param("id") + " " + c.GetString("user")
	}
	lim := inMemory(t, headgate.PerHour(1).WithName("rate"))
	failing := errors.New("no database")
	var told error
	cfg := Config{
		Key: func(c *gin.Context) (string, error) {
			note("Key", c)
			if c.Param("id") == "broken" {
				return "", failing
			}
			return c.GetString("user"), nil
		},
		Cost: func(c *gin.Context) int64 { note("Cost", c); return 1 },
		Skip: func(c *gin.Context) bool { note("Skip", c); return false },
		Plan: func(c *gin.Context) string { note("Plan", c); return "" },
		OnLimited: func(c *gin.Context, d headgate.Decision) {
			note("OnLimited", c)
			c.JSON(418, gin.H{"limited": d.Reason.String()})
		},
		OnError: func(c *gin.Context, err error) { note("OnError", c); told = err },
	}
	e := gin.New()
	e.Use(func(c *gin.Context) { c.Set("user", "alice") })
	e.GET("/items/:id", New(lim, cfg), func(c *gin.Context) { c.String(200, "hello") })
	if w := serve(e, request("/items/7")); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := serve(e, request("/items/7")); w.Code != 418 || w.Body.String() != `{"limited":"rate_limited"}` || w.Header().Get("Retry-After") != "3600" {
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

// gin believes X-Forwarded-For of everybody, we do not.
func TestSpoofedAddress(t *testing.T) {
	ginSaw := map[string]bool{}
	e := engine(func(*gin.Context) {}, func(c *gin.Context) { ginSaw[c.ClientIP()] = true }, New(inMemory(t, headgate.PerHour(1)), Config{}))
	var codes []int
	for i := range 3 {
		codes = append(codes, serve(e, request("/", "X-Forwarded-For: 198.51.100."+strconv.Itoa(i))).Code)
	}
	if fmt.Sprint(codes) != "[200 429 429]" || len(ginSaw) != 3 {
		t.Errorf("got %v, while gin saw %v", codes, ginSaw)
	}
}

// Requests at one time, and within each other, each find their own context.
func TestContextsAreNotMixed(t *testing.T) {
	var e *gin.Engine
	var ran atomic.Int64
	key := func(c *gin.Context) (string, error) { return c.Query("k"), nil }
	handler := func(c *gin.Context) {
		ran.Add(1)
		if k := c.Query("k"); !strings.HasSuffix(k, "i") {
			if w := serve(e, request("/?k="+k+"i")); w.Code != 200 || w.Body.String() != k+"i" {
				t.Errorf("inside of %s: got %d %s", k, w.Code, w.Body)
			}
		}
		c.String(200, c.Query("k"))
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
	e := engine(func(c *gin.Context) { inside = c.Request.Context().Value(ctxKey{}) }, func(c *gin.Context) {
		c.Next()
		outside = c.Request.Context().Value(ctxKey{})
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
		if got := recover(); got != "ginlimit: the middleware has replaced the request's context" {
			t.Errorf("recovered %v", got)
		}
	}()
	serve(engine(func(*gin.Context) {}, m), request("/"))
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
	allocs := func(middleware ...gin.HandlerFunc) float64 {
		e, w, r := engine(func(*gin.Context) { ran++ }, middleware...), &sink{http.Header{}}, request("/")
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
		middleware []gin.HandlerFunc
	}{
		{"bare", nil},
		{"New", []gin.HandlerFunc{New(lim, Config{})}},
		{"Wrap", []gin.HandlerFunc{Wrap(httplimit.New(lim, httplimit.Config{}))}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			ran, calls := 0, 0
			e, w, r := engine(func(*gin.Context) { ran++ }, bm.middleware...), &sink{http.Header{}}, request("/")
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
