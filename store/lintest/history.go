package lintest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
)

// history is one run: budgets that nothing else uses, and what was seen of them.
type history struct {
	spec    *spec
	owner   string
	config  *Config
	subject *Subject
	rng     *rand.Rand
	drawn   []int // the classes that takes are drawn from
	began   time.Time
	records []*record
}

// newHistory draws budgets and classes.
func newHistory(c *Config, s *Subject, owner string, rng *rand.Rand) (*history, error) {
	h := &history{spec: &spec{}, owner: owner, config: c, subject: s, rng: rng}
	each := h.draw()
	// What is asked of a budget, of which it has a part, or nearly all: every
	// history has small parts and large ones.
	asked, order := float64(each)*takes*float64(c.Operations)/float64(len(h.drawn)), rng.Perm(budgets)
	if s.Disturb != nil {
		asked *= 0.8 // about a fifth of the takes are unknown, most of which charge nothing
	}
	for b := range budgets {
		l, err := limit(b, int64(asked*(0.1+0.9*(float64(order[b])+rng.Float64())/budgets)))
		if err != nil {
			return nil, err
		}
		h.spec.limits[b], h.spec.caps[b] = l, l.Count
	}
	return h, nil
}

// draw fills in the classes, and returns what a budget is asked for by one take
// of each.
func (h *history) draw() int64 {
	used := digits
	if h.config.Leased {
		used = 2 // a lease holds many small takes
	}
	for d := range digits {
		order := h.rng.Perm(budgets)
		for len(order) > 0 {
			n := 1
			if !h.config.Single && h.rng.IntN(2) == 0 {
				n = min(2+h.rng.IntN(2), len(order))
			}
			for _, b := range order[:n] {
				h.spec.of[b][d] = len(h.spec.classes)
			}
			if d < used {
				h.drawn = append(h.drawn, len(h.spec.classes))
			}
			h.spec.classes = append(h.spec.classes, class{d, order[:n:n]})
			order = order[n:]
		}
	}
	return 1 << (8 * used) / most // 1 + 256 + ...
}

// limit returns a limit of n tokens of which none comes back within a minute.
func limit(b int, n int64) (*headgate.Prepared, error) {
	l := headgate.Limit{Name: fmt.Sprintf("budget-%d", b), Count: n}
	switch b % 3 {
	case 0:
		// A token in 1,000 s, or as long as 100 years allow.
		each := min(int64(1e9), headgate.MaxPeriod.Microseconds()/n)
		l.Period = time.Duration(each*n) * time.Microsecond
	case 1:
		l.Algorithm, l.Period = headgate.FixedWindow, headgate.MaxPeriod // ends in 2069
	default:
		half := time.Now().UTC().AddDate(0, -6, 0)
		l.Algorithm = headgate.Quota
		l.Calendar = headgate.Calendar{Unit: headgate.Year, Anchor: int(half.Month())*100 + min(28, half.Day())}
	}
	return l.Prepare()
}

// longest is how long a history may take, lest tokens come back.
const longest = time.Minute

// unhurried is the patience of those who are not disturbed.
const unhurried = 10 * time.Second

// takes is the share of takes among the operations; the others are peeks.
const takes = 0.85

// run has the clients do all operations, and disturbs them.
func (h *history) run(ctx context.Context) error {
	h.began = time.Now()
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil {
			failed = err
		}
	}
	var g sync.WaitGroup
	for i := range h.config.Clients {
		rng := rand.New(rand.NewPCG(h.rng.Uint64(), h.rng.Uint64()))
		chaos := rand.New(rand.NewPCG(h.rng.Uint64(), h.rng.Uint64()))
		g.Go(func() {
			var b headgate.Batch
			var own []*record
			for {
				n := int(next.Add(1))
				if n > h.config.Operations {
					break
				}
				if h.subject.Disturb != nil && n%h.config.Phase == 0 {
					if err := h.subject.Disturb(chaos, n/h.config.Phase%2 == 1); err != nil {
						fail(fmt.Errorf("disturb: %w", err))
						break
					}
				}
				r := h.do(ctx, &b, i, rng)
				if r.err != nil && h.subject.Disturb == nil {
					fail(fmt.Errorf("undisturbed: %w", r.err))
					break
				}
				own = append(own, r)
			}
			mu.Lock()
			defer mu.Unlock()
			h.records = append(h.records, own...)
		})
	}
	g.Wait()
	if h.subject.Disturb != nil {
		if err := h.subject.Disturb(h.rng, false); err != nil {
			fail(fmt.Errorf("disturb no more: %w", err))
		}
	}
	if took := time.Since(h.began); failed == nil && took > longest {
		return fmt.Errorf("the history took %v, and tokens come back after %v", took, longest)
	}
	return failed
}

// do does one operation.
func (h *history) do(ctx context.Context, b *headgate.Batch, client int, rng *rand.Rand) *record {
	r := &record{client: client, peek: rng.Float64() >= takes, class: h.drawn[rng.IntN(len(h.drawn))]}
	c := &h.spec.classes[r.class]
	r.budgets, r.cost = c.budgets, c.cost()
	h.ask(ctx, b, h.subject.Nodes[client%len(h.subject.Nodes)], r, h.config.Patience)
	return r
}

// ask has a store do an operation and notes what it answers.
func (h *history) ask(ctx context.Context, b *headgate.Batch, s headgate.Store, r *record, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	b.Reset(headgate.Take)
	if r.peek {
		b.Op = headgate.Peek
	}
	b.Patience = patience.Microseconds()
	for _, i := range r.budgets {
		if _, err := b.Add(headgate.Charge{Limit: h.spec.limits[i], Owner: h.owner, Cost: r.cost}); err != nil {
			panic(err) // three different budgets
		}
	}
	r.call = time.Since(h.began).Nanoseconds()
	r.err = s.Apply(ctx, b)
	r.end = time.Since(h.began).Nanoseconds()
	if r.err != nil {
		return
	}
	r.allowed = b.Allowed
	for _, o := range b.Outcomes() {
		r.seen = append(r.seen, seen{o.Allowed, o.Used, o.Limit})
	}
}

// last asks the store behind the nodes for each budget by itself, when the nodes
// are closed.
func (h *history) last(ctx context.Context) ([budgets]*record, error) {
	var last [budgets]*record
	var b headgate.Batch
	for i := range budgets {
		r := &record{client: h.config.Clients, peek: true, budgets: []int{i}, cost: 1}
		if h.ask(ctx, &b, h.subject.Truth, r, unhurried); r.err != nil {
			return last, fmt.Errorf("after the history: %w", r.err)
		}
		last[i] = r
	}
	return last, nil
}
