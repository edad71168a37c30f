package pgstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate/store/cas"
)

// The statements that make changes which are of one item each and delete nothing: of
// rows that are there, in the order of the keys; then those of new ones, in the same
// order, and compare what is only looked at. Most groups have only the first. They
// answer the keys of what was made, unless that is as many as asked for. A loop keeps the
// order of what it goes through, and a key that is any of an array of one is looked up by
// the index, also where the table was empty when that was planned.
const (
	moved = `
with e as materialized (select since from headgate_epoch where id = $1 and ` + whole + `),
moved as (
	update headgate_item i
	set version = g.new, expires = g.ends, value = g.value
	from unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[]) g(k, old, new, value, ends)
	where i.k = any (array[g.k]) and i.version = g.old and exists (select from e)
	returning i.k
)`
	move = moved + `
select case when count(*) < $7::bigint then coalesce(array_agg(k), '{}') end, headgate_now(), (select since from e)
from moved`
	each = moved + `,
first as materialized (select array_agg(k) as keys from moved),
made as (
	insert into headgate_item (k, version, expires, value)
	select g.k, g.new, g.ends, g.value
	from first, unnest($7::uuid[], $8::bigint[], $9::bytea[], $10::bigint[]) g(k, new, value, ends)
	where exists (select from e)
	on conflict do nothing
	returning k
)
select case when cardinality(done) < $13::bigint then done end, headgate_now(), (select since from e)
from (
	select coalesce(first.keys, '{}') || array(select k from made) || array(
		select g.k
		from unnest($11::uuid[], $12::bigint[]) g(k, old)
		left join headgate_item i on i.k = any (array[g.k])
		where coalesce(i.version, 0) = g.old
	) as done
	from first
	offset 0
) d`
)

// single reports whether each change is of one item and none deletes it.
func single(changes []cas.Change) bool {
	return !slices.ContainsFunc(changes, func(x cas.Change) bool {
		return len(x.Items) != 1 || x.Items[0].Write && len(x.Items[0].New.Value) == 0
	})
}

// swapEach makes changes of single items.
func swapEach(ctx context.Context, c *pgx.Conn, epoch uint64, changes []cas.Change) (m cas.Moment, failed *cas.Failure) {
	swaps := make([]*cas.Swap, len(changes))
	for i := range changes {
		swaps[i] = &changes[i].Items[0]
	}
	slices.SortFunc(swaps, func(a, b *cas.Swap) int { return bytes.Compare(a.Old.Key[:], b.Old.Key[:]) })
	name, params := eachParams(epoch, swaps)
	rows := c.PgConn().ExecPrepared(ctx, name, params, binaryForm, binaryForm)
	answered := rows.NextRow()
	var err error
	var made map[cas.Key]bool
	stale := false
	if answered {
		m.Epoch.ID = epoch
		made, stale, err = eachAnswer(rows.Values(), &m)
	}
	_, undone := rows.Close()
	if err = cmp.Or(undone, err); err != nil {
		return m, diagnose(err, answered)
	}
	if stale {
		return m, &cas.Failure{Kind: kindEpoch, Unsent: true, Stale: true, Err: errEpoch}
	}
	var others []cas.Item
	for i := range changes {
		k := changes[i].Items[0].Old.Key
		if changes[i].Done = made == nil || made[k]; !changes[i].Done {
			others = append(others, cas.Item{Key: k})
		}
	}
	if len(others) == 0 {
		return m, nil
	}
	if _, err := readItems(ctx, c, others); err != nil {
		return m, nil // what was made is made; the others are tried again
	}
	for i := range changes {
		if !changes[i].Done {
			changes[i].Items[0].Old, others = others[0], others[1:]
		}
	}
	return m, nil
}

var errEpoch = errors.New("postgres: another epoch")

// eachAnswer reads what the statements answer. made is nil if all was.
func eachAnswer(columns [][]byte, m *cas.Moment) (made map[cas.Key]bool, stale bool, err error) {
	if len(columns) != 3 {
		return nil, false, errAnswer
	}
	if columns[2] == nil {
		return nil, true, nil
	}
	var err2 error
	m.Now, err = bigint(columns[1])
	m.Epoch.Since, err2 = bigint(columns[2])
	if err = cmp.Or(err, err2); err != nil || columns[0] == nil {
		return nil, false, err
	}
	made = make(map[cas.Key]bool)
	err = elements(columns[0], func(_ int, b []byte) error {
		var k cas.Key
		if copy(k[:], b) != len(k) {
			return errAnswer
		}
		made[k] = true
		return nil
	})
	return made, false, err
}

// eachParams returns the statement that makes the swaps, and its arguments.
func eachParams(epoch uint64, swaps []*cas.Swap) (name string, params [][]byte) {
	var moved, made, looked, movedSize, madeSize int
	for _, w := range swaps {
		switch {
		case !w.Write:
			looked++
		case w.Old.Version == 0:
			made++
			madeSize += len(w.New.Value)
		default:
			moved++
			movedSize += len(w.New.Value)
		}
	}
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	keys, olds, news, values, ends := uuids(moved), int64s(moved), int64s(moved), byteStrings(moved, movedSize), int64s(moved)
	for _, w := range swaps {
		if w.Write && w.Old.Version != 0 {
			keys, olds, news = keys.bytes(w.Old.Key[:]), olds.int64(int64(w.Old.Version)), news.int64(int64(w.New.Version))
			values, ends = values.bytes(w.New.Value), ends.int64(w.New.Expires)
		}
	}
	params = [][]byte{number(epoch), keys, olds, news, values, ends}
	if moved == len(swaps) {
		return moveName, append(params, number(uint64(moved)))
	}
	madeKeys, madeNews, madeValues, madeEnds := uuids(made), int64s(made), byteStrings(made, madeSize), int64s(made)
	lookedKeys, lookedOlds := uuids(looked), int64s(looked)
	for _, w := range swaps {
		switch {
		case !w.Write:
			lookedKeys, lookedOlds = lookedKeys.bytes(w.Old.Key[:]), lookedOlds.int64(int64(w.Old.Version))
		case w.Old.Version == 0:
			madeKeys, madeNews = madeKeys.bytes(w.Old.Key[:]), madeNews.int64(int64(w.New.Version))
			madeValues, madeEnds = madeValues.bytes(w.New.Value), madeEnds.int64(w.New.Expires)
		}
	}
	return eachName, append(params, madeKeys, madeNews, madeValues, madeEnds, lookedKeys, lookedOlds, number(uint64(len(swaps))))
}
