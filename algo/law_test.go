package algo_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// ticket is a reservation as its owner sees it.
type ticket struct {
	id        uint64
	at, until int64
	n         int64
}

// ledgerOf runs random takes, reservations, settlings, renewals and changes of
// numbers, and returns what was admitted: once with the work of a reservation
// dated at its charge, once at its settling or end. Work beyond what was reserved
// is charged as debt and belongs to neither.
func ledgerOf(t *testing.T, r *rand.Rand, limits []*headgate.Prepared) (charged, settled []admission) {
	t.Helper()
	now := int64(1_700_000_000_000_000) + r.Int64N(1_000_000_000)
	b := newBudget(limits[0], now, r.IntN(2) == 0)
	var open []ticket
	id := uint64(0)
	keep := int64(0)
	work := func(k ticket, at, n int64) {
		if n = min(n, k.n); n > 0 {
			charged, settled = append(charged, admission{k.at, n}), append(settled, admission{at, n})
		}
	}
	expire := func() {
		open = slices.DeleteFunc(open, func(k ticket) bool {
			if k.until <= now {
				work(k, k.until, k.n)
			}
			return k.until <= now
		})
	}
	for range 500 {
		unit, whole := scales(b.l)
		switch r.IntN(10) {
		case 0:
			now += r.Int64N(whole + 2)
		case 1, 2, 3:
			now += r.Int64N(2*unit + 2)
		case 4:
			now++
		}
		expire()
		st := b.words(now)
		if absent := max(keep, algo.AbsentAt(b.l, st)); now >= absent {
			if len(open) > 0 {
				t.Fatalf("absent at %d with %+v open", now, open)
			}
			b, keep = newBudget(b.l, now, r.IntN(2) == 0), 0
		} else if l := pick(r, limits); l != b.l && r.IntN(12) == 0 {
			dst := make([]int64, algo.ConvertWords(b.l, l, st))
			algo.Convert(b.l, l, dst, st, now)
			b, keep = budget{l: l, st: dst}, absent
		}
		cost := 1 + r.Int64N(max(1, b.l.Count/3))
		if r.IntN(3) == 0 {
			cost = b.peek(now, 0).Remaining
		}
		switch n := r.IntN(10); {
		case n < 4:
			if b.apply(headgate.Take, now, cost, 0).Allowed {
				work(ticket{at: now, n: cost}, now, cost)
			}
		case n < 7:
			id++
			k := ticket{id, now, now + 1 + r.Int64N(2*whole+1), cost}
			if b.call(algo.Call{Now: now, Cost: cost, Hold: id, HoldFor: k.until - now}).Allowed {
				open = append(open, k)
			}
		case len(open) == 0:
		default:
			i := r.IntN(len(open))
			k := &open[i]
			if n == 7 {
				until := now + 1 + r.Int64N(2*whole+1)
				if !b.call(algo.Call{Op: headgate.Renew, Now: now, Hold: k.id, HoldFor: until - now}).Allowed {
					t.Fatalf("%+v was not renewed at %d", k, now)
				}
				k.until = until
				break
			}
			took := r.Int64N(k.n + 2)
			if !b.call(algo.Call{Op: headgate.Settle, Now: now, Cost: took, Hold: k.id}).Allowed {
				t.Fatalf("%+v was not settled at %d", k, now)
			}
			work(*k, now, took)
			open = slices.Delete(open, i, i+1)
		}
	}
	now += 1 << 40
	expire()
	byTime := func(a, b admission) int { return int(min(1, max(-1, a.at-b.at))) }
	slices.SortStableFunc(charged, byTime)
	slices.SortStableFunc(settled, byTime)
	return charged, settled
}

// broken returns the first interval in which more was admitted than bound lets.
func broken(all []admission, bound func(from, to, sum int64) bool) (from, to, sum int64, found bool) {
	for i := range all {
		sum := int64(0)
		for _, x := range all[i:] {
			if sum += x.cost; !bound(all[i].at, x.at, sum) {
				return all[i].at, x.at, sum, true
			}
		}
	}
	return 0, 0, 0, false
}

