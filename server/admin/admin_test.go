package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

const testToken = "hga_0123456789abcdef0123456789abcdef"

// fakeGate remembers modes; nothing else is asked of it.
type fakeGate struct {
	engine
	modes []gate.Mode
	err   error
}

func (g *fakeGate) SetMode(m gate.Mode) error {
	if g.err == nil {
		g.modes = append(g.modes, m)
	}
	return g.err
}

func (g *fakeGate) Modes() []gate.Mode { return g.modes }

// Now is half an hour ahead of the machine's clock.
func (g *fakeGate) Now() int64 { return time.Now().Add(30 * time.Minute).UnixMicro() }

func (g *fakeGate) TrustedProxies(application string) ([]netip.Prefix, bool) {
	return nil, application == "email" || application == "web"
}

// setting is an api under test.
type setting struct {
	handler http.Handler
	gate    *fakeGate
	journal *journal.Journal
	guard   *access.Guard
	log     bytes.Buffer
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	limiter, err := headgate.New(memstore.New(memstore.Config{MaxBytes: 1 << 20}), headgate.PerMinute(10))
	if err != nil {
		t.Fatal(err)
	}
	s := &setting{gate: &fakeGate{}, journal: journal.New(journal.Config{}), guard: access.New(access.Config{Token: testToken, Failures: limiter})}
	mux := http.NewServeMux()
	for pattern, h := range Routes(Config{
		Gate: s.gate, Journal: s.journal, Guard: s.guard, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	}) {
		mux.Handle(pattern, h)
	}
	s.handler = mux
	return s
}

func (s *setting) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// request has the token.
func request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+testToken)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func wantAnswer(t *testing.T, w *httptest.ResponseRecorder, status int, parts ...string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	for _, part := range parts {
		if !strings.Contains(w.Body.String(), part) {
			t.Errorf("no %s in %s", part, w.Body)
		}
	}
}

// A token reaches what its scopes and its applications say, and nothing else.
func TestScopes(t *testing.T) {
	s := newSetting(t)
	until := s.gate.Now()
	s.gate.modes = []gate.Mode{{Until: time.UnixMicro(until)}, {Application: "email", Until: time.UnixMicro(until)}, {Application: "web", Until: time.UnixMicro(until)}}
	tokens := map[string]records.Token{
		"decide": {Scopes: []records.Scope{records.Decide}}, "read": {Scopes: []records.Scope{records.Read}},
		"operate": {Scopes: []records.Scope{records.Operate}}, "admin": {Scopes: []records.Scope{records.Admin}},
		"email": {Scopes: []records.Scope{records.Operate}, Applications: []string{"email"}},
	}
	for name, k := range tokens {
		k.ID, k.Digest = name, sha256.Sum256([]byte(name))
		s.guard.Learn([]records.Token{k}, false)
	}
	const shadow = `{"mode":"shadow","for":"1m"}`
	for _, tt := range []struct {
		token, method, path, body string
		status                    int
		want                      string
	}{
		{"nobody", "GET", "/v1/mode", "", 401, "unauthorized"},
		{"decide", "GET", "/v1/mode", "", 403, "lacks the scope read"},
		{"decide", "GET", "/v1/decisions", "", 403, "lacks the scope read"},
		{"read", "GET", "/v1/mode", "", 200, `"application":"web"`},
		{"read", "HEAD", "/v1/decisions", "", 200, ""},
		{"read", "PUT", "/v1/mode", shadow, 403, "lacks the scope operate"},
		{"read", "POST", "/v1/backup", "", 403, "lacks the scope admin"},
		{"operate", "GET", "/v1/mode", "", 200, ""},
		{"operate", "PUT", "/v1/mode", shadow, 200, ""},
		{"operate", "POST", "/v1/backup", "", 403, "lacks the scope admin"},
		{"admin", "PUT", "/v1/mode", shadow, 200, ""},
		{"admin", "POST", "/v1/backup", "", 409, "not_embedded"},
		{"email", "PUT", "/v1/mode", shadow, 400, "not for all applications"},
		{"email", "PUT", "/v1/mode", `{"application":"web","mode":"shadow","for":"1m"}`, 404, "not in the policy"},
		{"email", "PUT", "/v1/mode", `{"application":"email","mode":"shadow","for":"1m"}`, 200, `"application":"email"`},
		{"email", "GET", "/v1/decisions", "", 400, "not for all applications"},
		{"email", "GET", "/v1/decisions?application=web", "", 404, "not in the policy"},
		{"email", "GET", "/v1/decisions?application=email", "", 200, ""},
	} {
		r := request(tt.method, tt.path, tt.body)
		r.Header.Set("Authorization", "Bearer "+tt.token)
		w := s.do(r)
		wantAnswer(t, w, tt.status, tt.want)
		if tt.token == "email" && strings.Contains(w.Body.String(), `"application":"web"`) {
			t.Errorf("%s %s tells of another application: %s", tt.method, tt.path, w.Body)
		}
	}
}

