package redisstore

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

var budgetOps = flag.Int("script.budgetops", 10_000, "operations of TestScriptBudgets")

// budgetLimits are the numbers that one budget goes through, kind by kind.
func budgetLimits(t *testing.T) [][]*headgate.Prepared {
	var all [][]*headgate.Prepared
	add := func(limits ...headgate.Limit) {
		var kind []*headgate.Prepared
		for _, l := range limits {
			p, err := l.WithName("budget").Prepare()
			if err != nil {
				t.Fatal(err)
			}
			kind = append(kind, p)
		}
		all = append(all, kind)
	}
	soft := headgate.QuotaPer(2000, headgate.Hour)
	soft.Soft = true
	rolls := headgate.QuotaPer(3000, headgate.Hour)
	rolls.Rollover = 500
	add(headgate.PerSecond(700).WithBurst(2000), headgate.PerSecond(3000).WithBurst(5000), headgate.Per(7, 3*time.Second).WithBurst(1000))
	add(headgate.Limit{Count: 1_000_003, Period: time.Second, Burst: 4_000_000_000}, headgate.Limit{Count: 999_983, Period: time.Second, Burst: 8_000_000_000})
	add(headgate.Window(2000, 10*time.Second), headgate.Window(3000, 10*time.Second), headgate.Window(5000, time.Minute))
	add(headgate.Sliding(2000, 10*time.Second), headgate.Sliding(4000, time.Minute).WithSlices(60))
	add(rolls, soft, headgate.QuotaPer(5000, headgate.Day))
	add(headgate.PerSecond(700).WithBurst(2000), headgate.Window(5000, time.Minute), headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 900, Period: time.Second},
		headgate.Log(3000, 10*time.Second), headgate.Sliding(2000, 10*time.Second).WithSlices(1), rolls)
	add(headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Second, TTL: time.Second})
	return all
}

// budgetModel is one budget as [algo.Budget] has it, in a store that does what its
// comment says.
type budgetModel struct {
	record algo.Budget
	epoch  headgate.Epoch
}

// do does a batch of one charge.
func (m *budgetModel) do(b *headgate.Batch, now int64, o *headgate.Outcome) {
	c, n := &b.Charges()[0], m.record.Clone()
	fresh, other := n.Load(c.Limit, now, m.epoch)
	call := algo.Call{Op: b.Op, Now: now, Cost: c.Cost, Hold: b.Hold, HoldFor: b.HoldFor, MaxDelay: b.MaxDelay}
	moved := false
	switch b.Op {
	case headgate.Reset:
		n.Reset(now, m.epoch)
		if moved = len(n.Leases) > 0; !moved {
			m.record = algo.Budget{}
		}
		call.Op, call.Cost = headgate.Peek, 0
		n.Apply(&call, m.epoch, o)
	case headgate.Take:
		n.Apply(&call, m.epoch, o)
		moved = o.Allowed && (c.Cost > 0 || call.Reserves(c.Limit.Algorithm)) || other && !o.Allowed && !o.Never && c.Cost > 0
	default:
		n.Apply(&call, m.epoch, o)
		switch b.Op {
		case headgate.Peek:
		case headgate.Debit:
			moved = c.Cost > 0
		case headgate.Settle, headgate.Renew:
			moved = !fresh && o.Allowed
		case headgate.Release: // of what is no concurrency limit
			moved = other
		default:
			moved = !fresh
		}
	}
	if moved && c.Limit.Algorithm != headgate.Ban {
		m.record = n
	}
}

// budgetRun compares the script with the model on one budget.
type budgetRun struct {
	*testing.T
	store   *scriptStore
	limits  []*headgate.Prepared
	model   budgetModel
	rng     *rand.Rand
	now     int64
	sent    []headgate.LeaseRequest
	holders map[[2]uint64]headgate.LeaseReply
	// granted, epochs and refused count what the workload reaches.
	granted, epochs, refused int
}

// Buckets, windows and quotas go through epochs, other numbers, reservations and leases
// that are reported honestly, twice, late and falsely.
func TestScriptBudgets(t *testing.T) {
	for i, limits := range budgetLimits(t) {
		t.Run(fmt.Sprint(i, " ", limits[0].Algorithm), func(t *testing.T) {
			r := &budgetRun{
				T: t, store: newScriptStore(t, true), limits: limits, rng: rand.New(rand.NewPCG(*scriptSeed, uint64(i))),
				now: time.Now().Truncate(time.Hour).UnixMicro(), holders: make(map[[2]uint64]headgate.LeaseReply),
			}
			r.model.epoch = headgate.Epoch{ID: 1}
			for n := range *budgetOps {
				r.step(n)
			}
			leasable := algo.Leasable(limits[0], &algo.DefaultTerms) && limits[0].Algorithm != headgate.Ban
			if leasable && r.granted < *budgetOps/100 || r.epochs < *budgetOps/2000 || leasable && r.refused < *budgetOps/100 {
				t.Errorf("%d grants, %d epochs, %d refusals", r.granted, r.epochs, r.refused)
			}
		})
	}
}

