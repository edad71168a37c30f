package gate

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// Bounds of waiting: each request that waits holds a goroutine and a connection.
const (
	maxWaiting = 10_000 // in all
	maxLine    = 1_000  // for one subject and rule
)

// toAnswer is what remains of a caller's own deadline for the answer to arrive.
const toAnswer = 10 * time.Millisecond

// lines are the requests that wait. All of one subject and rule stand in one
// line: the first asks the store again when it said the request would pass, the
// others follow it in the order in which they came. Requests that may not wait
// stand in no line, and are decided as they come.
type lines struct {
	mu      sync.Mutex
	busy    map[uint64]*line
	spare   *line // the last that nobody needed any more
	waiting int
	watches map[owned]map[*watch]struct{}
}

// line is who waits behind the one that asks; it exists as long as somebody
// does. Subjects whose names hash to one number share a line, which only makes
// them wait for each other.
type line struct {
	next []*waiter
	asks time.Time // when the first asks again; zero while it does
}

type waiter struct {
	turn chan struct{} // closed when it is first
	own  bool          // it is; set under the lock
}

// enter counts one that waits; false if there are too many.
func (l *lines) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting >= maxWaiting {
		return false
	}
	l.waiting++
	return true
}

func (l *lines) exit() {
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
}

// Waiting returns how many requests wait in line at the moment.
func (g *Gate) Waiting() int {
	g.lines.mu.Lock()
	defer g.lines.mu.Unlock()
	return g.lines.waiting
}

// wait is how long the request may wait; said is false if neither the caller nor
// the rule says.
func (q *question) wait() (wait time.Duration, said bool) {
	switch {
	case q.request.MaxWaitSaid:
		wait, said = min(q.request.MaxWait, policy.MaxMaxWait), true
	case q.rule.maxWait > 0:
		wait, said = q.rule.maxWait, true
	}
	if c := q.request.WaitCap; c > 0 {
		wait = min(wait, c)
	}
	return wait, said
}

// key is a request's line.
func (l *lines) key(application, rule, subject string) uint64 {
	return maphash.Comparable(linesSeed, [3]string{application, rule, subject})
}

var linesSeed = maphash.MakeSeed()

// join waits until nobody stands before the caller, who then leaves the line
// with leave. It reports false at once if the line is full or cannot move before
// the deadline, and at the deadline if it did not. The error is the cause of the
// end of ctx.
func (l *lines) join(ctx context.Context, key uint64, deadline time.Time) (first, waited bool, err error) {
	l.mu.Lock()
	ln := l.busy[key]
	if ln == nil {
		if l.busy == nil {
			l.busy = make(map[uint64]*line)
		}
		if ln, l.spare = l.spare, nil; ln == nil {
			ln = new(line)
		}
		l.busy[key] = ln
		l.mu.Unlock()
		return true, false, nil
	}
	if len(ln.next) >= maxLine || l.waiting >= maxWaiting || ln.asks.After(deadline) {
		l.mu.Unlock()
		return false, false, nil
	}
	w := &waiter{turn: make(chan struct{})}
	ln.next = append(ln.next, w)
	l.waiting++
	l.mu.Unlock()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-w.turn:
	case <-timer.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
	err = context.Cause(ctx)
	switch {
	case !w.own:
		ln.next = slices.DeleteFunc(ln.next, func(o *waiter) bool { return o == w })
		return false, true, err
	case err != nil:
		l.leaveLocked(key)
		return false, true, err
	default:
		return true, true, nil
	}
}

// leave lets the next one be first.
func (l *lines) leave(key uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(key)
}

func (l *lines) leaveLocked(key uint64) {
	ln := l.busy[key]
	if len(ln.next) == 0 {
		delete(l.busy, key)
		*ln = line{}
		l.spare = ln
		return
	}
	w := ln.next[0]
	ln.next[0] = nil
	ln.next, ln.asks = ln.next[1:], time.Time{}
	w.own = true
	close(w.turn)
}

