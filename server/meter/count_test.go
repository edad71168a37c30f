package meter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
)

const model = `
version: 1
plans:
  free:
    limits:
      - {name: daily, algorithm: quota, rate: 40/day, soft: true}
      - {name: tokens, algorithm: quota, unit: tokens, rate: 300/month, soft: true, when_missing: skip}
  premium:
    limits:
      - {name: monthly, algorithm: quota, rate: 300/month, soft: true, timezone: Australia/Lord_Howe, anchor: 31}
  plain: {limits: []}
applications:
  email:
    default_plan: free
    deny: ["subject:mallory"]
    rules:
      - {name: send, match: {operation: send}, limits: [{name: burst, rate: 6/min, burst: 30}]}
      - {name: ask, match: {operation: ask}}
      - {name: trial, match: {operation: trial}, limits: [{name: few, rate: 1/min, mode: shadow}]}
      - {name: page, match: {path: "/page"}}
`

// billed is a subject of the model: what is on record of it, where that is not nothing.
type billed struct {
	name, plan, zone string
	anchor           int
}

// where is how its usage is divided, by the policy above.
func (b *billed) where() (plan, zone string, anchor int) {
	switch {
	case b.zone != "":
		return b.plan, b.zone, b.anchor
	case b.plan == "premium":
		return b.plan, "Australia/Lord_Howe", 31
	default:
		return b.plan, "UTC", 1
	}
}

// quota is the soft quota of a plan in a unit.
func (b *billed) quota(unit string) (name string, limit int64) {
	switch {
	case b.plan == "free" && unit == "requests":
		return "daily", 40
	case b.plan == "free" && unit == "tokens":
		return "tokens", 300
	case b.plan == "premium" && unit == "requests":
		return "monthly", 300
	}
	return "", 0
}

// dateOf is the local date of an instant.
func dateOf(at time.Time, zone *time.Location) time.Time {
	y, m, d := at.In(zone).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// monthOf is the first date of the month that begins on a day of the calendar's, or the
// last one where that has fewer.
func monthOf(date time.Time, anchor int) time.Time {
	first := func(year int, month time.Month) time.Time {
		last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC)
		return last.AddDate(0, 0, min(anchor, last.Day())-last.Day())
	}
	if f := first(date.Year(), date.Month()); !date.Before(f) {
		return f
	}
	return first(date.Year(), date.Month()-1)
}

// book is what the model counts.
type book struct {
	rows  map[records.Usage]count
	spent map[string]int64 // of quotas, by subject, name and first date
}

