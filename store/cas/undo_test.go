package cas

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/record"
)

// A batch that is refused at its last item leaves the others as they were, to the
// microsecond, whatever the limits: nobody else has decided on them.
func TestUndoneAsIfNever(t *testing.T) {
	for _, a := range append([]headgate.Algorithm{headgate.LeakyBucket, headgate.Quota, headgate.Concurrency}, everything...) {
		for i := range 4 {
			before, reserved := int64(i%2*2), i/2 == 1
			t.Run(fmt.Sprint(a, " after ", before, ", reserved ", reserved), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					table := apartTable()
					s, other := openStore(t, table, false), openStore(t, table, false)
					l := newSpread(t, headgate.FixedWindow, 1, 1, 1)
					own := headgate.Limit{Algorithm: a, Name: "own", Count: 10, Period: time.Minute}
					switch a {
					case headgate.Quota:
						own.Period, own.Calendar.Unit = 0, headgate.Day
					case headgate.Concurrency:
						own.Period, own.TTL = 0, time.Minute
					}
					mine := headgate.Charge{Limit: prepare(t, own), Owner: "alice", Cost: 3}
					wide := headgate.Charge{Limit: l.wide, Cost: 1, Parent: true}
					if before > 0 {
						c := mine
						c.Cost = before
						if b, err := take(t, other, 0, c); err != nil || !b.Allowed {
							t.Fatal(err)
						}
					}
					<-time.After(time.Millisecond)
					peek := func(s *Store) headgate.Outcome {
						b := batchOf(t, headgate.Peek, headgate.Charge{Limit: mine.Limit, Owner: "alice"})
						if err := s.Apply(t.Context(), b); err != nil {
							t.Fatal(err)
						}
						return b.Outcomes()[0]
					}
					was := peek(other)
					refuseOnce(t, table, KeyOf("alice", mine.Limit), func() {
						if b, err := take(t, other, 0, wide); err != nil || !b.Allowed {
							t.Error(err, b.Allowed)
						}
					})
					b := batchOf(t, headgate.Take, wide, mine)
					if reserved {
						b.Hold, b.HoldFor = 7, time.Hour.Microseconds()
					}
					err := s.Apply(t.Context(), b)
					if err != nil || b.Allowed || b.Outcomes()[0].Allowed || !b.Outcomes()[1].Allowed {
						t.Fatalf("%v, %+v", err, b.Outcomes())
					}
					// Of a reservation each item has its name.
					if n := s.Stats().Undone; n != map[bool]int64{false: 1, true: 2}[reserved] {
						t.Errorf("undone %d", n)
					}
					for _, s := range []*Store{s, other} {
						got := peek(s)
						if got != was {
							t.Errorf("\n got %+v\nwant %+v", got, was)
						}
					}
				})
			})
		}
	}
}

// What others have decided meanwhile stands, and what was taken comes back all the
// same: once, and no more than was taken.
func TestUndoneAfterOthers(t *testing.T) {
	for _, a := range append([]headgate.Algorithm{headgate.Concurrency}, everything...) {
		t.Run(a.String(), func(t *testing.T) {
			table := apartTable()
			s, other := openStore(t, table, false), openStore(t, table, false)
			l := newSpread(t, headgate.FixedWindow, 1, 1, 1)
			own := headgate.Limit{Algorithm: a, Name: "own", Count: 10, Period: headgate.MaxPeriod}
			if a == headgate.Concurrency {
				own.Period, own.TTL = 0, time.Hour
			}
			mine := headgate.Charge{Limit: prepare(t, own), Owner: "alice", Cost: 3}
			wide := headgate.Charge{Limit: l.wide, Cost: 1, Parent: true}
			refuseOnce(t, table, KeyOf("", l.wide), func() { // the own item is taken by now
				for _, c := range []headgate.Charge{wide, {Limit: mine.Limit, Owner: "alice", Cost: 5}} {
					if b, err := take(t, other, 0, c); err != nil || !b.Allowed {
						t.Error(err, b.Allowed)
					}
				}
			})
			if b, err := take(t, s, 0, wide, mine); err != nil || b.Allowed {
				t.Fatal(err, b.Allowed)
			}
			for _, s := range []*Store{s, other} {
				if n := used(t, s, "alice", mine.Limit); n != 5 {
					t.Errorf("%d are used, want 5", n)
				}
			}
			if b, err := take(t, other, 0, headgate.Charge{Limit: mine.Limit, Owner: "alice", Cost: 5}); err != nil || !b.Allowed {
				t.Error(err, b.Allowed)
			}
			if b, err := take(t, other, 0, headgate.Charge{Limit: mine.Limit, Owner: "alice", Cost: 1}); err != nil || b.Allowed {
				t.Error(err, b.Allowed)
			}
		})
	}
}

