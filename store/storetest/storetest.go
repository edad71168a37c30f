// Package storetest is the suite that every [headgate.Store] passes: named
// rules, a comparison with package algo over random batches, and benchmarks.
package storetest

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// Capabilities declares in what stores differ. The zero value asks least.
type Capabilities struct {
	// ManualClock says that the store decides at Batch.Now where it is not 0, and
	// what an Authority is asked at the latest of these instants. Rules that
	// travel in time need it.
	ManualClock bool
	// Apart says that budgets of several owners may not be decided at one instant.
	// A batch that another one crosses may then be refused though it would have
	// passed alone, and a leaky bucket, which gives nothing back, may keep what such
	// a batch had taken. Limits of the owner that is empty are nobody's own: their
	// refusals need not count towards a ban.
	Apart bool
	// Footprint returns how many keys the store holds and the bytes that they
	// take. nil if the store cannot tell.
	Footprint func(headgate.Store) (keys, bytes int64)
}

// rule is one thing that a store must do.
type rule struct {
	name string
	// why is printed when the rule is broken.
	why string
	// travels says that the rule needs a manual clock.
	travels bool
	check   func(w *world)
}

// Run checks every rule that c allows for, each on a store of its own that open
// returns; whoever opens it closes it with t.Cleanup. A rule may close its
// store before that.
func Run(t *testing.T, open func(t *testing.T) headgate.Store, c Capabilities) {
	run(t, open, c, slices.Concat(ledgerRules(), batchRules(), stateRules(), numberRules(), holdRules(), reservationRules(), keyRules(), banRules(), raceRules()))
}

func run(t *testing.T, open func(t *testing.T) headgate.Store, c Capabilities, rules []rule) {
	for _, r := range rules {
		if r.travels && !c.ManualClock {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			w := &world{T: t, store: open(t), c: c, rand: rand.New(rand.NewPCG(1, 2))}
			if c.ManualClock {
				w.start = time.Now().UTC().Truncate(24 * time.Hour).UnixMicro()
				w.at(0)
			}
			defer func() {
				if t.Failed() {
					t.Logf("the rule: %s", r.why)
				}
			}()
			r.check(w)
		})
	}
}

// world is one store and, if it has a manual clock, the instant it is told.
type world struct {
	*testing.T
	store headgate.Store
	c     Capabilities
	rand  *rand.Rand
	// start is a midnight in UTC, and now the instant of the next batch; both
	// are 0 without a manual clock.
	start, now int64
}

// at sets the instant of the next batches, counted from the start.
func (w *world) at(d time.Duration) { w.now = w.start + d.Microseconds() }

// batch makes a batch of charges.
func (w *world) batch(op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := new(headgate.Batch)
	b.Reset(op)
	b.Now = w.now
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			w.Fatal(err)
		}
	}
	return b
}

// apply has the store decide b.
func (w *world) apply(b *headgate.Batch) *headgate.Batch {
	w.Helper()
	if err := w.store.Apply(w.Context(), b); err != nil {
		w.Fatalf("%v: %v", b.Op, err)
	}
	return b
}

func (w *world) do(op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	return w.apply(w.batch(op, charges...))
}

// held is do with a hold.
func (w *world) held(op headgate.Op, hold uint64, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := w.batch(op, charges...)
	b.Hold = hold
	return w.apply(b)
}

// passes does op and expects it to be allowed.
func (w *world) passes(op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := w.do(op, charges...)
	if !b.Allowed {
		w.Fatalf("%v of %v was refused: %+v", op, describe(charges), b.Outcomes())
	}
	return b
}

// refuses does op and expects it to be refused.
func (w *world) refuses(op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	w.Helper()
	b := w.do(op, charges...)
	if b.Allowed {
		w.Fatalf("%v of %v passed: %+v", op, describe(charges), b.Outcomes())
	}
	return b
}

// used expects the charge's limit to have used n tokens.
func (w *world) used(c headgate.Charge, n int64) {
	w.Helper()
	if o := w.do(headgate.Peek, c).Outcomes()[0]; o.Used != n || o.Remaining != max(0, o.Limit-n) || o.Overage != max(0, n-o.Limit) {
		w.Fatalf("%v: used %d of %d, %d remain, overage %d; want %d used", describe([]headgate.Charge{c}), o.Used, o.Limit, o.Remaining, o.Overage, n)
	}
}

// expect compares outcome i of b with want, whose times count on a manual clock
// only and whose ResetsAt follows from ResetAfter.
func (w *world) expect(b *headgate.Batch, i int, want headgate.Outcome) {
	w.Helper()
	got := b.Outcomes()[i]
	if w.now == 0 {
		got.RetryAfter, got.ResetAfter, got.Delay, got.ResetsAt = 0, 0, 0, 0
		want.RetryAfter, want.ResetAfter, want.Delay, want.ResetsAt = 0, 0, 0, 0
	} else if b.Charges()[i].Limit.Algorithm == headgate.Quota {
		want.ResetsAt = b.At + want.ResetAfter.Microseconds()
	}
	if got != want {
		w.Fatalf("%v of %v at +%v\n got %+v\nwant %+v", b.Op, describe(b.Charges()[i:i+1]), time.Duration(b.At-w.start)*time.Microsecond, got, want)
	}
}

// describe names charges by what matters in a message.
func describe(charges []headgate.Charge) []string {
	names := make([]string, len(charges))
	for i, c := range charges {
		names[i] = c.Limit.Name + " for " + strconv.Quote(c.Owner) + " cost " + strconv.FormatInt(c.Cost, 10)
		if c.Shadow {
			names[i] += " (shadow)"
		}
	}
	return names
}

// ours is a charge of l to the subject that most rules are about.
func ours(l *headgate.Prepared, cost int64) headgate.Charge { return theirs("alice", l, cost) }

func theirs(owner string, l *headgate.Prepared, cost int64) headgate.Charge {
	return headgate.Charge{Limit: l, Owner: owner, Cost: cost}
}

func shadow(c headgate.Charge) headgate.Charge { c.Shadow = true; return c }

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// slow returns a limit of n tokens of which none comes back while a test runs,
// whatever the clock shows.
func slow(t testing.TB, a headgate.Algorithm, name string, n int64) *headgate.Prepared {
	t.Helper()
	l := headgate.Limit{Name: name, Algorithm: a, Count: n, Period: 1000 * time.Hour}
	switch a {
	case headgate.FixedWindow:
		l.Period = headgate.MaxPeriod // ends in 2069
	case headgate.Quota:
		half := time.Now().UTC().AddDate(0, -6, 0)
		l.Period, l.Calendar = 0, headgate.Calendar{Unit: headgate.Year, Anchor: int(half.Month())*100 + min(28, half.Day())}
	case headgate.Concurrency:
		l.Period, l.TTL = 0, 24*time.Hour
	case headgate.Ban:
		l.TTL = 1000 * time.Hour
	}
	return prepare(t, l)
}

// counting lists the algorithms that count what is charged.
var counting = []headgate.Algorithm{
	headgate.TokenBucket, headgate.LeakyBucket, headgate.FixedWindow, headgate.SlidingWindow,
	headgate.SlidingLog, headgate.Quota, headgate.Concurrency,
}
