package memstore_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

func prepared(t testing.TB, l headgate.Limit, name string) *headgate.Prepared {
	t.Helper()
	p, err := l.WithName(name).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kept returns a store on a journal.
func kept(t testing.TB, j *paper, c memstore.Config) *memstore.Store {
	c.Journal, c.Secret, c.Past = j, secret, j.past()
	s := memstore.New(c)
	t.Cleanup(func() { s.Close() })
	return s
}

func do(t testing.TB, s headgate.Store, op headgate.Op, owner string, cost int64, limits ...*headgate.Prepared) (bool, []headgate.Outcome, error) {
	var b headgate.Batch
	b.Op = op
	for _, l := range limits {
		b.Add(headgate.Charge{Limit: l, Owner: owner, Cost: cost})
	}
	err := s.Apply(t.Context(), &b)
	return b.Allowed, b.Outcomes(), err
}

// remaining peeks at one limit.
func remaining(t testing.TB, s headgate.Store, l *headgate.Prepared, owner string) int64 {
	t.Helper()
	_, o, err := do(t, s, headgate.Peek, owner, 0, l)
	if err != nil {
		t.Fatal(err)
	}
	return o[0].Remaining
}

// take takes cost from every limit, which must pass.
func take(t testing.TB, s headgate.Store, owner string, cost int64, limits ...*headgate.Prepared) {
	t.Helper()
	if ok, o, err := do(t, s, headgate.Take, owner, cost, limits...); err != nil || !ok {
		t.Fatalf("take %d of %s: %v, %+v, %v", cost, owner, ok, o, err)
	}
}

// More keys than memory has room for leave it, and come back as they were.
func TestSpill(t *testing.T) {
	racetest.Alone(t)
	j := newPaper()
	s := kept(t, j, memstore.Config{MaxBytes: 1 << 20, Shards: 1})
	l, w := prepared(t, headgate.PerHour(1).WithBurst(3), "bucket"), prepared(t, headgate.Window(3, 24*time.Hour), "window")
	const keys = 20_000
	for i := range keys {
		take(t, s, fmt.Sprint(i), 1, l, w)
	}
	if st := s.Stats(); st.Bytes > 1<<20 || st.Overflow > 0 || st.Keys >= 2*keys {
		t.Fatalf("%+v: more than the memory that it has", st)
	}
	for i := range keys {
		owner := fmt.Sprint(i)
		if a, b := remaining(t, s, l, owner), remaining(t, s, w, owner); a != 2 || b != 2 {
			t.Fatalf("%s has %d and %d left, of 3 less 1", owner, a, b)
		}
	}
	for i := range keys {
		take(t, s, fmt.Sprint(i), 2, l, w)
	}
	for i := range keys {
		if ok, _, err := do(t, s, headgate.Take, fmt.Sprint(i), 1, l); ok || err != nil {
			t.Fatalf("%d: %v, %v", i, ok, err)
		}
	}
}

// A key under a large limit is spent from memory, and the journal hears of one mark
// for many tokens; limits that recover within ten seconds are not in it at all.
func TestMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		large := prepared(t, headgate.Per(1_000_000, 24*time.Hour), "large")
		quota := prepared(t, headgate.QuotaPer(1_000_000, headgate.Day), "quota")
		fast := prepared(t, headgate.PerSecond(10_000), "fast")
		take(t, s, "alice", 1, large, quota)
		take(t, s, "alice", 1, fast)
		synctest.Wait()
		before := j.commits
		for range 1000 {
			take(t, s, "alice", 1, large, quota)
			take(t, s, "alice", 1, fast)
		}
		synctest.Wait()
		if n := j.commits - before; n != 0 {
			t.Errorf("%d commits for 1,000 tokens of a million", n)
		}
		for range 20_000 {
			take(t, s, "alice", 1, large, quota)
		}
		<-time.After(time.Second)
		if n := j.commits - before; n < 2 || n > 12 {
			t.Errorf("%d commits for 21,000 tokens in steps of 4,096", n)
		}
		if len(j.rows) != 2 {
			t.Errorf("%d states in the journal, of two that last", len(j.rows))
		}
		n := kept(t, j.killed(), memstore.Config{})
		for _, l := range []*headgate.Prepared{large, quota} {
			if left := remaining(t, n, l, "alice"); left > 1_000_000-21_001 || left < 1_000_000-21_001-10_000 {
				t.Errorf("%v: %d left after a kill, of %d", l.Algorithm, left, 1_000_000-21_001)
			}
		}
		if left := remaining(t, n, fast, "alice"); left != 0 {
			t.Errorf("%d of a fast limit left after a kill", left)
		}
		<-time.After(time.Second)
		if left := remaining(t, n, fast, "alice"); left != 10_000 {
			t.Errorf("%d of a fast limit left a second after a kill", left)
		}
	})
}

