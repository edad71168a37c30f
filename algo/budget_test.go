package algo_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// authority is a store of one budget, as every store has to keep it.
type authority struct {
	b     algo.Budget
	l     *headgate.Prepared
	e     headgate.Epoch
	terms algo.Terms
}

func newAuthority(t testing.TB, l headgate.Limit) *authority {
	t.Helper()
	return &authority{l: prepare(t, l), e: headgate.Epoch{ID: 7}, terms: algo.DefaultTerms}
}

// clone returns a copy for what may be asked in vain.
func (a *authority) clone() *authority {
	c := *a
	c.b = a.b.Clone()
	return &c
}

// call does one operation, and keeps what a store has to keep.
func (a *authority) call(c algo.Call) (o headgate.Outcome) {
	b := a.b.Clone()
	fresh, other := b.Load(a.l, c.Now, a.e)
	if !b.Apply(&c, a.e, &o) {
		panic("as many reservations as may be are open")
	}
	moved := o.Allowed && (c.Cost > 0 || c.Reserves(a.l.Algorithm)) || !o.Allowed && !o.Never && c.Cost > 0 && other
	if c.Op != headgate.Peek && (moved || !fresh && !other) {
		a.b = b
	}
	return o
}

func (a *authority) do(op headgate.Op, at time.Duration, cost int64) headgate.Outcome {
	return a.call(algo.Call{Op: op, Now: epoch + micros(at), Cost: cost})
}

// acquire keeps the budget only if it was told to.
func (a *authority) acquire(now int64, r headgate.LeaseRequest) (reply headgate.LeaseReply) {
	r.Limit = a.l
	b := a.b.Clone()
	if b.Acquire(&r, now, a.e, &a.terms, &reply) {
		a.b = b
	}
	return reply
}

func (a *authority) reset(now int64) {
	if fresh, _ := a.b.Load(a.l, now, a.e); !fresh {
		a.b.Reset(now, a.e)
	}
}

// absentAfter checks from when on the record is absent, as a time since epoch.
func (a *authority) absentAfter(t *testing.T, want time.Duration) {
	t.Helper()
	if got := a.b.Absent() - epoch; got != micros(want) {
		t.Errorf("absent after %d µs, want %v", got, want)
	}
}

// expect compares what matters of an outcome.
func expect(t *testing.T, what string, o headgate.Outcome, allowed bool, remaining int64, retry time.Duration) {
	t.Helper()
	got := o.RetryAfter
	if o.Never {
		got = never
	}
	if o.Allowed != allowed || o.Remaining != remaining || got != retry {
		t.Errorf("%s: %s\nwant allowed=%v remaining=%d retry=%v", what, show(o), allowed, remaining, retry)
	}
}

// The zero Budget was never seen, and a budget that was loaded goes on under the
// new numbers as Convert says, absent under the old and the new ones only.
func TestBudgetLoad(t *testing.T) {
	var none algo.Budget
	if none.Absent() != math.MinInt64 {
		t.Errorf("the zero budget is absent after %d", none.Absent())
	}
	a := newAuthority(t, headgate.Per(10, sec).WithBurst(100))
	expect(t, "never seen", a.do(peek, 0, 100), true, 100, 0)
	if a.b.Limit != nil {
		t.Error("a peek was kept")
	}
	expect(t, "take", a.do(take, 0, 90), true, 10, 0)
	a.absentAfter(t, 9*sec)
	kept := a.b.Clone()
	a.l = prepare(t, headgate.Per(1, sec).WithBurst(20))
	expect(t, "peek under others", a.do(peek, 0, 20), false, 10, 10*sec)
	if !slices.Equal(a.b.Words, kept.Words) || a.b.Limit != kept.Limit {
		t.Error("a peek has converted the record")
	}
	expect(t, "take under others", a.do(take, 0, 10), true, 0, 0)
	a.absentAfter(t, 20*sec)
	a.l = prepare(t, headgate.Per(10, sec).WithBurst(100))
	fresh, other := a.b.Load(a.l, epoch+micros(19*sec), a.e)
	if fresh || !other {
		t.Errorf("loaded as fresh=%v, other=%v", fresh, other)
	}
	expect(t, "and back", a.do(peek, 19*sec, 0), true, 19, 0)
	if fresh, other = a.b.Load(prepare(t, headgate.Per(10, sec).WithBurst(100)), epoch+micros(19*sec), a.e); fresh || other {
		t.Errorf("the same numbers loaded as fresh=%v, other=%v", fresh, other)
	}
	if fresh, _ = a.b.Load(a.l, a.b.Absent(), a.e); !fresh || a.b.Keep != 0 {
		t.Errorf("once absent, it is loaded as fresh=%v, to keep until %d", fresh, a.b.Keep)
	}
}

