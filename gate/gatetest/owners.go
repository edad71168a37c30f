package gatetest

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

func owners() []scenario {
	return []scenario{
		{
			"shared_budgets", "per: moves a limit to the application, to all applications or to what an expression yields, and subjects share it there", `
version: 1
applications:
  a:
    limits: [{name: all, rate: 60/h, burst: 3}, {name: world, per: global, rate: 60/h, burst: 4}, {name: each, per: subject, rate: 60/h, burst: 9}]
    rules: [{name: send, match: {operation: send}, limits: [{name: org, per: {expr: attributes.org}, rate: 60/h, burst: 2}]}]
  b:
    limits: [{name: world, per: global, rate: 60/h, burst: 4}]
`,
			[]step{
				{ask: with("org", "x", by("a", "send", "alice")), want: want{
					rule: "send", subject: "alice", cost: 1, bound: "send/org",
					limits: []state{app("app/all", 1, 3, time.Minute), st("app/world", "global", 1, 4, time.Minute), mine("app/each", 1, 9, time.Minute), st("send/org", "expression", 1, 2, time.Minute)},
				}},
				{ask: with("org", "x", by("a", "send", "bob")), want: want{
					rule: "send", subject: "bob", cost: 1, bound: "send/org",
					limits: []state{app("app/all", 2, 3, 2*time.Minute), st("app/world", "global", 2, 4, 2*time.Minute), mine("app/each", 1, 9, time.Minute), st("send/org", "expression", 2, 2, 2*time.Minute)},
				}},
				{ask: with("org", "x", by("a", "send", "carol")), want: want{
					denied: true, reason: "rate_limited", rule: "send", subject: "carol", cost: 1, bound: "send/org",
					limits: []state{app("app/all", 2, 3, 2*time.Minute), st("app/world", "global", 2, 4, 2*time.Minute), mine("app/each", 0, 9, 0), st("send/org", "expression", 2, 2, 2*time.Minute).refuses(time.Minute)},
				}},
				{ask: by("b", "x", ""), want: want{
					reason: "no_rule", cost: 1, bound: "app/world", limits: []state{st("app/world", "global", 3, 4, 3*time.Minute)},
				}},
				{ask: with("org", "y", by("a", "send", "carol")), want: want{
					rule: "send", subject: "carol", cost: 1, bound: "app/all",
					limits: []state{app("app/all", 3, 3, 3*time.Minute), st("app/world", "global", 4, 4, 4*time.Minute), mine("app/each", 1, 9, time.Minute), st("send/org", "expression", 1, 2, time.Minute)},
				}},
				{ask: by("b", "x", ""), want: want{
					denied: true, reason: "rate_limited", cost: 1, bound: "app/world", limits: []state{st("app/world", "global", 4, 4, 4*time.Minute).refuses(time.Minute)},
				}},
				{ask: by("a", "send", "dave"), err: &failure{headgate.InvalidRequest, "attributes", "org"}},
				{ask: with("org", "", by("a", "send", "dave")), err: &failure{headgate.InvalidRequest, "attributes", "send/org"}},
				{ask: with("org", "x\ny", by("a", "send", "dave")), err: &failure{headgate.InvalidRequest, "attributes", "line break"}},
			},
		},
		{
			"when_missing", "a limit may let requests go uncharged that lack the attribute which its owner needs; all others are charged", `
version: 1
applications:
  a:
    limits: [{name: all, rate: 60/h, burst: 9}]
    rules: [{name: send, match: {operation: send}, limits: [{name: org, per: {expr: attributes.org}, when_missing: skip, rate: 60/h, burst: 2}]}]
`,
			[]step{
				{ask: by("a", "send", "alice"), want: want{rule: "send", subject: "alice", cost: 1, bound: "app/all", limits: []state{app("app/all", 1, 9, time.Minute)}}},
				{ask: with("org", "", by("a", "send", "alice")), want: want{rule: "send", subject: "alice", cost: 1, bound: "app/all", limits: []state{app("app/all", 2, 9, 2*time.Minute)}}},
				{ask: with("org", "x", by("a", "send", "alice")), want: want{
					rule: "send", subject: "alice", cost: 1, bound: "send/org",
					limits: []state{app("app/all", 3, 9, 3*time.Minute), st("send/org", "expression", 1, 2, time.Minute)},
				}},
			},
		},
		{
			"plan_pool", "a plan's limit that the application owns is one budget per plan", `
version: 1
plans:
  free: {limits: [{name: pool, per: application, rate: 60/h, burst: 2}]}
  pro: {limits: [{name: pool, per: application, rate: 60/h, burst: 8}]}
applications: {a: {default_plan: free}}
`,
			[]step{
				{ask: costing(2, by("a", "x", "alice")), want: want{reason: "no_rule", plan: "free", subject: "alice", cost: 2, bound: "plan/pool", limits: []state{app("plan/pool", 2, 2, 2*time.Minute)}}},
				{ask: by("a", "x", "bob"), want: want{
					denied: true, reason: "rate_limited", plan: "free", subject: "bob", cost: 1, bound: "plan/pool",
					limits: []state{app("plan/pool", 2, 2, 2*time.Minute).refuses(time.Minute)},
				}},
				{ask: on("pro", by("a", "x", "carol")), want: want{reason: "no_rule", plan: "pro", subject: "carol", cost: 1, bound: "plan/pool", limits: []state{app("plan/pool", 1, 8, time.Minute)}}},
			},
		},
		{
			"global_twice", "one budget that two scopes of a request name is one limit of the answer, charged for each of them, in shadow only if both are", `
version: 1
applications:
  a:
    limits: [{name: world, per: global, rate: 60/h, burst: 4}]
    rules: [{name: send, match: {operation: send}, mode: shadow, limits: [{name: world, per: global, rate: 60/h, burst: 4}]}]
`,
			[]step{
				{ask: costing(2, by("a", "send", "alice")), want: want{
					rule: "send", subject: "alice", cost: 2, bound: "app/world", limits: []state{st("app/world", "global", 4, 4, 4*time.Minute)},
				}},
				{ask: by("a", "send", "alice"), want: want{
					denied: true, reason: "rate_limited", rule: "send", subject: "alice", cost: 1, bound: "app/world",
					limits: []state{st("app/world", "global", 4, 4, 4*time.Minute).refuses(2 * time.Minute)},
				}},
			},
		},
		{
			"subjects_apart", "subjects and applications have budgets of their own, whatever bytes they are called by", `
version: 1
applications:
  a: {limits: [{name: each, per: subject, rate: 60/h, burst: 2}]}
  a.b: {limits: [{name: each, per: subject, rate: 60/h, burst: 2}]}
`,
			[]step{
				{ask: by("a", "x", "s"), want: want{reason: "no_rule", subject: "s", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 2, time.Minute)}}},
				{ask: by("a", "x", "S"), want: want{reason: "no_rule", subject: "S", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 2, time.Minute)}}},
				{ask: by("a", "x", "s/app/each"), want: want{reason: "no_rule", subject: "s/app/each", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 2, time.Minute)}}},
				{ask: by("a", "x", "s "), want: want{reason: "no_rule", subject: "s ", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 2, time.Minute)}}},
				{ask: by("a.b", "x", "s"), want: want{reason: "no_rule", subject: "s", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 2, time.Minute)}}},
				{ask: by("a", "y", "s"), want: want{reason: "no_rule", subject: "s", cost: 1, bound: "app/each", limits: []state{mine("app/each", 2, 2, 2*time.Minute)}}},
			},
		},
	}
}

