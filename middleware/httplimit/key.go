package httplimit

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/clientip"
)

// maxKey is the longest key that ByHeader takes, in bytes.
const maxKey = 512

// ByIP returns a key of the client's address: IPv4 whole, IPv6 by its /64.
//
// Only a proxy whose own address is within trusted is believed when it names
// its client, in X-Forwarded-For (the rightmost address that is not within
// trusted, or the leftmost if all are) or else in X-Real-IP. With no trusted
// prefixes the client is whoever the connection is from. A peer on a unix
// socket counts as 127.0.0.1. What a trusted proxy sends and is no address is
// an error, answered with 400; so are the two fields where they name different
// clients, unless X-Real-IP is within trusted: have the proxy set one and clear
// the other.
//
// IPv4 networks may be mapped to IPv6, such as ::ffff:10.0.0.0/104. It panics if
// one of trusted is no prefix, or is mapped and shorter than 96 bits.
func ByIP(trusted []netip.Prefix) func(*http.Request) (string, error) {
	trusted, err := clientip.Trusted(trusted)
	if err != nil {
		panic("httplimit: ByIP: " + err.Error())
	}
	return func(r *http.Request) (string, error) {
		peer, err := clientip.ParsePeer(r.RemoteAddr)
		if err != nil {
			return "", err
		}
		client, err := clientip.Find(peer, r.Header, trusted)
		if err != nil {
			return "", &headgate.Error{Code: headgate.InvalidRequest, Field: "request.ip", Err: err}
		}
		var buf [64]byte
		return string(clientip.AppendKey(buf[:0], client)), nil
	}
}

// ByHeader returns a key of the value of a header field. A request without it,
// with several, or with more than 512 bytes in it is answered with 400.
//
// The client can write what it likes: use a field only that something in front
// has verified or overwritten, or every request brings its own budget.
//
// It panics if name is no name of a field (RFC 9110, section 5.1), or one that
// net/http takes out of the header: Host, Trailer and Transfer-Encoding. For
// the host use a function of your own over Request.Host.
func ByHeader(name string) func(*http.Request) (string, error) {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !isFieldName(name):
		panic(fmt.Sprintf("httplimit: ByHeader(%q): no name of a header field", name))
	case canonical == "Host":
		panic(fmt.Sprintf("httplimit: ByHeader(%q): net/http takes it out of the header: use a function of your own that returns Request.Host", name))
	case canonical == "Trailer" || canonical == "Transfer-Encoding":
		panic(fmt.Sprintf("httplimit: ByHeader(%q): net/http takes it out of the header", name))
	}
	field := "request.headers." + name
	return func(r *http.Request) (string, error) {
		switch values := r.Header[canonical]; {
		case len(values) == 0 || len(values) == 1 && values[0] == "":
			return "", invalid(field, "is missing")
		case len(values) > 1:
			return "", invalid(field, "is there more than once")
		case len(values[0]) > maxKey:
			return "", invalid(field, "is longer than 512 bytes")
		default:
			return values[0], nil
		}
	}
}

// isFieldName reports whether s is a token (RFC 9110, section 5.6.2).
func isFieldName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	}) < 0
}

// maxHost is the longest name of a host in DNS, with a dot at its end.
const maxHost = 254

// ByOrigin is a key of scheme, host and port of the URL, for outgoing requests: one
// budget for each server, such as https://api.example.com or
// http://api.example.com:8080. It is in lower case, without a dot at the host's
// end and without the port that http or https implies; addresses are in their
// shortest form. It fails for URLs without a host and for ports beyond 65535.
func ByOrigin(r *http.Request) (string, error) {
	name, port := r.URL.Hostname(), r.URL.Port()
	host := strings.TrimSuffix(strings.ToLower(name), ".")
	if host == "" || len(name) > maxHost {
		return "", invalid("request.url", "has no host of 1 to 254 bytes")
	}
	if strings.Contains(host, ":") {
		if addr, err := netip.ParseAddr(host); err == nil {
			host = addr.String()
		}
		host = "[" + host + "]"
	}
	origin := strings.ToLower(r.URL.Scheme) + "://" + host
	if port == "" {
		return origin, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", invalid("request.url", "has a port beyond 65535")
	}
	if origin == "http://"+host && n == 80 || origin == "https://"+host && n == 443 {
		return origin, nil
	}
	return origin + ":" + strconv.FormatUint(n, 10), nil
}

func invalid(field, fault string) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: errors.New(fault)}
}
