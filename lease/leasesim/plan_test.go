package leasesim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// features are what may happen in a schedule beside plain load on one healthy
// store.
type features uint32

const (
	loss      features = 1 << iota // messages are lost
	repeats                        // messages come twice, the second up to four lease lives late
	slow                           // messages take longer than leases live
	cuts                           // processes are cut off
	crashes                        // processes die and forget
	stops                          // processes return everything and restart
	pauses                         // processes stand still
	failovers                      // stores become another incarnation
	losses                         // failovers lose what was written last
	wipes                          // stores lose everything, the mark too
	amnesia                        // after a wipe comes first who remembers nothing
	clocks                         // stores' clocks step, processes' drift
	numbers                        // limits get other numbers
	resets                         // operators reset budgets
	reserves                       // reservations beside leases
	directs                        // takes at the store beside leases
	several                        // requests charge several limits
)

var featureNames = [...]string{
	"loss", "repeats", "slow", "cuts", "crashes", "stops", "pauses", "failovers", "losses", "wipes", "amnesia",
	"clocks", "numbers", "resets", "reserves", "directs", "several",
}

func (f features) String() string {
	var names []string
	for i, n := range featureNames {
		if f&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, " ")
}

func (p *plan) has(f features) bool { return p.features&f != 0 }

// plan is what follows from a seed before anything happens.
type plan struct {
	seed     uint64
	features features
	mutant   *mutant // what is broken; nil is nothing

	start, span int64
	terms       algo.Terms
	nodes       int
	partitions  int
	hop         int64 // usual time of one way of a message, microseconds
	lossy       float64
	often       bool
	asks        float64 // how often a store decides what leases do not, 0 to 1

	limits [][]*headgate.Prepared // by budget, the numbers that it has in turn
	place  []int                  // by budget, its partition
	costs  []int64                // by budget, the largest cost of one request
	gap    float64                // microseconds between requests that use all there is
}

// force is what every schedule of a run must and must not have.
type force struct {
	on, off features
	kind    headgate.Algorithm // of every budget, if only
	only    bool
	often   bool    // failovers and reservations are many
	refill  float64 // lives of a lease in which buckets refill; 0 is any
}

// newPlan draws the plan of a seed.
func newPlan(seed uint64, f force, m *mutant) plan {
	r := stream(seed, 0)
	p := plan{seed: seed, mutant: m, often: f.often}
	for i := range featureNames {
		likely := 0.35
		switch features(1 << i) {
		case directs:
			likely = 0.95
		case wipes, amnesia, clocks:
			likely = 0.2
		}
		if chance(r, likely) {
			p.features |= 1 << i
		}
	}
	p.features = p.features&^f.off | f.on
	ttl := pick[int64](r, 2_000, 20_000, 200_000, 1_000_000)
	p.terms = algo.Terms{
		TTL: ttl, Grace: ttl / pick[int64](r, 2, 10), Least: 2,
		Floor: pick[int64](r, 10, 100, 1_000_000), PerHolder: r.Int64N(6), Out: pick[int64](r, 1, 2, 5),
		Holders: pick(r, 2, 1024),
	}
	p.span = ttl * between(r, 8, 24)
	p.nodes = 1 + r.IntN(4)
	p.hop = max(10, ttl/pick[int64](r, 500, 50, 10))
	p.lossy, p.asks = pick(r, 0.02, 0.1, 0.3), pick(r, 0.2, 1, 1)
	p.start = 1_700_000_000_000_000 - 1_700_000_000_000_000%time.Hour.Microseconds() - p.span/8 - r.Int64N(p.span/2)
	p.partitions = pick(r, 1, 1, 2)
	budgets := pick(r, 1, 1, 2, 3)
	if !p.has(several) {
		budgets = min(budgets, 2)
	}
	p.gap = 0
	for i := range budgets {
		p.place = append(p.place, r.IntN(p.partitions))
		kind := pick(r, headgate.TokenBucket, headgate.TokenBucket, headgate.TokenBucket, headgate.FixedWindow, headgate.SlidingWindow, headgate.Quota)
		if f.only {
			kind = f.kind
		}
		p.draw(r, i, kind, f.refill)
	}
	if !p.has(several) {
		p.gap /= float64(budgets)
	}
	return p
}

