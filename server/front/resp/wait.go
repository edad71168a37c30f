package resp

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// patience is the context in which a connection's commands are decided. It ends
// when the client has gone.
//
// Who is about to wait asks a context for its Done channel. What decides in
// memory does not, so a wait costs something only where there is one: when it
// lasts longer than grace, the replies to earlier commands are sent, and the
// connection is watched. The client's leaving then ends the wait, unless it
// has sent further commands, behind which its end cannot be seen.
type patience struct {
	context.Context
	cancel context.CancelFunc
	c      *conn
	state  atomic.Int32

	mu       sync.Mutex // of who sends replies or watches while a command waits
	timer    *time.Timer
	watching chan struct{} // closed when the watch has ended; nil for none
	came     int           // bytes that the watch has read behind the input
}

// grace is how long a command may wait for its decision before that is a wait.
const grace = 5 * time.Millisecond

// The states of a patience.
const (
	resting  = iota
	deciding // a command is being decided
	waiting  // and may have to wait
)

func (p *patience) init(c *conn) {
	p.Context, p.cancel = context.WithCancel(c.s.life)
	p.c = c
}

// Done is asked for by who is about to wait.
func (p *patience) Done() <-chan struct{} {
	if p.state.Load() == deciding && p.state.CompareAndSwap(deciding, waiting) {
		p.c.pass()
		p.mu.Lock()
		if p.timer == nil {
			p.timer = time.AfterFunc(grace, p.waits)
		} else {
			p.timer.Reset(grace)
		}
		p.mu.Unlock()
	}
	return p.Context.Done()
}

// begin is called before a command is decided, and end after it.
func (p *patience) begin() { p.state.Store(deciding) }

func (p *patience) end() {
	if p.state.Swap(resting) == waiting {
		p.resume()
		p.c.later() // what comes behind it is decided later
	}
}

// waits is called while a command waits, by the timer's goroutine. The connection's
// own is in the gate, or waits for mu in resume.
func (p *patience) waits() {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.c
	if p.state.Load() != waiting || p.watching != nil {
		return // a late call: that command has its decision
	}
	if c.flush() != nil {
		p.cancel()
		return
	}
	if rest := c.w.in[c.w.end:]; len(rest) > 0 {
		p.watching, p.came = make(chan struct{}), 0
		go p.watch(rest)
	}
}

// watch reads once. A client that has gone needs no decision.
func (p *patience) watch(rest []byte) {
	defer close(p.watching)
	n, err := p.c.nc.Read(rest)
	p.came = n
	if timeout, ok := errors.AsType[net.Error](err); n == 0 && err != nil && (!ok || !timeout.Timeout()) {
		p.cancel()
	}
}

// resume ends the watch.
func (p *patience) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.watching == nil {
		return
	}
	c := p.c
	c.nc.SetReadDeadline(longAgo)
	<-p.watching
	p.watching = nil
	c.nc.SetReadDeadline(c.readBy)
	c.w.end += p.came
}