// pause lets the first one sleep until it asks again. It reports false if too
// many wait already.
func (l *lines) pause(ctx context.Context, key uint64, again time.Time, w *watch) (bool, error) {
	l.mu.Lock()
	if l.waiting >= maxWaiting {
		l.mu.Unlock()
		return false, nil
	}
	l.waiting++
	l.busy[key].asks = again
	l.mu.Unlock()
	err := sleep(ctx, time.Until(again), w.bell)
	l.mu.Lock()
	l.waiting--
	l.busy[key].asks = time.Time{}
	l.mu.Unlock()
	return err == nil, err
}

// sleep ends after d, or when the bell rings, which may be nil. The error is the
// cause of the end of ctx.
func sleep(ctx context.Context, d time.Duration, bell <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-bell:
	case <-t.C:
	}
	return nil
}

// applyInLine decides a request that may wait. The refusal of one that cannot
// pass in time comes at once. An error means that ctx has ended; d.Kept says
// whether it was charged before.
func (q *question) applyInLine(ctx context.Context, d *Decision, passed headgate.Reason, wait time.Duration) error {
	l, began := &q.gate.lines, time.Now()
	deadline := began.Add(wait)
	if by, ok := ctx.Deadline(); ok && by.Add(-toAnswer).Before(deadline) {
		deadline = by.Add(-toAnswer) // nobody is there any more behind it
	}
	key := l.key(q.app.name, q.rule.name, d.Subject)
	first, waited, err := l.join(ctx, key, deadline)
	if err != nil {
		return err
	}
	if !first {
		return q.turnAway(ctx, d, passed, began, waited)
	}
	left := false
	leave := func() {
		if !left {
			left = true
			l.leave(key)
		}
	}
	defer leave()
	var w *watch
	defer func() {
		if w != nil {
			l.unwatch(w)
		}
	}()
	for last := false; ; {
		if waited { // policy, modes and overrides may be others by now
			*q = question{gate: q.gate, op: q.op, request: q.request, holdFor: q.holdFor}
			settled, err := q.prepare(d)
			if d.Waited = time.Since(began); settled || err != nil {
				return err
			}
			if passed = q.passed(); d.n == 0 {
				d.Allowed, d.Reason = true, passed
				return nil
			}
		}
		d.batch.Again = !last
		d.batch.MaxDelay = max(1, time.Until(deadline).Microseconds()) // of what is left
		if err := q.put(ctx, d, passed); err != nil {
			return err
		}
		if d.Allowed {
			leave() // a leaky bucket has its own order
			return q.rest(ctx, d)
		}
		if !d.Retryable || d.Degraded != "" && d.Degraded != degradedLocal {
			return nil
		}
		if last {
			break
		}
		now := time.Now()
		after, slots := d.passes()
		if now.Add(max(after, d.startsAfter())).After(deadline) || slots > 0 && !now.Before(deadline) {
			last = true // once more, for a ban to count it
			continue
		}
		again := now.Add(max(after, slots))
		if again.After(deadline) {
			again = deadline // until then somebody may release
		}
		if w == nil {
			w = l.watch(d)
			continue // what was given back meanwhile rang no bell
		}
		slept, err := l.pause(ctx, key, again, w)
		if err != nil || !slept {
			return err
		}
		waited = true
	}
	if waited {
		d.Reason = headgate.WaitTimeout
	}
	return nil
}

// startsAfter is when the refused request could start, whenever it is let in: behind
// all that leaky buckets hold already.
func (d *Decision) startsAfter() time.Duration {
	var after time.Duration
	for i := range d.n {
		if s := &d.limits[i]; s.Limit.Algorithm == headgate.LeakyBucket && !s.Shadow {
			after = max(after, s.ResetAfter)
		}
	}
	return after
}

// turnAway answers a request that never came to be first: with the state of its
// limits, which may have room for it that others wait for.
func (q *question) turnAway(ctx context.Context, d *Decision, passed headgate.Reason, began time.Time, waited bool) error {
	d.batch.Op = headgate.Peek
	d.ticketed = false
	if err := q.gate.ask(ctx, d, passed); err != nil || d.Degraded == degradedOpen || d.Degraded == degradedClosed {
		return err
	}
	if waited {
		d.Waited = time.Since(began)
	}
	if waited || d.Allowed {
		d.Reason = headgate.WaitTimeout
	}
	d.Allowed, d.Delay = false, 0
	if d.RetryAfter == 0 && d.Retryable {
		d.RetryAfter = storeRetry
	}
	return nil
}
