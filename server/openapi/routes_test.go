package openapi

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/front/envoyrls"
	"github.com/headgate/headgate/server/front/forwardauth"
	"github.com/headgate/headgate/server/front/httpapi"
)

// TestRoutes: what the handlers serve is documented, with the fields of its
// bodies, and there is nothing else.
func TestRoutes(t *testing.T) {
	doc := load(t)
	routes := []string{Path, envoyrls.Path, forwardauth.Pattern, "/metrics", "/v1/policy/schema.json"}
	for _, r := range httpapi.Routes() {
		routes = append(routes, r.Path)
		op := doc.Paths.Value(r.Path)
		if op == nil || op.GetOperation(r.Method) == nil {
			t.Errorf("%s %s is not documented", r.Method, r.Path)
			continue
		}
		var fields []string
		if body := op.GetOperation(r.Method).RequestBody; body != nil {
			fields = slices.Collect(maps.Keys(body.Value.Content["application/json"].Schema.Value.Properties))
		}
		if slices.Sort(fields); !slices.Equal(fields, slices.Sorted(slices.Values(r.Fields))) {
			t.Errorf("%s: fields %q are documented, the handler takes %q", r.Path, fields, r.Fields)
		}
	}
	openWith(t, examplePolicy(t), func(c *admin.Config) { routes = slices.AppendSeq(routes, maps.Keys(admin.Routes(*c))) })
	slices.Sort(routes)
	if documented := slices.Sorted(maps.Keys(doc.Paths.Map())); !slices.Equal(documented, routes) {
		t.Errorf("paths %q are documented, the handlers have %q", documented, routes)
	}
}

// TestMethods: exactly the documented methods of a path are answered, HEAD where
// GET is; forward-auth answers all.
func TestMethods(t *testing.T) {
	answers := strictly(t)
	for path, item := range load(t).Paths.Map() {
		h, documented := open(t), item.Operations()
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			want := documented[method] != nil || method == "HEAD" && documented["GET"] != nil || path == forwardauth.Pattern
			w := h.send(t, call{method: method, path: strings.NewReplacer("{application}", "web", "{plan}", "free").Replace(path)})
			unrouted := w.Code == http.StatusNotFound && strings.Contains(w.Body.String(), "no such route")
			if got := w.Code != http.StatusMethodNotAllowed && !unrouted; got != want {
				t.Errorf("%s %s: status %d, documented: %t", method, path, w.Code, want)
			}
			if w.Code != http.StatusMethodNotAllowed {
				continue
			}
			if w.Header().Get("Allow") == "" {
				t.Errorf("%s %s: 405 without Allow", method, path)
			}
			for of := range documented {
				answers.check(t, of, path, w)
			}
		}
	}
}

// TestNames: every reason and every problem that the code has is in the table
// that clients read, with its status.
func TestNames(t *testing.T) {
	schemas := load(t).Components.Schemas
	reasons, problems := schemas["Reason"].Value, schemas["Problem"].Value.Description
	for r := headgate.OK; int(r) < headgate.Reasons; r++ {
		if !strings.Contains(reasons.Description, "\n- `"+r.String()+"`: ") || !slices.Contains(reasons.Examples, any(r.String())) {
			t.Errorf("reason %s is not documented", r)
		}
	}
	if len(reasons.Examples) != headgate.Reasons-1 {
		t.Errorf("%d reasons are documented, there are %d", len(reasons.Examples), headgate.Reasons-1)
	}
	written := problemsOf(t, "..")
	if len(written) < 10 {
		t.Errorf("only %d problems found in the code: %q", len(written), written)
	}
	for _, p := range written {
		if !strings.Contains(problems, p) {
			t.Errorf("problem %s is not documented", p)
		}
	}
	if rows := strings.Count(problems, "\n| `"); rows != len(written) {
		t.Errorf("%d problems are documented, the code has %d: %q", rows, len(written), written)
	}
}

// TestActions: the actions of the audit log that the document names are those that
// there are.
func TestActions(t *testing.T) {
	h := open(t)
	for _, o := range slices.SortedFunc(maps.Values(operations(t)), func(a, b operation) int { return strings.Compare(a.OperationID, b.OperationID) }) {
		if o.scope() == "read" || o.scope() == "decide" {
			continue
		}
		for _, id := range append(slices.Clone(before[o.OperationID]), o.OperationID) {
			h.send(t, h.examples(t, id)[0].call)
		}
	}
	var done []string
	items, _ := h.page(t, call{method: "GET", path: "/v1/audit", query: query("limit", "500")})
	for _, item := range items {
		done = append(done, item.(map[string]any)["action"].(string))
	}
	var named []string
	for _, a := range load(t).Components.Schemas["AuditEntry"].Value.Properties["action"].Value.Examples {
		named = append(named, a.(string))
	}
	slices.Sort(named)
	if slices.Sort(done); !slices.Equal(slices.Compact(done), named) {
		t.Errorf("done %q, documented %q", slices.Compact(done), named)
	}
}

// TestProblemExamples: the problems that the document shows are those of its
// table, or refusals.
func TestProblemExamples(t *testing.T) {
	components := load(t).Components
	for name, response := range components.Responses {
		media := response.Value.Content["application/problem+json"]
		if media == nil || media.Example == nil {
			continue
		}
		p := media.Example.(map[string]any)
		status := int(p["status"].(float64))
		short := strings.TrimPrefix(p["type"].(string), "urn:headgate:problem:")
		row := "| `" + short + "` | " + strconv.Itoa(status) + " |"
		refusal := slices.Contains(components.Schemas["Reason"].Value.Examples, any(short))
		if !strings.Contains(components.Schemas["Problem"].Value.Description, row) && !refusal || p["title"] != http.StatusText(status) {
			t.Errorf("%s: %v", name, p)
		}
	}
}

// statuses are those that problems have.
var statuses = map[string]int{
	"StatusBadRequest": 400, "StatusUnauthorized": 401, "StatusForbidden": 403, "StatusNotFound": 404, "StatusMethodNotAllowed": 405, "StatusConflict": 409, "StatusPreconditionFailed": 412,
	"StatusRequestEntityTooLarge": 413, "StatusUnsupportedMediaType": 415, "StatusUnprocessableEntity": 422, "StatusTooManyRequests": 429,
	"StatusInternalServerError": 500, "StatusServiceUnavailable": 503,
}

// problemsOf finds the problems that the code below a directory makes, each as
// the beginning of its row in the table. Those of refusals are named by their
// reasons. Those of the proxy are no answers of this API: docs/proxy.md has them.
func problemsOf(t *testing.T, dir string) []string {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == "proxy" {
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			c, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			fields := make(map[string]ast.Expr)
			for _, e := range c.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					if key, ok := kv.Key.(*ast.Ident); ok {
						fields[key.Name] = kv.Value
					}
				}
			}
			text, isText := fields["Name"].(*ast.BasicLit)
			status, isStatus := fields["Status"].(*ast.SelectorExpr)
			if !isText || !isStatus {
				return true
			}
			problem, err := strconv.Unquote(text.Value)
			if err != nil || statuses[status.Sel.Name] == 0 {
				t.Errorf("%s: problem %s with status %s", name, text.Value, status.Sel.Name)
			}
			found["| `"+problem+"` | "+strconv.Itoa(statuses[status.Sel.Name])+" |"] = true
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}
