package main

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
)

// countFailures counts the requests that next answers with a problem instead of a
// decision.
func (h *house) countFailures(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := failures.Get().(*failure)
		f.ResponseWriter = w
		next.ServeHTTP(f, r)
		if f.problem != "" {
			h.metrics.Failed(h.doorOf(r.URL.Path), f.problem)
		}
		*f = failure{}
		failures.Put(f)
	})
}

// doorOf names the door by the path, as several share one listener.
func (h *house) doorOf(path string) string {
	if strings.HasPrefix(path, "/v1/forward-auth/") {
		return "forward_auth"
	}
	if h.admin[path] != nil {
		return "admin"
	}
	return "http"
}

var failures = sync.Pool{New: func() any { return new(failure) }}

// failure reads the name of a problem as it is written.
type failure struct {
	http.ResponseWriter
	failed  bool
	problem string
}

// problemStart is how package problem begins every document.
var problemStart = []byte(`{"type":"urn:headgate:problem:`)

// WriteHeader remembers whether a problem follows. The refusal of a client is
// one too, towards it: it says for which reason it was decided.
func (f *failure) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		h := f.Header()
		f.failed = h.Get("Content-Type") == "application/problem+json" && h.Get("Headgate-Reason") == ""
		if status == http.StatusRequestEntityTooLarge {
			h.Set("Connection", "close") // net/http's own way to do so does not see through f
		}
	}
	f.ResponseWriter.WriteHeader(status)
}

// Write passes b on.
func (f *failure) Write(b []byte) (int, error) {
	if f.failed {
		f.failed = false
		if rest, ok := bytes.CutPrefix(b, problemStart); ok {
			name, _, _ := bytes.Cut(rest, []byte{'"'})
			f.problem = string(name)
		}
	}
	return f.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (f *failure) Unwrap() http.ResponseWriter { return f.ResponseWriter }
