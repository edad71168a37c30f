package openapi

import (
	"bytes"
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// answers holds answers against the document, strictly: what clients are told
// to expect more of must not have it without the document saying so.
type answers struct {
	doc      map[string]any
	compiler *jsonschema.Compiler
}

// strict is made once: to compile the document takes longer than to ask it.
var strict = sync.OnceValues(func() (*answers, error) {
	a := &answers{compiler: jsonschema.NewCompiler()}
	if err := json.Unmarshal(Document(), &a.doc); err != nil {
		return nil, err
	}
	var closed map[string]any
	if err := json.Unmarshal(Document(), &closed); err != nil {
		return nil, err
	}
	tighten(closed, false)
	a.compiler.AssertFormat()
	a.compiler.DefaultDraft(jsonschema.Draft2020)
	return a, a.compiler.AddResource("openapi.json", closed)
})

func strictly(t *testing.T) *answers {
	t.Helper()
	a, err := strict()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// tighten closes every object of v that names its fields, and every use of a
// component. The parts of an allOf see only their own fields: the whole is
// closed where it is used.
func tighten(v any, part bool) {
	switch v := v.(type) {
	case map[string]any:
		_, isRef := v["$ref"]
		_, isObject := v["properties"]
		if (isRef || isObject) && !part {
			v["unevaluatedProperties"] = false
		}
		for key, inner := range v {
			if list, ok := inner.([]any); ok && key == "allOf" {
				for _, p := range list {
					tighten(p, true)
				}
				continue
			}
			if components, ok := inner.(map[string]any); ok && key == "schemas" {
				for _, s := range components {
					tighten(s, true)
				}
				continue
			}
			tighten(inner, false)
		}
	case []any:
		for _, inner := range v {
			tighten(inner, false)
		}
	}
}

// at follows a path of keys, and references on the way; pointer is where it
// ends.
func (a *answers) at(keys ...string) (v map[string]any, pointer string, ok bool) {
	v, pointer = a.doc, "#"
	for _, key := range keys {
		if v, ok = v[key].(map[string]any); !ok {
			return nil, "", false
		}
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(key)
		if ref, is := v["$ref"].(string); is {
			v, _, ok = a.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			if pointer = ref; !ok {
				return nil, "", false
			}
		}
	}
	return v, pointer, true
}

// check holds one answer against what the document says of the operation.
func (a *answers) check(t *testing.T, method, path string, w *httptest.ResponseRecorder) {
	t.Helper()
	status := strconv.Itoa(w.Code)
	if w.Code == http.StatusMethodNotAllowed {
		status = "default" // no client that follows the document gets it
	}
	operation := []string{"paths", path, strings.ToLower(method), "responses", status}
	response, _, ok := a.at(operation...)
	if !ok {
		t.Errorf("%s %s: status %d is not documented: %s", method, path, w.Code, w.Body)
		return
	}
	a.checkHeader(t, response, w.Header())
	if response["content"] == nil {
		if w.Body.Len() > 0 {
			t.Errorf("%s %s: %d has a body that is not documented: %s", method, path, w.Code, w.Body)
		}
		return
	}
	kind, _, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if err != nil {
		t.Errorf("%s %s: Content-Type: %v", method, path, err)
	}
	if _, _, ok = a.at(append(operation, "content", kind)...); !ok {
		t.Errorf("%s %s: %d as %s is not documented", method, path, w.Code, kind)
		return
	}
	switch {
	case kind == "application/x-ndjson":
		for line := range bytes.Lines(w.Body.Bytes()) {
			a.fits(t, "#/components/schemas/UsageList/properties/items/items", line)
		}
		return
	case !strings.HasSuffix(kind, "json"):
		return
	}
	// The reference of a media type's schema stays where it is, with what
	// tighten wrote beside it.
	_, parent, _ := a.at(append(operation, "content", kind)...)
	a.fits(t, parent+"/schema", w.Body.Bytes())
}

// fits holds a JSON text against the schema at a pointer.
func (a *answers) fits(t *testing.T, pointer string, text []byte) {
	t.Helper()
	schema, err := a.compiler.Compile("openapi.json" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Errorf("%s: %v in %s", pointer, err, text)
		return
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%s: %v\n%s", pointer, err, text)
	}
}

// usual are header fields that say nothing of this API.
var usual = []string{"Content-Type", "Content-Length", "X-Content-Type-Options", "Cache-Control", "Accept-Ranges", "Connection", "Allow", "Vary"}

// checkHeader: each field is documented, and as it is documented.
func (a *answers) checkHeader(t *testing.T, response map[string]any, h http.Header) {
	t.Helper()
	documented := make(map[string]string) // canonical to documented name
	if all, ok := response["headers"].(map[string]any); ok {
		for name := range all {
			documented[http.CanonicalHeaderKey(name)] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if slices.Contains(usual, name) {
			continue
		}
		written, ok := documented[name]
		if !ok {
			t.Errorf("header %s: %s is not documented", name, h.Get(name))
			continue
		}
		header, _, _ := a.at("components", "headers", written)
		if schema, _ := header["schema"].(map[string]any); schema["type"] == "integer" {
			if n, err := strconv.ParseFloat(h.Get(name), 64); err != nil || n < schema["minimum"].(float64) {
				t.Errorf("header %s: %q is not what is documented: %v", name, h.Get(name), schema)
			}
		}
	}
}
