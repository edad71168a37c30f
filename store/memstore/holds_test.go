package memstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

const hour = int64(3600 * 1_000_000)

// reserve takes charges as a reservation.
func (s *Store) reserve(t testing.TB, hold uint64, now, holdFor int64, charges ...headgate.Charge) (*headgate.Batch, error) {
	t.Helper()
	return s.holding(t, headgate.Take, hold, now, holdFor, charges...)
}

// settle reports whether the hold was found.
func (s *Store) settle(t testing.TB, hold uint64, now int64, charges ...headgate.Charge) bool {
	t.Helper()
	b, err := s.holding(t, headgate.Settle, hold, now, 0, charges...)
	if err != nil {
		t.Fatal(err)
	}
	return b.Allowed
}

func (s *Store) holding(t testing.TB, op headgate.Op, hold uint64, now, holdFor int64, charges ...headgate.Charge) (*headgate.Batch, error) {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(op)
	b.Now, b.Hold, b.HoldFor = now, hold, holdFor
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b, s.Apply(t.Context(), b)
}

// A bucket is kept in words while something is held, in one word before and
// after; a refused reservation leaves it in one.
func TestBucketsHoldInWords(t *testing.T) {
	s := New(Config{Shards: 1})
	l := mustPrepare(t, headgate.PerHour(10))
	alice := func(cost int64) headgate.Charge { return headgate.Charge{Limit: l, Owner: "alice", Cost: cost} }
	now := s.Now()
	packed := func(want bool) {
		t.Helper()
		id, _, _ := s.where("alice", l)
		at, found := s.shards[0].find(id)
		if got := s.shards[0].table[at].version&wide == 0; !found || got != want {
			t.Fatalf("found %v, in one word %v, want %v", found, got, want)
		}
		s.checkStore(t)
	}
	s.apply(t, headgate.Take, now, alice(2))
	packed(true)
	none := headgate.Charge{Limit: mustPrepare(t, headgate.PerHour(1)), Owner: "alice", Cost: 1}
	s.apply(t, headgate.Take, now, none)
	for _, charges := range [][]headgate.Charge{{alice(9)}, {alice(1), none}, {none, alice(1)}} {
		if b, err := s.reserve(t, 1, now, hour, charges...); err != nil || b.Allowed {
			t.Fatalf("allowed %v, %v", b.Allowed, err)
		}
		packed(true)
	}
	if b, err := s.reserve(t, 1, now, hour, alice(3)); err != nil || !b.Allowed {
		t.Fatalf("allowed %v, %v", b.Allowed, err)
	}
	packed(false)
	if s.settle(t, 2, now, alice(0)) || !s.settle(t, 1, now, alice(1)) {
		t.Fatal("not settled")
	}
	packed(true)
	if o := s.apply(t, headgate.Peek, now, alice(0)).Outcomes()[0]; o.Used != 3 {
		t.Fatalf("%+v", o)
	}
}

