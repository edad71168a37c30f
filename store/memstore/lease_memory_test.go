package memstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
)

// borrow acquires at an instant.
func (s *Store) borrow(t testing.TB, now int64, r headgate.LeaseRequest) headgate.LeaseReply {
	t.Helper()
	replies := make([]headgate.LeaseReply, 1)
	if err := s.acquire(t.Context(), now, []headgate.LeaseRequest{r}, replies); err != nil {
		t.Fatal(err)
	}
	return replies[0]
}

// next is what the holder reports that was answered so, of which it has spent all.
func next(r headgate.LeaseRequest, got headgate.LeaseReply, want int64) headgate.LeaseRequest {
	r.Epoch, r.Window, r.Granted, r.Settled, r.Want = got.Epoch, got.Window, got.Granted, got.Granted, want
	return r
}

// Accounts count as memory. Where there is no more, nothing is leased to those
// who come; who has a lease goes on with it.
func TestLeasesAreBounded(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	now := s.Now()
	l := mustPrepare(t, headgate.PerSecond(2000))
	ask := func(owner string, holder uint64) headgate.LeaseRequest {
		return headgate.LeaseRequest{Limit: l, Owner: owner, Holder: [2]uint64{holder}, Want: 1, Min: 1}
	}
	first := ask("first", 1)
	got := s.borrow(t, now, first)
	granted, failed := 0, 0
	for i := range 40_000 {
		switch p := s.borrow(t, now, ask(fmt.Sprint(i/50), uint64(i+2))); p.Status {
		case headgate.LeaseOK:
			granted++
		case headgate.LeaseFailed:
			if p != (headgate.LeaseReply{Status: headgate.LeaseFailed}) {
				t.Fatalf("%+v", p)
			}
			failed++
		default:
			t.Fatalf("%+v", p)
		}
		if i%1000 == 0 {
			s.checkStore(t)
		}
	}
	if granted < 5000 || failed < 1000 {
		t.Errorf("%d granted, %d failed", granted, failed)
	}
	s.checkStore(t)
	if got = s.borrow(t, now, next(first, got, 1)); got.Status != headgate.LeaseOK || got.Granted != 2 {
		t.Errorf("%+v", got)
	}
	for _, hot := range []bool{false, true} {
		// A minute later none counts: memory is given back, all or most of it.
		if hot {
			s.apply(t, headgate.Take, now+60_000_000, headgate.Charge{Limit: l, Owner: "first", Cost: 1})
		}
		s.sweep(&s.shards[0], 1<<17, now+60_000_000)
		s.shards[0].shrink(2)
		s.checkStore(t)
		if st := s.Stats(); hot && (st.Keys != 1 || st.Bytes > 4096) || !hot && st.Bytes != 0 || s.shards[0].leases != nil {
			t.Errorf("%+v", st)
		}
	}
}

// A key without room for a cell is not leased, and told how its shared one stands.
func TestSharedCellsAreNotLeased(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	now := s.Now()
	filler, l := mustPrepare(t, headgate.PerHour(9).WithName("filler")), mustPrepare(t, headgate.Window(5000, time.Hour).WithName("limit"))
	fill(t, s, filler, now)
	a, b := sharers(t, s, l)
	s.apply(t, headgate.Take, now, headgate.Charge{Limit: l, Owner: a, Cost: 30})
	r := headgate.LeaseRequest{Limit: l, Owner: b, Holder: [2]uint64{1}}
	if got := s.borrow(t, now, r); got.Status != headgate.LeaseOK || !got.State.Shared || got.State.Used != 30 {
		t.Errorf("%+v", got)
	}
	if r.Want = 10; s.borrow(t, now, r).Status != headgate.LeaseFailed {
		t.Error("a cell that keys share was leased")
	}
	s.checkStore(t)
	// With room, the key's own cell begins as the one that it has shared.
	for i := range s.Stats().Keys {
		s.apply(t, headgate.Reset, now, headgate.Charge{Limit: filler, Owner: fmt.Sprintf("filler-%d", i)})
	}
	s.shards[0].shrink(2)
	if got := s.borrow(t, now, r); got.Granted != 10 || got.State.Shared || got.State.Used != 40 || !got.State.Leased {
		t.Errorf("%+v", got)
	}
	s.checkStore(t)
}

