package sqlitestore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// journal is a [memstore.Journal] in a database.
type journal struct {
	dir     string
	held    *hold
	log     *slog.Logger
	observe func(op string, took time.Duration, failure string)
	limits  *dictionary
	readers chan *reading
	all     []*reading
	checker checker
	walker  walker
	// broken is why nothing can be committed any more.
	broken atomic.Pointer[string]
	// failing says that the latest commit failed.
	failing atomic.Bool
	// wake tells the checkpointer that the write-ahead log is long.
	wake chan struct{}
	quit chan struct{}
	jobs sync.WaitGroup

	mu sync.Mutex // who writes
	w  writing
	// meta is as it was committed.
	meta meta
	// frames is an upper bound of those in the write-ahead log, and due how many
	// may be there before they are moved to the database file: soft, or more while
	// somebody reads who began before.
	frames, due, soft int64
	// banned says that there may be rows in table bans.
	banned     bool
	order      []int32
	key, value []byte
	// used are the numbers that were committed to since the walker's pass began.
	used map[int64]struct{}
}

// writing is the connection that writes.
type writing struct {
	*conn
	begin, commit, rollback       *stmt
	put, drop, expire             *stmt
	putBan, dropBan, expireBans   *stmt
	addNumbers, addUse, setLatest *stmt
}

func newWriting(c *conn) (w writing, err error) {
	w.conn = c
	return w, c.prepareAll(map[string]**stmt{
		`begin immediate`:                &w.begin,
		`commit`:                         &w.commit,
		`rollback`:                       &w.rollback,
		putInto("state"):                 &w.put,
		putInto("bans"):                  &w.putBan,
		`delete from bans where key = ?`: &w.dropBan,
		`delete from bans where key in (select key from bans where until <= ? limit ?)`: &w.expireBans,
		`delete from state where key = ?`:                                               &w.drop,
		`delete from state where key = ? and until = ?`:                                 &w.expire,
		`insert into numbers (id, text, crc) values (?, ?, ?)`:                          &w.addNumbers,
		putUse: &w.addUse,
		`update meta set latest = ?, stopped = ?, crc = ?`: &w.setLatest,
	})
}

// putInto returns the statement that writes a row of that table.
func putInto(table string) string {
	return `insert into ` + table + ` (key, until, numbers, value) values (?, ?, ?, ?)
		on conflict (key) do update set until = excluded.until, numbers = excluded.numbers, value = excluded.value`
}

// errBroken is what an error of a journal that will not write again says.
const errBroken = "an earlier write failed, and what of it is on disk is not known: end the process and start it again, which reads what is"

// Commit implements [memstore.Journal]. An error that may pass (the disk is full)
// leaves nothing of c behind; after any other the journal is broken, and all later
// commits fail.
func (j *journal) Commit(c *memstore.Commit) error {
	start := time.Now()
	j.makeRoom()
	j.mu.Lock()
	m := j.meta
	m.latest, m.stopped = max(m.latest, c.Now), running
	if c.Clean {
		// What was copied before, and put back later, is of another place.
		m.stopped, m.previous = clean, m.place
		rand.Read(m.place[:])
	}
	err := j.write(func() error { return j.apply(c, &m) })
	if err == nil {
		j.meta = m
	}
	j.mu.Unlock()
	j.observe("commit", time.Since(start), kindOf(err))
	if was := j.failing.Swap(err != nil); was != (err != nil) && j.broken.Load() == nil {
		if err != nil {
			j.log.Warn("sqlitestore: limits cannot be kept at the moment: what has to be written is refused", "dir", j.dir, "error", err)
		} else {
			j.log.Info("sqlitestore: limits can be kept again", "dir", j.dir)
		}
	}
	if err != nil {
		return unavailable(fmt.Sprintf("commit %d states", len(c.Records)), err)
	}
	return nil
}

// write makes what do writes one transaction. The caller holds j.mu.
func (j *journal) write(do func() error) error {
	if why := j.broken.Load(); why != nil {
		return errors.New(*why)
	}
	frames := j.frames
	err := j.w.begin.exec()
	if err == nil {
		if err = do(); err == nil {
			err = j.w.commit.exec()
		}
		j.limits.committed(err == nil)
	}
	if err == nil {
		if j.frames >= j.due {
			select {
			case j.wake <- struct{}{}:
			default:
			}
		}
		return nil
	}
	j.frames = frames // the next commit overwrites those of this one
	if codeOf(err) != 0 && !passing(err) {
		j.breakDown(err)
		return err
	}
	// SQLite may have rolled back by itself, and then says that there is nothing to
	// roll back.
	if back := j.w.rollback.exec(); back != nil && codeOf(back) != codeError {
		j.breakDown(back)
	}
	return err
}

const codeError = 1

// breakDown makes all later commits fail: after a write or a sync that failed, the
// system may take for written what is not.
func (j *journal) breakDown(err error) {
	why := fmt.Sprintf("%s (%s)", errBroken, short(err))
	if j.broken.CompareAndSwap(nil, &why) {
		j.log.Error("sqlitestore: limits cannot be kept any more: "+errBroken, "dir", j.dir, "error", err)
	}
}

