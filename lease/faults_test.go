package lease_test

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// The store is away: what is leased is spent until its deadline, not longer.
func TestStoreAway(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.PerSecond(1_000_000), 1)
		c.Limit = prepare(t, headgate.Per(1_000_000, time.Hour))
		s.every(100*time.Microsecond, 2000, c)
		s.change(func() {
			s.before = func(context.Context, []headgate.LeaseRequest) error { return errAway }
		})
		away := time.Now()
		st := s.store.Stats()
		if st.Outstanding < 500 {
			t.Fatalf("too little is out: %+v", st)
		}
		for time.Since(away) < 900*time.Millisecond {
			if !s.locally(c) {
				t.Fatalf("not decided locally %v after the store went away: %+v", time.Since(away), s.store.Stats())
			}
			pass(20 * time.Millisecond)
		}
		pass(100*time.Millisecond + time.Since(away) - 900*time.Millisecond)
		if s.locally(c) {
			t.Error("spent after the deadline")
		}
		calls := s.store.Stats().Calls
		s.every(time.Millisecond, 4000, c)
		if st := s.store.Stats(); st.Calls-calls > 12 || st.Failures < st.Calls-calls {
			t.Errorf("asked %d times in 4 s of being away: %+v", st.Calls-calls, st)
		}
		s.change(func() { s.before = nil })
		s.every(time.Millisecond, 2000, c)
		if !s.locally(c) {
			t.Error("not leased after the store is back")
		}
	})
}

// A store that is slow is not asked by more and more calls, and what comes after
// the deadline is given back.
func TestSlowStore(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
		s.change(func() {
			s.after = func(ctx context.Context, _ []headgate.LeaseRequest, _ []headgate.LeaseReply) error {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(100 * time.Millisecond):
					return nil
				}
			}
		})
		s.every(time.Millisecond, 2000, c)
		if st := s.store.Stats(); st.Local < 1500 || st.Calls > 25 || st.Failures > 0 {
			t.Errorf("with 100 ms of latency: %+v", st)
		}
		s.change(func() { s.terms.TTL = 50_000 }) // shorter than the answer takes
		s.every(time.Millisecond, 2000, c)
		before := s.store.Stats()
		s.every(time.Millisecond, 2000, c)
		st := s.store.Stats()
		if st.Local != before.Local || st.Late == before.Late {
			t.Errorf("replies that come after the deadline: %+v, before %+v", st, before)
		}
		s.change(func() { s.after, s.terms.TTL = nil, 1_000_000 })
		pass(4 * time.Second)
		if o := s.peek(c.Limit, c.Owner); o.Used != 6000 || s.out() != 0 {
			t.Errorf("%d used, %d out; want 6,000 and none", o.Used, s.out())
		}
	})
}

// Replies are lost: what they granted is granted again, not more.
func TestLostReplies(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
		n := 0
		s.change(func() {
			s.after = func(context.Context, []headgate.LeaseRequest, []headgate.LeaseReply) error {
				if n++; n%2 == 0 {
					return errAway
				}
				return nil
			}
		})
		if got := s.every(time.Millisecond, 5000, c); got != 5000 {
			t.Errorf("%d passed", got)
		}
		st := s.store.Stats()
		if st.Local < 4000 || st.Failures == 0 {
			t.Errorf("%+v", st)
		}
		s.change(func() { s.after = nil })
		pass(3 * time.Second)
		if o := s.peek(c.Limit, c.Owner); o.Used != 5000 || s.out() != 0 {
			t.Errorf("%d used, %d out; want 5,000 and none", o.Used, s.out())
		}
	})
}

// An authority may know nothing of some requests of a call, as when one of the
// stores behind it is away. The others go on.
func TestPartOfTheAuthorityIsAway(t *testing.T) {
	play(t, func(s *scene) {
		a, b := s.charge(headgate.PerSecond(1_000_000), 1), s.charge(headgate.PerSecond(1_000_000), 1)
		b.Owner = "bob"
		s.change(func() {
			s.after = func(_ context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
				for i := range requests {
					if requests[i].Owner == "bob" {
						replies[i] = headgate.LeaseReply{Status: headgate.LeaseUnknownHolder + 1}
					}
				}
				return nil
			}
		})
		for range 2000 {
			ask(t, s.store, a)
			ask(t, s.store, b)
			pass(time.Millisecond)
		}
		if !s.locally(a) || s.locally(b) {
			t.Errorf("%+v", s.store.Stats())
		}
	})
}

