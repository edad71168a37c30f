package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// fakeGate allows everything and counts how often it was asked. Subjects name
// what shall go wrong.
type fakeGate struct {
	asked    atomic.Int64
	throttle gate.Throttle
	ready    error
}

func (f *fakeGate) Take(_ context.Context, r *gate.Request, d *gate.Decision) error {
	f.asked.Add(1)
	switch {
	case r.Application == "nowhere":
		return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%q: no such application", r.Application)}
	case r.Subject == "store away":
		return fmt.Errorf("gate: take: %w", &headgate.Error{Code: headgate.Unavailable, Err: errors.New("redis at 10.1.2.3 refused")})
	case r.Subject == "bug":
		panic("secret of the handler")
	case r.Subject == "broken":
		return errors.New("secret of the gate")
	}
	*d = gate.Decision{
		Decision: headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1},
		ID:       [2]uint64{0x0123456789abcdef, 0xf}, Application: r.Application, Operation: r.Operation, Subject: r.Subject,
		Plan: r.Plan, Cost: r.Cost, Revision: 7,
	}
	return nil
}

func (f *fakeGate) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return f.Take(ctx, r, d)
}

func (f *fakeGate) Throttle(_ context.Context, t *gate.Throttle, d *gate.Decision) error {
	f.asked.Add(1)
	f.throttle = *t
	*d = gate.Decision{
		Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, BoundBy: -1, RetryAfter: 1500 * time.Microsecond},
		Subject:  t.Key, Cost: t.Cost,
	}
	return nil
}

func (f *fakeGate) Ready() error { return f.ready }

// serve starts a door on a fake gate.
func serve(t *testing.T, c Config) (*httptest.Server, *fakeGate) {
	t.Helper()
	f := &fakeGate{}
	if c.Gate == nil {
		c.Gate = f
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(New(c), slog.New(slog.NewTextHandler(t.Output(), nil)))
	s.Start()
	t.Cleanup(s.Close)
	return s, f
}

// countingStore counts what reaches the store.
type countingStore struct {
	headgate.Store
	applied atomic.Int64
}

func (s *countingStore) Apply(ctx context.Context, b *headgate.Batch) error {
	s.applied.Add(1)
	return s.Store.Apply(ctx, b)
}

const testPolicy = `
version: 1
applications:
  a:
    rules:
      - {name: o, match: {operation: o}, limits: [{name: burst, rate: 2/h}]}
`

func realGate(t *testing.T) (*gate.Gate, *countingStore) {
	t.Helper()
	store := &countingStore{Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})}
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(testPolicy), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return g, store
}

