package records

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Span is how long a row of usage is.
type Span int

// The spans. A month is that of the row's anchor.
const (
	Hour Span = iota
	Day
	Month
)

// Usage is what was used of a unit in a span of time.
type Usage struct {
	Application, Subject, Operation, Plan, Unit string
	// Timezone is the IANA name of the zone of days and months, Anchor the day of the
	// month on which one begins.
	Timezone string
	Anchor   int
	// Period is when an hour begins. Of rows that were added up it is when the first of
	// them begins.
	Period time.Time
	// Day is its day and Month the first day of its month, in days since 1970-01-01.
	Day, Month int64
	// Allowed and Denied are requests. Cost is what was charged, which settlements of
	// what was reserved in an earlier hour can make negative, and Overage the part of it
	// beyond a quota.
	Allowed, Denied, Cost, Overage int64
	// Revision grows whenever the row changes.
	Revision int64
}

// key is by what usage is told apart within a span.
type usageKey struct {
	application, subject, operation, plan, unit, timezone string
	anchor                                                int
	period                                                int64
}

func (u *Usage) key() usageKey {
	return usageKey{u.Application, u.Subject, u.Operation, u.Plan, u.Unit, u.Timezone, u.Anchor, u.Period.UnixMicro()}
}

const (
	usageColumns = `application, subject, period, span, operation, plan, unit, timezone, anchor, day, month, allowed, denied, cost, overage, revision`
	usageKeys    = `application, subject, period, span, operation, plan, unit, timezone, anchor`
	// usageRows is how many one statement writes.
	usageRows = 10
)

// Report adds hours of usage, which all differ, to what is on record. Reports of one
// reporter are numbered from 1; one that has arrived before changes nothing, so a report
// whose answer was lost is sent again as it was.
func (d *DB) Report(ctx context.Context, reporter string, number int64, hours []Usage) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	revision, err := nextUsage(ctx, tx)
	if err != nil {
		return err
	}
	var reported int64
	err = tx.QueryRowContext(ctx, `
		insert into headgate_usage_reporter (id, report, at) values ($1, $2, $3)
		on conflict (id) do update set report = excluded.report, at = excluded.at where headgate_usage_reporter.report < excluded.report
		returning report`, reporter, number, micros(now())).Scan(&reported)
	if err == sql.ErrNoRows {
		return nil
	}
	if err != nil {
		return err
	}
	if err := d.addUsage(ctx, tx, Hour, hours, revision); err != nil {
		return err
	}
	return tx.Commit()
}

// nextUsage returns the number of a write of usage. The lock on its row lets one node
// write at a time.
func nextUsage(ctx context.Context, tx *sql.Tx) (revision int64, err error) {
	err = tx.QueryRowContext(ctx, `update headgate_usage_feed set revision = revision + 1 returning revision`).Scan(&revision)
	return revision, err
}

