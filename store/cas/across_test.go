package cas

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

func apartTable() *memTable {
	t := newMemTable()
	t.apart = true
	return t
}

// spread is what a request of a subject charges that stands in several items:
// limits of its own, of its organisation and of everybody.
type spread struct {
	own, org, wide, ban, once *headgate.Prepared
}

func newSpread(t testing.TB, a headgate.Algorithm, own, org, wide int64) spread {
	lasting := func(name string, n int64) *headgate.Prepared {
		return prepare(t, headgate.Limit{Algorithm: a, Name: name, Count: n, Period: headgate.MaxPeriod})
	}
	return spread{
		own: lasting("own", own), org: lasting("org", org), wide: lasting("wide", wide),
		ban:  prepare(t, headgate.Limit{Algorithm: headgate.Ban, Name: "ban", Count: 3, Period: time.Hour, TTL: time.Hour}),
		once: prepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Name: "once", Count: 64, TTL: time.Hour}),
	}
}

// charges lists the charges of a subject.
func (l *spread) charges(subject string) []headgate.Charge {
	return []headgate.Charge{
		{Limit: l.wide, Cost: 1, Parent: true},
		{Limit: l.ban, Owner: subject},
		{Limit: l.own, Owner: subject, Cost: 1},
		{Limit: l.org, Owner: "org", Cost: 1, Parent: true},
	}
}

func batchOf(t testing.TB, op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(op)
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// takes reports whether the changes write the item of a limit in such a way that
// more of it is used.
func takes(changes []Change, k Key) bool {
	return slices.ContainsFunc(changes, func(x Change) bool {
		return len(x.Items) == 1 && x.Items[0].Write && x.Items[0].Old.Key == k
	})
}

// refuseOnce has somebody else take all of the wide limit between the look and the
// take of a batch: when the item of the first is written.
func refuseOnce(t *testing.T, table *memTable, at Key, do func()) {
	var once atomic.Bool
	table.meddleWith(func(changes []Change) func() error {
		if takes(changes, at) && !once.Swap(true) {
			do()
		}
		return nil
	})
}

// 2.1: R1 wants A and B, and B has none: R2, which wants A only, must not be
// refused because of that.
func TestN21DenialByParentParksNothing(t *testing.T) {
	table := apartTable()
	s, other := openStore(t, table, false), openStore(t, table, false)
	l := newSpread(t, headgate.FixedWindow, 300, 1000, 1)
	if b, err := take(t, s, 0, l.charges("bob")...); err != nil || !b.Allowed {
		t.Fatalf("%v, allowed %v", err, b.Allowed)
	}
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if b, err := take(t, s, 0, l.charges("alice")...); err != nil || b.Allowed {
					t.Errorf("R1: %v, allowed %v", err, b.Allowed)
					return
				}
			}
		})
	}
	for i := range 300 {
		b, err := take(t, other, 0, headgate.Charge{Limit: l.own, Owner: "alice", Cost: 1})
		if err != nil || !b.Allowed {
			t.Fatalf("R2 number %d: %v, allowed %v", i, err, b.Allowed)
		}
	}
	close(stop)
	wait.Wait()
	if n := used(t, s, "org", l.org); n != 1 {
		t.Errorf("the organisation has used %d, want 1", n)
	}
}

// everything lists the algorithms that give back what was taken.
var everything = []headgate.Algorithm{headgate.TokenBucket, headgate.FixedWindow, headgate.SlidingWindow, headgate.SlidingLog}

