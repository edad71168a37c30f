package records

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/internal/racetest"
)

// began is an hour of the tests, 2026-11-01 in UTC.
var began = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// hourOf is usage in UTC, so many hours after began.
func hourOf(subject string, hours int, allowed, cost int64) Usage {
	at := began.Add(time.Duration(hours) * time.Hour)
	day := at.Unix() / 86400
	return Usage{
		Application: "email", Subject: subject, Operation: "send", Plan: "free", Unit: "requests", Timezone: "UTC", Anchor: 1,
		Period: at, Day: day, Month: day - int64(at.Day()) + 1, Allowed: allowed, Cost: cost,
	}
}

// A report counts once, however often it arrives.
func TestReportOnce(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		report := func(reporter string, number int64, rows ...Usage) {
			t.Helper()
			if err := d.Report(ctx, reporter, number, rows); err != nil {
				t.Fatal(err)
			}
		}
		report("a", 1, hourOf("alice", 0, 2, 20))
		report("a", 1, hourOf("alice", 0, 2, 20))
		report("b", 1, hourOf("alice", 0, 1, -5), hourOf("bob", 0, 1, 1))
		report("a", 2, hourOf("alice", 1, 1, 1))
		report("a", 1, hourOf("alice", 0, 2, 20))
		report("a", 2, hourOf("alice", 1, 1, 1))
		list, more, err := d.Usage(ctx, UsageQuery{Limit: 10})
		if err != nil || more || len(list) != 3 {
			t.Fatalf("%+v, %v, %v", list, more, err)
		}
		for i, w := range []Usage{hourOf("alice", 0, 3, 15), hourOf("alice", 1, 1, 1), hourOf("bob", 0, 1, 1)} {
			w.Revision = list[i].Revision
			want(t, "usage", list[i], w)
		}
		if a, b, later := list[0].Revision, list[2].Revision, list[1].Revision; a != b || later <= a {
			t.Errorf("revisions %d, %d, %d", a, later, b)
		}
		was := list[0].Revision
		report("b", 2, hourOf("alice", 0, 0, 1))
		list, _, err = d.Usage(ctx, UsageQuery{Subject: "alice", Limit: 10})
		if err != nil || list[0].Revision <= was || list[0].Cost != 16 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// Sums of absurd costs stay where they can be told.
func TestUsageBounds(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		for n := range 3 {
			rows := []Usage{hourOf("alice", 0, 1, 1<<53-1), hourOf("alice", 1, 1, 1<<53-1), hourOf("bob", 0, 1, -(1<<53 - 1))}
			if err := d.Report(t.Context(), "a", int64(n+1), rows); err != nil {
				t.Fatal(err)
			}
		}
		list, _, err := d.Usage(t.Context(), UsageQuery{Span: Month, Limit: 10})
		if err != nil || len(list) != 2 || list[0].Cost != 2*(1<<53-1) || list[1].Cost != -(1<<53-1) {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// Reports of several processes at once are all counted.
func TestReportTogether(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		const reporters, reports = 4, 10
		var all sync.WaitGroup
		for r := range reporters {
			all.Go(func() {
				for n := range reports {
					rows := []Usage{hourOf("alice", 0, 1, 3), hourOf(fmt.Sprint("s", n), r, 1, 1)}
					if r%2 == 0 {
						slices.Reverse(rows)
					}
					if err := d.Report(context.WithoutCancel(t.Context()), fmt.Sprint("r", r), int64(n+1), rows); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		list, _, err := d.Usage(t.Context(), UsageQuery{Subject: "alice", Limit: 10})
		if err != nil || len(list) != 1 || list[0].Allowed != reporters*reports || list[0].Cost != 3*reporters*reports {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// random makes hours that all differ.
func random(r *rand.Rand, n int) []Usage {
	seen := make(map[usageKey]bool)
	var rows []Usage
	for len(rows) < n {
		u := hourOf(fmt.Sprintf("s%03d", r.IntN(300)), r.IntN(24*70), r.Int64N(5), r.Int64N(100)-10)
		u.Application = []string{"email", "web"}[r.IntN(2)]
		u.Operation = []string{"", "send", "Æ"}[r.IntN(3)]
		u.Unit = []string{"requests", "tokens"}[r.IntN(2)]
		u.Plan = []string{"free", "premium"}[r.IntN(2)]
		u.Denied, u.Overage = r.Int64N(3), r.Int64N(2)
		if u.Subject < "s030" && r.IntN(2) == 0 { // some whose months begin on the 15th
			u.Anchor = 15
			at := u.Period
			first := time.Date(at.Year(), at.Month(), 15, 0, 0, 0, 0, time.UTC)
			if at.Before(first) {
				first = first.AddDate(0, -1, 0)
			}
			u.Month = first.Unix() / 86400
		}
		if !seen[u.key()] {
			seen[u.key()] = true
			rows = append(rows, u)
		}
	}
	return rows
}

// label is what rows of a span have in common.
func (u *Usage) label(span Span) int64 {
	switch span {
	case Day:
		return u.Day
	case Month:
		return u.Month
	}
	return u.Period.UnixMicro()
}

// sums is what Usage must answer.
func sums(rows []Usage, q *UsageQuery) []Usage {
	found := make(map[usageKey]*Usage)
	for _, u := range rows {
		if q.Application != "" && u.Application != q.Application || q.Subject != "" && u.Subject != q.Subject || q.Plan != "" && u.Plan != q.Plan ||
			q.Operation != "" && u.Operation != q.Operation || q.Unit != "" && u.Unit != q.Unit ||
			q.FromDay != 0 && (u.Day < q.FromDay && q.Span != Month || u.Month < q.FromDay && q.Span == Month) ||
			q.ToDay != 0 && (u.Day >= q.ToDay && q.Span != Month || u.Month >= q.ToDay && q.Span == Month) ||
			!q.From.IsZero() && u.Period.Before(q.From) || !q.To.IsZero() && !u.Period.Before(q.To) {
			continue
		}
		key := u.key()
		key.period = u.label(q.Span)
		s := found[key]
		if s == nil {
			found[key] = &u
			continue
		}
		s.Allowed, s.Denied, s.Cost, s.Overage = s.Allowed+u.Allowed, s.Denied+u.Denied, s.Cost+u.Cost, s.Overage+u.Overage
		s.Day = min(s.Day, u.Day)
		if u.Period.Before(s.Period) {
			s.Period = u.Period
		}
	}
	var list []Usage
	for _, u := range found {
		list = append(list, *u)
	}
	slices.SortFunc(list, func(a, b Usage) int {
		return cmp.Or(cmp.Compare(a.Application, b.Application), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.label(q.Span), b.label(q.Span)),
			cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Plan, b.Plan), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Anchor, b.Anchor))
	})
	return list
}

// walk reads all pages.
func walk(t *testing.T, d *DB, q UsageQuery) (list []Usage) {
	t.Helper()
	for {
		page, more, err := d.Usage(t.Context(), q)
		if err != nil || len(page) > q.Limit || more && len(page) == 0 {
			t.Fatalf("%d rows, %v, %v", len(page), more, err)
		}
		list = append(list, page...)
		if !more {
			return list
		}
		q.After = &page[len(page)-1]
	}
}

// Usage is what was reported, in every span, on every page, and whatever of it was folded.
func TestUsage(t *testing.T) {
	racetest.Alone(t)
	each(t, func(t *testing.T, d *DB) {
		r := rand.New(rand.NewPCG(6, 1))
		rows := random(r, 4_000)
		for i, part := range slices.Collect(slices.Chunk(rows, 1_700)) {
			if err := d.Report(t.Context(), "node", int64(i+1), part); err != nil {
				t.Fatal(err)
			}
		}
		queries := []UsageQuery{
			{}, {Application: "web"}, {Application: "email", Subject: "s007"}, {Plan: "premium", Unit: "tokens"}, {Operation: "Æ"},
			{From: began.Add(50 * time.Hour), To: began.Add(900 * time.Hour)}, {Subject: "nobody"},
			{FromDay: began.Unix()/86400 + 14, ToDay: began.Unix()/86400 + 40},
		}
		check := func(when string, spans ...Span) {
			t.Helper()
			for _, span := range spans {
				for i, q := range queries {
					q.Span = span
					q.Limit = []int{500, 113}[r.IntN(2)]
					got, expected := walk(t, d, q), sums(rows, &q)
					for i := range got {
						got[i].Revision = 0
						if when != "" {
							got[i].Period, got[i].Day = time.Time{}, 0 // of what is left, or was folded
						}
					}
					for i := range expected {
						if when != "" {
							expected[i].Period, expected[i].Day = time.Time{}, 0
						}
					}
					if !slices.Equal(got, expected) {
						t.Errorf("%s: span %d, query %d: %d rows, expected %d", when, span, i, len(got), len(expected))
					}
					q.After, q.Limit = &rows[0], 0 // count for nothing
					if n, err := d.CountUsage(t.Context(), q); err != nil || n != int64(len(expected)) {
						t.Errorf("%s: span %d, query %d: %d rows are counted, expected %d, %v", when, span, i, n, len(expected), err)
					}
				}
			}
		}
		check("", Hour, Day, Month)
		fold := func(span Span, before time.Time, begin func(*Usage) time.Time) {
			t.Helper()
			for {
				n, err := d.FoldUsage(t.Context(), span, before, func(u *Usage) (time.Time, error) { return begin(u), nil })
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					return
				}
			}
		}
		// The ranges of times in queries fall on days and on what is left.
		queries = slices.DeleteFunc(queries, func(q UsageQuery) bool { return !q.From.IsZero() })
		fold(Hour, began.Add(1_000*time.Hour), func(u *Usage) time.Time { return time.Unix(u.Day*86400, 0) })
		check("hours folded", Day, Month)
		var hours int
		if err := d.read.QueryRowContext(t.Context(), `select count(*) from headgate_usage where span = 0 and period < $1`, micros(began.Add(1_000*time.Hour))).Scan(&hours); err != nil || hours != 0 {
			t.Errorf("%d hours are left, %v", hours, err)
		}
		fold(Day, began.Add(800*time.Hour), func(u *Usage) time.Time { return time.Unix(u.Month*86400, 0) })
		check("days folded", Month)
		before := len(walk(t, d, UsageQuery{Span: Month, Limit: 500}))
		n, err := d.DropUsage(t.Context(), Month, began.Add(24*time.Hour))
		if after := len(walk(t, d, UsageQuery{Span: Month, Limit: 500})); err != nil || n == 0 || after >= before {
			t.Errorf("%d dropped, %d rows of %d left, %v", n, after, before, err)
		}
	})
}

// What cannot be folded stays.
func TestFoldFails(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		if err := d.Report(t.Context(), "a", 1, []Usage{hourOf("alice", 0, 1, 1)}); err != nil {
			t.Fatal(err)
		}
		fault := errors.New("no such zone")
		if _, err := d.FoldUsage(t.Context(), Hour, began.Add(time.Hour), func(*Usage) (time.Time, error) { return time.Time{}, fault }); !errors.Is(err, fault) {
			t.Error(err)
		}
		if list := walk(t, d, UsageQuery{Limit: 10}); len(list) != 1 {
			t.Errorf("%+v", list)
		}
	})
}

// An event is told to each webhook until it has been delivered or given up, by one at a
// time.
func TestDeliveries(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		e := Event{ID: "e1", At: began, Kind: "quota.threshold", Application: "email", Subject: "alice", Body: `{"threshold":50}`}
		if fresh, err := d.PutEvent(ctx, e, []string{"billing", "chat"}); err != nil || !fresh {
			t.Fatal(fresh, err)
		}
		if fresh, err := d.PutEvent(ctx, e, []string{"billing"}); err != nil || fresh {
			t.Errorf("once more: %v, %v", fresh, err)
		}
		if _, err := d.ClaimDelivery(ctx, "billing", began.Add(-time.Second), began); !errors.Is(err, ErrNotFound) {
			t.Errorf("not due yet: %v", err)
		}
		c, err := d.ClaimDelivery(ctx, "billing", began, began.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		want(t, "the delivery", c, Delivery{Event: e, Webhook: "billing", Attempts: 1})
		if _, err := d.ClaimDelivery(ctx, "billing", began.Add(59*time.Second), began.Add(time.Hour)); !errors.Is(err, ErrNotFound) {
			t.Errorf("somebody has it: %v", err)
		}
		if err := d.Undelivered(ctx, &c, "503", began.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		c, err = d.ClaimDelivery(ctx, "billing", began.Add(time.Hour), began.Add(2*time.Hour))
		if err != nil || c.Attempts != 2 {
			t.Fatalf("%+v, %v", c, err)
		}
		stale := c
		stale.Attempts--
		if err := d.Undelivered(ctx, &stale, "late", began); err != nil {
			t.Error(err)
		}
		if _, err := d.ClaimDelivery(ctx, "billing", began.Add(time.Hour), began); !errors.Is(err, ErrNotFound) {
			t.Errorf("who was too slow has changed it: %v", err)
		}
		if err := d.Delivered(ctx, &c); err != nil {
			t.Fatal(err)
		}
		late := began.Add(1_000 * time.Hour)
		if _, err := d.ClaimDelivery(ctx, "billing", late, late); !errors.Is(err, ErrNotFound) {
			t.Errorf("it was delivered: %v", err)
		}
		c, err = d.ClaimDelivery(ctx, "chat", late, late)
		if err != nil || c.Attempts != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
		if err := d.Undelivered(ctx, &c, "410", time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ClaimDelivery(ctx, "chat", late, late); !errors.Is(err, ErrNotFound) {
			t.Errorf("it was given up: %v", err)
		}
		if err := d.Sweep(ctx, Retention{}); err != nil {
			t.Error(err)
		}
	})
}

func TestNodes(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		for _, n := range []Node{{Name: "b", Started: began, Detail: `{}`}, {Name: "a", Started: began, Detail: `{}`}, {Name: "b", Started: began, Detail: `{"version":"1"}`}} {
			if err := d.PutNode(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		list, err := d.Nodes(ctx)
		if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Detail != `{"version":"1"}` || !list[1].Started.Equal(began) || time.Since(list[1].Seen) > time.Minute {
			t.Errorf("%+v, %v", list, err)
		}
		if err := d.DeleteNode(ctx, "a"); err != nil {
			t.Error(err)
		}
		if list, err := d.Nodes(ctx); err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}
