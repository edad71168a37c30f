package algo_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

func (b *budget) convert(t *testing.T, at time.Duration, l headgate.Limit) {
	t.Helper()
	to := prepare(t, l)
	dst := make([]int64, algo.ConvertWords(b.l, to, b.st))
	algo.Convert(b.l, to, dst, b.st, epoch+micros(at))
	b.l, b.st = to, dst
}

// TestConvertLowersTheRateAtOnce: an empty bucket of 10/s that becomes one of
// 1/s holds 10 tokens after 10 s, not the 100 of its old rate.
func TestConvertLowersTheRateAtOnce(t *testing.T) {
	b := newBudget(prepare(t, headgate.PerSecond(10).WithBurst(100)), epoch, false)
	b.check(t, []row{{op: take, n: 100, allowed: true}})
	b.convert(t, 0, headgate.PerSecond(1).WithBurst(100))
	b.check(t, []row{
		{at: 1 * sec, op: take, n: 100, remaining: 1, retry: 99 * sec},
		{at: 10 * sec, op: take, n: 100, remaining: 10, retry: 90 * sec},
		{at: 10 * sec, op: take, n: 10, allowed: true, remaining: 0},
	})
}

// TestConvertToAndFroFillsNothing: premium drains 90 of 100, spends a moment
// as free with a small and fast bucket, and comes back to what that held.
func TestConvertToAndFroFillsNothing(t *testing.T) {
	premium, free := headgate.PerMinute(10).WithBurst(100), headgate.PerSecond(10)
	b := newBudget(prepare(t, premium), epoch, false)
	b.check(t, []row{{op: take, n: 90, allowed: true, remaining: 10}})
	b.convert(t, 0, free)
	b.check(t, []row{{op: take, n: 1, allowed: true, remaining: 9}})
	b.convert(t, 2*sec, premium)
	b.check(t, []row{{at: 2 * sec, op: take, n: 11, remaining: 10, retry: 6 * sec}})
}

func TestConvertBucketKeepsWholeTokens(t *testing.T) {
	tests := []struct {
		name      string
		debit     int64
		at        time.Duration
		to        headgate.Limit
		remaining int64
		overage   int64
	}{
		{"full stays full", 0, 0, headgate.PerSecond(5).WithBurst(10), 10, 0},
		{"a larger one gives nothing", 0, 0, headgate.PerSecond(5).WithBurst(50), 20, 0},
		{"a fraction is dropped", 15, 1500 * ms, headgate.PerSecond(5).WithBurst(20), 6, 0},
		{"debt stays debt", 25, 0, headgate.PerSecond(5).WithBurst(20), 0, 5},
		{"debt is cut to the new capacity", 25, 0, headgate.PerSecond(5).WithBurst(2), 0, 2},
		{"a leaky one keeps the level", 15, 0, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: sec, Burst: 20}, 5, 0},
		{"a window takes over what is used", 15, 0, headgate.Window(100, 60*sec), 85, 0},
		{"a log takes over what is used", 15, 0, headgate.Log(100, 60*sec), 85, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBudget(prepare(t, headgate.PerSecond(1).WithBurst(20)), epoch, false)
			b.apply(headgate.Debit, epoch, tt.debit, 0)
			b.convert(t, tt.at, tt.to)
			o := b.peek(epoch+micros(tt.at), 0)
			if o.Remaining != tt.remaining || o.Overage != tt.overage {
				t.Errorf("got %s, want remaining %d, overage %d", show(o), tt.remaining, tt.overage)
			}
		})
	}
}

