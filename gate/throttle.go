package gate

import (
	"context"
	"sync"
	"time"

	"github.com/headgate/headgate"
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
	p, err := g.throttles.prepare(throttleLimit{t.Count, t.Period, t.Burst})
	if err != nil {
		return err
	}
	d.Cost = t.Cost
	if _, err := d.batch.Add(headgate.Charge{Limit: p, Owner: t.Key, Cost: t.Cost}); err != nil {
		return err
	}
	s := &d.limits[0]
	s.ID, s.Limit, s.Owner, s.Unit, s.Shadow = "throttle", p, "subject", "requests", false
	d.n, d.open = 1, false
	return g.apply(ctx, d, false)
}

type throttleLimit struct {
	count  int64
	period time.Duration
	burst  int64
}

// maxThrottles bounds the limits kept ready. One that was dropped is made again
// and means the same to the store.
const maxThrottles = 4096

// throttles keeps the limits that callers describe ready.
type throttles struct {
	mu    sync.RWMutex
	ready map[throttleLimit]*headgate.Prepared
}

func (t *throttles) prepare(l throttleLimit) (*headgate.Prepared, error) {
	t.mu.RLock()
	p := t.ready[l]
	t.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	p, err := headgate.Per(l.count, l.period).WithBurst(l.burst).WithScope("throttle").WithName("throttle").Prepare()
	if err != nil {
		return nil, &headgate.Error{Code: headgate.InvalidRequest, Field: "rate", Err: err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if q := t.ready[l]; q != nil {
		return q, nil
	}
	if t.ready == nil {
		t.ready = make(map[throttleLimit]*headgate.Prepared)
	}
	if len(t.ready) >= maxThrottles {
		for other := range t.ready { // any one: the map's order is random
			delete(t.ready, other)
			break
		}
	}
	t.ready[l] = p
	return p, nil
}
