package redisstore

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// spread is what a request of a subject charges that stands in several
// partitions: limits of its own, of its organisation and of everybody.
type spread struct {
	own, org, wide, ban, once *headgate.Prepared
}

func newSpread(t testing.TB, a headgate.Algorithm, own, org, wide int64) spread {
	lasting := func(name string, n int64) *headgate.Prepared {
		l := headgate.Limit{Algorithm: a, Name: name, Count: n, Period: headgate.MaxPeriod}
		return prepare(t, l)
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

// used returns how much of a budget is used.
func used(t testing.TB, s headgate.Store, owner string, l *headgate.Prepared) int64 {
	t.Helper()
	b := batchOf(t, headgate.Peek, headgate.Charge{Limit: l, Owner: owner})
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b.Outcomes()[0].Used
}

// apart fails unless the owners' budgets stand in different partitions.
func apart(t testing.TB, s *Store, charges ...headgate.Charge) {
	t.Helper()
	seen := make(map[int]bool)
	for _, c := range charges {
		seen[s.scheme.partition(c.Owner, c.Limit)] = true
	}
	if len(seen) < 3 {
		t.Fatalf("the charges stand in %d partitions", len(seen))
	}
}

// 2.1: R1 wants A and B, and B has none: R2, which wants A only, must not be
// refused because of that.
func TestN21DenialByParentParksNothing(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	l := newSpread(t, headgate.FixedWindow, 1000, 1000, 1)
	apart(t, s, l.charges("alice")...)
	if b, err := take(t, s, l.charges("bob")...); err != nil || !b.Allowed {
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
				if b, err := take(t, s, l.charges("alice")...); err != nil || b.Allowed {
					t.Errorf("R1: %v, allowed %v", err, b.Allowed)
					return
				}
			}
		})
	}
	for i := range 1000 {
		b, err := take(t, s, headgate.Charge{Limit: l.own, Owner: "alice", Cost: 1})
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

// Of many subjects that race for what is left of a shared limit exactly as many
// pass, and who is refused is charged nowhere.
func TestN21RaceForSharedLimit(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	for _, a := range []headgate.Algorithm{headgate.TokenBucket, headgate.FixedWindow, headgate.SlidingWindow, headgate.SlidingLog} {
		t.Run(a.String(), func(t *testing.T) {
			const racers, left = 64, 20
			l := newSpread(t, a, 5, 1000, left)
			l.wide = prepare(t, l.wide.WithName("wide-"+a.String()))
			subject := func(i int) string { return fmt.Sprintf("%v %d", a, i) }
			var passed atomic.Int64
			var took [racers]bool
			var wait sync.WaitGroup
			for i := range racers {
				wait.Go(func() {
					b, err := take(t, s, l.charges(subject(i))...)
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
				t.Errorf("%d passed, want %d", passed.Load(), left)
			}
			for i := range racers {
				if n, want := used(t, s, subject(i), l.own), map[bool]int64{true: 1}[took[i]]; n != want {
					t.Errorf("subject %d has used %d, want %d", i, n, want)
				}
			}
			if n := used(t, s, "", l.wide); n != left {
				t.Errorf("%d of the shared limit are used", n)
			}
		})
	}
	if n := s.Stats().Undone; n == 0 {
		t.Error("nothing was given back: the race decides nothing")
	}
}

// meddler executes scripts as its store does, but for what a test does between.
type meddler struct {
	*Store
	// meddle is called before an execution, with its number within the test; what
	// it returns is called after it, with its error, and returns the one to tell.
	meddle func(partition int, n int64) func(error) error
	n      atomic.Int64
}

func (m *meddler) execute(dst []string, partition int, inc *incarnation, keys, args []string) ([]string, error) {
	after := m.meddle(partition, m.n.Add(1))
	dst, err := m.Store.execute(dst, partition, inc, keys, args)
	if after != nil {
		err = after(err)
	}
	return dst, err
}

// meddleWith has meddle see the store's executions from now on. The store must be
// idle.
func meddleWith(s *Store, meddle func(partition int, n int64) func(error) error) {
	s.ground.executor = &meddler{Store: s, meddle: meddle}
}

// 2.1: what was taken is given back when a later partition cannot be asked; of
// what may have been charged there, what can be is given back when its answer
// comes.
func TestN21PartitionFailsAfterOthersWereTaken(t *testing.T) {
	for name, fail := range map[string]error{"refuses": diagnoseAnswer("OOM no room", errors.New("OOM no room")), "breaks": errors.New("connection reset")} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
			l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
			wide, calls := s.scheme.partition("", l.wide), atomic.Int64{}
			meddleWith(s, func(partition int, _ int64) func(error) error {
				if partition != wide || calls.Add(1) != 2 { // the first looks, the second takes
					return nil
				}
				return func(error) error { return fail }
			})
			if b, err := take(t, s, l.charges("alice")...); err == nil {
				t.Fatalf("decided: %v", b.Allowed)
			}
			if n := used(t, s, "alice", l.own); n != 0 {
				t.Errorf("the subject has used %d", n)
			}
			if n := used(t, s, "org", l.org); n != 0 {
				t.Errorf("the organisation has used %d", n)
			}
		})
	}
}

