package cas

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func take(t testing.TB, s *Store, patience time.Duration, charges ...headgate.Charge) (*headgate.Batch, error) {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(headgate.Take)
	b.Patience = patience.Microseconds()
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b, s.Apply(t.Context(), b)
}

func used(t testing.TB, s *Store, owner string, l *headgate.Prepared) int64 {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(headgate.Peek)
	if _, err := b.Add(headgate.Charge{Limit: l, Owner: owner}); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b.Outcomes()[0].Used
}

// year is a window that does not end within a test.
func year(count int64) headgate.Limit {
	return headgate.Limit{Algorithm: headgate.FixedWindow, Count: count, Period: headgate.MaxPeriod}
}

// onTables runs the test on a table that changes items together, and on one that
// changes each by itself.
func onTables(t *testing.T, do func(t *testing.T, table *memTable)) {
	for name, apart := range map[string]bool{"together": false, "apart": true} {
		t.Run(name, func(t *testing.T) {
			table := newMemTable()
			table.apart = apart
			do(t, table)
		})
	}
}

// inBubbles is onTables, in a bubble of time each.
func inBubbles(t *testing.T, do func(t *testing.T, table *memTable)) {
	onTables(t, func(t *testing.T, table *memTable) {
		synctest.Test(t, func(t *testing.T) { do(t, table) })
	})
}

// Stores on one table, whose owners and parents cross, get in each other's way and
// never pass more than there is, nor less.
func TestManyStores(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		own, shared := prepare(t, year(40).WithName("own")), prepare(t, year(150).WithName("shared"))
		var passed, shares atomic.Int64
		var wait sync.WaitGroup
		var last *Store
		for range 4 {
			s := openStore(t, table, false)
			last = s
			for w := range 8 {
				wait.Go(func() {
					for i := range 30 {
						owner := fmt.Sprint("owner ", (w+i)%5)
						b, err := take(t, s, 0,
							headgate.Charge{Limit: own, Owner: owner, Cost: 1},
							headgate.Charge{Limit: shared, Owner: fmt.Sprint("org ", i%2), Cost: 1, Parent: true})
						if err != nil {
							t.Error(err)
							return
						}
						if b.Allowed {
							passed.Add(1)
							if i%2 == 0 {
								shares.Add(1)
							}
						}
					}
				})
			}
		}
		wait.Wait()
		sum := int64(0)
		for i := range 5 {
			n := used(t, last, fmt.Sprint("owner ", i), own)
			if sum += n; n > 40 {
				t.Errorf("owner %d: %d of 40", i, n)
			}
		}
		if even := used(t, last, "org 0", shared); sum != passed.Load() || sum != 200 || even != shares.Load() {
			t.Errorf("%d passed, %d are used; of org 0 %d and %d", passed.Load(), sum, shares.Load(), even)
		}
	})
}

// What the table may have done without our hearing of it is found by its version:
// it is charged once, and its caller told so.
func TestLostAnswers(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(1000))
		s := openStore(t, table, false)
		if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil {
			t.Fatal(err)
		}
		table.disturb(nil, func(n int) error {
			if n%2 == 0 {
				return &Failure{Kind: "connection", Passing: true, Err: errors.New("reset by peer")}
			}
			return nil
		})
		for range 50 {
			if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil || !b.Allowed {
				t.Fatal(err, b.Allowed)
			}
		}
		table.disturb(nil, nil)
		if n := used(t, s, "a", l); n != 51 {
			t.Errorf("%d are used, want 51", n)
		}
	})
}

// Where somebody else has changed the item since, nobody knows whether ours came
// before: the caller has an error, and what is charged stays.
func TestUnknownOutcome(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(1000))
		s, other := openStore(t, table, false), openStore(t, table, false)
		for _, s := range []*Store{s, other} {
			if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil {
				t.Fatal(err)
			}
		}
		for _, charged := range []bool{true, false} {
			fail := errors.New("reset by peer")
			var once sync.Once
			lose := func(int) (err error) {
				once.Do(func() {
					table.disturb(nil, nil) // not for the other
					if charged {
						if _, e := take(t, other, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 10}); e != nil {
							t.Error(e)
						}
					}
					err = &Failure{Kind: "connection", Passing: true, Err: fail}
				})
				return err
			}
			was := used(t, s, "a", l) // which looks at what the other has changed
			want := was + 1
			if charged {
				table.disturb(nil, lose)
				want = was + 11
			} else {
				table.disturb(lose, nil) // nothing was done, which the store cannot know
			}
			_, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
			if charged && (headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != "unknown") || !charged && err != nil {
				t.Errorf("charged %v: %v", charged, err)
			}
			if n := used(t, other, "a", l); n != want {
				t.Errorf("charged %v: %d are used, want %d", charged, n, want)
			}
		}
	})
}

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
		c.stale()
		expect("stale", 3_000, 1, false)
		c.confirmed(Moment{4_000, one})
		expect("confirmed when it was stale", 3_000, 1, false)
		c.told(Moment{2_500, one})
		expect("of the same epoch", 3_000, 1, true)
		c.stale()
		c.told(Moment{600, two})
		expect("of another epoch", 600, 2, true)
		c.confirmed(Moment{5_000, one})
		expect("confirmed late", 600, 2, true)
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

