package memstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

func prepare(t *testing.T, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// one decides op with a batch of one charge at an instant.
func one(t *testing.T, s *Store, op headgate.Op, p *headgate.Prepared, owner string, cost, now int64) headgate.Decision {
	t.Helper()
	var b headgate.Batch
	b.Reset(op)
	b.Now = now
	if _, err := b.Add(headgate.Charge{Limit: p, Owner: owner, Cost: cost}); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Decision()
}

// A key answers, whether it is pinned or asked for by its name, what batches in
// another store answer, to the microsecond.
func TestSinglesEqualBatches(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.PerSecond(10).WithBurst(25),
		headgate.PerMinute(7).WithBurst(3),
		headgate.Per(1, time.Microsecond).WithBurst(1000),
		{Count: 3000, Period: 7 * time.Millisecond, Burst: 50},
		headgate.PerSecond(1000).WithBurst(10_000), // takes ahead
	} {
		synctest.Test(t, func(t *testing.T) { singlesEqualBatches(t, limit) })
	}
}

func singlesEqualBatches(t *testing.T, limit headgate.Limit) {
	r := rand.New(rand.NewPCG(7, 11))
	singles, batches := New(Config{}), New(Config{})
	lim, err := headgate.New(singles, limit)
	if err != nil {
		t.Fatal(err)
	}
	p := lim.Limits()[0]
	other := prepare(t, headgate.Limit{Name: p.Name, Count: p.Count, Period: p.Period, Burst: p.Burst + 5})
	ctx := t.Context()
	k := lim.Key("alice")
	cell, _ := singles.Pin(p, "alice")
	at, ahead, stretch := cell.(*pin), 0, 0
	for range 20_000 {
		x, now := at.word.Load(), singles.Now()-singles.origin
		if r.IntN(10) == 0 && x != parked && at.far(x, now) && at.plenty(x, now) {
			at.spreadOut(false)
			ahead++
		}
		pause := r.Int64N(1 + 2*p.P/p.N)
		if r.IntN(200) == 0 {
			pause += r.Int64N(1 + 2*p.Cap/p.N)
		}
		<-time.After(time.Duration(pause) * time.Microsecond)
		cost := r.Int64N(min(p.Burst, 4) + 1)
		if r.IntN(50) == 0 {
			cost = r.Int64N(2*p.Burst) + 1
		}
		var got headgate.Decision
		var err error
		op, under := headgate.Take, p
		what := r.IntN(200)
		if r.IntN(40) == 0 {
			stretch = r.IntN(20)
		}
		if stretch--; stretch > 0 {
			what = 150 // one after the other, or nothing is spent from what is taken ahead
		}
		switch {
		case what == 0:
			op = headgate.Refund
		case what == 1:
			op = headgate.Debit
		case what == 2:
			op = headgate.Reset
		case what == 3:
			under = other
		case what < 20:
			op = headgate.Peek
		}
		want := one(t, batches, op, under, "alice", cost, 0)
		switch {
		case what < 4:
			got = one(t, singles, op, under, "alice", cost, 0)
		case what < 10:
			got, err = k.Peek(ctx, cost)
		case what < 20:
			got, err = lim.Peek(ctx, "alice", cost)
		case what < 80:
			got, err = k.Take(ctx, cost)
		case what < 120:
			got, err = lim.Take(ctx, "alice", cost)
		case what < 140:
			got = one(t, singles, op, under, "alice", cost, 0)
		case what < 170:
			got = want
			got.Allowed, err = k.Allow(ctx, cost)
		default:
			got = want
			got.Allowed, err = k.AllowAt(ctx, singles.Now(), cost)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%v: %v (%d) of %d:\n got %+v\nwant %+v", p.Name, op, what, cost, got, want)
		}
	}
	if limit.Burst >= 10_000 && ahead < 100 {
		t.Errorf("%v: tokens were taken ahead %d times only", p.Name, ahead)
	}
	k.Close()
	cell.Close()
}

