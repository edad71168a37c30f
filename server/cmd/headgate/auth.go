package main

import (
	"net"
	"net/http"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/forwardauth"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// The values of --decision-auth; "" is open where only this machine can ask.
const (
	authOpen  = "open"
	authToken = "token"
)

// wantsTokens is whether decisions at a door need a token.
func (s *settings) wantsTokens(door net.Addr) bool {
	return s.auth == authToken || s.auth == "" && !onThisMachine(door)
}

// admission is that of a listener.
func (h *house) admission(l net.Listener) admission {
	return admission{guard: h.guard, open: !h.settings.wantsTokens(l.Addr())}
}

// admittedTo lets callers of decisions through to a handler, which finds them by
// [front.Of].
func (h *house) admittedTo(a admission, next http.Handler) http.Handler {
	admit := a.decisions()
	if admit == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, p := admit(w.Header(), r)
		if p != nil {
			p.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r.WithContext(front.With(r.Context(), c)))
	})
}

// admission says who may ask for decisions, and read what the server shows of itself.
// The zero value lets everybody.
type admission struct {
	guard *access.Guard // nil where nobody knows tokens
	open  bool          // everybody may ask
}

// free reports whether a peer needs no token: everybody may ask, or those of
// auth.allow_from.
func (a admission) free(peer string) bool { return a.guard == nil || a.open || a.guard.Allowed(peer) }

// decisions is what the decision API asks: a token with the scope decide, of those who are
// not free to ask. One of ours counts also where none is needed: it may reach less, or
// permit more. What else clients send as Authorization is somebody else's then.
func (a admission) decisions() func(http.Header, *http.Request) (front.Caller, *problem.Problem) {
	if a.guard == nil {
		return nil
	}
	return func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem) {
		if token := access.Shown(r); (token == "" || !a.guard.Ours(token)) && a.free(r.RemoteAddr) {
			return front.Anybody{}, nil
		}
		return a.guard.Require(records.Decide, answer, r)
	}
}

// proxies is what forward-auth asks: an address of auth.allow_from, or a token with the
// scope decide in a field of its own.
func (a admission) proxies() func(http.Header, *http.Request) (front.Caller, *problem.Problem) {
	if a.guard == nil || a.open {
		return nil
	}
	return func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem) {
		if a.guard.Allowed(r.RemoteAddr) {
			return front.Anybody{}, nil
		}
		return a.guard.RequireField(records.Decide, forwardauth.TokenField, answer, r)
	}
}

// metrics lets only requests through from addresses of auth.allow_from, or with a token
// that may read everything: the labels name all applications.
func (a admission) metrics(h http.Handler) http.Handler {
	if a.guard == nil || a.open {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.guard.Allowed(r.RemoteAddr) {
			h.ServeHTTP(w, r)
			return
		}
		who, p := a.guard.Require(records.Read, w.Header(), r)
		if p == nil && !who.Everywhere() {
			p = &problem.Problem{Name: "forbidden", Status: http.StatusForbidden, Detail: "metrics are of all applications, and this token is not for all of them"}
		}
		if p != nil {
			p.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}