// addUsage adds rows of a span, which all differ. A revision of 0 leaves them their own.
func (d *DB) addUsage(ctx context.Context, tx *sql.Tx, span Span, rows []Usage, revision int64) error {
	whole, err := tx.PrepareContext(ctx, insertUsage(usageRows, d.value))
	if err != nil {
		return err
	}
	defer whole.Close()
	args := make([]any, 0, 16*usageRows)
	for part := range slices.Chunk(rows, usageRows) {
		args = args[:0]
		for i := range part {
			u := &part[i]
			args = append(args, u.Application, u.Subject, micros(u.Period), int64(span), u.Operation, u.Plan, u.Unit, u.Timezone, u.Anchor, u.Day, u.Month,
				u.Allowed, u.Denied, u.Cost, u.Overage, cmp.Or(revision, u.Revision))
		}
		if len(part) == usageRows {
			_, err = whole.ExecContext(ctx, args...)
		} else {
			_, err = tx.ExecContext(ctx, insertUsage(len(part), d.value), args...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// insertUsage is the statement that adds some rows; value writes down the place of a
// value, by its number.
func insertUsage(rows int, value func(n int) string) string {
	var q strings.Builder
	q.WriteString(`insert into headgate_usage (` + usageColumns + `) values `)
	for i := range 16 * rows {
		before := ", "
		switch {
		case i == 0:
			before = "("
		case i%16 == 0:
			before = "), ("
		}
		q.WriteString(before + value(i+1))
	}
	q.WriteString(`) on conflict (` + usageKeys + `) do update set
		allowed = headgate_usage.allowed + excluded.allowed, denied = headgate_usage.denied + excluded.denied,
		cost = ` + within("headgate_usage.cost + excluded.cost") + `, overage = ` + within("headgate_usage.overage + excluded.overage") + `,
		revision = case when headgate_usage.revision > excluded.revision then headgate_usage.revision else excluded.revision end`)
	return q.String()
}

// within keeps a sum where 1,024 of them can still be added up, and JSON can say it.
func within(sum string) string {
	return fmt.Sprintf(`case when %[1]s > %[2]d then %[2]d when %[1]s < -%[2]d then -%[2]d else %[1]s end`, sum, int64(1<<53-1))
}

// UsageQuery says which usage is wanted, and in which spans. The zero value of a field
// asks for nothing in particular.
type UsageQuery struct {
	Span                                        Span
	Application, Subject, Operation, Plan, Unit string
	// From and To are between what the parts of which rows are made begin; To is
	// exclusive.
	From, To time.Time
	// FromDay and ToDay are between what rows begin by their own calendars, in days since
	// 1970-01-01; ToDay is exclusive. 0 is for no bound.
	FromDay, ToDay int64
	// After is the row behind which the list begins, nil for the beginning.
	After *Usage
	// Limit is how many rows there are at most, 1 to [MaxPage].
	Limit int
}

// usageSubjects is how many subjects one query adds up: more would be read and sorted
// for nothing where the page is full before.
const usageSubjects = 200

// usageLabels are the columns of what the parts of a row have in common.
var usageLabels = [...]string{Hour: "period", Day: "day", Month: "month"}

// Usage lists usage by application, subject, period, and the rest. Rows of days and
// months are added up from what there is of them; more says that there are others behind
// them.
func (d *DB) Usage(ctx context.Context, q UsageQuery) (list []Usage, more bool, err error) {
	label := usageLabels[q.Span]
	after := q.After
	for {
		rows, last, err := d.usage(ctx, &q, label, after, q.Limit+1-len(list))
		if err != nil {
			return nil, false, err
		}
		list = append(list, rows...)
		if len(list) > q.Limit {
			return list[:q.Limit], true, nil
		}
		if last == nil {
			return list, false, nil
		}
		after = last
	}
}

// usage reads a page of the subjects that follow one, and returns the last of them, nil
// for the end.
func (d *DB) usage(ctx context.Context, q *UsageQuery, label string, after *Usage, limit int) (list []Usage, last *Usage, err error) {
	var args []any
	arg := func(x any) string {
		args = append(args, x)
		return fmt.Sprintf("$%d", len(args))
	}
	who := q.conditions(arg)
	if after != nil {
		op := " >= " // the rest of that subject
		if after.Unit == "" {
			op = " > "
		}
		who = append(who, q.beside(op, after, arg))
	}
	subjects, err := collect(ctx, d.read, func(row scanner) (u Usage, err error) {
		return u, row.Scan(&u.Application, &u.Subject)
	}, `select distinct application, subject from headgate_usage`+where(who)+` order by application, subject limit `+arg(usageSubjects), args...)
	if err != nil || len(subjects) == 0 {
		return nil, nil, err
	}
	first, final := &subjects[0], &subjects[len(subjects)-1]
	args = nil
	what := append(q.conditions(arg), q.beside(" >= ", first, arg), q.beside(" <= ", final, arg))
	order := `application, subject, ` + label + `, operation, plan, unit, timezone, anchor`
	if after != nil && after.Unit != "" {
		at := micros(after.Period)
		switch q.Span {
		case Day:
			at = after.Day
		case Month:
			at = after.Month
		}
		what = append(what, fmt.Sprintf("(%s) > (%s, %s, %s, %s, %s, %s, %s, %s)", order, arg(after.Application), arg(after.Subject), arg(at),
			arg(after.Operation), arg(after.Plan), arg(after.Unit), arg(after.Timezone), arg(after.Anchor)))
	}
	list, err = collect(ctx, d.read, scanUsage, `
		select application, subject, min(period), 0, operation, plan, unit, timezone, anchor, min(day), min(month),
			sum(allowed), sum(denied), sum(cost), sum(overage), max(revision)
		from headgate_usage`+where(what)+` group by `+order+` order by `+order+` limit `+arg(limit), args...)
	if err != nil {
		return nil, nil, err
	}
	if len(subjects) == usageSubjects {
		last = &Usage{Application: final.Application, Subject: final.Subject}
	}
	return list, last, nil
}

// CountUsage returns how many rows [DB.Usage] lists from the beginning, whatever q.After
// and q.Limit say. It reads all of them.
func (d *DB) CountUsage(ctx context.Context, q UsageQuery) (n int64, err error) {
	var args []any
	arg := func(x any) string {
		args = append(args, x)
		return fmt.Sprintf("$%d", len(args))
	}
	err = d.read.QueryRowContext(ctx, `
		select count(*) from (select 1 from headgate_usage`+where(q.conditions(arg))+`
			group by application, subject, `+usageLabels[q.Span]+`, operation, plan, unit, timezone, anchor) as rows`, args...).Scan(&n)
	return n, err
}

// usageApplications finds the applications one by one, without a look at their rows.
const usageApplications = `with recursive apps (name) as (
	select min(application) from headgate_usage
	union all select (select min(application) from headgate_usage where application > apps.name) from apps where apps.name is not null
) select name from apps where name is not null`

// conditions returns what q asks of the parts of rows.
func (q *UsageQuery) conditions(arg func(any) string) []string {
	list := []string{"+span <= " + arg(int64(q.Span))} // with a sign, so that the index by age is not taken for it
	for _, c := range [...]struct{ column, value string }{
		{"application", q.Application}, {"subject", q.Subject}, {"operation", q.Operation}, {"plan", q.Plan}, {"unit", q.Unit},
	} {
		if c.value != "" {
			list = append(list, c.column+" = "+arg(c.value))
		}
	}
	if q.Subject != "" && q.Application == "" {
		list = append(list, "application in ("+usageApplications+")") // or all rows would be looked at
	}
	if !q.From.IsZero() {
		list = append(list, "period >= "+arg(micros(q.From)))
	}
	if !q.To.IsZero() {
		list = append(list, "period < "+arg(micros(q.To)))
	}
	column := "day"
	if q.Span == Month {
		column = "month"
	}
	if q.FromDay != 0 {
		list = append(list, column+" >= "+arg(q.FromDay))
	}
	if q.ToDay != 0 {
		list = append(list, column+" < "+arg(q.ToDay))
	}
	return list
}

// beside returns how the subject of a row compares with that of u. Where there is but one
// application it is not compared: beside its condition SQLite would not look for the
// subject, but read all rows of the application.
func (q *UsageQuery) beside(op string, u *Usage, arg func(any) string) string {
	if q.Application != "" {
		return "subject" + op + arg(u.Subject)
	}
	return "(application, subject)" + op + "(" + arg(u.Application) + ", " + arg(u.Subject) + ")"
}

func where(conditions []string) string {
	if len(conditions) == 0 {
		return ""
	}
	return " where " + strings.Join(conditions, " and ")
}

func scanUsage(row scanner) (u Usage, err error) {
	var period int64
	var span Span
	err = row.Scan(&u.Application, &u.Subject, &period, &span, &u.Operation, &u.Plan, &u.Unit, &u.Timezone, &u.Anchor, &u.Day, &u.Month,
		&u.Allowed, &u.Denied, &u.Cost, &u.Overage, &u.Revision)
	u.Period = instant(period)
	return u, err
}

// FoldUsage adds some of the rows of a span that began before an instant to those of the
// next longer one, and deletes them, all at once. begin says when the row of the longer
// span begins. It returns how many rows there were: none once all are folded.
func (d *DB) FoldUsage(ctx context.Context, span Span, before time.Time, begin func(u *Usage) (time.Time, error)) (int, error) {
	return d.takeUsage(ctx, span, before, func(tx *sql.Tx, rows []Usage) error {
		sums := make(map[usageKey]*Usage)
		var keys []usageKey // in the order of rows
		for i := range rows {
			u := rows[i]
			at, err := begin(&u)
			if err != nil {
				return err
			}
			u.Period = at
			key := u.key()
			sum := sums[key]
			if sum == nil {
				sums[key], keys = &u, append(keys, key)
				continue
			}
			sum.Allowed, sum.Denied, sum.Cost, sum.Overage = sum.Allowed+u.Allowed, sum.Denied+u.Denied, sum.Cost+u.Cost, sum.Overage+u.Overage
			sum.Revision = max(sum.Revision, u.Revision)
			sum.Day = min(sum.Day, u.Day)
		}
		folded := make([]Usage, len(keys))
		for i, key := range keys {
			folded[i] = *sums[key]
		}
		return d.addUsage(ctx, tx, span+1, folded, 0)
	})
}

// DropUsage deletes some of the rows of a span that began before an instant, and returns
// how many.
func (d *DB) DropUsage(ctx context.Context, span Span, before time.Time) (int, error) {
	return d.takeUsage(ctx, span, before, func(*sql.Tx, []Usage) error { return nil })
}

// takeUsage deletes a batch of old rows and does what there is to be done with them.
func (d *DB) takeUsage(ctx context.Context, span Span, before time.Time, do func(*sql.Tx, []Usage) error) (int, error) {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if _, err := nextUsage(ctx, tx); err != nil {
		return 0, err
	}
	rows, err := collect(ctx, tx, scanUsage, `
		delete from headgate_usage where (`+usageKeys+`) in (
			select `+usageKeys+` from headgate_usage where span = $1 and period < $2 order by span, period limit $3)
		returning `+usageColumns, int64(span), micros(before), sweepBatch)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	if err := do(tx, rows); err != nil {
		return 0, err
	}
	return len(rows), tx.Commit()
}
