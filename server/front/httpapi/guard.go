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

// handler answers a request of c's caller.
type handler func(d *door, c *call, w http.ResponseWriter, r *http.Request)

// admitted lets only requests through of those who may ask.
func (d *door) admitted(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := calls.Get().(*call)
		defer c.free()
		var p *problem.Problem
		if c.caller, p = d.Admit(w.Header(), r); p != nil {
			p.ServeHTTP(w, r)
			return
		}
		h(d, c, w, r)
	}
}

// notEverywhere refuses callers that are for some applications: the keys of
// /v1/throttle are everybody's.
var notEverywhere = &problem.Problem{
	Name: "forbidden", Status: http.StatusForbidden,
	Detail: "the keys of this route belong to no application, and this token is not for all of them",
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
