package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// pulse asks whether the server lives, which has not answered a request for some time: it
// may let it stand in line. It asks on a connection of its own, as servers bound the calls
// of one connection and those in line may have taken all of them.
type pulse struct {
	conn  *grpc.ClientConn
	every time.Duration

	mu    sync.Mutex
	asked *sign // nil if nobody asks
}

// sign is a question that is under way.
type sign struct {
	done  chan struct{}
	alive bool // to be read when done is closed
}

// alive reports whether the server answers within p.every, whatever it says. Those who want
// to know at one time ask once.
func (p *pulse) alive() bool {
	p.mu.Lock()
	if s := p.asked; s != nil {
		p.mu.Unlock()
		<-s.done
		return s.alive
	}
	s := &sign{done: make(chan struct{})}
	p.asked = s
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), p.every)
	defer cancel()
	_, err := healthpb.NewHealthClient(p.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
	default:
		s.alive = true
	}
	p.mu.Lock()
	p.asked = nil
	p.mu.Unlock()
	close(s.done)
	return s.alive
}

// watch asks until ctx ends, and ends it with errSilent if there is no answer. With the
// first answer lives becomes true.
func (p *pulse) watch(ctx context.Context, end context.CancelCauseFunc, lives *atomic.Bool) {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		alive := p.alive()
		if ctx.Err() != nil {
			return
		}
		if !alive {
			end(errSilent)
			return
		}
		lives.Store(true)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var (
	errSilent = silent(headgate.Unavailable, codes.DeadlineExceeded, "the server gives no sign of life")
	errFull   = silent(headgate.Overloaded, codes.ResourceExhausted, "no answer although the server lives: too many requests stand in line")
)

func silent(code headgate.Code, c codes.Code, text string) *headgate.Error {
	s := status.New(c, text)
	return &headgate.Error{Code: code, Err: &answered{s, c.String() + ": " + text}}
}