// A bucket that was never seen in an incarnation ramps up from its first
// instant, and before that has nothing.
func TestBudgetRamps(t *testing.T) {
	a := newAuthority(t, headgate.Per(10, sec).WithBurst(100))
	a.e.Since = epoch + micros(sec)
	expect(t, "before", a.do(take, 0, 1), false, 0, 1100*ms)
	expect(t, "nothing", a.do(take, 0, 0), true, 0, 0)
	expect(t, "then", a.do(take, sec, 1), false, 0, 100*ms)
	expect(t, "a while later", a.do(take, 3*sec, 5), true, 15, 0)
	expect(t, "and goes on", a.do(peek, 4*sec, 100), false, 25, 7500*ms)
	other := a.clone()
	other.b = algo.Budget{}
	expect(t, "long after", other.do(peek, time.Hour, 100), true, 100, 0)
	expect(t, "full at last", other.do(peek, 11*sec, 100), true, 100, 0)
	expect(t, "nearly", other.do(peek, 11*sec-1*time.Microsecond, 100), false, 99, time.Microsecond)
	leaky := newAuthority(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 10, Period: sec, Burst: 10})
	leaky.e.Since = epoch + micros(sec)
	if o := leaky.do(take, 1500*ms, 3); !o.Allowed || o.Delay != 500*ms {
		t.Errorf("a leaky bucket starts as if its queue were full: %s", show(o))
	}
}

// A record of another incarnation: a bucket goes on with nothing at e.Since, a
// debt stays a debt, a window keeps its count.
func TestBudgetRecovers(t *testing.T) {
	for _, k := range []struct {
		name       string
		take, owed int64
		remaining  int64 // 5 s after Since
		used       int64
	}{
		{"a level is lost", 40, 0, 50, 50},
		{"a debt is not", 100, 30, 20, 80},
		{"an empty one", 100, 0, 50, 50},
	} {
		t.Run(k.name, func(t *testing.T) {
			a := newAuthority(t, headgate.Per(10, sec).WithBurst(100))
			a.do(take, 0, k.take)
			a.do(debit, 0, k.owed)
			a.e = headgate.Epoch{ID: 8, Since: epoch + micros(2*sec)}
			expect(t, "before", a.do(take, sec, 1), false, 0, sec+time.Duration(1+k.owed)*100*ms)
			if a.b.Epoch != 8 {
				t.Error("a refusal has not written the recovery")
			}
			if o := a.do(peek, 7*sec, 0); o.Remaining != k.remaining || o.Used != k.used {
				t.Errorf("5 s after: %s, want %d remaining and %d used", show(o), k.remaining, k.used)
			}
		})
	}
	t.Run("recovering again changes nothing", func(t *testing.T) {
		a := newAuthority(t, headgate.Per(10, sec).WithBurst(100))
		a.do(take, 0, 90)
		a.e = headgate.Epoch{ID: 8, Since: epoch + micros(2*sec)}
		once := a.clone()
		once.do(take, 3*sec, 0)
		if got, want := a.do(peek, 4*sec, 100), once.do(peek, 4*sec, 100); got != want {
			t.Errorf("from the old record %s, from the new one %s", show(got), show(want))
		}
	})
	t.Run("a record that ran out is one never seen", func(t *testing.T) {
		a := newAuthority(t, headgate.Per(10, sec).WithBurst(100))
		a.do(take, 0, 10)
		a.e = headgate.Epoch{ID: 8, Since: epoch + micros(2*sec)}
		swept := a.clone()
		swept.b = algo.Budget{}
		if got, want := a.do(take, 5*sec, 3), swept.do(take, 5*sec, 3); got != want || got.Remaining != 27 {
			t.Errorf("kept %s, swept %s, want 27 remaining", show(got), show(want))
		}
	})
}

