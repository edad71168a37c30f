package redisstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/headgate/headgate"
)

// Callers of one partition share calls: while maxFlights are on their way, those
// that come wait, and go together in the next one. So a busy partition costs the
// server a few long scripts instead of many short ones, and an idle one waits for
// nobody.
const (
	maxFlights = 2
	// maxWeight bounds what one flight carries, so that a script takes about half a
	// millisecond. A single call may weigh more.
	maxWeight = 64
	// maxAbandoned is how many flights for which nobody waits any more, because the
	// server does not answer, may be on their way besides.
	maxAbandoned = 16
	// flightTime is how long a flight may try to be executed.
	flightTime = 5 * time.Second
)

// call is a payload on its way, and its answer. One goroutine waits for it.
type call struct {
	payload payload
	weight  int           // about how much work it is: 1 is one token bucket
	now     int64         // the manual clock's instant; 0 without
	done    chan struct{} // receives when the call has finished

	// Guarded by the partition's mu.
	flight   *flight // that it is on, nil while it waits
	finished bool
	gone     bool          // nobody waits for it any more
	late     func(r reply) // what to do with an answer that comes then
	answer   reply
	epoch    headgate.Epoch // under which it was executed
	err      error
}

// flight carries calls, and tries again what was certainly not executed. It has
// one goroutine.
type flight struct {
	calls []*call
	// Guarded by the partition's mu.
	airborne  bool  // it may have been executed
	abandoned bool  // nobody waits for it any more
	aboard    int   // calls that somebody waits for
	trouble   error // why it was not executed so far

	epoch    headgate.Epoch
	payloads []*payload
	group    group
	answers  []string
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// executor is what a partition needs of its store; tests bring their own.
type executor interface {
	// handshake returns the incarnation of the partition's server.
	handshake(partition int, known *incarnation) (*incarnation, error)
	// execute runs the incarnation's script and appends its answers to dst.
	execute(dst []string, partition int, inc *incarnation, keys, args []string) ([]string, error)
}

// ground is what the partitions of a store share.
type ground struct {
	executor
	life      context.Context // ends with Close
	closed    atomic.Bool
	wait      sync.WaitGroup // flights and what they left to do
	mostCalls int            // in one flight; 0 is no bound

	flown, carried atomic.Int64

	calls, timers sync.Pool // of *call and *time.Timer
}

// newCall returns a call to enqueue. Who has its answer may put it into calls.
func (g *ground) newCall() *call {
	if c, ok := g.calls.Get().(*call); ok {
		return c
	}
	return &call{done: make(chan struct{}, 1)}
}

// partition is the calls of one partition.
type partition struct {
	ground *ground
	index  int

	mu        sync.Mutex
	waiting   []*call
	flights   int // that somebody waits for
	abandoned int // that nobody waits for

	shaking chan struct{} // has room for one handshake
	present atomic.Pointer[incarnation]
}

func (p *partition) init(g *ground, index int) {
	p.ground, p.index, p.shaking = g, index, make(chan struct{}, 1)
}

// enqueue sends c on its way. Its caller must call wait.
func (p *partition) enqueue(c *call) {
	c.flight, c.finished, c.gone, c.late, c.answer, c.err = nil, false, false, nil, reply{}, nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ground.closed.Load() {
		c.finished, c.err = true, errClosed
		c.done <- struct{}{}
		return
	}
	p.waiting = append(p.waiting, c)
	p.launch()
}

// launch starts a flight if somebody waits and there may be another. mu is held.
func (p *partition) launch() {
	if len(p.waiting) > 0 && p.flights < maxFlights {
		p.flights++
		p.ground.wait.Go(p.fly)
	}
}

// wait returns the answer to c. If the caller gives up before it comes, it may
// still be executed: late, which may be nil, makes what is then called with the
// answer.
func (p *partition) wait(c *call, w *patience, late func() func(r reply)) (reply, error) {
	select {
	case <-c.done:
	case <-w.ctx.Done():
		if err, left := p.leave(c, late); left {
			return reply{}, w.canceled(err)
		}
	case <-w.over():
		w.ended = true
		if err, left := p.leave(c, late); left {
			return reply{}, w.expired(err)
		}
	}
	return c.answer, c.err
}

// leave lets the caller of c go, unless the call has finished. The error is the
// trouble that the call has met so far, if any.
func (p *partition) leave(c *call, late func() func(r reply)) (trouble error, left bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.finished {
		<-c.done // sent before mu was unlocked
		return nil, false
	}
	c.gone = true
	f := c.flight
	if f == nil {
		for i, w := range p.waiting {
			if w == c {
				p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
				break
			}
		}
		return nil, true
	}
	if f.airborne && late != nil {
		c.late = late()
	}
	f.aboard--
	if f.aboard == 0 && p.abandoned < maxAbandoned {
		f.abandoned = true
		p.abandoned++
		p.flights--
		p.launch()
	}
	return f.trouble, true
}

// fly takes off until nobody waits. Before that, those who were just answered have a
// turn: what they ask next goes along.
func (p *partition) fly() {
	f := flights.Get().(*flight)
	for runtime.Gosched(); p.board(f); runtime.Gosched() {
		p.finish(f, p.carry(f))
	}
	flights.Put(f)
}

// board puts waiting calls on the flight, and ends it if there are none.
func (p *partition) board(f *flight) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.abandoned {
		f.abandoned = false
		p.abandoned--
		if p.flights >= maxFlights {
			return false
		}
		p.flights++
	}
	p.load(f)
	if len(f.calls) == 0 {
		p.flights--
		return false
	}
	for _, c := range f.calls {
		c.flight = f
	}
	f.aboard, f.airborne, f.trouble = len(f.calls), false, nil
	return true
}

