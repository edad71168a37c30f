package admin

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// handler answers a request of somebody.
type handler func(w http.ResponseWriter, r *http.Request, who *access.Identity)

// methods are those that a route has, and what they need.
type methods map[string]records.Scope

// protect lets only requests through that have one of the methods and a token with its
// scope, and are not from a web page of somebody else.
func (a *api) protect(h handler, allowed methods) http.Handler {
	names := strings.Join(slices.Sorted(maps.Keys(allowed)), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, ok := allowed[r.Method]
		p := problem.Foreign(r)
		var who *access.Identity
		switch {
		case p != nil:
		case !ok:
			w.Header().Set("Allow", names)
			p = &problem.Problem{
				Name: "method_not_allowed", Status: http.StatusMethodNotAllowed,
				Detail: fmt.Sprintf("method %.64q is not allowed here: use %s", r.Method, names),
			}
		default:
			if who, p = a.Guard.Identify(w.Header(), r); p == nil && !who.May(scope) {
				p = access.Forbidden(scope)
			}
		}
		if p != nil {
			p.ServeHTTP(w, r)
			return
		}
		h(w, r, who)
	})
}

// outside is the problem of an application that a token is not for: as if it were not
// there. It is nil where it is; "" stands for all applications.
func outside(who *access.Identity, application string) *problem.Problem {
	switch {
	case who.Everywhere() || application != "" && who.Reaches(application):
		return nil
	case application == "":
		return problem.BadRequest("application", "this token is not for all applications: name one")
	default:
		return problem.Of(unknownApplication(application))
	}
}

func unknownApplication(name string) error {
	return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%.64q is not in the policy", name)}
}
