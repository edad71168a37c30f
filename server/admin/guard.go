package admin

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
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
			who, p = a.Guard.Identify(w.Header(), r)
			if p == nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
				s := &statusWriter{ResponseWriter: w}
				defer func() { a.refused(r, who, s.status) }()
				w = s
			}
			if p == nil && !who.May(scope) {
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

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers the first status.
func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// refusals are the answers to changes that stand in the audit log too.
var refusals = map[int]string{
	http.StatusForbidden:          "the token does not permit it",
	http.StatusConflict:           "something stands in the way",
	http.StatusPreconditionFailed: "somebody else was faster",
}

// refused writes into the audit log that a change was refused to somebody, up to some ten
// a minute for each token: who may change nothing shall not be able to fill a disk.
func (a *api) refused(r *http.Request, who *access.Identity, status int) {
	why := refusals[status]
	if why == "" || a.Records == nil {
		return
	}
	if d, err := a.Guard.Failures.Take(r.Context(), "audit of "+who.ID, 1); err != nil || !d.Allowed {
		return
	}
	e := entry(r, who, strings.ToLower(r.Method))
	e.Application, e.Target, e.Refused = keepable(r.PathValue("application"), 64), keepable(r.URL.Path, 200), why
	e.Subject = keepable(r.URL.Query().Get("subject"), gate.MaxSubject)
	if err := a.Records.Audit(context.WithoutCancel(r.Context()), e); err != nil {
		a.Logger.Error("a refusal is not in the audit log", "error", err)
	}
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

// keepable is what of a text a database takes, at most so many bytes of it.
func keepable(s string, most int) string {
	s = strings.ReplaceAll(s[:min(len(s), most)], "\x00", "\uFFFD")
	return strings.ToValidUTF8(s, "\uFFFD")
}
