package leasesim

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// ledger checks one budget as its schedule goes on:
//
//	I1  what was spent and returned under a holder's id was granted to it before
//	I2  what was debited, less what was given back, fits burst + rate x time in
//	    every interval, or the limit in every window
//	I3  so does what was admitted, by true time
//	I4  what a holder settled was spent or returned, to the token: a refusal
//	    takes nothing
//	I5  what is left at the store and what holders can spend is within the burst,
//	    at any instant; what was admitted in a window and what holders can spend
//	    of it is counted there
//
// Where stores' clocks step, a step forward may cost rate x step, once, and
// windows are those that tokens were debited in.
//
// An operator's reset is a permission of its own. So is a failover that lost
// writes, for windows: at most what was debited in them, lost, and known to no
// holder that spoke before the quarantine ended.
type ledger struct {
	w    *world
	i    int
	kind headgate.Algorithm
	part *partition
	age  int // how often the store was declared new

	// A bucket's: under the numbers in force since they changed last, and under
	// the largest of all.
	limit                    *headgate.Prepared
	beyond                   int64 // what may be out above a burst that was lowered
	lent                     int64 // what was out when the store forgot it, in quarantine
	debits, admits           envelope
	allDebits, allAdmits     envelope
	windows                  []window
	log                      []entry // admissions of a sliding window, by true time
	head                     int
	inLog                    int64
	most                     int64 // highest count so far
	admitted, bound, excused int64
}

// envelope bounds sums over every interval by cap + n x time, in units of 1/p
// token: low is the least that sum - n x time was at the start of one.
type envelope struct {
	n, p, cap int64
	sum, low  int64
}

func (v *envelope) reset(n, p, capacity int64) { *v = envelope{n: n, p: p, cap: capacity} }

// add adds tokens where an interval may start, at from, and end, at to. It returns
// by how many units the sum of some interval is above its bound.
func (v *envelope) add(tokens, from, to int64) (over int64) {
	v.low = min(v.low, v.sum-v.n*from)
	v.sum += tokens * v.p
	return v.sum - v.n*to - v.low - v.cap
}

// permit lets every interval that contains this instant have tokens more.
func (v *envelope) permit(tokens int64) { v.sum -= tokens * v.p }

// window is what is known of a window, slot or period.
type window struct {
	label                        int64
	debited, admitted, permitted int64
	again                        int64 // given back by settlements that were lost, and came again
	count, kept                  int64 // the highest limit that it was charged under, and kept under
	lost                         []lost
}

// lost is a failover: the count that the store had, what it had after, and the
// highest floor that it was told in quarantine.
type lost struct{ before, after, floor int64 }

// excuse is what nobody could know.
func (x *window) excuse() (n int64) {
	for _, l := range x.lost {
		n += max(0, l.before-max(l.after, l.floor))
	}
	return n + x.again
}

type entry struct{ at, n int64 }

func newLedger(w *world, i int) *ledger {
	l := &ledger{w: w, i: i, kind: w.limits[i][0].Algorithm, part: w.parts[w.place[i]]}
	l.begin()
	return l
}

// begin forgets everything before now.
func (l *ledger) begin() {
	l.limit = l.w.limits[l.i][0]
	l.debits, l.admits, l.beyond, l.lent = envelope{}, envelope{}, 0, 0
	l.windows, l.log, l.head, l.inLog, l.most = nil, nil, 0, 0, 0
	if l.kind != headgate.TokenBucket {
		return
	}
	// All numbers have one period, so that units of a token over it hold all rates.
	p := l.limit.Period.Microseconds()
	var n, capacity int64
	for _, x := range l.w.limits[l.i] {
		n, capacity = max(n, x.N*(p/x.P)), max(capacity, x.Burst*p)
	}
	l.allDebits.reset(n, p, capacity)
	l.allAdmits = l.allDebits
	l.numbers(l.limit)
	at := l.part.elapsed()
	for _, v := range []*envelope{&l.debits, &l.admits, &l.allDebits, &l.allAdmits} {
		v.low = -v.n * at
	}
}

// anew is called when the store is declared new: what was before no longer
// counts.
func (l *ledger) anew() {
	l.age++
	l.begin()
}

