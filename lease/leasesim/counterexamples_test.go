package leasesim

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/lease"
)

// The counter-examples of facts-checked, sections 2 and 3, that concern leases,
// as schedules of their own: a holder and the truth of a store, on one clock.

const (
	second = int64(1_000_000)
	base   = 1_700_000_040 * second // where a minute begins
)

// desk is a store with one budget, whose messages arrive as the test says.
type desk struct {
	t     *testing.T
	l     *headgate.Prepared
	b     algo.Budget
	e     headgate.Epoch
	terms algo.Terms
	now   int64
	ids   uint64
	log   []entry
}

func newDesk(t *testing.T, l headgate.Limit) *desk {
	return &desk{
		t: t, l: must(l.Prepare()), e: headgate.Epoch{ID: 1}, now: base,
		terms: algo.Terms{TTL: second, Grace: second / 2, Least: 2, Floor: 1_000_000, Out: 1, Holders: 16},
	}
}

func (d *desk) at(after time.Duration) { d.now = base + after.Microseconds() }

func (d *desk) next() [2]uint64 {
	d.ids++
	return [2]uint64{1, d.ids}
}

func (d *desk) holder() *lease.Holder { return lease.NewHolder(d.next()) }

// report is what the holder says now, asking for want.
func (d *desk) report(h *lease.Holder, want int64) headgate.LeaseRequest {
	r := headgate.LeaseRequest{Limit: d.l, Owner: "owner", Want: want, Min: 1}
	h.Report(&r, d.now, d.next())
	return r
}

func (d *desk) answer(r headgate.LeaseRequest) (p headgate.LeaseReply) {
	d.b.Acquire(&r, d.now, d.e, &d.terms, &p)
	return p
}

// lend asks for want tokens until the holder has them, in no time.
func (d *desk) lend(h *lease.Holder, want int64) {
	d.t.Helper()
	for h.Lease().Left() < want {
		r := d.report(h, want-h.Lease().Left())
		p := d.answer(r)
		if e := h.Absorb(&r, &p, d.now, d.now, d.next()); e.Granted == 0 {
			d.t.Fatalf("at %d: %d of %d are lent, and no more: %+v", d.now-base, h.Lease().Left(), want, p)
		}
	}
}

// speak is a report and its answer, in no time.
func (d *desk) speak(h *lease.Holder) headgate.LeaseReply {
	r := d.report(h, 0)
	p := d.answer(r)
	h.Absorb(&r, &p, d.now, d.now, d.next())
	return p
}

// spend takes from the lease.
func (d *desk) spend(h *lease.Holder, n int64, ok bool) {
	d.t.Helper()
	if _, got := h.Lease().Take(n, d.now); got != ok {
		d.t.Fatalf("at %d: a lease of %d lets %d pass: %v, want %v", d.now-base, h.Lease().Left(), n, got, ok)
	}
	if ok {
		d.log = append(d.log, entry{d.now, n})
	}
}

// take takes at the store.
func (d *desk) take(n int64, ok bool) (o headgate.Outcome) {
	d.t.Helper()
	b := d.b.Clone()
	b.Load(d.l, d.now, d.e)
	b.Apply(&algo.Call{Now: d.now, Cost: n}, d.e, &o)
	if o.Allowed != ok {
		d.t.Fatalf("at %d: %d at the store: %+v, want allowed %v", d.now-base, n, o, ok)
	}
	if ok {
		d.b = b
		d.log = append(d.log, entry{d.now, n})
	}
	return o
}

// most is the most that was admitted in any interval shorter than width.
func most(log []entry, width int64) (n int64) {
	for i := range log {
		sum := int64(0)
		for _, x := range log[i:] {
			if x.at-log[i].at < width {
				sum += x.n
			}
		}
		n = max(n, sum)
	}
	return n
}

