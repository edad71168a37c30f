package sqlitestore

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Values of meta.stopped.
const (
	running = iota
	// clean: the store was closed in order.
	clean
	// settled: it was not, and all that is known stands in the database file.
	settled
)

// meta is what a database knows of itself. The columns of its table say what is
// what.
type meta struct {
	secret          [32]byte
	place, previous [16]byte
	inode           int64
	began, earlier  int64
	latest          int64
	stopped         int64
	lost            int64
	backup          int64
	restored        int64
}

func (m *meta) crc() int64 {
	buf := append(append(append(make([]byte, 0, 128), m.secret[:]...), m.place[:]...), m.previous[:]...)
	for _, n := range [...]int64{m.inode, m.began, m.earlier, m.latest, m.stopped, m.lost, m.backup, m.restored} {
		buf = binary.BigEndian.AppendUint64(buf, uint64(n))
	}
	return int64(crc32.Checksum(buf, castagnoli))
}

// writeMeta replaces all of it.
func (c *conn) writeMeta(ctx context.Context, m *meta) error {
	return c.exec(ctx, `insert or replace into meta (one, secret, place, previous, inode, began, earlier, latest, stopped, lost, backup, restored, crc)
		values (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		m.secret[:], m.place[:], m.previous[:], m.inode, m.began, m.earlier, m.latest, m.stopped, m.lost, m.backup, m.restored, m.crc())
}

// readMeta fails with [damage] if there is none, or another one than was written.
func (c *conn) readMeta(ctx context.Context) (*meta, error) {
	var m *meta
	bad := false
	err := c.query(ctx, `select secret, place, previous, inode, began, earlier, latest, stopped, lost, backup, restored, crc from meta`, 12, func(columns []driver.Value) error {
		bad, m = m != nil, new(meta)
		for i, to := range [...][]byte{m.secret[:], m.place[:], m.previous[:]} {
			b, _ := columns[i].([]byte)
			if copy(to, b) != len(to) || len(b) != len(to) {
				bad = true
			}
		}
		for i, to := range [...]*int64{&m.inode, &m.began, &m.earlier, &m.latest, &m.stopped, &m.lost, &m.backup, &m.restored} {
			*to, _ = columns[3+i].(int64)
		}
		if crc, ok := columns[11].(int64); !ok || crc != m.crc() {
			bad = true
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, damaged("table meta is empty")
	case bad:
		return nil, damaged("table meta is not as it was written")
	}
	return m, nil
}
