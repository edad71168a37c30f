package cas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// share is the part of a batch whose charges stand in one item.
type share struct {
	key    Key
	places []int // of its charges in the batch
	rank   int   // the least width of its charges: shares are taken in this order
	once   int   // the place of the charge that remembers the batch's key; -1 if it is elsewhere
	moves  bool  // there is something to take
	holds  bool  // and something of that is held while it is on trial
	trial  uint64
	marks  []mark // of what was taken
	begun  bool   // it was asked to take
}

// crossing is a batch over several items of a table that changes one at a time.
type crossing struct {
	store  *Store
	batch  *headgate.Batch
	hold   uint64   // that the batch asks with; the batch's own may be that of the first request with its key
	shares []*share // in the order in which they are taken
	once   *share   // that remembers the batch's key; nil if there is none
	last   *share   // that is taken last; nil if there is nothing to take
	// crowded says that a budget has as many reservations as may be.
	crowded bool
}

// across decides a batch whose items c has, item by item.
func (s *Store) across(ctx context.Context, b *headgate.Batch, c *call) error {
	end, ok := s.begin()
	if !ok {
		return errClosed
	}
	defer end()
	if patience := time.Duration(b.Patience) * time.Microsecond; patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v", patience))
		defer cancel()
	}
	x := crossing{store: s, batch: b, hold: b.Hold}
	x.split(c)
	b.Allowed, b.Replayed, b.At = true, false, 0
	if b.Op == headgate.Take {
		return x.take(ctx)
	}
	return x.each(ctx, x.shares, b.Op, decides)
}

// split divides the charges by item.
func (x *crossing) split(c *call) {
	b := x.batch
	x.shares = make([]*share, len(c.keys))
	for i, k := range c.keys {
		x.shares[i] = &share{key: k, rank: widths, once: -1}
	}
	keyed := b.Op == headgate.Take && b.Key != (headgate.RequestKey{})
	for i, at := range c.places {
		charge, sh := &b.Charges()[i], x.shares[at]
		sh.places = append(sh.places, i)
		sh.rank = min(sh.rank, width(charge))
		switch a := charge.Limit.Algorithm; {
		case keyed && a == headgate.Idempotency:
			keyed, sh.once, x.once = false, i, sh
		case a < headgate.Ban:
			sh.moves = sh.moves || charge.Cost > 0 || b.HoldFor > 0
			sh.holds = sh.holds || charge.Cost > 0 && tried(charge.Limit)
		}
	}
	slices.SortStableFunc(x.shares, func(a, b *share) int { return a.rank - b.rank })
	for _, sh := range x.shares {
		if sh.moves {
			x.last = sh
		}
	}
}

// ask sends a share on its way.
func (x *crossing) ask(sh *share, op headgate.Op, step step) *call {
	s, b := x.store, x.batch
	c := s.calls.Get().(*call)
	c.clear(s, b)
	c.hold = x.hold
	c.step, c.trial, c.marks, c.batch.Op = step, sh.trial, sh.marks, op
	c.keys = append(c.keys, sh.key)
	c.batch.Room(len(sh.places))
	if sh.once < 0 {
		c.batch.Key = headgate.RequestKey{}
	}
	for _, at := range sh.places {
		charge := b.Charges()[at]
		if b.Replayed && op == headgate.Peek {
			charge.Cost = 0
		}
		// Charges that stood side by side in one batch fit into another.
		_, _ = c.batch.Add(charge)
		c.places = append(c.places, 0)
	}
	if step == decides && op == headgate.Take {
		sh.begun, c.marking = true, x.undoable(sh)
		c.batch.Key = headgate.RequestKey{} // when all have passed
	}
	c.aside = step == undoes || step == confirms
	s.laneOf(c).enqueue(c)
	return c
}

// undoable reports whether what a share takes can be given back.
func (x *crossing) undoable(sh *share) bool { return sh.trial != 0 || x.batch.HoldFor > 0 }

// end waits for a share and copies its outcomes. passed is what the share says, and
// replayed that the batch was allowed before, under hold. When the error is that
// nobody waits any more, the call may still be done.
func (x *crossing) end(ctx context.Context, sh *share, c *call) (passed, replayed bool, hold uint64, err error) {
	if err := x.store.wait(ctx, c, 0); err != nil {
		return false, false, 0, err
	}
	b := x.batch
	b.At = max(b.At, c.batch.At)
	for i, at := range sh.places {
		if c.step == confirms && at != sh.once {
			continue
		}
		b.Outcomes()[at] = c.batch.Outcomes()[i]
	}
	if sh.marks = c.marks; c.step == decides && c.err != nil {
		sh.marks = nil // what stands like that may be what somebody else has made
	}
	passed, replayed, hold, err = c.batch.Allowed, c.batch.Replayed, c.batch.Hold, c.err
	x.store.calls.Put(c)
	return passed, replayed, hold, err
}

