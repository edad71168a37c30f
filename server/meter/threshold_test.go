package meter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/gate"
)

const quotas = `
version: 1
plans:
  free:
    limits:
      - {name: daily, algorithm: quota, rate: 1000/day, timezone: Asia/Kathmandu}
      - {name: trial, algorithm: quota, rate: 10/day, mode: shadow}
      - {name: tokens, algorithm: quota, unit: tokens, rate: 90/month, soft: true, when_missing: skip}
  premium:
    limits: [{name: daily, algorithm: quota, rate: 5000/day, timezone: Asia/Kathmandu}]
applications:
  email:
    default_plan: free
    limits: [{name: all, algorithm: quota, rate: 100000/month}]
    rules:
      - {name: send, match: {operation: send}}
      - name: org
        match: {operation: org}
        limits: [{name: org, per: {expr: attributes.org}, algorithm: quota, rate: 200/day}]
  web:
    default_plan: free
    limits: [{name: each, per: subject, across: all, algorithm: quota, rate: 7/day}]
  mail:
    default_plan: free
    limits: [{name: each, per: subject, across: all, algorithm: quota, rate: 7/day}]
`

// put puts all events that wait on record.
func put(tb testing.TB, m *Meter) {
	tb.Helper()
	for {
		select {
		case e := <-m.events:
			if err := m.put(tb.Context(), &e); err != nil {
				tb.Fatal(err)
			}
		default:
			return
		}
	}
}

// bodies are what is told of events, by "application limit owner threshold".
func (l *ledger) bodies() map[string]told {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]told)
	for id, e := range l.events {
		var b told
		if err := json.Unmarshal([]byte(e.Body), &b); err != nil {
			l.tb.Error(err)
		}
		if b.ID != id || b.Type != e.Kind || b.Subject != e.Subject || b.Application != e.Application || !b.At.Equal(e.At) {
			l.tb.Errorf("%+v is about %+v", e, b)
		}
		key := fmt.Sprintf("%s %s %s %d", b.Application, b.Limit, b.Owner, b.Threshold)
		if b.PeriodEnds.Sub(start) > 26*time.Hour && !strings.Contains(b.Limit, "all") && !strings.Contains(b.Limit, "tokens") {
			key += " later"
		}
		if b.Quota == 5000 {
			key += " of 5000"
		}
		if _, twice := all[key]; twice {
			l.tb.Errorf("two events: %s", key)
		}
		all[key] = b
	}
	return all
}

