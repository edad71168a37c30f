// Package access says who may do what: it knows tokens by their digests, and bounds how
// often a client may show wrong ones.
package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
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

// NewToken makes a token that nobody can guess, its id, and what is kept of it.
func NewToken() (token, id string, digest [32]byte) {
	secret, name := make([]byte, 32), make([]byte, 10)
	rand.Read(secret) // never fails
	rand.Read(name)
	token = "hgt_" + base64.RawURLEncoding.EncodeToString(secret)
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

	mu    sync.Mutex // of who learns
	known atomic.Pointer[map[[sha256.Size]byte]*Identity]
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
	digest := sha256.Sum256([]byte(token))
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
	lines := r.Header["Authorization"]
	if len(lines) == 0 {
		answer.Set("WWW-Authenticate", realm)
		return nil, unauthorized("a token is needed: send Authorization: Bearer with one that headgate token create has made, or with what is in the server's DATA/admin-token")
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	if len(lines) == 1 && strings.EqualFold(scheme, "Bearer") {
		if i := g.Find(strings.TrimSpace(token)); i != nil {
			return i, nil
		}
	}
	if p := g.wrong(answer, r); p != nil {
		return nil, p
	}
	answer.Set("WWW-Authenticate", realm+`, error="invalid_token"`)
	return nil, unauthorized("this token is not known, or is not valid any more")
}

// wrong counts a wrong token. It returns a problem where there were too many.
func (g *Guard) wrong(answer http.Header, r *http.Request) *problem.Problem {
	client := Address(r)
	d, err := g.Failures.Take(r.Context(), client, 1)
	if err == nil && d.Allowed {
		g.Logger.Warn("wrong token", "client", client, "path", r.URL.Path)
		return nil
	}
	seconds := int64(max((d.RetryAfter+time.Second-1)/time.Second, 1))
	answer.Set("Retry-After", strconv.FormatInt(seconds, 10))
	return &problem.Problem{
		Name: "rate_limited", Status: http.StatusTooManyRequests,
		Detail: fmt.Sprintf("too many wrong tokens from here; try again in %d s", seconds),
	}
}

func unauthorized(detail string) *problem.Problem {
	return &problem.Problem{Name: "unauthorized", Status: http.StatusUnauthorized, Detail: detail}
}

// Forbidden is the problem of a token that lacks a scope.
func Forbidden(scope records.Scope) *problem.Problem {
	return &problem.Problem{Name: "forbidden", Status: http.StatusForbidden, Detail: fmt.Sprintf("this token lacks the scope %s", scope)}
}

// Address is by what a client is known: that of the connection, an IPv6 one by its /64.
// What proxies say of their clients is not believed here.
func Address(r *http.Request) string {
	ip, err := clientip.ParsePeer(r.RemoteAddr)
	if err != nil {
		return "unknown"
	}
	return string(clientip.AppendKey(nil, ip))
}