func zoneOf(t testing.TB, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// entry adds to the row of an hour.
func (k *book) entry(t testing.TB, b *billed, operation, unit string, at time.Time, by count) {
	t.Helper()
	plan, zone, anchor := b.where()
	if b.name == "mallory" {
		plan, zone, anchor = "", "UTC", 1 // refused before a plan is found
	}
	u := records.Usage{
		Application: "email", Subject: b.name, Operation: operation, Plan: plan, Unit: unit,
		Timezone: zone, Anchor: anchor, Period: hourBegin(at, zoneOf(t, zone)),
	}
	c := k.rows[u]
	c.add(by)
	k.rows[u] = c
}

// charge is the overage of a charge, or of what is given back.
func (k *book) charge(t testing.TB, b *billed, unit string, at time.Time, by int64) int64 {
	t.Helper()
	name, limit := b.quota(unit)
	if name == "" {
		return 0
	}
	spent := k.spent[k.period(t, b, name, at)]
	k.spent[k.period(t, b, name, at)] += by
	return max(0, spent+by-limit) - max(0, spent-limit)
}

func (k *book) period(t testing.TB, b *billed, quota string, at time.Time) string {
	t.Helper()
	zone, anchor := "UTC", 1
	if b.zone != "" {
		zone, anchor = b.zone, b.anchor
	} else if quota == "monthly" {
		zone, anchor = "Australia/Lord_Howe", 31
	}
	date := dateOf(at, zoneOf(t, zone))
	if quota != "daily" {
		date = monthOf(date, anchor)
	}
	return fmt.Sprint(b.name, " ", quota, date.Format(" 2006-01-02"))
}

// decided enters a decision.
func (k *book) decided(t testing.TB, b *billed, r *gate.Request, allowed bool, at time.Time) {
	t.Helper()
	one := func(unit string, cost int64) {
		by := count{denied: 1}
		if allowed {
			by = count{allowed: 1, cost: cost, overage: k.charge(t, b, unit, at, cost)}
		}
		k.entry(t, b, r.Operation, unit, at, by)
	}
	one("requests", r.Cost)
	if b.name != "mallory" { // whose costs nobody looks at
		for unit, cost := range r.Costs {
			one(unit, cost)
		}
	}
}

// What is counted is what an independent model counts, to the row: with decisions of all
// kinds, in odd zones, over the moves of clocks and the ends of months.
func TestCountModel(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 6))
	c := &clock{at: time.Date(2026, 3, 20, 0, 0, 0, 0, time.UTC)}
	e, db := newEngine(t, c, model), openRecords(t)
	m := New(Config{Records: db, Now: c.now})
	k := &book{rows: make(map[records.Usage]count), spent: make(map[string]int64)}
	subjects := []*billed{
		{name: "alice", plan: "free"}, {name: "bob", plan: "premium"}, {name: "mallory"},
		{name: "kath", plan: "free", zone: "Asia/Kathmandu", anchor: 15}, {name: "howe", plan: "premium", zone: "Australia/Lord_Howe", anchor: 31},
		{name: "paris", plan: "free", zone: "Europe/Paris", anchor: 29}, {name: "mover", plan: "plain", zone: "America/New_York", anchor: 30},
		{name: "Æ, \"<\n", plan: "free"},
	}
	subjects[7].name = "Æ, \"<"
	onRecord := gate.NewRecords()
	e.SetRecords(onRecord)
	put := func(b *billed) {
		if b.zone != "" {
			onRecord.Put(&gate.Record{Application: "email", Subject: b.name, Known: true, Plan: b.plan, Timezone: zoneOf(t, b.zone), Anchor: b.anchor})
		}
	}
	for _, b := range subjects {
		put(b)
	}
	kinds := make(map[string]int)
	random := func(b *billed) gate.Request {
		q := gate.Request{Application: "email", Subject: b.name, Operation: []string{"send", "ask", "trial", "else"}[r.IntN(4)], Cost: r.Int64N(8), CostSaid: true, Now: c.at.UnixMicro()}
		if b.zone == "" && b.name != "mallory" {
			q.Plan = b.plan
		}
		if r.IntN(3) == 0 {
			q.Costs = map[string]int64{"tokens": r.Int64N(60)}
		}
		return q
	}
	said := func(b *billed, q gate.Request) gate.Request {
		if b.name == "mallory" {
			q.Cost = 0 // whose costs nobody looks at
		}
		return q
	}
	var ds [3]gate.Decision
	d := &ds[0]
	step := func(n int) {
		b := subjects[r.IntN(len(subjects))]
		q := random(b)
		switch r.IntN(10) {
		case 0: // again under the same key
			q.IdempotencyKey = fmt.Sprint("key", n)
			for range 3 {
				if err := e.Take(t.Context(), &q, d); err != nil {
					t.Fatal(err)
				}
				m.Count(d)
				if !d.Replayed {
					k.decided(t, b, &q, d.Allowed, c.at)
				} else {
					kinds["replayed"]++
				}
			}
		case 1: // together
			qs := []gate.Request{q, random(b), random(subjects[r.IntN(2)])}
			others := []*billed{b, b, nil}
			for _, x := range subjects[:2] {
				if x.name == qs[2].Subject {
					others[2] = x
				}
			}
			if _, err := e.TakeAll(t.Context(), []*gate.Request{&qs[0], &qs[1], &qs[2]}, []*gate.Decision{&ds[0], &ds[1], &ds[2]}); err != nil {
				t.Fatal(err)
			}
			for i := range qs {
				m.Count(&ds[i])
				k.decided(t, others[i], &qs[i], ds[i].Allowed, c.at)
				kinds[fmt.Sprint("together ", ds[i].Allowed)]++
			}
		case 2, 3: // reserved, and settled at another cost
			if err := e.Reserve(t.Context(), &q, time.Hour, d); err != nil {
				t.Fatal(err)
			}
			m.Count(d)
			k.decided(t, b, &q, d.Allowed, c.at)
			if !d.Allowed {
				return
			}
			reserved := c.at
			c.at = c.at.Add(time.Duration(r.IntN(300)) * time.Second)
			claim := gate.Claim{Ticket: string(d.AppendTicket(nil)), Application: "email", Cost: r.Int64N(20), CostSaid: true, Now: c.at.UnixMicro()}
			real := map[string]int64{"requests": claim.Cost}
			if _, said := q.Costs["tokens"]; said {
				claim.Costs = map[string]int64{"tokens": r.Int64N(100)}
				real["tokens"] = claim.Costs["tokens"]
			}
			end := e.Settle
			if r.IntN(4) == 0 {
				end = e.Release
				for unit := range real {
					real[unit] = 0
				}
			}
			var answer gate.Decision
			for again := range 2 {
				if err := end(t.Context(), &claim, &answer); err != nil {
					t.Fatal(err)
				}
				m.Correct(&answer)
				if answer.Corrects && again > 0 {
					t.Fatal("settled twice")
				}
				if !answer.Corrects {
					continue
				}
				for unit, cost := range real {
					by := cost - map[string]int64{"requests": q.Cost, "tokens": q.Costs["tokens"]}[unit]
					if by == 0 {
						continue
					}
					over := int64(0)
					if name, _ := b.quota(unit); by > 0 || name != "" && k.period(t, b, name, reserved) == k.period(t, b, name, c.at) {
						over = k.charge(t, b, unit, c.at, by)
					} // else the period that is over has no use for it
					k.entry(t, b, q.Operation, unit, c.at, count{cost: by, overage: over})
					kinds[fmt.Sprint("corrected ", by > 0)]++
					if over < 0 {
						kinds["given back"]++
					}
				}
			}
		case 4: // another plan, or another zone
			switch {
			case b.name == "mover":
				b.zone, b.anchor = []string{"Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"}[r.IntN(3)], 1+r.IntN(31)
			case b.zone != "" && b.plan == "free":
				b.plan = "premium"
			case b.zone != "":
				b.plan = "free"
			}
			put(b)
			kinds["changed"]++
		default:
			if err := e.Take(t.Context(), &q, d); err != nil {
				t.Fatal(err)
			}
			m.Count(d)
			s := said(b, q)
			k.decided(t, b, &s, d.Allowed, c.at)
			kinds[fmt.Sprint("shadow ", d.Shadow)]++
			kinds[fmt.Sprint("allowed ", d.Allowed)]++
		}
	}
	for n := range 2_500 {
		step(n)
		c.at = c.at.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
		if n%10 == 9 { // before what has come is late for its hour
			flush(t, m)
		}
		if n%60 == 59 {
			c.at = c.at.Add(time.Duration(r.Int64N(int64(20 * time.Hour))))
		}
	}
	flush(t, m)
	c.at = c.at.Add(30 * time.Minute)
	for _, kind := range []string{"replayed", "together true", "together false", "corrected true", "corrected false", "given back", "changed", "shadow true", "allowed true", "allowed false"} {
		if kinds[kind] < 10 {
			t.Errorf("%d times %s", kinds[kind], kind)
		}
	}
	k.compare(t, m, c)
	// Folding changes no sum of what is longer.
	m.Set(Live{Retention: Retention{Hours: 4 * 24 * time.Hour, Days: 10 * 24 * time.Hour}})
	before := [...][]Row{usage(t, m, records.UsageQuery{Span: records.Day}), usage(t, m, records.UsageQuery{Span: records.Month})}
	if err := m.Sweep(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	kept := c.at.Add(-11 * 24 * time.Hour)
	after := usage(t, m, records.UsageQuery{Span: records.Day})
	if len(after) >= len(before[0]) || len(after) == 0 {
		t.Errorf("%d days of %d are kept", len(after), len(before[0]))
	}
	for _, row := range before[0] {
		if row.From.After(kept) && !row.From.After(c.at.Add(-10*24*time.Hour)) {
			continue // some of its parts are older
		}
		if found := has(after, row); found != row.From.After(kept) {
			t.Errorf("after the sweep: %v, %+v", found, row)
		}
	}
	months := usage(t, m, records.UsageQuery{Span: records.Month})
	for i, row := range before[1] {
		if len(months) != len(before[1]) || !same(months[i], row) {
			t.Fatalf("a month after the sweep: %+v, was %+v", months[i], row)
		}
	}
}

