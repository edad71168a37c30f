package meter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
)

// odd are zones with what calendars have to offer: quarters of an hour, moves by half an
// hour and at midnight, and a day that never was.
var odd = []string{"UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Paris", "Asia/Beirut", "America/St_Johns", "America/Asuncion"}

// fill puts usage of several weeks in odd zones on record.
func fill(t *testing.T, c *clock, db *records.DB) *Meter {
	t.Helper()
	e := newEngine(t, c, model)
	m := New(Config{Records: db, Now: c.now})
	onRecord := gate.NewRecords()
	for i, zone := range odd {
		onRecord.Put(&gate.Record{Application: "email", Subject: zone, Known: true, Plan: "plain", Timezone: zoneOf(t, zone), Anchor: []int{1, 15, 31, 29, 30, 2, 28}[i]})
	}
	e.SetRecords(onRecord)
	r := rand.New(rand.NewPCG(2, 2))
	for range 40 { // from before the moves of March to behind those of April
		for range 3 {
			for _, zone := range odd {
				if r.IntN(3) > 0 {
					m.Count(e.take(sends(zone, r.Int64N(9))))
				}
			}
			c.set(c.now().Add(time.Duration(r.IntN(30)) * time.Minute))
			flush(t, m)
		}
		c.set(c.now().Add(time.Duration(r.IntN(20*60)) * time.Minute))
	}
	c.set(c.now().Add(2 * time.Hour))
	return m
}

