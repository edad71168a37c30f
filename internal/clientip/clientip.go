// Package clientip finds the address of the client of an HTTP request that came
// through proxies, and turns an address into the key that a limit counts by.
//
// Every proxy appends the address it was called from to X-Forwarded-For, so
// only the right end of that list is the word of somebody we trust; all to the
// left of it may be the client's invention. Find therefore walks from the right
// and never looks at what stands left of the client. The Forwarded field (RFC
// 7239) is not read: a proxy that appends to one of the two passes the other on
// as the client wrote it.
//
// A proxy that sets only X-Real-IP likewise passes on a client's own
// X-Forwarded-For, and the other way round. Nobody can say which of the two is
// the proxy's word, so where they name different clients Find refuses.
package clientip

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxForwarded bounds the X-Forwarded-For lines of one request, in bytes: room
// for about 100 addresses of any kind.
const maxForwarded = 4096

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback  = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
)

// Loopback returns the addresses of the machine itself, 127.0.0.0/8 and ::1,
// which are the usual default for trusted proxies.
func Loopback() []netip.Prefix { return slices.Clone(loopback) }

// Trusted returns the prefixes as Find and Within need them: IPv4 where they can be,
// so that ::ffff:10.0.0.0/104 is 10.0.0.0/8, which without that would match nothing.
// nil stays nil. The error names the first that is no prefix, or that holds IPv4
// addresses besides others.
func Trusted(said []netip.Prefix) ([]netip.Prefix, error) {
	plain := slices.Clone(said)
	for i, p := range plain {
		switch {
		case !p.IsValid():
			return nil, fmt.Errorf("trusted proxies: number %d is no prefix: make it with netip.ParsePrefix or netip.PrefixFrom", i+1)
		case p.Addr().Is4In6() && p.Bits() < 96:
			return nil, fmt.Errorf("trusted proxies: %v holds more than IPv4 addresses: write the IPv4 network, such as 10.0.0.0/8", p)
		case p.Addr().Is4In6():
			plain[i] = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
	}
	return plain, nil
}

// Find returns the client's address, IPv4 where it can be, without a zone.
//
// If peer, the other end of the connection, is not within trusted, it is the
// client and no header is read. Else the client is the rightmost address of all
// X-Forwarded-For lines that is not within trusted, or the leftmost if all are.
// Without X-Forwarded-For it is X-Real-IP, and without that the peer. Where both
// are there they must name the same client, unless X-Real-IP is within trusted:
// then it names the proxy before ours and X-Forwarded-For rules.
//
// The prefixes of trusted must be as Trusted returns them. The keys of header are
// canonical, as net/http has them.
//
// The error says that what a proxy sent is no address, too long or in
// contradiction; answer 400.
// Taking the peer instead would charge a proxy for what its client did.
func Find(peer netip.Addr, header http.Header, trusted []netip.Prefix) (netip.Addr, error) {
	if !peer.IsValid() {
		return netip.Addr{}, errors.New("client address: the peer has none")
	}
	peer = peer.Unmap().WithZone("")
	if !Within(peer, trusted) {
		return peer, nil
	}
	client, err := forwardedFor(header["X-Forwarded-For"], trusted)
	if err != nil {
		return netip.Addr{}, err
	}
	named, err := realIP(header["X-Real-Ip"])
	switch {
	case err != nil:
		return netip.Addr{}, err
	case !client.IsValid() && !named.IsValid():
		return peer, nil
	case !client.IsValid():
		return named, nil
	case named.IsValid() && named != client && !Within(named, trusted):
		return netip.Addr{}, errContradiction
	}
	return client, nil
}

var errContradiction = errors.New("X-Forwarded-For and X-Real-IP name different clients: the proxy must set one and clear the other")

// realIP returns the zero Addr if the lines hold nothing.
func realIP(lines []string) (netip.Addr, error) {
	if len(lines) > 1 {
		return netip.Addr{}, fmt.Errorf("X-Real-IP: %d lines, want one", len(lines))
	}
	if len(lines) == 0 || trim(lines[0]) == "" {
		return netip.Addr{}, nil
	}
	return parse("X-Real-IP", trim(lines[0]))
}

// forwardedFor returns the zero Addr if the lines hold no entry. Empty entries
// are skipped, as RFC 9110 5.6.1 asks of every reader of a list.
func forwardedFor(lines []string, trusted []netip.Prefix) (netip.Addr, error) {
	size := 0
	for _, line := range lines {
		size += len(line) + 1
	}
	if size > maxForwarded {
		return netip.Addr{}, fmt.Errorf("X-Forwarded-For: %d bytes, at most %d", size, maxForwarded)
	}
	var client netip.Addr
	for _, line := range slices.Backward(lines) {
		for line != "" {
			comma := strings.LastIndexByte(line, ',')
			entry := trim(line[comma+1:])
			line = line[:max(comma, 0)]
			if entry == "" {
				continue
			}
			addr, err := parse("X-Forwarded-For", entry)
			if err != nil {
				return netip.Addr{}, err
			}
			if !Within(addr, trusted) {
				return addr, nil
			}
			client = addr
		}
	}
	return client, nil
}

// ParsePeer reads the RemoteAddr of an [http.Request], with or without a port.
// A peer on a unix socket, which net/http writes as "", "@" or the socket's
// name, is on this machine and comes back as 127.0.0.1: it is trusted exactly
// where loopback is.
func ParsePeer(remoteAddr string) (netip.Addr, error) {
	if remoteAddr == "" || remoteAddr[0] == '@' || remoteAddr[0] == '/' {
		return loopback4, nil
	}
	return parse("peer", remoteAddr)
}

// Prefix returns what shares one budget with addr: an IPv4 address alone, an
// IPv6 address with its /64, which is what one customer gets at the least. The
// zero Prefix for the zero Addr.
func Prefix(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// AppendKey appends the text that limits count addr by: 192.0.2.1 for IPv4,
// 2001:db8:1:2::/64 for IPv6, nothing for the zero Addr.
func AppendKey(dst []byte, addr netip.Addr) []byte {
	switch prefix := Prefix(addr); {
	case !prefix.IsValid():
		return dst
	case prefix.Addr().Is4():
		return prefix.Addr().AppendTo(dst)
	default:
		return prefix.AppendTo(dst)
	}
}

// Within reports whether an address, of whatever zone and whether IPv4 is mapped or not, is
// in one of the prefixes.
func Within(addr netip.Addr, prefixes []netip.Prefix) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parse reads an address in the forms that proxies write: 192.0.2.1,
// 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80, the IPv6 ones
// also with a zone. It cuts port and zone off by hand, because netip would keep
// the zone, and with it an allocation and a second key for one client.
func parse(source, text string) (netip.Addr, error) {
	s, ok := host(text)
	if i := strings.IndexByte(s, '%'); i >= 0 && i < len(s)-1 && strings.IndexByte(s[:i], ':') >= 0 {
		s = s[:i]
	}
	if ok {
		if addr, err := netip.ParseAddr(s); err == nil {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: %q is no address", source, text[:min(len(text), 64)])
}

// host cuts brackets and port off.
func host(s string) (string, bool) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return s, false
		}
		inner, rest := s[1:end], s[end+1:]
		return inner, strings.IndexByte(inner, ':') >= 0 && (rest == "" || rest[0] == ':' && isPort(rest[1:]))
	}
	if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		return s[:i], isPort(s[i+1:])
	}
	return s, true
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func trim(s string) string { return strings.Trim(s, " \t") }
