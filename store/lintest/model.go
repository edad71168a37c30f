package lintest

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
	"github.com/headgate/headgate"
)

const (
	budgets = 8 // in a history
	digits  = 3 // of what is used, to base 256: costs are 1, 256 and 65,536
	// most is the largest number of takes of a class, so that digits count them.
	most = 255
	// classes is the largest number of kinds of takes.
	classes = budgets * digits
)

// class is one kind of take: 256^digit from each of its budgets. A budget has
// one class for each digit.
type class struct {
	digit   int
	budgets []int
}

func (c *class) cost() int64 { return 1 << (8 * c.digit) }

// counts is how often 1, 256 and 65,536 were charged to a budget.
type counts [digits]uint16

// split reads from what is used of a budget what was charged how often.
func split(used int64) (n counts) {
	for d := range n {
		n[d] = uint16(used & most)
		used >>= 8
	}
	n[digits-1] += uint16(min(used, most)) << 8 // what no history can reach
	return n
}

// seen is what an answer told of one budget.
type seen struct {
	allowed   bool
	used, cap int64
}

// record is one operation of a history.
type record struct {
	client    int
	peek      bool
	class     int // of a take
	budgets   []int
	cost      int64
	call, end int64 // nanoseconds since the history began
	err       error // not nil: the operation is unknown
	allowed   bool
	seen      []seen // by budgets

	index  int      // in the history
	before []counts // by budgets, what was charged to them before
}

// spec is the specification of one history's budgets.
type spec struct {
	limits  [budgets]*headgate.Prepared
	caps    [budgets]int64
	classes []class
	of      [budgets][digits]int // index of the class with that budget and digit
	// slack is E of the package's comment for each budget, with leases.
	slack [budgets]int64
	// order lists, for each budget and digit, the known operations by how much
	// had been charged before them, and what that is.
	order [budgets][digits][]turn
}

// turn is an operation and what had been charged of a digit before it.
type turn struct {
	*record
	before uint16
}

// keeps says whether the store never gives back to a budget.
func (s *spec) keeps(b int) bool { return s.limits[b].Algorithm == headgate.TokenBucket }

// prepare derives from the history what the steps look at.
func (s *spec) prepare(history []*record) {
	for i, r := range history {
		r.index = i
		if r.err != nil {
			continue
		}
		for j, b := range r.budgets {
			used := r.seen[j].used
			if r.allowed && !r.peek {
				used -= r.cost
			}
			r.before = append(r.before, split(used))
			for d, n := range r.before[j] {
				s.order[b][d] = append(s.order[b][d], turn{r, n})
			}
		}
	}
	for b := range s.order {
		for d := range s.order[b] {
			slices.SortFunc(s.order[b][d], func(x, y turn) int { return int(x.before) - int(y.before) })
		}
	}
}

// state is what was charged to the budgets, by known takes and by unknown ones.
// Those that gave back are not counted.
type state struct {
	known, unknown [budgets]counts
	// called counts for each class the unknown takes that may be in effect.
	called [classes]uint16
	// done has a bit for each operation that has had its turn; of the spec's
	// order, the first passed of a budget and digit have.
	done   string
	passed [budgets][digits]uint16
}

func (s *spec) start(history int) state { return state{done: string(make([]byte, (history+7)/8))} }

func (st *state) mark(r *record) {
	done := []byte(st.done)
	done[r.index/8] |= 1 << (r.index % 8)
	st.done = string(done)
}

func (st *state) has(r *record) bool { return st.done[r.index/8]&(1<<(r.index%8)) != 0 }

// total returns the tokens that counts stand for.
func (n counts) total() (sum int64) {
	for d, c := range n {
		sum += int64(c) << (8 * d)
	}
	return sum
}

// explain has unknown takes be in effect so that exactly want was charged to b.
// It reports whether they can.
func (s *spec) explain(st *state, b int, want counts) bool {
	for d := range digits {
		if want[d] < st.known[b][d] {
			return false
		}
		if !s.effect(st, b, d, want[d]-st.known[b][d]) {
			return false
		}
	}
	return true
}

// effect has n unknown takes of a digit be in effect at b.
func (s *spec) effect(st *state, b, d int, n uint16) bool {
	c := s.of[b][d]
	if n == st.unknown[b][d] {
		return true
	}
	if n > st.called[c] || s.keeps(b) && n < st.unknown[b][d] {
		return false
	}
	st.unknown[b][d] = n
	// A take is in effect at all its budgets at once, and stays so at those that
	// keep what they are charged.
	for _, other := range s.classes[c].budgets {
		if s.keeps(other) && st.unknown[other][d] < n {
			st.unknown[other][d] = n
		}
	}
	return true
}

