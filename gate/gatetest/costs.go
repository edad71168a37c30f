package gatetest

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

const everyCost = `
version: 1
applications:
  a:
    limits: [{name: all, rate: 60/h, burst: 100}]
    rules:
      - {name: fixed, match: {operation: fixed}, cost: 3}
      - {name: free, match: {operation: free}, cost: 0}
      - {name: method, match: {path: /m}, cost: {GET: 5, POST: 7}}
      - {name: expr, match: {operation: expr}, cost: "int(attributes.n) + (request.method == 'POST' ? 2 : 0)"}
  none: {}
`

func costs() []scenario {
	// charged is the answer of a rule for a subject s after so much was used.
	charged := func(rule string, cost, used int64) want {
		return want{rule: rule, subject: "s", cost: cost, bound: "app/all", limits: []state{app("app/all", used, 100, time.Duration(used)*time.Minute)}}
	}
	posted := func(r gate.Request) gate.Request {
		r.Method = "POST"
		return r
	}
	return []scenario{
		{
			"cost", "a request costs what the caller says, else what the rule says by number, method (HEAD as GET) or expression, else 1", everyCost,
			[]step{
				{ask: by("a", "fixed", "s"), want: charged("fixed", 3, 3)},
				{ask: by("a", "free", "s"), want: charged("free", 0, 3)},
				{ask: to("a", "GET", "/m", "s"), want: charged("method", 5, 8)},
				{ask: to("a", "POST", "/m", "s"), want: charged("method", 7, 15)},
				{ask: to("a", "PUT", "/m", "s"), want: charged("method", 1, 16)},
				{ask: to("a", "HEAD", "/m", "s"), want: charged("method", 5, 21)},
				{ask: with("n", "4", by("a", "expr", "s")), want: charged("expr", 4, 25)},
				{ask: posted(with("n", "4", by("a", "expr", "s"))), want: charged("expr", 6, 31)},
				{ask: costing(5, by("a", "fixed", "s")), want: charged("fixed", 5, 36)},
				{ask: costing(10, to("a", "POST", "/m", "s")), want: charged("method", 10, 46)},
				{ask: costing(10, by("a", "expr", "s")), want: charged("expr", 10, 56)},
				{ask: costing(0, by("a", "fixed", "s")), want: charged("fixed", 0, 56)},
				{ask: costing(44, by("a", "fixed", "s")), want: charged("fixed", 44, 100)},
				{ask: costing(0, by("a", "fixed", "s")), want: charged("fixed", 0, 100)},
			},
		},
		{
			"expression_inputs", "expressions see the whole request in its canonical form, and the subject and plan that were found", `
version: 1
plans: {free: {limits: []}, pro: {limits: []}}
applications:
  a:
    default_plan: free
    identity: [ip]
    limits: [{name: all, rate: 60/h, burst: 1000}]
    rules:
      - name: seen
        match: {path: "/api/{rest...}"}
        plan: "subject == '192.0.2.1' ? 'pro' : ''"
        cost: >-
          (request.method == 'POST' ? 1 : 0) + (request.path == '/api/x' ? 2 : 0) + (request.query['q'] == '1 2' ? 4 : 0) +
          (request.host == 'h' ? 8 : 0) + (request.headers['x-a'] == 'b, c' ? 16 : 0) + (request.ip == '192.0.2.1' ? 32 : 0) +
          (operation == 'op' ? 64 : 0) + (subject == '192.0.2.1' ? 128 : 0) + (plan == 'pro' ? 256 : 0) + (attributes['k'] == 'v' ? 512 : 0)
`,
			[]step{
				{
					ask: gate.Request{
						Application: "a", Operation: "op", Method: "POST", Path: "/api//x?q=1+2&q=3", Host: "h", IP: netip.MustParseAddr("::ffff:192.0.2.1"),
						Headers: http.Header{"X-A": {"b", "c"}}, Attributes: map[string]string{"k": "v"},
					},
					want: want{
						denied: true, never: true, reason: "cost_exceeds_limit", rule: "seen", plan: "pro", subject: "192.0.2.1", cost: 1023, bound: "app/all",
						limits: []state{app("app/all", 0, 1000, 0).refuses(0)},
					},
				},
			},
		},
		{
			"cost_refused", "a cost below 0 or above 2^53-1 is an error, also where an expression yields it, and charges nothing", everyCost,
			[]step{
				{ask: costing(-1, by("a", "fixed", "s")), err: &failure{headgate.InvalidRequest, "cost", "-1"}},
				{ask: costing(-1, by("none", "x", "s")), err: &failure{headgate.InvalidRequest, "cost", "-1"}}, // also where nothing is limited
				{ask: costing(1<<53, by("a", "fixed", "s")), err: &failure{headgate.InvalidRequest, "cost", "9007199254740992"}},
				{ask: costing(-1<<63, by("a", "fixed", "s")), err: &failure{headgate.InvalidRequest, "cost", ""}},
				{ask: with("n", "-5", by("a", "expr", "s")), err: &failure{headgate.InvalidRequest, "cost", "-5"}},
				{ask: with("n", "9007199254740992", by("a", "expr", "s")), err: &failure{headgate.InvalidRequest, "cost", "9007199254740992"}},
				{ask: with("n", "four", by("a", "expr", "s")), err: &failure{headgate.InvalidRequest, "attributes", "int"}},
				{ask: by("a", "expr", "s"), err: &failure{headgate.InvalidRequest, "attributes", "n"}},
				{ask: costing(1<<53-1, by("a", "fixed", "s")), want: want{
					denied: true, never: true, reason: "cost_exceeds_limit", rule: "fixed", subject: "s", cost: 1<<53 - 1, bound: "app/all",
					limits: []state{app("app/all", 0, 100, 0).refuses(0)},
				}},
			},
		},
	}
}

