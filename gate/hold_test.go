package gate_test

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// A caller that cannot release is told so before anything is charged, by Take;
// looking and reserving need no release, nor does a limit whose ttl frees it.
func TestDoorsWithoutRelease(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    rules:
      - {name: r, match: {operation: x}, limits: [{name: daily, algorithm: quota, rate: 5/day}, {name: slots, algorithm: concurrency, max: 5}]}
      - {name: ttl, match: {operation: ttl}, limits: [{name: slots, algorithm: concurrency, max: 5, release: ttl}]}
`)
	var d gate.Decision
	r := gate.Request{Application: "a", Operation: "x", Subject: "s", Now: origin}
	err := g.Take(t.Context(), &r, &d)
	if e, ok := errors.AsType[*headgate.Error](err); !ok || e.Code != headgate.InvalidRequest || !strings.Contains(err.Error(), "release: ttl") || !strings.Contains(err.Error(), "r/slots") {
		t.Errorf("take: %v", err)
	}
	if failed, err := g.TakeAll(t.Context(), []*gate.Request{&r}, []*gate.Decision{&d}); failed != 0 || headgate.CodeOf(err) != headgate.InvalidRequest {
		t.Errorf("in a batch: %d, %v", failed, err)
	}
	if err := g.Peek(t.Context(), &r, &d); err != nil || !d.Allowed || d.HasTicket() || d.Limits()[0].Used != 0 {
		t.Errorf("peek: %v, %+v", err, d.Decision)
	}
	if err := g.Reserve(t.Context(), &r, 0, &d); err != nil || !d.Allowed || !d.HasTicket() {
		t.Errorf("reserve: %v, %+v", err, d.Decision)
	}
	r.Operation = "ttl"
	if err := g.Take(t.Context(), &r, &d); err != nil || !d.Allowed || d.HasTicket() || len(d.AppendTicket(nil)) != 0 {
		t.Errorf("release: ttl: %v, %+v", err, d.Decision)
	}
}

// A reservation without a ttl holds for DefaultHold.
func TestDefaultHold(t *testing.T) {
	g := gatetest.Local(open(t, "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: quota, rate: 5/day}]}]}}"))
	for at, held := range map[time.Duration]bool{gate.DefaultHold - time.Millisecond: true, gate.DefaultHold: false} {
		r := gate.Request{Application: "a", Operation: "x", Subject: at.String()}
		a, err := g.Reserve(t.Context(), gatetest.Call{At: gatetest.Start, Request: r}, 0)
		if err != nil {
			t.Fatal(err)
		}
		a, err = g.Claim(t.Context(), gatetest.ClaimCall{At: gatetest.Start.Add(at), Op: headgate.Settle, Claim: gate.Claim{Ticket: a.Ticket, CostSaid: true}})
		if err != nil || a.Held != held {
			t.Errorf("after %v: held %v, want %v; %v", at, a.Held, held, err)
		}
	}
}

const beforeReload = `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 100/day}]}}
applications:
  a:
    default_plan: free
    rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 60/h, burst: 10}, {name: slots, algorithm: concurrency, max: 5}]}]
