package lintest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/headgate/headgate"
)

// Config says how many histories of what kind are made.
type Config struct {
	// Histories is their number; Operations how many each has, 2,000 if 0, which
	// is also the most; Clients how many ask at once, 16 if 0.
	Histories, Operations, Clients int
	// Seed is that of the first history; the others count on from it.
	Seed uint64
	// Single has every operation ask one budget, for stores that decide batches
	// of several budgets one part after the other.
	Single bool
	// Leased asks for what stores with leases promise.
	Leased bool
	// Patience is how long an operation may take: 10 s if 0. Beyond it, it is
	// unknown.
	Patience time.Duration
	// Phase is after how many operations disturbances begin and end, 50 if 0.
	Phase int
}

// operationsMost keeps the takes of one kind below 256.
const operationsMost = 2000

func (c Config) withDefaults() Config {
	c.Operations = min(cmp.Or(c.Operations, operationsMost), operationsMost)
	c.Clients = cmp.Or(c.Clients, 16)
	c.Patience = cmp.Or(c.Patience, unhurried)
	c.Phase = cmp.Or(c.Phase, 50)
	return c
}

// Subject is what one history is about.
type Subject struct {
	// Nodes are what the clients ask, spread over them. They are closed when the
	// history has ended.
	Nodes []headgate.Store
	// Truth, if not nil, is the store behind the nodes, undisturbed and without
	// leases. It is asked when the nodes are closed.
	Truth headgate.Store
	// Disturb, if not nil, is called between operations, by turns to put
	// something between the nodes and the store and to take it away. Without it
	// every error fails the test.
	Disturb func(rng *rand.Rand, on bool) error
	// Lost, with leases, returns how many tokens leases have lost by the end of
	// the history. nil: any number.
	Lost func() int64
}

// Tally sums up histories.
type Tally struct {
	Allowed, Refused, Peeks, Unknown int
	// Spent counts the budgets of which more was used in the end than was
	// allowed: by unknown takes, or lost by leases.
	Spent int
}

func (t Tally) String() string {
	return fmt.Sprintf("%d allowed, %d refused, %d peeks, %d unknown, %d budgets spent by nobody", t.Allowed, t.Refused, t.Peeks, t.Unknown, t.Spent)
}

// decided is how long a history may take to be checked: one takes milliseconds.
const decided = 2 * time.Minute

// Run makes histories on subjects that open returns, and fails the test if one
// of them is not what the specification allows. It fails, too, if the histories
// decide nothing.
func Run(t *testing.T, c Config, open func(t *testing.T) *Subject) Tally {
	t.Helper()
	c = c.withDefaults()
	var sum Tally
	for i := range c.Histories {
		seed := c.Seed + uint64(i)
		tally, err := once(t, &c, seed, open)
		if err != nil {
			t.Fatalf("history of seed %d: %v", seed, err)
		}
		sum.Allowed += tally.Allowed
		sum.Refused += tally.Refused
		sum.Peeks += tally.Peeks
		sum.Unknown += tally.Unknown
		sum.Spent += tally.Spent
	}
	t.Logf("%d histories: %v", c.Histories, sum)
	if all := sum.Allowed + sum.Refused; all == 0 || sum.Allowed < all/10 || sum.Refused < all/10 {
		t.Errorf("%v: the workload decides nothing", sum)
	}
	return sum
}

// once makes and checks one history.
func once(t *testing.T, c *Config, seed uint64, open func(t *testing.T) *Subject) (Tally, error) {
	s := open(t)
	h, err := newHistory(c, s, fmt.Sprintf("%s-%d", t.Name(), seed), rand.New(rand.NewPCG(seed, 1)))
	if err != nil {
		return Tally{}, err
	}
	err = h.run(t.Context())
	for _, n := range s.Nodes {
		err = errors.Join(err, n.Close())
	}
	if err != nil {
		return Tally{}, err
	}
	sum := h.tally()
	if s.Truth != nil {
		last, err := h.last(t.Context())
		if err != nil {
			return sum, err
		}
		if sum.Spent, err = h.balance(last); err != nil {
			return sum, err
		}
		if !c.Leased {
			h.records = append(h.records, last[:]...)
		}
	}
	if err := h.check(t); err != nil {
		return sum, err
	}
	return sum, nil
}

func (h *history) tally() (sum Tally) {
	for _, r := range h.records {
		switch {
		case r.err != nil:
			sum.Unknown++
		case r.peek:
			sum.Peeks++
		case r.allowed:
			sum.Allowed++
		default:
			sum.Refused++
		}
	}
	return sum
}

// balance compares what is used in the end with what was allowed, and returns
// of how many budgets it is more.
func (h *history) balance(last [budgets]*record) (more int, err error) {
	var allowed, unknown [budgets]int64
	for _, r := range h.records {
		for _, b := range r.budgets {
			switch {
			case r.peek:
			case r.err != nil:
				unknown[b] += r.cost
			case r.allowed:
				allowed[b] += r.cost
			}
		}
	}
	lost := int64(headgate.MaxInt)
	switch {
	case !h.config.Leased:
		lost = 0
	case h.subject.Lost != nil:
		lost = h.subject.Lost()
	}
	for b, r := range last {
		used, full := r.seen[0].used, h.spec.caps[b]
		h.spec.slack[b] = min(lost, full) + full/held
		if used < allowed[b] || used > min(full, allowed[b]+unknown[b]+lost) {
			return more, fmt.Errorf("%d of budget %d were allowed, %d were unknown, leases lost %d, and %d of %d are used", allowed[b], b, unknown[b], lost, used, full)
		}
		if used > allowed[b] {
			more++
		}
	}
	return more, nil
}

// held is the part of a budget that leases may hold.
const held = 5

// check asks porcupine.
func (h *history) check(t *testing.T) error {
	model, ops := h.spec.model(h.records, h.config.Leased), operations(h.records, h.config.Leased)
	switch porcupine.CheckOperationsTimeout(model, ops, decided) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("not checked within %v", decided)
	}
	_, info := porcupine.CheckOperationsVerbose(model, ops, decided)
	file := filepath.Join(t.ArtifactDir(), "history.html")
	if err := porcupine.VisualizePath(model, info, file); err != nil {
		t.Log(err)
	}
	t.Logf("the history is drawn in %s, which -artifacts keeps", file)
	return fmt.Errorf("no order of the batches explains what was seen; the longest that explains a part ends with\n%s", h.tail(info))
}

// tail describes the end of the longest part that has an order, and what was
// asked then.
func (h *history) tail(info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, ops := range partition {
			if len(ops) > len(longest) {
				longest = ops
			}
		}
	}
	var b strings.Builder
	explained := make(map[*record]bool)
	for i, op := range longest {
		r := op.Input.(*record)
		explained[r] = true
		if i >= len(longest)-20 {
			fmt.Fprintf(&b, "  %s\n", describe(r))
		}
	}
	rest := slices.DeleteFunc(slices.Clone(h.records), func(r *record) bool { return explained[r] })
	slices.SortFunc(rest, func(a, b *record) int { return cmp.Compare(a.end, b.end) })
	b.WriteString("and not with\n")
	for _, r := range rest[:min(20, len(rest))] {
		fmt.Fprintf(&b, "  %s\n", describe(r))
	}
	return b.String()
}
