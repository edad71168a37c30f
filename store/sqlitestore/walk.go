package sqlitestore

import (
	"bytes"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/headgate/headgate/store/memstore"
)

const (
	// walkEvery is how often the walker looks at walkRows rows: 5 million take about
	// 40 minutes and 1 % of a processor.
	walkEvery = time.Second
	walkRows  = 2048
	// walkDrops is how many of them go in one transaction, for which commits wait.
	walkDrops = 256
)

// first is before all keys.
var first = []byte{0}

// walker looks at all rows again and again, in the order of their keys. It deletes
// those that say nothing any more and reports those that are damaged.
type walker struct {
	*conn
	next  *stmt
	after []byte
	// seen are the numbers of rows that it met in this pass.
	seen map[int64]struct{}
	// rows, ends and told count what it did since the start.
	rows, ends, told int64
	// failing says that the latest walk failed.
	failing bool
}

func newWalker(file string) (w walker, err error) {
	if w.conn, err = connect(file); err != nil {
		return w, err
	}
	w.seen, w.after = make(map[int64]struct{}), first
	if w.next, err = w.prepare(`select key, until, numbers, value from state where key > ? order by key limit ?`); err != nil {
		w.Close()
	}
	return w, err
}

// runWalker walks until the journal quits.
func (j *journal) runWalker() {
	tick := time.NewTicker(walkEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.quit:
			return
		case <-tick.C:
		}
		if j.broken.Load() != nil {
			return
		}
		start := time.Now()
		err := j.walk(walkRows)
		j.observe("walk", time.Since(start), kindOf(err))
		j.walked(err)
	}
}

// walked takes down how a walk has ended.
func (j *journal) walked(err error) {
	if err != nil && !j.walker.failing {
		j.log.Warn("sqlitestore: rows that are over could not be looked for; later", "dir", j.dir, "error", err)
	}
	j.walker.failing = err != nil
}

// expired is a row to delete, if it still has that until.
type expired struct {
	key   []byte
	until int64
}

// walk looks at the next rows. After the last one it begins anew.
func (j *journal) walk(rows int) error {
	w := &j.walker
	j.mu.Lock()
	latest := j.meta.latest
	j.mu.Unlock()
	n := 0
	var over []expired
	err := w.next.query(4, func(columns []driver.Value) error {
		n++
		key, _ := columns[0].([]byte)
		var r memstore.Record
		var err error
		switch {
		case bytes.Compare(key, w.after) <= 0:
			return damaged("row %x of table state comes after row %x", key, w.after)
		case len(key) != keyBytes:
			err = damaged("row %x of table state has a key of %d bytes", key, len(key))
		default:
			r.Key = keyOf(key)
			err = j.limits.fill("state", &r, columns[1:])
		}
		w.after = key
		numbers, _ := columns[2].(int64)
		w.seen[numbers] = struct{}{}
		if err != nil {
			w.told++
			j.observe("walk", 0, kindOf(err))
			j.log.Error("sqlitestore: damage: requests of this key fail, and other states may be missing: restore a backup", "dir", j.dir, "error", err)
			return nil
		}
		if r.Until <= latest {
			over = append(over, expired{key, r.Until})
		}
		return nil
	}, w.after, int64(rows))
	w.rows += int64(n)
	if err != nil {
		w.after = first
		return err
	}
	for len(over) > 0 {
		k := min(len(over), walkDrops)
		if err := j.expire(over[:k]); err != nil {
			return err
		}
		w.ends += int64(k)
		over = over[k:]
	}
	if n == rows {
		return nil
	}
	w.after = first
	return j.passed()
}

// expire deletes rows.
func (j *journal) expire(over []expired) error {
	j.makeRoom()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write(func() error {
		for _, e := range over {
			j.frames++
			if err := j.w.expire.exec(e.key, e.until); err != nil {
				return err
			}
		}
		return nil
	})
}

// passed ends a pass: bans that are over, and numbers that no row refers to, are
// deleted.
func (j *journal) passed() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.banned {
		if err := j.write(func() error { j.frames += walkDrops; return j.w.expireBans.exec(j.meta.latest, int64(walkDrops)) }); err != nil {
			return err
		}
	}
	seen := j.walker.seen
	j.walker.seen = make(map[int64]struct{})
	used := j.used
	j.used = make(map[int64]struct{})
	gone := make(map[int64]bool)
	for _, id := range j.limits.ids {
		_, met := seen[id]
		_, new := used[id]
		if !met && !new {
			gone[id] = true
		}
	}
	if len(gone) == 0 {
		return nil
	}
	err := j.w.query(background, `select numbers from limits union select numbers from bans`, 1, func(columns []driver.Value) error {
		id, ok := columns[0].(int64)
		if !ok {
			return errors.New("limits.numbers is no number")
		}
		delete(gone, id)
		return nil
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	return j.deleteNumbers(gone)
}

func (j *journal) deleteNumbers(gone map[int64]bool) error {
	err := j.write(func() error {
		for id := range gone {
			j.frames++
			if err := j.w.exec(background, `delete from numbers where id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		j.limits.forget(gone)
	}
	return err
}