// send does one request and returns its status, headers and body.
func send(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func post1(t *testing.T, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

// wantProblem checks that an answer is the problem and nothing else.
func wantProblem(t *testing.T, resp *http.Response, body string, status int, field, detail string) {
	t.Helper()
	var p struct {
		Type, Title, Detail, Field string
		Status                     int
		Errors                     []struct{ Pointer, Detail string }
	}
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if resp.StatusCode != status || p.Status != status || p.Field != field || p.Detail != detail {
		t.Errorf("got %d %q %q\nwant %d %q %q", resp.StatusCode, p.Field, p.Detail, status, field, detail)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q", ct)
	}
	if !strings.HasPrefix(p.Type, "urn:headgate:problem:") || p.Title != http.StatusText(status) {
		t.Errorf("type %q, title %q", p.Type, p.Title)
	}
	if (field != "") != (len(p.Errors) == 1) {
		t.Errorf("errors %v for field %q", p.Errors, field)
	}
}

func TestBadInput(t *testing.T) {
	take := func(rest string) string { return `{"application":"a","operation":"o",` + rest + `}` }
	long := strings.Repeat("x", 513)
	tests := []struct {
		name, path, body string
		status           int
		field, detail    string
	}{
		{"nothing", "take", "", 400, "", "the body is not valid JSON: it ends at byte 0, expected an object"},
		{"broken", "take", `{"application":"a"`, 400, "", "the body is not valid JSON: it ends at byte 18, expected ',' or '}'"},
		{"no comma", "take", `{"application":"a" "b"`, 400, "", `the body is not valid JSON: at byte 19 expected ',' or '}', found '"'`},
		{"trailing comma", "take", `{"application":"a",}`, 400, "", "the body is not valid JSON: at byte 19 expected the name of a field in double quotes, found '}'"},
		{"no colon", "take", `{"application" 1}`, 400, "", "the body is not valid JSON: at byte 15 expected ':', found '1'"},
		{"not JSON", "take", `application=a`, 400, "", "the body is not valid JSON: at byte 0 expected an object, found 'a'"},
		{"array", "take", `[]`, 400, "", "the body must be a JSON object"},
		{"null", "take", `null`, 400, "", "the body must be a JSON object"},
		{"trailing garbage", "take", `{"application":"a"} x`, 400, "", "the body is not valid JSON: at byte 20 expected the end of the body, found 'x'"},
		{"two documents", "take", `{}{}`, 400, "", "the body is not valid JSON: at byte 2 expected the end of the body, found '{'"},
		{"not UTF-8", "take", take("\"subject\":\"a\xffb\""), 400, "", "the body is not valid JSON: byte 47 is not UTF-8"},
		{"unknown field", "take", take(`"subjet":"a"`), 400, "subjet", "subjet: unknown field"},
		{"other case", "take", take(`"Subject":"a"`), 400, "Subject", "Subject: unknown field"},
		{"field twice", "take", take(`"operation":"p"`), 400, "operation", "operation: given twice"},
		{"unknown in request", "take", take(`"request":{"url":"/"}`), 400, "request.url", "request.url: unknown field"},
		{"twice in request", "take", take(`"request":{"ip":"","ip":""}`), 400, "request.ip", "request.ip: given twice"},
		{"attribute twice", "take", take(`"attributes":{"a":"","a":""}`), 400, "attributes.a", "attributes.a: given twice"},
		{"header twice", "take", take(`"request":{"headers":{"X-A":"1","x-a":"2"}}`), 400, "request.headers.x-a", "request.headers.x-a: given twice"},

		{"subject number", "take", take(`"subject":5`), 400, "subject", "subject: must be a string, not a number"},
		{"subject null", "take", take(`"subject":null`), 400, "subject", "subject: must be a string, not null"},
		{"subject missing", "take", take(`"subject":`), 400, "subject", "subject: the body is not valid JSON: at byte 45 expected a string, found '}'"},
		{"subject long", "take", take(`"subject":"` + long + `"`), 400, "subject", "subject: 513 bytes: at most 512"},
		{"subject newline", "take", take(`"subject":"a\nb"`), 400, "subject", "subject: has a line break or NUL"},
		{"subject CR", "take", take(`"subject":"a\rb"`), 400, "subject", "subject: has a line break or NUL"},
		{"subject NUL", "take", take(`"subject":"a\u0000b"`), 400, "subject", "subject: has a line break or NUL"},
		{"subject raw newline", "take", take("\"subject\":\"a\nb\""), 400, "subject", `subject: the body is not valid JSON: at byte 47 expected a character of a string (control characters are written \u00XX), found '\n'`},
		{"subject half a pair", "take", take(`"subject":"\ud800"`), 400, "subject", `subject: holds half of a surrogate pair, \ud800, which is no character`},
		{"subject bad escape", "take", take(`"subject":"\x"`), 400, "subject", `subject: the body is not valid JSON: at byte 47 expected one of "\/bfnrtu after a backslash, found 'x'`},

		{"cost negative", "take", take(`"cost":-1`), 400, "cost", "cost: -1: must not be negative"},
		{"cost 2^63", "take", take(`"cost":9223372036854775808`), 400, "cost", "cost: 9223372036854775808: must be at most 9007199254740991"},
		{"cost 2^53", "take", take(`"cost":9007199254740992`), 400, "cost", "cost: 9007199254740992: must be at most 9007199254740991"},
		{"cost fraction", "take", take(`"cost":1.5`), 400, "cost", "cost: 1.5: must be a whole number, without point or exponent"},
		{"cost exponent", "take", take(`"cost":1e3`), 400, "cost", "cost: 1e3: must be a whole number, without point or exponent"},
		{"cost string", "take", take(`"cost":"1"`), 400, "cost", "cost: must be a whole number, not a string"},
		{"cost null", "take", take(`"cost":null`), 400, "cost", "cost: must be a whole number, not null"},
		{"cost NaN", "take", take(`"cost":NaN`), 400, "cost", "cost: the body is not valid JSON: at byte 42 expected a whole number, found 'N'"},
		{"cost leading zero", "take", take(`"cost":01`), 400, "", "the body is not valid JSON: at byte 43 expected ',' or '}', found '1'"},
		{"cost huge", "take", take(`"cost":1` + strings.Repeat("0", 60)), 400, "cost", "cost: 1" + strings.Repeat("0", 39) + "...: must be at most 9007199254740991"},

		{"costs", "take", take(`"costs":{"tokens":3}`), 400, "costs", "costs: not supported yet: costs in other units than requests"},
		{"idempotency key", "take", take(`"idempotency_key":"k"`), 400, "idempotency_key", "idempotency_key: not supported yet: requests are not remembered"},
		{"wait", "take", take(`"max_wait_ms":5`), 400, "max_wait_ms", "max_wait_ms: not supported yet: waiting in line"},
		{"no application", "take", `{"operation":"o","subject":"s"}`, 400, "application", "application: is required"},
		{"unknown application", "take", `{"application":"b","operation":"o","subject":"s"}`, 404, "application", `application: "b" is not in the policy`},
		{"no operation", "take", `{"application":"a","subject":"s"}`, 400, "operation", "operation: operation or request.path is required"},
		{"no subject", "take", take(`"subject":""`), 400, "subject", "subject: is required by limit o/burst"},
		{"1 MB operation", "take", `{"operation":"` + strings.Repeat("x", 1<<20), 413, "", "the body must not be larger than 65536 bytes"},
		{"deep", "take", take(`"attributes":{"a":{"b":{}}}`), 400, "attributes.a", "attributes.a: must be a string, not an object"},
		{"very deep", "take", take(`"request":` + strings.Repeat("[", 30000)), 400, "request", "request: must be an object, not an array"},
		{"header number", "take", take(`"request":{"headers":{"x-a":1}}`), 400, "request.headers.x-a", "request.headers.x-a: must be a string or an array of strings, not a number"},
		{"header lines", "take", take(`"request":{"headers":{"x-a":["1",2]}}`), 400, "request.headers.x-a", "request.headers.x-a: must be a string, not a number"},
		{"header lines broken", "take", take(`"request":{"headers":{"x-a":["1",]}}`), 400, "request.headers.x-a", "request.headers.x-a: the body is not valid JSON: at byte 68 expected a string, found ']'"},
		{"ip", "take", take(`"request":{"ip":"203.0.113.9:80"}`), 400, "request.ip", `request.ip: "203.0.113.9:80": must be an IPv4 or IPv6 address, without port or zone`},
		{"ip zone", "take", take(`"request":{"ip":"fe80::1%eth0"}`), 400, "request.ip", `request.ip: "fe80::1%eth0": must be an IPv4 or IPv6 address, without port or zone`},
		{"1 MB body", "take", take(`"subject":"` + strings.Repeat("x", 1<<20) + `"`), 413, "", "the body must not be larger than 65536 bytes"},
		{"peek cost", "peek", take(`"cost":-1`), 400, "cost", "cost: -1: must not be negative"},

		{"no key", "throttle", `{"rate":"5/1500ms"}`, 400, "key", "key: is required"},
		{"no rate", "throttle", `{"key":"k"}`, 400, "rate", `rate: "": must be a count, a slash and a time, such as 100/h or 5/10s`},
		{"key newline", "throttle", `{"key":"a\nb","rate":"5/1500ms"}`, 400, "key", "key: has a line break or NUL"},
		{"rate", "throttle", `{"key":"k","rate":"5/m"}`, 400, "rate", `rate: "5/m": /m could be a minute or a month: write /min or /month`},
		{"rate zero", "throttle", `{"key":"k","rate":"0/s"}`, 400, "rate", `rate: "0/s": the count must be at least 1`},
		{"burst", "throttle", `{"key":"k","rate":"1/s","burst":9007199254740991}`, 400, "burst", `burst: burst 9007199254740991 at 1 per 1s needs 9007199254740991000000 units of 1/1000000 token plus 1 a microsecond: must stay below 2^53 = 9007199254740992; use a smaller burst or a rounder rate`},
		{"key long", "throttle", `{"key":"` + long + `","rate":"5/1500ms"}`, 400, "key", "key: 513 bytes: at most 512"},
		{"throttle unknown", "throttle", `{"key":"k","rat":"1/s"}`, 400, "rat", "rat: unknown field"},
		{"throttle cost", "throttle", `{"key":"k","rate":"5/1500ms","cost":1.5}`, 400, "cost", "cost: 1.5: must be a whole number, without point or exponent"},
	}
	g, store := realGate(t)
	s, _ := serve(t, Config{Gate: g})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := send(t, post1(t, s.URL+"/v1/"+tt.path, tt.body))
			wantProblem(t, resp, body, tt.status, tt.field, tt.detail)
		})
	}
	if n := store.applied.Load(); n != 0 {
		t.Errorf("the store was asked %d times", n)
	}
	for _, want := range []string{`"allowed":true`, `"allowed":true`, `"allowed":false`} {
		if resp, body := send(t, post1(t, s.URL+"/v1/take", take(`"subject":"s"`))); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("afterwards: %d %s, want %s", resp.StatusCode, body, want)
		}
	}
}