`

// Tickets outlive changes of the policy: what it still has is settled under its
// present numbers, what it lost or renamed expires by itself.
func TestTicketsAfterReload(t *testing.T) {
	for _, c := range []struct {
		name, text string
		code       headgate.Code
		held       bool
		used       map[string]int64 // after settling 4 at 1
	}{
		{"nothing that matters", beforeReload + "  b: {}\n", 0, true, map[string]int64{"r/w": 1, "r/slots": 0, "plan/daily": 1}},
		{"numbers", strings.NewReplacer("burst: 10", "burst: 20", "max: 5", "max: 9", "100/day", "50/day").Replace(beforeReload), 0, true,
			map[string]int64{"r/w": 11, "r/slots": 0, "plan/daily": 1}}, // a bucket keeps its level: six of ten are six of twenty
		{"a limit's name", strings.Replace(beforeReload, "name: w", "name: z", 1), 0, true, map[string]int64{"r/z": 0, "r/slots": 0, "plan/daily": 1}},
		{"a rule's name", strings.Replace(beforeReload, "name: r", "name: q", 1), 0, true, map[string]int64{"q/w": 0, "q/slots": 0, "plan/daily": 1}},
		{"an algorithm", strings.Replace(beforeReload, "rate: 60/h, burst: 10", "algorithm: quota, rate: 10/day", 1), 0, true, map[string]int64{"r/slots": 0, "plan/daily": 1}},
		{"to unlimited", strings.Replace(beforeReload, "rate: 60/h, burst: 10", "rate: unlimited", 1), 0, true, map[string]int64{"r/slots": 0, "plan/daily": 1}},
		{"all limits gone", "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}}]}}\n", 0, false, nil},
		{"the application", "version: 1\napplications: {b: {}}\n", headgate.NotFound, false, nil},
	} {
		f := openFile(t, beforeReload)
		g := gatetest.Local(f.gate)
		r := gate.Request{Application: "a", Operation: "x", Subject: "s", Cost: 4, CostSaid: true, Releases: true}
		a, err := g.Reserve(t.Context(), gatetest.Call{At: gatetest.Start, Request: r}, time.Minute)
		if err != nil || a.Ticket == "" {
			t.Fatal(err)
		}
		f.reload(c.text)
		settled, err := g.Claim(t.Context(), gatetest.ClaimCall{At: gatetest.Start, Op: headgate.Settle, Claim: gate.Claim{Ticket: a.Ticket, Cost: 1, CostSaid: true}})
		if headgate.CodeOf(err) != c.code || err == nil && settled.Held != c.held {
			t.Errorf("%s: held %v, want %v; %v", c.name, settled.Held, c.held, err)
		}
		if c.used == nil {
			continue
		}
		r.Cost = 0
		now, err := g.Decide(t.Context(), gatetest.Call{At: gatetest.Start, Peek: true, Request: r})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range now.Limits {
			if want, known := c.used[l.ID]; known && l.Used != want {
				t.Errorf("%s: %s has %d used, want %d", c.name, l.ID, l.Used, want)
			}
		}
	}
}

// Whatever is changed in a ticket, nobody gets more than he holds, and nothing of
// another's.
func TestFiddledTickets(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: quota, rate: 10/day}, {name: slots, algorithm: concurrency, max: 5}]}]}
`)
	var d gate.Decision
	reserve := func(subject string) []byte {
		r := gate.Request{Application: "a", Operation: "x", Subject: subject, Cost: 3, CostSaid: true, Now: origin}
		if err := g.Reserve(t.Context(), &r, time.Minute, &d); err != nil || !d.Allowed {
			t.Fatal(err)
		}
		raw, err := base64.RawURLEncoding.DecodeString(string(d.AppendTicket(nil)))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	used := func(subject string) (w, slots int64) {
		if err := g.Peek(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: subject, Now: origin}, &d); err != nil {
			t.Fatal(err)
		}
		return d.Limits()[0].Used, d.Limits()[1].Used
	}
	reserve("victim")
	mine := reserve("malory")
	for i := range mine {
		for _, flip := range []byte{1, 0x80, 0xff} {
			raw := slices.Clone(mine)
			raw[i] ^= flip
			c := gate.Claim{Ticket: base64.RawURLEncoding.EncodeToString(raw), CostSaid: true, Now: origin}
			if err := g.Release(t.Context(), &c, &d); err != nil && headgate.CodeOf(err) != headgate.InvalidRequest && headgate.CodeOf(err) != headgate.NotFound {
				t.Fatalf("byte %d: %v", i, err)
			}
			if w, slots := used("victim"); w != 3 || slots != 3 {
				t.Fatalf("byte %d: the victim has %d and %d slots left", i, w, slots)
			}
		}
	}
	stolen := []byte(strings.ReplaceAll(string(mine), "malory", "victim"))
	for _, raw := range [][]byte{stolen, mine} {
		c := gate.Claim{Ticket: base64.RawURLEncoding.EncodeToString(raw), Now: origin}
		if err := g.Release(t.Context(), &c, &d); err != nil && headgate.CodeOf(err) != headgate.NotFound {
			t.Error(err)
		}
	}
	if w, slots := used("victim"); w != 3 || slots != 3 {
		t.Errorf("the victim has %d and %d slots left", w, slots)
	}
	if w, slots := used("malory"); w != 0 || slots != 0 {
		t.Errorf("malory holds %d and %d slots", w, slots)
	}
}

func TestAtomicSizes(t *testing.T) {
	g := open(t, "version: 1\napplications: {a: {limits: [{name: all, algorithm: quota, rate: 150/day}, {name: each, per: subject, rate: 1/s}]}}")
	for _, c := range []struct {
		n      int
		fault  bool
		passes bool
	}{{0, true, false}, {gate.MaxAtomic + 1, true, false}, {gate.MaxAtomic, false, true}, {gate.MaxAtomic, false, false}, {50, false, true}} {
		var rs []*gate.Request
		var ds []*gate.Decision
		for i := range c.n {
			rs = append(rs, &gate.Request{Application: "a", Operation: "x", Subject: strconv.Itoa(c.n*1000 + i), Now: origin})
			ds = append(ds, new(gate.Decision))
		}
		failed, err := g.TakeAll(t.Context(), rs, ds)
		if e, ok := errors.AsType[*headgate.Error](err); c.fault != (err != nil) || failed != -1 || c.fault && (!ok || e.Code != headgate.InvalidRequest || e.Field != "items") {
			t.Errorf("%d requests: %d, %v", c.n, failed, err)
		}
		for i, d := range ds {
			if !c.fault && d.Allowed != c.passes {
				t.Fatalf("%d requests: %d is %+v", c.n, i, d.Decision)
			}
		}
	}
}