// Another incarnation of the store voids what is leased.
func TestEpochChange(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
		s.heat(c)
		holders := map[[2]uint64]bool{}
		s.change(func() {
			s.epoch = headgate.Epoch{ID: 2, Since: s.now() + 1_000_000}
			s.before = func(_ context.Context, requests []headgate.LeaseRequest) error {
				for i := range requests {
					holders[requests[i].Holder] = true
				}
				return nil
			}
		})
		s.every(time.Millisecond, 900, c)
		if st := s.store.Stats(); st.Dropped == 0 || st.Outstanding != 0 || len(holders) < 2 {
			t.Errorf("%d holders: %+v", len(holders), st)
		}
		if o := s.peek(c.Limit, c.Owner); o.Used < 200 {
			t.Errorf("%d used", o.Used)
		}
		s.every(time.Millisecond, 1500, c)
		if !s.locally(c) {
			t.Errorf("not leased in the new epoch: %+v", s.store.Stats())
		}
	})
}

// What the authority was asked of a window directly is told as its floor too.
func TestFloorKnowsDirectAnswers(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
		s.heat(c)
		var floor int64
		s.change(func() {
			s.before = func(_ context.Context, requests []headgate.LeaseRequest) error {
				floor = requests[0].Floor
				return errAway
			}
		})
		c.Cost = 10_000
		if s.locally(c) {
			t.Fatal("more was spent than is leased")
		}
		pass(100 * time.Millisecond)
		if used := s.peek(c.Limit, c.Owner).Used; floor != used || used < 10_000 {
			t.Errorf("floor %d, used %d", floor, used)
		}
	})
}

// A direct answer on a sliding window tells what all its slices hold. That is no
// floor for one slice: it would count there what the others count too.
func TestFloorOfASliceIsItsOwn(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Sliding(1_000_000, 10*time.Second), 1)
		s.heat(c)
		c.Cost = 100_000
		ask(s.T, s.store, c)
		pass(time.Second - time.Duration(time.Now().UnixNano())%time.Second)
		c.Cost = 1
		s.heat(c)
		c.Cost = 250_000 // more than is ever out
		if s.locally(c) {
			t.Fatal("more was spent than is leased")
		}
		var floor int64
		s.change(func() {
			s.before = func(_ context.Context, requests []headgate.LeaseRequest) error {
				floor = max(floor, requests[0].Floor)
				return errAway
			}
		})
		c.Cost = 1
		s.every(time.Millisecond, 200, c)
		if floor == 0 || floor > 300_000 {
			t.Errorf("floor %d, with some 250,000 in this slice and 100,000 in the one before", floor)
		}
	})
}

// No window's tokens are spent in another one.
func TestWindowsRoll(t *testing.T) {
	for _, l := range []headgate.Limit{headgate.Window(2000, 500*time.Millisecond), headgate.Sliding(2000, 500*time.Millisecond)} {
		t.Run(l.Algorithm.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rollWindows(t, prepare(t, l)) })
		})
	}
}

func rollWindows(t *testing.T, l *headgate.Prepared) {
	k := newBank()
	var stores [3]*lease.Store
	for i := range stores {
		stores[i] = lease.New(k, lease.Config{})
	}
	var admitted []time.Time
	local := int64(0)
	for range 6000 {
		for _, s := range stores {
			if ask(t, s, headgate.Charge{Limit: l, Owner: "alice", Cost: 1}).Allowed {
				admitted = append(admitted, time.Now())
			}
		}
		pass(500 * time.Microsecond)
	}
	for _, s := range stores {
		local += s.Stats().Local
		s.Close()
	}
	for i, at := range admitted[min(2000, len(admitted)):] {
		first := admitted[i]
		if l.Algorithm == headgate.FixedWindow && first.UnixMicro()/500_000 != at.UnixMicro()/500_000 {
			continue
		}
		if at.Sub(first) < 500*time.Millisecond {
			t.Fatalf("2,001 admitted from %v to %v", first, at)
		}
	}
	if len(admitted) < 9000 || local < int64(len(admitted))/8 {
		t.Errorf("%d admitted, %d of them locally, which proves little", len(admitted), local)
	}
}

