package gatetest

import (
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// noon is from Start to midnight in UTC, where daily quotas end.
const noon = 12 * time.Hour

// by asks for an operation.
func by(application, operation, subject string) gate.Request {
	return gate.Request{Application: application, Operation: operation, Subject: subject}
}

// on is r with a plan.
func on(plan string, r gate.Request) gate.Request {
	r.Plan = plan
	return r
}

// with is r with one attribute.
func with(name, value string, r gate.Request) gate.Request {
	r.Attributes = map[string]string{name: value}
	return r
}

// costing is r with a cost said by the caller.
func costing(n int64, r gate.Request) gate.Request {
	r.Cost, r.CostSaid = n, true
	return r
}

// to asks for a path.
func to(application, method, path, subject string) gate.Request {
	return gate.Request{Application: application, Method: method, Path: path, Subject: subject}
}

const threePlans = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 10/day}]}
  basic: {limits: [{name: daily, algorithm: quota, rate: 20/day}]}
  pro: {limits: [{name: daily, algorithm: quota, rate: 30/day}]}
applications:
  email:
    default_plan: free
    rules: [{name: send, match: {operation: send}, plan: "'tier' in attributes ? attributes.tier : ''"}]
  strict:
    rules: [{name: send, match: {operation: send}, plan: "'tier' in attributes ? attributes.tier : ''"}]
subjects:
  email/alice: {plan: pro}
  email/bob: {}
`

func plans() []scenario {
	return []scenario{
		{
			"plan_order", "the plan is that of the subject's record, else of the request, else of the rule's expression, else the default", threePlans,
			[]step{
				{ask: on("basic", with("tier", "free", by("email", "send", "alice"))),
					want: want{rule: "send", plan: "pro", subject: "alice", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 30, noon)}}},
				{ask: on("basic", with("tier", "pro", by("email", "send", "bob"))),
					want: want{rule: "send", plan: "basic", subject: "bob", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 20, noon)}}},
				{ask: with("tier", "pro", by("email", "send", "carol")),
					want: want{rule: "send", plan: "pro", subject: "carol", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 30, noon)}}},
				{ask: by("email", "send", "dave"),
					want: want{rule: "send", plan: "free", subject: "dave", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 10, noon)}}},
				{ask: with("tier", "pro", by("email", "other", "erin")),
					want: want{reason: "no_rule", plan: "free", subject: "erin", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 10, noon)}}},
			},
		},
		{
			"plan_unknown", "an unknown plan falls to the default plan; without one it is an error and never an allowance", threePlans,
			[]step{
				{ask: on("gold", by("email", "send", "bob")),
					want: want{rule: "send", plan: "free", subject: "bob", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 10, noon)}}},
				{ask: with("tier", "gold", by("email", "send", "bob")),
					want: want{rule: "send", plan: "free", subject: "bob", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 2, 10, noon)}}},
				{ask: on("gold", by("email", "send", "alice")), // the record wins, the typo does not matter
					want: want{rule: "send", plan: "pro", subject: "alice", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 30, noon)}}},
				{ask: on("gold", by("strict", "send", "bob")), err: &failure{headgate.InvalidRequest, "plan", "gold"}},
				{ask: with("tier", "gold", by("strict", "send", "bob")), err: &failure{headgate.InvalidRequest, "plan", "gold"}},
				{ask: on("Basic", by("strict", "send", "bob")), err: &failure{headgate.InvalidRequest, "plan", "Basic"}},
				{ask: by("strict", "send", "bob"), want: want{rule: "send", subject: "bob", cost: 1}},
				{ask: on("basic", by("strict", "send", "bob")),
					want: want{rule: "send", plan: "basic", subject: "bob", cost: 1, bound: "plan/daily", limits: []state{quota("plan/daily", 1, 20, noon)}}},
			},
		},
		{
			"plan_change", "what was used of a quota stays used on another plan, and a bucket keeps its level; changing back mints nothing", `
version: 1
plans:
  free: {limits: [{name: rate, rate: 60/h, burst: 5}, {name: daily, algorithm: quota, rate: 10/day}]}
  pro: {limits: [{name: rate, rate: 60/min, burst: 50}, {name: daily, algorithm: quota, rate: 100/day}]}