// Without the store batches pass only if all of their requests may.
func TestAtomicWithoutStore(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{
		Store: broken{&headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}},
		Policy: []byte(`
version: 1
applications:
  open: {on_store_error: open, limits: [{name: all, rate: 1/s}]}
  closed: {on_store_error: closed, limits: [{name: all, rate: 1/s}]}
  none: {}
`),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		applications []string
		want         []headgate.Reason
	}{
		{[]string{"open", "none"}, []headgate.Reason{headgate.NoRule, headgate.NoRule}},
		{[]string{"open", "closed", "none"}, []headgate.Reason{headgate.StoreUnavailable, headgate.StoreUnavailable, headgate.BatchRefused}},
	} {
		var rs []*gate.Request
		var ds []*gate.Decision
		for _, a := range c.applications {
			rs, ds = append(rs, &gate.Request{Application: a, Operation: "x"}), append(ds, new(gate.Decision))
		}
		if failed, err := g.TakeAll(t.Context(), rs, ds); err != nil || failed != -1 {
			t.Fatal(failed, err)
		}
		for i, d := range ds {
			if d.Reason != c.want[i] || d.Allowed != (c.want[i] == headgate.NoRule) || !d.Allowed && d.RetryAfter != time.Second {
				t.Errorf("%v: %d is %+v, want %v", c.applications, i, d.Decision, c.want[i])
			}
		}
	}
	var d gate.Decision
	if err := g.Reserve(t.Context(), &gate.Request{Application: "open", Operation: "x"}, 0, &d); err != nil || !d.Allowed || !d.HasTicket() {
		t.Fatalf("every reservation has a ticket: %v, %+v", err, d.Decision)
	}
	if err := g.Settle(t.Context(), &gate.Claim{Ticket: string(d.AppendTicket(nil))}, &d); err != nil || d.Held {
		t.Errorf("it holds nothing, so no store is asked: %v, held %v", err, d.Held)
	}
}

// A claim whose answer the store does not give is an error: nobody knows.
func TestClaimWithoutStore(t *testing.T) {
	store := new(swapped)
	store.Store = memstore.New(memstore.Config{Origin: origin})
	g, err := gate.Open(t.Context(), gate.Config{Store: store, Policy: []byte("version: 1\napplications: {a: {on_store_error: open, limits: [{name: all, rate: 1/s}]}}")})
	if err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	if err := g.Reserve(t.Context(), &gate.Request{Application: "a", Operation: "x", Now: origin}, 0, &d); err != nil || !d.HasTicket() {
		t.Fatal(err)
	}
	ticket := string(d.AppendTicket(nil))
	store.Store = broken{&headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}}
	for name, do := range map[string]func(context.Context, *gate.Claim, *gate.Decision) error{"settle": g.Settle, "renew": g.Renew, "release": g.Release} {
		if err := do(t.Context(), &gate.Claim{Ticket: ticket, Now: origin}, &d); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.Settle(t.Context(), &gate.Claim{Ticket: ticket}, &d); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("after Close: %v", err)
	}
}

// As many requests as are remembered are charged once; those beyond are charged
// each time, never refused and never free.
func TestKeysBeyondRoom(t *testing.T) {
	g := open(t, "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: quota, rate: 1000/day}]}]}}")
	var d gate.Decision
	take := func(key int) *gate.Decision {
		t.Helper()
		r := gate.Request{Application: "a", Operation: "x", Subject: "s", IdempotencyKey: strconv.Itoa(key), Now: origin}
		if err := g.Take(t.Context(), &r, &d); err != nil || !d.Allowed {
			t.Fatalf("key %d: %v, %+v", key, err, d.Decision)
		}
		return &d
	}
	for i := range headgate.MaxRemembered {
		take(i)
	}
	for i := range headgate.MaxRemembered {
		if d := take(i); !d.Replayed {
			t.Fatalf("key %d is charged twice", i)
		}
	}
	for i := range 2 {
		if d := take(headgate.MaxRemembered); d.Replayed || d.Limits()[0].Used != int64(headgate.MaxRemembered+1+i) {
			t.Errorf("one too many, try %d: replayed %v, %d used", i, d.Replayed, d.Limits()[0].Used)
		}
	}
}

// The names of operations are bounded as those of subjects are: tickets hold
// both.
func TestOperationsAreBounded(t *testing.T) {
	g := open(t, "version: 1\napplications: {a: {limits: [{name: w, algorithm: quota, rate: 1000/day}]}}")
	var d gate.Decision
	for operation, ok := range map[string]bool{strings.Repeat("o", gate.MaxSubject): true, strings.Repeat("o", gate.MaxSubject+1): false, "o\n": false} {
		err := g.Reserve(t.Context(), &gate.Request{Application: "a", Operation: operation, Now: origin}, 0, &d)
		if e, _ := errors.AsType[*headgate.Error](err); ok != (err == nil) || !ok && e.Field != "operation" {
			t.Errorf("%d bytes: %v", len(operation), err)
		}
	}
}
