package redisstore

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	_ "time/tzdata"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

var (
	walkCalls = flag.Int("walk.calls", 5000, "calls that TestModules makes of each algorithm")
	walkSeed  = flag.Uint64("walk.seed", 1, "seed of TestModules")
	walkOnly  = flag.Int("walk.only", -1, "run only this walk of TestModules, as a failure names it")
)

// walkLength is the number of calls of one budget, which one script makes.
const walkLength = 400

// moduleKinds are the algorithms; a classic sliding window is one of its own, and mixed
// changes from any that keeps reservations, or slots, to any other.
var moduleKinds = []struct {
	name string
	a    headgate.Algorithm
}{
	{"fixed", headgate.FixedWindow}, {"classic", headgate.SlidingWindow}, {"sliding", headgate.SlidingWindow}, {"log", headgate.SlidingLog},
	{"quota", headgate.Quota}, {"concurrency", headgate.Concurrency}, {"ban", headgate.Ban}, {"idempotency", headgate.Idempotency},
	{"mixed", headgate.FixedWindow},
}

// TestModules runs random calls through each module and through package algo: every
// field of every outcome and every word of every state must be equal.
func TestModules(t *testing.T) {
	for _, kind := range moduleKinds {
		t.Run(kind.name, func(t *testing.T) {
			total, refused, hopeless, held := 0, 0, 0, 0
			for i := max(0, *walkOnly); total < *walkCalls; i++ {
				s := newWalk(rand.New(rand.NewPCG(*walkSeed, uint64(i))), kind.name, kind.a)
				for range walkLength {
					s.step()
				}
				total += s.calls
				refused, hopeless, held = refused+s.refused, hopeless+s.hopeless, held+s.held
				if s.compare(t); t.Failed() {
					t.Fatalf("replay with -walk.seed=%d -walk.only=%d", *walkSeed, i)
				}
				if *walkOnly >= 0 {
					return
				}
			}
			t.Logf("%d calls, %d refused, %d never pass, %d with reservations or slots held", total, refused, hopeless, held)
			limits := kind.a != headgate.Idempotency
			if limits && refused < total/100 || kind.a < headgate.Ban && (hopeless < total/50 || held < total/20) {
				t.Errorf("of %d calls %d were refused, %d never pass, %d had something held", total, refused, hopeless, held)
			}
		})
	}
}

// compare runs the steps through the modules.
func (s *walk) compare(t *testing.T) {
	t.Helper()
	for i, got := range eval(t, walkDriver, map[string]any{"limits": s.plain, "steps": s.steps}) {
		if got != s.want[i] {
			t.Errorf("step %d of %s\n got %q\nwant %q\n%s", i, s.describe(), got, s.want[i], s.history(i))
			return
		}
	}
}

// walk is one budget under random calls.
type walk struct {
	moduleState
	r      *rand.Rand
	kind   string
	limits []*headgate.Prepared
	plain  []map[string]any
	now    int64
	latest headgate.Outcome
	hold   uint64
	named  []uint64 // the latest holds
	known  []string // the latest requests

	steps                          []walkStep
	want                           []string
	calls, refused, hopeless, held int
}

func newWalk(r *rand.Rand, kind string, a headgate.Algorithm) *walk {
	s := &walk{r: r, kind: kind}
	for range 1 + r.IntN(3) {
		l := walkLimit(r, kind, a)
		s.limits, s.plain = append(s.limits, l), append(s.plain, moduleLimit(l))
	}
	s.begin(s.limits[0])
	return s
}

// begin starts the budget anew at any instant from 1975 to 2038, or at the epoch.
func (s *walk) begin(l *headgate.Prepared) {
	s.now = 160_000_000_000_000 + s.r.Int64N(2_000_000_000_000_000)
	if s.r.IntN(8) == 0 && l.Algorithm != headgate.Quota {
		s.now = 1 + s.r.Int64N(2_000_000)
	}
	s.init(l, s.now)
	s.note(walkStep{Kind: "init", Limit: slices.Index(s.limits, l) + 1, Now: s.now}, headgate.Outcome{Allowed: true, Limit: l.Count}, "")
}

// note keeps a step that was done and what comes of it.
func (s *walk) note(x walkStep, o headgate.Outcome, found string) {
	if s.l.Algorithm == headgate.Quota {
		x.Cal = calendar(s.l, max(x.Now, s.seen()))
	}
	s.steps, s.want = append(s.steps, x), append(s.want, s.answer(o, found))
}

