package lease

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// kept is what the keeper knows of a cell.
type kept struct {
	demand demand
	ttl    int64 // of the latest reply
	since  int64 // when the budget was last known to be used
	hold   int64 // nothing is wanted before
	wait   int64 // how long that was
	retry  int64 // the authority is not asked before
	fails  int   // in a row
	doubt  int64 // the most that was granted to the lease without our hearing of it
	cold   bool  // hardly used
	known  bool  // among the keeper's cells
	queued bool  // to be looked at
	flying bool  // a request is under way
}

// newKept returns that of a cell from which rate tokens a microsecond are taken.
func newKept(now int64, rate float64, ttl int64) kept {
	return kept{demand: demand{at: now, rate: rate, average: rate}, since: now, ttl: ttl}
}

// keeper is the one goroutine that asks the authority for leases. It looks at a
// cell when it is called and, every quarter of the horizon, at all of them.
type keeper struct {
	*Store
	cells  []*cell
	queue  []*cell
	spare  []*call
	flying int
	last   int64 // when the latest call began
	rtt    int64 // how long calls take, in microseconds
	done   chan *call
}

// call is one call of Acquire.
type call struct {
	cells    []*cell
	requests []headgate.LeaseRequest
	replies  []headgate.LeaseReply
	sent     int64
	err      error
}

const (
	// maxRequests is the largest number of requests in one call.
	maxRequests = 512
	// maxCalls is the largest number of calls under way. Usually there is one,
	// and what comes up meanwhile goes together into the next; another one
	// begins only when it is slow.
	maxCalls = 4
	slowCall = 10_000 // in microseconds
	// patience is for how many lives of a lease an idle cell that cannot settle
	// is kept.
	patience = 8
)

func (s *Store) keep() {
	defer close(s.kept)
	k := &keeper{Store: s, done: make(chan *call, maxCalls)}
	timer := time.NewTimer(0)
	<-timer.C
	ticking := false
	for {
		if len(k.cells) > 0 && !ticking {
			timer.Reset(time.Duration(s.horizon/4) * time.Microsecond)
			ticking = true
		}
		select {
		case <-s.stop:
			timer.Stop()
			k.giveUp()
			return
		case c := <-k.done:
			k.absorb(c)
		case <-s.kick:
			k.listen()
		case <-timer.C:
			ticking = false
			k.sweep()
		}
		k.send()
	}
}

// listen takes in who called.
func (k *keeper) listen() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.called {
		if !c.known {
			c.known = true
			k.cells = append(k.cells, c)
		}
		k.look(c)
	}
	clear(k.called)
	k.called = k.called[:0]
}

// look queues the cell.
func (k *keeper) look(c *cell) {
	if !c.queued && !c.flying {
		c.queued = true
		k.queue = append(k.queue, c)
	}
}

// sweep looks at all cells, and forgets those that are out of use.
func (k *keeper) sweep() {
	now := k.clock.stamp()
	n := 0
	for _, c := range k.cells {
		if !c.flying && !c.queued && c.done(now) {
			k.counters.dropped.Add(c.holder.Unreturned() + c.doubt)
			k.table.remove(c)
			continue
		}
		k.cells[n] = c
		n++
		k.look(c)
	}
	clear(k.cells[n:])
	k.cells = k.cells[:n]
}

// done reports whether the cell is out of use, and what it had is given back or
// given up.
func (c *cell) done(now int64) bool {
	retired, idle := c.retired.Load(), now-c.since
	switch {
	case retired && c.limit.Load().Algorithm != c.kind:
		return true
	case c.settled() && (retired || c.cold):
		return true
	case c.used.Load():
		return false
	}
	return idle >= 2*c.ttl && c.settled() || idle >= patience*c.ttl
}

// settled reports whether the authority knows that nothing is left here, and
// nothing can have been granted without our hearing of it.
func (c *cell) settled() bool { return c.holder.Settled() && c.doubt == 0 }

// send asks for what the queued cells need.
func (k *keeper) send() {
	for len(k.queue) > 0 {
		now := k.clock.stamp()
		if k.flying == maxCalls || k.flying > 0 && now-k.last < slowCall {
			return
		}
		c := k.fill(now)
		if len(c.cells) == 0 {
			k.spare = append(k.spare, c)
			continue
		}
		k.flying, k.last, c.sent = k.flying+1, now, now
		k.counters.calls.Add(1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
			defer cancel()
			c.err = k.authority.Acquire(ctx, c.requests, c.replies)
			k.done <- c
		}()
	}
}

