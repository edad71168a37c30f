package algo_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// The tests of this file are named for the counter-examples, found on paper or by
// a model, that the rules of this package answer.

// TestR2: a cost above the capacity has no finite wait.
func TestR2(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10).WithBurst(5))
	for _, since := range []int64{0, epoch + micros(time.Hour)} {
		a.e.Since = since
		expect(t, "6 of 5", a.do(take, 0, 6), false, max(0, 5-5*min(1, since)), never)
	}
}

// TestR3: a key that was never seen, before its incarnation starts, waits for
// that and for what it needs.
func TestR3(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10).WithBurst(5))
	a.e.Since = epoch + micros(sec)
	expect(t, "3 of nothing", a.do(take, 0, 3), false, 0, 1300*ms)
	expect(t, "a moment early", a.do(take, 1300*ms-1*time.Microsecond, 3), false, 2, time.Microsecond)
	expect(t, "as told", a.do(take, 1300*ms, 3), true, 0, 0)
}

// TestR4: a refusal under lower numbers goes on under them: else each of them
// would refill the whole gap at the old rate.
func TestR4(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10).WithBurst(100))
	expect(t, "drain", a.do(take, 0, 100), true, 0, 0)
	a.l = prepare(t, headgate.PerSecond(1).WithBurst(100))
	for at := time.Duration(0); at < 99*sec; at += sec {
		if o := a.do(take, at, 100); o.Allowed {
			t.Fatalf("100 tokens after %v: %s", at, show(o))
		}
	}
	expect(t, "a hundred seconds later", a.do(take, 100*sec, 100), true, 0, 0)
}

// TestR5: a record is absent once it is under all the numbers that it was kept
// under, so that going to a plan that refills fast and back fills nothing.
func TestR5(t *testing.T) {
	premium, free := headgate.PerMinute(10).WithBurst(100).WithName("r"), headgate.PerSecond(10).WithName("r")
	a := newAuthority(t, premium)
	expect(t, "drain", a.do(take, 0, 90), true, 10, 0)
	a.l = prepare(t, free)
	expect(t, "as free", a.do(take, 0, 1), true, 9, 0)
	a.absentAfter(t, 540*sec)
	a.l = prepare(t, premium)
	expect(t, "as premium again", a.do(take, 2*sec, 100), false, 10, 540*sec)
}

// TestR6: two nodes with different numbers that poll one budget lose no fraction
// of a token at each change.
func TestR6(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10))
	all := [...]*headgate.Prepared{a.l, prepare(t, headgate.PerSecond(30).WithBurst(7))}
	a.do(take, 0, 10)
	passed := 0
	for at := time.Duration(0); at < 10*sec; at += 10 * ms {
		a.l = all[at/(10*ms)%2]
		if a.do(take, at, 1).Allowed {
			passed++
		}
	}
	// Half of the time at 10 a second, half of it at 30.
	if passed < 190 || passed > 200 {
		t.Errorf("%d passed in 10 s", passed)
	}
}

// TestR7: near the largest capacity every microsecond is exact.
func TestR7(t *testing.T) {
	// 1 token is 1 unit, and 3 units come each microsecond.
	burst := int64(headgate.MaxInt - 3)
	a := newAuthority(t, headgate.Limit{Count: 3, Period: time.Microsecond, Burst: burst})
	wait := time.Duration((burst + 2) / 3 * 1000)
	if o := a.do(take, 0, burst); !o.Allowed || o.ResetAfter != wait {
		t.Errorf("%s, want full after %v", show(o), wait)
	}
	if o := a.do(peek, wait-1000, burst); o.Allowed || o.RetryAfter != time.Microsecond {
		t.Errorf("a microsecond early: %s", show(o))
	}
	if o := a.do(peek, wait, burst); !o.Allowed {
		t.Error(show(o))
	}
	if _, err := (headgate.Limit{Count: 4, Period: time.Microsecond, Burst: burst}).Prepare(); err == nil {
		t.Error("a limit was accepted whose sums leave 53 bits")
	}
}

