package openapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestExamples sends every documented request to a server that has just started
// with the documented policy. The answer is one that the document describes,
// field by field, and the one that it shows.
func TestExamples(t *testing.T) {
	answers := strictly(t)
	for id, o := range operations(t) {
		t.Run(id, func(t *testing.T) {
			h := open(t)
			for _, earlier := range before[id] {
				for _, e := range h.examples(t, earlier) {
					if w := h.send(t, e.call); w.Code >= 300 {
						t.Fatalf("%s: status %d: %s", earlier, w.Code, w.Body)
					}
				}
			}
			for _, e := range h.examples(t, id) {
				w := h.send(t, e.call)
				if w.Code != http.StatusOK && w.Code != http.StatusCreated && w.Code != http.StatusNoContent {
					t.Errorf("example %s: status %d: %s", e.name, w.Code, w.Body)
				}
				answers.check(t, o.method, o.path, w)
				shown(t, o.Operation, e.name, w)
			}
		})
	}
}

// before are the operations whose examples others need to have been sent.
var before = map[string][]string{
	"listDecisions":     {"take"},
	"listSubjects":      {"putSubject"},
	"getSubject":        {"putSubject", "take"},
	"deleteSubject":     {"putSubject"},
	"resetSubject":      {"take"},
	"unbanSubject":      {"banSubject"},
	"getPolicy":         {"putPolicy"},
	"listRevisions":     {"putPolicy"},
	"rollbackPolicy":    {"putPolicy"},
	"getPlan":           {"putPlan"},
	"deletePlan":        {"putPlan"},
	"deleteApplication": {"putApplication"},
	"listTokens":        {"createToken"},
	"listAudit":         {"putPolicy"},
	"getUsage":          {"take"},
	"getStats":          {"take"},
	"getTop":            {"take"},
}

// operation is one of the document, and where it is.
type operation struct {
	*openapi3.Operation
	method, path string
}

// operations are all of the document by their ids.
func operations(t *testing.T) map[string]operation {
	t.Helper()
	all := make(map[string]operation)
	for path, item := range load(t).Paths.Map() {
		for method, op := range item.Operations() {
			all[op.OperationID] = operation{op, method, path}
		}
	}
	return all
}

// example is a documented request.
type example struct {
	name string
	call call
}

// examples are an operation's examples in the order of their names, which is
// theirs in the document: those of one operation go to one server. Parameters
// have theirs of their own.
func (h *house) examples(t *testing.T, id string) []example {
	t.Helper()
	o := operations(t)[id]
	c := call{method: o.method, path: o.path, query: url.Values{}, header: http.Header{}}
	for _, p := range o.Parameters {
		value, ok := p.Value.Example.(string)
		switch {
		case !ok:
		case p.Value.In == "path":
			c.path = strings.Replace(c.path, "{"+p.Value.Name+"}", value, 1)
		case p.Value.In == "query":
			c.query.Set(p.Value.Name, value)
		case p.Value.In == "header":
			c.header.Set(p.Value.Name, value)
		}
	}
	if id == "revokeToken" {
		c.query.Set("id", h.made(t, "createToken", "id"))
	}
	if o.RequestBody == nil {
		return []example{{"", c}}
	}
	var list []example
	for kind, media := range o.RequestBody.Value.Content {
		for name, e := range media.Examples {
			c.body, c.header = e.Value.Value, header("Content-Type", kind)
			if body, is := c.body.(map[string]any); is && body["ticket"] != nil {
				body = maps.Clone(body)
				body["ticket"] = h.made(t, "reserve", "ticket")
				c.body = body
			}
			list = append(list, example{name, c})
		}
	}
	slices.SortFunc(list, func(a, b example) int { return strings.Compare(a.name, b.name) })
	return list
}

// made sends the documented request of an operation, and returns a field of the
// answer. What the document shows is from a server that has ended.
func (h *house) made(t *testing.T, id, field string) string {
	t.Helper()
	return h.field(t, h.examples(t, id)[0].call, field)
}

// field sends a request, and returns a field of the answer.
func (h *house) field(t *testing.T, c call, name string) string {
	t.Helper()
	w := h.send(t, c)
	var fields map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &fields); err != nil || w.Code >= 300 {
		t.Fatalf("%s: %d, %v: %s", c.path, w.Code, err, w.Body)
	}
	value, _ := fields[name].(string)
	return value
}

// shown compares an answer with the one that the document shows for it.
func shown(t *testing.T, op *openapi3.Operation, name string, w *httptest.ResponseRecorder) {
	t.Helper()
	response := op.Responses.Status(w.Code)
	if response == nil || response.Value.Content["application/json"] == nil {
		return
	}
	media := response.Value.Content["application/json"]
	want, ok := media.Examples[name]
	if !ok && name == "" && len(media.Examples) == 1 {
		for _, want = range media.Examples {
			ok = true
		}
	}
	if !ok {
		return
	}
	var got any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(mask(got), mask(want.Value.Value)) {
		t.Errorf("example %q is answered otherwise than the document shows:\n%s", name, w.Body)
	}
}

// changing are the fields that differ from one server to the next, or are sentences.
var changing = []string{
	"decision_id", "ticket", "token", "at", "seen", "until", "changed_at", "created_at", "expires_at", "revoked_at", "verdict", "text",
}

var tokenID = regexp.MustCompile(`^[a-z2-7]{16}$`)

// mask returns v without what differs from one server to the next, and without
// sentences, whose wording may change.
func mask(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, inner := range v {
			if text, is := inner.(string); is && (slices.Contains(changing, key) || tokenID.MatchString(text)) {
				inner = key
			}
			m[key] = mask(inner)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = mask(v[i])
		}
		return list
	default:
		return v
	}
}