// What a mark covers may be spent long after it was written: a kill does not give it
// back.
func TestMarkIsSpentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, l := range []*headgate.Prepared{
			prepared(t, headgate.Per(1_000_000, 24*time.Hour), "bucket"), prepared(t, headgate.PerHour(3600).WithBurst(1000), "small"),
		} {
			j := newPaper()
			s := kept(t, j, memstore.Config{})
			take(t, s, "alice", l.Burst-3, l)
			for range 10 {
				<-time.After(3 * time.Second)
				take(t, s, "alice", remaining(t, s, l, "alice"), l)
			}
			<-time.After(time.Second)
			left := remaining(t, s, l, "alice")
			for range 3 {
				j = j.killed()
				s = kept(t, j, memstore.Config{})
				if got := remaining(t, s, l, "alice"); got > left {
					t.Errorf("%s: %d left after a kill, %d before it", l.Name, got, left)
				}
				<-time.After(time.Second)
				left += 12
			}
		}
	})
}

// While the journal fails, what has to be in it is not decided, and nothing of that
// is given away afterwards.
func TestJournalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		l := prepared(t, headgate.PerHour(5), "bucket")
		fast := prepared(t, headgate.PerSecond(5), "fast")
		take(t, s, "alice", 1, l)
		take(t, s, "alice", 1, fast)
		j.mu.Lock()
		j.fail = errors.New("disk full")
		j.mu.Unlock()
		for range 2 {
			if ok, _, err := do(t, s, headgate.Take, "alice", 1, l); headgate.CodeOf(err) != headgate.Unavailable {
				t.Fatalf("%v, %v", ok, err)
			}
		}
		take(t, s, "alice", 1, fast)
		if left := remaining(t, s, l, "alice"); left != 2 {
			t.Errorf("%d left, of 5 less one that passed and two that may have", left)
		}
		j.mu.Lock()
		j.fail = nil
		j.mu.Unlock()
		take(t, s, "alice", 1, l)
		if left := remaining(t, kept(t, j.killed(), memstore.Config{}), l, "alice"); left != 1 {
			t.Errorf("%d left after a kill, of 5 less 4", left)
		}
		// What nobody waits for is tried again by itself.
		j.mu.Lock()
		j.fail = errors.New("disk full")
		j.mu.Unlock()
		do(t, s, headgate.Take, "alice", 1, l)
		j.mu.Lock()
		j.fail = nil
		j.mu.Unlock()
		<-time.After(2 * time.Second)
		if left := remaining(t, kept(t, j.killed(), memstore.Config{}), l, "alice"); left != 0 {
			t.Errorf("%d left after a kill, of 5 less 5", left)
		}
	})
}

