package sqlitestore

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/memstore"
)

const (
	// mostReaders bounds the connections that read.
	mostReaders = 4
	// quickBytes is up to which size a database is checked at every start: about 0.2 s
	// for a million rows, 50 MB.
	quickBytes = 512 << 20
)

// starting is what a start finds out.
type starting struct {
	dir   string
	log   *slog.Logger
	now   int64 // wall clock, µs since the Unix epoch
	w     *conn
	meta  *meta
	place []byte // in file place
	inode int64
	wal   int64 // length of the write-ahead log, -1 without any
}

// open starts the journal in dir, which it creates, at an instant of the wall clock.
// It returns what memstore wants to know of the time before.
func open(ctx context.Context, c *Config, now int64) (j *journal, past memstore.Past, err error) {
	if err := fits(c.Dir, mostDir); err != nil {
		return nil, past, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, past, explainFile(c.Dir, err)
	}
	held, err := lock(c.Dir, c.Command)
	if err != nil {
		return nil, past, err
	}
	s := &starting{dir: c.Dir, log: c.Logger, now: now}
	defer func() {
		if err == nil {
			return
		}
		if s.w != nil {
			err = errors.Join(err, s.w.keepWAL(true), s.w.Close())
		}
		held.Close()
	}()
	found, err := inspect(c.Dir)
	if err != nil {
		return nil, past, err
	}
	if !found {
		if err := create(ctx, c.Dir, pageBytes); err != nil {
			return nil, past, explain(c.Dir, err)
		}
	}
	if err := s.connect(ctx); err != nil {
		return nil, past, explain(c.Dir, err)
	}
	limits := newDictionary()
	if past, err = s.begin(ctx, limits); err != nil {
		return nil, past, explain(c.Dir, err)
	}
	banned, err := s.w.integer(ctx, `select exists (select 1 from bans)`)
	if err != nil {
		return nil, past, explain(c.Dir, err)
	}
	j = &journal{
		banned: banned != 0,
		dir:    c.Dir, held: held, log: c.Logger, observe: c.Observe, limits: limits, meta: *s.meta,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), due: softFrames, soft: softFrames, used: make(map[int64]struct{}),
	}
	if info, err := os.Stat(fileOf(c.Dir) + walSuffix); err == nil {
		j.frames = info.Size() / (pageBytes + frameHead) // what processes have left that were killed
	}
	if err := j.connect(s.w); err != nil {
		return nil, past, errors.Join(explain(c.Dir, err), j.disconnect())
	}
	return j, past, nil
}

