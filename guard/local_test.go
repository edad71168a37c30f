package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

// others makes the store count n nodes beside the one that asks.
func (r *remote) others(n int) {
	r.set(func(r *remote) {
		clear(r.members)
		for i := range n {
			r.members[[2]uint64{uint64(i)}] = time.Now().Add(1000 * time.Hour)
		}
	})
}

// Each algorithm admits the share of it: with two nodes four tenths.
func TestLocalShares(t *testing.T) {
	quota := headgate.QuotaPer(100, headgate.Day)
	for name, limit := range map[string]headgate.Limit{
		"bucket":      headgate.PerHour(100),
		"leaky":       {Algorithm: headgate.LeakyBucket, Count: 100, Period: time.Hour},
		"window":      headgate.Window(100, time.Hour),
		"sliding":     headgate.Sliding(100, time.Hour),
		"classic":     headgate.Sliding(100, time.Hour).WithSlices(1),
		"log":         headgate.Log(100, time.Hour),
		"quota":       quota,
		"concurrency": headgate.InFlight(100, time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRemote()
				r.others(1)
				s := open(t, r, Config{})
				l := prepare(t, limit)
				if n := admitted(t, s.Local(), l, "a"); n != 40 {
					t.Errorf("%d are admitted by a node that never asked for the key", n)
				}
				ok, o := take(t, s.Local(), l, "b", 1)
				if !ok || o.Limit != 40 || o.Used != 1 || o.Remaining != 39 || !o.Leased || o.Shared {
					t.Errorf("%+v", o)
				}
				ok, o = take(t, s.Local(), l, "a", 1)
				if ok || o.Never || o.RetryAfter <= 0 {
					t.Errorf("refused: %+v", o)
				}
			})
		})
	}
}

// A key goes on at the last level that the node knows of.
func TestLocalLastLevel(t *testing.T) {
	for _, c := range []struct {
		name              string
		limit             headgate.Limit
		spent, share, has int // tokens; has is what is admitted while away
		idle              time.Duration
	}{
		{"unseen", headgate.PerHour(100), 0, 40, 40, 0},
		{"plenty left", headgate.PerHour(100), 50, 40, 40, 0},
		{"less than the share left", headgate.PerHour(100), 90, 40, 10, 0},
		{"nothing left", headgate.PerHour(100), 100, 40, 0, 0},
		{"refilled since, by the share of the rate", headgate.PerHour(100), 100, 40, 20, 30 * time.Minute},
		{"full again", headgate.PerHour(100), 100, 40, 40, time.Hour},
		{"window", headgate.Window(100, time.Hour), 95, 40, 5, 59 * time.Minute},
		{"next window", headgate.Window(100, time.Hour), 95, 40, 40, time.Hour},
		{"sliding", headgate.Sliding(100, time.Hour), 95, 40, 5, 59 * time.Minute},
		{"sliding, out of sight", headgate.Sliding(100, time.Hour), 95, 40, 40, 66 * time.Minute},
		{"log", headgate.Log(100, time.Hour), 99, 40, 1, 59 * time.Minute},
		{"leaky", headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 100, Period: time.Hour}, 70, 40, 30, 0},
		{"quota", headgate.QuotaPer(100, headgate.Day), 93, 40, 7, 23 * time.Hour},
		{"next day", headgate.QuotaPer(100, headgate.Day), 93, 40, 40, 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRemote()
				r.others(1)
				s := open(t, r, Config{})
				l := prepare(t, c.limit)
				if c.spent > 0 {
					if ok, _ := take(t, s, l, "a", int64(c.spent)); !ok {
						t.Fatal("refused")
					}
				}
				pass(c.idle)
				peek := batch(t, l, "a", 1)
				peek.Op = headgate.Peek
				for range 2 {
					if err := s.Local().Apply(t.Context(), peek); err != nil || peek.Outcomes()[0].Remaining != int64(c.has) {
						t.Errorf("%v: %d left, want %d", err, peek.Outcomes()[0].Remaining, c.has)
					}
				}
				if n := admitted(t, s.Local(), l, "a"); n != c.has {
					t.Errorf("%d are admitted, want %d", n, c.has)
				}
				if n := admitted(t, s.Local(), l, "b"); n != c.share {
					t.Errorf("%d are admitted of another key, want %d", n, c.share)
				}
			})
		})
	}
}

