package wraptest

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/middleware/echolimit"
	"github.com/headgate/headgate/middleware/ginlimit"
	"github.com/headgate/headgate/store/memstore"
)

const policy = `
version: 1
applications:
  default:
    identity: [ip]
    rules:
      - {name: api, match: {path: "/api/{rest...}"}, limits: [{name: burst, rate: 1/h}]}
      - {name: slots, match: {path: "/slots/{rest...}"}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 1h}]}
`

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode) // less on standard output
	os.Exit(m.Run())
}

// frameworks build a server of each with a gate in its chain. Its handlers are at
// /api/text, which answers 201, /slots/nested, which calls inner while it runs,
// /slots/panic, /slots/error, which fails in the framework's way with 403, and
// /slots/flush, which flushes; there is nothing else. seen is told each status that the
// framework knows.
var frameworks = map[string]func(limit func(http.Handler) http.Handler, inner func(), seen func(int)) http.Handler{
	"gin": func(limit func(http.Handler) http.Handler, inner func(), seen func(int)) http.Handler {
		e := gin.New()
		e.Use(func(c *gin.Context) { c.Next(); seen(c.Writer.Status()) }, gin.RecoveryWithWriter(io.Discard), ginlimit.Wrap(limit))
		e.GET("/api/text", func(c *gin.Context) { c.String(201, "hello") })
		e.GET("/slots/nested", func(c *gin.Context) { inner(); c.Status(204) })
		e.GET("/slots/panic", func(*gin.Context) { panic("handler") })
		e.GET("/slots/error", func(c *gin.Context) { c.AbortWithError(403, errors.New("no")) })
		e.GET("/slots/flush", func(c *gin.Context) { c.Writer.WriteString("a"); c.Writer.Flush() })
		return e
	},
	"echo": func(limit func(http.Handler) http.Handler, inner func(), seen func(int)) http.Handler {
		e := echo.New()
		e.Logger = slog.New(slog.DiscardHandler)
		e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c *echo.Context) error {
				err := next(c)
				if err != nil {
					c.Echo().HTTPErrorHandler(c, err)
				}
				resp, _ := echo.UnwrapResponse(c.Response())
				seen(resp.Status)
				return err
			}
		}, middleware.Recover(), echolimit.Wrap(limit))
		e.GET("/api/text", func(c *echo.Context) error { return c.String(201, "hello") })
		e.GET("/slots/nested", func(c *echo.Context) error { inner(); return c.NoContent(204) })
		e.GET("/slots/panic", func(*echo.Context) error { panic("handler") })
		e.GET("/slots/error", func(*echo.Context) error { return echo.NewHTTPError(403, "no") })
		e.GET("/slots/flush", func(c *echo.Context) error {
			io.WriteString(c.Response(), "a")
			return http.NewResponseController(c.Response()).Flush()
		})
		return e
	},
}

func TestGateInAChain(t *testing.T) {
	for name, build := range frameworks {
		t.Run(name, func(t *testing.T) {
			g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			var ended, seen []int
			limit := httpgate.New(g, httpgate.Config{Ended: func(_ *http.Request, _ httpgate.Passed, status int, _ time.Duration) { ended = append(ended, status) }})
			var h http.Handler
			ask := func(path string) *httptest.ResponseRecorder {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				return w
			}
			h = build(limit, func() {
				if w := ask("/slots/nested"); w.Code != 429 || w.Header().Get("Headgate-Reason") != "concurrency_exceeded" {
					t.Errorf("beside a running one: got %d %v", w.Code, w.Header())
				}
			}, func(status int) { seen = append(seen, status) })
			var codes []int
			for _, path := range []string{"/api/text", "/api/text", "/slots/nested", "/slots/panic", "/slots/error", "/slots/flush", "/slots/nowhere", "/slots/nested"} {
				w := ask(path)
				codes = append(codes, w.Code)
				if w.Header().Get("Ratelimit") == "" {
					t.Errorf("%s: no RateLimit in %v", path, w.Header())
				}
				if path == "/api/text" && w.Code == 429 && (w.Header().Get("Retry-After") != "3600" || w.Body.Len() == 0) {
					t.Errorf("refused: got %v %s", w.Header(), w.Body)
				}
			}
			if want := []int{201, 429, 204, 500, 403, 200, 404, 204}; !slices.Equal(codes, want) {
				t.Errorf("answered %v, want %v", codes, want)
			}
			if want := []int{201, 429, 429, 204, 500, 403, 200, 404, 429, 204}; !slices.Equal(seen, want) {
				t.Errorf("the framework saw %v, want %v", seen, want)
			}
			if want := []int{201, 204, 500, 403, 200, 404, 204}; !slices.Equal(ended, want) {
				t.Errorf("the gate saw %v, want %v: %s", ended, want, fmt.Sprint(codes))
			}
		})
	}
}
