package records

import (
	"context"
	"database/sql"
	"errors"
)

const policyColumns = `revision, at, author, via, note, seq`

func scanPolicy(document bool) func(scanner) (Policy, error) {
	return func(row scanner) (p Policy, err error) {
		var at int64
		into := []any{&p.Revision, &at, &p.Author, &p.Via, &p.Note, &p.Version}
		if document {
			into = append(into, &p.Document)
		}
		err = row.Scan(into...)
		p.At = instant(at)
		return p, err
	}
}

// AppendPolicy makes p the newest revision, which base was, 0 for none, or [Whatever].
// It returns p with its Revision, At, Author, Via and Version. The error is [ErrStale] where
// another one is the newest.
func (d *DB) AppendPolicy(ctx context.Context, base int64, p Policy, e Entry) (Policy, error) {
	p.Author, p.Via = e.Name, e.Via
	err := d.change(ctx, e, func(ctx context.Context, c *change) error {
		var head int64
		if err := c.QueryRowContext(ctx, `select coalesce(max(revision), 0) from headgate_policy`).Scan(&head); err != nil {
			return err
		}
		if base != Whatever && base != head {
			return ErrStale
		}
		p.Revision, p.At, p.Version = head+1, c.at, c.seq
		_, err := c.ExecContext(ctx, `
			insert into headgate_policy (revision, at, author, via, note, document, seq) values ($1, $2, $3, $4, $5, $6, $7)`,
			p.Revision, micros(p.At), p.Author, p.Via, p.Note, p.Document, c.seq)
		return err
	})
	return p, err
}

// Policy returns a revision, 0 for the newest. The error is [ErrNotFound] where there
// is none.
func (d *DB) Policy(ctx context.Context, revision int64) (Policy, error) {
	const query = `select ` + policyColumns + `, document from headgate_policy where `
	if revision != 0 {
		return one(d.read.QueryRowContext(ctx, query+`revision = $1`, revision), scanPolicy(true))
	}
	return one(d.read.QueryRowContext(ctx, query+`revision = (select max(revision) from headgate_policy)`), scanPolicy(true))
}

// Policies lists revisions before one, 0 for all, without their documents, the newest
// first. more says that there are earlier ones.
func (d *DB) Policies(ctx context.Context, before int64, limit int) (list []Policy, more bool, err error) {
	list, err = collect(ctx, d.read, scanPolicy(false), `
		select `+policyColumns+` from headgate_policy where $1 = 0 or revision < $1 order by revision desc limit $2`, before, limit+1)
	list, more = page(list, limit)
	return list, more, err
}

// headSince returns the newest revision if it was written after seq; nil otherwise.
func headSince(ctx context.Context, tx *sql.Tx, seq int64) (*Policy, error) {
	p, err := one(tx.QueryRowContext(ctx, `
		select `+policyColumns+`, document from headgate_policy
		where revision = (select max(revision) from headgate_policy) and seq > $1`, seq), scanPolicy(true))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &p, err
}