// each does a step of the shares at once. The error is the first one in their order.
func (x *crossing) each(ctx context.Context, shares []*share, op headgate.Op, step step) error {
	calls := make([]*call, len(shares))
	for i, sh := range shares {
		calls[i] = x.ask(sh, op, step)
	}
	b := x.batch
	var first error
	for i, sh := range shares {
		passed, replayed, hold, err := x.end(ctx, sh, calls[i])
		switch {
		case err == error(errHolds):
			x.crowded = true
		case err != nil:
			if first == nil {
				first = err
			}
		case replayed:
			b.Replayed, b.Hold = true, hold
		default:
			b.Allowed = b.Allowed && passed
		}
	}
	return first
}

// verdict is whether the batch is not to be gone on with. That a budget is crowded
// counts only where nothing refuses.
func (x *crossing) verdict(err error) (over bool, _ error) {
	if err == nil && x.crowded && x.batch.Allowed {
		x.batch.Allowed, err = false, errHolds
	}
	return err != nil || !x.batch.Allowed || x.batch.Replayed, err
}

// take decides a Take: it looks everywhere, and takes only if all pass.
func (x *crossing) take(ctx context.Context) error {
	if over, err := x.verdict(x.look(ctx)); over {
		return err
	}
	for _, step := range x.steps() {
		if over, err := x.verdict(x.each(ctx, step, headgate.Take, decides)); over {
			x.undo(ctx, err != nil)
			return err
		}
	}
	return x.confirm(ctx)
}

// look asks every item whether it would pass, and first the one that may know that
// the request was allowed before.
func (x *crossing) look(ctx context.Context) error {
	b, others := x.batch, x.shares
	if x.once != nil {
		if err := x.each(ctx, []*share{x.once}, headgate.Take, looks); err != nil {
			return err
		}
		if b.Replayed {
			return x.replay(ctx)
		}
		others = slices.DeleteFunc(slices.Clone(others), func(sh *share) bool { return sh == x.once })
	}
	return x.each(ctx, others, headgate.Take, looks)
}

// replay answers with the present states.
func (x *crossing) replay(ctx context.Context) error {
	hold := x.batch.Hold
	err := x.each(ctx, x.shares, headgate.Peek, decides)
	x.batch.Allowed, x.batch.Hold = err == nil, hold
	return err
}

// steps are the shares that there is something to take from, in groups of which
// each is taken at once: one for every rank, and the last share by itself. That one
// is taken for good, so that what most callers share is never parked; the others
// are on trial, and so is the last if the batch has a key. A reservation
// has a name of its own.
func (x *crossing) steps() [][]*share {
	var steps [][]*share
	rank := -1
	for _, sh := range x.shares {
		if !sh.moves {
			continue
		}
		if x.batch.HoldFor == 0 && (sh != x.last || x.once != nil) {
			sh.trial = rand.Uint64() | 1
		}
		if sh.rank != rank || sh == x.last {
			steps, rank = append(steps, nil), sh.rank
		}
		n := len(steps) - 1
		steps[n] = append(steps[n], sh)
	}
	return steps
}

// undo gives back what was taken of a batch that was refused or has failed. It is
// done behind what is still on its way to the same item, whether the caller waits
// for it or not.
func (x *crossing) undo(ctx context.Context, failed bool) {
	var calls []*call
	for _, sh := range x.shares {
		if sh.begun && x.undoable(sh) {
			calls = append(calls, x.ask(sh, headgate.Take, undoes))
			x.store.undone.Add(1)
		}
	}
	if failed {
		return
	}
	for _, c := range calls {
		if x.store.wait(ctx, c, 0) != nil {
			return
		}
	}
}

// confirm ends the trials of a batch that has passed. With a key the caller waits
// for it: if another batch with that key was faster, this one is undone. If the key
// cannot be kept a retry is charged again.
func (x *crossing) confirm(ctx context.Context) error {
	if x.once != nil {
		err := x.each(ctx, []*share{x.once}, headgate.Take, confirms)
		switch {
		case headgate.CodeOf(err) == headgate.Conflict:
			x.undo(ctx, false)
			return err
		case err == nil && x.batch.Replayed:
			x.undo(ctx, false)
			return x.replay(ctx)
		}
		x.batch.Allowed = true
	}
	for _, sh := range x.shares {
		if sh.trial != 0 && sh.holds && sh != x.once {
			x.ask(sh, headgate.Take, confirms)
		}
	}
	return nil
}
