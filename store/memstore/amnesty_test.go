package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

// until waits for a second of the store's minute.
func until(s *memstore.Store, second int64) {
	for s.Now()/1_000_000%60 != second {
		<-time.After(100 * time.Millisecond)
	}
}

// A request that is sent again with its key is answered when its first charge is in
// the journal, not before: else a crash would forget a charge that was admitted.
func TestReplayWaitsForTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		quota := prepared(t, headgate.QuotaPer(10, headgate.Day), "quota")
		keys := prepared(t, headgate.Limit{Algorithm: headgate.Idempotency, Count: 64, TTL: time.Hour}, "keys")
		ask := func(owner string) (bool, error) {
			var b headgate.Batch
			b.Patience = time.Second.Microseconds()
			b.Key = headgate.RequestKey{ID: [2]uint64{1, 1}, Print: 1}
			b.Add(headgate.Charge{Limit: quota, Owner: owner, Cost: 1})
			b.Add(headgate.Charge{Limit: keys, Owner: owner})
			err := s.Apply(t.Context(), &b)
			return b.Allowed && b.Replayed, err
		}
		ask("warm")
		disk := make(chan struct{})
		j.tell(func() { <-disk })
		for try := range 3 {
			if _, err := ask("alice"); headgate.CodeOf(err) != headgate.Unavailable {
				t.Errorf("try %d on a disk that hangs: %v", try, err)
			}
		}
		j.tell(nil)
		close(disk)
		if replayed, err := ask("alice"); !replayed || err != nil {
			t.Errorf("on a disk that works again: replayed %v, %v", replayed, err)
		}
		if left := remaining(t, s, quota, "alice"); left != 9 {
			t.Errorf("%d left after one charge of 10", left)
		}
	})
}

// Who has little patience does not wait longer for a disk that hangs.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		l := prepared(t, headgate.PerHour(10), "bucket")
		take(t, s, "warm", 1, l)
		disk := make(chan struct{})
		j.tell(func() { <-disk })
		for _, limit := range []*headgate.Prepared{l, prepared(t, headgate.PerHour(10), "another")} {
			var b headgate.Batch
			b.Add(headgate.Charge{Limit: limit, Owner: "alice", Cost: 1})
			b.Patience = 25_000
			began := time.Now()
			if err := s.Apply(t.Context(), &b); headgate.CodeOf(err) != headgate.Unavailable || time.Since(began) != 25*time.Millisecond {
				t.Errorf("%s: after %v: %v", limit.Name, time.Since(began), err)
			}
		}
		close(disk)
	})
}

// A state that was written because it bounded other numbers is out of date when
// these are over, and is not believed after a kill.
func TestOldNumbersOfTransient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		slow, fast := prepared(t, headgate.Window(100, 15*time.Second), "window"), prepared(t, headgate.Window(100, 10*time.Second), "window")
		until(s, 1)
		take(t, s, "alice", 1, slow) // in the window of seconds 0 to 15
		until(s, 14)
		take(t, s, "alice", 1, fast) // 10 to 20, kept until 15
		until(s, 16)
		take(t, s, "alice", remaining(t, s, fast, "alice"), fast)
		synctest.Wait()
		n := kept(t, j.killed(), memstore.Config{})
		if ok, o, err := do(t, n, headgate.Take, "alice", 1, fast); ok || err != nil {
			t.Errorf("passed again in the same window: %+v, %v", o, err)
		}
	})
}

// The deepest debt of a bucket that recovers in ten seconds takes twenty: a stop in
// order does not end it sooner.
func TestDebtOfTransientAfterStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		l := prepared(t, headgate.PerSecond(100).WithBurst(1000), "bucket")
		s := kept(t, j, memstore.Config{})
		take(t, s, "alice", 1000, l)
		if _, _, err := do(t, s, headgate.Debit, "alice", 1000, l); err != nil {
			t.Fatal(err)
		}
		s.Close()
		n := kept(t, j, memstore.Config{})
		for _, c := range []struct {
			wait time.Duration
			left int64
		}{{10*time.Second + time.Millisecond, 0}, {5 * time.Second, 500}, {5 * time.Second, 1000}} {
			<-time.After(c.wait)
			if left := remaining(t, n, l, "alice"); left != c.left {
				t.Errorf("%d left, want %d", left, c.left)
			}
		}
	})
}