// A node that never met the store admits nothing, nor does a share of less than
// one token, or one that is too small for the cost.
func TestLocalWithoutShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		r.others(2)
		r.set(func(r *remote) { r.err = errRefused })
		s := New(r, Config{})
		defer s.Close()
		local := s.Local()
		want := func(wanted error, b *headgate.Batch) {
			t.Helper()
			if err := local.Apply(t.Context(), b); !errors.Is(err, wanted) {
				t.Errorf("%v, want %v", err, wanted)
			}
		}
		ten := prepare(t, headgate.PerSecond(10))
		want(errNeverMet, batch(t, ten, "a", 1))
		r.set(func(r *remote) { r.err = nil })
		if err := s.Meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(nil, batch(t, ten, "a", 2)) // its share is 2.67
		want(errNoShare, batch(t, ten, "b", 3))
		want(errNoShare, batch(t, prepare(t, headgate.PerSecond(3)), "a", 1))
		want(errNoShare, batch(t, prepare(t, headgate.Window(3, time.Minute)), "a", 0))

		b := batch(t, ten, "c", 2)
		add(t, b, headgate.Charge{Limit: prepare(t, headgate.PerSecond(3)), Owner: "c", Cost: 1})
		want(errNoShare, b)
		if _, o := take(t, local, ten, "c", 0); o.Used != 0 {
			t.Errorf("refused, and charged %+v", o)
		}

		// What no store will ever let pass is refused for good.
		b = batch(t, ten, "a", 11)
		want(nil, b)
		if o := b.Outcomes()[0]; b.Allowed || !o.Never || b.Decision().Reason != headgate.CostExceedsLimit {
			t.Errorf("11 of 10: %+v", o)
		}

		// A limit in shadow refuses nothing, whatever its share.
		b = batch(t, ten, "d", 1)
		add(t, b, headgate.Charge{Limit: prepare(t, headgate.PerSecond(3)), Owner: "d", Cost: 1, Shadow: true})
		add(t, b, headgate.Charge{Limit: prepare(t, headgate.PerSecond(6)), Owner: "d", Cost: 5, Shadow: true})
		want(nil, b)
		if o := b.Outcomes(); !b.Allowed || !o[0].Allowed || o[1].Allowed || o[1].Never || o[2].Allowed || o[2].Never {
			t.Errorf("with shadows: %v, %+v", b.Allowed, o)
		}

		if err := s.Local().Close(); err != nil {
			t.Fatal(err)
		}
		if err := local.Apply(t.Context(), batch(t, ten, "a", 1)); headgate.CodeOf(err) != headgate.Closed {
			t.Errorf("closed: %v", err)
		}
	})
}

// Who is banned as far as the node knows stays banned, and refusals by the share ban
// nobody: who is refused may be within the limit.
func TestLocalBans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		s := open(t, r, Config{})
		l := prepare(t, headgate.PerHour(10))
		ban := prepare(t, headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: 15 * time.Minute, Name: "ban"})
		ask := func(s headgate.Store, owner string, shadow bool) *headgate.Batch {
			b := batch(t, l, owner, 1)
			add(t, b, headgate.Charge{Limit: ban, Owner: owner, Shadow: shadow})
			if err := s.Apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			return b
		}
		for range 13 {
			ask(s, "mallory", false)
		}
		// By then the bucket has room again.
		pass(14 * time.Minute)
		b := ask(s.Local(), "mallory", false)
		if o := b.Outcomes(); b.Allowed || b.Decision().Reason != headgate.Banned || o[1].RetryAfter != time.Minute || !o[0].Allowed {
			t.Errorf("banned for another minute: %v, %+v", b.Decision(), o)
		}
		if b := ask(s.Local(), "mallory", true); !b.Allowed || b.Outcomes()[1].Allowed {
			t.Errorf("a ban in shadow: %+v", b.Outcomes())
		}
		pass(10 * time.Minute)
		if b := ask(s.Local(), "mallory", false); !b.Allowed {
			t.Errorf("after the ban: %+v", b.Outcomes())
		}
		for range 8 + 5 {
			b = ask(s.Local(), "oscar", false)
		}
		if o := b.Outcomes(); b.Allowed || o[0].Allowed || !o[1].Allowed || o[1].Used != 0 {
			t.Errorf("five refusals by the share: %+v", o)
		}
		// An operator who lifts the ban lifts it here too.
		for range 13 {
			ask(s, "peggy", false)
		}
		lift := batch(t, ban, "peggy", 0)
		lift.Op = headgate.Reset
		if err := s.Apply(t.Context(), lift); err != nil {
			t.Fatal(err)
		}
		pass(20 * time.Minute)
		if b := ask(s.Local(), "peggy", false); !b.Allowed {
			t.Errorf("lifted: %+v", b.Outcomes())
		}
	})
}