func (s *walk) describe() string {
	var b strings.Builder
	for _, l := range s.limits {
		fmt.Fprintf(&b, "\n  %v count=%d period=%v slices=%d ttl=%v calendar=%v %v@%d soft=%v rollover=%d", l.Algorithm, l.Count, l.Period, l.Slices,
			l.TTL, l.Calendar.Unit, l.Calendar.Location, l.Calendar.Anchor, l.Soft, l.Rollover)
	}
	return b.String()
}

// history returns what led to a step.
func (s *walk) history(to int) string {
	var b strings.Builder
	for i := max(0, to-12); i <= to; i++ {
		x := s.steps[i]
		x.Cal = nil
		fmt.Fprintf(&b, "%d: %+v\n  %q\n", i, x, s.want[i])
	}
	return b.String()
}

// step moves the clock and does one thing.
func (s *walk) step() {
	s.tick()
	plain := headgate.Outcome{Allowed: true, Limit: s.l.Count}
	switch n := s.r.IntN(100); {
	case n == 0:
		s.begin(s.l)
	case n < 4 || n < 10 && s.kind == "mixed":
		i := s.r.IntN(len(s.limits))
		s.convert(s.limits[i])
		plain.Limit = s.l.Count
		s.note(walkStep{Kind: "convert", Limit: i + 1, Now: s.now}, plain, "")
	case n < 6 && (s.kind == "log" || s.kind == "concurrency"):
		s.fill(pickOf(s.r, []headgate.Op{headgate.Take, headgate.Debit}), 1+s.r.IntN(pickOf(s.r, []int{50, 500, 3000})), s.r.Int64N(3))
	case n < 40 && s.kind == "ban":
		algo.CountDenial(s.l, s.words, s.now)
		s.note(walkStep{Kind: "deny", Now: s.now}, plain, "")
	case n < 80 && s.kind == "idempotency":
		s.request(plain)
	default:
		s.do(s.next())
	}
}

// do makes a call.
func (s *walk) do(c algo.Call) {
	o := s.call(c)
	s.count(o)
	s.note(walkStep{Kind: "call", Op: c.Op, Now: c.Now, Cost: c.Cost, Hold: c.Hold, HoldFor: c.HoldFor}, o, "")
}

func (s *walk) count(o headgate.Outcome) {
	s.calls++
	s.latest = o
	switch {
	case o.Never:
		s.hopeless++
	case !o.Allowed:
		s.refused++
	}
	if n, width := s.own(); width > 0 && len(s.words) >= n+3 && s.words[n] > 0 {
		s.held++
	}
}

// convert carries the state over to l.
func (s *walk) convert(l *headgate.Prepared) {
	dst := make([]int64, algo.ConvertWords(s.l, l, s.words))
	algo.Convert(s.l, l, dst, s.words, s.now)
	s.l, s.words = l, dst
}

// fill makes many calls of one token each, so that logs and slots come to their bounds.
func (s *walk) fill(op headgate.Op, n int, step int64) {
	x := walkStep{Kind: "fill", Op: op, Now: s.now, Cost: 1, Step: step, N: n}
	var o headgate.Outcome
	for range n {
		o = s.call(algo.Call{Op: op, Now: s.now, Cost: 1})
		s.now += step
	}
	s.count(o)
	s.note(x, o, "")
}

// request remembers and looks up requests whose ids are easily confused.
func (s *walk) request(o headgate.Outcome) {
	id := make([]byte, 16)
	for i := range id {
		id[i] = "\x00a"[s.r.IntN(8)/7]
	}
	if len(s.known) > 0 && s.r.IntN(3) > 0 {
		copy(id, pickOf(s.r, s.known))
	}
	x := walkStep{Kind: "recall", Now: s.now, ID: string(id), Cost: 1 + s.r.Int64N(1<<50), Hold: s.r.Uint64N(3) * s.r.Uint64N(1<<50)}
	key := headgate.RequestKey{ID: [2]uint64{binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(id[8:])}, Print: uint64(x.Cost)}
	print, hold, known := algo.Remembered(s.words, key.ID, s.now)
	found := "nothing"
	switch {
	case !known && s.r.IntN(8) < 5: // nobody remembers what is remembered
		s.room(algo.Call{Op: headgate.Take, Now: s.now})
		x.Kind, found = "remember", fmt.Sprint(algo.Remember(s.l, s.words, s.now, key, x.Hold))
		s.known = append(s.known[max(0, len(s.known)-70):], x.ID)
	case known:
		found = string(binary.BigEndian.AppendUint64(nil, print))
		if hold == 0 {
			found += "no hold"
		} else {
			found += string(binary.BigEndian.AppendUint64(nil, hold))
		}
	}
	s.calls++
	s.note(x, o, found)
}

