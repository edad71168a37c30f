package headgate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Limiter decides charges of one key against one or more limits, all of them
// together. Most callers want [Limiter.Take]. It is safe for concurrent use.
//
// For rules, plans and identities described in a file, see package gate.
type Limiter struct {
	store  Store
	limits []*Prepared
	holds  bool   // one of the limits is a concurrency limit
	single Single // nil unless the only limit is a token bucket and the store can
}

// batches holds the batches of calls that need none of the caller's.
var batches = sync.Pool{New: func() any { return new(Batch) }}

// New returns a limiter that charges each of limits, 1 to MaxCharges, with
// every request.
//
// Limits of equal Scope and Name share their budgets with every other limiter
// on the same store; a limit without a name takes one from its numbers. Give
// limits that must not meet another name: limit.WithName("login").
func New(store Store, limits ...Limit) (*Limiter, error) {
	if store == nil {
		return nil, &Error{Code: InvalidLimit, Err: errors.New("a limiter needs a store")}
	}
	if len(limits) == 0 || len(limits) > MaxCharges {
		return nil, &Error{Code: InvalidLimit, Err: fmt.Errorf("%d limits: a limiter takes 1 to %d", len(limits), MaxCharges)}
	}
	l := &Limiter{store: store, limits: make([]*Prepared, len(limits))}
	for i, limit := range limits {
		p, err := limit.Prepare()
		if err != nil {
			return nil, err
		}
		for _, q := range l.limits[:i] {
			if q.ID == p.ID {
				return nil, &Error{Code: InvalidLimit, Err: fmt.Errorf("two limits are named %q: give one of them another name", p.Name)}
			}
		}
		l.limits[i] = p
		l.holds = l.holds || p.Algorithm == Concurrency
	}
	l.label(limits)
	if len(limits) == 1 && l.limits[0].Algorithm == TokenBucket {
		l.single, _ = store.(Single)
	}
	return l, nil
}

// label sees to it that a limit without a name has no label of one with a name, nor of one
// without that comes before it.
func (l *Limiter) label(limits []Limit) {
	for i, p := range l.limits {
		if limits[i].Name != "" {
			continue
		}
		taken := func() bool {
			for j, q := range l.limits {
				if (j < i || limits[j].Name != "") && q.Label == p.Label {
					return true
				}
			}
			return false
		}
		for n, reads := 2, p.Label; taken(); n++ {
			p.Label = fmt.Sprintf("%s-%d", reads, n)
		}
	}
}

// Limits returns the limits, in the order of New. They must not be changed.
func (l *Limiter) Limits() []*Prepared { return l.limits }

// Take charges cost tokens, 0 to MaxInt, of every limit to key, or of none.
// A slot of a concurrency limit that Take takes is freed by its TTL only; see
// [Limiter.Reserve] and [Limiter.Acquire]. The error means that nothing was decided.
func (l *Limiter) Take(ctx context.Context, key string, cost int64) (Decision, error) {
	return l.do(ctx, Take, key, cost)
}

// Peek answers what Take would, and changes nothing.
func (l *Limiter) Peek(ctx context.Context, key string, cost int64) (Decision, error) {
	return l.do(ctx, Peek, key, cost)
}

// Reset forgets what key has used of every limit.
func (l *Limiter) Reset(ctx context.Context, key string) error {
	_, err := l.do(ctx, Reset, key, 0)
	return err
}

func (l *Limiter) do(ctx context.Context, op Op, key string, cost int64) (d Decision, err error) {
	if l.single != nil && op <= Peek && cost >= 0 && cost <= MaxInt {
		p := l.limits[0]
		if level, allowed, ok := l.single.One(op, p, key, cost); ok {
			d.bucket(p, level, cost, allowed)
			return d, nil
		}
	}
	return l.doAt(ctx, op, 0, key, cost)
}

// doAt is do at an instant, as in Batch.Now.
func (l *Limiter) doAt(ctx context.Context, op Op, now int64, key string, cost int64) (Decision, error) {
	b := batches.Get().(*Batch)
	b.Reset(op)
	b.Now = now
	d, err := l.apply(ctx, b, key, cost)
	batches.Put(b)
	return d, err
}

func (l *Limiter) apply(ctx context.Context, b *Batch, key string, cost int64) (Decision, error) {
	for _, p := range l.limits {
		if _, err := b.Add(Charge{Limit: p, Owner: key, Cost: cost}); err != nil {
			return Decision{}, err
		}
	}
	if err := l.store.Apply(ctx, b); err != nil {
		return Decision{}, err
	}
	return b.Decision(), nil
}

// Decide is Take with the caller's batch, which it empties first and in which
// it leaves the state of every limit.
func (l *Limiter) Decide(ctx context.Context, b *Batch, key string, cost int64) (Decision, error) {
	b.Reset(Take)
	return l.apply(ctx, b, key, cost)
}

