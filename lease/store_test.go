package lease_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/storetest"
)

var _ headgate.Store = (*lease.Store)(nil)

// lender is a memory store that lends nothing.
type lender struct{ *memstore.Store }

func (lender) Acquire(context.Context, []headgate.LeaseRequest, []headgate.LeaseReply) error {
	return errAway
}

// What is not leased is decided by the authority, to the letter.
func TestConformanceWithoutLeases(t *testing.T) {
	storetest.Run(t, func(t *testing.T) headgate.Store {
		s := lease.New(lender{memstore.New(memstore.Config{})}, lease.Config{})
		t.Cleanup(func() { s.Close() })
		return s
	}, storetest.Capabilities{ManualClock: true})
}

// scene is a store over a bank in a bubble of its own time.
type scene struct {
	*testing.T
	*bank
	store *lease.Store
}

// play runs f in a bubble.
func play(t *testing.T, f func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := newBank()
		s := &scene{T: t, bank: k, store: lease.New(k, lease.Config{})}
		defer s.store.Close()
		f(s)
	})
}

// pass lets d go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// every asks n times, d apart, and returns how many passed.
func (s *scene) every(d time.Duration, n int, charges ...headgate.Charge) (allowed int) {
	s.Helper()
	for range n {
		if ask(s.T, s.store, charges...).Allowed {
			allowed++
		}
		pass(d)
	}
	return allowed
}

// heat makes the charges' budgets hot: one a millisecond.
func (s *scene) heat(charges ...headgate.Charge) {
	s.Helper()
	if n := s.every(time.Millisecond, 200, charges...); n != 200 {
		s.Fatalf("%d of 200 requests passed", n)
	}
	if st := s.store.Stats(); st.Leases < len(charges) || st.Local == 0 {
		s.Fatalf("not leased: %+v", st)
	}
}

// locally reports whether a request is decided without asking the authority.
func (s *scene) locally(charges ...headgate.Charge) bool {
	s.Helper()
	before := s.store.Stats()
	ask(s.T, s.store, charges...)
	after := s.store.Stats()
	if after.Local+after.Remote != before.Local+before.Remote+1 {
		s.Fatalf("one request counted as %d and %d", after.Local-before.Local, after.Remote-before.Remote)
	}
	return after.Local > before.Local
}

func (s *scene) charge(l headgate.Limit, cost int64) headgate.Charge {
	s.Helper()
	return headgate.Charge{Limit: prepare(s, l), Owner: "alice", Cost: cost}
}

// The load on the authority does not depend on the rate.
func TestHotBudgetIsLeased(t *testing.T) {
	for _, row := range []struct {
		name  string
		every time.Duration
		n     int
		least float64 // share of local decisions
	}{
		{"40 a second", 25 * time.Millisecond, 200, 0.70},
		{"1,000 a second", time.Millisecond, 3000, 0.98},
		{"20,000 a second", 50 * time.Microsecond, 30_000, 0.998},
	} {
		t.Run(row.name, func(t *testing.T) {
			play(t, func(s *scene) {
				if got := s.every(row.every, row.n, s.charge(headgate.PerSecond(1_000_000), 1)); got != row.n {
					t.Errorf("%d of %d requests passed", got, row.n)
				}
				st := s.store.Stats()
				if local := float64(st.Local) / float64(row.n); local < row.least {
					t.Errorf("%.4f decided locally, want %.4f: %+v", local, row.least, st)
				}
				if seconds := (time.Duration(row.n) * row.every).Seconds(); float64(st.Calls) > 12*seconds+20 {
					t.Errorf("%d calls in %.0f s: %+v", st.Calls, seconds, st)
				}
			})
		})
	}
}

func TestColdAndSmallBudgetsAreNot(t *testing.T) {
	play(t, func(s *scene) {
		s.every(110*time.Millisecond, 200, s.charge(headgate.PerSecond(1_000_000), 1))
		s.every(time.Millisecond, 1000, s.charge(headgate.PerSecond(999), 1))
		if s.calls != 0 || s.batches != 1200 {
			t.Errorf("asked for leases %d times, batches %d", s.calls, s.batches)
		}
	})
}

// A batch with one limit that cannot be leased goes to the authority whole, and
// is no reason to lease the others.
func TestBatchWithAnUnleasableLimit(t *testing.T) {
	play(t, func(s *scene) {
		s.every(time.Millisecond, 1000, s.charge(headgate.PerSecond(1_000_000), 1), s.charge(headgate.Log(10_000, time.Hour), 1))
		if s.calls != 0 || s.batches != 1000 {
			t.Errorf("asked for leases %d times, batches %d", s.calls, s.batches)
		}
	})
}