func TestBadBodyOfUnknownLength(t *testing.T) {
	s, f := serve(t, Config{})
	r := post1(t, s.URL+"/v1/take", "")
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"subject":"`), strings.NewReader(strings.Repeat("x", MaxBody))))
	r.ContentLength = -1
	resp, body := send(t, r)
	wantProblem(t, resp, body, 413, "", "the body must not be larger than 65536 bytes")
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}

func TestBadRequestLineAndHeaders(t *testing.T) {
	s, f := serve(t, Config{})
	host := strings.TrimPrefix(s.URL, "http://")
	tests := []struct {
		name          string
		change        func(*http.Request)
		status        int
		field, detail string
	}{
		{"no type", func(r *http.Request) { r.Header.Del("Content-Type") }, 415, "", "the body must be sent as Content-Type: application/json"},
		{"form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415, "", "the body must be sent as Content-Type: application/json"},
		{"GET", func(r *http.Request) { r.Method = "GET" }, 405, "", "method GET is not allowed here: use POST"},
		{"no route", func(r *http.Request) { r.URL.Path = "/v1/tak" }, 404, "", "no such route; decisions are at POST /v1/take, /v1/peek and /v1/throttle"},
		{"rebound name", func(r *http.Request) { r.Host = "evil.example:80" }, 403, "", `Host "evil.example:80": this listener answers to localhost and IP addresses only`},
		{"almost localhost", func(r *http.Request) { r.Host = "localhost.evil.example" }, 403, "", `Host "localhost.evil.example": this listener answers to localhost and IP addresses only`},
		{"other origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403, "", `Origin "http://evil.example": web pages of other hosts may not call this server`},
		{"other port", func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") }, 403, "", `Origin "http://127.0.0.1:1": web pages of other hosts may not call this server`},
		{"opaque origin", func(r *http.Request) { r.Header.Set("Origin", "null") }, 403, "", `Origin "null": web pages of other hosts may not call this server`},
		{"idempotency header", func(r *http.Request) { r.Header.Set("Idempotency-Key", "k") }, 400, "idempotency_key", "idempotency_key: not supported yet: requests are not remembered"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := post1(t, s.URL+"/v1/take", `{"application":"a","operation":"o"}`)
			tt.change(r)
			resp, body := send(t, r)
			wantProblem(t, resp, body, tt.status, tt.field, tt.detail)
			if allow := resp.Header.Get("Allow"); tt.status == 405 && allow != "POST" {
				t.Errorf("Allow %q", allow)
			}
		})
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.Host = "LOCALHOST:9" },
		func(r *http.Request) { r.Host = "[::1]:9" },
		func(r *http.Request) { r.Host = "::1" },
		func(r *http.Request) { r.Header.Set("Origin", "http://"+host) },
		func(r *http.Request) { r.Header.Set("Content-Type", "Application/JSON; charset=utf-8") },
	} {
		r := post1(t, s.URL+"/v1/take", `{"application":"a","operation":"o"}`)
		change(r)
		if resp, body := send(t, r); resp.StatusCode != 200 {
			t.Errorf("Host %q, headers %v: %d %s", r.Host, r.Header, resp.StatusCode, body)
		}
	}
}

func TestNoHost(t *testing.T) {
	s, _ := serve(t, Config{})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/take HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.0 200 OK\r\n")) {
		t.Errorf("%s %v", answer, err)
	}
}

