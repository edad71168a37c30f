package memstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
)

// Limits are forgotten while others come, are converted to and run out: what a
// cell is kept under must always be known.
func TestVersionsAreCollectedUnderUse(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 4})
	limits := func(i int) headgate.Limit {
		switch i % 4 {
		case 0:
			return headgate.Per(int64(5+i%7), time.Millisecond)
		case 1:
			return headgate.Window(int64(5+i%7), time.Millisecond)
		case 2:
			return headgate.Per(int64(5+i%7), time.Hour)
		default:
			return headgate.Log(int64(5+i%7), time.Millisecond)
		}
	}
	var workers, collector sync.WaitGroup
	done := make(chan struct{})
	collector.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			if n%2 == 0 {
				s.Sweep()
			} else {
				s.collectVersions()
			}
		}
	})
	for g := range 4 {
		workers.Go(func() {
			var b headgate.Batch
			for i := range 3000 {
				b.Reset(headgate.Op(i % 7))
				for j := range 1 + i%3 {
					l := mustPrepare(t, limits(i+g).WithName(fmt.Sprint("limit-", j)))
					// A cost of 0 and one that is refused leave no cell behind.
					c := headgate.Charge{Limit: l, Owner: fmt.Sprint(i % 50), Cost: int64(i % 9)}
					if _, err := b.Add(c); err != nil {
						t.Error(err)
					}
				}
				if err := s.Apply(context.Background(), &b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	close(done)
	collector.Wait()
	s.collectVersions()
	if n := len(s.versions.known); n > 150 { // 50 owners of 3 limits
		t.Errorf("%d limits are known", n)
	}
	live := s.apply(t, headgate.Peek, 0, headgate.Charge{Limit: mustPrepare(t, headgate.PerHour(5).WithName("limit-0")), Owner: "0"})
	if live.Outcomes()[0].Limit != 5 {
		t.Errorf("%+v", live.Outcomes()[0])
	}
}

func TestVersionsAreCollectedWhenDue(t *testing.T) {
	s := New(Config{MaxBytes: minBytes, Shards: 1})
	kept := mustPrepare(t, headgate.PerHour(5).WithName("kept"))
	s.apply(t, headgate.Take, 0, headgate.Charge{Limit: kept, Owner: "alice", Cost: 3})
	most := 0
	for i := range 5000 {
		l := mustPrepare(t, headgate.PerHour(int64(5+i)).WithName("changing"))
		s.apply(t, headgate.Take, 0, headgate.Charge{Limit: l, Owner: "bob", Cost: 1})
		most = max(most, len(s.versions.known))
	}
	if most < 1000 || most > 1100 {
		t.Errorf("up to %d limits were known, want about 1024", most)
	}
	if o := s.apply(t, headgate.Peek, 0, headgate.Charge{Limit: kept, Owner: "alice"}).Outcomes()[0]; o.Used != 3 {
		t.Errorf("%+v", o)
	}
}

// A store that knows as many limits as it may looks for some to forget once a
// second, and finds them without anybody calling Sweep.
func TestTooManyVersions(t *testing.T) {
	racetest.Alone(t)
	const second = 1_000_000
	now := int64(hour)
	s := New(Config{Origin: now, Shards: 1})
	take := func(i int) error {
		l := mustPrepare(t, headgate.Window(int64(1+i), 24*time.Hour).WithName("limit"))
		_, err := s.attempt(headgate.Take, now, headgate.Charge{Limit: l, Owner: fmt.Sprint(i), Cost: 1})
		return err
	}
	for i := range maxVersions {
		if err := take(i); err != nil {
			t.Fatalf("limit %d: %v", i, err)
		}
	}
	n := maxVersions
	for range 3 {
		now += second
		before := s.versions.round.Load()
		for range 50 {
			if err := take(n); headgate.CodeOf(err) != headgate.Overloaded {
				t.Fatalf("limit %d: %v, want the code overloaded", n, err)
			}
			n++
		}
		if looked := s.versions.round.Load() - before; looked != 1 {
			t.Errorf("%d collections in a second, want 1", looked)
		}
	}
	// All windows end; the shard learns the time by the first call.
	now += 24 * hour
	if err := take(n); headgate.CodeOf(err) != headgate.Overloaded {
		t.Fatalf("%v, want the code overloaded", err)
	}
	now += second
	if err := take(n); err != nil {
		t.Errorf("no limit is in use: %v", err)
	}
	if known := len(s.versions.known); known > 1 {
		t.Errorf("%d limits are known, 1 is in use", known)
	}
}
