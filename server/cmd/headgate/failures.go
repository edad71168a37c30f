package main

import (
	"net/http"
	"strings"
	"sync"

	"github.com/headgate/headgate/server/front/problem"
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

// failure remembers the problem that it carries.
type failure struct {
	http.ResponseWriter
	problem string
}

var _ problem.Noter = (*failure)(nil)

// NoteProblem leaves out the refusal of a client, which is a problem too, towards
// it: it says for which reason it was decided.
func (f *failure) NoteProblem(name string) {
	if f.Header().Get("Headgate-Reason") == "" {
		f.problem = name
	}
}

// WriteHeader passes status on.
func (f *failure) WriteHeader(status int) {
	if status == http.StatusRequestEntityTooLarge {
		f.Header().Set("Connection", "close") // net/http's own way to do so does not see through f
	}
	f.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (f *failure) Unwrap() http.ResponseWriter { return f.ResponseWriter }
