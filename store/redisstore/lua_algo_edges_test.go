package redisstore

import (
	"fmt"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// arithDriver works out products and quotients of four numbers.
const arithDriver = `
local arith, answers = use('arith'), {}
for i, x in ipairs(cjson.decode(ARGV[1])) do
  local a, b, c, d = x[1], x[2], x[3], x[4]
  local q, r = arith.mul_div(a, b, c)
  answers[i] = string.format('%s %.0f %.0f %.0f %.0f', tostring(arith.covers(a, b, c, d)), q, r, arith.mul_div_ceil(a, b, c), floor((a - b) / c))
end
return answers
`

// TestArith: numbers below 2^53 whose products are not.
func TestArith(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	number := func(most int64) int64 {
		n := r.Int64N(int64(1) << (1 + r.IntN(53)))
		if r.IntN(4) == 0 {
			n = most - r.Int64N(4)
		}
		return max(0, min(n, most))
	}
	var all [][4]int64
	large := 0
	for range 30_000 {
		a := number(headgate.MaxInt)
		c := max(1, number(headgate.MaxInt))
		b, d := number(c), number(headgate.MaxInt) // a quotient below 2^53
		if r.IntN(2) == 0 {
			// Products that are equal, or nearly.
			x, y, z, w := 1+r.Int64N(1<<26), 1+r.Int64N(1<<26), 1+r.Int64N(1<<26), 1+r.Int64N(1<<26)
			a, b, c, d = x*y, z*w+r.Int64N(3)-1, x*z, y*w+r.Int64N(3)-1
			if b > c {
				b, c = c, max(1, b)
			}
		}
		if hi, _ := bits.Mul64(uint64(a), uint64(b)); hi > 0 {
			large++
		}
		all = append(all, [4]int64{a, b, c, d})
	}
	if large < 5000 {
		t.Errorf("only %d products are above 2^64", large)
	}
	for i, got := range eval(t, arithDriver, all) {
		a, b, c, d := big.NewInt(all[i][0]), big.NewInt(all[i][1]), big.NewInt(all[i][2]), big.NewInt(all[i][3])
		product, ceil := new(big.Int).Mul(a, b), new(big.Int)
		q, rest := new(big.Int).DivMod(product, c, new(big.Int))
		if ceil.Set(q); rest.Sign() > 0 {
			ceil.Add(q, big.NewInt(1))
		}
		floor := new(big.Int).Div(new(big.Int).Sub(a, b), c) // c > 0, so that it rounds down
		want := fmt.Sprint(product.Cmp(new(big.Int).Mul(c, d)) >= 0, q, rest, ceil, floor)
		if got != want {
			t.Fatalf("%d: got %s, want %s", all[i], got, want)
		}
	}
}

// TestFull: a log of more entries than takes can make, whose newest entry moves, and
// many slots.
func TestFull(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.Log(headgate.MaxLog, 1_000_000_000), headgate.Log(headgate.MaxLog, 3_600_000_000_000),
		headgate.InFlight(headgate.MaxInFlight, 1_000_000_000),
	} {
		l := prepareLimit(t, limit)
		s := &walk{r: rand.New(rand.NewPCG(*walkSeed, 4)), limits: []*headgate.Prepared{l}, plain: []map[string]any{moduleLimit(l)}}
		s.begin(l)
		s.reserve(600_000_000)
		s.fill(headgate.Take, 2_000, 1)
		s.reserve(500_000_000)
		if l.Algorithm == headgate.SlidingLog {
			s.fill(headgate.Debit, 8_100, 1)
			s.reserve(400_000_000)
			if full := s.words[1]; full != headgate.MaxLog+1 {
				t.Fatalf("%d entries", full)
			}
		}
		for range 60 {
			s.step()
		}
		s.compare(t)
	}
}

// reserve takes one token for a while.
func (s *walk) reserve(holdFor int64) {
	s.hold++
	s.named = append(s.named, s.hold)
	s.do(algo.Call{Op: headgate.Take, Now: s.now, Cost: 1, Hold: s.hold, HoldFor: holdFor})
}

