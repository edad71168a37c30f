package sqlitestore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// backup writes a copy of the database to file, as of one moment. It must not
// exist. Commits go on meanwhile; the write-ahead log grows by them until it ends.
func (j *journal) backup(ctx context.Context, file string, now int64) (err error) {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists: name a file that does not", file)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return explainFile(filepath.Dir(file), err)
	}
	part, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".part*") // 0600
	if err != nil {
		return explainFile(filepath.Dir(file), err)
	}
	defer func() {
		err = errors.Join(err, part.Close())
		if gone := os.Remove(part.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	if what := j.lost(); what != "" {
		return errors.New(what + " while the process ran")
	}
	if err := j.copyTo(ctx, part.Name(), now); err != nil {
		return err
	}
	if err := part.Sync(); err != nil {
		return err
	}
	if err := os.Link(part.Name(), file); err != nil { // fails where file has come into being
		return explainFile(filepath.Dir(file), err)
	}
	return syncDir(filepath.Dir(file))
}

// copyTo fills an empty file with a copy of the database that says so.
func (j *journal) copyTo(ctx context.Context, file string, now int64) (err error) {
	name, err := nameOf(file) // what begins with file: is a URI for SQLite
	if err != nil {
		return err
	}
	from, err := connect(fileOf(j.dir))
	if err != nil {
		return err
	}
	err = errors.Join(from.keepWAL(true), from.exec(ctx, `vacuum into ?`, name), from.Close())
	if err != nil {
		return err
	}
	to, err := connect(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := to.query(ctx, `pragma journal_mode = delete`, 1, ignore); err != nil {
		return err
	}
	m, err := to.readMeta(ctx)
	if err != nil {
		return err
	}
	m.backup, m.stopped = now, settled
	return to.writeMeta(ctx, m)
}

// Restore makes the backup in file the database of dir, which must not have one;
// dir is created. The backup is checked first, all of it.
//
// What was charged after the backup was made is not known. So the next start gives
// nobody anything that could have been charged already: every limit starts empty, and
// windows and quotas refuse until they end. With trust, the operator says that nothing was
// admitted since, and the limits go on as they were in the backup. The database of a directory
// that was restored without trust, and never started, starts empty still.
func Restore(ctx context.Context, file, dir string, trust bool) error {
	if err := restore(ctx, file, dir, trust); err != nil {
		return fmt.Errorf("sqlitestore: restore %s: %w", file, err)
	}
	return nil
}

func restore(ctx context.Context, file, dir string, trust bool) (err error) {
	head, err := readHead(file)
	if err != nil {
		return err
	}
	if what, _ := faultOf(head); what != "" {
		return fmt.Errorf("it %s, so it is no backup, or a damaged one: take another backup", what)
	}
	for _, suffix := range [...]string{walSuffix, "-journal"} {
		if info, err := os.Stat(file + suffix); err == nil && info.Size() > 0 {
			return fmt.Errorf("%s has a file %s%s beside it, so it is not all there: it is no backup, but the database of a process that was not stopped: use its directory as it is", file, file, suffix)
		}
	}
	if err := fits(dir, mostDir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return explainFile(dir, err)
	}
	held, err := lock(dir, "headgate restore")
	if err != nil {
		return err
	}
	defer held.Close()
	for _, name := range [...]string{databaseName, databaseName + walSuffix} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s exists: name another directory, or move the files in this one away", filepath.Join(dir, name))
		}
	}
	var place [16]byte
	rand.Read(place[:])
	err = replace(dir, databaseName, func(f *os.File) error {
		from, err := os.Open(file)
		if err != nil {
			return err
		}
		defer from.Close()
		if _, err := io.Copy(f, from); err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := checkFile(ctx, f.Name()); err != nil {
			return err
		}
		if err := takeOver(ctx, f.Name(), place, inode(info), trust); err != nil {
			return err
		}
		return writePlace(dir, place, inode(info))
	})
	if err == nil {
		return nil
	}
	switch kindOf(err) {
	case "disk_full", "read_only", "io", "busy": // of the copy
		return explain(dir, err)
	}
	if codeOf(err) != 0 || kindOf(err) == "corrupt" {
		return fmt.Errorf("it is damaged: %s: take another backup", short(err))
	}
	return err
}

// takeOver makes a copy of a backup a database of this place.
func takeOver(ctx context.Context, file string, place [16]byte, inode int64, trust bool) (err error) {
	c, err := connect(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.query(ctx, `pragma journal_mode = delete`, 1, ignore); err != nil {
		return err
	}
	m, err := c.readMeta(ctx)
	if err != nil {
		return err
	}
	if m.stopped == running && trust {
		return errors.New("it is no backup, but the database of a process that was not stopped, and lacks what that has charged last: it cannot be trusted")
	}
	m.place, m.previous, m.inode, m.backup = place, [16]byte{}, inode, 0
	if !trust {
		m.restored = 1 // else it may be so already
	}
	if m.stopped == running {
		m.stopped = settled
	}
	return c.writeMeta(ctx, m)
}

// wall returns the wall clock in microseconds since the Unix epoch.
func wall() int64 { return time.Now().UnixMicro() }
