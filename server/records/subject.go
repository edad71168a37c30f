package records

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const subjectColumns = `application, name, known, plan, timezone, anchor, note, overrides, banned, ban_reason, changed, author, seq`

func scanSubject(row scanner) (s Subject, err error) {
	var overrides string
	var banned, changed int64
	err = row.Scan(&s.Application, &s.Name, &s.Known, &s.Plan, &s.Timezone, &s.Anchor, &s.Note, &overrides,
		&banned, &s.Ban.Reason, &changed, &s.Author, &s.Version)
	if err != nil {
		return s, err
	}
	s.Ban.Until, s.Changed = instant(banned), instant(changed)
	if overrides != "" {
		s.Overrides = json.RawMessage(overrides)
	}
	return s, nil
}

// Subject returns what is on record; the error is [ErrNotFound] where nothing is.
func (d *DB) Subject(ctx context.Context, application, name string) (Subject, error) {
	return one(d.read.QueryRowContext(ctx, `
		select `+subjectColumns+` from headgate_subject
		where application = $1 and name = $2 and (known or banned <> 0)`, application, name), scanSubject)
}

// EditSubject changes a record: edit is given what is on record, or an empty one, and
// changes it, or returns an error, which becomes that of EditSubject. version is that
// of the record, 0 for none, or [Whatever]; the error is [ErrStale] where it has
// another one. A record that is neither known nor banned then is gone. EditSubject
// returns the record as it was and as it is.
func (d *DB) EditSubject(ctx context.Context, application, name string, version int64, e Entry, edit func(*Subject) error) (was, is Subject, err error) {
	e.Application, e.Subject = application, name
	err = d.change(ctx, e, func(ctx context.Context, c *change) error {
		was, err = one(c.QueryRowContext(ctx, `select `+subjectColumns+` from headgate_subject where application = $1 and name = $2`, application, name), scanSubject)
		if err != nil && err != ErrNotFound {
			return err
		}
		found := err == nil && !was.gone()
		if !found {
			was = Subject{Application: application, Name: name}
		}
		if version != Whatever && version != was.Version {
			return ErrStale
		}
		is = was
		if err := edit(&is); err != nil {
			return err
		}
		is.Application, is.Name, is.Version, is.Changed, is.Author = application, name, c.seq, c.at, e.Name
		if !found && is.gone() {
			return ErrNotFound
		}
		return c.putSubject(ctx, &is)
	})
	return was, is, err
}

func (c *change) putSubject(ctx context.Context, s *Subject) error {
	if len(s.Overrides) > 0 && !json.Valid(s.Overrides) {
		return fmt.Errorf("records: the overrides of %s/%s are no JSON", s.Application, s.Name)
	}
	_, err := c.ExecContext(ctx, `
		insert into headgate_subject (`+subjectColumns+`) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
		on conflict (application, name) do update
		set known = excluded.known, plan = excluded.plan, timezone = excluded.timezone, anchor = excluded.anchor, note = excluded.note,
			overrides = excluded.overrides, banned = excluded.banned, ban_reason = excluded.ban_reason,
			changed = excluded.changed, author = excluded.author, seq = excluded.seq`,
		s.Application, s.Name, s.Known, s.Plan, s.Timezone, s.Anchor, s.Note, string(s.Overrides),
		micros(s.Ban.Until), s.Ban.Reason, micros(s.Changed), s.Author, s.Version)
	return err
}

// SubjectQuery says which subjects a list has. The zero value of a field asks for
// nothing in particular.
type SubjectQuery struct {
	Application string
	// Prefix is how names begin.
	Prefix string
	Plan   string
	// Banned, if not zero, lists those who are banned beyond that instant.
	Banned time.Time
	// After is the name behind which the list begins.
	After string
	// Limit is how many there are at most, 1 to [MaxPage].
	Limit int
}

// Subjects lists subjects of an application by name. more says that there are others
// behind them.
func (d *DB) Subjects(ctx context.Context, q SubjectQuery) (list []Subject, more bool, err error) {
	args := []any{q.Application, max(q.After, q.Prefix)}
	from := " > "
	if q.Prefix != "" && q.After < q.Prefix {
		from = " >= "
	}
	where := []string{"application = $1", "name" + from + "$2", "(known or banned <> 0)"}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf("%s $%d", condition, len(args)))
	}
	if end := beyond(q.Prefix); end != "" {
		add("name <", end)
	}
	if q.Plan != "" {
		add("known and plan =", q.Plan)
	}
	if !q.Banned.IsZero() {
		add("banned <> 0 and banned >", micros(q.Banned)) // for the index of those who are
	}
	args = append(args, q.Limit+1)
	list, err = collect(ctx, d.read, scanSubject, fmt.Sprintf(`
		select %s from headgate_subject where %s order by name limit $%d`, subjectColumns, strings.Join(where, " and "), len(args)), args...)
	list, more = page(list, q.Limit)
	return list, more, err
}

// CountSubjects returns how many subjects are on record, of one application or of all if
// it is "". If plan is not "", only those are counted that have it, by their index;
// otherwise it looks at every record of the application.
func (d *DB) CountSubjects(ctx context.Context, application, plan string) (n int64, err error) {
	query, args := `select count(*) from headgate_subject where (known or banned <> 0)`, []any(nil)
	if plan != "" {
		query, args = `select count(*) from headgate_subject where known and plan = $1`, []any{plan}
	}
	if application != "" {
		args = append(args, application)
		query += fmt.Sprintf(" and application = $%d", len(args))
	}
	err = d.read.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}

// beyond returns the least text that is greater than all with the prefix; "" if there
// is none. It ends with the next code point, as PostgreSQL takes nothing but UTF-8.
func beyond(prefix string) string {
	runes := []rune(prefix)
	for len(runes) > 0 {
		last := len(runes) - 1
		switch r := runes[last]; {
		case r == 0x10ffff:
			runes = runes[:last]
		case r == 0xd7ff: // surrogates are no characters
			runes[last] = 0xe000
			return string(runes)
		default:
			runes[last]++
			return string(runes)
		}
	}
	return ""
}

// PutSubjects writes records as they are given, in one transaction: their Version,
// Changed and Author are set. It fails with [ErrNotFound] for one that is neither known
// nor banned.
func (d *DB) PutSubjects(ctx context.Context, list []Subject, e Entry) error {
	return d.change(ctx, e, func(ctx context.Context, c *change) error {
		for i := range list {
			s := &list[i]
			if s.gone() {
				return ErrNotFound
			}
			s.Version, s.Changed, s.Author = c.seq, c.at, e.Name
			if err := c.putSubject(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}
