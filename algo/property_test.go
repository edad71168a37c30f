package algo_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// wander runs check on the states that random operations come by.
func wander(t *testing.T, check func(t *testing.T, s *session)) {
	for i := range uint64(160) {
		s := newSession(rand.New(rand.NewPCG(77, i)), headgate.Algorithm(i%8))
		for range 60 {
			if err := s.step(); err != nil {
				t.Fatalf("session %d: %v", i, err)
			}
			if !s.live() {
				break
			}
			if check(t, s); t.Failed() {
				t.Fatalf("session %d: %s\n%s", i, describe(s.impl.l), s.history())
			}
		}
	}
}

func (b budget) clone() budget {
	b.st = slices.Clone(b.st)
	return b
}

func (b budget) peek(now, cost int64) headgate.Outcome { return b.apply(headgate.Peek, now, cost, 0) }

// probes are costs around everything that can matter to a state.
func probes(o headgate.Outcome) []int64 {
	return []int64{0, 1, o.Remaining, min(o.Remaining+1, headgate.MaxInt), o.Limit, headgate.MaxInt}
}

// TestRetryIsTheFirstInstant: who is told to wait passes then, if nobody else
// came, and not a microsecond earlier.
func TestRetryIsTheFirstInstant(t *testing.T) {
	waits := map[headgate.Algorithm]int{}
	wander(t, func(t *testing.T, s *session) {
		for _, cost := range probes(s.impl.peek(s.now, 0)) {
			o := s.impl.peek(s.now, cost)
			if o.Allowed && (o.RetryAfter != 0 || o.Never) || o.Never && o.RetryAfter != 0 {
				t.Errorf("cost %d: %s", cost, show(o))
			}
			if o.Allowed || o.Never {
				continue
			}
			waits[s.impl.l.Algorithm]++
			at := s.now + micros(o.RetryAfter)
			if s.impl.packed && !algo.PackedRange(at-s.impl.origin) {
				continue
			}
			if early := s.impl.peek(at-1, cost); early.Allowed {
				t.Errorf("cost %d at %d, told to wait %v: passes 1µs earlier", cost, s.now, o.RetryAfter)
			}
			then := s.impl.clone()
			if late := then.apply(headgate.Take, at, cost, 9); !late.Allowed {
				t.Errorf("cost %d at %d, told to wait %v: still refused: %s", cost, s.now, o.RetryAfter, show(late))
			}
		}
	})
	for a := headgate.TokenBucket; a <= headgate.Ban; a++ {
		if waits[a] < 50 {
			t.Errorf("%v refused only %d times", a, waits[a])
		}
	}
}

// TestAbsentAtIsExact: from AbsentAt on nothing tells the state from one that
// was never seen; a microsecond earlier something does.
func TestAbsentAtIsExact(t *testing.T) {
	wander(t, func(t *testing.T, s *session) {
		l, st := s.impl.l, s.impl.words(s.now)
		at := algo.AbsentAt(l, st)
		from := max(at, s.now)
		unit, whole := scales(l)
		for _, d := range []int64{0, 1, unit, whole, 2*whole + 1} {
			old, fresh := budget{l: l, st: slices.Clone(st)}, newBudget(l, from, false)
			for _, cost := range probes(fresh.peek(from, 0)) {
				if got, want := old.apply(headgate.Take, from+d, cost, 1), fresh.apply(headgate.Take, from+d, cost, 1); got != want {
					t.Errorf("%d µs after AbsentAt, cost %d: got %s, never seen %s", d, cost, show(got), show(want))
				}
			}
		}
		now := s.impl.peek(s.now, 0)
		if len(s.open()) > 0 {
			if at <= s.now {
				t.Errorf("absent from %d on with reservations open at %d", at, s.now)
			}
			return // which only their Settle can tell
		}
		if now.Used == 0 && now.Allowed && now.Limit == newBudget(l, s.now, false).peek(s.now, 0).Limit {
			return
		}
		if at <= s.now {
			t.Errorf("absent from %d on, but at %d: %s", at, s.now, show(now))
		}
		old, fresh := budget{l: l, st: st}, newBudget(l, at-1, false)
		if got, want := old.peek(at-1, 0), fresh.peek(at-1, 0); got == want {
			t.Errorf("1µs before AbsentAt the state equals never seen: %s", show(got))
		}
	})
}

