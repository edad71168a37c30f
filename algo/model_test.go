package algo_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

var (
	modelOps     = flag.Int("model.ops", 200_000, "operations that TestModel runs in all")
	modelSeed    = flag.Uint64("model.seed", 1, "seed of TestModel")
	modelSession = flag.Int("model.session", -1, "run only this session of TestModel, as a failure names it")
)

// sessionOps is the number of operations on one budget before the next one
// starts.
const sessionOps = 400

// TestModel runs random operations through algo and through the reference:
// every outcome must be equal to the last field and microsecond.
func TestModel(t *testing.T) {
	counts, refused, hopeless, open := map[headgate.Algorithm]int{}, map[headgate.Algorithm]int{}, map[headgate.Algorithm]int{}, map[headgate.Algorithm]int{}
	total := 0
	for i := max(0, *modelSession); total < *modelOps; i++ {
		s := newSession(rand.New(rand.NewPCG(*modelSeed, uint64(i))), headgate.Algorithm(i%8))
		for range sessionOps {
			if !s.live() {
				break
			}
			total++
			if err := s.step(); err != nil {
				t.Fatalf("session %d, step %d: %v\nreplay with -model.seed=%d -model.session=%d\n%s",
					i, s.steps, err, *modelSeed, i, s.history())
			}
			a := s.impl.l.Algorithm
			counts[a]++
			if n := len(s.open()); n > 0 {
				open[a]++
			}
			switch {
			case s.latest.Never:
				hopeless[a]++
			case !s.latest.Allowed:
				refused[a]++
			}
		}
		if *modelSession >= 0 {
			return
		}
	}
	t.Logf("seed %d: %d operations: %v\nrefused %v\nnever %v\nwith reservations open %v", *modelSeed, total, counts, refused, hopeless, open)
	// That the operations reach what they are meant to test, at any seed: a ban
	// refuses two of its seven operations, and only while it lasts.
	for a := headgate.TokenBucket; a <= headgate.Ban && *modelOps >= 10_000; a++ {
		if counts[a] < total/20 || refused[a] < counts[a]/40 || hopeless[a] < counts[a]/20 && a != headgate.Ban {
			t.Errorf("%v: %d of %d operations, %d refused, %d never", a, counts[a], total, refused[a], hopeless[a])
		}
		if open[a] < counts[a]/10 && a < headgate.Concurrency {
			t.Errorf("%v: %d of %d operations with reservations open", a, open[a], counts[a])
		}
	}
}

// budget is the state under test: words, or one packed word.
type budget struct {
	l      *headgate.Prepared
	st     []int64
	packed bool
	x      int64
	origin int64
}

func newBudget(l *headgate.Prepared, now int64, packed bool) budget {
	b := budget{l: l, packed: packed && algo.Packable(l)}
	if b.packed {
		b.origin = now
		b.x = algo.Pack(l, l.Cap, 0)
		return b
	}
	b.st = make([]int64, algo.Words(l))
	algo.Init(l, b.st, now)
	return b
}

func (b *budget) apply(op headgate.Op, now, cost int64, hold uint64) headgate.Outcome {
	return b.call(algo.Call{Op: op, Now: now, Cost: cost, Hold: hold})
}

func (b *budget) call(c algo.Call) (o headgate.Outcome) {
	if b.packed && (c.Reserves(b.l.Algorithm) || c.Op == headgate.Renew && c.HoldFor > 0) {
		b.st, b.packed = b.words(c.Now), false
	}
	if b.packed {
		b.x = algo.PackedApply(c.Op, b.l, b.x, c.Now-b.origin, c.Cost, &o)
		return o
	}
	if n := algo.Need(&c, b.l, b.st); n > len(b.st) {
		st := make([]int64, n)
		algo.Grow(&c, b.l, st, b.st)
		b.st = st
	}
	algo.Apply(&c, b.l, b.st, &o)
	return o
}

// words returns the state in words.
func (b *budget) words(now int64) []int64 {
	if !b.packed {
		return b.st
	}
	st := make([]int64, 2)
	algo.Unpack(b.l, st, b.x, now-b.origin, now)
	return st
}

// session is one budget under random operations, and its model.
type session struct {
	r      *rand.Rand
	impl   budget
	model  ref
	now    int64
	begun  int64
	floor  int64 // the clock stays above: a state was dropped there
	keep   int64 // the state may not be dropped before: its numbers changed
	steps  int
	hold   uint64
	named  []uint64 // the latest reservations, settled or not
	lines  []string
	latest headgate.Outcome
}