// excess is by how much the log is above burst + rate x time in some interval, in
// units of 1/P token; not above 0 is within.
func excess(log []entry, l *headgate.Prepared) int64 {
	v := envelope{n: l.N, p: l.P, cap: l.Cap, low: -l.N * (log[0].at - base)}
	worst := -l.Cap
	for _, x := range log {
		worst = max(worst, v.add(x.n, x.at-base, x.at-base))
	}
	return worst
}

// Test2_5: a lease of a sliding window dies with its slice. What it held then,
// spent in the next slice, would still be in the window when its own slot has
// left.
func Test2_5(t *testing.T) {
	d := newDesk(t, headgate.Sliding(100, time.Minute).WithSlices(10))
	h := d.holder()
	d.at(5900 * time.Millisecond)
	d.lend(h, 50)
	d.spend(h, 25, true)
	d.at(6100 * time.Millisecond)
	late := append(append([]entry(nil), d.log...), entry{d.now, 25})
	d.spend(h, 25, false)
	d.take(50, true)
	d.take(1, false)
	d.at(66 * time.Second)
	d.take(50, true)
	if got := most(d.log, d.l.WindowMicros); got > d.l.Count {
		t.Errorf("%d in one window of %d: %v", got, d.l.Count, d.log)
	}
	if got := most(append(late, d.log[1:]...), d.l.WindowMicros); got <= d.l.Count {
		t.Errorf("%d in one window: had the lease outlived its slice, it should be more than %d", got, d.l.Count)
	}
	for _, l := range []headgate.Limit{
		headgate.Log(5000, time.Minute), headgate.Sliding(5000, time.Minute).WithSlices(1), headgate.InFlight(5000, time.Minute),
		{Algorithm: headgate.LeakyBucket, Count: 5000, Period: time.Minute},
	} {
		if algo.Leasable(must(l.Prepare()), &algo.DefaultTerms) {
			t.Errorf("%v may be leased", l.Algorithm)
		}
	}
}

// Test2_6: while tokens lie idle at a holder, the store refuses early, by no more
// than they are; and what it says of when the cost would pass is so, to the
// microsecond: not before the lease has run out.
func Test2_6(t *testing.T) {
	d := newDesk(t, headgate.PerSecond(1).WithBurst(10))
	h := d.holder()
	d.lend(h, 8)
	o := d.take(5, false)
	if !o.Leased || o.Remaining != 2 || o.Remaining+h.Lease().Left() < 5 {
		t.Errorf("refused with %d idle: %+v", h.Lease().Left(), o)
	}
	// The level stops at 2 until the lease has run out, and lacks 3 then.
	if want := 1500*time.Millisecond + 3*time.Second; o.RetryAfter != want {
		t.Errorf("retry after %v, want %v", o.RetryAfter, want)
	}
	passes := d.now + o.RetryAfter.Microseconds()
	d.now = passes - 1
	d.take(5, false)
	d.now = passes
	d.take(5, true)
}

// Test2_7: a reset leaves what is leased out: it is spent beside the rest of one
// capacity, not beside a whole one.
func Test2_7(t *testing.T) {
	d := newDesk(t, headgate.PerHour(1).WithBurst(100))
	h := d.holder()
	d.lend(h, 40)
	d.take(50, true)
	before := len(d.log)
	d.b.Load(d.l, d.now, d.e)
	d.b.Reset(d.now, d.e)
	d.spend(h, 40, true)
	d.take(61, false)
	d.take(60, true)
	d.take(1, false)
	if got := excess(d.log[before:], d.l); got > 0 {
		t.Errorf("%d units above the envelope since the reset", got)
	}
}

