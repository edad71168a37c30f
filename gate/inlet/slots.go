package inlet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// Slots are what a request holds of concurrency limits for as long as its handler runs.
// A timer renews them at a quarter of their TTL, so that two renewals in a row may fail.
type Slots struct {
	engine Engine
	told   func(error)
	claim  gate.Claim
	every  time.Duration
	// The context of the release, and that of renewals: the handler may run on when the
	// client has left.
	ctx, renewals context.Context
	end           context.CancelFunc

	mu    sync.Mutex // held while they are renewed
	timer *time.Timer
	lost  bool // it was told that some are lost
}

// ErrLost is why slots are not renewed any more.
var ErrLost = errors.New("slots were not held any more: their TTL was over, or the store or policy has lost them")

// answers are decisions for renewals and releases.
var answers = sync.Pool{New: func() any { return new(gate.Decision) }}

// Keep returns what d holds, which HasTicket, and renews it from now on. told is told of
// slots that could not be renewed or released, possibly by another goroutine; it must not
// be nil. The end of ctx ends nothing.
func Keep(ctx context.Context, e Engine, application string, d *gate.Decision, told func(error)) *Slots {
	s := &Slots{engine: e, told: told, ctx: context.WithoutCancel(ctx), every: shortest(d) / 4}
	s.claim = gate.Claim{Ticket: string(d.AppendTicket(nil)), Application: application}
	s.renewals, s.end = context.WithCancel(s.ctx)
	if s.every > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.timer = time.AfterFunc(s.every, s.renew)
	}
	return s
}

// shortest is the shortest TTL of the slots, 0 if there is none to renew.
func shortest(d *gate.Decision) (ttl time.Duration) {
	limits := d.Limits()
	for i := range limits {
		if l := &limits[i]; l.Limit.Algorithm == headgate.Concurrency && l.Cost > 0 && l.Limit.TTL > 0 && (ttl == 0 || l.Limit.TTL < ttl) {
			ttl = l.Limit.TTL
		}
	}
	return ttl
}

func (s *Slots) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renewals.Err() != nil {
		return
	}
	d := answers.Get().(*gate.Decision)
	defer answers.Put(d)
	err := s.engine.Renew(s.renewals, &s.claim, d)
	switch {
	case s.renewals.Err() != nil:
		return
	case err != nil:
		s.told(fmt.Errorf("renew: %w", err))
	case !d.Held:
		if !s.lost {
			s.lost = true
			s.told(fmt.Errorf("renew: %w", ErrLost))
		}
		if !slices.ContainsFunc(d.Limits(), func(l gate.LimitState) bool { return l.Allowed }) {
			return
		}
	}
	s.timer.Reset(s.every)
}

// Release gives back what is held, although the client may be gone. Nothing is renewed
// any more, and no renewal is under way.
func (s *Slots) Release() {
	s.end()
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	d := answers.Get().(*gate.Decision)
	defer answers.Put(d)
	if err := s.engine.Release(s.ctx, &s.claim, d); err != nil {
		s.told(fmt.Errorf("release: %w", err))
	}
}
