package memstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
)

// apply decides charges at an instant.
func (s *Store) apply(t testing.TB, op headgate.Op, now int64, charges ...headgate.Charge) *headgate.Batch {
	t.Helper()
	b, err := s.attempt(op, now, charges...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *Store) attempt(op headgate.Op, now int64, charges ...headgate.Charge) (*headgate.Batch, error) {
	b := new(headgate.Batch)
	b.Reset(op)
	b.Now = now
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			return nil, err
		}
	}
	return b, s.Apply(context.Background(), b)
}

// where returns the cell that a key spends from: its own, or one that it shares.
func (s *Store) where(owner string, l *headgate.Prepared) (id ident, number uint32, own bool) {
	h1, h2 := s.hash.sum(owner)
	number = uint32(h1 >> s.shift)
	id = identify(h1, h2, l)
	if _, own = s.shards[number].find(id); own {
		return id, number, true
	}
	return overflowIDs(id, l)[0], number, false
}

// flood spends from random keys of l until n have come, and checks all the time
// that nobody gets more than the limit and nothing more than the memory.
func flood(t *testing.T, s *Store, l *headgate.Prepared, now int64, n int) (shared int) {
	type place struct {
		id     ident
		number uint32
	}
	spent := make(map[place]int64)
	rng := rand.New(rand.NewPCG(9, 10))
	full := 0
	var b headgate.Batch
	for i := range n {
		c := headgate.Charge{Limit: l, Owner: fmt.Sprintf("%x", rng.Uint64()), Cost: 1 + rng.Int64N(2)}
		got := int64(0)
		for range 1 + rng.IntN(4) {
			b.Reset(headgate.Take)
			b.Now = now
			if _, err := b.Add(c); err != nil {
				t.Fatal(err)
			}
			err := s.Apply(context.Background(), &b)
			if l.Algorithm == headgate.Concurrency && headgate.CodeOf(err) == headgate.Overloaded {
				full++ // no room for one more hold of a key's own
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if b.Allowed {
				got += c.Cost
			}
		}
		id, number, own := s.where(c.Owner, l)
		if !own {
			shared++
		}
		p := place{id, number}
		spent[p] += got
		if most := l.Count; spent[p] > most {
			t.Fatalf("key %d: %d passed from one cell (own: %v), the limit is %d", i, spent[p], own, most)
		}
		if i%64 == 0 {
			if st := s.Stats(); st.Bytes > st.MaxBytes {
				t.Fatalf("key %d: %d bytes, at most %d", i, st.Bytes, st.MaxBytes)
			}
		}
	}
	if full > n/2 {
		t.Errorf("%d of %d keys met a full store", full, n)
	}
	return shared
}

func TestFlood(t *testing.T) {
	racetest.Alone(t)
	for _, limit := range []headgate.Limit{
		headgate.Per(4, 1000*time.Hour),
		headgate.Sliding(4, 1000*time.Hour),
		headgate.Log(4, 1000*time.Hour),
		{Algorithm: headgate.Quota, Count: 4, Calendar: headgate.Calendar{Unit: headgate.Year}},
		headgate.InFlight(4, 24*time.Hour),
	} {
		t.Run(limit.Algorithm.String(), func(t *testing.T) {
			s := New(Config{MaxBytes: minBytes})
			l := mustPrepare(t, limit)
			now := time.Date(time.Now().Year(), 1, 2, 0, 0, 0, 0, time.UTC).UnixMicro()
			early := make([]headgate.Charge, 500)
			for i := range early {
				early[i] = headgate.Charge{Limit: l, Owner: fmt.Sprintf("early-%d", i), Cost: 4}
				if !s.apply(t, headgate.Take, now, early[i]).Allowed {
					t.Fatalf("early key %d was refused", i)
				}
				early[i].Cost = 1
			}
			n := 200_000
			if limit.Algorithm != headgate.TokenBucket {
				n = 20_000 // already several times what has room
			}
			shared := flood(t, s, l, now, n)
			st := s.Stats()
			if shared < n/3 || st.Overflow == 0 || st.Bytes < st.MaxBytes*6/10 {
				t.Fatalf("%d of %d keys share, %+v: the flood fills nothing", shared, n, st)
			}
			for i, c := range early {
				if s.apply(t, headgate.Take, now, c).Allowed {
					t.Fatalf("early key %d has tokens again", i)
				}
			}
			for i := range s.shards {
				s.shards[i].check(t)
			}
			t.Logf("%+v, %d of %d keys share", st, shared, n)
			// All state runs out, and memory comes back.
			last := time.UnixMicro(now).AddDate(1, 1, 0).UnixMicro()
			for i := range s.shards {
				s.shards[i].advance(last)
			}
			s.Sweep()
			if st := s.Stats(); st.Keys != 0 || st.Bytes != 0 || st.Overflow != 0 {
				t.Fatalf("after all state has run out: %+v", st)
			}
			if !s.apply(t, headgate.Take, last, early[0]).Allowed {
				t.Fatal("a key whose state has run out was refused")
			}
		})
	}
}

// fill makes s so full of keys of l that owner has to share.
func fill(t *testing.T, s *Store, l *headgate.Prepared, now int64) {
	t.Helper()
	for i := range 200_000 {
		c := headgate.Charge{Limit: l, Owner: fmt.Sprintf("filler-%d", i), Cost: 1}
		s.apply(t, headgate.Take, now, c)
		if _, _, own := s.where(c.Owner, l); !own {
			return
		}
	}
	t.Fatal("the store has room for everybody")
}

func TestPromotionStartsAtOverflowLevel(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.PerHour(10).WithName("limit"),
		headgate.Sliding(10, time.Hour).WithName("limit"),
		headgate.Log(10, time.Hour).WithName("limit"),
		headgate.Window(10, 24*time.Hour).WithName("limit"),
	} {
		t.Run(limit.Algorithm.String(), func(t *testing.T) {
			s := New(Config{MaxBytes: minBytes, Shards: 1})
			short := mustPrepare(t, headgate.PerSecond(1).WithName("short"))
			long := mustPrepare(t, limit)
			now := time.Now().UTC().Truncate(24 * time.Hour).UnixMicro()
			fill(t, s, short, now)
			alice := headgate.Charge{Limit: long, Owner: "alice", Cost: 8}
			if !s.apply(t, headgate.Take, now, alice).Allowed {
				t.Fatal("refused")
			}
			id, _, own := s.where("alice", long)
			if own {
				t.Fatal("the store has room for another key")
			}
			now += time.Second.Microseconds()
			// Keys that come in vain sweep until there is room, also for words.
			probe := mustPrepare(t, headgate.Sliding(10, time.Hour).WithName("probe"))
			for i := range 1200 {
				s.apply(t, headgate.Take, now, headgate.Charge{Limit: probe, Owner: fmt.Sprint(i), Cost: 1})
			}
			alice.Cost = 1
			o := s.apply(t, headgate.Take, now, alice).Outcomes()[0]
			if _, _, own := s.where("alice", long); !own {
				t.Fatal("no cell of her own, though the others have run out")
			}
			if o.Used != 9 {
				t.Fatalf("used %d of her own cell, want 8 of the shared one and 1", o.Used)
			}
			// Another key of the same overflow class starts as low: it may have spent there.
			for i := range 300 {
				c := headgate.Charge{Limit: long, Owner: fmt.Sprint(i), Cost: 3}
				over, _, _ := s.where(c.Owner, long)
				b := s.apply(t, headgate.Take, now, c)
				if over == id && b.Allowed || over != id && !b.Allowed {
					t.Fatalf("key %d, overflow class %v: allowed %v", i, over == id, b.Allowed)
				}
			}
			// Full again only when the overflow cell is itself.
			now += 25 * time.Hour.Microseconds()
			for i := range 300 {
				if c := (headgate.Charge{Limit: long, Owner: fmt.Sprint(i), Cost: 10}); !s.apply(t, headgate.Take, now, c).Allowed {
					t.Fatalf("key %d is not full after all state has run out", i)
				}
			}
		})
	}
}

