package algo_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// spender is a holder as the protocol wants it: it spends until its deadline,
// counted from when it asked, and says that tokens are returned after it has
// taken them out of what it has.
type spender struct {
	id                         [2]uint64
	epoch                      uint64
	window                     int64
	granted, settled, returned int64
	left, deadline             int64
	floor, floorWindow         int64
}

// message is on its way, and may arrive more than once.
type message struct {
	at   int64 // when it arrives
	from int
	sent int64
	r    headgate.LeaseRequest
	ans  *headgate.LeaseReply
}

// breach is what an implementation could get wrong.
type breach struct {
	name string
	// early has the authority forget at half of a life.
	early bool
	// lateDeadline counts a life from when the answer came.
	lateDeadline bool
	// tellsFirst returns tokens that it goes on to spend.
	tellsFirst bool
	// twice takes a repeated answer for a new grant.
	twice bool
	// sameEpoch takes over after writes were lost as if none had been.
	sameEpoch bool
	// overstays spends a lease in the window after its own.
	overstays bool
	// forgets resets what is leased out too.
	forgets bool
}

// market is one budget, its authority, several spenders, and the network between
// them.
type market struct {
	breach
	r        *rand.Rand
	a        *authority
	limits   []*headgate.Prepared
	now, ids int64
	spenders [3]spender
	wire     []message
	spare    []message     // where wire was
	past     []algo.Budget // what a failover may go back to
	lossy    bool
	quiet    bool // nobody spends, and everything refills
	// passed has admissions; of reservations those that are charged and settled.
	passed []admission
	open   []ticket
	done   []uint64 // reservations that were settled
	counts map[string]int
}

func newMarket(t *testing.T, r *rand.Rand, a headgate.Algorithm, b breach) *market {
	var first headgate.Limit
	if a == headgate.Quota {
		first = headgate.QuotaPer(1+r.Int64N(30), headgate.Hour)
	} else {
		first = smallLimit(t, r, a).Limit
	}
	first.Count *= 1 + r.Int64N(8)
	switch a {
	case headgate.TokenBucket:
		first.Burst *= 1 + r.Int64N(8)
	case headgate.SlidingWindow:
		first.Slices = 2 + r.IntN(3)
	}
	m := &market{breach: b, r: r, now: epoch + r.Int64N(1<<40), counts: map[string]int{}}
	m.limits = []*headgate.Prepared{prepare(t, first)}
	if a == headgate.TokenBucket && r.IntN(2) == 0 {
		first.Count, first.Burst = 1+r.Int64N(first.Count), 1+r.Int64N(first.Burst)
		m.limits = append(m.limits, prepare(t, first))
	}
	_, whole := scales(m.limits[0])
	switch a {
	case headgate.TokenBucket:
		whole = min(whole, 20_000_000)
	case headgate.SlidingWindow:
		whole = m.limits[0].SliceMicros / 2
	default:
		whole /= 4
	}
	terms := algo.Terms{TTL: 2 + r.Int64N(whole+2), Least: 1, Floor: 20, PerHolder: r.Int64N(2), Out: 1 + r.Int64N(3), Holders: 20}
	terms.Grace = terms.TTL / 2
	m.a = &authority{l: m.limits[0], e: headgate.Epoch{ID: 1}, terms: terms}
	m.lossy = isBucket(a)
	for i := range m.spenders {
		m.anew(i)
	}
	return m
}

func (m *market) anew(i int) {
	s := &m.spenders[i]
	m.ids++
	*s = spender{id: holder(uint64(m.ids)), floor: s.floor, floorWindow: s.floorWindow}
}

func (m *market) admit(n int64) {
	if n > 0 {
		m.passed = append(m.passed, admission{m.now, n})
	}
}

func (m *market) direct(c algo.Call) headgate.Outcome {
	c.Now = m.now
	m.a.l = pick(m.r, m.limits)
	return m.a.call(c)
}

