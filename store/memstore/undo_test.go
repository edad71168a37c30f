package memstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/internal/racetest"
)

// checkStore fails unless every shard is whole: its table in order, each block
// of its arena referenced by one entry or on one free list, never both, its
// bytes within its budget, its overflow cells counted, and the limits under
// which it keeps state known.
func (s *Store) checkStore(t *testing.T) {
	t.Helper()
	var shared int64
	for n := range s.shards {
		sh := &s.shards[n]
		sh.check(t)
		if sh.bytes() > sh.budget {
			t.Fatalf("shard %d: %d bytes of %d", n, sh.bytes(), sh.budget)
		}
		holder := make([]string, len(sh.arena.words))
		claim := func(at int64, class int, by string) {
			for i := at; i < at+int64(classWords(class)); i++ {
				if i >= int64(len(holder)) || holder[i] != "" {
					t.Fatalf("shard %d: word %d of %d is held by %s and by %s", n, i, len(holder), by, holder[min(i, int64(len(holder)-1))])
				}
				holder[i] = by
			}
		}
		own := 0
		for i := range sh.table {
			e := &sh.table[i]
			if e.version == 0 {
				continue
			}
			if s.versions.known[e.version&^wide] == nil {
				t.Fatalf("shard %d, place %d: limit %d is not known", n, i, e.version&^wide)
			}
			if e.lo&sharedBit != 0 {
				own++
			}
			if e.version&wide != 0 {
				claim(e.state>>classBits, int(e.state&(1<<classBits-1)), fmt.Sprint("place ", i))
			}
		}
		if own != sh.shared {
			t.Fatalf("shard %d: %d overflow cells, it counts %d", n, own, sh.shared)
		}
		shared += int64(own)
		for id, ref := range sh.leases {
			if at, found := sh.find(id); !found {
				t.Fatalf("shard %d: accounts of a state that is not there", n)
			} else {
				claim(ref>>classBits, int(ref&(1<<classBits-1)), fmt.Sprint("accounts of place ", at))
			}
		}
		for class, head := range sh.arena.free {
			for ; head != 0; head = sh.arena.words[head-1] {
				claim(head-1, class, fmt.Sprint("free list ", class))
			}
		}
		for i, by := range holder {
			if by == "" {
				t.Fatalf("shard %d: word %d of %d has leaked", n, i, len(holder))
			}
		}
	}
	if got := s.overflowed.Load(); got != shared {
		t.Fatalf("%d overflow cells, the store counts %d", shared, got)
	}
}

// view is what a cell means: the limit that it is kept under and what that
// limit answers now and later. It does not depend on the size of a block.
type view struct {
	limit    *headgate.Prepared
	keep     int64
	outcomes [9]headgate.Outcome
}

type place struct {
	shard int
	id    ident
}

func answers(l *headgate.Prepared, st []int64, now int64) (o [9]headgate.Outcome) {
	for j := range 6 {
		later := now + []int64{0, 1_500_000, 8_000_000}[j/2]
		algo.Apply(&algo.Call{Op: headgate.Peek, Now: later, Cost: int64(j % 2)}, l, slices.Clone(st), &o[j])
	}
	for j := range uint64(3) { // what settling finds
		algo.Apply(&algo.Call{Op: headgate.Settle, Now: now, Hold: j + 1}, l, slices.Clone(st), &o[6+j])
	}
	return o
}

// views returns all cells that differ from "never seen".
func (s *Store) views(now int64) map[place]view {
	all := make(map[place]view)
	for n := range s.shards {
		sh := &s.shards[n]
		for i := range sh.table {
			e := &sh.table[i]
			if e.version == 0 {
				continue
			}
			l := s.versions.get(e.version &^ wide)
			var two [2]int64
			st, keep := s.words(sh, e, l, now, &two)
			if now >= max(keep, algo.AbsentAt(l, st)) {
				continue
			}
			v := view{limit: l, keep: max(keep, now), outcomes: answers(l, st, now)}
			unseen := make([]int64, algo.Words(l))
			algo.Init(l, unseen, now)
			if v.outcomes != answers(l, unseen, now) {
				all[place{n, ident{e.hi, e.lo}}] = v
			}
		}
	}
	return all
}

// keysVariant is the place of the idempotency limits among the variants.
const keysVariant = 5

// attacker makes random batches for few keys of limits whose numbers flip.
type attacker struct {
	s        *Store
	rng      *rand.Rand
	variants [][]headgate.Limit
	prepared [][]*headgate.Prepared
	now      int64
	mixed    bool // one batch may hold two versions of a limit
	owners   int

	refused, failed, undone, overflow, moved, conflicts, replayed int
}

func (a *attacker) prepare(t *testing.T, i, j int) {
	l := a.variants[i][j]
	l.Name = fmt.Sprint("limit-", i)
	a.prepared[i][j] = mustPrepare(t, l)
}

