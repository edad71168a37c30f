package pgstore

import (
	"context"
	"time"
)

const (
	// sweepEvery is how often one of the nodes looks for items that are over.
	sweepEvery = time.Minute
	// sweepGrace is for how long they must have been.
	sweepGrace = time.Minute
	// sweepPatience is for how long a server is waited for, which has statementTime for each.
	sweepPatience = 5 * time.Second
	// sweepPages is how many pages of the table are looked at in one transaction.
	sweepPages = 512
)

// retain deletes items that are over from time to time, until ctx ends.
func (s *Store) retain(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n, err := s.table.sweep(ctx, sweepEvery*9/10); err != nil && ctx.Err() == nil {
			s.log.Warn("postgres: items that are over could not be deleted; later", "deleted", n, "error", err)
		}
	}
}

// sweep deletes what has been over for sweepGrace, unless somebody has begun to do
// so within every. It returns how many items it has deleted.
func (t *table) sweep(ctx context.Context, every time.Duration) (deleted int64, err error) {
	ask := func(to *int64, query string, args ...any) error {
		ctx, cancel := context.WithTimeout(ctx, sweepPatience)
		defer cancel()
		return t.scan(ctx, to, query, args...)
	}
	var pages int64
	// 0 where somebody else does it.
	err = ask(&pages, `
		with mine as (update headgate_sweep set at = headgate_now() where at <= headgate_now() - $1 or at > headgate_now() returning 1)
		select coalesce((select pg_relation_size('headgate_item') / current_setting('block_size')::bigint from mine), 0)`,
		every.Microseconds())
	if err != nil {
		return 0, err
	}
	for first := int64(0); first < pages; first += sweepPages {
		var n int64
		if err := ask(&n, `select headgate_expire($1, $2, $3)`, first, int64(sweepPages), sweepGrace.Microseconds()); err != nil {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}
