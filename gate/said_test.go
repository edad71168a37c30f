package gate_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

const saidPolicy = `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 100/day}]}}
applications:
  a:
    on_no_match: deny
    deny: ["subject:k=mallory"]
    limits: [{name: all, rate: 1000/h}]
    rules:
      - {name: k, match: {descriptor: [{key: k}]}, mode: shadow, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: override, match: {operation: x}, limits: [{name: override, per: subject, algorithm: fixed_window, rate: 1/h}]}
  dark: {mode: shadow}
  planned: {default_plan: free}
  free: {}
`

// A limit that the request says is a window of its own, whatever the rules say.
func TestSaidLimit(t *testing.T) {
	const s, m, h = time.Second, time.Minute, time.Hour
	g := open(t, saidPolicy)
	ask := func(application, descriptor string, count int64, period, at time.Duration, cost int64) *gate.Decision {
		t.Helper()
		rs := call(cost, descriptor)
		rs[0].Application, rs[0].Subject, rs[0].Now = application, "ignored", origin+at.Microseconds()
		rs[0].Said = &gate.SaidLimit{Count: count, Period: period}
		_, ds := takeCall(t, g, rs)
		return ds[0]
	}
	for i, c := range []struct {
		descriptor string
		count      int64
		period, at time.Duration
		cost       int64
		allowed    bool
		used       int64
		reset      time.Duration
		why        string
	}{
		{"k=v", 2, h, 0, 1, true, 1, h, "the window began at noon"},
		{"k=v", 2, h, 30 * m, 1, true, 2, 30 * m, "shadow and quota mode of the rule are off"},
		{"k=v", 2, h, 30 * m, 1, false, 2, 30 * m, "the window is full"},
		{"k=v", 3, h, 30 * m, 1, true, 3, 30 * m, "another count keeps what was used"},
		{"k=v", 1, h, 30 * m, 1, false, 3, 30 * m, "a lower one too"},
		{"k=v", 0, h, 30 * m, 1, false, 0, 0, "nothing refuses"},
		{"k=v", 0, h, 30 * m, 0, true, 0, 0, "but what costs nothing"},
		{"k=v", 4, h, 30 * m, 1, true, 4, 30 * m, "and charges nothing"},
		{"k=v", 4, m, 30*m + s, 1, true, 1, 59 * s, "another period is another budget"},
		{"k=w", 4, h, 31 * m, 1, true, 1, 29 * m, "another value too"},
		{"k=v,l=w", 4, h, 31 * m, 1, true, 1, 29 * m, "another descriptor too"},
		{"ghost=v", 1, h, 31 * m, 1, true, 1, 29 * m, "no rule is needed"},
		{"k=v", 4, h, h, 1, true, 1, h, "a new window"},
		{"k=v", 5, 7 * 24 * h, h, 1, true, 1, 59 * h, "weeks begin on Thursdays"},
	} {
		d := ask("a", c.descriptor, c.count, c.period, c.at, c.cost)
		limits := d.Limits()
		if len(limits) != 2 || limits[1].ID != "override" || limits[0].ID != "app/all" {
			t.Fatalf("%d: %+v: %+v", i, d.Decision, limits)
		}
		l := limits[1]
		if d.Allowed != c.allowed || l.Allowed != c.allowed || l.Used != c.used || l.ResetAfter != c.reset || l.Outcome.Limit != c.count || l.Limit.Count != c.count ||
			l.Remaining != max(0, c.count-c.used) || l.Cost != c.cost || l.Numbers != gate.NumbersSaid || l.Shadow {
			t.Errorf("%d: %s: allowed %v, %+v", i, c.why, d.Allowed, l)
		}
		if d.Rule != "" || d.Label != "override" || d.Metadata != nil || d.Allowed != (d.Reason == headgate.OK) || d.SubjectFrom != gate.SubjectDescriptor || d.Subject == "ignored" {
			t.Errorf("%d: rule %q, label %q, reason %v, subject %q", i, d.Rule, d.Label, d.Reason, d.Subject)
		}
		if nothing := c.count == 0 && c.cost > 0; nothing && (d.Reason != headgate.CostExceedsLimit || d.Retryable || d.Limit != 0) {
			t.Errorf("%d: %+v", i, d.Decision)
		}
	}
	if d := ask("a", "k=mallory", 1, h, h, 1); d.Reason != headgate.DenyListed {
		t.Errorf("a list: %v", d.Reason)
	}
	if d := ask("dark", "k=v", 0, h, h, 1); !d.Allowed || !d.Shadow || d.Limits()[0].ShadowBy != gate.ShadowByPolicy {
		t.Errorf("the application's shadow holds for it: %+v", d.Decision)
	}
	if d := ask("planned", "k=v", 5, h, h, 1); len(d.Limits()) != 2 || d.Limits()[1].ID != "plan/daily" || d.OwnerOf(1) != "k=v" {
		t.Errorf("the plan counts beside it: %+v", d.Limits())
	}
	// A rule whose limit has the same id and a subject of that name is another budget.
	var d gate.Decision
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "k=v", Now: origin + h.Microseconds()}, &d); err != nil || d.Limits()[1].Used != 1 {
		t.Errorf("%v, %+v", err, d.Limits())
	}
	if err := g.Reserve(t.Context(), &gate.Request{Application: "a", Descriptor: []gate.Entry{{Key: "k"}}, Said: &gate.SaidLimit{Count: 1, Period: h}}, 0, &d); headgate.CodeOf(err) != headgate.InvalidRequest {
		t.Errorf("a reservation of it: %v", err)
	}
}

