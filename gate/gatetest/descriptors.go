package gatetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// Caller decides calls of a rate limit service: descriptors of one domain, together.
type Caller interface {
	// Call answers at an instant that is never before that of the call before. Instants
	// cross no wire: behind a protocol, give the gate a store that decides at them.
	Call(ctx context.Context, at time.Time, domain string, descriptors []Descriptor) (Verdict, error)
}

// Descriptor is one descriptor of a call.
type Descriptor struct {
	Entries []gate.Entry
	// Hits is what it costs; 0 only checks.
	Hits int64
	// Said is a limit in place of the rule's; nil for none.
	Said *gate.SaidLimit
	// Back gives Hits back instead of taking them: such a descriptor stands alone.
	Back bool
}

// Verdict is the answer to a call.
type Verdict struct {
	Over     bool // the whole call is refused
	Statuses []Status
}

// Status is what is said of one descriptor by itself.
type Status struct {
	// Over is true if its own limit refuses, but in shadow.
	Over bool
	// Limit is the limit's count and Period its window; 0 where there is none.
	Limit  int64
	Period time.Duration
	// Remaining is what is left; 0 where there is no limit.
	Remaining int64
	// Reset is when the window ends, of limits of which something is used.
	Reset time.Duration
	// Unlimited is true if a rule matched that has no limit, or one that is unlimited.
	Unlimited bool
}

// LocalCaller calls a gate of this process, whose store honours Request.Now. It is not safe
// for concurrent use.
func LocalCaller(g *gate.Gate) Caller { return &localCaller{gate: g} }

type localCaller struct {
	gate *gate.Gate
	ds   []*gate.Decision // reused, so that what one leaves behind shows in the next
}

func (l *localCaller) Call(ctx context.Context, at time.Time, domain string, descriptors []Descriptor) (Verdict, error) {
	app := l.gate.Domain(domain)
	if app == "" {
		return Verdict{Statuses: make([]Status, len(descriptors))}, nil
	}
	var rs []*gate.Request
	for i, d := range descriptors {
		rs = append(rs, &gate.Request{Application: app, Descriptor: d.Entries, Said: d.Said, Cost: d.Hits, CostSaid: true, Now: at.UnixMicro()})
		if i >= len(l.ds) {
			l.ds = append(l.ds, new(gate.Decision))
		}
	}
	ds := l.ds[:len(rs)]
	var v Verdict
	if descriptors[0].Back {
		if err := l.gate.Refund(ctx, rs[0], ds[0]); err != nil {
			return v, err
		}
	} else {
		allowed, _, err := l.gate.TakeDescriptors(ctx, rs, ds)
		if err != nil {
			return v, err
		}
		v.Over = !allowed
	}
	for _, d := range ds {
		v.Statuses = append(v.Statuses, StatusOf(d))
	}
	return v, nil
}

// StatusOf returns what a decision by one limit says of its descriptor.
func StatusOf(d *gate.Decision) Status {
	limits := d.Limits()
	if len(limits) == 0 {
		return Status{
			Unlimited: !d.Replaced && d.Rule != "" && (d.Allowed || d.Reason == headgate.BatchRefused),
			Over:      !d.Allowed && d.Reason != headgate.BatchRefused,
		}
	}
	l := &limits[0]
	s := Status{Limit: l.Outcome.Limit, Period: l.Limit.Period, Remaining: l.Remaining, Over: !l.Allowed && (!l.Shadow || l.ShadowBy == gate.ShadowByQuotaMode)}
	if l.Used > 0 {
		s.Reset = l.ResetAfter
	}
	return s
}

// calling is a part of the contract of descriptors.
type calling struct {
	name, why, policy string
	steps             []called
}

type called struct {
	at     time.Duration // since Start
	domain string        // edge if empty
	ask    []Descriptor
	want   Verdict
}

// hit asks with entries, "key", "value" and so on, for one hit.
func hit(entries ...string) Descriptor {
	d := Descriptor{Hits: 1}
	for pair := range slices.Chunk(entries, 2) {
		d.Entries = append(d.Entries, gate.Entry{Key: pair[0], Value: pair[1]})
	}
	return d
}

func (d Descriptor) hits(n int64) Descriptor { d.Hits = n; return d }

func (d Descriptor) back() Descriptor { d.Back = true; return d }

func (d Descriptor) says(count int64, period time.Duration) Descriptor {
	d.Said = &gate.SaidLimit{Count: count, Period: period}
	return d
}

// left is a limit of a window from Start, of which something is used.
func left(remaining, limit int64, period time.Duration) Status {
	s := Status{Limit: limit, Period: period, Remaining: remaining}
	if remaining < limit {
		s.Reset = period
	}
	return s
}

// over is one that refuses.
func over(limit int64, period time.Duration) Status {
	s := left(0, limit, period)
	s.Over = true
	return s
}

func asks(ds ...Descriptor) []Descriptor { return ds }

func passes(s ...Status) Verdict { return Verdict{Statuses: s} }

func refuses(s ...Status) Verdict { return Verdict{true, s} }