// draw adds a budget.
func (p *plan) draw(r *rand.Rand, i int, kind headgate.Algorithm, refill float64) {
	size := pick[int64](r, 60, 200, 1000)
	l := headgate.Limit{Scope: "sim", Name: fmt.Sprint("budget-", i), Algorithm: kind, Count: size}
	ttl, span := float64(p.terms.TTL), float64(p.span)
	all := float64(size) // what may be admitted in the span
	switch kind {
	case headgate.TokenBucket:
		period := int64(ttl * cmp.Or(refill, pick(r, 0.3, 1, 3, 8)))
		l.Period, l.Burst = time.Duration(period)*time.Microsecond, size
		l.Count = between(r, size/2, size)
		all += float64(l.Count) * span / float64(period)
	case headgate.FixedWindow:
		w := int64(ttl * pick(r, 0.7, 1.5, 4, 9))
		l.Period = time.Duration(w) * time.Microsecond
		all *= 1 + span/float64(w)
	case headgate.SlidingWindow:
		l.Slices = 2 + r.IntN(5)
		slice := int64(ttl * pick(r, 0.4, 1, 2.5))
		l.Period = time.Duration(slice*int64(l.Slices)) * time.Microsecond
		all *= 1 + span/float64(slice*int64(l.Slices+1))
	case headgate.Quota:
		l.Calendar.Unit = headgate.Hour
		l.Rollover, l.Soft = pick(r, 0, size/3), r.IntN(8) == 0
		all *= 2
	}
	versions := 1
	if p.has(numbers) {
		versions = 2 + r.IntN(2)
	}
	var out []*headgate.Prepared
	for v := range versions {
		x := l
		if v > 0 {
			x.Count = max(20, int64(float64(l.Count)*pick(r, 0.4, 0.7, 1.5, 2)))
			if kind == headgate.TokenBucket {
				x.Burst = max(20, int64(float64(l.Burst)*pick(r, 0.4, 1, 2)))
			}
		}
		out = append(out, must(x.Prepare()))
	}
	p.limits = append(p.limits, out)
	// Some 300 requests use it all up.
	cost := max(1, int64(all/300*2))
	p.costs = append(p.costs, min(cost, size/6))
	p.gap = max(p.gap, span/all*float64(1+p.costs[i])/2)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// schedule puts what will happen into the queue.
func (w *world) schedule() {
	r := w.fault
	ttl, end := w.terms.TTL, w.start+w.span
	at := func() int64 { return between(r, w.start+w.span/20, end) }
	times := func(f features, most int) int {
		n := 1 + r.IntN(most)
		if !w.has(f) {
			n = 0
		}
		return n
	}
	w.push(event{at: w.start, kind: phase})
	for range times(crashes, 3) {
		w.push(event{at: at(), kind: crash, who: r.IntN(w.nodes)})
	}
	for range times(stops, 3) {
		w.push(event{at: at(), kind: stop, who: r.IntN(w.nodes)})
	}
	for range times(pauses, 5) {
		w.push(event{at: at(), kind: pause, who: r.IntN(w.nodes), n: between(r, ttl/10, ttl*pick[int64](r, 1, 2, 4))})
	}
	for range times(cuts, 3) {
		w.push(event{at: at(), kind: cut, who: r.IntN(w.nodes), n: between(r, ttl/10, 3*ttl)})
	}
	for range times(resets, 2) {
		w.push(event{at: at(), kind: reset, who: r.IntN(len(w.limits))})
	}
	many := 2
	if w.often {
		many = 8
	}
	for i := range times(failovers, many) {
		t, part := at(), r.IntN(w.partitions)
		lost := between(r, 0, ttl*pick[int64](r, 1, 1, 3))
		if w.has(losses) {
			w.push(event{at: max(w.start, t-lost), kind: snapshot, who: part, n: int64(i)})
		}
		w.push(event{at: t, kind: failover, who: part, n: int64(i)})
	}
	for range times(wipes, 1) {
		w.push(event{at: at(), kind: wipe, who: r.IntN(w.partitions)})
	}
	for range times(clocks, 3) {
		n := between(r, ttl/10, ttl*pick[int64](r, 1, 6))
		if chance(r, 0.1) {
			n = 30 * time.Minute.Microseconds()
		}
		w.push(event{at: at(), kind: step, who: r.IntN(w.partitions), n: n * pick[int64](r, 1, -1)})
	}
	if w.has(numbers) {
		for i, versions := range w.limits {
			for range versions[1:] {
				t, lag := at(), between(r, 0, pick(r, 0, ttl, 4*ttl))
				for who := range w.procs {
					w.push(event{at: t + between(r, 0, lag), kind: reload, who: who, n: int64(i)})
				}
			}
		}
	}
}

// nextPhase changes the load: how much of it there is, and who has it.
func (w *world) nextPhase() {
	r := w.load
	intensity := pick(r, 0.1, 2, 4, 4, 8)
	for _, p := range w.procs {
		p.share = intensity / float64(w.nodes) * pick(r, 0.05, 1, 1, 2)
		p.phase++
		p.load()
	}
	most := w.span / 3
	if intensity < 1 {
		most = w.span / 12
	}
	if chance(r, 0.4) { // and all come at once
		for i := range w.procs {
			w.push(event{at: w.now, kind: again, who: i, n: r.Int64N(60) / int64(w.nodes)})
		}
	}
	w.push(event{at: w.now + between(r, w.span/40, most), kind: phase})
}