// Where a limit had several fast numbers, all of them may have been charged before a
// kill: the worst counts under slower ones.
func TestLostUnderSeveralNumbers(t *testing.T) {
	premium, free := headgate.Window(1000, 10*time.Second), headgate.Window(10, 10*time.Second)
	for _, order := range [][2]headgate.Limit{{premium, free}, {free, premium}} {
		synctest.Test(t, func(t *testing.T) {
			j := newPaper()
			s := kept(t, j, memstore.Config{})
			until(s, 3)
			for _, l := range order {
				take(t, s, fmt.Sprint(l.Count), l.Count, prepared(t, l, "window"))
			}
			synctest.Wait()
			n := kept(t, j.killed(), memstore.Config{})
			if left := remaining(t, n, prepared(t, headgate.Window(1000, time.Hour), "window"), "1000"); left != 0 {
				t.Errorf("%d left of 1,000 an hour after 1,000 in ten seconds", left)
			}
		})
	}
}

// A small debt is forgiven once by a kill, but not by leaving memory.
func TestSpillForgivesNothing(t *testing.T) {
	racetest.Alone(t)
	j := newPaper()
	c := memstore.Config{MaxBytes: 1 << 20, Shards: 1}
	l := prepared(t, headgate.Per(1000, 24*time.Hour), "bucket")
	take(t, kept(t, j, c), "somebody", 1, l)
	s := kept(t, j.killed(), c)
	take(t, s, "alice", 1000, l)
	for round := range 3 {
		if _, _, err := do(t, s, headgate.Debit, "alice", 4, l); err != nil {
			t.Fatal(err)
		}
		for i := range 60_000 {
			take(t, s, fmt.Sprint(round, i), 1, l)
		}
		_, o, err := do(t, s, headgate.Peek, "alice", 0, l)
		if want := int64(4 * (round + 1)); err != nil || o[0].Overage < want-1 {
			t.Errorf("a debt of %d after %d was spilled: %v", o[0].Overage, want, err)
		}
	}
}

// Memory that was full of states of one size has room for those of another when the
// first have left it.
func TestSpillOfOtherSizes(t *testing.T) {
	s := kept(t, newPaper(), memstore.Config{MaxBytes: 1 << 20, Shards: 1})
	const year = 366 * 24 * time.Hour
	for round := range 2 {
		for _, l := range []headgate.Limit{
			headgate.Window(3, year), headgate.Sliding(300, year), headgate.Sliding(300, year).WithSlices(30),
			headgate.QuotaPer(100, headgate.Year), headgate.Log(100, year), headgate.Per(100, year),
		} {
			p := prepared(t, l, l.Algorithm.String()+fmt.Sprint(l.Slices))
			for i := range 6000 {
				owner := fmt.Sprint(round, "/", i)
				if i%2 == 1 {
					owner = fmt.Sprint(round, "/", i%100)
				}
				if _, _, err := do(t, s, headgate.Take, owner, 1, p); err != nil {
					t.Fatalf("round %d, %s, %d: %v", round, p.Name, i, err)
				}
			}
		}
	}
}

// A bucket that changed its numbers is kept in words as long as it bounds the old
// ones. After that it has marks again, and most charges are not written.
func TestMarksAfterOtherNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		old, l := prepared(t, headgate.Per(900_000, time.Hour), "bucket"), prepared(t, headgate.Per(1_000_000, time.Hour), "bucket")
		take(t, s, "alice", 800_000, old)
		for range 30 { // it is never full
			<-time.After(6 * time.Minute)
			take(t, s, "alice", 100_000, l)
		}
		synctest.Wait()
		before := j.commits
		for range 1000 {
			take(t, s, "alice", 1, l)
		}
		synctest.Wait()
		if n := j.commits - before; n > 2 {
			t.Errorf("%d commits for 1,000 tokens of a million", n)
		}
	})
}