// create makes a new database, with pages of that many bytes. It has its name when
// it is complete.
func create(ctx context.Context, dir string, page int) error {
	return replace(dir, databaseName, func(f *os.File) error {
		for _, suffix := range [...]string{"-journal", walSuffix, "-shm"} { // of an earlier try
			if err := os.Remove(f.Name() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		c, err := connect(f.Name())
		if err != nil {
			return err
		}
		err = c.exec(ctx, fmt.Sprintf("pragma page_size = %d; pragma application_id = %d; vacuum", page, application))
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
		if err := migrate(ctx, f.Name(), 0); err != nil {
			return err
		}
		if c, err = connect(f.Name()); err != nil {
			return err
		}
		m := meta{stopped: settled}
		rand.Read(m.secret[:])
		return errors.Join(c.writeMeta(ctx, &m), c.Close())
	})
}

// connect opens the database that is there, brings its tables up to date, and
// checks it.
func (s *starting) connect(ctx context.Context) (err error) {
	file := fileOf(s.dir)
	info, err := os.Stat(file)
	if err != nil {
		return explainFile(s.dir, err)
	}
	s.inode, s.wal = inode(info), -1
	if info, err := os.Stat(file + walSuffix); err == nil {
		s.wal = info.Size()
	}
	if err := writable(file); err != nil {
		return explainFile(file, err)
	}
	var at int64
	if s.place, at, err = readPlace(s.dir); err != nil {
		return explainFile(s.dir, err)
	}
	// The log of a copy may end anywhere: see foreign.
	if copied := at != 0 && s.inode != 0 && at != s.inode; !copied {
		if err := checkLog(file); err != nil {
			return err
		}
	}
	if s.w, err = connect(file); err != nil {
		return err
	}
	if err := s.w.keepWAL(true); err != nil {
		return err
	}
	found, err := s.w.schemaOf(ctx)
	if err != nil {
		return err
	}
	if found == 0 {
		return damaged("it has no tables")
	}
	if err := migrate(ctx, file, found); err != nil {
		return err
	}
	mode := ""
	err = s.w.query(ctx, `pragma journal_mode = wal`, 1, func(columns []driver.Value) error {
		mode, _ = columns[0].(string)
		return nil
	})
	if err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the file system cannot share memory between connections, or the database is in journal mode %q", mode)
	}
	if info.Size() <= quickBytes {
		return s.w.verify(ctx, "quick_check")
	}
	return nil
}

// writable fails if a file cannot be written to.
func writable(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// verify runs quick_check or integrity_check. It says what is found first, and how
// much more there is, of up to mostFaults.
func (c *conn) verify(ctx context.Context, check string) error {
	first, more := "", 0
	err := c.query(ctx, fmt.Sprintf(`pragma %s(%d)`, check, mostFaults), 1, func(columns []driver.Value) error {
		text, _ := columns[0].(string)
		for line := range strings.Lines(text) {
			switch line = strings.TrimSpace(line); {
			case line == "ok", strings.HasPrefix(line, "*** in database"):
			case first == "":
				first = line
			default:
				more++
			}
		}
		return nil
	})
	switch {
	case first == "":
		return err
	case more > 0:
		first = fmt.Sprintf("%s, and at least %d more", first, more)
	}
	return damaged("%s", first)
}

// begin reads what is known of the time before, and takes the mark of a clean stop
// away, durably, before anything is decided: a process that is killed leaves none.
func (s *starting) begin(ctx context.Context, limits *dictionary) (past memstore.Past, err error) {
	if s.meta, err = s.w.readMeta(ctx); err != nil {
		return past, err
	}
	if err := limits.load(ctx, s.w); err != nil {
		return past, err
	}
	uses, err := limits.readUses(ctx, s.w)
	if err != nil {
		return past, err
	}
	m := s.meta
	if m.stopped == running && s.wal < walHead+frameHead+pageBytes { // it has at least what a start has written
		return past, told{fmt.Errorf("%s is missing or empty, though the process was not stopped in order: what was charged since is in it: put it back, or take %s for a backup, with headgate restore into another directory",
			fileOf(s.dir)+walSuffix, databaseName)}
	}
	begun := max(s.now, m.latest)
	if s.now < m.latest {
		s.log.Warn("sqlitestore: the clock was set back while the process was away: limits go on by the latest instant that they have seen, ahead of it", "dir", s.dir,
			"by", time.Duration(m.latest-s.now)*time.Microsecond)
	}
	uses, gone, err := s.prune(ctx, uses, mostUses)
	if err != nil {
		return past, err
	}
	why := s.foreign()
	if why != "" {
		// For good: which limits were used that it does not know of is not known either,
		// and one of a century may be among them.
		m.lost = begun
		s.log.Warn("sqlitestore: charges may be missing, so every limit starts empty: "+why, "dir", s.dir)
	}
	if m.stopped == clean || begun-m.began >= algo.Horizon {
		m.earlier = m.began // who was killed earlier than that is long forgotten
	}
	m.began = begun
	past = memstore.Past{Latest: m.latest, Clean: m.stopped == clean && why == "", Began: m.earlier, Lost: m.lost}
	for _, u := range uses {
		past.Limits = append(past.Limits, u.Use)
	}
	if past.Bans, err = s.bans(ctx, limits, begun); err != nil {
		return past, err
	}
	m.previous = [16]byte(append(s.place, make([]byte, 16)...)[:16])
	rand.Read(m.place[:])
	m.inode, m.stopped, m.restored, m.backup = s.inode, running, 0, 0
	// The log begins anew with the commit, which is then in the database file as well: this
	// alone, without its log, says that it is in use.
	if err := s.move(); err != nil {
		return past, err
	}
	if err := s.commit(ctx, why != "", begun, gone, limits); err != nil {
		return past, err
	}
	if err := s.move(); err != nil {
		return past, err
	}
	if err := writePlace(s.dir, m.place, s.inode); err != nil {
		return past, explainFile(s.dir, err)
	}
	return past, nil
}

// move moves the write-ahead log to the database file, unless others read it.
func (s *starting) move() error {
	_, done, err := s.w.checkpoint("passive")
	if err == nil && !done {
		s.log.Warn("sqlitestore: another program reads the database, so "+databaseName+" does not say yet that it is in use: do not copy it without its log", "dir", s.dir)
	}
	return err
}

// foreign says why the database may lack charges that were made: it is not the one
// that the last process in this directory has left.
func (s *starting) foreign() string {
	m, zero := s.meta, [16]byte{}
	known := s.place != nil && ([16]byte(s.place) == m.place || [16]byte(s.place) == m.previous)
	switch {
	case m.restored != 0:
		return "the database was restored from a backup"
	case m.backup != 0:
		return "the database is a backup that was put in place by hand"
	case m.place == zero && s.place == nil: // new
		return ""
	case s.place == nil && m.stopped == clean: // moved without its directory
		return ""
	case s.place == nil && m.latest == 0 && m.inode == s.inode: // never used, and killed before it had a place
		return ""
	case !known:
		return "the database is from another directory, or from before the last start in this one"
	case m.stopped != clean && m.inode != 0 && s.inode != 0 && m.inode != s.inode:
		return "the database was copied while it was in use"
	}
	return ""
}

// commit writes what begin has found in one transaction. If charges may be missing,
// nothing is left of any limit at an instant.
func (s *starting) commit(ctx context.Context, missing bool, at int64, gone []use, limits *dictionary) (err error) {
	if err := s.w.exec(ctx, `begin immediate`); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.w.exec(background, `rollback`))
		}
	}()
	if missing {
		if err := s.deplete(ctx, limits, at); err != nil {
			return err
		}
	}
	for i := range gone {
		if err := s.w.exec(ctx, `delete from limits where id = ? and numbers = ?`, gone[i].id(), gone[i].numbers); err != nil {
			return err
		}
	}
	if err := s.w.writeMeta(ctx, s.meta); err != nil {
		return err
	}
	return s.w.exec(ctx, `commit`)
}