// A store that is killed while many spend has let no more pass than its journal
// knows of, whenever that is.
func TestKilledWhileManySpend(t *testing.T) {
	for _, l := range []*headgate.Prepared{
		prepared(t, headgate.PerHour(200), "small"), prepared(t, headgate.QuotaPer(150, headgate.Day), "quota"),
		prepared(t, headgate.Per(40_000, 24*time.Hour), "large"), prepared(t, headgate.Window(30_000, 24*time.Hour), "window"),
	} {
		t.Run(l.Name, func(t *testing.T) {
			j := newPaper()
			limit := max(l.Burst, l.Count)
			var passed int64
			for life := range 50 {
				s := kept(t, j, memstore.Config{})
				var acknowledged atomic.Int64
				// The writer may go on after the last answer.
				var mu sync.Mutex
				var next *paper
				var known int64 // passed when next was taken
				end := func() {
					if next == nil {
						// What was acknowledged so far is in the journal.
						known = acknowledged.Load()
						next = j.killed()
					}
				}
				kill := int64(1 + life*7%23)
				j.tell(func() {
					mu.Lock()
					defer mu.Unlock()
					if kill--; kill == 0 {
						end()
					}
				})
				var group sync.WaitGroup
				for range 8 {
					group.Go(func() {
						for range 2 * limit / 200 {
							if ok, _, err := do(t, s, headgate.Take, "alice", 1, l); err != nil {
								t.Error(err)
							} else if ok {
								acknowledged.Add(1)
							}
						}
					})
				}
				group.Wait()
				mu.Lock()
				end()
				mu.Unlock()
				passed += known
				j = next
				if left := remaining(t, kept(t, j.killed(), memstore.Config{}), l, "alice"); left > limit-passed {
					t.Fatalf("life %d: %d left, and %d passed of %d", life, left, passed, limit)
				}
			}
			if passed > limit {
				t.Errorf("%d passed of %d", passed, limit)
			}
			if passed < limit/2 {
				t.Errorf("only %d passed of %d: nothing was tested", passed, limit)
			}
		})
	}
}

// A commit has of a batch all or nothing: whoever begins from it finds no budget
// charged without the others.
func TestBatchIsNotTorn(t *testing.T) {
	j := newPaper()
	s := kept(t, j, memstore.Config{})
	w, q := prepared(t, headgate.Window(150, 24*time.Hour), "window"), prepared(t, headgate.QuotaPer(199, headgate.Day), "quota")
	used := func(algorithm headgate.Algorithm) (sum int64) {
		for _, r := range j.rows {
			if r.Limit.Algorithm == algorithm {
				var o headgate.Outcome
				algo.Apply(&algo.Call{Op: headgate.Peek, Now: s.Now()}, r.Limit, r.Words, &o)
				sum += o.Used
			}
		}
		return sum
	}
	j.tell(func() { // of the commits before
		j.mu.Lock()
		defer j.mu.Unlock()
		if a, b := used(headgate.FixedWindow), used(headgate.Quota); a != b {
			t.Errorf("after %d commits %d are used of one limit and %d of the other", j.commits, a, b)
		}
	})
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 300 {
				// Several owners, and the limits in either order.
				var b headgate.Batch
				for _, l := range []*headgate.Prepared{w, q} {
					b.Add(headgate.Charge{Limit: l, Owner: fmt.Sprint((i + g) % 20), Cost: 1})
				}
				b.Add(headgate.Charge{Limit: w, Owner: fmt.Sprint("b", i%7), Cost: 1})
				b.Add(headgate.Charge{Limit: q, Owner: fmt.Sprint("c", i%7), Cost: 1})
				if err := s.Apply(t.Context(), &b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.commits < 20 {
		t.Errorf("only %d commits", j.commits)
	}
}

// A ban outlives a kill, and what counts towards it a stop.
func TestBanIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		l := prepared(t, headgate.PerHour(1), "bucket")
		ban := prepared(t, headgate.Limit{Algorithm: headgate.Ban, Count: 4, Period: time.Hour, TTL: 2 * time.Hour}, "ban")
		take(t, s, "alice", 1, l, ban)
		for range 3 {
			if ok, _, _ := do(t, s, headgate.Take, "alice", 1, l, ban); ok {
				t.Fatal("a second token of one")
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = kept(t, j, memstore.Config{})
		do(t, s, headgate.Take, "alice", 1, l, ban)
		<-time.After(time.Second)
		s = kept(t, j.killed(), memstore.Config{})
		for range 2 { // by the slow way, and then by the fast one
			_, o, err := do(t, s, headgate.Take, "alice", 0, l, ban)
			if err != nil || o[1].Allowed {
				t.Fatalf("%+v, %v: not banned", o[1], err)
			}
		}
		if ok, _, err := do(t, s, headgate.Reset, "alice", 0, l, ban); !ok || err != nil {
			t.Fatal(ok, err)
		}
		take(t, s, "alice", 1, l, ban)
	})
}

// After a backup was restored nothing is given that may have been given after it
// was made.
func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		l := prepared(t, headgate.PerHour(60), "bucket")
		q := prepared(t, headgate.QuotaPer(60, headgate.Hour), "quota")
		f := prepared(t, headgate.PerSecond(60), "fast")
		s := kept(t, j, memstore.Config{})
		take(t, s, "alice", 1, l, q, f)
		s.Close()
		past := j.past()
		past.Lost = time.Now().UnixMicro()
		for life := range 3 { // however often it is started
			s := memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
			for _, x := range []*headgate.Prepared{l, q, f} {
				if left := remaining(t, s, x, "bob"); life == 0 && left != 0 {
					t.Errorf("life %d: %s: %d left", life, x.Name, left)
				}
			}
			<-time.After(5 * time.Minute)
			if left := remaining(t, s, l, "bob"); left != int64(5*(life+1)) {
				t.Errorf("life %d: %d left of the bucket", life, left)
			}
			if left := remaining(t, s, q, "bob"); left != 0 {
				t.Errorf("life %d: %d left of the quota", life, left)
			}
			if left := remaining(t, s, f, "bob"); left != 60 {
				t.Errorf("life %d: %d left of the fast one", life, left)
			}
			if _, o, _ := do(t, s, headgate.Take, "bob", 1, q); !o[0].Recovering {
				t.Errorf("%+v: not said to recover", o[0])
			}
			s.Close()
			p := j.past()
			p.Lost = past.Lost
			past = p
		}
		<-time.After(time.Hour)
		s = memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
		defer s.Close()
		take(t, s, "bob", 60, l, q, f)
	})
}

