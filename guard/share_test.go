package guard

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestScale(t *testing.T) {
	day := headgate.QuotaPer(1000, headgate.Day)
	day.Rollover = 500
	soft := headgate.QuotaPer(3, headgate.Day)
	soft.Soft = true
	for _, c := range []struct {
		limit headgate.Limit
		nodes int
		want  headgate.Limit // Count 0: nothing
	}{
		{headgate.PerSecond(10), 1, headgate.Per(8, time.Second)},
		{headgate.PerSecond(10).WithBurst(100), 3, headgate.Per(40, 15*time.Second).WithBurst(26)},
		{headgate.PerSecond(1000), 7, headgate.Per(4000, 35*time.Second).WithBurst(114)},
		{headgate.PerSecond(1), 1, headgate.Limit{}},
		{headgate.PerSecond(10), 9, headgate.Limit{}},
		{headgate.PerSecond(10), 8, headgate.Per(1, time.Second)},
		{headgate.PerHour(5).WithBurst(10), 4, headgate.Per(1, time.Hour).WithBurst(2)},
		{headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 60, Period: time.Minute, Burst: 30}, 2, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 24, Period: time.Minute, Burst: 12}},
		{headgate.Window(10, time.Minute), 3, headgate.Window(2, time.Minute)},
		{headgate.Sliding(300, time.Minute), 3, headgate.Sliding(80, time.Minute)},
		{headgate.Log(10, time.Minute), 1, headgate.Log(8, time.Minute)},
		{headgate.Window(10, time.Minute), 9, headgate.Limit{}},
		{day, 4, headgate.QuotaPer(200, headgate.Day)},
		{soft, 4, soft},
		{headgate.InFlight(20, time.Minute), 2, headgate.InFlight(8, time.Minute)},
		{headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Hour}, 4, headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Hour}},
		{headgate.Window(headgate.MaxInt, time.Minute), maxNodes, headgate.Window(headgate.MaxInt/(5*maxNodes)*4+4*(headgate.MaxInt%(5*maxNodes))/(5*maxNodes), time.Minute)},
	} {
		whole := prepare(t, c.limit.WithName("x").WithScope("a"))
		p := scale(whole, c.nodes)
		if c.want.Count == 0 {
			if p != nil {
				t.Errorf("%+v of %d: %+v, want nothing", c.limit, c.nodes, p.Limit)
			}
			continue
		}
		want := prepare(t, c.want.WithName("x").WithScope("a"))
		// Equal rates may be written in several ways.
		if p == nil || p.N != want.N || p.P != want.P || p.Cap != want.Cap || p.ID != whole.ID {
			t.Errorf("%+v of %d: %+v, want %+v", c.limit, c.nodes, p, want)
			continue
		}
		bucket := p.Algorithm == headgate.TokenBucket || p.Algorithm == headgate.LeakyBucket
		if !bucket && !p.SameNumbers(want) {
			t.Errorf("%+v of %d: %+v, want %+v", c.limit, c.nodes, p.Limit, want.Limit)
		}
	}
}

// The share of any bucket is never more than its due, in burst or rate, and less
// by next to nothing, unless it refills for years.
func TestScaleAnyBucket(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	up := func(most int64) int64 { // of all magnitudes
		return 1 + random.Int64N(max(1, most>>random.IntN(52)))
	}
	inexact := 0
	for tried := 0; tried < 20_000; {
		whole, err := headgate.Per(up(headgate.MaxInt), time.Duration(up(int64(headgate.MaxPeriod/time.Microsecond)))*time.Microsecond).
			WithBurst(up(headgate.MaxInt)).WithName("x").Prepare()
		if err != nil {
			continue
		}
		tried++
		nodes := int(up(maxNodes))
		p := scale(whole, nodes)
		burst := share(whole.Burst, nodes)
		if p == nil {
			if years := whole.Cap / whole.N / (365 * 24 * 3600e6); burst > 0 && years < 50 {
				t.Fatalf("nothing of %+v for one of %d", whole, nodes)
			}
			continue
		}
		due := new(big.Rat).SetFrac64(whole.N, whole.P)
		due.Mul(due, big.NewRat(shareParts, shareWhole*int64(nodes)))
		got := new(big.Rat).SetFrac64(p.N, p.P)
		if p.Burst != burst || got.Cmp(due) > 0 {
			t.Fatalf("one of %d has %+v of %+v", nodes, p, whole)
		}
		ratio, _ := new(big.Rat).Quo(got, due).Float64()
		if ratio < 1 {
			inexact++
		}
		if years := float64(whole.Cap) / float64(whole.N) / (365 * 24 * 3600e6); ratio < 0.99 && years < 1 {
			t.Fatalf("one of %d has %v of its due: %+v of %+v", nodes, ratio, p, whole)
		}
	}
	if inexact == 0 {
		t.Error("all were exact: the numbers were too small")
	}
}

// A limit has one share as long as the number of nodes stays, and they are
// forgotten before there are too many.
func TestSharesKept(t *testing.T) {
	var s shares
	l := prepare(t, headgate.PerSecond(100))
	first, again := s.of(l, 2), s.of(l, 2)
	other, same := s.of(l, 4), s.of(l, 4)
	if first != again || first == other || other != same {
		t.Error("not one share for a limit and a number of nodes")
	}
	for range maxScaled + 10 {
		s.of(prepare(t, headgate.PerSecond(100)), 4)
	}
	if n := len(s.scaled); n > maxScaled {
		t.Errorf("%d are kept", n)
	}
}