// 2.2: what is given back of a bucket is not more than a bucket has room for that
// was refilled meanwhile.
func TestUndoneBucketHasNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := apartTable()
		s, other := openStore(t, table, false), openStore(t, table, false)
		l := newSpread(t, headgate.FixedWindow, 1, 1, 1)
		bucket := prepare(t, headgate.PerSecond(10).WithBurst(100))
		mine := headgate.Charge{Limit: bucket, Owner: "alice", Cost: 10}
		wide := headgate.Charge{Limit: l.wide, Cost: 1, Parent: true}
		passed := int64(0)
		spend := func(most int64) {
			for n := most; n > 0; n /= 2 {
				for {
					b, err := take(t, other, 0, headgate.Charge{Limit: bucket, Owner: "alice", Cost: n})
					if err != nil {
						t.Error(err)
					}
					if !b.Allowed {
						break
					}
					passed += n
				}
			}
		}
		refuseOnce(t, table, KeyOf("", l.wide), func() {
			if b, err := take(t, other, 0, wide); err != nil || !b.Allowed {
				t.Error(err, b.Allowed)
			}
			<-time.After(time.Second / 2) // it would refill to the brim, were it not for the trial
			spend(64)
		})
		if b, err := take(t, s, 0, wide, mine); err != nil || b.Allowed {
			t.Fatal(err, b.Allowed)
		}
		spend(64)
		if passed < 100 || passed > 105 {
			t.Errorf("%d passed within half a second, of 100 and 10/s", passed)
		}
	})
}

// 2.1: what was taken before midnight and is undone after it is not given back to the
// new day; nor to another epoch.
func TestN21GivenBackToItsOwnPeriod(t *testing.T) {
	table := apartTable()
	s := openStore(t, table, true)
	l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
	l.own = prepare(t, headgate.QuotaPer(10, headgate.Day).WithName("daily"))
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(48 * time.Hour).UnixMicro()
	daily := headgate.Charge{Limit: l.own, Owner: "alice", Cost: 1}
	wide := KeyOf("", l.wide)
	var once atomic.Bool
	table.meddleWith(func(changes []Change) func() error {
		if !takes(changes, wide) || once.Swap(true) {
			return nil
		}
		b := batchOf(t, headgate.Take, daily)
		b.Now = midnight + 1
		if err := s.Apply(t.Context(), b); err != nil || !b.Allowed || b.Outcomes()[0].Used != 1 {
			t.Errorf("%v, %+v", err, b.Outcomes()[0])
		}
		return func() error { return &Failure{Kind: "server", Err: errors.New("broken")} }
	})
	b := batchOf(t, headgate.Take, l.charges("alice")...)
	b.Now = midnight - 1
	if err := s.Apply(t.Context(), b); err == nil {
		t.Fatal("decided")
	}
	if n := used(t, s, "alice", l.own); n != 1 {
		t.Errorf("%d of the new day are used, want 1", n)
	}
}

func TestNotGivenBackToAnotherEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := apartTable()
		s := openStore(t, table, false)
		l := newSpread(t, headgate.TokenBucket, 10, 10, 10)
		wide := KeyOf("", l.wide)
		var once atomic.Bool
		table.meddleWith(func(changes []Change) func() error {
			if !takes(changes, wide) || once.Swap(true) {
				return nil
			}
			table.mu.Lock()
			defer table.mu.Unlock()
			table.epoch = headgate.Epoch{ID: 2, Since: time.Now().UnixMicro()}
			return nil
		})
		if b, err := take(t, s, 0, l.charges("alice")...); err != nil || b.Allowed {
			t.Fatal(err, b.Allowed)
		}
		if n := used(t, s, "alice", l.own); n != 10 {
			t.Errorf("%d of 10 are used after the server began anew", n)
		}
	})
}

// 2.1: what was taken is given back when a later item cannot be written, or nobody
// knows.
func TestN21LaterItemFails(t *testing.T) {
	for name, done := range map[string]bool{"refuses": false, "breaks": true} {
		t.Run(name, func(t *testing.T) {
			table := apartTable()
			s := openStore(t, table, false)
			l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
			wide := KeyOf("", l.wide)
			fail := &Failure{Kind: "server", Unsent: !done, Err: errors.New("no")}
			table.meddleWith(func(changes []Change) func() error {
				if !takes(changes, wide) {
					return nil
				}
				if !done {
					for i := range changes {
						changes[i].Items[0].Old.Version++ // so that it is not made
					}
				}
				return func() error { return fail }
			})
			if b, err := take(t, s, 0, l.charges("alice")...); err == nil {
				t.Fatalf("decided: %v", b.Allowed)
			}
			table.meddleWith(nil)
			for owner, limit := range map[string]*headgate.Prepared{"alice": l.own, "org": l.org} {
				if n := used(t, s, owner, limit); n != 0 {
					t.Errorf("%q has used %d", owner, n)
				}
			}
		})
	}
}

