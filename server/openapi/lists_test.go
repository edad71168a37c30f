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
)

// wanted are values of parameters that every operation takes which documents them, and
// those of single operations.
var wanted = map[string][]string{
	"application": {"email", ""}, "subject": {"alice", ""}, "rule": {"complete", ""}, "operation": {"sendEmail", ""}, "plan": {"free", ""},
	"unit": {"tokens", ""}, "reason": {"banned", ""}, "allowed": {"true", "false", ""}, "banned": {"true", ""}, "prefix": {"al", ""},
	"since": {"1h", "2026-03-09T12:00:00Z", ""}, "limit": {"1", "500", ""}, "cursor": {""},
	"revision": {"1", ""}, "note": {strings.Repeat("n", 256), ""}, "actor": {"ops", ""}, "action": {"policy.", "policy.put", ""},
	"period": {"hour", "day", "month", ""}, "from": {"2026-03-09T12:00:00Z", "2026-03-09", "2026-03", "100000h", ""},
	"to": {"2026-03-09T12:00:00Z", "2026-03-10", "2026-04", ""}, "format": {"json", "jsonl", "csv", ""}, "total": {"true", "false", ""},
	"window": {"1s", "5m", ""}, "by": {"requests", "denied", "cost", ""},

	"getSubject subject": {strings.Repeat("s", 512)}, "putSubject subject": {"ä b/c"}, "deleteSubject subject": {"alice"},
	"resetSubject subject": {"alice"}, "banSubject subject": {"alice"}, "unbanSubject subject": {"alice"},
	"forwardAuth deny": {"403", "429"}, "revokeToken id": nil,
}

// TestParameters: every documented parameter of a query is taken, and no others.
func TestParameters(t *testing.T) {
	answers := strictly(t)
	for id, o := range operations(t) {
		var names []string
		for _, p := range o.Parameters {
			if p.Value.In == "query" {
				names = append(names, p.Value.Name)
			}
		}
		if len(names) == 0 {
			continue
		}
		h := open(t)
		prepare := func() {
			for _, earlier := range before[id] {
				h.send(t, h.examples(t, earlier)[0].call)
			}
		}
		prepare()
		first := h.examples(t, id)[0].call
		for _, name := range names {
			values, special := wanted[id+" "+name]
			if values == nil && !special {
				values = wanted[name]
			}
			if values == nil && !special {
				t.Errorf("%s: no test of the parameter %s", id, name)
			}
			for _, v := range values {
				prepare() // again, as it may have been deleted
				c := first
				c.query = maps.Clone(first.query)
				c.query.Set(name, v)
				if w := h.send(t, c); w.Code >= 300 {
					t.Errorf("%s: %s=%s: status %d: %s", id, name, v, w.Code, w.Body)
				} else {
					answers.check(t, o.method, o.path, w)
				}
			}
			twice := first
			twice.query = maps.Clone(first.query)
			twice.query[name] = []string{"a", "a"}
			if w := h.send(t, twice); w.Code != http.StatusBadRequest {
				t.Errorf("%s: %s twice: status %d: %s", id, name, w.Code, w.Body)
			}
		}
		other := first
		other.query = maps.Clone(first.query)
		other.query.Set("sbject", "alice")
		if w := h.send(t, other); w.Code != http.StatusBadRequest {
			t.Errorf("%s: unknown parameter: status %d: %s", id, w.Code, w.Body)
		}
	}
}

// TestPages: whoever follows the cursors gets what is in one page.
func TestPages(t *testing.T) {
	h, answers := open(t), strictly(t)
	for i := range 3 {
		subject := url.Values{"subject": {fmt.Sprintf("s%d/ä &=", i)}}
		h.send(t, call{method: "PUT", path: "/v1/applications/email/subject", query: subject, body: map[string]any{}})
		h.send(t, call{method: "PUT", path: "/v1/policy", body: examplePolicy(t), header: header("Content-Type", "application/yaml")})
		refused := with("subject", subject.Get("subject")) // of what passes, only some is kept
		refused["cost"] = 1_000_000
		h.send(t, call{method: "POST", path: "/v1/take", body: refused})
		h.token(t, "read")
	}
	paged := 0
	for id, o := range operations(t) {
		if o.Parameters.GetByInAndName("query", "cursor") == nil {
			continue
		}
		paged++
		c := h.examples(t, id)[0].call
		c.query = url.Values{"limit": {"500"}}
		whole, next := h.page(t, c)
		if len(whole) < 3 || next != "" {
			t.Errorf("%s: %d items, and %q", id, len(whole), next)
		}
		var parts []any
		c.query.Set("limit", "1")
		for range whole {
			w := h.send(t, c)
			answers.check(t, o.method, o.path, w)
			part, next := h.page(t, c)
			parts = append(parts, part...)
			c.query.Set("cursor", next)
		}
		if !reflect.DeepEqual(parts, whole) || c.query.Get("cursor") != "" {
			t.Errorf("%s: page by page %v, and then %q; want %v", id, parts, c.query.Get("cursor"), whole)
		}
		c.query.Set("cursor", "\x00")
		if w := h.send(t, c); w.Code != http.StatusBadRequest {
			t.Errorf("%s: no cursor: status %d: %s", id, w.Code, w.Body)
		}
	}
	if paged < 6 {
		t.Errorf("%d operations have pages", paged)
	}
}

func (h *house) page(t *testing.T, c call) (items []any, next string) {
	t.Helper()
	w := h.send(t, c)
	var l struct {
		Items []any
		Next  *string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != http.StatusOK || l.Next != nil && *l.Next == "" {
		t.Fatalf("%s: %d, %v: %s", c.path, w.Code, err, w.Body)
	}
	if l.Next != nil {
		next = *l.Next
	}
	return l.Items, next
}

// TestUsageFormats: all formats tell the same.
func TestUsageFormats(t *testing.T) {
	h, answers := open(t), strictly(t)
	for _, e := range h.examples(t, "take") {
		h.send(t, e.call)
	}
	rows, _ := h.page(t, call{method: "GET", path: "/v1/usage"})
	for _, c := range []call{
		{query: query("format", "jsonl")}, {header: header("Accept", "application/x-ndjson")},
		{query: query("format", "csv")}, {header: header("Accept", "text/csv")},
	} {
		c.method, c.path = "GET", "/v1/usage"
		w := h.send(t, c)
		answers.check(t, c.method, c.path, w)
		lines := slices.Collect(strings.Lines(w.Body.String()))
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv") {
			names := slices.Sorted(strings.SplitSeq(strings.TrimSpace(lines[0]), ","))
			if fields := slices.Sorted(maps.Keys(rows[0].(map[string]any))); !slices.Equal(names, fields) {
				t.Errorf("headings %q, fields %q", names, fields)
			}
			lines = lines[1:]
		}
		if len(lines) != len(rows) || len(rows) < 3 {
			t.Errorf("%v: %d rows, as a page %d", c, len(lines), len(rows))
		}
	}
}