// TestR8: clients of two incarnations that alternate on one record admit no more
// than what refills, each change taking what is left.
func TestR8(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10).WithBurst(100))
	expect(t, "the first", a.do(take, 0, 50), true, 50, 0)
	epochs := [...]headgate.Epoch{{ID: 7}, {ID: 8, Since: epoch + micros(sec)}}
	passed := int64(0)
	for at := sec; at < 5*sec; at += 90 * ms {
		a.e = epochs[at/(90*ms)%2]
		if a.do(take, at, 1).Allowed {
			passed++
		}
		if most := micros(at-sec) / 100_000; passed > most {
			t.Fatalf("at %v: %d passed of %d", at, passed, most)
		}
	}
	if passed < 20 {
		t.Errorf("%d passed", passed)
	}
}

// TestR9: a store that was wiped does not make what was empty full, if anybody
// remembers it.
func TestR9(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10).WithBurst(100))
	expect(t, "drain", a.do(take, 0, 100), true, 0, 0)
	a.b = algo.Budget{}
	a.e = headgate.Epoch{ID: 8, Since: epoch + micros(sec)}
	expect(t, "wiped", a.do(take, sec, 1), false, 0, 100*ms)
	expect(t, "a second of refill", a.do(take, 2*sec, 11), false, 10, 100*ms)
}

// TestR10: the decision path refills to what is not leased out.
func TestR10(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(1000).WithBurst(1000))
	if r := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200}); r.Granted != 200 {
		t.Fatalf("%+v", r)
	}
	if o := a.do(take, sec, 1000); o.Allowed || o.Remaining != 800 || !o.Leased || o.RetryAfter != 700*ms {
		t.Errorf("with 200 out until 1.5 s: %s", show(o))
	}
	expect(t, "what is not out", a.do(take, sec, 800), true, 0, 0)
}

// Test2_2: settling after the bucket has refilled, or above what was reserved,
// mints nothing.
func Test2_2(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(10).WithBurst(100))
	a.call(algo.Call{Now: epoch, Cost: 10, Hold: 1, HoldFor: micros(time.Minute)})
	expect(t, "refilled", a.do(take, 10*sec, 91), false, 90, 50*sec+100*ms)
	expect(t, "all there is", a.do(take, 10*sec, 90), true, 0, 0)
	o := a.call(algo.Call{Op: headgate.Settle, Now: epoch + micros(10*sec), Hold: 1})
	expect(t, "settled at nothing", o, true, 10, 0)
	expect(t, "and no more", a.do(take, 10*sec, 11), false, 10, 100*ms)

	a = newAuthority(t, headgate.PerSecond(10).WithBurst(2000))
	a.call(algo.Call{Now: epoch, Cost: 1, Hold: 1, HoldFor: micros(time.Minute)})
	o = a.call(algo.Call{Op: headgate.Settle, Now: epoch, Cost: 1000, Hold: 1})
	expect(t, "1000 on a reservation of 1", o, true, 1000, 0)
}

// Test2_5: a lease of a sliding window dies with its slice: 5,000 that were leased
// in the last instant of one, and spent in the next, would leave the window
// with the first.
func Test2_5(t *testing.T) {
	a := newAuthority(t, headgate.Sliding(10_000, time.Minute))
	got := a.acquire(epoch+micros(5900*ms), headgate.LeaseRequest{Holder: holder(1), Want: 2000})
	if got.Granted != 2000 || got.WindowLeft != 100*ms || got.TTL < got.WindowLeft {
		t.Fatalf("in the last 100 ms of a slice: %+v", got)
	}
	again := a.acquire(epoch+micros(6*sec), report(holder(1), got, 0, 0, 1))
	if again.Status != stale || again.Window != got.Window+1 {
		t.Errorf("in the next: %+v", again)
	}
	for _, l := range []headgate.Limit{
		{Algorithm: headgate.LeakyBucket, Count: 1000, Period: sec}, headgate.Sliding(1000, sec).WithSlices(1), headgate.Log(1000, sec),
		headgate.InFlight(1000, sec), {Algorithm: headgate.Idempotency, Count: 64}, headgate.PerSecond(1_000_000).WithBurst(999),
		headgate.Window(999, sec), headgate.Sliding(999, sec).WithSlices(2), headgate.QuotaPer(999, headgate.Month),
	} {
		if p := prepare(t, l); algo.Leasable(p, &algo.DefaultTerms) {
			t.Errorf("%s may be leased", describe(p))
		}
	}
	for _, l := range []headgate.Limit{
		headgate.PerSecond(1).WithBurst(1000), headgate.Window(1000, sec), headgate.Sliding(1000, sec).WithSlices(2),
		headgate.QuotaPer(1000, headgate.Month), {Algorithm: headgate.Ban, Count: 1, Period: sec, TTL: sec},
	} {
		if p := prepare(t, l); !algo.Leasable(p, &algo.DefaultTerms) {
			t.Errorf("%s may not be leased", describe(p))
		}
	}
}