// connect opens the other connections; w writes. The journal owns w from then on.
func (j *journal) connect(w *conn) (err error) {
	file := fileOf(j.dir)
	if j.w, err = newWriting(w); err != nil {
		return err
	}
	if err := w.exec(background, `pragma cache_size = -8192`); err != nil {
		return err
	}
	if j.checker.conn, err = connect(file); err != nil {
		return err
	}
	if err := j.checker.exec(background, patience); err != nil {
		return err
	}
	if j.walker, err = newWalker(file); err != nil {
		return err
	}
	n := min(mostReaders, max(2, runtime.GOMAXPROCS(0)))
	j.readers = make(chan *reading, n)
	for range n {
		r, err := newReading(file)
		if err != nil {
			return err
		}
		j.all = append(j.all, r)
		j.readers <- r
	}
	return nil
}

// run starts what goes on beside the commits.
func (j *journal) run() {
	j.jobs.Go(j.runCheckpoints)
	j.jobs.Go(j.runWalker)
	j.jobs.Go(j.runWatch)
}

// close ends the journal. Unless the last commit was clean, the write-ahead log
// stays for the next start.
func (j *journal) close() error {
	close(j.quit)
	j.jobs.Wait()
	for range j.all {
		<-j.readers
	}
	close(j.readers)
	err := j.disconnect()
	if j.meta.stopped == clean && j.broken.Load() == nil {
		err = errors.Join(err, writePlace(j.dir, j.meta.place, j.meta.inode), j.w.keepWAL(false))
	}
	return errors.Join(err, j.w.Close(), j.held.Close())
}

// disconnect closes all connections but the one that writes, which must be the
// last.
func (j *journal) disconnect() (err error) {
	for _, r := range j.all {
		err = errors.Join(err, r.Close())
	}
	if j.walker.conn != nil {
		err = errors.Join(err, j.walker.Close())
	}
	if j.checker.conn != nil {
		err = errors.Join(err, j.checker.Close())
	}
	return err
}