// 2.1: a quota that was taken before midnight and is given back after it is not
// given back to the new day.
func TestN21GivenBackToItsOwnPeriod(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed()), ManualClockForTest: true})
	l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
	l.own = prepare(t, headgate.QuotaPer(10, headgate.Day).WithName("daily"))
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(48 * time.Hour).UnixMicro()
	at := func(now int64, charges ...headgate.Charge) *headgate.Batch {
		b := batchOf(t, headgate.Take, charges...)
		b.Now = now
		return b
	}
	daily := headgate.Charge{Limit: l.own, Owner: "alice", Cost: 1}
	wide, calls := s.scheme.partition("", l.wide), atomic.Int64{}
	meddleWith(s, func(partition int, _ int64) func(error) error {
		if partition != wide || calls.Add(1) != 2 {
			return nil
		}
		// Between the taking of the quota and its return the day ends.
		b := at(midnight+1, daily)
		if err := s.Apply(t.Context(), b); err != nil || !b.Allowed || b.Outcomes()[0].Used != 1 {
			t.Errorf("%v, %+v", err, b.Outcomes()[0])
		}
		return func(error) error { return errors.New("connection reset") }
	})
	if err := s.Apply(t.Context(), at(midnight-1, l.charges("alice")...)); err == nil {
		t.Fatal("decided")
	}
	if n := used(t, s, "alice", l.own); n != 1 {
		t.Errorf("%d of the new day are used, want 1", n)
	}
}

// A refusal by limits of the subject's own counts towards its ban, wherever the
// other charges stand; one by others' limits does not.
func TestBanAcrossPartitions(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	reason := func(l *spread, subject string) headgate.Reason {
		t.Helper()
		b, err := take(t, s, l.charges(subject)...)
		if err != nil {
			t.Fatal(err)
		}
		return b.Decision().Reason
	}
	l := newSpread(t, headgate.FixedWindow, 1, 100, 2)
	var got []headgate.Reason
	for range 6 {
		got = append(got, reason(&l, "alice"))
	}
	want := []headgate.Reason{headgate.OK, headgate.RateLimited, headgate.RateLimited, headgate.Banned, headgate.Banned, headgate.Banned}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if r := reason(&l, "bob"); r != headgate.OK {
		t.Errorf("bob: %v", r)
	}
	for i := range 10 {
		if r := reason(&l, "carol"); r != headgate.RateLimited {
			t.Fatalf("carol's request %d: %v", i, r)
		}
	}
	if n := used(t, s, "carol", l.own); n != 0 {
		t.Errorf("carol has used %d", n)
	}
}

func TestRequestKeysAcrossPartitions(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
	ask := func(subject string, id, print, hold uint64) (*headgate.Batch, error) {
		b := batchOf(t, headgate.Take, append(l.charges(subject), headgate.Charge{Limit: l.once, Owner: subject, Parent: true})...)
		b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{id, 1}, Print: print}, hold
		return b, s.Apply(t.Context(), b)
	}
	for i := range 3 {
		b, err := ask("alice", 1, 7, uint64(100+i))
		if err != nil || !b.Allowed || b.Replayed != (i > 0) || b.Hold != 100 {
			t.Fatalf("request %d: %v, allowed %v, replayed %v, hold %d", i, err, b.Allowed, b.Replayed, b.Hold)
		}
		for j, c := range b.Charges() {
			if o := b.Outcomes()[j]; c.Limit.Algorithm == headgate.FixedWindow && o.Used != 1 || c.Limit == l.once && o.Used != 1 {
				t.Errorf("request %d: %s is at %+v", i, c.Limit.Name, o)
			}
		}
	}
	if _, err := ask("alice", 1, 8, 1); headgate.CodeOf(err) != headgate.Conflict {
		t.Errorf("another request: %v", err)
	}
	// A request that was refused is not remembered.
	for range 9 {
		if b, err := take(t, s, l.charges("bob")...); err != nil || !b.Allowed {
			t.Fatal(err, b.Allowed)
		}
	}
	for range 2 {
		if b, err := ask("carol", 2, 7, 5); err != nil || b.Allowed || b.Replayed {
			t.Fatalf("%v, allowed %v, replayed %v", err, b.Allowed, b.Replayed)
		}
	}
	// A replay is told though the limits are exhausted by now.
	if b, err := ask("alice", 1, 7, 9); err != nil || !b.Replayed || !b.Allowed {
		t.Errorf("%v, allowed %v, replayed %v", err, b.Allowed, b.Replayed)
	}
}