func (m *market) step() {
	r, ttl := m.r, m.a.terms.TTL
	unit, whole := scales(m.limits[0])
	switch r.IntN(40) {
	case 0:
		m.now += r.Int64N(min(whole, 4*ttl) + 2)
	case 1, 2, 3, 4:
		m.now += r.Int64N(min(2*unit, ttl) + 2)
	case 5, 6, 7, 8, 9, 10, 11, 12:
		m.now += r.Int64N(ttl/6 + 2)
	}
	m.deliver()
	m.expire()
	if r.IntN(25) == 0 {
		m.quiet = !m.quiet
	}
	i := r.IntN(len(m.spenders))
	s := &m.spenders[i]
	switch n := r.IntN(24); {
	case n < 9 && !m.quiet:
		m.spend(s)
	case n < 15:
		m.ask(i)
	case n < 16:
		m.giveBack(s)
	case n < 17 && r.IntN(6) == 0:
		m.anew(i) // a crash
	case n < 19 && !m.quiet:
		if left := m.direct(algo.Call{Op: peek}).Remaining; left > 0 {
			cost := left
			if r.IntN(3) == 0 {
				cost = 1 + r.Int64N(left)
			}
			if m.direct(algo.Call{Cost: cost}).Allowed {
				m.counts["direct"]++
				m.admit(cost)
			}
		}
	case n < 21 && !m.quiet:
		m.reserve()
	case n < 22 && r.IntN(10) == 0:
		m.failover()
	case n < 23 && r.IntN(10) == 0:
		m.reset()
	}
	if m.lossy {
		m.past = append(m.past[max(0, len(m.past)-9):], m.a.b.Clone())
	}
}

func (m *market) spend(s *spender) {
	if m.now >= s.deadline || s.left == 0 {
		return
	}
	n := s.left
	if m.r.IntN(3) == 0 {
		n = 1 + m.r.Int64N(s.left)
	}
	s.left, s.settled = s.left-n, s.settled+n
	m.counts["leased"]++
	m.admit(n)
}

func (m *market) giveBack(s *spender) {
	s.settled, s.returned = s.settled+s.left, s.returned+s.left
	if !m.tellsFirst {
		s.left = 0
	}
}

// expire drops what has run out, and dates the work of reservations that end.
func (m *market) expire() {
	for i := range m.spenders {
		if s := &m.spenders[i]; m.now >= s.deadline {
			s.settled, s.left = s.settled+s.left, 0
		}
	}
	m.open = slices.DeleteFunc(m.open, func(k ticket) bool {
		if k.until <= m.now {
			m.passed = append(m.passed, admission{k.until, k.n})
		}
		return k.until <= m.now
	})
}

// ask sends a request, now and then twice, and some of them very late.
func (m *market) ask(i int) {
	s, r := &m.spenders[i], m.r
	delay := r.Int64N(m.a.terms.TTL/10 + 1)
	if r.IntN(6) == 0 {
		delay *= 8
	}
	m.wire = append(m.wire, message{m.now + delay, i, m.now, headgate.LeaseRequest{
		Holder: s.id, Epoch: s.epoch, Window: s.window, Granted: s.granted, Settled: min(s.granted, s.settled), Returned: min(s.granted, s.returned),
		Want: 1 + r.Int64N(20), Min: 1, Floor: s.floor, FloorWindow: s.floorWindow,
	}, nil})
	for r.IntN(4) == 0 {
		again := m.wire[len(m.wire)-1]
		again.at = m.now + r.Int64N(6*m.a.terms.TTL)
		m.wire = append(m.wire, again)
	}
}

// deliver hands over what has arrived, in any order.
func (m *market) deliver() {
	m.r.Shuffle(len(m.wire), func(i, j int) { m.wire[i], m.wire[j] = m.wire[j], m.wire[i] })
	wire := m.wire
	m.wire, m.spare = m.spare[:0], wire
	for _, x := range wire {
		switch {
		case x.at > m.now:
			m.wire = append(m.wire, x)
		case m.r.IntN(12) == 0: // lost
		case x.ans != nil:
			m.answered(&m.spenders[x.from], x)
		default:
			m.a.l = pick(m.r, m.limits)
			if m.early {
				m.a.terms.TTL, m.a.terms.Grace = m.a.terms.TTL/2, 0
			}
			ans := m.a.acquire(m.now, x.r)
			if m.early {
				m.a.terms.TTL *= 2
				ans.TTL *= 2
				m.a.terms.Grace = m.a.terms.TTL / 2
			}
			x.ans, x.at = &ans, m.now+m.r.Int64N(m.a.terms.TTL/8+1)
			m.wire = append(m.wire, x)
			if m.r.IntN(6) == 0 {
				x.at += m.r.Int64N(3 * m.a.terms.TTL)
				m.wire = append(m.wire, x)
			}
			m.counts[fmt.Sprint("status ", ans.Status)]++
		}
	}
}

