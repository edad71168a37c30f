package httpapi

import (
	"mime"
	"net/http"

	"github.com/headgate/headgate/server/front/problem"
)

// post lets only POST requests through that no browser was tricked into
// sending.
func post(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			notAllowed(w, r, "POST")
			return
		}
		if p := problem.Foreign(r); p != nil {
			p.ServeHTTP(w, r)
			return
		}
		h(w, r)
	})
}

// ReadOnly lets only GET and HEAD requests through.
func ReadOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			notAllowed(w, r, "GET, HEAD")
			return
		}
		h.ServeHTTP(w, r)
	})
}

func notAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	(&problem.Problem{
		Name: "method_not_allowed", Status: http.StatusMethodNotAllowed,
		Detail: "method " + r.Method + " is not allowed here: use " + allow,
	}).ServeHTTP(w, r)
}

func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}