// TestReadingLeavesNoTrace: a Peek and a refused Take change no word.
func TestReadingLeavesNoTrace(t *testing.T) {
	wander(t, func(t *testing.T, s *session) {
		_, whole := scales(s.impl.l)
		for _, now := range []int64{s.now, max(1, s.now-whole), s.now + whole} {
			if s.impl.packed {
				now = s.now
			}
			for _, cost := range probes(s.impl.peek(now, 0)) {
				b := s.impl.clone()
				peeked := b.peek(now, cost)
				if b.x != s.impl.x || !slices.Equal(b.st, s.impl.st) {
					t.Errorf("peek of %d at %d: words %v became %v", cost, now, s.impl.st, b.st)
				}
				taken := b.apply(headgate.Take, now, cost, 5)
				if taken.Allowed != peeked.Allowed || taken.Never != peeked.Never || taken.RetryAfter != peeked.RetryAfter || taken.Delay != peeked.Delay {
					t.Errorf("cost %d at %d: peeked %s, taken %s", cost, now, show(peeked), show(taken))
				}
				if !taken.Allowed && (b.x != s.impl.x || !same(s.impl.st, b.st)) {
					t.Errorf("refused take of %d at %d: words %v became %v", cost, now, s.impl.st, b.st)
				}
			}
		}
	})
}

// TestConvertGivesNothingAway: after a change of numbers no more remains than
// before, and nothing that counted is forgotten. The exceptions are those that
// the doc of Convert names: debt beyond the new capacity, and what a limit of
// another kind cannot hold.
func TestConvertGivesNothingAway(t *testing.T) {
	wander(t, func(t *testing.T, s *session) {
		old := s.impl
		before := old.peek(s.now, 0)
		src := old.words(s.now)
		for _, a := range []headgate.Algorithm{old.l.Algorithm, headgate.Algorithm(s.r.IntN(8))} {
			l := randomLimit(s.r, a)
			if a == headgate.Quota && s.now < 160_000_000_000_000 {
				continue
			}
			held := old.l.Algorithm == headgate.Concurrency || old.l.Algorithm == headgate.Ban
			if a != old.l.Algorithm && (held || a == headgate.Concurrency || a == headgate.Ban) {
				continue
			}
			b := budget{l: l, st: make([]int64, algo.ConvertWords(old.l, l, src))}
			kept := slices.Clone(src)
			algo.Convert(old.l, l, b.st, src, s.now)
			if !slices.Equal(src, kept) {
				t.Errorf("Convert changed its source")
			}
			after := b.peek(s.now, 0)
			least := min(before.Used, headgate.MaxInt)
			switch {
			case isBucket(a) && isBucket(old.l.Algorithm):
				if after.Remaining > before.Remaining {
					t.Errorf("converted to %s: %s became %s", describe(l), show(before), show(after))
				}
				continue
			case a == headgate.SlidingLog && old.l.Algorithm == a && l.WindowMicros < old.l.WindowMicros:
				continue // what lies outside the shorter window no longer counts
			case isBucket(a):
				least = min(least, 2*l.Burst)
			case a == headgate.Ban && !before.Allowed:
				if after.Allowed || after.RetryAfter != before.RetryAfter {
					t.Errorf("converted to %s, a ban was lifted: %s became %s", describe(l), show(before), show(after))
				}
				continue
			case a == headgate.Ban:
				least = min(least, l.Count-1)
			}
			if after.Used < least {
				t.Errorf("converted to %s: %s became %s", describe(l), show(before), show(after))
			}
		}
	})
}

func isBucket(a headgate.Algorithm) bool {
	return a == headgate.TokenBucket || a == headgate.LeakyBucket
}