// Of many subjects that race on several nodes for what is left of a shared limit
// exactly as many pass, and who is refused is charged nowhere.
func TestN21RaceForSharedLimit(t *testing.T) {
	undone := int64(0)
	for _, a := range everything {
		table := apartTable()
		var nodes []*Store
		for range 4 {
			nodes = append(nodes, openStore(t, table, false))
		}
		const racers, left = 64, 20
		l := newSpread(t, a, 5, 1000, left)
		subject := func(i int) string { return fmt.Sprint("subject ", i) }
		table.meddleWith(func([]Change) func() error { runtime.Gosched(); return nil })
		var passed atomic.Int64
		var took [racers]bool
		var wait sync.WaitGroup
		for i := range racers {
			wait.Go(func() {
				b, err := take(t, nodes[i%len(nodes)], 0, l.charges(subject(i))...)
				if err != nil {
					t.Error(err)
					return
				}
				if took[i] = b.Allowed; b.Allowed {
					passed.Add(1)
				}
			})
		}
		wait.Wait()
		if passed.Load() != left {
			t.Errorf("%v: %d passed, want %d", a, passed.Load(), left)
		}
		for i := range racers {
			if n, want := used(t, nodes[0], subject(i), l.own), map[bool]int64{true: 1}[took[i]]; n != want {
				t.Errorf("%v: subject %d has used %d, want %d", a, i, n, want)
			}
		}
		if n := used(t, nodes[0], "", l.wide); n != left {
			t.Errorf("%v: %d of the shared limit are used", a, n)
		}
		if n := used(t, nodes[0], "org", l.org); n != left {
			t.Errorf("%v: %d of the organisation's are used", a, n)
		}
		for _, s := range nodes {
			undone += s.Stats().Undone
		}
	}
	if undone == 0 {
		t.Error("nothing was given back: the race decides nothing")
	}
}

// A caller who has gone while the last item is written is charged nothing elsewhere.
func TestGoneOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := apartTable()
		s := openStore(t, table, false)
		l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
		own := KeyOf("alice", l.own)
		table.meddleWith(func(changes []Change) func() error {
			if takes(changes, own) {
				<-time.After(time.Second)
			}
			return nil
		})
		start := time.Now()
		_, err := take(t, s, 25*time.Millisecond, l.charges("alice")...)
		if kindOf(err) != "timeout" || time.Since(start) != 25*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		for owner, limit := range map[string]*headgate.Prepared{"alice": l.own, "org": l.org, "": l.wide} {
			if n := used(t, s, owner, limit); n != 0 {
				t.Errorf("%q has used %d", owner, n)
			}
		}
	})
}

// Nodes whose calls fail and whose answers are lost, in any order, admit never more
// than they charge, and of what they have not admitted only what nobody knows of
// stays charged.
func TestFaultsOnTheWay(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			table := apartTable()
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(seed, 1))
			odd := func(of int) bool {
				mu.Lock()
				defer mu.Unlock()
				return rng.IntN(of) == 0
			}
			fail := func(unsent bool) error {
				return &Failure{Kind: "connection", Unsent: unsent, Passing: odd(2), Err: errors.New("reset by peer")}
			}
			table.disturb(
				func(int) error {
					<-time.After(time.Millisecond)
					if odd(20) {
						return fail(odd(2))
					}
					return nil
				},
				func(int) error {
					if odd(20) {
						return fail(false)
					}
					return nil
				})
			a := everything[seed%uint64(len(everything))]
			l := newSpread(t, a, 12, 40, 50)
			var passed, unknown [4]atomic.Int64
			var wait sync.WaitGroup
			for range 3 {
				s := openStore(t, table, false)
				for w := range 12 {
					wait.Go(func() {
						for range 4 {
							subject := w % 3
							b, err := take(t, s, 0, l.charges(strconv.Itoa(subject))...)
							switch {
							case err != nil:
								unknown[subject].Add(1)
								unknown[3].Add(1)
							case b.Allowed:
								passed[subject].Add(1)
								passed[3].Add(1)
							}
						}
					})
				}
			}
			wait.Wait()
			<-time.After(time.Minute)
			table.disturb(nil, nil)
			s := openStore(t, table, false)
			check := func(what string, limit *headgate.Prepared, i int) {
				owner := what
				if what == "" {
					what = "everybody"
				}
				n, most := used(t, s, owner, limit), limit.Count
				if n > most || n < passed[i].Load() || n > passed[i].Load()+unknown[i].Load() {
					t.Errorf("seed %d: %v of %s: %d of %d are used, %d passed, of %d nobody knows", seed, a, what, n, most, passed[i].Load(), unknown[i].Load())
				}
			}
			for i := range 3 {
				check(strconv.Itoa(i), l.own, i)
			}
			check("org", l.org, 3)
			check("", l.wide, 3)
			if passed[3].Load() == 0 || unknown[3].Load() == 0 {
				t.Errorf("seed %d: %d passed, of %d nobody knows", seed, passed[3].Load(), unknown[3].Load())
			}
		})
	}
}
