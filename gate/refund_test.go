package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

const refundPolicy = `
version: 1
applications:
  a:
    deny: ["subject:mallory"]
    limits: [{name: all, rate: 60/h, burst: 10}]
    rules:
      - name: r
        match: {descriptor: [{key: k}]}
        ban: {after: 1, within: 1h, for: 2h}
        limits: [{name: w, algorithm: fixed_window, rate: 3/h}, {name: q, algorithm: quota, rate: 10/day}]
        candidate: {limits: [{name: w, algorithm: fixed_window, rate: 5/h}]}
      - {name: skip, match: {descriptor: [{key: s}]}, skip: "true"}
      - {name: zero, match: {descriptor: [{key: z}]}, limits: [{name: w, algorithm: fixed_window, rate: 0/h}]}
  deny: {on_no_match: deny}
`

func TestRefund(t *testing.T) {
	g := open(t, refundPolicy)
	refund := func(r *gate.Request) string {
		t.Helper()
		var d gate.Decision
		if err := g.Refund(t.Context(), r, &d); err != nil {
			t.Fatal(err)
		}
		return say(d.Allowed, []*gate.Decision{&d})
	}
	takes := func(cost int64) string {
		t.Helper()
		return say(takeCall(t, g, call(cost, "k=v")))
	}
	for i, c := range []struct{ got, want string }{
		{takes(3), "true; ok app/all:3/10 r/w:3/3 r/q:3/10 r/ban:0/1"},
		{refund(call(1, "k=v")[0]), "true; ok app/all:2/10 r/w:2/3 r/q:2/10 r/ban:0/1"},
		{takes(1), "true; ok app/all:3/10 r/w:3/3 r/q:3/10 r/ban:0/1"},
		{refund(call(0, "k=v")[0]), "true; ok app/all:3/10 r/w:3/3 r/q:3/10 r/ban:0/1"},
		{refund(call(headgate.MaxInt, "k=v")[0]), "true; ok app/all:0/10 r/w:0/3 r/q:0/10 r/ban:0/1"},
		{refund(call(5, "k=other")[0]), "true; ok app/all:0/10 r/w:0/3 r/q:0/10 r/ban:0/1"},
		{takes(3), "true; ok app/all:3/10 r/w:3/3 r/q:3/10 r/ban:0/1"},
		{takes(1), "false; banned app/all:3/10 r/w:3/3! r/q:3/10 r/ban:1/1!"},
		{takes(1), "false; banned app/all:3/10 r/w:3/3! r/q:3/10 r/ban:1/1!"},
		{refund(call(2, "k=v")[0]), "true; ok app/all:1/10 r/w:1/3 r/q:1/10 r/ban:1/1"},
		{takes(1), "false; banned app/all:1/10 r/w:1/3 r/q:1/10 r/ban:1/1!"},
		{refund(call(1, "s=v")[0]), "true; skipped"},
		{refund(call(1, "z=v")[0]), "true; ok app/all:0/10 zero/w:0/0"},
		{refund(call(1, "k=mallory")[0]), "true; ok app/all:0/10 r/w:0/3 r/q:0/10 r/ban:0/1"},
	} {
		if c.got != c.want {
			t.Errorf("%d:\ngot  %s\nwant %s", i, c.got, c.want)
		}
	}
	deny := call(1, "k=v")[0]
	deny.Application = "deny"
	if got := refund(deny); got != "false; no_rule(allowed false)" {
		t.Error(got)
	}
	// Only the present period is credited.
	g = open(t, refundPolicy)
	takes(3)
	later := call(3, "k=v")[0]
	later.Now += time.Hour.Microseconds()
	if got := refund(later); got != "true; ok app/all:0/10 r/w:0/3 r/q:0/10 r/ban:0/1" {
		t.Error(got)
	}
}

// TestRefundOfCandidates: limits on trial get back what they counted.
func TestRefundOfCandidates(t *testing.T) {
	g := open(t, refundPolicy)
	takeCall(t, g, call(3, "k=v"))
	var d gate.Decision
	if err := g.Refund(t.Context(), call(2, "k=v")[0], &d); err != nil {
		t.Fatal(err)
	}
	if _, limits, ok := d.Candidate(); !ok || limits[0].Used != 1 {
		t.Errorf("%v, %+v", ok, limits)
	}
}

func TestRefundFaults(t *testing.T) {
	g := open(t, refundPolicy)
	for field, change := range map[string]func(*gate.Request){
		"cost":            func(r *gate.Request) { r.CostSaid = false },
		"idempotency_key": func(r *gate.Request) { r.IdempotencyKey = "k" },
		"descriptor":      func(r *gate.Request) { r.Descriptor[0].Key = "" },
	} {
		r := call(1, "k=v")[0]
		change(r)
		var d gate.Decision
		e, ok := errors.AsType[*headgate.Error](g.Refund(t.Context(), r, &d))
		if !ok || e.Code != headgate.InvalidRequest || e.Field != field {
			t.Errorf("%s: %v", field, e)
		}
	}
	r := call(-1, "k=v")[0]
	var d gate.Decision
	if err := g.Refund(t.Context(), r, &d); headgate.CodeOf(err) != headgate.InvalidRequest {
		t.Errorf("a negative refund: %v", err)
	}
}

// TestRefundWithoutStore: what was charged elsewhere is given back nowhere else.
func TestRefundWithoutStore(t *testing.T) {
	away := &network{Store: memstore.New(memstore.Config{Origin: origin}), err: &headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}}
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(refundPolicy), Store: away, Local: memstore.New(memstore.Config{Origin: origin})})
	if err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	if err := g.Refund(t.Context(), call(1, "k=v")[0], &d); headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("%v, %+v", err, d.Decision)
	}
}
