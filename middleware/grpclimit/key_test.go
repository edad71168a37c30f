package grpclimit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
)

// named is an address of a network that is none of net's.
type named string

func (n named) Network() string { return "pipe" }
func (n named) String() string  { return string(n) }

func TestKeys(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711} }
	broken := func(Call) (string, error) { return "", errors.New("broken") }
	empty := func(Call) (string, error) { return "", nil }
	const method = "/grpc.testing.TestService/EmptyCall"
	for _, tt := range []struct {
		name  string
		key   func(Call) (string, error)
		peer  net.Addr
		pairs []string
		want  string // the key, or the code
	}{
		{"peer", nil, grpctest.Client, nil, "203.0.113.9"},
		{"IPv6 by /64", nil, tcp("2001:db8:1:2:3::9"), nil, "2001:db8:1:2::/64"},
		{"zone", nil, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, nil, "fe80::/64"},
		{"address of another network", nil, named("203.0.113.9:80"), nil, "203.0.113.9"},
		{"loopback is trusted unless said otherwise", nil, tcp("127.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7"},
		{"strangers are not", nil, grpctest.Client, []string{"x-forwarded-for", "198.51.100.7"}, "203.0.113.9"},
		{"strangers' rubbish is not read", nil, grpctest.Client, []string{"x-forwarded-for", "<>"}, "203.0.113.9"},
		{"unix socket", nil, &net.UnixAddr{Net: "unix"}, nil, "127.0.0.1"},
		{"unix socket of a name", nil, &net.UnixAddr{Name: "client.sock", Net: "unix"}, nil, "127.0.0.1"},
		{"proxy on a unix socket", nil, &net.UnixAddr{Name: "@", Net: "unix"}, []string{"x-real-ip", "198.51.100.7"}, "198.51.100.7"},
		{"ByPeer", ByPeer(inside), tcp("10.1.2.3"), []string{"x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"ByPeer, several lines", ByPeer(inside), tcp("10.1.2.3"), []string{"x-forwarded-for", "198.51.100.7", "x-forwarded-for", "10.0.0.2"}, "198.51.100.7"},
		{"ByPeer, mapped network", ByPeer([]netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}), tcp("10.1.2.3"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7"},
		{"ByPeer, mapped", ByPeer(inside), tcp("::ffff:10.1.2.3"), []string{"x-forwarded-for", "198.51.100.7"}, "198.51.100.7"},
		{"ByPeer trusts what it was given", ByPeer(inside), tcp("127.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "127.0.0.1"},
		{"ByPeer of nobody", ByPeer(nil), tcp("127.0.0.1"), []string{"x-forwarded-for", "198.51.100.7"}, "127.0.0.1"},
		{"malformed x-forwarded-for", nil, tcp("127.0.0.1"), []string{"x-forwarded-for", "unknown"}, "InvalidArgument"},
		{"x-forwarded-for contradicts x-real-ip", nil, tcp("127.0.0.1"), []string{"x-forwarded-for", "1.1.1.1", "x-real-ip", "198.51.100.7"}, "InvalidArgument"},
		{"no address", nil, named("pipe"), nil, "Internal"},
		{"ByMetadata", ByMetadata("X-Api-Key"), grpctest.Client, []string{"x-api-key", "k1"}, "k1"},
		{"ByMetadata, missing", ByMetadata("x-api-key"), grpctest.Client, nil, "InvalidArgument"},
		{"ByMetadata, empty", ByMetadata("x-api-key"), grpctest.Client, []string{"x-api-key", ""}, "InvalidArgument"},
		{"ByMetadata, twice", ByMetadata("x-api-key"), grpctest.Client, []string{"x-api-key", "k1", "x-api-key", "k2"}, "InvalidArgument"},
		{"ByMetadata, long", ByMetadata("x-api-key"), grpctest.Client, []string{"x-api-key", strings.Repeat("k", 513)}, "InvalidArgument"},
		{"ByMethod", ByMethod, grpctest.Client, nil, method},
		{"ByTarget in a server", ByTarget, grpctest.Client, nil, "InvalidArgument"},
		{"ByAll", ByAll(ByMetadata("k"), ByPeer(nil)), grpctest.Client, []string{"k", "a:b"}, "3:a:b11:203.0.113.9"},
		{"ByAll, one missing", ByAll(ByPeer(nil), ByMetadata("k")), grpctest.Client, nil, "InvalidArgument"},
		{"ByAll, one empty", ByAll(ByPeer(nil), empty), grpctest.Client, nil, "InvalidArgument"},
		{"own function, broken", broken, grpctest.Client, nil, "Internal"},
		{"own function, empty key", empty, grpctest.Client, nil, "InvalidArgument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
				got, b.Allowed = b.Charges()[0].Owner, true
				return nil
			}}, headgate.PerMinute(1))
			h := &grpctest.House{Peer: tt.peer}
			c, end := h.Limit(NewServer(lim, ServerConfig{Key: tt.key, FailOpen: true})).Open(t)
			defer end()
			a := grpctest.Ask(t, c, tt.pairs...)
			if a.Status.Code() != codes.OK {
				got = a.Status.Code().String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %v", got, tt.want, a)
			}
		})
	}
}

// No choice of parts makes two combinations meet.
func TestByAllIsInjective(t *testing.T) {
	say := func(s string) func(Call) (string, error) { return func(Call) (string, error) { return s, nil } }
	seen := map[string][]string{}
	for _, parts := range [][]string{{"a", "b"}, {"ab"}, {"a", "1:b"}, {"a1:b"}, {"1:a", "1:b"}, {"1:a1:b"}, {"3:1:a", "b"}, {"a", "b", "1:"}} {
		var keys []func(Call) (string, error)
		for _, part := range parts {
			keys = append(keys, say(part))
		}
		key, err := ByAll(keys...)(Call{})
		if err != nil || seen[key] != nil {
			t.Errorf("%q: key %q, %v, as %q", parts, key, err, seen[key])
		}
		seen[key] = parts
	}
}

func TestNoPeer(t *testing.T) {
	if key, err := ByPeer(nil)(Call{Context: t.Context()}); err == nil {
		t.Errorf("got %q, want an error", key)
	}
}

// TestKeysAtFault: what could name nobody is found when it is made.
func TestKeysAtFault(t *testing.T) {
	for want, make := range map[string]func(){
		"grpclimit: ByMetadata without a name":  func() { ByMetadata("") },
		"grpclimit: ByAll without keys":         func() { ByAll() },
		"grpclimit: ByAll: key number 2 is nil": func() { ByAll(ByMethod, nil) },
		"grpclimit: ByPeer: trusted proxies: number 1 is no prefix: make it with netip.ParsePrefix or netip.PrefixFrom":                    func() { ByPeer([]netip.Prefix{{}}) },
		"grpclimit: ByPeer: trusted proxies: ::ffff:0.0.0.0/95 holds more than IPv4 addresses: write the IPv4 network, such as 10.0.0.0/8": func() { ByPeer([]netip.Prefix{netip.MustParsePrefix("::ffff:0:0/95")}) },
	} {
		t.Run(want, func(t *testing.T) {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("got %v", got)
				}
			}()
			make()
		})
	}
}
