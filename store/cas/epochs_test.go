package cas

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

// A table that began anew is decided on under its own epoch: buckets are empty.
func TestAnotherEpoch(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		l := prepare(t, headgate.PerHour(10))
		s := openStore(t, table, false)
		if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil || !b.Allowed {
			t.Fatal(err, b.Allowed)
		}
		table.mu.Lock()
		table.epoch = headgate.Epoch{ID: 2, Since: time.Now().Add(time.Second).UnixMicro()}
		table.mu.Unlock()
		for _, owner := range []string{"a", "never seen"} {
			if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: owner, Cost: 1}); err != nil || b.Allowed {
				t.Errorf("%s: %v, allowed %v", owner, err, b.Allowed)
			}
		}
	})
}

// Limits that begin anew do so by the clock of the server that is there then, also
// where that is behind: nothing is refilled, and no window opens, before it says so.
func TestFailoverToSlowClock(t *testing.T) {
	inBubbles(t, func(t *testing.T, table *memTable) {
		s := openStore(t, table, false)
		bucket, window := prepare(t, headgate.Per(100, time.Second).WithBurst(1000)), prepare(t, year(1000))
		passed := func(l *headgate.Prepared) (n int64) {
			for range 500 {
				b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
				if err != nil {
					t.Fatal(err)
				}
				if b.Allowed {
					n++
				}
			}
			return n
		}
		if b, w := passed(bucket), passed(window); b != 500 || w != 500 {
			t.Fatalf("%d and %d passed", b, w)
		}
		const behind, lease = 5 * time.Second, time.Second
		table.mu.Lock()
		clear(table.items)
		table.behind = behind
		table.epoch = headgate.Epoch{ID: 2, Since: time.Now().Add(lease - behind).UnixMicro()}
		table.mu.Unlock()
		for _, at := range []struct {
			after          time.Duration
			bucket, window int64
		}{{0, 0, 0}, {lease - time.Millisecond, 0, 0}, {lease + 100*time.Millisecond, 109, 500}} {
			<-time.After(at.after)
			if b, w := passed(bucket), passed(window); b != at.bucket || w != at.window {
				t.Errorf("%v later: %d passed, want %d; in the window %d, want %d", at.after, b, at.bucket, w, at.window)
			}
		}
	})
}

// Within an epoch the clock does not go back, and a late answer of an epoch that is
// over does not bring that back.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		expect := func(what string, now int64, epoch uint64, known bool) {
			t.Helper()
			if m, is := c.present(); m.Now != now || m.Epoch.ID != epoch || is != known {
				t.Errorf("%s: %+v, known %v; want %d of %d, %v", what, m, is, now, epoch, known)
			}
		}
		one, two := headgate.Epoch{ID: 1}, headgate.Epoch{ID: 2, Since: 700}
		expect("never told", 0, 0, false)
		c.confirmed(Moment{500, one})
		expect("confirmed before it was told", 0, 0, false)
		c.told(Moment{1_000, one})
		c.told(Moment{900, one})
		expect("told of an earlier instant", 1_000, 1, true)
		<-time.After(1024 * time.Microsecond)
		expect("later", 2_023, 1, true)
		c.confirmed(Moment{3_000, one})
		expect("confirmed", 3_000, 1, true)
		c.stale(1)
		expect("stale", 3_000, 1, false)
		c.confirmed(Moment{4_000, one})
		expect("confirmed when it was stale", 3_000, 1, false)
		c.told(Moment{2_500, one})
		expect("of the same epoch", 3_000, 1, true)
		c.stale(1)
		c.told(Moment{600, two})
		c.stale(1)
		expect("of another epoch", 600, 2, true)
		c.confirmed(Moment{5_000, one})
		expect("confirmed late", 600, 2, true)
		c.told(Moment{500, headgate.Epoch{ID: 3}})
		c.stale(3)
		expect("over before it was read", 500, 3, false)
	})
}

// stale is the failure of a table that is another one, which may have written.
func stale(wrote bool) error {
	return &Failure{Kind: "epoch", Unsent: !wrote, Stale: true, Err: errors.New("another epoch")}
}