func TestErrorsOfTheGate(t *testing.T) {
	var log bytes.Buffer
	panics := 0
	s, _ := serve(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Panicked: func() { panics++ }})
	tests := []struct {
		name, body    string
		status        int
		field, detail string
		logged        string
	}{
		{"not found", `{"application":"nowhere"}`, 404, "application", `application: "nowhere": no such application`, ""},
		{"away", `{"subject":"store away"}`, 503, "", "the store cannot decide at the moment", "redis at 10.1.2.3 refused"},
		{"broken", `{"subject":"broken"}`, 500, "", "the server could not decide; its log says why", "secret of the gate"},
		{"panic", `{"subject":"bug"}`, 500, "", "the server failed; its log says how", "secret of the handler"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log.Reset()
			resp, body := send(t, post1(t, s.URL+"/v1/take", tt.body))
			wantProblem(t, resp, body, tt.status, tt.field, tt.detail)
			if got := log.String(); tt.logged == "" && got != "" || !strings.Contains(got, tt.logged) {
				t.Errorf("log %q, want %q in it", got, tt.logged)
			}
		})
	}
	if panics != 1 {
		t.Errorf("%d panics were counted", panics)
	}
}

func TestTake(t *testing.T) {
	var doors []string
	s, _ := serve(t, Config{Decided: func(d *gate.Decision, took time.Duration) {
		doors = append(doors, d.Application)
	}})
	body := ` { "application" : "email","operation":"sendEmail","subject":"al\"ice\u00e9","cost":5,"costs":{},"plan":"p","attributes":{"org":"acme"},
	 "request":{"method":"POST","path":"/api/x","headers":{"x-a":"b"},"ip":"203.0.113.9"},"idempotency_key":"","max_wait_ms":0} `
	const want = `{"decision_id":"0123456789abcdef000000000000000f","allowed":true,"reason":"ok","bound_by":null,"retryable":true,` +
		`"application":"email","rule":"","operation":"sendEmail","subject":"al\"iceé","plan":"p","cost":5,"costs":{},` +
		`"limit":null,"remaining":null,"retry_after_ms":null,"reset_after_ms":null,"limits":[],` +
		`"mode":"enforce","would_deny":null,"candidate":null,"degraded":null,"replayed":false,"waited_ms":0,"ticket":null,"policy_revision":7}` + "\n"
	for _, path := range []string{"/v1/take", "/v1/peek"} {
		resp, got := send(t, post1(t, s.URL+path, body))
		if resp.StatusCode != 200 || got != want {
			t.Errorf("%s: %d\n%s\nwant\n%s", path, resp.StatusCode, got, want)
		}
	}
	if len(doors) != 1 {
		t.Errorf("%d decisions were reported, want that of take only", len(doors))
	}
}

