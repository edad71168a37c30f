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

func newModelStore() *modelStore {
	return &modelStore{model: newModel(headgate.Epoch{ID: 5}), now: time.Now().UnixMicro()}
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
	open := func(*testing.T) headgate.Authority { return newModelStore() }
	RunAuthority(t, open, Capabilities{})
	RunAuthority(t, open, Capabilities{ManualClock: true})
	DifferentialAuthority(t, open, Capabilities{ManualClock: true}, 20_000, 3)
}