// What a table may have written before it said that it is another one is not decided
// again: it would be found to be done, or done twice.
func TestStaleAfterWriting(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		s := openStore(t, table, false)
		l := prepare(t, year(1000))
		charge := headgate.Charge{Limit: l, Owner: "a", Cost: 1}
		for i, wrote := range []bool{true, false} {
			var once sync.Once
			table.meddleWith(func(changes []Change) (after func() error) {
				once.Do(func() {
					if !wrote {
						changes[0].Items[0].Old.Version++ // so that it is not made
					}
					after = func() error { return stale(wrote) }
				})
				return after
			})
			b, err := take(t, s, 0, charge)
			if wrote && (headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != "epoch") || !wrote && (err != nil || !b.Allowed) {
				t.Errorf("wrote %v: %v", wrote, err)
			}
			if n := used(t, s, "a", l); n != int64(i+1) {
				t.Errorf("wrote %v: %d are used, want %d", wrote, n, i+1)
			}
		}
	})
}

// halves is a table that makes the first of two changes when it is asked for both, and
// is another one when it is asked for the second.
type halves struct {
	*memTable
	asked atomic.Int64 // for both
}

func (h *halves) Swap(ctx context.Context, epoch uint64, changes []Change) (Moment, error) {
	if len(changes) == 2 {
		h.asked.Add(1)
		changes[1].Err = &Failure{Kind: "busy", Unsent: true, Passing: true, Err: errors.New("too many requests")}
		return h.memTable.Swap(ctx, epoch, changes[:1])
	}
	if h.asked.CompareAndSwap(1, 2) {
		return Moment{}, stale(false)
	}
	return h.memTable.Swap(ctx, epoch, changes)
}

// What was made before the table was another one is not made again.
func TestStaleLater(t *testing.T) {
	table := &halves{memTable: apartTable()}
	s := New(Config{Table: table, Apart: true, Lanes: 1})
	defer s.Close()
	l := prepare(t, year(10))
	entered, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	table.disturb(func(int) error {
		once.Do(func() { close(entered); <-goOn })
		return nil
	}, nil)
	var wait sync.WaitGroup
	ask := func(owner string) {
		wait.Go(func() {
			if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: owner, Cost: 1}); err != nil || !b.Allowed {
				t.Error(owner, err, b.Allowed)
			}
		})
	}
	ask("first")
	<-entered
	ask("a")
	ask("b")
	for waiting := 0; waiting < 2; {
		s.lanes[0].mu.Lock()
		waiting = len(s.lanes[0].waiting)
		s.lanes[0].mu.Unlock()
	}
	close(goOn)
	wait.Wait()
	for _, owner := range []string{"first", "a", "b"} {
		if n := used(t, s, owner, l); n != 1 || table.asked.Load() != 2 {
			t.Errorf("%s has used %d, want 1", owner, n)
		}
	}
}

// A group is not decided where the epoch is said to be over after it was looked at: it
// is looked at again, and decided at an instant of the epoch that is there then.
func TestOverBeforeItIsDecided(t *testing.T) {
	table := newMemTable()
	s := New(Config{Table: table, Lanes: 1})
	defer s.Close()
	lane := &s.lanes[0]
	table.disturb(nil, func(n int) error {
		if n == 1 {
			lane.mu.Lock() // the group goes on when it is unlocked
		}
		return nil
	})
	start := time.Now().UnixMicro()
	var b *headgate.Batch
	var err error
	var wait sync.WaitGroup
	wait.Go(func() {
		b, err = take(t, s, 0, headgate.Charge{Limit: prepare(t, year(10)), Owner: "a", Cost: 1})
	})
	for told := false; !told; runtime.Gosched() {
		s.clock.mu.Lock()
		told = !s.clock.at.IsZero()
		s.clock.mu.Unlock()
	}
	s.clock.stale(1)
	lane.mu.Unlock()
	wait.Wait()
	if err != nil || !b.Allowed || b.At < start {
		t.Errorf("%v, allowed %v at %d, asked at %d", err, b.Allowed, b.At, start)
	}
	if rounds := s.Stats().Rounds; rounds != 1 || table.calls != 3 {
		t.Errorf("%d rounds and %d calls, want 1, and 3: to look twice and to write", rounds, table.calls)
	}
}