// Of any time that is asked for, the spans are listed that begin in it, whole and once.
func TestUsageBetween(t *testing.T) {
	c := &clock{at: time.Date(2026, 3, 24, 0, 0, 0, 0, time.UTC)}
	m := fill(t, c, openRecords(t))
	r := rand.New(rand.NewPCG(6, 6))
	for _, swept := range []bool{false, true} {
		if swept {
			m.Set(Live{Retention: Retention{Hours: 10 * 24 * time.Hour, Days: 25 * 24 * time.Hour}})
			if err := m.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for span := records.Hour; span <= records.Month; span++ {
			all := usage(t, m, records.UsageQuery{Span: span})
			if len(all) < len(odd) {
				t.Fatalf("span %d: %d rows", span, len(all))
			}
			for n := range 50 {
				// An edge of a span, or an instant beside it.
				edge := func() time.Time {
					row := &all[r.IntN(len(all))]
					at := []time.Time{row.From, row.To}[r.IntN(2)]
					return at.Add([]time.Duration{-time.Microsecond, 0, time.Microsecond, time.Hour}[r.IntN(4)])
				}
				q := records.UsageQuery{Span: span}
				if n%5 > 0 {
					q.From = edge()
				}
				if n%5 != 1 {
					q.To = edge()
				}
				if n%7 == 0 {
					q.Subject = odd[r.IntN(len(odd))]
				}
				var want []Row
				for _, row := range all {
					if !row.From.Before(q.From) && (q.To.IsZero() || row.From.Before(q.To)) && (q.Subject == "" || row.Subject == q.Subject) {
						want = append(want, row)
					}
				}
				if got := usage(t, m, q); !slices.Equal(got, want) {
					t.Fatalf("span %d, from %v to %v: %d rows, want %d", span, q.From, q.To, len(got), len(want))
				}
			}
		}
	}
}

// Pages of any size have all rows, also where some of them have none.
func TestUsagePages(t *testing.T) {
	c := &clock{at: time.Date(2026, 3, 24, 0, 0, 0, 0, time.UTC)}
	m := fill(t, c, openRecords(t))
	all := usage(t, m, records.UsageQuery{Span: records.Day})
	from := all[0].From.AddDate(0, 0, 2).Add(3 * time.Hour)
	want := slices.DeleteFunc(slices.Clone(all), func(r Row) bool { return r.From.Before(from) })
	for _, limit := range []int{1, 2, 3, 50} {
		q := records.UsageQuery{Span: records.Day, From: from, Limit: limit}
		var got []Row
		empty := 0
		for {
			rows, last, more, err := m.Usage(t.Context(), q)
			if err != nil || len(rows) > limit {
				t.Fatal(len(rows), err)
			}
			if got = append(got, rows...); !more {
				break
			}
			if q.After = last; len(rows) == 0 {
				empty++
			}
		}
		if !slices.Equal(got, want) || limit == 1 && empty == 0 {
			t.Errorf("pages of %d: %d rows and %d empty, want %d", limit, len(got), empty, len(want))
		}
	}
}

// Months that are no longer kept are gone, and they alone.
func TestSweepMonths(t *testing.T) {
	c := &clock{at: time.Date(2026, 3, 24, 0, 0, 0, 0, time.UTC)}
	m := fill(t, c, openRecords(t))
	before := usage(t, m, records.UsageQuery{Span: records.Month})
	const day = 24 * time.Hour
	// All days of a month that is old enough are folded first, whatever the retention says.
	m.Set(Live{Retention: Retention{Hours: day, Days: 8 * day, Months: 2 * day}})
	keep := (8 + 32) * day
	c.set(time.Date(2026, 5, 11, 12, 0, 0, 0, time.UTC))
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := usage(t, m, records.UsageQuery{Span: records.Month})
	gone := 0
	for _, row := range before {
		row.Final = !c.now().Before(row.To.Add(Final))
		if old := row.From.Before(c.now().Add(-keep)); old == has(after, row) {
			t.Errorf("from %v, %v: %+v", row.From, old, row.Usage)
		} else if old {
			gone++
		}
	}
	if gone == 0 || gone == len(before) || gone+len(after) != len(before) {
		t.Errorf("%d of %d are gone", gone, len(before))
	}
	m.Set(Live{Retention: Retention{Hours: day, Days: 8 * day, Months: 45 * day}})
	c.set(c.now().Add(4 * day)) // there is nothing that is older
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	// For good, where that is said.
	m.Set(Live{})
	c.set(c.now().Add(100 * 365 * 24 * time.Hour))
	if err := m.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(usage(t, m, records.UsageQuery{Span: records.Month})); n != len(after) {
		t.Errorf("%d months, were %d", n, len(after))
	}
}

// What comes after the sweep for an hour that was folded is added.
func TestSweepEarly(t *testing.T) {
	c := &clock{at: start}
	e, db := newEngine(t, c, simple), openRecords(t)
	m := New(Config{Records: db, Now: c.now})
	m.Set(Live{Retention: Retention{Hours: time.Minute, Days: time.Minute}})
	for n := range 5 {
		m.Count(e.take(sends("alice", 7)))
		flush(t, m)
		c.set(c.now().Add(5 * time.Minute))
		if err := m.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows := usage(t, m, records.UsageQuery{Span: records.Month})
		if len(rows) != 1 || rows[0].Cost != 7*int64(n+1) || rows[0].Final {
			t.Errorf("%+v", rows)
		}
	}
}

// What cannot be read is an error.
func TestUsageErrors(t *testing.T) {
	c := &clock{at: start}
	db := openRecords(t)
	m := New(Config{Records: db, Now: c.now})
	u := records.Usage{Application: "email", Unit: "requests", Timezone: "Atlantis/Capital", Anchor: 1, Period: start, Allowed: 1}
	if err := db.Report(t.Context(), "another", 1, []records.Usage{u}); err != nil {
		t.Fatal(err)
	}
	want := `time zone "Atlantis/Capital"`
	if _, _, _, err := m.Usage(t.Context(), records.UsageQuery{Limit: 1}); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	c.set(start.AddDate(1, 0, 0))
	if err := m.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := m.Usage(ctx, records.UsageQuery{Limit: 1}); err == nil {
		t.Error("no error")
	}
}

// A plan that changes and a settlement of the day before stay where they belong.
func TestUsageStory(t *testing.T) {
	c := &clock{at: start}
	e, db := newEngine(t, c, model), openRecords(t)
	m := New(Config{Records: db, Now: c.now})
	m.Count(e.take(sends("alice", 30)))
	var d gate.Decision
	r := sends("alice", 25) // 15 beyond the 40 of the day
	r.Operation = "ask"
	r.Now = c.now().UnixMicro()
	if err := e.Reserve(t.Context(), &r, 20*time.Hour, &d); err != nil {
		t.Fatal(err)
	}
	m.Count(&d)
	flush(t, m)
	c.set(start.Add(13 * time.Hour))
	claim := gate.Claim{Ticket: string(d.AppendTicket(nil)), Cost: 5, CostSaid: true, Now: c.now().UnixMicro()}
	var end gate.Decision
	if err := e.Settle(t.Context(), &claim, &end); err != nil || !end.Corrects {
		t.Fatal(err)
	}
	m.Correct(&end)
	premium := sends("alice", 4)
	premium.Plan = "premium"
	m.Count(e.take(premium))
	flush(t, m)
	var got []string
	for _, row := range usage(t, m, records.UsageQuery{Span: records.Day}) {
		got = append(got, fmt.Sprint(row.Operation, " ", row.Plan, " ", row.From.UTC().Format("01-02T15:04"), " ", row.Allowed, " ", row.Cost, " ", row.Overage))
	}
	// What is left of a reservation goes back to the day of the settlement, which has no
	// overage to give back; the quota of the day before has it no more.
	want := []string{"ask free 03-01T00:00 1 25 15", "send free 03-01T00:00 1 30 0", "ask free 03-02T00:00 0 -20 0", "send premium 03-01T13:00 1 4 0"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