// Test2_6: with tokens idle elsewhere a refusal may be early, by what is out and
// for as long as that lives, and says so: a level that cannot be reached beside
// what is out is not what it waits for. And close to the limit nothing is leased.
func Test2_6(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(1).WithBurst(10))
	a.terms.Least, a.terms.Out, a.terms.PerHolder = 1, 1, 1
	got := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 4})
	got = a.acquire(epoch, report(holder(1), got, 0, 0, 2))
	got = a.acquire(epoch, report(holder(1), got, 0, 0, 1))
	if got.Granted != 7 || got.State.Remaining != 3 {
		t.Fatalf("%+v", got)
	}
	o := a.do(take, 0, 5)
	if expect(t, "5 beside 7", o, false, 3, 3500*ms); !o.Leased { // 3 until 1.5 s, then 2 more
		t.Error("it does not say that something is out")
	}
	expect(t, "a moment before", a.do(peek, 3500*ms-1*time.Microsecond, 5), false, 4, time.Microsecond)
	expect(t, "as told", a.do(take, 3500*ms, 5), true, 0, 0)

	a = newAuthority(t, headgate.PerSecond(1).WithBurst(1000))
	a.do(take, 0, 900)
	if r := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 10, Min: 1}); r.Granted != 0 || r.State.Remaining != 100 || r.State.Leased {
		t.Errorf("with a tenth left: %+v", r)
	}
}

// Test2_7: a reset while something is out must not make it available twice.
func Test2_7(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(1).WithBurst(1000))
	first := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200})
	a.do(take, 0, 800)
	a.reset(epoch)
	expect(t, "reset", a.do(take, 0, 801), false, 800, 2500*ms)
	expect(t, "reset", a.do(take, 0, 800), true, 0, 0)
	if r := a.acquire(epoch, report(holder(1), first, 200, 200, 0)); r.State.Remaining != 200 {
		t.Errorf("all returned: %+v", r)
	}
}

// Test3a: a holder that was forgotten is not taken at its word, or old messages
// that arrive one by one would be credited again.
func Test3a(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(1).WithBurst(1000))
	first := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200})
	a.acquire(epoch, report(holder(1), first, 200, 200, 0))
	expect(t, "what came back is spent", a.do(take, 0, 1000), true, 0, 0)
	for at, returned := 1500*ms, int64(50); returned <= 200; at, returned = at+ms, returned+50 {
		old := report(holder(1), first, returned, returned, 10)
		if r := a.acquire(epoch+micros(at), old); r.Status != unknown || r.State.Remaining > 1 {
			t.Errorf("an old message: %+v", r)
		}
	}
	// So too for an account that a duplicate of the first message has opened anew.
	a = newAuthority(t, headgate.PerSecond(1).WithBurst(1000))
	a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 10})
	if r := a.acquire(epoch, report(holder(1), first, 200, 200, 0)); r.Status != unknown || r.State.Used != 10 {
		t.Errorf("it knows less than the holder: %+v", r)
	}
}

// Test3b: what was out did not refill while it was out, even if it is reported
// spent now: else the budget gains its rate times the silence.
func Test3b(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(100).WithBurst(1000))
	first := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200})
	got := a.acquire(epoch+micros(sec), report(holder(1), first, 200, 0, 0))
	if got.State.Remaining != 800 || got.State.Leased {
		t.Errorf("200 spent, maybe right now: %+v", got)
	}
	expect(t, "from now on it refills", a.do(peek, 2*sec, 0), true, 900, 0)
	// So too for one who is forgotten when another asks.
	a = newAuthority(t, headgate.PerSecond(100).WithBurst(1000))
	a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200})
	for at := 500 * ms; at <= 1500*ms; at += 500 * ms {
		got = a.acquire(epoch+micros(at), headgate.LeaseRequest{Holder: holder(2), Want: 1, Min: 1000})
	}
	if got.State.Remaining != 800 || got.Holders != 1 {
		t.Errorf("the first is forgotten now: %+v", got)
	}
}