// numbers begins the envelopes under numbers that came into force. What was out
// under a higher burst may still be spent: the level owes it, as far as the debt
// goes.
func (l *ledger) numbers(x *headgate.Prepared) {
	most := l.limit.Burst + l.beyond
	l.limit, l.beyond = x, max(0, most-2*x.Burst)
	most = max(most, l.lent)
	at := l.part.elapsed()
	l.debits.reset(x.N, x.P, x.Cap)
	l.debits.low = -x.N * at
	l.admits = l.debits
	l.admits.cap += max(0, most-x.Burst) * x.P
	l.admits.low = -x.N * l.part.settled()
}

// labelOf is the window, slot or period that the budget was charged in last.
func (l *ledger) labelOf(b *algo.Budget) int64 {
	switch l.kind {
	case headgate.FixedWindow:
		return b.Words[0]/b.Limit.WindowMicros - 1
	case headgate.TokenBucket:
		return 0
	default: // the slot, the period
		return b.Words[0]
	}
}

// current is the label of the window that true time is in.
func (l *ledger) current() int64 {
	now, x := l.part.clock(), l.w.limits[l.i][0]
	switch l.kind {
	case headgate.FixedWindow:
		return now / x.WindowMicros
	case headgate.SlidingWindow:
		return now / x.SliceMicros
	case headgate.Quota:
		return algo.PeriodAt(x.Calendar, now).Label
	default:
		return 0
	}
}

// counted is what a record counts in a label.
func (l *ledger) counted(b *algo.Budget, label int64) int64 {
	if b.Limit == nil || l.kind == headgate.TokenBucket {
		return 0
	}
	switch newest := l.labelOf(b); l.kind {
	case headgate.SlidingWindow:
		if k := int64(b.Limit.Slices); label <= newest && label >= newest-k {
			return b.Words[1+label%(k+1)]
		}
		return 0
	case headgate.FixedWindow:
		if newest == label {
			return b.Words[1]
		}
		return 0
	default:
		if newest == label {
			return b.Words[3]
		}
		return 0
	}
}

func (l *ledger) window(label int64) *window {
	for i := len(l.windows) - 1; i >= 0; i-- {
		if l.windows[i].label == label {
			return &l.windows[i]
		}
	}
	l.windows = append(l.windows, window{label: label})
	return &l.windows[len(l.windows)-1]
}

// lose notes that the store went back from old to b.
func (l *ledger) lose(old, b *algo.Budget) {
	out := int64(0)
	for _, x := range old.Leases {
		out += x.Granted - x.Settled
	}
	l.lent = max(l.lent, out)
	for i := range l.windows {
		x := &l.windows[i]
		before, after := l.counted(old, x.label), l.counted(b, x.label)
		if old.Limit != nil && x.label < l.labelOf(old) { // lost is also that it has ended
			before = x.debited
		}
		x.lost = append(x.lost, lost{before, after, after})
	}
}

// floored notes a floor that the store is told in quarantine.
func (l *ledger) floored(r *headgate.LeaseRequest, now int64) {
	if l.kind == headgate.TokenBucket || now >= l.part.calm {
		return
	}
	if b := &l.part.budgets[l.i]; r.FloorWindow == 0 || l.bySpan(b, now) != r.FloorWindow {
		return
	}
	if x := l.window(r.FloorWindow); len(x.lost) > 0 {
		last := &x.lost[len(x.lost)-1]
		last.floor = max(last.floor, r.Floor)
	}
}

// raise is by how much a floor lifts a count in quarantine, which is no debit.
func (l *ledger) raise(b *algo.Budget, r *headgate.LeaseRequest, now int64) int64 {
	if l.kind == headgate.TokenBucket || now >= l.part.mark.since || l.w.mutant.is(openQuarantine) || l.bySpan(b, now) != r.FloorWindow {
		return 0
	}
	return max(0, r.Floor-l.counted(b, r.FloorWindow))
}

// bySpan is the label that a charge at now gets, in a record that was loaded.
func (l *ledger) bySpan(b *algo.Budget, now int64) int64 {
	label := l.labelOf(b)
	switch l.kind {
	case headgate.FixedWindow:
		return max(label, now/b.Limit.WindowMicros)
	case headgate.SlidingWindow:
		return max(label, now/b.Limit.SliceMicros)
	default:
		if now >= b.Words[2] {
			return algo.PeriodAt(b.Limit.Calendar, now).Label
		}
		return label
	}
}