// sharers returns two owners that share one overflow cell of l, which does not
// exist yet.
func sharers(t *testing.T, s *Store, l *headgate.Prepared) (first, second string) {
	t.Helper()
	owners := make(map[ident]string)
	for i := range 1000 {
		owner := fmt.Sprintf("sharer-%d", i)
		id, number, own := s.where(owner, l)
		if _, found := s.shards[number].find(id); own || found {
			t.Fatalf("%s has a cell", owner)
		}
		if other, known := owners[id]; known {
			return other, owner
		}
		owners[id] = owner
	}
	t.Fatal("no two keys share a cell")
	return "", ""
}

// Two charges of one batch can meet in an overflow cell.
func TestBatchMeetsInOverflowCell(t *testing.T) {
	charge := func(l *headgate.Prepared, owner string, cost int64) headgate.Charge {
		return headgate.Charge{Limit: l, Owner: owner, Cost: cost}
	}
	now := time.Now().UnixMicro()
	full := func(t *testing.T) *Store {
		s := New(Config{MaxBytes: minBytes, Shards: 1})
		fill(t, s, mustPrepare(t, headgate.PerHour(1).WithName("filler")), now)
		return s
	}
	t.Run("both are charged", func(t *testing.T) {
		for _, limit := range []headgate.Limit{headgate.PerHour(5), headgate.Sliding(5, time.Hour), headgate.Log(5, time.Hour)} {
			s, l := full(t), mustPrepare(t, limit)
			a, b := sharers(t, s, l)
			if s.apply(t, headgate.Take, now, charge(l, a, 3), charge(l, b, 3)).Allowed {
				t.Fatalf("%v: 6 passed of 5", limit.Algorithm)
			}
			if !s.apply(t, headgate.Take, now, charge(l, a, 3), charge(l, b, 2)).Allowed {
				t.Fatalf("%v: 5 of 5 were refused", limit.Algorithm)
			}
			if s.apply(t, headgate.Take, now, charge(l, a, 1)).Allowed || s.apply(t, headgate.Take, now, charge(l, b, 1)).Allowed {
				t.Fatalf("%v: more than 5 passed", limit.Algorithm)
			}
		}
	})
	t.Run("one is charged and the other is not", func(t *testing.T) {
		s, l := full(t), mustPrepare(t, headgate.PerHour(5))
		a, b := sharers(t, s, l)
		if !s.apply(t, headgate.Take, now, charge(l, a, 0), charge(l, b, 5)).Allowed {
			t.Fatal("refused")
		}
		if s.apply(t, headgate.Take, now, charge(l, b, 1)).Allowed {
			t.Fatal("the cell was dropped with what was charged to it")
		}
	})
	t.Run("under two numbers", func(t *testing.T) {
		s := full(t)
		l, other := mustPrepare(t, headgate.PerHour(5).WithName("plan")), mustPrepare(t, headgate.Sliding(50, time.Hour).WithName("plan"))
		a, b := sharers(t, s, l)
		if _, err := s.attempt(headgate.Take, now, charge(l, a, 1), charge(other, b, 1)); headgate.CodeOf(err) != headgate.Overloaded {
			t.Fatalf("%v, want the code overloaded", err)
		}
		if o := s.apply(t, headgate.Peek, now, charge(l, a, 1)).Outcomes()[0]; o.Used != 0 {
			t.Fatalf("%d used by a batch that was not decided", o.Used)
		}
	})
	t.Run("two holds", func(t *testing.T) {
		s, l := full(t), mustPrepare(t, headgate.InFlight(50, time.Hour))
		a, b := sharers(t, s, l)
		for range 3 {
			if _, err := s.attempt(headgate.Take, now, charge(l, a, 1), charge(l, b, 1)); headgate.CodeOf(err) != headgate.Overloaded {
				t.Fatalf("%v, want the code overloaded", err)
			}
			s.apply(t, headgate.Take, now, charge(l, a, 1))
		}
	})
}