func TestThrottle(t *testing.T) {
	s, f := serve(t, Config{})
	resp, body := send(t, post1(t, s.URL+"/v1/throttle", `{"key":"k","rate":"5/1500ms","burst":9}`))
	want := gate.Throttle{Key: "k", Count: 5, Period: 1500 * time.Millisecond, Burst: 9, Cost: 1}
	if f.throttle != want {
		t.Errorf("asked for %+v, want %+v", f.throttle, want)
	}
	if resp.StatusCode != 200 || !strings.Contains(body, `"allowed":false,"reason":"rate_limited"`) || !strings.Contains(body, `"retry_after_ms":2,`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestHealth(t *testing.T) {
	s, f := serve(t, Config{})
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	f.ready = errors.New("store away")
	r, _ := http.NewRequest("GET", s.URL+"/readyz", nil)
	resp, body := send(t, r)
	wantProblem(t, resp, body, 503, "", "the server cannot decide at the moment")
}

func TestShortBody(t *testing.T) {
	s, f := serve(t, Config{})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{}")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(answer, []byte("the body ended before it was complete")) {
		t.Errorf("%s %v", answer, err)
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}

// TestForeignElsewhere: on other addresses than loopback any Host will do, and
// a page of that host may ask.
func TestForeignElsewhere(t *testing.T) {
	tests := []struct {
		local, origin string
		foreign       bool
	}{
		{"192.0.2.1", "", false},
		{"192.0.2.1", "https://Gate.example", false},
		{"192.0.2.1", "https://evil.example", true},
		{"127.0.0.1", "", true},
		{"::1", "", true},
	}
	for _, tt := range tests {
		r := httptest.NewRequest("POST", "http://gate.example/v1/take", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(tt.local)}))
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if got := foreign(r); (got != "") != tt.foreign {
			t.Errorf("on %s from %q: %q", tt.local, tt.origin, got)
		}
	}
}
