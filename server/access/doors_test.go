package access

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate/headgate/server/records"
)

// learn makes a token on record with one scope.
func learn(g *Guard, scope records.Scope, applications ...string) (token string) {
	token, id, digest := NewToken()
	g.Learn([]records.Token{{ID: id, Name: string(scope), Digest: digest, Scopes: []records.Scope{scope}, Applications: applications}}, false)
	return token
}

func TestRequire(t *testing.T) {
	g, log := newGuard(t)
	decider, reader := learn(g, records.Decide), learn(g, records.Read)
	const field, other = "Headgate-Token", "Authorization"
	for _, tt := range []struct {
		name   string
		header http.Header
		bearer int // status by Authorization
		field  int // and by the field
		shown  string
	}{
		{"none", nil, 401, 401, ""},
		{"Authorization", http.Header{other: {"Bearer " + decider}}, 200, 401, ""},
		{"the field", http.Header{field: {decider}}, 401, 200, ""},
		{"another scope", http.Header{other: {"Bearer " + reader}, field: {reader}}, 403, 403, ""},
		{"bootstrap", http.Header{other: {"Bearer " + testToken}, field: {testToken}}, 200, 200, ""},
		{"wrong", http.Header{other: {"Bearer " + decider + "x"}, field: {decider + "x"}}, 401, 401, `, error="invalid_token"`},
		{"with a scheme", http.Header{field: {"Bearer " + decider}}, 401, 401, `, error="invalid_token"`},
		{"empty", http.Header{field: {""}}, 401, 401, ""},
		{"twice", http.Header{field: {decider, decider}}, 401, 401, ""},
	} {
		r := httptest.NewRequest("POST", "/v1/take", nil)
		r.Header = tt.header
		answer := http.Header{}
		who, p := g.Require(records.Decide, answer, r)
		got := http.StatusOK
		if p != nil {
			got = p.Status
		}
		if got != tt.bearer || (who != nil) != (p == nil) {
			t.Errorf("%s: by Authorization %d, want %d", tt.name, got, tt.bearer)
		}
		answer = http.Header{}
		who, p = g.RequireField(records.Decide, field, answer, r)
		got = http.StatusOK
		if p != nil {
			got = p.Status
		}
		challenge := ""
		if tt.field == 401 {
			challenge = `Headgate-Token realm="headgate"` + tt.shown
		}
		if got != tt.field || (who != nil) != (p == nil) || answer.Get("WWW-Authenticate") != challenge {
			t.Errorf("%s: by the field %d, want %d; challenge %q, want %q", tt.name, got, tt.field, answer.Get("WWW-Authenticate"), challenge)
		}
	}
	if strings.Contains(log.String(), decider) {
		t.Errorf("a token was logged: %s", log)
	}
}

// Wrong tokens in a field are bounded with those of Authorization; that none was sent is
// no guess.
func TestWrongFieldsAreBounded(t *testing.T) {
	g, _ := newGuard(t)
	ask := func(token string) int {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Headgate-Token", token)
		if _, p := g.RequireField(records.Decide, "Headgate-Token", http.Header{}, r); p != nil {
			return p.Status
		}
		return 200
	}
	for range 20 {
		if got := ask(""); got != 401 {
			t.Errorf("no token: %d", got)
		}
	}
	refused := 0
	for range 20 {
		if ask("wrong") == 429 {
			refused++
		}
	}
	if refused < 9 {
		t.Errorf("%d of 20 wrong tokens were too many", refused)
	}
	if got := ask(testToken); got != 200 {
		t.Errorf("the right token: %d", got)
	}
}

func TestAllowed(t *testing.T) {
	g, _ := newGuard(t)
	from := func(address string) bool {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = address
		r.Header.Set("X-Forwarded-For", "10.1.2.3") // which anybody can write
		return g.Allowed(r.RemoteAddr)
	}
	if from("10.1.2.3:1") {
		t.Error("nobody was allowed yet")
	}
	networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	g.Allow(networks)
	networks[0] = netip.MustParsePrefix("192.0.2.0/24") // the caller's to change
	for address, want := range map[string]bool{
		"10.1.2.3:1": true, "[::ffff:10.1.2.3]:1": true, "[2001:db8::1]:1": true, "11.1.2.3:1": false, "192.0.2.1:1": false, "[2001:db9::1]:1": false,
		"@": false, "nonsense": false,
	} {
		if from(address) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
	g.Allow([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	if from("10.1.2.3:1") || !from("@") || !from("") {
		t.Error("the networks are those of the last call; a unix socket is this machine")
	}
}

// To know a token costs the collector nothing.
func TestRequireAllocations(t *testing.T) {
	g, _ := newGuard(t)
	r, answer := httptest.NewRequest("POST", "/v1/take", nil), http.Header{}
	r.Header.Set("Authorization", "Bearer "+learn(g, records.Decide, "email"))
	if n := testing.AllocsPerRun(200, func() {
		who, p := g.Require(records.Decide, answer, r)
		if p != nil || !who.Reaches("email") || who.Reaches("web") {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkRequire(b *testing.B) {
	g := New(Config{Token: testToken, Failures: testFailures(b)})
	for range 1000 {
		learn(g, records.Decide)
	}
	r, answer := httptest.NewRequest("POST", "/v1/take", nil), http.Header{}
	r.Header.Set("Authorization", "Bearer "+learn(g, records.Decide, "email"))
	b.ReportAllocs()
	for b.Loop() {
		if _, p := g.Require(records.Decide, answer, r); p != nil {
			b.Fatal(p.Detail)
		}
	}
}