// Callers have their errors in time, whatever the table does.
func TestSilentTable(t *testing.T) {
	inBubbles(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(10))
		s := openStore(t, table, false)
		table.disturb(func(int) error {
			<-time.After(time.Hour)
			return &Failure{Kind: "timeout", Err: context.DeadlineExceeded}
		}, nil)
		start := time.Now()
		_, err := take(t, s, 25*time.Millisecond, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
		if headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != "timeout" || time.Since(start) != 25*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b := new(headgate.Batch)
		b.Reset(headgate.Take)
		if _, err := b.Add(headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(ctx, b); err == nil {
			t.Error("a caller who has gone was answered")
		}
		table.disturb(nil, nil)
	})
}

// Who has gone before anything was done for him is not charged.
func TestGoneBeforeItWasDone(t *testing.T) {
	inBubbles(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(10))
		s := openStore(t, table, false)
		table.disturb(func(n int) error {
			if n == 1 { // the read
				<-time.After(time.Second)
			}
			return nil
		}, nil)
		if _, err := take(t, s, 25*time.Millisecond, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); kindOf(err) != "timeout" {
			t.Error(err)
		}
		if n := used(t, s, "a", l); n != 0 {
			t.Errorf("%d are used", n)
		}
	})
}

// What was certainly not done is tried again, and given up after a while.
func TestTriesAgain(t *testing.T) {
	inBubbles(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(10))
		s := openStore(t, table, false)
		busy := &Failure{Kind: "busy", Unsent: true, Passing: true, Err: errors.New("too many connections")}
		table.disturb(func(n int) error {
			if n < 6 {
				return busy
			}
			return nil
		}, nil)
		if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil || !b.Allowed {
			t.Error(err, b.Allowed)
		}
		table.disturb(func(int) error { return busy }, nil)
		start := time.Now()
		_, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
		if kindOf(err) != "busy" || time.Since(start) < flightTime || time.Since(start) > 2*flightTime {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		table.disturb(func(int) error { return &Failure{Kind: "auth", Unsent: true, Err: errors.New("no rights")} }, nil)
		start = time.Now()
		if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "b", Cost: 1}); kindOf(err) != "auth" || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A damaged item refuses to be decided on, and no other does.
func TestDamagedItem(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(10))
		s := openStore(t, table, false)
		if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil {
			t.Fatal(err)
		}
		table.mu.Lock()
		x := table.items[KeyOf("a", l)]
		x.Value[len(x.Value)-1] ^= 1
		x.Version++
		table.items[x.Key] = x
		table.mu.Unlock()
		for range 2 {
			if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); headgate.CodeOf(err) != headgate.Unavailable {
				t.Error(err)
			}
		}
		if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "b", Cost: 1}); err != nil || !b.Allowed {
			t.Error(err)
		}
	})
}

// State that is larger than an item may be is refused as a store without room.
func TestLargeItem(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		table.most = 300
		l := prepare(t, headgate.Log(headgate.MaxLog, time.Hour))
		s := openStore(t, table, false)
		for i := 0; ; i++ {
			b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
			if err != nil {
				if headgate.CodeOf(err) != headgate.Overloaded || i < 3 || used(t, s, "a", l) != int64(i) {
					t.Errorf("after %d: %v", i, err)
				}
				return
			}
			if !b.Allowed || i > 300 {
				t.Fatalf("%d entries, allowed %v", i, b.Allowed)
			}
		}
	})
}

func TestCloseEndsWhatWaits(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(10))
		s := New(Config{Table: table, Apart: table.apart, Lanes: 1})
		entered, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		table.disturb(func(int) error {
			once.Do(func() { close(entered); <-goOn })
			return nil
		}, nil)
		answers := make(chan error, 2)
		ask := func() {
			_, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
			answers <- err
		}
		go ask()
		<-entered
		go ask()
		for waiting := 0; waiting == 0; {
			s.lanes[0].mu.Lock()
			waiting = len(s.lanes[0].waiting)
			s.lanes[0].mu.Unlock()
		}
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		if err := <-answers; headgate.CodeOf(err) != headgate.Closed {
			t.Error(err)
		}
		close(goOn)
		if err := <-answers; err != nil {
			t.Error("what was on its way: ", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); headgate.CodeOf(err) != headgate.Closed {
			t.Error(err)
		}
	})
}

// What a batch was answered on a state that is out of date by now does not go into the
// decision on the present one: here, the reservation of an earlier request with its key.
func TestDecidedAgainAsAsked(t *testing.T) {
	table := newMemTable()
	s, other := openStore(t, table, false), openStore(t, table, false)
	w := prepare(t, headgate.Window(10, time.Hour).WithName("window"))
	keys := prepare(t, headgate.Limit{Name: "keys", Algorithm: headgate.Idempotency, Count: 4, TTL: time.Hour})
	ask := func(hold uint64) *headgate.Batch {
		t.Helper()
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: w, Owner: "alice", Cost: 1}, headgate.Charge{Limit: keys, Owner: "alice"})
		b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{5, 5}, Print: 1}, hold
		if err := s.Apply(t.Context(), b); err != nil || !b.Allowed {
			t.Fatal(err, b.Allowed)
		}
		return b
	}
	ask(1)
	if err := other.Apply(t.Context(), batchOf(t, headgate.Reset, headgate.Charge{Limit: keys, Owner: "alice"})); err != nil {
		t.Fatal(err)
	}
	if b := ask(2); b.Replayed || b.Hold != 2 {
		t.Errorf("after the key was forgotten: replayed %v, hold %d", b.Replayed, b.Hold)
	}
	if b := ask(3); !b.Replayed || b.Hold != 2 {
		t.Errorf("asked again: replayed %v, hold %d, want that of the first", b.Replayed, b.Hold)
	}
}
