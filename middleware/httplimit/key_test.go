package httplimit

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestByOrigin(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"https://api.example.com/a?b", "https://api.example.com"},
		{"HTTPS://API.Example.com", "https://api.example.com"},
		{"https://api.example.com:443", "https://api.example.com"},
		{"https://api.example.com:80", "https://api.example.com:80"},
		{"http://api.example.com", "http://api.example.com"},
		{"http://api.example.com.", "http://api.example.com"},
		{"http://api.example.com:", "http://api.example.com"},
		{"http://api.example.com:80", "http://api.example.com"},
		{"http://api.example.com.:080", "http://api.example.com"},
		{"http://api.example.com:8080", "http://api.example.com:8080"},
		{"http://api.example.com:008080", "http://api.example.com:8080"},
		{"http://api.example.com:65535", "http://api.example.com:65535"},
		{"https://user:secret@api.example.com", "https://api.example.com"},
		{"http://192.0.2.1:80", "http://192.0.2.1"},
		{"http://[2001:DB8::1]/", "http://[2001:db8::1]"},
		{"http://[2001:db8:0:0::0001]:8080/", "http://[2001:db8::1]:8080"},
		{"http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]"},
		{"ftp://api.example.com", "ftp://api.example.com"},
		{"ftp://api.example.com:80", "ftp://api.example.com:80"},
		{"/no/host", ""},
		{"http://.", ""},
		{"http://:80", ""},
		{"http://api.example.com:65536", ""},
		{"http://" + strings.Repeat("a", 255), ""},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ByOrigin(&http.Request{URL: u})
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: got %q, %v, want %q", tt.url, got, err, tt.want)
		}
	}
}

func TestByHeaderPanics(t *testing.T) {
	for name, want := range map[string]string{
		"": "no name", "a b": "no name", "X-User:": "no name", "X-Üser": "no name", "X-User\r\n": "no name",
		"Host": "Request.Host", "host": "Request.Host", "trailer": "net/http takes it out", "Transfer-Encoding": "net/http takes it out",
	} {
		func() {
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, want) {
					t.Errorf("%q: panicked with %q, want %q in it", name, got, want)
				}
			}()
			ByHeader(name)
		}()
	}
	ByHeader("x-user_1.~") // does not
}

// A proxy that is named by an IPv4-mapped prefix is believed.
func TestByIPMapped(t *testing.T) {
	key := ByIP([]netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")})
	r := request("X-Forwarded-For: 198.51.100.7")
	r.RemoteAddr = "10.1.2.3:4711"
	if got, err := key(r); err != nil || got != "198.51.100.7" {
		t.Errorf("got %q, %v, want 198.51.100.7", got, err)
	}
}

func TestByIPPanics(t *testing.T) {
	for name, p := range map[string]netip.Prefix{
		"no prefix":           {},
		"::ffff:10.0.0.0/95 ": netip.MustParsePrefix("::ffff:10.0.0.0/95"),
	} {
		func() {
			defer func() {
				if got, _ := recover().(string); !strings.HasPrefix(got, "httplimit: ByIP: ") || !strings.Contains(got, name) {
					t.Errorf("%s: panicked with %q", name, got)
				}
			}()
			ByIP([]netip.Prefix{p})
		}()
	}
}