// fill returns a call with what queued cells need at now.
func (k *keeper) fill(now int64) *call {
	c := new(call)
	if n := len(k.spare); n > 0 {
		c, k.spare = k.spare[n-1], k.spare[:n-1]
	}
	taken := 0
	for _, x := range k.queue {
		if len(c.cells) == maxRequests {
			break
		}
		taken++
		x.queued = false
		if want, least, ask := k.plan(x, now); ask {
			x.called.Store(true)
			x.flying = true
			k.report(c, x, now, want, least)
		}
	}
	k.queue = append(k.queue[:0], k.queue[taken:]...)
	return c
}

// report adds a request to the call.
func (k *keeper) report(c *call, x *cell, now, want, least int64) {
	r := headgate.LeaseRequest{Limit: x.limit.Load(), Owner: x.owner, Want: want, Min: least}
	l := x.holder.Lease()
	back, void := x.holder.Report(&r, now, k.id())
	k.counters.returned.Add(back)
	k.counters.dropped.Add(void)
	if x.holder.Lease() != l {
		k.giveUpDoubt(x)
	}
	c.cells, c.requests, c.replies = append(c.cells, x), append(c.requests, r), append(c.replies, headgate.LeaseReply{})
}

// plan says whether the authority is to be asked about the cell, for how many
// tokens, and the fewest that are of use.
func (k *keeper) plan(c *cell, now int64) (want, least int64, ask bool) {
	if c.used.Load() {
		c.used.Store(false)
		c.since = now
	}
	c.demand.measure(now, c.holder.Spent(), c.missed.Swap(0), k.horizon)
	if now < c.retry {
		return 0, 0, false
	}
	l, limit := c.holder.Lease(), c.limit.Load()
	if c.retired.Load() {
		l.Revoke()
		return 0, 0, !c.settled() && limit.Algorithm == c.kind
	}
	idle := now-c.since >= c.ttl/2
	if limit.Algorithm == headgate.Ban {
		if ask = !idle && l.expires(now, c.ttl/2) && now >= c.hold; !ask {
			c.called.Store(now < c.hold)
		}
		return 1, 0, ask
	}
	c.cold = c.demand.average*2e6 < float64(k.hot) || !algo.Leasable(limit, &k.terms)
	if idle || c.cold {
		l.Revoke()
		c.low.Store(0)
		c.called.Store(false)
		return 0, 0, !c.settled()
	}
	if c.doubt > 0 && l.granted == 0 {
		return 0, 0, true // what may have been granted comes first: nothing else tells whether it was
	}
	return k.size(c, l, now)
}

// size is plan for a budget that is in use.
func (k *keeper) size(c *cell, l *Lease, now int64) (want, least int64, ask bool) {
	cost, left := max(1, c.cost.Load()), int64(0)
	full, low := c.demand.sizes(cost, k.horizon, k.rtt)
	if l.Live(now) {
		left = l.Left()
		if ends := l.ends.Load(); ends != 0 { // what is left then is lost
			full = min(full, whole(c.demand.rate*float64(ends-now)))
		}
	}
	keep := 2 * full
	if now < c.hold && left < cost { // of no use, and no more is to be had
		full, keep = 0, 0
	}
	if left > keep {
		l.Keep(full)
		left, ask = full, true
	}
	expires := l.expires(now, c.ttl/2)
	c.low.Store(min(low, left/2))
	if now >= c.hold && full > left && (left <= low || expires) {
		want = full - left
		return want, min(want, max(1, min(fewest*cost, full/4))), true
	}
	c.called.Store(now < c.hold)
	return 0, 0, ask || left > 0 && expires
}

// absorb takes in what a call brought.
func (k *keeper) absorb(c *call) {
	k.flying--
	now := k.clock.stamp()
	if c.err != nil {
		k.counters.failures.Add(1)
	} else {
		k.rtt += (min(now-c.sent, k.terms.TTL/4) - k.rtt) / 4
	}
	for i, x := range c.cells {
		x.flying = false
		p := &c.replies[i]
		if c.err != nil || p.Status >= headgate.LeaseFailed {
			x.wonder(&c.requests[i])
			x.fail(now, k.horizon)
			continue
		}
		k.hear(x, &c.requests[i], p, c.sent, now)
	}
	clear(c.cells)
	clear(c.requests)
	c.cells, c.requests, c.replies, c.err = c.cells[:0], c.requests[:0], c.replies[:0], nil
	k.spare = append(k.spare, c)
}

