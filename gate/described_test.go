package gate_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// TestDescriptorOrWayBefore: a request whose descriptor no rule has is matched by the rest
// of it, and its subject is the one that it says.
func TestDescriptorOrWayBefore(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    on_no_match: deny
    rules:
      - {name: k, match: {descriptor: [{key: k}]}, metadata: {team: web}, limits: [{name: w, rate: 60/h}]}
      - {name: op, match: {operation: op}, limits: [{name: w, rate: 60/h}]}
`)
	var d gate.Decision
	for _, c := range []struct {
		key, operation, rule, subject string
		from                          gate.SubjectSource
		reason                        headgate.Reason
	}{
		{"k", "op", "k", "v", gate.SubjectDescriptor, headgate.OK},
		{"j", "op", "op", "said", gate.SubjectSaid, headgate.OK},
		{"j", "", "", "said", gate.SubjectSaid, headgate.NoRule},
	} {
		r := &gate.Request{Application: "a", Operation: c.operation, Subject: "said", Descriptor: []gate.Entry{{Key: c.key, Value: "v"}}, Now: origin}
		if err := g.Take(t.Context(), r, &d); err != nil {
			t.Fatal(err)
		}
		if d.Rule != c.rule || d.Label != c.rule || d.Subject != c.subject || d.SubjectFrom != c.from || d.Reason != c.reason || (d.Metadata != nil) != (c.rule == "k") {
			t.Errorf("%+v: rule %q, label %q, subject %q, %v, metadata %v", c, d.Rule, d.Label, d.Subject, d.Reason, d.Metadata)
		}
	}
	// The subject of a descriptor is one as any other.
	state, err := g.Inspect(t.Context(), "a", "v")
	if err != nil || len(state.Limits) != 2 || state.Limits[0].ID != "k/w" || state.Limits[0].Used != 0 {
		t.Errorf("%v, %+v", err, state)
	}
}

const described = `
version: 1
applications:
  a:
    rules:
      - {name: slow, match: {descriptor: [{key: slow}]}, limits: [{name: w, algorithm: leaky_bucket, rate: 1/s, burst: 10}]}
      - {name: fixed, match: {descriptor: [{key: fixed, value: "*", share_threshold: true}]}, limits: [{name: w, rate: 60/h}]}
      - {name: zero, match: {descriptor: [{key: zero}]}, limits: [{name: w, algorithm: quota, rate: 0/day}, {name: v, rate: 60/h}]}
      - {name: hour, match: {descriptor: [{key: hour}]}, quota_mode: true, replaces: [fixed], limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: minute, match: {descriptor: [{key: minute}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 1/min}]}
      - {name: day, match: {descriptor: [{key: day}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 1/d}]}
  b: {rules: [{name: fixed, match: {descriptor: [{key: fixed}]}, limits: [{name: w, rate: 60/h}]}]}
`

// TestDescriptorsDoNotWait: the delay of a leaky bucket is told, to one descriptor as to
// several.
func TestDescriptorsDoNotWait(t *testing.T) {
	inBubble(t, described, func(t *testing.T, g *gate.Gate) {
		start := time.Now()
		for n := 1; n <= 2; n++ {
			rs := call(1, "slow=a", "fixed=a")[:n]
			for _, r := range rs {
				r.Now = 0
			}
			_, ds := takeCall(t, g, rs)
			if want := time.Duration(n-1) * time.Second; ds[0].Delay != want || ds[0].Waited != 0 {
				t.Errorf("call %d: delay %v, waited %v; want %v", n, ds[0].Delay, ds[0].Waited, want)
			}
		}
		_, ds := takeCall(t, g, func() []*gate.Request { rs := call(1, "slow=a"); rs[0].Now = 0; return rs }())
		if ds[0].Delay != 2*time.Second || time.Since(start) != 0 {
			t.Errorf("delay %v, after %v", ds[0].Delay, time.Since(start))
		}
		synctest.Wait()
	})
}

// TestBatchRefusedUntil: a request that would pass by itself is told when its call would:
// of the limits in quota mode the first to pass counts.
func TestBatchRefusedUntil(t *testing.T) {
	g := open(t, described)
	takeCall(t, g, call(1, "hour=a", "minute=a", "day=a"))
	for _, order := range [][]string{
		{"hour=a", "minute=a", "day=a", "slow=x"}, {"minute=a", "day=a", "hour=a", "slow=x"}, {"day=a", "hour=a", "minute=a", "slow=x"},
	} {
		allowed, ds := takeCall(t, g, call(1, order...))
		if d := ds[3]; allowed || d.Reason != headgate.BatchRefused || !d.Retryable || d.RetryAfter != time.Minute {
			t.Errorf("%v: %+v", order, d.Decision)
		}
	}
	for order, retryable := range map[string]bool{"zero=a": false, "hour=a": true} {
		allowed, ds := takeCall(t, g, call(1, order, "slow=x"))
		if d := ds[1]; allowed || d.Reason != headgate.BatchRefused || d.Retryable != retryable || (d.RetryAfter == time.Hour) != retryable {
			t.Errorf("%s: %+v", order, d.Decision)
		}
	}
	if allowed, ds := takeCall(t, g, call(2, "hour=b", "minute=b", "slow=x")); allowed || ds[2].Retryable {
		t.Errorf("no limit can ever hold it: %+v", ds[2].Decision)
	}
}

// TestReplacesItsOwn: rules of other applications are not replaced, whatever their name.
func TestReplacesItsOwn(t *testing.T) {
	g := open(t, described)
	rs := call(1, "hour=a", "fixed=a", "fixed=a")
	rs[2].Application = "b"
	if got := say(takeCall(t, g, rs)); got != "true; ok hour/w:1/1; skipped replaced; ok fixed/w:1/60" {
		t.Error(got)
	}
}

// TestDescriptorsAndKeys: an idempotency key belongs to one descriptor.
func TestDescriptorsAndKeys(t *testing.T) {
	g := open(t, described)
	ask := func(value string) (*gate.Decision, error) {
		r := call(1, "fixed="+value)[0]
		r.IdempotencyKey = "k"
		d := new(gate.Decision)
		return d, g.Take(t.Context(), r, d)
	}
	if d, err := ask("a"); err != nil || d.Replayed {
		t.Errorf("%v, %+v", err, d)
	}
	if d, err := ask("a"); err != nil || !d.Replayed {
		t.Errorf("a retry: %v, %+v", err, d)
	}
	if _, err := ask("b"); headgate.CodeOf(err) != headgate.Conflict {
		t.Errorf("another descriptor: %v", err)
	}
}

// TestInspectNothing: a limit of nothing has no budget to tell of.
func TestInspectNothing(t *testing.T) {
	g := open(t, described)
	state, err := g.Inspect(t.Context(), "a", "x")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, l := range state.Limits {
		ids = append(ids, l.ID)
	}
	if want := []string{"slow/w", "zero/v", "hour/w", "minute/w", "day/w"}; !slices.Equal(ids, want) {
		t.Errorf("limits %v, want %v", ids, want)
	}
}

// TestSaidLimitsInUse: what is used stays, however many others are said meanwhile.
func TestSaidLimitsInUse(t *testing.T) {
	g := open(t, described)
	ask := func(i int) bool {
		r := call(1, "k=v")[0]
		r.Said = &gate.SaidLimit{Count: 2, Period: time.Hour + time.Duration(i)*time.Microsecond}
		allowed, _ := takeCall(t, g, []*gate.Request{r})
		return allowed
	}
	for round, want := range []bool{true, true, false} {
		for i := range 3000 {
			if ask(i) != want {
				t.Fatalf("round %d, limit %d: allowed %v", round, i, !want)
			}
		}
	}
	if n := g.OverridesReadyForTest("a"); n != 1024 {
		t.Errorf("%d are kept", n)
	}
}

// TestPathOfDescriptor: where a rule has the descriptor, a path that is none refuses
// nothing and is not asked for; one that is a path is seen by expressions.
func TestPathOfDescriptor(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    on_no_match: deny
    rules:
      - {name: k, match: {descriptor: [{key: k}]}, skip: 'request.path == "/health"', limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
`)
	for _, c := range []struct{ path, want string }{
		{"/health", "true; skipped"},
		{"/%68ealth?x", "true; skipped"},
		{"/" + strings.Repeat("x", 9000), "true; ok k/w:1/1"},
		{"/%zz", "false; rate_limited k/w:1/1!"},
		{"health\x00", "false; rate_limited k/w:1/1!"},
	} {
		rs := call(1, "k=v")
		rs[0].Path = c.path
		if got := say(takeCall(t, g, rs)); got != c.want {
			t.Errorf("%.20q: %s, want %s", c.path, got, c.want)
		}
	}
	rs := call(1, "j=v")
	rs[0].Path = "/%zz"
	if _, failed, err := g.TakeDescriptors(t.Context(), rs, []*gate.Decision{new(gate.Decision)}); headgate.CodeOf(err) != headgate.InvalidRequest || failed != 0 {
		t.Errorf("where no rule has the descriptor: %v", err)
	}
}

