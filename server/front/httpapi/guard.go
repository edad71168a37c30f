package httpapi

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

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
		if detail := foreign(r); detail != "" {
			(&problem.Problem{Name: "forbidden", Status: http.StatusForbidden, Detail: detail}).ServeHTTP(w, r)
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

// foreign says why a request may come from a web page of somebody else, or "".
//
// A page can make its own host name point to 127.0.0.1 (DNS rebinding) and then
// talk to a server that trusts loopback; its requests carry that name as Host.
// Servers on other addresses have names that we cannot know.
func foreign(r *http.Request) string {
	if onLoopback(r) && !localName(r.Host) {
		return "Host " + quoted(r.Host) + ": this listener answers to localhost and IP addresses only"
	}
	origin := r.Header["Origin"]
	if len(origin) == 0 {
		return ""
	}
	u, err := url.Parse(origin[0])
	if len(origin) > 1 || err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
		return "Origin " + quoted(origin[0]) + ": web pages of other hosts may not call this server"
	}
	return ""
}

func onLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.IsLoopback()
}

func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// quoted shortens what a client sent for use in an answer.
func quoted(s string) string {
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + "..."
	}
	return `"` + s + `"`
}

func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}
