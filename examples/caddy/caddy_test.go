package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// headgate returns the daemon to test: HEADGATE_BIN, or one built now.
func headgate(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("HEADGATE_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "headgate")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/headgate/headgate/server/cmd/headgate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

func TestCaddy(t *testing.T) {
	bin := headgate(t)
	t.Run("example", func(t *testing.T) {
		var out strings.Builder
		err := run(t.Context(), &out, bin)
		t.Log("\n" + out.String())
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("one by one", func(t *testing.T) {
		s, err := startStack(context.Background(), bin)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
		t.Run("fields", s.testFields)
		t.Run("bodies", s.testBodies)
		t.Run("keys", s.testKeys)
		t.Run("load balancer", s.testBalancer)
		t.Run("forged", s.testForged)
		t.Run("clever", s.testClever)
		t.Run("away", s.testAway)
	})
}

func (s *stack) mustAnswer(t *testing.T, client, method, path, body string, want int, header ...string) answer {
	t.Helper()
	transport := from(client)
	defer transport.CloseIdleConnections()
	h := make(http.Header)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	a, err := s.ask(t.Context(), transport, method, path, body, h)
	if err != nil {
		t.Fatalf("%s %.60s from %s with %.60q: %v", method, path, client, header, err)
	}
	if a.status != want {
		t.Errorf("%s %.60s from %s with %.60q: %d %q, want %d", method, path, client, header, a.status, a.body, want)
	}
	return a
}

// useUp takes all that a client has.
func (s *stack) useUp(t *testing.T, client string, header ...string) {
	t.Helper()
	for range burst {
		s.mustAnswer(t, client, "GET", "/", "", http.StatusOK, header...)
	}
	s.mustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests, header...)
}

func (s *stack) testFields(t *testing.T) {
	const client = "127.0.2.1"
	a := s.mustAnswer(t, client, "GET", "/?x=1", "", http.StatusOK)
	for field, want := range map[string]string{"RateLimit": `"pages/views";r=19;t=6840`, "RateLimit-Policy": `"pages/views";q=20;w=7200`} {
		if got := a.header[http.CanonicalHeaderKey(field)]; len(got) != 1 || got[0] != want {
			t.Errorf("passed: %s %q, want once %q", field, got, want)
		}
	}
	for range burst - 1 {
		s.mustAnswer(t, client, "GET", "/", "", http.StatusOK)
	}
	a = s.mustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests)
	wait, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || wait < 1 || wait > 360 {
		t.Errorf("refused: Retry-After %q, want 1 to 360", a.header.Get("Retry-After"))
	}
	for field, want := range map[string]string{
		"RateLimit":       `"pages/views";r=0;t=` + a.header.Get("Retry-After"),
		"Content-Type":    "application/problem+json",
		"Cache-Control":   "no-store",
		"Headgate-Reason": "rate_limited",
	} {
		if got := a.header[http.CanonicalHeaderKey(field)]; len(got) != 1 || got[0] != want {
			t.Errorf("refused: %s %q, want once %q", field, got, want)
		}
	}
	if !strings.Contains(a.body, `"status":429`) {
		t.Errorf("refused: body %q, want a problem with status 429", a.body)
	}
	if n := s.site.visits(client); n != burst {
		t.Errorf("%d reached the site, want %d", n, burst)
	}
}

func (s *stack) testBodies(t *testing.T) {
	const client = "127.0.2.2"
	big := strings.Repeat("x", 200_000) // more than fits into buffers
	for _, tt := range []struct{ method, body, want string }{
		{"POST", "name=x", "POST /, 6 bytes\n"},
		{"PUT", big, "PUT /, 200000 bytes\n"},
		{"HEAD", "", ""},
	} {
		if a := s.mustAnswer(t, client, tt.method, "/", tt.body, http.StatusOK); a.body != tt.want {
			t.Errorf("%s: %q, want %q", tt.method, a.body, tt.want)
		}
	}
	for range burst - 3 {
		s.mustAnswer(t, client, "GET", "/", "", http.StatusOK)
	}
	s.mustAnswer(t, client, "POST", "/", "name=x", http.StatusTooManyRequests)
	s.mustAnswer(t, client, "DELETE", "/", "", http.StatusTooManyRequests)
	if a := s.mustAnswer(t, client, "HEAD", "/", "", http.StatusTooManyRequests); a.header.Get("Retry-After") == "" || a.body != "" {
		t.Errorf("HEAD: Retry-After %q, body %q, want one and none", a.header.Get("Retry-After"), a.body)
	}
}

// testKeys: a known key is a subject of its own at every address, an unknown
// one is whoever sends it.
func (s *stack) testKeys(t *testing.T) {
	s.useUp(t, "127.0.2.3", "X-Api-Key: key-alice")
	s.mustAnswer(t, "127.0.2.4", "GET", "/", "", http.StatusTooManyRequests, "X-Api-Key: key-alice")
	s.useUp(t, "127.0.2.3", "X-Api-Key: unknown")
	s.mustAnswer(t, "127.0.2.3", "GET", "/", "", http.StatusTooManyRequests, "X-Api-Key: another")
}

// testBalancer: who is believed names the client, and only the last address,
// which is its own word, counts.
func (s *stack) testBalancer(t *testing.T) {
	const balancer = "127.0.0.2"
	s.useUp(t, balancer, "X-Forwarded-For: 203.0.113.1")
	s.mustAnswer(t, balancer, "GET", "/", "", http.StatusTooManyRequests, "X-Forwarded-For: 203.0.113.9, 203.0.113.1")
	s.mustAnswer(t, balancer, "GET", "/", "", http.StatusOK, "X-Forwarded-For: 203.0.113.1, 203.0.113.2")
}

// testForged is a client that tries to pass for another, for another request,
// or for Headgate.
func (s *stack) testForged(t *testing.T) {
	const client = "127.0.2.5"
	s.useUp(t, client)
	for _, header := range [][]string{
		{"X-Forwarded-For: 203.0.113.9"}, {"X-Real-IP: 203.0.113.9"}, {"X-Real-IP: nonsense"}, {"Forwarded: for=203.0.113.9"},
		{"X-Forwarded-For: " + strings.Repeat("1.1.1.1,", 900)}, {"X-Forwarded-For: 203.0.113.8", "X-Forwarded-For: 203.0.113.9"},
		{"X-Original-URI: /other"}, {"X-Original-Method: OPTIONS"}, {"X-Forwarded-Uri: /other"}, {"X-Forwarded-Method: OPTIONS"},
		{"X-Forwarded-Host: other"}, {"Headgate-Status: 204"}, {"Headgate-Token: x"}, {"Retry-After: 0"}, {"RateLimit: x"},
		{"Connection: X-Real-IP, X-Forwarded-Uri"}, {"Expect: 100-continue"}, {"X-Api-Key: a", "X-Api-Key: b"},
		{"Cookie: " + strings.Repeat("c", 7000), "X-Filler: " + strings.Repeat("f", 7000)},
	} {
		s.mustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests, header...)
	}
}

// testClever sends what is to break out of the ask, or to break it.
func (s *stack) testClever(t *testing.T) {
	const client = "127.0.2.6"
	s.useUp(t, client)
	for _, tt := range []struct {
		head string
		want int
	}{
		{"GET / HTTP/1.0", 429},
		{"GET /?" + strings.Repeat("x", 8000) + " HTTP/1.1\r\nHost: x", 429},
		{"GET /?deny=403 HTTP/1.1\r\nHost: x", 429},
		{"GET http://other/x HTTP/1.1\r\nHost: other", 429},
		{"GET /\"},{%22?\"%0d%0aX-Forwarded-For:%20203.0.113.9 HTTP/1.1\r\nHost: x", 429},
		{"GET /{http.request.host}/{env.HOME} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {env.HOME}", 429},
		{"GET /\\..\\%2e%2e/ HTTP/1.1\r\nHost: x", 429},
		{"GET /\xff?\xff HTTP/1.1\r\nHost: x\r\nX-Api-Key: \"}\\u0000\xff", 429},
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", 429},
		{"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", 429},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-For\r\n\r\n1\r\nx\r\n0\r\nX-Forwarded-For: 203.0.113.9", 429},
		{"GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 14000), 429},
		{"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: \r\n", 2000) + "A: b", 429},
		// Headgate does not decide what it cannot read, and Caddy reads no more
		// than Headgate: nobody may pass uncounted by it.
		{"GET /%00%0d%0aX-Forwarded-For:%20203.0.113.9 HTTP/1.1\r\nHost: x", 400},
		{"GET /?" + strings.Repeat("x", 14000) + " HTTP/1.1\r\nHost: x", 400},
		{strings.Repeat("M", 14000) + " / HTTP/1.1\r\nHost: x", 405},
		{"GET /?" + strings.Repeat("x", 30000) + " HTTP/1.1\r\nHost: x", 431},
	} {
		if got := s.raw(t, client, tt.head); got != tt.want {
			t.Errorf("%.60q: %d, want %d", tt.head, got, tt.want)
		}
	}
	if n := s.site.visits(client); n != burst {
		t.Errorf("%d reached the site, want %d", n, burst)
	}
}

// raw sends a request that net/http would not, and returns the status.
func (s *stack) raw(t *testing.T, client, head string) int {
	t.Helper()
	c, err := from(client).DialContext(t.Context(), "tcp", s.ports.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, head+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", head, err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

// testAway: with Headgate hanging, dead or broken, reading goes on and the rest
// is closed; when it is back, limits hold again.
func (s *stack) testAway(t *testing.T) {
	const client, other = "127.0.2.7", "127.0.2.8"
	s.useUp(t, client)
	away := func(how string) {
		t.Helper()
		if a := s.mustAnswer(t, client, "GET", "/", "", http.StatusOK); a.header.Get("RateLimit") != "" {
			t.Errorf("%s: RateLimit %q, want none", how, a.header.Get("RateLimit"))
		}
		a := s.mustAnswer(t, other, "POST", "/", "x", http.StatusServiceUnavailable)
		if a.header.Get("Retry-After") != "5" || !strings.HasPrefix(a.body, "Closed for a moment") {
			t.Errorf("%s: Retry-After %q, %q: want 5 and what says so", how, a.header.Get("Retry-After"), a.body)
		}
	}

	if err := s.headgate.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.headgate.Resume() }) // or it could not be ended
	away("hanging")
	if err := s.headgate.Resume(); err != nil {
		t.Fatal(err)
	}
	s.mustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests)

	if err := s.headgate.Stop(); err != nil {
		t.Fatal(err)
	}
	away("stopped")

	// What has answered is not away: its answer is the client's.
	for _, status := range []int{403, 404, 500, 502, 503, 504} {
		l, err := net.Listen("tcp", s.ports.headgate)
		if err != nil {
			t.Fatal(err)
		}
		broken := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}
		go broken.Serve(l)
		s.mustAnswer(t, client, "GET", "/", "", status)
		s.mustAnswer(t, other, "POST", "/", "x", status)
		if err := broken.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.site.visits(other); n != 0 {
		t.Errorf("%d requests passed the closed door", n)
	}

	if err := s.startHeadgate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests) // it has not forgotten
}
