package redisstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// eventually waits until done returns "", and fails with what it returned last.
func eventually(t testing.TB, done func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		last := done()
		if last == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still not: %s", last)
		}
	}
}

// holdFrom has execution number n return only when the test lets it.
func holdFrom(s *Store, n int64) (letGo func()) {
	gate := make(chan struct{})
	meddleWith(s, func(_ int, i int64) func(error) error {
		if i != n {
			return nil
		}
		return func(err error) error {
			<-gate
			return err
		}
	})
	return sync.OnceFunc(func() { close(gate) })
}

// A charge whose caller has gone before the answer came is given back: windows and
// slots in their own time, reservations and trials by their hold. Of a bucket it is
// kept: giving it back could mint.
func TestLateChargeIsGivenBack(t *testing.T) {
	hold := uint64(77)
	for _, test := range []struct {
		limit   headgate.Limit
		reserve bool
		want    int64
	}{
		{headgate.Limit{Algorithm: headgate.FixedWindow, Count: 10, Period: headgate.MaxPeriod}, false, 1},
		{headgate.Sliding(10, 1000*time.Hour), false, 1},
		{headgate.Log(10, 1000*time.Hour), false, 1},
		{headgate.QuotaPer(10, headgate.Year), false, 1},
		{headgate.InFlight(10, time.Hour), false, 1},
		{headgate.Per(10, 1000*time.Hour), false, 4},
		{headgate.Per(10, 1000*time.Hour), true, 1},
		{headgate.QuotaPer(10, headgate.Year), true, 1},
	} {
		t.Run(fmt.Sprintf("%v reserve %v", test.limit.Algorithm, test.reserve), func(t *testing.T) {
			s := openStore(t, Config{URL: redistest.Shared(t).URL(prefixed())})
			c := headgate.Charge{Limit: prepare(t, test.limit.WithName("limit")), Owner: "alice", Cost: 1}
			ask := func(cost int64, patience time.Duration) (*headgate.Batch, error) {
				c.Cost = cost
				b := batchOf(t, headgate.Take, c)
				b.Hold, b.Patience = hold, patience.Microseconds()
				if test.reserve {
					b.HoldFor = time.Hour.Microseconds()
				}
				return b, s.Apply(t.Context(), b)
			}
			if b, err := ask(1, 0); err != nil || !b.Allowed {
				t.Fatal(err, b.Allowed)
			}
			hold++
			letGo := holdFrom(s, 1)
			defer letGo()
			if _, err := ask(3, 20*time.Millisecond); headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != kindTimeout {
				t.Fatal(err)
			}
			letGo()
			eventually(t, func() string {
				if st := s.Stats(); st.Late != 1 || st.Undone != 1 {
					return fmt.Sprintf("%+v", st)
				}
				return ""
			})
			if n := used(t, s, "alice", c.Limit); n != test.want {
				t.Errorf("%d are used, want %d", n, test.want)
			}
		})
	}
}

// Who asks again with the key of a request whose answer did not come is told that
// it was allowed: so its charge must stay when the answer comes.
func TestLateChargeOfAKeyStays(t *testing.T) {
	url := redistest.Shared(t).URL(prefixed())
	a, b := openStore(t, Config{URL: url}), openStore(t, Config{URL: url})
	window := prepare(t, headgate.Limit{Name: "window", Algorithm: headgate.FixedWindow, Count: 5, Period: headgate.MaxPeriod})
	once := prepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Name: "once", Count: 64, TTL: time.Hour})
	for _, reserve := range []bool{false, true} {
		owner := fmt.Sprint("reserve ", reserve)
		ask := func(s *Store, key, hold uint64, patience time.Duration) (*headgate.Batch, error) {
			x := batchOf(t, headgate.Take, headgate.Charge{Limit: once, Owner: owner, Parent: true}, headgate.Charge{Limit: window, Owner: owner, Cost: 1})
			x.Key, x.Patience = headgate.RequestKey{ID: [2]uint64{key, 2}, Print: 3}, patience.Microseconds()
			if reserve {
				x.Hold, x.HoldFor = hold, time.Hour.Microseconds()
			}
			return x, s.Apply(t.Context(), x)
		}
		admitted := 0
		for i := range uint64(8) {
			letGo := holdFrom(a, 1)
			if _, err := ask(a, i+1, 1000+i, 20*time.Millisecond); kindOf(err) != kindTimeout {
				t.Fatal(err)
			}
			again, err := ask(b, i+1, 2000+i, 0) // at another node
			if err != nil {
				t.Fatal(err)
			}
			if again.Allowed {
				admitted++
				if !again.Replayed || reserve && again.Hold != 1000+i {
					t.Errorf("request %d: replayed %v, hold %d", i, again.Replayed, again.Hold)
				}
			}
			letGo()
			landed(t, a)
		}
		if n := used(t, b, owner, window); admitted != 5 || n != 5 {
			t.Errorf("%s: %d admitted by a window of 5, %d used", owner, admitted, n)
		}
	}
}

