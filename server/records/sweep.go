package records

import (
	"context"
	"time"
)

// Retention is how long traces are kept.
type Retention struct {
	// Audit is how long entries of the audit log are kept; 0 is for good.
	Audit time.Duration
}

const (
	// traceLife is how long it can be told that a subject was deleted: a node that was
	// away for longer reads everything again.
	traceLife = 24 * time.Hour
	// deadLife is how long tokens and modes are listed that are over.
	deadLife = 90 * 24 * time.Hour
	// sweepBatch is how many rows one transaction deletes.
	sweepBatch = 5_000
)

// Sweep deletes what is over for long enough, in several transactions.
func (d *DB) Sweep(ctx context.Context, r Retention) error {
	at := now()
	dead := micros(at.Add(-deadLife))
	sweeps := []struct {
		query string
		arg   int64
	}{
		{`delete from headgate_subject where (application, name) in (
			select application, name from headgate_subject where not known and banned = 0 and changed < $1 limit $2)
			returning seq`, micros(at.Add(-traceLife))},
		{`delete from headgate_token where id in (
			select id from headgate_token where (revoked <> 0 and revoked < $1) or (expires <> 0 and expires < $1) limit $2)
			returning 0`, dead},
		{`delete from headgate_mode where (application, rule) in (
			select application, rule from headgate_mode where until < $1 limit $2)
			returning 0`, dead},
	}
	if r.Audit > 0 {
		sweeps = append(sweeps, struct {
			query string
			arg   int64
		}{`delete from headgate_audit where id in (select id from headgate_audit where at < $1 order by id limit $2) returning 0`, micros(at.Add(-r.Audit))})
	}
	for _, s := range sweeps {
		for {
			n, err := d.sweep(ctx, s.query, s.arg)
			if err != nil {
				return err
			}
			if n < sweepBatch {
				break
			}
		}
	}
	return nil
}

// sweep deletes a batch by a query that returns of each row the number of the write
// that readers can no longer be told of.
func (d *DB) sweep(ctx context.Context, query string, arg int64) (int, error) {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	gone, err := collect(ctx, tx, func(row scanner) (seq int64, err error) { return seq, row.Scan(&seq) }, query, arg, sweepBatch)
	if err != nil {
		return 0, err
	}
	var swept int64
	for _, seq := range gone {
		swept = max(swept, seq)
	}
	if swept > 0 {
		if _, err := tx.ExecContext(ctx, `update headgate_feed set swept = $1 where swept < $1`, swept); err != nil {
			return 0, err
		}
	}
	return len(gone), tx.Commit()
}
