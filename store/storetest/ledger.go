package storetest

import (
	"time"

	"github.com/headgate/headgate"
)

// step is one line of a ledger: what is asked at an instant, and the answer.
type step struct {
	at   time.Duration
	op   headgate.Op
	cost int64
	want headgate.Outcome
}

const (
	take = headgate.Take
	peek = headgate.Peek
	us   = time.Microsecond
	ms   = time.Millisecond
	sec  = time.Second
)

// full is the outcome of an allowed charge after which used of limit is used.
func full(limit, used int64, reset time.Duration) headgate.Outcome {
	return headgate.Outcome{
		Allowed: true, Limit: limit, Used: used,
		Remaining: max(0, limit-used), Overage: max(0, used-limit), ResetAfter: reset,
	}
}

func refused(limit, used int64, retry, reset time.Duration) headgate.Outcome {
	o := full(limit, used, reset)
	o.Allowed, o.RetryAfter = false, retry
	return o
}

func never(limit, used int64, reset time.Duration) headgate.Outcome {
	o := refused(limit, used, 0, reset)
	o.Never = true
	return o
}

func delayed(limit, used int64, delay, reset time.Duration) headgate.Outcome {
	o := full(limit, used, reset)
	o.Delay = delay
	return o
}

// ledgers hold each algorithm to the microsecond. Instants count from a
// midnight, where windows of whole seconds and days start.
var ledgers = []struct {
	name  string
	limit headgate.Limit
	steps []step
}{
	{"token bucket", headgate.PerSecond(10).WithBurst(5), []step{
		{0, peek, 5, full(5, 0, 0)},
		{0, take, 3, full(5, 3, 300*ms)},
		{0, take, 3, refused(5, 3, 100*ms, 300*ms)},
		{0, peek, 3, refused(5, 3, 100*ms, 300*ms)},
		{100*ms - us, take, 3, refused(5, 3, us, 200*ms+us)},
		{100 * ms, take, 3, full(5, 5, 500*ms)},
		{50 * ms, take, 1, refused(5, 5, 100*ms, 500*ms)},
		{100 * ms, take, 6, never(5, 5, 500*ms)},
		{100 * ms, take, 0, full(5, 5, 500*ms)},
		{600 * ms, peek, 5, full(5, 0, 0)},
		{10 * time.Hour, take, 5, full(5, 5, 500*ms)},
	}},
	{"token bucket of an uneven rate", headgate.Per(3, 7*sec), []step{
		{0, take, 3, full(3, 3, 7*sec)},
		{2333333 * us, take, 1, refused(3, 3, us, 4666667*us)},
		{2333334 * us, take, 1, full(3, 3, 7*sec)}, // 2 of 7e6 units are left
		{4666666 * us, take, 1, refused(3, 3, us, 4666668*us)},
		{4666667 * us, take, 1, full(3, 3, 7*sec)},
		{7 * sec, take, 1, full(3, 3, 7*sec)},
	}},
	{"token bucket of many tokens a microsecond", headgate.Limit{Count: 1_000_000_007, Period: sec, Burst: 1 << 30}, []step{
		{0, take, 1 << 30, full(1<<30, 1<<30, 1073742*us)},
		{us, peek, 1001, refused(1<<30, 1<<30-1000, us, 1073741*us)},
		{us, take, 1000, full(1<<30, 1<<30, 1073742*us)},
	}},
	{"leaky bucket", headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 10, Period: sec, Burst: 5}, []step{
		{0, take, 1, full(5, 1, 100*ms)},
		{0, take, 2, delayed(5, 3, 100*ms, 300*ms)},
		{0, take, 3, refused(5, 3, 100*ms, 300*ms)},
		{0, take, 6, never(5, 3, 300*ms)},
		{150 * ms, take, 3, delayed(5, 5, 150*ms, 450*ms)},
		{600 * ms, take, 1, full(5, 1, 100*ms)},
	}},
	{"fixed window", headgate.Window(5, 10*sec), []step{
		{0, take, 5, full(5, 5, 10*sec)},
		{sec, take, 1, refused(5, 5, 9*sec, 9*sec)},
		{10*sec - us, take, 1, refused(5, 5, us, us)},
		{10 * sec, take, 6, never(5, 0, 10*sec)},
		{10 * sec, take, 2, full(5, 2, 10*sec)},
		{5 * sec, take, 3, full(5, 5, 10*sec)},
		{time.Hour, peek, 5, full(5, 0, 10*sec)},
	}},
	{"sliding window", headgate.Sliding(10, 10*sec), []step{
		{500 * ms, take, 6, full(10, 6, 10500*ms)},
		{1500 * ms, take, 4, full(10, 10, 10500*ms)},
		{2 * sec, take, 1, refused(10, 10, 9*sec, 10*sec)},
		{2 * sec, take, 7, refused(10, 10, 10*sec, 10*sec)},
		{11*sec - us, take, 1, refused(10, 10, us, sec+us)},
		{11 * sec, take, 6, full(10, 10, 11*sec)},
		{11 * sec, take, 11, never(10, 10, 11*sec)},
		{time.Hour, peek, 10, full(10, 0, 0)},
	}},
	{"classic sliding window", headgate.Sliding(10, 10*sec).WithSlices(1), []step{
		{0, take, 10, full(10, 10, 20*sec)},
		{5 * sec, take, 1, refused(10, 10, 6*sec, 15*sec)},
		{11*sec - us, take, 1, refused(10, 10, us, 9*sec+us)},
		{11 * sec, take, 1, full(10, 10, 19*sec)},
		{11 * sec, take, 11, never(10, 10, 19*sec)},
		{30 * sec, peek, 10, full(10, 0, 0)},
	}},
	{"sliding log", headgate.Log(3, 10*sec), []step{
		{0, take, 1, full(3, 1, 10*sec)},
		{sec, take, 2, full(3, 3, 10*sec)},
		{2 * sec, take, 1, refused(3, 3, 8*sec, 9*sec)},
		{10*sec - us, take, 2, refused(3, 3, sec+us, sec+us)},
		{10 * sec, take, 1, full(3, 3, 10*sec)},
		{10 * sec, take, 4, never(3, 3, 10*sec)},
		{11 * sec, take, 2, full(3, 3, 10*sec)},
	}},
	{"quota", headgate.QuotaPer(5, headgate.Day), []step{
		{time.Hour, take, 5, full(5, 5, 23*time.Hour)},
		{2 * time.Hour, take, 1, refused(5, 5, 22*time.Hour, 22*time.Hour)},
		{2 * time.Hour, take, 6, never(5, 5, 22*time.Hour)},
		{24 * time.Hour, take, 1, full(5, 1, 24*time.Hour)},
	}},
	{"quota that rolls over", headgate.Limit{Algorithm: headgate.Quota, Count: 5, Calendar: headgate.Calendar{Unit: headgate.Day}, Rollover: 2}, []step{
		{0, take, 1, full(5, 1, 24*time.Hour)},
		{24 * time.Hour, peek, 7, full(7, 0, 24*time.Hour)},
		{24 * time.Hour, take, 7, full(7, 7, 24*time.Hour)},
		{48 * time.Hour, take, 6, never(5, 0, 24*time.Hour)},
		{48 * time.Hour, take, 5, full(5, 5, 24*time.Hour)},
	}},
	{"soft quota", headgate.Limit{Algorithm: headgate.Quota, Count: 5, Calendar: headgate.Calendar{Unit: headgate.Day}, Soft: true}, []step{
		{0, take, 4, full(5, 4, 24*time.Hour)},
		{0, take, 4, full(5, 8, 24*time.Hour)},
		{24 * time.Hour, peek, 1, full(5, 0, 24*time.Hour)},
	}},
	{"concurrency", headgate.InFlight(3, 10*sec), []step{
		{0, take, 2, full(3, 2, 10*sec)},
		{4 * sec, take, 1, full(3, 3, 10*sec)},
		{5 * sec, take, 2, refused(3, 3, 5*sec, 9*sec)},
		{10*sec - us, take, 1, refused(3, 3, us, 4*sec+us)},
		{10 * sec, take, 2, full(3, 3, 10*sec)},
		{10 * sec, take, 4, never(3, 3, 10*sec)},
		{20 * sec, peek, 3, full(3, 0, 0)},
	}},
}