// Test3c: a charge beside the leases sees what is out.
func Test3c(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.PerSecond(100).WithBurst(1000), headgate.Window(1000, time.Minute), headgate.Sliding(1000, time.Minute), headgate.QuotaPer(1000, headgate.Day),
	} {
		a := newAuthority(t, limit)
		a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200})
		if o := a.do(take, 1400*ms, 801); o.Allowed || o.Remaining != 800 || !o.Leased {
			t.Errorf("%v: %s", limit.Algorithm, show(o))
		}
		if o := a.do(take, 1400*ms, 800); !o.Allowed || o.Remaining != 0 {
			t.Errorf("%v: %s", limit.Algorithm, show(o))
		}
	}
}

// Test3d: a window that may have lost counts is closed for one life of a lease, in
// which holders tell how far it had counted.
func Test3d(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.Window(1000, time.Minute), headgate.Sliding(1000, 10*time.Minute), headgate.QuotaPer(1000, headgate.Day),
	} {
		a := newAuthority(t, limit)
		a.do(take, 0, 300)
		before := a.b.Clone()
		a.do(take, 0, 300)
		got := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 100})
		// A replica without the latest writes takes over.
		a.b, a.e = before, headgate.Epoch{ID: 8, Since: epoch + micros(1100*ms)}
		expect(t, "closed", a.do(take, 100*ms, 1), false, 700, sec)
		r := report(holder(1), got, 40, 0, 100)
		r.Floor, r.FloorWindow = got.Count, got.Window
		told := a.acquire(epoch+micros(200*ms), r)
		if told.Status != stale || told.Epoch != 8 || told.Count != 700 || told.State.Leased {
			t.Errorf("%v: a holder of before: %+v", limit.Algorithm, told)
		}
		r = headgate.LeaseRequest{Holder: holder(2), Epoch: 8, Window: told.Window, Want: 100, Floor: 650, FloorWindow: told.Window}
		if none := a.acquire(epoch+micros(300*ms), r); none.Status != headgate.LeaseOK || none.Granted != 0 || none.Count != 700 {
			t.Errorf("%v: granted before Since: %+v", limit.Algorithm, none)
		}
		expect(t, "open", a.do(take, 1100*ms, 300), true, 0, 0)
		expect(t, "and exact", a.do(peek, 1100*ms, 1), false, 0, a.do(peek, 1100*ms, 1).RetryAfter)
		// A floor counts before Since only, and in its window only.
		a.reset(epoch + micros(1100*ms))
		r.Floor = 700
		if late := a.acquire(epoch+micros(1100*ms), r); late.Count != 100 || late.Granted != 100 {
			t.Errorf("%v: a floor after Since: %+v", limit.Algorithm, late)
		}
		a.b, a.e = algo.Budget{}, headgate.Epoch{ID: 9, Since: epoch + micros(3*sec)}
		r.FloorWindow--
		if other := a.acquire(epoch+micros(1100*ms), r); other.Count != 0 {
			t.Errorf("%v: a floor of another window: %+v", limit.Algorithm, other)
		}
	}
}

// Test3e: a holder that pauses between looking at its deadline and spending, for
// longer than life and grace, is over by what it held and no more: that the
// terms bound, and nobody gets it twice.
func Test3e(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(1000).WithBurst(1000))
	got := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 1000})
	expect(t, "the rest", a.do(take, 0, 1000-got.Granted), true, 0, 0)
	expect(t, "refilled", a.do(take, 2500*ms, 1000), true, 0, 0)
	if got.Granted != 200 {
		t.Errorf("a lease of %d of 1000", got.Granted)
	}
	if late := a.acquire(epoch+micros(2500*ms), report(holder(1), got, 200, 100, 0)); late.Status != unknown || late.State.Remaining != 0 {
		t.Errorf("its report: %+v", late)
	}
}