// While the disk hangs, what waits for it does not grow without end. Keys that need
// not be written go on.
func TestBacklogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{MaxBytes: 4 << 20})
		few, many := prepared(t, headgate.PerHour(100), "few"), prepared(t, headgate.PerHour(1_000_000), "many")
		take(t, s, "warm", 1, few, many)
		synctest.Wait()
		disk, largest := make(chan struct{}), 0
		j.tell(func() { <-disk })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 20_000 {
			var b headgate.Batch
			b.Add(headgate.Charge{Limit: few, Owner: fmt.Sprint(i), Cost: 1})
			if err := s.Apply(ctx, &b); headgate.CodeOf(err) != headgate.Unavailable {
				t.Fatalf("key %d on a disk that hangs: %v", i, err)
			}
		}
		for range 1000 {
			take(t, s, "warm", 1, many)
		}
		j.watch(func(c *memstore.Commit) { largest = max(largest, len(c.Records)) })
		close(disk)
		take(t, s, "new", 1, few)
		// So many were being written, and so many waited.
		if keys := len(j.rows); keys > 2*4<<10+100 || largest > 4<<10 {
			t.Errorf("%d keys were charged, %d in one commit", keys, largest)
		}
	})
}

// A limit is told once, however many requests of it wait to be told.
func TestLimitIsToldOnce(t *testing.T) {
	j := newPaper()
	s := memstore.New(memstore.Config{Journal: j, Secret: secret})
	l := prepared(t, headgate.PerHour(1000), "bucket")
	j.mu.Lock()
	j.fail = errors.New("the disk is full")
	j.mu.Unlock()
	for range 500 {
		if _, _, err := do(t, s, headgate.Take, "alice", 1, l); err == nil {
			t.Fatal("passed")
		}
	}
	j.mu.Lock()
	j.fail = nil
	j.mu.Unlock()
	s.Close()
	if len(j.limits) != 1 {
		t.Errorf("%d limits were told, of one", len(j.limits))
	}
}

// Fast numbers that a limit had long ago do not count against keys that were never
// seen, but those of a process that ended shortly before do.
func TestNumbersOfLongAgo(t *testing.T) {
	for _, pair := range [][2]headgate.Limit{
		{headgate.Window(1000, 10*time.Second), headgate.Window(1000, 24*time.Hour)}, {headgate.PerSecond(1000), headgate.Per(1000, 24*time.Hour)},
	} {
		synctest.Test(t, func(t *testing.T) {
			j := newPaper()
			old, l := prepared(t, pair[0], "limit"), prepared(t, pair[1], "limit")
			s := kept(t, j, memstore.Config{})
			take(t, s, "alice", 1, old)
			s.Close()
			for range 2 { // lives that know nothing of it
				<-time.After(100 * time.Hour)
				s = kept(t, j, memstore.Config{})
				take(t, s, "alice", 1, l)
				s.Close()
			}
			s = kept(t, j, memstore.Config{})
			take(t, s, "alice", 1, l)
			<-time.After(time.Hour)
			j = j.killed()
			n := kept(t, j, memstore.Config{})
			if left := remaining(t, n, l, "somebody"); left != 1000 {
				t.Errorf("%v: %d of 1,000 left of who was never seen", l.Algorithm, left)
			}
			<-time.After(11 * time.Second)
			take(t, n, "bob", 1000, old)
			for range 3 { // short lives
				synctest.Wait()
				j = j.killed()
				<-time.After(time.Second)
				n = kept(t, j, memstore.Config{})
			}
			if left := remaining(t, n, l, "bob"); left > 5 {
				t.Errorf("%v: %d of 1,000 left a day, seconds after 1,000 in another life", l.Algorithm, left)
			}
		})
	}
}
