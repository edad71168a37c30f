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
	// eventLife is how long events are kept whose period is over and of which all were
	// told that are to be.
	eventLife = 7 * 24 * time.Hour
	// sweepBatch is how many rows one transaction deletes.
	sweepBatch = 5_000
)

// Sweep deletes what is over for long enough, in several transactions.
func (d *DB) Sweep(ctx context.Context, r Retention) error {
	at := now()
	dead, told := micros(at.Add(-deadLife)), micros(at.Add(-eventLife))
	sweeps := []struct {
		query string
		arg   int64
	}{
		{`delete from headgate_subject where (application, name) in (
			select application, name from headgate_subject where not known and banned < $1 and changed < $1 limit $2)
			returning seq`, micros(at.Add(-traceLife))},
		{`delete from headgate_token where id in (
			select id from headgate_token where (revoked <> 0 and revoked < $1) or (expires <> 0 and expires < $1) limit $2)
			returning 0`, dead},
		{`delete from headgate_mode where (application, rule) in (
			select application, rule from headgate_mode where until < $1 limit $2)
			returning 0`, dead},
		{`delete from headgate_delivery where next = 0 and (event, webhook) in (
			select d.event, d.webhook from headgate_delivery d join headgate_event e on e.id = d.event where e.until < $1 and d.next = 0 limit $2)
			returning 0`, told},
		{`delete from headgate_event where id in (
			select id from headgate_event where until < $1 and not exists (select 1 from headgate_delivery where event = id) limit $2)
			returning 0`, told},
		{`delete from headgate_usage_reporter where id in (
			select id from headgate_usage_reporter where at < $1 limit $2) and at < $1
			returning 0`, dead},
		{`delete from headgate_node where name in (
			select name from headgate_node where seen < $1 limit $2) and seen < $1
			returning 0`, micros(at.Add(-nodeLife))},
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
	// As a write does: or one that waits for it would lose what it has just written.
	if _, err := tx.ExecContext(ctx, `update headgate_feed set seq = seq`); err != nil {
		return 0, err
	}
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
