package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// share is the part of a batch that stands in one partition.
type share struct {
	job
	rank    int
	charges []int // their places in the whole batch
	// once is the place in the whole batch of the charge that remembers its key,
	// -1 if it is in another share.
	once int
	// batch asks for some of the charges: those at places.
	batch  headgate.Batch
	places []int
	space  []int
}

// crossing is a batch whose charges stand in several partitions, in the order in
// which they are taken.
type crossing struct {
	batch  *headgate.Batch
	shares []*share
	all    []*share // made so far
}

var crossings = sync.Pool{New: func() any { return new(crossing) }}

// never is a limit that refuses its charge without a chance, and so everything
// that is asked with it; the state that it would have is never kept.
var never = func() headgate.Charge {
	l, err := headgate.Window(1, time.Second).WithScope("\x00redisstore").WithName("never").Prepare()
	if err != nil {
		panic(err) // the numbers are right
	}
	return headgate.Charge{Limit: l, Cost: 2, Parent: true}
}()

// across decides a batch of several partitions. There is no instant at which all
// of them are seen. A Take looks everywhere first, and takes only if all pass:
// from the subject's own partition first, so that nobody else's budget is parked
// while others are asked, and for good from the last one, which is the one that
// most callers share. If one refuses after all, what was taken before is given
// back. Other operations are done in every partition by itself.
func (s *Store) across(w *patience, b *headgate.Batch) error {
	x := crossings.Get().(*crossing)
	defer func() {
		x.batch = nil
		crossings.Put(x)
	}()
	x.split(s, b)
	if b.Op == headgate.Take {
		return x.take(w)
	}
	x.fill(0)
	if err := x.ask(w); err != nil {
		return err
	}
	x.collect()
	b.Allowed = true
	for _, sh := range x.shares {
		b.Allowed = b.Allowed && sh.batch.Allowed
	}
	return nil
}

// The ranks of shares: the order in which they are taken.
const (
	rankOwn    = iota // the subject's
	rankParent        // such as an organisation's
	rankWide          // of everybody, such as an application's
)

// split divides the batch's charges by partition.
func (x *crossing) split(s *Store, b *headgate.Batch) {
	x.batch = b
	n := 0
	keyed := b.Op == headgate.Take && b.Key != (headgate.RequestKey{})
	for i := range b.Charges() {
		c := &b.Charges()[i]
		p := &s.partitions[s.scheme.partition(c.Owner, c.Limit)]
		at := slices.IndexFunc(x.all[:n], func(sh *share) bool { return sh.partition == p })
		if at < 0 {
			at = n
			if n == len(x.all) {
				x.all = append(x.all, new(share))
			}
			n++
			sh := x.all[at]
			sh.job = job{store: s, partition: p, batch: &sh.batch}
			sh.charges, sh.once, sh.rank = sh.charges[:0], -1, rankWide
		}
		sh := x.all[at]
		if keyed && c.Limit.Algorithm == headgate.Idempotency {
			sh.once, keyed = i, false
		}
		sh.charges = append(sh.charges, i)
		switch {
		case c.Owner == "":
		case c.Parent && c.Limit.Algorithm != headgate.Idempotency:
			sh.rank = min(sh.rank, rankParent)
		default:
			sh.rank = rankOwn
		}
	}
	x.shares = append(x.shares[:0], x.all[:n]...)
	slices.SortStableFunc(x.shares, func(a, b *share) int { return a.rank - b.rank })
}

// fill makes the shares' batches, with room for more charges.
func (x *crossing) fill(more int) {
	for _, sh := range x.shares {
		sh.op, sh.trial, sh.places = scriptOp(x.batch.Op), 0, sh.charges
		copyBatch(&sh.batch, x.batch, sh.places, more)
		if sh.once < 0 {
			sh.batch.Key = headgate.RequestKey{}
		}
	}
}