// answered takes an answer in.
func (m *market) answered(s *spender, x message) {
	ans := x.ans
	if x.r.Holder != s.id || ans.Epoch < s.epoch || ans.Epoch == s.epoch && ans.Window < s.window {
		return
	}
	if ans.Window == s.floorWindow {
		s.floor = max(s.floor, ans.Count)
	} else if ans.Window > s.floorWindow {
		s.floor, s.floorWindow = ans.Count, ans.Window
	}
	if ans.Status != headgate.LeaseOK {
		if x.r.Epoch != s.epoch || x.r.Window != s.window {
			return // to a request of before
		}
		i := slices.IndexFunc(m.spenders[:], func(o spender) bool { return o.id == s.id })
		m.anew(i)
		s.epoch, s.window = ans.Epoch, ans.Window
		return
	}
	if s.granted == 0 && s.epoch == 0 {
		s.epoch, s.window = ans.Epoch, ans.Window
	}
	if ans.Epoch != s.epoch || ans.Window != s.window {
		return
	}
	more := ans.Granted - s.granted
	if m.twice {
		more = ans.Granted - x.r.Granted
	}
	if more <= 0 {
		return
	}
	m.counts["granted"]++
	s.granted += more
	life := ans.TTL
	if ans.WindowLeft > 0 && !m.overstays {
		life = min(life, ans.WindowLeft)
	}
	deadline := x.sent + micros(life)
	if m.lateDeadline {
		deadline = m.now + micros(life)
	}
	if m.now >= deadline {
		s.settled += more
		return
	}
	s.left += more
	s.deadline = max(s.deadline, deadline)
}

// reserve reserves, or settles one of the open reservations.
func (m *market) reserve() {
	r := m.r
	if len(m.open) > 0 && r.IntN(2) == 0 {
		i := r.IntN(len(m.open))
		k := m.open[i]
		took := r.Int64N(k.n + 1)
		m.direct(algo.Call{Op: headgate.Settle, Cost: took, Hold: k.id})
		m.admit(took)
		m.open = slices.Delete(m.open, i, i+1)
		m.done = append(m.done, k.id)
		return
	}
	if len(m.done) > 0 && r.IntN(3) == 0 { // one who got no answer settles again
		if m.direct(algo.Call{Op: headgate.Settle, Hold: pick(r, m.done[max(0, len(m.done)-3):])}).Allowed {
			m.counts["settled twice"]++
		}
	}
	m.ids++
	_, whole := scales(m.limits[0])
	k := ticket{uint64(m.ids), m.now, m.now + 1 + r.Int64N(min(whole, 10*m.a.terms.TTL)), 1 + r.Int64N(5)}
	if isBucket(m.limits[0].Algorithm) && m.direct(algo.Call{Cost: k.n, Hold: k.id, HoldFor: k.until - m.now}).Allowed {
		m.open = append(m.open, k)
		m.counts["reserved"]++
	}
}

// failover begins another incarnation, and may lose the latest writes.
func (m *market) failover() {
	if m.lossy && len(m.past) > 0 && m.r.IntN(3) > 0 {
		back := pick(m.r, m.past)
		m.a.b = back.Clone()
	}
	if m.sameEpoch {
		return
	}
	m.counts["failover"]++
	m.a.e = headgate.Epoch{ID: m.a.e.ID + 1, Since: m.now + m.a.terms.TTL}
	// Work whose reservation is lost is what was admitted when it was charged.
	m.open = slices.DeleteFunc(m.open, func(k ticket) bool {
		lost := !m.a.clone().call(algo.Call{Op: headgate.Settle, Now: m.a.e.Since, Hold: k.id}).Allowed
		if lost {
			m.passed = append(m.passed, admission{k.at, k.n})
			m.counts["lost"]++
		}
		return lost
	})
}

// reset is an operator's, who gives a budget beside the law. What earlier
// incarnations have leased out no store can hold back, so he waits for Since.
func (m *market) reset() {
	if m.now < m.a.e.Since {
		return
	}
	m.counts["reset"]++
	m.passed, m.open = nil, nil
	if m.forgets {
		m.a.b = algo.Budget{}
	}
	m.a.l = m.limits[0]
	m.a.reset(m.now)
}

