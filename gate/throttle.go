package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// Throttle is a request against a token bucket that the caller describes.
type Throttle struct {
	// Key is whose bucket it is, 1 to MaxSubject bytes. Keys of throttles are
	// apart from all subjects.
	Key string
	// Count per Period is the rate; Burst the capacity, 0 for Count.
	Count  int64
	Period time.Duration
	Burst  int64
	// Cost is what to take, 0 to headgate.MaxInt.
	Cost int64
	// Peek only looks.
	Peek bool
	// Now is as in Request.
	Now int64
}

// Throttle decides t and fills in d. The limit may differ from call to call: a
// bucket keeps its level when its numbers change. Errors are those of Take.
func (g *Gate) Throttle(ctx context.Context, t *Throttle, d *Decision) error {
	if g.closed.Load() {
		return errClosed
	}
	op := headgate.Take
	if t.Peek {
		op = headgate.Peek
	}
	d.start(op, &Request{Subject: t.Key, Now: t.Now}, g.current.Load().revision)
	if t.Key == "" {
		return invalid("key", "is required")
	}
	if err := checkOwner("key", t.Key); err != nil {
		return err
	}
	limit, err := g.throttles.prepare(throttleLimit{count: t.Count, period: t.Period, burst: t.Burst}, g.Now)
	if err != nil {
		return err
	}
	p := limit.prepared
	d.Cost = t.Cost
	if _, err := d.batch.Add(headgate.Charge{Limit: p, Owner: t.Key, Cost: t.Cost}); err != nil {
		return err
	}
	d.limits[0] = LimitState{ID: "throttle", Limit: p, Owner: "subject", Unit: policy.Requests, Cost: t.Cost, away: policy.Local}
	d.n, d.batch.Patience = 1, g.config.Patience.Microseconds()
	err = g.ask(ctx, d, headgate.OK)
	limit.used.Store(d.batch.At)
	return err
}

// throttleLimit is a limit as a caller describes it.
type throttleLimit struct {
	count  int64
	period time.Duration
	burst  int64
}

// maxThrottles bounds the limits that callers describe. One makes room for
// another once all its buckets must be full again, and its state is forgotten:
// callers cannot fill the store with limits of which none is like another.
const maxThrottles = 4096

// throttles keeps the limits that callers describe ready.
type throttles struct {
	mu    sync.RWMutex
	ready map[throttleLimit]*throttled
}

type throttled struct {
	prepared *headgate.Prepared
	used     atomic.Int64 // last, in microseconds since the Unix epoch
}

// full returns the instant at which all buckets of the limit are full.
func (t *throttled) full() int64 {
	return t.used.Load() + t.prepared.Cap/t.prepared.N + 1
}

var errThrottles = &headgate.Error{Code: headgate.Overloaded, Err: fmt.Errorf("%d different rates of throttles are in use: at most that many", maxThrottles)}

func (t *throttles) prepare(l throttleLimit, clock func() int64) (*throttled, error) {
	t.mu.RLock()
	ready := t.ready[l]
	t.mu.RUnlock()
	if ready != nil {
		return ready, nil
	}
	p, err := headgate.Per(l.count, l.period).WithBurst(l.burst).WithScope("throttle").WithName("throttle").Prepare()
	if err != nil {
		return nil, throttleFault(l, err)
	}
	now := clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if ready := t.ready[l]; ready != nil {
		return ready, nil
	}
	if t.ready == nil {
		t.ready = make(map[throttleLimit]*throttled)
	}
	if len(t.ready) >= maxThrottles && !t.makeRoomLocked(now) {
		return nil, errThrottles
	}
	ready = &throttled{prepared: p}
	ready.used.Store(now)
	t.ready[l] = ready
	return ready, nil
}

// makeRoomLocked drops the limits that are in use no more.
func (t *throttles) makeRoomLocked(now int64) bool {
	for l, ready := range t.ready {
		if now >= ready.full() {
			delete(t.ready, l)
		}
	}
	return len(t.ready) < maxThrottles
}

// throttleFault names the field at fault.
func throttleFault(l throttleLimit, err error) error {
	field := "rate"
	if _, rateErr := headgate.Per(l.count, l.period).WithName("throttle").Prepare(); rateErr == nil {
		field = "burst"
	}
	if inner := errors.Unwrap(errors.Unwrap(err)); inner != nil {
		err = inner // without the name that we gave the limit
	}
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: err}
}