// Whoever asks in whatever way, all of the burst is given out and no more.
func TestSpreadGivesOutTheBurst(t *testing.T) {
	for _, burst := range []int64{10, 5_000, 200_000} {
		s := New(Config{})
		lim, err := headgate.New(s, headgate.PerHour(1).WithBurst(burst))
		if err != nil {
			t.Fatal(err)
		}
		other := prepare(t, headgate.PerHour(1_000_000).WithName("other"))
		ctx := context.Background()
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				k := lim.Key("alice")
				defer k.Close()
				r := rand.New(rand.NewPCG(uint64(n), uint64(burst)))
				for refused := 0; refused < 3; {
					var allowed bool
					var err error
					switch r.IntN(1000) {
					case 0:
						var d headgate.Decision
						d, err = lim.Take(ctx, "alice", 1)
						allowed = d.Allowed
					case 1:
						var d headgate.Decision
						d, err = k.Take(ctx, 1)
						allowed = d.Allowed
					case 2:
						var b headgate.Batch
						_, _ = b.Add(headgate.Charge{Limit: lim.Limits()[0], Owner: "alice", Cost: 1})
						_, _ = b.Add(headgate.Charge{Limit: other, Owner: "bob", Cost: 1})
						err = s.Apply(ctx, &b)
						allowed = b.Allowed
					case 3:
						_, err = lim.Peek(ctx, "alice", 1)
					case 4:
						k.Close()
						k = lim.Key("alice")
					default:
						allowed, err = k.Allow(ctx, 1)
						if !allowed {
							refused++
						}
					}
					if err != nil {
						t.Error(err)
						return
					}
					if allowed {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if got := admitted.Load(); got != burst {
			t.Errorf("%d admitted, want %d", got, burst)
		}
		_ = s.Close()
	}
}

// No more than burst + rate x time is admitted while the bucket refills.
func TestSpreadKeepsTheRate(t *testing.T) {
	const burst = 20_000
	s := New(Config{})
	defer s.Close()
	lim, err := headgate.New(s, headgate.Per(1, time.Microsecond).WithBurst(burst))
	if err != nil {
		t.Fatal(err)
	}
	k := lim.Key("alice")
	defer k.Close()
	ctx := context.Background()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 4 {
		wg.Go(func() {
			n := int64(0)
			for i := range 200_000 {
				cost := int64(1 + i%3)
				ok, err := k.Allow(ctx, cost)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					n += cost
				}
			}
			admitted.Add(n)
		})
	}
	wg.Wait()
	bound := burst + time.Since(start).Microseconds() + 1
	if got := admitted.Load(); got > bound || got < burst {
		t.Errorf("%d admitted, want %d to %d", got, burst, bound)
	}
}

// However processors take turns, what they are allowed passes a bucket that is
// asked at the same instants; and when they no longer ask, nothing is lost.
func TestSlotsKeepTheLaw(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.PerSecond(10_000).WithBurst(10_000),
		headgate.PerHour(1).WithBurst(10_000),
	} {
		synctest.Test(t, func(t *testing.T) { slotsKeepTheLaw(t, limit) })
	}
}