// TestReservationsMintNothing: the first law with reservations. A bucket admits
// at most its burst and what refills meanwhile, also through changes of numbers,
// by the largest of them: a token bucket whether work is dated at the charge or
// at the settling, a leaky one, whose holds do not stop the refill, at the charge.
// A window admits at most its count, dated at the charge.
func TestReservationsMintNothing(t *testing.T) {
	for _, k := range []struct {
		name string
		a    headgate.Algorithm
		one  bool // one slice
	}{
		{"token_bucket", headgate.TokenBucket, false}, {"leaky_bucket", headgate.LeakyBucket, false}, {"fixed_window", headgate.FixedWindow, false},
		{"sliding_window", headgate.SlidingWindow, false}, {"classic", headgate.SlidingWindow, true}, {"sliding_log", headgate.SlidingLog, false},
	} {
		t.Run(k.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(2027, uint64(len(k.name))))
			busiest := int64(0)
			for range 150 {
				first := smallLimit(t, r, k.a).Limit
				if k.one {
					first.Slices = 1
				}
				limits := []*headgate.Prepared{prepare(t, first)}
				for range r.IntN(3) {
					l := first
					l.Count = 1 + r.Int64N(30)
					if isBucket(k.a) {
						l.Burst, l.Period = 1+r.Int64N(40), time.Duration(60*(1+r.Int64N(100_000)))*time.Microsecond
					}
					limits = append(limits, prepare(t, l))
				}
				most := envelope{window: first.Period.Microseconds()}
				for _, l := range limits {
					most.count, most.burst = max(most.count, l.Count), max(most.burst, l.Burst)
					if most.n == 0 || l.Count*most.p > most.n*l.Period.Microseconds() {
						most.n, most.p = l.Count, l.Period.Microseconds()
					}
				}
				charged, settled := ledgerOf(t, r, limits)
				bound := most.aligned
				switch {
				case isBucket(k.a):
					bound = most.bucket
					if from, to, sum, found := broken(settled, bound); found && k.a == headgate.TokenBucket {
						t.Fatalf("%d admitted from %d to %d, dated at the settling, under %+v", sum, from, to, most)
					}
				case !k.one && k.a != headgate.FixedWindow:
					bound = most.period
				}
				if from, to, sum, found := broken(charged, bound); found {
					t.Fatalf("%d admitted from %d to %d, dated at the charge, under %+v", sum, from, to, most)
				}
				busiest = max(busiest, int64(len(charged)))
			}
			if busiest < 50 {
				t.Errorf("at most %d charges passed", busiest)
			}
		})
	}
}

// envelope is the most that any of several limits lets pass.
type envelope struct{ count, burst, n, p, window int64 }

func (e *envelope) bucket(from, to, sum int64) bool { return (sum-e.burst)*e.p <= e.n*(to-from) }
func (e *envelope) period(from, to, sum int64) bool { return to-from >= e.window || sum <= e.count }
func (e *envelope) aligned(from, to, sum int64) bool {
	return floor(from, e.window) != floor(to, e.window) || sum <= e.count
}

