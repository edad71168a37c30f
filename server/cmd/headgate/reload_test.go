package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startWatch watches file until the test ends. calls gets a value per call of
// changed.
func startWatch(t *testing.T, file string, log *slog.Logger, ok func() bool) (calls chan struct{}) {
	t.Helper()
	calls = make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watchFile(ctx, "policy", file, log, func() { calls <- struct{}{} }, ok) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	await(t, calls)
	return calls
}

func await(t *testing.T, calls chan struct{}) {
	t.Helper()
	select {
	case <-calls:
	case <-time.After(patience):
		t.Fatal("the policy was not read")
	}
}

// TestWatchBusyDirectory changes the policy among files that never rest. The
// policy is a link, so that every one of them might concern it.
func TestWatchBusyDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	write(t, dir+"/real", "1")
	if err := os.Symlink("real", file); err != nil {
		t.Fatal(err)
	}
	calls := startWatch(t, file, slog.New(slog.DiscardHandler), func() bool { return true })
	write(t, dir+"/real", "2")
	tick := time.NewTicker(settle / 10)
	defer tick.Stop()
	end := time.After(patience)
	for {
		select {
		case <-calls:
			return
		case <-tick.C:
			write(t, dir+"/busy", "x")
		case <-end:
			t.Fatal("a busy directory keeps the policy from being read")
		}
	}
}

func TestWatchConcerns(t *testing.T) {
	dir := t.TempDir()
	events, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	w := &watcher{what: "policy", file: dir + "/policy.yaml", log: slog.New(slog.DiscardHandler), events: events, dirs: map[string]os.FileInfo{}}
	write(t, w.file, "1")
	w.follow()
	if !w.concerns(fsnotify.Event{Name: w.file}) || w.concerns(fsnotify.Event{Name: dir + "/other"}) {
		t.Error("a plain file is concerned by its own name and no other")
	}
	// A new directory under the old path is watched.
	if err := os.Rename(dir, dir+"-old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.follow()
	write(t, dir+"/new", "1")
	for {
		select {
		case e := <-events.Events:
			if filepath.Base(e.Name) == "new" {
				return
			}
		case <-time.After(patience):
			t.Fatal("the new directory is not watched")
		}
	}
}

// TestWatchRestored: a reload failed while the file was away or broken, and
// then the file is what it was.
func TestWatchRestored(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, "1")
	var failed atomic.Bool
	asked := make(chan struct{}, 100)
	calls := startWatch(t, file, slog.New(slog.DiscardHandler), func() bool {
		ok := !failed.Load()
		asked <- struct{}{}
		return ok
	})
	await(t, asked)    // what the first reload left
	failed.Store(true) // as SIGHUP finds it
	await(t, calls)
}

// signalled tells of each log record.
type signalled struct {
	bytes.Buffer
	written chan struct{}
}

func (s *signalled) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	s.written <- struct{}{}
	return n, err
}

func TestWatchDeletion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, "1")
	out := &signalled{written: make(chan struct{}, 100)}
	calls := startWatch(t, file, slog.New(slog.NewTextHandler(out, nil)), func() bool { return true })
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	await(t, out.written)
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	await(t, calls) // the same file, and yet read again
	if n := strings.Count(out.String(), "the policy file cannot be read"); n != 1 || len(out.written) != 0 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
}