// So it is where the backup is of a store that was never used.
func TestLostOfUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		q := prepared(t, headgate.QuotaPer(60, headgate.Day), "quota")
		for life := range 2 {
			past := j.past()
			past.Lost = time.Now().UnixMicro()
			s := memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
			if left := remaining(t, s, q, "alice"); left != 0 {
				t.Errorf("life %d: %d left", life, left)
			}
			s.Close()
		}
	})
}

// After a restore and a kill, both what the backup did not have and what the kill has
// lost may have been spent.
func TestLostAndKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		fast, slow := prepared(t, headgate.Window(100, 10*time.Second), "window"), prepared(t, headgate.Window(100, time.Minute), "window")
		past := j.past()
		past.Lost = time.Now().UnixMicro()
		s := memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
		<-time.After(5 * time.Minute)
		until(s, 11)
		take(t, s, "alice", 100, fast)
		synctest.Wait()
		j = j.killed()
		past = j.past()
		past.Lost = time.Now().Add(-5 * time.Minute).UnixMicro()
		n := memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
		if left := remaining(t, n, slow, "alice"); left != 0 {
			t.Errorf("%d of 100 a minute left after 100 in ten seconds", left)
		}
		<-time.After(2 * time.Minute)
		take(t, n, "alice", 100, slow)
		for range 2 { // that it is over is remembered
			if _, o, err := do(t, n, headgate.Take, "alice", 1, slow); err != nil || o[0].Recovering {
				t.Errorf("%+v, %v", o[0], err)
			}
		}
		s.Close()
		n.Close()
	})
}

// The clock does not go back behind what was committed.
func TestClockWasAhead(t *testing.T) {
	j := newPaper()
	q := prepared(t, headgate.QuotaPer(5, headgate.Day), "quota")
	s := kept(t, j, memstore.Config{})
	take(t, s, "alice", 5, q)
	s.Close()
	past := j.past()
	past.Latest += 36 * 3600 * 1_000_000
	s = memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
	take(t, s, "alice", 5, q) // on another day, as the clock has shown
	if s.Now() < past.Latest {
		t.Error("the clock went back")
	}
	s.Close()
	s = kept(t, j, memstore.Config{})
	defer s.Close()
	if ok, _, err := do(t, s, headgate.Take, "alice", 1, q); ok || err != nil {
		t.Errorf("%v, %v: the day before is open again", ok, err)
	}
}