// ask sends all shares' batches and waits for their answers. The error is the
// first one in their order.
func (x *crossing) ask(w *patience) error {
	for _, sh := range x.shares {
		sh.begin()
	}
	var first error
	x.batch.At = 0
	for _, sh := range x.shares {
		if err := sh.end(w); err != nil && first == nil {
			first = err
		}
		x.batch.At = max(x.batch.At, sh.batch.At)
	}
	return first
}

// collect copies the shares' outcomes into the batch.
func (x *crossing) collect() {
	for _, sh := range x.shares {
		sh.collect(x.batch)
	}
}

func (sh *share) collect(b *headgate.Batch) {
	b.At = max(b.At, sh.batch.At)
	for i, at := range sh.places {
		b.Outcomes()[at] = sh.batch.Outcomes()[i]
	}
}

// passes reports whether the share's charges themselves let the batch pass.
func (sh *share) passes() bool {
	outcomes := sh.batch.Outcomes()
	for i := range sh.places {
		if !outcomes[i].Allowed && !sh.batch.Charges()[i].Shadow {
			return false
		}
	}
	return true
}

// take decides a Take.
func (x *crossing) take(w *patience) error {
	b := x.batch
	if err := x.look(w); err != nil || b.Replayed || !b.Allowed {
		return err
	}
	var taken []*share
	for _, step := range x.steps() {
		for _, sh := range step {
			sh.begin()
		}
		var first error
		for _, sh := range step {
			switch err := sh.end(w); {
			case err != nil:
				if first == nil {
					first = err
				}
			case sh.batch.Allowed:
				taken = append(taken, sh)
			default:
				sh.collect(b)
				b.Allowed = false
			}
		}
		if first != nil || !b.Allowed {
			x.giveBack(w, taken)
			return first
		}
	}
	for _, sh := range taken {
		sh.collect(b)
	}
	if decided, err := x.remember(w, taken); decided {
		return err
	}
	x.confirm(w, taken)
	return nil
}

// steps makes the batches of the shares that there is something to take from, in
// groups of which each is taken at once: one for each rank, and the last share,
// which is taken for good, by itself.
func (x *crossing) steps() [][]*share {
	var all []*share
	for _, sh := range x.shares {
		if sh.fillTake(x.batch) {
			all = append(all, sh)
		}
	}
	last := len(all) - 1
	all[last].trial = 0
	var steps [][]*share
	for from, i := 0, 1; i <= last; i++ {
		if i == last || all[i].rank != all[from].rank {
			steps = append(steps, all[from:i])
			from = i
		}
	}
	return append(steps, all[last:])
}

// look asks every partition whether it would pass, by a Take that cannot. So a
// request that was allowed before is found, and a refusal by limits of the
// subject's own counts towards its ban, as it would in one partition.
func (x *crossing) look(w *patience) error {
	b := x.batch
	x.fill(1)
	for _, sh := range x.shares {
		c := never
		c.Owner = sh.stranger()
		if _, err := sh.batch.Add(c); err != nil {
			return err
		}
	}
	if err := x.ask(w); err != nil {
		return err
	}
	x.collect()
	b.Allowed = true
	for _, sh := range x.shares {
		if sh.once >= 0 && sh.batch.Replayed {
			return x.replay(w, sh.batch.Hold)
		}
		b.Allowed = b.Allowed && sh.passes()
	}
	return nil
}

// stranger returns an owner whose budgets stand in the share's partition.
func (sh *share) stranger() string {
	for i := range sh.batch.Charges() {
		if owner := sh.batch.Charges()[i].Owner; owner != "" {
			return owner // costs no other key
		}
	}
	return strangers()[sh.partition.index]
}

// replay answers a Take that was allowed before, under the hold of then: with
// the present states.
func (x *crossing) replay(w *patience, hold uint64) error {
	x.fill(0)
	for _, sh := range x.shares {
		sh.op = scriptOp(headgate.Peek)
		sh.batch.Op = headgate.Peek
		for i := range sh.batch.Charges() {
			sh.batch.Charges()[i].Cost = 0
		}
	}
	if err := x.ask(w); err != nil {
		return err
	}
	x.collect()
	x.batch.Allowed, x.batch.Replayed, x.batch.Hold = true, true, hold
	return nil
}