applications: {email: {default_plan: free}}
`,
			[]step{
				{ask: costing(4, by("email", "send", "a")), want: want{
					reason: "no_rule", plan: "free", subject: "a", cost: 4, bound: "plan/rate",
					limits: []state{mine("plan/rate", 4, 5, 4*time.Minute), quota("plan/daily", 4, 10, noon)},
				}},
				{ask: on("pro", by("email", "send", "a")), want: want{
					reason: "no_rule", plan: "pro", subject: "a", cost: 1, bound: "plan/rate",
					limits: []state{mine("plan/rate", 50, 50, 50*time.Second), quota("plan/daily", 5, 100, noon)},
				}},
				{ask: on("pro", by("email", "send", "a")), want: want{
					denied: true, reason: "rate_limited", plan: "pro", subject: "a", cost: 1, bound: "plan/rate",
					limits: []state{mine("plan/rate", 50, 50, 50*time.Second).refuses(time.Second), quota("plan/daily", 5, 100, noon)},
				}},
				{at: 3 * time.Second, ask: by("email", "send", "a"), want: want{
					reason: "no_rule", plan: "free", subject: "a", cost: 1, bound: "plan/rate",
					limits: []state{mine("plan/rate", 3, 5, 3*time.Minute), quota("plan/daily", 6, 10, noon-3*time.Second)},
				}},
			},
		},
		{
			"plan_in_rule", "a rule's limit has other numbers for subjects on some plans, or none; without a plan it has its own", `
version: 1
plans: {free: {limits: []}, pro: {limits: []}, corp: {limits: []}, late: {limits: []}}
applications:
  email:
    rules:
      - name: send
        match: {operation: send}
        limits:
          - {name: burst, rate: 60/h, burst: 2, plans: {pro: {rate: 60/min, burst: 4}, corp: unlimited}}
          - {name: only, rate: unlimited, plans: {late: {rate: 60/h, burst: 9}}}
`,
			[]step{
				{ask: on("free", by("email", "send", "a")),
					want: want{rule: "send", plan: "free", subject: "a", cost: 1, bound: "send/burst", limits: []state{mine("send/burst", 1, 2, time.Minute)}}},
				{ask: by("email", "send", "b"),
					want: want{rule: "send", subject: "b", cost: 1, bound: "send/burst", limits: []state{mine("send/burst", 1, 2, time.Minute)}}},
				{ask: on("pro", by("email", "send", "c")),
					want: want{rule: "send", plan: "pro", subject: "c", cost: 1, bound: "send/burst", limits: []state{mine("send/burst", 1, 4, time.Second)}}},
				{ask: on("corp", by("email", "send", "d")), want: want{rule: "send", plan: "corp", subject: "d", cost: 1}},
				{ask: on("late", by("email", "send", "e")), want: want{
					rule: "send", plan: "late", subject: "e", cost: 1, bound: "send/burst",
					limits: []state{mine("send/burst", 1, 2, time.Minute), mine("send/only", 1, 9, time.Minute)},
				}},
			},
		},
		{
			"plan_unlimited", "a plan without limits, or with unlimited ones, still meets the limits of the rule", `
version: 1
plans: {none: {limits: []}, free: {limits: [{name: rate, rate: unlimited}]}}
applications: {email: {default_plan: free, rules: [{name: send, match: {operation: send}, limits: [{name: burst, rate: 60/h, burst: 1}]}]}}
`,
			[]step{
				{ask: by("email", "send", "a"),
					want: want{rule: "send", plan: "free", subject: "a", cost: 1, bound: "send/burst", limits: []state{mine("send/burst", 1, 1, time.Minute)}}},
				{ask: on("none", by("email", "send", "a")), want: want{
					denied: true, reason: "rate_limited", rule: "send", plan: "none", subject: "a", cost: 1, bound: "send/burst",
					limits: []state{mine("send/burst", 1, 1, time.Minute).refuses(time.Minute)},
				}},
				{ask: by("email", "other", "a"), want: want{reason: "no_rule", plan: "free", subject: "a", cost: 1}},
			},
		},
	}
}