// Who holds leases goes on with them when memory is tidied up.
func TestAccountsMove(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	now := s.Now()
	l, filler := mustPrepare(t, headgate.QuotaPer(5000, headgate.Year)), mustPrepare(t, headgate.Window(5, time.Second).WithName("filler"))
	for i := range 3000 {
		s.apply(t, headgate.Take, now, headgate.Charge{Limit: filler, Owner: fmt.Sprint(i), Cost: 1})
		if i%1000 == 500 {
			r := headgate.LeaseRequest{Limit: l, Owner: fmt.Sprint(i), Holder: [2]uint64{uint64(i), 1}, Want: 300}
			if got := s.borrow(t, now, r); got.Granted != 300 {
				t.Fatalf("%+v", got)
			}
		}
	}
	now += 1_000_000
	before := s.Stats().Bytes
	s.sweep(&s.shards[0], 1<<17, now)
	s.shards[0].shrink(2)
	s.checkStore(t)
	if after := s.Stats().Bytes; after > before/10 {
		t.Errorf("%d bytes, %d before", after, before)
	}
	for _, i := range []int{500, 1500, 2500} {
		r := headgate.LeaseRequest{Limit: l, Owner: fmt.Sprint(i), Holder: [2]uint64{uint64(i), 1}}
		r = next(r, headgate.LeaseReply{Epoch: s.epoch.ID, Window: s.borrow(t, now, r).Window, Granted: 300}, 0)
		r.Returned = 100
		if got := s.borrow(t, now, r); got.Status != headgate.LeaseOK || got.State.Used != 200 || got.State.Leased {
			t.Errorf("%+v", got)
		}
	}
	if s.sweep(&s.shards[0], 1<<17, now+1_400_000); len(s.shards[0].leases) != 3 {
		t.Errorf("%d accounts, want 3", len(s.shards[0].leases))
	}
	if s.sweep(&s.shards[0], 1<<17, now+1_600_000); s.shards[0].leases != nil || s.Stats().Keys != 3 {
		t.Errorf("%d accounts of holders that are silent, %d states", len(s.shards[0].leases), s.Stats().Keys)
	}
	s.checkStore(t)
}

// A key at hand is leased like any other, and is not decided by its word while
// something is out.
func TestPinnedKeysAreLeased(t *testing.T) {
	s := New(Config{})
	l := mustPrepare(t, headgate.Per(5000, 1000*time.Hour))
	p, ok := s.Pin(l, "alice")
	if !ok {
		t.Fatal("not pinned")
	}
	defer p.Close()
	now := s.Now()
	s.apply(t, headgate.Take, now, headgate.Charge{Limit: l, Owner: "alice", Cost: 100})
	if allowed, ok := p.Allow(50, 0); !allowed || !ok {
		t.Fatal("the key is not at hand")
	}
	r := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 300}
	if got := s.borrow(t, s.Now(), r); got.Granted != 300 || got.State.Used != 450 {
		t.Fatalf("%+v", got)
	}
	if _, ok := p.Allow(1, 0); ok {
		t.Error("a state of which something is out was decided by a word")
	}
	s.apply(t, headgate.Take, s.Now()+1_600_000, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
	if allowed, ok := p.Allow(1, s.Now()+1_600_000); !allowed || !ok {
		t.Error("the key is not at hand again")
	}
}

// When nothing is leased any more a bucket is kept in one word again.
func TestBucketsArePackedAfterLeases(t *testing.T) {
	s := New(Config{Shards: 1})
	l := mustPrepare(t, headgate.Per(5000, 1000*time.Hour))
	alice := headgate.Charge{Limit: l, Owner: "alice", Cost: 1}
	now := s.Now()
	packed := func() bool {
		id, _, _ := s.where("alice", l)
		at, _ := s.shards[0].find(id)
		s.checkStore(t)
		return s.shards[0].table[at].version&wide == 0
	}
	s.apply(t, headgate.Take, now, alice)
	s.borrow(t, now, headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{1}, Want: 100})
	for i, want := range []bool{false, true} {
		now += 750_000
		if o := s.apply(t, headgate.Take, now, alice).Outcomes()[0]; o.Used != 102+int64(i) || o.Leased == want || packed() != want {
			t.Fatalf("%+v, packed %v", o, packed())
		}
	}
}

