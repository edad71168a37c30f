package algo_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

const (
	stale   = headgate.LeaseStale
	unknown = headgate.LeaseUnknownHolder
)

func holder(n uint64) [2]uint64 { return [2]uint64{n, ^n} }

// report is what a holder sends whose latest answer was last.
func report(h [2]uint64, last headgate.LeaseReply, settled, returned, want int64) headgate.LeaseRequest {
	return headgate.LeaseRequest{
		Holder: h, Epoch: last.Epoch, Window: last.Window,
		Granted: last.Granted, Settled: settled, Returned: returned, Want: want,
	}
}

// leaseRow is a request of a holder or, of holder 0, a take of want tokens, and
// what it comes to. settled, returned and granted are cumulative; granted is 1 of
// a take that is allowed. used, leased and retry are those of a Peek of min.
type leaseRow struct {
	at                           time.Duration
	holder                       uint64
	settled, returned, want, min int64
	status                       headgate.LeaseStatus
	granted, used                int64
	leased                       bool
	retry                        time.Duration
}

func (a *authority) ledger(t *testing.T, rows []leaseRow) {
	t.Helper()
	last := map[uint64]headgate.LeaseReply{}
	for i, w := range rows {
		now := epoch + micros(w.at)
		if w.holder == 0 {
			o := a.call(algo.Call{Now: now, Cost: w.want})
			if o.Allowed != (w.granted == 1) || o.Used != w.used || o.Leased != w.leased || o.RetryAfter != w.retry {
				t.Errorf("row %d: take %d at %v: %s leased=%v\nwant %+v", i, w.want, w.at, show(o), o.Leased, w)
			}
			continue
		}
		r := report(holder(w.holder), last[w.holder], w.settled, w.returned, w.want)
		r.Min = w.min
		got := a.acquire(now, r)
		if got.Status == headgate.LeaseOK {
			last[w.holder] = got
		}
		if o := got.State; got.Status != w.status || got.Granted != w.granted || o.Used != w.used || o.Leased != w.leased || o.RetryAfter != w.retry {
			t.Errorf("row %d: holder %d at %v: %+v\nwant %+v", i, w.holder, w.at, got, w)
		}
	}
}