// Several descriptors may say limits, and one of them may have a rule.
func TestSaidLimitsTogether(t *testing.T) {
	g := open(t, saidPolicy)
	ask := func() []*gate.Request {
		rs := call(1, "k=v", "k=w", "k=v")
		rs[0].Said, rs[2].Said = &gate.SaidLimit{Count: 1, Period: time.Hour}, &gate.SaidLimit{Count: 1, Period: time.Minute}
		return rs
	}
	if got := say(takeCall(t, g, ask())); got != "true; ok app/all:1/1000 override:1/1; ok app/all:2/1000 k/w:1/1~shadow; ok app/all:3/1000 override:1/1" {
		t.Error(got)
	}
	if got := say(takeCall(t, g, ask())); got != "false; rate_limited app/all:3/1000 override:1/1!; batch_refused app/all:3/1000 k/w:1/1!~shadow; rate_limited app/all:3/1000 override:1/1!" {
		t.Error(got)
	}
	rs := ask()
	rs[2].Said.Period, rs[2].Said.Count = time.Hour, 2
	if _, failed, err := g.TakeDescriptors(t.Context(), rs, []*gate.Decision{new(gate.Decision), new(gate.Decision), new(gate.Decision)}); headgate.CodeOf(err) != headgate.InvalidRequest || failed != 2 {
		t.Errorf("one budget with two counts: %d, %v", failed, err)
	}
}

// TestSaidLimitsAreBounded: a caller who says thousands of limits slows down nobody else,
// and none of them is refused for it.
func TestSaidLimitsAreBounded(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(saidPolicy), Store: memstore.New(memstore.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(application string, i int) *gate.Decision {
		t.Helper()
		rs := call(1, fmt.Sprint("k=", i))
		rs[0].Application, rs[0].Now, rs[0].Said = application, 0, &gate.SaidLimit{Count: 1, Period: time.Hour + time.Duration(i)*time.Second}
		_, ds := takeCall(t, g, rs)
		return ds[0]
	}
	ask("dark", 0)
	for i := range 5000 {
		if d := ask("free", i); !d.Allowed {
			t.Fatalf("%d: %+v", i, d.Decision)
		}
		if d := ask("free", 0); d.Allowed {
			t.Fatalf("%d: %+v", i, d.Decision)
		}
	}
	if free, dark, throttles := g.OverridesReadyForTest("free"), g.OverridesReadyForTest("dark"), g.ThrottlesReadyForTest(); free != 1024 || dark != 1 || throttles != 0 {
		t.Errorf("%d are kept of one application, %d of another, and %d throttles", free, dark, throttles)
	}
	var d gate.Decision
	if err := g.Throttle(t.Context(), &gate.Throttle{Key: "k", Count: 1, Period: time.Hour, Cost: 1}, &d); err != nil || !d.Allowed {
		t.Errorf("a throttle: %v, %+v", err, d.Decision)
	}
}

// TestSaidLimitsRace: limits are said and forgotten at once by many.
func TestSaidLimitsRace(t *testing.T) {
	g := open(t, saidPolicy)
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 1500 {
				rs := call(0, "k=v")
				rs[0].Application, rs[0].Said = "free", &gate.SaidLimit{Count: int64(i*(n+1)) % 2000, Period: time.Hour}
				if allowed, ds := takeCall(t, g, rs); !allowed {
					t.Errorf("%+v", ds[0].Decision)
					return
				}
			}
		})
	}
	all.Wait()
	if n := g.OverridesReadyForTest("free"); n > 1024 {
		t.Errorf("%d are kept", n)
	}
}
