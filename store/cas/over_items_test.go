package cas

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// A refusal by limits of the subject's own counts towards its ban, wherever the
// other charges stand; one by others' limits does not.
func TestBanOverItems(t *testing.T) {
	s := openStore(t, apartTable(), false)
	reason := func(l *spread, subject string) headgate.Reason {
		t.Helper()
		b, err := take(t, s, 0, l.charges(subject)...)
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

func TestRequestKeysOverItems(t *testing.T) {
	s := openStore(t, apartTable(), false)
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
		if b, err := take(t, s, 0, l.charges("bob")...); err != nil || !b.Allowed {
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
func TestOneKeyAtOnce(t *testing.T) {
	table := apartTable()
	nodes := []*Store{openStore(t, table, false), openStore(t, table, false)}
	l := newSpread(t, headgate.FixedWindow, 1000, 1000, 1000)
	var first atomic.Int64
	var wait sync.WaitGroup
	for i := range 32 {
		wait.Go(func() {
			b := batchOf(t, headgate.Take, append(l.charges("alice"), headgate.Charge{Limit: l.once, Owner: "alice", Parent: true})...)
			b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{5, 5}, Print: 1}, uint64(i+1)
			if err := nodes[i%2].Apply(t.Context(), b); err != nil || !b.Allowed {
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
		if n := used(t, nodes[0], owner, limit); n != 1 {
			t.Errorf("%s has used %d, want 1", limit.Name, n)
		}
	}
}

// A reservation that a later item refuses holds nothing, and one that all allow is
// settled everywhere.
func TestReservationsOverItems(t *testing.T) {
	table := apartTable()
	s, other := openStore(t, table, false), openStore(t, table, false)
	l := newSpread(t, headgate.TokenBucket, 10, 10, 10)
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
	expect := func(what string, own, org, wide int64) {
		t.Helper()
		got := [3]int64{used(t, s, "alice", l.own), used(t, s, "org", l.org), used(t, s, "", l.wide)}
		if got != [3]int64{own, org, wide} {
			t.Errorf("%s: used %v, want %v", what, got, [3]int64{own, org, wide})
		}
	}
	refuseOnce(t, table, KeyOf("alice", l.own), func() {
		if b, err := take(t, other, 0, headgate.Charge{Limit: l.wide, Cost: 7, Parent: true}); err != nil || !b.Allowed {
			t.Error(err)
		}
	})
	b := all(headgate.Take, 1, 4)
	if err := s.Apply(t.Context(), b); err != nil || b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	expect("refused", 0, 0, 7)
	b = all(headgate.Take, 2, 3)
	if err := s.Apply(t.Context(), b); err != nil || !b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	expect("reserved", 3, 3, 10)
	b = all(headgate.Settle, 2, 1)
	if err := s.Apply(t.Context(), b); err != nil || !b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	expect("settled", 1, 1, 8)
	b = all(headgate.Settle, 2, 1)
	if err := s.Apply(t.Context(), b); err != nil || b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	expect("settled again", 1, 1, 8)
}

// A batch of many owners is decided as a whole.
func TestBatchOfManyOwners(t *testing.T) {
	s := openStore(t, apartTable(), false)
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

// What a decision over items costs a table: where nobody else is about, two looks and
// two writes, and one write more for the trial.
func TestCostOfAcross(t *testing.T) {
	table := apartTable()
	s := openStore(t, table, false)
	l := newSpread(t, headgate.TokenBucket, 100, 100, 100)
	charges := []headgate.Charge{{Limit: l.own, Owner: "alice", Cost: 1}, {Limit: l.wide, Cost: 1, Parent: true}}
	if _, err := take(t, s, 0, charges...); err != nil {
		t.Fatal(err)
	}
	used(t, s, "alice", l.own) // behind the confirmation
	var writes, checks atomic.Int64
	table.meddleWith(func(changes []Change) func() error {
		for _, x := range changes {
			if x.writes() {
				writes.Add(1)
			} else {
				checks.Add(1)
			}
		}
		return nil
	})
	if b, err := take(t, s, 0, charges...); err != nil || !b.Allowed {
		t.Fatal(err)
	}
	used(t, s, "alice", l.own)
	if w, c := writes.Load(), checks.Load(); w != 3 || c > 3 {
		t.Errorf("%d writes and %d checks", w, c)
	}
}

// An item is never decided on at an earlier instant than before, whatever the clocks
// of the nodes.
func TestClocksOfNodes(t *testing.T) {
	table := apartTable()
	ahead, behind := openStore(t, table, true), openStore(t, table, true)
	l := prepare(t, headgate.Window(1, time.Second))
	second := time.Now().Unix() * 1_000_000
	at := func(s *Store, now int64) *headgate.Batch {
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
		b.Now = now
		if err := s.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i := range int64(5) {
		edge := second + i*1_000_000
		if b := at(ahead, edge); !b.Allowed || b.At != edge {
			t.Errorf("window %d: %v at %d", i, b.Allowed, b.At)
		}
		if b := at(behind, edge-200_000); b.Allowed || b.At != edge {
			t.Errorf("window %d: behind, %v at %d, want %d", i, b.Allowed, b.At, edge)
		}
	}
}

// Of two requests with one key the one that is slower is undone everywhere, and
// answered as the other was.
func TestOneKeyFaster(t *testing.T) {
	for _, reserves := range []time.Duration{0, time.Hour} {
		t.Run(reserves.String(), func(t *testing.T) { oneKeyFaster(t, reserves.Microseconds()) })
	}
}

func oneKeyFaster(t *testing.T, reserves int64) {
	table := apartTable()
	s, other := openStore(t, table, false), openStore(t, table, false)
	l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
	ask := func(s *Store, print, hold uint64) (*headgate.Batch, error) {
		b := batchOf(t, headgate.Take, append(l.charges("alice"), headgate.Charge{Limit: l.once, Owner: "alice", Parent: true})...)
		b.Key, b.Hold, b.HoldFor = headgate.RequestKey{ID: [2]uint64{5, 5}, Print: print}, hold, reserves
		return b, s.Apply(t.Context(), b)
	}
	check := func(what string) {
		t.Helper()
		for owner, limit := range map[string]*headgate.Prepared{"alice": l.own, "org": l.org, "": l.wide} {
			if n := used(t, other, owner, limit); n != 1 {
				t.Errorf("%s: %s has used %d, want 1", what, limit.Name, n)
			}
		}
		if reserves == 0 {
			return
		}
		b := batchOf(t, headgate.Settle, l.charges("alice")...)
		if b.Hold = 8; other.Apply(t.Context(), b) != nil || !b.Allowed {
			t.Errorf("%s: the reservation of the faster one is not there: %+v", what, b.Outcomes())
		}
	}
	refuseOnce(t, table, KeyOf("", l.wide), func() {
		if b, err := ask(other, 1, 8); err != nil || !b.Allowed || b.Replayed {
			t.Error(err, b.Allowed, b.Replayed)
		}
	})
	if b, err := ask(s, 1, 7); err != nil || !b.Allowed || !b.Replayed || b.Hold != 8 {
		t.Errorf("%v, allowed %v, replayed %v, hold %d", err, b.Allowed, b.Replayed, b.Hold)
	}
	check("the same request")
	b := batchOf(t, headgate.Reset, headgate.Charge{Limit: l.once, Owner: "alice"})
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, c := range l.charges("alice") {
		if err := s.Apply(t.Context(), batchOf(t, headgate.Reset, c)); err != nil {
			t.Fatal(err)
		}
	}
	refuseOnce(t, table, KeyOf("", l.wide), func() {
		if b, err := ask(other, 2, 8); err != nil || !b.Allowed {
			t.Error(err, b.Allowed)
		}
	})
	if _, err := ask(s, 1, 7); headgate.CodeOf(err) != headgate.Conflict {
		t.Errorf("another request: %v", err)
	}
	check("another request")
}

// A store that is closed while a batch is on its way still gives back what that has
// taken.
func TestCloseUndoes(t *testing.T) {
	table := apartTable()
	s, other := New(Config{Table: table, Apart: true}), openStore(t, table, false)
	l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
	closed := make(chan error, 1)
	var once atomic.Bool
	table.meddleWith(func(changes []Change) func() error {
		if !takes(changes, KeyOf("org", l.org)) || once.Swap(true) {
			return nil
		}
		go func() { closed <- s.Close() }()
		for !s.closed.Load() {
			runtime.Gosched()
		}
		return nil
	})
	if _, err := take(t, s, 0, l.charges("alice")...); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("error %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	for owner, limit := range map[string]*headgate.Prepared{"alice": l.own, "org": l.org, "": l.wide} {
		if n := used(t, other, owner, limit); n != 0 {
			t.Errorf("%q has used %d", owner, n)
		}
	}
}

// A key that was remembered by a table that was another one then is not taken for
// another request's: what that has charged would be given back, and it is allowed.
func TestKeyOfAnotherTable(t *testing.T) {
	table := apartTable()
	s := openStore(t, table, false)
	l := newSpread(t, headgate.FixedWindow, 10, 10, 10)
	n := 0
	table.meddleWith(func(changes []Change) func() error {
		if !takes(changes, KeyOf("alice", l.own)) {
			return nil
		}
		if n++; n == 2 { // the trial, and the confirmation
			return func() error { return stale(true) }
		}
		return nil
	})
	b := batchOf(t, headgate.Take, append(l.charges("alice"), headgate.Charge{Limit: l.once, Owner: "alice", Parent: true})...)
	b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{5, 5}, Print: 1}, 7
	if err := s.Apply(t.Context(), b); err != nil || !b.Allowed || b.Replayed {
		t.Errorf("%v, allowed %v, replayed %v", err, b.Allowed, b.Replayed)
	}
	for owner, limit := range map[string]*headgate.Prepared{"alice": l.own, "org": l.org, "": l.wide} {
		if n := used(t, s, owner, limit); n != 1 {
			t.Errorf("%s has used %d, want 1", limit.Name, n)
		}
	}
}

// A reservation of nothing that is refused leaves nothing.
func TestUndoneReservationOfNothing(t *testing.T) {
	table := apartTable()
	s, other := openStore(t, table, false), openStore(t, table, false)
	l := newSpread(t, headgate.TokenBucket, 10, 10, 1)
	wide := headgate.Charge{Limit: l.wide, Cost: 1, Parent: true}
	refuseOnce(t, table, KeyOf("alice", l.own), func() {
		if b, err := take(t, other, 0, wide); err != nil || !b.Allowed {
			t.Error(err, b.Allowed)
		}
	})
	b := batchOf(t, headgate.Take, wide, headgate.Charge{Limit: l.own, Owner: "alice"})
	b.Hold, b.HoldFor = 7, time.Hour.Microseconds()
	if err := s.Apply(t.Context(), b); err != nil || b.Allowed || s.Stats().Undone == 0 {
		t.Fatal(err, b.Allowed)
	}
	table.mu.Lock()
	defer table.mu.Unlock()
	if x := table.find(KeyOf("alice", l.own)); x.Version != 0 {
		t.Errorf("there is %x", x.Value)
	}
}