func slotsKeepTheLaw(t *testing.T, limit headgate.Limit) {
	r := rand.New(rand.NewPCG(3, 9))
	s, reference := New(Config{}), New(Config{})
	p := prepare(t, limit)
	cell, _ := s.Pin(p, "alice")
	pin := cell.(*pin)
	one(t, s, headgate.Take, p, "alice", 1, 0)
	one(t, reference, headgate.Take, p, "alice", 1, 0)
	cell.Allow(0, 0) // takes the state out of the table
	used := make(map[*slot]bool)
	for range 200_000 {
		if r.IntN(4) == 0 {
			<-time.After(time.Duration(r.Int64N(200)) * time.Microsecond)
		}
		if r.IntN(5000) == 0 {
			<-time.After(time.Duration(r.Int64N(2 * int64(time.Second))))
		}
		tm, ok := s.now(0)
		if x := pin.word.Load(); !ok || x != parked && pin.plenty(x, tm) {
			pin.spreadOut(true)
		}
		cost := 1 + r.Int64N(3)
		allowed := false
		if sp := pin.spread.Load(); sp != nil {
			sl := &sp.slots[r.IntN(len(sp.slots))]
			if allowed = sl.spend(sp, cost); allowed {
				used[sl] = true
			} else {
				allowed, _ = pin.slow(cost, tm, sl)
			}
		} else {
			allowed, _ = cell.Allow(cost, 0)
		}
		if allowed {
			if d := one(t, reference, headgate.Take, p, "alice", cost, 0); !d.Allowed {
				t.Fatalf("%v: %d tokens were allowed, of which the bucket held %d", p.Name, cost, d.Remaining)
			}
		}
	}
	if len(used) < 4 {
		t.Errorf("%v: tokens were spent from %d slots only", p.Name, len(used))
	}
	<-time.After(3 * watchEvery)
	synctest.Wait()
	want := one(t, reference, headgate.Peek, p, "alice", 1, 0)
	level, _, _ := cell.Decide(headgate.Peek, 1)
	if got := level / p.P; got > want.Remaining || p.N < p.P/1_000_000 && got != want.Remaining {
		t.Errorf("%v: %d tokens are left, want %d", p.Name, got, want.Remaining)
	}
	cell.Close()
}

// What processors took ahead is charged once it is spent, and does not refill
// before.
func TestSpreadIsEscrow(t *testing.T) { synctest.Test(t, spreadIsEscrow) }

func spreadIsEscrow(t *testing.T) {
	s := New(Config{})
	defer s.Close()
	p := prepare(t, headgate.PerSecond(1_000_000).WithBurst(100_000))
	c, _ := s.Pin(p, "alice")
	if d := one(t, s, headgate.Take, p, "alice", 1, 0); !d.Allowed {
		t.Fatal(d)
	}
	if ok, decided := c.Allow(1, 0); !ok || !decided {
		t.Fatal("not pinned")
	}
	pin := c.(*pin)
	pin.spreadOut(true)
	if pin.spread.Load() == nil {
		t.Fatal("not spread")
	}
	for range 10 {
		if ok, decided := c.Allow(1, 0); !ok || !decided {
			t.Fatal("refused from a slot")
		}
	}
	pin.shard.mu.Lock()
	out := pin.slots.out
	pin.shard.mu.Unlock()
	if out != pin.ahead {
		t.Errorf("%d tokens are out, want %d", out, pin.ahead)
	}
	<-time.After(time.Millisecond) // the bucket would be full
	level, _, decided := c.Decide(headgate.Peek, 1)
	if left := level / p.P; !decided || left < p.Burst-pin.ahead || left > p.Burst-5 {
		t.Errorf("%d tokens: want what was spent from the slot to be charged as of now", left)
	}
}

// When processors no longer ask, what they spent is charged and the rest given
// back: the bucket fills up.
func TestSpreadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		p := prepare(t, headgate.PerSecond(1_000_000).WithBurst(100_000))
		c, _ := s.Pin(p, "alice")
		one(t, s, headgate.Take, p, "alice", 1, 0)
		pin := c.(*pin)
		allow := func() {
			if ok, decided := c.Allow(1, 0); !ok || !decided {
				t.Fatal("refused")
			}
		}
		allow()
		for range 2 {
			pin.spreadOut(true)
			for range 3 * pin.ahead {
				allow()
			}
			<-time.After(watchEvery)
			synctest.Wait()
			if pin.spread.Load() == nil {
				t.Fatal("ended while processors ask")
			}
			<-time.After(watchEvery)
			synctest.Wait()
			if pin.spread.Load() != nil {
				t.Fatal("still spread")
			}
			<-time.After(time.Millisecond)
			if level, _, _ := c.Decide(headgate.Peek, 1); level != p.Cap {
				t.Errorf("level %d of %d after a pause", level, p.Cap)
			}
		}
		c.Close()
	})
}

