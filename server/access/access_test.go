package access

import (
	"bytes"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

const testToken = "hga_0123456789abcdef0123456789abcdef"

func testFailures(tb testing.TB) *headgate.Limiter {
	tb.Helper()
	limiter, err := headgate.New(memstore.New(memstore.Config{MaxBytes: 1 << 20}), headgate.PerMinute(10))
	if err != nil {
		tb.Fatal(err)
	}
	return limiter
}

func newGuard(t *testing.T) (*Guard, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	return New(Config{Token: testToken, Failures: testFailures(t), Logger: slog.New(slog.NewTextHandler(log, nil))}), log
}

// identify returns who sends the header lines, from an address, and the status and
// header of the problem.
func identify(g *Guard, address string, lines ...string) (who *Identity, status int, answer http.Header) {
	r := httptest.NewRequest("GET", "/v1/mode", nil)
	r.RemoteAddr = address
	if lines != nil {
		r.Header["Authorization"] = lines
	}
	answer = make(http.Header)
	who, p := g.Identify(answer, r)
	if p != nil {
		return who, p.Status, answer
	}
	return who, 200, answer
}

func TestIdentify(t *testing.T) {
	g, log := newGuard(t)
	token, id, digest := NewToken()
	g.Learn([]records.Token{{ID: id, Name: "CI", Digest: digest, Scopes: []records.Scope{records.Decide}, Applications: []string{"email"}}}, true)
	const invalid = `Bearer realm="headgate", error="invalid_token"`
	for _, tt := range []struct {
		name      string
		lines     []string
		who       string
		challenge string
	}{
		{"none", nil, "", `Bearer realm="headgate"`},
		{"wrong", []string{"Bearer hga_0123456789abcdef0123456789abcdeg"}, "", invalid},
		{"a part of it", []string{"Bearer " + testToken[:20]}, "", invalid},
		{"another scheme", []string{"Basic " + testToken}, "", invalid},
		{"two", []string{"Bearer " + testToken, "Bearer other"}, "", invalid},
		{"bootstrap", []string{"Bearer " + testToken}, Bootstrap, ""},
		{"scheme in small letters", []string{"bearer " + testToken}, Bootstrap, ""},
		{"on record", []string{"Bearer " + token}, "CI", ""},
	} {
		who, status, answer := identify(g, "192.0.2.1:1", tt.lines...)
		name := ""
		if who != nil {
			name = who.Name
		}
		if name != tt.who || (status == 200) != (tt.who != "") || status != 200 && status != 401 || answer.Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s: %q, status %d, %v", tt.name, name, status, answer)
		}
	}
	for _, secret := range []string{testToken, token, "abcdeg"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("a token was logged: %s", log)
		}
	}
}

func TestMay(t *testing.T) {
	all := []records.Scope{records.Decide, records.Read, records.Operate, records.Admin}
	for scope, may := range map[records.Scope][4]bool{
		records.Decide: {true, false, false, false}, records.Read: {false, true, false, false},
		records.Operate: {false, true, true, false}, records.Admin: {true, true, true, true}, "other": {},
	} {
		i := Identity{scopes: []records.Scope{scope}}
		for n, s := range all {
			if i.May(s) != may[n] {
				t.Errorf("%s may %s: %v", scope, s, i.May(s))
			}
		}
	}
	some, every := Identity{applications: []string{"email"}}, Identity{}
	if !some.Reaches("email") || some.Reaches("web") || some.Reaches("") || some.Everywhere() || !every.Reaches("web") || !every.Everywhere() {
		t.Error("applications")
	}
	if none := (Identity{applications: []string{}}); none.Reaches("email") || none.Everywhere() {
		t.Error("a token for no application reaches one")
	}
}

// What is revoked, has expired or is gone is nobody's at once.
func TestLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGuard(t)
		token := func(name string) records.Token {
			return records.Token{ID: name, Name: name, Digest: sha256.Sum256([]byte(name))}
		}
		short := token("short")
		short.Expires = time.Now().Add(time.Minute)
		g.Learn([]records.Token{token("a"), token("b"), short}, true)
		known := func() (names string) {
			for _, name := range []string{"a", "b", "c", "short", testToken} {
				if i := g.Find(name); i != nil {
					names += i.Name + " "
				}
			}
			return names
		}
		check := func(want string) {
			t.Helper()
			if got := known(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		check("a b short bootstrap ")
		<-time.After(time.Minute)
		check("a b bootstrap ")
		gone := token("a")
		gone.Revoked = time.Now()
		g.Learn([]records.Token{gone, token("c")}, false)
		check("b c bootstrap ")
		g.Learn([]records.Token{token("c")}, true)
		check("c bootstrap ")
	})
}

func TestNewToken(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		token, id, digest := NewToken()
		if seen[token] || seen[id] || len(token) < 40 || len(id) != 16 || digest != sha256.Sum256([]byte(token)) || strings.ContainsAny(id, " =/") {
			t.Fatalf("%q, %q", token, id)
		}
		seen[token], seen[id] = true, true
	}
}

// Wrong tokens are bounded by the address that sends them. The right one is never kept
// out.
func TestWrongTokensAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGuard(t)
		wrong := func(address string, want int) http.Header {
			t.Helper()
			_, status, answer := identify(g, address, "Bearer wrong")
			if status != want {
				t.Errorf("%s: status %d, want %d", address, status, want)
			}
			return answer
		}
		for range 10 {
			wrong("[2001:db8::1]:1", 401)
		}
		if got := wrong("[2001:db8::2]:1", 429).Get("Retry-After"); got != "6" { // of the same /64
			t.Errorf("Retry-After %q, want 6", got)
		}
		wrong("192.0.2.1:1", 401)
		if who, _, _ := identify(g, "[2001:db8::1]:1", "Bearer "+testToken); who == nil {
			t.Error("the right token was kept out")
		}
		<-time.After(6 * time.Second)
		wrong("[2001:db8::1]:1", 401)
		wrong("[2001:db8::1]:1", 429)
	})
}
