// Package webproxytest is the suite for examples of package webproxy.
package webproxytest

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate/examples/stage"
	"github.com/headgate/headgate/examples/stage/stagetest"
	"github.com/headgate/headgate/examples/stage/webproxy"
)

// Differences is what one proxy does otherwise than another.
type Differences struct {
	// More heads of requests that a client sends who has used up all, each with
	// the status of its answer.
	Clever map[string]int
	// What a broken Headgate says: these statuses are the client's answer, ...
	Answers []int
	// ... and with these it is as if it were away.
	Away []int
}

// Stack is one under test.
type Stack struct{ *webproxy.Stack }

// Start starts a stack, which ends with the test.
func Start(t *testing.T, e webproxy.Example, headgate string) Stack {
	t.Helper()
	s, err := e.Start(context.Background(), headgate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return Stack{s}
}

// Run runs the example, and then asks one by one.
func Run(t *testing.T, e webproxy.Example, headgate string, d Differences) {
	t.Run("example", func(t *testing.T) { stagetest.Run(t, headgate, e.Run) })
	t.Run("one by one", func(t *testing.T) {
		patient := e
		patient.Timeout = webproxy.Patient
		s := Start(t, patient, headgate)
		t.Run("fields", s.testFields)
		t.Run("bodies", s.testBodies)
		t.Run("keys", s.testKeys)
		t.Run("load balancer", s.testBalancer)
		t.Run("forged", s.testForged)
		t.Run("clever", func(t *testing.T) { s.testClever(t, d.Clever) })
	})
	t.Run("away", func(t *testing.T) { Start(t, e, headgate).testAway(t, d) })
}

// MustAnswer fails unless the answer has the status want. Header holds lines
// "Name: value".
func (s Stack) MustAnswer(t *testing.T, client, method, path, body string, want int, header ...string) stage.Answer {
	t.Helper()
	a := stagetest.Ask(t, client, method, s.URL+path, body, header...)
	if a.StatusCode != want {
		t.Errorf("%s %.60s from %s with %.60q: %d %q, want %d", method, path, client, header, a.StatusCode, a.Body, want)
	}
	return a
}

// useUp takes all that a client has.
func (s Stack) useUp(t *testing.T, client string, header ...string) {
	t.Helper()
	for range webproxy.Burst {
		s.MustAnswer(t, client, "GET", "/", "", http.StatusOK, header...)
	}
	s.MustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests, header...)
}

func (s Stack) testFields(t *testing.T) {
	const client = "127.0.2.1"
	a := s.MustAnswer(t, client, "GET", "/?x=1", "", http.StatusOK)
	for field, want := range map[string]string{"RateLimit": `"pages/views";r=19;t=6840`, "RateLimit-Policy": `"pages/views";q=20;w=7200`} {
		if got := a.Header[http.CanonicalHeaderKey(field)]; len(got) != 1 || got[0] != want {
			t.Errorf("passed: %s %q, want once %q", field, got, want)
		}
	}
	for range webproxy.Burst - 1 {
		s.MustAnswer(t, client, "GET", "/", "", http.StatusOK)
	}
	a = s.MustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests)
	wait, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if err != nil || wait < 1 || wait > 360 {
		t.Errorf("refused: Retry-After %q, want 1 to 360", a.Header.Get("Retry-After"))
	}
	for field, want := range map[string]string{
		"RateLimit":       `"pages/views";r=0;t=` + a.Header.Get("Retry-After"),
		"Content-Type":    "application/problem+json",
		"Cache-Control":   "no-store",
		"Headgate-Reason": "rate_limited",
	} {
		if got := a.Header[http.CanonicalHeaderKey(field)]; len(got) != 1 || got[0] != want {
			t.Errorf("refused: %s %q, want once %q", field, got, want)
		}
	}
	if !strings.Contains(a.Body, `"status":429`) {
		t.Errorf("refused: body %q, want a problem with status 429", a.Body)
	}
	if n := s.Visits(client); n != webproxy.Burst {
		t.Errorf("%d reached the site, want %d", n, webproxy.Burst)
	}
}

func (s Stack) testBodies(t *testing.T) {
	const client = "127.0.2.2"
	big := strings.Repeat("x", 200_000) // more than proxies keep in memory
	for _, tt := range []struct{ method, body, want string }{
		{"POST", "name=x", "POST /, 6 bytes\n"},
		{"PUT", big, "PUT /, 200000 bytes\n"},
		{"HEAD", "", ""},
	} {
		if a := s.MustAnswer(t, client, tt.method, "/", tt.body, http.StatusOK); a.Body != tt.want {
			t.Errorf("%s: %q, want %q", tt.method, a.Body, tt.want)
		}
	}
	for range webproxy.Burst - 3 {
		s.MustAnswer(t, client, "GET", "/", "", http.StatusOK)
	}
	s.MustAnswer(t, client, "POST", "/", "name=x", http.StatusTooManyRequests)
	s.MustAnswer(t, client, "DELETE", "/", "", http.StatusTooManyRequests)
	if a := s.MustAnswer(t, client, "HEAD", "/", "", http.StatusTooManyRequests); a.Header.Get("Retry-After") == "" || a.Body != "" {
		t.Errorf("HEAD: Retry-After %q, body %q, want one and none", a.Header.Get("Retry-After"), a.Body)
	}
}

