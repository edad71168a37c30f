package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/examples/stage"
	"github.com/headgate/headgate/examples/stage/stagetest"
)

func start(t *testing.T, bin string) *stack {
	t.Helper()
	s, err := startStack(context.Background(), bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask sends one request from a loopback address, so that each test is a client
// of its own.
func (s *stack) ask(t *testing.T, from, method, path, body string, header ...string) stage.Answer {
	t.Helper()
	return stagetest.Ask(t, from, method, s.url+path, body, header...)
}

// useUp logs in three times, which is all that the policy allows for 6 minutes.
func (s *stack) useUp(t *testing.T, from string, header ...string) {
	t.Helper()
	for i := range 3 {
		if a := s.ask(t, from, "POST", "/login", "name=x", header...); a.StatusCode != http.StatusOK {
			t.Fatalf("login %d from %s: %d %q, want 200", i+1, from, a.StatusCode, a.Body)
		}
	}
}

func (s *stack) mustRefuse(t *testing.T, from, method, path, body string, header ...string) stage.Answer {
	t.Helper()
	a := s.ask(t, from, method, path, body, header...)
	if a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%s %s from %s with %.60q: %d %q, want 429", method, path, from, header, a.StatusCode, a.Body)
	}
	return a
}

func TestNginx(t *testing.T) {
	bin := stagetest.Headgate(t)
	t.Run("under load", func(t *testing.T) {
		stagetest.Run(t, bin, func(ctx context.Context, w io.Writer, headgate string) error {
			return run(ctx, w, headgate, 3*time.Second)
		})
	})
	t.Run("Headgate is away", func(t *testing.T) { testAway(t, bin) })
	t.Run("one by one", func(t *testing.T) {
		s := start(t, bin)
		t.Run("refusal", s.testRefusal)
		t.Run("methods and bodies", s.testBodies)
		t.Run("forged headers", s.testForged)
		t.Run("spellings of a path", s.testSpellings)
		t.Run("keys", s.testKeys)
		t.Run("the site's own answers", s.testOwnAnswers)
	})
}

// TestCheck feeds wrong outcomes to the check that judges the load.
func TestCheck(t *testing.T) {
	good := outcome{
		bucket: bucket{rate: 100, burst: 500},
		alive:  3 * time.Second, loaded: 2900 * time.Millisecond, visited: 2800 * time.Millisecond,
		site: 800, passed: 790, refused: 9000,
	}
	if err := good.check(); err != nil {
		t.Errorf("good outcome: %v", err)
	}
	for name, spoil := range map[string]func(o *outcome){
		"one too many":       func(o *outcome) { o.site, o.passed = 801, 801 },
		"too few":            func(o *outcome) { o.site, o.passed = 763, 763 },
		"no more after 1 s":  func(o *outcome) { o.site, o.passed, o.visited = 600, 600, time.Second },
		"nothing refused":    func(o *outcome) { o.refused = 0 },
		"other status":       func(o *outcome) { o.other = 1 },
		"lost answers":       func(o *outcome) { o.passed = o.site - connections - 1 },
		"answers from where": func(o *outcome) { o.passed = o.site + 1 },
		"broken connection":  func(o *outcome) { o.failed = 1 },
	} {
		o := good
		spoil(&o)
		if o.check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := bucketOf("tries"); err == nil {
		t.Error("bucketOf: no error for a limit that is not per second")
	}
}

func (s *stack) testRefusal(t *testing.T) {
	const from = "127.0.1.1"
	a := s.ask(t, from, "POST", "/login", "name=x")
	if want := `"login/tries";r=2;t=720`; a.StatusCode != 200 || a.Header.Get("RateLimit") != want {
		t.Errorf("first login: %d, RateLimit %q, want 200 and %q", a.StatusCode, a.Header.Get("RateLimit"), want)
	}
	if v, there := a.Header["Retry-After"]; there {
		t.Errorf("first login: Retry-After %q, want none", v)
	}
	s.ask(t, from, "POST", "/login", "name=x")
	s.ask(t, from, "POST", "/login", "name=x")

	a = s.mustRefuse(t, from, "POST", "/login", "name=x")
	wait, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if err != nil || wait < 1 || wait > 360 {
		t.Errorf("Retry-After %q, want 1 to 360", a.Header.Get("Retry-After"))
	}
	for field, want := range map[string]string{
		"RateLimit":        fmt.Sprintf(`"login/tries";r=0;t=%d`, wait),
		"RateLimit-Policy": `"login/tries";q=3;w=1080`,
		"Headgate-Reason":  "rate_limited",
		"Content-Type":     "text/plain",
	} {
		if got := a.Header[http.CanonicalHeaderKey(field)]; len(got) != 1 || got[0] != want {
			t.Errorf("%s %q, want once %q", field, got, want)
		}
	}
	if want := fmt.Sprintf("Try again in %d s.", wait); !strings.Contains(a.Body, want) {
		t.Errorf("body %q, want %q in it", a.Body, want)
	}
	if n := s.site.visits("/login", "").n; n != 3 {
		t.Errorf("%d logins reached the site, want 3", n)
	}
	if a := s.ask(t, "127.0.1.2", "POST", "/login", ""); a.StatusCode != 200 {
		t.Errorf("login from another address: %d, want 200", a.StatusCode)
	}
}

func (s *stack) testBodies(t *testing.T) {
	const from = "127.0.2.1"
	big := strings.Repeat("x", 200_000) // more than nginx keeps in memory
	for _, tt := range []struct{ method, body, want string }{
		{"POST", "name=x", "POST /login, 6 bytes\n"},
		{"PUT", big, "PUT /login, 200000 bytes\n"},
		{"HEAD", "", ""},
	} {
		if a := s.ask(t, from, tt.method, "/login", tt.body); a.StatusCode != 200 || a.Body != tt.want {
			t.Errorf("%s: %d %q, want 200 %q", tt.method, a.StatusCode, a.Body, tt.want)
		}
	}
	s.mustRefuse(t, from, "POST", "/login", big)
	s.mustRefuse(t, from, "DELETE", "/login", "")
	if a := s.mustRefuse(t, from, "HEAD", "/login", ""); a.Header.Get("Retry-After") == "" {
		t.Error("HEAD: no Retry-After")
	}
}

// testForged is a client that tries to pass for another, for another request,
// or for Headgate.
func (s *stack) testForged(t *testing.T) {
	const from = "127.0.3.1"
	s.useUp(t, from)
	for _, header := range [][]string{
		{"X-Original-URI: /other"}, {"X-Original-Method: OPTIONS"}, {"X-Original-URI: /other", "X-Original-Method: GET"},
		{"X-Forwarded-Uri: /other"}, {"X-Forwarded-Method: OPTIONS"}, {"X-Forwarded-Host: other"}, {"X-Forwarded-For: 203.0.113.9"},
		{"X-Real-IP: 203.0.113.9"}, {"X-Real-IP: nonsense"}, {"Forwarded: for=203.0.113.9"}, {"X-Forwarded-For: " + strings.Repeat("1.1.1.1,", 900)},
		{"Headgate-Status: 204"}, {"Headgate-Reason: ok"}, {"Headgate-Token: x"}, {"Retry-After: 0"},
		{"Connection: X-Real-IP, X-Original-URI"}, {"Expect: 100-continue"}, {"X-HTTP-Method-Override: OPTIONS"},
		{"Cookie: " + strings.Repeat("c", 7000), "X-Filler: " + strings.Repeat("f", 7000), "X-Api-Key: " + strings.Repeat("k", 7000)},
	} {
		s.mustRefuse(t, from, "POST", "/login", "name=x", header...)
	}
	for _, path := range []string{"/_headgate/open", "/_headgate/closed", "/_headgate/"} {
		if a := s.ask(t, from, "GET", path, ""); a.StatusCode != 404 {
			t.Errorf("GET %s: %d, want 404", path, a.StatusCode)
		}
	}
}

func (s *stack) testSpellings(t *testing.T) {
	const from = "127.0.4.1"
	s.useUp(t, from)
	for _, path := range []string{"/login?x=1", "//login", "/./login", "/a/../login", "/%6cogin", "/%6Cogin", "/a/%2e%2e/login", "/login?/../other", "/login#x"} {
		s.mustRefuse(t, from, "GET", path, "")
	}
	long := "/login?" + strings.Repeat("x", 7000)
	for _, head := range []string{
		"GET " + s.url + "/login HTTP/1.1\r\nHost: x",
		"GET HTTP://other//login HTTP/1.1\r\nHost: x",
		"GET /login#/../other HTTP/1.1\r\nHost: x",
		"GET /x/%2e./%2flogin HTTP/1.1\r\nHost: x",
		"GET /login HTTP/1.0",
		"GET " + long + " HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + strings.Repeat("k", 7000),
		"POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0",
	} {
		if status := stagetest.AskRaw(t, from, s.ports.Listen, head); status != 429 {
			t.Errorf("%.60q: %d, want 429", head, status)
		}
	}
	// Nobody can decide what Headgate cannot read: it is no reason to open.
	if status := stagetest.AskRaw(t, from, s.ports.Listen, "GET /login HTTP/1.1\r\nHost: x\r\nX-Api-Key: a\x01b"); status != 503 {
		t.Errorf("a key with a control character: %d, want 503", status)
	}
}

// testKeys: a known key is a subject of its own at every address, an unknown
// one is whoever sends it.
func (s *stack) testKeys(t *testing.T) {
	s.useUp(t, "127.0.5.1", "X-Api-Key: key-alice")
	s.mustRefuse(t, "127.0.5.1", "POST", "/login", "", "X-Api-Key: key-alice")
	s.mustRefuse(t, "127.0.5.2", "POST", "/login", "", "X-Api-Key: key-alice")
	s.useUp(t, "127.0.5.1", "X-Api-Key: key-bob")
	s.useUp(t, "127.0.5.1", "X-Api-Key: key-unknown")
	s.mustRefuse(t, "127.0.5.1", "POST", "/login", "", "X-Api-Key: another")
	s.mustRefuse(t, "127.0.5.1", "POST", "/login", "")
}

func (s *stack) testOwnAnswers(t *testing.T) {
	const from = "127.0.6.1"
	for _, status := range []int{204, 302, 400, 401, 403, 404, 429, 500, 502, 503} {
		a := s.ask(t, from, "GET", fmt.Sprintf("/status/%d", status), "")
		if a.StatusCode != status {
			t.Errorf("the site's own %d became %d", status, a.StatusCode)
		}
		if want := "the site's own answer\n"; status != 204 && a.Body != want {
			t.Errorf("the site's own %d has the body %q, want %q", status, a.Body, want)
		}
		if a.Header.Get("RateLimit") == "" || a.Header.Get("Retry-After") != "" {
			t.Errorf("the site's own %d: RateLimit %q, Retry-After %q, want one and none", status, a.Header.Get("RateLimit"), a.Header.Get("Retry-After"))
		}
	}
	if a := s.ask(t, from, "GET", "/private/x", ""); a.StatusCode != 403 {
		t.Errorf("nginx's own 403 became %d", a.StatusCode)
	}
	buffers := filepath.Join(s.Dir, "body") // where nginx may not write now
	if err := os.Chmod(buffers, 0); err != nil {
		t.Fatal(err)
	}
	if a := s.ask(t, from, "PUT", "/", strings.Repeat("x", 200_000)); a.StatusCode != 500 {
		t.Errorf("nginx's own 500 became %d %q", a.StatusCode, a.Body)
	}
	if err := os.Chmod(buffers, 0o700); err != nil {
		t.Fatal(err)
	}
}

// testAway: with Headgate dead, hanging or broken, / stays up and /api/ is closed;
// when it is back, limits hold again.
func testAway(t *testing.T, bin string) {
	s := start(t, bin)
	const from = "127.0.7.1"
	limits := func() { s.mustRefuse(t, from, "GET", "/login", "") }
	s.useUp(t, from)
	limits()

	away := func(how string, _ int) {
		if a := s.ask(t, from, "POST", "/login", "name=x"); a.StatusCode != 200 || a.Body != "POST /login, 6 bytes\n" {
			t.Errorf("%s: POST /login: %d %q, want the site's answer", how, a.StatusCode, a.Body)
		}
		a := s.ask(t, from, "GET", "/api/orders", "", "X-Api-Key: key-alice")
		if a.StatusCode != 503 || a.Header.Get("Retry-After") != "5" || !strings.Contains(a.Body, "Closed for a moment") {
			t.Errorf("%s: GET /api/orders: %d, Retry-After %q, %q: want 503, 5 and the page that says so", how, a.StatusCode, a.Header.Get("Retry-After"), a.Body)
		}
		if a := s.ask(t, from, "GET", "/status/403", ""); a.StatusCode != 403 {
			t.Errorf("%s: the site's own 403 became %d", how, a.StatusCode)
		}
	}

	stagetest.Away(t, s.headgate, s.ports.Headgate, []int{500, 503}, limits, away)
	if n := s.site.visits("/api/orders", "key-alice").n; n != 0 {
		t.Errorf("%d requests passed the closed location", n)
	}

	if err := s.startHeadgate(t.Context()); err != nil {
		t.Fatal(err)
	}
	limits() // it has not forgotten
}

// TestREADME: what the README shows is what was tested.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, snippet, found := strings.Cut(string(readme), "```nginx\n")
	snippet, _, closed := strings.Cut(snippet, "```")
	if !found || !closed {
		t.Fatal("README.md has no nginx snippet")
	}
	conf, err := files.ReadFile("nginx.conf.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	tested := make(map[string]bool)
	for line := range strings.Lines(string(conf)) {
		tested[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(snippet) {
		if line = strings.TrimSpace(line); !tested[line] {
			t.Errorf("README.md: %q is not in nginx.conf.tmpl", line)
		}
	}
}
