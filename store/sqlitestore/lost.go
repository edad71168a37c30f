package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/record"
)

// eachRow calls do for every row of a table, and fails at the first that is damaged.
func (c *conn) eachRow(ctx context.Context, table string, d *dictionary, do func(r *memstore.Record) error) error {
	return c.query(ctx, `select key, until, numbers, value from `+table, 4, func(columns []driver.Value) error {
		key, _ := columns[0].([]byte)
		if len(key) != keyBytes {
			return damaged("row %x of table %s has a key of %d bytes", key, table, len(key))
		}
		r := memstore.Record{Key: keyOf(key)}
		if err := d.fill(table, &r, columns[1:]); err != nil {
			return err
		}
		return do(&r)
	})
}

// deplete makes table state, in a transaction, what it is to be where charges may be
// missing: nothing is left of any limit at that instant. Rows for which the table may as well
// have nothing go.
func (s *starting) deplete(ctx context.Context, limits *dictionary, at int64) (err error) {
	was, err := connect(fileOf(s.dir)) // which sees the rows that the transaction deletes
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, was.Close()) }()
	if err := s.w.exec(ctx, `delete from state`); err != nil {
		return err
	}
	put, err := s.w.prepare(putInto("state"))
	if err != nil {
		return err
	}
	nothing := make(map[*headgate.Prepared][]int64)
	return was.eachRow(ctx, "state", limits, func(r *memstore.Record) error {
		l := r.Limit
		absent, ok := nothing[l]
		if !ok {
			absent = make([]int64, algo.Words(l))
			algo.Init(l, absent, at)
			absent = algo.Deplete(l, absent, at)
			nothing[l] = absent
		}
		r.Words = algo.Deplete(l, r.Words, at)
		r.Until = max(r.Keep, algo.AbsentAt(l, r.Words))
		if r.Until <= at || r.Keep <= at && len(r.Leases) == 0 && slices.Equal(algo.Trim(l, r.Words), algo.Trim(l, absent)) {
			return nil
		}
		id := limits.ids[string(record.AppendLimit(nil, &l.Limit))]
		return put.exec(appendKey(nil, r.Key), r.Until, id, appendValue(nil, r, id))
	})
}

// bans returns the bans that are not over at an instant.
func (s *starting) bans(ctx context.Context, limits *dictionary, at int64) (all []memstore.Record, err error) {
	err = s.w.eachRow(ctx, "bans", limits, func(r *memstore.Record) error {
		if r.Until > at {
			all = append(all, *r)
		}
		return nil
	})
	return all, err
}

// mostUses is how many limits are remembered to have been used before those are
// looked for that no state refers to any more.
const mostUses = 1 << 16

// prune returns the limits that are to be remembered, and those that need not be:
// where there are more than most, durable ones without any state, and others once their states
// have recovered.
func (s *starting) prune(ctx context.Context, uses []use, most int) (kept, gone []use, err error) {
	if len(uses) <= most {
		return uses, nil, nil
	}
	referred := make(map[int64]bool)
	err = s.w.query(ctx, `select distinct numbers from state`, 1, func(columns []driver.Value) error {
		id, _ := columns[0].(int64)
		referred[id] = true
		return nil
	})
	for _, u := range uses {
		recent := !u.Durable && s.meta.stopped != clean && s.now < s.meta.latest+algo.Horizon
		if recent || referred[u.numbers] {
			kept = append(kept, u)
		} else {
			gone = append(gone, u)
		}
	}
	return kept, gone, err
}
