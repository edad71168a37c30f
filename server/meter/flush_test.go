package meter

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
)

// Records that fail, that have done it and say that they have not, and that hang: once
// they are back everything is on record once.
func TestFlushFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{at: start}
		e, l := newEngine(t, c, simple), newLedger(t, c)
		m := New(Config{Records: l, Now: c.now})
		r := rand.New(rand.NewPCG(1, 2))
		want := make(map[string]count)
		away := func() error { return errAway }
		sometimes := func() error {
			if r.IntN(2) == 0 {
				return errAway
			}
			return nil
		}
		never := make(chan struct{})
		failed := 0
		for round := range 300 {
			for range r.IntN(20) {
				subject, cost := fmt.Sprint("s", r.IntN(30)), r.Int64N(100)
				m.Count(e.take(sends(subject, cost)))
				sum := want[subject]
				sum.add(count{allowed: 1, cost: cost})
				want[subject] = sum
			}
			switch round % 6 {
			case 0:
				l.misbehave(nil, nil, nil)
			case 1:
				l.misbehave(away, nil, nil)
			case 2:
				l.misbehave(nil, away, nil)
			case 3:
				l.misbehave(sometimes, sometimes, nil)
			case 4:
				l.misbehave(nil, nil, never)
			}
			began := time.Now()
			if err := m.Flush(t.Context()); err != nil {
				failed++
			}
			if took := time.Since(began); took > 2*reportTime {
				t.Fatalf("a flush takes %v", took)
			}
			c.set(c.now().Add(time.Duration(r.IntN(600)) * time.Second)) // through hours that are over
		}
		l.misbehave(nil, nil, nil)
		flush(t, m)
		if failed < 100 || m.Stats().Rows != 0 {
			t.Errorf("%d flushes failed, %+v", failed, m.Stats())
		}
		for subject, sum := range want {
			if got := l.total(func(u *records.Usage) bool { return u.Subject == subject }); got != sum {
				t.Errorf("%s: %+v, want %+v", subject, got, sum)
			}
		}
	})
}

// A report of more than fits into one goes in several; one that stops in the middle goes
// on there.
func TestFlushParts(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	const subjects = 2*reportRows + 10
	for n := range subjects {
		m.Count(e.take(sends(fmt.Sprint("s", n), 1)))
	}
	asked := 0
	l.misbehave(func() error {
		if asked++; asked == 2 {
			return errAway
		}
		return nil
	}, nil, nil)
	if err := m.Flush(t.Context()); err == nil || m.Stats().Rows != subjects-reportRows {
		t.Fatalf("%v, %+v", err, m.Stats())
	}
	flush(t, m)
	if got := l.total(requests); got.allowed != subjects || l.reports[m.reporter] != 3 {
		t.Errorf("%+v in %v reports", got, l.reports)
	}
}

// While records are away, what comes again is added to what waits.
func TestFlushWaits(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	l.misbehave(func() error { return errAway }, nil, nil)
	for range 100 {
		m.Count(e.take(sends("alice", 1)))
		if err := m.Flush(t.Context()); err == nil || m.Stats().Rows > 2 { // on its way, and behind it
			t.Fatalf("%v, %+v", err, m.Stats())
		}
	}
}

// Beyond MaxRows usage counts for its application alone, however long records are away.
func TestMaxRows(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, model), newLedger(t, c)
	const most = 500
	m := New(Config{Records: l, Now: c.now, MaxRows: most})
	l.misbehave(func() error { return errAway }, nil, nil)
	r := rand.New(rand.NewPCG(3, 4))
	var want, tokens count
	decisions := 0
	for n := range 8_000 {
		d := e.take(gate.Request{
			Application: "email", Operation: fmt.Sprint("op", r.IntN(3000)), Subject: fmt.Sprint("s", r.IntN(2000)), Plan: "free",
			Cost: 2, CostSaid: true, Costs: map[string]int64{"tokens": 5},
		})
		m.Count(d)
		decisions++
		want.add(count{allowed: 1, cost: 2})
		tokens.add(count{allowed: 1, cost: 5})
		if n%500 == 0 {
			if err := m.Flush(t.Context()); err == nil {
				t.Fatal("records are not away")
			}
			c.set(c.now().Add(3 * time.Hour))
		}
	}
	// A row per shard and unit, twice: in what is on its way, and behind it.
	if s := m.Stats(); s.Rows > most+4*shards || s.Unattributed < int64(decisions-most) || s.Unattributed > int64(decisions) {
		t.Errorf("%+v", s)
	}
	l.misbehave(nil, nil, nil)
	flush(t, m)
	if got := l.total(requests); got.allowed != want.allowed || got.cost != want.cost {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := l.total(func(u *records.Usage) bool { return u.Unit == "tokens" }); got.allowed != tokens.allowed || got.cost != tokens.cost {
		t.Errorf("tokens: %+v, want %+v", got, tokens)
	}
	if got := l.total(func(u *records.Usage) bool { return requests(u) && u.Subject == "" }); got.allowed != m.Stats().Unattributed {
		t.Errorf("%+v of nobody, and %+v", got, m.Stats())
	}
	// And there is room again.
	d := e.take(sends("later", 3))
	m.Count(d)
	flush(t, m)
	if got := l.total(func(u *records.Usage) bool { return u.Subject == "later" }); got.cost != 3 {
		t.Errorf("%+v", got)
	}
}

