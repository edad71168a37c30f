package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
)

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

		{"costs nobody counts", "take", take(`"subject":"s","costs":{"tokens":3}`), 400, "costs", `costs: no limit of this application counts "tokens"`},
		{"costs array", "take", take(`"costs":[]`), 400, "costs", "costs: must be an object, not an array"},
		{"costs name", "take", take(`"costs":{"a b":3}`), 400, "costs", `costs: name "a b": ' ' is not one of a-z, A-Z, 0-9, '_', '.', '-'`},
		{"costs no name", "take", take(`"costs":{"":3}`), 400, "costs", "costs: name of 0 bytes: must be 1 to 64"},
		{"costs long name", "take", take(`"costs":{"` + long + `":3}`), 400, "costs", "costs: name of 513 bytes: must be 1 to 64"},
		{"costs twice", "take", take(`"costs":{"a":3,"a":3}`), 400, "costs.a", "costs.a: given twice"},
		{"costs negative", "take", take(`"costs":{"a":-3}`), 400, "costs.a", "costs.a: -3: must not be negative"},
		{"costs fraction", "take", take(`"costs":{"a":0.5}`), 400, "costs.a", "costs.a: 0.5: must be a whole number, without point or exponent"},
		{"costs 2^53", "take", take(`"costs":{"a":9007199254740992}`), 400, "costs.a", "costs.a: 9007199254740992: must be at most 9007199254740991"},
		{"costs many", "take", take(`"costs":{` + units(17) + `}`), 400, "costs", "costs: more than 16 units"},
		{"idempotency key number", "take", take(`"idempotency_key":1`), 400, "idempotency_key", "idempotency_key: must be a string, not a number"},
		{"idempotency key long", "take", take(`"subject":"s","idempotency_key":"` + long + `"`), 400, "idempotency_key", "idempotency_key: 513 bytes: at most 512"},
		{"idempotency key newline", "take", take(`"subject":"s","idempotency_key":"a\n"`), 400, "idempotency_key", "idempotency_key: has a line break or NUL"},
		{"wait", "take", take(`"max_wait_ms":300001`), 400, "max_wait_ms", "max_wait_ms: 300001: must be 0 to 300000, which is 5m0s"},
		{"wait negative", "take", take(`"max_wait_ms":-1`), 400, "max_wait_ms", "max_wait_ms: -1: must not be negative"},
		{"ttl", "take", take(`"ttl_ms":5`), 400, "ttl_ms", "ttl_ms: unknown field"},
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

		{"explain unknown", "explain", take(`"verbose":true`), 400, "verbose", "verbose: unknown field"},
		{"reserve unknown", "reserve", take(`"ttl":1`), 400, "ttl", "ttl: unknown field"},
		{"ttl 0", "reserve", take(`"ttl_ms":0`), 400, "ttl_ms", "ttl_ms: 0: must be 1 to 86400000, which is 24h0m0s"},
		{"ttl long", "reserve", take(`"ttl_ms":86400001`), 400, "ttl_ms", "ttl_ms: 86400001: must be 1 to 86400000, which is 24h0m0s"},
		{"settle nothing", "settle", `{}`, 400, "ticket", "ticket: is required"},
		{"settle unknown", "settle", `{"ticket":"t","ttl_ms":1}`, 400, "ttl_ms", "ttl_ms: unknown field"},
		{"settle cost", "settle", `{"ticket":"t","cost":-1}`, 400, "cost", "cost: -1: must not be negative"},
		{"settle costs", "settle", `{"ticket":"t","costs":{"a":1.5}}`, 400, "costs.a", "costs.a: 1.5: must be a whole number, without point or exponent"},
		{"settle ticket long", "settle", `{"ticket":"` + strings.Repeat("x", gate.MaxTicket+1) + `"}`, 400, "ticket", "ticket: 24577 bytes: at most 24576"},
		{"renew unknown", "renew", `{"ticket":"t","cost":1}`, 400, "cost", "cost: unknown field"},
		{"renew ttl", "renew", `{"ticket":"t","ttl_ms":0}`, 400, "ttl_ms", "ttl_ms: 0: must be 1 to 86400000, which is 24h0m0s"},
		{"release ticket", "release", `{"ticket":null}`, 400, "ticket", "ticket: must be a string, not null"},
		{"release broken", "release", `{"ticket":"t"`, 400, "", "the body is not valid JSON: it ends at byte 13, expected ',' or '}'"},
		{"release large", "release", `{"ticket":"` + strings.Repeat("x", MaxBody), 413, "", "the body must not be larger than 65536 bytes"},

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

// units is n members of costs.
func units(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`"u%d":1`, i))
	}
	return strings.Join(list, ",")
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
		{"no route", func(r *http.Request) { r.URL.Path = "/v1/tak" }, 404, "", "no such route; decisions are at POST /v1/take, /v1/take/batch, /v1/peek, /v1/explain, /v1/reserve, /v1/settle, /v1/renew, /v1/release and /v1/throttle"},
		{"rebound name", func(r *http.Request) { r.Host = "evil.example:80" }, 403, "", `Host "evil.example:80": this listener answers to localhost and IP addresses only`},
		{"almost localhost", func(r *http.Request) { r.Host = "localhost.evil.example" }, 403, "", `Host "localhost.evil.example": this listener answers to localhost and IP addresses only`},
		{"other origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403, "", `Origin "http://evil.example": web pages of other hosts may not call this server`},
		{"other port", func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") }, 403, "", `Origin "http://127.0.0.1:1": web pages of other hosts may not call this server`},
		{"opaque origin", func(r *http.Request) { r.Header.Set("Origin", "null") }, 403, "", `Origin "null": web pages of other hosts may not call this server`},
		{"two keys", func(r *http.Request) { r.Header["Idempotency-Key"] = []string{"k", "k"} }, 400, "idempotency_key", "idempotency_key: the header Idempotency-Key is there twice"},
		{"key of a batch", func(r *http.Request) {
			r.URL.Path = "/v1/take/batch"
			r.Header.Set("Idempotency-Key", "k")
		}, 400, "idempotency_key", "idempotency_key: one key cannot name many requests: say idempotency_key in the items"},
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