func TestLeaseLedgers(t *testing.T) {
	soft, rolling := headgate.QuotaPer(1000, headgate.Hour), headgate.QuotaPer(1000, headgate.Hour)
	soft.Soft, rolling.Rollover = true, 500
	for _, k := range []struct {
		name  string
		limit headgate.Limit
		rows  []leaseRow
	}{
		{"token bucket", headgate.PerSecond(100).WithBurst(1000), []leaseRow{
			{0, 1, 0, 0, 900, 1, 0, 200, 200, true, 0}, // a fifth
			{0, 1, 0, 0, 900, 1, 0, 200, 200, true, 0}, // is out
			{0, 2, 0, 0, 900, 1, 0, 0, 200, true, 0},
			{100 * ms, 1, 50, 0, 90, 1, 0, 250, 250, true, 0},   // with 200 out, 800 was full
			{100 * ms, 1, 250, 80, 0, 0, 0, 250, 170, false, 0}, // nothing is out
			{100 * ms, 2, 0, 0, 0, 841, 0, 0, 170, false, 110 * ms},
			{200 * ms, 2, 0, 0, 100, 1, 0, 100, 260, true, 0},
			{200 * ms, 0, 0, 0, 741, 0, 0, 0, 260, true, 10 * ms},
			{1200 * ms, 0, 0, 0, 901, 0, 0, 0, 160, true, 610 * ms}, // 890 at 1.7 s
			{1699 * ms, 2, 0, 0, 0, 0, 0, 100, 111, true, 0},
			{3198 * ms, 0, 0, 0, 1000, 0, 0, 0, 100, true, 1001 * ms}, // 900 was full, until 3.199 s
			{3199 * ms, 0, 0, 0, 1000, 0, 0, 0, 100, false, sec},      // nothing is credited: it refills
			{3199 * ms, 2, 100, 100, 0, 0, unknown, 0, 100, false, 0},
		}},
		{"near the limit", headgate.PerSecond(100).WithBurst(1000), []leaseRow{
			{0, 0, 0, 0, 700, 0, 0, 1, 700, false, 0},
			{0, 1, 0, 0, 900, 1, 0, 100, 800, true, 0},   // half of 300 less a tenth of the capacity
			{0, 1, 100, 0, 900, 1, 0, 150, 850, true, 0}, // and so on
			{0, 2, 0, 0, 900, 1, 0, 5, 855, true, 0},     // two: less than 64 each, and half of that for each
			{0, 2, 5, 0, 900, 5, 0, 5, 855, true, 0},     // 4 are too few
			{0, 2, 5, 0, 900, 4, 0, 9, 859, true, 0},
			{0, 3, 0, 0, 900, 1, 0, 0, 859, true, 0},
			{0, 0, 0, 0, 141, 0, 0, 1, 1000, true, 0},
		}},
		{"returned after it was settled", headgate.PerSecond(100).WithBurst(1000), []leaseRow{
			{0, 1, 0, 0, 200, 1, 0, 200, 200, true, 0},
			{0, 1, 150, 0, 0, 1, 0, 200, 200, true, 0},
			{500 * ms, 1, 160, 20, 0, 1, 0, 200, 140, true, 0}, // 50 refilled, 10 were still out
			{500 * ms, 1, 160, 60, 0, 1, 0, 200, 140, true, 0},
			{500 * ms, 1, 200, 60, 0, 1, 0, 200, 100, false, 0},
			{500 * ms, 1, 150, 10, 0, 1, 0, 200, 100, false, 0}, // old
		}},
		{"false reports", headgate.PerSecond(100).WithBurst(1000), []leaseRow{
			{0, 1, 999, 999, 100, 1, 0, 100, 100, true, 0},
			{0, 1, 999, 9999, 0, 1, 0, 100, 0, false, 0},
			{0, 1, -5, -5, -5, -5, 0, 100, 0, false, 0},
			{0, 2, -5, -5, 10, -5, 0, 10, 10, true, 0},
			{0, 2, 0, 10, 0, 0, 0, 10, 10, true, 0},
		}},
		{"false reports of a window", headgate.Window(1000, sec), []leaseRow{
			{0, 1, 999, 999, 100, 1, 0, 100, 100, true, 0},
			{0, 1, 60, 9999, 0, 1, 0, 100, 40, true, 0},
			{0, 1, 999, 9999, 0, 1, 0, 100, 0, false, 0},
		}},
		{"a window, returned after it was settled", headgate.Window(1000, sec), []leaseRow{
			{0, 1, 0, 0, 200, 1, 0, 200, 200, true, 0},
			{0, 1, 150, 0, 0, 1, 0, 200, 200, true, 0},
			{0, 1, 160, 20, 0, 1, 0, 200, 180, true, 0},
			{0, 1, 160, 60, 0, 1, 0, 200, 140, true, 0},
			{0, 1, 150, 10, 0, 1, 0, 200, 140, true, 0},
		}},
		{"fixed window", headgate.Window(1000, 10*sec), []leaseRow{
			{sec, 1, 0, 0, 100, 1, 0, 100, 100, true, 0},
			{sec, 0, 0, 0, 700, 0, 0, 1, 800, true, 0},
			{sec, 1, 100, 40, 60, 1, 0, 160, 820, true, 0},
			{sec, 2, 0, 0, 60, 1, 0, 13, 833, true, 0},
			{2 * sec, 2, 0, 0, 60, 10, 0, 13, 833, true, 0},
			{2 * sec, 2, 0, 0, 60, 1, 0, 22, 842, true, 0},
			{3500 * ms, 0, 0, 0, 200, 0, 0, 0, 842, false, 6500 * ms},
			{3500 * ms, 2, 22, 22, 0, 0, unknown, 0, 842, false, 0}, // never credited
			{9500 * ms, 3, 0, 0, 10, 1, 0, 10, 852, true, 0},
			{10*sec - 1, 0, 0, 0, 0, 0, 0, 1, 852, true, 0},
			{10 * sec, 0, 0, 0, 0, 0, 0, 1, 0, false, 0},
			{10 * sec, 3, 10, 10, 5, 0, stale, 0, 0, false, 0},
			{10 * sec, 4, 0, 0, 5, 0, 0, 5, 5, true, 0},
		}},
		{"sliding window", headgate.Sliding(1000, 10*sec), []leaseRow{
			{500 * ms, 1, 0, 0, 100, 1, 0, 100, 100, true, 0},
			{900 * ms, 1, 60, 20, 0, 1, 0, 100, 80, true, 0},
			{sec, 1, 100, 40, 10, 1, stale, 0, 80, false, 0}, // it was of another slice
			{sec, 2, 0, 0, 100, 1, 0, 100, 180, true, 0},
			{1100 * ms, 2, 100, 50, 200, 1, 0, 300, 330, true, 0},
			{2 * sec, 0, 0, 0, 671, 0, 0, 0, 330, false, 9 * sec},
			{11*sec - 1, 0, 0, 0, 0, 0, 0, 1, 330, false, 0},
			{11 * sec, 0, 0, 0, 0, 0, 0, 1, 250, false, 0},
			{12 * sec, 0, 0, 0, 0, 0, 0, 1, 0, false, 0},
		}},
		{"quota", rolling, []leaseRow{
			{0, 0, 0, 0, 300, 0, 0, 1, 300, false, 0},
			{time.Hour, 1, 0, 0, 400, 1, 0, 300, 300, true, 0}, // a fifth of 1,500
			{time.Hour, 1, 300, 0, 900, 1, 0, 600, 600, true, 0},
			{time.Hour, 1, 600, 300, 0, 1300, 0, 600, 300, false, time.Hour}, // 500 roll over again
			{time.Hour, 0, 0, 0, 1200, 0, 0, 1, 1500, false, 0},
			{time.Hour, 2, 0, 0, 10, 0, 0, 0, 1500, false, 0},
			{2 * time.Hour, 2, 0, 0, 10, 1, stale, 0, 0, false, 0},
		}},
		{"soft quota", soft, []leaseRow{
			{0, 0, 0, 0, 2000, 0, 0, 1, 2000, false, 0},
			{0, 1, 0, 0, 5000, 1, 0, 5000, 7000, true, 0},
			{0, 1, 1000, 1000, headgate.MaxInt, 1, 0, headgate.MaxInt - 1000, headgate.MaxInt, true, 0},
		}},
		{"too small", headgate.PerSecond(999), []leaseRow{
			{0, 1, 0, 0, 100, 1, 0, 0, 0, false, 0},
		}},
		{"a leaky bucket", headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 5000, Period: sec}, []leaseRow{
			{0, 1, 0, 0, 100, 1, 0, 0, 0, false, 0},
		}},
		{"a classic window", headgate.Sliding(5000, sec).WithSlices(1), []leaseRow{
			{0, 1, 0, 0, 100, 1, 0, 0, 0, false, 0},
		}},
		{"a log", headgate.Log(5000, sec), []leaseRow{
			{0, 1, 0, 0, 100, 1, 0, 0, 0, false, 0},
		}},
		{"slots", headgate.InFlight(5000, sec), []leaseRow{
			{0, 1, 0, 0, 100, 1, 0, 0, 0, false, 0},
		}},
	} {
		t.Run(k.name, func(t *testing.T) { newAuthority(t, k.limit).ledger(t, k.rows) })
	}
}

