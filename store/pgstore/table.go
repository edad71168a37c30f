package pgstore

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/cas"
)

// mostSize is how many bytes an item may have: such a row still fits into a few
// pages.
const mostSize = 256 << 10

// table keeps items in the table headgate_item.
type table struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	lenient bool

	mu    sync.Mutex
	known incarnation // the newest that was met
}

var _ cas.Table = (*table)(nil)

// acquire returns a connection, which is the caller's to release.
func (t *table) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	c, err := t.pool.Acquire(ctx)
	if err != nil {
		return nil, unconnected(err)
	}
	return c, nil
}

// release gives a connection back after an operation that met f, nil for none.
// Where the server takes no writes any more, another one may.
func release(c *pgxpool.Conn, f *cas.Failure) {
	if f != nil && f.Kind == kinds[stateReadOnly].kind {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Conn().Close(ctx) // whether it heard of it does not matter
	}
	c.Release()
}

// read asks for the rows of keys, and at least one row for the moment.
const read = `
select headgate_now(), e.id, e.since, i.k, i.version, i.expires, i.value
from headgate_epoch e left join headgate_item i on i.k = any($1)`

// Read fills in items; see [cas.Table].
func (t *table) Read(ctx context.Context, items []cas.Item) (cas.Moment, error) {
	c, err := t.acquire(ctx)
	if err != nil {
		return cas.Moment{}, err
	}
	var failed *cas.Failure
	defer func() { release(c, failed) }()
	m, err := readItems(ctx, c.Conn(), items)
	if err == nil && m.Epoch.ID == 0 { // somebody has emptied the database
		if err = t.connected(ctx, c.Conn()); err == nil {
			m, err = readItems(ctx, c.Conn(), items)
		}
	}
	if err == nil && m.Epoch.ID == 0 {
		err = errNoEpoch
	}
	if err != nil {
		failed = diagnose(err, false)
		f := *failed
		f.Unsent = true // it only reads
		return cas.Moment{}, &f
	}
	return m, nil
}

var errNoEpoch = errors.New("the table headgate_epoch is emptied all the time")

func readItems(ctx context.Context, c *pgx.Conn, items []cas.Item) (m cas.Moment, err error) {
	keys, at := make([][16]byte, len(items)), make(map[cas.Key]int, len(items))
	for i := range items {
		k := items[i].Key
		keys[i], at[k] = k, i
		items[i] = cas.Item{Key: k}
	}
	rows, err := c.Query(ctx, read, keys)
	if err != nil {
		return m, err
	}
	defer rows.Close()
	for rows.Next() {
		var now, id, since int64
		var k *[16]byte
		var version, expires *int64
		var value []byte
		if err := rows.Scan(&now, &id, &since, &k, &version, &expires, &value); err != nil {
			return m, err
		}
		if m.Epoch.ID == 0 {
			m = cas.Moment{Now: now, Epoch: headgate.Epoch{ID: uint64(id), Since: since}}
		}
		if k != nil {
			items[at[*k]] = cas.Item{Key: *k, Version: uint64(*version), Expires: *expires, Value: value}
		}
	}
	return m, rows.Err()
}

const swap = `select clock, since, places, versions, expiries, present from headgate_swap($1, $2, $3, $4, $5, $6, $7, $8)`

// Swap makes changes; see [cas.Table]. No two items may have one key.
func (t *table) Swap(ctx context.Context, epoch uint64, changes []cas.Change) (cas.Moment, error) {
	c, err := t.acquire(ctx)
	if err != nil {
		return cas.Moment{}, err
	}
	m, failed := swapItems(ctx, c.Conn(), epoch, changes)
	release(c, failed)
	if failed != nil {
		return cas.Moment{}, failed
	}
	return m, nil
}

// swapArgs are the arguments of headgate_swap, by item.
type swapArgs struct {
	changes                   []int32
	writes                    []bool
	keys                      [][16]byte
	olds, news, ends          []int64
	values                    [][]byte
	swaps                     []*cas.Swap
	clock, since              int64
	places, versions, expires []int64
	present                   [][]byte
}

func (a *swapArgs) add(change int, writes bool, w *cas.Swap) {
	a.swaps = append(a.swaps, w)
	a.changes, a.writes = append(a.changes, int32(change)), append(a.writes, writes)
	a.keys, a.olds = append(a.keys, w.Old.Key), append(a.olds, int64(w.Old.Version))
	if !w.Write {
		a.news, a.ends, a.values = append(a.news, 0), append(a.ends, 0), append(a.values, []byte{})
		return
	}
	a.news, a.ends = append(a.news, int64(w.New.Version)), append(a.ends, w.New.Expires)
	if len(w.New.Value) == 0 {
		a.values = append(a.values, []byte{}) // nil would be NULL
		return
	}
	a.values = append(a.values, w.New.Value)
}

func swapItems(ctx context.Context, c *pgx.Conn, epoch uint64, changes []cas.Change) (m cas.Moment, failed *cas.Failure) {
	var a swapArgs
	for i := range changes {
		items := changes[i].Items
		writes := slices.ContainsFunc(items, func(w cas.Swap) bool { return w.Write })
		for j := range items {
			a.add(i, writes, &items[j])
		}
	}
	rows, err := c.Query(ctx, swap, int64(epoch), a.changes, a.writes, a.keys, a.olds, a.news, a.values, a.ends)
	if err != nil {
		return m, diagnose(err, false)
	}
	answered := rows.Next()
	if answered {
		err = rows.Scan(&a.clock, &a.since, &a.places, &a.versions, &a.expires, &a.present)
	}
	rows.Close()
	if err = cmp.Or(err, rows.Err()); err != nil {
		return m, diagnose(err, answered)
	}
	for i := range changes {
		changes[i].Done = true
	}
	for i, place := range a.places {
		w := a.swaps[place-1]
		changes[a.changes[place-1]].Done = false
		w.Old = cas.Item{Key: w.Old.Key, Version: uint64(a.versions[i]), Expires: a.expires[i], Value: a.present[i]}
	}
	return cas.Moment{Now: a.clock, Epoch: headgate.Epoch{ID: epoch, Since: a.since}}, nil
}

// MaxValue is how many bytes an item may have; see [cas.Table].
func (t *table) MaxValue() int { return mostSize }

// Close closes the connections.
func (t *table) Close() error {
	t.pool.Close()
	return nil
}