// A budget is not leased for batches whose other budgets are cold.
func TestBatchWithAColdBudget(t *testing.T) {
	play(t, func(s *scene) {
		all := s.charge(headgate.PerSecond(1_000_000).WithName("all"), 1)
		for i := range 1000 {
			own := s.charge(headgate.PerSecond(5000).WithName("own"), 1)
			own.Owner = string(rune('a' + i%200))
			ask(t, s.store, own, all)
			pass(time.Millisecond)
		}
		if s.calls != 0 {
			t.Errorf("asked for leases %d times", s.calls)
		}
	})
}

func TestOnlyPlainTakesAreLocal(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.PerSecond(1_000_000), 1)
		s.heat(c)
		for name, change := range map[string]func(*headgate.Batch){
			"hold":        func(b *headgate.Batch) { b.Hold = 5 },
			"reservation": func(b *headgate.Batch) { b.Hold, b.HoldFor = 5, 1e6 },
			"hold for":    func(b *headgate.Batch) { b.HoldFor = 1e6 },
			"instant":     func(b *headgate.Batch) { b.Now = s.now() },
			"key":         func(b *headgate.Batch) { b.Key.ID[0] = 1 },
			"peek":        func(b *headgate.Batch) { b.Op = headgate.Peek },
			"refund":      func(b *headgate.Batch) { b.Op = headgate.Refund },
			"debit":       func(b *headgate.Batch) { b.Op = headgate.Debit },
		} {
			var b headgate.Batch
			b.Add(c)
			change(&b)
			before := s.batches
			if err := s.store.Apply(t.Context(), &b); err != nil || s.batches != before+1 {
				t.Errorf("%s: %v; the authority decided %d batches", name, err, s.batches-before)
			}
		}
		if !s.locally(c) {
			t.Error("a plain take was not decided locally")
		}
		past := &headgate.Batch{Op: headgate.Peek, Now: 1}
		past.Add(c)
		if err := s.store.Apply(t.Context(), past); err != nil || past.At != 1 {
			t.Errorf("%v; at %d", err, past.At)
		}
		if b := ask(t, s.store, c); !b.Outcomes()[0].Leased || b.At < s.now()-1 {
			t.Errorf("an instant that was given set the authority's clock to %d", b.At)
		}
	})
}

// Requests on several limits spend from all leases, or are decided by the
// authority and spend from none.
func TestBatchIsLocalWholeOrNotAtAll(t *testing.T) {
	play(t, func(s *scene) {
		a, b := s.charge(headgate.PerSecond(1_000_000).WithName("a"), 1), s.charge(headgate.PerSecond(100_000).WithName("b"), 1)
		b.Shadow, b.Parent = true, true
		s.heat(a, b)
		before := s.store.Stats()
		b.Cost = 50_000 // more than is leased
		if s.locally(a, b) {
			t.Error("more was spent than is leased")
		}
		if after := s.store.Stats(); after.Outstanding != before.Outstanding {
			t.Errorf("%d tokens outstanding after a batch that the authority decided, %d before", after.Outstanding, before.Outstanding)
		}
	})
}

// Near the limit the authority decides every request, and all of it can be used.
func TestExactNearTheLimit(t *testing.T) {
	for _, l := range []headgate.Limit{
		headgate.Window(5000, 24*time.Hour),
		headgate.Sliding(5000, 24*time.Hour),
		headgate.QuotaPer(5000, headgate.Day),
		headgate.Per(5000, headgate.MaxPeriod),
	} {
		t.Run(l.Algorithm.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newBank()
				var stores []*lease.Store
				for range 3 {
					stores = append(stores, lease.New(k, lease.Config{}))
				}
				c := headgate.Charge{Limit: prepare(t, l), Owner: "alice", Cost: 1}
				passed, local := 0, int64(0)
				for range 3000 {
					for _, s := range stores {
						if ask(t, s, c).Allowed {
							passed++
						}
					}
					pass(time.Millisecond)
				}
				for _, s := range stores {
					local += s.Stats().Local
					s.Close()
				}
				if passed > 5000 || passed < 4900 {
					t.Errorf("%d passed, want at most 5,000 and at least 4,900", passed)
				}
				if local < 2000 {
					t.Errorf("%d decided locally, which proves little", local)
				}
			})
		})
	}
}

