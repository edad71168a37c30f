package memstore_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

var livesOps = flag.Int("lives", 20_000, "batches of the test that kills stores")

// budget is one that a chain of stores with one journal decides, and a store in
// memory that is never killed and hears of what passed.
type budget struct {
	limits []*headgate.Prepared
	owner  string
	// slack is how many tokens the kills so far may have cost, and emptied says
	// that the limit started empty at the latest of them.
	slack   int64
	emptied bool
	// apart says that a refusal, which the other store has not heard of, may have
	// carried it over to other numbers.
	apart bool
}

func budgets(t *testing.T) []*budget {
	day := func(n int64) headgate.Limit { return headgate.QuotaPer(n, headgate.Day) }
	roll := day(1000)
	roll.Rollover = 500
	all := [][]headgate.Limit{
		{headgate.PerHour(10)},
		{headgate.PerHour(1000).WithBurst(150)},
		{headgate.PerHour(3600).WithBurst(999)},
		{headgate.Per(1_000_000, 24*time.Hour)},
		{headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 100, Period: time.Hour, Burst: 300}},
		{headgate.PerSecond(10).WithBurst(50)}, // transient
		{headgate.Window(40, time.Minute)},
		{headgate.Window(5000, time.Hour)},
		{headgate.Window(30, 5*time.Second)}, // transient
		{headgate.Sliding(300, time.Minute)},
		{headgate.Sliding(5000, time.Hour).WithSlices(1)},
		{headgate.Sliding(50, 6*time.Second)}, // transient
		{headgate.Log(20, time.Minute)},
		{headgate.Log(20, 8*time.Second)}, // transient
		{day(100)}, {day(20_000)}, {roll},
		{headgate.InFlight(5, 20*time.Second)},
		{headgate.PerHour(100), headgate.PerSecond(100), headgate.PerHour(900)}, // plans
		{headgate.Window(500, time.Hour), headgate.Window(300, time.Hour)},
		{headgate.Window(100, 15*time.Second), headgate.Window(100, 10*time.Second)},
		{headgate.Window(300, 10*time.Second), headgate.Window(10, 10*time.Second), headgate.Window(300, time.Hour)},
	}
	var list []*budget
	for i, limits := range all {
		b := &budget{}
		for _, l := range limits {
			p, err := l.WithName(fmt.Sprintf("limit-%d", i)).Prepare()
			if err != nil {
				t.Fatal(err)
			}
			b.limits = append(b.limits, p)
		}
		for _, owner := range []string{"alice", "bob"} {
			c := *b
			c.owner = owner
			list = append(list, &c)
		}
	}
	return list
}

// transient reports whether the limits may start empty after a kill.
func (b *budget) transient() bool {
	l := b.limits[0]
	return len(b.limits) > 1 || l.Algorithm != headgate.Concurrency && l.Algorithm != headgate.Quota &&
		(l.WindowMicros > 0 && l.WindowMicros < 10_000_000 || l.Cap > 0 && l.Cap/l.N <= 10_000_000)
}

// life is one of the chain of stores.
type lives struct {
	t       *testing.T
	r       *rand.Rand
	journal *paper
	store   *memstore.Store
	truth   *memstore.Store
	config  memstore.Config
	list    []*budget
	last    int64
	began   int64
	unclean bool // the store starts after a kill
	log     []string
}

func (v *lives) begin() {
	c := v.config
	c.Journal, c.Secret, c.Past = v.journal, secret, v.journal.past()
	v.store = memstore.New(c)
	v.began = v.store.Now()
}

// kill ends a life without a word.
func (v *lives) kill() {
	v.unclean = true
	old := v.store
	v.journal = v.journal.killed()
	if err := old.Close(); err != nil { // on what nobody sees any more
		v.t.Fatal(err)
	}
	for _, b := range v.list {
		l := b.limits[0]
		b.slack += max(1, max(l.Count, l.Burst)/100)
		b.emptied = b.transient()
	}
}

// stop ends a life in order. Shortly after a kill that is as good as another one for
// what starts empty.
func (v *lives) stop() {
	for _, b := range v.list {
		b.emptied = b.emptied || v.unclean && v.store.Now() < v.began+10_000_000 && b.transient()
	}
	v.unclean = v.unclean && v.store.Now() < v.began+10_000_000
	if err := v.store.Close(); err != nil {
		v.t.Fatal(err)
	}
}

func (v *lives) apply(s *memstore.Store, b *headgate.Batch) {
	if err := s.Apply(v.t.Context(), b); err != nil {
		v.t.Fatalf("%v: %v", b.Op, err)
	}
}

