package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// TestEveryFeature reads what goes beyond limits that count requests.
func TestEveryFeature(t *testing.T) {
	p := mustParse(t, []byte(`
version: 1
plans:
  free: {limits: [{name: tokens, rate: 5/s, unit: tokens}]}
applications:
  web:
    mode: enforce
    enforce_percent: 99
    idempotency_window: 24h
    ban: {after: 1, within: 1ms, for: 30d}
    allow: [10.0.0.0/8, "::1", subject:alice, "subject:subject:x"]
    deny: [203.0.113.7, subject:mallory]
    limits:
      - {name: shared, rate: 5/s, per: subject, across: all, enforce_percent: 1}
    rules:
      - name: r
        match: {operation: x}
        enforce_percent: 10
        ban: {after: 50, within: 1m, for: 15m}
        max_wait: 5min
        costs: {tokens: 0, bytes: size(operation)}
        limits:
          - {name: shape, algorithm: leaky_bucket, rate: 10/s, burst: 5}
          - {name: size, rate: 100/s, unit: bytes, when_missing: skip}
          - {name: slots, algorithm: concurrency, max: 5}
          - {name: doors, algorithm: concurrency, max: 5, release: ttl}
        candidate:
          limits:
            - {name: size, rate: 50/s, unit: bytes, plans: {free: unlimited}}
            - {name: slots, algorithm: concurrency, max: 3, release: ttl}
      - {name: s, match: {operation: y}, mode: shadow, candidate: {limits: []}}
  other: {}
`))
	a, other := p.Applications[0], p.Applications[1]
	if a.Mode != (Mode{Percent: 99}) || a.IdempotencyWindow != 24*time.Hour || other.IdempotencyWindow != DefaultIdempotencyWindow {
		t.Errorf("mode %+v, windows %v and %v", a.Mode, a.IdempotencyWindow, other.IdempotencyWindow)
	}
	if b := a.Ban; b == nil || b.After != 1 || b.Within != time.Millisecond || b.For != 30*24*time.Hour || other.Ban != nil {
		t.Errorf("ban %+v", b)
	}
	allow := List{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}, []string{"alice", "subject:x"}}
	deny := List{[]netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}, []string{"mallory"}}
	if !reflect.DeepEqual(a.Allow, allow) || !reflect.DeepEqual(a.Deny, deny) {
		t.Errorf("allow %+v, deny %+v", a.Allow, a.Deny)
	}
	if l := a.Limits[0]; !l.Across || l.Unit != Requests || l.Mode != (Mode{Percent: 1}) {
		t.Errorf("shared %+v", l)
	}
	if l := p.Plans[0].Limits[0]; l.Unit != "tokens" || l.Across {
		t.Errorf("tokens %+v", l)
	}
	r, s := a.Rules[0], a.Rules[1]
	if r.Mode != (Mode{Percent: 10}) || s.Mode != (Mode{Shadow: true}) || r.MaxWait != MaxMaxWait || s.MaxWait != 0 {
		t.Errorf("modes %+v and %+v, waits %v and %v", r.Mode, s.Mode, r.MaxWait, s.MaxWait)
	}
	if b := r.Ban; b == nil || b.After != 50 || b.Within != time.Minute || b.For != 15*time.Minute || s.Ban != nil {
		t.Errorf("ban %+v", b)
	}
	if want := []UnitCost{{"tokens", Cost{}}, {"bytes", Cost{Expr: "size(operation)"}}}; !reflect.DeepEqual(r.Costs, want) {
		t.Errorf("costs %+v, want %+v", r.Costs, want)
	}
	if l := r.Limits[0]; l.Algorithm != headgate.LeakyBucket || l.Burst != 5 {
		t.Errorf("shape %+v", l)
	}
	if l := r.Limits[1]; l.Unit != "bytes" || !l.SkipWhenMissing {
		t.Errorf("size %+v", l)
	}
	if r.Limits[2].ReleasedByTTL || !r.Limits[3].ReleasedByTTL {
		t.Errorf("slots %+v", r.Limits[2:])
	}
	if c := r.Candidate; !r.HasCandidate || len(c) != 2 || c[0].Unit != "bytes" || !c[0].Variants[0].Unlimited || c[1].Count != 3 {
		t.Errorf("candidate %v %+v", r.HasCandidate, c)
	}
	if !s.HasCandidate || len(s.Candidate) != 0 {
		t.Errorf("an empty candidate: %v %+v", s.HasCandidate, s.Candidate)
	}
}

