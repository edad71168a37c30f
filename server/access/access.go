// Package access says who may do what: it knows tokens by their digests, and bounds how
// often a client may show wrong ones.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// Identity is who has shown a token.
type Identity struct {
	// ID is that of the token on record, or [Bootstrap].
	ID, Name string

	scopes       []records.Scope
	applications []string // nil for all
	expires      time.Time
}

// Bootstrap is the ID of the token that the server was started with.
const Bootstrap = "bootstrap"

// May reports whether the scopes of the token include one. All but [records.Decide]
// include [records.Read], and [records.Admin] all of them.
func (i *Identity) May(scope records.Scope) bool {
	for _, s := range i.scopes {
		if s == scope || s == records.Admin || s == records.Operate && scope == records.Read {
			return true
		}
	}
	return false
}

// Reaches reports whether the token is for an application.
func (i *Identity) Reaches(application string) bool {
	return i.applications == nil || slices.Contains(i.applications, application)
}

// Everywhere reports whether the token is for all applications.
func (i *Identity) Everywhere() bool { return i.applications == nil }

// Operates reports whether the token's scopes include [records.Operate].
func (i *Identity) Operates() bool { return i.May(records.Operate) }

// prefix is what the tokens that we make begin with.
const prefix = "hgt_"

// NewToken makes a token that nobody can guess, its id, and what is kept of it.
func NewToken() (token, id string, digest [32]byte) {
	secret, name := make([]byte, 32), make([]byte, 10)
	rand.Read(secret) // never fails
	rand.Read(name)
	token = prefix + base64.RawURLEncoding.EncodeToString(secret)
	return token, strings.ToLower(base32.StdEncoding.EncodeToString(name)), sha256.Sum256([]byte(token))
}

// Config is what a guard works with. Failures is required.
type Config struct {
	// Token is one that may do everything, "" for none.
	Token string
	// Failures bounds wrong tokens, by client address.
	Failures *headgate.Limiter
	// Logger takes wrong tokens; nil discards them.
	Logger *slog.Logger
}

// Guard knows tokens. It is safe for concurrent use.
type Guard struct {
	Config
	bootstrap *Identity
	digest    [sha256.Size]byte

	mu      sync.Mutex // of who learns
	known   atomic.Pointer[map[[sha256.Size]byte]*Identity]
	allowed atomic.Pointer[[]netip.Prefix]
}

// New returns a guard that knows c.Token alone. Panics without Failures.
func New(c Config) *Guard {
	if c.Failures == nil {
		panic("access: Config without Failures")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{Config: c}
	if c.Token != "" {
		g.bootstrap = &Identity{ID: Bootstrap, Name: Bootstrap, scopes: []records.Scope{records.Admin}}
		g.digest = sha256.Sum256([]byte(c.Token))
	}
	g.known.Store(new(map[[sha256.Size]byte]*Identity))
	g.allowed.Store(new([]netip.Prefix))
	return g
}

// Learn takes tokens that are new or have changed; whole says that there are no others.
func (g *Guard) Learn(list []records.Token, whole bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := make(map[[sha256.Size]byte]*Identity)
	if !whole {
		maps.Copy(next, *g.known.Load())
	}
	for i := range list {
		t := &list[i]
		if !t.Revoked.IsZero() {
			delete(next, t.Digest)
			continue
		}
		next[t.Digest] = &Identity{ID: t.ID, Name: t.Name, scopes: t.Scopes, applications: t.Applications, expires: t.Expires}
	}
	g.known.Store(&next)
}

// Find returns whose token it is; nil if it is nobody's, or has expired. What is
// compared are digests, so how long that takes tells nothing.
func (g *Guard) Find(token string) *Identity {
	var room [64]byte // which NewToken's fit in: they cost the collector nothing
	digest := sha256.Sum256(append(room[:0], token...))
	if g.bootstrap != nil && subtle.ConstantTimeCompare(digest[:], g.digest[:]) == 1 {
		return g.bootstrap
	}
	i := (*g.known.Load())[digest]
	if i == nil || !i.expires.IsZero() && !time.Now().Before(i.expires) {
		return nil
	}
	return i
}

// Identify finds who sends a request, by Authorization: Bearer. A right token passes also
// from an address that has sent too many wrong ones: nobody shall be able to lock the
// operator out, and a token is too long to be found by trying. answer gets the header
// fields of the problem.
func (g *Guard) Identify(answer http.Header, r *http.Request) (*Identity, *problem.Problem) {
	const realm = `Bearer realm="headgate"`
	if len(r.Header["Authorization"]) == 0 {
		answer.Set("WWW-Authenticate", realm)
		return nil, unauthorized("a token is needed: send Authorization: Bearer with one that headgate token create has made, or with what is in the server's DATA/admin-token")
	}
	if token := Shown(r); token != "" {
		if i := g.Find(token); i != nil {
			return i, nil
		}
	}
	if p := g.wrong(answer, r); p != nil {
		return nil, p
	}
	answer.Set("WWW-Authenticate", realm+`, error="invalid_token"`)
	return nil, unauthorized(notKnown)
}

const notKnown = "this token is not known, or is not valid any more"

// wrong counts a wrong token. It returns a problem where there were too many.
func (g *Guard) wrong(answer http.Header, r *http.Request) *problem.Problem {
	err := g.failed(r.Context(), r.RemoteAddr, r.URL.Path)
	if err == nil {
		return nil
	}
	answer.Set("Retry-After", strconv.FormatInt(err.seconds(), 10))
	return &problem.Problem{Name: "rate_limited", Status: http.StatusTooManyRequests, Detail: err.Error()}
}

// TooMany is the error for wrong tokens beyond the bound.
type TooMany struct {
	// After is when the next one is looked at.
	After time.Duration
}

// Error says when to come back.
func (e *TooMany) Error() string {
	return fmt.Sprintf("too many wrong tokens from here; try again in %d s", e.seconds())
}

// seconds rounds up, to at least 1.
func (e *TooMany) seconds() int64 { return int64(max((e.After+time.Second-1)/time.Second, 1)) }

// failed counts a wrong token of a peer; what is what it was to open.
func (g *Guard) failed(ctx context.Context, peer, what string) *TooMany {
	client := clientOf(peer)
	d, err := g.Failures.Take(ctx, client, 1)
	if err == nil && d.Allowed {
		g.Logger.Warn("wrong token", "client", client, "path", what)
		return nil
	}
	return &TooMany{d.RetryAfter}
}

func unauthorized(detail string) *problem.Problem {
	return &problem.Problem{Name: "unauthorized", Status: http.StatusUnauthorized, Detail: detail}
}

// Forbidden is the problem of a token that lacks a scope.
func Forbidden(scope records.Scope) *problem.Problem {
	return &problem.Problem{Name: "forbidden", Status: http.StatusForbidden, Detail: fmt.Sprintf("this token lacks the scope %s", scope)}
}

// Peer is by what a client is known whose connection is from HOST:PORT.
func Peer(peer string) string { return clientOf(peer) }

// Address is by what a client is known: that of the connection, an IPv6 one by its /64.
// What proxies say of their clients is not believed here.
func Address(r *http.Request) string { return clientOf(r.RemoteAddr) }

func clientOf(peer string) string {
	ip, err := clientip.ParsePeer(peer)
	if err != nil {
		return "unknown"
	}
	return string(clientip.AppendKey(nil, ip))
}
