package algo_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

// epoch is midnight UTC of Thursday 1 January 2026, a multiple of every window
// that the ledgers use.
const epoch int64 = 1_767_225_600_000_000

// never stands for a wait that no time ends.
const never time.Duration = -1

// row is one operation at a time since epoch, and what it must come to. reset
// and delay are compared where they are not 0.
type row struct {
	at           time.Duration
	op           headgate.Op
	n            int64
	hold         uint64
	allowed      bool
	remaining    int64
	retry        time.Duration
	reset, delay time.Duration
	overage      int64
}

const (
	take    = headgate.Take
	peek    = headgate.Peek
	refund  = headgate.Refund
	debit   = headgate.Debit
	release = headgate.Release
	renew   = headgate.Renew
)

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (b *budget) check(t *testing.T, rows []row) {
	t.Helper()
	for i, r := range rows {
		o := b.apply(r.op, epoch+micros(r.at), r.n, r.hold)
		retry := o.RetryAfter
		if o.Never {
			retry = never
		}
		if o.Allowed != r.allowed || o.Remaining != r.remaining || retry != r.retry || o.Overage != r.overage ||
			r.reset != 0 && o.ResetAfter != r.reset || o.Delay != r.delay {
			t.Errorf("row %d: %v %d at %v: %s\nwant allowed=%v remaining=%d retry=%v reset=%v delay=%v overage=%d",
				i, r.op, r.n, r.at, show(o), r.allowed, r.remaining, r.retry, r.reset, r.delay, r.overage)
		}
	}
}