// What is held, banned, counted or remembered outlives any flood, and goes when
// its time is over.
func TestHeldStateIsNotEvicted(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	now := s.Now()
	fast := mustPrepare(t, headgate.PerSecond(1000).WithName("fast"))
	none := mustPrepare(t, headgate.Window(1, time.Second).WithName("none"))
	ban := mustPrepare(t, headgate.Limit{Name: "ban", Algorithm: headgate.Ban, Count: 1, Period: time.Second, TTL: time.Hour})
	keys := mustPrepare(t, headgate.Limit{Name: "keys", Algorithm: headgate.Idempotency, Count: 4, TTL: time.Hour})
	charge := func(l *headgate.Prepared, cost int64) headgate.Charge {
		return headgate.Charge{Limit: l, Owner: "alice", Cost: cost}
	}
	if b, err := s.reserve(t, 7, now, hour, charge(fast, 1)); err != nil || !b.Allowed {
		t.Fatalf("allowed %v, %v", b.Allowed, err)
	}
	keyed := func() *headgate.Batch {
		b := new(headgate.Batch)
		b.Reset(headgate.Take)
		b.Now, b.Key = now, headgate.RequestKey{ID: [2]uint64{1, 2}, Print: 3}
		for _, c := range []headgate.Charge{charge(keys, 0), charge(none, 1)} {
			if _, err := b.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Apply(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := keyed(); !b.Allowed || b.Replayed {
		t.Fatalf("allowed %v, replayed %v", b.Allowed, b.Replayed)
	}
	s.apply(t, headgate.Take, now, charge(none, 1), charge(ban, 0))
	now += hour - 2_000_000
	fill(t, s, mustPrepare(t, headgate.PerSecond(1).WithName("filler")), now)
	now += 1_999_999
	for i := range 1000 {
		s.apply(t, headgate.Take, now, headgate.Charge{Limit: none, Owner: fmt.Sprint(i), Cost: 1})
	}
	s.sweep(&s.shards[0], 1<<16, now)
	if s.apply(t, headgate.Take, now, charge(ban, 0)).Allowed {
		t.Error("the ban was lost")
	}
	if !keyed().Replayed {
		t.Error("the key was lost")
	}
	if !s.settle(t, 7, now, charge(fast, 1)) {
		t.Error("the hold was lost")
	}
	now++
	s.sweep(&s.shards[0], 1<<16, now)
	if !s.apply(t, headgate.Take, now, charge(ban, 0)).Allowed {
		t.Error("the ban goes on")
	}
	if keyed().Replayed {
		t.Error("the key goes on")
	}
	s.checkStore(t)
}

// A key without a cell of its own reserves from the one that it shares: what it
// settles comes back there, and nobody who gets a cell later has gained.
func TestReservationsOnSharedCells(t *testing.T) {
	for _, limit := range []headgate.Limit{headgate.PerHour(10), headgate.Sliding(10, 10*time.Hour), headgate.Window(10, 24*time.Hour), headgate.Log(10, 10*time.Hour)} {
		t.Run(limit.Algorithm.String(), func(t *testing.T) {
			s := New(Config{MaxBytes: minBytes, Shards: 1})
			now := time.Now().UTC().Truncate(24 * time.Hour).UnixMicro()
			l := mustPrepare(t, limit)
			fill(t, s, mustPrepare(t, headgate.PerSecond(1).WithName("filler")), now)
			a, b := sharers(t, s, l)
			of := func(owner string, cost int64) headgate.Charge {
				return headgate.Charge{Limit: l, Owner: owner, Cost: cost}
			}
			got, err := s.reserve(t, 1, now, hour, of(a, 6))
			if err != nil || !got.Allowed {
				t.Fatalf("allowed %v, %v", got.Allowed, err)
			}
			if _, _, own := s.where(a, l); own {
				t.Fatal("the store has room for another key")
			}
			if _, err := s.reserve(t, 2, now, hour, of(a, 1), of(b, 1)); headgate.CodeOf(err) != headgate.Overloaded {
				t.Fatalf("two reservations of one name in one cell: %v", err)
			}
			if s.apply(t, headgate.Take, now, of(b, 5)).Allowed || !s.apply(t, headgate.Take, now, of(b, 4)).Allowed {
				t.Fatal("6 of 10 are reserved")
			}
			// With cells of their own they start with what was held and used.
			now += 2_000_000
			s.sweep(&s.shards[0], 1<<17, now)
			s.shards[0].shrink(2)
			for _, owner := range []string{a, b} {
				if s.apply(t, headgate.Take, now, of(owner, 1)).Allowed {
					t.Fatalf("%s gained", owner)
				}
			}
			if !s.settle(t, 1, now, of(a, 1)) {
				t.Fatal("the reservation was lost")
			}
			if o := s.apply(t, headgate.Take, now, of(a, 5)); !o.Allowed {
				t.Fatalf("%+v", o.Outcomes()[0])
			}
			if _, _, own := s.where(a, l); !own {
				t.Fatal("the store has no room for another key")
			}
			if o := s.apply(t, headgate.Take, now, of(a, 1)); o.Allowed {
				t.Fatalf("%+v", o.Outcomes()[0])
			}
			s.checkStore(t)
		})
	}
}

// Reserving and settling on known keys reuses the blocks of the arena.
func TestReservationsDoNotAllocate(t *testing.T) {
	s := New(Config{Shards: 1})
	now := s.Now()
	keys := mustPrepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Count: 4, TTL: time.Microsecond})
	for _, limit := range []headgate.Limit{
		headgate.PerHour(1000), headgate.Window(1000, time.Hour), headgate.Sliding(1000, time.Hour), headgate.Log(1000, time.Hour),
		headgate.QuotaPer(1000, headgate.Month), headgate.InFlight(1000, time.Hour), {Algorithm: headgate.LeakyBucket, Count: 1_000_000, Period: time.Second},
	} {
		l := mustPrepare(t, limit)
		var b headgate.Batch
		hold := uint64(0)
		ask := func(op headgate.Op) {
			b.Reset(op)
			b.Now, b.Hold = now, hold
			if op == headgate.Take {
				b.HoldFor = hour
				b.Key = headgate.RequestKey{ID: [2]uint64{hold, 1}, Print: 1}
			}
			for _, c := range []headgate.Charge{{Limit: l, Owner: "alice", Cost: 2}, {Limit: keys, Owner: "alice"}} {
				if _, err := b.Add(c); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Apply(context.Background(), &b); err != nil || !b.Allowed || b.Replayed {
				t.Fatalf("%v: allowed %v, %v: %+v", op, b.Allowed, err, b.Outcomes())
			}
		}
		run := func() {
			hold++
			now++
			ask(headgate.Take)
			ask(headgate.Settle)
			ask(headgate.Refund)
		}
		run()
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%v: %v allocations", l.Algorithm, n)
		}
	}
}

// A key without room for a cell of its own is decided without being remembered:
// charged twice, never free, and never mistaken for a stranger's.
func TestSharedCellsRememberNothing(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	now := s.Now()
	keys := mustPrepare(t, headgate.Limit{Name: "keys", Algorithm: headgate.Idempotency, Count: 64, TTL: time.Hour})
	l := mustPrepare(t, headgate.PerHour(10).WithName("limit"))
	fill(t, s, mustPrepare(t, headgate.PerHour(1).WithName("filler")), now)
	for range 2 {
		b := new(headgate.Batch)
		b.Reset(headgate.Take)
		b.Now, b.Key = now, headgate.RequestKey{ID: [2]uint64{1, 2}, Print: 3}
		for _, c := range []headgate.Charge{{Limit: keys, Owner: "late"}, {Limit: l, Owner: "late", Cost: 1}} {
			if _, err := b.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Apply(t.Context(), b); err != nil || !b.Allowed || b.Replayed {
			t.Fatalf("allowed %v, replayed %v, %v", b.Allowed, b.Replayed, err)
		}
	}
	if o := s.apply(t, headgate.Peek, now, headgate.Charge{Limit: l, Owner: "late"}).Outcomes()[0]; o.Used != 2 {
		t.Fatalf("%+v", o)
	}
	s.checkStore(t)
}

// A log that changes its numbers while something is held takes no more words
// than it has entries, however often.
func TestLogDoesNotGrowByOtherNumbers(t *testing.T) {
	of := func(l *headgate.Prepared, cost int64) headgate.Charge {
		return headgate.Charge{Limit: l, Owner: "alice", Cost: cost}
	}
	a := mustPrepare(t, headgate.Log(30, time.Hour).WithName("log"))
	b := mustPrepare(t, headgate.Log(31, time.Hour).WithName("log"))
	s := New(Config{Origin: 1, Shards: 4})
	now := int64(1_000_000)
	for range 16 { // keeps the log alive
		now++
		s.apply(t, headgate.Take, now, of(a, 1))
	}
	for i := range 40 {
		if got, err := s.reserve(t, 1, now, 1_000_000, of(a, 1)); err != nil || !got.Allowed {
			t.Fatalf("round %d: allowed %v, %v", i, got.Allowed, err)
		}
		s.apply(t, headgate.Take, now, of(b, 1)) // with the hold open
		if !s.settle(t, 1, now, of(b, 0)) {
			t.Fatalf("round %d: the reservation was lost", i)
		}
		s.apply(t, headgate.Take, now, of(a, 1)) // and back
		s.apply(t, headgate.Refund, now, of(a, 2))
		if n := s.Stats().Bytes; n > 32<<10 {
			t.Fatalf("round %d: %d bytes for a log of at most 31 entries", i, n)
		}
	}
}