// reserveAll makes as many reservations of cost as there may be of a budget, and returns
// what they have charged.
func reserveAll(t *testing.T, table *memTable, c headgate.Charge) (charged int64) {
	t.Helper()
	m := table.moment()
	var b algo.Budget
	b.Load(c.Limit, m.Now, m.Epoch)
	call := algo.Call{Op: headgate.Take, Now: m.Now, Cost: c.Cost, Hold: 1, HoldFor: time.Hour.Microseconds()}
	for ; b.Apply(&call, m.Epoch, new(headgate.Outcome)); call.Hold++ {
		charged += c.Cost
	}
	owner := record.Owner{Budgets: []record.Budget{{ID: c.Limit.ID, Budget: b}}}
	k := KeyOf(c.Owner, c.Limit)
	table.items[k] = Item{Key: k, Version: 1, Value: owner.Append(nil, m.Now), Expires: owner.Absent(), At: m.Now}
	return charged
}

// What nobody knows to be charged is not taken from others, where nothing tells theirs
// from it: of a leaky bucket, and of a budget that has no room for another hold, other
// nodes have made the same at the same instant.
func TestUnknownIsNotUndone(t *testing.T) {
	for _, a := range []headgate.Algorithm{headgate.LeakyBucket, headgate.FixedWindow} {
		t.Run(a.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := apartTable()
				s, other := openStore(t, table, false), openStore(t, table, false)
				l := headgate.Limit{Algorithm: a, Name: "own", Count: 1, Period: time.Hour, Burst: 20_000}
				if a == headgate.FixedWindow {
					l = year(1 << 20)
				}
				own := headgate.Charge{Limit: prepare(t, l), Owner: "alice", Cost: 1}
				wide := headgate.Charge{Limit: prepare(t, year(10).WithName("wide")), Cost: 1, Parent: true}
				charged := int64(0)
				if a != headgate.LeakyBucket {
					charged = reserveAll(t, table, own)
				}
				var once atomic.Bool
				table.meddleWith(func(changes []Change) func() error {
					if !takes(changes, KeyOf("alice", own.Limit)) || once.Swap(true) {
						return nil
					}
					if b, err := take(t, other, 0, own); err != nil || !b.Allowed {
						t.Error(err, b.Allowed)
					}
					charged++
					changes[0].Items[0].Old.Version++ // so that it is not made
					return func() error { return &Failure{Kind: "connection", Passing: true, Err: errors.New("reset by peer")} }
				})
				if _, err := take(t, s, 0, own, wide); kindOf(err) != "unknown" {
					t.Error(err)
				}
				if n := used(t, s, "alice", own.Limit); n != charged || s.Stats().Undone != 1 {
					t.Errorf("%d are used, and others were told that %d are", n, charged)
				}
			})
		})
	}
}

// What is known to be charged is given back where the key is another request's: a leaky
// bucket, too, that nobody else has decided on.
func TestUndoneOfAnotherRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := apartTable()
		s, other := openStore(t, table, false), openStore(t, table, false)
		l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
		leaky := prepare(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Name: "leaky", Count: 10, Period: time.Hour})
		ask := func(s *Store, print uint64, charges ...headgate.Charge) error {
			b := batchOf(t, headgate.Take, append(charges, headgate.Charge{Limit: l.wide, Cost: 1, Parent: true}, headgate.Charge{Limit: l.once, Owner: "alice", Parent: true})...)
			b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{5, 5}, Print: print}, print
			return s.Apply(t.Context(), b)
		}
		refuseOnce(t, table, KeyOf("", l.wide), func() { // the bucket is taken by now
			if err := ask(other, 2); err != nil {
				t.Error(err)
			}
		})
		if err := ask(s, 1, headgate.Charge{Limit: leaky, Owner: "alice", Cost: 3}); headgate.CodeOf(err) != headgate.Conflict {
			t.Error(err)
		}
		if n := used(t, s, "alice", leaky); n != 0 {
			t.Errorf("%d are used", n)
		}
	})
}

// node is a table as one node sees it: by its clock, and through its connection.
type node struct {
	*memTable
	ahead time.Duration
	fault func() (before, after error)
}

