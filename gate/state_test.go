package gate_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// states says what stands of a subject.
func states(t testing.TB, g *gate.Gate, application, subject string) string {
	t.Helper()
	s, err := g.Inspect(t.Context(), application, subject)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, l := range s.Limits {
		all = append(all, fmt.Sprintf("%s=%d/%d", l.ID, l.Used, l.Outcome.Limit))
	}
	return s.Plan + ": " + strings.Join(all, " ")
}

const statePolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 10/day}, {name: monthly, algorithm: quota, rate: 100/month}]}
  pro: {limits: [{name: daily, algorithm: quota, rate: 20/day}, {name: none, rate: unlimited}]}
applications:
  a:
    default_plan: free
    ban: {after: 2, within: 1h, for: 1h}
    limits: [{name: all, rate: 100/h}, {name: own, per: subject, rate: 50/h}]
    rules:
      - {name: r, match: {operation: x}, limits: [{name: w, rate: 3/h, plans: {pro: {rate: 6/h}}}, {name: slots, algorithm: concurrency, max: 5, release: ttl}]}
      - {name: org, match: {operation: y}, limits: [{name: o, per: {expr: attributes.org}, rate: 3/h}]}
  empty: {rules: [{name: r, match: {operation: x}}]}
subjects: {a/over: {overrides: [{limit: r/w, rate: 9/h}, {limit: plan/daily, rate: unlimited}]}}
`

func take(t testing.TB, g *gate.Gate, subject string, cost int64) bool {
	t.Helper()
	var d gate.Decision
	r := gate.Request{Application: "a", Operation: "x", Subject: subject, Cost: cost, CostSaid: true}
	if err := g.Take(t.Context(), &r, &d); err != nil {
		t.Fatal(err)
	}
	return d.Allowed
}

func TestInspect(t *testing.T) {
	g := open(t, statePolicy)
	for range 2 {
		if !take(t, g, "alice", 1) {
			t.Fatal("refused")
		}
	}
	const alice = "free: app/own=2/50 r/w=2/3 r/slots=2/5 plan/daily=2/10 plan/monthly=2/100 app/ban=0/2"
	for subject, want := range map[string]string{
		"alice": alice,
		"bob":   "free: app/own=0/50 r/w=0/3 r/slots=0/5 plan/daily=0/10 plan/monthly=0/100 app/ban=0/2",
		"over":  "free: app/own=0/50 r/w=0/9 r/slots=0/5 plan/monthly=0/100 app/ban=0/2",
	} {
		if got := states(t, g, "a", subject); got != want {
			t.Errorf("%s: %s\nwant %s", subject, got, want)
		}
	}
	if got := states(t, g, "empty", "alice"); got != ": " {
		t.Errorf("without limits: %s", got)
	}
	// On another plan a quota keeps what was used, and a bucket what was left.
	records := gate.NewRecords()
	records.Put(&gate.Record{Application: "a", Subject: "alice", Known: true, Plan: "pro"})
	g.SetRecords(records)
	if got, want := states(t, g, "a", "alice"), "pro: app/own=2/50 r/w=5/6 r/slots=2/5 plan/daily=2/20 app/ban=0/2"; got != want {
		t.Errorf("moved to pro: %s\nwant %s", got, want)
	}
	for subject, want := range map[string]string{"": "subject: is required", "a\nb": "line break", strings.Repeat("x", 513): "at most 512"} {
		if got := states(t, g, "a", subject); !strings.Contains(got, want) {
			t.Errorf("%q: %s", subject, got)
		}
	}
	if _, err := g.Inspect(t.Context(), "nope", "alice"); headgate.CodeOf(err) != headgate.NotFound {
		t.Errorf("no such application: %v", err)
	}
}

func TestReset(t *testing.T) {
	g := open(t, statePolicy)
	use := func() {
		for range 2 {
			take(t, g, "alice", 1)
		}
	}
	reset := func(match func(*gate.LimitState) bool) []string {
		t.Helper()
		s, err := g.Reset(t.Context(), "a", "alice", match)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, l := range s.Limits {
			if l.Used != 0 {
				t.Errorf("%s has %d used after a reset", l.ID, l.Used)
			}
			ids = append(ids, l.ID)
		}
		return ids
	}
	use()
	if ids := reset(func(s *gate.LimitState) bool { return s.ID == "plan/daily" }); !slices.Equal(ids, []string{"plan/daily"}) {
		t.Errorf("reset %v", ids)
	}
	if got, want := states(t, g, "a", "alice"), "free: app/own=2/50 r/w=2/3 r/slots=2/5 plan/daily=0/10 plan/monthly=2/100 app/ban=0/2"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	take(t, g, "bob", 1)
	take(t, g, "alice", 3)
	take(t, g, "alice", 3)
	if take(t, g, "alice", 0) {
		t.Fatal("not banned")
	}
	reset(func(s *gate.LimitState) bool { return s.Limit.Algorithm == headgate.Ban })
	if !take(t, g, "alice", 0) {
		t.Error("still banned")
	}
	reset(nil)
	if got, want := states(t, g, "a", "alice"), states(t, g, "a", "nobody"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := states(t, g, "a", "bob"); !strings.Contains(got, "r/w=1/3") {
		t.Errorf("somebody else was reset: %s", got)
	}
}

// TestInspectManyRules asks of more budgets than one batch has.
func TestInspectManyRules(t *testing.T) {
	var rules strings.Builder
	for i := range 100 {
		fmt.Fprintf(&rules, "      - {name: r%d, match: {operation: o%d}, limits: [{name: w, rate: %d/h}]}\n", i, i, i+1)
	}
	g := open(t, "version: 1\napplications:\n  a:\n    rules:\n"+rules.String())
	var d gate.Decision
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "o77", Subject: "alice"}, &d); err != nil {
		t.Fatal(err)
	}
	s, err := g.Inspect(t.Context(), "a", "alice")
	if err != nil || len(s.Limits) != 100 {
		t.Fatalf("%v, %v", s, err)
	}
	for i, l := range s.Limits {
		used := int64(0)
		if i == 77 {
			used = 1
		}
		if l.ID != fmt.Sprintf("r%d/w", i) || l.Used != used || l.Outcome.Limit != int64(i+1) {
			t.Errorf("%s: %d of %d", l.ID, l.Used, l.Outcome.Limit)
		}
	}
	if s.At.Before(time.UnixMicro(origin)) {
		t.Errorf("at %v", s.At)
	}
}

func TestInspectWithoutStore(t *testing.T) {
	g := open(t, statePolicy)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Inspect(t.Context(), "a", "alice"); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("closed: %v", err)
	}
	down := &stoppedStore{err: errors.New("down")}
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(statePolicy), Store: down})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := g.Reset(t.Context(), "a", "alice", nil); !errors.Is(err, down.err) || s != nil {
		t.Errorf("the store's error: %+v, %v", s, err)
	}
	if s, err := g.Inspect(t.Context(), "a", "alice"); !errors.Is(err, down.err) || s == nil || s.Plan == "" || s.Limits != nil {
		t.Errorf("what is known without the store: %+v, %v", s, err)
	}
}