// A pinned key is not dropped, and eviction gives nothing away.
func TestPinnedKeysStay(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	lim, err := headgate.New(s, headgate.PerHour(5))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	k := lim.Key("alice")
	for range 5 {
		if ok, err := k.Allow(ctx, 1); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	for i := range 60_000 {
		if _, err := lim.Take(ctx, fmt.Sprint(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	s.Sweep()
	for _, ask := range []func() (headgate.Decision, error){
		func() (headgate.Decision, error) { return k.Take(ctx, 1) },
		func() (headgate.Decision, error) { return lim.Take(ctx, "alice", 1) },
	} {
		if d, err := ask(); err != nil || d.Allowed {
			t.Fatal(d, err)
		}
	}
	_ = s.Close()
	if _, err := k.Allow(ctx, 1); err == nil {
		t.Error("a closed store decides")
	}
	k.Close()
}

// Keys that are closed or collected leave nothing but their state.
func TestPinsAreFreed(t *testing.T) {
	s := New(Config{Shards: 1})
	defer s.Close()
	lim, err := headgate.New(s, headgate.PerHour(5))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	pins := func() int {
		s.shards[0].mu.Lock()
		defer s.shards[0].mu.Unlock()
		return len(s.shards[0].pins)
	}
	a, b := lim.Key("alice"), lim.Key("alice")
	for _, k := range []*headgate.Key{a, b, a} {
		if ok, err := k.Allow(ctx, 1); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	if n := pins(); n != 1 {
		t.Fatalf("%d pins, want 1 for two handles of one key", n)
	}
	a.Close()
	b.Close()
	if n := pins(); n != 0 {
		t.Errorf("%d pins are left after Close", n)
	}
	func() {
		k := lim.Key("alice")
		if d, err := k.Take(ctx, 1); err != nil || d.Remaining != 1 {
			t.Fatal(d, err)
		}
	}()
	for range 1000 {
		runtime.GC()
		if pins() == 0 {
			break
		}
	}
	if n := pins(); n != 0 {
		t.Errorf("%d pins are left of keys that were collected", n)
	}
	if d, err := lim.Take(ctx, "alice", 1); err != nil || !d.Allowed || d.Remaining != 0 {
		t.Errorf("%+v, %v: the state is lost", d, err)
	}
}

// A key for which processors wait is found without a lock, and the places are
// given back.
func TestPromotion(t *testing.T) {
	s := New(Config{Shards: 1})
	defer s.Close()
	p := prepare(t, headgate.PerHour(1_000_000))
	sh := &s.shards[0]
	left := int64(1_000_000)
	for i := range 20 * hots {
		owner := fmt.Sprint(i)
		if _, allowed, ok := s.One(headgate.Take, p, owner, 1); !ok || !allowed {
			t.Fatal(allowed, ok)
		}
		cell, _ := s.Pin(p, owner)
		id := cell.(*pin).id
		cell.Close()
		sh.mu.Lock()
		for range promoteEvery {
			s.promote(sh, id, p)
		}
		sh.mu.Unlock()
		if sh.hotPin(id, p) == nil {
			t.Fatalf("key %d is not promoted", i)
		}
		if level, _, ok := s.One(headgate.Take, p, owner, 1); !ok || level/p.P != left-2 {
			t.Fatal(level, ok)
		}
		if d := one(t, s, headgate.Take, p, owner, 1, 0); d.Remaining != left-3 {
			t.Fatal(d)
		}
	}
	if n := len(sh.pins); n > hots {
		t.Errorf("%d keys are promoted, want at most %d", n, hots)
	}
	s.Sweep()
	if n := len(sh.pins); n != 0 {
		t.Errorf("%d keys are promoted after a sweep", n)
	}
}
