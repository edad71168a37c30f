package meter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// Rates are those of a list of all decisions.
func TestRates(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	c := &clock{at: start}
	e := newEngine(t, c, unlimited)
	m := New(Config{Records: newLedger(t, c), Now: c.now})
	type decided struct {
		at int64
		kind
	}
	var all []decided
	d := e.take(sends("x", 1))
	reasons := []headgate.Reason{headgate.OK, headgate.RateLimited, headgate.QuotaExceeded}
	for n := range 4_000 {
		d.Application, d.Subject = []string{"email", "web", ""}[r.IntN(3)], fmt.Sprint("s", r.IntN(100))
		d.Reason = reasons[r.IntN(len(reasons))]
		d.Allowed, d.Replayed = d.Reason == headgate.OK, r.IntN(20) == 0
		m.Count(d)
		all = append(all, decided{c.at.Unix(), kind{d.Application, d.Reason, d.Allowed}})
		c.set(c.at.Add(time.Duration(r.IntN(400)) * time.Millisecond))
		if n%400 == 399 {
			c.set(c.at.Add(time.Duration(r.IntN(900)) * time.Second))
			m.Count(d)
			all = append(all, decided{c.at.Unix(), kind{d.Application, d.Reason, d.Allowed}})
		}
		if n%50 != 0 && n%400 != 399 {
			continue
		}
		for _, window := range []time.Duration{0, time.Second, 10*time.Second + time.Millisecond, time.Minute, MaxWindow, 2 * MaxWindow} {
			seconds := min(max(int64(window/time.Second), 1), int64(MaxWindow/time.Second))
			now := c.at.Unix()
			first := now - seconds + 1
			since := max(first/60, now/60-kindMinutes+1) * 60
			want := make([]Second, seconds)
			for i := range want {
				want[i].At = time.Unix(first+int64(i), 0).UTC()
			}
			kinds := make(map[kind]int64)
			for _, x := range all {
				if x.at >= first && x.allowed {
					want[x.at-first].Allowed++
				} else if x.at >= first {
					want[x.at-first].Denied++
				}
				if x.at >= since {
					kinds[x.kind]++
				}
			}
			got := m.Rates(window)
			if !slices.Equal(got.Seconds, want) || got.Since.Unix() != since || len(got.Kinds) != len(kinds) {
				t.Fatalf("window %v at %v: %+v, want %+v and %+v", window, c.at, got, want, kinds)
			}
			for i, k := range got.Kinds {
				if kinds[kind{k.Application, k.Reason, k.Allowed}] != k.Count || i > 0 && k.Count > got.Kinds[i-1].Count {
					t.Fatalf("%+v of %+v, want %+v", k, got.Kinds, kinds)
				}
			}
		}
	}
}

// Kinds take a fixed amount of memory; the total is exact all the same.
func TestRatesFlood(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, unlimited)
	m := New(Config{Records: newLedger(t, c), Now: c.now, MaxRows: 10})
	d := e.take(sends("x", 1))
	const flood = 2 * shards * maxKinds
	for n := range flood {
		d.Application = fmt.Sprint("a", n)
		m.Count(d)
	}
	r := m.Rates(time.Second)
	if r.Seconds[0].Allowed != flood || len(r.Kinds) > shards*maxKinds || len(r.Kinds) < maxKinds {
		t.Errorf("%+v, %d kinds", r.Seconds, len(r.Kinds))
	}
}
