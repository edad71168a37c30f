package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// Require is Identify for what needs a scope.
func (g *Guard) Require(scope records.Scope, answer http.Header, r *http.Request) (*Identity, *problem.Problem) {
	i, p := g.Identify(answer, r)
	return i.having(scope, p)
}

// RequireField is Require for requests that carry the Authorization of somebody else, as
// those of proxies do: it is not looked at. The token is the value of another field, whose
// name is in canonical form.
func (g *Guard) RequireField(scope records.Scope, field string, answer http.Header, r *http.Request) (*Identity, *problem.Problem) {
	i, p := g.identifyField(field, answer, r)
	return i.having(scope, p)
}

// Errors of [Guard.Login], beside [TooMany].
var (
	ErrToken = errors.New(notKnown)
	ErrScope = errors.New("this token lacks the scope decide, which this door asks for")
)

// Login finds whose token somebody shows at a door that does not speak HTTP, and
// whether it has a scope. peer is the address of the connection, door what the log calls
// the place.
func (g *Guard) Login(ctx context.Context, scope records.Scope, peer, door, token string) (*Identity, error) {
	i := g.Find(token)
	if i == nil {
		if err := g.failed(ctx, peer, door); err != nil {
			return nil, err
		}
		return nil, ErrToken
	}
	if !i.May(scope) {
		return nil, ErrScope
	}
	return i, nil
}

// Ours reports whether a token is one of this server, or looks like one.
func (g *Guard) Ours(token string) bool {
	return strings.HasPrefix(token, prefix) || g.Find(token) != nil
}

// Shown returns what a request shows as Authorization: Bearer; "" for nothing.
func Shown(r *http.Request) string {
	lines := r.Header["Authorization"]
	if len(lines) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// having refuses who lacks a scope, unless there is a problem already.
func (i *Identity) having(scope records.Scope, p *problem.Problem) (*Identity, *problem.Problem) {
	if p == nil && !i.May(scope) {
		i, p = nil, Forbidden(scope)
	}
	return i, p
}

func (g *Guard) identifyField(field string, answer http.Header, r *http.Request) (*Identity, *problem.Problem) {
	lines := r.Header[field]
	if len(lines) == 1 {
		if i := g.Find(lines[0]); i != nil {
			return i, nil
		}
	}
	challenge := field + ` realm="headgate"`
	detail := fmt.Sprintf("a token is needed: send one in %s", field)
	switch {
	case len(lines) > 1:
		detail = fmt.Sprintf("%s is there twice: the proxy must replace what clients send", field)
	case len(lines) == 1 && lines[0] != "":
		if p := g.wrong(answer, r); p != nil {
			return nil, p
		}
		challenge += `, error="invalid_token"`
		detail = notKnown
	}
	answer.Set("WWW-Authenticate", challenge)
	return nil, unauthorized(detail)
}

// Allow sets the networks whose requests [Guard.Allowed] knows, instead of those before.
// They are IPv4 where they can be: ::ffff:10.0.0.0/104 is nobody's.
func (g *Guard) Allow(networks []netip.Prefix) { g.allowed.Store(new(slices.Clone(networks))) }

// Allowed reports whether a peer, HOST:PORT, is in one of the networks of [Guard.Allow].
// One on a unix socket is 127.0.0.1.
func (g *Guard) Allowed(peer string) bool {
	networks := *g.allowed.Load()
	if len(networks) == 0 {
		return false
	}
	addr, err := clientip.ParsePeer(peer)
	return err == nil && slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}