// TestGrowPreservesEverything: a state with more room answers as before.
func TestGrowPreservesEverything(t *testing.T) {
	grown := 0
	wander(t, func(t *testing.T, s *session) {
		a, b := s.impl.clone(), s.impl.clone()
		if a.packed {
			return
		}
		c := algo.Call{Now: s.now, Cost: 1}
		if n := algo.Need(&c, b.l, b.st); n < len(b.st) {
			t.Errorf("Need shrinks %d words to %d", len(b.st), n)
		}
		if b.l.Algorithm != headgate.SlidingLog && b.l.Algorithm != headgate.Concurrency {
			if n := algo.Need(&c, b.l, b.st); n != len(b.st) {
				t.Errorf("Need says %d of %d words", n, len(b.st))
			}
			return
		}
		grown++
		b.st = make([]int64, len(a.st)+6*s.r.IntN(4)+6)
		algo.Grow(&c, b.l, b.st, a.st)
		for i := range int64(8) {
			now, cost := s.now+i*s.r.Int64N(a.l.WindowMicros+a.l.TTLMicros), s.r.Int64N(a.l.Count+1)
			op := pick(s.r, []headgate.Op{headgate.Take, headgate.Take, headgate.Debit, headgate.Refund, headgate.Renew})
			if got, want := b.apply(op, now, cost, s.hold), a.apply(op, now, cost, s.hold); got != want {
				t.Errorf("%v %d with more room: %s, without %s", op, cost, show(got), show(want))
			}
		}
	})
	if grown < 500 {
		t.Errorf("only %d states had room to grow", grown)
	}
}

// TestRefundTakesBackATake: what was taken and given back at once leaves what
// counts as it was.
func TestRefundTakesBackATake(t *testing.T) {
	wander(t, func(t *testing.T, s *session) {
		l := s.impl.l
		if l.Algorithm == headgate.LeakyBucket || l.Algorithm == headgate.Concurrency || l.Algorithm == headgate.Ban {
			return
		}
		before := s.impl.peek(s.now, 0)
		for _, cost := range probes(before) {
			b := s.impl.clone()
			if o := b.apply(headgate.Take, s.now, cost, 0); !o.Allowed || l.Soft && o.Used == headgate.MaxInt {
				continue
			}
			b.apply(headgate.Refund, s.now, cost, 0)
			if after := b.peek(s.now, 0); after.Used != before.Used || after.Remaining != before.Remaining {
				t.Errorf("take and refund of %d: %s became %s", cost, show(before), show(after))
			}
		}
	})
}

// TestPackedNeverGainsByAnEarlierInstant: a packed bucket that is asked for an
// instant already past has no more than it has now.
func TestPackedNeverGainsByAnEarlierInstant(t *testing.T) {
	packed := 0
	wander(t, func(t *testing.T, s *session) {
		if !s.impl.packed {
			return
		}
		packed++
		now := s.now - s.impl.origin
		for _, d := range []int64{1, 7, 1000, 60_000_000} {
			if early, here := algo.PackedLevel(s.impl.l, s.impl.x, now-d), algo.PackedLevel(s.impl.l, s.impl.x, now); early > here {
				t.Errorf("level %d at %d, but %d %d µs before", here, now, early, d)
			}
		}
	})
	if packed < 100 {
		t.Errorf("only %d states were packed", packed)
	}
}

// admission is one charge that passed.
type admission struct{ at, cost int64 }

// flood offers costs in bursts and pauses and returns what was admitted. The
// clock never goes back.
func flood(r *rand.Rand, l *headgate.Prepared, packed bool) []admission {
	now := int64(1_700_000_000_000_000) + r.Int64N(1_000_000_000)
	b := newBudget(l, now, packed)
	unit, whole := scales(l)
	var passed []admission
	for range 400 {
		switch r.IntN(8) {
		case 0:
			now += r.Int64N(whole + 2)
		case 1, 2:
			now += r.Int64N(2*unit + 2)
		case 3:
			now++
		}
		cost := 1 + r.Int64N(max(1, l.Count/3))
		if r.IntN(3) == 0 {
			cost = b.peek(now, 0).Remaining
		}
		if now >= algo.AbsentAt(l, b.words(now)) {
			b = newBudget(l, now, packed)
		}
		if b.apply(headgate.Take, now, cost, 0).Allowed && cost > 0 {
			passed = append(passed, admission{now, cost})
		}
	}
	return passed
}