// A batch that is refused leaves leases as they were, also where it would have
// voided them, and whatever is swept meanwhile.
func TestRefusalsVoidNoLeases(t *testing.T) {
	s := New(Config{Shards: 1})
	now := s.Now()
	minute, second := mustPrepare(t, headgate.Window(5000, time.Minute).WithName("w")), mustPrepare(t, headgate.Window(5000, time.Second).WithName("w"))
	empty, fresh := mustPrepare(t, headgate.PerHour(1).WithName("empty")), mustPrepare(t, headgate.PerHour(1).WithName("fresh"))
	charge := func(l *headgate.Prepared) headgate.Charge { return headgate.Charge{Limit: l, Owner: "alice", Cost: 1} }
	s.apply(t, headgate.Take, now, charge(empty))
	r := headgate.LeaseRequest{Limit: minute, Owner: "alice", Holder: [2]uint64{1}, Want: 300}
	s.borrow(t, now, r)
	for range 200 {
		if b := s.apply(t, headgate.Take, now, charge(fresh), charge(second), charge(empty)); b.Allowed || b.Outcomes()[1].Leased || !b.Outcomes()[1].Allowed {
			t.Fatalf("%+v", b.Outcomes())
		}
		if o := s.apply(t, headgate.Peek, now, charge(minute)).Outcomes()[0]; o.Used != 300 || !o.Leased {
			t.Fatalf("%+v", o)
		}
		s.checkStore(t)
	}
	s.apply(t, headgate.Take, now, charge(second))
	if got := s.borrow(t, now, r); got.State.Leased && got.State.Used != 301+300 || got.Granted != 300 {
		t.Errorf("%+v", got)
	}
	s.checkStore(t)
}

// Whatever is asked, no block of memory is lost or kept twice, and in the end
// nothing is left.
func TestLeasesLeaveNothingBehind(t *testing.T) {
	racetest.Alone(t)
	var limits [][]*headgate.Prepared
	for i, f := range [][]headgate.Limit{
		{headgate.PerSecond(1000).WithBurst(5000), headgate.PerHour(2000), {Algorithm: headgate.LeakyBucket, Count: 1000, Period: time.Second}},
		{headgate.Window(5000, time.Second), headgate.Window(2000, time.Second), headgate.Window(5000, time.Minute), headgate.PerSecond(3000)},
		{headgate.Sliding(3000, 6*time.Second), headgate.Sliding(3000, 6*time.Second).WithSlices(60), headgate.Log(3000, time.Second)},
		{headgate.QuotaPer(3000, headgate.Hour), headgate.PerSecond(1).WithBurst(2000)},
	} {
		limits = append(limits, nil)
		for _, l := range f {
			limits[i] = append(limits[i], mustPrepare(t, l.WithName(fmt.Sprint("family-", i))))
		}
	}
	filler := mustPrepare(t, headgate.Sliding(3, 3*time.Second).WithName("filler"))
	for seed := range uint64(3) {
		s := New(Config{MaxBytes: minBytes, Shards: 1 << (seed % 3)})
		rng := rand.New(rand.NewPCG(seed, 3))
		now, leased := s.Now(), 0
		pick := func() headgate.Charge {
			f := limits[rng.IntN(len(limits))]
			return headgate.Charge{Limit: f[rng.IntN(len(f))], Owner: fmt.Sprint(rng.IntN(5)), Cost: rng.Int64N(40)}
		}
		for i := range 2500 {
			if rng.IntN(3) == 0 {
				now += rng.Int64N(100_000)
			}
			switch rng.IntN(10) {
			case 0, 1, 2, 3:
				c := pick()
				got := s.borrow(t, now, headgate.LeaseRequest{Limit: c.Limit, Owner: c.Owner, Holder: [2]uint64{rng.Uint64N(20)}, Want: rng.Int64N(100)})
				if got.Granted > 0 {
					leased++
				}
			case 4: // strangers fill the memory
				for range rng.IntN(800) {
					s.attempt(headgate.Take, now, headgate.Charge{Limit: filler, Owner: fmt.Sprint(rng.Uint32()), Cost: 1})
				}
			default:
				charges := []headgate.Charge{pick()}
				for range rng.IntN(3) {
					if c := pick(); !slices.ContainsFunc(charges, func(o headgate.Charge) bool { return o.Limit.ID == c.Limit.ID && o.Owner == c.Owner }) {
						charges = append(charges, c)
					}
				}
				ops := []headgate.Op{headgate.Take, headgate.Take, headgate.Take, headgate.Peek, headgate.Debit, headgate.Settle, headgate.Refund, headgate.Release, headgate.Reset}
				op := ops[rng.IntN(len(ops))]
				s.holding(t, op, 1+rng.Uint64N(9), now, map[bool]int64{op == headgate.Take: rng.Int64N(2) * 500_000}[true], charges...)
			}
			if i%100 == 0 {
				s.checkStore(t)
			}
		}
		if leased < 120 {
			t.Errorf("seed %d: %d leased", seed, leased)
		}
		for i := range s.shards {
			s.sweep(&s.shards[i], 1<<17, now+1e15)
			s.shards[i].shrink(2)
		}
		s.checkStore(t)
		if st := s.Stats(); st.Keys != 0 || st.Bytes != 0 {
			t.Errorf("seed %d: %+v", seed, st)
		}
	}
}