// TestSlotsThatLookAlike: the bytes of a slot's id may stand across two slots.
func TestSlotsThatLookAlike(t *testing.T) {
	l := prepareLimit(t, headgate.InFlight(10, 1<<30*time.Microsecond))
	s := &walk{limits: []*headgate.Prepared{l}, plain: []map[string]any{moduleLimit(l)}}
	s.now = 7 << 40 // the last bytes of all instants are 0
	s.init(l, s.now)
	s.note(walkStep{Kind: "init", Limit: 1, Now: s.now}, headgate.Outcome{Allowed: true, Limit: l.Count}, "")
	const across = 1 << 8 // behind its first byte, what 1 is
	for _, c := range []algo.Call{
		{Op: headgate.Take, Cost: 1, Hold: 1}, {Op: headgate.Take, Cost: 2, Hold: 1},
		{Op: headgate.Release, Hold: across}, {Op: headgate.Settle, Hold: across}, {Op: headgate.Renew, Hold: across},
		{Op: headgate.Take, Cost: 4, Hold: across}, {Op: headgate.Renew, Hold: across, HoldFor: 5}, {Op: headgate.Release, Hold: across},
		{Op: headgate.Settle, Hold: 1},
	} {
		c.Now = s.now
		s.do(c)
	}
	s.compare(t)
}

// TestLowered: a limit that is lower than what was used of it refuses all but what costs
// nothing.
func TestLowered(t *testing.T) {
	for _, kind := range moduleKinds[:6] {
		high, low := headgate.Limit{Algorithm: kind.a, Count: 10}, headgate.Limit{Algorithm: kind.a, Count: 3}
		for _, l := range []*headgate.Limit{&high, &low} {
			switch kind.name {
			case "quota":
				l.Calendar.Unit = headgate.Day
			case "concurrency":
				l.TTL = time.Hour
			case "classic":
				l.Period, l.Slices = time.Hour, 1
			default:
				l.Period = time.Hour
			}
		}
		s := &walk{kind: kind.name, r: rand.New(rand.NewPCG(1, 1)), limits: []*headgate.Prepared{prepareLimit(t, high), prepareLimit(t, low)}}
		for _, l := range s.limits {
			s.plain = append(s.plain, moduleLimit(l))
		}
		s.begin(s.limits[0])
		s.do(algo.Call{Now: s.now, Cost: 4, Hold: 1, HoldFor: 1000})
		s.do(algo.Call{Now: s.now, Cost: 5})
		s.convert(s.limits[1])
		s.note(walkStep{Kind: "convert", Limit: 2, Now: s.now}, headgate.Outcome{Allowed: true, Limit: 3}, "")
		for _, op := range []headgate.Op{headgate.Peek, headgate.Take, headgate.Settle, headgate.Take} {
			for cost := range int64(5) {
				s.do(algo.Call{Op: op, Now: s.now, Cost: cost, Hold: 1})
			}
		}
		s.compare(t)
	}
}

// TestCalendarCovers: a calendar is of use where it has the period of an instant and
// the one after it.
func TestCalendarCovers(t *testing.T) {
	l := prepareLimit(t, headgate.QuotaPer(10, headgate.Day))
	const day = 86_400_000_000
	s := &walk{limits: []*headgate.Prepared{l}, plain: []map[string]any{moduleLimit(l)}}
	cal := calendar(l, 20*day) // days 19 to 22
	s.steps = []walkStep{{Kind: "init", Limit: 1, Now: 20 * day, Cal: cal}}
	wants := map[int64]bool{19*day - 1: false, 19 * day: true, 20 * day: true, 22*day - 1: true, 22 * day: false, 23 * day: false}
	for at := range wants {
		s.steps = append(s.steps, walkStep{Kind: "covers", Now: at, Cal: cal})
	}
	for i, got := range eval(t, walkDriver, map[string]any{"limits": s.plain, "steps": s.steps}) {
		if _, found, _ := strings.Cut(got, "\n"); i > 0 && !strings.HasPrefix(found, fmt.Sprint(wants[s.steps[i].Now])) {
			t.Errorf("at %d: %q", s.steps[i].Now, found)
		}
	}
}

// TestCredit: a take that is taken back by its instant leaves what a reservation leaves
// that is settled at nothing.
func TestCredit(t *testing.T) {
	for _, kind := range moduleKinds[:5] {
		t.Run(kind.name, func(t *testing.T) {
			back := 0
			for seed := range uint64(150) {
				back += credit(t, rand.New(rand.NewPCG(seed, 5)), kind.name, kind.a)
			}
			if back < 30 {
				t.Errorf("only %d takes gave back what they took", back)
			}
		})
	}
}