// fillTake makes the share's batch for the take itself, on trial and without what
// remembers the request: that is done when all have passed. It reports whether
// there is anything to take.
func (sh *share) fillTake(b *headgate.Batch) bool {
	sh.space = sh.space[:0]
	for _, at := range sh.charges {
		if at != sh.once {
			sh.space = append(sh.space, at)
		}
	}
	sh.places = sh.space
	if len(sh.places) == 0 {
		return false
	}
	copyBatch(&sh.batch, b, sh.places, 0)
	sh.batch.Key = headgate.RequestKey{}
	sh.trial = 0
	if b.HoldFor == 0 {
		sh.trial = newTrial()
	}
	return true
}

// newTrial returns a name for what is taken on trial.
func newTrial() uint64 {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	return max(1, binary.LittleEndian.Uint64(raw[:]))
}

// giveBack undoes what was taken, so that whoever is refused finds nothing moved.
func (x *crossing) giveBack(w *patience, taken []*share) {
	jobs := make([]job, len(taken))
	for i, sh := range taken {
		jobs[i] = sh.job
		jobs[i].batch, jobs[i].op = passed(&sh.batch), opUndo
	}
	aside(w, jobs)
}

// aside does the jobs whether their caller goes on waiting or not. Where the
// servers cannot be asked, what was taken stays charged.
func aside(w *patience, jobs []job) {
	if len(jobs) == 0 {
		return
	}
	s := jobs[0].store
	finished := make(chan struct{})
	if !s.background(func() {
		defer close(finished)
		w := s.ground.newPatience(context.Background(), backgroundTime)
		defer w.stop()
		for i := range jobs {
			jobs[i].begin()
		}
		for i := range jobs {
			if err := jobs[i].end(&w); err == nil && jobs[i].op == opUndo {
				s.stats.undone.Add(1)
			}
		}
	}) {
		return
	}
	select {
	case <-finished:
	case <-w.ctx.Done():
	case <-w.over():
		w.ended = true
	}
}

// remember keeps an allowed request. It reports whether the batch is decided
// thereby: another request of the same key was faster. Where the server cannot
// be asked a retry is charged again, never let through free.
func (x *crossing) remember(w *patience, taken []*share) (decided bool, err error) {
	b := x.batch
	i := slices.IndexFunc(x.shares, func(sh *share) bool { return sh.once >= 0 })
	if i < 0 {
		return false, nil
	}
	at, j := x.shares[i].once, x.shares[i].job
	j.batch, j.op, j.trial = duplicate(b, []int{at}), scriptOp(headgate.Take), 0
	j.begin()
	if err := j.end(w); err != nil {
		if headgate.CodeOf(err) != headgate.Conflict {
			return false, nil
		}
		x.giveBack(w, taken)
		return true, err
	}
	if j.batch.Replayed {
		x.giveBack(w, taken)
		return true, x.replay(w, j.batch.Hold)
	}
	b.Outcomes()[at] = j.batch.Outcomes()[0]
	return false, nil
}

// confirm ends the trials of a Take that passed: what they hold is charged for
// good, and refills again.
func (x *crossing) confirm(w *patience, taken []*share) {
	var jobs []job
	for _, sh := range taken {
		if sh.trial == 0 {
			continue
		}
		settle := new(headgate.Batch)
		settle.Reset(headgate.Settle)
		settle.Hold, settle.Now = sh.trial, x.batch.Now
		settle.Room(len(sh.places))
		for i, c := range sh.batch.Charges() {
			if c.Cost > 0 && c.Limit.Algorithm < headgate.Concurrency && sh.batch.Outcomes()[i].Allowed {
				_, _ = settle.Add(c) // as it stood in the other batch
			}
		}
		if len(settle.Charges()) > 0 {
			j := sh.job
			j.batch, j.op, j.trial = settle, scriptOp(headgate.Settle), 0
			jobs = append(jobs, j)
		}
	}
	aside(w, jobs)
}
