package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// modelStore is the model as an authority, for what the suite itself must do.
type modelStore struct {
	mu     sync.Mutex
	model  model
	now    int64
	closed bool
}

// newModelStore returns a store whose clock shows now until it is told more.
func newModelStore(now int64) *modelStore {
	return &modelStore{model: newModel(headgate.Epoch{ID: 5}), now: now}
}

var errClosed = &headgate.Error{Code: headgate.Closed, Err: errors.New("closed")}

func (s *modelStore) Apply(_ context.Context, b *headgate.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.now = max(s.now, b.Now) // for an owner it must not go back
	b.At = s.now
	got := s.model.apply(b, s.now)
	if got.conflict {
		return &headgate.Error{Code: headgate.Conflict, Err: errors.New("conflict")}
	}
	b.Allowed, b.Replayed, b.Hold = got.allowed, got.replayed, got.hold
	copy(b.Outcomes(), got.outcomes)
	return nil
}

func (s *modelStore) Acquire(_ context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	for i := range requests {
		replies[i] = s.model.acquire(&requests[i], s.now)
	}
	return nil
}

func (s *modelStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// The suite passes what it is made of.
func TestSuitePassesTheModel(t *testing.T) {
	t.Run("clock of its own", func(t *testing.T) {
		RunAuthority(t, func(*testing.T) headgate.Authority { return newModelStore(time.Now().UnixMicro()) }, Capabilities{})
	})
	open := func(*testing.T) headgate.Authority { return newModelStore(0) }
	RunAuthority(t, open, Capabilities{ManualClock: true})
	DifferentialAuthority(t, open, Capabilities{ManualClock: true}, 20_000, 3)
}
