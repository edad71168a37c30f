package algo_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// A mark ahead of a state covers it, and is at most one percent of the limit above
// it; states with the same mark are in one step, and limits below 200 have exact ones.
func TestMarkAhead(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 100_000 {
		l := headgate.Limit{Count: 1 + r.Int64N(1<<r.IntN(40)), Period: time.Hour}
		p, err := l.Prepare()
		if err != nil {
			continue
		}
		x := r.Int64N(1<<52) - 1<<51
		m := algo.PackedMark(x)
		ahead := m.Ahead(p)
		if !ahead.Covers(m) || ahead.Top-x > max(0, p.Cap/100) || p.Burst < 200 && ahead != m {
			t.Fatalf("%+v: %d has the mark %d, of a capacity of %d", l, x, ahead.Top, p.Cap)
		}
		y := x + r.Int64N(max(1, p.Cap/100))
		if stays := ahead == algo.PackedMark(y).Ahead(p); algo.PackedStays(p, x, y) != (stays || algo.Transient(p)) {
			t.Fatalf("%+v: %d and %d: %v", l, x, y, stays)
		}
		if algo.PackedStays(p, x, y) && !algo.Transient(p) && !ahead.Covers(algo.PackedMark(y)) {
			t.Fatalf("%+v: the mark of %d does not cover %d", l, x, y)
		}
	}
}

// What a mark covers in a window is no more than what it says, of the same window.
func TestMarkOfWindows(t *testing.T) {
	const now = 1_700_000_000_000_000
	for _, l := range []headgate.Limit{
		headgate.Window(1000, time.Hour), headgate.Sliding(1000, time.Hour), headgate.Sliding(1000, time.Hour).WithSlices(1),
		headgate.QuotaPer(1000, headgate.Day),
	} {
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		st := make([]int64, algo.Words(p))
		algo.Init(p, st, now)
		var o headgate.Outcome
		take := func(n, at int64) { algo.Apply(&algo.Call{Op: headgate.Take, Now: at, Cost: n}, p, st, &o) }
		take(10, now)
		m := algo.MarkOf(p, st)
		if m.Top != 10 || m.Ahead(p).Top < 14 || m.Ahead(p).Top > 18 {
			t.Errorf("%v: mark %+v, ahead %+v", p.Algorithm, m, m.Ahead(p))
		}
		take(2, now)
		if !m.Ahead(p).Covers(algo.MarkOf(p, st)) || m.Covers(algo.MarkOf(p, st)) {
			t.Errorf("%v: %+v covers %+v: %v", p.Algorithm, m, algo.MarkOf(p, st), m.Covers(algo.MarkOf(p, st)))
		}
		lifted := append([]int64(nil), st...)
		m.Ahead(p).Lift(p, lifted)
		if got := algo.MarkOf(p, lifted); got != m.Ahead(p) {
			t.Errorf("%v: lifted to %+v, not %+v", p.Algorithm, got, m.Ahead(p))
		}
		take(988, now)
		full := algo.MarkOf(p, st).Ahead(p)
		full.Lift(p, st)
		algo.Settled(p, st, now)
		if algo.Apply(&algo.Call{Op: headgate.Peek, Now: now}, p, st, &o); o.Used != 1000 || o.Overage != 0 {
			t.Errorf("%v: settled to %+v", p.Algorithm, o)
		}
		take(1, now+49*3600*1_000_000)
		if m.Ahead(p).Covers(algo.MarkOf(p, st)) {
			t.Errorf("%v: the mark of a window covers a later one", p.Algorithm)
		}
	}
}

