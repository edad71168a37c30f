package gate

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate/expr"
	"github.com/headgate/headgate/gate/policy"
)

// compileRules makes an application of rules as the engine would.
func compileRules(t testing.TB, rules []policy.Rule) *application {
	t.Helper()
	env, err := expr.New()
	if err != nil {
		t.Fatal(err)
	}
	for i := range rules {
		if rules[i].Name == "" {
			rules[i].Name = "r" + strconv.Itoa(i)
		}
	}
	s, err := compile("test", &policy.Policy{Applications: []policy.Application{{Name: "a", Rules: rules}}}, env, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.applications["a"]
}

// ruleOf returns the name of the rule that a request meets, "" for none.
func ruleOf(t testing.TB, a *application, r *Request) string {
	t.Helper()
	q := question{request: r, app: a}
	var d Decision
	if err := q.match(&d); err != nil {
		t.Fatal(err)
	}
	return d.Rule
}

func path(pattern string, methods ...string) policy.Rule {
	return policy.Rule{Path: pattern, Methods: methods}
}

func TestMatch(t *testing.T) {
	get := func(path string) Request { return Request{Method: "GET", Path: path} }
	operation := func(name string) Request { return Request{Operation: name} }
	type ask struct {
		Request
		rule string // the name of the rule that it meets
	}
	for _, c := range []struct {
		why   string
		rules []policy.Rule
		asks  []ask
	}{
		{"operations are names, compared whole", []policy.Rule{{Operation: "send"}, {Operation: "sendEmail"}},
			[]ask{{operation("send"), "r0"}, {operation("sendEmail"), "r1"}, {operation("Send"), ""}, {operation("sendE"), ""}}},
		{"a rule of one operation and a rule of any meet in file order",
			[]policy.Rule{path("/a/{x...}"), {Operation: "read"}, path("/b/{x...}")},
			[]ask{
				{Request{Operation: "read", Path: "/a/1"}, "r0"},
				{Request{Operation: "read", Path: "/b/1"}, "r1"},
				{Request{Operation: "write", Path: "/b/1"}, "r2"},
				{Request{Operation: "write", Path: "/c"}, ""},
			}},
		{"a rule with operation and path asks for both",
			[]policy.Rule{{Operation: "read", Path: "/a"}, {Operation: "read"}, path("/a")},
			[]ask{
				{Request{Operation: "read", Path: "/a"}, "r0"},
				{operation("read"), "r1"},
				{Request{Operation: "read", Path: "/b"}, "r1"},
				{get("/a"), "r2"},
			}},
		{"a rule with a path takes no request without one", []policy.Rule{path("/{x...}")},
			[]ask{{operation("read"), ""}, {get("/"), "r0"}, {get("/x"), "r0"}}},
		{"rules by method alone", []policy.Rule{{Methods: []string{"POST", "PUT"}}},
			[]ask{{Request{Method: "POST", Path: "/x"}, "r0"}, {Request{Method: "PUT", Operation: "o"}, "r0"}, {get("/x"), ""}, {operation("o"), ""}}},
		{"HEAD goes by GET, and by its own name", []policy.Rule{path("/a", "GET"), path("/b", "HEAD"), path("/b", "GET"), path("/c", "POST")},
			[]ask{
				{Request{Method: "HEAD", Path: "/a"}, "r0"},
				{Request{Method: "HEAD", Path: "/b"}, "r1"},
				{get("/b"), "r2"},
				{Request{Method: "HEAD", Path: "/c"}, ""},
			}},
		{"methods are case-sensitive", []policy.Rule{path("/a", "GET")}, []ask{{Request{Method: "get", Path: "/a"}, ""}, {Request{Path: "/a"}, ""}}},
		{"a rule that does not take the method leaves the request to later ones", []policy.Rule{path("/a", "POST"), path("/{x}", "GET"), path("/a")},
			[]ask{{Request{Method: "POST", Path: "/a"}, "r0"}, {get("/a"), "r1"}, {Request{Method: "PUT", Path: "/a"}, "r2"}}},
		{"{name} is one segment that is not empty", []policy.Rule{path("/u/{id}")},
			[]ask{{get("/u/1"), "r0"}, {get("/u/"), ""}, {get("/u"), ""}, {get("/u/1/"), ""}, {get("/u/1/2"), ""}}},
		{"{name} inside", []policy.Rule{path("/u/{id}/posts")},
			[]ask{{get("/u/1/posts"), "r0"}, {get("/u/posts"), ""}, {get("/u/1/post"), ""}, {get("/u//posts"), ""}}},
		{"{rest...} is what follows the slash, or nothing", []policy.Rule{path("/api/{rest...}")},
			[]ask{{get("/api/"), "r0"}, {get("/api/a"), "r0"}, {get("/api/a/b/"), "r0"}, {get("/api"), ""}, {get("/apix"), ""}}},
		{"a trailing slash means the same without a name", []policy.Rule{path("/api/")},
			[]ask{{get("/api/"), "r0"}, {get("/api/a/b"), "r0"}, {get("/api"), ""}}},
		{"{$} is the bare slash", []policy.Rule{path("/api/{$}"), path("/{$}")},
			[]ask{{get("/api/"), "r0"}, {get("/api"), ""}, {get("/api/a"), ""}, {get("/"), "r1"}, {get("/x"), ""}}},
		{"{$} under {name}", []policy.Rule{path("/{x}/{$}"), path("/{x}")},
			[]ask{{get("/a/"), "r0"}, {get("/a"), "r1"}, {get("/"), ""}}},
		{"the root and all", []policy.Rule{path("/")}, []ask{{get("/"), "r0"}, {get("/a/b"), "r0"}}},
		{"a literal does not beat an earlier wildcard", []policy.Rule{path("/u/{id}", "GET"), path("/u/me")},
			[]ask{{get("/u/me"), "r0"}, {Request{Method: "POST", Path: "/u/me"}, "r1"}}},
		{"an earlier literal is met first", []policy.Rule{path("/u/me"), path("/u/{id}"), path("/{x...}")},
			[]ask{{get("/u/me"), "r0"}, {get("/u/you"), "r1"}, {get("/v"), "r2"}}},
		{"a literal that leads nowhere does not hide a wildcard", []policy.Rule{path("/u/me/x"), path("/u/{id}/y"), path("/{a}/me/{rest...}")},
			[]ask{{get("/u/me/x"), "r0"}, {get("/u/me/y"), "r1"}, {get("/u/me/z"), "r2"}}},
		{"paths are matched in their canonical form", []policy.Rule{path("/admin/{rest...}"), path("/{rest...}")},
			[]ask{
				{get("/x/../admin/a"), "r0"}, {get("//admin//a"), "r0"}, {get("/%61dmin/a"), "r0"}, {get("/admin%2Fa"), "r0"},
				{get("/x/%2e%2e/admin/a?q"), "r0"}, {get("/admin/../x"), "r1"}, {get("/Admin/a"), "r1"},
			}},
	} {
		a := compileRules(t, c.rules)
		for _, q := range c.asks {
			if got := ruleOf(t, a, &q.Request); got != q.rule {
				t.Errorf("%s %q %s: rule %q, want %q: %s", q.Method, q.Path, q.Operation, got, q.rule, c.why)
			}
		}
	}
}

// naive is the matcher as the contract words it: the first rule, in the order
// of the file, that takes operation, method and path.
func naive(rules []policy.Rule, r *Request) int {
	return slices.IndexFunc(rules, func(rule policy.Rule) bool {
		if rule.Operation != "" && rule.Operation != r.Operation {
			return false
		}
		if len(rule.Methods) > 0 && !slices.Contains(rule.Methods, r.Method) &&
			!(r.Method == http.MethodHead && slices.Contains(rule.Methods, http.MethodGet)) {
			return false
		}
		return rule.Path == "" || r.Path != "" && naivePath(strings.Split(rule.Path, "/")[1:], strings.Split(r.Path, "/")[1:])
	})
}

func naivePath(pattern, path []string) bool {
	for i, p := range pattern {
		switch last := i == len(pattern)-1; {
		case last && (p == "" || strings.HasSuffix(p, "...}")):
			return i < len(path)
		case p == "{$}":
			return i == len(path)-1 && path[i] == ""
		case i >= len(path):
			return false
		case strings.HasPrefix(p, "{"):
			if path[i] == "" {
				return false
			}
		case p != path[i]:
			return false
		}
	}
	return len(pattern) == len(path)
}

var methodsForTest = []string{"GET", "HEAD", "POST", "PUT"}

// world draws rules and requests from few segments, so that they meet.
type world struct {
	*rand.Rand
	segments int
}

func (w world) segment() string { return "/s" + strconv.Itoa(w.IntN(w.segments)) }

func (w world) rule() policy.Rule {
	var r policy.Rule
	if w.IntN(3) == 0 {
		r.Operation = "op" + strconv.Itoa(w.IntN(3))
	}
	for range w.IntN(3) {
		if m := methodsForTest[w.IntN(len(methodsForTest))]; !slices.Contains(r.Methods, m) {
			r.Methods = append(r.Methods, m)
		}
	}
	if w.IntN(20*w.segments) == 0 && r.Operation != "" {
		return r
	}
	for i := range 1 + w.IntN(4) {
		if w.IntN(w.segments+2) > 0 {
			r.Path += w.segment()
		} else {
			r.Path += fmt.Sprintf("/{w%d}", i)
		}
	}
	switch w.IntN(8) {
	case 0:
		r.Path += "/"
	case 1:
		r.Path += "/{$}"
	case 2:
		r.Path += "/{rest...}"
	}
	return r
}

// request makes one that is like rule, changed a little at times.
func (w world) request(rule policy.Rule) Request {
	r := Request{Operation: rule.Operation, Method: methodsForTest[w.IntN(len(methodsForTest))]}
	if w.IntN(3) == 0 {
		r.Operation = "op" + strconv.Itoa(w.IntN(4))
	}
	if rule.Path == "" && r.Operation != "" {
		return r
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(rule.Path, "/"), "/") {
		switch {
		case segment == "" || segment == "{$}":
			r.Path += "/"
		case segment == "{rest...}":
			r.Path += strings.Repeat(w.segment(), w.IntN(3)) + "/"
		case segment[0] == '{' || w.IntN(10) == 0:
			r.Path += w.segment()
		default:
			r.Path += "/" + segment
		}
	}
	switch w.IntN(10) {
	case 0:
		r.Path += w.segment()
	case 1:
		r.Path += "/"
	}
	if w.IntN(20) == 0 {
		r.Path = r.Path[:strings.LastIndexByte(r.Path, '/')+1]
	}
	r.Path = strings.ReplaceAll(r.Path, "//", "/")
	return r
}

func TestMatchEqualsLinearSearch(t *testing.T) {
	for _, n := range []int{1, 3, 10, 30, 100, 1000, 10_000} {
		w := world{rand.New(rand.NewPCG(1, uint64(n))), 2 + n/20}
		met, asked := make(map[string]int), 0
		for range max(1, 100/n) {
			rules := make([]policy.Rule, n)
			for i := range rules {
				rules[i] = w.rule()
			}
			a := compileRules(t, rules)
			for range 400 {
				r, want := w.request(rules[w.IntN(n)]), ""
				if i := naive(rules, &r); i >= 0 {
					want = rules[i].Name
				}
				asked++
				met[want]++
				if got := ruleOf(t, a, &r); got != want {
					t.Fatalf("%d rules, %+v: rule %q, want %q", n, r, got, want)
				}
			}
		}
		if len(met) < min(n, 50) || met[""] == 0 || met[""] > asked*2/3 {
			t.Errorf("%d rules: %d met by %d requests, %d met none: the test shows little", n, len(met), asked, met[""])
		}
	}
}

// BenchmarkMatch shows that a search costs what the path is long, not as there
// are rules: the time is that of the last rule of many.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			rules := make([]policy.Rule, n)
			for i := range rules {
				rules[i] = path(fmt.Sprintf("/api/v%d/{kind}/r%d/{id}", i%7, i), "GET", "POST")
			}
			a := compileRules(b, rules)
			last := n - 1
			r := &Request{Method: "POST", Path: fmt.Sprintf("/api/v%d/things/r%d/42", last%7, last)}
			if got, want := ruleOf(b, a, r), "r"+strconv.Itoa(last); got != want {
				b.Fatalf("rule %q, want %q", got, want)
			}
			q := question{request: r, app: a}
			d := new(Decision)
			b.ReportAllocs()
			for b.Loop() {
				if err := q.match(d); err != nil {
					b.Fatal(err)
				}
			}
			if d.Rule != "r"+strconv.Itoa(last) {
				b.Fatal("met", d.Rule)
			}
		})
	}
}