// landed waits until nothing of the store is on its way.
func landed(t *testing.T, s *Store) {
	t.Helper()
	eventually(t, func() string {
		s.partitions[0].mu.Lock()
		defer s.partitions[0].mu.Unlock()
		if n := s.partitions[0].flights + s.partitions[0].abandoned; n != 0 {
			return fmt.Sprintf("%d flights", n)
		}
		return ""
	})
}

// A shadow that refused was not charged, so nothing of it is given back.
func TestLateShadowThatRefused(t *testing.T) {
	s := openStore(t, Config{URL: redistest.Shared(t).URL(prefixed())})
	window := prepare(t, headgate.Limit{Name: "window", Algorithm: headgate.FixedWindow, Count: 5, Period: headgate.MaxPeriod})
	other := prepare(t, headgate.Limit{Name: "other", Algorithm: headgate.FixedWindow, Count: 100, Period: headgate.MaxPeriod})
	if b, err := take(t, s, headgate.Charge{Limit: window, Owner: "alice", Cost: 5}); err != nil || !b.Allowed {
		t.Fatal(err, b.Allowed)
	}
	letGo := holdFrom(s, 1)
	defer letGo()
	b := batchOf(t, headgate.Take, headgate.Charge{Limit: other, Owner: "alice", Cost: 1}, headgate.Charge{Limit: window, Owner: "alice", Cost: 5, Shadow: true})
	b.Patience = 20_000
	if err := s.Apply(t.Context(), b); kindOf(err) != kindTimeout {
		t.Fatal(err)
	}
	letGo()
	eventually(t, func() string {
		if st := s.Stats(); st.Undone != 1 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if n, m := used(t, s, "alice", window), used(t, s, "alice", other); n != 5 || m != 0 {
		t.Errorf("%d and %d are used, want 5 and 0", n, m)
	}
}

// Answers that charged nothing, or something that may be done twice, are left
// alone.
func TestLateAnswersThatAreLeftAlone(t *testing.T) {
	s := openStore(t, Config{URL: redistest.Shared(t).URL(prefixed())})
	l := prepare(t, headgate.Limit{Algorithm: headgate.FixedWindow, Count: 10, Period: headgate.MaxPeriod})
	for i, test := range []struct {
		op         headgate.Op
		cost, want int64
	}{
		{headgate.Peek, 1, 0},
		{headgate.Take, 11, 0}, // refused
		{headgate.Debit, 3, 3},
		{headgate.Refund, 1, 2},
	} {
		letGo := holdFrom(s, 1)
		b := batchOf(t, test.op, headgate.Charge{Limit: l, Owner: "alice", Cost: test.cost})
		b.Patience = 20_000
		if err := s.Apply(t.Context(), b); kindOf(err) != kindTimeout {
			t.Fatal(err)
		}
		letGo()
		late := int64(0)
		if test.op == headgate.Take {
			late = 1
		}
		landed(t, s)
		if n := used(t, s, "alice", l); n != test.want {
			t.Errorf("%d: after %v %d are used, want %d", i, test.op, n, test.want)
		}
		if st := s.Stats(); st.Undone != 0 || st.Late > 1 || st.Late < late {
			t.Errorf("%d: %+v", i, st)
		}
	}
}

// A server that stands still: its callers have their errors in time, and what it
// charges when it goes on is given back.
func TestServerStandsStill(t *testing.T) {
	server := redistest.Standalone(t)
	s := openStore(t, Config{URL: server.URL()})
	l := prepare(t, headgate.Limit{Algorithm: headgate.FixedWindow, Count: 1000, Period: headgate.MaxPeriod})
	c := headgate.Charge{Limit: l, Owner: "alice", Cost: 1}
	if b, err := take(t, s, c); err != nil || !b.Allowed {
		t.Fatal(err)
	}
	server.Pause(t)
	var passed, failures atomic.Int64
	passed.Store(1)
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for range 20 {
				b := batchOf(t, headgate.Take, c)
				b.Patience = 25_000
				switch err := s.Apply(t.Context(), b); {
				case err != nil && kindOf(err) != kindTimeout:
					t.Error(err)
				case err != nil:
					failures.Add(1)
				case b.Allowed:
					passed.Add(1)
				}
			}
		})
	}
	wait.Wait()
	if failures.Load() != 16*20 {
		t.Errorf("%d of %d failed", failures.Load(), 16*20)
	}
	server.Resume(t)
	eventually(t, func() string {
		b, err := take(t, s, c)
		if err != nil {
			return err.Error()
		}
		passed.Add(1)
		if o := b.Outcomes()[0]; o.Used != passed.Load() {
			return fmt.Sprintf("%d are used, %d have passed; %+v", o.Used, passed.Load(), s.Stats())
		}
		return ""
	})
	if st := s.Stats(); st.Late == 0 || st.Undone == 0 {
		t.Errorf("%+v", st)
	}
}