func TestForeignPages(t *testing.T) {
	s := newSetting(t)
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
	const change = `{"mode":"shadow","for":"1m"}`
	tests := []struct {
		name, host string
		local      net.Addr
		header     [2]string
		status     int
	}{
		{"localhost", "localhost:8080", loopback, [2]string{}, 200},
		{"address", "127.0.0.1:8080", loopback, [2]string{}, 200},
		{"IPv6", "[::1]:8080", loopback, [2]string{}, 200},
		{"rebound name", "evil.example", loopback, [2]string{}, 403},
		{"name of another listener", "admin.example", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, [2]string{}, 200},
		{"unix socket", "localhost", &net.UnixAddr{Name: "/s"}, [2]string{}, 200},
		{"own origin", "localhost:8080", loopback, [2]string{"Origin", "http://localhost:8080"}, 200},
		{"other origin", "localhost:8080", loopback, [2]string{"Origin", "http://evil.example"}, 403},
		{"no origin to tell", "localhost:8080", loopback, [2]string{"Origin", "null"}, 403},
		{"cross-site", "localhost:8080", loopback, [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request("PUT", "/v1/mode", change)
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, tt.local))
			r.Host = tt.host
			if tt.header[0] != "" {
				r.Header.Set(tt.header[0], tt.header[1])
			}
			before := len(s.gate.modes)
			wantAnswer(t, s.do(r), tt.status)
			if changed := len(s.gate.modes) > before; changed != (tt.status == 200) {
				t.Errorf("changed: %v", changed)
			}
		})
	}
}

func TestMethods(t *testing.T) {
	s := newSetting(t)
	w := s.do(request("POST", "/v1/decisions", "{}"))
	wantAnswer(t, w, 405, "method_not_allowed")
	if got := w.Header().Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow %q", got)
	}
	wantAnswer(t, s.do(request("DELETE", "/v1/mode", "")), 405, "use GET, HEAD, PUT")
}

func TestMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetting(t)
		wantAnswer(t, s.do(request("GET", "/v1/mode", "")), 200, `{"items":[],"next":null}`)
		w := s.do(request("PUT", "/v1/mode", `{"application":"email","rule":"send","mode":"shadow","for":"30m"}`))
		wantAnswer(t, w, 200, `{"items":[{"application":"email","rule":"send","mode":"shadow","until":"2000-01-01T01:00:00Z"}],"next":null}`)
		if got := w.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control %q", got)
		}
		wantAnswer(t, s.do(request("PUT", "/v1/mode", `{"mode":"enforce","for":"0s"}`)), 200)
		want := gate.Mode{Until: time.UnixMicro(s.gate.Now())}
		if got := s.gate.modes[1]; got.Shadow || got.Application != "" || !got.Until.Equal(want.Until) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if log := s.log.String(); !strings.Contains(log, "mode override in force") || !strings.Contains(log, "mode override ended") {
			t.Errorf("the log does not tell: %s", log)
		}
	})
}