// Test3a: an account that was forgotten is not opened again by old messages of
// its holder: they would credit twice what was returned once.
func Test3a(t *testing.T) {
	d := newDesk(t, headgate.PerHour(1).WithBurst(100))
	h := d.holder()
	d.lend(h, 40)
	d.spend(h, 10, true)
	first := d.report(h, 0)
	h.Lease().Revoke()
	returned := d.report(h, 0)
	if returned.Returned != 30 {
		t.Fatalf("%+v", returned)
	}
	d.answer(first)
	d.answer(returned)
	d.take(90, true) // the whole rest
	d.at(10 * time.Second)
	for _, late := range []headgate.LeaseRequest{first, returned, first} {
		if p := d.answer(late); p.Status != headgate.LeaseUnknownHolder {
			t.Errorf("%+v is answered %+v", late, p)
		}
		d.take(1, false)
	}
	if got := excess(d.log, d.l); got > 0 {
		t.Errorf("%d units above the envelope", got)
	}
}

// Test3b: what was held until now did not refill, whatever a report says of it now.
func Test3b(t *testing.T) {
	d := newDesk(t, headgate.PerSecond(10).WithBurst(100))
	h := d.holder()
	d.lend(h, 80)
	d.at(900 * time.Millisecond)
	d.spend(h, 80, true)
	d.speak(h)
	// 9 tokens more would have come had nothing been held.
	d.take(21, false)
	d.take(20, true)
	if got := excess(d.log, d.l); got > 0 {
		t.Errorf("%d units above the envelope", got)
	}
}

// Test3c: the store's own takes see what is out.
func Test3c(t *testing.T) {
	d := newDesk(t, headgate.PerSecond(10).WithBurst(100))
	h := d.holder()
	d.lend(h, 80)
	d.at(900 * time.Millisecond)
	d.take(21, false)
	d.take(20, true)
	d.spend(h, 80, true)
	if got := excess(d.log, d.l); got > 0 {
		t.Errorf("%d units above the envelope", got)
	}
}

// Test3d: a window whose store lost writes is closed until every lease of before
// has run out. What a holder knows of its count by then counts; what nobody knows
// is the bound of what is admitted too much.
func Test3d(t *testing.T) {
	for _, knows := range []bool{true, false} {
		d := newDesk(t, headgate.Window(100, time.Minute))
		h := d.holder()
		d.take(10, true)
		lost := d.b.Clone()
		d.take(20, true)
		d.lend(h, 30)
		d.at(100 * time.Millisecond)
		d.b, d.e = lost, headgate.Epoch{ID: 2, Since: d.now + d.terms.TTL}
		d.spend(h, 30, true)
		d.take(1, false)
		if p := d.answer(headgate.LeaseRequest{Limit: d.l, Holder: d.next(), Want: 5, Min: 1}); p.Granted != 0 {
			t.Errorf("granted %d in quarantine", p.Granted)
		}
		over := int64(50)
		if knows {
			over = 0
			if p := d.speak(h); p.Status != headgate.LeaseStale {
				t.Errorf("a lease of before is answered %+v", p)
			}
		}
		d.at(1100 * time.Millisecond)
		d.take(40+over, true)
		d.take(1, false)
		if got := most(d.log, d.l.WindowMicros); got != d.l.Count+over {
			t.Errorf("%d in one window of %d, with %d lost", got, d.l.Count, over)
		}
	}
}

// Test3e: a deadline holds when it is looked at. Who stands still between that
// and the use shifts at most one lease, and is within the envelope as of when it
// looked.
func Test3e(t *testing.T) {
	d := newDesk(t, headgate.PerSecond(10).WithBurst(100))
	h := d.holder()
	d.lend(h, 80)
	deadline := d.now + d.terms.TTL - d.terms.TTL/1024 - 1
	d.now = deadline - 1
	d.spend(h, 60, true)
	d.now = deadline
	d.spend(h, 20, false)
	d.at(20 * time.Second) // it goes on only now
	used := []entry{{d.now, 60}}
	d.take(100, true)
	d.take(1, false)
	if got := excess(d.log, d.l); got > 0 {
		t.Errorf("%d units above the envelope as of the check", got)
	}
	if got := excess(append(used, d.log[1:]...), d.l); got <= 0 || got > 80*d.l.P {
		t.Errorf("%d units above the envelope as of the use, want at most a lease of %d", got, 80*d.l.P)
	}
}
