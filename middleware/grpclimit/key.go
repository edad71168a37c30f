package grpclimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/clientip"
)

// maxKey is the longest key that ByMetadata takes, in bytes.
const maxKey = 512

// Call is a call that is to be limited.
type Call struct {
	// Context is the call's. A server's tells the peer and the metadata.
	Context context.Context
	// Method is the full name, such as /package.Service/Method.
	Method string
	// Message is the request of a unary call, or the message that
	// ServerConfig.MessageCost is asked about; nil when a stream opens.
	Message any
	// Target is what a client dialled; "" in a server.
	Target string
}

// ByPeer returns a key of the client's address: IPv4 whole, IPv6 by its /64.
//
// Only a proxy whose own address is within trusted is believed when it names
// its client, in x-forwarded-for (the rightmost address that is not within
// trusted, or the leftmost if all are) or else in x-real-ip. With no trusted
// prefixes the client is whoever the connection is from. A peer on a unix
// socket counts as 127.0.0.1. What a trusted proxy sends and is no address is
// answered with INVALID_ARGUMENT; so are the two fields where they name
// different clients, unless x-real-ip is within trusted: have the proxy set one
// and clear the other. A connection without an IP address, such as a pipe in
// memory, is answered with INTERNAL: set another Key.
//
// IPv4 networks may be mapped to IPv6, such as ::ffff:10.0.0.0/104. It panics if one of
// trusted is no prefix, or is mapped and shorter than 96 bits.
func ByPeer(trusted []netip.Prefix) func(Call) (string, error) {
	trusted, err := clientip.Trusted(trusted)
	if err != nil {
		panic("grpclimit: ByPeer: " + err.Error())
	}
	return func(c Call) (string, error) {
		addr, err := Peer(c.Context)
		if err != nil {
			return "", err
		}
		var header http.Header
		if clientip.Within(addr, trusted) {
			header = forwarded(c.Context)
		}
		client, err := clientip.Find(addr, header, trusted)
		if err != nil {
			return "", &headgate.Error{Code: headgate.InvalidRequest, Field: "request.ip", Err: err}
		}
		var buf [64]byte
		return string(clientip.AppendKey(buf[:0], client)), nil
	}
}

// Peer returns the address of the other end of the call's connection, which may
// be that of a proxy: IPv4 where it can be, without a zone, and 127.0.0.1 for a
// unix socket. The error says that there is no IP address, as of a pipe in memory.
func Peer(ctx context.Context) (addr netip.Addr, err error) {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return addr, errors.New("the call has no peer: set ServerConfig.Key")
	}
	switch a := p.Addr.(type) {
	case *net.TCPAddr:
		addr = a.AddrPort().Addr()
	case *net.UnixAddr:
		addr, err = clientip.ParsePeer("@")
	default:
		addr, err = clientip.ParsePeer(a.String())
	}
	return addr.Unmap().WithZone(""), err
}

// forwarded returns what proxies say of a call's client, nil if they say nothing.
func forwarded(ctx context.Context) http.Header {
	list := metadata.ValueFromIncomingContext(ctx, "x-forwarded-for")
	real := metadata.ValueFromIncomingContext(ctx, "x-real-ip")
	if list == nil && real == nil {
		return nil
	}
	return http.Header{"X-Forwarded-For": list, "X-Real-Ip": real}
}

// ByMetadata returns a key of the value that the client sent as name. A call
// without it, with several, or with more than 512 bytes in it is answered with
// INVALID_ARGUMENT.
//
// The client can write what it likes: use a field only that something in front
// has verified or overwritten, or every call brings its own budget. It panics if
// name is empty.
func ByMetadata(name string) func(Call) (string, error) {
	if name == "" {
		panic("grpclimit: ByMetadata without a name")
	}
	lower, field := strings.ToLower(name), "request.metadata."+name
	return func(c Call) (string, error) {
		switch values := metadata.ValueFromIncomingContext(c.Context, lower); {
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

// ByMethod is a key of the method: one budget for each, whoever calls. In a
// server with a grpc.UnknownServiceHandler the client makes methods up.
func ByMethod(c Call) (string, error) { return c.Method, nil }

// ByTarget is a key of what a client dialled: one budget for each server.
func ByTarget(c Call) (string, error) { return c.Target, nil }

// ByAll returns a key of several: one budget for each combination, such as a
// method and a peer. No two combinations give the same key. It fails as the first
// of keys that fails or is empty. It panics without keys, or if one is nil.
func ByAll(keys ...func(Call) (string, error)) func(Call) (string, error) {
	if len(keys) == 0 {
		panic("grpclimit: ByAll without keys")
	}
	for i, key := range keys {
		if key == nil {
			panic(fmt.Sprintf("grpclimit: ByAll: key number %d is nil", i+1))
		}
	}
	keys = slices.Clone(keys)
	return func(c Call) (string, error) {
		var buf [256]byte
		all := buf[:0]
		for _, part := range keys {
			key, err := keyOf(part, c)
			if err != nil {
				return "", err
			}
			all = strconv.AppendInt(all, int64(len(key)), 10)
			all = append(all, ':')
			all = append(all, key...)
		}
		return string(all), nil
	}
}

// keyOf refuses an empty key, which would be one budget for all who have none.
func keyOf(key func(Call) (string, error), c Call) (string, error) {
	s, err := key(c)
	if err == nil && s == "" {
		err = invalid("subject", "the key is empty")
	}
	return s, err
}

func invalid(field, fault string) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: errors.New(fault)}
}