// TestEscrowLedger: by hand, in tokens, of a bucket of 100 that refills 10 a
// second.
func TestEscrowLedger(t *testing.T) {
	b := newBudget(prepare(t, headgate.PerSecond(10).WithBurst(100)), epoch, false)
	for i, s := range []struct {
		at           time.Duration
		op           headgate.Op
		n            int64
		hold         uint64
		holdFor      time.Duration
		allowed      bool
		used         int64
		retry, reset time.Duration
	}{
		{0, take, 30, 1, 10 * sec, true, 30, 0, 13 * sec}, // as full as can be until 10 s
		{0, take, 20, 2, 4 * sec, true, 50, 0, 13 * sec},  // 50 held: 50 is full until 4 s, then 70 until 10 s
		{0, take, 50, 0, 0, true, 100, 0, 13 * sec},
		{1 * sec, take, 60, 0, 0, false, 90, 5 * sec, 12 * sec},   // 60 at 6 s
		{1 * sec, peek, 71, 0, 0, false, 90, 9100 * ms, 12 * sec}, // 70 from 7 s on, 71 at 10.1 s
		{6 * sec, peek, 0, 0, 0, true, 40, 0, 7 * sec},            // 50 at 5 s, the hold of 20 has ended at 4 s
		{6 * sec, headgate.Settle, 0, 2, 0, false, 40, 0, 7 * sec},
		{6 * sec, headgate.Settle, 0, 0, 0, false, 40, 0, 7 * sec},
		{6 * sec, renew, 0, 1, 4 * sec, true, 40, 0, 7 * sec},
		{9 * sec, take, 0, 3, 0, true, 30, 0, 4 * sec},
		{9 * sec, refund, 100, 0, 0, true, 30, 0, 4 * sec}, // 30 are held
		{9 * sec, debit, 150, 0, 0, true, 180, 0, 18 * sec},
		{9 * sec, headgate.Settle, 10, 1, 0, true, 160, 0, 16 * sec}, // 20 come back
		{9 * sec, headgate.Settle, 10, 1, 0, false, 160, 0, 16 * sec},
		{20 * sec, take, 40, 4, 1 * sec, true, 90, 0, 9 * sec},
		{20 * sec, headgate.Settle, 60, 4, 0, true, 110, 0, 11 * sec}, // 20 beyond it
		{31 * sec, peek, 100, 0, 0, true, 0, 0, 0},
	} {
		o := b.call(algo.Call{Op: s.op, Now: epoch + micros(s.at), Cost: s.n, Hold: s.hold, HoldFor: micros(s.holdFor)})
		if o.Allowed != s.allowed || o.Used != s.used || o.RetryAfter != s.retry || o.ResetAfter != s.reset {
			t.Errorf("row %d: %v %d at %v: %s\nwant allowed=%v used=%d retry=%v reset=%v", i, s.op, s.n, s.at, show(o), s.allowed, s.used, s.retry, s.reset)
		}
	}
}

// TestFullOfReservations: a budget has room for MaxInFlight of them, again as
// they end, and none is kept longer for it.
func TestFullOfReservations(t *testing.T) {
	for _, limit := range []headgate.Limit{headgate.PerSecond(1_000_000), headgate.Window(1_000_000, 24*time.Hour), headgate.Log(10_000, 24*time.Hour)} {
		l := prepare(t, limit)
		b := newBudget(l, epoch, false)
		for i := range int64(headgate.MaxInFlight) {
			if !b.call(algo.Call{Now: epoch + i, Cost: 1, Hold: uint64(i + 1), HoldFor: 20_000}).Allowed {
				t.Fatalf("%s: reservation %d was refused", l.Name, i)
			}
		}
		c := algo.Call{Now: epoch + headgate.MaxInFlight, Hold: 1 << 40, HoldFor: 1}
		if n := algo.Need(&c, l, b.st); n != algo.Full {
			t.Errorf("%s: Need says %d with all open", l.Name, n)
		}
		if at := algo.AbsentAt(l, b.st); at < epoch+headgate.MaxInFlight-1+20_000 {
			t.Errorf("%s: absent at +%d, before the last has ended", l.Name, at-epoch)
		}
		c.Now = epoch + 20_000 // the first has ended
		if n := algo.Need(&c, l, b.st); n != len(b.st) {
			t.Errorf("%s: Need says %d of %d words with one ended", l.Name, n, len(b.st))
		}
		if !b.call(c).Allowed {
			t.Errorf("%s: refused", l.Name)
		}
		settle := algo.Call{Op: headgate.Settle, Now: epoch + 20_000, Cost: 1, Hold: 2}
		if o := b.call(settle); !o.Allowed {
			t.Errorf("%s: the second was lost: %s", l.Name, show(o))
		}
	}
}
