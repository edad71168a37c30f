package headgate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

func newLimiter(t testing.TB, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	s := memstore.New(memstore.Config{})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	l, err := headgate.New(s, limits...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// decided fails unless a call was decided as want says.
func decided(t testing.TB, want bool) func(d headgate.Decision, err error) headgate.Decision {
	return func(d headgate.Decision, err error) headgate.Decision {
		t.Helper()
		if err != nil || d.Allowed != want {
			t.Fatalf("%+v, %v; want allowed %v", d, err, want)
		}
		return d
	}
}

func leaky(count int64, period time.Duration) headgate.Limit {
	return headgate.Limit{Algorithm: headgate.LeakyBucket, Count: count, Period: period}
}

func TestNew(t *testing.T) {
	s := memstore.New(memstore.Config{})
	defer s.Close()
	many := make([]headgate.Limit, headgate.MaxCharges+1)
	for i := range many {
		many[i] = headgate.PerSecond(1).WithName(fmt.Sprint("limit-", i))
	}
	for _, test := range []struct {
		name   string
		store  headgate.Store
		limits []headgate.Limit
		want   string
	}{
		{"no store", nil, many[:1], "store"},
		{"no limit", s, nil, "0 limits"},
		{"too many", s, many, "21 limits"},
		{"impossible", s, []headgate.Limit{many[0], headgate.PerSecond(0)}, "count 0"},
		{"two of one name", s, []headgate.Limit{headgate.PerSecond(1).WithName("rate"), headgate.PerHour(9).WithName("rate")}, `"rate"`},
		{"two of one default name", s, []headgate.Limit{headgate.PerSecond(1), headgate.PerSecond(1)}, "another name"},
	} {
		l, err := headgate.New(test.store, test.limits...)
		if l != nil || headgate.CodeOf(err) != headgate.InvalidLimit || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	l, err := headgate.New(s, many[:headgate.MaxCharges]...)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range l.Limits() {
		if p.Name != many[i].Name || p.Serial == 0 {
			t.Errorf("limit %d is %q", i, p.Name)
		}
	}
	if _, err := headgate.New(s, headgate.PerSecond(1).WithName("rate"), headgate.PerSecond(1).WithName("rate").WithScope("other")); err != nil {
		t.Errorf("one name in two scopes: %v", err)
	}
}

func TestTake(t *testing.T) {
	ctx := t.Context()
	l := newLimiter(t, headgate.PerHour(10), headgate.QuotaPer(100, headgate.Year))
	d := decided(t, true)(l.Peek(ctx, "alice", 10))
	if d.Remaining != 10 {
		t.Errorf("%+v", d)
	}
	d = decided(t, true)(l.Take(ctx, "alice", 4))
	if d.Limit != 10 || d.Remaining != 6 || d.BoundBy != 0 || d.Reason != headgate.OK || d.RetryAfter != 0 || !d.Retryable {
		t.Errorf("%+v", d)
	}
	d = decided(t, false)(l.Take(ctx, "alice", 7))
	if d.Remaining != 6 || d.Reason != headgate.RateLimited || d.RetryAfter <= 0 || d.RetryAfter > 6*time.Minute || !d.Retryable {
		t.Errorf("%+v", d)
	}
	d = decided(t, false)(l.Take(ctx, "alice", 11))
	if d.Reason != headgate.CostExceedsLimit || d.Retryable || d.RetryAfter != 0 {
		t.Errorf("%+v", d)
	}
	decided(t, true)(l.Take(ctx, "bob", 10))
	decided(t, true)(l.Take(ctx, "alice", 6))
	decided(t, true)(l.Take(ctx, "alice", 0))
	decided(t, false)(l.Peek(ctx, "alice", 1))
	if err := l.Reset(ctx, "alice"); err != nil {
		t.Fatal(err)
	}
	decided(t, true)(l.Peek(ctx, "alice", 10))
	decided(t, false)(l.Peek(ctx, "bob", 1))

	for _, cost := range []int64{-1, headgate.MaxInt + 1} {
		d, err := l.Take(ctx, "alice", cost)
		if e, ok := errors.AsType[*headgate.Error](err); !ok || e.Code != headgate.InvalidRequest || e.Field != "cost" || d != (headgate.Decision{}) {
			t.Errorf("cost %d: %+v, %v", cost, d, err)
		}
	}
}

func TestDecideFillsTheBatch(t *testing.T) {
	l := newLimiter(t, headgate.PerHour(10), headgate.Window(5, 100*365*24*time.Hour))
	var b headgate.Batch
	b.Hold = 7
	for i := range int64(5) {
		d := decided(t, true)(l.Decide(t.Context(), &b, "alice", 1))
		if o := b.Outcomes(); len(o) != 2 || o[0].Used != i+1 || o[1].Used != i+1 || !b.Allowed || b.Hold != 0 || d.BoundBy != 1 || d != b.Decision() {
			t.Fatalf("call %d: %+v, %+v", i, d, o)
		}
	}
	d := decided(t, false)(l.Decide(t.Context(), &b, "alice", 1))
	if o := b.Outcomes(); d.BoundBy != 1 || !o[0].Allowed || o[0].Used != 5 || o[1].Allowed {
		t.Fatalf("%+v, %+v", d, o)
	}
}

func TestAcquireAndRelease(t *testing.T) {
	ctx := t.Context()
	l := newLimiter(t, headgate.InFlight(2, time.Hour), headgate.PerHour(100))
	var first, second, third headgate.Batch
	decided(t, true)(l.Acquire(ctx, &first, "alice", 1))
	decided(t, true)(l.Acquire(ctx, &second, "alice", 1))
	if first.Hold == 0 || first.Hold == second.Hold {
		t.Fatalf("holds %d and %d", first.Hold, second.Hold)
	}
	d := decided(t, false)(l.Acquire(ctx, &third, "alice", 1))
	if d.Reason != headgate.ConcurrencyExceeded {
		t.Errorf("%+v", d)
	}
	for _, b := range []*headgate.Batch{&third, &first, &first} {
		if err := l.Release(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	decided(t, false)(l.Peek(ctx, "alice", 2))
	decided(t, true)(l.Acquire(ctx, &third, "alice", 1))
	decided(t, false)(l.Peek(ctx, "alice", 1))
	if o := third.Outcomes()[1]; o.Used != 3 {
		t.Errorf("the bucket has used %d, want 3", o.Used)
	}
}

func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		l := newLimiter(t, headgate.InFlight(2, time.Hour))
		reserve := func() *headgate.Reservation {
			t.Helper()
			r, _, err := l.Reserve(ctx, "alice", 2, time.Minute)
			if err != nil || r == nil {
				t.Fatal(r, err)
			}
			return r
		}
		r := reserve()
		refused, d, err := l.Reserve(ctx, "alice", 1, time.Minute)
		if refused != nil || err != nil || d.Allowed || d.RetryAfter != time.Minute {
			t.Fatalf("%v, %+v, %v", refused, d, err)
		}
		renew := func(want bool) {
			t.Helper()
			if ok, err := r.Renew(ctx); ok != want || err != nil {
				t.Fatalf("renewed: %v, %v; want %v", ok, err, want)
			}
		}
		pass(59 * time.Second)
		renew(true)
		pass(time.Minute - time.Microsecond)
		decided(t, false)(l.Peek(ctx, "alice", 1))
		pass(time.Microsecond)
		decided(t, true)(l.Peek(ctx, "alice", 2))
		renew(false)
		decided(t, true)(l.Peek(ctx, "alice", 2))

		r = reserve()
		for range 2 {
			if err := r.Release(ctx); err != nil {
				t.Fatal(err)
			}
			decided(t, true)(l.Peek(ctx, "alice", 2))
		}
		renew(false)
	})
}

// TestSettle: an estimate is corrected once, downward and upward, and what is
// held does not refill meanwhile.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		l := newLimiter(t, headgate.PerMinute(60).WithBurst(10))
		left := func(want int64) {
			t.Helper()
			if d, err := l.Peek(ctx, "alice", 0); err != nil || d.Remaining != want {
				t.Fatalf("%d left, %v; want %d", d.Remaining, err, want)
			}
		}
		settle := func(r *headgate.Reservation, cost int64, want bool) {
			t.Helper()
			if held, err := r.Settle(ctx, cost); held != want || err != nil {
				t.Fatalf("settled at %d: %v, %v; want %v", cost, held, err, want)
			}
		}
		reserve := func(cost int64) *headgate.Reservation {
			t.Helper()
			r, _, err := l.Reserve(ctx, "alice", cost, 0)
			if err != nil || r == nil {
				t.Fatal(r, err)
			}
			return r
		}
		r := reserve(6)
		pass(30 * time.Second)
		left(4)
		settle(r, 2, true)
		left(8)
		settle(r, 0, false)
		left(8)
		r = reserve(1)
		settle(r, 4, true)
		left(4)
		r = reserve(4)
		pass(time.Minute)
		settle(r, 0, false) // too late
		left(6)
		pass(4 * time.Second)
		left(10)
	})
}

