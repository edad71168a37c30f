package gate_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// Usage is divided into months by the subject's record, else by the quotas of its plan.
func TestBilling(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{}), Policy: []byte(`
version: 1
plans:
  free: {limits: [{name: rate, rate: 10/s}, {name: day, algorithm: quota, rate: 10/day, timezone: Asia/Tokyo}]}
  paid: {limits: [{name: day, algorithm: quota, rate: 10/day, timezone: Asia/Tokyo}, {name: month, algorithm: quota, rate: 100/month, timezone: Europe/Paris, anchor: 31}]}
  bare: {limits: [{name: rate, rate: 10/s}]}
applications:
  b: {default_plan: paid, deny: ["subject:x"]}
  a: {default_plan: bare, deny: ["subject:mallory"], rules: [{name: o, match: {operation: o}}]}
subjects:
  a/zoned: {plan: paid, timezone: America/Havana}
  a/anchored: {plan: paid, anchor: 15}
  a/mallory: {timezone: America/Havana, anchor: 3}
`)})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var denied gate.Decision
	if err := g.Take(t.Context(), &gate.Request{Application: "b", Operation: "o", Subject: "x"}, &denied); err != nil {
		t.Fatal(err)
	}
	if denied.Plan != "" || denied.Zone == nil || denied.Zone.String() != "Europe/Paris" || denied.Anchor != 31 {
		t.Errorf("refused before a plan was found: %+v", denied)
	}
	for _, c := range []struct {
		subject, plan, zone string
		anchor              int
	}{
		{"x", "bare", "UTC", 0}, {"x", "free", "Asia/Tokyo", 0}, {"x", "paid", "Europe/Paris", 31}, {"x", "", "UTC", 0},
		{"zoned", "free", "America/Havana", 31}, {"anchored", "", "Europe/Paris", 15}, {"mallory", "", "America/Havana", 3},
	} {
		var d gate.Decision
		if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "o", Subject: c.subject, Plan: c.plan}, &d); err != nil {
			t.Fatal(err)
		}
		zone := "UTC"
		if d.Zone != nil {
			zone = d.Zone.String()
		}
		if zone != c.zone || d.Anchor != c.anchor {
			t.Errorf("%s on %q: %s, day %d; expected %s, day %d", c.subject, c.plan, zone, d.Anchor, c.zone, c.anchor)
		}
	}
}

// The end of a reservation says what it corrects, once; that of other tickets corrects
// nothing.
func TestCorrections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{}), Policy: []byte(`
version: 1
applications:
  a: {rules: [{name: o, match: {operation: o}, limits: [
    {name: rate, rate: 1000/h}, {name: tokens, unit: tokens, rate: 10000/h}, {name: slots, algorithm: concurrency, max: 50, ttl: 1min}]}]}
`)})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		request := &gate.Request{Application: "a", Operation: "o", Subject: "x", Cost: 10, CostSaid: true, Costs: map[string]int64{"tokens": 300}, Releases: true}
		reserve := func(ttl time.Duration) string {
			t.Helper()
			var d gate.Decision
			do := func() error { return g.Reserve(t.Context(), request, ttl, &d) }
			if ttl == 0 {
				do = func() error { return g.Take(t.Context(), request, &d) }
			}
			if err := do(); err != nil || !d.Allowed || d.Corrects {
				t.Fatalf("%v, %+v", err, d.Decision)
			}
			return string(d.AppendTicket(nil))
		}
		end := func(what string, do func(d *gate.Decision) error, corrects bool, cost, tokens int64) {
			t.Helper()
			var d gate.Decision
			if err := do(&d); err != nil {
				t.Fatal(err)
			}
			if d.Corrects != corrects {
				t.Errorf("%s: corrects %t", what, d.Corrects)
			}
			if !corrects {
				return
			}
			if c := d.Costs(); d.Cost != cost || d.Reserved != 10 || len(c) != 1 || c[0] != (gate.UnitCost{Unit: "tokens", Cost: tokens, Reserved: 300}) {
				t.Errorf("%s: %d of %d, %+v", what, d.Cost, d.Reserved, c)
			}
		}
		ticket := reserve(time.Minute)
		settle := func(d *gate.Decision) error {
			return g.Settle(t.Context(), &gate.Claim{Ticket: ticket, Cost: 4, CostSaid: true, Costs: map[string]int64{"tokens": 500}}, d)
		}
		release := func(d *gate.Decision) error { return g.Release(t.Context(), &gate.Claim{Ticket: ticket}, d) }
		end("renewed", func(d *gate.Decision) error { return g.Renew(t.Context(), &gate.Claim{Ticket: ticket}, d) }, false, 0, 0)
		end("settled", settle, true, 4, 500)
		end("settled again", settle, false, 0, 0)
		ticket = reserve(time.Minute)
		end("released", release, true, 0, 0)
		ticket = reserve(time.Minute)
		<-time.After(2 * time.Minute)
		end("too late", settle, false, 0, 0)
		ticket = reserve(0)
		end("a slot", release, false, 0, 0)
	})
}

