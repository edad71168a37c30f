// Package pause has what clients need that wait: how long a request may, and which
// keys a server has asked to leave alone.
package pause

import (
	"context"
	"sync"
	"time"
)

// MaxKeys bounds the keys of [Keys].
const MaxKeys = 10_000

// Keys are the keys that servers have stopped, each with the T of its stop. The
// zero value is ready. It is safe for concurrent use.
type Keys[T any] struct {
	mu sync.Mutex
	of map[string]stop[T]
}

type stop[T any] struct {
	until time.Time
	by    T
}

// Left returns for how long key is stopped still, at most 0 if it is not.
func (k *Keys[T]) Left(key string) (time.Duration, T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.of[key]
	if !ok {
		return 0, s.by
	}
	left := time.Until(s.until)
	if left <= 0 {
		delete(k.of, key)
	}
	return left, s.by
}

// Stop stops key for d, or for as long as it is stopped already. Where MaxKeys are
// stopped, any one of them is forgotten for it.
func (k *Keys[T]) Stop(key string, d time.Duration, by T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	until := time.Now().Add(d)
	old, ok := k.of[key]
	if ok && old.until.After(until) {
		return
	}
	if !ok && len(k.of) >= MaxKeys {
		for other := range k.of {
			delete(k.of, other)
			break
		}
	}
	if k.of == nil {
		k.of = map[string]stop[T]{}
	}
	k.of[key] = stop[T]{until, by}
}

// Patience is how long one request may wait: at most Most from the first question
// whether it may, and not beyond the deadline of its context. 0 is not at all.
type Patience struct {
	Most  time.Duration
	until time.Time // zero until the first question
}

// Covers reports whether the request may wait for d.
func (p *Patience) Covers(ctx context.Context, d time.Duration) bool {
	if p.Most == 0 {
		return false
	}
	now := time.Now()
	if p.until.IsZero() {
		p.until = now.Add(p.Most)
		if deadline, ok := ctx.Deadline(); ok && deadline.Before(p.until) {
			p.until = deadline
		}
	}
	return p.until.Sub(now) >= d
}

// Sleep waits for d. The error is that of a context which ends first, or is known
// to; then it waits no longer.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return context.DeadlineExceeded
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