func (a *attacker) batch(t *testing.T) *headgate.Batch {
	b := new(headgate.Batch)
	b.Reset([]headgate.Op{headgate.Take, headgate.Take, headgate.Take, headgate.Take, headgate.Take, headgate.Take, headgate.Peek,
		headgate.Refund, headgate.Debit, headgate.Release, headgate.Renew, headgate.Reset, headgate.Settle, headgate.Settle}[a.rng.IntN(14)])
	b.Now, b.Hold = a.now, 1+a.rng.Uint64N(6)
	if a.rng.IntN(3) == 0 {
		b.HoldFor = 1 + a.rng.Int64N(10_000_000)
	}
	if a.rng.IntN(4) == 0 {
		b.MaxDelay = 1 + a.rng.Int64N(5_000_000)
	}
	if a.rng.IntN(3) == 0 {
		b.Key = headgate.RequestKey{ID: [2]uint64{a.rng.Uint64N(5), 1}, Print: a.rng.Uint64N(2)}
	}
	chosen := make(map[int]*headgate.Prepared)
	if b.Key != (headgate.RequestKey{}) {
		chosen[keysVariant] = a.prepared[keysVariant][a.rng.IntN(2)]
		if _, err := b.Add(headgate.Charge{Limit: chosen[keysVariant], Owner: fmt.Sprint(a.rng.IntN(2))}); err != nil {
			t.Fatal(err)
		}
	}
	for range 1 + a.rng.IntN(4) {
		i := a.rng.IntN(len(a.variants))
		j := a.rng.IntN(len(a.variants[i]))
		if a.rng.IntN(30) == 0 {
			a.prepare(t, i, j)
		}
		l := a.prepared[i][j]
		if known := chosen[i]; known != nil && !a.mixed {
			l = known
		}
		chosen[i] = l
		c := headgate.Charge{
			Limit: l, Owner: fmt.Sprint(a.rng.IntN(a.owners)), Cost: []int64{0, 1, 1, 1, 2, 3, 50}[a.rng.IntN(7)],
			Shadow: a.rng.IntN(8) == 0, Parent: a.rng.IntN(8) == 0,
		}
		if _, err := b.Add(c); err != nil && !a.mixed {
			t.Fatal(err)
		}
	}
	return b
}

// step applies a batch. If it was refused or failed, nothing may have changed
// but cells that were carried over: shared ones, those of charges that their
// own new numbers refuse, and bans.
func (a *attacker) step(t *testing.T) {
	b := a.batch(t)
	now := a.now
	for n := range a.s.shards {
		now = max(now, a.s.shards[n].last)
	}
	for n := range a.s.shards {
		a.s.shards[n].advance(now) // the batch's own instant may be earlier
	}
	before := a.s.views(now)
	err := a.s.Apply(t.Context(), b)
	a.s.checkStore(t)
	if a.s.overflowed.Load() > 0 {
		a.overflow++
	}
	if err != nil {
		switch headgate.CodeOf(err) {
		case headgate.Overloaded:
			a.failed++
		case headgate.Conflict:
			a.conflicts++
		default:
			t.Fatal(err)
		}
	}
	if err == nil && (b.Allowed || b.Op != headgate.Take) {
		a.moved++
		if !b.Replayed {
			return
		}
		a.replayed++
	}
	a.refused++
	after := a.s.views(now)
	free := make(map[place]bool)
	limits := make(map[ident]bool)
	cells := make([]cell, len(b.Charges()))
	a.s.locate(cells, b.Charges())
	for i, c := range b.Charges() {
		p := place{int(cells[i].number), cells[i].id}
		old, known := before[p]
		if known && !old.limit.SameNumbers(c.Limit) {
			a.undone++
		}
		o := &b.Outcomes()[i]
		if err != nil && b.Op != headgate.Take && b.Op != headgate.Debit && known && !old.limit.SameNumbers(c.Limit) {
			free[p] = true // carried over for good
			continue
		}
		free[p] = err == nil && (c.Limit.Algorithm == headgate.Ban || known && !old.limit.SameNumbers(c.Limit) && !o.Allowed && !o.Never)
		for class := range uint64(1 + sharedClasses) {
			limits[overflowID(c.Limit, class, sharedBit)] = true
			limits[overflowID(c.Limit, class, sharedBit|lastBit)] = true
		}
	}
	for p, v := range before {
		got, ok := after[p]
		if free[p] || limits[p.id] && (a.mixed || !ok || !got.limit.SameNumbers(v.limit)) {
			continue
		}
		got.limit = v.limit
		if !ok || got != v {
			t.Fatalf("%v %v (error %v) of %+v changed %v:\n%+v\n%+v (there: %v), outcomes %+v", b.Op, b.Allowed, err, b.Charges(), p, v, got, ok, b.Outcomes())
		}
	}
	for p, v := range after {
		if _, ok := before[p]; !ok && !free[p] && !limits[p.id] {
			t.Fatalf("%v (error %v) of %+v made a cell %v: %+v", b.Op, err, b.Charges(), p, v)
		}
	}
}