func newSession(r *rand.Rand, a headgate.Algorithm) *session {
	s := &session{r: r, floor: 1, keep: math.MinInt64}
	switch r.IntN(8) {
	case 0:
		s.now = 1 + r.Int64N(2_000_000)
	default:
		s.now = 160_000_000_000_000 + r.Int64N(2_000_000_000_000_000) // 1975 to 2038
	}
	if a == headgate.Quota {
		s.now += 160_000_000_000_000
	}
	s.begun = s.now
	l := randomLimit(r, a)
	s.impl = newBudget(l, s.now, r.IntN(2) == 0)
	s.model = newRef(l, s.now)
	s.note("start at %d packed=%v: %s", s.now, s.impl.packed, describe(l))
	return s
}

// live reports whether the clock is still in a range that all parts cover.
func (s *session) live() bool {
	if s.impl.packed && !algo.PackedRange(s.now-s.impl.origin) {
		return false
	}
	return s.now < 1<<58 && (s.impl.l.Algorithm != headgate.Quota || s.now < 200_000_000_000_000_000)
}

func (s *session) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
	if len(s.lines) > 60 {
		s.lines = slices.Delete(s.lines, 0, 20)
	}
}

func (s *session) history() string { return strings.Join(s.lines, "\n") }

func describe(l *headgate.Prepared) string {
	return fmt.Sprintf("%v count=%d period=%v burst=%d slices=%d ttl=%v calendar=%v %v@%d soft=%v rollover=%d n=%d p=%d",
		l.Algorithm, l.Count, l.Period, l.Burst, l.Slices, l.TTL, l.Calendar.Unit, l.Calendar.Location, l.Calendar.Anchor, l.Soft, l.Rollover, l.N, l.P)
}

// step moves the clock, perhaps drops or converts the state, and does one
// operation.
func (s *session) step() error {
	s.steps++
	s.tick()
	if !s.live() {
		return nil
	}
	l := s.impl.l
	absent := max(s.keep, algo.AbsentAt(l, s.impl.words(s.now)))
	if s.now >= absent && s.r.IntN(4) == 0 {
		s.note("%d: drop", s.now)
		s.impl = newBudget(l, s.now, s.r.IntN(2) == 0)
		s.floor, s.keep = s.now, math.MinInt64
		absent = s.now
	}
	if !s.impl.packed && l.Algorithm == headgate.TokenBucket && s.r.IntN(4) == 0 {
		if x, ok := algo.Repack(l, s.impl.st, 0, s.now); ok {
			s.note("%d: pack", s.now)
			s.impl = budget{l: l, packed: true, x: x, origin: s.now}
			s.floor = s.now
		}
	}
	switch s.r.IntN(100) {
	case 0:
		s.note("%d: reset", s.now)
		s.impl = newBudget(l, s.now, s.r.IntN(2) == 0)
		s.model = newRef(l, s.now)
		s.keep = math.MinInt64
	case 1, 2, 3:
		s.convert(absent)
	}
	if s.impl.l.Algorithm == headgate.Ban && s.r.IntN(3) == 0 {
		s.note("%d: count denial", s.now)
		algo.CountDenial(s.impl.l, s.impl.st, s.now)
		s.model.(*refBan).deny(s.now)
	}
	return s.do(s.next())
}

// tick moves the clock by nothing, by a little, by what the limit's own times
// are, back, or to the very microsecond that the last outcome named.
func (s *session) tick() {
	unit, whole := scales(s.impl.l)
	d := int64(0)
	switch s.r.IntN(16) {
	case 0, 1, 2:
	case 3:
		d = 1
	case 4, 5, 6:
		d = s.r.Int64N(2*unit + 2)
	case 7, 8:
		d = s.r.Int64N(whole + 2)
	case 9:
		d = s.r.Int64N(3*whole + 2)
	case 10:
		d = micros(s.latest.RetryAfter)
	case 11:
		d = max(0, micros(s.latest.RetryAfter)-1)
	case 12:
		d = micros(s.latest.ResetAfter)
	case 13:
		d = max(0, micros(s.latest.ResetAfter)-1)
	case 14:
		d = -s.r.Int64N(2*unit + 2)
	case 15:
		if s.r.IntN(3) == 0 {
			d = -s.r.Int64N(whole + 2)
		}
	}
	if s.impl.packed {
		d = max(d, 0)
	}
	s.now = max(s.floor, s.now+d)
}

