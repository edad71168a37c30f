package meter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/server/records"
)

// Row is what was used in an hour, day or month.
type Row struct {
	records.Usage
	// From and To are when it begins and ends.
	From, To time.Time
	// Final says that it does not change any more.
	Final bool
}

// units are the calendar units of spans.
var units = [...]headgate.CalendarUnit{records.Hour: headgate.Hour, records.Day: headgate.Day, records.Month: headgate.Month}

// slack is how much longer than a span the last of its parts may begin after it.
var slack = [...]time.Duration{records.Hour: 0, records.Day: 26 * time.Hour, records.Month: 32 * 24 * time.Hour}

// Usage lists the spans that begin from q.From and before q.To; each may be zero. Without
// what was counted in the last seconds; see [FlushEvery]. The cursor of the following
// page is the Usage of the last row, or where a page has none, last.
func (m *Meter) Usage(ctx context.Context, q records.UsageQuery) (rows []Row, last *records.Usage, more bool, err error) {
	from, to := q.From, q.To
	if !to.IsZero() {
		q.To = to.Add(slack[q.Span])
	}
	list, more, err := m.Records.Usage(ctx, q)
	if err != nil {
		return nil, nil, false, err
	}
	now := m.Now()
	for i := range list {
		u := &list[i]
		last = u
		p, err := m.period(q.Span, u)
		if err != nil {
			return nil, nil, false, err
		}
		r := Row{Usage: *u, From: time.UnixMicro(p.Start), To: time.UnixMicro(p.End)}
		if r.From.Before(from) || !to.IsZero() && !r.From.Before(to) {
			continue
		}
		r.Final = !now.Before(r.To.Add(Final))
		rows = append(rows, r)
	}
	return rows, last, more, nil
}

// period returns the hour, day or month that holds the beginning of a row.
func (m *Meter) period(span records.Span, u *records.Usage) (algo.Period, error) {
	loc, ok := m.zones.Load(u.Timezone)
	if !ok {
		var err error
		if loc, err = time.LoadLocation(u.Timezone); err != nil {
			return algo.Period{}, fmt.Errorf("time zone %q of usage: %w", u.Timezone, err)
		}
		m.zones.Store(u.Timezone, loc)
	}
	c := headgate.Calendar{Unit: units[span], Location: loc}
	if span == records.Month {
		c.Anchor = u.Anchor
	}
	return algo.PeriodAt(c, u.Period.UnixMicro()), nil
}

// Retention is how long usage is kept by the hour, by the day and by the month; 0 is for
// good. What is no longer kept by the hour is still kept by the day, and so on; what is no
// longer kept by the month is gone.
type Retention struct{ Hours, Days, Months time.Duration }

// DefaultRetention is in force unless [Meter.Set] has said otherwise.
var DefaultRetention = Retention{Hours: 31 * 24 * time.Hour, Days: 800 * 24 * time.Hour}

// sweepEvery is how often usage is looked at that is old.
const sweepEvery = time.Hour

// firstSweep is how long after a start that is first, or up to twice as long: nodes that
// start together do not sweep together.
const firstSweep = time.Minute

// sweep folds usage that is old, now and then.
func (m *Meter) sweep(ctx context.Context) {
	t := time.NewTimer(firstSweep + rand.N(firstSweep))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			t.Reset(sweepEvery)
		}
		if err := m.Sweep(ctx); err != nil && ctx.Err() == nil {
			m.Logger.Warn("old usage could not be folded; later", "error", err)
		}
	}
}

// Sweep folds hours into days and days into months, and deletes months, as the retention
// says; but none of which there are still days or hours.
func (m *Meter) Sweep(ctx context.Context) error {
	r, now := m.live.Load().Retention, m.Now()
	fold := func(span records.Span, keep time.Duration) error {
		return repeat(keep, func() (int, error) {
			return m.Records.FoldUsage(ctx, span, now.Add(-keep), func(u *records.Usage) (time.Time, error) {
				p, err := m.period(span+1, u)
				return time.UnixMicro(p.Start).UTC(), err
			})
		})
	}
	if err := errors.Join(fold(records.Hour, r.Hours), fold(records.Day, r.Days)); err != nil {
		return err
	}
	return repeat(r.Months, func() (int, error) {
		return m.Records.DropUsage(ctx, records.Month, now.Add(-max(r.Months, max(r.Hours, r.Days)+slack[records.Month])))
	})
}

// repeat does a batch until there is none left, unless usage is kept for good.
func repeat(keep time.Duration, do func() (int, error)) error {
	for keep > 0 {
		if n, err := do(); err != nil || n == 0 {
			return err
		}
	}
	return nil
}
