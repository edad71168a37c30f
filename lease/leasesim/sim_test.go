package leasesim

import (
	"flag"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
)

var (
	simSchedules = flag.Int("sim.schedules", 0, "schedules of the simulation; 0 is 10,000, a tenth of it under the race detector")
	simSeed      = flag.Uint64("sim.seed", 0, "run this schedule alone, and print all of it")
	simOff       = flag.Uint64("sim.off", 0, "features that the schedule of sim.seed does without, as bits")
	simBase      = flag.Uint64("sim.base", 1, "first seed of the simulation")
)

// coverage counts what happened.
type coverage struct {
	Schedules, Local, Direct, Denied, Reserved, Settled          int64
	Reports, Grants, Granted, Returns, Returned, Late, Void      int64
	Stale, Unknown, Redelivered                                  int64
	Failovers, Lossy, Wipes, Handshakes, Steps                   int64
	Crashes, Stops, Pauses, Cuts, Reloads, Resets, Lost, Repeats int64
	Excused, MostExcused                                         int64
	use                                                          float64 // sum over schedules of how much of its bound the tightest budget used
	uses                                                         int64
}

func (c *coverage) reply(r *headgate.LeaseRequest, p *headgate.LeaseReply) {
	c.Reports++
	switch {
	case p.Status == headgate.LeaseStale:
		c.Stale++
	case p.Status == headgate.LeaseUnknownHolder:
		c.Unknown++
	case p.Granted > r.Granted && r.Want == 0:
		c.Redelivered++
	}
}

func (c *coverage) add(o *coverage) {
	to, from := reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem()
	for i := range to.NumField() {
		f := to.Type().Field(i)
		switch {
		case f.Name == "MostExcused":
			c.MostExcused = max(c.MostExcused, o.MostExcused)
		case f.IsExported():
			to.Field(i).SetInt(to.Field(i).Int() + from.Field(i).Int())
		}
	}
	c.use += o.use
	c.uses += o.uses
}

func (c *coverage) String() string {
	var b strings.Builder
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() {
			fmt.Fprintf(&b, "%s %d, ", strings.ToLower(f.Name), v.Field(i).Int())
		}
	}
	fmt.Fprintf(&b, "%.1f %% of the bound used", 100*c.use/float64(max(1, c.uses)))
	return b.String()
}

// used notes how much of the bound the schedule's tightest budget used.
func (w *world) used() {
	most := -1.0
	for _, b := range w.budgets {
		if !b.limit.Soft {
			most = max(most, float64(b.admitted)/float64(b.bound))
		}
	}
	if most >= 0 {
		w.count.use += most
		w.count.uses++
	}
}

// simulate runs the schedules of n seeds on all processors, until one fails.
func simulate(from uint64, n int, f force, m *mutant) (total coverage, failed []uint64) {
	var next atomic.Uint64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			w := new(world)
			for {
				i := next.Add(1) - 1
				if i >= uint64(n) {
					break
				}
				if w.run(newPlan(from+i, f, m)) != nil {
					next.Store(uint64(n))
					mu.Lock()
					failed = append(failed, from+i)
					mu.Unlock()
				}
			}
			mu.Lock()
			total.add(&w.count)
			mu.Unlock()
		})
	}
	group.Wait()
	return total, failed
}

// explain runs a failed schedule again with as few features as still fail, and
// returns what happened last.
func explain(seed uint64, f force, m *mutant) string {
	w := new(world)
	p := newPlan(seed, f, m)
	err := w.run(p)
	for i := range featureNames {
		less := f
		less.off |= 1 << i
		less.on &^= 1 << i
		if q := newPlan(seed, less, m); p.has(1 << i) {
			if e := w.run(q); e != nil {
				f, p, err = less, q, e
			}
		}
	}
	var lines []string
	w = &world{traced: func(line string) { lines = append(lines, line) }}
	_ = w.run(p)
	return fmt.Sprintf("seed %d: %v\nwith %v (-sim.seed=%d -sim.off=%d)\n%s\n... %s", seed, err, p.features, seed, f.off, p.describe(), strings.Join(lines[max(0, len(lines)-60):], "\n"))
}

func (p *plan) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "terms %+v, %d nodes, %d stores, span %d, hop %d\n", p.terms, p.nodes, p.partitions, p.span, p.hop)
	for i, versions := range p.limits {
		for _, l := range versions {
			fmt.Fprintf(&b, "budget %d at store %d: %v count %d period %v burst %d slices %d rollover %d, costs to %d\n", i, p.place[i], l.Algorithm, l.Count, l.Period, l.Burst, l.Slices, l.Rollover, p.costs[i])
		}
	}
	return b.String()
}

// fewer is a tenth of n schedules under the race detector, all of them without.
func fewer(n int) int {
	if racetest.Enabled {
		return n / 10
	}
	return n
}

// TestSimulation runs random schedules and finds no violation.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		w := &world{traced: func(line string) { t.Log(line) }}
		p := newPlan(*simSeed, force{off: features(*simOff)}, nil)
		t.Log(p.describe(), p.features)
		if err := w.run(p); err != nil {
			t.Fatal(err)
		}
		return
	}
	n := *simSchedules
	if n == 0 {
		n = fewer(10_000)
	}
	begun := time.Now()
	got, failed := simulate(*simBase, n, force{}, nil)
	for _, seed := range failed {
		t.Error(explain(seed, force{}, nil))
	}
	t.Logf("%.0f schedules/s: %v", float64(n)/time.Since(begun).Seconds(), &got)
	got.reaches(t)
}

// reaches reports what never happened.
func (c *coverage) reaches(t *testing.T) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() && v.Field(i).Int() == 0 {
			t.Errorf("no %s in all schedules", strings.ToLower(f.Name))
		}
	}
}

// TestSimulationIsStrong holds the load to using up what may be used: a weak one
// would not notice what is admitted too much.
func TestSimulationIsStrong(t *testing.T) {
	got, failed := simulate(1, fewer(1000), force{on: directs, off: ^directs}, nil)
	if len(failed) > 0 {
		t.Fatal(explain(failed[0], force{on: directs, off: ^directs}, nil))
	}
	if use := got.use / float64(got.uses); use < 0.8 {
		t.Errorf("%.1f %% of the bound used, want 80", 100*use)
	}
}

// within is how many schedules a broken rule may go unnoticed.
const within = 3000

// TestSimulationCatches breaks one rule after the other.
func TestSimulationCatches(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			_, failed := simulate(1, within, m.force, m)
			if len(failed) == 0 {
				t.Fatalf("nothing was noticed in %d schedules", within)
			}
			w := new(world)
			t.Logf("seed %d: %v", failed[0], w.run(newPlan(failed[0], m.force, m)))
		})
	}
}