// credit runs one budget and returns 1 if what was taken back could be seen.
func credit(t *testing.T, r *rand.Rand, kind string, a headgate.Algorithm) (seen int) {
	s := &walk{r: r, kind: kind}
	for len(s.limits) == 0 {
		if l := walkLimit(r, kind, a); l.Count < 1_000_000 && !l.Soft {
			if _, whole := walkScales(l); whole < headgate.MaxHold.Microseconds()/3 {
				s.limits, s.plain = []*headgate.Prepared{l}, []map[string]any{moduleLimit(l)}
			}
		}
	}
	l := s.limits[0]
	unit, whole := walkScales(l)
	s.begin(l)
	some := func() {
		for range r.IntN(6) {
			s.now += r.Int64N(unit/2 + 2)
			s.do(algo.Call{Op: headgate.Take, Now: s.now, Cost: 1 + r.Int64N(l.Count/4+1)})
		}
	}
	some()
	s.now += r.Int64N(unit/2 + 2)
	at, cost := s.now, 1+r.Int64N(l.Count)
	const hold = 7
	o := s.call(algo.Call{Op: headgate.Take, Now: at, Cost: cost, Hold: hold, HoldFor: headgate.MaxHold.Microseconds()})
	s.note(walkStep{Kind: "call", Op: headgate.Take, Now: at, Cost: cost}, o, "")
	if !o.Allowed {
		return 0
	}
	some()
	switch r.IntN(4) {
	case 0:
		s.now += r.Int64N(whole + 2)
	case 1:
		s.now -= r.Int64N(2*unit + 2)
	}
	before := s.call(algo.Call{Op: headgate.Peek, Now: s.now})
	s.call(algo.Call{Op: headgate.Settle, Now: s.now, Hold: hold})
	s.note(walkStep{Kind: "credit", Now: s.now, At: at, Cost: cost}, headgate.Outcome{}, "")
	from := len(s.steps)
	for range 6 {
		o := s.call(algo.Call{Op: headgate.Peek, Now: s.now, Cost: l.Count})
		s.note(walkStep{Kind: "call", Op: headgate.Peek, Now: s.now, Cost: l.Count}, o, "")
		if o.Used < before.Used {
			seen = 1
		}
		s.now += r.Int64N(unit + 2)
	}
	got := eval(t, walkDriver, map[string]any{"limits": s.plain, "steps": s.steps})
	for i := from; i < len(got); i++ {
		// The words differ by what a reservation leaves.
		var a, b [10]string
		scan(t, got[i], &a)
		scan(t, s.want[i], &b)
		if a != b {
			t.Fatalf("%v %d taken back at %d:\n got %v\nwant %v\n%s%s", kind, cost, s.now, a, b, s.describe(), s.history(i))
		}
	}
	return seen
}

func scan(t *testing.T, answer string, fields *[10]string) {
	t.Helper()
	var to []any
	for i := range fields {
		to = append(to, &fields[i])
	}
	if _, err := fmt.Sscan(answer, to...); err != nil {
		t.Fatal(err)
	}
}

// TestCreditLeavesWhatIsReserved: a take that is taken back twice, or late, gives
// nothing back of what others have reserved.
func TestCreditLeavesWhatIsReserved(t *testing.T) {
	const now = 1_700_000_000_000_000
	for _, limit := range []headgate.Limit{
		headgate.Window(10, 3_600_000_000_000), headgate.Sliding(10, 3_600_000_000_000), headgate.Log(10, 3_600_000_000_000),
		headgate.QuotaPer(10, headgate.Day),
	} {
		l := prepareLimit(t, limit)
		steps := []walkStep{
			{Kind: "init", Limit: 1, Now: now}, {Kind: "call", Now: now, Cost: 5, Hold: 1, HoldFor: 1_000_000}, {Kind: "call", Now: now, Cost: 3},
			{Kind: "credit", Now: now, At: now, Cost: 2}, {Kind: "call", Op: headgate.Peek, Now: now},
			{Kind: "credit", Now: now, At: now, Cost: 9}, {Kind: "call", Op: headgate.Peek, Now: now},
			{Kind: "credit", Now: now + 1_000_000, At: now, Cost: 4}, {Kind: "call", Op: headgate.Peek, Now: now + 1_000_000},
		}
		for i := range steps {
			if l.Algorithm == headgate.Quota {
				steps[i].Cal = calendar(l, now)
			}
		}
		got := eval(t, walkDriver, map[string]any{"limits": []any{moduleLimit(l)}, "steps": steps})
		for i, want := range map[int]string{2: "8", 4: "6", 6: "5", 8: "1"} {
			var fields [10]string
			if scan(t, got[i], &fields); fields[3] != want {
				t.Errorf("%s: %s used after step %d, want %s", l.Name, fields[3], i, want)
			}
		}
	}
}

func prepareLimit(t *testing.T, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
