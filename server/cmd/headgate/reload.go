package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the files must be still before they are read: editors and
// tools write in several steps.
const settle = 100 * time.Millisecond

// watch calls changed once when it sees changes from then on, and after the
// content of file has become another one, until ctx ends. It watches
// directories, because files are replaced rather than written: the one that
// names the file, and the one where it really is, which differ where a link
// leads out of the directory. In a mounted Kubernetes ConfigMap the file is a
// link through ..data, which is replaced beside it.
func watch(ctx context.Context, file string, log *slog.Logger, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", file, err)
	}
	defer w.Close()
	dir := filepath.Dir(file)
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	follow(w, file, log)
	last, _ := os.ReadFile(file)
	changed()
	timer := time.NewTimer(settle)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-w.Errors:
			if !ok {
				return nil
			}
			// The queue of events ran over: one of them may have been ours.
			log.Warn("watching the policy", "error", err)
			timer.Reset(settle)
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			timer.Reset(settle)
		case <-timer.C:
			follow(w, file, log)
			now, err := os.ReadFile(file)
			if err != nil || bytes.Equal(now, last) {
				continue // between removal and rename, or another file's event
			}
			last = now
			changed()
		}
	}
}

// follow also watches the directory where the file really is.
func follow(w *fsnotify.Watcher, file string, log *slog.Logger) {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return // it is gone; its directory will tell when it is back
	}
	if err := w.Add(filepath.Dir(real)); err != nil {
		log.Warn("watching the policy", "directory", filepath.Dir(real), "error", err)
	}
}
