package ginlimit

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"
)

// Wrap returns net/http middleware as gin's. It is applied once, so what it keeps beside
// its handlers serves all requests. The handler that it is given is the rest of the gin
// chain, which sees the request and the writer that the middleware passes on; if it does
// not call that handler, the request is aborted.
//
// The middleware must call the handler before it returns, with a context made of the
// request's: http.TimeoutHandler cannot be used, as gin uses a context again once it was
// answered.
func Wrap(middleware func(http.Handler) http.Handler) gin.HandlerFunc {
	handler := middleware(http.HandlerFunc(goOn))
	return func(c *gin.Context) {
		rest := &rest{c: c}
		handler.ServeHTTP(c.Writer, c.Request.WithContext(context.WithValue(c.Request.Context(), restKey{}, rest)))
		if !rest.ran {
			c.Abort()
		}
	}
}

// rest is the rest of a chain, found in the context of its request.
type rest struct {
	c   *gin.Context
	ran bool
}

type restKey struct{}

// goOn runs the rest of the chain.
func goOn(w http.ResponseWriter, r *http.Request) {
	rest, ok := r.Context().Value(restKey{}).(*rest)
	if !ok {
		panic("ginlimit: the middleware has replaced the request's context")
	}
	rest.ran = true
	c := rest.c
	// What stands further up, Recovery for one, writes to its own writer again.
	defer func(r *http.Request, w gin.ResponseWriter) { c.Request, c.Writer = r, w }(c.Request, c.Writer)
	c.Request = r
	if own, ok := w.(gin.ResponseWriter); ok {
		c.Writer = own
		c.Next()
		return
	}
	wrapped := &writer{ResponseWriter: w, under: c.Writer, status: c.Writer.Status(), size: unwritten}
	c.Writer = wrapped
	c.Next()
	wrapped.tell()
}

// unwritten is the size of an answer of which nothing is written, as in gin.
const unwritten = -1

// writer is a gin.ResponseWriter over the writer of a middleware. As gin's own it notes
// the status and writes it with the first bytes.
type writer struct {
	http.ResponseWriter
	under        gin.ResponseWriter // that of the context, far below
	status, size int
}

// tell says the status to the middleware at the end of the chain. gin's own writer, far
// below, only notes it, so that gin can add its text for 404 still.
func (w *writer) tell() {
	if !w.Written() {
		w.ResponseWriter.WriteHeader(w.status)
	}
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements gin.ResponseWriter, as the others do.
func (w *writer) WriteHeader(status int) {
	if status > 0 && !w.Written() {
		w.status = status
	}
}

func (w *writer) WriteHeaderNow() {
	if !w.Written() {
		w.begin()
		_, _ = w.ResponseWriter.Write(nil) // down to gin's own, which else only notes the status
	}
}

func (w *writer) begin() {
	if !w.Written() {
		w.size = 0
		w.ResponseWriter.WriteHeader(w.status)
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.size += n
	return n, err
}

func (w *writer) WriteString(s string) (int, error) {
	w.begin()
	n, err := io.WriteString(w.ResponseWriter, s)
	w.size += n
	return n, err
}

func (w *writer) Status() int   { return w.status }
func (w *writer) Size() int     { return w.size }
func (w *writer) Written() bool { return w.size != unwritten }

func (w *writer) Flush() {
	w.begin()
	_ = http.NewResponseController(w.ResponseWriter).Flush() // as in gin, one that cannot does not
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.size > 0 {
		return nil, nil, errors.New("ginlimit: hijack after the body was begun")
	}
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.size = 0
	}
	return conn, rw, err
}

func (w *writer) CloseNotify() <-chan bool { return w.under.CloseNotify() }
func (w *writer) Pusher() http.Pusher      { return w.under.Pusher() }