// A settlement corrects units too of which no limit holds anything, and of those that
// several limits have merged what each was charged.
func TestUnitCorrections(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{}), Policy: []byte(`
version: 1
plans:
  metered: {limits: [{name: tokens, unit: tokens, rate: 1000/h}]}
  free: {limits: [{name: rate, rate: 1000/h}]}
applications:
  a: {default_plan: free, rules: [{name: o, match: {operation: o}}]}
  b: {limits: [{name: shared, unit: tokens, rate: 1000/h, per: global}], rules: [{name: o, match: {operation: o}, limits: [{name: shared, unit: tokens, rate: 1000/h, per: global}]}]}
`)})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, application := range []string{"a", "b"} {
		for _, settled := range []int64{10, 4, 25} {
			var d gate.Decision
			if err := g.Reserve(t.Context(), &gate.Request{Application: application, Operation: "o", Subject: "x", Costs: map[string]int64{"tokens": 10}}, time.Minute, &d); err != nil || !d.Allowed {
				t.Fatalf("%v, %+v", err, d.Decision)
			}
			var used int64
			if application == "b" {
				used = d.Limits()[0].Used
			}
			ticket := string(d.AppendTicket(nil))
			if err := g.Settle(t.Context(), &gate.Claim{Ticket: ticket, Costs: map[string]int64{"tokens": settled}}, &d); err != nil {
				t.Fatal(err)
			}
			if c := d.Costs(); !d.Corrects || len(c) != 1 || c[0] != (gate.UnitCost{Unit: "tokens", Cost: settled, Reserved: 10}) {
				t.Errorf("%s: %t, %+v", application, d.Corrects, c)
			}
			if application == "b" && d.Limits()[0].Used != used-20+2*settled {
				t.Errorf("%d used of the shared budget, it was %d with 10", d.Limits()[0].Used, used)
			}
		}
	}
}

// Who leaves while its turn comes has been charged, and that is told.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{Origin: time.Now().UnixMicro()}), Policy: []byte(`
version: 1
applications:
  a: {rules: [{name: o, match: {operation: o}, limits: [{name: l, algorithm: leaky_bucket, rate: 1/s, burst: 100}]}]}
`)})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		for _, c := range []struct {
			key  string
			hold time.Duration
			kept bool
		}{{"", 0, true}, {"k", 0, true}, {"", time.Hour, false}} {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(300*time.Millisecond, cancel)
			var d gate.Decision
			for err = nil; err == nil; { // the first ones need not wait
				r := &gate.Request{Application: "a", Operation: "o", Subject: "x", MaxWait: time.Minute, MaxWaitSaid: true, IdempotencyKey: c.key}
				if c.hold > 0 {
					err = g.Reserve(ctx, r, c.hold, &d)
				} else {
					err = g.Take(ctx, r, &d)
				}
				if err == nil && (d.Kept || !d.Allowed) {
					t.Fatalf("%+v", d.Decision)
				}
				if c.key != "" {
					c.key += "k"
				}
			}
			cancel()
			if d.Kept != c.kept || !d.Allowed {
				t.Errorf("%+v: kept %t, %+v, %v", c, d.Kept, d.Decision, err)
			}
		}
		var d gate.Decision
		if err := g.Take(t.Context(), &gate.Request{Application: "a"}, &d); err == nil || d.Kept {
			t.Errorf("%v, kept %t", err, d.Kept)
		}
		d.Kept = true // of an earlier use
		if err := g.Reserve(t.Context(), &gate.Request{Application: "a", Operation: "o", Subject: "x"}, -1, &d); err == nil || d.Kept {
			t.Errorf("%v, kept %t", err, d.Kept)
		}
	})
}
