package redisstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// A hash outlives what its records say, is not told so at every call, and is gone with
// its last record.
func TestScriptExpiry(t *testing.T) {
	for _, engine := range []bool{false, true} {
		t.Run(fmt.Sprint("engine ", engine), func(t *testing.T) {
			s := newScriptStore(t, false)
			s.engine = engine
			long := prepare(t, headgate.PerHour(1).WithBurst(10).WithName("long"))
			short := prepare(t, headgate.Window(100, 10*time.Second).WithName("short"))
			slots := prepare(t, headgate.InFlight(5, time.Minute).WithName("slots"))
			apply := func(op headgate.Op, owner string, limits ...*headgate.Prepared) {
				t.Helper()
				b := batchOf(t, op)
				b.Hold = 7
				for _, l := range limits {
					if _, err := b.Add(headgate.Charge{Limit: l, Owner: owner, Cost: 1}); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			life := func(owner string) time.Duration {
				t.Helper()
				n, err := s.client.Do(t.Context(), s.client.B().Pttl().Key(s.scheme.key(owner, long)).Build()).AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				return time.Duration(n) * time.Millisecond
			}
			within := func(owner string, least, most time.Duration) {
				t.Helper()
				if d := life(owner); d < least || d > most {
					t.Fatalf("the hash lives for %v, want %v to %v", d, least, most)
				}
			}
			const gone = -2 * time.Millisecond
			apply(headgate.Peek, "alice", long, short)
			within("alice", gone, gone)
			apply(headgate.Take, "alice", short)
			within("alice", 0, 23*time.Second)
			apply(headgate.Take, "alice", long)
			within("alice", time.Hour-time.Second, time.Hour+11*time.Minute)
			before := life("alice")
			for range 3 {
				apply(headgate.Take, "alice", short, slots)
			}
			within("alice", before-5*time.Second, before)
			apply(headgate.Take, "alice", long)
			within("alice", 2*time.Hour-5*time.Second, 2*time.Hour+11*time.Minute)
			apply(headgate.Reset, "alice", long, short)
			within("alice", time.Hour, 2*time.Hour+11*time.Minute)
			apply(headgate.Release, "alice", slots)
			within("alice", gone, gone)
			apply(headgate.Take, "bob", long, short, slots)
			within("bob", time.Hour-time.Second, time.Hour+11*time.Minute)
		})
	}
}

// What a subject of a policy usually has stays in the compact form of a hash.
func TestScriptCompactRecords(t *testing.T) {
	s := newScriptStore(t, false)
	charges := []headgate.Charge{
		{Limit: prepare(t, headgate.PerSecond(100).WithBurst(1000)), Owner: "alice", Cost: 1},
		{Limit: prepare(t, headgate.PerHour(1_000_000_007).WithBurst(2_000_003)), Owner: "alice", Cost: 1},
		{Limit: prepare(t, headgate.QuotaPer(10_000, headgate.Day)), Owner: "alice", Cost: 1},
		{Limit: prepare(t, headgate.Window(1000, time.Minute)), Owner: "alice", Cost: 1},
		{Limit: prepare(t, headgate.Sliding(300, time.Minute)), Owner: "alice", Cost: 1},
		{Limit: prepare(t, headgate.InFlight(10, time.Minute)), Owner: "alice", Cost: 1},
	}
	for _, which := range [][]headgate.Charge{charges[:5], charges} {
		if err := s.Apply(t.Context(), batchOf(t, headgate.Take, which...)); err != nil {
			t.Fatal(err)
		}
	}
	key := s.scheme.key("alice", charges[0].Limit)
	form, err := s.client.Do(t.Context(), s.client.B().ObjectEncoding().Key(key).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	if form != "listpack" {
		t.Errorf("the hash is a %s", form)
	}
	bytes, err := s.client.Do(t.Context(), s.client.B().MemoryUsage().Key(key).Build()).AsInt64()
	if err != nil || bytes > 700 {
		t.Errorf("six limits take %d bytes, %v", bytes, err)
	}
}