// load moves waiting calls to the flight: in their order, but fast ones apart from
// others, which would slow them down. mu is held.
func (p *partition) load(f *flight) {
	f.calls = f.calls[:0]
	weight, kept := 0, 0
	for i, c := range p.waiting {
		switch {
		case len(f.calls) > 0 && weight+c.weight > maxWeight, len(f.calls) > 0 && len(f.calls) == p.ground.mostCalls:
			kept += copy(p.waiting[kept:], p.waiting[i:])
			clear(p.waiting[kept:])
			p.waiting = p.waiting[:kept]
			return
		case len(f.calls) > 0 && c.payload.fast != f.calls[0].payload.fast:
			p.waiting[kept] = c
			kept++
		default:
			f.calls = append(f.calls, c)
			weight += c.weight
		}
	}
	clear(p.waiting[kept:])
	p.waiting = p.waiting[:kept]
}

// carry has the server execute the flight's calls, and leaves the answers in
// f.answers.
func (p *partition) carry(f *flight) error {
	var start time.Time
	var inc *incarnation
	for try := 0; ; try++ {
		var err error
		var d failure
		if inc, err = p.incarnation(inc); err != nil {
			d = *diagnose(err)
			// Whatever was lost, it was no call.
			d.passing = d.passing || d.kind == kindTimeout || d.kind == kindConnection
		} else {
			if !p.takeOff(f) {
				return nil
			}
			if err = p.send(f, inc); err == nil {
				return nil
			}
			if d = *diagnose(err); !d.unsent {
				return err
			}
		}
		p.land(f, err)
		if d.kind != kindIncarnation {
			// Only such a failure is a reason to ask for another incarnation.
			inc = nil
		} else if try < 2 {
			continue
		}
		if start.IsZero() {
			start = time.Now()
		}
		if !d.passing || time.Since(start) > flightTime || !p.rest(try) {
			return err
		}
	}
}

// takeOff puts those off whose callers have gone; from here on the others may
// have been executed. It reports whether there are any.
func (p *partition) takeOff(f *flight) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if !c.gone {
			f.calls[n] = c
			n++
		}
	}
	clear(f.calls[n:])
	f.calls = f.calls[:n]
	f.airborne = n > 0
	return f.airborne
}

// land notes that nothing was executed, and why.
func (p *partition) land(f *flight, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.airborne, f.trouble = false, err
	for _, c := range f.calls {
		c.late = nil
	}
}

// rest waits before another try: about 1 ms, then twice as long each time, up to
// 100 ms. It reports whether the store still lives.
func (p *partition) rest(try int) bool {
	most := min(time.Millisecond<<min(try, 10), 100*time.Millisecond)
	timer := time.NewTimer(most/2 + rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ground.life.Done():
		return false
	}
}