// leaseLaws are the algorithms, and what each lets pass.
var leaseLaws = []struct {
	a     headgate.Algorithm
	bound func(l *headgate.Prepared, from, to, sum int64) bool
}{
	{headgate.TokenBucket, withinEnvelope},
	{headgate.FixedWindow, withinAligned},
	{headgate.SlidingWindow, withinAnyPeriod},
	{headgate.Quota, func(l *headgate.Prepared, from, to, sum int64) bool {
		hour := time.Hour.Microseconds()
		return from/hour != to/hour || sum <= l.Count
	}},
}

// run plays one market and returns a description of what broke the law.
func (m *market) run(law int) string {
	check := func() string {
		l := m.limits[0]
		slices.SortStableFunc(m.passed, func(a, b admission) int { return cmp.Compare(a.at, b.at) })
		for i := range m.passed {
			sum := int64(0)
			for _, p := range m.passed[i:] {
				if sum += p.cost; !leaseLaws[law].bound(l, m.passed[i].at, p.at, sum) {
					return fmt.Sprintf("%s, %+v: %d passed from %d to %d", describe(l), m.a.terms, sum, m.passed[i].at, p.at)
				}
				if sum >= max(l.Count, l.Burst)*9/10 {
					m.counts["full"]++
				}
			}
		}
		return ""
	}
	for range 600 {
		resets, before := m.counts["reset"], m.passed
		m.step()
		if m.counts["reset"] > resets {
			now := m.passed
			m.passed = before
			if broken := check(); broken != "" {
				return broken
			}
			m.passed = now
		}
	}
	return check()
}

// TestLeasesKeepTheLaw: several holders, takes and reservations beside them,
// messages that are lost, late, repeated and out of order, crashes, changes of
// numbers, resets, failovers, and of buckets failovers that lose writes: no interval
// admits more than the limit.
func TestLeasesKeepTheLaw(t *testing.T) {
	for law, k := range leaseLaws {
		t.Run(k.a.String(), func(t *testing.T) {
			counts := map[string]int{}
			for i := range uint64(200) {
				m := newMarket(t, rand.New(rand.NewPCG(51, i)), k.a, breach{})
				if broken := m.run(law); broken != "" {
					t.Fatalf("market %d: %s", i, broken)
				}
				for what, n := range m.counts {
					counts[what] += n
				}
			}
			t.Log(counts)
			for what, least := range map[string]int{"leased": 500, "direct": 1500, "granted": 2000, "failover": 500, "status 1": 500, "status 2": 200, "full": 1000, "reset": 500} {
				if counts[what] < least {
					t.Errorf("%s: only %d", what, counts[what])
				}
			}
		})
	}
}

// TestLeaseLawIsSharp: every rule of the protocol, broken, breaks the law.
func TestLeaseLawIsSharp(t *testing.T) {
	for _, k := range []struct {
		law int
		breach
	}{
		{0, breach{name: "forgotten at half a life", early: true}},
		{0, breach{name: "life counted from the answer", lateDeadline: true}},
		{0, breach{name: "returned before it is deducted", tellsFirst: true}},
		{1, breach{name: "returned before it is deducted", tellsFirst: true}},
		{0, breach{name: "a repeated answer taken for a new one", twice: true}},
		{3, breach{name: "a repeated answer taken for a new one", twice: true}},
		{0, breach{name: "no new incarnation", sameEpoch: true}},
		{1, breach{name: "spent in the next window", overstays: true}},
		{2, breach{name: "spent in the next slice", overstays: true}},
		{0, breach{name: "a reset forgets what is out", forgets: true}},
		{1, breach{name: "a reset forgets what is out", forgets: true}},
	} {
		t.Run(leaseLaws[k.law].a.String()+" "+k.name, func(t *testing.T) {
			for i := range uint64(1000) {
				m := newMarket(t, rand.New(rand.NewPCG(52, i)), leaseLaws[k.law].a, k.breach)
				if broken := m.run(k.law); broken != "" {
					t.Logf("market %d: %s", i, broken)
					return
				}
			}
			t.Error("no market has broken the law")
		})
	}
}
