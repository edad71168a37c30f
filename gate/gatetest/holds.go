package gatetest

import (
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// settling settles a ticket at a cost, or as reserved if it is -1.
func settling(ticket string, cost int64) *claim {
	return &claim{headgate.Settle, ticket, gate.Claim{Cost: max(0, cost), CostSaid: cost >= 0}}
}

func releasing(ticket string) *claim { return &claim{op: headgate.Release, ticket: ticket} }

func renewing(ticket string, ttl time.Duration) *claim {
	return &claim{headgate.Renew, ticket, gate.Claim{TTL: ttl}}
}

func holds() []scenario {
	const s, m, h = time.Second, time.Minute, time.Hour
	ask := by("a", "x", "s")
	// five is the answer about five limits that have used so much.
	five := func(cost int64, bound string, bucket, fixed, sliding, log, daily state) want {
		return want{rule: "api", subject: "s", cost: cost, bound: bound, limits: []state{bucket, fixed, sliding, log, daily}}
	}
	all := func(used int64, at, bucket, log time.Duration) []state {
		return []state{
			mine("api/bucket", used, 10, bucket), mine("api/fixed", used, 10, h-at), mine("api/sliding", used, 10, 70*m-at),
			mine("api/log", used, 10, log), quota("api/daily", used, 10, noon-at),
		}
	}
	said := func(cost int64, bound string, l []state) want { return five(cost, bound, l[0], l[1], l[2], l[3], l[4]) }
	reserved := func(w want) want {
		w.ticket = true
		return w
	}
	held := func(w want) want {
		w.held = true
		return w
	}
	ended := func(w want) want {
		for i := range w.limits {
			w.limits[i] = w.limits[i].ended()
		}
		return w
	}
	const text = `
version: 1
applications:
  a:
    rules:
      - name: api
        match: {operation: x}
        limits:
          - {name: bucket, rate: 60/h, burst: 10}
          - {name: fixed, algorithm: fixed_window, rate: 10/h}
          - {name: sliding, algorithm: sliding_window, rate: 10/60min, slices: 6}
          - {name: log, algorithm: sliding_log, rate: 10/h}
          - {name: daily, algorithm: quota, rate: 10/day}
      - {name: ask, match: {operation: ask}, limits: [{name: calls, rate: 60/h, burst: 10}, {name: tokens, unit: tokens, rate: 60/min, burst: 100}]}
      - {name: free, match: {operation: free}}
  b: {}
`
	return []scenario{
		{
			"reserve", "a reservation holds what it takes; settling gives back or charges the difference once, and nothing refills meanwhile", text,
			[]step{
				{ask: costing(3, ask), reserve: m, keep: "t", want: reserved(said(3, "api/bucket", all(3, 0, 4*m, h)))},
				{at: 30 * s, claim: settling("t", 1), want: held(said(1, "api/bucket", all(1, 30*s, m, h-30*s)))},
				{at: 30 * s, claim: settling("t", 1), want: ended(said(1, "api/bucket", all(1, 30*s, m, h-30*s)))},
				{at: 30 * s, claim: releasing("t"), want: ended(said(0, "api/bucket", all(1, 30*s, m, h-30*s)))},
				{at: 90 * s, ask: costing(2, ask), reserve: m, keep: "u", want: reserved(five(2, "api/fixed",
					mine("api/bucket", 2, 10, 3*m), mine("api/fixed", 3, 10, h-90*s), mine("api/sliding", 3, 10, 70*m-90*s), mine("api/log", 3, 10, h), quota("api/daily", 3, 10, noon-90*s)))},
				{at: 90 * s, claim: settling("u", 5), want: held(five(5, "api/fixed",
					mine("api/bucket", 5, 10, 5*m), mine("api/fixed", 6, 10, h-90*s), mine("api/sliding", 6, 10, 70*m-90*s), mine("api/log", 6, 10, h), quota("api/daily", 6, 10, noon-90*s)))},
				{at: 90 * s, ask: costing(4, ask), reserve: m, keep: "v", want: reserved(five(4, "api/fixed",
					mine("api/bucket", 9, 10, 9*m), mine("api/fixed", 10, 10, h-90*s), mine("api/sliding", 10, 10, 70*m-90*s), mine("api/log", 10, 10, h), quota("api/daily", 10, 10, noon-90*s)))},
				{at: 90 * s, claim: settling("v", 6), want: held(five(6, "api/bucket",
					mine("api/bucket", 11, 10, 11*m), mine("api/fixed", 12, 10, h-90*s), mine("api/sliding", 12, 10, 70*m-90*s), mine("api/log", 12, 10, h), quota("api/daily", 12, 10, noon-90*s)))},
			},
		},
		{
			"reserve_release", "releasing gives all back; settling without a cost keeps what was reserved", text,
			[]step{
				{ask: costing(3, ask), reserve: m, keep: "t", want: reserved(said(3, "api/bucket", all(3, 0, 4*m, h)))},
				{claim: releasing("t"), want: held(five(0, "api/bucket",
					mine("api/bucket", 0, 10, 0), mine("api/fixed", 0, 10, h), mine("api/sliding", 0, 10, 0), mine("api/log", 0, 10, 0), quota("api/daily", 0, 10, noon)))},
				{ask: costing(3, ask), reserve: m, keep: "u", want: reserved(said(3, "api/bucket", all(3, 0, 4*m, h)))},
				{claim: settling("u", -1), want: held(said(3, "api/bucket", all(3, 0, 3*m, h)))},
			},
		},
		{
			"reserve_expiry", "a reservation that nobody settles in time keeps its charge; renewing it in time puts that off", text,
			[]step{
				{ask: costing(3, ask), reserve: m, keep: "t", want: reserved(said(3, "api/bucket", all(3, 0, 4*m, h)))},
				{at: m, claim: settling("t", 0), want: ended(said(0, "api/bucket", all(3, m, 3*m, h-m)))},
				{at: m, claim: renewing("t", 0), want: ended(said(3, "api/bucket", all(3, m, 3*m, h-m)))},
				{at: 4 * m, ask: costing(1, ask), reserve: 2 * m, keep: "u", want: reserved(five(1, "api/fixed",
					mine("api/bucket", 1, 10, 3*m), mine("api/fixed", 4, 10, h-4*m), mine("api/sliding", 4, 10, 66*m), mine("api/log", 4, 10, h), quota("api/daily", 4, 10, noon-4*m)))},
				{at: 6*m - s, claim: renewing("u", 0), want: held(five(1, "api/fixed",
					mine("api/bucket", 1, 10, 3*m), mine("api/fixed", 4, 10, h-6*m+s), mine("api/sliding", 4, 10, 64*m+s), mine("api/log", 4, 10, h-2*m+s), quota("api/daily", 4, 10, noon-6*m+s)))},
				{at: 7 * m, claim: renewing("u", 10*m), want: held(five(1, "api/fixed",
					mine("api/bucket", 1, 10, 11*m), mine("api/fixed", 4, 10, h-7*m), mine("api/sliding", 4, 10, 63*m), mine("api/log", 4, 10, h-3*m), quota("api/daily", 4, 10, noon-7*m)))},
				{at: 17*m - time.Millisecond, claim: releasing("u"), want: held(five(0, "api/fixed",
					mine("api/bucket", 0, 10, 0), mine("api/fixed", 3, 10, h-17*m+time.Millisecond), mine("api/sliding", 3, 10, 53*m+time.Millisecond),
					mine("api/log", 3, 10, h-17*m+time.Millisecond), quota("api/daily", 3, 10, noon-17*m+time.Millisecond)))},
			},
		},
		{
			"reserve_units", "settling takes costs by unit; a cost that is not said is as reserved, also one of nothing", text,
			[]step{
				{ask: spending(60, by("a", "ask", "s")), reserve: m, keep: "t", want: want{
					rule: "ask", subject: "s", cost: 1, costs: map[string]int64{"tokens": 60}, bound: "ask/tokens", ticket: true,
					limits: []state{mine("ask/calls", 1, 10, 2*m), mine("ask/tokens", 60, 100, 120*s).of("tokens")},
				}},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Costs: map[string]int64{"pages": 1}}}, err: &failure{headgate.InvalidRequest, "costs", "pages"}},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Costs: map[string]int64{"requests": 2}}}, err: &failure{headgate.InvalidRequest, "costs.requests", "requests are counted by cost"}},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Costs: map[string]int64{"tokens": -1}}}, err: &failure{headgate.InvalidRequest, "costs.tokens", "-1"}},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Cost: -1, CostSaid: true}}, err: &failure{headgate.InvalidRequest, "cost", "-1"}},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Costs: map[string]int64{"tokens": 20}}}, want: want{
					rule: "ask", subject: "s", cost: 1, costs: map[string]int64{"tokens": 20}, bound: "ask/calls", held: true,
					limits: []state{mine("ask/calls", 1, 10, m), mine("ask/tokens", 20, 100, 20*s).of("tokens")},
				}},
				{ask: spending(0, costing(0, by("a", "ask", "s"))), reserve: m, keep: "u", want: want{
					rule: "ask", subject: "s", cost: 0, costs: map[string]int64{"tokens": 0}, bound: "ask/calls", ticket: true,
					limits: []state{mine("ask/calls", 1, 10, m), mine("ask/tokens", 20, 100, 20*s).of("tokens")},
				}},
				{claim: &claim{headgate.Settle, "u", gate.Claim{Cost: 2, CostSaid: true, Costs: map[string]int64{"tokens": 200}}}, want: want{
					rule: "ask", subject: "s", cost: 2, costs: map[string]int64{"tokens": 200}, bound: "ask/tokens", held: true,
					limits: []state{mine("ask/calls", 3, 10, 3*m), mine("ask/tokens", 200, 100, 200*s).of("tokens")},
				}},
			},
		},
		{
			"reserve_merged", "a budget that two scopes name is settled for both of them", `
version: 1
applications:
  a:
    limits: [{name: world, per: global, rate: 60/h, burst: 9}]
    rules: [{name: send, match: {operation: send}, limits: [{name: world, per: global, rate: 60/h, burst: 9}]}]
`,
			[]step{
				{ask: costing(2, by("a", "send", "s")), reserve: m, keep: "t", want: want{
					rule: "send", subject: "s", cost: 2, bound: "app/world", ticket: true, limits: []state{st("app/world", "global", 4, 9, 5*m)},
				}},
				{claim: settling("t", 1), want: want{
					rule: "send", subject: "s", cost: 1, bound: "app/world", held: true, limits: []state{st("app/world", "global", 2, 9, 2*m)},
				}},
			},
		},
		{
			"tickets", "a refused reservation has no ticket, one that no limit has a say in has one that holds nothing; other tickets are errors", text,
			[]step{
				{ask: costing(11, ask), reserve: m, want: func() want {
					w := said(11, "api/bucket", all(0, 0, 0, 0))
					w.denied, w.never, w.reason = true, true, "cost_exceeds_limit"
					w.limits[2].ResetAfter = 0
					for i := range w.limits {
						w.limits[i] = w.limits[i].refuses(0)
					}
					return w
				}()},
				{ask: by("a", "free", "s"), reserve: m, keep: "free", want: want{rule: "free", subject: "s", cost: 1, ticket: true}},
				{claim: settling("free", 3), want: want{rule: "free", subject: "s", cost: 3}},
				{ask: ask, reserve: m, keep: "t", want: reserved(said(1, "api/bucket", all(1, 0, 2*m, h)))},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Application: "b"}}, err: &failure{headgate.NotFound, "ticket", "application"}},
				{claim: &claim{headgate.Renew, "t", gate.Claim{TTL: headgate.MaxHold + time.Millisecond}}, err: &failure{headgate.InvalidRequest, "ttl_ms", "24h"}},
				{claim: settling("", 1), err: &failure{headgate.InvalidRequest, "ticket", "required"}},
				{claim: settling("x", 1), err: &failure{headgate.InvalidRequest, "ticket", ""}},
				{claim: settling(strings.Repeat("A", 64), 1), err: &failure{headgate.InvalidRequest, "ticket", ""}},
				{claim: settling(strings.Repeat("A", gate.MaxTicket+1), 1), err: &failure{headgate.InvalidRequest, "ticket", ""}},
				{ask: ask, reserve: -m, err: &failure{headgate.InvalidRequest, "ttl_ms", ""}},
				{ask: ask, reserve: headgate.MaxHold + time.Millisecond, err: &failure{headgate.InvalidRequest, "ttl_ms", "24h"}},
				{claim: &claim{headgate.Settle, "t", gate.Claim{Application: "a"}}, want: held(said(1, "api/bucket", all(1, 0, m, h)))},
			},
		},
	}
}

