package lease_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// plenty is more than any benchmark takes.
func plenty(name string) headgate.Limit {
	return headgate.Limit{Name: name, Count: 1e12, Period: time.Second, Burst: 1e12}
}

// hot returns a store in which the charges' budgets are leased.
func hot(tb testing.TB, charges ...[]headgate.Charge) *lease.Store {
	s := lease.New(newBank(), lease.Config{})
	tb.Cleanup(func() { s.Close() })
	deadline := time.Now().Add(30 * time.Second)
	for s.Stats().Local < int64(100*len(charges)) {
		for _, c := range charges {
			ask(tb, s, c...)
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not leased: %+v", s.Stats())
		}
	}
	return s
}

func TestLocalDecisionsDoNotAllocate(t *testing.T) {
	one := headgate.Charge{Limit: prepare(t, plenty("a")), Owner: "alice", Cost: 1}
	two := headgate.Charge{Limit: prepare(t, headgate.QuotaPer(headgate.MaxInt, headgate.Year)), Owner: "alice", Cost: 1}
	three := headgate.Charge{Limit: prepare(t, headgate.Limit{Algorithm: headgate.Ban, Count: 5, Period: time.Minute, TTL: time.Minute}), Owner: "alice"}
	six := []headgate.Charge{one, two, three}
	for i := range 3 {
		c := one
		c.Owner = strconv.Itoa(i)
		six = append(six, c)
	}
	for _, charges := range [][]headgate.Charge{{one}, {one, two, three}, six} {
		s := hot(t, charges)
		var b headgate.Batch
		run := func() {
			b.Reset(headgate.Take)
			for _, c := range charges {
				b.Add(c)
			}
			if err := s.Apply(t.Context(), &b); err != nil || !b.Allowed {
				t.Fatal(err)
			}
		}
		for remote := int64(-1); remote != s.Stats().Remote; { // until all were decided locally
			remote = s.Stats().Remote
			if n := testing.AllocsPerRun(1000, run); n != 0 && remote == s.Stats().Remote {
				t.Errorf("%d charges: %v allocations a decision", len(charges), n)
			}
		}
	}
}

// decide asks over and over, as each of several workers would.
func decide(b *testing.B, s *lease.Store, next func() bool, charges func(i int) []headgate.Charge) {
	var batch headgate.Batch
	for i := 0; next(); i++ {
		batch.Reset(headgate.Take)
		for _, c := range charges(i) {
			batch.Add(c)
		}
		if err := s.Apply(context.Background(), &batch); err != nil || !batch.Allowed {
			b.Errorf("refused: %v", err)
			return
		}
	}
}

// local checks that nearly all of what was measured was decided locally.
func local(b *testing.B, before, after lease.Stats) {
	n := float64(after.Local - before.Local)
	share := n / (n + float64(after.Remote-before.Remote))
	b.ReportMetric(share, "local")
	if b.N > 1_000_000 && share < 0.9 {
		b.Errorf("only %.3f decided locally: %+v", share, after)
	}
}

func keys(b *testing.B, n int) [][]headgate.Charge {
	l := prepare(b, plenty("a"))
	all := make([][]headgate.Charge, n)
	for i := range all {
		all[i] = []headgate.Charge{{Limit: l, Owner: "customer-" + strconv.Itoa(i), Cost: 1}}
	}
	return all
}

func BenchmarkHotKey(b *testing.B) {
	all := keys(b, 1)
	s := hot(b, all...)
	b.ReportAllocs()
	before := s.Stats()
	decide(b, s, b.Loop, func(int) []headgate.Charge { return all[0] })
	local(b, before, s.Stats())
}

func BenchmarkHotKeyParallel(b *testing.B) {
	all := keys(b, 1)
	s := hot(b, all...)
	b.ReportAllocs()
	before := s.Stats()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		decide(b, s, pb.Next, func(int) []headgate.Charge { return all[0] })
	})
	local(b, before, s.Stats())
}

func BenchmarkThousandKeysParallel(b *testing.B) {
	all := keys(b, 1000)
	s := hot(b, all...)
	b.ReportAllocs()
	before := s.Stats()
	var worker atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		from := int(worker.Add(1)) * 7919
		decide(b, s, pb.Next, func(i int) []headgate.Charge { return all[(from+i*31)%len(all)] })
	})
	local(b, before, s.Stats())
}

func BenchmarkThreeLimits(b *testing.B) {
	c := headgate.Charge{Limit: prepare(b, plenty("a")), Owner: "alice", Cost: 1}
	d, e := c, c
	d.Limit, e.Limit = prepare(b, plenty("b")), prepare(b, headgate.QuotaPer(headgate.MaxInt, headgate.Year))
	all := []headgate.Charge{c, d, e}
	s := hot(b, all)
	b.ReportAllocs()
	before := s.Stats()
	decide(b, s, b.Loop, func(int) []headgate.Charge { return all })
	local(b, before, s.Stats())
}