// Whoever shares a cell must not be banned for what strangers did.
func TestSharedCellsAreNotBanned(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	now := time.Now().UnixMicro()
	ban := mustPrepare(t, headgate.Limit{Name: "ban", Algorithm: headgate.Ban, Count: 1, Period: time.Hour, TTL: time.Hour})
	none := mustPrepare(t, headgate.PerHour(1).WithName("none"))
	charges := func(owner string) []headgate.Charge {
		return []headgate.Charge{{Limit: none, Owner: owner, Cost: 1}, {Limit: ban, Owner: owner, Cost: 1}}
	}
	early, late := charges("early"), charges("late")
	if !s.apply(t, headgate.Take, now, early...).Allowed || s.apply(t, headgate.Take, now, early...).Allowed {
		t.Fatal("the limit is 1")
	}
	if s.apply(t, headgate.Take, now, early[1]).Allowed {
		t.Fatal("a key with a cell of its own is not banned")
	}
	fill(t, s, mustPrepare(t, headgate.PerHour(1).WithName("filler")), now)
	if !s.apply(t, headgate.Take, now, late...).Allowed || s.apply(t, headgate.Take, now, late...).Allowed {
		t.Fatal("the limit is 1")
	}
	if !s.apply(t, headgate.Take, now, late[1]).Allowed {
		t.Fatal("a key without a cell of its own is banned")
	}
}