func slots() []scenario {
	const s = time.Second
	ask := by("a", "x", "s")
	ask.Releases = true
	taken := func(used int64, reset time.Duration) want {
		return want{rule: "api", subject: "s", cost: 1, bound: "api/inflight", ticket: true, limits: []state{mine("api/inflight", used, 2, reset)}}
	}
	claimed := func(cost, used int64, reset time.Duration) want {
		w := taken(used, reset)
		w.cost, w.ticket, w.held = cost, false, true
		return w
	}
	lost := func(cost, used int64, reset time.Duration) want {
		w := claimed(cost, used, reset)
		w.held, w.limits = false, []state{w.limits[0].ended()}
		return w
	}
	return []scenario{{
		"slots", "a slot is held until its ticket is released, or for its ttl since it was taken or renewed", `
version: 1
applications:
  a: {rules: [{name: api, match: {operation: x}, limits: [{name: inflight, algorithm: concurrency, max: 2, ttl: 30s}]}]}
`,
		[]step{
			{ask: ask, keep: "1", want: taken(1, 30*s)},
			{at: s, ask: ask, keep: "2", want: taken(2, 30*s)},
			{at: 2 * s, ask: ask, want: want{
				denied: true, reason: "concurrency_exceeded", rule: "api", subject: "s", cost: 1, bound: "api/inflight",
				limits: []state{mine("api/inflight", 2, 2, 29*s).refuses(28 * s)},
			}},
			{at: 2 * s, peek: true, ask: by("a", "x", "s"), want: want{
				denied: true, reason: "concurrency_exceeded", rule: "api", subject: "s", cost: 1, bound: "api/inflight",
				limits: []state{mine("api/inflight", 2, 2, 29*s).refuses(28 * s)},
			}},
			{at: 5 * s, claim: releasing("1"), want: claimed(0, 1, 26*s)},
			{at: 5 * s, claim: releasing("1"), want: lost(0, 1, 26*s)},
			{at: 20 * s, claim: renewing("2", 0), want: claimed(1, 1, 30*s)},
			{at: 49 * s, ask: ask, keep: "3", want: taken(2, 30*s)},
			{at: 50 * s, claim: renewing("2", 0), want: lost(1, 1, 29*s)},
			{at: 50 * s, ask: ask, reserve: 2 * time.Minute, keep: "4", want: taken(2, 120*s)},
			{at: 60 * s, claim: settling("3", -1), want: claimed(1, 1, 110*s)},
			{at: 169 * s, claim: settling("4", 1), want: claimed(1, 0, 0)},
			{at: 169 * s, claim: settling("4", 1), want: lost(1, 0, 0)},
		},
	}}
}