// alive reports whether every operation may yet have its turn, as far as can be
// seen at b: what was charged to it before an operation that has had none is at
// least what was charged for good. A model could do without; the search could
// not, which would follow wrong guesses on unknown takes for long.
func (s *spec) alive(st *state, b int) bool {
	for d, order := range s.order[b] {
		n := int(st.passed[b][d])
		for n < len(order) && st.has(order[n].record) {
			n++
		}
		st.passed[b][d] = uint16(n)
		least := st.known[b][d]
		if s.keeps(b) {
			least += st.unknown[b][d]
		}
		if n < len(order) && order[n].before < least {
			return false
		}
	}
	return true
}

// exact is the step of an operation without leases.
func (s *spec) exact(st state, r *record) (bool, state) {
	st.mark(r)
	if r.err != nil {
		st.called[r.class]++
		return true, st
	}
	fits := true
	for i, b := range r.budgets {
		o := &r.seen[i]
		room := o.cap - r.before[i].total()
		if o.cap != s.caps[b] || o.used > o.cap || o.allowed != (r.cost <= room) || !s.explain(&st, b, r.before[i]) {
			return false, st
		}
		fits = fits && o.allowed
	}
	if r.allowed != fits {
		return false, st
	}
	for i, b := range r.budgets {
		for d, n := range r.before[i] {
			// Explaining one budget may have changed another.
			if st.known[b][d]+st.unknown[b][d] != n {
				return false, st
			}
		}
	}
	if r.allowed && !r.peek {
		for _, b := range r.budgets {
			st.known[b][s.classes[r.class].digit]++
		}
	}
	for b := range budgets {
		if !s.alive(&st, b) {
			return false, st
		}
	}
	return true, st
}

// leased is the step of a take with leases.
func (s *spec) leased(st state, r *record) (bool, state) {
	d := s.classes[r.class].digit
	switch {
	case r.err != nil:
		st.called[r.class]++
		return true, st
	case r.allowed:
		for _, b := range r.budgets {
			if st.known[b][d]++; st.known[b].total() > s.caps[b] {
				return false, st
			}
		}
		return true, st
	}
	for _, b := range r.budgets {
		if st.known[b].total()+s.maybe(&st, b)+s.slack[b]+r.cost > s.caps[b] {
			return true, st
		}
	}
	return false, st
}

// maybe returns what unknown takes may have taken from a budget.
func (s *spec) maybe(st *state, b int) (sum int64) {
	for d := range digits {
		sum += int64(st.called[s.of[b][d]]) << (8 * d)
	}
	return sum
}

var seed = maphash.MakeSeed()

// model returns the specification of a history as porcupine takes it.
func (s *spec) model(history []*record, leased bool) porcupine.Model {
	step := s.exact
	if leased {
		step = s.leased
	} else {
		s.prepare(history)
	}
	return porcupine.Model{
		Init: func() any { return s.start(len(history)) },
		Step: func(st, input, _ any) (bool, any) {
			return step(st.(state), input.(*record))
		},
		Hash:              func(st any) uint64 { return maphash.Comparable(seed, st.(state)) },
		DescribeOperation: func(input, _ any) string { return describe(input.(*record)) },
		DescribeState: func(st any) string {
			known := st.(state)
			var used [budgets]int64
			for b := range used {
				used[b] = known.known[b].total() + known.unknown[b].total()
			}
			return fmt.Sprintf("used %d", used)
		},
	}
}

// describe puts an operation into words.
func describe(r *record) string {
	op := "take"
	if r.peek {
		op = "peek"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d of %d: ", op, r.cost, r.budgets)
	if r.err != nil {
		fmt.Fprintf(&b, "unknown, %v", r.err)
		return b.String()
	}
	b.WriteString(map[bool]string{true: "allowed", false: "refused"}[r.allowed])
	for i, o := range r.seen {
		fmt.Fprintf(&b, "; %d used %d of %d", r.budgets[i], o.used, o.cap)
	}
	return b.String()
}

// operations returns the history as porcupine takes it. That an unknown take may
// take effect begins at its call, and that is an operation of no length. Peeks
// say nothing where they are unknown or, with leases, estimates.
func operations(history []*record, leased bool) []porcupine.Operation {
	ops := make([]porcupine.Operation, 0, len(history))
	for _, r := range history {
		if r.peek && (r.err != nil || leased) {
			continue
		}
		end := r.end
		if r.err != nil {
			end = r.call
		}
		ops = append(ops, porcupine.Operation{ClientId: r.client, Input: r, Output: r, Call: r.call, Return: end})
	}
	return ops
}