// from is a request for /api with headers, from an address if it is not "".
func from(ip string, headers http.Header) gate.Request {
	r := gate.Request{Application: "web", Method: "GET", Path: "/api", Headers: headers}
	if ip != "" {
		r.IP = netip.MustParseAddr(ip)
	}
	return r
}

func identities() []scenario {
	// seen is the answer for a subject that has used so much of its window.
	seen := func(subject string, used int64) want {
		return want{rule: "api", subject: subject, cost: 1, bound: "api/w", limits: []state{mine("api/w", used, 9, time.Hour)}}
	}
	named := func(subject string, r gate.Request) gate.Request {
		r.Subject = subject
		return r
	}
	return []scenario{
		{
			"identity", "the subject is the one said, else the first that the identity list finds; known_only takes only subjects of the policy", `
version: 1
applications:
  web:
    identity: [{header: x-api-key, known_only: true}, {cookie: sid, known_only: true}, "attribute:user", ip]
    rules: [{name: api, match: {path: /api}, limits: [{name: w, algorithm: fixed_window, rate: 9/h}]}]
subjects: {web/key-1: {}, web/sid-1: {}}
`,
			[]step{
				{ask: from("203.0.113.9", http.Header{"X-Api-Key": {"key-1"}, "Cookie": {"sid=sid-1"}}), want: seen("key-1", 1)},
				{ask: from("203.0.113.9", http.Header{"X-Api-Key": {"key-9"}, "Cookie": {"a=b; sid=sid-1; sid=x"}}), want: seen("sid-1", 1)},
				{ask: from("203.0.113.9", http.Header{"Cookie": {"a=b", `xsid=x;sid="sid-1"`}}), want: seen("sid-1", 2)},
				{ask: with("user", "u", from("203.0.113.9", http.Header{"X-Api-Key": {"key-9"}, "Cookie": {"sid=sid-9"}})), want: seen("u", 1)},
				{ask: with("user", "", from("203.0.113.9", http.Header{"X-Api-Key": {""}})), want: seen("203.0.113.9", 1)},
				{ask: from("::ffff:203.0.113.9", nil), want: seen("203.0.113.9", 2)},
				{ask: from("2001:db8:1:2:3::1", nil), want: seen("2001:db8:1:2::/64", 1)},
				{ask: from("2001:db8:1:2:ffff::2", nil), want: seen("2001:db8:1:2::/64", 2)},
				{ask: from("2001:db8:1:3::1", nil), want: seen("2001:db8:1:3::/64", 1)},
				{ask: named("alice", from("203.0.113.9", http.Header{"X-Api-Key": {"key-1"}})), want: seen("alice", 1)},
				{ask: from("", nil), err: &failure{headgate.InvalidRequest, "subject", "api/w"}},
				{ask: with("user", strings.Repeat("u", 513), from("", nil)), err: &failure{headgate.InvalidRequest, "subject", "512"}},
				{ask: with("user", "a\rb", from("", nil)), err: &failure{headgate.InvalidRequest, "subject", "line break"}},
			},
		},
		{
			"no_subject", "a subject is required only where a limit needs one: the request is then at fault, unless such requests share a budget", `
version: 1
applications:
  deny: {limits: [{name: all, rate: 60/h, burst: 9}], rules: [{name: send, match: {operation: send}, limits: [{name: w, rate: 60/h, burst: 9}]}]}
  shared: {on_no_subject: shared, rules: [{name: send, match: {operation: send}, limits: [{name: w, rate: 60/h, burst: 9}]}]}
`,
			[]step{
				{ask: by("deny", "send", ""), err: &failure{headgate.InvalidRequest, "subject", "send/w"}},
				{ask: by("deny", "other", ""), want: want{reason: "no_rule", cost: 1, bound: "app/all", limits: []state{app("app/all", 1, 9, time.Minute)}}},
				{ask: by("shared", "send", ""), want: want{rule: "send", cost: 1, bound: "send/w", limits: []state{mine("send/w", 1, 9, time.Minute)}}},
				{ask: by("shared", "send", ""), want: want{rule: "send", cost: 1, bound: "send/w", limits: []state{mine("send/w", 2, 9, 2*time.Minute)}}},
				{ask: by("shared", "send", "a"), want: want{rule: "send", subject: "a", cost: 1, bound: "send/w", limits: []state{mine("send/w", 1, 9, time.Minute)}}},
			},
		},
	}
}
