package meter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const ratioPolicy = `
version: 1
plans:
  free:
    limits:
      - {name: hourly, algorithm: quota, rate: 1000/hour}
      - {name: daily, algorithm: quota, rate: 5000/day}
      - {name: weekly, algorithm: quota, rate: 20000/week, soft: true}
      - {name: monthly, algorithm: quota, rate: 20000/month, mode: shadow}
      - {name: yearly, algorithm: quota, rate: 1000000/year, per: application}
applications: {email: {default_plan: free}, web: {default_plan: free}}
`

// Ratios are the greatest of what is used, as long as their periods last.
func TestRatios(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, ratioPolicy)
	m := New(Config{Records: newLedger(t, c), Now: c.now})
	m.Count(e.take(sends("alice", 250)))
	m.Count(e.take(sends("alice", 500)))
	m.Count(e.take(sends("bob", 600)))
	want := []Ratio{{"alice", "hourly", 0.75}, {"bob", "hourly", 0.6}, {"alice", "daily", 0.15}, {"bob", "daily", 0.12}, {"alice", "weekly", 0.0375}, {"bob", "weekly", 0.03}}
	if got := m.Ratios(100); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := m.Ratios(2); !slices.Equal(got, want[:2]) {
		t.Errorf("%+v", got)
	}
	web := sends("bob", 900)
	web.Application = "web"
	m.Count(e.take(web)) // the same name elsewhere: the greater one is told
	if got := m.Ratios(1); !slices.Equal(got, []Ratio{{"bob", "hourly", 0.9}}) {
		t.Errorf("%+v", got)
	}
	c.set(start.Add(time.Hour))
	if got := m.Ratios(2); !slices.Equal(got, []Ratio{{"bob", "daily", 0.18}, {"alice", "daily", 0.15}}) {
		t.Errorf("%+v", got)
	}
	m.Count(e.take(sends("alice", 100)))
	if got := m.Ratios(2); !slices.Equal(got, []Ratio{{"bob", "daily", 0.18}, {"alice", "daily", 0.17}}) {
		t.Errorf("%+v", got)
	}
	if got := m.Ratios(-1); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// Those of whom the most is used are found among many.
func TestRatiosFlood(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 100000/day}]}}
applications: {email: {default_plan: free}}
`)
	m := New(Config{Records: newLedger(t, c), Now: c.now, MaxRows: 10})
	const subjects = 20_000
	for _, n := range rand.New(rand.NewPCG(1, 1)).Perm(subjects) {
		m.Count(e.take(sends(fmt.Sprintf("s%05d", n), int64(n+1))))
	}
	got := m.Ratios(20)
	for i, r := range got {
		if n := subjects - 1 - i; r != (Ratio{fmt.Sprintf("s%05d", n), "daily", float64(n+1) / 100_000}) {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if len(got) != 20 {
		t.Errorf("%d", len(got))
	}
}

// Whose period is over makes room, however much was used of it.
func TestRatiosOver(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, `
version: 1
plans: {free: {limits: [{name: hourly, algorithm: quota, rate: 1000/hour}]}}
applications: {email: {default_plan: free}}
`)
	m := New(Config{Records: newLedger(t, c), Now: c.now})
	for n := range 10 * shards * maxRatios {
		m.Count(e.take(sends(fmt.Sprint("s", n), 1000)))
	}
	if got := m.Ratios(1 << 20); len(got) != shards*maxRatios || got[len(got)-1].Used != 1 {
		t.Fatalf("%d, %+v", len(got), got[len(got)-1])
	}
	c.set(start.Add(time.Hour))
	const later = 200
	for n := range later {
		m.Count(e.take(sends(fmt.Sprint("later", n), 100)))
	}
	if got := m.Ratios(1 << 20); len(got) != later || got[0].Used != 0.1 {
		t.Errorf("%d, %+v", len(got), got[0])
	}
}