// incarnation returns the one that is known, or asks for it if that is bad or
// none is known.
func (p *partition) incarnation(bad *incarnation) (*incarnation, error) {
	if inc := p.present.Load(); inc != nil && inc != bad {
		return inc, nil
	}
	p.shaking <- struct{}{}
	defer func() { <-p.shaking }()
	known := p.present.Load()
	if known != nil && known != bad {
		return known, nil
	}
	inc, err := p.ground.handshake(p.index, known)
	if err != nil {
		return nil, err
	}
	p.present.Store(inc)
	return inc, nil
}

// send runs the script on the calls of the flight.
func (p *partition) send(f *flight, inc *incarnation) error {
	f.epoch, f.payloads = inc.epoch, f.payloads[:0]
	for _, c := range f.calls {
		f.payloads = append(f.payloads, &c.payload)
	}
	f.group.fill(inc.epoch, f.calls[0].now, f.payloads)
	var err error
	f.answers, err = p.ground.execute(f.answers[:0], p.index, inc, f.group.keys, f.group.args)
	if err == nil {
		err = f.group.share(f.answers)
	}
	clear(f.payloads)
	f.group.release()
	p.ground.flown.Add(1)
	p.ground.carried.Add(int64(len(f.calls)))
	return err
}

// view returns b as a string. It shares the bytes, which must stay as they are.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// finish gives the calls their answers, or the error.
func (p *partition) finish(f *flight, err error) {
	p.mu.Lock()
	for i, c := range f.calls {
		c.finished, c.err = true, err
		if err == nil {
			c.answer, c.epoch = f.group.reply(i, f.answers), f.epoch
		}
		if !c.gone {
			c.done <- struct{}{}
		} else if err == nil && c.late != nil {
			p.ground.wait.Go(func() { c.late(c.answer) })
		}
	}
	p.mu.Unlock()
	clear(f.calls)
	clear(f.answers)
	f.calls = f.calls[:0]
}

// close fails what waits. Flights end by themselves.
func (p *partition) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.waiting {
		c.finished, c.err = true, errClosed
		c.done <- struct{}{}
	}
	p.waiting = nil
}

// patience is how long a caller waits for all the calls that it makes.
type patience struct {
	ground *ground
	ctx    context.Context
	length time.Duration // 0 is as long as ctx
	timer  *time.Timer   // nil without length
	ended  bool
}

// newPatience begins to wait for at most length, if that is not 0. Whoever calls
// it calls stop.
func (g *ground) newPatience(ctx context.Context, length time.Duration) patience {
	w := patience{ground: g, ctx: ctx, length: length}
	if length > 0 {
		if t, ok := g.timers.Get().(*time.Timer); ok {
			t.Reset(length)
			w.timer = t
		} else {
			w.timer = time.NewTimer(length)
		}
	}
	return w
}

func (w *patience) stop() {
	if w.timer != nil {
		w.timer.Stop()
		w.ground.timers.Put(w.timer)
	}
}

// closedTime is the timer of a patience that has ended.
var closedTime = func() chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// over returns a channel from which can be received when patience has ended.
func (w *patience) over() <-chan time.Time {
	switch {
	case w.timer == nil:
		return nil
	case w.ended:
		return closedTime
	default:
		return w.timer.C
	}
}

// expired is the error of a caller whose patience has ended.
func (w *patience) expired(trouble error) error {
	if trouble != nil {
		return gaveUp(kindTimeout, fmt.Errorf("tried for %v", w.length), trouble)
	}
	return gaveUp(kindTimeout, fmt.Errorf("no answer within %v", w.length), nil)
}

// canceled is the error of a caller whose context has ended.
func (w *patience) canceled(trouble error) error {
	kind := kindCanceled
	if w.ctx.Err() == context.DeadlineExceeded {
		kind = kindTimeout
	}
	return gaveUp(kind, context.Cause(w.ctx), trouble)
}

// gaveUp is the error of a caller that has waited long enough. Trouble that the
// server has told of explains more than the clock.
func gaveUp(kind string, err, trouble error) error {
	if trouble == nil {
		return &failure{kind: kind, err: err}
	}
	return &failure{kind: diagnose(trouble).kind, err: fmt.Errorf("%w: %w", err, trouble)}
}
