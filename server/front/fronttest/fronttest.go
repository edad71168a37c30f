// Package fronttest asks doors as their clients do. Its holders put [gatetest] to them,
// and [Compare] puts random requests by random policies to a gate in process and to gates
// behind doors, whose answers must be equal.
package fronttest

import (
	"cmp"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// Gate is a gate that decides at an instant of the test's, as instants cross no wire: at the
// door's reading of the clock, for which it has Now, or else at its own.
type Gate struct {
	*gate.Gate
	now atomic.Int64
}

// Open returns a gate with a policy, and a store in memory that has no state yet.
func Open(tb testing.TB, policy string) *Gate {
	tb.Helper()
	return OpenWith(tb, gate.Config{Policy: []byte(policy), Store: memory()})
}

// OpenWith returns a gate that is made of c, of which the store goes by the test's instants.
func OpenWith(tb testing.TB, c gate.Config) *Gate {
	tb.Helper()
	g := new(Gate)
	g.At(gatetest.Start)
	c.Store = clocked{c.Store, g}
	var err error
	if g.Gate, err = gate.Open(tb.Context(), c); err != nil {
		tb.Fatalf("%v\n%s", err, c.Policy)
	}
	return g
}

func memory() headgate.Store {
	return memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: gatetest.Start.UnixMicro()})
}

// Run puts the contract of decisions to a door, also that without the store. open returns
// a way to one in front of g; what it opens it closes with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T, g *Gate) gatetest.Holder) {
	t.Run("decisions", func(t *testing.T) {
		gatetest.Run(t, func(t *testing.T, policy string) gatetest.Holder { return open(t, Open(t, policy)) })
	})
	t.Run("away", func(t *testing.T) {
		gatetest.RunAway(t, func(t *testing.T, policy string, wrap func(headgate.Store) headgate.Store) gatetest.Holder {
			return open(t, OpenWith(t, gate.Config{Policy: []byte(policy), Store: wrap(memory()), Local: memory()}))
		})
	})
}

// At makes t the instant of the decisions that follow.
func (g *Gate) At(t time.Time) { g.now.Store(t.UnixMicro()) }

// Now returns the gate's instant, in microseconds of Unix time.
func (g *Gate) Now() int64 { return g.now.Load() }

// Take is gate.Take.
func (g *Gate) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = cmp.Or(r.Now, g.Now())
	return g.Gate.Take(ctx, r, d)
}

// Peek is gate.Peek.
func (g *Gate) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = cmp.Or(r.Now, g.Now())
	return g.Gate.Peek(ctx, r, d)
}

// Explain is gate.Explain.
func (g *Gate) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	r.Now = cmp.Or(r.Now, g.Now())
	return g.Gate.Explain(ctx, r, d, e)
}

// Reserve is gate.Reserve.
func (g *Gate) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	r.Now = cmp.Or(r.Now, g.Now())
	return g.Gate.Reserve(ctx, r, ttl, d)
}

// Settle is gate.Settle.
func (g *Gate) Settle(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	q.Now = cmp.Or(q.Now, g.Now())
	return g.Gate.Settle(ctx, q, d)
}

// Renew is gate.Renew.
func (g *Gate) Renew(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	q.Now = cmp.Or(q.Now, g.Now())
	return g.Gate.Renew(ctx, q, d)
}

// Release is gate.Release.
func (g *Gate) Release(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	q.Now = cmp.Or(q.Now, g.Now())
	return g.Gate.Release(ctx, q, d)
}

// Throttle is gate.Throttle.
func (g *Gate) Throttle(ctx context.Context, t *gate.Throttle, d *gate.Decision) error {
	t.Now = cmp.Or(t.Now, g.Now())
	return g.Gate.Throttle(ctx, t, d)
}

// TakeAll is gate.TakeAll.
func (g *Gate) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (int, error) {
	for _, r := range rs {
		r.Now = cmp.Or(r.Now, g.Now())
	}
	return g.Gate.TakeAll(ctx, rs, ds)
}

// TakeDescriptors is gate.TakeDescriptors.
func (g *Gate) TakeDescriptors(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (bool, int, error) {
	for _, r := range rs {
		r.Now = cmp.Or(r.Now, g.Now())
	}
	return g.Gate.TakeDescriptors(ctx, rs, ds)
}

// Refund is gate.Refund.
func (g *Gate) Refund(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = cmp.Or(r.Now, g.Now())
	return g.Gate.Refund(ctx, r, d)
}
