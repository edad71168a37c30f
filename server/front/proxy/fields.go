package proxy

import (
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"

	"github.com/headgate/headgate/internal/clientip"
)

// ours are the fields that only this proxy says to an upstream.
func ours(name string) bool { return strings.HasPrefix(name, "Headgate-") }

// proxies are the fields that only proxies say: where a request came from, and what it
// was before they changed it.
func proxies(name string) bool {
	switch name {
	case "X-Real-Ip", "X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Original-Host", "X-Rewrite-Url", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip",
		"Client-Ip", "X-Forwarded", "Forwarded-For", "X-Azure-Clientip", "X-Envoy-External-Address", "Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Fastly-Client-Ip", "Fly-Client-Ip":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-")
}

// plain is a name of a field as an application knows it that cannot tell underscores from
// hyphens.
func plain(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// rewrite makes the request to an upstream of that of the client. Where to is said later.
func (x *exchange) rewrite(r *httputil.ProxyRequest) {
	peer, err := clientip.ParsePeer(r.In.RemoteAddr)
	trusted := err == nil && clientip.Within(peer, x.trusted)
	h := r.Out.Header
	for name := range h {
		if ours(name) || proxies(name) && !trusted {
			delete(h, name)
		}
	}
	delete(h, "Proxy") // which applications behind CGI take for the proxy that they are to use
	cleanTrailer(r.In.Trailer)
	from := peer.String()
	if prior := r.In.Header["X-Forwarded-For"]; trusted && len(prior) > 0 {
		from = strings.Join(prior, ", ") + ", " + from
	}
	scheme := "http"
	if r.In.TLS != nil {
		scheme = "https"
	}
	h["X-Forwarded-For"] = []string{from}
	h["X-Forwarded-Host"] = []string{said(r.In.Header["X-Forwarded-Host"], trusted, r.In.Host)}
	h["X-Forwarded-Proto"] = []string{said(r.In.Header["X-Forwarded-Proto"], trusted, scheme)}
	if x.pool.Host != "" {
		r.Out.Host = x.pool.Host
	}
	if x.body != nil {
		r.Out.Body, r.Out.Trailer = x.body, r.In.Trailer // whose values come with the end of the body
	}
}

// cleanTrailer removes what has no place behind a body (RFC 9110, 6.5.1): no rule has seen
// it, and some applications take it for a field of the header.
func cleanTrailer(h http.Header) {
	for name := range h {
		if ours(name) || proxies(name) || odd(name) || early(name) {
			delete(h, name)
		}
	}
}

// early are the fields that say how a request is cut, where it goes, who asks, and what
// for.
func early(name string) bool {
	switch name {
	case "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type", "Cookie", "Expect", "Forwarded", "Host", "Keep-Alive", "Max-Forwards", "Origin", "Proxy",
		"Range", "Referer", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Via":
		return true
	}
	return strings.HasPrefix(name, "If-") || strings.HasPrefix(name, "Proxy-")
}

// said is what a trusted proxy says once, else what we know.
func said(lines []string, trusted bool, known string) string {
	if trusted && len(lines) == 1 && lines[0] != "" {
		return lines[0]
	}
	return known
}

// limits are the fields of all conventions for rate limits.
func limits(name string) bool {
	return strings.HasPrefix(name, "Ratelimit") || strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, "X-Rate-Limit-")
}

// told is a field that was set before the exchange began.
type told struct {
	name   string
	values []string
}

// toldIn returns the fields of h.
func toldIn(h http.Header) []told {
	list := make([]told, 0, len(h))
	for name, values := range h {
		list = append(list, told{name, values})
	}
	return list
}

// strip removes from an upstream's answer what only we say, what was said before, and what
// it says of limits where we have said something of ours.
func strip(answer http.Header, before []told) {
	limited := slices.ContainsFunc(before, func(f told) bool { return limits(f.name) })
	for name := range answer {
		p := plain(name)
		if ours(p) || limited && limits(p) || slices.ContainsFunc(before, func(f told) bool { return f.name == p }) {
			delete(answer, name)
		}
	}
}

// restore says again what was said before: an interim answer has added to it, and after
// one it is gone. What is there is left alone: a small map that is full grows by being
// written to.
func restore(h http.Header, before []told) {
	for _, f := range before {
		if now, ok := h[f.name]; !ok || len(now) != len(f.values) {
			h[f.name] = f.values
		}
	}
}