// hear takes in a reply.
func (k *keeper) hear(c *cell, r *headgate.LeaseRequest, p *headgate.LeaseReply, sent, now int64) {
	if p.Status == headgate.LeaseOK {
		c.view.Store(&view{p.State, now})
	}
	e := k.take(c, r, p, sent, now)
	if e.Anew {
		if c.fails++; c.fails > 2 {
			c.fail(now, k.horizon)
			return
		}
		k.look(c)
		return
	}
	c.fails = 0
	c.ttl = max(1000, p.TTL.Microseconds())
	l := c.holder.Lease()
	given := e.Granted > 0 || r.Limit.Algorithm == headgate.Ban && l.Live(now)
	if r.Want > 0 && !given {
		c.wait = min(max(2*c.wait, k.horizon/4), c.ttl)
		c.hold = now + jittered(c.wait)
		if p.WindowLeft > 0 {
			c.hold = min(c.hold, now+p.WindowLeft.Microseconds())
		}
		return
	}
	if given {
		c.wait = 0
	}
	c.low.Store(min(c.low.Load(), l.Left()/2))
	c.called.Store(false)
}

// take has the holder take in a reply, and counts what it did.
func (k *keeper) take(c *cell, r *headgate.LeaseRequest, p *headgate.LeaseReply, sent, now int64) Effect {
	e := c.holder.Absorb(r, p, sent, now, k.id())
	k.counters.dropped.Add(e.Void)
	k.counters.late.Add(e.Late)
	if e.Granted > 0 {
		k.counters.grants.Add(1)
		k.counters.granted.Add(e.Granted)
	}
	// Who does not know of any grant is not told either that his account is gone, with
	// the window, the epoch or by its age.
	if e.Anew || r.Granted == 0 && e.Granted+e.Late == 0 {
		k.giveUpDoubt(c)
	}
	c.doubt = 0
	return e
}

// giveUpDoubt counts as dropped what may have been granted without our hearing of it.
func (k *keeper) giveUpDoubt(c *cell) {
	k.counters.dropped.Add(c.doubt)
	c.doubt = 0
}

// wonder notes that a request was sent, and nothing came back. Of a ban, whose lease is
// a word, nothing can be lost.
func (c *cell) wonder(r *headgate.LeaseRequest) {
	if r.Limit.Algorithm != headgate.Ban {
		c.doubt = max(c.doubt, r.Want)
	}
}

// fail notes that nothing is known of a request.
func (c *cell) fail(now, horizon int64) {
	c.fails++
	c.retry = now + jittered(min(horizon/4<<min(c.fails, 10), c.ttl))
}

// jittered is d less up to half of it, so that holders do not ask all at once.
func jittered(d int64) int64 { return d - rand.Int64N(d/2+1) }

// attempts is how often a budget's tokens are returned at the end: once, once more
// for tokens that were granted without our hearing of it, and once for a failure.
const attempts = 3

// giveUp takes in what is still under way and returns everything.
func (k *keeper) giveUp() {
	ctx, cancel := context.WithTimeout(context.Background(), k.giveBack)
	defer cancel()
	for k.flying > 0 {
		k.absorb(<-k.done)
	}
	k.listen()
	open := k.cells
	for range attempts {
		open = slices.DeleteFunc(open, func(x *cell) bool {
			x.holder.Lease().Revoke()
			if !x.settled() && x.limit.Load().Algorithm == x.kind {
				return false
			}
			k.counters.dropped.Add(x.holder.Unreturned() + x.doubt)
			return true
		})
		for part := range slices.Chunk(open, maxRequests) {
			k.handBack(ctx, part)
		}
	}
	for _, x := range open {
		k.counters.dropped.Add(x.holder.Unreturned() + x.doubt)
	}
}

// handBack returns what the cells have.
func (k *keeper) handBack(ctx context.Context, cells []*cell) {
	c := &call{sent: k.clock.stamp()}
	for _, x := range cells {
		k.report(c, x, c.sent, 0, 0)
	}
	k.counters.calls.Add(1)
	if c.err = k.authority.Acquire(ctx, c.requests, c.replies); c.err != nil {
		k.counters.failures.Add(1)
		return
	}
	now := k.clock.stamp()
	for i, x := range c.cells {
		if p := &c.replies[i]; p.Status < headgate.LeaseFailed {
			k.take(x, &c.requests[i], p, c.sent, now)
		}
	}
}