// testKeys: a known key is a subject of its own at every address, an unknown
// one is whoever sends it.
func (s Stack) testKeys(t *testing.T) {
	s.useUp(t, "127.0.2.3", "X-Api-Key: key-alice")
	s.MustAnswer(t, "127.0.2.4", "GET", "/", "", http.StatusTooManyRequests, "X-Api-Key: key-alice")
	s.useUp(t, "127.0.2.3", "X-Api-Key: unknown")
	s.MustAnswer(t, "127.0.2.3", "GET", "/", "", http.StatusTooManyRequests, "X-Api-Key: another")
}

// testBalancer: who is believed names the client, and only the last address,
// which is its own word, counts.
func (s Stack) testBalancer(t *testing.T) {
	const balancer = "127.0.0.2"
	s.useUp(t, balancer, "X-Forwarded-For: 203.0.113.1")
	s.MustAnswer(t, balancer, "GET", "/", "", http.StatusTooManyRequests, "X-Forwarded-For: 203.0.113.9, 203.0.113.1")
	s.MustAnswer(t, balancer, "GET", "/", "", http.StatusOK, "X-Forwarded-For: 203.0.113.1, 203.0.113.2")
}

// testForged is a client that tries to pass for another, for another request,
// or for Headgate.
func (s Stack) testForged(t *testing.T) {
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
		s.MustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests, header...)
	}
}

// testClever sends what is to break out of the ask, or to break it.
func (s Stack) testClever(t *testing.T, more map[string]int) {
	const client = "127.0.2.6"
	s.useUp(t, client)
	heads := map[string]int{
		"GET / HTTP/1.0": 429,
		"GET http://other/x HTTP/1.1\r\nHost: other":                                                             429,
		"GET /\"},{%22?\"%0d%0aX-Forwarded-For:%20203.0.113.9%0d%0aX-Real-IP:%20203.0.113.9 HTTP/1.1\r\nHost: x": 429,
		"GET /\\..\\%2e%2e/ HTTP/1.1\r\nHost: x":                                                                 429,
		"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: \"}\\u0000\xff":                                                 429,
		// Headgate does not decide what it cannot read.
		"GET /%00%0d%0aX-Forwarded-For:%20203.0.113.9%0d%0aX-Real-IP:%20203.0.113.9 HTTP/1.1\r\nHost: x": 400,
	}
	maps.Copy(heads, more)
	for head, want := range heads {
		if got := stagetest.AskRaw(t, client, s.Listen, head); got != want {
			t.Errorf("%.60q: %d, want %d", head, got, want)
		}
	}
	if n := s.Visits(client); n != webproxy.Burst {
		t.Errorf("%d reached the site, want %d", n, webproxy.Burst)
	}
}

// testAway: with Headgate hanging, dead or broken, reading goes on and the rest
// is closed; when it is back, limits hold again.
func (s Stack) testAway(t *testing.T, d Differences) {
	const client, other = "127.0.2.7", "127.0.2.8"
	s.useUp(t, client)
	limits := func() { s.MustAnswer(t, client, "GET", "/", "", http.StatusTooManyRequests) }
	stagetest.Away(t, s.Headgate, s.Asked, append(d.Answers, d.Away...), limits, func(how string, status int) {
		if slices.Contains(d.Answers, status) {
			s.MustAnswer(t, client, "GET", "/", "", status)
			s.MustAnswer(t, other, "POST", "/", "x", status)
			return
		}
		if a := s.MustAnswer(t, client, "GET", "/", "", http.StatusOK); a.Header.Get("RateLimit") != "" {
			t.Errorf("%s: RateLimit %q, want none", how, a.Header.Get("RateLimit"))
		}
		a := s.MustAnswer(t, other, "POST", "/", "x", http.StatusServiceUnavailable)
		if a.Header.Get("Retry-After") != "5" || !strings.HasPrefix(a.Body, "Closed for a moment") {
			t.Errorf("%s: Retry-After %q, %q: want 5 and what says so", how, a.Header.Get("Retry-After"), a.Body)
		}
	})
	if n := s.Visits(other); n != 0 {
		t.Errorf("%d requests passed the closed door", n)
	}
	if err := s.StartHeadgate(t.Context()); err != nil {
		t.Fatal(err)
	}
	limits() // it has not forgotten
}
