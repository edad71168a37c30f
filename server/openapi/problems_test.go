package openapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
)

// with returns a request that passes, with another field.
func with(field string, value any) map[string]any {
	m := map[string]any{"application": "email", "operation": "sendEmail", "subject": "alice"}
	m[field] = value
	return m
}

func header(name, value string) http.Header { return http.Header{name: {value}} }

func query(name, value string) url.Values { return url.Values{name: {value}} }

// TestProblems: what is wrong with a request gets a problem that the document
// lists for its route.
func TestProblems(t *testing.T) {
	const auth, batch = "/v1/forward-auth/", "/v1/take/batch"
	item := with("cost", 1)
	for _, c := range []struct {
		name    string
		call    call
		status  int
		problem string
		field   string
	}{
		{"no JSON", call{path: "/v1/take", body: "{"}, 400, "invalid_request", ""},
		{"an array", call{path: "/v1/peek", body: "[]"}, 400, "invalid_request", ""},
		{"unknown field", call{path: "/v1/take", body: with("costt", 1)}, 400, "invalid_request", "costt"},
		{"unknown field of the request", call{path: "/v1/take", body: with("request", map[string]any{"paht": "/"})}, 400, "invalid_request", "request.paht"},
		{"a field twice", call{path: "/v1/take", body: `{"application":"email","application":"web"}`}, 400, "invalid_request", "application"},
		{"no application", call{path: "/v1/explain", body: map[string]any{"operation": "x"}}, 400, "invalid_request", "application"},
		{"no operation and no path", call{path: "/v1/take", body: map[string]any{"application": "email"}}, 400, "invalid_request", "operation"},
		{"no subject", call{path: "/v1/take", body: map[string]any{"application": "email", "operation": "sendEmail"}}, 400, "invalid_request", "subject"},
		{"no attribute", call{path: "/v1/take", body: map[string]any{"application": "email", "operation": "complete", "subject": "a", "costs": map[string]any{"tokens": 1}}}, 400, "invalid_request", "attributes"},
		{"no unit", call{path: "/v1/take", body: map[string]any{"application": "email", "operation": "complete", "subject": "a", "attributes": map[string]any{"org": "a"}}}, 400, "invalid_request", "costs"},
		{"negative cost", call{path: "/v1/take", body: with("cost", -1)}, 400, "invalid_request", "cost"},
		{"fraction", call{path: "/v1/take", body: with("cost", 1.5)}, 400, "invalid_request", "cost"},
		{"2^53", call{path: "/v1/take", body: with("cost", uint64(1)<<53)}, 400, "invalid_request", "cost"},
		{"17 units", call{path: "/v1/take", body: with("costs", units(17))}, 400, "invalid_request", "costs"},
		{"long subject", call{path: "/v1/take", body: with("subject", strings.Repeat("a", 513))}, 400, "invalid_request", "subject"},
		{"line break in a subject", call{path: "/v1/take", body: with("subject", "a\nb")}, 400, "invalid_request", "subject"},
		{"long key", call{path: "/v1/take", body: with("idempotency_key", strings.Repeat("a", 513))}, 400, "invalid_request", "idempotency_key"},
		{"two keys", call{path: "/v1/take", body: with("idempotency_key", "a"), header: header("Idempotency-Key", "b")}, 400, "invalid_request", "idempotency_key"},
		{"long wait", call{path: "/v1/take", body: with("max_wait_ms", 300_001)}, 400, "invalid_request", "max_wait_ms"},
		{"long path", call{path: "/v1/take", body: with("request", map[string]any{"path": "/" + strings.Repeat("a", 8192)})}, 400, "invalid_request", "request.path"},
		{"no address", call{path: "/v1/take", body: with("request", map[string]any{"ip": "localhost"})}, 400, "invalid_request", "request.ip"},
		{"unknown application", call{path: "/v1/take", body: with("application", "nope")}, 404, "not_found", "application"},
		{"unknown application to explain", call{path: "/v1/explain", body: with("application", "nope")}, 404, "not_found", "application"},
		{"large body", call{path: "/v1/take", body: with("subject", strings.Repeat("a", 65_537))}, 413, "body_too_large", ""},
		{"text", call{path: "/v1/take", body: item, header: header("Content-Type", "text/plain")}, 415, "unsupported_media_type", ""},
		{"foreign page", call{path: "/v1/take", body: item, header: header("Origin", "https://evil.example")}, 403, "forbidden", ""},
		{"no time to hold", call{path: "/v1/reserve", body: with("ttl_ms", 0)}, 400, "invalid_request", "ttl_ms"},
		{"more than a day", call{path: "/v1/reserve", body: with("ttl_ms", 86_400_001)}, 400, "invalid_request", "ttl_ms"},
		{"ttl_ms of a take", call{path: "/v1/take", body: with("ttl_ms", 1)}, 400, "invalid_request", "ttl_ms"},
		{"no items", call{path: batch, body: map[string]any{"items": []any{}}}, 400, "invalid_request", "items"},
		{"1,001 items", call{path: batch, body: map[string]any{"items": slices.Repeat([]any{item}, 1001)}}, 400, "invalid_request", "items"},
		{"101 atomic items", call{path: batch, body: map[string]any{"atomic": true, "items": slices.Repeat([]any{item}, 101)}}, 400, "invalid_request", "items"},
		{"bad item of an atomic batch", call{path: batch, body: map[string]any{"atomic": true, "items": []any{item, with("cost", -1)}}}, 400, "invalid_request", "items.1.cost"},
		{"unknown application in an atomic batch", call{path: batch, body: map[string]any{"atomic": true, "items": []any{item, with("application", "nope")}}}, 404, "not_found", "items.1.application"},
		{"large batch", call{path: batch, body: map[string]any{"items": []any{with("subject", strings.Repeat("a", 1<<20))}}}, 413, "body_too_large", ""},
		{"no ticket", call{path: "/v1/settle", body: map[string]any{}}, 400, "invalid_request", "ticket"},
		{"false ticket", call{path: "/v1/renew", body: map[string]any{"ticket": "abc"}}, 400, "invalid_request", "ticket"},
		{"long ticket", call{path: "/v1/release", body: map[string]any{"ticket": strings.Repeat("a", 24_577)}}, 400, "invalid_request", "ticket"},
		{"no key", call{path: "/v1/throttle", body: map[string]any{"rate": "5/s"}}, 400, "invalid_request", "key"},
		{"no rate", call{path: "/v1/throttle", body: map[string]any{"key": "a"}}, 400, "invalid_request", "rate"},
		{"month", call{path: "/v1/throttle", body: map[string]any{"key": "a", "rate": "5/m"}}, 400, "invalid_request", "rate"},
		{"unknown parameter", call{method: "GET", path: "/v1/decisions", query: query("sbject", "a")}, 400, "invalid_request", "sbject"},
		{"501 decisions", call{method: "GET", path: "/v1/decisions", query: query("limit", "501")}, 400, "invalid_request", "limit"},
		{"no token", call{method: "GET", path: "/v1/decisions", header: header("Authorization", "")}, 401, "unauthorized", ""},
		{"wrong token", call{method: "GET", path: "/v1/mode", header: header("Authorization", "Bearer x")}, 401, "unauthorized", ""},
		{"foreign page to the administration", call{method: "PUT", path: "/v1/mode", body: map[string]any{}, header: header("Origin", "https://evil.example")}, 403, "forbidden", ""},
		{"unknown mode", call{method: "PUT", path: "/v1/mode", body: map[string]any{"mode": "off", "for": "1m"}}, 400, "invalid_request", "mode"},
		{"too long an override", call{method: "PUT", path: "/v1/mode", body: map[string]any{"mode": "shadow", "for": "25h"}}, 400, "invalid_request", "for"},
		{"mode of no application", call{method: "PUT", path: "/v1/mode", body: map[string]any{"application": "nope", "mode": "shadow", "for": "1m"}}, 404, "not_found", "application"},
		{"mode as text", call{method: "PUT", path: "/v1/mode", body: "{}", header: header("Content-Type", "text/plain")}, 415, "unsupported_media_type", ""},
		{"large mode", call{method: "PUT", path: "/v1/mode", body: map[string]any{"mode": strings.Repeat("a", 65_537)}}, 413, "body_too_large", ""},
		{"no method", call{method: "GET", path: auth + "web"}, 400, "invalid_request", "X-Forwarded-Method"},
		{"no method, as 403", call{method: "GET", path: auth + "web", query: query("deny", "403")}, 403, "invalid_request", "X-Forwarded-Method"},
		{"unknown parameter of forward-auth", call{method: "GET", path: auth + "web", query: query("deny", "404")}, 400, "invalid_request", "deny"},
		{"no application of a proxy", call{method: "GET", path: auth + "nope"}, 404, "not_found", "application"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.call.method == "" {
				c.call.method = http.MethodPost
			}
			checkProblem(t, open(t), c.call, c.status, c.problem, c.field)
		})
	}
}