func TestIdleLeaseIsReturned(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(100_000, time.Hour), 1)
		s.heat(c)
		if s.out() == 0 {
			t.Fatal("nothing is out")
		}
		pass(time.Second)
		if n, o := s.out(), s.peek(c.Limit, c.Owner); n != 0 || o.Used != 200 {
			t.Errorf("%d out, %d used; want 0, 200", n, o.Used)
		}
		pass(5 * time.Second)
		st := s.store.Stats()
		if st.Tracked != 0 || st.Granted-st.Returned != 200-st.Remote || st.Dropped != 0 || st.Late != 0 {
			t.Errorf("not forgotten, or tokens lost: %+v", st)
		}
		calls := s.calls
		pass(time.Minute)
		if s.calls != calls {
			t.Error("idle, and asks on")
		}
	})
}

// A budget that is used, but rarely, is not leased any more.
func TestBudgetThatCoolsIsReturned(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(100_000, time.Hour), 1)
		s.heat(c)
		s.every(300*time.Millisecond, 30, c)
		if st := s.store.Stats(); s.out() != 0 || st.Tracked != 0 {
			t.Errorf("%d out: %+v", s.out(), st)
		}
		s.heat(c)
	})
}

func TestCloseReturnsEverything(t *testing.T) {
	play(t, func(s *scene) {
		c := s.charge(headgate.Window(100_000, time.Hour), 1)
		s.heat(c)
		s.store.Close()
		if n, o := s.out(), s.peek(c.Limit, c.Owner); n != 0 || o.Used != 200 {
			t.Errorf("%d out, %d used; want 0, 200", n, o.Used)
		}
		var b headgate.Batch
		b.Add(c)
		err := s.store.Apply(t.Context(), &b)
		if e, ok := errors.AsType[*headgate.Error](err); !ok || e.Code != headgate.Closed {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	play(t, func(s *scene) {
		s.heat(s.charge(headgate.PerSecond(100_000), 1))
		s.change(func() {
			s.before = func(ctx context.Context, _ []headgate.LeaseRequest) error { <-ctx.Done(); return ctx.Err() }
		})
		start := time.Now()
		s.store.Close()
		if took := time.Since(start); took > 1250*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
	})
}

// Outcomes are those of the authority at the last contact and what is left here,
// on the authority's clock.
func TestLocalOutcomes(t *testing.T) {
	for _, l := range []headgate.Limit{
		headgate.PerSecond(100_000).WithName("rate"),
		headgate.Window(100_000, time.Hour),
		headgate.Sliding(100_000, time.Hour),
		headgate.QuotaPer(100_000, headgate.Day),
		{Algorithm: headgate.Quota, Count: 1000, Calendar: headgate.Calendar{Unit: headgate.Day}, Soft: true},
	} {
		t.Run(l.Algorithm.String(), func(t *testing.T) {
			play(t, func(s *scene) {
				s.skew = 30 * time.Minute
				c := s.charge(l, 10)
				s.heat(c)
				if !s.locally(c) {
					t.Fatal("not decided locally")
				}
				b, o := new(headgate.Batch), headgate.Outcome{}
				b.Add(c)
				if err := s.store.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				o = b.Outcomes()[0]
				if !o.Allowed || !o.Leased || o.Limit != c.Limit.Count || o.RetryAfter != 0 {
					t.Errorf("%+v", o)
				}
				if o.Remaining != max(0, o.Limit-o.Used) || o.Overage != max(0, o.Used-o.Limit) {
					t.Errorf("%d used and %d remaining of %d, %d above", o.Used, o.Remaining, o.Limit, o.Overage)
				}
				truth := s.peek(c.Limit, c.Owner)
				spent := int64(2020)
				if l.Algorithm == headgate.TokenBucket {
					if o.Used > 2020 {
						t.Errorf("%d used", o.Used)
					}
				} else {
					if o.Used != spent {
						t.Errorf("%d used, want %d", o.Used, spent)
					}
					if o.ResetAfter < truth.ResetAfter-time.Millisecond || o.ResetAfter > truth.ResetAfter+time.Millisecond || o.ResetsAt != truth.ResetsAt {
						t.Errorf("resets after %v at %d, want %v at %d", o.ResetAfter, o.ResetsAt, truth.ResetAfter, truth.ResetsAt)
					}
				}
				if skew := b.At - s.now(); skew < -1 || skew > 1 {
					t.Errorf("decided %d µs off the authority's clock", skew)
				}
			})
		})
	}
}
