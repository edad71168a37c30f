package headgate

import (
	"context"
	"runtime"
)

// Key is a limiter for one key that is asked often: it finds the key's state
// once. It spends the same budget as every other call for the key. Most callers
// want [Key.Allow]. It is safe for concurrent use.
//
// With one token bucket and a store that is a [Pinner], a call is at most one
// reading of the clock and one atomic operation, and a refusal writes nothing. With other limits and
// stores a Key is as fast as its Limiter.
type Key struct {
	limiter *Limiter
	key     string
	cell    Cell // nil where there is none
	cleanup runtime.Cleanup
}

// Key returns a limiter for key alone. It holds about 200 bytes of memory, for
// which no cap of the store counts, until it is closed or collected.
func (l *Limiter) Key(key string) *Key {
	k := &Key{limiter: l, key: key}
	if p, ok := l.store.(Pinner); ok && len(l.limits) == 1 {
		if cell, ok := p.Pin(l.limits[0], key); ok {
			k.cell = cell
			k.cleanup = runtime.AddCleanup(k, Cell.Close, cell)
		}
	}
	return k
}

// Allow takes cost tokens, 0 to MaxInt, of every limit, or of none, and reports
// whether it did. The error means that nothing was decided.
//
// While a key is asked very often, up to 64 tokens for each of some processors,
// 1/16 of the burst in all, are taken ahead and spent without the clock. No
// interval admits more than burst + rate x time for that, and no call is refused
// for tokens that lie with another processor. Where processors contend, the
// bucket refills to its capacity less what is taken ahead, so that until 10 ms
// or so after the last call the burst may be smaller by that much; where they do
// not, tokens are taken ahead only if the bucket is not about to be full, and
// every answer is that of the bucket.
func (k *Key) Allow(ctx context.Context, cost int64) (bool, error) {
	if k.cell != nil && cost >= 0 && cost <= MaxInt {
		if allowed, ok := k.cell.Allow(cost, 0); ok {
			return allowed, nil
		}
	}
	d, err := k.limiter.Take(ctx, k.key, cost)
	return d.Allowed, err
}

// AllowAt is Allow at an instant, as in Batch.Now, for callers that decide
// several requests for one reading of the store's clock. It takes nothing ahead.
func (k *Key) AllowAt(ctx context.Context, now, cost int64) (bool, error) {
	if k.cell != nil && now != 0 && cost >= 0 && cost <= MaxInt {
		if allowed, ok := k.cell.Allow(cost, now); ok {
			return allowed, nil
		}
	}
	d, err := k.limiter.doAt(ctx, Take, now, k.key, cost)
	return d.Allowed, err
}

// Take is [Limiter.Take] for the key.
func (k *Key) Take(ctx context.Context, cost int64) (Decision, error) {
	return k.decide(ctx, Take, cost)
}

// Peek is [Limiter.Peek] for the key.
func (k *Key) Peek(ctx context.Context, cost int64) (Decision, error) {
	return k.decide(ctx, Peek, cost)
}

func (k *Key) decide(ctx context.Context, op Op, cost int64) (d Decision, err error) {
	if k.cell != nil && cost >= 0 && cost <= MaxInt {
		if level, allowed, ok := k.cell.Decide(op, cost); ok {
			d.bucket(k.limiter.limits[0], level, cost, allowed)
			return d, nil
		}
	}
	return k.limiter.doAt(ctx, op, 0, k.key, cost)
}

// Close frees what the key holds beside its state, which stays. No other method
// may run at the same time or afterwards.
func (k *Key) Close() {
	if k.cell != nil {
		k.cleanup.Stop()
		k.cell.Close()
		k.cell = nil
	}
}
