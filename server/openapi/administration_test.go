package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate"
)

const (
	subject  = "/v1/applications/email/subject"
	subjects = "/v1/applications/email/subjects"
)

var alice = query("subject", "alice")

// field returns an object with one field, or more that a request needs as well.
func field(name string, value any, more ...any) map[string]any {
	m := map[string]any{name: value}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

// letters are n bytes of text.
func letters(n int) string { return strings.Repeat("a", n) }

// TestAdministrationProblems: what is wrong with a request of an operator gets a
// problem that says so.
func TestAdministrationProblems(t *testing.T) {
	h := open(t)
	h.send(t, call{method: "PUT", path: subject, query: alice, body: field("plan", "free")})
	override := func(more ...any) map[string]any {
		return field("overrides", []any{field("limit", "plan/daily", append([]any{"rate", "5000/day"}, more...)...)})
	}
	yaml := header("Content-Type", "application/yaml")
	match := func(tag string) http.Header { return header("If-Match", tag) }
	for _, c := range []struct {
		name    string
		call    call
		status  int
		problem string
		field   string
	}{
		{"no subject", call{method: "GET", path: subject}, 400, "invalid_request", "subject"},
		{"long subject", call{method: "GET", path: subject, query: query("subject", letters(513))}, 400, "invalid_request", "subject"},
		{"line break in a subject", call{method: "PUT", path: subject, query: query("subject", "a\nb"), body: "{}"}, 400, "invalid_request", "subject"},
		{"no UTF-8 in a subject", call{method: "GET", path: subject, query: query("subject", "\xff")}, 400, "invalid_request", "subject"},
		{"NUL in a prefix", call{method: "GET", path: subjects, query: query("prefix", "\x00")}, 400, "invalid_request", "prefix"},
		{"501 subjects", call{method: "GET", path: subjects, query: query("limit", "501")}, 400, "invalid_request", "limit"},
		{"not banned", call{method: "GET", path: subjects, query: query("banned", "false")}, 400, "invalid_request", "banned"},
		{"unknown plan", call{method: "PUT", path: subject, query: alice, body: field("plan", "gold")}, 400, "invalid_request", ""},
		{"unknown zone", call{method: "PUT", path: subject, query: alice, body: field("timezone", "Mars/Olympus")}, 400, "invalid_request", ""},
		{"anchor -1", call{method: "PUT", path: subject, query: alice, body: field("anchor", -1)}, 400, "invalid_request", ""},
		{"anchor 32", call{method: "PUT", path: subject, query: alice, body: field("anchor", 32)}, 400, "invalid_request", ""},
		{"long note", call{method: "PUT", path: subject, query: alice, body: field("note", letters(257))}, 400, "invalid_request", ""},
		{"unknown field", call{method: "PUT", path: subject, query: alice, body: field("ban", true)}, 400, "invalid_request", ""},
		{"33 overrides", call{method: "PUT", path: subject, query: alice, body: field("overrides", slices.Repeat([]any{override()}, 33))}, 400, "invalid_request", ""},
		{"no such limit", call{method: "PUT", path: subject, query: alice, body: field("overrides", []any{field("limit", "nope", "rate", "1/day")})}, 400, "invalid_request", ""},
		{"neither rate nor max", call{method: "PUT", path: subject, query: alice, body: field("overrides", []any{field("limit", "plan/daily")})}, 400, "invalid_request", ""},
		{"burst 0", call{method: "PUT", path: subject, query: alice, body: override("burst", 0)}, 400, "invalid_request", ""},
		{"until before from", call{method: "PUT", path: subject, query: alice, body: override("from", "2026-03-09T00:00:00Z", "until", "2026-03-08T00:00:00Z")}, 400, "invalid_request", ""},
		{"overlapping overrides", call{method: "PUT", path: subject, query: alice, body: field("overrides", slices.Repeat([]any{field("limit", "plan/daily", "rate", "1/day")}, 2))}, 400, "invalid_request", ""},
		{"no tag", call{method: "PUT", path: subject, query: alice, body: "{}", header: match("x")}, 400, "invalid_request", ""},
		{"not on record", call{method: "DELETE", path: subject, query: query("subject", "bob")}, 404, "not_found", ""},
		{"no limits to reset", call{method: "POST", path: subject + "/reset", query: alice, body: "{}"}, 400, "invalid_request", "limits"},
		{"unknown word", call{method: "POST", path: subject + "/reset", query: alice, body: field("limits", "minutely")}, 400, "invalid_request", "limits"},
		{"an empty list", call{method: "POST", path: subject + "/reset", query: alice, body: field("limits", []string{})}, 400, "invalid_request", "limits"},
		{"65 ids", call{method: "POST", path: subject + "/reset", query: alice, body: field("limits", slices.Repeat([]string{"plan/daily"}, 65))}, 400, "invalid_request", "limits"},
		{"no such limits", call{method: "POST", path: subject + "/reset", query: alice, body: field("limits", "hourly")}, 404, "not_found", "limits"},
		{"no time", call{method: "POST", path: subject + "/ban", query: alice, body: "{}"}, 400, "invalid_request", "for"},
		{"short ban", call{method: "POST", path: subject + "/ban", query: alice, body: field("for", "999ms")}, 400, "invalid_request", "for"},
		{"long ban", call{method: "POST", path: subject + "/ban", query: alice, body: field("for", "876000h1s")}, 400, "invalid_request", "for"},
		{"long reason", call{method: "POST", path: subject + "/ban", query: alice, body: field("for", "1s", "reason", letters(257))}, 400, "invalid_request", "reason"},

		{"unknown version", call{method: "PUT", path: "/v1/policy", body: "version: 2\n", header: yaml}, 400, "invalid_request", ""},
		{"no policy", call{method: "POST", path: "/v1/policy/validate", body: "[]"}, 400, "invalid_request", ""},
		{"long note of a policy", call{method: "PUT", path: "/v1/policy", query: query("note", letters(257)), body: "version: 1\n", header: yaml}, 400, "invalid_request", "note"},
		{"revision 0", call{method: "GET", path: "/v1/policy", query: query("revision", "0")}, 400, "invalid_request", "revision"},
		{"rollback to nothing", call{method: "POST", path: "/v1/policy/rollback", body: "{}"}, 400, "invalid_request", "revision"},
		{"rollback to 0", call{method: "POST", path: "/v1/policy/rollback", body: field("revision", 0)}, 400, "invalid_request", "revision"},
		{"long note of a rollback", call{method: "POST", path: "/v1/policy/rollback", body: field("revision", 1, "note", letters(207))}, 400, "invalid_request", "note"},
		{"faulty plan", call{method: "PUT", path: "/v1/plans/trial", body: field("limits", []any{field("name", "l", "rate", "5/m")})}, 400, "invalid_request", ""},
		{"no name of a plan", call{method: "PUT", path: "/v1/plans/a%20b", body: "{}"}, 400, "invalid_request", "plan"},
		{"no name of an application", call{method: "PUT", path: "/v1/applications/" + letters(65), body: "{}"}, 400, "invalid_request", "application"},
		{"plan in use", call{method: "DELETE", path: "/v1/plans/free"}, 409, "in_use", ""},
		{"application in use", call{method: "DELETE", path: "/v1/applications/email"}, 409, "in_use", ""},

		{"no name", call{method: "POST", path: "/v1/tokens", body: field("scopes", []string{"read"})}, 400, "invalid_request", "name"},
		{"long name", call{method: "POST", path: "/v1/tokens", body: field("name", letters(65), "scopes", []string{"read"})}, 400, "invalid_request", "name"},
		{"line break in a name", call{method: "POST", path: "/v1/tokens", body: field("name", "a\nb", "scopes", []string{"read"})}, 400, "invalid_request", "name"},
		{"no scopes", call{method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{})}, 400, "invalid_request", "scopes"},
		{"unknown scope", call{method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{"root"})}, 400, "invalid_request", "scopes"},
		{"for no application", call{method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{"read"}, "applications", []string{})}, 400, "invalid_request", "applications"},
		{"65 applications", call{method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{"read"}, "applications", slices.Repeat([]string{"a"}, 65))}, 400, "invalid_request", "applications"},
		{"short life", call{method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{"read"}, "for", "59s")}, 400, "invalid_request", "for"},
		{"long life", call{method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{"read"}, "for", "87600h1s")}, 400, "invalid_request", "for"},
		{"no id", call{method: "DELETE", path: "/v1/tokens"}, 400, "invalid_request", "id"},
		{"NUL in an id", call{method: "DELETE", path: "/v1/tokens", query: query("id", "\x00")}, 400, "invalid_request", "id"},
		{"first token", call{method: "DELETE", path: "/v1/tokens", query: query("id", "bootstrap")}, 400, "invalid_request", "id"},

		{"no UTF-8 in the audit log", call{method: "GET", path: "/v1/audit", query: query("actor", "\xff")}, 400, "invalid_request", "actor"},
		{"no time since", call{method: "GET", path: "/v1/audit", query: query("since", "yesterday")}, 400, "invalid_request", "since"},
		{"unknown period", call{method: "GET", path: "/v1/usage", query: query("period", "week")}, 400, "invalid_request", "period"},
		{"an empty range", call{method: "GET", path: "/v1/usage", query: url.Values{"from": {"2026-03"}, "to": {"2026-03"}}}, 400, "invalid_request", "to"},
		{"pages of CSV", call{method: "GET", path: "/v1/usage", query: url.Values{"format": {"csv"}, "limit": {"1"}}}, 400, "invalid_request", "limit"},
		{"another format", call{method: "GET", path: "/v1/usage", query: query("format", "xml")}, 400, "invalid_request", "format"},
		{"half a second", call{method: "GET", path: "/v1/stats", query: query("window", "500ms")}, 400, "invalid_request", "window"},
		{"long window", call{method: "GET", path: "/v1/stats", query: query("window", "301s")}, 400, "invalid_request", "window"},
		{"unknown rank", call{method: "GET", path: "/v1/top", query: query("by", "name")}, 400, "invalid_request", "by"},
		{"501 subjects of the top", call{method: "GET", path: "/v1/top", query: query("limit", "501")}, 400, "invalid_request", "limit"},
	} {
		t.Run(c.name, func(t *testing.T) { checkProblem(t, h, c.call, c.status, c.problem, c.field) })
	}
	some := header("Authorization", "Bearer "+h.token(t, "admin", "email"))
	for _, c := range []call{
		{method: "POST", path: "/v1/throttle", body: field("key", "a", "rate", "5/s")},
		{method: "GET", path: "/v1/policy"}, {method: "GET", path: "/v1/tokens"}, {method: "PUT", path: "/v1/plans/trial", body: "{}"},
	} {
		c.header = some
		checkProblem(t, h, c, 403, "forbidden", "")
	}
	checkProblem(t, h, call{method: "GET", path: "/v1/applications/web", header: some}, 404, "not_found", "application")
}

