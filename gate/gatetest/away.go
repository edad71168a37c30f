package gatetest

import (
	"context"
	"errors"
	syncatomic "sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// RunAway puts to holders what becomes of requests while the store is away. open
// returns one as for [Run], whose gate has wrap's store of one in memory, and as
// Config.Local another one in memory, which counts whole limits.
func RunAway(t *testing.T, open func(t *testing.T, policy string, wrap func(headgate.Store) headgate.Store) Holder) {
	for _, sc := range append(away(), awayTogether()...) {
		t.Run(sc.name, func(t *testing.T) {
			store := new(absence)
			h := open(t, sc.policy, func(s headgate.Store) headgate.Store {
				store.Store = s
				return store
			})
			play(t, &sc, h, store)
		})
	}
}

// absence is a store that can be away between two steps.
type absence struct {
	headgate.Store
	away syncatomic.Bool
}

func (a *absence) Apply(ctx context.Context, b *headgate.Batch) error {
	if a.away.Load() {
		return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the store is away")}
	}
	return a.Store.Apply(ctx, b)
}

// shut is the answer where the store is away and a limit is closed.
func shut(w want) want {
	w.denied, w.reason, w.degraded, w.bound, w.limits, w.retry = true, "store_unavailable", "closed", "", nil, time.Second
	return w
}

// let is the answer where the store is away and every limit is open.
func let(w want) want {
	w.degraded, w.bound, w.limits = "open", "", nil
	return w
}

// alone is the answer by a node's share.
func alone(w want) want {
	w.degraded = "local"
	return w
}

func away() []scenario {
	const s, m = time.Second, time.Minute
	asked := func(rule string) want { return want{rule: rule, subject: "s", cost: 1} }
	by1 := func(rule, bound string, limits ...state) want {
		return want{rule: rule, subject: "s", cost: 1, bound: bound, limits: limits}
	}
	said := func(reason string, w want) want {
		w.denied, w.reason = true, reason
		return w
	}
	const modes = `
version: 1
plans:
  quota: {limits: [{name: daily, algorithm: quota, rate: 10/day}]}
  open: {on_store_error: open, limits: [{name: daily, algorithm: quota, rate: 10/day}]}
  local: {on_store_error: local, limits: [{name: daily, algorithm: quota, rate: 10/day}]}
applications:
  a:
    limits: [{name: all, rate: 60/h, burst: 50, on_store_error: open}]
    rules:
      - {name: unset, match: {operation: unset}, limits: [{name: w, rate: 60/h, burst: 5}]}
      - {name: slots, match: {operation: slots}, limits: [{name: w, algorithm: concurrency, max: 5, release: ttl}]}
      - {name: open, match: {operation: open}, on_store_error: open, limits: [{name: w, algorithm: quota, rate: 10/day}]}
      - {name: closed, match: {operation: closed}, on_store_error: closed, limits: [{name: w, rate: 60/h, burst: 5}]}
      - {name: near, match: {operation: near}, on_store_error: closed, limits: [{name: w, algorithm: quota, rate: 10/day, on_store_error: local}]}
      - {name: shadow, match: {operation: shadow}, mode: shadow, limits: [{name: w, rate: 60/h, burst: 5, on_store_error: closed}]}
      - {name: dim, match: {operation: dim}, limits: [{name: w, rate: 60/h, burst: 5}, {name: dark, algorithm: quota, rate: 1/day, mode: shadow}]}
      - {name: skip, match: {operation: skip}, skip: "true", on_store_error: closed}
  wide:
    on_store_error: closed
    limits: [{name: all, rate: 60/h, burst: 50}]
    rules: [{name: r, match: {operation: r}, on_store_error: local, limits: [{name: w, rate: 60/h, burst: 5}]}]
  none: {}
`
	one := mine("w", 1, 5, m)
	named := func(id string, st state) state { st.ID = id; return st }
	day := quota("plan/daily", 1, 10, noon)
	return []scenario{
		{
			"away_modes", "in a request closed beats local beats open; the mode that stands nearest to a limit is its own, and unset is local for rates, closed for quotas and slots; what refuses nobody has no say", modes,
			[]step{
				{away: true, ask: by("a", "unset", "s"), want: alone(by1("unset", "unset/w", named("unset/w", one)))},
				{away: true, ask: by("a", "slots", "s"), want: shut(asked("slots"))},
				{away: true, ask: by("a", "open", "s"), want: let(asked("open"))},
				{away: true, ask: by("a", "closed", "s"), want: shut(asked("closed"))},
				{away: true, ask: by("a", "near", "s"), want: alone(by1("near", "near/w", quota("near/w", 1, 10, noon)))},
				{away: true, ask: by("a", "shadow", "s"), want: let(asked("shadow"))},
				{away: true, ask: by("a", "dim", "s"), want: alone(by1("dim", "dim/w", named("dim/w", one)))},
				{away: true, ask: by("a", "skip", "s"), want: want{reason: "skipped", rule: "skip", subject: "s"}},
				{away: true, ask: by("a", "other", "s"), want: let(want{reason: "no_rule", subject: "s", cost: 1})},
				{away: true, ask: on("quota", by("a", "unset", "s")), want: func() want { w := shut(asked("unset")); w.plan = "quota"; return w }()},
				{away: true, ask: on("open", by("a", "open", "s")), want: func() want { w := let(asked("open")); w.plan = "open"; return w }()},
				{away: true, ask: on("local", by("a", "open", "s")), want: func() want { w := alone(by1("open", "plan/daily", day)); w.plan = "local"; return w }()},
				{away: true, ask: by("wide", "r", "s"), want: shut(asked("r"))},
				{away: true, ask: by("none", "x", "s"), want: want{reason: "no_rule", subject: "s", cost: 1}},
				// Of all that nothing was charged to the store.
				{peek: true, ask: by("a", "unset", "s"), want: by1("unset", "unset/w", app("app/all", 0, 50, 0), mine("unset/w", 0, 5, 0))},
			},
		},
		{
			"away_local", "while the store is away local limits are decided all or none, and refuse as they would; the store goes on where it was", `
version: 1
applications:
  a:
    limits: [{name: all, rate: 60/h, burst: 5}]
    rules:
      - name: api
        match: {operation: x}
        max_wait: 1s
        limits: [{name: free, rate: 60/h, burst: 1, on_store_error: open}, {name: w, algorithm: fixed_window, rate: 3/h}]
        candidate: {limits: [{name: w, rate: 1/h}]}
`,
			[]step{
				{ask: by("a", "x", "s"), want: func() want {
					w := by1("api", "api/free", app("app/all", 1, 5, m), mine("api/free", 1, 1, m), mine("api/w", 1, 3, time.Hour))
					w.candidate = &trial{bound: "api/candidate/w", limits: []state{mine("api/candidate/w", 1, 1, time.Hour)}}
					return w
				}()},
				{away: true, peek: true, ask: by("a", "x", "s"), want: alone(by1("api", "api/w", app("app/all", 0, 5, 0), mine("api/w", 0, 3, time.Hour)))},
				{away: true, ask: costing(3, by("a", "x", "s")), want: func() want {
					w := alone(by1("api", "api/w", app("app/all", 3, 5, 3*m), mine("api/w", 3, 3, time.Hour)))
					w.cost = 3
					return w
				}()},
				{away: true, ask: by("a", "x", "s"), want: alone(said("rate_limited", by1("api", "api/w", app("app/all", 3, 5, 3*m), mine("api/w", 3, 3, time.Hour).refuses(time.Hour))))},
				{away: true, ask: costing(9, by("a", "x", "s")), want: func() want {
					w := alone(said("cost_exceeds_limit", by1("api", "app/all", app("app/all", 3, 5, 3*m).refuses(0), mine("api/w", 3, 3, time.Hour).refuses(0))))
					w.cost, w.never = 9, true
					return w
				}()},
				{at: m, ask: by("a", "x", "s"), want: func() want {
					w := by1("api", "api/free", app("app/all", 1, 5, m), mine("api/free", 1, 1, m), mine("api/w", 2, 3, 59*m))
					w.candidate = &trial{denied: true, reason: "rate_limited", bound: "api/candidate/w", limits: []state{mine("api/candidate/w", 1, 1, 59*m).refuses(59 * m)}}
					return w
				}()},
			},
		},
		{
			"away_bans", "a ban that nobody can look up refuses nobody; what is known of it does, and refusals count; where all is closed it is too", `
version: 1
applications:
  a:
    rules:
      - {name: api, match: {operation: x}, ban: {after: 2, within: 1m, for: 15m}, limits: [{name: w, rate: 60/h, burst: 1}]}
      - {name: open, match: {operation: open}, ban: {after: 2, within: 1m, for: 15m}, on_store_error: open, limits: [{name: w, rate: 60/h, burst: 1}]}
      - {name: shut, match: {operation: shut}, ban: {after: 2, within: 1m, for: 15m}, on_store_error: closed, limits: [{name: w, rate: 60/h, burst: 1, on_store_error: open}]}
      - {name: alone, match: {operation: alone}, ban: {after: 2, within: 1m, for: 15m}}
`,
			[]step{
				{away: true, ask: by("a", "x", "s"), want: alone(by1("api", "api/w", mine("api/w", 1, 1, m), mine("api/ban", 0, 2, 0)))},
				{away: true, ask: by("a", "x", "s"), want: alone(said("rate_limited", by1("api", "api/w", mine("api/w", 1, 1, m).refuses(m), mine("api/ban", 1, 2, 70*s))))},
				{away: true, ask: by("a", "x", "s"), want: alone(said("banned", by1("api", "api/ban", mine("api/w", 1, 1, m).refuses(m), mine("api/ban", 2, 2, 15*m).refuses(15*m))))},
				{away: true, ask: by("a", "open", "s"), want: let(asked("open"))},
				{away: true, ask: by("a", "shut", "s"), want: shut(asked("shut"))},
				{away: true, ask: by("a", "alone", "s"), want: let(asked("alone"))},
			},
		},
	}
}

func awayTogether() []scenario {
	const s, m = time.Second, time.Minute
	passes := func(operation, subject string, limits ...state) want {
		return want{rule: operation, subject: subject, cost: 1, bound: operation + "/w", limits: limits}
	}
	item1 := func(operation, subject string, w want) item { return item{by("a", operation, subject), w} }
	keyed := by("a", "rate", "s")
	keyed.IdempotencyKey = "k"
	ticket := func(w want) want { w.ticket = true; return w }
	held := func(w want) want { w.held = true; return w }
	costs := func(n int64, w want) want { w.cost = n; return w }
	other := func(w want) want {
		w.denied, w.reason, w.bound, w.retry = true, "batch_refused", "", m
		return w
	}
	const text = `
version: 1
applications:
  a:
    deny: ["subject:mallory"]
    rules:
      - {name: rate, match: {operation: rate}, limits: [{name: w, rate: 60/h, burst: 3}]}
      - {name: open, match: {operation: open}, limits: [{name: w, rate: 60/h, burst: 3, on_store_error: open}]}
      - {name: quota, match: {operation: quota}, limits: [{name: w, algorithm: quota, rate: 10/day}]}
      - {name: slots, match: {operation: slots}, on_store_error: local, limits: [{name: w, algorithm: concurrency, max: 2, ttl: 30s}]}
      - {name: free, match: {operation: free}}
`
	return []scenario{
		{
			"away_batch", "requests that are decided together follow the strictest of their limits: none is let in where another is refused", text,
			[]step{
				{away: true, all: []item{
					item1("rate", "s", alone(passes("rate", "s", mine("rate/w", 2, 3, 2*m)))),
					item1("open", "s", let(passes("open", "s"))),
					item1("rate", "s", alone(passes("rate", "s", mine("rate/w", 2, 3, 2*m)))),
					item1("free", "s", want{rule: "free", subject: "s", cost: 1}),
				}},
				{away: true, all: []item{
					{costing(2, by("a", "rate", "s")), func() want {
						w := alone(passes("rate", "s", mine("rate/w", 2, 3, 2*m).refuses(m)))
						w.denied, w.reason, w.cost = true, "rate_limited", 2
						return w
					}()},
					item1("rate", "t", alone(other(passes("rate", "t", mine("rate/w", 0, 3, 0))))),
					item1("open", "s", other(let(passes("open", "s")))),
				}},
				{away: true, all: []item{item1("open", "s", let(passes("open", "s"))), item1("free", "s", want{rule: "free", subject: "s", cost: 1})}},
				{away: true, all: []item{item1("quota", "s", shut(passes("quota", "s"))), item1("rate", "s", shut(passes("rate", "s"))), item1("open", "s", shut(passes("open", "s"))),
					item1("free", "s", func() want {
						w := other(want{rule: "free", subject: "s", cost: 1})
						w.retry = s
						return w
					}())}},
				{away: true, all: []item{
					{by("a", "rate", "mallory"), want{denied: true, never: true, reason: "deny_listed", rule: "rate", subject: "mallory"}},
					item1("rate", "t", func() want {
						w := alone(other(passes("rate", "t", mine("rate/w", 0, 3, 0))))
						w.never, w.retry = true, 0
						return w
					}()),
				}},
				{away: true, ask: by("a", "rate", "s"), want: alone(passes("rate", "s", mine("rate/w", 3, 3, 3*m)))},
				{ask: by("a", "rate", "s"), want: passes("rate", "s", mine("rate/w", 1, 3, m))},
			},
		},
		{
			"away_retries", "nobody knows whether a request with a key was decided before the store went away: it is charged once more, and once while it is away", text,
			[]step{
				{ask: keyed, want: passes("rate", "s", mine("rate/w", 1, 3, m))},
				{away: true, ask: keyed, want: alone(passes("rate", "s", mine("rate/w", 1, 3, m)))},
				{away: true, ask: keyed, want: func() want {
					w := alone(passes("rate", "s", mine("rate/w", 1, 3, m)))
					w.replayed = true
					return w
				}()},
				{away: true, ask: costing(2, keyed), err: &failure{headgate.Conflict, "idempotency_key", ""}},
				{ask: keyed, want: func() want {
					w := passes("rate", "s", mine("rate/w", 1, 3, m))
					w.replayed = true
					return w
				}()},
			},
		},
		{
			"away_holds", "what was taken while the store is away is settled and released then and later; of other tickets nobody knows until it is back", text,
			[]step{
				{ask: costing(2, by("a", "rate", "s")), reserve: m, keep: "before", want: ticket(costs(2, passes("rate", "s", mine("rate/w", 2, 3, 3*m))))},
				{away: true, ask: by("a", "slots", "s"), keep: "one", reserve: m, want: ticket(alone(passes("slots", "s", mine("slots/w", 1, 2, m))))},
				{away: true, ask: by("a", "slots", "s"), keep: "two", reserve: m, want: ticket(alone(passes("slots", "s", mine("slots/w", 2, 2, m))))},
				{away: true, ask: by("a", "slots", "s"), reserve: m, want: func() want {
					w := alone(passes("slots", "s", mine("slots/w", 2, 2, m).refuses(m)))
					w.denied, w.reason = true, "concurrency_exceeded"
					return w
				}()},
				{away: true, claim: releasing("one"), want: held(alone(costs(0, passes("slots", "s", mine("slots/w", 1, 2, m)))))},
				{away: true, claim: releasing("one"), err: &failure{headgate.Unavailable, "", ""}},
				{away: true, claim: settling("before", 1), err: &failure{headgate.Unavailable, "", ""}},
				{away: true, ask: costing(3, by("a", "rate", "s")), reserve: m, keep: "three", want: ticket(alone(costs(3, passes("rate", "s", mine("rate/w", 3, 3, 4*m)))))},
				{away: true, claim: settling("three", 1), want: held(alone(costs(1, passes("rate", "s", mine("rate/w", 1, 3, m)))))},
				{at: s, claim: renewing("two", m), want: held(alone(passes("slots", "s", mine("slots/w", 1, 2, m))))},
				{at: s, claim: releasing("two"), want: held(alone(costs(0, passes("slots", "s", mine("slots/w", 0, 2, 0)))))},
				{at: s, claim: releasing("two"), want: costs(0, passes("slots", "s", mine("slots/w", 0, 2, 0).ended()))},
				{at: s, claim: settling("before", 1), want: held(costs(1, passes("rate", "s", mine("rate/w", 1, 3, m))))},
				{at: s, away: true, ask: by("a", "quota", "s"), reserve: m, want: shut(passes("quota", "s"))},
			},
		},
	}
}