func modes() []scenario {
	return []scenario{
		{
			"shadow_limit", "a limit in shadow mode is charged when it and the request pass, and refuses nothing", `
version: 1
applications:
  a: {rules: [{name: api, match: {operation: x}, limits: [{name: trial, rate: 60/h, burst: 1, mode: shadow}, {name: live, rate: 60/h, burst: 2}]}]}
`,
			[]step{
				{ask: by("a", "x", "s"), want: want{
					rule: "api", subject: "s", cost: 1, bound: "api/live",
					limits: []state{mine("api/trial", 1, 1, time.Minute).inShadow(), mine("api/live", 1, 2, time.Minute)},
				}},
				{ask: by("a", "x", "s"), want: want{
					rule: "api", subject: "s", cost: 1, bound: "api/live", wouldDeny: "rate_limited",
					limits: []state{mine("api/trial", 1, 1, time.Minute).refuses(time.Minute).inShadow(), mine("api/live", 2, 2, 2*time.Minute)},
				}},
				{at: time.Minute, peek: true, ask: costing(2, by("a", "x", "s")), want: want{
					denied: true, reason: "rate_limited", rule: "api", subject: "s", cost: 2, bound: "api/live", wouldDeny: "cost_exceeds_limit",
					limits: []state{mine("api/trial", 0, 1, 0).refuses(0).inShadow(), mine("api/live", 1, 2, time.Minute).refuses(time.Minute)},
				}},
			},
		},
		{
			"shadow_rule", "mode: shadow on a rule holds for the rule's limits; those of plan and application go on refusing", `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 2/day}]}}
applications: {a: {default_plan: free, rules: [{name: api, match: {operation: x}, mode: shadow, limits: [{name: w, rate: 60/h, burst: 1}]}]}}
`,
			[]step{
				{ask: by("a", "x", "s"), want: want{
					rule: "api", plan: "free", subject: "s", cost: 1, bound: "plan/daily",
					limits: []state{mine("api/w", 1, 1, time.Minute).inShadow(), quota("plan/daily", 1, 2, noon)},
				}},
				{ask: by("a", "x", "s"), want: want{
					rule: "api", plan: "free", subject: "s", cost: 1, bound: "plan/daily", wouldDeny: "rate_limited",
					limits: []state{mine("api/w", 1, 1, time.Minute).refuses(time.Minute).inShadow(), quota("plan/daily", 2, 2, noon)},
				}},
				{at: time.Minute, ask: by("a", "x", "s"), want: want{
					denied: true, reason: "quota_exceeded", rule: "api", plan: "free", subject: "s", cost: 1, bound: "plan/daily",
					limits: []state{mine("api/w", 0, 1, 0).inShadow(), quota("plan/daily", 2, 2, noon-time.Minute).refuses(noon - time.Minute)},
				}},
			},
		},
		{
			"shadow_application", "mode: shadow on an application holds for all its limits: nothing is refused, and the weightiest reason is said", `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 1/day}]}}
applications: {a: {default_plan: free, mode: shadow, limits: [{name: all, rate: 60/h, burst: 1}]}}
`,
			[]step{
				{ask: by("a", "x", "s"), want: want{
					reason: "no_rule", plan: "free", subject: "s", cost: 1,
					limits: []state{app("app/all", 1, 1, time.Minute).inShadow(), quota("plan/daily", 1, 1, noon).inShadow()},
				}},
				{ask: by("a", "x", "s"), want: want{
					reason: "no_rule", plan: "free", subject: "s", cost: 1, wouldDeny: "quota_exceeded",
					limits: []state{app("app/all", 1, 1, time.Minute).refuses(time.Minute).inShadow(), quota("plan/daily", 1, 1, noon).refuses(noon).inShadow()},
				}},
			},
		},
	}
}