func TestReserveRefuses(t *testing.T) {
	ctx := t.Context()
	l := newLimiter(t, headgate.PerHour(2))
	for _, ttl := range []time.Duration{-1, 1, headgate.MaxHold + time.Microsecond} {
		if r, _, err := l.Reserve(ctx, "alice", 1, ttl); r != nil || headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("ttl %v: %v, %v", ttl, r, err)
		}
	}
	r, _, err := l.Reserve(ctx, "alice", 1, headgate.MaxHold)
	if err != nil {
		t.Fatal(err)
	}
	for _, cost := range []int64{-1, headgate.MaxInt + 1} {
		if held, err := r.Settle(ctx, cost); held || headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("settled at %d: %v, %v", cost, held, err)
		}
	}
}

func TestClosedStore(t *testing.T) {
	ctx := context.Background()
	s := memstore.New(memstore.Config{})
	l, err := headgate.New(s, headgate.InFlight(2, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := l.Reserve(ctx, "alice", 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(call string, err error) {
		t.Helper()
		if headgate.CodeOf(err) != headgate.Closed {
			t.Errorf("%s: %v", call, err)
		}
	}
	_, err = l.Take(ctx, "alice", 1)
	check("Take", err)
	_, err = l.Peek(ctx, "alice", 1)
	check("Peek", err)
	check("Reset", l.Reset(ctx, "alice"))
	_, err = l.Wait(ctx, "alice", 1)
	check("Wait", err)
	_, _, err = l.Reserve(ctx, "alice", 1, 0)
	check("Reserve", err)
	ok, err := r.Renew(ctx)
	check("Renew", err)
	if ok {
		t.Error("renewed in a closed store")
	}
	check("Release", r.Release(ctx))
}

// pass lets d go by in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, headgate.PerSecond(10).WithBurst(5))
		for _, s := range []struct {
			cost int64
			want time.Duration
		}{{5, 0}, {3, 300 * time.Millisecond}, {0, 0}, {5, 500 * time.Millisecond}} {
			start := time.Now()
			decided(t, true)(l.Wait(t.Context(), "alice", s.cost))
			if took := time.Since(start); took != s.want {
				t.Fatalf("cost %d took %v, want %v", s.cost, took, s.want)
			}
		}
	})
}

func TestWaitGivesUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, headgate.PerSecond(10).WithBurst(5))
		start := time.Now()
		at := func(d time.Duration) {
			t.Helper()
			if took := time.Since(start); took != d {
				t.Fatalf("took %v, want %v", took, d)
			}
		}
		d := decided(t, false)(l.Wait(t.Context(), "alice", 6))
		if d.Retryable || d.Reason != headgate.CostExceedsLimit {
			t.Fatalf("%+v", d)
		}
		decided(t, true)(l.Wait(t.Context(), "alice", 5))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond-time.Microsecond)
		defer cancel()
		d = decided(t, false)(l.Wait(ctx, "alice", 3))
		if d.RetryAfter != 300*time.Millisecond {
			t.Fatalf("%+v", d)
		}
		at(0)
		ctx, cancel = context.WithTimeout(t.Context(), 301*time.Millisecond)
		defer cancel()
		decided(t, true)(l.Wait(ctx, "alice", 3))
		at(300 * time.Millisecond)
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, headgate.PerSecond(10).WithBurst(5))
		decided(t, true)(l.Take(t.Context(), "alice", 5))
		reason := errors.New("shutting down")
		ctx, cancel := context.WithCancelCause(t.Context())
		start := time.Now()
		time.AfterFunc(200*time.Millisecond, func() { cancel(reason) })
		d, err := l.Wait(ctx, "alice", 5)
		if !errors.Is(err, reason) || d != (headgate.Decision{}) {
			t.Fatalf("%+v, %v", d, err)
		}
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Fatalf("took %v", took)
		}
		// It took nothing.
		decided(t, true)(l.Take(t.Context(), "alice", 2))
	})
}