// Other numbers: nothing leased under the old ones is spent.
func TestNumbersChange(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.PerSecond(1_000_000).WithName("l"), 1)
		with := func(l headgate.Limit) headgate.Charge {
			return headgate.Charge{Limit: prepare(t, l.WithName("l")), Owner: c.Owner, Cost: 1}
		}
		s.heat(c)
		if !s.locally(with(headgate.PerSecond(1_000_000))) || !s.locally(c) {
			t.Error("the same numbers were not decided locally")
		}
		lower := with(headgate.PerSecond(2000))
		if s.locally(lower) {
			t.Error("spent under other numbers")
		}
		pass(30 * time.Millisecond)
		if s.every(time.Millisecond, 300, lower) != 300 || !s.locally(lower) {
			t.Errorf("not leased under the new numbers: %+v", s.store.Stats())
		}
		if s.locally(with(headgate.PerSecond(10))) {
			t.Error("spent of a limit that is too small to lease")
		}
		pass(time.Second)
		if st := s.store.Stats(); st.Tracked != 0 || s.out() != 0 {
			t.Errorf("%d out: %+v", s.out(), st)
		}
		s.heat(c)
		if s.locally(with(headgate.InFlight(10, time.Minute))) {
			t.Error("a slot was spent of a lease")
		}
	})
}

// Numbers change while a grant is under way.
func TestNumbersChangeUnderWay(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.PerSecond(1_000_000).WithName("l"), 1)
		lower := s.charge(headgate.PerSecond(2000).WithName("l"), 1)
		s.heat(c)
		s.change(func() {
			s.after = func(context.Context, []headgate.LeaseRequest, []headgate.LeaseReply) error {
				<-time.After(50 * time.Millisecond)
				return nil
			}
		})
		for i := range 3000 {
			x := c
			if i/100%2 == 1 {
				x = lower
			}
			ask(t, s.store, x)
			if st := s.store.Stats(); i%100 == 0 && i > 0 && st.Outstanding > 0 {
				t.Fatalf("request %d, the first under other numbers, leaves %d tokens of the old ones", i, st.Outstanding)
			}
			pass(time.Millisecond)
		}
		if st := s.store.Stats(); st.Local == 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A ban stops what is leased within a lease's life.
func TestBan(t *testing.T) {
	play(t, func(s *scene) {
		ban := s.charge(headgate.Limit{Algorithm: headgate.Ban, Count: 5, Period: time.Minute, TTL: 10 * time.Second}, 0)
		c := s.charge(headgate.PerSecond(1_000_000), 1)
		s.heat(c, ban)
		if n := s.every(time.Millisecond, 3000, c, ban); n != 3000 || s.store.Stats().Local < 2900 {
			t.Errorf("%d passed before the ban: %+v", n, s.store.Stats())
		}
		s.ban(ban.Limit, ban.Owner)
		pass(time.Second)
		if b := ask(t, s.store, c, ban); b.Allowed || b.Outcomes()[1].RetryAfter != 9*time.Second {
			t.Errorf("a second after the ban: %+v", b.Outcomes()[1])
		}
		if n := s.every(time.Millisecond, 2000, c, ban); n != 0 {
			t.Errorf("%d passed while banned", n)
		}
		pass(8 * time.Second)
		s.heat(c, ban)
		if o := ask(t, s.store, ban, c).Outcomes()[0]; !o.Allowed || o.Leased || o.Limit != 5 || o.Used != 0 {
			t.Errorf("the ban's outcome: %+v", o)
		}
	})
}