func units(n int) map[string]any {
	m := make(map[string]any)
	for i := range n {
		m[string(rune('a'+i))] = 1
	}
	return m
}

// checkProblem sends c and wants a documented problem.
func checkProblem(t *testing.T, h *house, c call, status int, problem, field string) {
	t.Helper()
	w := h.send(t, c)
	var p struct{ Type, Field string }
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	if name := strings.TrimPrefix(p.Type, "urn:headgate:problem:"); w.Code != status || name != problem || p.Field != field {
		t.Errorf("status %d, problem %s, field %q; want %d, %s, %q: %s", w.Code, name, p.Field, status, problem, field, w.Body)
	}
	strictly(t).check(t, c.method, documented(c.path), w)
}

// documented returns the path of the document that a request's path is one of.
func documented(path string) string {
	part := strings.Split(path, "/")
	switch {
	case len(part) < 4:
	case part[2] == "forward-auth", part[2] == "applications":
		part[3] = "{application}"
	case part[2] == "plans":
		part[3] = "{plan}"
	}
	return strings.Join(part, "/")
}

// TestBounds: what the document allows just so is taken.
func TestBounds(t *testing.T) {
	h := open(t)
	for name, c := range map[string]call{
		"cost 0":          {path: "/v1/take", body: with("cost", 0)},
		"largest cost":    {path: "/v1/take", body: with("cost", uint64(1)<<53-1)},
		"subject":         {path: "/v1/take", body: with("subject", strings.Repeat("a", 512))},
		"empty texts":     {path: "/v1/take", body: map[string]any{"application": "email", "operation": "sendEmail", "subject": "a", "plan": "", "idempotency_key": "", "request": map[string]any{"method": "", "path": "", "host": "", "ip": ""}}},
		"longest key":     {path: "/v1/take", body: with("idempotency_key", strings.Repeat("a", 512))},
		"longest wait":    {path: "/v1/take", body: with("max_wait_ms", 300_000)},
		"longest path":    {path: "/v1/take", body: with("request", map[string]any{"path": "/" + strings.Repeat("a", 8191)})},
		"headers":         {path: "/v1/take", body: with("request", map[string]any{"headers": map[string]any{"a": "b", "c": []string{"d", "e"}}})},
		"shortest hold":   {path: "/v1/reserve", body: with("ttl_ms", 1)},
		"longest hold":    {path: "/v1/reserve", body: with("ttl_ms", 86_400_000)},
		"largest batch":   {path: "/v1/take/batch", body: map[string]any{"items": slices.Repeat([]any{with("cost", 0)}, 1000)}},
		"largest atomic":  {path: "/v1/take/batch", body: map[string]any{"atomic": true, "items": slices.Repeat([]any{with("cost", 0)}, 100)}},
		"throttle":        {path: "/v1/throttle", body: map[string]any{"key": strings.Repeat("a", 512), "rate": "5/day", "burst": 0, "cost": 0}},
		"shortest switch": {method: "PUT", path: "/v1/mode", body: map[string]any{"application": "", "rule": "", "mode": "enforce", "for": "1s"}},
		"longest switch":  {method: "PUT", path: "/v1/mode", body: map[string]any{"application": "email", "rule": "complete", "mode": "shadow", "for": "24h"}},
	} {
		if c.method == "" {
			c.method = http.MethodPost
		}
		if w := h.send(t, c); w.Code != http.StatusOK {
			t.Errorf("%s: status %d: %s", name, w.Code, w.Body)
		} else {
			strictly(t).check(t, c.method, c.path, w)
		}
	}
}

