package problem

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Foreign refuses what a web page of somebody else may have sent; nil if nothing
// speaks for that.
//
// A page can make its own host name point to 127.0.0.1 (DNS rebinding) and then
// talk to a server that trusts loopback; its requests carry that name as Host.
// Servers on other addresses have names that we cannot know. Requests that change
// something carry where they come from.
func Foreign(r *http.Request) *Problem {
	detail := ""
	switch origin := r.Header["Origin"]; {
	case onLoopback(r) && !localName(r.Host):
		detail = "Host " + quoted(r.Host) + ": this listener answers to localhost and IP addresses only"
	case r.Header.Get("Sec-Fetch-Site") == "cross-site":
		detail = "web pages of other hosts may not call this server"
	case len(origin) == 0:
		return nil
	case len(origin) > 1 || !sameHost(origin[0], r.Host):
		detail = "Origin " + quoted(origin[0]) + ": web pages of other hosts may not call this server"
	default:
		return nil
	}
	return &Problem{Name: "forbidden", Status: http.StatusForbidden, Detail: detail}
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
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