// Usage of an hour that is over for long counts in the present one; also where the clock
// has made the hour short. The ledger sees to it that nothing changes that is final.
func TestRebook(t *testing.T) {
	// At 15:00 UTC the clock of Lord Howe goes from 02:00 back to 01:30.
	short := time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		zone     string
		counted  time.Time
		later    time.Duration
		booked   time.Time
		dayMonth string
	}{
		{"UTC", start, 0, start, "2026-03-01 2026-03-01"},
		{"UTC", start, time.Hour + late, start, "2026-03-01 2026-03-01"},
		{"UTC", start, time.Hour + late + time.Second, start.Add(time.Hour), "2026-03-01 2026-03-01"},
		{"UTC", start, 31 * 24 * time.Hour, start.Add(31 * 24 * time.Hour), "2026-04-01 2026-04-01"},
		{"Asia/Kathmandu", start, 5 * time.Hour, start.Add(5*time.Hour - 45*time.Minute), "2026-03-01 2026-02-15"},
		{"Asia/Kathmandu", start, 7 * time.Hour, start.Add(7*time.Hour - 45*time.Minute), "2026-03-02 2026-02-15"},
		{"Australia/Lord_Howe", short.Add(time.Minute), 25 * time.Minute, short, "2026-04-05 2026-03-15"},
		{"Australia/Lord_Howe", short.Add(time.Minute), 30*time.Minute + late - time.Minute, short, "2026-04-05 2026-03-15"},
		{"Australia/Lord_Howe", short.Add(time.Minute), 30*time.Minute + late, short.Add(30 * time.Minute), "2026-04-05 2026-03-15"},
	} {
		c := &clock{at: tt.counted}
		e, l := newEngine(t, c, model), newLedger(t, c)
		onRecord := gate.NewRecords()
		anchor := 15
		if tt.zone == "UTC" {
			anchor = 1
		}
		onRecord.Put(&gate.Record{Application: "email", Subject: "alice", Known: true, Plan: "plain", Timezone: zoneOf(t, tt.zone), Anchor: anchor})
		e.SetRecords(onRecord)
		m := New(Config{Records: l, Now: c.now})
		m.Count(e.take(sends("alice", 2)))
		l.misbehave(nil, func() error { return errAway }, nil) // it is on record, and nobody knows
		if err := m.Flush(t.Context()); err == nil {
			t.Fatal("no error")
		}
		m.Count(e.take(sends("alice", 3)))
		c.set(tt.counted.Add(tt.later))
		m.Count(e.take(sends("alice", 4)))
		l.misbehave(nil, nil, nil)
		flush(t, m)
		day := func(n int64) string { return time.Unix(n*86400, 0).UTC().Format("2006-01-02") }
		var booked count
		for u, by := range l.hours {
			if u.Period.Equal(tt.booked) {
				booked.add(by)
				if got := day(u.Day) + " " + day(u.Month); got != tt.dayMonth {
					t.Errorf("%s, %v later: on %s", tt.zone, tt.later, got)
				}
			}
		}
		want := int64(3)
		if tt.later == 0 || tt.booked.Equal(hourBegin(tt.counted, zoneOf(t, tt.zone))) {
			want += 2
		}
		if hourBegin(c.now(), zoneOf(t, tt.zone)).Equal(tt.booked) {
			want += 4
		}
		if all := l.total(requests); booked.cost != want || all.cost != 9 || all.allowed != 3 {
			t.Errorf("%s, %v later: %+v, want %d; %+v in all: %+v", tt.zone, tt.later, booked, want, all, l.hours)
		}
	}
}