// charge notes that the record's use rose by n, or fell, in a label. I2.
func (l *ledger) charge(b *algo.Budget, n, label int64) {
	if l.kind == headgate.TokenBucket {
		if !b.Limit.SameNumbers(l.limit) {
			l.numbers(b.Limit)
		}
		if n != 0 {
			at := l.part.elapsed()
			l.envelopes(n, &l.debits, &l.allDebits, "debited", at, at)
		}
		return
	}
	l.most = max(l.most, b.Limit.Count)
	x := l.window(label)
	x.kept = max(x.kept, b.Limit.Count)
	if n == 0 {
		return
	}
	x.count = max(x.count, b.Limit.Count)
	x.debited += n
	if n > 0 && !b.Limit.Soft {
		l.judge(label, "debited", func(x *window) int64 { return x.debited })
	}
}

// credited notes that a settlement gave n back that had given it back before: it
// was lost, and came again. It is no debit less. A window may have counted it
// already, if a floor lifted its count: then so much is lost more.
func (l *ledger) credited(b *algo.Budget, n, label int64) {
	l.charge(b, 0, label)
	if l.kind != headgate.TokenBucket {
		l.window(label).again += n
	}
}

func (l *ledger) envelopes(n int64, now, all *envelope, what string, from, to int64) {
	if over := now.add(n, from, to); over > 0 {
		l.w.fail("budget %d: %s %d/%d tokens above %d + %d/%d per us since its numbers changed", l.i, what, over, now.p, now.cap/now.p, now.n, now.p)
	}
	if over := all.add(n, from, to); over > 0 {
		l.w.fail("budget %d: %s %d/%d tokens above %d + %d/%d per us", l.i, what, over, all.p, all.cap/all.p, all.n, all.p)
	}
}

// judge holds the windows that a charge under label counts in to the limit.
func (l *ledger) judge(label int64, what string, of func(*window) int64) {
	var sum, allowed, excused int64
	switch l.kind {
	case headgate.SlidingWindow:
		k := int64(l.w.limits[l.i][0].Slices)
		allowed = l.most
		for i := range l.windows {
			if x := &l.windows[i]; x.label >= label-k && x.label <= label {
				sum += of(x)
				allowed += x.permitted
				excused += x.excuse()
			}
		}
	default:
		x := l.window(label)
		sum, excused = of(x), x.excuse()
		allowed = x.count + x.permitted
		if l.kind == headgate.Quota {
			allowed += l.carried(label, of)
		}
	}
	l.verdict(label, what, sum, allowed, excused)
}

func (l *ledger) verdict(label int64, what string, sum, allowed, excused int64) {
	switch over := sum - allowed; {
	case over > excused:
		l.w.fail("budget %d: %s %d in %d, at most %d and %d that were lost", l.i, what, sum, label, allowed, excused)
	case over > 0:
		l.excused = max(l.excused, over)
	}
}

// carried is what the period before may have left to that of the label. Nobody
// knows what that was before the store was new: a failover may bring it back.
func (l *ledger) carried(label int64, of func(*window) int64) int64 {
	limit := l.w.limits[l.i][0]
	for i := range l.windows {
		if x := &l.windows[i]; x.label == label-60 { // hours are named by minutes
			return min(limit.Rollover, max(0, x.kept+l.carried(x.label, of)+x.permitted-of(x)+x.excuse()))
		}
	}
	if l.age > 1 {
		return limit.Rollover
	}
	return 0
}

// admit notes that n tokens passed, debited in a label, from a lease or at the
// store. I3.
func (l *ledger) admit(n, label int64, from *spending) {
	if from != nil && from.age != l.age {
		return // of a store that nobody remembers
	}
	l.admitted += n
	if l.limit.Soft {
		return
	}
	switch l.kind {
	case headgate.TokenBucket:
		l.envelopes(n, &l.admits, &l.allAdmits, "admitted", l.part.settled(), l.part.elapsed())
		return
	case headgate.SlidingWindow:
		if !l.w.has(clocks) {
			l.slide(n)
			return
		}
	default:
		if !l.w.has(clocks) {
			label = l.current()
		}
	}
	l.window(label).admitted += n
	l.judge(label, "admitted", func(x *window) int64 { return x.admitted })
}

