package memstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// door is one goroutine's way to the bucket of x.
type door struct {
	*rand.Rand
	store *Store
	pin   headgate.Cell
	batch headgate.Batch
}

func (d *door) ask(op headgate.Op, hold uint64, holdFor int64, charges ...headgate.Charge) bool {
	d.batch.Reset(op)
	d.batch.Hold, d.batch.HoldFor = hold, holdFor
	for _, c := range charges {
		if _, err := d.batch.Add(c); err != nil {
			panic(err)
		}
	}
	return d.store.Apply(context.Background(), &d.batch) == nil && d.batch.Allowed
}

// spend asks by one of the doors and returns what passed.
func (d *door) spend(l, same, other *headgate.Prepared) int64 {
	c := headgate.Charge{Limit: l, Owner: "x", Cost: 1 + d.Int64N(3)}
	passed := false
	switch d.IntN(400) {
	case 0:
		hold := d.Uint64() | 1
		c.Cost = 5
		if passed = d.ask(headgate.Take, hold, 1000, c); passed {
			c.Cost = 2
			if !d.ask(headgate.Settle, hold, 0, c) { // it had expired
				c.Cost = 5
			}
		}
	case 1:
		c.Limit = same
		passed = d.ask(headgate.Take, 0, 0, c)
	case 2:
		passed = d.ask(headgate.Take, 0, 0, c, headgate.Charge{Limit: other, Owner: "y", Cost: 1})
	case 3:
		d.store.collectVersions()
	case 4:
		d.store.Sweep()
	case 5:
		d.pin.Close()
		d.pin, _ = d.store.Pin(l, "x")
	case 6, 7, 8, 9:
		_, allowed, ok := d.pin.Decide(headgate.Take, c.Cost)
		passed = allowed && ok
	case 10, 11, 12, 13:
		_, allowed, ok := d.store.One(headgate.Take, l, "x", c.Cost)
		passed = allowed && ok
	default:
		allowed, ok := d.pin.Allow(c.Cost, 0)
		passed = allowed && ok
	}
	if !passed {
		return 0
	}
	return c.Cost
}

// By all doors at once, on the real clock, no more than burst + rate x time
// passes.
func TestAllDoorsAtOnce(t *testing.T) {
	const burst, rate = 40_000, 100_000
	s := New(Config{MaxBytes: minBytes, Shards: 2})
	bucket := headgate.Per(rate, time.Second).WithBurst(burst).WithName("bucket")
	l, same, other := prepare(t, bucket), prepare(t, bucket), prepare(t, headgate.Per(1_000_000_000, time.Second).WithName("other"))
	var passed atomic.Int64
	var doors sync.WaitGroup
	began := time.Now()
	for g := range uint64(8) {
		doors.Go(func() {
			d := door{Rand: rand.New(rand.NewPCG(g, 3)), store: s}
			d.pin, _ = s.Pin(l, "x")
			for n := 0; n%64 > 0 || time.Since(began) < time.Second; n++ {
				passed.Add(d.spend(l, same, other))
			}
			d.pin.Close()
		})
	}
	doors.Wait()
	most := burst + int64(time.Since(began).Seconds()*rate) + 1
	if n := passed.Load(); n > most || n < burst {
		t.Errorf("%d passed, want %d to %d", n, burst, most)
	}
}

// A handle that is asked about a later instant leaves a level below -Cap to a
// clock that went back: a debit must not lift it.
func TestDebitLiftsNoBucket(t *testing.T) {
	l := prepare(t, headgate.PerSecond(10))
	origin := int64(1_000_000_000)
	s := New(Config{Origin: origin})
	of := func(cost int64) headgate.Charge { return headgate.Charge{Limit: l, Owner: "alice", Cost: cost} }
	s.apply(t, headgate.Take, origin, of(1))
	p, _ := s.Pin(l, "alice")
	defer p.Close()
	if allowed, ok := p.Allow(10, origin+hour); !ok || !allowed {
		t.Fatal("the key is not at hand")
	}
	before := s.apply(t, headgate.Peek, origin, of(1)).Outcomes()[0].RetryAfter
	s.apply(t, headgate.Debit, origin, of(1))
	if after := s.apply(t, headgate.Peek, origin, of(1)).Outcomes()[0].RetryAfter; after < before {
		t.Errorf("after a debit 1 passes in %v, before in %v", after, before)
	}
	if s.apply(t, headgate.Take, origin+3_000_000, of(10)).Allowed {
		t.Error("10 passed again 3 s later")
	}
}