// Acquire is Decide with a hold: the slots of concurrency limits that it takes
// are freed by [Limiter.Release] with the same batch, or by their TTL.
func (l *Limiter) Acquire(ctx context.Context, b *Batch, key string, cost int64) (Decision, error) {
	b.Reset(Take)
	b.Hold = newHold()
	return l.apply(ctx, b, key, cost)
}

// Release frees the slots that Acquire took with b. Other limits keep what was
// charged. Releasing twice, or after the TTL, does nothing.
func (l *Limiter) Release(ctx context.Context, b *Batch) error {
	if !l.holds {
		return nil
	}
	b.Op, b.Now = Release, 0
	return l.store.Apply(ctx, b)
}

// newHold returns an id that no live hold has: 64 random bits, not 0.
func newHold() uint64 {
	for {
		if id := rand.Uint64(); id != 0 {
			return id
		}
	}
}

// Wait takes cost tokens, waiting as long as the limits ask for. It returns the
// decision that let it pass, after its delay. If it can never pass, or not
// before ctx ends, Wait returns the refusal at once, without an error. When ctx
// ends during a delay, the error is its cause, and what was taken is given back
// as far as [Refund] can: a leaky bucket's slot is not. Callers that wait are
// not served in order.
func (l *Limiter) Wait(ctx context.Context, key string, cost int64) (Decision, error) {
	for {
		d, err := l.Take(ctx, key, cost)
		if err != nil {
			return d, err
		}
		pause := d.RetryAfter
		if d.Allowed {
			pause = d.Delay
		}
		if d.Allowed && pause == 0 || !d.Allowed && (!d.Retryable || beyond(ctx, pause)) {
			return d, nil
		}
		if err := sleep(ctx, pause); err != nil {
			if d.Allowed {
				_, refundErr := l.do(context.WithoutCancel(ctx), Refund, key, cost)
				err = errors.Join(err, refundErr)
			}
			return Decision{}, err
		}
		if d.Allowed {
			return d, nil
		}
	}
}

func beyond(ctx context.Context, pause time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < pause
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Reservation is work that was charged at an estimate. End it with Settle or
// Release. It is not safe for concurrent use.
type Reservation struct {
	limiter *Limiter
	batch   Batch
}

// Reserve is Take at an estimated cost, for work with an end. Until it is settled
// or released, what it takes is held and does not refill, at most for ttl: up to
// MaxHold, whole microseconds, 0 means a minute. When ttl is over the charge is
// kept, and the slots of concurrency limits are free. The reservation is nil if
// the decision is a refusal.
func (l *Limiter) Reserve(ctx context.Context, key string, cost int64, ttl time.Duration) (*Reservation, Decision, error) {
	ttl = cmp.Or(ttl, time.Minute)
	if ttl < time.Microsecond || ttl > MaxHold {
		return nil, Decision{}, &Error{Code: InvalidRequest, Field: "ttl", Err: fmt.Errorf("%v: must be 1 us to %v", ttl, MaxHold)}
	}
	r := &Reservation{limiter: l}
	r.batch.Reset(Take)
	r.batch.Hold, r.batch.HoldFor = newHold(), ttl.Microseconds()
	d, err := l.apply(ctx, &r.batch, key, cost)
	if err != nil || !d.Allowed {
		return nil, d, err
	}
	return r, d, nil
}

// Settle ends the reservation at the real cost, 0 to MaxInt: what was reserved
// beyond it is given back, as far as windows still count it, and what it took
// beyond is charged like a [Debit]. It reports false, and changes nothing, if
// the reservation had ended or expired before.
func (r *Reservation) Settle(ctx context.Context, cost int64) (bool, error) {
	if cost < 0 || cost > MaxInt {
		return false, costError(cost)
	}
	charges := r.batch.Charges()
	for i := range charges {
		charges[i].Cost = cost
	}
	return r.end(ctx, Settle)
}

// Release gives back what the reservation holds, as if it had cost nothing.
// Releasing what has ended does nothing.
func (r *Reservation) Release(ctx context.Context) error {
	_, err := r.Settle(ctx, 0)
	return err
}

// Renew holds for another ttl from now. It reports false if the reservation has
// ended or expired.
func (r *Reservation) Renew(ctx context.Context) (bool, error) { return r.end(ctx, Renew) }

// end applies op, and reports whether something was held.
func (r *Reservation) end(ctx context.Context, op Op) (bool, error) {
	r.batch.Op, r.batch.Now = op, 0
	if err := r.limiter.store.Apply(ctx, &r.batch); err != nil {
		return false, err
	}
	return slices.ContainsFunc(r.batch.Outcomes(), func(o Outcome) bool { return o.Allowed }), nil
}