func (r *budgetRun) step(n int) {
	switch k := r.rng.IntN(1000); {
	case k < 500:
	case k < 900:
		r.now += r.rng.Int64N(300_000)
	case k < 970:
		r.now += r.rng.Int64N(5_000_000)
	case k < 975:
		r.now += r.rng.Int64N(3_000_000_000)
	case k < 980: // another incarnation, noticed now
		e := &r.model.epoch
		e.ID++
		e.Since = max(e.Since+1, r.now-r.rng.Int64N(100_000_000)) // noticed long ago, by others
		if r.rng.IntN(3) > 0 {
			e.Since = r.now + algo.DefaultTerms.TTL
		}
		r.epochs++
	}
	r.store.epoch = r.model.epoch
	if r.rng.IntN(2) == 0 {
		r.acquire(n)
	} else {
		r.batch(n)
	}
}

func (r *budgetRun) limit() *headgate.Prepared {
	if r.rng.IntN(20) == 0 {
		return r.limits[r.rng.IntN(len(r.limits))]
	}
	return r.limits[r.now/20_000_000%int64(len(r.limits))]
}

func (r *budgetRun) batch(n int) {
	b := new(headgate.Batch)
	op := headgate.Take
	if r.rng.IntN(2) == 0 {
		op = headgate.Op(r.rng.IntN(8))
	}
	b.Reset(op)
	b.Now, b.Hold = r.now, uint64(r.rng.IntN(4))
	if b.Hold > 0 && r.rng.IntN(3) == 0 {
		b.HoldFor = 1 + r.rng.Int64N(3_000_000)
	}
	if r.rng.IntN(50) == 0 {
		b.Hold = algo.LeaseHold
	}
	l := r.limit()
	cost := 1 + r.rng.Int64N(max(1, l.Count/10))
	if l.Burst > 0 {
		cost = 1 + r.rng.Int64N(max(1, l.Burst/10))
	}
	switch r.rng.IntN(10) {
	case 0:
		cost = 0
	case 1:
		cost *= 12
	case 2, 3, 4, 5:
		cost = 1 + cost/30
	}
	if op == headgate.Reset && r.rng.IntN(3) > 0 || op == headgate.Refund && r.rng.IntN(3) > 0 {
		return
	}
	if _, err := b.Add(headgate.Charge{Limit: l, Owner: "alice", Cost: cost}); err != nil {
		r.Fatal(err)
	}
	if err := r.store.Apply(r.Context(), b); err != nil {
		r.Fatalf("step %d: %v", n, err)
	}
	var want headgate.Outcome
	was := r.model.record.Clone()
	r.model.do(b, b.At, &want)
	if !want.Allowed {
		r.refused++
	}
	if got := b.Outcomes()[0]; got != want {
		r.Fatalf("step %d: %v of %d at %d, hold %d for %d, epoch %v, %v %d/%v, on %+v:\n got %+v\nwant %+v",
			n, op, cost, b.At, b.Hold, b.HoldFor, r.model.epoch, l.Algorithm, l.Count, l.Period, was, got, want)
	}
}

func (r *budgetRun) acquire(n int) {
	q := r.request()
	r.sent = append(r.sent[max(0, len(r.sent)-20):], q)
	if err := r.store.Apply(r.Context(), &headgate.Batch{Now: r.now}); err != nil { // tells the time
		r.Fatal(err)
	}
	var got, want headgate.LeaseReply
	replies := make([]headgate.LeaseReply, 1)
	if err := r.store.Acquire(r.Context(), []headgate.LeaseRequest{q}, replies); err != nil {
		r.Fatalf("step %d: %v", n, err)
	}
	got = replies[0]
	was, record := r.model.record.Clone(), r.model.record.Clone()
	if record.Acquire(&q, r.store.now, r.model.epoch, &algo.DefaultTerms, &want) {
		r.model.record = record
	}
	if got != want {
		r.Fatalf("step %d: acquire %+v at %d, epoch %v, %v %d/%v, on %+v under %+v:\n got %+v\nwant %+v",
			n, q, r.store.now, r.model.epoch, q.Limit.Algorithm, q.Limit.Count, q.Limit.Period, was, was.Limit, got, want)
	}
	if want.Granted > q.Granted {
		r.granted++
	}
	if want.Status == headgate.LeaseOK {
		r.holders[q.Holder] = want
	} else {
		delete(r.holders, q.Holder)
	}
}

// request makes up what a holder may ask.
func (r *budgetRun) request() headgate.LeaseRequest {
	if len(r.sent) > 0 && r.rng.IntN(6) == 0 {
		return r.sent[r.rng.IntN(len(r.sent))] // again, or late
	}
	l := r.limit()
	id := uint64(r.rng.IntN(5))
	q := headgate.LeaseRequest{Limit: l, Owner: "alice", Holder: [2]uint64{id, ^id}, Want: r.rng.Int64N(400) - 20, Min: r.rng.Int64N(10)}
	if l.Burst > 1_000_000 {
		q.Want *= 1_000_000
	}
	if last, ok := r.holders[q.Holder]; ok {
		q.Epoch, q.Window, q.Granted = last.Epoch, last.Window, last.Granted
		q.Settled = r.rng.Int64N(last.Granted + 1)
		q.Returned = r.rng.Int64N(q.Settled + 1)
		q.Floor, q.FloorWindow = last.Count, last.Window
	}
	if r.rng.IntN(15) == 0 { // a lie
		switch r.rng.IntN(5) {
		case 0:
			q.Granted += r.rng.Int64N(1000) - 500
		case 1:
			q.Settled += r.rng.Int64N(5000)
		case 2:
			q.Returned += r.rng.Int64N(5000)
		case 3:
			q.Epoch++
		case 4:
			q.Window++
		}
	}
	return q
}
