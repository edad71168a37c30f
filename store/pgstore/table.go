package pgstore

import (
	"cmp"
	"context"
	"encoding/binary"
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
	for {
		c, err := t.pool.Acquire(ctx)
		if err != nil {
			return nil, unconnected(err)
		}
		if lives(ctx, c.Conn()) {
			return c, nil
		}
		abandon(c)
		for _, c := range t.pool.AcquireAllIdle(ctx) { // to the same server
			abandon(c)
		}
	}
}

// idled tells, in what a connection keeps for its user, whether it had nothing to do for
// so long that its server is asked first: an operation that is sent to one that went away
// has an unknown end.
const idled = "headgate_idled"

// noteIdle lets the pool ask no server by itself: connections to one that does not answer
// would stay in it.
func noteIdle(_ context.Context, p pgxpool.ShouldPingParams) bool {
	p.Conn.PgConn().CustomData()[idled] = p.IdleDuration > time.Second
	return false
}

// lives tells whether the server of a connection answers in time, if there is doubt.
func lives(ctx context.Context, c *pgx.Conn) bool {
	if doubt, _ := c.PgConn().CustomData()[idled].(bool); !doubt {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return c.Ping(ctx) == nil
}

// abandon takes a connection out of the pool and closes it. pgx says goodbye for up to
// 15 s to a server that stands still, and the pool would count the connection until then,
// with no room for one to a server that answers.
func abandon(c *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Hijack().Close(ctx) // whether it heard of it does not matter
}

// release gives a connection back after an operation that met f, nil for none.
// Where the server takes no writes any more, another one may; one that shows another
// epoch, or none, is checked when a connection is made, and where something else is
// wrong, as when the functions are not those any more that were planned with, the
// statements are prepared anew.
func release(c *pgxpool.Conn, f *cas.Failure) {
	if c.Conn().IsClosed() || f != nil && (f.Kind == kinds[stateReadOnly].kind || f.Kind == kindEpoch || f.Kind == kindServer) {
		abandon(c)
		return
	}
	c.Release()
}

// scan asks for one value.
func (t *table) scan(ctx context.Context, to any, query string, args ...any) error {
	c, err := t.acquire(ctx)
	if err != nil {
		return err
	}
	if err := c.QueryRow(ctx, query, args...).Scan(to); err != nil {
		f := diagnose(err, false)
		release(c, f)
		return f
	}
	release(c, nil)
	return nil
}

// The statements that every connection has prepared, by their names.
const (
	readName, moveName, eachName, swapName = "headgate_read", "headgate_move", "headgate_each", "headgate_swap"

	// whole is of a row of headgate_epoch that stands as headgate_connect has written
	// it, beside the items of then.
	whole = `written = xmin and items = 'headgate_item'::regclass`
	// read asks for the rows of keys, and at least one row for the moment.
	read = `
select (select headgate_now()), e.id, e.since, i.k, i.version, i.expires, i.value
from (select id, since from headgate_epoch where ` + whole + `) e left join headgate_item i on i.k = any($1)`
	swap = `select clock, since, places, versions, expiries, present from headgate_swap($1, $2, $3, $4, $5, $6, $7, $8)`
)

// statements prepares them.
func statements(ctx context.Context, c *pgx.Conn) error {
	for name, text := range map[string]string{readName: read, moveName: move, eachName: each, swapName: swap} {
		if _, err := c.Prepare(ctx, name, text); err != nil {
			return err
		}
	}
	return nil
}

// binaryForm has all parameters or columns in their binary form.
var binaryForm = []int16{1}

// Read fills in items; see [cas.Table].
func (t *table) Read(ctx context.Context, items []cas.Item) (cas.Moment, error) {
	c, err := t.acquire(ctx)
	if err != nil {
		return cas.Moment{}, err
	}
	var failed *cas.Failure
	defer func() { release(c, failed) }()
	m, err := readItems(ctx, c.Conn(), items)
	if err == nil && m.Epoch.ID == 0 {
		err = errNoEpoch
	}
	if err == nil && !t.meet(epochIn(m.Epoch), false, false) {
		err = errElsewhere
	}
	if err != nil {
		failed = diagnose(err, false)
		f := *failed
		f.Unsent = true // it only reads
		return cas.Moment{}, &f
	}
	return m, nil
}

func readItems(ctx context.Context, c *pgx.Conn, items []cas.Item) (m cas.Moment, err error) {
	keys, at := uuids(len(items)), make(map[cas.Key]int, len(items))
	for i := range items {
		k := items[i].Key
		keys, at[k] = keys.bytes(k[:]), i
		items[i] = cas.Item{Key: k}
	}
	rows := c.PgConn().ExecPrepared(ctx, readName, [][]byte{keys}, binaryForm, binaryForm)
	for err == nil && rows.NextRow() {
		err = readRow(rows.Values(), &m, items, at)
	}
	_, failed := rows.Close()
	return m, cmp.Or(failed, err)
}

// readRow reads a row: the moment, and the item unless there is none.
func readRow(columns [][]byte, m *cas.Moment, items []cas.Item, at map[cas.Key]int) error {
	if len(columns) != 7 {
		return errAnswer
	}
	now, err1 := bigint(columns[0])
	id, err2 := bigint(columns[1])
	since, err3 := bigint(columns[2])
	*m = cas.Moment{Now: now, Epoch: headgate.Epoch{ID: uint64(id), Since: since}}
	if err := cmp.Or(err1, err2, err3); err != nil || columns[3] == nil {
		return err
	}
	version, err1 := bigint(columns[4])
	expires, err2 := bigint(columns[5])
	var k cas.Key
	copy(k[:], columns[3])
	i, asked := at[k]
	if !asked {
		return errAnswer
	}
	items[i] = cas.Item{Key: k, Version: uint64(version), Expires: expires, Value: slices.Clone(columns[6])}
	return cmp.Or(err1, err2)
}

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

func swapItems(ctx context.Context, c *pgx.Conn, epoch uint64, changes []cas.Change) (m cas.Moment, failed *cas.Failure) {
	if single(changes) {
		return swapEach(ctx, c, epoch, changes)
	}
	params, all := swapParams(epoch, changes)
	rows := c.PgConn().ExecPrepared(ctx, swapName, params, binaryForm, binaryForm)
	answered := rows.NextRow()
	var err error
	if answered {
		m.Epoch.ID = epoch
		err = swapAnswer(rows.Values(), &m, changes, all)
	}
	_, undone := rows.Close()
	if err = cmp.Or(undone, err); err != nil {
		return m, diagnose(err, answered)
	}
	return m, nil
}

// swapped is an item among changes.
type swapped struct {
	*cas.Swap
	change int
}

// swapParams returns the arguments of headgate_swap, and the items by their places.
func swapParams(epoch uint64, changes []cas.Change) ([][]byte, []swapped) {
	all := make([]swapped, 0, len(changes))
	size := 0
	for i := range changes {
		items := changes[i].Items
		for j := range items {
			all = append(all, swapped{&items[j], i})
			size += len(items[j].New.Value)
		}
	}
	n := len(all)
	keys, olds, news, values, ends := uuids(n), int64s(n), int64s(n), byteStrings(n, size), int64s(n)
	for _, w := range all {
		var to cas.Item // a version of 0 only compares
		if w.Write {
			to = w.New
		}
		keys, olds = keys.bytes(w.Old.Key[:]), olds.int64(int64(w.Old.Version))
		news, values, ends = news.int64(int64(to.Version)), values.bytes(to.Value), ends.int64(to.Expires)
	}
	numbers, writes := int32s(n), bools(n)
	for i := range changes {
		items := changes[i].Items
		writing := slices.ContainsFunc(items, func(w cas.Swap) bool { return w.Write })
		for range items {
			numbers, writes = numbers.int32(int32(i)), writes.bool(writing)
		}
	}
	return [][]byte{binary.BigEndian.AppendUint64(nil, epoch), numbers, writes, keys, olds, news, values, ends}, all
}

// swapAnswer reads what headgate_swap answers.
func swapAnswer(columns [][]byte, m *cas.Moment, changes []cas.Change, all []swapped) (err error) {
	if len(columns) != 6 {
		return errAnswer
	}
	var err2 error
	m.Now, err = bigint(columns[0])
	m.Epoch.Since, err2 = bigint(columns[1])
	if err = cmp.Or(err, err2); err != nil {
		return err
	}
	for i := range changes {
		changes[i].Done = true
	}
	if columns[2] == nil {
		return nil
	}
	var others []*cas.Item // what is there, of the changes that were not made
	err = elements(columns[2], func(_ int, b []byte) error {
		place, err := bigint(b)
		if err != nil || place < 1 || place > int64(len(all)) {
			return errAnswer
		}
		w := all[place-1]
		changes[w.change].Done = false
		w.Old = cas.Item{Key: w.Old.Key}
		others = append(others, &w.Old)
		return nil
	})
	for i, set := range []func(*cas.Item, []byte) error{
		func(x *cas.Item, b []byte) error { n, err := bigint(b); x.Version = uint64(n); return err },
		func(x *cas.Item, b []byte) error { n, err := bigint(b); x.Expires = n; return err },
		func(x *cas.Item, b []byte) error { x.Value = slices.Clone(b); return nil },
	} {
		if err != nil {
			return err
		}
		err = elements(columns[3+i], func(at int, b []byte) error {
			if at >= len(others) {
				return errAnswer
			}
			return set(others[at], b)
		})
	}
	return err
}

// MaxValue is how many bytes an item may have; see [cas.Table].
func (t *table) MaxValue() int { return mostSize }

// Close closes the connections.
func (t *table) Close() error {
	t.pool.Close()
	return nil
}