// RunDescriptors puts the table of descriptors to callers; open is as for [Run].
func RunDescriptors(t *testing.T, open func(t *testing.T, policy string) Caller) {
	for _, c := range callings() {
		t.Run(c.name, func(t *testing.T) {
			caller := open(t, c.policy)
			for i, s := range c.steps {
				domain := s.domain
				if domain == "" {
					domain = "edge"
				}
				got, err := caller.Call(t.Context(), Start.Add(s.at), domain, s.ask)
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if got.Over != s.want.Over || !slices.Equal(got.Statuses, s.want.Statuses) {
					t.Errorf("step %d:\ngot  %+v\nwant %+v", i, got, s.want)
				}
			}
			if t.Failed() {
				t.Logf("the contract: %s", c.why)
			}
		})
	}
}

func callings() []calling {
	const h = time.Hour
	const tree = `
version: 1
applications:
  front:
    domain: edge
    on_no_match: allow
    rules:
      - {name: path, match: {descriptor: [{key: path}]}, limits: [{name: w, algorithm: fixed_window, rate: 9/h}]}
      - {name: login, match: {descriptor: [{key: path, value: /login}]}, limits: [{name: w, algorithm: fixed_window, rate: 2/h}]}
      - {name: api, match: {descriptor: [{key: path, value: "/api/*"}]}, limits: [{name: w, algorithm: fixed_window, rate: 3/h}]}
      - {name: shared, match: {descriptor: [{key: path, value: "/a*", share_threshold: true}]}, limits: [{name: w, algorithm: fixed_window, rate: 4/h}]}
      - {name: user, match: {descriptor: [{key: path, value: /login}, {key: user}]}, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: none, match: {descriptor: [{key: none}]}, limits: [{name: w, algorithm: fixed_window, rate: 0/h}]}
      - {name: free, match: {descriptor: [{key: free}]}, limits: [{name: w, rate: unlimited}]}
      - {name: dark, match: {descriptor: [{key: dark}]}, mode: shadow, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: q1, match: {descriptor: [{key: q1}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: q2, match: {descriptor: [{key: q2}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 2/h}]}
      - {name: boss, match: {descriptor: [{key: boss}]}, replaces: [login], limits: [{name: w, algorithm: fixed_window, rate: 5/h}]}
  other: {rules: [{name: path, match: {descriptor: [{key: path}]}, limits: [{name: w, algorithm: fixed_window, rate: 7/h}]}]}
`
	return []calling{
		{"descriptor_match", "exact goes before patterns in file order, and those before any value; values that a rule leaves open have budgets of their own", tree, []called{
			{ask: asks(hit("path", "/login")), want: passes(left(1, 2, h))},
			{ask: asks(hit("path", "/api/1")), want: passes(left(2, 3, h))},
			{ask: asks(hit("path", "/api/2")), want: passes(left(2, 3, h))},
			{ask: asks(hit("path", "/about")), want: passes(left(3, 4, h))},
			{ask: asks(hit("path", "/a")), want: passes(left(2, 4, h))},
			{ask: asks(hit("path", "/x")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "/y")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "/x")), want: passes(left(7, 9, h))},
			{ask: asks(hit("path", "/login", "user", "a")), want: passes(left(0, 1, h))},
			{ask: asks(hit("path", "/login", "user", "b")), want: passes(left(0, 1, h))},
			{ask: asks(hit("path", "/login", "user", "a")), want: refuses(over(1, h))},
			{domain: "other", ask: asks(hit("path", "/login")), want: passes(left(6, 7, h))},
		}},
		{"descriptor_unmatched", "no rule, another depth and an unknown domain pass, and hold nobody up", tree, []called{
			{ask: asks(hit("ghost", "x")), want: passes(Status{})},
			{ask: asks(hit("path", "/x", "user", "a")), want: passes(Status{})},
			{ask: asks(hit("path", "/login", "user", "a", "more", "x"), hit("path", "/login")), want: passes(Status{}, left(1, 2, h))},
			{domain: "front", ask: asks(hit("path", "/login")), want: passes(Status{})},
		}},
		{"descriptor_forged", "no choice of values makes two descriptors meet", tree, []called{
			{ask: asks(hit("path", "x&y")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "x%26y")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "%")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "_")), want: passes(left(8, 9, h))},
			{ask: asks(hit("path_", "_")), want: passes(Status{})},
		}},
		{"descriptor_hits", "hits are the cost, none of them only check, and a refusal charges nothing", tree, []called{
			{ask: asks(hit("path", "/x").hits(4)), want: passes(left(5, 9, h))},
			{ask: asks(hit("path", "/x").hits(6)), want: refuses(Status{Over: true, Limit: 9, Period: h, Remaining: 5, Reset: h})},
			{ask: asks(hit("path", "/x").hits(0)), want: passes(left(5, 9, h))},
			{ask: asks(hit("path", "/x").hits(5)), want: passes(left(0, 9, h))},
			{ask: asks(hit("path", "/x").hits(0)), want: passes(left(0, 9, h))},
			{at: h, ask: asks(hit("path", "/x").hits(1)), want: passes(left(8, 9, h))},
			{at: h, ask: asks(hit("none", "x").hits(0)), want: passes(Status{Period: h})},
			{at: h, ask: asks(hit("none", "x")), want: refuses(Status{Over: true, Period: h})},
		}},
		{"descriptor_refund", "what is given back is what was charged, at most, in the window that is", tree, []called{
			{ask: asks(hit("path", "/x").hits(4)), want: passes(left(5, 9, h))},
			{ask: asks(hit("path", "/x").hits(3).back()), want: passes(left(8, 9, h))},
			{ask: asks(hit("path", "/x").hits(3).back()), want: passes(left(9, 9, h))},
			{ask: asks(hit("path", "/x").hits(9)), want: passes(left(0, 9, h))},
			{ask: asks(hit("ghost", "/x").back()), want: passes(Status{})},
		}},
		{"descriptor_together", "all are charged or none is, each tells of itself, and those of one budget come one after the other", tree, []called{
			{ask: asks(hit("path", "/login"), hit("path", "/x")), want: passes(left(1, 2, h), left(8, 9, h))},
			{ask: asks(hit("path", "/login"), hit("path", "/x"), hit("path", "/login")), want: refuses(left(1, 2, h), left(8, 9, h), Status{Over: true, Limit: 2, Period: h, Remaining: 1, Reset: h})},
			{ask: asks(hit("path", "/ab"), hit("path", "/ac"), hit("path", "/ad").hits(2)), want: passes(left(3, 4, h), left(2, 4, h), left(0, 4, h))},
			{ask: asks(hit("path", "/login")), want: passes(left(0, 2, h))},
			{ask: asks(hit("path", "/login"), hit("path", "/x")), want: refuses(over(2, h), left(8, 9, h))},
		}},
		{"descriptor_unlimited", "an unlimited rule passes and charges nothing", tree, []called{
			{ask: asks(hit("free", "x").hits(1 << 30)), want: passes(Status{Unlimited: true})},
			{ask: asks(hit("free", "x"), hit("none", "x")), want: refuses(Status{Unlimited: true}, Status{Over: true, Period: h})},
		}},
		{"descriptor_shadow", "a rule in shadow refuses nobody, and says so of none", tree, []called{
			{ask: asks(hit("dark", "x")), want: passes(left(0, 1, h))},
			{ask: asks(hit("dark", "x"), hit("path", "/x")), want: passes(left(0, 1, h), left(8, 9, h))},
		}},
		{"descriptor_quota_mode", "of the rules in quota mode one that passes is enough, beside all others; what does not pass is not charged", tree, []called{
			{ask: asks(hit("q1", "x"), hit("q2", "x")), want: passes(left(0, 1, h), left(1, 2, h))},
			{ask: asks(hit("q1", "x"), hit("q2", "x")), want: passes(over(1, h), left(0, 2, h))},
			{ask: asks(hit("q1", "x"), hit("q2", "x")), want: refuses(over(1, h), over(2, h))},
			{ask: asks(hit("q1", "x"), hit("free", "x")), want: refuses(over(1, h), Status{Unlimited: true})},
			{ask: asks(hit("q1", "y"), hit("q2", "x"), hit("none", "x")), want: refuses(left(1, 1, h), over(2, h), Status{Over: true, Period: h})},
			{ask: asks(hit("q1", "y"), hit("q2", "x"), hit("path", "/x")), want: passes(left(0, 1, h), over(2, h), left(8, 9, h))},
		}},
		{"descriptor_replaces", "a rule that another of the call replaces is not charged and has no say", tree, []called{
			{ask: asks(hit("path", "/login").hits(2)), want: passes(left(0, 2, h))},
			{ask: asks(hit("path", "/login"), hit("boss", "x")), want: passes(Status{}, left(4, 5, h))},
			{ask: asks(hit("path", "/login"), hit("path", "/x")), want: refuses(over(2, h), left(9, 9, h))},
		}},
		{"descriptor_said", "a limit that the call says stands in for the rule, shadow and quota mode; another count keeps what was used", tree, []called{
			{ask: asks(hit("dark", "x").says(2, h)), want: passes(left(1, 2, h))},
			{ask: asks(hit("dark", "x").says(2, h)), want: passes(left(0, 2, h))},
			{ask: asks(hit("dark", "x").says(2, h)), want: refuses(over(2, h))},
			{ask: asks(hit("dark", "x").says(5, h)), want: passes(left(2, 5, h))},
			{ask: asks(hit("dark", "x").says(0, h)), want: refuses(Status{Over: true, Period: h})},
			{ask: asks(hit("dark", "x").says(5, 12*h)), want: passes(left(4, 5, 12*h))},
			{ask: asks(hit("ghost", "x").says(1, h), hit("path", "/x")), want: passes(left(0, 1, h), left(8, 9, h))},
			{ask: asks(hit("dark", "x")), want: passes(left(0, 1, h))},
		}},
	}
}
