package meter

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/server/records"
)

const (
	// reportRows is how many rows one report has at most: one transaction.
	reportRows = 5_000
	// reportTime is how long one may take.
	reportTime = 30 * time.Second
	// lastTime is how long the last reports of a process may take together.
	lastTime = 10 * time.Second
	// Final is how long after the end of an hour its usage does not change any more.
	Final = time.Hour
	// late is how long after its end usage is still counted in its hour. What comes later
	// counts in the present hour.
	late = Final - 5*time.Minute
)

// report is usage on its way to the records, by hours in which it was counted. It goes
// under one number, so that it counts once however often it is sent.
type report struct {
	number int64
	rows   []records.Usage
}

// flushes puts usage on record now and then, sooner where much waits, and a last time
// when ctx has ended.
func (m *Meter) flushes(ctx context.Context) {
	t := time.NewTicker(FlushEvery)
	defer t.Stop()
	for {
		full := m.full
		if m.unheard.Load() > 0 {
			full = nil // records that fail are asked by the clock alone
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
			defer cancel()
			if err := m.Flush(last); err != nil {
				m.Logger.Error("the last usage is lost", "rows", m.rows.Load(), "error", err)
			}
			return
		case <-t.C:
		case <-full:
		}
		m.try(ctx)
	}
}

// try flushes, and tells of failures ever more rarely.
func (m *Meter) try(ctx context.Context) {
	err := m.Flush(ctx)
	switch {
	case err == nil:
		if n := m.unheard.Swap(0); n > 0 {
			m.Logger.Info("usage is put on record again", "failures", n)
		}
	case ctx.Err() == nil:
		if n := m.unheard.Add(1); n&(n-1) == 0 {
			m.Logger.Warn("usage waits: it could not be put on record", "rows", m.rows.Load(), "at most", m.MaxRows, "failures", n, "error", err)
		}
	}
}

// Flush puts on record what has been counted. After an error it waits, and counts once
// all the same.
func (m *Meter) Flush(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.send(ctx); err != nil {
		return err
	}
	m.collect()
	return m.send(ctx)
}

// send sends what is pending, in its order.
func (m *Meter) send(ctx context.Context) error {
	for len(m.pending) > 0 {
		r := &m.pending[0]
		within, cancel := context.WithTimeout(ctx, reportTime)
		err := m.Records.Report(within, m.reporter, r.number, m.book(r.rows))
		cancel()
		if err != nil {
			return err
		}
		m.rows.Add(-int64(len(r.rows)))
		m.pending = m.pending[1:]
	}
	m.pending = nil
	return nil
}

// collect takes what was counted out of the shards.
func (m *Meter) collect() {
	all := make([]records.Usage, 0, m.rows.Load())
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		counted := s.rows
		s.rows = make(rows)
		s.mu.Unlock()
		for _, r := range counted {
			for ; r != nil; r = r.next {
				all = append(all, records.Usage{
					Application: r.application, Subject: r.subject, Operation: r.operation, Plan: r.plan, Unit: r.unit,
					Timezone: r.zone, Anchor: r.anchor, Period: time.UnixMicro(r.hour).UTC(),
					Allowed: r.allowed, Denied: r.denied, Cost: r.cost, Overage: r.overage,
				})
			}
		}
	}
	n := len(all)
	all = merge(all)
	m.rows.Add(int64(len(all) - n))
	for part := range slices.Chunk(all, reportRows) {
		m.number++
		m.pending = append(m.pending, report{m.number, part})
	}
}

// merge adds up rows of the same key, and puts all in the order in which records keep
// them.
func merge(all []records.Usage) []records.Usage {
	slices.SortFunc(all, func(a, b records.Usage) int { return compare(&a, &b) })
	kept := all[:0]
	for i := range all {
		u := &all[i]
		if last := len(kept) - 1; last >= 0 && compare(&kept[last], u) == 0 {
			k := &kept[last]
			k.Allowed, k.Denied = k.Allowed+u.Allowed, k.Denied+u.Denied
			k.Cost, k.Overage = sum(k.Cost, u.Cost), sum(k.Overage, u.Overage)
			continue
		}
		kept = append(kept, *u)
	}
	return kept
}

func compare(a, b *records.Usage) int {
	if a.Subject != b.Subject && a.Application == b.Application {
		return strings.Compare(a.Subject, b.Subject) // as most differ by it
	}
	return cmp.Or(strings.Compare(a.Application, b.Application), strings.Compare(a.Subject, b.Subject), a.Period.Compare(b.Period),
		strings.Compare(a.Operation, b.Operation), strings.Compare(a.Plan, b.Plan), strings.Compare(a.Unit, b.Unit),
		strings.Compare(a.Timezone, b.Timezone), cmp.Compare(a.Anchor, b.Anchor))
}

// book says of hours in which day and month they are, and counts usage of those that are
// over for long in the present one: what is final does not change.
func (m *Meter) book(rows []records.Usage) []records.Usage {
	now := m.Now()
	booked := slices.Clone(rows)
	moved := false
	for i := range booked {
		u := &booked[i]
		if i > 0 && u.Period.Equal(rows[i-1].Period) && u.Timezone == rows[i-1].Timezone && u.Anchor == rows[i-1].Anchor {
			before := &booked[i-1]
			u.Period, u.Day, u.Month = before.Period, before.Day, before.Month
			continue
		}
		loc, _ := m.zones.Load(u.Timezone) // it was counted by
		at := func(unit headgate.CalendarUnit, anchor int, t time.Time) algo.Period {
			return algo.PeriodAt(headgate.Calendar{Unit: unit, Location: loc, Anchor: anchor}, t.UnixMicro())
		}
		if end := at(headgate.Hour, 0, u.Period).End; now.After(time.UnixMicro(end).Add(late)) {
			u.Period, moved = time.UnixMicro(at(headgate.Hour, 0, now).Start).UTC(), true
		}
		u.Day, u.Month = at(headgate.Day, 0, u.Period).Label, at(headgate.Month, u.Anchor, u.Period).Label
	}
	if moved {
		booked = merge(booked)
	}
	return booked
}
