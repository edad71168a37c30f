package lease_test

import (
	"context"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// What was granted in an answer that was lost is not lost when the store is closed.
func TestCloseReturnsWhatWasNotHeardOf(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
		granted := 0
		lose := func(_ context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
			if replies[0].Granted > requests[0].Granted {
				granted++
				return errAway
			}
			return nil
		}
		s.change(func() { s.after = lose })
		passed := 0
		for ; granted == 0 && passed < 1000; passed++ {
			ask(t, s.store, c)
			pass(time.Millisecond)
		}
		s.change(func() { s.after = nil })
		s.store.Close()
		if st, o := s.store.Stats(), s.peek(c.Limit, c.Owner); granted != 1 || o.Used != int64(passed) || s.out() != 0 || st.Dropped != 0 {
			t.Errorf("%d lost answers, %d used of which %d passed, %d out: %+v", granted, o.Used, passed, s.out(), st)
		}
	})
}

// Of a ban nothing can be lost: who was not heard of it holds no tokens of it.
func TestBanIsNoLoss(t *testing.T) {
	play(t, func(s *scene) {
		ban := s.charge(headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Hour}, 0)
		c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
		s.heat(c, ban)
		s.change(func() {
			s.after = func(_ context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
				for i := range requests {
					if requests[i].Limit.Algorithm == headgate.Ban {
						replies[i] = headgate.LeaseReply{Status: headgate.LeaseUnknownHolder + 1}
					}
				}
				return nil
			}
		})
		s.every(time.Millisecond, 2000, c, ban)
		s.store.Close()
		if st := s.store.Stats(); st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// What may be lost at the end counts as dropped: what is never known to have been
// given back, and what may have been granted in an answer that was lost.
func TestCloseCountsWhatItCouldNotReturn(t *testing.T) {
	for _, heard := range []bool{true, false} {
		play(t, func(s *scene) {
			c := s.charge(headgate.Window(1_000_000, 24*time.Hour), 1)
			lost := false
			fail := func(context.Context, []headgate.LeaseRequest, []headgate.LeaseReply) error {
				lost = true
				return errAway
			}
			passed := int64(0)
			if heard {
				s.heat(c)
				passed = 200
			} else {
				s.change(func() { s.after = fail })
				for ; !lost && passed < 1000; passed++ {
					ask(t, s.store, c)
					pass(time.Millisecond)
				}
			}
			s.change(func() {
				s.before = func(context.Context, []headgate.LeaseRequest) error { return errAway }
			})
			s.store.Close()
			used, st := s.peek(c.Limit, c.Owner).Used, s.store.Stats()
			if used == passed || used > passed+st.Dropped {
				t.Errorf("heard of it %v: %d used, of which %d passed: %+v", heard, used, passed, st)
			}
		})
	}
}

// What was granted in an answer that was lost counts as dropped where the window or the
// epoch has ended before it is heard of, and only there.
func TestLostGrant(t *testing.T) {
	roll := func(*scene) { <-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) }
	epoch := func(s *scene) { s.change(func() { s.epoch = headgate.Epoch{ID: 2, Since: s.now()} }) }
	for _, row := range []struct {
		name  string
		limit headgate.Limit
		first bool // it was the first one of its lease
		then  func(s *scene)
		void  bool
	}{
		{"the first of a window, which rolls", headgate.Window(1_000_000, time.Second), true, roll, true},
		{"another of a window, which rolls", headgate.Window(1_000_000, time.Second), false, roll, true},
		{"the first of a window, and a new epoch", headgate.Window(1_000_000, time.Hour), true, epoch, true},
		{"another of a window, and a new epoch", headgate.Window(1_000_000, time.Hour), false, epoch, true},
		{"the first of a bucket, and a new epoch", headgate.PerSecond(1_000_000), true, epoch, true},
		{"another of a bucket, and a new epoch", headgate.PerSecond(1_000_000), false, epoch, true},
		{"the first of a window", headgate.Window(1_000_000, time.Hour), true, nil, false},
		{"another of a window", headgate.Window(1_000_000, time.Hour), false, nil, false},
		{"the first of a bucket", headgate.PerSecond(1_000_000), true, nil, false},
		{"another of a bucket", headgate.PerSecond(1_000_000), false, nil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			play(t, func(s *scene) {
				c, lost := s.charge(row.limit, 1), int64(0)
				s.change(func() {
					s.after = func(_ context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
						if n := replies[0].Granted - requests[0].Granted; lost == 0 && n > 0 && row.first == (requests[0].Granted == 0) {
							if lost = n; row.then != nil {
								row.then(s)
							}
							return errAway
						}
						return nil
					}
				})
				pass(500 * time.Millisecond)
				s.every(time.Millisecond, 700, c)
				s.store.Close()
				st, void := s.store.Stats(), int64(0)
				if row.void {
					void = lost
				}
				if gone := st.Granted + void - st.Local - st.Returned; lost == 0 || gone > st.Dropped || !row.void && st.Dropped != 0 {
					t.Errorf("%d tokens were granted in an answer that was lost, and %d did not come back: %+v", lost, gone, st)
				}
			})
		})
	}
}

// What is leased of a budget that is of another algorithm by now cannot be given back:
// it counts as dropped, also where the store is closed at once.
func TestLeasedUnderAnotherAlgorithm(t *testing.T) {
	for _, wait := range []time.Duration{0, 100 * time.Millisecond} {
		play(t, func(s *scene) {
			s.heat(s.charge(headgate.PerSecond(1_000_000).WithName("x"), 1))
			leased := s.store.Stats().Outstanding
			ask(t, s.store, s.charge(headgate.Window(1_000_000, 24*time.Hour).WithName("x"), 1))
			pass(wait)
			s.store.Close()
			if st := s.store.Stats(); leased == 0 || st.Dropped < leased {
				t.Errorf("closed %v later: %d were leased, %+v", wait, leased, st)
			}
		})
	}
}