// same reports whether two rows are, but for when their first part began.
func same(a, b Row) bool {
	a.Period, b.Period = time.Time{}, time.Time{}
	return a == b
}

func has(rows []Row, row Row) bool {
	for i := range rows {
		if same(rows[i], row) {
			return true
		}
	}
	return false
}

// compare compares what is on record with the model, by hours, days and months.
func (k *book) compare(t *testing.T, m *Meter, c *clock) {
	t.Helper()
	days, months := make(map[records.Usage]count), make(map[records.Usage]count)
	longer := func(to map[records.Usage]count, u records.Usage, first time.Time, by count) {
		u.Period = first
		sum := to[u]
		sum.add(by)
		to[u] = sum
	}
	for u, by := range k.rows {
		date := dateOf(u.Period, zoneOf(t, u.Timezone))
		longer(days, u, date, by)
		longer(months, u, monthOf(date, u.Anchor), by)
	}
	var sums [3]count
	for span, want := range []map[records.Usage]count{k.rows, days, months} {
		rows := usage(t, m, records.UsageQuery{Span: records.Span(span)})
		if len(rows) != len(want) {
			t.Errorf("span %d: %d rows, want %d", span, len(rows), len(want))
		}
		for _, row := range rows {
			u, zone := row.Usage, zoneOf(t, row.Timezone)
			got := count{u.Allowed, u.Denied, u.Cost, u.Overage}
			sums[span].add(got)
			u.Allowed, u.Denied, u.Cost, u.Overage, u.Day, u.Month, u.Revision = 0, 0, 0, 0, 0, 0, 0
			date := dateOf(row.From, zone)
			from, to := hourBegin(row.From, zone), hourEnd(row.From, zone)
			switch records.Span(span) {
			case records.Hour:
				u.Period = row.From.UTC()
			case records.Day:
				u.Period = date
				from, to = midnight(date, zone), midnight(date.AddDate(0, 0, 1), zone)
			case records.Month:
				u.Period = monthOf(date, u.Anchor)
				next := u.Period
				for !next.After(u.Period) {
					date = date.AddDate(0, 0, 1)
					next = monthOf(date, u.Anchor)
				}
				from, to = midnight(u.Period, zone), midnight(next, zone)
			}
			if !row.From.Equal(from) || !row.To.Equal(to) || row.Final != !c.at.Before(to.Add(Final)) {
				t.Errorf("span %d: from %v to %v, final %v, want %v to %v: %+v", span, row.From, row.To, row.Final, from, to, u)
			}
			if got != want[u] {
				t.Errorf("span %d: %+v, want %+v: %+v", span, got, want[u], u)
			}
		}
	}
	if sums[0] != sums[1] || sums[1] != sums[2] || sums[0].allowed < 1000 || sums[0].overage < 100 {
		t.Errorf("%+v", sums)
	}
}