// TestAdministrationBounds: what the document allows just so is taken.
func TestAdministrationBounds(t *testing.T) {
	h, answers := open(t), strictly(t)
	h.send(t, call{method: "PUT", path: "/v1/policy", body: examplePolicy(t), header: header("Content-Type", "text/yaml")})
	overrides := []any{field("limit", "complete/inflight", "max", 10_000), field("limit", "rate", "rate", "1/h", "burst", 1)}
	for i := range 30 {
		overrides = append(overrides, field("limit", "plan/daily", "rate", "unlimited", "note", letters(256),
			"from", fmt.Sprintf("2027-01-%02dT00:00:00Z", i+1), "until", fmt.Sprintf("2027-01-%02dT01:00:00+01:00", i+2)))
	}
	for name, c := range map[string]call{
		"everything of a subject": {method: "PUT", path: subject, query: query("subject", letters(512)), body: field("plan", "free", "timezone", "Europe/Paris", "anchor", 31, "note", letters(256), "overrides", overrides)},
		"nothing of a subject":    {method: "PUT", path: subject, query: alice, body: field("overrides", []any{}), header: header("If-Match", "*")},
		"64 ids":                  {method: "POST", path: subject + "/reset", query: alice, body: field("limits", append(slices.Repeat([]string{"nope"}, 63), "daily"))},
		"all":                     {method: "POST", path: subject + "/reset", query: alice, body: field("limits", "all")},
		"rates":                   {method: "POST", path: subject + "/reset", query: alice, body: field("limits", "rate")},
		"shortest ban":            {method: "POST", path: subject + "/ban", query: alice, body: field("for", "1s", "reason", "")},
		"longest ban":             {method: "POST", path: subject + "/ban", query: alice, body: field("for", "876000h", "reason", letters(256))},
		"x-yaml":                  {method: "POST", path: "/v1/policy/validate", body: examplePolicy(t), header: header("Content-Type", "application/x-yaml; charset=utf-8")},
		"long note of a rollback": {method: "POST", path: "/v1/policy/rollback", body: field("revision", 1, "note", letters(206))},
		"longest name of a plan":  {method: "PUT", path: "/v1/plans/" + letters(64), body: "{}"},
		"short life":              {method: "POST", path: "/v1/tokens", body: field("name", letters(64), "scopes", []string{"decide", "read", "operate", "admin"}, "for", "1m")},
		"long life":               {method: "POST", path: "/v1/tokens", body: field("name", "ä", "scopes", []string{"read", "read"}, "applications", slices.Repeat([]string{"a"}, 64), "for", "87600h")},
		"no end":                  {method: "POST", path: "/v1/tokens", body: field("name", "a", "scopes", []string{"admin"}, "applications", []string{"*"}, "for", "")},
	} {
		if w := h.send(t, c); w.Code >= 300 {
			t.Errorf("%s: status %d: %s", name, w.Code, w.Body)
		} else {
			answers.check(t, c.method, documented(c.path), w)
		}
	}
	for _, c := range []call{
		{method: "GET", path: subject, query: query("subject", letters(512))}, {method: "GET", path: subject, query: alice},
		{method: "GET", path: subjects, query: query("banned", "true")}, {method: "GET", path: "/v1/tokens"}, {method: "GET", path: "/v1/audit"},
		{method: "GET", path: "/v1/policy/revisions"}, {method: "GET", path: "/v1/plans/free"}, {method: "GET", path: "/v1/applications"},
	} {
		answers.check(t, c.method, documented(c.path), h.send(t, c))
	}
}