// scales returns the time of one slot or token of a limit, and that in which
// all of its state turns over.
func scales(l *headgate.Prepared) (unit, whole int64) {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return l.P / l.N, l.Cap / l.N
	case headgate.SlidingWindow, headgate.Ban:
		return l.SliceMicros, max(l.WindowMicros, l.TTLMicros)
	case headgate.Quota:
		whole = map[headgate.CalendarUnit]int64{headgate.Hour: 3600, headgate.Day: 86400, headgate.Week: 7 * 86400,
			headgate.Month: 31 * 86400, headgate.Year: 366 * 86400}[l.Calendar.Unit] * 1_000_000
		return whole / 10, whole
	case headgate.Concurrency:
		return l.TTLMicros / 3, l.TTLMicros
	default:
		return l.WindowMicros / 10, l.WindowMicros
	}
}

func (s *session) op() headgate.Op {
	heldOps := 3
	if s.impl.l.Algorithm == headgate.Concurrency {
		heldOps = 24
	}
	switch n := s.r.IntN(100); {
	case n < heldOps:
		return headgate.Release
	case n < 2*heldOps:
		return headgate.Renew
	case n < 2*heldOps+10:
		return headgate.Peek
	case n < 2*heldOps+16:
		return headgate.Refund
	case n < 2*heldOps+20:
		return headgate.Debit
	case n < 2*heldOps+32:
		return headgate.Settle
	default:
		return headgate.Take
	}
}

func (s *session) cost() int64 {
	c := s.latest.Limit
	switch s.r.IntN(16) {
	case 0:
		return 0
	case 1, 2, 3, 4:
		return 1
	case 5, 6, 7:
		return 1 + s.r.Int64N(max(1, c/4))
	case 8:
		return 1 + s.r.Int64N(max(1, c))
	case 9:
		return max(0, c-1)
	case 10:
		return min(c, headgate.MaxInt)
	case 11:
		return min(c+1, headgate.MaxInt)
	case 12:
		return s.latest.Remaining
	case 13:
		return min(s.latest.Remaining+1, headgate.MaxInt)
	case 14:
		return 1 + s.r.Int64N(10)
	default:
		return []int64{headgate.MaxInt, headgate.MaxInt - 1, headgate.MaxInt / 2}[s.r.IntN(3)]
	}
}

// holdID names a new hold, one that may be live, or none.
func (s *session) holdID() uint64 {
	if s.r.IntN(3) > 0 {
		s.hold++
		return s.hold
	}
	return s.hold - min(s.hold, s.r.Uint64N(6))
}

// next makes up an operation.
func (s *session) next() algo.Call {
	c := algo.Call{Op: s.op(), Now: s.now, Cost: s.cost(), Hold: s.holdID()}
	if s.r.IntN(3) == 0 {
		unit, whole := scales(s.impl.l)
		c.HoldFor = 1 + s.r.Int64N(pick(s.r, []int64{1, unit + 1, whole + 1, 2*whole + 1}))
		c.HoldFor = min(c.HoldFor, headgate.MaxHold.Microseconds())
	}
	switch c.Op {
	case headgate.Take:
		if c.HoldFor > 0 && s.r.IntN(8) > 0 {
			s.hold++
			c.Hold = s.hold
			s.named = append(s.named[max(0, len(s.named)-5):], c.Hold)
		}
	case headgate.Settle, headgate.Renew:
		if len(s.named) > 0 && s.r.IntN(8) > 0 {
			c.Hold = pick(s.r, s.named)
		}
	}
	if s.r.IntN(3) == 0 {
		_, whole := scales(s.impl.l)
		c.MaxDelay = 1 + s.r.Int64N(whole+1)
	}
	return c
}

// open returns the reservations that are open in the model.
func (s *session) open() []reservation {
	if h, ok := s.model.(interface{ reserved() *refHolds }); ok {
		return h.reserved().open(max(s.now, s.model.noted()))
	}
	return nil
}

