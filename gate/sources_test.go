package gate_test

import (
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// A decision says where its numbers are from.
func TestSourcesOfNumbers(t *testing.T) {
	g := open(t, `
version: 1
plans: {free: {limits: []}, pro: {limits: []}}
applications:
  a:
    default_plan: free
    rules:
      - {name: r, match: {operation: x}, limits: [{name: w, rate: 1/s, plans: {pro: {rate: 2/s}}}, {name: shadow, mode: shadow, rate: 1/s}]}
subjects: {a/over: {plan: pro, overrides: [{limit: w, rate: 3/s, note: campaign}]}}
`)
	for _, c := range []struct {
		subject, plan string
		from          gate.NumbersSource
		note          string
		limit         int64
	}{
		{"s", "", gate.NumbersOfLimit, "", 1},
		{"s", "pro", gate.NumbersOfPlan, "", 2},
		{"over", "", gate.NumbersOfOverride, "campaign", 3},
	} {
		var d gate.Decision
		if err := g.Peek(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: c.subject, Plan: c.plan, Now: origin}, &d); err != nil {
			t.Fatal(err)
		}
		s, note := d.Limits()[0], ""
		if s.Override != nil {
			note = s.Override.Note
		}
		if s.Numbers != c.from || note != c.note || s.Outcome.Limit != c.limit || s.ShadowBy != gate.NotShadow || d.Limits()[1].ShadowBy != gate.ShadowByPolicy {
			t.Errorf("%+v: numbers from %v, note %q, limit %d; in shadow by %v and %v", c, s.Numbers, note, s.Outcome.Limit, s.ShadowBy, d.Limits()[1].ShadowBy)
		}
	}
}

// A reload leaves a bucket with an override's numbers as it is, to the fraction.
func TestReloadKeepsOverrides(t *testing.T) {
	text := func(more string) string {
		return "version: 1\napplications:\n  a: {limits: [{name: w, per: subject, rate: 1/h}" + more + "]}\nsubjects: {a/s: {overrides: [{limit: w, rate: 1/10s, burst: 1}]}}\n"
	}
	f := openFile(t, text(""))
	f.take(0, 1)
	f.reload(text(", {name: more, rate: 5/s}"))
	f.take(6e9, 0)
	if a := f.take(10e9-1e6, 1); a.Allowed || a.RetryAfter != 1e6 {
		t.Errorf("a millisecond early: %+v", a)
	}
	if a := f.take(10e9, 1); !a.Allowed {
		t.Errorf("at ten seconds: %+v", a)
	}
}

// No expression of a policy may cost more than its bound, wherever it stands:
// the load says so, not a request.
func TestExpressionsAreBoundedAtLoad(t *testing.T) {
	const dear = "attributes.all(a, attributes.all(b, attributes.all(c, a + b + c != 'x')))"
	for place, rule := range map[string]string{
		"skip":   "skip: \"" + dear + "\"",
		"cost":   "cost: \"" + dear + " ? 1 : 2\"",
		"costs":  "costs: {tokens: \"" + dear + " ? 1 : 2\"}, limits: [{name: w, unit: tokens, rate: 1/s}]",
		"plan":   "plan: \"" + dear + " ? 'a' : 'b'\"",
		"per":    "limits: [{name: w, rate: 1/s, per: {expr: \"" + dear + " ? 'a' : 'b'\"}}]",
		"on try": "candidate: {limits: [{name: w, rate: 1/s, per: {expr: \"" + dear + " ? 'a' : 'b'\"}}]}",
	} {
		text := func(rule string) []byte {
			return []byte("version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, " + rule + "}]}}\n")
		}
		if _, err := gate.Validate("p", text(rule)); err == nil || !strings.Contains(err.Error(), "cost") {
			t.Errorf("%s: %v", place, err)
		}
		cheap := strings.Replace(rule, dear, "attributes.all(a, a != 'x')", 1)
		if _, err := gate.Validate("p", text(cheap)); err != nil {
			t.Errorf("%s, cheap: %v", place, err)
		}
	}
}

// Decisions are used again and again: what one was leaves no trace in the next.
func TestDecisionsAreReused(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    deny: ["subject:mallory"]
    rules:
      - name: r
        match: {operation: x}
        mode: shadow
        message: slow down
        limits: [{name: w, unit: tokens, rate: 1/s, burst: 1}, {name: slots, algorithm: concurrency, max: 1}]
        candidate: {limits: [{name: w, unit: tokens, rate: 1/s}]}
  b: {headers: [none]}
`)
	var used gate.Decision
	first := gate.Request{
		Application: "a", Operation: "x", Subject: "s", Plan: "", Cost: 1, CostSaid: true, Costs: map[string]int64{"tokens": 9}, IdempotencyKey: "k", Now: origin,
	}
	if err := g.Reserve(t.Context(), &first, 0, &used); err != nil || !used.HasTicket() || used.WouldDeny == headgate.NoReason {
		t.Fatalf("%v, %+v", err, used.Decision)
	}
	if err := g.Reserve(t.Context(), &first, 0, &used); err != nil || !used.Replayed {
		t.Fatalf("%v, %+v", err, used.Decision)
	}
	for name, r := range map[string]gate.Request{
		"nothing limits": {Application: "b", Operation: "x", Now: origin},
		"listed":         {Application: "a", Operation: "x", Subject: "mallory", Now: origin},
		"no rule":        {Application: "a", Operation: "y", Now: origin},
	} {
		var fresh gate.Decision
		if err := g.Take(t.Context(), &r, &fresh); err != nil {
			t.Fatal(err)
		}
		if err := g.Take(t.Context(), &r, &used); err != nil {
			t.Fatal(err)
		}
		got, want := gatetest.Of(&used), gatetest.Of(&fresh)
		if got.Reason != want.Reason || got.Allowed != want.Allowed || got.Ticket != "" || got.Costs != nil || got.Candidate != nil || got.Replayed ||
			got.Shadow || got.WouldDeny != "" || got.Cost != want.Cost || len(got.Limits) != len(want.Limits) || used.Message != fresh.Message || used.Headers != fresh.Headers {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}