// slide notes an admission of a sliding window, by true time.
func (l *ledger) slide(n int64) {
	limit := l.w.limits[l.i][0]
	l.log = append(l.log, entry{l.w.now, n})
	l.inLog += n
	for l.log[l.head].at <= l.w.now-limit.WindowMicros {
		l.inLog -= l.log[l.head].n
		l.head++
	}
	allowed, excused := l.most, int64(0)
	oldest := (l.part.clock() - limit.WindowMicros) / limit.SliceMicros
	for i := range l.windows {
		if x := &l.windows[i]; x.label >= oldest {
			allowed += x.permitted
			excused += x.excuse()
		}
	}
	l.verdict(l.current(), "admitted", l.inLog, allowed, excused)
}

// weigh holds what could be admitted at once to I5.
func (l *ledger) weigh() {
	s := l.part
	b := &s.budgets[l.i]
	if s.mark.run != s.run || b.Limit == nil || b.Limit.Soft || l.kind == headgate.SlidingWindow {
		return // it decides nothing before it has a mark
	}
	now, e, label := s.clock(), s.mark.epoch(), l.current()
	if now >= s.calm {
		l.lent = 0
	}
	live := int64(0)
	for _, p := range l.w.procs {
		if lease, x := p.seats[l.i].holder.Lease(), &l.w.ids[p.seats[l.i].id]; p.alive && x.age == l.age && x.label == label && lease.Live(p.clock(l.w.now)) {
			live += lease.Left()
		}
	}
	if live == 0 {
		return
	}
	if l.kind != headgate.TokenBucket {
		x := l.window(label)
		if count := l.counted(b, label); x.admitted+live > count+x.permitted+x.excuse() {
			l.w.fail("budget %d: admitted %d in %d, and %d can be spent, but %d are counted", l.i, x.admitted, label, live, count)
		}
		return
	}
	record := b.Clone()
	record.Load(b.Limit, now, e)
	left, allowed := b.Limit.Burst-s.used(&record, now, e), l.limit.Burst+l.beyond
	if now < s.calm { // of a debt that was lost nothing is known, but nothing is left
		allowed = max(allowed, l.lent)
		if left > 0 {
			l.w.fail("budget %d: %d are left in quarantine", l.i, left)
		}
	}
	if left+live > allowed {
		l.w.fail("budget %d: %d are left, and %d can be spent, of %d", l.i, left, live, allowed)
	}
}

// permit notes an operator's reset, by which use fell by n. Whoever has numbers of
// a higher burst finds all of that.
func (l *ledger) permit(b *algo.Budget, n int64) {
	if l.kind == headgate.TokenBucket {
		more := l.allDebits.cap/l.allDebits.p - b.Limit.Burst
		for _, v := range []*envelope{&l.debits, &l.admits} {
			v.permit(max(0, n))
		}
		for _, v := range []*envelope{&l.allDebits, &l.allAdmits} {
			v.permit(max(0, n+more))
		}
		return
	}
	l.window(l.labelOf(b)).permitted += max(0, n)
}

// sum adds up how much of the bound was used.
func (l *ledger) sum() {
	limit, w := l.w.limits[l.i][0], l.w
	l.bound = limit.Count
	switch l.kind {
	case headgate.TokenBucket:
		l.bound = limit.Burst + w.span*limit.N/limit.P
	case headgate.FixedWindow:
		l.bound *= (w.start+w.span)/limit.WindowMicros - w.start/limit.WindowMicros + 1
	case headgate.SlidingWindow:
		l.bound *= w.span/(limit.WindowMicros+limit.SliceMicros) + 1
	case headgate.Quota:
		l.bound *= 2
	}
	if l.excused > 0 {
		w.count.Excused++
		w.count.MostExcused = max(w.count.MostExcused, l.excused)
	}
}

// spending is what went under one holder id.
type spending struct {
	granted, spent, told int64
	dated                bool  // by the first grant that was taken:
	age                  int   // of the budget's ledger
	label                int64 // of the window that it was debited in
}