// TestKeyReused: the second request with a key is another one.
func TestKeyReused(t *testing.T) {
	for _, path := range []string{"/v1/take", "/v1/reserve"} {
		h := open(t)
		first := call{method: http.MethodPost, path: path, body: with("idempotency_key", "k")}
		if w := h.send(t, first); w.Code != http.StatusOK {
			t.Fatal(w.Body)
		}
		other := with("idempotency_key", "k")
		other["cost"] = 2
		checkProblem(t, h, call{method: http.MethodPost, path: path, body: other}, 422, "idempotency_key_reused", "idempotency_key")
	}
}

// TestTooManyTokens: the third wrong token is one too many here.
func TestTooManyTokens(t *testing.T) {
	h := open(t)
	wrong := call{method: http.MethodGet, path: "/v1/mode", header: header("Authorization", "Bearer x")}
	for range 2 {
		h.send(t, wrong)
	}
	checkProblem(t, h, wrong, 429, "rate_limited", "")
}

// TestClosed: a server that stops says so in the documented way.
func TestClosed(t *testing.T) {
	h := open(t)
	h.gate.Close()
	for _, path := range []string{"/v1/take", "/v1/peek", "/v1/explain", "/v1/reserve"} {
		checkProblem(t, h, call{method: http.MethodPost, path: path, body: with("cost", 1)}, 503, "closed", "")
	}
	checkProblem(t, h, call{method: http.MethodPost, path: "/v1/throttle", body: map[string]any{"key": "a", "rate": "5/s"}}, 503, "closed", "")
	checkProblem(t, h, call{method: http.MethodPost, path: "/v1/settle", body: map[string]any{"ticket": "abc"}}, 503, "closed", "")
	checkProblem(t, h, call{method: http.MethodGet, path: "/readyz"}, 503, "not_ready", "")
}