// Reservations and requests with a key are known where they were made.
func TestLocalHoldsAndKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, newRemote(), Config{})
		local := s.Local()
		slots := prepare(t, headgate.InFlight(5, time.Minute)) // of which 4
		for i := range 5 {
			b := batch(t, slots, "a", 1)
			b.Hold, b.HoldFor = uint64(i+1), 1_000_000
			if err := local.Apply(t.Context(), b); err != nil || b.Allowed != (i < 4) {
				t.Fatalf("slot %d: %v, %v", i, b.Allowed, err)
			}
		}
		for _, c := range []struct {
			hold uint64
			held bool
		}{{2, true}, {2, false}, {9, false}} {
			b := batch(t, slots, "a", 0)
			b.Op, b.Hold = headgate.Settle, c.hold
			if err := local.Apply(t.Context(), b); err != nil || b.Outcomes()[0].Allowed != c.held {
				t.Errorf("%+v: %v, %+v", c, err, b.Outcomes()[0])
			}
		}
		if ok, _ := take(t, local, slots, "a", 1); !ok {
			t.Error("what was released is not free")
		}
		nothing := prepare(t, headgate.InFlight(1, time.Minute))
		b := batch(t, nothing, "a", 0)
		b.Op, b.Hold = headgate.Settle, 1
		if err := local.Apply(t.Context(), b); err != nil || b.Outcomes()[0].Allowed {
			t.Errorf("held of a share of nothing: %v, %+v", err, b.Outcomes()[0])
		}

		l, keys := prepare(t, headgate.PerHour(100)), prepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Count: 64, Name: "keys"})
		once := func(print uint64) (*headgate.Batch, error) {
			b := batch(t, l, "k", 1)
			add(t, b, headgate.Charge{Limit: keys, Owner: "k", Parent: true})
			b.Key, b.Hold = headgate.RequestKey{ID: [2]uint64{1, 2}, Print: print}, 77+print
			return b, local.Apply(t.Context(), b)
		}
		if b, err := once(1); err != nil || !b.Allowed || b.Replayed {
			t.Errorf("%v, %+v", err, b.Outcomes())
		}
		if b, err := once(1); err != nil || !b.Allowed || !b.Replayed || b.Hold != 78 || b.Outcomes()[0].Used != 1 {
			t.Errorf("again: %v, %+v", err, b.Outcomes())
		}
		if _, err := once(2); headgate.CodeOf(err) != headgate.Conflict {
			t.Errorf("another request: %v", err)
		}
	})
}

// Where memory is full and keys share what is left, what is known of one takes
// nothing from the others.
func TestLocalFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, newRemote(), Config{LocalBytes: 1 << 20})
		l := prepare(t, headgate.PerHour(1_000_000).WithBurst(1_000_000))
		var o headgate.Outcome
		owner := ""
		for i := 0; !o.Shared; i++ {
			owner = fmt.Sprint(i)
			_, o = take(t, s.Local(), l, owner, 1)
		}
		if ok, _ := take(t, s, l, owner, 999_999); !ok {
			t.Fatal("refused")
		}
		if _, again := take(t, s.Local(), l, owner, 0); !again.Shared || again.Remaining < o.Remaining {
			t.Errorf("%+v, then %+v", o, again)
		}
	})
}

// An operator's reset is one here too.
func TestLocalReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, newRemote(), Config{})
		l := prepare(t, headgate.PerHour(10))
		take(t, s, l, "a", 10)
		reset := batch(t, l, "a", 0)
		reset.Op = headgate.Reset
		if err := s.Local().Apply(t.Context(), reset); err != nil {
			t.Fatal(err)
		}
		if n := admitted(t, s.Local(), l, "a"); n != 8 {
			t.Errorf("%d are admitted after a reset", n)
		}
	})
}

