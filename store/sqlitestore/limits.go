package sqlitestore

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"sync"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/record"
)

// mostSerials bounds the limits whose id is remembered.
const mostSerials = 1 << 16

// dictionary has the numbers of limits, by which rows of table state refer to them.
type dictionary struct {
	// Those below belong to who writes. ids has what is in the database, serials the
	// same by [headgate.Prepared.Serial], and fresh what the commit under way adds.
	ids     map[string]int64
	serials map[uint32]int64
	fresh   map[string]int64
	last    int64
	text    []byte

	mu sync.RWMutex
	// known has what rows may refer to, and more: ids are never used again.
	known map[int64]*headgate.Prepared
}

func newDictionary() *dictionary {
	return &dictionary{
		ids: make(map[string]int64), serials: make(map[uint32]int64), fresh: make(map[string]int64),
		known: make(map[int64]*headgate.Prepared),
	}
}

func textCRC(id int64, text []byte) int64 {
	return int64(crc32.Update(crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(id)), castagnoli), castagnoli, text))
}

// load reads table numbers.
func (d *dictionary) load(ctx context.Context, c *conn) error {
	err := c.query(ctx, `select id, text, crc from numbers`, 3, func(columns []driver.Value) error {
		id, _ := columns[0].(int64)
		text, _ := columns[1].([]byte)
		if crc, ok := columns[2].(int64); !ok || crc != textCRC(id, text) {
			return damaged("row %d of table numbers is not as it was written", id)
		}
		l, err := record.ReadLimit(text)
		if err != nil {
			return damaged("row %d of table numbers: %v", id, err)
		}
		d.ids[string(text)], d.known[id] = id, l
		return nil
	})
	if err != nil {
		return err
	}
	d.last, err = c.integer(ctx, `select coalesce(max(seq), 0) from sqlite_sequence where name = 'numbers'`)
	return err
}

// of returns the limit with the numbers of that id, nil if there is none.
func (d *dictionary) of(id int64) *headgate.Prepared {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.known[id]
}

// fill makes r what a row of a table, with columns until, numbers and value, says.
func (d *dictionary) fill(table string, r *memstore.Record, columns []driver.Value) error {
	until, ok1 := columns[0].(int64)
	numbers, ok2 := columns[1].(int64)
	value, ok3 := columns[2].([]byte)
	if !ok1 || !ok2 || !ok3 || !intact(r.Key, until, numbers, value) {
		return damaged("row %x of table %s is not as it was written", appendKey(nil, r.Key), table)
	}
	l := d.of(numbers)
	if l == nil {
		return damaged("row %x of table %s refers to numbers %d, which are not there", appendKey(nil, r.Key), table, numbers)
	}
	r.Until = until
	if !readValue(r, value) || len(r.Words) < algo.Words(l) {
		return damaged("row %x of table %s is shorter than it says", appendKey(nil, r.Key), table)
	}
	r.Limit = l
	return nil
}

// id returns the id of the numbers of l, which it adds to the commit under way if
// they are new.
func (d *dictionary) id(l *headgate.Prepared, insert *stmt) (int64, error) {
	if id, ok := d.serials[l.Serial]; ok {
		return id, nil
	}
	d.text = record.AppendLimit(d.text[:0], &l.Limit)
	id, ok := d.ids[string(d.text)]
	if ok {
		if len(d.serials) >= mostSerials {
			clear(d.serials)
		}
		d.serials[l.Serial] = id
		return id, nil
	}
	if id, ok = d.fresh[string(d.text)]; ok {
		return id, nil
	}
	read, err := record.ReadLimit(d.text)
	if err != nil {
		return 0, err
	}
	d.last++
	if err := insert.exec(d.last, d.text, textCRC(d.last, d.text)); err != nil {
		return 0, err
	}
	d.mu.Lock()
	d.known[d.last] = read
	d.mu.Unlock()
	d.fresh[string(d.text)] = d.last
	return d.last, nil
}

// committed says whether what the commit under way has added is in the database.
func (d *dictionary) committed(yes bool) {
	if yes {
		maps.Copy(d.ids, d.fresh)
	}
	clear(d.fresh)
}

// forget drops numbers that are in the database no more.
func (d *dictionary) forget(ids map[int64]bool) {
	for text, id := range d.ids {
		if ids[id] {
			delete(d.ids, text)
		}
	}
	clear(d.serials)
}

// use is a row of table limits.
type use struct {
	memstore.Use
	numbers int64
}

func (u *use) id() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, u.ID[0]), u.ID[1])
}

func (u *use) durable() int64 {
	if u.Durable {
		return 1
	}
	return 0
}

func (u *use) crc() int64 {
	buf := u.id()
	for _, n := range [...]int64{u.numbers, u.Since, u.durable()} {
		buf = binary.BigEndian.AppendUint64(buf, uint64(n))
	}
	return int64(crc32.Checksum(buf, castagnoli))
}

const putUse = `insert into limits (id, numbers, since, durable, crc) values (?, ?, ?, ?, ?)
	on conflict do update set since = excluded.since, durable = excluded.durable, crc = excluded.crc`

func (u *use) columns() []driver.Value {
	return []driver.Value{u.id(), u.numbers, u.Since, u.durable(), u.crc()}
}

// readUses reads table limits, in the order of since.
func (d *dictionary) readUses(ctx context.Context, c *conn) (all []use, err error) {
	err = c.query(ctx, `select id, numbers, since, durable, crc from limits order by since, id, numbers`, 5, func(columns []driver.Value) error {
		var u use
		id, _ := columns[0].([]byte)
		if len(id) != 16 {
			return damaged("row %x of table limits is not as it was written", id)
		}
		u.ID = [2]uint64{binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(id[8:])}
		u.numbers, _ = columns[1].(int64)
		u.Since, _ = columns[2].(int64)
		durable, _ := columns[3].(int64)
		u.Durable = durable == 1
		if crc, ok := columns[4].(int64); !ok || crc != u.crc() {
			return damaged("row %x of table limits is not as it was written", id)
		}
		if u.Limit = d.of(u.numbers); u.Limit == nil {
			return damaged("row %x of table limits refers to numbers %d, which are not there", id, u.numbers)
		}
		all = append(all, u)
		return nil
	})
	return all, err
}