// limited is a policy with many kinds of limits.
const limited = `version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 2/day, timezone: Asia/Kathmandu, soft: true}, {name: rate, rate: 1/h, burst: 2}]}}
applications:
  email:
    default_plan: free
    ban: {after: 2, within: 1m, for: 15m}
    rules:
      - name: work
        match: {operation: sendEmail}
        limits:
          - {name: slots, algorithm: concurrency, max: 5}
          - {name: window, algorithm: sliding_window, rate: 100/min}
          - {name: trial, rate: 1/h, mode: shadow}
`

// TestOneLimit: a decision and the page of its subject tell the same of each limit.
func TestOneLimit(t *testing.T) {
	h, answers := openWith(t, limited, nil), strictly(t)
	seen := make(map[string]bool)
	compare := func() {
		t.Helper()
		limits := func(c call) []any {
			t.Helper()
			w := h.send(t, c)
			var page struct{ Limits []any }
			if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%v: %d: %s", err, w.Code, w.Body)
			}
			answers.check(t, c.method, documented(c.path), w)
			note(seen, page.Limits)
			slices.SortFunc(page.Limits, func(a, b any) int {
				return strings.Compare(a.(map[string]any)["id"].(string), b.(map[string]any)["id"].(string))
			})
			return page.Limits
		}
		decided := limits(call{method: "POST", path: "/v1/peek", body: with("cost", 0)})
		stands := limits(call{method: "GET", path: subject, query: alice})
		if len(stands) != 6 || !reflect.DeepEqual(decided, stands) {
			t.Errorf("a decision says\n%v\nand the page of the subject\n%v", decided, stands)
		}
	}
	compare()
	for range 3 { // the third is refused, the fourth bans
		h.send(t, call{method: "POST", path: "/v1/take", body: with("cost", 1)})
		compare()
	}
	h.send(t, call{method: "POST", path: "/v1/take", body: with("cost", 1)})
	compare()
	for _, want := range []string{"algorithm quota", "algorithm concurrency", "algorithm ban", "mode shadow", "resets_at"} {
		if !seen[want] {
			t.Errorf("no limit has %s", want)
		}
	}
}

