package gatetest

import "time"

func overrides() []scenario {
	const h = time.Hour
	daily := func(subject, plan string, cost int64, s state) want {
		return want{reason: "no_rule", plan: plan, subject: subject, cost: cost, bound: "plan/daily", limits: []state{s}}
	}
	over := func(w want) want {
		w.denied, w.reason = true, "quota_exceeded"
		return w
	}
	return []scenario{
		{
			"override", "an override has the numbers of a subject's limit for its time, to the instant; the last that holds wins, and what was used stays used", `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 2/day}]}
  pro: {limits: [{name: daily, algorithm: quota, rate: unlimited}]}
applications: {a: {default_plan: free}}
subjects:
  a/alice: {overrides: [{limit: daily, rate: 5/day, from: 2026-03-09T13:00:00Z, until: 2026-03-09T15:00:00+01:00, note: "campaign"}]}
  a/bob: {overrides: [{limit: plan/daily, rate: 5/day}, {limit: daily, rate: 7/day, until: 2026-03-09T13:00:00Z}]}
  a/carol: {overrides: [{limit: plan/daily, rate: unlimited, until: 2026-03-09T13:00:00Z}]}
  a/dave: {plan: pro, overrides: [{limit: daily, rate: 1/day}]}
  a/erin: {plan: pro}
`,
			[]step{
				{ask: costing(2, by("a", "x", "alice")), want: daily("alice", "free", 2, quota("plan/daily", 2, 2, noon))},
				{ask: costing(6, by("a", "x", "bob")), want: daily("bob", "free", 6, quota("plan/daily", 6, 7, noon))},
				{ask: costing(9, by("a", "x", "carol")), want: want{reason: "no_rule", plan: "free", subject: "carol", cost: 9}},
				{ask: by("a", "x", "dave"), want: daily("dave", "pro", 1, quota("plan/daily", 1, 1, noon))},
				{ask: by("a", "x", "dave"), want: over(daily("dave", "pro", 1, quota("plan/daily", 1, 1, noon).refuses(noon)))},
				{ask: by("a", "x", "erin"), want: want{reason: "no_rule", plan: "pro", subject: "erin", cost: 1}},
				{at: h - time.Millisecond, ask: by("a", "x", "alice"), want: over(daily("alice", "free", 1, quota("plan/daily", 2, 2, 11*h+time.Millisecond).refuses(11*h+time.Millisecond)))},
				{at: h, ask: by("a", "x", "alice"), want: daily("alice", "free", 1, quota("plan/daily", 3, 5, 11*h))},
				{at: h, ask: by("a", "x", "bob"), want: over(daily("bob", "free", 1, quota("plan/daily", 6, 5, 11*h).refuses(11*h)))},
				{at: h, ask: costing(2, by("a", "x", "carol")), want: daily("carol", "free", 2, quota("plan/daily", 2, 2, 11*h))},
				{at: 2*h - time.Millisecond, ask: by("a", "x", "alice"), want: daily("alice", "free", 1, quota("plan/daily", 4, 5, 10*h+time.Millisecond))},
				{at: 2 * h, ask: by("a", "x", "alice"), want: over(daily("alice", "free", 1, quota("plan/daily", 4, 2, 10*h).refuses(10*h)))},
			},
		},
		{
			"override_rates", "overrides give rates, bursts and slots to limits of rules, by their short names where they are unique", `
version: 1
applications:
  a:
    rules:
      - name: r
        match: {operation: x}
        limits: [{name: w, rate: 60/h, burst: 1}, {name: slots, algorithm: concurrency, max: 1, release: ttl}, {name: none, rate: unlimited}]
subjects: {a/s: {overrides: [{limit: w, rate: 60/min, burst: 3}, {limit: r/slots, max: 2}, {limit: none, rate: 60/h, burst: 9}]}}
`,
			[]step{
				{ask: by("a", "x", "s"), want: want{rule: "r", subject: "s", cost: 1, bound: "r/slots", limits: []state{
					mine("r/w", 1, 3, time.Second), mine("r/slots", 1, 2, 30*time.Second), mine("r/none", 1, 9, time.Minute),
				}}},
				{ask: by("a", "x", "s"), want: want{rule: "r", subject: "s", cost: 1, bound: "r/slots", limits: []state{
					mine("r/w", 2, 3, 2*time.Second), mine("r/slots", 2, 2, 30*time.Second), mine("r/none", 2, 9, 2*time.Minute),
				}}},
				{ask: by("a", "x", "t"), want: want{rule: "r", subject: "t", cost: 1, bound: "r/w", limits: []state{
					mine("r/w", 1, 1, time.Minute), mine("r/slots", 1, 1, 30*time.Second),
				}}},
			},
		},
		{
			"timezone", "a subject's quotas end at its own midnight, whichever zone the limit has; other limits have no zone", `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 2/day, timezone: Europe/Paris}]}}
applications: {a: {default_plan: free, limits: [{name: each, per: subject, rate: 60/h, burst: 1000}]}}
subjects: {a/alice: {timezone: Asia/Kathmandu, overrides: [{limit: daily, rate: 3/day, until: 2026-03-09T13:00:00Z}]}}
`,
			[]step{
				{ask: costing(3, by("a", "x", "alice")), want: want{reason: "no_rule", plan: "free", subject: "alice", cost: 3, bound: "plan/daily", limits: []state{
					mine("app/each", 3, 1000, 3*time.Minute), quota("plan/daily", 3, 3, 6*h+15*time.Minute),
				}}},
				{ask: by("a", "x", "bob"), want: want{reason: "no_rule", plan: "free", subject: "bob", cost: 1, bound: "plan/daily", limits: []state{
					mine("app/each", 1, 1000, time.Minute), quota("plan/daily", 1, 2, 11*h),
				}}},
				{at: 6*h + 15*time.Minute - time.Millisecond, ask: by("a", "x", "alice"), want: over(want{plan: "free", subject: "alice", cost: 1, bound: "plan/daily", limits: []state{
					mine("app/each", 0, 1000, 0), quota("plan/daily", 3, 2, time.Millisecond).refuses(time.Millisecond),
				}})},
				{at: 6*h + 15*time.Minute, ask: by("a", "x", "alice"), want: want{reason: "no_rule", plan: "free", subject: "alice", cost: 1, bound: "plan/daily", limits: []state{
					mine("app/each", 1, 1000, time.Minute), quota("plan/daily", 1, 2, 24*h),
				}}},
			},
		},
	}
}