// Waiting for a slot: others that are refused together come one after the other.
func TestWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, headgate.PerSecond(10).WithBurst(1))
		start := time.Now()
		ends := make(chan time.Duration)
		for range 5 {
			go func() {
				if d, err := l.Wait(t.Context(), "alice", 1); err != nil || !d.Allowed {
					t.Errorf("%+v, %v", d, err)
				}
				ends <- time.Since(start)
			}()
		}
		for i := range 5 {
			if took := <-ends; took != time.Duration(i)*100*time.Millisecond {
				t.Errorf("number %d passed after %v", i, took)
			}
		}
	})
}

func TestWaitDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, leaky(10, time.Second), headgate.QuotaPer(100, headgate.Year))
		start := time.Now()
		for i := range 5 {
			d := decided(t, true)(l.Wait(t.Context(), "alice", 1))
			want := time.Duration(min(i, 1)) * 100 * time.Millisecond
			if d.Delay != want {
				t.Fatalf("call %d: delay %v, want %v", i, d.Delay, want)
			}
			if took := time.Since(start); took != time.Duration(i)*100*time.Millisecond {
				t.Fatalf("call %d started after %v", i, took)
			}
		}
	})
}

// Who gives up during a delay gets back what the other limits charged; its slot
// in the leaky bucket stays empty.
func TestWaitRefundsDuringDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, leaky(10, time.Second), headgate.QuotaPer(100, headgate.Year))
		used := func() (bucket, quota int64) {
			var b headgate.Batch
			decided(t, true)(l.Decide(t.Context(), &b, "alice", 0))
			return b.Outcomes()[0].Used, b.Outcomes()[1].Used
		}
		decided(t, true)(l.Take(t.Context(), "alice", 3))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		d, err := l.Wait(ctx, "alice", 2)
		if !errors.Is(err, context.DeadlineExceeded) || d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
		if took := time.Since(start); took != 50*time.Millisecond {
			t.Fatalf("took %v", took)
		}
		if bucket, quota := used(); bucket != 5 || quota != 3 {
			t.Errorf("%d of the bucket and %d of the quota are used, want 5 (4.5) and 3", bucket, quota)
		}
	})
}

func TestErrors(t *testing.T) {
	inner := errors.New("refused")
	e := &headgate.Error{Code: headgate.Unavailable, Field: "cost", Err: inner}
	if got := e.Error(); got != "cost: refused" {
		t.Errorf("%q", got)
	}
	if got := (&headgate.Error{Err: inner}).Error(); got != "refused" {
		t.Errorf("%q", got)
	}
	for err, want := range map[error]headgate.Code{
		nil: headgate.Unknown, inner: headgate.Unknown, e: headgate.Unavailable,
		fmt.Errorf("redis: %w", e): headgate.Unavailable,
	} {
		if got := headgate.CodeOf(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
	if !errors.Is(fmt.Errorf("redis: %w", e), inner) {
		t.Error("the cause is lost")
	}
}

// TestLabelsOfALimiter: no two are equal, and those that were given stay.
func TestLabelsOfALimiter(t *testing.T) {
	minute := headgate.PerMinute(60)
	lim, err := headgate.New(memstore.New(memstore.Config{}), minute, minute.WithBurst(10), minute.WithName("60-per-minute"), headgate.Sliding(60, time.Minute), headgate.PerHour(60))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range lim.Limits() {
		got = append(got, p.Label)
	}
	if want := []string{"60-per-minute-2", "60-per-minute-3", "60-per-minute", "60-per-minute-4", "60-per-hour"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