// A ticket that was altered puts no names on record that records do not take.
func TestCleanNames(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	d := e.take(sends("alice", 1))
	names := []string{"a\x00b", "a\xffb", "a\xfeb", "a\uFFFDb", strings.Repeat("é", 300), strings.Repeat("x", 5000), strings.Repeat("\x80", 600)}
	for _, name := range names {
		d.Subject = name
		m.Count(d)
		d.Subject, d.Plan = "alice", name
		m.Count(d)
		d.Plan, d.Operation = "free", name
		m.Count(d)
		m.Count(d)
		d.Operation = "send"
	}
	flush(t, m) // the ledger looks at them
	if got := l.total(requests); got.allowed != int64(4*len(names)) {
		t.Errorf("%+v", got)
	}
	if got := l.total(func(u *records.Usage) bool { return u.Subject == "a\uFFFDb" }); got.allowed != 4 {
		t.Errorf("%+v", got) // of four shards, maybe, but in one row: the ledger looks at that
	}
}

// Operations that nobody has thought of count as one, and not for good.
func TestOperations(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, simple), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	d := e.take(sends("alice", 1))
	for n := range 3 * maxOperations {
		d.Operation = fmt.Sprint("op", n)
		m.Count(d)
		m.Count(d)
	}
	if got := m.Stats().Rows; got != maxOperations+1 {
		t.Errorf("%d rows", got)
	}
	flush(t, m)
	if got := l.total(func(u *records.Usage) bool { return u.Operation == other }); got.allowed != 2*2*maxOperations {
		t.Errorf("%+v", got)
	}
	c.set(start.Add(time.Hour))
	m.Count(e.take(sends("alice", 1)))
	flush(t, m)
	if got := l.total(func(u *records.Usage) bool { return u.Operation == "send" }); got.allowed != 1 {
		t.Errorf("%+v", got)
	}
}

// Run reports by the clock, asks records that fail no more often than that, tells of it
// ever more rarely, and reports what is left at its end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{at: start}
		e, l := newEngine(t, c, simple), newLedger(t, c)
		var log bytes.Buffer
		m := New(Config{Records: l, Now: c.now, MaxRows: 100, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { m.Run(ctx) })
		m.Count(e.take(sends("alice", 1)))
		<-time.After(FlushEvery)
		synctest.Wait()
		if got := l.total(requests); got.allowed != 1 {
			t.Fatalf("%+v after %v", got, FlushEvery)
		}
		for n := range 60 { // half of what may wait
			m.Count(e.take(sends(fmt.Sprint("s", n), 1)))
		}
		synctest.Wait()
		if got := l.total(requests); got.allowed < 50 {
			t.Errorf("%+v at once", got)
		}
		l.misbehave(func() error { return errAway }, nil, nil)
		asked := l.asked
		for second := range 600 {
			m.Count(e.take(sends(fmt.Sprint("t", second), 1)))
			<-time.After(time.Second)
		}
		synctest.Wait()
		tries := l.asked - asked
		if lines := strings.Count(log.String(), "usage waits"); tries < 118 || tries > 121 || lines != 7 || m.Stats().Failures != int64(tries) {
			t.Errorf("%d times in 10 min, %d lines, %+v", tries, lines, m.Stats())
		}
		l.misbehave(nil, nil, nil)
		<-time.After(FlushEvery)
		synctest.Wait()
		if s := m.Stats(); s.Failures != 0 || s.Rows != 0 || strings.Count(log.String(), "put on record again") != 1 {
			t.Errorf("%+v, %s", s, log.String())
		}
		m.Count(e.take(sends("last", 1)))
		cancel()
		run.Wait()
		if got := l.total(requests); got.allowed != 662 {
			t.Errorf("%+v", got)
		}
	})
}

// The end of Run waits for records that hang no longer than it says.
func TestRunEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{at: start}
		e, l := newEngine(t, c, simple), newLedger(t, c)
		var log bytes.Buffer
		m := New(Config{Records: l, Now: c.now, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		l.misbehave(nil, nil, make(chan struct{}))
		ctx, cancel := context.WithCancel(t.Context())
		m.Count(e.take(sends("alice", 900_000_000)))
		var run sync.WaitGroup
		run.Go(func() { m.Run(ctx) })
		<-time.After(time.Minute)
		began := time.Now()
		cancel()
		run.Wait()
		if took := time.Since(began); took > lastTime || !strings.Contains(log.String(), "the last usage is lost") {
			t.Errorf("%v: %s", took, log.String())
		}
	})
}

// Another process begins with nothing of what this one has reported.
func TestRestart(t *testing.T) {
	c := &clock{at: start}
	e, db := newEngine(t, c, simple), openRecords(t)
	for process := range 3 {
		m := New(Config{Records: db, Now: c.now})
		m.Count(e.take(sends("alice", 5)))
		flush(t, m)
		flush(t, m)
		rows := usage(t, m, records.UsageQuery{})
		if len(rows) != 1 || rows[0].Allowed != int64(process)+1 || rows[0].Cost != 5*rows[0].Allowed {
			t.Errorf("%+v", rows)
		}
	}
}
