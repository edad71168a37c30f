package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/store/sqlitestore"
)

// embeddedStore is the value of --store for the store in the data directory.
const embeddedStore = "embedded"

// backups is what the names of the directories begin with that have a backup while it is
// sent. One that is found at the start was left by a process that was killed.
const backups = ".headgate-unfinished-backup-"

// diskPatience is how long a decision may wait for the disk: a busy one takes longer
// than another process that is asked.
const diskPatience = time.Second

// openEmbedded opens the store in the data directory.
func openEmbedded(ctx context.Context, s *settings, called func(op string, took time.Duration, failure string), log *slog.Logger) (*backend, error) {
	e, err := sqlitestore.Open(ctx, sqlitestore.Config{Dir: s.data, MaxBytes: s.memory, Command: "headgate serve", Logger: log, Observe: called})
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := removeUnfinished(s.data); err != nil {
		log.Warn("a backup that was not finished is left", "error", err)
	}
	log.Info("store embedded: state is kept in the data directory", "dir", s.data, "budget_bytes", s.memory)
	return &backend{store: e, patience: diskPatience, away: func() bool { return !e.Up() }, memory: e.Memory(), embedded: e}, nil
}

// removeUnfinished removes what unfinished backups have left in the data directory,
// and nothing else: operators may keep theirs there.
func removeUnfinished(data string) error {
	entries, err := os.ReadDir(data)
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), backups) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(data, e.Name())))
		}
	}
	return err
}

// backup returns a way to copy the store in the data directory, nil if state is
// elsewhere.
func (b *backend) backup(data string) func(ctx context.Context) (admin.Backup, error) {
	if b.embedded == nil {
		return nil
	}
	return func(ctx context.Context) (admin.Backup, error) {
		dir, err := os.MkdirTemp(data, backups)
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir) // what is open can still be read
		file := filepath.Join(dir, "copy")
		if err := b.embedded.Backup(ctx, file); err != nil {
			return nil, err
		}
		return os.Open(file)
	}
}

// close ends a backend. What could not be written is said: the next start is
// then one after a crash.
func (b *backend) close() error {
	if err := b.store.Close(); err != nil {
		return fmt.Errorf("the state of limits was not written down at the stop, the next start goes on as after a crash: %w", err)
	}
	return nil
}