// What a reply says beside what it grants.
func TestLeaseReplies(t *testing.T) {
	for _, k := range []struct {
		limit  headgate.Limit
		at     time.Duration
		window int64
		left   time.Duration
		count  int64
		resets time.Duration
	}{
		{headgate.PerSecond(100).WithBurst(1000), sec, 0, 0, 0, 2500 * ms}, // 900 until 1.5 s
		{headgate.Window(1000, 10*sec), sec, epoch / 10_000_000, 9 * sec, 150, 9 * sec},
		{headgate.Sliding(1000, 10*sec), 300 * ms, epoch / 1_000_000, 700 * ms, 150, 10700 * ms},
		{headgate.QuotaPer(1000, headgate.Day), 23 * time.Hour, epoch / 86_400_000_000, time.Hour, 150, time.Hour},
		{headgate.QuotaPer(1000, headgate.Hour), 100 * time.Minute, epoch/60_000_000 + 60, 20 * time.Minute, 150, 20 * time.Minute},
	} {
		a := newAuthority(t, k.limit)
		now := epoch + micros(k.at)
		a.do(take, k.at, 50)
		got := a.acquire(now, headgate.LeaseRequest{Holder: holder(1), Want: 100, Min: 1})
		want := headgate.LeaseReply{Epoch: 7, Window: k.window, Granted: 100, TTL: sec, WindowLeft: k.left, Count: k.count, Holders: 1}
		want.State = headgate.Outcome{Allowed: true, Leased: true, Limit: 1000, Used: 150, Remaining: 850, ResetAfter: k.resets, ResetsAt: got.State.ResetsAt}
		if got != want {
			t.Errorf("%v:\n got %+v\nwant %+v", a.l.Algorithm, got, want)
		}
	}
}