// act does a random operation.
func (v *lives) act(holds *[]uint64) {
	var b, c headgate.Batch
	b.Op = []headgate.Op{headgate.Take, headgate.Take, headgate.Take, headgate.Take, headgate.Take, headgate.Take, headgate.Take,
		headgate.Peek, headgate.Refund, headgate.Debit, headgate.Reset, headgate.Settle, headgate.Release}[v.r.IntN(13)]
	if b.Op == headgate.Reset && v.r.IntN(10) > 0 || b.Op == headgate.Debit && v.r.IntN(4) > 0 {
		b.Op = headgate.Take
	}
	switch {
	case b.Op == headgate.Take && v.r.IntN(5) == 0:
		b.Hold = v.r.Uint64() | 1
		if v.r.IntN(2) == 0 {
			b.HoldFor = 1 + v.r.Int64N(60_000_000)
		}
		*holds = append(*holds, b.Hold)
	case b.Op == headgate.Settle || b.Op == headgate.Release:
		if len(*holds) == 0 {
			return
		}
		b.Hold = (*holds)[v.r.IntN(len(*holds))]
	}
	var asked []*budget
	for range 1 + v.r.IntN(3) {
		x := v.list[v.r.IntN(len(v.list))]
		l := x.limits[v.r.IntN(len(x.limits))]
		if b.Op == headgate.Debit && l.Algorithm == headgate.TokenBucket {
			continue // a kill may forgive a debt of one percent
		}
		asked = append(asked, x)
		cost := v.r.Int64N(4)
		if v.r.IntN(3) == 0 {
			cost = v.r.Int64N(1 + max(l.Burst, l.Count)/50)
		}
		if dup := func() bool {
			for _, o := range b.Charges() {
				if o.Limit.ID == l.ID && o.Owner == x.owner {
					return true
				}
			}
			return false
		}(); dup {
			continue
		}
		ch := headgate.Charge{Limit: l, Owner: x.owner, Cost: cost}
		b.Add(ch)
		c.Add(ch)
	}
	v.apply(v.store, &b)
	if b.At < v.last {
		v.t.Fatalf("at %d: the clock went back from %d", b.At, v.last)
	}
	v.last = b.At
	line := fmt.Appendf(nil, "%v at %d, hold %x for %d:", b.Op, b.At, b.Hold, b.HoldFor)
	for _, x := range b.Charges() {
		line = fmt.Appendf(line, " %s (%d) of %s %d,", x.Limit.Name, x.Limit.Count, x.Owner, x.Cost)
	}
	v.log = append(v.log, fmt.Sprintf("%s %v", line, b.Allowed))
	if !b.Allowed && b.Op != headgate.Settle {
		for _, x := range asked {
			x.apart = x.apart || len(x.limits) > 1
		}
		return
	}
	c.Op, c.Hold, c.HoldFor, c.Now = b.Op, b.Hold, b.HoldFor, b.At
	v.apply(v.truth, &c)
	apart := slices.ContainsFunc(asked, func(x *budget) bool { return x.apart })
	if b.Op == headgate.Take && !c.Allowed && apart {
		c.Op, c.Hold, c.HoldFor = headgate.Debit, 0, 0
		v.apply(v.truth, &c)
	} else if b.Op == headgate.Take && !c.Allowed {
		v.t.Fatalf("admitted too much: %+v\nallowed %+v\nbut by rights %+v", b.Charges(), b.Outcomes(), c.Outcomes())
	}
}

// look returns how a limit stands, and how it should.
func (v *lives) look(x *budget, l *headgate.Prepared) (has, should headgate.Outcome) {
	var b, c headgate.Batch
	b.Op, c.Op = headgate.Peek, headgate.Peek
	b.Add(headgate.Charge{Limit: l, Owner: x.owner})
	c.Add(headgate.Charge{Limit: l, Owner: x.owner})
	v.apply(v.store, &b)
	c.Now = b.At
	v.apply(v.truth, &c)
	return b.Outcomes()[0], c.Outcomes()[0]
}

// compare looks at every budget.
func (v *lives) compare() {
	for _, x := range v.list {
		l := x.limits[0]
		has, should := v.look(x, l)
		full := func(l *headgate.Prepared) bool {
			has, should := v.look(x, l)
			return has.ResetAfter == 0 && should.ResetAfter == 0
		}
		if !slices.ContainsFunc(x.limits, func(l *headgate.Prepared) bool { return !full(l) }) {
			x.slack, x.emptied, x.apart = 0, false, false
		}
		if has.Remaining > should.Remaining && !x.apart {
			v.t.Fatalf("%+v of %s: has %+v, should have %+v", l.Limit, x.owner, has, should)
		}
		if len(x.limits) == 1 && !x.emptied && should.Remaining-has.Remaining > x.slack {
			v.t.Fatalf("%+v of %s: %d forfeited, of %d: has %+v, should have %+v", l.Limit, x.owner, should.Remaining-has.Remaining, x.slack, has, should)
		}
	}
}

// However often a store is killed and stopped, no limit admits more than one that
// lives on, and a kill costs no more than one token or one percent.
func TestLives(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				v := &lives{t: t, r: r, journal: newPaper(), truth: memstore.New(memstore.Config{}), list: budgets(t)}
				defer func() {
					v.store.Close()
					if t.Failed() {
						for _, s := range v.log[max(0, len(v.log)-40):] {
							t.Log(s)
						}
					}
				}()
				v.config.Shards = 1 << r.IntN(4)
				var holds []uint64
				v.begin()
				for range *livesOps / 4 {
					switch n := r.IntN(200); {
					case n == 0:
						v.kill()
						v.log = append(v.log, "killed")
						<-time.After(time.Duration(r.Int64N(int64(3 * time.Second))))
						v.begin()
						v.compare()
					case n == 1:
						v.stop()
						v.log = append(v.log, "stopped")
						v.begin()
						v.compare()
					case n == 2:
						<-time.After(time.Duration(r.Int64N(int64(20 * time.Minute))))
					case n < 40:
						<-time.After(time.Duration(r.Int64N(int64(time.Second))))
					default:
						v.act(&holds)
					}
				}
				v.compare()
				v.stop()
			})
		})
	}
}