func TestOverridesResolve(t *testing.T) {
	got := mustParse(t, golden(t, "ok-overrides")).Subjects
	var ids []string
	for _, o := range got[0].Overrides {
		ids = append(ids, fmt.Sprintf("%s %v %d %v %v %d", o.Limit, o.Unlimited, o.Count, o.Period, o.Unit, o.Burst))
	}
	want := `
plan/rate false 5000 24h0m0s day 100
plan/daily false 5000 24h0m0s day 0
plan/daily false 6000 24h0m0s day 0
plan/slots false 50 0s  0
plan/slots true 0 0s  0
plan/mixed false 7 24h0m0s day 0
r/window false 7 2s  0
r/all false 7 2s  0
app/all true 0 0s  0`
	if got := "\n" + strings.Join(ids, "\n"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	o := got[0].Overrides[1]
	from, until := time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 26, 23, 0, 0, 0, time.UTC)
	if !o.From.Equal(from) || !o.Until.Equal(until) || o.Note != "campaign" || !got[0].Overrides[0].From.IsZero() {
		t.Errorf("%+v", o)
	}
	if s := got[1]; s.Plan != "premium" || s.Timezone.String() != "Asia/Kathmandu" || s.Overrides[0].Unit != headgate.Month {
		t.Errorf("%+v", s)
	}
}

func TestOverrideNumbers(t *testing.T) {
	week := headgate.QuotaPer(10, headgate.Week).AnchoredAt(3)
	week.Soft, week.Rollover = true, 4
	for _, c := range []struct {
		name     string
		override Override
		base     headgate.Limit
		want     string // of Count, Period, Burst, Calendar.Unit; or the error
	}{
		{"bucket", Override{Count: 5, Period: time.Hour, Unit: headgate.Hour, Burst: 7}, headgate.PerSecond(1).WithBurst(3), "5 1h0m0s 7 "},
		{"bucket without a burst", Override{Count: 5, Period: time.Hour}, headgate.PerSecond(1).WithBurst(3), "5 1h0m0s 0 "},
		{"quota", Override{Count: 5, Unit: headgate.Week}, week, "5 0s 0 week"},
		{"unlimited quota", Override{Count: 5, Unit: headgate.Month}, headgate.Limit{Algorithm: headgate.Quota}, "5 0s 0 month"},
		{"concurrency", Override{Count: 5}, headgate.InFlight(9, time.Minute), "5 0s 0 "},
		{"window", Override{Count: 5, Period: time.Second}, headgate.Sliding(9, time.Minute), "5 1s 0 "},
		{"quota of another unit", Override{Limit: "q", Count: 5, Unit: headgate.Day}, week, "q is a quota per week: an override keeps its period"},
		{"quota with a time", Override{Limit: "q", Count: 5, Period: time.Hour}, week, "q is a quota: its rate is a count per hour, day, week, month or year"},
		{"window with a max", Override{Limit: "w", Count: 5}, headgate.Sliding(9, time.Minute), "w is a sliding_window: write a rate such as 100/h"},
		{"window with a burst", Override{Limit: "w", Count: 5, Period: time.Second, Burst: 5}, headgate.Sliding(9, time.Minute), "w has no burst: it is no bucket but counts by sliding_window"},
		{"concurrency with a rate", Override{Limit: "c", Count: 5, Period: time.Second}, headgate.InFlight(9, time.Minute), "c is a concurrency limit: write max instead of rate"},
	} {
		l, err := c.override.Numbers(c.base)
		got := fmt.Sprint(l.Count, l.Period, l.Burst, " ", l.Calendar.Unit)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if l.Calendar.Anchor != c.base.Calendar.Anchor || l.Soft != c.base.Soft || l.Rollover != c.base.Rollover || l.TTL != c.base.TTL || l.Slices != c.base.Slices {
			t.Errorf("%s: an override changes more than its numbers: %+v", c.name, l)
		}
	}
}

// TestLongLists holds that long lists and many records are read in time that
// grows with the file: each takes about a second at most, and minutes if every
// entry is compared with the others.
func TestLongLists(t *testing.T) {
	repeat := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	const n = 20_000
	for _, c := range []struct{ name, data string }{
		{"deny", "applications:\n  a:\n    deny: [" + repeat(5*n, "subject:%d, ") + "]\n    allow: [" + repeat(n, "2001:db8::%x, ") + "]"},
		{"overrides of plans", "plans: {" + repeat(n, "p%d: {limits: [{name: daily, rate: 5/s}]}, ") +
			"}\napplications: {a: {}}\nsubjects: {" + repeat(n, "a/s%d: {overrides: [{limit: daily, rate: 6/s}]}, ") + "}"},
		{"overrides in applications", "plans: {" + repeat(2_000, "p%d: {limits: [{name: daily, rate: 5/s}]}, ") +
			"}\napplications: {" + repeat(2_000, "a%d: {}, ") + "}\nsubjects: {" + repeat(2_000, "a%[1]d/s: {overrides: [{limit: daily, rate: 6/s}]}, ") + "}"},
		{"time zones", "applications: {a: {}}\nsubjects: {" + repeat(n, "a/s%d: {timezone: America/Argentina/ComodRivadavia}, ") + "}"},
		{"unlimited limits", "applications: {a: {limits: [" + repeat(n, "{name: l%d, rate: unlimited}, ") +
			"], rules: [" + repeat(MaxRules, "{name: r%[1]d, match: {operation: o%[1]d}, costs: {t: 1}, limits: [{name: l, rate: 1/s}]}, ") + "]}}"},
	} {
		start := time.Now()
		if _, _, err := Parse("p", []byte("version: 1\n"+c.data), nil); err != nil {
			t.Errorf("%s: %.300v", c.name, err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
}
