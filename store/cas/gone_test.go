package cas

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

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

// What was certainly not done is tried again for those who wait, and not for those who
// have gone since. What may have been done is asked again as it was.
func TestGoneWhileItIsTriedAgain(t *testing.T) {
	for unsent, want := range map[bool]int64{true: 101, false: 111} {
		inBubbles(t, func(t *testing.T, table *memTable) {
			l := prepare(t, year(1000))
			s := openStore(t, table, false)
			start := time.Now()
			table.disturb(func(n int) error {
				switch {
				case n == 1: // the read of the first group
					<-time.After(10 * time.Millisecond)
				case n > 2 && time.Since(start) < time.Second:
					return &Failure{Kind: "busy", Unsent: unsent, Passing: true, Err: errors.New("too many connections")}
				}
				return nil
			}, nil)
			var wait sync.WaitGroup
			ask := func(cost int64, patience, answered time.Duration) {
				wait.Go(func() {
					_, err := take(t, s, patience, headgate.Charge{Limit: l, Owner: "a", Cost: cost})
					if gone := patience > 0; gone != (kindOf(err) == "timeout") || gone != (err != nil) || time.Since(start) < answered {
						t.Errorf("%d: %v after %v", cost, err, time.Since(start))
					}
				})
				synctest.Wait()
			}
			ask(1, 0, 10*time.Millisecond)
			ask(10, 25*time.Millisecond, 25*time.Millisecond)
			ask(100, 0, time.Second)
			wait.Wait()
			if n := used(t, s, "a", l); n != want {
				t.Errorf("unsent %v: %d are used, want %d", unsent, n, want)
			}
			table.disturb(func(int) error { return nil }, nil)
		})
	}
}

// Who waits beside one who has gone is answered by the table, not by what was known.
func TestConfirmedBesideGone(t *testing.T) {
	inBubbles(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(10))
		s := New(Config{Table: table, Apart: table.apart, Lanes: 1})
		defer s.Close()
		used(t, s, "a", l) // nothing
		if _, err := take(t, openStore(t, table, false), 0, headgate.Charge{Limit: l, Owner: "a", Cost: 5}); err != nil {
			t.Fatal(err)
		}
		start, first := time.Now(), table.calls+1
		table.disturb(func(n int) error {
			if n == first { // the read of the next group
				<-time.After(10 * time.Millisecond)
			}
			return nil
		}, nil)
		table.meddleWith(func(changes []Change) func() error {
			if changes[0].Items[0].Old.Key != KeyOf("a", l) || time.Since(start) > time.Second {
				return nil
			}
			return func() error {
				return &Failure{Kind: "busy", Unsent: true, Passing: true, Err: errors.New("too many connections")}
			}
		})
		var wait sync.WaitGroup
		peek := func(owner string, patience time.Duration, want int64) {
			wait.Go(func() {
				b := batchOf(t, headgate.Peek, headgate.Charge{Limit: l, Owner: owner})
				b.Patience = patience.Microseconds()
				if err := s.Apply(t.Context(), b); (err != nil) != (patience > 0) || b.Outcomes()[0].Used != want {
					t.Errorf("%s: %v, %d are used, want %d", owner, err, b.Outcomes()[0].Used, want)
				}
			})
			synctest.Wait()
		}
		peek("b", 0, 0)
		peek("a", 25*time.Millisecond, 0)
		peek("a", 0, 5)
		wait.Wait()
	})
}

// While a group is on its way, callers who have gone are not kept.
func TestGoneAreForgotten(t *testing.T) {
	inBubbles(t, func(t *testing.T, table *memTable) {
		l := prepare(t, year(1000))
		s := New(Config{Table: table, Apart: table.apart, Lanes: 1})
		defer s.Close()
		table.disturb(func(n int) error {
			if n == 1 {
				<-time.After(time.Minute)
			}
			return nil
		}, nil)
		const stay, leave = 10, 1003
		var wait sync.WaitGroup
		for range stay + 1 { // the first one is on its way
			wait.Go(func() {
				if b, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil || !b.Allowed {
					t.Error(err, b.Allowed)
				}
			})
			synctest.Wait()
		}
		for range leave {
			if _, err := take(t, s, time.Millisecond, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); kindOf(err) != "timeout" {
				t.Error(err)
			}
		}
		lane := &s.lanes[0]
		waiting := func() (n, gone int) {
			lane.mu.Lock()
			defer lane.mu.Unlock()
			return len(lane.waiting), lane.gone
		}
		if n, gone := waiting(); n > 2*stay || gone != n-stay || gone == 0 {
			t.Errorf("%d calls wait, of which %d for nobody; %d callers are there", n, gone, stay)
		}
		wait.Wait()
		if n := used(t, s, "a", l); n != stay+1 {
			t.Errorf("%d are used, want %d", n, stay+1)
		}
		if n, gone := waiting(); n != 0 || gone != 0 {
			t.Errorf("%d calls wait, of which %d for nobody", n, gone)
		}
	})
}