func keys(m map[string]told) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// Each threshold of each quota is told once a period.
func TestThresholds(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, quotas), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	var want []string
	step := func(r gate.Request, more ...string) {
		t.Helper()
		m.Count(e.take(r))
		put(t, m)
		want = append(want, more...)
		slices.Sort(want)
		if got := keys(l.bodies()); !slices.Equal(got, want) {
			t.Fatalf("%+v, want %v", got, want)
		}
	}
	step(sends("alice", 499))
	step(sends("alice", 1), "email plan/daily alice 50")
	step(sends("alice", 1))
	step(sends("alice", 298))
	step(sends("alice", 1), "email plan/daily alice 80")
	step(sends("alice", 300)) // refused
	step(sends("alice", 199))
	step(sends("alice", 1), "email plan/daily alice 100")
	step(sends("alice", 1)) // refused
	step(sends("bob", 1000), "email plan/daily bob 50", "email plan/daily bob 80", "email plan/daily bob 100")
	b := l.bodies()["email plan/daily bob 80"]
	if want := (told{
		ID: b.ID, Type: "quota.threshold", At: start, Application: "email", Subject: "bob", Owner: "bob", Plan: "free", Limit: "plan/daily", Unit: "requests",
		Threshold: 80, Used: 1000, Quota: 1000, PeriodEnds: time.Date(2026, 3, 1, 18, 15, 0, 0, time.UTC),
	}); b != want {
		t.Errorf("%+v, want %+v", b, want)
	}
	// Another plan in the same period is another quota, of which much is used already.
	premium := sends("alice", 3000)
	premium.Plan = "premium"
	step(premium, "email plan/daily alice 50 of 5000", "email plan/daily alice 80 of 5000")
	premium.Cost = 1000
	step(premium, "email plan/daily alice 100 of 5000")
	// In another unit, beyond a soft quota.
	r := sends("carol", 1)
	r.Costs = map[string]int64{"tokens": 44}
	step(r)
	r.Costs = map[string]int64{"tokens": 1}
	step(r, "email plan/tokens carol 50")
	r.Costs = map[string]int64{"tokens": 500}
	step(r, "email plan/tokens carol 80", "email plan/tokens carol 100")
	// What an expression owns.
	r = gate.Request{Application: "email", Operation: "org", Subject: "dan", Attributes: map[string]string{"org": "acme"}, Cost: 120, CostSaid: true}
	step(r, "email org/org acme 50")
	r.Subject = "eve" // of another shard, maybe
	step(r)
	r.Cost = 40
	step(r, "email org/org acme 80")
	if b := l.bodies()["email org/org acme 80"]; b.Subject != "" || b.Plan != "free" || b.Used != 160 || b.Quota != 200 {
		t.Errorf("%+v", b)
	}
	// What all have in common, whoever of them comes.
	const so = 1000 + 1000 + 4000 + 3 + 160 // far
	for n := range 55 {
		r := sends(fmt.Sprint("s", n), 900)
		all := []string{fmt.Sprintf("email plan/daily s%d 50", n), fmt.Sprintf("email plan/daily s%d 80", n)}
		if before := so + 900*n; before < 50_000 && before+900 >= 50_000 {
			all = append(all, "email app/all  50")
		}
		step(r, all...)
	}
	// A budget across applications is one: who notices it first says so.
	r = gate.Request{Application: "web", Operation: "x", Subject: "alice", Cost: 4, CostSaid: true}
	step(r, "web app/each alice 50")
	r.Application = "mail"
	r.Cost = 0
	step(r)
	// And the next day again.
	c.set(start.Add(24 * time.Hour))
	step(sends("alice", 850), "email plan/daily alice 50 later", "email plan/daily alice 80 later")
	if l.puts < len(want) || len(m.events) != 0 {
		t.Errorf("%d times on record", l.puts)
	}
}

// Restarts and other nodes tell nothing twice, nor do answers of records that are lost;
// what was not on record is told by whoever notices it next.
func TestThresholdsOnce(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, quotas), newLedger(t, c)
	var logs bytes.Buffer
	var nodes []*Meter
	for range 3 {
		nodes = append(nodes, New(Config{Records: l, Now: c.now, Logger: slog.New(slog.NewTextHandler(&logs, nil))}))
	}
	for n := range 1000 {
		m := nodes[n%3]
		m.Count(e.take(sends("alice", 1)))
		switch {
		case n%100 == 10: // a restart, which forgets what waits
			nodes[n%3] = New(Config{Records: l, Now: c.now, Logger: m.Logger})
		case n%7 == 0:
			put(t, m)
		}
	}
	for _, m := range nodes {
		put(t, m)
	}
	if got := keys(l.bodies()); !slices.Equal(got, []string{"email plan/daily alice 100", "email plan/daily alice 50", "email plan/daily alice 80"}) {
		t.Errorf("%v", got)
	}
	if n := strings.Count(logs.String(), "quota threshold"); n != 3 || !strings.Contains(logs.String(), "threshold=100 used=1000 quota=1000 period_ends=2026-03-01T18:15:00Z") {
		t.Errorf("%d lines: %s", n, logs.String())
	}
}

// What a node decides by its share of a quota says nothing of it.
func TestThresholdsDegraded(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, quotas)
	m := New(Config{Records: newLedger(t, c), Now: c.now})
	d := e.take(sends("alice", 900))
	d.Degraded = "local"
	m.Count(d)
	d.Degraded = ""
	for i := range d.Limits() {
		d.Limits()[i].Shared = true
	}
	m.Count(d)
	if len(m.events) != 0 || len(m.Ratios(10)) != 0 {
		t.Errorf("%d events, %+v", len(m.events), m.Ratios(10))
	}
}