func candidates() []scenario {
	const m = time.Minute
	ask := by("a", "x", "s")
	return []scenario{
		{
			"candidate", "candidate limits are decided and counted beside the live ones, whatever these say, and change no answer", `
version: 1
applications:
  a:
    rules:
      - {name: strict, match: {operation: x}, limits: [{name: w, rate: 60/h, burst: 3}], candidate: {limits: [{name: w, rate: 60/h, burst: 1}]}}
      - {name: loose, match: {operation: y}, limits: [{name: w, rate: 60/h, burst: 1}], candidate: {limits: [{name: w, rate: 60/h, burst: 3}]}}
      - {name: open, match: {operation: z}, limits: [{name: w, rate: 60/h, burst: 1}], candidate: {limits: []}}
      - {name: org, match: {operation: org}, limits: [{name: w, rate: 60/h, burst: 9}], candidate: {limits: [{name: org, per: {expr: attributes.org}, rate: 60/h, burst: 3}]}}
`,
			[]step{
				{ask: ask, want: want{
					rule: "strict", subject: "s", cost: 1, bound: "strict/w", limits: []state{mine("strict/w", 1, 3, m)},
					candidate: &trial{bound: "strict/candidate/w", limits: []state{mine("strict/candidate/w", 1, 1, m)}},
				}},
				{peek: true, ask: ask, want: want{
					rule: "strict", subject: "s", cost: 1, bound: "strict/w", limits: []state{mine("strict/w", 1, 3, m)},
					candidate: &trial{denied: true, reason: "rate_limited", bound: "strict/candidate/w", limits: []state{mine("strict/candidate/w", 1, 1, m).refuses(m)}},
				}},
				{ask: ask, want: want{
					rule: "strict", subject: "s", cost: 1, bound: "strict/w", limits: []state{mine("strict/w", 2, 3, 2*m)},
					candidate: &trial{denied: true, reason: "rate_limited", bound: "strict/candidate/w", limits: []state{mine("strict/candidate/w", 1, 1, m).refuses(m)}},
				}},
				{ask: by("a", "y", "s"), want: want{
					rule: "loose", subject: "s", cost: 1, bound: "loose/w", limits: []state{mine("loose/w", 1, 1, m)},
					candidate: &trial{bound: "loose/candidate/w", limits: []state{mine("loose/candidate/w", 1, 3, m)}},
				}},
				{ask: by("a", "y", "s"), want: want{
					denied: true, reason: "rate_limited", rule: "loose", subject: "s", cost: 1, bound: "loose/w", limits: []state{mine("loose/w", 1, 1, m).refuses(m)},
					candidate: &trial{bound: "loose/candidate/w", limits: []state{mine("loose/candidate/w", 2, 3, 2*m)}},
				}},
				{ask: by("a", "z", "s"), want: want{
					rule: "open", subject: "s", cost: 1, bound: "open/w", limits: []state{mine("open/w", 1, 1, m)}, candidate: &trial{},
				}},
				{ask: by("a", "org", "s"), want: want{rule: "org", subject: "s", cost: 1, bound: "org/w", limits: []state{mine("org/w", 1, 9, m)}}},
				{ask: with("org", "o", by("a", "org", "s")), want: want{
					rule: "org", subject: "s", cost: 1, bound: "org/w", limits: []state{mine("org/w", 2, 9, 2*m)},
					candidate: &trial{bound: "org/candidate/org", limits: []state{st("org/candidate/org", "expression", 1, 3, m)}},
				}},
			},
		},
		{
			"candidate_global", "a candidate's budget is its own, also one that all applications share", `
version: 1
applications:
  a: {rules: [{name: r, match: {operation: x}, limits: [{name: world, per: global, rate: 60/h, burst: 9}], candidate: {limits: [{name: world, per: global, rate: 60/h, burst: 3}]}}]}
  b: {rules: [{name: r, match: {operation: x}, limits: [{name: world, per: global, rate: 60/h, burst: 9}], candidate: {limits: [{name: world, per: global, rate: 60/h, burst: 3}]}}]}
`,
			[]step{
				{ask: costing(2, by("a", "x", "s")), want: want{
					rule: "r", subject: "s", cost: 2, bound: "r/world", limits: []state{st("r/world", "global", 2, 9, 2*m)},
					candidate: &trial{bound: "r/candidate/world", limits: []state{st("r/candidate/world", "global", 2, 3, 2*m)}},
				}},
				{ask: costing(2, by("b", "x", "t")), want: want{
					rule: "r", subject: "t", cost: 2, bound: "r/world", limits: []state{st("r/world", "global", 4, 9, 4*m)},
					candidate: &trial{denied: true, reason: "rate_limited", bound: "r/candidate/world", limits: []state{st("r/candidate/world", "global", 2, 3, 2*m).refuses(m)}},
				}},
			},
		},
		{
			"candidate_banned", "a banned request never gets as far as limits: candidates do not count it", `
version: 1
applications:
  a:
    rules:
      - name: api
        match: {operation: x}
        ban: {after: 1, within: 1m, for: 1h}
        limits: [{name: w, rate: 60/h, burst: 1}]
        candidate: {limits: [{name: w, rate: 60/h, burst: 9}]}
`,
			[]step{
				{ask: ask, want: want{
					rule: "api", subject: "s", cost: 1, bound: "api/w", limits: []state{mine("api/w", 1, 1, m), mine("api/ban", 0, 1, 0)},
					candidate: &trial{bound: "api/candidate/w", limits: []state{mine("api/candidate/w", 1, 9, m)}},
				}},
				{ask: ask, want: want{
					denied: true, reason: "banned", rule: "api", subject: "s", cost: 1, bound: "api/ban",
					limits: []state{mine("api/w", 1, 1, m).refuses(m), mine("api/ban", 1, 1, time.Hour).refuses(time.Hour)},
				}},
			},
		},
	}
}
