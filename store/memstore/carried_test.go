package memstore_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// A bucket that is full again is carried over to other numbers by a batch that is
// refused: nothing has moved, and the journal has it under the old ones. What is
// charged next outlives a kill.
func TestCarriedOverByARefusal(t *testing.T) {
	for _, spend := range []int64{1, 50, 100, 200, 300, 400, 500} {
		synctest.Test(t, func(t *testing.T) {
			j := newPaper()
			s := kept(t, j, memstore.Config{})
			old, l := prepared(t, headgate.PerHour(1000), "bucket"), prepared(t, headgate.Per(100_000, 24*time.Hour), "bucket")
			other := prepared(t, headgate.PerHour(1), "other")
			take(t, s, "alice", 1, old)
			take(t, s, "alice", 1, other)
			<-time.After(5 * time.Minute)
			if ok, _, err := do(t, s, headgate.Take, "alice", 1, l, other); ok || err != nil {
				t.Fatal(ok, err)
			}
			for range spend {
				take(t, s, "alice", 1, l)
			}
			synctest.Wait()
			<-time.After(10 * time.Millisecond) // all that is to be written is
			if left := remaining(t, kept(t, j.killed(), memstore.Config{}), l, "alice"); spend+left > l.Count {
				t.Errorf("admitted %d, and %d are left after a kill, of %d", spend, left, l.Count)
			}
		})
	}
}

// The same where the new numbers recover so soon that the journal need not have them: it
// must not have the old ones either.
func TestCarriedOverToTransient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		s := kept(t, j, memstore.Config{})
		slow, fast := prepared(t, headgate.Per(1000, 24*time.Hour), "bucket"), prepared(t, headgate.PerSecond(1000).WithBurst(1000), "bucket")
		other := prepared(t, headgate.PerHour(1), "other")
		take(t, s, "alice", 1, slow)
		take(t, s, "alice", 1, other)
		<-time.After(2 * time.Minute)
		if ok, _, err := do(t, s, headgate.Take, "alice", 1, fast, other); ok || err != nil {
			t.Fatal(ok, err)
		}
		take(t, s, "alice", 1000, fast)
		synctest.Wait()
		n := kept(t, j.killed(), memstore.Config{})
		if alice, bob := remaining(t, n, slow, "alice"), remaining(t, n, slow, "bob"); alice > bob {
			t.Errorf("alice has %d left of 1000, and bob, who was never seen, %d", alice, bob)
		}
	})
}

// After a restore a key whose state is under other numbers of a limit has no more left
// than one that was never seen, whether it is looked at or charged.
func TestLostUnderNumbersCarriedOver(t *testing.T) {
	for _, old := range []headgate.Limit{headgate.Log(100, time.Minute), headgate.Sliding(100, time.Minute), headgate.PerMinute(100), headgate.Window(100, time.Minute)} {
		for _, charged := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				j := newPaper()
				past := j.past()
				past.Latest, past.Lost = time.Now().UnixMicro(), time.Now().UnixMicro()
				s := memstore.New(memstore.Config{Journal: j, Secret: secret, Past: past})
				defer s.Close()
				before, after := prepared(t, old, "limit"), prepared(t, headgate.QuotaPer(100, headgate.Month), "limit")
				<-time.After(5 * time.Minute)
				take(t, s, "alice", 1, before)
				if charged {
					if ok, _, err := do(t, s, headgate.Take, "alice", 1, after); ok || err != nil {
						t.Errorf("%v: taken %v, %v", old.Algorithm, ok, err)
					}
				}
				if alice, bob := remaining(t, s, after, "alice"), remaining(t, s, after, "bob"); alice > bob {
					t.Errorf("%v: alice has %d left of the month, and bob, who was never seen, %d", old.Algorithm, alice, bob)
				}
				<-time.After(62 * 24 * time.Hour)
				if left := remaining(t, s, after, "alice"); left != 100 {
					t.Errorf("%v: alice has %d left of a month that began long after", old.Algorithm, left)
				}
			})
		}
	}
}