// TestPlanGuessed: a plan that an entry is called after counts only where the policy has
// it and no rule has the descriptor.
func TestPlanGuessed(t *testing.T) {
	g := open(t, `
version: 1
plans: {gold: {limits: [{name: day, algorithm: quota, rate: 9/day}]}, free: {limits: [{name: hour, algorithm: quota, rate: 5/hour}]}}
applications:
  a:
    rules:
      - {name: k, match: {descriptor: [{key: plan}]}, limits: [{name: w, rate: 60/h}]}
      - {name: op, match: {operation: op}, limits: [{name: w, rate: 60/h}]}
  b: {default_plan: free, rules: [{name: op, match: {operation: op}, limits: [{name: w, rate: 60/h}]}]}
`)
	for _, c := range []struct {
		application, key, plan string
		said                   *gate.SaidLimit
		want                   string
		from                   gate.PlanSource
	}{
		{"a", "plan", "gold", nil, "", gate.NoPlan},
		{"a", "plan", "tin", nil, "", gate.NoPlan},
		{"a", "x", "gold", nil, "gold", gate.PlanSaid},
		{"a", "x", "tin", nil, "", gate.NoPlan},
		{"a", "x", "gold", &gate.SaidLimit{Count: 1, Period: time.Hour}, "", gate.NoPlan},
		{"b", "x", "gold", nil, "gold", gate.PlanSaid},
		{"b", "x", "tin", nil, "free", gate.PlanDefault},
	} {
		r := &gate.Request{
			Application: c.application, Operation: "op", Subject: "s", Plan: c.plan, PlanGuessed: true,
			Descriptor: []gate.Entry{{Key: c.key, Value: c.plan}}, Said: c.said, Now: origin,
		}
		var d gate.Decision
		if err := g.Take(t.Context(), r, &d); err != nil || d.Plan != c.want || d.PlanFrom != c.from {
			t.Errorf("%s, %s=%s: %v, plan %q from %v, want %q from %v", c.application, c.key, c.plan, err, d.Plan, d.PlanFrom, c.want, c.from)
		}
		if r.PlanGuessed = false; c.plan == "tin" && c.application == "a" {
			if err := g.Take(t.Context(), r, &d); headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Errorf("%s, %s: a plan that is said must be there: %v", c.key, c.plan, err)
			}
		}
	}
}