// apply writes c, in a transaction, after which the database has m.
func (j *journal) apply(c *memstore.Commit, m *meta) error {
	for i := range c.Limits {
		u := use{Use: c.Limits[i]}
		var err error
		if u.numbers, err = j.limits.id(u.Limit, j.w.addNumbers); err != nil {
			return err
		}
		if err := j.w.addUse.exec(u.columns()...); err != nil {
			return err
		}
		j.used[u.numbers] = struct{}{}
		j.frames += 2
	}
	j.order = j.order[:0]
	for i := range c.Records {
		j.order = append(j.order, int32(i))
	}
	// Neighbours share pages. Of equal keys the last one counts.
	slices.SortFunc(j.order, func(x, y int32) int {
		a, b := c.Records[x].Key, c.Records[y].Key
		return cmp.Or(cmp.Compare(a.Hi, b.Hi), cmp.Compare(a.Lo, b.Lo), cmp.Compare(x, y))
	})
	for _, i := range j.order {
		if err := j.put(&c.Records[i], c.Now); err != nil {
			return err
		}
	}
	j.frames += int64(len(j.order))/splits + 2
	if c.Clean {
		return j.w.writeMeta(background, m)
	}
	return j.w.setLatest.exec(m.latest, m.stopped, m.crc())
}

// splits is how many rows are written for each page that is split, at least.
const splits = 8

// put writes one record, in a transaction.
func (j *journal) put(r *memstore.Record, now int64) error {
	j.key = appendKey(j.key[:0], r.Key)
	j.frames++
	if r.Limit == nil || r.Until <= now {
		return j.drop()
	}
	id, err := j.limits.id(r.Limit, j.w.addNumbers)
	if err != nil {
		return err
	}
	j.used[id] = struct{}{}
	j.value = appendValue(j.value[:0], r, id)
	j.frames += int64(len(j.value) / pageBytes) // overflow pages
	if r.Limit.Algorithm == headgate.Ban {
		j.banned = true
		if err := j.w.drop.exec(j.key); err != nil { // the key may have been that of another limit
			return err
		}
		return j.w.putBan.exec(j.key, r.Until, id, j.value)
	}
	if j.banned {
		if err := j.w.dropBan.exec(j.key); err != nil {
			return err
		}
	}
	return j.w.put.exec(j.key, r.Until, id, j.value)
}

// drop deletes the record of j.key, of whatever kind.
func (j *journal) drop() error {
	if j.banned {
		if err := j.w.dropBan.exec(j.key); err != nil {
			return err
		}
	}
	return j.w.drop.exec(j.key)
}

// reading is a connection that reads.
type reading struct {
	*conn
	// at finds a row, or else the one after it; before the one before it.
	at, before *stmt
}

func newReading(file string) (*reading, error) {
	c, err := connect(file)
	if err != nil {
		return nil, err
	}
	r := &reading{conn: c}
	if err = c.exec(background, `pragma query_only = on`); err == nil {
		err = c.prepareAll(map[string]**stmt{
			`select until, numbers, value, key from state where key >= ? order by key limit 1`:     &r.at,
			`select until, numbers, value, key from state where key < ? order by key desc limit 1`: &r.before,
		})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return r, nil
}

// Load implements [memstore.Journal]. It fails where a row is damaged, and names
// it: what it said is not known, and "never seen" would be an amnesty.
func (j *journal) Load(ctx context.Context, records []memstore.Record) error {
	start := time.Now()
	err := j.load(ctx, records)
	j.observe("load", time.Since(start), kindOf(err))
	if err != nil {
		return unavailable("read a state", err)
	}
	return nil
}

func (j *journal) load(ctx context.Context, records []memstore.Record) error {
	var r *reading
	select {
	case r = <-j.readers:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r == nil {
		return &headgate.Error{Code: headgate.Closed, Err: errors.New("the store is closed")}
	}
	defer func() { j.readers <- r }()
	k := make([]byte, 0, keyBytes)
	for i := range records {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		x := &records[i]
		x.Limit, x.Words, x.Keep, x.Until, x.Leases = nil, nil, never, 0, nil
		k = appendKey(k[:0], x.Key)
		if err := j.find(r, x, k); err != nil {
			x.Limit = nil
			if codeOf(err) == codeCorrupt {
				err = damaged("row %x of table state: %s", k, short(err))
			}
			return err
		}
	}
	return nil
}

// find fills in the record with key k. Where there is none, the rows beside it must
// be intact: a key that was damaged, which hides its row or leads the search astray,
// is one of them.
func (j *journal) find(r *reading, x *memstore.Record, k []byte) error {
	found := false
	look := func(columns []driver.Value) error {
		key, _ := columns[3].([]byte)
		if bytes.Equal(key, k) {
			found = true
			return j.limits.fill("state", x, columns)
		}
		if len(key) != keyBytes {
			return damaged("row %x of table state has a key of %d bytes", key, len(key))
		}
		beside := memstore.Record{Key: keyOf(key)}
		return j.limits.fill("state", &beside, columns)
	}
	if err := r.at.query(4, look, k); err != nil || found {
		return err
	}
	return r.before.query(4, look, k)
}