func retries() []scenario {
	const m = time.Minute
	keyed := func(key string, r gate.Request) gate.Request {
		r.IdempotencyKey = key
		return r
	}
	ask := by("a", "x", "s")
	passed := func(s state) want {
		return want{rule: "api", subject: "s", cost: 1, bound: "api/w", limits: []state{s}}
	}
	again := func(s state) want {
		w := passed(s)
		w.replayed = true
		return w
	}
	conflict := &failure{headgate.Conflict, "idempotency_key", ""}
	return []scenario{
		{
			"idempotency", "the same request under the same key is charged once for the application's window; another request is a conflict", `
version: 1
applications:
  a: {idempotency_window: 90s, rules: [{name: api, match: {operation: x}, cost: "'n' in attributes ? int(attributes.n) : 1", limits: [{name: w, algorithm: fixed_window, rate: 3/h}]}]}
  b: {rules: [{name: api, match: {operation: x}, limits: [{name: w, algorithm: fixed_window, rate: 3/h}]}]}
`,
			[]step{
				{ask: keyed("k", ask), want: passed(mine("api/w", 1, 3, 60*m))},
				{ask: keyed("k", ask), want: again(mine("api/w", 1, 3, 60*m))},
				{ask: keyed("k", costing(2, ask)), err: conflict},
				{ask: keyed("k", with("n", "2", ask)), err: conflict},
				{ask: keyed("k", with("m", "2", ask)), err: conflict},
				{ask: keyed("k", by("a", "y", "s")), want: want{reason: "no_rule", subject: "s", cost: 1}}, // nothing is charged there
				{ask: keyed("k", ask), reserve: m, err: conflict},
				{ask: keyed("k", by("a", "x", "t")), want: want{rule: "api", subject: "t", cost: 1, bound: "api/w", limits: []state{mine("api/w", 1, 3, 60*m)}}},
				{ask: keyed("k", by("b", "x", "s")), want: passed(mine("api/w", 1, 3, 60*m))},
				{peek: true, ask: keyed("k", ask), want: passed(mine("api/w", 1, 3, 60*m))},
				{at: 90*time.Second - time.Millisecond, ask: keyed("k", ask), want: again(mine("api/w", 1, 3, 58*m+30*time.Second+time.Millisecond))},
				{at: 90 * time.Second, ask: keyed("k", ask), want: passed(mine("api/w", 2, 3, 58*m+30*time.Second))},
				{at: 2 * m, ask: ask, want: passed(mine("api/w", 3, 3, 58*m))},
				{at: 2 * m, ask: keyed("k", ask), want: again(mine("api/w", 3, 3, 58*m))},
				{at: 2 * m, ask: keyed("l", ask), want: func() want {
					w := passed(mine("api/w", 3, 3, 58*m).refuses(58 * m))
					w.denied, w.reason = true, "rate_limited"
					return w
				}()},
				{at: 60 * m, ask: keyed("l", ask), want: passed(mine("api/w", 1, 3, 60*m))},
				{at: 60 * m, ask: keyed("l\n", ask), err: &failure{headgate.InvalidRequest, "idempotency_key", "line break"}},
				{at: 60 * m, ask: keyed(strings.Repeat("k", 513), ask), err: &failure{headgate.InvalidRequest, "idempotency_key", "512"}},
			},
		},
		{
			"idempotency_reserve", "a retried reservation has the ticket of the first, which can be settled once", `
version: 1
applications:
  a: {rules: [{name: api, match: {operation: x}, limits: [{name: w, algorithm: fixed_window, rate: 3/h}, {name: slot, algorithm: concurrency, max: 1}]}]}
`,
			[]step{
				{ask: keyed("k", costing(1, ask)), reserve: m, keep: "first", want: want{
					rule: "api", subject: "s", cost: 1, bound: "api/slot", ticket: true, limits: []state{mine("api/w", 1, 3, 60*m), mine("api/slot", 1, 1, m)},
				}},
				{ask: keyed("k", costing(1, ask)), reserve: m, keep: "second", want: want{
					rule: "api", subject: "s", cost: 1, bound: "api/slot", ticket: true, replayed: true, limits: []state{mine("api/w", 1, 3, 60*m), mine("api/slot", 1, 1, m)},
				}},
				{ask: keyed("k", costing(1, ask)), reserve: 2 * m, err: conflict},
				{claim: releasing("second"), want: want{
					rule: "api", subject: "s", cost: 0, bound: "api/slot", held: true, limits: []state{mine("api/w", 0, 3, 60*m), mine("api/slot", 0, 1, 0)},
				}},
				{claim: releasing("first"), want: want{
					rule: "api", subject: "s", cost: 0, bound: "api/slot", limits: []state{mine("api/w", 0, 3, 60*m).ended(), mine("api/slot", 0, 1, 0).ended()},
				}},
				// It was given back: a retry is charged, or the work would be free.
				{ask: keyed("k", costing(1, ask)), reserve: m, keep: "third", want: want{
					rule: "api", subject: "s", cost: 1, bound: "api/slot", ticket: true, limits: []state{mine("api/w", 1, 3, 60*m), mine("api/slot", 1, 1, m)},
				}},
				{ask: keyed("k", costing(1, ask)), reserve: m, want: want{
					denied: true, reason: "concurrency_exceeded", rule: "api", subject: "s", cost: 1, bound: "api/slot",
					limits: []state{mine("api/w", 1, 3, 60*m), mine("api/slot", 1, 1, m).refuses(m)},
				}},
			},
		},
	}
}

