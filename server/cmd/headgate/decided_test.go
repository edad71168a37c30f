package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
)

// BenchmarkDecided is what a server does with a decision that a door has made: metrics,
// usage and journal.
func BenchmarkDecided(b *testing.B) {
	const policy = `
version: 1
plans:
  free: {limits: [{name: rate, rate: 1000000/s}, {name: daily, algorithm: quota, rate: 1000000/day}, {name: monthly, algorithm: quota, rate: 10000000/month}]}
  none: {limits: [{name: daily, algorithm: quota, rate: 1/year}]}
applications: {email: {default_plan: free, rules: [{name: send, match: {operation: send}}]}}
`
	take := func(plan string, times int) func(g *gate.Gate, subject string, d *gate.Decision) error {
		return func(g *gate.Gate, subject string, d *gate.Decision) (err error) {
			for range times {
				err = g.Take(b.Context(), &gate.Request{Application: "email", Operation: "send", Subject: subject, Plan: plan, Cost: 1}, d)
			}
			return err
		}
	}
	for _, bm := range []struct {
		name, reason string
		decide       func(g *gate.Gate, subject string, d *gate.Decision) error
	}{
		{"throttle", "ok", func(g *gate.Gate, subject string, d *gate.Decision) error {
			return g.Throttle(b.Context(), &gate.Throttle{Key: subject, Count: 1000, Period: time.Second, Cost: 1}, d)
		}},
		{"take", "ok", take("free", 1)},
		{"refused", "quota_exceeded", take("none", 2)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			h := newHouse(b, policy)
			db, err := records.Open(b.Context(), records.Config{URL: "sqlite:" + b.TempDir() + "/records.db"})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			h.meter = meter.New(meter.Config{Records: db})
			subjects := make([]string, 10_000)
			for i := range subjects {
				subjects[i] = fmt.Sprintf("subject-%05d", i)
			}
			var d gate.Decision
			if err := bm.decide(h.gate, "subject", &d); err != nil {
				b.Fatal(err)
			}
			decided := h.decided("http")
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				d.Subject = subjects[n%len(subjects)]
				decided(&d, 300*time.Nanosecond)
				n++
			}
			counted := int64(0)
			for _, k := range h.meter.Rates(meter.MaxWindow).Kinds {
				if k.Reason == d.Reason {
					counted += k.Count
				}
			}
			if d.Reason.String() != bm.reason || counted != int64(n) {
				b.Fatalf("%d decisions are counted as %v, want %d as %s", counted, d.Reason, n, bm.reason)
			}
		})
	}
}

// TestDecidedAllocatesNothing counts and records a decision.
func TestDecidedAllocatesNothing(t *testing.T) {
	h := newHouse(t, scriptPolicy)
	decided := h.decided("http")
	var d gate.Decision
	r := &gate.Request{Application: "email", Operation: "sendEmail", Subject: "alice", Cost: 4, CostSaid: true}
	decide := func() {
		if err := h.gate.Take(t.Context(), r, &d); err != nil {
			t.Fatal(err)
		}
		decided(&d, time.Microsecond)
	}
	for range 4 { // allowed, then refused
		decide()
	}
	if n := testing.AllocsPerRun(100, decide); n != 0 {
		t.Errorf("%v allocations", n)
	}
	entries, _ := h.journal.Query(&journal.Query{Subject: "alice"})
	if len(entries) < 2 || entries[0].Allowed || entries[0].BoundBy != "sendEmail/burst" || entries[0].Door != "http" || entries[0].RetryAfter == 0 {
		t.Errorf("the journal has %+v", entries)
	}
}
