package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/headgate/headgate/server/front/problem"
)

// unify brings a request into the form in which rules and upstreams see it, or says why
// it cannot be forwarded.
func unify(r *http.Request) *problem.Problem {
	if r.Method == http.MethodConnect {
		return &problem.Problem{Name: "method_not_allowed", Status: http.StatusMethodNotAllowed, Detail: "CONNECT: this proxy opens no tunnels"}
	}
	if r.Method == "" || strings.ContainsFunc(r.Method, separates) { // HTTP/2 may have any
		return problem.BadRequest("method", "must be one word")
	}
	p, err := canonical(r.URL.Path)
	if err != nil {
		return problem.BadRequest("path", err.Error())
	}
	r.URL.Path = p
	r.URL.Scheme, r.URL.Host, r.URL.User, r.URL.RawPath = "", "", nil, ""
	r.URL.RawQuery = readable(r.URL.RawQuery)
	r.RequestURI = r.URL.RequestURI()
	dropNamed(r)
	dropOdd(r.Header)
	return nil
}

// separates is whether a character has no place in a token (RFC 9110, 5.6.2).
func separates(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
}

// odd is whether a name of a field has more than letters, digits and hyphens. Many
// applications see no difference between such a character, above all '_', and a hyphen.
func odd(name string) bool {
	return strings.ContainsFunc(name, func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

// dropOdd removes fields that a rule would not see as the application does.
func dropOdd(h http.Header) {
	for name := range h {
		if odd(name) {
			delete(h, name)
		}
	}
}

// canonical resolves dot segments of a decoded path and merges its slashes, as the gate
// does before it looks for a rule.
func canonical(p string) (string, error) {
	if p == "" || p[0] != '/' {
		return "", errors.New("must start with '/'")
	}
	if strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return "", errors.New("has a control character")
	}
	clean := path.Clean(p)
	if clean != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		clean += "/"
	}
	return clean, nil
}

// readable leaves out the parameters of a query that net/url cannot read: what others
// make of them nobody knows.
func readable(query string) string {
	if !strings.ContainsAny(query, ";%") {
		return query
	}
	values, err := url.ParseQuery(query)
	if err == nil {
		return query
	}
	return values.Encode()
}

// dropNamed removes the fields that Connection names, and Upgrade unless a WebSocket may
// begin. What Connection says of the connection itself stays for net/http.
func dropNamed(r *http.Request) {
	h := r.Header
	lines := h["Connection"]
	if len(lines) == 0 {
		delete(h, "Upgrade")
		return
	}
	var kept []string
	upgrade := false
	for _, line := range lines {
		for token := range strings.SplitSeq(line, ",") {
			switch token = strings.ToLower(strings.Trim(token, " \t")); token {
			case "close", "keep-alive":
				kept = append(kept, token)
			case "upgrade":
				upgrade = true
			case "", "te": // whether the client takes trailers is passed on
			default:
				h.Del(token)
			}
		}
	}
	if values := h["Upgrade"]; upgrade && len(values) == 1 && strings.EqualFold(values[0], "websocket") && r.Method == http.MethodGet && r.ContentLength == 0 {
		kept = append(kept, "Upgrade")
	} else {
		delete(h, "Upgrade")
	}
	if slices.Equal(kept, lines) {
		return
	}
	delete(h, "Connection")
	if len(kept) > 0 {
		h["Connection"] = []string{strings.Join(kept, ", ")}
	}
}
