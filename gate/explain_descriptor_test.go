package gate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

// TestExplainDescriptors reads out how descriptors are decided.
func TestExplainDescriptors(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    rules:
      - name: user
        match: {descriptor: [{key: path, value: "/api/*"}, {key: user}]}
        quota_mode: true
        replaces: [shared, x]
        limits: [{name: w, algorithm: fixed_window, rate: 2/h}]
      - {name: shared, match: {descriptor: [{key: path, value: "/api/*", share_threshold: true}]}, limits: [{name: w, algorithm: fixed_window, rate: 0/h}]}
`)
	for _, c := range []struct {
		ask     string
		said    *gate.SaidLimit
		verdict string
		steps   map[string]string
	}{
		{"path=/api/1,user=bob", nil, "Allowed: 2 of 2 left on user/w.", map[string]string{
			"match": `Rule user of application a has the descriptor, by "path" "/api/1" (pattern "/api/*") and "user" "bob" (any value). ` +
				`In a call with other rules in quota mode, one that passes is enough (quota_mode). In the same call nothing is charged for shared and x (replaces).`,
			"subject":      "The subject is /api/1&bob: what the rule leaves open of the descriptor.",
			"limit:user/w": "At most 2 requests in each window of 1 h, counted anew in the next. The numbers are the limit's own. It is the budget of /api/1&bob alone.",
		}},
		{"path=/api/1", nil, "Refused for good: the request costs 1 and shared/w never holds more than 0.", map[string]string{
			"match":          `Rule shared of application a has the descriptor, by "path" "/api/1" (pattern "/api/*").`,
			"subject":        "There is no subject: the rule leaves no value open, and its limits are the application's.",
			"limit:shared/w": "At most 0 requests in each window of 1 h, counted anew in the next. The numbers are the limit's own. All requests of application a share it. 0 of 0 are used, 0 are left; this request asks for 1. It refuses this request, and always will: it never holds more than 0.",
		}},
		{"path=/api/1", &gate.SaidLimit{Count: 5, Period: time.Minute}, "Allowed: 5 of 5 left on override.", map[string]string{
			"match":          `The request says its limit itself, for descriptor "path" "/api/1" of application a: no rule is looked for.`,
			"subject":        "The subject is path=/api/1: all entries of the descriptor.",
			"limit:override": "At most 5 requests in each window of 1 min, counted anew in the next. The numbers are those that the request says. It is the budget of path=/api/1 alone.",
		}},
		{"path=/x\n\x1b", nil, "Allowed: no rule matches, and no limit applies.", map[string]string{
			"match":   `No rule of application a matches descriptor "path" "/x\n\x1b". The application says on_no_match: plan, so the limits of the application and of the plan apply`,
			"subject": "The request names no subject.",
		}},
	} {
		r := call(1, c.ask)[0]
		r.Said = c.said
		var d gate.Decision
		var e gate.Explanation
		if err := g.Explain(t.Context(), r, &d, &e); err != nil {
			t.Fatal(err)
		}
		if e.Verdict != c.verdict {
			t.Errorf("%s: %s\nwant %s", c.ask, e.Verdict, c.verdict)
		}
		for about, want := range c.steps {
			var got string
			for _, s := range e.Steps {
				if s.About == about {
					got = s.Text
				}
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s:\ngot  %s\nwant %s", c.ask, about, got, want)
			}
		}
	}
}