func faults() []scenario {
	long := strings.Repeat("s", 512)
	return []scenario{
		{
			"request_at_fault", "what cannot be decided is an error that names the field, and never an allowance", `
version: 1
applications: {a: {limits: [{name: each, per: subject, rate: 60/h, burst: 9}]}}
`,
			[]step{
				{ask: by("", "x", "s"), err: &failure{headgate.InvalidRequest, "application", "required"}},
				{ask: by("b", "x", "s"), err: &failure{headgate.NotFound, "application", `"b"`}},
				{ask: by("A", "x", "s"), err: &failure{headgate.NotFound, "application", `"A"`}},
				{ask: by("a", "", "s"), err: &failure{headgate.InvalidRequest, "operation", "required"}},
				{ask: to("a", "GET", "", "s"), err: &failure{headgate.InvalidRequest, "operation", "required"}},
				{ask: to("a", "GET", "api", "s"), err: &failure{headgate.InvalidRequest, "request.path", "/"}},
				{ask: to("a", "GET", "/%zz", "s"), err: &failure{headgate.InvalidRequest, "request.path", "%"}},
				{ask: to("a", "GET", "/%0a", "s"), err: &failure{headgate.InvalidRequest, "request.path", "control"}},
				{ask: to("a", "GET", "/"+strings.Repeat("a", 8192), "s"), err: &failure{headgate.InvalidRequest, "request.path", "8192"}},
				{ask: by("a", "x", long+"s"), err: &failure{headgate.InvalidRequest, "subject", "513"}},
				{ask: by("a", "x", "a\nb"), err: &failure{headgate.InvalidRequest, "subject", "line break"}},
				{ask: by("a", "x", "a\r"), err: &failure{headgate.InvalidRequest, "subject", "line break"}},
				{ask: by("a", "x", "\x00"), err: &failure{headgate.InvalidRequest, "subject", "NUL"}},
				{ask: by("a", "x", long), want: want{reason: "no_rule", subject: long, cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 9, time.Minute)}}},
				{ask: by("a", "x", "tab\tü"), want: want{reason: "no_rule", subject: "tab\tü", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 9, time.Minute)}}},
			},
		},
	}
}
