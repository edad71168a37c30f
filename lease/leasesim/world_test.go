// Package leasesim simulates leases: real holders of package lease against the
// real truth of package algo, in a world that is made up.
package leasesim

import (
	"fmt"
	"math/rand/v2"
)

// The simulation runs real holders ([lease.Holder]) against the real truth of a
// shared store ([algo.Budget]) in a world that is made up: one true clock in
// microseconds, processes that crash and pause, a network that loses, repeats,
// delays and reorders, and stores that fail over, lose writes and step their
// clocks. A schedule follows from its seed alone. Every admission and every debit
// is checked as it happens, by true time (see ledger).

// world is one schedule as it runs. It is used again for the next one.
type world struct {
	plan
	now   int64 // true time, microseconds since the Unix epoch
	queue []event
	seq   uint64

	load, net, fault *rand.Rand

	procs   []*process
	parts   []*partition
	budgets []*ledger
	ids     []spending // by the second word of a holder's id
	holds   uint64     // reservations made
	free    []*message

	count  coverage
	failed error
	traced func(line string)
}

// event is something that happens at an instant. Events of one instant happen in
// the order in which they were made.
type event struct {
	at   int64
	seq  uint64
	kind eventKind
	who  int
	n    int64
	msg  *message
}

type eventKind uint8

const (
	arrive   eventKind = iota // requests come to process who
	tick                      // process who looks after its leases
	ask                       // msg reaches its store
	answer                    // msg is back at its process
	phase                     // the load changes
	crash                     // process who dies
	restart                   // process who is there again
	stop                      // process who returns everything and restarts
	pause                     // process who stands still for n
	cut                       // process who is cut off from all stores for n
	snapshot                  // partition who is copied, for failover n
	failover                  // partition who becomes its copy n
	wipe                      // partition who loses everything
	step                      // partition who's clock moves by n
	reload                    // process who gets the next numbers of budget n
	reset                     // an operator resets budget who
	settle                    // reservation msg is settled
	again                     // n requests of process who come at once, or go on after a pause
	passes                    // n tokens of budget who pass that were checked before: see mutants
)

func (w *world) trace(format string, args ...any) {
	if w.traced != nil {
		w.traced(fmt.Sprintf("%10d  ", w.now-w.start) + fmt.Sprintf(format, args...))
	}
}

// fail notes the first violation.
func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf("at %d: "+format, append([]any{w.now - w.start}, args...)...)
		w.trace("VIOLATION %v", w.failed)
	}
}

func (w *world) push(e event) {
	w.seq++
	e.seq = w.seq
	q := append(w.queue, e)
	i := len(q) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !q[i].before(&q[up]) {
			break
		}
		q[i], q[up] = q[up], q[i]
		i = up
	}
	w.queue = q
}

func (w *world) pop() event {
	q := w.queue
	first, last := q[0], len(q)-1
	q[0] = q[last]
	q = q[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			break
		}
		if down+1 < last && q[down+1].before(&q[down]) {
			down++
		}
		if !q[down].before(&q[i]) {
			break
		}
		q[i], q[down] = q[down], q[i]
		i = down
	}
	w.queue = q
	return first
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// run plays the schedule of p until its end or the first violation.
func (w *world) run(p plan) error {
	w.plan = p
	w.now, w.seq, w.holds, w.failed = p.start, 0, 0, nil
	w.queue, w.ids = w.queue[:0], append(w.ids[:0], spending{})
	w.load, w.net, w.fault = stream(p.seed, 1), stream(p.seed, 2), stream(p.seed, 3)
	w.parts, w.budgets, w.procs = nil, nil, nil
	for i := range p.partitions {
		w.parts = append(w.parts, newPartition(w, i))
	}
	for i := range p.limits {
		w.budgets = append(w.budgets, newLedger(w, i))
	}
	for i := range p.nodes {
		w.procs = append(w.procs, newProcess(w, i))
	}
	w.schedule()
	end := p.start + p.span
	for w.failed == nil && len(w.queue) > 0 {
		e := w.pop()
		if e.at > end {
			break
		}
		w.now = e.at
		w.happen(e)
		if w.seq%8 == 0 && !w.has(clocks) {
			for _, b := range w.budgets {
				b.weigh()
			}
		}
	}
	if w.failed == nil {
		for _, b := range w.budgets {
			b.sum()
		}
		w.used()
		w.count.Schedules++
	}
	return w.failed
}

func (w *world) happen(e event) {
	switch e.kind {
	case ask:
		w.parts[e.msg.part].receive(e.msg)
	case snapshot, failover, wipe, step:
		w.parts[e.who].happen(e)
	case reset:
		w.budgets[e.who].part.reset(e.who)
	case settle:
		w.parts[e.msg.part].settle(e.msg)
	case phase:
		w.nextPhase()
	case passes:
		x := &w.ids[e.msg.hold]
		w.budgets[e.who].admit(e.n, x.label, x)
	default:
		w.procs[e.who].happen(e)
	}
}

// stream is one of the independent sources of chance of a seed, so that leaving
// out one kind of fault changes nothing in the load.
func stream(seed uint64, n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }

// between is uniform, both ends included.
func between(r *rand.Rand, lo, hi int64) int64 {
	if hi <= lo {
		return lo
	}
	return lo + r.Int64N(hi-lo+1)
}

func chance(r *rand.Rand, p float64) bool { return r.Float64() < p }

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }
