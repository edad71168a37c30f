package clientip

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

var trusted = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"),
}

// fields builds a header as net/http does: one line per "name: value".
func fields(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h.Add(name, strings.TrimPrefix(value, " "))
	}
	return h
}

func TestFind(t *testing.T) {
	const proxy = "10.0.0.1"
	for _, tt := range []struct {
		name, peer string
		header     http.Header
		want       string // "" for an error
	}{
		{"no header, stranger", "203.0.113.9", nil, "203.0.113.9"},
		{"no header, proxy", proxy, nil, proxy},
		{"v4-mapped peer", "::ffff:203.0.113.9", nil, "203.0.113.9"},
		{"v4-mapped peer is trusted as IPv4", "::ffff:10.0.0.1", fields("X-Forwarded-For: 198.51.100.7"), "198.51.100.7"},
		{"peer with a zone", "fe80::1%eth0", nil, "fe80::1"},

		{"spoof: stranger sends X-Forwarded-For", "203.0.113.9", fields("X-Forwarded-For: 127.0.0.1"), "203.0.113.9"},
		{"spoof: stranger sends X-Real-IP", "203.0.113.9", fields("X-Real-IP: 10.0.0.9"), "203.0.113.9"},
		{"spoof: stranger sends rubbish", "203.0.113.9", fields("X-Forwarded-For: <script>"), "203.0.113.9"},
		{"spoof: client puts a victim on the left", proxy, fields("X-Forwarded-For: 198.51.100.7, 203.0.113.9"), "203.0.113.9"},
		{"spoof: client puts a proxy on the left", proxy, fields("X-Forwarded-For: 10.0.0.7, 203.0.113.9"), "203.0.113.9"},
		{"spoof: on a line of its own", proxy, fields("X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 203.0.113.9"), "203.0.113.9"},
		{"spoof: rubbish left of the client is not read", proxy, fields("X-Forwarded-For: unknown, ;;;, 203.0.113.9"), "203.0.113.9"},
		{"spoof: X-Real-IP beside X-Forwarded-For", proxy, fields("X-Real-IP: 198.51.100.7", "X-Forwarded-For: 203.0.113.9"), ""},
		{"spoof: proxy as X-Forwarded-For beside X-Real-IP", proxy, fields("X-Real-IP: 203.0.113.9", "X-Forwarded-For: 10.0.0.7"), ""},
		{"spoof: rubbish as X-Real-IP beside X-Forwarded-For", proxy, fields("X-Real-IP: me", "X-Forwarded-For: 203.0.113.9"), ""},
		{"spoof: second X-Real-IP beside X-Forwarded-For", proxy, fields("X-Real-IP: 203.0.113.9", "X-Real-IP: 10.0.0.2", "X-Forwarded-For: 203.0.113.9"), ""},
		{"spoof: Forwarded is not read", proxy, fields("Forwarded: for=198.51.100.7", "X-Forwarded-For: 203.0.113.9"), "203.0.113.9"},
		{"spoof: loopback written as v4-mapped", proxy, fields("X-Forwarded-For: 198.51.100.7, ::ffff:10.1.2.3, 203.0.113.9"), "203.0.113.9"},

		{"two proxies", proxy, fields("X-Forwarded-For: 203.0.113.9, 10.0.0.2"), "203.0.113.9"},
		{"two proxies on two lines", proxy, fields("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 10.0.0.2"), "203.0.113.9"},
		{"all trusted: leftmost", proxy, fields("X-Forwarded-For: 10.0.0.4, 10.0.0.3", "X-Forwarded-For: 10.0.0.2"), "10.0.0.4"},
		{"IPv6 proxies", "fd00::1", fields("X-Forwarded-For: 2001:db8::9, fd00::2, ::1"), "2001:db8::9"},
		{"no spaces", proxy, fields("X-Forwarded-For: 203.0.113.9,10.0.0.2"), "203.0.113.9"},
		{"tabs", proxy, fields("X-Forwarded-For: 203.0.113.9\t,\t10.0.0.2"), "203.0.113.9"},
		{"empty entries", proxy, fields("X-Forwarded-For: 203.0.113.9,, 10.0.0.2, "), "203.0.113.9"},

		{"port", proxy, fields("X-Forwarded-For: 203.0.113.9:4711"), "203.0.113.9"},
		{"brackets and port", proxy, fields("X-Forwarded-For: [2001:db8::9]:4711"), "2001:db8::9"},
		{"brackets", proxy, fields("X-Forwarded-For: [2001:db8::9]"), "2001:db8::9"},
		{"brackets, zone and port", proxy, fields("X-Forwarded-For: [fe80::9%eth0]:80"), "fe80::9"},
		{"zone", proxy, fields("X-Forwarded-For: fe80::9%eth0"), "fe80::9"},
		{"v4-mapped", proxy, fields("X-Forwarded-For: ::ffff:203.0.113.9"), "203.0.113.9"},
		{"v4-mapped proxy with port is skipped", proxy, fields("X-Forwarded-For: 203.0.113.9, [::ffff:10.0.0.2]:80"), "203.0.113.9"},

		{"X-Real-IP alone", proxy, fields("X-Real-IP:  203.0.113.9 "), "203.0.113.9"},
		{"X-Real-IP beside an empty X-Forwarded-For", proxy, fields("X-Forwarded-For: ", "X-Real-IP: 203.0.113.9"), "203.0.113.9"},
		{"both name one client", proxy, fields("X-Real-IP: ::ffff:203.0.113.9", "X-Forwarded-For: 198.51.100.7, 203.0.113.9:80"), "203.0.113.9"},
		{"X-Real-IP names a proxy", proxy, fields("X-Real-IP: 10.0.0.2", "X-Forwarded-For: 203.0.113.9, 10.0.0.2"), "203.0.113.9"},
		{"empty X-Real-IP beside X-Forwarded-For", proxy, fields("X-Real-IP: ", "X-Forwarded-For: 203.0.113.9"), "203.0.113.9"},
		{"empty X-Real-IP", proxy, fields("X-Real-IP: "), proxy},
		{"empty X-Forwarded-For", proxy, fields("X-Forwarded-For: ", "X-Forwarded-For: ,"), proxy},

		{"word", proxy, fields("X-Forwarded-For: unknown"), ""},
		{"word between proxies", proxy, fields("X-Forwarded-For: 203.0.113.9, _hidden, 10.0.0.2"), ""},
		{"leading zeros", proxy, fields("X-Forwarded-For: 010.0.0.1"), ""},
		{"prefix", proxy, fields("X-Forwarded-For: 203.0.113.0/24"), ""},
		{"quoted", proxy, fields(`X-Forwarded-For: "203.0.113.9"`), ""},
		{"port without digits", proxy, fields("X-Forwarded-For: 203.0.113.9:"), ""},
		{"port too large", proxy, fields("X-Forwarded-For: 203.0.113.9:65536"), ""},
		{"port with a sign", proxy, fields("X-Forwarded-For: 203.0.113.9:+80"), ""},
		{"IPv4 in brackets", proxy, fields("X-Forwarded-For: [203.0.113.9]:80"), ""},
		{"open bracket", proxy, fields("X-Forwarded-For: [2001:db8::9"), ""},
		{"rubbish behind the bracket", proxy, fields("X-Forwarded-For: [2001:db8::9]80"), ""},
		{"IPv4 with a zone", proxy, fields("X-Forwarded-For: 203.0.113.9%eth0"), ""},
		{"empty zone", proxy, fields("X-Forwarded-For: fe80::9%"), ""},
		{"malformed X-Real-IP", proxy, fields("X-Real-IP: 203.0.113.9, 198.51.100.7"), ""},
		{"two X-Real-IP", proxy, fields("X-Real-IP: 203.0.113.9", "X-Real-IP: 198.51.100.7"), ""},
		{"too long", proxy, fields("X-Forwarded-For: " + strings.Repeat("10.0.0.2,", 500) + "203.0.113.9"), ""},
		{"too many lines", proxy, http.Header{"X-Forwarded-For": make([]string, maxForwarded+1)}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(netip.MustParseAddr(tt.peer), tt.header, trusted)
			if err != nil && tt.want != "" || err == nil && got.String() != tt.want {
				t.Errorf("got %v, %v, want %q", got, err, tt.want)
			}
			if err != nil && got.IsValid() {
				t.Errorf("an address beside the error: %v", got)
			}
		})
	}
}

func TestFindWithoutTrust(t *testing.T) {
	got, err := Find(netip.MustParseAddr("127.0.0.1"), fields("X-Forwarded-For: 203.0.113.9"), nil)
	if err != nil || got.String() != "127.0.0.1" {
		t.Errorf("got %v, %v, want the peer", got, err)
	}
	if _, err := Find(netip.Addr{}, nil, trusted); err == nil {
		t.Error("no error for a peer without an address")
	}
}

func TestErrorIsShort(t *testing.T) {
	_, err := Find(netip.MustParseAddr("10.0.0.1"), fields("X-Forwarded-For: "+strings.Repeat("\x01", 4000)), trusted)
	if err == nil || len(err.Error()) > 400 || strings.Contains(err.Error(), "\x01") {
		t.Errorf("got %v, want a short, quoted error", err)
	}
}

func TestParsePeer(t *testing.T) {
	for remote, want := range map[string]string{
		"203.0.113.9:4711":          "203.0.113.9",
		"203.0.113.9":               "203.0.113.9",
		"[2001:db8::9]:4711":        "2001:db8::9",
		"[fe80::9%eth0]:4711":       "fe80::9",
		"[::ffff:203.0.113.9]:4711": "203.0.113.9",
		"":                          "127.0.0.1",
		"@":                         "127.0.0.1",
		"@abstract":                 "127.0.0.1",
		"/run/client.sock":          "127.0.0.1",
		"pipe":                      "",
		"localhost:80":              "",
		":80":                       "",
		"[::1":                      "",
	} {
		got, err := ParsePeer(remote)
		if err != nil && want != "" || err == nil && got.String() != want {
			t.Errorf("%q: got %v, %v, want %q", remote, got, err, want)
		}
	}
}

