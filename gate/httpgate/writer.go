package httpgate

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// writer is the response that a handler writes: it sees to it that our fields go out as
// they were set, and notes the status. There is a new one for each request, as a handler
// that uses it after its end must not meet another request.
type writer struct {
	http.ResponseWriter
	own    own
	status int // 0 before the header is written
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin is called before anything is written that makes status the answer's, if it has
// none yet.
func (w *writer) begin(status int) {
	if w.status != 0 {
		return
	}
	w.own.restore(w.Header())
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		w.status = status
	}
}

// WriteHeader is that of http.ResponseWriter, as are the others.
func (w *writer) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// WriteString copies no string where the server need not.
func (w *writer) WriteString(s string) (int, error) {
	w.begin(http.StatusOK)
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom lets the server send files without reading them.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	return io.Copy(w.ResponseWriter, r)
}

// Flush is for handlers that look for http.Flusher, FlushError for the controller.
func (w *writer) Flush() { _ = w.FlushError() }

func (w *writer) FlushError() error {
	w.begin(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack is for handlers that look for http.Hijacker.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// yield lets a handler that is a gate of its own decide about the fields that hold one
// value: its decision came later. w is what it writes to.
func yield(w http.ResponseWriter) {
	for {
		if outer, ok := w.(*writer); ok {
			clear(outer.own[ownLists:])
			return
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}