// TestConvertAfterTheClockWentBack: the minute that was used up must not be had
// again because the numbers changed while the clock read an earlier minute.
func TestConvertAfterTheClockWentBack(t *testing.T) {
	for _, l := range []headgate.Limit{
		headgate.Window(10, 60*sec),
		headgate.Sliding(10, 60*sec),
		headgate.Sliding(10, 60*sec).WithSlices(1),
		headgate.Log(10, 60*sec),
		{Algorithm: headgate.Quota, Count: 10, Calendar: headgate.Calendar{Unit: headgate.Hour}},
	} {
		t.Run(prepare(t, l).Name, func(t *testing.T) {
			b := newBudget(prepare(t, l), epoch, false)
			used := 3601 * sec // 1 s into a minute and an hour
			b.check(t, []row{{at: used, op: take, n: 10, allowed: true}})
			before := b.peek(epoch+micros(used), 10).RetryAfter
			l.Count = 11
			b.convert(t, used-2*sec, l)
			o := b.peek(epoch+micros(used), 11)
			if o.Allowed || o.Used != 10 || o.RetryAfter < before {
				t.Errorf("got %s, want 10 used and a wait of at least %v", show(o), before)
			}
		})
	}
}

// TestConvertLogKeepsWhatHasLeftAway: a charge that has left the old window
// does not come back in a longer one, whether or not a later one swept it.
func TestConvertLogKeepsWhatHasLeftAway(t *testing.T) {
	b := newBudget(prepare(t, headgate.Log(10, 10*sec)), epoch, false)
	b.check(t, []row{
		{at: 0, op: take, n: 4, allowed: true, remaining: 6},
		{at: 9 * sec, op: take, n: 5, allowed: true, remaining: 1},
	})
	b.convert(t, 12*sec, headgate.Log(10, time.Hour))
	b.check(t, []row{
		{at: 12 * sec, op: peek, n: 0, allowed: true, remaining: 5},
		{at: 12 * sec, op: take, n: 6, remaining: 5, retry: time.Hour - 3*sec},
	})
}

// TestConvertQuotaKeepsWhatIsLeftOver: numbers that change before the first
// charge of a period do not cost what the period before left over.
func TestConvertQuotaKeepsWhatIsLeftOver(t *testing.T) {
	l := headgate.Limit{Algorithm: headgate.Quota, Count: 100, Rollover: 50, Calendar: headgate.Calendar{Unit: headgate.Day}}
	b := newBudget(prepare(t, l), epoch, false)
	b.check(t, []row{{op: take, n: 60, allowed: true, remaining: 40}})
	l.Count, l.Rollover = 200, 30
	b.convert(t, 25*time.Hour, l)
	b.check(t, []row{{at: 25 * time.Hour, op: peek, n: 230, allowed: true, remaining: 230}})
}

func TestConvertKeepsHoldsAndBans(t *testing.T) {
	held := newBudget(prepare(t, headgate.InFlight(5, 10*sec)), epoch, false)
	held.check(t, []row{{op: take, n: 4, hold: 7, allowed: true, remaining: 1}})
	held.convert(t, 1*sec, headgate.InFlight(2, time.Minute))
	held.check(t, []row{
		{at: 1 * sec, op: take, n: 1, hold: 8, overage: 2, retry: 9 * sec},
		{at: 2 * sec, op: renew, hold: 7, allowed: true, overage: 2, reset: time.Minute},
		{at: 3 * sec, op: release, hold: 7, allowed: true, remaining: 2},
	})

	ban := headgate.Limit{Algorithm: headgate.Ban, Count: 2, Period: 60 * sec, TTL: 300 * sec}
	b := newBudget(prepare(t, ban), epoch, false)
	algo.CountDenial(b.l, b.st, epoch)
	ban.Count = 1
	b.convert(t, 1*sec, ban) // what counted so far bans nobody by itself
	b.check(t, []row{{at: 1 * sec, op: take, n: 1, allowed: true, remaining: 1}})
	algo.CountDenial(b.l, b.st, epoch+micros(2*sec))
	ban.TTL = sec
	b.convert(t, 3*sec, ban)
	b.check(t, []row{{at: 3 * sec, op: take, n: 1, retry: 299 * sec}})
}