func TestModeFaults(t *testing.T) {
	notFound := &headgate.Error{Code: headgate.NotFound, Field: "application", Err: errors.New(`"x" is not in the policy`)}
	tests := []struct {
		name, body string
		gate       error
		status     int
		want       string
	}{
		{"mode", `{"mode":"off","for":"1m"}`, nil, 400, `"field":"mode"`},
		{"no time", `{"mode":"shadow"}`, nil, 400, "for is required"},
		{"a word", `{"mode":"shadow","for":"long"}`, nil, 400, `"field":"for"`},
		{"too long", `{"mode":"shadow","for":"24h0m1s"}`, nil, 400, "1s to 24h"},
		{"too short", `{"mode":"shadow","for":"999ms"}`, nil, 400, "1s to 24h"},
		{"negative", `{"mode":"shadow","for":"-1m"}`, nil, 400, "1s to 24h"},
		{"unknown field", `{"mode":"shadow","for":"1m","until":"x"}`, nil, 400, `"detail":"\"until\": unknown field","field":"until"`},
		{"unknown field first", `{"until":{"mode":"shadow"},"mode":"shadow","for":"1m"}`, nil, 400, `"field":"until"`},
		{"capitals", `{"Mode":"shadow","for":"1m"}`, nil, 400, `"field":"Mode"`},
		{"given twice", `{"mode":"enforce","mode":"shadow","for":"1m"}`, nil, 400, `"detail":"mode: given twice","field":"mode"`},
		{"given twice in two ways", `{"mode":"enforce","for":"1m","\u006dode":"shadow"}`, nil, 400, `"field":"mode"`},
		{"wrong type", `{"mode":1,"for":"1m"}`, nil, 400, `"field":"mode"`},
		{"null", `{"application":null,"mode":"shadow","for":"1m"}`, nil, 400, `"field":"application"`},
		{"object", `{"mode":{"a":1},"for":"1m"}`, nil, 400, `"field":"mode"`},
		{"list", `["shadow"]`, nil, 400, "must be a JSON object"},
		{"text", `"shadow"`, nil, 400, "must be a JSON object"},
		{"cut off", `{"mode":"shadow","for":"1m"`, nil, 400, "EOF"},
		{"no comma", `{"mode":"shadow" "for":"1m"}`, nil, 400, "not what this route takes"},
		{"comma at the end", `{"mode":"shadow","for":"1m",}`, nil, 400, "not what this route takes"},
		{"key without quotes", `{mode:"shadow","for":"1m"}`, nil, 400, "not what this route takes"},
		{"number as key", `{1:"shadow"}`, nil, 400, "not what this route takes"},
		{"rest is no JSON", `{"mode":"shadow","for":"1m"}}`, nil, 400, "not what this route takes"},
		{"two documents", `{"mode":"shadow","for":"1m"}{}`, nil, 400, "more after its end"},
		{"empty", ` `, nil, 400, "EOF"},
		{"too large", `{"mode":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, "body_too_large"},
		{"not in the policy", `{"application":"x","mode":"shadow","for":"1m"}`, notFound, 404, `"field":"application"`},
		{"inside", `{"mode":"shadow","for":"1m"}`, errors.New("secret"), 500, "internal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSetting(t)
			s.gate.err = tt.gate
			w := s.do(request("PUT", "/v1/mode", tt.body))
			wantAnswer(t, w, tt.status, tt.want)
			if strings.Contains(w.Body.String(), "secret") || len(s.gate.modes) > 0 {
				t.Errorf("told %s, set %v", w.Body, s.gate.modes)
			}
		})
	}
	s := newSetting(t)
	r := request("PUT", "/v1/mode", `{"mode":"shadow","for":"1m"}`)
	r.Header.Set("Content-Type", "text/plain")
	wantAnswer(t, s.do(r), 415, "unsupported_media_type")
}

func TestDecisions(t *testing.T) {
	s := newSetting(t)
	at := time.Date(2026, 3, 9, 12, 0, 0, 123456000, time.UTC)
	s.journal.Add(&journal.Entry{
		At: at, ID: [2]uint64{1, 0xab}, Application: "email", Rule: "send", Operation: "sendEmail", Subject: "<alice>", Plan: "free", Cost: 5,
		Reason: headgate.QuotaExceeded, BoundBy: "plan/daily", RetryAfter: 1500*time.Millisecond + 1, Retryable: true,
		Candidate: headgate.RateLimited, Door: "http",
	})
	s.journal.Add(&journal.Entry{
		At: at.Add(time.Second), Application: "email", Operation: "o", Subject: "bob", Allowed: true, Reason: headgate.OK, Retryable: true,
		WouldDeny: headgate.RateLimited, Shadow: true, Degraded: "local", Door: "forward_auth",
	})
	s.journal.Add(&journal.Entry{At: at.Add(2 * time.Second), Application: "email", Operation: "o", Subject: "carol", Reason: headgate.CostExceedsLimit, Door: "http"})
	const alice = `{"at":"2026-03-09T12:00:00.123456Z","decision_id":"000000000000000100000000000000ab","application":"email","rule":"send",` +
		`"operation":"sendEmail","subject":"<alice>","plan":"free","cost":5,"allowed":false,"reason":"quota_exceeded","bound_by":"plan/daily",` +
		`"retry_after_ms":1501,"would_deny":null,"mode":"enforce","candidate":{"allowed":false,"reason":"rate_limited"},"degraded":null,"door":"http","weight":1}`
	const bob = `"allowed":true,"reason":"ok","bound_by":null,"retry_after_ms":0,"would_deny":"rate_limited","mode":"shadow","candidate":null,"degraded":"local","door":"forward_auth"`
	const carol = `"subject":"carol","plan":"","cost":0,"allowed":false,"reason":"cost_exceeds_limit","bound_by":null,"retry_after_ms":null`
	wantAnswer(t, s.do(request("GET", "/v1/decisions", "")), 200, alice, bob, carol, `"next":null}`)
	wantAnswer(t, s.do(request("GET", "/v1/decisions?subject=%3Calice%3E&allowed=false&reason=quota_exceeded&application=email&rule=send&since=2026-03-09T12:00:00Z", "")),
		200, `{"items":[`+alice+`],"next":null}`)
	wantAnswer(t, s.do(request("GET", "/v1/decisions?allowed=true", "")), 200, bob)
	wantAnswer(t, s.do(request("GET", "/v1/decisions?subject=&since=2026-03-09T12:00:05Z", "")), 200, `{"items":[],"next":null}`)

	// Of an application that has left the policy what was decided is told.
	wantAnswer(t, s.do(request("GET", "/v1/decisions?application=web", "")), 200, `{"items":[],"next":null}`)
	wantAnswer(t, s.do(request("GET", "/v1/decisions?application=nope", "")), 404, `"field":"application"`, `application: \"nope\" is not in the policy`)
	s.journal.Add(&journal.Entry{At: at.Add(-time.Second), Application: "gone", Operation: "o", Subject: "dave", Reason: headgate.RateLimited, Door: "http"})
	wantAnswer(t, s.do(request("GET", "/v1/decisions?application=gone", "")), 200, `"subject":"dave"`)

	// Page by page.
	var got []string
	cursor := ""
	for range 4 {
		w := s.do(request("GET", "/v1/decisions?application=email&limit=1&cursor="+cursor, ""))
		var page struct {
			Items []struct{ Subject string }
			Next  string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			got = append(got, item.Subject)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if pages := strings.Join(got, " "); pages != "carol bob <alice>" {
		t.Errorf("pages: %s", pages)
	}
}

func TestDecisionsFaults(t *testing.T) {
	s := newSetting(t)
	for query, want := range map[string]string{
		"allowed=no":            `must be true or false`,
		"reason=sad":            `must be a reason`,
		"since=yesterday":       `must be a time such as 1h`,
		"since=-1h":             `must be a time such as 1h`,
		"limit=0":               `must be 1 to 500`,
		"limit=501":             `must be 1 to 500`,
		"cursor=-":              `must be the next of an answer`,
		"colour=red":            `unknown parameter`,
		"subject=a&subject=b":   `given twice`,
		"subject=%zz":           `the query cannot be read`,
		"subject=a;application": `the query cannot be read`,
	} {
		wantAnswer(t, s.do(request("GET", "/v1/decisions?"+query, "")), 400, want)
	}
}

func TestNothingIsAnsweredWithoutToken(t *testing.T) {
	s := newSetting(t)
	r := httptest.NewRequest("PUT", "/v1/mode", strings.NewReader(`{"mode":"shadow","for":"1m"}`))
	r.Header.Set("Content-Type", "application/json")
	wantAnswer(t, s.do(r), 401)
	if rest, err := io.ReadAll(r.Body); err != nil || len(rest) == 0 {
		t.Error("the body was read before the token was seen")
	}
	if len(s.gate.modes) > 0 {
		t.Error("a mode was set")
	}
}