func TestRandomBatchesLeaveTheStoreWhole(t *testing.T) {
	racetest.Alone(t)
	ban := headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: 5 * time.Second, TTL: 3 * time.Second}
	longBan := ban
	longBan.Count, longBan.TTL = 5, 6*time.Second
	leaky := headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 4, Period: 10 * time.Second}
	variants := [][]headgate.Limit{
		{headgate.Per(5, 10*time.Second), headgate.Per(3, 20*time.Second), headgate.Sliding(4, 10*time.Second)},
		{headgate.Log(6, 10*time.Second), headgate.Log(3, 5*time.Second), headgate.InFlight(9, 8*time.Second)},
		{headgate.InFlight(12, 9*time.Second), headgate.InFlight(3, 20*time.Second), headgate.QuotaPer(5, headgate.Hour)},
		{headgate.Window(4, 10*time.Second), headgate.Sliding(5, 8*time.Second).WithSlices(1), leaky},
		{ban, longBan, headgate.Per(4, 10*time.Second)},
		{{Algorithm: headgate.Idempotency, Count: 3, TTL: 5 * time.Second}, {Algorithm: headgate.Idempotency, Count: 9, TTL: 9 * time.Second}},
		{headgate.Log(40, 30*time.Second), headgate.Sliding(20, 20*time.Second).WithSlices(50)},
	}
	for _, test := range []struct {
		name   string
		budget int64
		owners int
		mixed  bool
	}{
		{"roomy", 1 << 20, 8, false},
		{"small", 6500, 12, false},
		{"tiny", 5000, 20, false},
		{"least", 4096, 40, false},
		{"mixed", 5000, 20, true},
		{"mixed least", 4096, 40, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			sum := attacker{owners: test.owners}
			for seed := range uint64(4) {
				a := &attacker{rng: rand.New(rand.NewPCG(seed, 11)), variants: variants, mixed: test.mixed, owners: test.owners}
				for i := range variants {
					a.prepared = append(a.prepared, make([]*headgate.Prepared, len(variants[i])))
					for j := range variants[i] {
						a.prepare(t, i, j)
					}
				}
				a.now = time.Date(2000, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro()
				a.s = New(Config{MaxBytes: minBytes, Shards: 2, Origin: a.now})
				for i := range a.s.shards {
					a.s.shards[i].budget = test.budget
				}
				for range 500 {
					switch a.rng.IntN(40) {
					case 0:
						a.s.Sweep()
					case 1:
						a.s.collectVersions()
					case 2:
						a.now += a.rng.Int64N(12_000_000)
					default:
						a.now += a.rng.Int64N(300_000) - 50_000
					}
					a.step(t)
				}
				if err := a.s.Close(); err != nil {
					t.Fatal(err)
				}
				a.s.checkStore(t)
				sum.refused += a.refused
				sum.failed += a.failed
				sum.undone += a.undone
				sum.overflow += a.overflow
				sum.moved += a.moved
				sum.conflicts += a.conflicts
				sum.replayed += a.replayed
			}
			full := test.budget > 5000 || sum.failed > 0 && sum.overflow > 0
			t.Logf("%d refused, %d failed, %d undone, %d moved, %d with overflow cells, %d replayed, %d conflicts",
				sum.refused, sum.failed, sum.undone, sum.moved, sum.overflow, sum.replayed, sum.conflicts)
			if sum.refused == 0 || sum.undone == 0 || sum.moved == 0 || !full || sum.owners < 20 && (sum.replayed == 0 || sum.conflicts == 0) {
				t.Error("the batches reached too little")
			}
		})
	}
}

// A key that has spent its limit is refused, not told that the store is full,
// when the block of its state is full too: who fails open on errors would let
// it pass. One that has not is told so.
func TestSpentKeyIsRefusedInFullStore(t *testing.T) {
	for _, limit := range []headgate.Limit{headgate.InFlight(4, time.Hour), headgate.Log(3, time.Hour)} {
		for more := range int64(2) {
			t.Run(fmt.Sprint(limit.Algorithm, more), func(t *testing.T) {
				s := New(Config{MaxBytes: minBytes, Shards: 1})
				s.shards[0].budget = 6000
				now := s.Now()
				spent := limit
				spent.Count += more
				alice := headgate.Charge{Limit: mustPrepare(t, spent), Owner: "alice", Cost: 1}
				for i := range limit.Count {
					if !s.apply(t, headgate.Take, now+i, alice).Allowed {
						t.Fatal("refused")
					}
				}
				now += limit.Count
				filler := mustPrepare(t, headgate.InFlight(5, time.Hour).WithName("filler"))
				for i := range 2400 {
					c := headgate.Charge{Limit: filler, Owner: fmt.Sprint(i % 400), Cost: 1}
					if _, err := s.attempt(headgate.Take, now, c); err != nil && headgate.CodeOf(err) != headgate.Overloaded {
						t.Fatal(err)
					}
				}
				b, err := s.attempt(headgate.Take, now, alice)
				if b.Allowed || (headgate.CodeOf(err) == headgate.Overloaded) != (more == 1) {
					t.Errorf("with %d left: allowed %v, error %v", more, b.Allowed, err)
				}
				s.checkStore(t)
			})
		}
	}
}