func TestKey(t *testing.T) {
	for _, tt := range []struct{ addr, prefix, key string }{
		{"203.0.113.9", "203.0.113.9/32", "203.0.113.9"},
		{"::ffff:203.0.113.9", "203.0.113.9/32", "203.0.113.9"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2::/64"},
		{"2001:db8:1:2:ffff::", "2001:db8:1:2::/64", "2001:db8:1:2::/64"},
		{"2001:db8:1:3::", "2001:db8:1:3::/64", "2001:db8:1:3::/64"},
		{"fe80::1%eth0", "fe80::/64", "fe80::/64"},
		{"::1", "::/64", "::/64"},
	} {
		addr := netip.MustParseAddr(tt.addr)
		if got := Prefix(addr).String(); got != tt.prefix {
			t.Errorf("Prefix(%s): got %s, want %s", tt.addr, got, tt.prefix)
		}
		if got := string(AppendKey([]byte("ip:"), addr)); got != "ip:"+tt.key {
			t.Errorf("AppendKey(%s): got %s, want ip:%s", tt.addr, got, tt.key)
		}
	}
	if got := AppendKey(nil, netip.Addr{}); len(got) != 0 || Prefix(netip.Addr{}).IsValid() {
		t.Errorf("zero Addr: got %q, want nothing", got)
	}
}

func TestTrusted(t *testing.T) {
	for said, want := range map[string]string{
		"10.0.0.0/8":          "10.0.0.0/8",
		"2001:db8::/32":       "2001:db8::/32",
		"::/0":                "::/0",
		"::ffff:10.0.0.0/104": "10.0.0.0/8",
		"::ffff:10.0.0.1/128": "10.0.0.1/32",
		"::ffff:0.0.0.0/96":   "0.0.0.0/0",
		"::ffff:10.0.0.0/95":  "trusted proxies: ::ffff:10.0.0.0/95 holds more than IPv4 addresses: write the IPv4 network, such as 10.0.0.0/8",
		"nothing":             "trusted proxies: number 2 is no prefix: make it with netip.ParsePrefix or netip.PrefixFrom",
	} {
		var p netip.Prefix
		if said != "nothing" {
			p = netip.MustParsePrefix(said)
		}
		got, err := Trusted([]netip.Prefix{netip.MustParsePrefix("::1/128"), p})
		switch {
		case err != nil && err.Error() != want:
			t.Errorf("%s: got %v, want %s", said, err, want)
		case err == nil && got[1].String() != want:
			t.Errorf("%s: got %v, want %s", said, got, want)
		}
	}
	if got, err := Trusted(nil); got != nil || err != nil {
		t.Errorf("nil: got %v, %v", got, err)
	}
	if got, err := Trusted([]netip.Prefix{}); got == nil || err != nil {
		t.Errorf("empty: got %v, %v", got, err)
	}
	mapped := []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}
	if got, _ := Trusted(mapped); !Within(netip.MustParseAddr("10.1.2.3"), got) || mapped[0].Bits() != 104 {
		t.Errorf("got %v of %v", got, mapped)
	}
}

func TestLoopbackIsACopy(t *testing.T) {
	Loopback()[0] = netip.MustParsePrefix("0.0.0.0/0")
	if got := Loopback()[0].String(); got != "127.0.0.0/8" {
		t.Errorf("got %s, want 127.0.0.0/8", got)
	}
}

func TestNoAllocation(t *testing.T) {
	long := fields("X-Forwarded-For: 198.51.100.7, [2001:db8::9%eth0]:4711, 10.0.0.3:80", "X-Forwarded-For: 10.0.0.2")
	realIP := fields("X-Real-IP: 203.0.113.9")
	both := fields("X-Real-IP: 203.0.113.9", "X-Forwarded-For: 203.0.113.9")
	contradiction := fields("X-Real-IP: 203.0.113.9", "X-Forwarded-For: 198.51.100.7")
	buf := make([]byte, 0, 64)
	for _, tt := range []struct {
		remote string
		header http.Header
		want   string
	}{
		{"203.0.113.9:4711", long, "203.0.113.9"},
		{"10.0.0.1:4711", long, "2001:db8::/64"},
		{"[::1]:4711", realIP, "203.0.113.9"},
		{"10.0.0.1:4711", both, "203.0.113.9"},
		{"10.0.0.1:4711", contradiction, ""},
	} {
		n := testing.AllocsPerRun(100, func() {
			peer, err := ParsePeer(tt.remote)
			if err != nil {
				t.Fatal(err)
			}
			client, err := Find(peer, tt.header, trusted)
			if (err != nil) != (tt.want == "") {
				t.Fatal(err)
			}
			buf = AppendKey(buf[:0], client)
		})
		if n != 0 || string(buf) != tt.want {
			t.Errorf("%s: %v allocations and %q, want 0 and %q", tt.remote, n, buf, tt.want)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("203.0.113.9:80", "1.2.3.4", "5.6.7.8, 10.0.0.1", "9.9.9.9")
	f.Add("10.0.0.1:80", "127.0.0.1, [::1%x]:1", "203.0.113.9:80, 10.0.0.1", "")
	f.Add("@", "unknown", "[2001:db8::9%eth0]:80,,", "::ffff:1.2.3.4")
	f.Add("10.0.0.1", "", "10.0.0.4", "x")
	f.Add("10.0.0.1", "198.51.100.7", "10.0.0.4", "203.0.113.9")
	f.Fuzz(func(t *testing.T, remote, spoof, forwarded, realIP string) {
		peer, err := ParsePeer(remote)
		if err != nil {
			return
		}
		h := http.Header{"X-Forwarded-For": {forwarded}, "X-Real-Ip": {realIP}}
		got, err := Find(peer, h, trusted)
		if err != nil {
			if !Within(peer, trusted) {
				t.Fatalf("headers of the stranger %v were read: %v", peer, err)
			}
			return
		}
		if !got.IsValid() || got.Is4In6() || got.Zone() != "" {
			t.Fatalf("%v is not in its plain form", got)
		}
		if !Within(peer, trusted) && got != peer {
			t.Fatalf("the stranger %v passes for %v", peer, got)
		}
		if key := AppendKey(nil, got); len(key) == 0 || len(key) > len("2001:0db8:0001:0002::/64") {
			t.Fatalf("key %q of %v", key, got)
		}
		if Within(got, trusted) {
			return
		}
		// What the client writes to the left of its own address is without effect.
		client := "203.0.113.9"
		if len(spoof)+len(client)+4 > maxForwarded {
			return
		}
		for _, lines := range [][]string{{spoof + ", " + client}, {spoof, client}} {
			honest, err := Find(netip.MustParseAddr("10.0.0.1"), http.Header{"X-Forwarded-For": lines}, trusted)
			if err != nil || honest.String() != client {
				t.Fatalf("%q: got %v, %v, want %s", lines, honest, err, client)
			}
			// Nor can the field that its proxy does not set make it another one.
			honest, err = Find(netip.MustParseAddr("10.0.0.1"), http.Header{"X-Forwarded-For": lines, "X-Real-Ip": {realIP}}, trusted)
			if err == nil && honest.String() != client {
				t.Fatalf("%q beside X-Real-IP %q: got %v, want %s or an error", lines, realIP, honest, client)
			}
		}
		honest, err := Find(netip.MustParseAddr("10.0.0.1"), http.Header{"X-Forwarded-For": {spoof}, "X-Real-Ip": {client}}, trusted)
		if err == nil && honest.String() != client {
			t.Fatalf("X-Real-IP beside %q: got %v, want %s or an error", spoof, honest, client)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	h := fields("X-Forwarded-For: 198.51.100.7, 203.0.113.9, 10.0.0.2")
	want := netip.MustParseAddr("203.0.113.9")
	b.ReportAllocs()
	for b.Loop() {
		peer, _ := ParsePeer("10.0.0.1:4711")
		if got, err := Find(peer, h, trusted); err != nil || got != want {
			b.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
}