func ledgerRules() []rule {
	rules := []rule{{
		name: "retry after is when the charge passes",
		why: "On the store's own clock a charge is refused until the instant that its first refusal named, and passes from then on." +
			" That instant is the earliest one: waiting is honest.",
		check: func(w *world) {
			w.now = 0
			for _, l := range []headgate.Limit{
				headgate.Per(1, 40*ms).WithName("bucket"),
				headgate.Sliding(1, 40*ms).WithName("sliding"),
				headgate.Log(1, 40*ms).WithName("log"),
				headgate.InFlight(1, 40*ms).WithName("slots"),
			} {
				w.ownClock(prepare(w, l))
			}
		},
	}, {
		name: "big numbers are exact",
		why:  "Counts and levels reach up to 2^53-1, where a float or a signed 32-bit word would already be off by one.",
		check: func(w *world) {
			c := ours(slow(w, headgate.FixedWindow, "window", headgate.MaxInt), headgate.MaxInt-1)
			w.passes(take, c)
			c.Cost = 2
			w.refuses(take, c)
			c.Cost = 1
			w.passes(take, c)
			w.used(c, headgate.MaxInt)
			// 100 years a token: 3.15e15 units each.
			c = ours(prepare(w, headgate.Per(1, headgate.MaxPeriod).WithName("bucket")), 1)
			w.passes(take, c)
			b := w.refuses(take, c)
			if r := b.Outcomes()[0].RetryAfter; r > headgate.MaxPeriod || r < headgate.MaxPeriod-time.Minute {
				w.Fatalf("retry after %v, want 100 years less what the test took", r)
			}
		},
	}}
	for _, a := range counting {
		rules = append(rules, rule{
			name: "basics of " + a.String(),
			why: "A budget that was never seen is full. Takes add up until the limit, a refusal and a look change nothing, a cost of 0 always passes," +
				" and a cost above the capacity is refused as never, without a time to retry.",
			check: func(w *world) { w.basics(a) },
		})
	}
	for _, l := range ledgers {
		rules = append(rules, rule{
			name:    "ledger of a " + l.name,
			why:     "Every field of every outcome follows from the limit's numbers and the instants, to the microsecond. An instant before the latest one counts as that one.",
			travels: true,
			check: func(w *world) {
				p := prepare(w, l.limit)
				for _, s := range l.steps {
					w.at(s.at)
					w.expect(w.do(s.op, ours(p, s.cost)), 0, s.want)
				}
			},
		})
	}
	return rules
}