// retriedTrials are replays where limits in shadow and candidates have a say.
func retriedTrials() []scenario {
	const m = time.Minute
	ask := costing(2, by("a", "x", "s"))
	ask.IdempotencyKey = "k"
	first := func(trial1 state) want {
		return want{
			rule: "api", subject: "s", cost: 2, bound: "api/w", ticket: true, limits: []state{mine("api/w", 2, 9, 60*m), trial1},
		}
	}
	return []scenario{{
		"idempotency_trials", "a replay is not counted by candidates, and its ticket settles what is held, whatever limits in shadow had refused", `
version: 1
applications:
  a:
    rules:
      - name: api
        match: {operation: x}
        limits: [{name: w, algorithm: fixed_window, rate: 9/h}, {name: trial, mode: shadow, algorithm: fixed_window, rate: 1/h}]
        candidate: {limits: [{name: w, algorithm: fixed_window, rate: 9/h}]}
`,
		[]step{
			{ask: ask, reserve: m, want: func() want {
				w := first(mine("api/trial", 0, 1, 60*m).refuses(0).inShadow())
				w.wouldDeny = "cost_exceeds_limit"
				w.candidate = &trial{bound: "api/candidate/w", limits: []state{mine("api/candidate/w", 2, 9, 60*m)}}
				return w
			}()},
			{ask: ask, reserve: m, keep: "t", want: func() want {
				w := first(mine("api/trial", 0, 1, 60*m).inShadow())
				w.replayed = true
				return w
			}()},
			{claim: settling("t", 1), want: want{
				rule: "api", subject: "s", cost: 1, bound: "api/trial", held: true, limits: []state{mine("api/w", 1, 9, 60*m), mine("api/trial", 0, 1, 60*m).ended().inShadow()},
			}},
			{peek: true, ask: by("a", "x", "s"), want: want{
				rule: "api", subject: "s", cost: 1, bound: "api/w", limits: []state{mine("api/w", 1, 9, 60*m), mine("api/trial", 0, 1, 60*m).inShadow()},
				candidate: &trial{bound: "api/candidate/w", limits: []state{mine("api/candidate/w", 2, 9, 60*m)}},
			}},
		},
	}}
}