// Each reply counts those that have asked within two lives and are not forgotten.
func TestLeaseHolders(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(100).WithBurst(100_000))
	ask := func(at time.Duration, n uint64) int {
		return a.acquire(epoch+micros(at), headgate.LeaseRequest{Holder: holder(n), Want: 1}).Holders
	}
	for i, want := range []int{1, 2, 3} {
		if got := ask(time.Duration(i)*400*ms, uint64(i)); got != want {
			t.Errorf("holder %d is told of %d", i, got)
		}
	}
	if got := ask(1500*ms-time.Microsecond, 1); got != 3 {
		t.Errorf("%d before the first is forgotten", got)
	}
	if got := ask(1500*ms, 1); got != 2 {
		t.Errorf("%d when the first is forgotten", got)
	}
	late := report(holder(9), headgate.LeaseReply{Epoch: 7, Granted: 5}, 0, 0, 0)
	if got := a.acquire(epoch+micros(1500*ms), late); got.Status != unknown || got.Holders != 3 || len(a.b.Leases) != 2 {
		t.Errorf("one without an account is not counted: %+v", got)
	}
	a = newAuthority(t, headgate.PerSecond(100).WithBurst(100_000))
	a.terms.Grace = micros(4 * sec)
	for i, want := range []int{1, 2, 2, 1} {
		if got := ask(time.Duration(i*(i+1))*500*ms, uint64(i)%2); got != want {
			t.Errorf("request %d is told of %d, with a long grace", i, got)
		}
	}
	if len(a.b.Leases) != 2 {
		t.Errorf("%d accounts, with a long grace", len(a.b.Leases))
	}
}

// There are only so many accounts: beyond them no grants.
func TestLeaseHoldersAreBounded(t *testing.T) {
	a := newAuthority(t, headgate.PerSecond(100).WithBurst(1_000_000))
	a.terms.PerHolder = 1
	for i := range uint64(1024) {
		if r := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(i), Want: 1}); r.Granted != 1 {
			t.Fatalf("holder %d: %+v", i, r)
		}
	}
	one := headgate.LeaseRequest{Holder: holder(2000), Want: 1}
	if r := a.acquire(epoch, one); r.Status != headgate.LeaseOK || r.Granted != 0 || len(a.b.Leases) != 1024 || r.Holders != 1025 {
		t.Errorf("one too many: %+v, %d accounts", r, len(a.b.Leases))
	}
	if r := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(5), Want: 1}); r.Granted != 1 {
		t.Errorf("one that has an account: %+v", r)
	}
	if r := a.acquire(epoch+micros(1500*ms), one); r.Granted != 1 || r.Holders != 1 {
		t.Errorf("once they are forgotten: %+v", r)
	}
}

// Of a ban, a lease is the word that it does not hold. No account is kept.
func TestLeaseOfABan(t *testing.T) {
	a := newAuthority(t, headgate.Limit{Algorithm: headgate.Ban, Count: 2, Period: time.Minute, TTL: time.Minute})
	r := headgate.LeaseRequest{Holder: holder(1), Want: 10, Min: 1}
	got := a.acquire(epoch, r)
	if got.Granted != 10 || !got.State.Allowed || got.Holders != 1 || got.Epoch != 7 || got.TTL != sec || a.b.Limit != nil {
		t.Errorf("not banned: %+v, kept %+v", got, a.b)
	}
	a.b.Load(a.l, epoch, a.e)
	algo.CountDenial(a.l, a.b.Words, epoch)
	r.Epoch, r.Granted = got.Epoch, got.Granted
	if got = a.acquire(epoch, r); got.Granted != 20 || got.State.Used != 1 {
		t.Errorf("one denial: %+v", got)
	}
	algo.CountDenial(a.l, a.b.Words, epoch)
	if got = a.acquire(epoch+1, r); got.Status != headgate.LeaseOK || got.Granted != 10 || got.State.Allowed || got.State.RetryAfter != time.Minute-time.Microsecond {
		t.Errorf("banned: %+v", got)
	}
	a.e = headgate.Epoch{ID: 8, Since: epoch}
	if got = a.acquire(epoch+2, r); got.Status != stale || got.Granted != 0 || got.State.Allowed {
		t.Errorf("of another incarnation: %+v", got)
	}
	r.Epoch, r.Granted, r.Want = 8, headgate.MaxInt, headgate.MaxInt
	if got = a.acquire(epoch+micros(time.Minute), r); got.Granted != headgate.MaxInt {
		t.Errorf("too much: %+v", got)
	}
}