func TestLedgers(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	tests := []struct {
		name  string
		limit headgate.Limit
		rows  []row
	}{
		{"LightRate's timeline", headgate.PerSecond(10).WithBurst(100), []row{
			{op: take, n: 5, allowed: true, remaining: 95, reset: 500 * ms},
			{at: 1 * sec, op: peek, allowed: true, remaining: 100},
			{at: 1 * sec, op: take, n: 50, allowed: true, remaining: 50, reset: 5 * sec},
			{at: 6 * sec, op: peek, allowed: true, remaining: 100},
			{at: 6 * sec, op: take, n: 10, allowed: true, remaining: 90, reset: 1 * sec},
		}},
		// The vectors of redis-cell's own tests, max_burst 4 at 1/s.
		{"redis-cell", headgate.PerSecond(1).WithBurst(5), []row{
			{op: take, n: 6, remaining: 5, retry: never},
			{op: take, n: 1, allowed: true, remaining: 4, reset: 1 * sec},
			{op: take, n: 1, allowed: true, remaining: 3, reset: 2 * sec},
			{op: take, n: 1, allowed: true, remaining: 2, reset: 3 * sec},
			{op: take, n: 1, allowed: true, remaining: 1, reset: 4 * sec},
			{op: take, n: 1, allowed: true, remaining: 0, reset: 5 * sec},
			{op: take, n: 1, remaining: 0, retry: 1 * sec, reset: 5 * sec},
			{at: 3000 * ms, op: take, n: 1, allowed: true, remaining: 2, reset: 3000 * ms},
			{at: 3100 * ms, op: take, n: 1, allowed: true, remaining: 1, reset: 3900 * ms},
			{at: 4000 * ms, op: take, n: 1, allowed: true, remaining: 1, reset: 4000 * ms},
			{at: 8000 * ms, op: take, n: 1, allowed: true, remaining: 4, reset: 1000 * ms},
			{at: 9500 * ms, op: take, n: 1, allowed: true, remaining: 4, reset: 1000 * ms},
			{at: 9500 * ms, op: take, n: 0, allowed: true, remaining: 4, reset: 1000 * ms},
			{at: 9500 * ms, op: take, n: 2, allowed: true, remaining: 2, reset: 3000 * ms},
			{at: 9500 * ms, op: take, n: 5, remaining: 2, retry: 3000 * ms, reset: 3000 * ms},
		}},
		{"bucket, a clock that goes back", headgate.PerSecond(1).WithBurst(2), []row{
			{at: 10 * sec, op: take, n: 2, allowed: true, remaining: 0, reset: 2 * sec},
			{at: 4 * sec, op: take, n: 1, remaining: 0, retry: 7 * sec, reset: 8 * sec},
			{at: 10 * sec, op: take, n: 1, remaining: 0, retry: 1 * sec},
			{at: 11*sec - time.Microsecond, op: take, n: 1, remaining: 0, retry: time.Microsecond},
			{at: 11 * sec, op: take, n: 1, allowed: true, remaining: 0},
		}},
		{"bucket, no fraction is lost", headgate.Per(3, 7*time.Microsecond).WithBurst(1), []row{
			{op: take, n: 1, allowed: true, remaining: 0, reset: 3 * time.Microsecond},
			{at: 2 * time.Microsecond, op: take, n: 1, remaining: 0, retry: 1 * time.Microsecond},
			{at: 3 * time.Microsecond, op: take, n: 1, allowed: true, remaining: 0, reset: 3 * time.Microsecond},
		}},
		{"bucket, debt and refund", headgate.PerSecond(1).WithBurst(4), []row{
			{op: debit, n: 6, allowed: true, remaining: 0, reset: 6 * sec, overage: 2},
			{op: take, n: 0, allowed: true, remaining: 0, overage: 2},
			{op: take, n: 1, remaining: 0, retry: 3 * sec, reset: 6 * sec, overage: 2},
			{op: debit, n: headgate.MaxInt, allowed: true, remaining: 0, reset: 8 * sec, overage: 4},
			{at: 4 * sec, op: take, n: 1, remaining: 0, retry: 1 * sec},
			{at: 4 * sec, op: refund, n: 1, allowed: true, remaining: 1},
			{at: 4 * sec, op: refund, n: headgate.MaxInt, allowed: true, remaining: 4},
		}},
		{"bucket at the bounds", headgate.Per(1, time.Microsecond).WithBurst(headgate.MaxPeriod.Microseconds()), []row{
			{op: take, n: headgate.MaxInt, remaining: 3_153_600_000_000_000, retry: never},
			{op: take, n: 3_153_600_000_000_000, allowed: true, remaining: 0, reset: headgate.MaxPeriod},
			{op: take, n: 3_153_600_000_000_000, remaining: 0, retry: headgate.MaxPeriod},
			{op: debit, n: headgate.MaxInt, allowed: true, remaining: 0, reset: 2 * headgate.MaxPeriod, overage: 3_153_600_000_000_000},
		}},
		{"leaky bucket", headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 2, Period: sec, Burst: 3}, []row{
			{op: take, n: 1, allowed: true, remaining: 2},
			{op: take, n: 1, allowed: true, remaining: 1, delay: 500 * ms},
			{op: peek, n: 0, allowed: true, remaining: 1, delay: 1000 * ms},
			{op: take, n: 1, allowed: true, remaining: 0, delay: 1000 * ms, reset: 1500 * ms},
			{op: take, n: 1, remaining: 0, retry: 500 * ms},
			{op: refund, n: 1, allowed: true, remaining: 0, reset: 1500 * ms},
			{at: 250 * ms, op: take, n: 1, remaining: 0, retry: 250 * ms},
			{at: 500 * ms, op: take, n: 1, allowed: true, remaining: 0, delay: 1000 * ms},
			{at: 500 * ms, op: take, n: 4, remaining: 0, retry: never},
		}},
		{"fixed window", headgate.Window(10, 60*sec), []row{
			{at: 50 * sec, op: take, n: 10, allowed: true, remaining: 0, reset: 10 * sec},
			{at: 50 * sec, op: take, n: 1, remaining: 0, retry: 10 * sec},
			{at: 50 * sec, op: take, n: 0, allowed: true, remaining: 0},
			{at: 50 * sec, op: take, n: 11, remaining: 0, retry: never},
			{at: 60 * sec, op: take, n: 10, allowed: true, remaining: 0, reset: 60 * sec},
			{at: 30 * sec, op: take, n: 1, remaining: 0, retry: 90 * sec, reset: 90 * sec},
			{at: 61 * sec, op: refund, n: 4, allowed: true, remaining: 4},
			{at: 61 * sec, op: refund, n: 100, allowed: true, remaining: 10},
			{at: 61 * sec, op: debit, n: headgate.MaxInt, allowed: true, remaining: 0, overage: headgate.MaxInt - 10},
			{at: 61 * sec, op: debit, n: headgate.MaxInt, allowed: true, remaining: 0, overage: headgate.MaxInt - 10},
			{at: 119 * sec, op: take, n: 1, remaining: 0, retry: 1 * sec, overage: headgate.MaxInt - 10},
			{at: 120 * sec, op: take, n: 1, allowed: true, remaining: 9},
		}},
		// Slots of 6 s: the one at 5.9 s leaves at 66 s, so that the 100 are
		// never 150 in any minute.
		{"sliding window", headgate.Sliding(100, 60*sec), []row{
			{at: 5900 * ms, op: take, n: 50, allowed: true, remaining: 50, reset: 60100 * ms},
			{at: 6100 * ms, op: take, n: 50, allowed: true, remaining: 0, reset: 65900 * ms},
			{at: 60000 * ms, op: take, n: 1, remaining: 0, retry: 6000 * ms},
			{at: 65900 * ms, op: take, n: 1, remaining: 0, retry: 100 * ms},
			{at: 65900 * ms, op: take, n: 51, remaining: 0, retry: 6100 * ms},
			{at: 65900 * ms, op: take, n: 101, remaining: 0, retry: never},
			{at: 66000 * ms, op: take, n: 51, remaining: 50, retry: 6000 * ms},
			{at: 66000 * ms, op: take, n: 50, allowed: true, remaining: 0, reset: 66000 * ms},
			{at: 7000 * ms, op: take, n: 1, remaining: 0, retry: 65000 * ms},
			{at: 66000 * ms, op: refund, n: 60, allowed: true, remaining: 60},
			{at: 72000 * ms, op: take, n: 61, remaining: 60, retry: 60000 * ms},
			{at: 72000 * ms, op: debit, n: headgate.MaxInt, allowed: true, remaining: 0, overage: headgate.MaxInt - 100},
		}},
		// Cloudflare's example, 42 before and 18 now a quarter of a minute in:
		// 42*45/60 + 18 = 49.5.
		{"classic sliding window", headgate.Sliding(50, 60*sec).WithSlices(1), []row{
			{at: 30 * sec, op: take, n: 42, allowed: true, remaining: 8, reset: 90 * sec},
			{at: 75 * sec, op: take, n: 18, allowed: true, remaining: 0, reset: 105 * sec},
			{at: 75 * sec, op: take, n: 1, remaining: 0, retry: 714_286 * time.Microsecond},
			{at: 75 * sec, op: take, n: 50, remaining: 0, retry: 105 * sec},
			{at: 75 * sec, op: take, n: 51, remaining: 0, retry: never},
			{at: 75714_286 * time.Microsecond, op: take, n: 1, allowed: true, remaining: 0},
			{at: 50 * sec, op: take, n: 1, remaining: 0, retry: 27142_858 * time.Microsecond, overage: 11},
			{at: 90 * sec, op: refund, n: 19, allowed: true, remaining: 29, reset: 30 * sec},
			{at: 90 * sec, op: refund, n: 19, allowed: true, remaining: 29},
		}},
		{"sliding log", headgate.Log(3, 10*sec), []row{
			{at: 0, op: take, n: 1, allowed: true, remaining: 2, reset: 10 * sec},
			{at: 4 * sec, op: take, n: 2, allowed: true, remaining: 0, reset: 10 * sec},
			{at: 4 * sec, op: take, n: 1, remaining: 0, retry: 6 * sec},
			{at: 4 * sec, op: take, n: 2, remaining: 0, retry: 10 * sec},
			{at: 1 * sec, op: take, n: 1, remaining: 0, retry: 9 * sec},
			{at: 10*sec - time.Microsecond, op: take, n: 1, remaining: 0, retry: time.Microsecond},
			{at: 10 * sec, op: take, n: 1, allowed: true, remaining: 0},
			{at: 10 * sec, op: take, n: 4, remaining: 0, retry: never},
			{at: 10 * sec, op: debit, n: headgate.MaxInt, allowed: true, remaining: 0, overage: headgate.MaxInt - 3},
			{at: 20 * sec, op: take, n: 0, allowed: true, remaining: 3},
		}},
		{"daily quota with rollover", headgate.Limit{Algorithm: headgate.Quota, Count: 100, Rollover: 30,
			Calendar: headgate.Calendar{Unit: headgate.Day, Location: paris}}, []row{
			{at: 22 * time.Hour, op: take, n: 80, allowed: true, remaining: 20, reset: 1 * time.Hour}, // 23:00 in Paris
			{at: 22 * time.Hour, op: take, n: 120, remaining: 20, retry: 1 * time.Hour},               // 20 are left over
			{at: 22 * time.Hour, op: take, n: 121, remaining: 20, retry: never},
			{at: 23 * time.Hour, op: take, n: 10, allowed: true, remaining: 110, reset: day},
			{at: 47 * time.Hour, op: peek, n: 130, allowed: true, remaining: 130, reset: day},
			{at: 71 * time.Hour, op: peek, n: 101, remaining: 100, retry: never},
			{at: 71 * time.Hour, op: take, n: 0, allowed: true, remaining: 100},
			{at: 47 * time.Hour, op: take, n: 100, allowed: true, remaining: 0, reset: 2 * day},
			{at: 71 * time.Hour, op: debit, n: 5, allowed: true, remaining: 0, overage: 5},
		}},
		{"soft monthly quota", headgate.Limit{Algorithm: headgate.Quota, Count: 10, Soft: true,
			Calendar: headgate.Calendar{Unit: headgate.Month, Anchor: 31}}, []row{
			{at: 30*day - time.Microsecond, op: take, n: 25, allowed: true, remaining: 0, reset: time.Microsecond, overage: 15},
			{at: 30 * day, op: take, n: 1, allowed: true, remaining: 9, reset: 28 * day}, // 31 January to 28 February
			{at: 30 * day, op: peek, n: headgate.MaxInt, allowed: true, remaining: 9},
			{at: 30 * day, op: take, n: headgate.MaxInt, allowed: true, remaining: 0, overage: headgate.MaxInt - 10},
		}},
		{"concurrency", headgate.InFlight(3, 10*sec), []row{
			{at: 0, op: take, n: 1, hold: 1, allowed: true, remaining: 2, reset: 10 * sec},
			{at: 2 * sec, op: take, n: 2, hold: 2, allowed: true, remaining: 0, reset: 10 * sec},
			{at: 3 * sec, op: take, n: 1, hold: 3, remaining: 0, retry: 7 * sec},
			{at: 3 * sec, op: take, n: 2, hold: 3, remaining: 0, retry: 9 * sec},
			{at: 3 * sec, op: take, n: 4, hold: 3, remaining: 0, retry: never},
			{at: 4 * sec, op: release, hold: 2, allowed: true, remaining: 2},
			{at: 4 * sec, op: release, hold: 2, allowed: true, remaining: 2},
			{at: 5 * sec, op: renew, hold: 1, allowed: true, remaining: 2, reset: 10 * sec},
			{at: 5 * sec, op: renew, hold: 2, remaining: 2},
			{at: 5 * sec, op: take, n: 2, allowed: true, remaining: 0},
			{at: 6 * sec, op: release, allowed: true, remaining: 0}, // 0 is no hold
			{at: 1 * sec, op: take, n: 1, hold: 4, remaining: 0, retry: 14 * sec},
			{at: 15*sec - time.Microsecond, op: renew, hold: 1, allowed: true, remaining: 0},
			{at: 15 * sec, op: take, n: 1, hold: 4, allowed: true, remaining: 1},
			{at: 25 * sec, op: renew, hold: 4, remaining: 3},
			{at: 25 * sec, op: debit, n: 3, allowed: true, remaining: 3},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBudget(prepare(t, tt.limit), epoch, false)
			b.check(t, tt.rows)
		})
		if tt.limit.Algorithm == headgate.TokenBucket && tt.name != "bucket, a clock that goes back" {
			t.Run(tt.name+", packed", func(t *testing.T) {
				b := newBudget(prepare(t, tt.limit), epoch, true)
				if !b.packed {
					t.Fatal("not packable")
				}
				b.check(t, tt.rows)
			})
		}
	}
}