// A reset brings the whole budget back, but for what was out and is spent.
func TestReset(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(100_000, time.Hour), 1)
		s.heat(c)
		before := s.store.Stats()
		spent := s.out() - before.Outstanding
		var b headgate.Batch
		b.Reset(headgate.Reset)
		b.Add(c)
		if err := s.store.Apply(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Millisecond)
		if st := s.store.Stats(); st.Returned-before.Returned < before.Outstanding {
			t.Errorf("%d of %d tokens were given back", st.Returned-before.Returned, before.Outstanding)
		}
		ask(t, s.store, c)
		pass(time.Second)
		if o := s.peek(c.Limit, c.Owner); o.Used < 1 || o.Used > 1+spent || spent > 100 {
			t.Errorf("%d used after a reset and one request, with %d spent of a lease", o.Used, spent)
		}
	})
}

// The authority has no more to lease: it is asked ever more rarely, and decides
// every request. A window that begins has more.
func TestBacksOff(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.PerSecond(1000), 1)
		s.every(500*time.Microsecond, 6000, c)
		calls, batches := s.calls, s.batches
		if n := s.every(500*time.Microsecond, 10_000, c); n < 4999 || n > 5001 {
			t.Errorf("%d passed in 5 s of 1,000 a second", n)
		}
		if s.calls-calls > 12 || s.batches-batches < 9900 {
			t.Errorf("asked %d times in 5 s for what there is not, and for %d decisions", s.calls-calls, s.batches-batches)
		}
		c = s.charge(headgate.Window(1000, time.Second), 1)
		before := s.store.Stats().Local
		for i := range 10 {
			s.every(500*time.Microsecond, 2000, c)
			after := s.store.Stats().Local
			if after-before < 600 {
				t.Errorf("%d of 1,000 decided locally in window %d", after-before, i)
			}
			before = after
		}
	})
}

// A flood of keys that come once is followed in fixed memory, and hides no hot
// one. There is room for so many leases and no more.
func TestFloodAndRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newBank()
		s := lease.New(k, lease.Config{MaxLeases: 4})
		l := prepare(t, headgate.PerSecond(1_000_000))
		for i := range 12_000 {
			ask(t, s, headgate.Charge{Limit: l, Owner: "flood " + strconv.Itoa(i), Cost: 1})
			if i%10 == 0 {
				ask(t, s, headgate.Charge{Limit: l, Owner: "hot " + strconv.Itoa(i/10%6), Cost: 1})
			}
			pass(50 * time.Microsecond)
		}
		if st := s.Stats(); st.Leases != 4 || st.Local < 600 {
			t.Errorf("%+v", st)
		}
		pass(3 * time.Second)
		for range 200 {
			for i := range 4 {
				ask(t, s, headgate.Charge{Limit: l, Owner: "hot " + strconv.Itoa(2+i), Cost: 1})
			}
			pass(time.Millisecond)
		}
		if st := s.Stats(); st.Leases != 4 || st.Tracked != 4 {
			t.Errorf("no room for others after the first ones are idle: %+v", st)
		}
		s.Close()
	})
}

// Several thousand leases are kept by few calls.
func TestManyLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newBank()
		// What comes up while a call is under way goes together into the next one. Calls
		// that took no time at all would be as many as the scheduler has it.
		k.after = func(context.Context, []headgate.LeaseRequest, []headgate.LeaseReply) error {
			<-time.After(time.Millisecond)
			return nil
		}
		s := lease.New(k, lease.Config{})
		l := prepare(t, headgate.PerSecond(1_000_000))
		owners := make([]string, 1500)
		for i := range owners {
			owners[i] = strconv.Itoa(i)
		}
		for range 60 {
			for _, o := range owners {
				ask(t, s, headgate.Charge{Limit: l, Owner: o, Cost: 1})
			}
			pass(20 * time.Millisecond)
		}
		st := s.Stats()
		if st.Leases < len(owners)-15 || st.Calls > 30 || float64(st.Local) < 0.5*float64(st.Remote+st.Local) {
			t.Errorf("%+v", st)
		}
		s.Close()
		if n := k.out(); n != 0 {
			t.Errorf("%d out after Close", n)
		}
	})
}