func atomic() []scenario {
	const m = time.Minute
	ask := func(subject string, cost int64) gate.Request { return costing(cost, by("a", "x", subject)) }
	each := func(subject string, cost int64, bound string, all, mine state) want {
		return want{rule: "api", subject: subject, cost: cost, bound: bound, limits: []state{all, mine}}
	}
	refused := func(w want, reason string) want {
		w.denied, w.reason = true, reason
		return w
	}
	together := func(w want, retry time.Duration) want {
		w = refused(w, "batch_refused")
		w.retry = retry
		return w
	}
	keyed := ask("alice", 1)
	keyed.IdempotencyKey = "k"
	waits := ask("alice", 1)
	waits.MaxWait, waits.MaxWaitSaid = time.Second, true
	const text = `
version: 1
applications:
  a:
    deny: ["subject:mallory"]
    limits: [{name: all, rate: 60/h, burst: 50}]
    rules: [{name: api, match: {operation: x}, ban: {after: 2, within: 1m, for: 1h}, limits: [{name: w, rate: 60/h, burst: 3}]}, {name: skip, match: {operation: skip}, skip: "true"}]
  b: {}
`
	free := state{State: State{ID: "api/ban", Owner: "subject", Unit: "requests", Allowed: true, Limit: 2, Remaining: 2}}
	with := func(w want, ban state) want {
		w.limits = append(w.limits, ban)
		return w
	}
	none := func() []step {
		// Nothing of what was refused or at fault is charged.
		return []step{
			{peek: true, ask: ask("alice", 1), want: with(each("alice", 1, "api/w", app("app/all", 2, 50, 2*m), mine("api/w", 1, 3, m)), free)},
		}
	}
	return []scenario{
		{
			"batch_atomic", "requests that are decided together are charged all or none; budgets they share are charged for all of them", text,
			append([]step{
				{all: []item{
					{ask("alice", 1), with(each("alice", 1, "api/w", app("app/all", 2, 50, 2*m), mine("api/w", 1, 3, m)), free)},
					{ask("bob", 1), with(each("bob", 1, "api/w", app("app/all", 2, 50, 2*m), mine("api/w", 1, 3, m)), free)},
					{by("a", "skip", "x"), want{reason: "skipped", rule: "skip", subject: "x"}},
					{by("b", "x", "x"), want{reason: "no_rule", subject: "x", cost: 1}},
				}},
				{all: []item{{ask("mallory", 1), want{denied: true, never: true, reason: "deny_listed", rule: "api", subject: "mallory"}}, {ask("alice", 1), func() want {
					w := together(with(each("alice", 1, "", app("app/all", 2, 50, 2*m), mine("api/w", 1, 3, m)), free), 0)
					w.never = true
					return w
				}()}}},
				{all: []item{{ask("alice", 1), want{}}, {by("a", "", "s"), want{}}}, failed: 1, err: &failure{headgate.InvalidRequest, "operation", "required"}},
				{all: []item{{ask("alice", 1), want{}}, {by("c", "x", "s"), want{}}}, failed: 1, err: &failure{headgate.NotFound, "application", `"c"`}},
				{all: []item{{ask("alice", -1), want{}}}, err: &failure{headgate.InvalidRequest, "cost", "-1"}},
				{all: []item{{ask("bob", 1), want{}}, {keyed, want{}}}, failed: 1, err: &failure{headgate.InvalidRequest, "idempotency_key", "atomic"}},
				{all: []item{{waits, want{}}}, err: &failure{headgate.InvalidRequest, "max_wait_ms", "wait"}},
			}, none()...),
		},
		{
			"batch_refused", "when one request is refused the others are too, because of it and until then; only its own subject's ban counts that", text,
			[]step{
				{ask: ask("alice", 2), want: with(each("alice", 2, "api/w", app("app/all", 2, 50, 2*m), mine("api/w", 2, 3, 2*m)), free)},
				{all: []item{
					{ask("alice", 2), refused(with(each("alice", 2, "api/w", app("app/all", 2, 50, 2*m), mine("api/w", 2, 3, 2*m).refuses(m)), mine("api/ban", 1, 2, 70*time.Second)), "rate_limited")},
					{ask("bob", 1), together(with(each("bob", 1, "", app("app/all", 2, 50, 2*m), mine("api/w", 0, 3, 0)), free), m)},
				}},
				{ask: ask("bob", 1), want: with(each("bob", 1, "api/w", app("app/all", 3, 50, 3*m), mine("api/w", 1, 3, m)), free)},
			},
		},
		{
			"batch_delay", "a leaky bucket delays no request of a batch for longer than the shortest max_wait among them", `
version: 1
applications:
  a:
    rules:
      - {name: short, match: {operation: short}, max_wait: 1min, limits: [{name: calls, algorithm: quota, rate: 9/day}]}
      - {name: shape, match: {operation: shape}, limits: [{name: w, algorithm: leaky_bucket, rate: 60/h, burst: 5}]}
`,
			[]step{
				{ask: costing(2, by("a", "shape", "s")), want: want{rule: "shape", subject: "s", cost: 2, bound: "shape/w", limits: []state{mine("shape/w", 2, 5, 2*m)}}},
				{all: []item{
					{by("a", "shape", "s"), want{denied: true, reason: "rate_limited", rule: "shape", subject: "s", cost: 1, bound: "shape/w", limits: []state{mine("shape/w", 2, 5, 2*m).refuses(m)}}},
					{by("a", "short", "s"), together(want{rule: "short", subject: "s", cost: 1, limits: []state{quota("short/calls", 0, 9, noon)}}, m)},
				}},
				{all: []item{{by("a", "shape", "s"), want{rule: "shape", subject: "s", cost: 1, bound: "shape/w", limits: []state{mine("shape/w", 3, 5, 3*m)}}}}},
			},
		},
		{
			"batch_merged", "a subject that comes twice needs room for both", text,
			[]step{
				{all: []item{
					{ask("alice", 2), func() want {
						w := refused(with(each("alice", 2, "api/w", app("app/all", 0, 50, 0), mine("api/w", 0, 3, 0).refuses(0)), free), "cost_exceeds_limit")
						w.never = true
						return w
					}()},
					{ask("alice", 2), func() want {
						w := refused(with(each("alice", 2, "api/w", app("app/all", 0, 50, 0), mine("api/w", 0, 3, 0).refuses(0)), free), "cost_exceeds_limit")
						w.never = true
						return w
					}()},
				}},
				{all: []item{
					{ask("alice", 1), with(each("alice", 1, "api/w", app("app/all", 3, 50, 3*m), mine("api/w", 3, 3, 3*m)), free)},
					{ask("alice", 2), with(each("alice", 2, "api/w", app("app/all", 3, 50, 3*m), mine("api/w", 3, 3, 3*m)), free)},
				}},
			},
		},
	}
}