// Nothing is left of what was depleted, at that instant; it comes back as it does
// from then on, and no sooner than where everything was charged then.
func TestDeplete(t *testing.T) {
	const now = 1_700_000_000_000_000
	leaky := headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 60, Period: time.Minute, Burst: 30}
	roll := headgate.QuotaPer(50, headgate.Day)
	roll.Rollover = 20
	for _, l := range []headgate.Limit{
		headgate.PerMinute(60), leaky, headgate.Window(50, time.Minute), headgate.Sliding(50, time.Minute), headgate.Sliding(50, time.Minute).WithSlices(1),
		headgate.Log(50, time.Minute), headgate.QuotaPer(50, headgate.Day), roll, headgate.InFlight(50, time.Minute),
	} {
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		for _, used := range []int64{0, 7, 25} {
			st := make([]int64, algo.Words(p)+60)
			algo.Init(p, st, now-1000)
			var o headgate.Outcome
			algo.Apply(&algo.Call{Op: headgate.Take, Now: now - 1000, Cost: used}, p, st, &o)
			st = algo.Deplete(p, st, now)
			algo.Apply(&algo.Call{Op: headgate.Peek, Now: now, Cost: 1}, p, st, &o)
			if o.Allowed || o.Remaining != 0 || o.Overage != 0 || o.RetryAfter <= 0 {
				t.Errorf("%v with %d used: %+v", p.Algorithm, used, o)
			}
			at := algo.AbsentAt(p, st)
			if at <= now {
				t.Errorf("%v: absent at %d", p.Algorithm, at)
			}
			algo.Apply(&algo.Call{Op: headgate.Peek, Now: at, Cost: 1}, p, st, &o)
			if !o.Allowed {
				t.Errorf("%v: not open when it is absent: %+v", p.Algorithm, o)
			}
		}
	}
}

// What was reserved before is not given back to a state that was depleted: it may have
// been settled already, and what it gave back spent.
func TestDepleteOfReservations(t *testing.T) {
	const now = 1_700_000_000_000_000
	leaky := headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 60, Period: time.Hour, Burst: 50}
	for _, l := range []headgate.Limit{
		headgate.PerHour(50), leaky, headgate.Window(50, time.Hour), headgate.Sliding(50, time.Hour), headgate.Sliding(50, time.Hour).WithSlices(1),
		headgate.Log(50, time.Hour), headgate.QuotaPer(50, headgate.Day),
	} {
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		st := make([]int64, algo.Words(p))
		algo.Init(p, st, now-1000)
		take := algo.Call{Op: headgate.Take, Now: now - 1000, Cost: 30, Hold: 7, HoldFor: 60_000_000}
		words := make([]int64, algo.Need(&take, p, st))
		algo.Grow(&take, p, words, st)
		st = words
		var o headgate.Outcome
		if algo.Apply(&take, p, st, &o); !o.Allowed {
			t.Fatalf("%v: %+v", p.Algorithm, o)
		}
		st = algo.Deplete(p, st, now)
		algo.Apply(&algo.Call{Op: headgate.Settle, Now: now, Cost: 0, Hold: 7}, p, st, &o)
		if algo.Apply(&algo.Call{Op: headgate.Peek, Now: now, Cost: 1}, p, st, &o); o.Allowed || o.Remaining != 0 {
			t.Errorf("%v: %+v", p.Algorithm, o)
		}
	}
}

// Transient limits are those that are as never seen ten seconds after they were
// depleted.
func TestTransient(t *testing.T) {
	const now = 1_700_000_000_000_000
	r := rand.New(rand.NewPCG(9, 9))
	some := 0
	for range 50_000 {
		l := headgate.Limit{
			Algorithm: headgate.Algorithm(r.IntN(5)), Count: 1 + r.Int64N(50),
			Period: time.Duration(1+r.Int64N(24)) * time.Second,
		}
		if l.Algorithm == headgate.SlidingWindow {
			l.Slices = []int{1, 2, 5, 10}[r.IntN(4)]
		}
		if l.Algorithm <= headgate.LeakyBucket {
			l.Burst = 1 + r.Int64N(50)
		}
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		st := make([]int64, algo.Words(p))
		at := now + r.Int64N(60_000_000)
		algo.Init(p, st, at)
		st = algo.Deplete(p, st, at)
		recovers := algo.AbsentAt(p, st) <= at+algo.Horizon
		if algo.Transient(p) && !recovers {
			t.Fatalf("%+v: absent %d µs later", l, algo.AbsentAt(p, st)-at)
		}
		if algo.Transient(p) {
			some++
		}
		if bucket := p.Algorithm <= headgate.LeakyBucket; bucket && algo.Transient(p) != recovers {
			t.Fatalf("%+v: recovers %v", l, recovers)
		}
	}
	if some < 1000 {
		t.Errorf("only %d transient limits: nothing was tested", some)
	}
}
