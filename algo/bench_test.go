package algo_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// workloads take from each algorithm at a pace of which it refuses some.
var workloads = []struct {
	name string
	l    headgate.Limit
	pace int64 // microseconds between takes
}{
	{"TokenBucket", headgate.PerSecond(1000).WithBurst(100), 700},
	{"LeakyBucket", headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1000, Period: time.Second, Burst: 100}, 700},
	{"FixedWindow", headgate.Window(1000, time.Second), 700},
	{"SlidingWindow", headgate.Sliding(1000, time.Second), 700},
	{"SlidingWindowClassic", headgate.Sliding(1000, time.Second).WithSlices(1), 700},
	{"SlidingLog", headgate.Log(1000, time.Second), 700},
	{"Quota", headgate.QuotaPer(3_600_000, headgate.Hour), 700},
	{"Concurrency", headgate.InFlight(1000, time.Second), 700},
	{"Ban", headgate.Limit{Algorithm: headgate.Ban, Count: 10, Period: time.Second, TTL: time.Second}, 700},
}

// room is a state with all the room that its limit can ever need.
func room(l *headgate.Prepared, now int64) []int64 {
	st := make([]int64, algo.Words(l))
	algo.Init(l, st, now)
	most := len(st) + 3*int(min(l.Count, headgate.MaxLog))
	if l.Algorithm == headgate.SlidingLog || l.Algorithm == headgate.Concurrency {
		grown := make([]int64, most)
		algo.Grow(&algo.Call{Now: now}, l, grown, st)
		return grown
	}
	return st
}

// BenchmarkTake takes at a steady pace above the rate of the limit, and checks
// that the share it let pass is that of the rate.
func BenchmarkTake(b *testing.B) {
	for _, w := range workloads {
		b.Run(w.name, func(b *testing.B) {
			l := prepare(b, w.l)
			now, passed, n := epoch, 0, 0
			st := room(l, now)
			var o headgate.Outcome
			b.ReportAllocs()
			for b.Loop() {
				algo.Apply(&algo.Call{Now: now, Cost: 1, Hold: uint64(n)}, l, st, &o)
				if o.Allowed {
					passed++
				}
				now += w.pace
				n++
			}
			checkShare(b, l, passed, n)
		})
	}
	b.Run("TokenBucketPacked", func(b *testing.B) {
		l := prepare(b, workloads[0].l)
		x, now, passed, n := algo.Pack(l, l.Cap, 0), int64(0), 0, 0
		var o headgate.Outcome
		b.ReportAllocs()
		for b.Loop() {
			x = algo.PackedApply(headgate.Take, l, x, now, 1, &o)
			if o.Allowed {
				passed++
			}
			now += workloads[0].pace
			n++
		}
		checkShare(b, l, passed, n)
	})
}

// checkShare fails if a long run let another share pass than 1,000 of each
// 1,429 takes a second; sliding windows pass less, as they count up to a slice
// too long. Quotas and bans see no refusal in the time that a run covers.
func checkShare(b *testing.B, l *headgate.Prepared, passed, n int) {
	b.Helper()
	if n < 1_000_000 {
		return
	}
	low, high := 0.69, 0.71
	switch {
	case l.Algorithm == headgate.Ban:
		low, high = 1, 1
	case l.Algorithm == headgate.SlidingWindow && l.Slices > 1:
		low, high = 0.6, 0.66
	case l.Algorithm == headgate.Quota:
		low, high = 0.69, 1
	}
	if share := float64(passed) / float64(n); share < low || share > high {
		b.Errorf("%v let %.3f of %d takes pass, want %.2f to %.2f", l.Algorithm, share, n, low, high)
	}
}

// TestNoAllocations holds Apply, Need and AbsentAt of every algorithm to none.
func TestNoAllocations(t *testing.T) {
	ops := []headgate.Op{headgate.Take, headgate.Peek, headgate.Refund, headgate.Debit, headgate.Renew, headgate.Release, headgate.Settle}
	for _, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			l := prepare(t, w.l)
			now, n, refused := epoch, 0, 0
			st := append(room(l, now), make([]int64, 300)...) // for reservations
			var o headgate.Outcome
			got := testing.AllocsPerRun(3000, func() {
				op := ops[n%len(ops)]
				if n%2 == 0 {
					op = headgate.Take
				}
				c := algo.Call{Op: op, Now: now, Cost: 3, Hold: uint64(n), HoldFor: 5 * w.pace}
				if algo.Need(&c, l, st) != len(st) {
					t.Error("no room left")
				}
				algo.Apply(&c, l, st, &o)
				if !o.Allowed {
					refused++
				}
				if l.Algorithm == headgate.Ban {
					algo.CountDenial(l, st, now)
				}
				if algo.AbsentAt(l, st) < epoch {
					t.Error("absent before it was seen")
				}
				now += w.pace / 3
				n++
			})
			if got != 0 {
				t.Errorf("%v allocations a call", got)
			}
			if refused == 0 && l.Algorithm != headgate.Quota {
				t.Error("nothing was refused")
			}
		})
	}
	l := prepare(t, workloads[0].l)
	x, now := algo.Pack(l, l.Cap, 0), int64(0)
	var o headgate.Outcome
	if got := testing.AllocsPerRun(1000, func() { x = algo.PackedApply(headgate.Take, l, x, now, 1, &o); now++ }); got != 0 {
		t.Errorf("packed: %v allocations a call", got)
	}
}
