package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/store/sqlitestore"
)

// embeddedStore is the value of --store for the store in the data directory.
const embeddedStore = "embedded"

// backups is what the names of backups begin with while they are sent. One that is
// found at the start was left by a process that was killed.
const backups = "backup-"

// openEmbedded opens the store in the data directory.
func openEmbedded(ctx context.Context, s *settings, called func(op string, took time.Duration, failure string), log *slog.Logger) (*backend, error) {
	e, err := sqlitestore.Open(ctx, sqlitestore.Config{Dir: s.data, MaxBytes: s.memory, Command: "headgate serve", Logger: log, Observe: called})
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	left, _ := filepath.Glob(filepath.Join(s.data, backups+"*")) // the pattern is a good one
	for _, name := range left {
		if err := os.RemoveAll(name); err != nil {
			log.Warn("a backup that was not finished is left", "error", err)
		}
	}
	log.Info("store embedded: state is kept in the data directory", "dir", s.data, "budget_bytes", s.memory)
	return &backend{store: e, memory: e.Memory(), embedded: e}, nil
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
