package gate_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

func open(t testing.TB, policy string) *gate.Gate {
	t.Helper()
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{Origin: origin})})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// origin is the instant at which tests start.
var origin = gatetest.Start.UnixMicro()

const threeLimits = `
version: 1
plans:
  free:
    limits:
      - {name: daily, algorithm: quota, rate: 1000000000/day}
applications:
  email:
    default_plan: free
    limits: [{name: all, rate: 5000000/s}]
    rules:
      - name: sendEmail
        match: {operation: sendEmail}
        limits: [{name: burst, rate: 10000000/s, burst: 100000000}]
  web:
    default_plan: free
    identity: [{header: x-api-key, known_only: true}, ip]
    rules:
      - name: api
        match: {path: "/api/{rest...}", methods: [GET, POST]}
        cost: {POST: 2}
        limits: [{name: window, algorithm: sliding_window, rate: 100000000/60s}]
  all:
    default_plan: free
    enforce_percent: 60
    ban: {after: 50, within: 1m, for: 15m}
    allow: [10.0.0.0/8, "2001:db8::/32", "subject:root"]
    deny: [203.0.113.0/24, "subject:mallory"]
    limits: [{name: world, per: global, rate: 5000000/s}, {name: each, per: subject, across: all, rate: 5000000/s}]
    rules:
      - name: ask
        match: {operation: ask}
        enforce_percent: 30
        ban: {after: 50, within: 1m, for: 15m}
        max_wait: 1s
        costs: {pages: 2}
        limits: [{name: tokens, unit: tokens, rate: 90000000/s}, {name: pages, unit: pages, rate: 5000000/s}, {name: own, rate: 5000000/s, plans: {free: {rate: 6000000/s}}}]
        candidate: {limits: [{name: own, rate: 1/s}, {name: tokens, unit: tokens, rate: 90000000/s}]}
  edge:
    domain: envoy
    rules:
      - name: login
        match: {descriptor: [{key: path, value: "/log*"}, {key: user}]}
        detailed_metric: true
        metadata: {team: web}
        limits: [{name: w, algorithm: fixed_window, rate: 1000000000/s}]
      - {name: calm, match: {descriptor: [{key: calm}]}, quota_mode: true, replaces: [login], limits: [{name: w, algorithm: fixed_window, rate: 1000000000/s}]}
      - {name: tight, match: {descriptor: [{key: tight}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 0/s}]}
subjects:
  web/key-1: {plan: free}
  all/zoe: {timezone: Asia/Kathmandu, overrides: [{limit: own, rate: 7000000/s}, {limit: daily, rate: 2000000000/day, until: 2100-01-01T00:00:00Z}]}
`

func TestNoAllocations(t *testing.T) {
	g := open(t, threeLimits)
	records := gate.NewRecords()
	records.Put(&gate.Record{Application: "email", Subject: "known", Known: true, Plan: "free", Timezone: time.UTC, Anchor: 3})
	records.Put(&gate.Record{Application: "email", Subject: "over", Known: true, Ban: gate.Ban{Until: time.UnixMicro(origin)}, Overrides: []policy.Override{
		{Limit: "plan/daily", Count: 2_000_000_000, Unit: headgate.Day, Until: time.Now().Add(time.Hour)},
	}})
	g.SetRecords(records)
	ctx := context.Background()
	var d gate.Decision
	for name, r := range map[string]*gate.Request{
		"on record":    {Application: "email", Operation: "sendEmail", Subject: "known"},
		"overridden":   {Application: "email", Operation: "sendEmail", Subject: "over"},
		"by operation": {Application: "email", Operation: "sendEmail", Subject: "alice", Cost: 5, CostSaid: true},
		"by path":      {Application: "web", Method: "POST", Path: "/api/x/y?q=1", IP: netip.MustParseAddr("203.0.113.9")},
		"by header":    {Application: "web", Method: "GET", Path: "/api/x", Headers: http.Header{"X-Api-Key": {"key-1"}}},
		"no rule":      {Application: "email", Operation: "other", Subject: "bob"},
		"everything": {
			Application: "all", Operation: "ask", Subject: "zoe", IP: netip.MustParseAddr("192.0.2.1"), Costs: map[string]int64{"tokens": 3},
			Now: time.Now().UnixMicro(),
		},
		"waiting":    {Application: "all", Operation: "ask", Subject: "yan", Costs: map[string]int64{"tokens": 3, "pages": 1}},
		"descriptor": {Application: "edge", Descriptor: []gate.Entry{{Key: "path", Value: "/login"}, {Key: "user", Value: "a&b"}}},
		"long":       {Application: "edge", Descriptor: []gate.Entry{{Key: "path", Value: "/login"}, {Key: "user", Value: strings.Repeat("u", 1024)}}},
		"said": {
			Application: "edge", Descriptor: []gate.Entry{{Key: "path", Value: "/login"}, {Key: "user", Value: "bob"}},
			Said: &gate.SaidLimit{Count: 1_000_000_000, Period: time.Second},
		},
		"allow-listed": {Application: "all", Operation: "ask", Subject: "root", IP: netip.MustParseAddr("2001:db8::1")},
	} {
		var failed error
		n := testing.AllocsPerRun(1000, func() {
			if err := g.Take(ctx, r, &d); err != nil {
				failed = err
			} else if !d.Allowed {
				t.Fatalf("%s: refused: %+v", name, d.Decision)
			}
		})
		if failed != nil {
			t.Errorf("%s: %v", name, failed)
		}
		if n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
		if len(d.Limits()) == 0 && d.Reason != headgate.AllowListed {
			t.Errorf("%s: nothing was charged", name)
		}
	}
}

// TestNoAllocationsTogether holds that for calls of several descriptors.
func TestNoAllocationsTogether(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	g := open(t, threeLimits)
	ask := func(key, value string) *gate.Request {
		return &gate.Request{Application: g.Domain("envoy"), Descriptor: []gate.Entry{{Key: key, Value: value}}}
	}
	login := ask("path", "/login")
	login.Descriptor = append(login.Descriptor, gate.Entry{Key: "user", Value: "bob"})
	ds := []*gate.Decision{new(gate.Decision), new(gate.Decision), new(gate.Decision), new(gate.Decision)}
	for name, rs := range map[string][]*gate.Request{
		"two":        {login, login},
		"replaced":   {login, ask("calm", "x"), ask("calm", "y"), ask("ghost", "z")},
		"quota mode": {ask("tight", "x"), ask("tight", "y"), ask("calm", "x"), ask("calm", "y")},
	} {
		ctx, ds := t.Context(), ds[:len(rs)]
		n := testing.AllocsPerRun(1000, func() {
			if allowed, _, err := g.TakeDescriptors(ctx, rs, ds); err != nil || !allowed {
				t.Fatalf("%s: %v, %+v", name, err, ds[0].Decision)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	g := open(b, threeLimits)
	ctx := context.Background()
	var d gate.Decision
	r := &gate.Request{Application: "email", Operation: "sendEmail", Subject: "alice"}
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Take(ctx, r, &d); err != nil || d.Reason != headgate.OK && d.Reason != headgate.RateLimited {
			b.Fatal(err, d.Reason)
		}
	}
	if len(d.Limits()) != 3 {
		b.Fatal("not three limits")
	}
}