// While a server is away callers have their errors at once or in time, and when it
// is back it is another one.
func TestServerIsKilled(t *testing.T) {
	server := redistest.Standalone(t)
	var mu sync.Mutex
	kinds := map[string]int{}
	s := openStore(t, Config{URL: server.URL(), Observe: func(op string, took time.Duration, kind string) {
		mu.Lock()
		defer mu.Unlock()
		if op != "take" || took < 0 {
			t.Errorf("%s took %v", op, took)
		}
		kinds[kind]++
	}})
	l := ten(t)
	if !allowed(t, s, l, 1) {
		t.Fatal("refused")
	}
	server.Kill(t)
	for range 20 {
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
		b.Patience = 25_000
		if err := s.Apply(t.Context(), b); headgate.CodeOf(err) != headgate.Unavailable {
			t.Fatal(err)
		}
	}
	server.Restart(t)
	eventually(t, func() string {
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
		if err := s.Apply(t.Context(), b); err != nil {
			return err.Error()
		}
		return ""
	})
	if kinds[kindDial] < 15 || kinds[""] < 2 {
		t.Errorf("%v", kinds)
	}
	// It had kept nothing, and this client remembers it.
	if allowed(t, s, l, 1) {
		t.Error("a bucket of another incarnation is full")
	}
}

// Close ends in time though the server stands still, and what waits fails.
func TestCloseWhileServerStandsStill(t *testing.T) {
	server := redistest.Standalone(t)
	s := openStore(t, Config{URL: server.URL()})
	l := ten(t)
	server.Pause(t)
	defer server.Resume(t)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
			if err := s.Apply(t.Context(), b); err == nil {
				t.Error("decided")
			}
		})
	}
	eventually(t, func() string {
		s.partitions[0].mu.Lock()
		defer s.partitions[0].mu.Unlock()
		if s.partitions[0].flights == 0 {
			return "no flight is on its way"
		}
		return ""
	})
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > parting+3*time.Second {
		t.Errorf("closed after %v", took)
	}
	wait.Wait()
	b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
	if err := s.Apply(t.Context(), b); headgate.CodeOf(err) != headgate.Closed {
		t.Error(err)
	}
	if _, err := s.Nodes(t.Context(), [2]uint64{1, 1}, time.Second); headgate.CodeOf(err) != headgate.Closed {
		t.Error(err)
	}
	if err := s.Acquire(t.Context(), []headgate.LeaseRequest{{Limit: l, Owner: "alice"}}, make([]headgate.LeaseReply, 1)); headgate.CodeOf(err) != headgate.Closed {
		t.Error(err)
	}
}

// A full server is overloaded, not away, and goes on when there is room again.
func TestFullServer(t *testing.T) {
	server := redistest.Standalone(t)
	s := openStore(t, Config{URL: server.URL()})
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	b, err := take(t, s, headgate.Charge{Limit: ten(t), Owner: "bob", Cost: 1})
	if headgate.CodeOf(err) != headgate.Overloaded || kindOf(err) != kindMemory {
		t.Errorf("%v, allowed %v", err, b.Allowed)
	}
	server.Do(t, "CONFIG", "SET", "maxmemory", "0")
	if !allowed(t, s, ten(t), 10) {
		t.Error("refused")
	}
}

// A primary that becomes a replica refuses, and nobody is charged.
func TestPrimaryBecomesReplica(t *testing.T) {
	server, other := redistest.Standalone(t), redistest.Standalone(t)
	s := openStore(t, Config{URL: server.URL()})
	other.Kill(t) // or what it follows would at some instant replace the state, which is another case
	server.Do(t, "REPLICAOF", "127.0.0.1", fmt.Sprint(other.Port()))
	b := batchOf(t, headgate.Take, headgate.Charge{Limit: ten(t), Owner: "alice", Cost: 1})
	b.Patience = 50_000
	err := s.Apply(t.Context(), b)
	if kind := kindOf(err); kind != kindReadOnly && kind != kindDown && kind != kindLoading {
		t.Errorf("%v (%s)", err, kind)
	}
}
