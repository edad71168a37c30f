package client

import (
	"context"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// pulse asks whether the server lives while calls wait for its answer: it may let them
// stand in line. It asks once for all of them.
type pulse struct {
	connect func()                      // so that the first question has not to wait for that
	ask     func(context.Context) error // an error is no answer
	every   time.Duration
	ctx     context.Context // of the questions
	stop    context.CancelFunc
	beats   sync.WaitGroup

	mu      sync.Mutex
	waiters []*waiter
	beating bool
	asked   time.Time // last
	lived   time.Time // then the server has answered last
}

// waiter is a call that waits for its answer.
type waiter struct {
	place  int // among the waiters
	began  time.Time
	end    context.CancelFunc
	asked  bool // the question that is under way is for it
	silent bool // it was ended as there was no sign of life
}

var waiters = sync.Pool{New: func() any { return new(waiter) }}

// enter minds a call, which end ends, until leave.
func (p *pulse) enter(end context.CancelFunc) *waiter {
	w := waiters.Get().(*waiter)
	w.began, w.end = time.Now(), end
	p.mu.Lock()
	defer p.mu.Unlock()
	w.place = len(p.waiters)
	p.waiters = append(p.waiters, w)
	if !p.beating {
		p.beating = true
		p.beats.Go(p.beat)
	}
	return w
}

// leave reports whether the call was ended as the server gave no sign of life.
func (p *pulse) leave(w *waiter) (silent bool) {
	p.mu.Lock()
	last := len(p.waiters) - 1
	moved := p.waiters[last]
	moved.place, p.waiters[w.place] = w.place, moved
	p.waiters[last], p.waiters = nil, p.waiters[:last]
	silent = w.silent
	p.mu.Unlock()
	*w = waiter{}
	waiters.Put(w)
	return silent
}

// beat asks every so often about the calls that have waited for so long, and ends them if
// there is no answer, until no call is left.
func (p *pulse) beat() {
	tick := time.NewTicker(max(p.every/2, 1))
	defer tick.Stop()
	for p.ctx.Err() == nil {
		select {
		case <-p.ctx.Done():
		case <-tick.C:
			soon, now := p.due(time.Now()) // the tick may be of long ago
			if soon {
				p.connect()
			}
			if now {
				p.heed(p.alive())
			}
		}
		if p.rests() {
			return
		}
	}
}

// due notes who has waited for so long that it is time to ask, and reports whether it is, or
// may be at the next tick.
func (p *pulse) due(at time.Time) (soon, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.waiters {
		waited := at.Sub(w.began)
		w.asked = waited >= p.every
		soon, now = soon || waited >= p.every/2, now || w.asked
	}
	if at.Sub(p.asked) < p.every/4*3 { // it was at the last tick
		return soon, false
	}
	if now {
		p.asked = at
	}
	return soon, now
}

// alive reports whether the server answers in time.
func (p *pulse) alive() bool {
	ctx, cancel := context.WithTimeout(p.ctx, p.every)
	defer cancel()
	return p.ask(ctx) == nil
}

// question returns what asks on a connection, which should be its own, as servers bound the
// calls of one connection and those in line may have taken all of them. Whatever the server
// says is an answer. It may have come back a moment ago: it is tried at once whether it can
// be reached, however often it could not be, and after again once more, as an attempt may
// have been under way that fails.
func question(conn *grpc.ClientConn, again time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		conn.ResetConnectBackoff()
		defer time.AfterFunc(again, conn.ResetConnectBackoff).Stop()
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
			return err
		}
		return nil
	}
}

func (p *pulse) heed(alive bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if alive {
		p.lived = time.Now()
		return
	}
	for _, w := range p.waiters {
		if w.asked {
			w.silent = true
			w.end()
		}
	}
}

// rests reports whether there is nothing to mind any more.
func (p *pulse) rests() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beating = len(p.waiters) > 0
	return !p.beating
}

// answered reports whether the server has lately answered a question whether it lives.
func (p *pulse) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.lived)/2 < p.every
}

// end is called when no call is left.
func (p *pulse) end() {
	p.stop()
	p.beats.Wait()
}

var (
	errSilent = silent(headgate.Unavailable, codes.DeadlineExceeded, "the server gives no sign of life")
	errFull   = silent(headgate.Overloaded, codes.ResourceExhausted, "no answer although the server lives: too many requests stand in line")
)

func silent(code headgate.Code, c codes.Code, text string) *headgate.Error {
	s := status.New(c, text)
	return &headgate.Error{Code: code, Err: &answered{s, c.String() + ": " + text}}
}