// No call can name what is leased out: neither to settle, renew or release it, nor
// to reserve under its name.
func TestLeaseHoldHasNoName(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.PerSecond(100).WithBurst(1000), headgate.Window(1000, time.Minute), headgate.Sliding(1000, time.Minute), headgate.QuotaPer(1000, headgate.Day),
	} {
		a := newAuthority(t, limit)
		first := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 200})
		if first.Granted != 200 {
			t.Fatalf("%+v", first)
		}
		for _, op := range []headgate.Op{headgate.Settle, headgate.Renew, headgate.Release} {
			o := a.call(algo.Call{Op: op, Now: epoch + 1, Hold: algo.LeaseHold, HoldFor: 1})
			if o.Allowed != (op == headgate.Release) || o.Used != 200 || !o.Leased {
				t.Errorf("%v: %v: %s", a.l.Algorithm, op, show(o))
			}
		}
		c := algo.Call{Now: epoch + 1, Cost: 5, Hold: algo.LeaseHold, HoldFor: 1000}
		if o := a.call(c); !o.Allowed || o.Used != 205 || c.Reserves(limit.Algorithm) {
			t.Errorf("%v: %s", a.l.Algorithm, show(o))
		}
		if o := a.call(algo.Call{Op: headgate.Refund, Now: epoch + 1, Cost: 1000}); o.Used != 200 {
			t.Errorf("%v: a refund reached what is out: %s", a.l.Algorithm, show(o))
		}
		got := a.acquire(epoch+2, report(holder(1), first, 200, 150, 0))
		if got.State.Used != 50 || got.State.Leased {
			t.Errorf("%v: returned 150 of 200: %+v", a.l.Algorithm, got)
		}
		c.Op = headgate.Settle
		if o := a.call(c); o.Allowed || o.Used != 50 {
			t.Errorf("%v: it was a reservation: %s", a.l.Algorithm, show(o))
		}
	}
	slots := newBudget(prepare(t, headgate.InFlight(5, time.Minute)), epoch, false)
	slots.apply(take, epoch, 3, algo.LeaseHold)
	for _, op := range []headgate.Op{headgate.Settle, headgate.Renew, headgate.Release} {
		if o := slots.apply(op, epoch, 3, algo.LeaseHold); o.Used != 3 {
			t.Errorf("slots: %v: %s", op, show(o))
		}
	}
}

// What is out stays held when the numbers change, as far as what is left means the
// same. Where it does not, holders begin anew.
func TestLeaseOutlivesNumbers(t *testing.T) {
	week := headgate.QuotaPer(5000, headgate.Week)
	for _, k := range []struct {
		from, to headgate.Limit
		status   headgate.LeaseStatus
		used     int64 // after 300 of 400 were returned, of 1000 used
		out      bool  // before that, to whoever looks
	}{
		{headgate.PerSecond(1).WithBurst(5000), headgate.PerSecond(2).WithBurst(2000), 0, 100, true}, // full but for what is out
		{headgate.PerSecond(1).WithBurst(5000), headgate.PerSecond(1).WithBurst(500), 0, 100, true},  // too small to lease
		{headgate.Window(5000, time.Minute), headgate.Window(3000, time.Minute), 0, 700, true},
		{headgate.Window(5000, time.Minute), headgate.Window(5000, time.Hour), stale, 1000, false},
		{headgate.Sliding(5000, time.Minute), headgate.Sliding(9000, time.Minute), 0, 700, true},
		{headgate.Sliding(5000, time.Minute), headgate.Sliding(5000, time.Minute).WithSlices(6), stale, 1000, false},
		{headgate.QuotaPer(5000, headgate.Day), headgate.QuotaPer(2000, headgate.Day), 0, 700, true},
		{headgate.QuotaPer(5000, headgate.Day), week, stale, 1000, false},
		{headgate.Window(5000, time.Minute), headgate.PerSecond(1).WithBurst(5000), stale, 1000, true},
		{headgate.PerSecond(1).WithBurst(5000), headgate.Window(5000, time.Minute), stale, 1000, false},
		{headgate.PerSecond(1).WithBurst(5000), headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: sec, Burst: 5000}, unknown, 1000, false},
		{headgate.Window(5000, time.Minute), headgate.Log(5000, time.Minute), stale, 1000, false},
	} {
		a := newAuthority(t, k.from.WithName("same"))
		a.do(take, 0, 600)
		first := a.acquire(epoch, headgate.LeaseRequest{Holder: holder(1), Want: 400})
		if first.Granted != 400 {
			t.Fatalf("%+v", first)
		}
		a.l = prepare(t, k.to.WithName("same"))
		if o := a.do(peek, 1*time.Microsecond, 0); o.Leased != k.out {
			t.Errorf("%s to %s: leased %v", describe(prepare(t, k.from)), describe(a.l), o.Leased)
		}
		got := a.acquire(epoch+1, report(holder(1), first, 400, 300, 1))
		if k.status == 0 {
			k.used += min(1, got.Granted-400)
		}
		if o := got.State; got.Status != k.status || o.Used != k.used {
			t.Errorf("%s to %s: %+v, want status %d, %d used", describe(prepare(t, k.from)), describe(a.l), got, k.status, k.used)
		}
	}
}