// midnight is when a local date begins.
func midnight(date time.Time, zone *time.Location) time.Time {
	y, m, d := date.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, zone)
}

// overages are what is counted of requests in all.
func overages(t *testing.T, l *ledger, m *Meter) count {
	t.Helper()
	flush(t, m)
	return l.total(requests)
}

// A budget that two scopes charge is exceeded by what both have charged.
func TestOverageOfScopes(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, `
version: 1
plans: {free: {limits: []}}
applications:
  email:
    default_plan: free
    limits: [{name: world, per: global, algorithm: quota, rate: 10/day, soft: true}]
    rules:
      - {name: send, match: {operation: send}, limits: [{name: world, per: global, algorithm: quota, rate: 10/day, soft: true}]}
`), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	for range 3 {
		m.Count(e.take(sends("alice", 3)))
	}
	if got := overages(t, l, m); got != (count{allowed: 3, cost: 9, overage: 8}) { // of 18, twice 9
		t.Errorf("%+v", got)
	}
}

// A hard quota is exceeded by settlements alone; in shadow it charges nothing of what it
// would have refused, and so exceeds itself by nothing.
func TestOverageInShadow(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 10/day, mode: shadow}]}}
applications: {email: {default_plan: free}}
`), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	r, d, end := sends("alice", 4), new(gate.Decision), new(gate.Decision)
	r.Now = c.now().UnixMicro()
	if err := e.Reserve(t.Context(), &r, time.Hour, d); err != nil {
		t.Fatal(err)
	}
	m.Count(d)
	if err := e.Settle(t.Context(), &gate.Claim{Ticket: string(d.AppendTicket(nil)), Cost: 16, CostSaid: true, Now: r.Now}, end); err != nil || !end.Corrects {
		t.Fatalf("%v, %+v", err, end.Limits())
	}
	m.Correct(end)
	if got := overages(t, l, m); got != (count{allowed: 1, cost: 16, overage: 6}) {
		t.Errorf("%+v", got)
	}
	if d = e.take(sends("alice", 5)); !d.Shadow {
		t.Fatalf("%+v", d.Decision)
	}
	m.Count(d)
	if got := overages(t, l, m); got != (count{allowed: 2, cost: 21, overage: 6}) {
		t.Errorf("%+v", got)
	}
}