// scales returns the time of one slice of a limit, and that in which all of its state
// turns over.
func walkScales(l *headgate.Prepared) (unit, whole int64) {
	switch l.Algorithm {
	case headgate.SlidingWindow, headgate.Ban:
		return l.SliceMicros, max(l.WindowMicros, l.TTLMicros)
	case headgate.Quota:
		whole = map[headgate.CalendarUnit]int64{headgate.Hour: 3600, headgate.Day: 86400, headgate.Week: 7 * 86400,
			headgate.Month: 31 * 86400, headgate.Year: 366 * 86400}[l.Calendar.Unit] * 1_000_000
		return whole / 10, whole
	case headgate.Concurrency, headgate.Idempotency:
		return l.TTLMicros/3 + 1, l.TTLMicros
	default:
		return l.WindowMicros/10 + 1, l.WindowMicros
	}
}

// tick moves the clock: by nothing, by a little, by what the limit's own times are,
// back, or to the very microsecond that the last outcome named. Instants stay where all
// that is made of them is below 2^53.
func (s *walk) tick() {
	unit, whole := walkScales(s.l)
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
		d = s.latest.RetryAfter.Microseconds()
	case 11:
		d = max(0, s.latest.RetryAfter.Microseconds()-1)
	case 12:
		d = s.latest.ResetAfter.Microseconds()
	case 13:
		d = max(0, s.latest.ResetAfter.Microseconds()-1)
	case 14:
		d = -s.r.Int64N(2*unit + 2)
	case 15:
		if s.r.IntN(3) == 0 {
			d = -s.r.Int64N(whole + 2)
		}
	}
	s.now = max(1, s.now+d)
	most := int64(0)
	for _, l := range s.limits {
		most = max(most, 2*l.WindowMicros, l.TTLMicros)
	}
	if s.now > headgate.MaxInt-most-2*headgate.MaxHold.Microseconds() {
		s.begin(s.l)
	}
}

// next makes up a call.
func (s *walk) next() algo.Call {
	c := algo.Call{Now: s.now, Cost: s.cost()}
	heldOps := 3
	if s.kind == "concurrency" {
		heldOps = 20
	}
	switch n := s.r.IntN(100); {
	case n < heldOps:
		c.Op = headgate.Release
	case n < 2*heldOps:
		c.Op = headgate.Renew
	case n < 2*heldOps+10:
		c.Op = headgate.Peek
	case n < 2*heldOps+17:
		c.Op = headgate.Refund
	case n < 2*heldOps+22:
		c.Op = headgate.Debit
	case n < 2*heldOps+36:
		c.Op = headgate.Settle
	}
	s.hold++
	c.Hold = s.hold
	if s.r.IntN(4) == 0 {
		c.Hold -= s.r.Uint64N(min(s.hold, 6) + 1)
	}
	if s.r.IntN(3) == 0 {
		unit, whole := walkScales(s.l)
		c.HoldFor = min(1+s.r.Int64N(pickOf(s.r, []int64{1, unit + 1, whole + 1, 2*whole + 1, 10*whole + 1})), headgate.MaxHold.Microseconds())
	}
	switch {
	case c.Op == headgate.Take && c.Hold != 0 && (c.HoldFor > 0 || s.kind == "concurrency"):
		s.named = append(s.named[max(0, len(s.named)-5):], c.Hold)
	case c.Op >= headgate.Release && len(s.named) > 0 && s.r.IntN(8) > 0:
		c.Hold = pickOf(s.r, s.named)
		if s.r.IntN(2) == 0 { // work that took less than was reserved
			c.Cost = s.r.Int64N(4)
		}
	}
	return c
}

func (s *walk) cost() int64 {
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

func pickOf[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }
