package inlet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// Slots are what a request holds of concurrency limits for as long as its handler runs.
// A timer renews them every quarter of their TTL, and no renewal takes longer than that, so
// that two in a row may fail.
//
// What could not be released as the engine or its store was away is released again, after
// 1 s and then twice as long each time, up to 15 s, until its TTL is over. No goroutine waits
// for that. Close of the engine ends it, and so does the end of the program: slots that are
// not released then free themselves when their TTL is over.
type Slots struct {
	engine Engine
	here   bool // the engine is in this process
	told   func(error)
	claim  gate.Claim
	every  time.Duration
	ttl    time.Duration // the longest
	// The context of the release, and that of renewals: the handler may run on when the
	// client has left.
	ctx, renewals context.Context
	end           context.CancelFunc

	mu    sync.Mutex // held while they are renewed
	timer *time.Timer
	until time.Time // then they have freed themselves
	lost  bool      // it was told that some are lost
}

const (
	// patience is how long Release waits for a server: one that is well answers within it,
	// so that a client which has its answer finds its slot free.
	patience = 50 * time.Millisecond
	// releaseTimeout is how long one attempt may take.
	releaseTimeout = 5 * time.Second
	// firstPause and longestPause are between the attempts.
	firstPause, longestPause = time.Second, 15 * time.Second
	// MaxReleases bounds the releases of a program that Release does not wait for.
	MaxReleases = 1000
)

// releases is how many are under way or are to be tried again.
var releases atomic.Int64

// ErrReleases is why slots that could not be released at once are left to their TTL.
var ErrReleases = fmt.Errorf("not released, but left to their TTL: %d releases wait for the server already", MaxReleases)

// ErrLost is why slots are not renewed any more.
var ErrLost = errors.New("slots were not held any more: their TTL was over, or the store or policy has lost them")

// answers are decisions for renewals and releases.
var answers = sync.Pool{New: func() any { return new(gate.Decision) }}

// Keep returns what d holds, which HasTicket, and renews it from now on. told is told of
// slots that could not be renewed or released, possibly by another goroutine and after
// Release; it must not be nil. The end of ctx ends nothing.
func Keep(ctx context.Context, e Engine, application string, d *gate.Decision, told func(error)) *Slots {
	s := &Slots{engine: e, told: told, ctx: context.WithoutCancel(ctx)}
	_, s.here = e.(proxied)
	var shortest time.Duration
	shortest, s.ttl = ttls(d)
	s.every, s.until = shortest/4, time.Now().Add(s.ttl)
	s.claim = gate.Claim{Ticket: string(d.AppendTicket(nil)), Application: application}
	s.renewals, s.end = context.WithCancel(s.ctx)
	if s.every > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.timer = time.AfterFunc(s.every, s.renew)
	}
	return s
}

// ttls are the shortest and the longest TTL of the slots, 0 if there is none to renew.
func ttls(d *gate.Decision) (shortest, longest time.Duration) {
	limits := d.Limits()
	for i := range limits {
		if l := &limits[i]; l.Limit.Algorithm == headgate.Concurrency && l.Cost > 0 && l.Limit.TTL > 0 {
			if shortest == 0 || l.Limit.TTL < shortest {
				shortest = l.Limit.TTL
			}
			longest = max(longest, l.Limit.TTL)
		}
	}
	return shortest, longest
}

func (s *Slots) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renewals.Err() != nil {
		return
	}
	d := answers.Get().(*gate.Decision)
	defer answers.Put(d)
	at := time.Now()
	within, cancel := context.WithTimeout(s.renewals, s.every)
	defer cancel()
	err := s.engine.Renew(within, &s.claim, d)
	if err == nil {
		s.until = at.Add(s.ttl)
	}
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
	s.timer.Reset(max(0, s.every-time.Since(at)))
}

// Release gives back what is held, although the client may be gone. Nothing is renewed
// any more, and no renewal is under way.
//
// An engine in this process, one that has the method TrustedProxies of a gate, has released
// when it returns. For a server it waits 50 ms at most: it is called before the answer is
// sent, and the answer must not wait for a server that is away. The release goes on behind
// it, each attempt for 5 s at most. No more than [MaxReleases] go on: further ones have the
// 50 ms, and then the slots are left to their TTL, and told is told ErrReleases.
func (s *Slots) Release() {
	s.end()
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	under := releases.Add(1)
	switch {
	case s.here:
		s.attempt(firstPause)
		return
	case under > MaxReleases:
		releases.Add(-1)
		err := s.release(patience)
		if away(err) {
			err = ErrReleases
		}
		if err != nil {
			s.told(fmt.Errorf("release: %w", err))
		}
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.attempt(firstPause)
	}()
	enough := time.NewTimer(patience)
	defer enough.Stop()
	select {
	case <-done:
	case <-enough.C:
	}
}

// attempt is one of releases. If it fails, the next one is after pause.
func (s *Slots) attempt(pause time.Duration) {
	err := s.release(releaseTimeout)
	if away(err) && time.Now().Add(pause).Before(s.until) && releases.Load() <= MaxReleases {
		time.AfterFunc(pause, func() { s.attempt(min(2*pause, longestPause)) })
	} else {
		releases.Add(-1)
	}
	if err != nil && pause == firstPause {
		s.told(fmt.Errorf("release: %w", err))
	}
}

func (s *Slots) release(within time.Duration) error {
	ctx, cancel := context.WithTimeout(s.ctx, within)
	defer cancel()
	d := answers.Get().(*gate.Decision)
	defer answers.Put(d)
	return s.engine.Release(ctx, &s.claim, d)
}

// away reports whether what failed may succeed later.
func away(err error) bool {
	code := headgate.CodeOf(err)
	return code == headgate.Unavailable || code == headgate.Overloaded || errors.Is(err, context.DeadlineExceeded)
}
