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

// mute is a table that once makes nothing, and does not say what it has.
type mute struct {
	*memTable
	once atomic.Bool
}

func (m *mute) Swap(ctx context.Context, epoch uint64, changes []Change) (Moment, error) {
	if m.once.CompareAndSwap(true, false) {
		return m.Read(ctx, nil)
	}
	return m.memTable.Swap(ctx, epoch, changes)
}

// An item of which a table names the version without the value is read again: it is
// not one that was never seen.
func TestVersionWithoutValue(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		m := &mute{memTable: table}
		s := New(Config{Table: m, Apart: table.apart})
		defer s.Close()
		l := prepare(t, year(10))
		for i := range int64(3) {
			m.once.Store(i > 0)
			if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil || b.Outcomes()[0].Used != i+1 {
				t.Errorf("%v, %d are used, want %d", err, b.Outcomes()[0].Used, i+1)
			}
		}
	})
}
