package gatetest

import (
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// spending is r with a cost in tokens.
func spending(tokens int64, r gate.Request) gate.Request {
	r.Costs = map[string]int64{"tokens": tokens}
	return r
}

func units() []scenario {
	tokens := func(n int64) map[string]int64 { return map[string]int64{"tokens": n} }
	const text = `
version: 1
applications:
  a:
    rules:
      - name: ask
        match: {operation: ask}
        limits: [{name: calls, rate: 60/h, burst: 10}, {name: tokens, unit: tokens, rate: 60/min, burst: 100}]
      - {name: may, match: {operation: may}, limits: [{name: calls, rate: 60/h, burst: 10}, {name: tokens, unit: tokens, when_missing: skip, rate: 60/min, burst: 100}]}
      - {name: fixed, match: {operation: fixed}, costs: {tokens: 25}, limits: [{name: tokens, unit: tokens, rate: 60/min, burst: 100}]}
      - {name: expr, match: {operation: expr}, costs: {tokens: int(attributes.n) * 2}, limits: [{name: tokens, unit: tokens, rate: 60/min, burst: 100}]}
  none: {}
`
	return []scenario{
		{
			"units", "each limit is charged in its own unit; a cost that is missing is an error or skips the limit, one that nothing counts is an error", text,
			[]step{
				{ask: spending(30, by("a", "ask", "s")), want: want{
					rule: "ask", subject: "s", cost: 1, costs: tokens(30), bound: "ask/tokens",
					limits: []state{mine("ask/calls", 1, 10, time.Minute), mine("ask/tokens", 30, 100, 30*time.Second).of("tokens")},
				}},
				{ask: spending(80, by("a", "ask", "s")), want: want{
					denied: true, reason: "rate_limited", rule: "ask", subject: "s", cost: 1, costs: tokens(80), bound: "ask/tokens",
					limits: []state{mine("ask/calls", 1, 10, time.Minute), mine("ask/tokens", 30, 100, 30*time.Second).of("tokens").refuses(10 * time.Second)},
				}},
				{ask: spending(101, by("a", "ask", "s")), want: want{
					denied: true, never: true, reason: "cost_exceeds_limit", rule: "ask", subject: "s", cost: 1, costs: tokens(101), bound: "ask/tokens",
					limits: []state{mine("ask/calls", 1, 10, time.Minute), mine("ask/tokens", 30, 100, 30*time.Second).of("tokens").refuses(0)},
				}},
				{ask: spending(0, costing(2, by("a", "ask", "s"))), want: want{
					rule: "ask", subject: "s", cost: 2, costs: tokens(0), bound: "ask/calls",
					limits: []state{mine("ask/calls", 3, 10, 3*time.Minute), mine("ask/tokens", 30, 100, 30*time.Second).of("tokens")},
				}},
				{ask: by("a", "ask", "s"), err: &failure{headgate.InvalidRequest, "costs", "ask/tokens"}},
				{ask: by("a", "may", "s"), want: want{rule: "may", subject: "s", cost: 1, bound: "may/calls", limits: []state{mine("may/calls", 1, 10, time.Minute)}}},
				{ask: spending(100, by("a", "may", "s")), want: want{
					rule: "may", subject: "s", cost: 1, costs: tokens(100), bound: "may/tokens",
					limits: []state{mine("may/calls", 2, 10, 2*time.Minute), mine("may/tokens", 100, 100, 100*time.Second).of("tokens")},
				}},
				{ask: func() gate.Request {
					r := by("a", "ask", "s")
					r.Costs = map[string]int64{"tokens": 1, "pages": 1}
					return r
				}(), err: &failure{headgate.InvalidRequest, "costs", "pages"}},
				{ask: spending(1, by("none", "ask", "s")), err: &failure{headgate.InvalidRequest, "costs", "tokens"}},
				{ask: func() gate.Request {
					r := by("a", "ask", "s")
					r.Costs = map[string]int64{"requests": 2}
					return r
				}(), err: &failure{headgate.InvalidRequest, "costs.requests", "requests are counted by cost"}},
				{ask: spending(-1, by("a", "ask", "s")), err: &failure{headgate.InvalidRequest, "costs.tokens", "-1"}},
				{ask: spending(1<<53, by("a", "ask", "s")), err: &failure{headgate.InvalidRequest, "costs.tokens", "9007199254740992"}},
				{peek: true, ask: spending(1, by("a", "ask", "s")), want: want{
					rule: "ask", subject: "s", cost: 1, costs: tokens(1), bound: "ask/calls",
					limits: []state{mine("ask/calls", 3, 10, 3*time.Minute), mine("ask/tokens", 30, 100, 30*time.Second).of("tokens")},
				}},
			},
		},
		{
			"unit_costs", "a rule says costs in other units by number or expression; the request's own go first", text,
			[]step{
				{ask: by("a", "fixed", "s"), want: want{rule: "fixed", subject: "s", cost: 1, costs: tokens(25), bound: "fixed/tokens", limits: []state{mine("fixed/tokens", 25, 100, 25*time.Second).of("tokens")}}},
				{ask: spending(5, by("a", "fixed", "s")), want: want{rule: "fixed", subject: "s", cost: 1, costs: tokens(5), bound: "fixed/tokens", limits: []state{mine("fixed/tokens", 30, 100, 30*time.Second).of("tokens")}}},
				{ask: with("n", "20", by("a", "expr", "s")), want: want{rule: "expr", subject: "s", cost: 1, costs: tokens(40), bound: "expr/tokens", limits: []state{mine("expr/tokens", 40, 100, 40*time.Second).of("tokens")}}},
				{ask: spending(5, by("a", "expr", "s")), want: want{rule: "expr", subject: "s", cost: 1, costs: tokens(5), bound: "expr/tokens", limits: []state{mine("expr/tokens", 45, 100, 45*time.Second).of("tokens")}}},
				{ask: by("a", "expr", "s"), err: &failure{headgate.InvalidRequest, "attributes", "n"}},
				{ask: with("n", "-1", by("a", "expr", "s")), err: &failure{headgate.InvalidRequest, "costs.tokens", "-2"}},
			},
		},
		{
			"across", "a budget across applications is one for all that name it, per subject or per application, and no other application's", `
version: 1
applications:
  a: {limits: [{name: each, per: subject, across: all, rate: 60/h, burst: 3}, {name: sum, across: all, rate: 60/h, burst: 9}]}
  b: {limits: [{name: each, per: subject, across: all, rate: 60/h, burst: 3}, {name: sum, across: all, rate: 60/h, burst: 9}]}
  c: {limits: [{name: each, per: subject, rate: 60/h, burst: 3}]}
subjects: {b/s: {timezone: Asia/Kathmandu}}
`,
			[]step{
				{ask: costing(2, by("a", "x", "s")), want: want{
					reason: "no_rule", subject: "s", cost: 2, bound: "app/each",
					limits: []state{mine("app/each", 2, 3, 2*time.Minute), app("app/sum", 2, 9, 2*time.Minute)},
				}},
				{ask: by("b", "x", "s"), want: want{
					reason: "no_rule", subject: "s", cost: 1, bound: "app/each",
					limits: []state{mine("app/each", 3, 3, 3*time.Minute), app("app/sum", 3, 9, 3*time.Minute)},
				}},
				{ask: by("a", "x", "s"), want: want{
					denied: true, reason: "rate_limited", subject: "s", cost: 1, bound: "app/each",
					limits: []state{mine("app/each", 3, 3, 3*time.Minute).refuses(time.Minute), app("app/sum", 3, 9, 3*time.Minute)},
				}},
				{ask: by("b", "x", "t"), want: want{
					reason: "no_rule", subject: "t", cost: 1, bound: "app/each",
					limits: []state{mine("app/each", 1, 3, time.Minute), app("app/sum", 4, 9, 4*time.Minute)},
				}},
				{ask: by("c", "x", "s"), want: want{reason: "no_rule", subject: "s", cost: 1, bound: "app/each", limits: []state{mine("app/each", 1, 3, time.Minute)}}},
			},
		},
		{
			"across_zones", "a quota across applications has its own zone: a subject's zone in one of them would let it start anew at two midnights", `
version: 1
applications:
  a: {limits: [{name: daily, per: subject, across: all, algorithm: quota, rate: 2/day}]}
  b: {limits: [{name: daily, per: subject, across: all, algorithm: quota, rate: 2/day}]}
subjects: {b/s: {timezone: Asia/Kathmandu}}
`,
			[]step{
				{ask: costing(2, by("b", "x", "s")), want: want{reason: "no_rule", subject: "s", cost: 2, bound: "app/daily", limits: []state{quota("app/daily", 2, 2, noon)}}},
				{at: 7 * time.Hour, ask: by("b", "x", "s"), want: want{
					denied: true, reason: "quota_exceeded", subject: "s", cost: 1, bound: "app/daily",
					limits: []state{quota("app/daily", 2, 2, 5*time.Hour).refuses(5 * time.Hour)},
				}},
			},
		},
	}
}
