package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long the files must be still before they are read: editors
	// and tools write in several steps.
	settle = 100 * time.Millisecond
	// longest is how long they may be moving before they are read all the same.
	longest = time.Second
	// pollEvery is how often the file is looked at without an event. None comes
	// when a directory above it is swapped, or from some network file systems.
	pollEvery = 2 * time.Second
)

// watch follows a file until ctx ends; what is what it holds, such as policy.
func watch(ctx context.Context, what, file string, log *slog.Logger, changed func(), ok func() bool) {
	if err := watchFile(ctx, what, file, log, changed, ok); err != nil {
		log.Error("the "+what+" is only read again on SIGHUP", "error", err)
	}
}

// watchFile calls changed once when it sees changes from then on, and after the
// content of file has become another one, until ctx ends. It also calls changed
// where ok, which says how the last reload ended, no longer says what it said
// after the last call: somebody else then met a file that is gone or broken,
// and may be whole again.
func watchFile(ctx context.Context, what, file string, log *slog.Logger, changed func(), ok func() bool) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", file, err)
	}
	defer events.Close()
	w := &watcher{what: what, file: file, log: log, events: events, dirs: map[string]os.FileInfo{}}
	w.follow()
	w.info, _ = os.Stat(file)
	w.data, _ = os.ReadFile(file)
	changed()
	w.ok = ok()
	timer := time.NewTimer(settle)
	timer.Stop()
	var deadline time.Time // of the present burst of events
	soon := func() {
		if deadline.IsZero() {
			deadline = time.Now().Add(longest)
		}
		timer.Reset(min(settle, time.Until(deadline)))
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, open := <-events.Errors:
			if !open {
				return nil
			}
			// The queue of events ran over: one of them may have been ours.
			log.Warn("watching the "+what, "error", err)
			soon()
		case e, open := <-events.Events:
			if !open {
				return nil
			}
			if w.concerns(e) {
				soon()
			}
		case <-poll.C:
			w.follow()
			if w.moved() || w.ok != ok() {
				soon()
			}
		case <-timer.C:
			deadline = time.Time{}
			w.follow()
			if w.read() || !w.gone && w.ok != ok() {
				changed()
				w.ok = ok()
			}
		}
	}
}

// watcher knows a file as it was last read. It watches directories,
// because files are replaced rather than written: the one that names the file,
// and the one where it really is, which differ where a link leads out of the
// directory. In a mounted Kubernetes ConfigMap the file is a link through
// ..data, which is replaced beside it.
type watcher struct {
	what   string // that the file holds
	file   string
	log    *slog.Logger
	events *fsnotify.Watcher
	// dirs are those watched, as they were then, by their paths without links:
	// one directory under two paths would be one watch for the kernel.
	dirs map[string]os.FileInfo
	// failing is set while a directory cannot be watched; it is logged once.
	failing bool
	// linked is whether the file is a link, so that every name may matter.
	linked bool

	info os.FileInfo
	data []byte
	gone bool
	ok   bool // what the reload of data left
}

// concerns is whether an event may be of the file: one of its name, or any if
// it is a link, which may change by a name on its way.
func (w *watcher) concerns(e fsnotify.Event) bool {
	return w.linked || filepath.Base(e.Name) == filepath.Base(w.file)
}

// follow watches where the file is now. A directory that was swapped or made
// anew under the same path needs a watch of its own; as its inode may be the
// old one's, whether the watch still stands is asked too.
func (w *watcher) follow() {
	info, err := os.Lstat(w.file)
	w.linked = err == nil && info.Mode()&os.ModeSymlink != 0
	now := map[string]os.FileInfo{}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(w.file)); err == nil {
		now[dir], _ = os.Stat(dir)
	}
	if real, err := filepath.EvalSymlinks(w.file); err == nil {
		dir := filepath.Dir(real)
		now[dir], _ = os.Stat(dir)
	}
	standing := w.events.WatchList()
	for dir, then := range w.dirs {
		if !slices.Contains(standing, dir) || !os.SameFile(then, now[dir]) {
			w.events.Remove(dir) // an error says that it is gone already
			delete(w.dirs, dir)
		}
	}
	for dir, info := range now {
		if w.dirs[dir] != nil || info == nil {
			continue
		}
		if err := w.events.Add(dir); err != nil {
			if !w.failing {
				w.log.Warn("changes of the "+w.what+" are seen late", "within", pollEvery, "directory", dir, "error", err)
			}
			w.failing = true
			return
		}
		w.dirs[dir] = info
	}
	w.failing = false
}

// moved is whether the file is another one than was last read, going by what
// costs no reading.
func (w *watcher) moved() bool {
	info, err := os.Stat(w.file)
	if err != nil || w.gone {
		return (err != nil) != w.gone
	}
	return w.info == nil || !os.SameFile(info, w.info) || info.Size() != w.info.Size() || !info.ModTime().Equal(w.info.ModTime())
}

// read reads the file and returns whether its content is another one. While it
// cannot be read, the last content counts.
func (w *watcher) read() bool {
	info, err := os.Stat(w.file)
	var data []byte
	if err == nil {
		data, err = os.ReadFile(w.file)
	}
	if err != nil {
		if !w.gone {
			w.log.Warn("the "+w.what+" file cannot be read, the "+w.what+" in force stays", "error", err)
		}
		w.gone = true
		return false
	}
	was := w.gone
	w.gone = false
	w.info = info
	if bytes.Equal(data, w.data) {
		return was
	}
	w.data = data
	return true
}
