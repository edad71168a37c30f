package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// DB is a database of records. It is safe for concurrent use.
type DB struct {
	write, read *sql.DB
	feed        *sql.DB // for Next, which nobody's long query shall hold up
	log         *slog.Logger
	// say, if not nil, tells the other processes of a write, within its transaction.
	say func(ctx context.Context, tx *sql.Tx) error
	// skipLocked lets a query pass by rows that another node is about to change.
	skipLocked string
	// value writes down the place of the nth value of a long statement. SQLite's driver
	// looks for one that has a number among all of them.
	value func(n int) string

	jobs sync.WaitGroup
	quit func() // ends the jobs

	mu   sync.Mutex
	bell chan struct{} // closed with the next write of this process
}

// now is the instant of a write.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// micros is how instants are kept.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func instant(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// change is a write on its way.
type change struct {
	*sql.Tx
	seq int64
	at  time.Time
}

// change does a write, with its entry in the audit log, as one transaction.
func (d *DB) change(ctx context.Context, e Entry, do func(ctx context.Context, c *change) error) (err error) {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	c := &change{Tx: tx, at: now()}
	// The lock on this row makes the order of the numbers that of the commits.
	if err := tx.QueryRowContext(ctx, `update headgate_feed set seq = seq + 1 returning seq`).Scan(&c.seq); err != nil {
		return err
	}
	if err := do(ctx, c); err != nil {
		return err
	}
	if e.Detail == "" {
		e.Detail = "{}"
	}
	if !json.Valid([]byte(e.Detail)) {
		return errors.New("records: the detail of an audit entry is no JSON")
	}
	if _, err := tx.ExecContext(ctx, `
		insert into headgate_audit (id, at, actor, via, address, action, application, subject, target, refused, detail)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		c.seq, micros(c.at), e.Name, e.Via, e.Address, e.Action, e.Application, e.Subject, e.Target, e.Refused, e.Detail); err != nil {
		return err
	}
	if d.say != nil {
		if err := d.say(ctx, tx); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	d.ring()
	return nil
}

// ring wakes who waits for a write.
func (d *DB) ring() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.bell)
	d.bell = make(chan struct{})
}

// heard returns a channel that is closed with the next write.
func (d *DB) heard() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bell
}

// scanner is a row.
type scanner interface{ Scan(...any) error }

// queryer is a database or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, db queryer, read func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		x, err := read(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, rows.Err()
}

// one reads a row. The error is ErrNotFound where there is none.
func one[T any](row *sql.Row, read func(scanner) (T, error)) (T, error) {
	x, err := read(row)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return x, err
}

// page cuts a list, of which one more was read than is wanted, and says whether there is more.
func page[T any](all []T, most int) ([]T, bool) {
	if len(all) > most {
		return all[:most], true
	}
	return all, false
}

// Audit writes an entry of something that was refused.
func (d *DB) Audit(ctx context.Context, e Entry) error {
	return d.change(ctx, e, func(context.Context, *change) error { return nil })
}