// TestAway: without its store the server still decides, but for tickets.
func TestAway(t *testing.T) {
	h, answers := open(t), strictly(t)
	ticket := h.made(t, "reserve", "ticket")
	for code, problem := range map[headgate.Code]string{headgate.Unavailable: "unavailable", headgate.Overloaded: "overloaded"} {
		h.store.away = &headgate.Error{Code: code, Err: errors.New("not today")}
		take := call{method: http.MethodPost, path: "/v1/take", body: with("cost", 1)}
		w := h.send(t, take)
		var d struct{ Degraded, Reason string }
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK || d.Degraded != "closed" {
			t.Errorf("%v: %d, %+v", err, w.Code, d)
		}
		answers.check(t, take.method, take.path, w)
		checkProblem(t, h, call{method: http.MethodPost, path: "/v1/settle", body: map[string]any{"ticket": ticket}}, 503, problem, "")
	}
}

// TestRefusals: what end clients get of a proxy.
func TestRefusals(t *testing.T) {
	const text = `version: 1
applications:
  a:
    identity: [ip]
    deny: [203.0.113.66]
    headers: [ietf, draft03, x-delta]
    on_no_match: deny
    rules:
      - {name: once, match: {path: /once}, limits: [{name: l, rate: 1/h}]}
      - {name: dear, match: {path: /dear}, cost: 2, limits: [{name: l, rate: 1/h}]}
      - {name: held, match: {path: /held}, limits: [{name: l, algorithm: concurrency, max: 1}]}
`
	h := openWith(t, text, nil)
	proxied := func(path, ip, deny string) call {
		c := call{method: http.MethodGet, path: "/v1/forward-auth/a", header: http.Header{
			"X-Forwarded-Method": {"GET"}, "X-Forwarded-Uri": {path}, "X-Forwarded-For": {ip},
		}}
		if deny != "" {
			c.query = query("deny", deny)
		}
		return c
	}
	w := h.send(t, proxied("/once", "192.0.2.1", ""))
	strictly(t).check(t, "GET", "/v1/forward-auth/{application}", w)
	if w.Code != http.StatusNoContent || w.Header().Get("Ratelimit-Limit") == "" || w.Header().Get("X-Ratelimit-Reset") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, c := range []struct {
		path, ip, deny string
		status         int
		problem        string
	}{
		{"/once", "192.0.2.1", "", 429, "rate_limited"},
		{"/once", "192.0.2.1", "429", 429, "rate_limited"},
		{"/once", "192.0.2.1", "403", 403, "rate_limited"},
		{"/dear", "192.0.2.1", "", 422, "cost_exceeds_limit"},
		{"/other", "192.0.2.1", "", 403, "no_rule"},
		{"/once", "203.0.113.66", "", 403, "deny_listed"},
	} {
		checkProblem(t, h, proxied(c.path, c.ip, c.deny), c.status, c.problem, "")
	}
	h.store.away = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("not today")}
	checkProblem(t, h, proxied("/once", "192.0.2.1", ""), 503, "store_unavailable", "")
	checkProblem(t, h, proxied("/once", "192.0.2.1", "403"), 403, "store_unavailable", "")
	checkProblem(t, h, proxied("/held", "192.0.2.1", ""), 500, "policy_unfit", "")
}
