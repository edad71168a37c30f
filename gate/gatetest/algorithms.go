package gatetest

import "time"

func algorithms() []scenario {
	// passed and refused are the answers of the only limit, api/w.
	passed := func(s state) want {
		return want{rule: "api", subject: "s", cost: 1, bound: "api/w", limits: []state{s}}
	}
	refused := func(reason string, s state) want {
		w := passed(s)
		w.denied, w.reason = true, reason
		return w
	}
	limited := func(limit string) string {
		return "version: 1\napplications: {a: {rules: [{name: api, match: {operation: x}, limits: [{name: w, " + limit + "}]}]}}\n"
	}
	ask := by("a", "x", "s")
	return []scenario{
		{
			"token_bucket", "a bucket refills steadily up to its burst; it says when the request would pass and when it is full again",
			limited("rate: 2/10s, burst: 3"),
			[]step{
				{ask: ask, want: passed(mine("api/w", 1, 3, 5*time.Second))},
				{ask: ask, want: passed(mine("api/w", 2, 3, 10*time.Second))},
				{ask: ask, want: passed(mine("api/w", 3, 3, 15*time.Second))},
				{at: time.Second, ask: ask, want: refused("rate_limited", mine("api/w", 3, 3, 14*time.Second).refuses(4*time.Second))},
				{at: 4999 * time.Millisecond, ask: ask, want: refused("rate_limited", mine("api/w", 3, 3, 10001*time.Millisecond).refuses(time.Millisecond))},
				{at: 5 * time.Second, ask: ask, want: passed(mine("api/w", 3, 3, 15*time.Second))},
				{at: time.Hour, ask: ask, want: passed(mine("api/w", 1, 3, 5*time.Second))},
			},
		},
		{
			"leaky_bucket", "a leaky bucket lets requests leave at its rate: who would wait for longer than max_wait is refused, and its cost never comes back",
			"version: 1\napplications: {a: {rules: [{name: api, match: {operation: x}, max_wait: 1min, limits: [{name: w, algorithm: leaky_bucket, rate: 60/h, burst: 3}]}]}}\n",
			[]step{
				{ask: ask, want: passed(mine("api/w", 1, 3, time.Minute))},
				{ask: ask, want: passed(mine("api/w", 2, 3, 2*time.Minute))},
				{ask: ask, want: refused("rate_limited", mine("api/w", 2, 3, 2*time.Minute).refuses(time.Minute))},
				{at: time.Minute - time.Millisecond, ask: ask, want: refused("rate_limited", mine("api/w", 2, 3, time.Minute+time.Millisecond).refuses(time.Millisecond))},
				{at: time.Minute, ask: ask, reserve: time.Minute, keep: "t", want: func() want {
					w := passed(mine("api/w", 2, 3, 2*time.Minute))
					w.ticket = true
					return w
				}()},
				{at: time.Minute, claim: settling("t", 0), want: func() want {
					w := passed(mine("api/w", 2, 3, 2*time.Minute))
					w.cost, w.held = 0, true
					return w
				}()},
				{at: time.Minute, ask: costing(4, ask), want: func() want {
					w := refused("cost_exceeds_limit", mine("api/w", 2, 3, 2*time.Minute).refuses(0))
					w.cost, w.never = 4, true
					return w
				}()},
			},
		},
		{
			"sliding_window_classic", "one slice is the classic estimate: the last window counts by the share of it that is still in sight",
			limited("algorithm: sliding_window, rate: 10/60s, slices: 1"),
			[]step{
				{ask: costing(10, ask), want: func() want {
					w := passed(mine("api/w", 10, 10, 2*time.Minute))
					w.cost = 10
					return w
				}()},
				{at: 90 * time.Second, ask: costing(5, ask), want: func() want {
					w := passed(mine("api/w", 10, 10, 90*time.Second))
					w.cost = 5
					return w
				}()},
				{at: 90 * time.Second, ask: ask, want: refused("rate_limited", mine("api/w", 10, 10, 90*time.Second).refuses(6*time.Second))},
			},
		},
		{
			"fixed_window", "windows are aligned to the clock, not to the first request", limited("algorithm: fixed_window, rate: 2/min"),
			[]step{
				{at: 50 * time.Second, ask: ask, want: passed(mine("api/w", 1, 2, 10*time.Second))},
				{at: 50 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, 10*time.Second))},
				{at: 59 * time.Second, ask: ask, want: refused("rate_limited", mine("api/w", 2, 2, time.Second).refuses(time.Second))},
				{at: 60 * time.Second, ask: ask, want: passed(mine("api/w", 1, 2, time.Minute))},
			},
		},
		{
			"sliding_window", "no interval of a period passes more than the rate: a slice counts until a whole period after its end",
			limited("algorithm: sliding_window, rate: 2/60s, slices: 6"),
			[]step{
				{at: 5 * time.Second, ask: ask, want: passed(mine("api/w", 1, 2, 65*time.Second))},
				{at: 15 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, 65*time.Second))},
				{at: 66 * time.Second, ask: ask, want: refused("rate_limited", mine("api/w", 2, 2, 14*time.Second).refuses(4*time.Second))},
				{at: 70 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, 70*time.Second))},
			},
		},
		{
			"sliding_log", "every charge counts for exactly one period", limited("algorithm: sliding_log, rate: 2/60s"),
			[]step{
				{at: 5 * time.Second, ask: ask, want: passed(mine("api/w", 1, 2, time.Minute))},
				{at: 15 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, time.Minute))},
				{at: 64 * time.Second, ask: ask, want: refused("rate_limited", mine("api/w", 2, 2, 11*time.Second).refuses(time.Second))},
				{at: 65 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, time.Minute))},
			},
		},
		{
			"concurrency", "slots that nobody can release free themselves after their ttl", limited("algorithm: concurrency, max: 2, ttl: 30s, release: ttl"),
			[]step{
				{ask: ask, want: passed(mine("api/w", 1, 2, 30*time.Second))},
				{at: 10 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, 30*time.Second))},
				{at: 12 * time.Second, ask: ask, want: refused("concurrency_exceeded", mine("api/w", 2, 2, 28*time.Second).refuses(18*time.Second))},
				{at: 30 * time.Second, ask: ask, want: passed(mine("api/w", 2, 2, 30*time.Second))},
				{at: 60 * time.Second, ask: ask, want: passed(mine("api/w", 1, 2, 30*time.Second))},
			},
		},
		{
			"quota_day", "a daily quota ends at midnight of its zone, which is a quarter past six in the evening of UTC here",
			limited("algorithm: quota, rate: 2/day, timezone: Asia/Kathmandu"),
			[]step{
				{ask: ask, want: passed(quota("api/w", 1, 2, 6*time.Hour+15*time.Minute))},
				{at: time.Hour, ask: ask, want: passed(quota("api/w", 2, 2, 5*time.Hour+15*time.Minute))},
				{at: 6*time.Hour + 15*time.Minute - time.Millisecond, ask: ask, want: refused("quota_exceeded", quota("api/w", 2, 2, time.Millisecond).refuses(time.Millisecond))},
				{at: 6*time.Hour + 15*time.Minute, ask: ask, want: passed(quota("api/w", 1, 2, 24*time.Hour))},
			},
		},
		{
			"quota_month", "a month that is anchored at the 31st starts at the last day of shorter ones, at midnight of its zone: 31 March is summer time already",
			limited("algorithm: quota, rate: 1/month, timezone: Europe/Paris, anchor: 31"),
			[]step{
				{ask: ask, want: passed(quota("api/w", 1, 1, 514*time.Hour))},
				{at: 513 * time.Hour, ask: ask, want: refused("quota_exceeded", quota("api/w", 1, 1, time.Hour).refuses(time.Hour))},
				{at: 514 * time.Hour, ask: ask, want: passed(quota("api/w", 1, 1, 30*24*time.Hour))},
			},
		},
		{
			"quota_soft", "a soft quota refuses nothing, binds nothing, and says by how much it is exceeded", limited("algorithm: quota, rate: 2/day, soft: true"),
			[]step{
				{ask: costing(5, ask), want: want{rule: "api", subject: "s", cost: 5, limits: []state{quota("api/w", 5, 2, noon)}}},
				{ask: costing(5, ask), reserve: time.Minute, keep: "t", want: want{rule: "api", subject: "s", cost: 5, ticket: true, limits: []state{quota("api/w", 10, 2, noon)}}},
				{claim: settling("t", 1), want: want{rule: "api", subject: "s", cost: 1, bound: "api/w", held: true, limits: []state{quota("api/w", 6, 2, noon)}}},
			},
		},
		{
			"quota_rollover", "what a period left unused may be used in the next, up to the cap, and not in the one after",
			limited("algorithm: quota, rate: 10/day, rollover: {max: 3}"),
			[]step{
				{ask: ask, want: passed(quota("api/w", 1, 10, noon))},
				{at: noon, ask: ask, want: passed(quota("api/w", 1, 13, 24*time.Hour))},
				{at: noon + 48*time.Hour, ask: ask, want: passed(quota("api/w", 1, 10, 24*time.Hour))},
			},
		},
	}
}
