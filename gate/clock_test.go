package gate_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// farStore is a store with a clock of its own, which is ahead of the machine's.
type farStore struct {
	inner headgate.Store
	ahead time.Duration
}

func (s *farStore) now() int64 { return time.Now().Add(s.ahead).UnixMicro() }

func (s *farStore) Apply(ctx context.Context, b *headgate.Batch) error {
	said := b.Now
	b.Now = s.now()
	err := s.inner.Apply(ctx, b)
	b.Now = said
	return err
}

func (s *farStore) Close() error { return s.inner.Close() }

// What holds for a time holds by the store's clock, the same on every node, though
// the machine's is half an hour behind or ahead: the operator's mode, overrides, and
// the room for limits that callers describe.
func TestStoreClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, 30 * time.Minute, -30 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &farStore{memstore.New(memstore.Config{Origin: time.Now().Add(-time.Hour).UnixMicro()}), ahead}
				until := time.UnixMicro(s.now()).Add(10 * time.Minute).UTC()
				g, err := gate.Open(t.Context(), gate.Config{Store: s, Now: s.now, Policy: []byte(`
version: 1
applications:
  a: {rules: [{name: r, match: {operation: o}, limits: [{name: w, rate: 1/day}]}]}
subjects:
  a/vip: {overrides: [{limit: r/w, rate: 5/day, until: ` + until.Format(time.RFC3339) + `}]}
`)})
				if err != nil {
					t.Fatal(err)
				}
				admitted := func(subject string) (n int) {
					var d gate.Decision
					for range 10 {
						if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "o", Subject: subject}, &d); err != nil {
							t.Fatal(err)
						}
						if d.Allowed {
							n++
						}
						if off := d.At().Sub(time.UnixMicro(s.now())); off != 0 {
							t.Errorf("decided %v off the store's clock", off)
						}
					}
					return n
				}
				if err := g.SetMode(gate.Mode{Application: "a", Rule: "r", Shadow: true, Until: until}); err != nil {
					t.Fatal(err)
				}
				if n := admitted("alice"); n != 10 {
					t.Errorf("%d pass in shadow", n)
				}
				if err := g.SetMode(gate.Mode{Application: "a", Rule: "r", Until: time.UnixMicro(g.Now())}); err != nil {
					t.Fatal(err)
				}
				if n := admitted("vip"); n != 5 {
					t.Errorf("%d of an override's 5 pass", n)
				}
				<-time.After(10 * time.Minute)
				if n := admitted("vip"); n != 0 || len(g.Modes()) != 0 {
					t.Errorf("%d pass after the override ended, modes %v", n, g.Modes())
				}
				ask := func(n int64) error {
					return g.Throttle(t.Context(), &gate.Throttle{Key: "k", Count: n, Period: time.Second, Cost: 1}, new(gate.Decision))
				}
				for n := range int64(4096) {
					if err := ask(n + 1); err != nil {
						t.Fatalf("limit %d: %v", n, err)
					}
				}
				if err := ask(5000); headgate.CodeOf(err) != headgate.Overloaded {
					t.Errorf("one limit too many: %v", err)
				}
				<-time.After(1100 * time.Millisecond)
				if err := ask(5000); err != nil {
					t.Errorf("when the buckets are full again: %v", err)
				}
			})
		})
	}
}