func TestBanLedger(t *testing.T) {
	b := newBudget(prepare(t, headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: 60 * sec, TTL: 300 * sec}), epoch, false)
	deny := func(at time.Duration) { algo.CountDenial(b.l, b.st, epoch+micros(at)) }
	deny(9 * sec)
	deny(11 * sec)
	b.check(t, []row{{at: 11 * sec, op: take, n: 1, allowed: true, remaining: 1}})
	deny(70 * sec) // the slot of 9 s has left: two count
	b.check(t, []row{{at: 70 * sec, op: take, n: 1, allowed: true, remaining: 1}})
	deny(71 * sec)
	deny(100 * sec) // while the ban holds nothing counts, so that it ends
	b.check(t, []row{
		{at: 71 * sec, op: take, n: 0, remaining: 0, retry: 300 * sec, reset: 300 * sec},
		{at: 60 * sec, op: take, n: 1, remaining: 0, retry: 311 * sec},
		{at: 371*sec - time.Microsecond, op: peek, n: 1, remaining: 0, retry: time.Microsecond},
		{at: 371 * sec, op: take, n: 1, allowed: true, remaining: 3},
	})
}

// TestLogThatDebitsOverfill: takes can fill a log with at most MaxLog entries.
// Debits beyond that move the newest entry on: it counts longer, never less.
func TestLogThatDebitsOverfill(t *testing.T) {
	b := newBudget(prepare(t, headgate.Log(headgate.MaxLog, time.Hour)), epoch, false)
	const debits = headgate.MaxLog + 3
	for i := range int64(debits) {
		b.apply(headgate.Debit, epoch+i, 1, 0)
	}
	b.check(t, []row{{at: sec, op: peek, n: 1, remaining: 0, overage: 3, retry: time.Hour - sec + 3*time.Microsecond}})
	left := time.Hour + headgate.MaxLog*time.Microsecond
	b.check(t, []row{
		{at: left - time.Microsecond, op: peek, n: 0, allowed: true, remaining: headgate.MaxLog - 3},
		{at: left, op: peek, n: 0, allowed: true, remaining: headgate.MaxLog - 3},
		{at: left + 2*time.Microsecond, op: peek, n: 0, allowed: true, remaining: headgate.MaxLog},
	})
}
