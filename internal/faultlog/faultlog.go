// Package faultlog logs what goes wrong with requests without being flooded by them.
package faultlog

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"
)

// DefaultPause is the time from one line about a kind of fault to the next.
const DefaultPause = 5 * time.Second

// Faults logs what goes wrong with requests, of which there may be any number: of each kind
// one line in a Pause, which says with `more` how many others there were since the one
// before. The zero value is ready, and safe for concurrent use.
type Faults struct {
	Pause time.Duration // 0 is DefaultPause

	mu    sync.Mutex
	kinds map[string]faultKind
}

type faultKind struct {
	logged time.Time
	more   int
}

// Log logs a fault, if it is time to. There must be few kinds: they are kept for good.
func (f *Faults) Log(l *slog.Logger, level slog.Level, kind, msg string, args ...any) {
	more, ok := f.turn(kind, time.Now())
	if !ok {
		return
	}
	if more > 0 {
		args = append(args, "more", more)
	}
	l.Log(context.Background(), level, msg, args...)
}

// turn reports whether a fault of the kind is to be logged at now, and how many were not
// since the last that was.
func (f *Faults) turn(kind string, now time.Time) (more int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, known := f.kinds[kind]
	if known && now.Sub(k.logged) < cmp.Or(f.Pause, DefaultPause) {
		k.more++
		f.kinds[kind] = k
		return 0, false
	}
	if f.kinds == nil {
		f.kinds = make(map[string]faultKind)
	}
	f.kinds[kind] = faultKind{logged: now}
	return k.more, true
}
