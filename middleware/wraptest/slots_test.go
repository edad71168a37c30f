package wraptest

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/labstack/echo/v5"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/internal/limittest"
	"github.com/headgate/headgate/middleware/echolimit"
	"github.com/headgate/headgate/middleware/ginlimit"
	"github.com/headgate/headgate/store/memstore"
)

// chains put a handler behind a gate, and answer through the writer of each framework.
var chains = map[string]func(limit func(http.Handler) http.Handler, h http.HandlerFunc) http.Handler{
	"net/http": func(limit func(http.Handler) http.Handler, h http.HandlerFunc) http.Handler { return limit(h) },
	"gin": func(limit func(http.Handler) http.Handler, h http.HandlerFunc) http.Handler {
		e := gin.New()
		e.Use(ginlimit.Wrap(limit))
		e.Any("/*path", func(c *gin.Context) { h(c.Writer, c.Request) })
		return e
	},
	"echo": func(limit func(http.Handler) http.Handler, h http.HandlerFunc) http.Handler {
		e := echo.New()
		e.Logger = slog.New(slog.DiscardHandler)
		e.Use(echolimit.Wrap(limit))
		e.Any("/*", func(c *echo.Context) error { h(c.Response(), c.Request()); return nil })
		return e
	},
}

// TestSlotsAndConnections: however a handler treats its connection, its slot is free when
// it has ended, the gate is told of its end, and what it wants of the connection it gets.
func TestSlotsAndConnections(t *testing.T) {
	hijack := func(w http.ResponseWriter) error {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return err
		}
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n")
		return errors.Join(err, conn.Close())
	}
	for _, tt := range []struct {
		name    string
		handler func(http.ResponseWriter) error
		status  int
	}{
		{"panics at once", func(http.ResponseWriter) error { panic(http.ErrAbortHandler) }, 500},
		{"panics within a body", func(w http.ResponseWriter) error {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 200},
		{"asks the controller", func(w http.ResponseWriter) error {
			c, later := http.NewResponseController(w), time.Now().Add(time.Minute)
			return errors.Join(c.EnableFullDuplex(), c.SetReadDeadline(later), c.SetWriteDeadline(later), c.Flush())
		}, 200},
		{"hijacks", hijack, 101},
		{"hijacks and panics", func(w http.ResponseWriter) error { hijack(w); panic(http.ErrAbortHandler) }, 101},
		{"ends its goroutine", func(http.ResponseWriter) error { runtime.Goexit(); return nil }, 500},
	} {
		for framework, chain := range chains {
			t.Run(tt.name+"/"+framework, func(t *testing.T) {
				g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
				if err != nil {
					t.Fatal(err)
				}
				defer g.Close()
				var told []int
				limited := chain(httpgate.New(g, httpgate.Config{
					Ended: func(_ *http.Request, _ httpgate.Passed, status int, _ time.Duration) { told = append(told, status) },
				}), func(w http.ResponseWriter, _ *http.Request) {
					if err := tt.handler(w); err != nil {
						t.Error(err)
					}
				})
				limittest.InTurn(t, 2, limited, func(i int) { // the second one needs the slot of the first
					if len(told) != i+1 || told[i] != tt.status {
						t.Fatalf("told of %v, want %d", told, tt.status)
					}
				})
			})
		}
	}
}
