package openapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestExamples sends every documented request to a server that has just started
// with the documented policy. The answer is one that the document describes,
// field by field, and the one that it shows.
func TestExamples(t *testing.T) {
	doc, answers := load(t), strictly(t)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			t.Run(op.OperationID, func(t *testing.T) {
				h := open(t)
				prepare(t, h, doc, op)
				for _, e := range requests(t, h, doc, method, path, op) {
					w := h.send(t, e.call)
					if w.Code != http.StatusOK && w.Code != http.StatusNoContent {
						t.Errorf("example %s: status %d: %s", e.name, w.Code, w.Body)
					}
					answers.check(t, method, path, w)
					shown(t, op, e.name, w)
				}
			})
		}
	}
}

// example is a documented request.
type example struct {
	name string
	call call
}

// requests are an operation's examples in the order of their names, which is
// theirs in the document: those of one operation go to one server. Parameters
// have theirs of their own.
func requests(t *testing.T, h *house, doc *openapi3.T, method, path string, op *openapi3.Operation) []example {
	c := call{method: method, path: path, query: url.Values{}, header: http.Header{}}
	for _, p := range op.Parameters {
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
	if op.RequestBody == nil {
		return []example{{"", c}}
	}
	var list []example
	all := op.RequestBody.Value.Content["application/json"].Examples
	for _, name := range slices.Sorted(maps.Keys(all)) {
		body := maps.Clone(all[name].Value.Value.(map[string]any))
		if _, is := body["ticket"]; is {
			body["ticket"] = reserve(t, h, doc)
		}
		c.body = body
		list = append(list, example{name, c})
	}
	return list
}

// reserve returns the ticket of the documented reservation. The one that the
// document shows is from a server that has ended.
func reserve(t *testing.T, h *house, doc *openapi3.T) string {
	t.Helper()
	body := doc.Paths.Value("/v1/reserve").Post.RequestBody.Value.Content["application/json"].Examples["estimate"].Value.Value
	w := h.send(t, call{method: http.MethodPost, path: "/v1/reserve", body: body})
	var d struct{ Ticket string }
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.Ticket == "" {
		t.Fatalf("reserve: %d, %v: %s", w.Code, err, w.Body)
	}
	return d.Ticket
}

// prepare makes the decisions that a list of decisions shows.
func prepare(t *testing.T, h *house, doc *openapi3.T, op *openapi3.Operation) {
	if op.OperationID != "listDecisions" {
		return
	}
	take := doc.Paths.Value("/v1/take").Post
	for _, e := range requests(t, h, doc, http.MethodPost, "/v1/take", take) {
		h.send(t, e.call)
	}
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

// mask returns v without what differs from one server to the next, and without
// sentences, whose wording may change.
func mask(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, inner := range v {
			if _, is := inner.(string); is && slices.Contains([]string{"decision_id", "ticket", "at", "until", "verdict", "text"}, key) {
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