func (n *node) over(do func() (Moment, error)) (Moment, error) {
	before, after := n.fault()
	if before != nil {
		return Moment{}, before
	}
	m, err := do()
	m.Now += n.ahead.Microseconds()
	if after != nil {
		return Moment{}, after
	}
	return m, err
}

func (n *node) Read(ctx context.Context, items []Item) (Moment, error) {
	return n.over(func() (Moment, error) { return n.memTable.Read(ctx, items) })
}

func (n *node) Swap(ctx context.Context, epoch uint64, changes []Change) (Moment, error) {
	return n.over(func() (Moment, error) { return n.memTable.Swap(ctx, epoch, changes) })
}

// Whatever is lost between nodes and their table, whose clocks differ, what callers were
// told to be charged is.
func TestWhatWasToldIsCharged(t *testing.T) {
	for round := range max(1, *casOps/100) {
		a := []headgate.Algorithm{headgate.LeakyBucket, headgate.TokenBucket, headgate.Quota, headgate.SlidingLog}[round%4]
		onTables(t, func(t *testing.T, table *memTable) {
			synctest.Test(t, func(t *testing.T) { whatWasTold(t, table, a, rand.New(rand.NewPCG(*casSeed, uint64(round)))) })
		})
	}
}

func whatWasTold(t *testing.T, table *memTable, a headgate.Algorithm, rng *rand.Rand) {
	var mu sync.Mutex
	odd := func(of int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(of)
	}
	lost := func(unsent, passing bool) error {
		return &Failure{Kind: "connection", Unsent: unsent, Passing: passing, Err: errors.New("reset by peer")}
	}
	fault := func() (before, after error) {
		<-time.After(time.Duration(odd(1000)) * time.Microsecond)
		switch p := odd(100); {
		case p < 6:
			return lost(false, true), nil
		case p < 12:
			return nil, lost(false, true)
		case p < 15:
			return lost(true, true), nil
		case p < 16:
			return lost(true, false), nil
		case p < 17:
			return nil, lost(false, false)
		}
		return nil, nil
	}
	of := func(name string, n int64) *headgate.Prepared {
		l := headgate.Limit{Algorithm: a, Name: name, Count: n, Period: headgate.MaxPeriod}
		switch a {
		case headgate.LeakyBucket, headgate.TokenBucket:
			l.Count, l.Period, l.Burst = 1, 24*time.Hour, n
		case headgate.Quota:
			l.Period, l.Calendar.Unit = 0, headgate.Year
		}
		return prepare(t, l)
	}
	own, org, wide := of("own", 30), of("org", 60), of("wide", 1000)
	once := prepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Name: "once", Count: 64, TTL: time.Hour})
	var told [2]struct{ own, org, wide atomic.Int64 }
	var nodes []*Store
	var wait sync.WaitGroup
	for i := range 4 {
		nodes = append(nodes, New(Config{Table: &node{table, time.Duration(i/3) * 200 * time.Millisecond, fault}, Apart: table.apart}))
	}
	for w := range 12 {
		wait.Go(func() {
			for i := range 15 {
				who, kind := odd(len(told)), odd(4)
				charges := []headgate.Charge{
					{Limit: own, Owner: fmt.Sprint("owner ", who), Cost: 1},
					{Limit: org, Owner: "org", Cost: 1, Parent: true},
					{Limit: wide, Cost: 1, Parent: true},
					{Limit: once, Owner: fmt.Sprint("owner ", who), Parent: true},
				}
				b := batchOf(t, headgate.Take, charges[:kind+1]...)
				if kind == 3 {
					b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{uint64(w), uint64(i)}, Print: 1}, uint64(16*w+i+1)
				}
				if odd(3) == 0 {
					b.Patience = 1 + int64(odd(2000))
				}
				if nodes[w%len(nodes)].Apply(t.Context(), b) == nil && b.Allowed {
					n := &told[who]
					for i, x := range []*atomic.Int64{&n.own, &n.org, &n.wide} {
						if i <= kind {
							x.Add(1)
						}
					}
				}
			}
		})
	}
	wait.Wait()
	for _, s := range nodes {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s := openStore(t, table, false)
	check := func(owner string, l *headgate.Prepared, told int64) {
		t.Helper()
		most := max(l.Count, l.Burst)
		if n := used(t, s, owner, l); n < told || n > most || told == 0 {
			t.Errorf("%v: of %s %q has used %d of %d, and was told of %d", a, l.Name, owner, n, most, told)
		}
	}
	for i := range told {
		check(fmt.Sprint("owner ", i), own, told[i].own.Load())
	}
	check("org", org, told[0].org.Load()+told[1].org.Load())
	check("", wide, told[0].wide.Load()+told[1].wide.Load())
}
