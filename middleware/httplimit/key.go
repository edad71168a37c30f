package httplimit

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"

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
func ByIP(trusted []netip.Prefix) func(*http.Request) (string, error) {
	trusted = slices.Clone(trusted)
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
func ByHeader(name string) func(*http.Request) (string, error) {
	canonical := http.CanonicalHeaderKey(name)
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

func invalid(field, fault string) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: errors.New(fault)}
}
