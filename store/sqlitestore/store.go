package sqlitestore

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/headgate/headgate/store/memstore"
)

// Config says where a store is. Only Dir is required.
type Config struct {
	// Dir is the directory that has the state; it is created, for its owner only.
	// One process at a time uses it.
	Dir string
	// MaxBytes caps the memory for state, in bytes: at least 1 MiB, 0 means 256 MiB.
	// What does not fit is read from the database again.
	MaxBytes int64
	// Origin is as in [memstore.Config].
	Origin int64
	// Command names this process to those who find the directory in use. "" means
	// the program's name.
	Command string
	// Logger is told of what operators should know; nil discards.
	Logger *slog.Logger
	// Observe, if not nil, is told of every commit, load, checkpoint, walk and
	// backup when it has ended: its name, how long it took, and what kind of
	// failure it met, "" for none. It is called concurrently and must be fast.
	Observe func(op string, took time.Duration, failure string)
}

func (c Config) withDefaults() Config {
	c.Command = cmp.Or(c.Command, filepath.Base(os.Args[0]))
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, string) {}
	}
	return c
}

// Store is a [memstore.Store] whose state outlives the process. Make one with
// [Open].
type Store struct {
	*memstore.Store
	journal *journal
	close   sync.Once
	closed  error
}

// Open takes the directory, creates the database or brings its tables up to date,
// and goes on where the process before has stopped. It fails with one sentence where
// the directory is in use or cannot be written to, or where what is in it is damaged, of
// a newer version, or not ours. What is damaged deep inside is found when it is met:
// see [Check].
func Open(ctx context.Context, c Config) (*Store, error) {
	c = c.withDefaults()
	if c.Dir == "" {
		return nil, errors.New("sqlitestore: a data directory must be named")
	}
	j, past, err := open(ctx, &c, wall())
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: %w", err)
	}
	j.run()
	return &Store{
		Store:   memstore.New(memstore.Config{MaxBytes: c.MaxBytes, Origin: c.Origin, Journal: j, Secret: j.meta.secret, Past: past}),
		journal: j,
	}, nil
}

// Memory returns the part of the store that decides.
func (s *Store) Memory() *memstore.Store { return s.Store }

// Close writes all state down and gives the directory back. Apply fails from then on.
// It returns what could not be written: the next start then is one after a crash.
func (s *Store) Close() error {
	s.close.Do(func() {
		s.journal.watch()
		s.closed = errors.Join(s.Store.Close(), s.journal.close())
	})
	return s.closed
}

// Backup writes a copy of the database to file, which must not exist, as of one
// moment, while the store works on. [Restore] reads it.
func (s *Store) Backup(ctx context.Context, file string) error {
	start := time.Now()
	err := s.journal.backup(ctx, file, wall())
	s.journal.observe("backup", time.Since(start), kindOf(err))
	if err != nil {
		return fmt.Errorf("sqlitestore: backup to %s: %w", file, err)
	}
	return nil
}

// Stats says how full a store is.
type Stats struct {
	memstore.Stats
	// FileBytes is the size of the database, and LogBytes that of its write-ahead
	// log.
	FileBytes, LogBytes int64
	// Broken says that a write failed: nothing will be written until the process is
	// started again. Failing says that the latest commit failed: as long as the disk
	// is full, what needs one is refused. See [Store.Up].
	Broken, Failing bool
}

// Up reports whether the latest commit succeeded, and none failed for good. One that
// failed is tried again every second, whether somebody asks or not.
func (s *Store) Up() bool { return s.journal.broken.Load() == nil && !s.journal.failing.Load() }

// Stats counts. It takes each shard's lock in turn.
func (s *Store) Stats() Stats {
	st := Stats{Stats: s.Store.Stats(), Broken: s.journal.broken.Load() != nil, Failing: s.journal.failing.Load()}
	for to, name := range map[*int64]string{&st.FileBytes: fileOf(s.journal.dir), &st.LogBytes: fileOf(s.journal.dir) + walSuffix} {
		if info, err := os.Stat(name); err == nil {
			*to = info.Size()
		}
	}
	return st
}

func ignore([]driver.Value) error { return nil }