// Sweeping for room moves cells that the batch has already found.
func TestBatchSweepsForRoom(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	short, long := mustPrepare(t, headgate.PerSecond(1)), mustPrepare(t, headgate.PerHour(1000))
	now := time.Now().UnixMicro()
	owners := make([]string, 200)
	used := make([]int64, len(owners))
	for i := range owners {
		owners[i] = fmt.Sprintf("long-%d", i)
		s.apply(t, headgate.Take, now, headgate.Charge{Limit: long, Owner: owners[i], Cost: 1})
		used[i] = 1
	}
	fill(t, s, short, now)
	rng := rand.New(rand.NewPCG(11, 12))
	for n := range 2000 {
		now += 200
		charges := make([]headgate.Charge, 4)
		for j := range charges {
			i := n*4%len(owners) + j
			charges[j] = headgate.Charge{Limit: long, Owner: owners[i], Cost: 1}
			used[i]++
		}
		fresh := headgate.Charge{Limit: short, Owner: fmt.Sprintf("new-%d", n), Cost: 1}
		at := rng.IntN(len(charges))
		charges = append(charges[:at:at], append([]headgate.Charge{fresh}, charges[at:]...)...)
		b := s.apply(t, headgate.Take, now, charges...)
		if !b.Allowed && b.Outcomes()[at].Allowed {
			t.Fatalf("batch %d: %+v", n, b.Outcomes())
		}
		if !b.Allowed {
			for j := range 4 {
				used[n*4%len(owners)+j]--
			}
		}
	}
	s.shards[0].check(t)
	for i, owner := range owners {
		// An hour's 1000 refill one in 3.6 s; 0.4 s have passed.
		if o := s.apply(t, headgate.Peek, now, headgate.Charge{Limit: long, Owner: owner}).Outcomes()[0]; o.Used != used[i] {
			t.Fatalf("%s used %d, want %d", owner, o.Used, used[i])
		}
	}
}

func TestCompact(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	short, long := mustPrepare(t, headgate.Log(3, time.Second)), mustPrepare(t, headgate.Log(3, time.Hour))
	now := time.Now().UnixMicro()
	for i := range 3000 {
		s.apply(t, headgate.Take, now, headgate.Charge{Limit: short, Owner: fmt.Sprint(i), Cost: 1})
		if i%100 == 0 {
			for range 1 + i/100%3 {
				s.apply(t, headgate.Take, now, headgate.Charge{Limit: long, Owner: fmt.Sprint(i), Cost: 1})
				now++
			}
		}
	}
	// A cell under other numbers than before may not be forgotten earlier.
	slow, fast := mustPrepare(t, headgate.PerHour(10).WithName("plan")), mustPrepare(t, headgate.PerSecond(10).WithName("plan"))
	s.apply(t, headgate.Take, now, headgate.Charge{Limit: slow, Owner: "alice", Cost: 10})
	s.apply(t, headgate.Take, now, headgate.Charge{Limit: fast, Owner: "alice", Cost: 0})
	before := s.Stats()
	s.shards[0].advance(now + time.Second.Microseconds())
	for range 3 { // once more changes nothing
		s.Sweep()
		s.shards[0].advance(now + 2*time.Second.Microseconds())
	}
	st := s.Stats()
	if st.Keys != 31 || st.Bytes*10 > before.Bytes {
		t.Fatalf("%+v after %+v", st, before)
	}
	for i := range 30 {
		if o := s.apply(t, headgate.Peek, 0, headgate.Charge{Limit: long, Owner: fmt.Sprint(i * 100)}).Outcomes()[0]; o.Used != 1+int64(i%3) {
			t.Fatalf("key %d used %d", i, o.Used)
		}
	}
}

func TestInstantOutOfRange(t *testing.T) {
	origin := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	s := New(Config{Origin: origin.UnixMicro()})
	l := mustPrepare(t, headgate.PerSecond(5))
	c := headgate.Charge{Limit: l, Owner: "alice", Cost: 5}
	for _, at := range []time.Time{origin.AddDate(-9, 0, 0), origin, origin.AddDate(9, 0, 0)} {
		if !s.apply(t, headgate.Take, at.UnixMicro(), c).Allowed {
			t.Fatalf("%v: refused", at)
		}
	}
	for _, now := range []int64{origin.AddDate(-11, 0, 0).UnixMicro(), origin.AddDate(11, 0, 0).UnixMicro(), 1 << 62, -1 << 62, -1 << 63, 1<<63 - 1, 0} {
		if _, err := s.attempt(headgate.Take, now, c); headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("%d: %v, want the code invalid_request", now, err)
		}
	}
	// A sweep must not take the store to the present either.
	s.Sweep()
	at := origin.AddDate(9, 0, 0).Add(time.Second).UnixMicro()
	if b := s.apply(t, headgate.Take, at, c); b.At != at || !b.Allowed {
		t.Fatalf("decided at %d, want %d", b.At, at)
	}
}

func TestNewPanics(t *testing.T) {
	for _, c := range []Config{{MaxBytes: minBytes - 1}, {MaxBytes: -1}, {Shards: 3}, {Shards: -1}, {Shards: 2 * maxShards}, {MaxBytes: minBytes, Shards: 512}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v made a store", c)
				}
			}()
			New(c)
		}()
	}
}