// Reservations outlive a failover, but give nothing back that may have been given
// back before: level and reservations together have nothing.
func TestBudgetRecoversReservations(t *testing.T) {
	reserve := func(t *testing.T) *authority {
		a := newAuthority(t, headgate.Per(10, sec).WithBurst(100))
		if o := a.call(algo.Call{Now: epoch, Cost: 60, Hold: 5, HoldFor: micros(time.Minute)}); !o.Allowed {
			t.Fatal(show(o))
		}
		return a
	}
	settle := func(a *authority, at time.Duration, n int64) headgate.Outcome {
		return a.call(algo.Call{Op: headgate.Settle, Now: epoch + micros(at), Cost: n, Hold: 5})
	}
	a := reserve(t)
	lost := a.clone()
	if o := settle(lost, 0, 0); !o.Allowed || o.Remaining != 100 {
		t.Fatalf("settled: %s", show(o))
	}
	expect(t, "spent what came back", lost.do(take, 0, 100), true, 0, 0)
	// Both writes are lost, and the settlement is sent again.
	a.e = headgate.Epoch{ID: 8, Since: epoch + micros(2*sec)}
	if o := settle(a, 2*sec, 0); !o.Allowed || o.Remaining != 0 || o.Used != 100 {
		t.Errorf("settled again: %s, want nothing left", show(o))
	}
	expect(t, "a second later", a.do(peek, 3*sec, 11), false, 10, 100*ms)

	a = reserve(t)
	a.e = headgate.Epoch{ID: 8, Since: epoch + micros(2*sec)}
	expect(t, "unsettled, it fills the debt first", a.do(take, 8*sec, 1), false, 0, 100*ms)
	expect(t, "and then at most what is not held", a.do(peek, 50*sec, 41), false, 40, 10*sec+100*ms)
	if o := settle(a, 50*sec, 20); !o.Allowed || o.Remaining != 80 {
		t.Errorf("settled late: %s", show(o))
	}

	a = reserve(t) // until 60 s, before the new incarnation starts
	a.e = headgate.Epoch{ID: 8, Since: epoch + micros(90*sec)}
	a.b.Keep = a.e.Since + 1 // as if it had been kept under slower numbers
	if o := settle(a, 30*sec, 0); o.Allowed {
		t.Errorf("a reservation that ends before Since was settled: %s", show(o))
	}
}

// Windows, logs and quotas that may have lost counts refuse until what was lost
// has been spent.
func TestBudgetIsClosedBeforeSince(t *testing.T) {
	soft := headgate.QuotaPer(10, headgate.Day)
	soft.Soft = true
	for _, k := range []struct {
		limit  headgate.Limit
		closed bool
		retry  time.Duration // of all 10 at 0.5 s, 4 of which are taken
	}{
		{headgate.Window(10, 10*sec), true, 9500 * ms},
		{headgate.Window(10, sec), true, 1500 * ms},
		{headgate.Sliding(10, 10*sec), true, 10500 * ms},
		{headgate.Sliding(10, sec).WithSlices(1), true, 1500 * ms},
		{headgate.Log(10, 10*sec), true, 9500 * ms},
		{headgate.QuotaPer(10, headgate.Day), true, 24*time.Hour - 500*ms},
		{soft, false, 0},
		{headgate.InFlight(10, 10*sec), false, 9500 * ms},
	} {
		a := newAuthority(t, k.limit)
		a.do(take, 0, 4)
		a.e = headgate.Epoch{ID: 8, Since: epoch + micros(2*sec)}
		name := describe(a.l)
		for _, op := range []headgate.Op{peek, take} {
			one := a.clone().do(op, 500*ms, 1)
			if one.Allowed == k.closed || k.closed && (one.RetryAfter != 1500*ms || one.Used != 4 || one.Never) {
				t.Errorf("%s: %v of 1: %s", name, op, show(one))
			}
			if all := a.clone().do(op, 500*ms, 10); all.Allowed == k.closed && k.closed || all.RetryAfter != k.retry {
				t.Errorf("%s: %v of all: %s, want to wait %v", name, op, show(all), k.retry)
			}
			if o := a.clone().do(op, 500*ms, 0); !o.Allowed {
				t.Errorf("%s: %v of nothing: %s", name, op, show(o))
			}
			if o := a.clone().do(op, 500*ms, 11); o.Never == k.limit.Soft || o.RetryAfter != 0 {
				t.Errorf("%s: %v of more than there is: %s", name, op, show(o))
			}
			if o := a.clone().do(op, 2*sec, 1); !o.Allowed {
				t.Errorf("%s: %v at Since: %s", name, op, show(o))
			}
		}
		if o := a.do(debit, 500*ms, 2); !o.Allowed || k.limit.Algorithm != headgate.Concurrency && o.Used != 6 {
			t.Errorf("%s: a debit was refused: %s", name, show(o))
		}
	}
}

