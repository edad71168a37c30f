package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// fakeGate allows everything and keeps what it was asked. Subjects name what shall go
// wrong.
type fakeGate struct {
	asked atomic.Int64
	ready atomic.Pointer[error]

	mu       sync.Mutex
	request  gate.Request // whose maps are those of the call
	throttle gate.Throttle
	claim    gate.Claim
	ttl      time.Duration
	hold     chan struct{} // if not nil, requests of "waits" end when it is closed
}

func (f *fakeGate) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	f.asked.Add(1)
	f.mu.Lock()
	f.request = *r
	hold := f.hold
	f.mu.Unlock()
	switch {
	case r.Application == "nowhere":
		return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%q: no such application", r.Application)}
	case r.Subject == "other":
		return &headgate.Error{Code: headgate.Conflict, Field: "idempotency_key", Err: errors.New("was used for another request")}
	case r.Subject == "store away":
		return fmt.Errorf("gate: take: %w", &headgate.Error{Code: headgate.Unavailable, Err: errors.New("redis at 10.1.2.3 refused")})
	case r.Subject == "full":
		return &headgate.Error{Code: headgate.Overloaded, Err: errors.New("secret number of keys")}
	case r.Subject == "stopping":
		return &headgate.Error{Code: headgate.Closed, Err: errors.New("gate is closed")}
	case r.Subject == "bug":
		panic("secret of the handler")
	case r.Subject == "broken":
		return errors.New("secret of the gate")
	case r.Subject == "waits":
		select {
		case <-hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	*d = gate.Decision{
		Decision: headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1},
		ID:       [2]uint64{0x0123456789abcdef, 0xf}, Application: r.Application, Operation: r.Operation, Subject: r.Subject,
		Plan: r.Plan, Cost: r.Cost, Revision: 7,
	}
	return nil
}

func (f *fakeGate) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return f.Take(ctx, r, d)
}

func (f *fakeGate) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	*e = gate.Explanation{Verdict: "Allowed.", Steps: []gate.Step{{About: "match", Text: "No rule \"o\"."}}}
	return f.Take(ctx, r, d)
}

func (f *fakeGate) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (int, error) {
	for i, r := range rs {
		if err := f.Take(ctx, r, ds[i]); err != nil {
			return i, err
		}
	}
	return -1, nil
}

func (f *fakeGate) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	f.ttl = ttl
	return f.Take(ctx, r, d)
}

func (f *fakeGate) Settle(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	f.claim = *c
	err := f.Take(ctx, &gate.Request{Application: c.Application, Cost: c.Cost}, d)
	d.Held = c.Ticket == "open"
	return err
}

func (f *fakeGate) Renew(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	return f.Settle(ctx, c, d)
}

func (f *fakeGate) Release(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	return f.Settle(ctx, c, d)
}

func (f *fakeGate) Throttle(_ context.Context, t *gate.Throttle, d *gate.Decision) error {
	f.asked.Add(1)
	f.throttle = *t
	*d = gate.Decision{
		Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, BoundBy: -1, RetryAfter: 1500 * time.Microsecond},
		Subject:  t.Key, Cost: t.Cost,
	}
	return nil
}

func (f *fakeGate) Ready() error {
	if err := f.ready.Load(); err != nil {
		return *err
	}
	return nil
}
