package gatetest

import (
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

func lists() []scenario {
	passed := func(subject string) want { return want{reason: "allow_listed", rule: "api", subject: subject} }
	refused := func(subject string) want {
		return want{denied: true, never: true, reason: "deny_listed", rule: "api", subject: subject}
	}
	counting := func(unit string, n int64, r gate.Request) gate.Request {
		r.Costs = map[string]int64{unit: n}
		return r
	}
	named := func(subject string, r gate.Request) gate.Request {
		r.Subject = subject
		return r
	}
	return []scenario{{
		"lists", "clients on a list pass uncharged or are refused, by address, network or subject, and deny beats allow", `
version: 1
applications:
  web:
    identity: [ip]
    allow: [10.0.0.0/8, "2001:db8:1::/48", "subject:root", "198.51.100.7"]
    deny: [10.66.0.0/16, "2001:db8:1:6::/64", "subject:mallory", "::ffff:203.0.113.0/120"]
    rules: [{name: api, match: {path: /api}, skip: "request.path == ''", limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}]
`,
		[]step{
			{ask: from("10.1.2.3", nil), want: passed("10.1.2.3")},
			{ask: costing(1<<53-1, from("10.1.2.3", nil)), want: passed("10.1.2.3")},
			{ask: costing(-1, from("10.1.2.3", nil)), err: &failure{headgate.InvalidRequest, "cost", "-1"}},
			{ask: costing(1<<53, from("10.66.7.8", nil)), err: &failure{headgate.InvalidRequest, "cost", "9007199254740992"}},
			{ask: counting("tokens", 1<<53, from("10.1.2.3", nil)), err: &failure{headgate.InvalidRequest, "costs.tokens", "9007199254740992"}},
			{ask: counting("tokens", -1, from("10.66.7.8", nil)), err: &failure{headgate.InvalidRequest, "costs.tokens", "-1"}},
			{ask: from("::ffff:10.1.2.3", nil), want: passed("10.1.2.3")},
			{ask: from("10.66.7.8", nil), want: refused("10.66.7.8")},
			{ask: from("10.65.255.255", nil), want: passed("10.65.255.255")},
			{peek: true, ask: from("10.66.7.8", nil), want: refused("10.66.7.8")},
			{ask: from("2001:db8:1:2::1", nil), want: passed("2001:db8:1:2::/64")},
			{ask: from("2001:db8:1:6::1", nil), want: refused("2001:db8:1:6::/64")},
			{ask: from("203.0.113.9", nil), want: refused("203.0.113.9")},
			{ask: from("198.51.100.7", nil), want: passed("198.51.100.7")},
			{ask: named("root", from("192.0.2.1", nil)), want: passed("root")},
			{ask: named("root", from("10.66.7.8", nil)), want: refused("root")},
			{ask: named("mallory", from("10.1.2.3", nil)), want: refused("mallory")},
			{ask: named("mallory", from("", nil)), want: refused("mallory")},
			{ask: from("198.51.100.8", nil), want: want{rule: "api", subject: "198.51.100.8", cost: 1, bound: "api/w", limits: []state{mine("api/w", 1, 1, time.Hour)}}},
			{ask: from("2001:db8:2::1", nil), want: want{rule: "api", subject: "2001:db8:2::/64", cost: 1, bound: "api/w", limits: []state{mine("api/w", 1, 1, time.Hour)}}},
			{ask: from("198.51.100.8", nil), want: want{
				denied: true, reason: "rate_limited", rule: "api", subject: "198.51.100.8", cost: 1, bound: "api/w",
				limits: []state{mine("api/w", 1, 1, time.Hour).refuses(time.Hour)},
			}},
		},
	}}
}

func bans() []scenario {
	ask := by("a", "x", "s")
	answer := func(bound, reason string, limits ...state) want {
		return want{denied: reason != "", reason: reason, rule: "api", subject: "s", cost: 1, bound: bound, limits: limits}
	}
	const s, m = time.Second, time.Minute
	return []scenario{
		{
			"ban", "so many denials in a time ban a subject; the ban refuses before all else, moves nothing, and lasts no longer for it", `
version: 1
applications:
  a: {rules: [{name: api, match: {operation: x}, ban: {after: 2, within: 1m, for: 15m}, limits: [{name: w, rate: 60/h, burst: 1}]}]}
`,
			[]step{
				{ask: ask, want: answer("api/w", "", mine("api/w", 1, 1, m), mine("api/ban", 0, 2, 0))},
				{ask: ask, want: answer("api/w", "rate_limited", mine("api/w", 1, 1, m).refuses(m), mine("api/ban", 1, 2, 70*s))},
				{at: 10 * s, peek: true, ask: ask, want: answer("api/w", "rate_limited", mine("api/w", 1, 1, 50*s).refuses(50*s), mine("api/ban", 1, 2, 60*s))},
				{at: 10 * s, ask: ask, want: answer("api/ban", "banned", mine("api/w", 1, 1, 50*s).refuses(50*s), mine("api/ban", 2, 2, 15*m).refuses(15*m))},
				{at: 20 * s, ask: ask, want: answer("api/ban", "banned", mine("api/w", 1, 1, 40*s).refuses(40*s), mine("api/ban", 2, 2, 890*s).refuses(890*s))},
				{at: 5 * m, ask: ask, want: answer("api/ban", "banned", mine("api/w", 0, 1, 0), mine("api/ban", 2, 2, 610*s).refuses(610*s))},
				{at: 5 * m, ask: costing(0, ask), want: func() want {
					w := answer("api/ban", "banned", mine("api/w", 0, 1, 0), mine("api/ban", 2, 2, 610*s).refuses(610*s))
					w.cost = 0
					return w
				}()},
				{at: 910*s - time.Millisecond, ask: ask, want: answer("api/ban", "banned", mine("api/w", 0, 1, 0), mine("api/ban", 2, 2, time.Millisecond).refuses(time.Millisecond))},
				{at: 910 * s, ask: ask, want: answer("api/w", "", mine("api/w", 1, 1, m), mine("api/ban", 0, 2, 0))},
				{at: 920 * s, ask: ask, want: answer("api/w", "rate_limited", mine("api/w", 1, 1, 50*s).refuses(50*s), mine("api/ban", 1, 2, 70*s))},
				{at: 970 * s, ask: ask, want: answer("api/w", "", mine("api/w", 1, 1, m), mine("api/ban", 1, 2, 20*s))},
				{at: 990 * s, ask: ask, want: answer("api/w", "rate_limited", mine("api/w", 1, 1, 40*s).refuses(40*s), mine("api/ban", 1, 2, 70*s))},
				{at: 990 * s, ask: by("a", "x", "t"), want: want{rule: "api", subject: "t", cost: 1, bound: "api/w", limits: []state{mine("api/w", 1, 1, m), mine("api/ban", 0, 2, 0)}}},
			},
		},
		{
			"ban_counts", "denials by budgets of others, by limits in shadow and of costs that never pass do not count towards a ban", `
version: 1
applications:
  a:
    limits: [{name: all, rate: 60/h, burst: 2}]
    rules:
      - name: api
        match: {operation: x}
        ban: {after: 1, within: 1m, for: 1h}
        limits: [{name: w, rate: 60/h, burst: 5}, {name: trial, mode: shadow, rate: 60/h, burst: 1}]
`,
			[]step{
				{ask: ask, want: answer("app/all", "", app("app/all", 1, 2, m), mine("api/w", 1, 5, m), mine("api/trial", 1, 1, m).inShadow(), mine("api/ban", 0, 1, 0))},
				{ask: ask, want: func() want {
					w := answer("app/all", "", app("app/all", 2, 2, 2*m), mine("api/w", 2, 5, 2*m), mine("api/trial", 1, 1, m).refuses(m).inShadow(), mine("api/ban", 0, 1, 0))
					w.wouldDeny = "rate_limited"
					return w
				}()},
				{ask: ask, want: func() want {
					w := answer("app/all", "rate_limited", app("app/all", 2, 2, 2*m).refuses(m), mine("api/w", 2, 5, 2*m), mine("api/trial", 1, 1, m).refuses(m).inShadow(), mine("api/ban", 0, 1, 0))
					w.wouldDeny = "rate_limited"
					return w
				}()},
				{at: 2 * m, ask: costing(6, ask), want: func() want {
					w := answer("app/all", "cost_exceeds_limit", app("app/all", 0, 2, 0).refuses(0), mine("api/w", 0, 5, 0).refuses(0), mine("api/trial", 0, 1, 0).refuses(0).inShadow(), mine("api/ban", 0, 1, 0))
					w.cost, w.never, w.wouldDeny = 6, true, "cost_exceeds_limit"
					return w
				}()},
				{at: 2 * m, ask: ask, want: answer("app/all", "", app("app/all", 1, 2, m), mine("api/w", 1, 5, m), mine("api/trial", 1, 1, m).inShadow(), mine("api/ban", 0, 1, 0))},
			},
		},
		{
			"ban_shadow", "a ban in shadow counts, refuses nobody and says that it would", `
version: 1
applications:
  a:
    limits: [{name: each, per: subject, rate: 60/h, burst: 1}]
    rules: [{name: api, match: {operation: x}, mode: shadow, ban: {after: 1, within: 1m, for: 15m}}]
`,
			[]step{
				{ask: ask, want: answer("app/each", "", mine("app/each", 1, 1, m), mine("api/ban", 0, 1, 0).inShadow())},
				{ask: ask, want: func() want {
					w := answer("app/each", "rate_limited", mine("app/each", 1, 1, m).refuses(m), mine("api/ban", 1, 1, 15*m).refuses(15*m).inShadow())
					w.wouldDeny = "banned"
					return w
				}()},
				{at: m, ask: ask, want: func() want {
					w := answer("app/each", "", mine("app/each", 1, 1, m), mine("api/ban", 1, 1, 14*m).refuses(14*m).inShadow())
					w.wouldDeny = "banned"
					return w
				}()},
			},
		},
		{
			"ban_application", "an application's ban holds for all its requests, also those that no limit has a say in, and for no other application", `
version: 1
applications:
  a:
    ban: {after: 1, within: 1m, for: 15m}
    rules: [{name: api, match: {operation: x}, limits: [{name: w, rate: 60/h, burst: 1}]}, {name: free, match: {operation: free}}]
  b: {}
`,
			[]step{
				{ask: by("a", "free", "s"), want: want{rule: "free", subject: "s", cost: 1, limits: []state{mine("app/ban", 0, 1, 0)}}},
				{ask: ask, want: answer("api/w", "", mine("api/w", 1, 1, m), mine("app/ban", 0, 1, 0))},
				{ask: ask, want: answer("app/ban", "banned", mine("api/w", 1, 1, m).refuses(m), mine("app/ban", 1, 1, 15*m).refuses(15*m))},
				{at: m, ask: by("a", "free", "s"), want: want{
					denied: true, reason: "banned", rule: "free", subject: "s", cost: 1, bound: "app/ban", limits: []state{mine("app/ban", 1, 1, 14*m).refuses(14 * m)},
				}},
				{at: m, ask: by("b", "x", "s"), want: want{reason: "no_rule", subject: "s", cost: 1}},
				{at: m, ask: by("a", "free", ""), want: want{rule: "free", cost: 1}},
			},
		},
	}
}
