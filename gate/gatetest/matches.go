package gatetest

import (
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

const together = `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 3/day}]}}
applications:
  email:
    default_plan: free
    limits: [{name: all, rate: 60/h, burst: 10}]
    rules:
      - {name: send, match: {operation: send}, limits: [{name: burst, rate: 60/h, burst: 5}]}
      - {name: read, match: {operation: read}, limits: [{name: burst, rate: 60/h, burst: 5}]}
`

// app is a limit that the application owns.
func app(id string, used, limit int64, reset time.Duration) state {
	return st(id, "application", used, limit, reset)
}

func matches() []scenario {
	return []scenario{
		{
			"together", "the limits of application, rule and plan are charged in one batch: if one refuses, none has moved", together,
			[]step{
				{ask: costing(2, by("email", "send", "alice")), want: want{
					rule: "send", plan: "free", subject: "alice", cost: 2, bound: "plan/daily",
					limits: []state{app("app/all", 2, 10, 2*time.Minute), mine("send/burst", 2, 5, 2*time.Minute), quota("plan/daily", 2, 3, noon)},
				}},
				{ask: costing(2, by("email", "send", "alice")), want: want{
					denied: true, reason: "quota_exceeded", rule: "send", plan: "free", subject: "alice", cost: 2, bound: "plan/daily",
					limits: []state{app("app/all", 2, 10, 2*time.Minute), mine("send/burst", 2, 5, 2*time.Minute), quota("plan/daily", 2, 3, noon).refuses(noon)},
				}},
				{ask: by("email", "send", "bob"), want: want{
					rule: "send", plan: "free", subject: "bob", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 3, 10, 3*time.Minute), mine("send/burst", 1, 5, time.Minute), quota("plan/daily", 1, 3, noon)},
				}},
				{ask: by("email", "send", "alice"), want: want{
					rule: "send", plan: "free", subject: "alice", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 4, 10, 4*time.Minute), mine("send/burst", 3, 5, 3*time.Minute), quota("plan/daily", 3, 3, noon)},
				}},
			},
		},
		{
			"rules_apart", "a rule's limit is one budget per subject and rule; those of plan and application count over all rules", together,
			[]step{
				{ask: by("email", "send", "alice"), want: want{
					rule: "send", plan: "free", subject: "alice", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 1, 10, time.Minute), mine("send/burst", 1, 5, time.Minute), quota("plan/daily", 1, 3, noon)},
				}},
				{ask: by("email", "read", "alice"), want: want{
					rule: "read", plan: "free", subject: "alice", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 2, 10, 2*time.Minute), mine("read/burst", 1, 5, time.Minute), quota("plan/daily", 2, 3, noon)},
				}},
			},
		},
		{
			"never", "a cost above a limit's capacity can never pass: it is said so, without a retry time, and charges nothing", together,
			[]step{
				{ask: costing(4, by("email", "send", "alice")), want: want{
					denied: true, never: true, reason: "cost_exceeds_limit", rule: "send", plan: "free", subject: "alice", cost: 4, bound: "plan/daily",
					limits: []state{app("app/all", 0, 10, 0), mine("send/burst", 0, 5, 0), quota("plan/daily", 0, 3, noon).refuses(0)},
				}},
			},
		},
		{
			"several_refuse", "of several refusals the reason is the weightiest, and the limit that bound the one with the longest wait", `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 1/day}]}}
applications: {email: {default_plan: free, rules: [{name: send, match: {operation: send}, limits: [{name: slow, rate: 1/48h}]}]}}
`,
			[]step{
				{ask: by("email", "send", "a"), want: want{
					rule: "send", plan: "free", subject: "a", cost: 1, bound: "send/slow",
					limits: []state{mine("send/slow", 1, 1, 48*time.Hour), quota("plan/daily", 1, 1, noon)},
				}},
				{at: time.Hour, ask: by("email", "send", "a"), want: want{
					denied: true, reason: "quota_exceeded", rule: "send", plan: "free", subject: "a", cost: 1, bound: "send/slow",
					limits: []state{mine("send/slow", 1, 1, 47*time.Hour).refuses(47 * time.Hour), quota("plan/daily", 1, 1, noon-time.Hour).refuses(noon - time.Hour)},
				}},
			},
		},
		{
			"peek", "peek answers what take would and charges nothing", together,
			[]step{
				{peek: true, ask: costing(2, by("email", "send", "alice")), want: want{
					rule: "send", plan: "free", subject: "alice", cost: 2, bound: "plan/daily",
					limits: []state{app("app/all", 0, 10, 0), mine("send/burst", 0, 5, 0), quota("plan/daily", 0, 3, noon)},
				}},
				{ask: costing(3, by("email", "send", "alice")), want: want{
					rule: "send", plan: "free", subject: "alice", cost: 3, bound: "plan/daily",
					limits: []state{app("app/all", 3, 10, 3*time.Minute), mine("send/burst", 3, 5, 3*time.Minute), quota("plan/daily", 3, 3, noon)},
				}},
				{peek: true, ask: by("email", "send", "alice"), want: want{
					denied: true, reason: "quota_exceeded", rule: "send", plan: "free", subject: "alice", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 3, 10, 3*time.Minute), mine("send/burst", 3, 5, 3*time.Minute), quota("plan/daily", 3, 3, noon).refuses(noon)},
				}},
			},
		},
		{
			"file_order", "the first rule in the order of the file decides, whatever matches better", `
version: 1
applications:
  web:
    rules:
      - {name: wild, match: {path: "/u/{id}", methods: [GET]}, limits: [{name: w, rate: 60/h, burst: 3}]}
      - {name: literal, match: {path: "/u/me"}, limits: [{name: w, rate: 60/h, burst: 5}]}
      - {name: named, match: {operation: read}, limits: [{name: w, rate: 60/h, burst: 7}]}
      - {name: rest, match: {path: "/{rest...}"}, limits: [{name: w, rate: 60/h, burst: 9}]}
`,
			[]step{
				{ask: to("web", "GET", "/u/me", "a"),
					want: want{rule: "wild", subject: "a", cost: 1, bound: "wild/w", limits: []state{mine("wild/w", 1, 3, time.Minute)}}},
				{ask: to("web", "HEAD", "/u/me", "a"),
					want: want{rule: "wild", subject: "a", cost: 1, bound: "wild/w", limits: []state{mine("wild/w", 2, 3, 2*time.Minute)}}},
				{ask: to("web", "POST", "/u/me", "a"),
					want: want{rule: "literal", subject: "a", cost: 1, bound: "literal/w", limits: []state{mine("literal/w", 1, 5, time.Minute)}}},
				{ask: gate.Request{Application: "web", Operation: "read", Path: "/x", Subject: "a"},
					want: want{rule: "named", subject: "a", cost: 1, bound: "named/w", limits: []state{mine("named/w", 1, 7, time.Minute)}}},
				{ask: to("web", "POST", "//x/../u/%6de?q=1", "a"),
					want: want{rule: "literal", subject: "a", cost: 1, bound: "literal/w", limits: []state{mine("literal/w", 2, 5, 2*time.Minute)}}},
				{ask: to("web", "POST", "/u/me/more", "a"),
					want: want{rule: "rest", subject: "a", cost: 1, bound: "rest/w", limits: []state{mine("rest/w", 1, 9, time.Minute)}}},
			},
		},
		{
			"no_match", "where no rule matches, the plan's limits apply, or the request is refused, or only the application's limits apply", `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 1/day}]}}
applications:
  plan: {default_plan: free, limits: [{name: all, rate: 60/h, burst: 10}]}
  deny: {default_plan: free, on_no_match: deny, limits: [{name: all, rate: 60/h, burst: 10}], rules: [{name: known, match: {operation: known}}]}
  allow: {default_plan: free, on_no_match: allow, limits: [{name: all, rate: 60/h, burst: 1}]}
`,
			[]step{
				{ask: by("plan", "x", "a"), want: want{
					reason: "no_rule", plan: "free", subject: "a", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 1, 10, time.Minute), quota("plan/daily", 1, 1, noon)},
				}},
				{ask: by("plan", "x", "a"), want: want{
					denied: true, reason: "quota_exceeded", plan: "free", subject: "a", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 1, 10, time.Minute), quota("plan/daily", 1, 1, noon).refuses(noon)},
				}},
				{ask: by("deny", "x", "a"), want: want{denied: true, never: true, reason: "no_rule", plan: "free", subject: "a"}},
				{ask: by("deny", "known", "a"), want: want{
					rule: "known", plan: "free", subject: "a", cost: 1, bound: "plan/daily",
					limits: []state{app("app/all", 1, 10, time.Minute), quota("plan/daily", 1, 1, noon)},
				}},
				{ask: by("allow", "x", "a"), want: want{
					reason: "no_rule", plan: "free", subject: "a", cost: 1, bound: "app/all", limits: []state{app("app/all", 1, 1, time.Minute)},
				}},
				{ask: by("allow", "x", "a"), want: want{
					denied: true, reason: "rate_limited", plan: "free", subject: "a", cost: 1, bound: "app/all",
					limits: []state{app("app/all", 1, 1, time.Minute).refuses(time.Minute)},
				}},
			},
		},
		{
			"skip", "what a rule skips passes uncharged, also where nothing is left", `
version: 1
applications:
  web:
    limits: [{name: all, rate: 60/h, burst: 1}]
    rules: [{name: api, match: {path: "/api/{rest...}"}, skip: request.path == "/api/health" && attributes.from == "probe"}]
`,
			[]step{
				{ask: with("from", "user", to("web", "GET", "/api/health", "a")),
					want: want{rule: "api", subject: "a", cost: 1, bound: "app/all", limits: []state{app("app/all", 1, 1, time.Minute)}}},
				{ask: with("from", "probe", to("web", "GET", "/api/./health?x", "a")), want: want{reason: "skipped", rule: "api", subject: "a"}},
				{ask: to("web", "GET", "/api/health", "a"), err: &failure{headgate.InvalidRequest, "attributes", "from"}},
				{ask: to("web", "GET", "/api/x", "a"), want: want{
					denied: true, reason: "rate_limited", rule: "api", subject: "a", cost: 1, bound: "app/all",
					limits: []state{app("app/all", 1, 1, time.Minute).refuses(time.Minute)},
				}},
			},
		},
	}
}