// convert changes the numbers, and one time in three the algorithm.
func (s *session) convert(absent int64) {
	old := s.impl.l
	a := old.Algorithm
	if s.r.IntN(3) == 0 {
		a = headgate.Algorithm(s.r.IntN(8))
	}
	if a == headgate.Quota && s.now < 160_000_000_000_000 {
		return
	}
	l := randomLimit(s.r, a)
	s.note("%d: convert to %s", s.now, describe(l))
	if s.now >= absent {
		s.impl, s.model = newBudget(l, s.now, s.r.IntN(2) == 0), newRef(l, s.now)
		s.keep = math.MinInt64
		return
	}
	src := s.impl.words(s.now)
	dst := make([]int64, algo.ConvertWords(old, l, src))
	algo.Convert(old, l, dst, src, s.now)
	s.impl = budget{l: l, st: dst}
	s.model = convertRef(s.model, l, s.now)
	s.keep = absent
}

// do does one operation on both sides and compares.
func (s *session) do(c algo.Call) error {
	op, cost := c.Op, c.Cost
	queue, leaky := s.model.(*refBucket)
	leaky = leaky && queue.leaky && asks(op)
	var idle bool
	var started func(t int64) bool
	if leaky {
		idle, started = queue.waits(s.now)
	}
	before, x := slices.Clone(s.impl.st), s.impl.x
	packed := s.impl.packed
	got := s.impl.call(c)
	if packed && !s.impl.packed {
		s.floor = s.now // words note the instant, one word did not
	}
	want := s.model.do(c)
	if !want.Allowed && !want.Never && asks(op) {
		want.RetryAfter = s.wait(got.RetryAfter, func(t int64) bool {
			return s.model.passes(t, cost) && (!leaky || queue.starts(t, c.MaxDelay))
		})
	}
	want.ResetAfter = s.wait(got.ResetAfter, func(t int64) bool { return s.model.spent(s.now, t) })
	if leaky && want.Allowed && !idle {
		want.Delay = s.wait(got.Delay, started)
	}
	if s.impl.l.Algorithm == headgate.Ban && !want.Allowed {
		want.RetryAfter = s.wait(got.RetryAfter, func(t int64) bool { return s.model.passes(t, 1) })
	}
	s.latest = got
	s.note("%d: %v %d hold %d for %d, delay %d: %s", s.now, op, cost, c.Hold, c.HoldFor, c.MaxDelay, show(got))
	if got != want {
		return fmt.Errorf("%v %d at %d of %s\n got %s\nwant %s\nwords %v, now %v", op, cost, s.now, describe(s.impl.l), show(got), show(want), before, s.impl.st)
	}
	if op == headgate.Peek || !got.Allowed {
		if x != s.impl.x || !same(before, s.impl.st) {
			return fmt.Errorf("%v %d at %d of %s left a trace: words %v, now %v", op, cost, s.now, describe(s.impl.l), before, s.impl.st)
		}
	}
	if got.Remaining < 0 || got.Remaining > got.Limit || got.Overage < 0 || got.Used < 0 {
		return fmt.Errorf("%v %d: out of range: %s", op, cost, show(got))
	}
	return nil
}

// same reports whether two states are equal but for the room that the second
// one was given.
func same(a, b []int64) bool {
	if len(a) == len(b) {
		return slices.Equal(a, b)
	}
	return len(a) < len(b)
}

// wait returns the wait got if it is the first at which come is true, else the
// first one. What has come stays for at least the next microseconds.
func (s *session) wait(got time.Duration, come func(t int64) bool) time.Duration {
	d := micros(got)
	if got%time.Microsecond == 0 && got >= 0 && come(s.now+d) && (d == 0 || !come(s.now+d-1)) {
		return got
	}
	if !come(s.now) {
		hi := int64(1)
		for !come(s.now+hi) && hi < 1<<61 {
			hi *= 2
		}
		lo := hi / 2 // not yet
		for hi-lo > 1 {
			if mid := lo + (hi-lo)/2; come(s.now + mid) {
				hi = mid
			} else {
				lo = mid
			}
		}
		d = max(hi, 1)
	} else {
		d = 0
	}
	if d > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(d) * time.Microsecond
}

func micros(d time.Duration) int64 { return d.Microseconds() }

func show(o headgate.Outcome) string {
	return fmt.Sprintf("allowed=%v never=%v limit=%d used=%d remaining=%d overage=%d retry=%v reset=%v delay=%v resetsAt=%d",
		o.Allowed, o.Never, o.Limit, o.Used, o.Remaining, o.Overage, o.RetryAfter, o.ResetAfter, o.Delay, o.ResetsAt)
}
