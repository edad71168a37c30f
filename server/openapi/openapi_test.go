package openapi

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// loaded is the document with its references resolved.
var loaded = sync.OnceValues(func() (*openapi3.T, error) { return openapi3.NewLoader().LoadFromData(Document()) })

func load(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := loaded()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// tree is the document as plain JSON.
func tree(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(Document(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestValid: the document, all schemas in it and all examples are as OpenAPI 3.1
// wants them.
func TestValid(t *testing.T) {
	doc := load(t)
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("openapi %q", doc.OpenAPI)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableSchemaFormatValidation(), openapi3.EnableMultiError()); err != nil {
		t.Error(err)
	}
}

// TestComplete: everything that generators and readers need is there, and
// nothing that nobody uses.
func TestComplete(t *testing.T) {
	doc := load(t)
	var tags, ids []string
	for _, tag := range doc.Tags {
		tags = append(tags, tag.Name)
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if op.OperationID == "" || slices.Contains(ids, op.OperationID) {
				t.Errorf("%s: operationId %q is empty or taken", name, op.OperationID)
			}
			ids = append(ids, op.OperationID)
			if op.Summary == "" || op.Description == "" {
				t.Errorf("%s: no summary or description", name)
			}
			if len(op.Tags) != 1 || !slices.Contains(tags, op.Tags[0]) {
				t.Errorf("%s: tags %q, want one of %q", name, op.Tags, tags)
			}
			if op.RequestBody != nil && len(op.RequestBody.Value.Content["application/json"].Examples) == 0 {
				t.Errorf("%s: the body has no example", name)
			}
			for _, p := range op.Parameters {
				if p.Value.Description == "" {
					t.Errorf("%s: parameter %s has no description", name, p.Value.Name)
				}
			}
			admin := !slices.Contains([]string{"Decisions", "Reservations", "Proxies", "Operation", "Documents"}, op.Tags[0])
			if secured := op.Security != nil && len(*op.Security) == 1 && (*op.Security)[0]["token"] != nil; secured != admin {
				t.Errorf("%s: always wants a token: %t, want %t", name, secured, admin)
			}
		}
	}
	for kind, all := range tree(t)["components"].(map[string]any) {
		if kind == "securitySchemes" { // used by name
			continue
		}
		for name := range all.(map[string]any) {
			if ref := `"#/components/` + kind + "/" + name + `"`; !strings.Contains(document, ref) {
				t.Errorf("nothing refers to %s", ref)
			}
		}
	}
}

// TestSchemas: every field says what it is, bodies of requests are closed, and
// answers are open.
func TestSchemas(t *testing.T) {
	schemas := tree(t)["components"].(map[string]any)["schemas"].(map[string]any)
	for name, s := range schemas {
		request := strings.HasSuffix(name, "Request")
		closed := s.(map[string]any)["additionalProperties"] == false
		if request != closed {
			t.Errorf("%s: additionalProperties false: %t, want %t", name, closed, request)
		}
		described(t, schemas, name, s.(map[string]any))
	}
}

func described(t *testing.T, schemas map[string]any, at string, s map[string]any) {
	if ref, ok := s["$ref"].(string); ok && s["description"] == nil {
		s = schemas[ref[strings.LastIndexByte(ref, '/')+1:]].(map[string]any)
		if s["description"] == nil {
			t.Errorf("%s: no description", at)
		}
		return
	}
	if s["type"] != "object" && s["allOf"] == nil && s["description"] == nil {
		t.Errorf("%s: no description", at)
	}
	if p, ok := s["properties"].(map[string]any); ok {
		for name, property := range p {
			described(t, schemas, at+"."+name, property.(map[string]any))
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, ok := s[key].(map[string]any); ok && inner["properties"] != nil {
			described(t, schemas, at+"[]", inner)
		}
	}
}

func TestHandler(t *testing.T) {
	ask := func(method, tag string) *http.Response {
		r := httptest.NewRequest(method, Path, nil)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		w := httptest.NewRecorder()
		Handler().ServeHTTP(w, r)
		return w.Result()
	}
	got := ask(http.MethodGet, "")
	body, err := io.ReadAll(got.Body)
	if err != nil || !bytes.Equal(body, Document()) || got.StatusCode != http.StatusOK {
		t.Errorf("GET: status %d, %d bytes, error %v", got.StatusCode, len(body), err)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "public, max-age=300",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	tag := got.Header.Get("Etag")
	if head := ask(http.MethodHead, ""); head.StatusCode != http.StatusOK || head.ContentLength != int64(len(document)) || head.Header.Get("Etag") != tag {
		t.Errorf("HEAD: %d, length %d, tag %s", head.StatusCode, head.ContentLength, head.Header.Get("Etag"))
	}
	if same := ask(http.MethodGet, tag); same.StatusCode != http.StatusNotModified || same.Header.Get("Cache-Control") == "" {
		t.Errorf("GET with the tag: %d, want 304 with Cache-Control", same.StatusCode)
	}
	if other := ask(http.MethodGet, `"0000000000000000"`); other.StatusCode != http.StatusOK {
		t.Errorf("GET with another tag: %d, want 200", other.StatusCode)
	}
}

// TestDocumentIsACopy: a caller that changes it changes nobody else's.
func TestDocumentIsACopy(t *testing.T) {
	Document()[0] = 'x'
	if Document()[0] != '{' {
		t.Error("the document was changed")
	}
}
