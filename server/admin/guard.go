package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/server/front/problem"
)

// guard lets through who has the token and is not a web page of somebody else.
type guard struct {
	digest   [sha256.Size]byte
	failures *headgate.Limiter
	log      *slog.Logger
}

func newGuard(token string, failures *headgate.Limiter, log *slog.Logger) *guard {
	return &guard{digest: sha256.Sum256([]byte(token)), failures: failures, log: log}
}

// protect lets only requests through that have one of the methods and the
// token.
func (g *guard) protect(h http.Handler, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := problem.Foreign(r)
		switch {
		case p != nil:
		case !slices.Contains(methods, r.Method):
			w.Header().Set("Allow", strings.Join(methods, ", "))
			p = &problem.Problem{
				Name: "method_not_allowed", Status: http.StatusMethodNotAllowed,
				Detail: fmt.Sprintf("method %.64q is not allowed here: use %s", r.Method, strings.Join(methods, ", ")),
			}
		default:
			p = g.authorize(w.Header(), r)
		}
		if p != nil {
			p.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// authorize checks the token. The right one passes also from an address that
// has sent too many wrong ones: nobody shall be able to lock the operator out,
// and a token is too long to be found by trying.
func (g *guard) authorize(answer http.Header, r *http.Request) *problem.Problem {
	const realm = `Bearer realm="headgate"`
	lines := r.Header["Authorization"]
	if len(lines) == 0 {
		answer.Set("WWW-Authenticate", realm)
		return unauthorized("the administration needs a token: send Authorization: Bearer with what is in the server's DATA/admin-token")
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	digest := sha256.Sum256([]byte(strings.TrimSpace(token)))
	right := subtle.ConstantTimeCompare(digest[:], g.digest[:]) == 1
	if right && len(lines) == 1 && strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	client := address(r)
	d, err := g.failures.Take(r.Context(), client, 1)
	if err != nil || !d.Allowed {
		seconds := int64(max((d.RetryAfter+time.Second-1)/time.Second, 1))
		answer.Set("Retry-After", strconv.FormatInt(seconds, 10))
		return &problem.Problem{
			Name: "rate_limited", Status: http.StatusTooManyRequests,
			Detail: fmt.Sprintf("too many wrong tokens from here; try again in %d s", seconds),
		}
	}
	g.log.Warn("wrong admin token", "client", client, "path", r.URL.Path)
	answer.Set("WWW-Authenticate", realm+`, error="invalid_token"`)
	return unauthorized("this is not the admin token")
}

func unauthorized(detail string) *problem.Problem {
	return &problem.Problem{Name: "unauthorized", Status: http.StatusUnauthorized, Detail: detail}
}

// address is what wrong tokens are counted by. What proxies say of their
// clients is not believed here.
func address(r *http.Request) string {
	ip, err := clientip.ParsePeer(r.RemoteAddr)
	if err != nil {
		return "unknown"
	}
	return string(clientip.AppendKey(nil, ip))
}