// Local counts by the clock of the store, not by that of its machine: windows
// end for all nodes at once. It knows that clock though it never asked for a
// decision, and learns within a beat that it was set.
func TestLocalClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		r.ahead = 30*time.Minute + 50*time.Second
		s := open(t, r, Config{})
		l := prepare(t, headgate.Window(10, time.Minute))
		local := func(owner string, ends time.Duration) {
			t.Helper()
			now := time.Now().Add(r.ahead).UnixMicro()
			b := batch(t, l, owner, 8)
			if err := s.Local().Apply(t.Context(), b); err != nil || !b.Allowed || b.At != now || b.Outcomes()[0].ResetAfter != ends {
				t.Errorf("%v, allowed %v at %d, want %d: %+v", err, b.Allowed, b.At, now, b.Outcomes()[0])
			}
			if got := s.StoreNow(); got != now {
				t.Errorf("the store's clock shows %d, want %d", got, now)
			}
		}
		local("a", 10*time.Second)
		pass(4 * time.Second)
		local("b", 6*time.Second)
		r.set(func(r *remote) { r.ahead += time.Hour + 30*time.Second })
		pass(beatEvery)
		local("c", 34*time.Second)
		r.set(func(r *remote) { r.ahead += 10 * time.Second })
		take(t, s, l, "d", 1)
		local("e", 24*time.Second)
	})
}

// While a node looks at what it knows of a key, nobody passes by.
func TestLocalRace(t *testing.T) {
	s := open2(t)
	l := prepare(t, headgate.PerHour(1000))
	for round := range 50 {
		owner := fmt.Sprint(round)
		if ok, _ := take(t, s, l, owner, 990); !ok {
			t.Fatal("refused")
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		passed := 0
		for range 4 {
			wg.Go(func() {
				for range 10 {
					ok, _ := take(t, s.Local(), l, owner, 1)
					mu.Lock()
					if ok {
						passed++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if passed != 10 {
			t.Fatalf("%d passed where 10 were left", passed)
		}
	}
}

// open2 makes a guard outside of bubbles.
func open2(t *testing.T) *Store {
	t.Helper()
	s := New(newRemote(), Config{})
	t.Cleanup(func() { s.Close() })
	if err := s.Meet(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLocalEnvelope plays nodes with a store that comes and goes, for hours: over
// no interval do all of them together admit more than (1 + the sum of their
// shares) x (burst + rate x time). What they admit by themselves is within the
// sum of their shares, however often the store comes back for a moment.
func TestLocalEnvelope(t *testing.T) {
	const nodes, burst, perSecond = 3, 50, 2
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(7, seed))
				r := newRemote()
				l := prepare(t, headgate.PerSecond(perSecond).WithBurst(burst))
				var guards []*Store
				for range nodes {
					guards = append(guards, open(t, r, Config{}))
				}
				for _, s := range guards {
					if err := s.Meet(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				type admission struct {
					at    time.Duration
					local bool
				}
				var log []admission
				began, away := time.Now(), false
				for range 10_000 {
					pass(time.Duration(random.Int64N(int64(100 * ms))))
					if random.IntN(150) == 0 {
						away = !away
						r.set(func(r *remote) {
							if r.err = nil; away {
								r.err = errRefused
							}
						})
					}
					s := guards[random.IntN(nodes)]
					b := batch(t, l, "a", 1)
					err := s.Apply(t.Context(), b)
					local := err != nil
					if local {
						b = batch(t, l, "a", 1)
						err = s.Local().Apply(t.Context(), b)
					}
					if err != nil {
						t.Fatal(err)
					}
					if b.Allowed {
						log = append(log, admission{time.Since(began), local})
					}
				}
				var alone int
				for i := range log {
					all, local := 0, 0
					for _, a := range log[i:min(len(log), i+2000)] {
						all++
						if a.local {
							local++
						}
						allowed := burst + perSecond*(a.at-log[i].at).Seconds()
						if float64(all) > 1.8*allowed || float64(local) > 0.8*allowed {
							t.Fatalf("%d passed in %v, %d of them without the store", all, a.at-log[i].at, local)
						}
					}
					alone = max(alone, local)
				}
				if alone < burst/2 {
					t.Errorf("at most %d passed without the store: the test is weak", alone)
				}
			})
		})
	}
}
