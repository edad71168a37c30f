package records

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// View is what decisions need of the records, or what has changed of it.
type View struct {
	// Whole says that this is all there is; otherwise it is what has changed.
	Whole bool
	// Policy is the newest revision; nil for none, or an old one.
	Policy *Policy
	// Subjects may hold those that are neither known nor banned any more.
	Subjects []Subject
	// Tokens may hold some that were revoked, and Modes some that are over.
	Tokens []Token
	Modes  []Mode
	// More says that more of the same follows.
	More bool
}

// Cursor is how far a reader has come.
type Cursor struct {
	seq     int64  // of the last write that was seen whole
	at      int64  // its instant, by the audit log
	subject string // the last one seen, of a reading that goes on
	in      string // its application
	upto    int64  // the write before which the reading began; 0 if none goes on
	whole   bool   // the reading is of all that there is
}

// Seen is the number of the last write that was seen whole.
func (c *Cursor) Seen() int64 { return c.seq }

// viewPage is how many subjects a view has at most.
const viewPage = 10_000

// Next returns what follows the cursor, whose zero value is at the beginning: first
// all that there is, and then the changes, each once or more often, the last of them as
// it stands. It does not wait; a view may be empty. Where the traces of changes were
// swept, it begins anew with all that there is.
func (d *DB) Next(ctx context.Context, at *Cursor) (v View, err error) {
	tx, err := d.feed.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return v, err
	}
	defer tx.Rollback()
	var seq, swept int64
	if err := tx.QueryRowContext(ctx, `select seq, swept from headgate_feed`).Scan(&seq, &swept); err != nil {
		return v, err
	}
	next := *at
	begins := next.upto == 0
	var same bool
	if begins && next.seq != 0 {
		if same, err = d.same(ctx, tx, &next); err != nil {
			return v, err
		}
	}
	switch {
	case begins && (next.seq == 0 || next.seq < swept || next.seq > seq || !same):
		// One that is ahead, or has seen another write under its number, has seen a
		// database that was restored since.
		next = Cursor{upto: seq, whole: true}
	case begins:
		if next.seq == seq {
			return v, nil
		}
		next.upto = seq
	}
	v.Whole = next.whole && begins
	if begins {
		since := next.seq
		if v.Whole {
			since = 0
		}
		if v.Policy, err = headSince(ctx, tx, since); err != nil {
			return v, err
		}
		if v.Tokens, err = collect(ctx, tx, scanToken, `select `+tokenColumns+` from headgate_token where seq > $1 order by seq, id`, since); err != nil {
			return v, err
		}
		if v.Modes, err = collect(ctx, tx, scanMode, `select `+modeColumns+` from headgate_mode where seq > $1`, since); err != nil {
			return v, err
		}
	}
	if next.whole {
		v.Subjects, err = collect(ctx, tx, scanSubject, `
			select `+subjectColumns+` from headgate_subject
			where (application, name) > ($1, $2) and (known or banned <> 0)
			order by application, name limit $3`, next.in, next.subject, viewPage)
	} else {
		from := next.seq
		if begins {
			from++ // and that is what follows it: no name is empty
		}
		// Those written since are among the next changes.
		v.Subjects, err = collect(ctx, tx, scanSubject, `
			select `+subjectColumns+` from headgate_subject
			where (seq, application, name) > ($1, $2, $3) and seq <= $4
			order by seq, application, name limit $5`, from, next.in, next.subject, next.upto, viewPage)
	}
	if err != nil {
		return v, err
	}
	if v.More = len(v.Subjects) == viewPage; v.More {
		last := &v.Subjects[viewPage-1]
		next.in, next.subject = last.Application, last.Name
		if !next.whole {
			next.seq = last.Version
		}
	} else {
		next = Cursor{seq: next.upto}
		if next.at, err = writtenAt(ctx, tx, next.seq); err != nil {
			return v, err
		}
	}
	*at = next
	return v, nil
}

// same reports whether the write that a reader saw last is still the one of its number.
// One that the audit log does not hold any more is taken for it.
func (*DB) same(ctx context.Context, tx *sql.Tx, c *Cursor) (bool, error) {
	at, err := writtenAt(ctx, tx, c.seq)
	return at == c.at || at == 0 || c.at == 0, err
}

// writtenAt returns the instant of a write by the audit log, 0 where that does not hold
// it.
func writtenAt(ctx context.Context, tx *sql.Tx, seq int64) (at int64, err error) {
	err = tx.QueryRowContext(ctx, `select at from headgate_audit where id = $1`, seq).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return at, err
}

// pollEvery is how often a database is looked at that has not told of a write: the
// word of another process may be lost.
const pollEvery = time.Second

// Wait returns after the next write that this process makes or hears of, or after a
// while.
func (d *DB) Wait(ctx context.Context) {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.heard():
	case <-timer.C:
	}
}
