package expr_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate/expr"
)

func env(t testing.TB) *expr.Env {
	t.Helper()
	e, err := expr.New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var input = expr.Input{
	Method: "POST", Path: "/api/x", Query: "page=2&page=3&q=%zz", Host: "example.org", IP: "203.0.113.9",
	Headers:   http.Header{"X-Api-Key": {"k1"}},
	Operation: "sendEmail", Subject: "alice", Plan: "free",
	Attributes: map[string]string{"org": "acme", "size": "12"},
}

func TestEvaluate(t *testing.T) {
	e := env(t)
	bools := map[string]bool{
		`request.path == "/api/x"`:                         true,
		`request.path.startsWith("/health")`:               false,
		`request.headers["x-api-key"] == "k1"`:             true,
		`"x-none" in request.headers`:                      false,
		`request.query.page == "2" && subject == "alice"`:  true,
		`operation == "sendEmail" && plan != "enterprise"`: true,
		`request.ip == "203.0.113.9"`:                      true,
		`request.host.endsWith(".org")`:                    true,
		`has(attributes.org) && !has(attributes.nope)`:     true,
	}
	for source, want := range bools {
		p, err := e.Compile(source, expr.Bool)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := p.Bool(&input); got != want || err != nil {
			t.Errorf("%s = %v, %v; want %v", source, got, err, want)
		}
	}
	n, err := e.Compile(`request.method == "POST" ? 2 + int(attributes.size) : 1`, expr.Int)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := n.Int(&input); got != 14 || err != nil {
		t.Errorf("cost = %d, %v; want 14", got, err)
	}
	s, err := e.Compile(`attributes.org`, expr.String)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.String(&input); got != "acme" || err != nil {
		t.Errorf("owner = %q, %v; want acme", got, err)
	}
	if _, err := s.String(&expr.Input{}); err == nil || !strings.Contains(err.Error(), "org") {
		t.Errorf("missing attribute: error %v, want one naming org", err)
	}
}

func TestCompileRefuses(t *testing.T) {
	e := env(t)
	for _, c := range []struct {
		source, want string
		kind         expr.Kind
	}{
		{`request.pth == "/x"`, "undeclared reference", expr.Bool},
		{`request.path`, "yields string, want bool", expr.Bool},
		{`"1"`, "yields string, want int", expr.Int},
		{`1 +`, "Syntax error", expr.Int},
		{`1.5`, "yields double, want int", expr.Int},
		{strings.Repeat("a", expr.MaxSource+1), "at most 4096", expr.Bool},
		{`attributes.exists(a, request.headers.exists(b, request.query.exists(c, a == b && b == c)))`, "may cost", expr.Bool},
	} {
		if _, err := e.Compile(c.source, c.kind); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: error %v, want one with %q", c.source, err, c.want)
		}
	}
}