// TestBudgetReset: what is leased out stays held, the rest is as if never seen.
func TestBudgetReset(t *testing.T) {
	soft := headgate.QuotaPer(1000, headgate.Day)
	soft.Soft = true
	for _, limit := range []headgate.Limit{
		headgate.Per(10, sec).WithBurst(1000), headgate.Window(1000, time.Minute), headgate.Sliding(1000, time.Minute),
		headgate.QuotaPer(1000, headgate.Day), soft,
	} {
		a := newAuthority(t, limit)
		name := describe(a.l)
		a.do(take, 0, 300)
		first := a.acquire(epoch, headgate.LeaseRequest{Holder: [2]uint64{1}, Want: 100})
		if first.Granted != 100 {
			t.Fatalf("%s: %+v", name, first)
		}
		a.reset(epoch + 1)
		if o := a.do(peek, 1*time.Microsecond, 0); o.Used != 100 || !o.Leased {
			t.Errorf("%s: reset: %s, want 100 used, leased", name, show(o))
		}
		report := headgate.LeaseRequest{
			Holder: [2]uint64{1}, Epoch: first.Epoch, Window: first.Window, Granted: 100, Settled: 100, Returned: 40,
		}
		if r := a.acquire(epoch+2, report); r.Status != headgate.LeaseOK || r.State.Used != 60 || r.State.Leased {
			t.Errorf("%s: 60 spent and 40 returned after the reset: %+v", name, r)
		}
		a.reset(epoch + 3)
		if len(a.b.Leases) != 0 || a.do(peek, 3*time.Microsecond, 0).Used != 0 {
			t.Errorf("%s: reset with nothing out: %+v", name, a.b)
		}
	}
	// A clock that went back takes no window nor refill back.
	for _, limit := range []headgate.Limit{headgate.Window(1000, time.Minute), headgate.Per(1000, sec).WithBurst(1000)} {
		a := newAuthority(t, limit)
		a.acquire(epoch+micros(time.Minute), headgate.LeaseRequest{Want: 100})
		a.reset(epoch + micros(59*sec))
		expect(t, "reset after the clock went back", a.do(take, time.Minute, 900), true, 0, 0)
		if o := a.do(peek, time.Minute, 0); !o.Leased {
			t.Errorf("%v: %s", limit.Algorithm, show(o))
		}
	}
	// What nobody leases is forgotten whole, reservations too.
	a := newAuthority(t, headgate.Sliding(10, time.Minute).WithSlices(1))
	a.call(algo.Call{Now: epoch, Cost: 6, Hold: 1, HoldFor: 1000})
	a.reset(epoch)
	if o := a.do(peek, 0, 10); !o.Allowed || a.b.Absent() > epoch {
		t.Errorf("reset: %s", show(o))
	}
	// In an incarnation that ramps, a reset is the ramp.
	a = newAuthority(t, headgate.Per(1000, sec).WithBurst(1000))
	a.e.Since = epoch - micros(500*ms)
	if r := a.acquire(epoch, headgate.LeaseRequest{Want: 100}); r.Granted != 100 || r.State.Remaining != 400 {
		t.Fatalf("%+v", r)
	}
	a.reset(epoch)
	expect(t, "the ramp, unless it is more than what is not out", a.do(peek, 0, 0), true, 500, 0)
	expect(t, "goes on", a.do(peek, 450*ms, 0), true, 900, 0)
	expect(t, "to what is not out", a.do(peek, 480*ms, 0), true, 900, 0)
}

// Apply says when as many reservations are open as may be, and does nothing.
func TestBudgetFull(t *testing.T) {
	a := newAuthority(t, headgate.Window(1_000_000, time.Hour))
	a.b.Load(a.l, epoch, a.e)
	var o headgate.Outcome
	for i := range uint64(headgate.MaxInFlight) {
		if !a.b.Apply(&algo.Call{Now: epoch, Cost: 1, Hold: i + 1, HoldFor: 1000}, a.e, &o) {
			t.Fatalf("reservation %d had no room", i)
		}
	}
	before := slices.Clone(a.b.Words)
	if a.b.Apply(&algo.Call{Now: epoch, Cost: 1, Hold: 1 << 50, HoldFor: 1000}, a.e, &o) || !slices.Equal(a.b.Words, before) {
		t.Error("one more was taken")
	}
	if r := a.acquire(epoch, headgate.LeaseRequest{Want: 5}); r.Granted != 5 {
		t.Errorf("a lease needs no reservation's room: %+v", r)
	}
}