// Of many requests with one key at once one is charged, and all are allowed.
func TestOneKeyAtOnceAcrossPartitions(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	l := newSpread(t, headgate.FixedWindow, 1000, 1000, 1000)
	var first atomic.Int64
	var wait sync.WaitGroup
	for i := range 32 {
		wait.Go(func() {
			b := batchOf(t, headgate.Take, append(l.charges("alice"), headgate.Charge{Limit: l.once, Owner: "alice", Parent: true})...)
			b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{5, 5}, Print: 1}, uint64(i+1)
			if err := s.Apply(t.Context(), b); err != nil || !b.Allowed {
				t.Errorf("%v, allowed %v", err, b.Allowed)
			}
			if !b.Replayed {
				first.Add(1)
			}
		})
	}
	wait.Wait()
	if first.Load() != 1 {
		t.Errorf("%d were charged", first.Load())
	}
	for owner, limit := range map[string]*headgate.Prepared{"alice": l.own, "org": l.org, "": l.wide} {
		if n := used(t, s, owner, limit); n != 1 {
			t.Errorf("%s has used %d, want 1", limit.Name, n)
		}
	}
}

// A reservation that a later partition refuses holds nothing, and one that all
// allow is settled everywhere.
func TestReservationsAcrossPartitions(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	l := newSpread(t, headgate.TokenBucket, 10, 10, 10)
	wide, calls := s.scheme.partition("", l.wide), atomic.Int64{}
	meddleWith(s, func(partition int, _ int64) func(error) error {
		if partition != wide || calls.Add(1) != 2 {
			return nil
		}
		return func(error) error { return errors.New("connection reset") }
	})
	all := func(op headgate.Op, hold uint64, cost int64) *headgate.Batch {
		b := batchOf(t, op)
		for _, c := range l.charges("alice") {
			if c.Limit != l.ban {
				c.Cost = cost
			}
			if _, err := b.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		if b.Hold = hold; op == headgate.Take {
			b.HoldFor = time.Hour.Microseconds()
		}
		return b
	}
	if err := s.Apply(t.Context(), all(headgate.Take, 1, 4)); err == nil {
		t.Fatal("decided")
	}
	expect := func(what string, own, org, wide int64) {
		t.Helper()
		got := [3]int64{used(t, s, "alice", l.own), used(t, s, "org", l.org), used(t, s, "", l.wide)}
		if got != [3]int64{own, org, wide} {
			t.Errorf("%s: used %v, want %v", what, got, [3]int64{own, org, wide})
		}
	}
	expect("refused", 0, 0, 4) // the last partition did it, and nobody knows
	b := all(headgate.Take, 2, 4)
	if err := s.Apply(t.Context(), b); err != nil || !b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	expect("reserved", 4, 4, 8)
	b = all(headgate.Settle, 2, 1)
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	expect("settled", 1, 1, 5)
}

// Batches with more owners than a cluster has partitions are decided as a whole,
// too.
func TestBatchOfManyOwners(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	l := newSpread(t, headgate.FixedWindow, 1, 1, 1)
	b := new(headgate.Batch)
	b.Reset(headgate.Take)
	b.Room(2000)
	for i := range 2000 {
		if _, err := b.Add(headgate.Charge{Limit: l.own, Owner: strconv.Itoa(i), Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []bool{true, false} {
		if err := s.Apply(t.Context(), b); err != nil || b.Allowed != want {
			t.Fatalf("%v, allowed %v", err, b.Allowed)
		}
		for i, o := range b.Outcomes() {
			if o.Used != 1 || o.Allowed != want {
				t.Fatalf("owner %d: %+v", i, o)
			}
		}
	}
}