// basics runs what holds for every algorithm without any time passing.
func (w *world) basics(a headgate.Algorithm) {
	l := slow(w, a, "basics", 5)
	for _, s := range []struct {
		op   headgate.Op
		cost int64
		want headgate.Outcome
	}{
		{peek, 5, full(5, 0, 0)},
		{peek, 6, never(5, 0, 0)},
		{take, 6, never(5, 0, 0)},
		{take, 0, full(5, 0, 0)},
		{take, headgate.MaxInt, never(5, 0, 0)},
		{take, 2, full(5, 2, 0)},
		{take, 1, full(5, 3, 0)},
		{take, 3, refused(5, 3, 0, 0)},
		{peek, 3, refused(5, 3, 0, 0)},
		{peek, 2, full(5, 3, 0)},
		{take, 2, full(5, 5, 0)},
		{take, 1, refused(5, 5, 0, 0)},
		{take, 0, full(5, 5, 0)},
		{take, 6, never(5, 5, 0)},
		{peek, 1, refused(5, 5, 0, 0)},
	} {
		b := w.do(s.op, ours(l, s.cost))
		if b.Allowed != s.want.Allowed {
			w.Fatalf("%v of %d: batch allowed %v, want %v", s.op, s.cost, b.Allowed, s.want.Allowed)
		}
		o := &b.Outcomes()[0]
		if waits := o.RetryAfter > 0; waits != (!o.Allowed && !o.Never) {
			w.Fatalf("%v of %d: retry after %v in %+v", s.op, s.cost, o.RetryAfter, *o)
		}
		o.RetryAfter, o.ResetAfter, o.Delay, o.ResetsAt = 0, 0, 0, 0
		if *o != s.want {
			w.Fatalf("%v of %d\n got %+v\nwant %+v", s.op, s.cost, *o, s.want)
		}
	}
}

// ownClock takes the one token of l, and then asks until another comes.
func (w *world) ownClock(l *headgate.Prepared) {
	w.Helper()
	c := ours(l, 1)
	w.passes(take, c)
	due := int64(0)
	for {
		b := w.do(take, c)
		o := b.Outcomes()[0]
		if b.Allowed {
			if b.At < due {
				w.Fatalf("%s: passed at %d, %d us before its time", l.Name, b.At, due-b.At)
			}
			return
		}
		at := b.At + o.RetryAfter.Microseconds()
		if due == 0 {
			due = at
		}
		if at != due || o.RetryAfter <= 0 || o.RetryAfter > 2*time.Minute {
			w.Fatalf("%s: refused at %d until %d, before that until %d", l.Name, b.At, at, due)
		}
	}
}