// TestSubjectAway: without the store a subject is shown as far as it is on record.
func TestSubjectAway(t *testing.T) {
	h, answers := openWith(t, limited, nil), strictly(t)
	h.store.away = &headgate.Error{Code: headgate.Unavailable}
	for _, c := range []call{
		{method: "PUT", path: subject, query: alice, body: "{}"}, {method: "GET", path: subject, query: alice},
		{method: "POST", path: subject + "/ban", query: alice, body: field("for", "1h")},
	} {
		w := h.send(t, c)
		if !strings.Contains(w.Body.String(), `"limits":null,"degraded":"store_unavailable"`) {
			t.Errorf("%s: %s", c.method, w.Body)
		}
		answers.check(t, c.method, documented(c.path), w)
	}
	checkProblem(t, h, call{method: "POST", path: subject + "/reset", query: alice, body: field("limits", "all")}, 503, "unavailable", "")
	checkProblem(t, h, call{method: "DELETE", path: subject + "/ban", query: alice}, 503, "unavailable", "")
}

// TestTags: the tag of an answer is the one that the next write must send, and after it
// is the one of a stale version.
func TestTags(t *testing.T) {
	h := open(t)
	yaml := header("Content-Type", "application/yaml")
	for name, chain := range map[string][]call{
		"subject": {
			{method: "GET", path: subject, query: alice},
			{method: "PUT", path: subject, query: alice, body: "{}"},
			{method: "PUT", path: subject, query: alice, body: "{}"},
			{method: "DELETE", path: subject, query: alice},
			{method: "PUT", path: subject, query: alice, body: "{}"},
			{method: "POST", path: subject + "/ban", query: alice, body: field("for", "1h")},
			{method: "DELETE", path: subject, query: alice},
			{method: "DELETE", path: subject + "/ban", query: alice},
			{method: "PUT", path: subject, query: alice, body: "{}"},
		},
		"policy": {
			{method: "GET", path: "/v1/policy"},
			{method: "PUT", path: "/v1/policy", body: examplePolicy(t), header: yaml},
			{method: "PUT", path: "/v1/plans/trial", body: "{}"},
			{method: "GET", path: "/v1/plans/trial"},
			{method: "DELETE", path: "/v1/plans/trial"},
			{method: "PUT", path: "/v1/applications/shop", body: "{}"},
			{method: "GET", path: "/v1/applications/shop"},
			{method: "DELETE", path: "/v1/applications/shop"},
			{method: "POST", path: "/v1/policy/rollback", body: field("revision", 1)},
		},
	} {
		tag := ""
		var stale []string
		for i, c := range chain {
			writes := operationOf(t, c).Parameters.GetByInAndName("header", "If-Match") != nil
			c.header = maps.Clone(c.header)
			if c.header == nil {
				c.header = make(http.Header)
			}
			for _, s := range stale {
				if c.header.Set("If-Match", s); writes && s != tag {
					checkProblem(t, h, c, 412, "stale", "")
				}
			}
			c.header.Set("If-Match", tag)
			w := h.send(t, c)
			if w.Code != http.StatusOK || w.Header().Get("ETag") == "" {
				t.Errorf("%s %d, %s with %s: status %d, tag %s: %s", name, i, c.method, tag, w.Code, w.Header().Get("ETag"), w.Body)
			}
			if tag != "" {
				stale = append(stale, tag)
			}
			tag = w.Header().Get("ETag")
		}
	}
}

// operationOf finds what the document says of a request.
func operationOf(t *testing.T, c call) operation {
	t.Helper()
	for _, o := range operations(t) {
		if o.method == c.method && o.path == documented(c.path) {
			return o
		}
	}
	t.Fatalf("%s %s is not documented", c.method, c.path)
	return operation{}
}