func smallLimit(t *testing.T, r *rand.Rand, a headgate.Algorithm) *headgate.Prepared {
	t.Helper()
	l := headgate.Limit{Algorithm: a, Count: 1 + r.Int64N(30), Period: time.Duration(60*(1+r.Int64N(100_000))) * time.Microsecond}
	if isBucket(a) {
		l.Burst = 1 + r.Int64N(40)
	}
	if a == headgate.SlidingWindow {
		l.Slices = pick(r, []int{2, 3, 4, 10, 12, 60})
	}
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestNeverTooMuch: the first law. Over any interval a bucket passes at most
// its burst and what refills meanwhile; a sliding window and a log pass at most
// Count in any Period; a fixed and a classic window in any aligned one.
func TestNeverTooMuch(t *testing.T) {
	r := rand.New(rand.NewPCG(2026, 1))
	kinds := []struct {
		name  string
		a     headgate.Algorithm
		bound func(l *headgate.Prepared, from, to, sum int64) bool
	}{
		{"token_bucket", headgate.TokenBucket, withinEnvelope},
		{"leaky_bucket", headgate.LeakyBucket, withinEnvelope},
		{"sliding_window", headgate.SlidingWindow, withinAnyPeriod},
		{"sliding_log", headgate.SlidingLog, withinAnyPeriod},
		{"fixed_window", headgate.FixedWindow, withinAligned},
		{"classic", headgate.SlidingWindow, withinAligned},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			full := 0
			for i := range 60 {
				l := smallLimit(t, r, k.a)
				if k.name == "classic" {
					var err error
					if l, err = l.Limit.WithSlices(1).Prepare(); err != nil {
						t.Fatal(err)
					}
				}
				passed := flood(r, l, i%2 == 0)
				for i := range passed {
					sum := int64(0)
					for _, p := range passed[i:] {
						sum += p.cost
						if !k.bound(l, passed[i].at, p.at, sum) {
							t.Fatalf("%s passed %d between %d and %d", describe(l), sum, passed[i].at, p.at)
						}
						if sum >= max(l.Count, l.Burst) {
							full++
						}
					}
				}
			}
			if full < 100 {
				t.Errorf("the flood reached the limit only %d times", full)
			}
		})
	}
}

func withinEnvelope(l *headgate.Prepared, from, to, sum int64) bool {
	return sum*micros(l.Period) <= l.Burst*micros(l.Period)+l.Count*(to-from)
}

func withinAnyPeriod(l *headgate.Prepared, from, to, sum int64) bool {
	return to-from >= l.WindowMicros || sum <= l.Count
}

func withinAligned(l *headgate.Prepared, from, to, sum int64) bool {
	return from/l.WindowMicros != to/l.WindowMicros || sum <= l.Count
}

// TestNeverMoreThanCountInFlight: slots that are held, neither released nor
// expired, are never more than Count.
func TestNeverMoreThanCountInFlight(t *testing.T) {
	r := rand.New(rand.NewPCG(2026, 2))
	for range 100 {
		l, err := headgate.InFlight(1+r.Int64N(12), time.Duration(1+r.Int64N(1000))*time.Microsecond).Prepare()
		if err != nil {
			t.Fatal(err)
		}
		now := int64(1_700_000_000_000_000)
		b := newBudget(l, now, false)
		work := map[uint64]held{}
		for id := uint64(1); id <= 300; id++ {
			now += r.Int64N(l.TTLMicros/4 + 2)
			sum := int64(0)
			for i, w := range work {
				switch {
				case w.until <= now:
					delete(work, i)
				case r.IntN(6) == 0:
					b.apply(headgate.Release, now, 0, i)
					delete(work, i)
				case r.IntN(6) == 0:
					if !b.apply(headgate.Renew, now, 0, i).Allowed {
						t.Fatalf("hold %d was lost before its ttl", i)
					}
					w.until = now + l.TTLMicros
					work[i] = w
					sum += w.n
				default:
					sum += w.n
				}
			}
			cost := 1 + r.Int64N(4)
			if b.apply(headgate.Take, now, cost, id).Allowed {
				work[id] = held{id, now + l.TTLMicros, cost}
				sum += cost
			} else if sum+cost <= l.Count {
				t.Fatalf("%d of %d held, %d more refused", sum, l.Count, cost)
			}
			if sum > l.Count {
				t.Fatalf("%d held of %d", sum, l.Count)
			}
		}
	}
}