// A flood of subjects takes a fixed amount of memory, and nothing is on record twice.
func TestThresholdsFlood(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 1000/day}]}}
applications: {email: {default_plan: free}}
`), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now, MaxRows: 10})
	m.Count(e.take(sends("alice", 1000)))
	put(t, m)
	s := m.shard(m.ownerOf("email", "alice"))
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 * maxMarks {
		s.marks.put(r.Uint64(), mark{start.Add(time.Hour).UnixMicro(), 1, 3})
	}
	if len(s.marks) != maxMarks {
		t.Errorf("%d marks", len(s.marks))
	}
	m.Count(e.take(sends("alice", 0))) // of whom it is forgotten that it was told
	if len(m.events) != 3 {
		t.Errorf("%d events", len(m.events))
	}
	put(t, m)
	const subjects = maxEvents // each of which has three
	for n := range subjects {
		m.Count(e.take(sends(fmt.Sprint("s", n), 1000)))
	}
	if len(m.events) != maxEvents {
		t.Errorf("%d events wait", len(m.events))
	}
	put(t, m)
	for n := range subjects { // those for which there was no room are noticed again
		m.Count(e.take(sends(fmt.Sprint("s", n), 0)))
		put(t, m)
	}
	if got := len(l.bodies()); got != 3*(1+subjects) {
		t.Errorf("%d events, want %d", got, 3*(1+subjects))
	}
}

// Events wait for records that are away, those that come before the end of Run too.
func TestThresholdsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{at: start}
		e, l := newEngine(t, c, quotas), newLedger(t, c)
		m := New(Config{Records: l, Now: c.now})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { m.Run(ctx) })
		l.misbehave(func() error { return errAway }, nil, nil)
		m.Count(e.take(sends("alice", 1000)))
		<-time.After(time.Hour)
		l.misbehave(nil, func() error { return errAway }, nil) // on record, and nobody knows
		<-time.After(5 * time.Minute)
		l.misbehave(nil, nil, nil)
		<-time.After(5 * time.Minute)
		if got := keys(l.bodies()); len(got) != 3 {
			t.Errorf("%v", got)
		}
		l.misbehave(nil, nil, make(chan struct{}))
		m.Count(e.take(sends("bob", 1000)))
		<-time.After(time.Second)
		l.misbehave(nil, nil, nil)
		cancel()
		run.Wait()
		if got := keys(l.bodies()); len(got) != 6 {
			t.Errorf("%v", got)
		}
	})
}

// Levels are reached at whole numbers, however large.
func TestLevels(t *testing.T) {
	const most = 1<<53 - 1
	for _, tt := range []struct {
		used, quota int64
		level       int
	}{
		{0, 1, 0}, {1, 1, 3}, {0, 3, 0}, {1, 3, 0}, {2, 3, 1}, {3, 3, 3}, {49, 100, 0}, {50, 100, 1}, {79, 100, 1}, {80, 100, 2}, {99, 100, 2}, {100, 100, 3},
		{1000, 100, 3}, {6411749953461390, 8014687441826738, 1}, {6411749953461391, 8014687441826738, 2}, {6564109336477236, 6564109336477237, 2}, {most, most, 3}, {most - 1, most, 2}, {most / 2, most, 0}, {most/2 + 1, most, 1}, {most, 1, 3},
	} {
		if got := levelOf(tt.used, tt.quota); got != tt.level {
			t.Errorf("%d of %d: %d", tt.used, tt.quota, got)
		}
	}
}

// What webhooks are told has names that are part of the contract.
func TestBody(t *testing.T) {
	e := event{at: start.UnixMicro(), until: start.Add(time.Hour).UnixMicro(), application: "email", subject: "a\xff<", owner: "a\xff<", plan: "free", limit: "plan/daily", unit: "requests", used: 5, quota: 10}
	r := e.record()
	var got map[string]any
	if err := json.Unmarshal([]byte(r.Body), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"id": r.ID, "type": "quota.threshold", "at": "2026-03-01T12:00:00Z", "application": "email", "subject": "a\uFFFD<", "owner": "a\uFFFD<", "plan": "free",
		"limit": "plan/daily", "unit": "requests", "threshold": 50.0, "used": 5.0, "quota": 10.0, "period_ends": "2026-03-01T13:00:00Z",
	}
	if !reflect.DeepEqual(got, want) || !strings.HasPrefix(r.ID, "evt_") || len(r.ID) != 36 {
		t.Errorf("%v, want %v", got, want)
	}
}
