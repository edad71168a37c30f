package httpgate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// slots are what a request holds of concurrency limits for as long as its handler runs.
// A timer renews them at a quarter of their TTL, so that two renewals in a row may fail.
type slots struct {
	m     *middleware
	r     *http.Request
	claim gate.Claim
	every time.Duration
	// The context of renewals: the handler may run on when the client has left.
	ctx context.Context
	end context.CancelFunc

	mu    sync.Mutex // held while they are renewed
	timer *time.Timer
	lost  bool // it was told that some are lost
}

var errLost = errors.New("slots were not held any more: their TTL was over, or the store or policy has lost them")

// hold runs the handler with what the decision holds.
func (m *middleware) hold(w http.ResponseWriter, r *http.Request, next http.Handler, c *call) {
	defer m.keep(r, c).release()
	m.pass(w, r, next, c)
}

// keep returns what the decision holds, and renews it from now on.
func (m *middleware) keep(r *http.Request, c *call) *slots {
	c.body = c.d.AppendTicket(c.body[:0])
	s := &slots{m: m, r: r, claim: gate.Claim{Ticket: string(c.body), Application: m.Application}, every: shortest(&c.d) / 4}
	s.ctx, s.end = context.WithCancel(context.WithoutCancel(r.Context()))
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

func (s *slots) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	c := calls.Get().(*call)
	defer c.free()
	err := s.m.engine.Renew(s.ctx, &s.claim, &c.d)
	switch {
	case s.ctx.Err() != nil:
		return
	case err != nil:
		s.m.OnError(s.r, fmt.Errorf("renew: %w", err))
	case !c.d.Held:
		if !s.lost {
			s.lost = true
			s.m.OnError(s.r, fmt.Errorf("renew: %w", errLost))
		}
		if !slices.ContainsFunc(c.d.Limits(), func(l gate.LimitState) bool { return l.Allowed }) {
			return
		}
	}
	s.timer.Reset(s.every)
}

// release gives back what is held, although the client may be gone. Nothing is renewed
// any more, and no renewal is under way.
func (s *slots) release() {
	s.end()
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	c := calls.Get().(*call)
	defer c.free()
	if err := s.m.engine.Release(context.WithoutCancel(s.r.Context()), &s.claim, &c.d); err != nil {
		s.m.OnError(s.r, fmt.Errorf("release: %w", err))
	}
}
