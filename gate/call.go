package gate

import (
	"context"
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// TakeDescriptors decides the requests of one call together, as [Gate.TakeAll] does, by
// whose contract it goes: each is charged, or none is. Beyond that contract
//
//   - a request whose rule another matched rule of the call replaces is charged nothing:
//     it is Replaced, and Allowed for the reason Skipped whatever becomes of the call;
//   - of all requests whose rules are in quota mode, the call needs one whose own limits
//     pass, and the limits of the other rules must pass as ever. Of the others in quota
//     mode those that pass are charged, and the limits of the rest are in shadow for this
//     call (ShadowByQuotaMode). The first that would pass is tried. Where others take what
//     it found, the next is, up to maxTries times, and then the call is refused. A call that
//     is refused has charged nothing;
//   - where requests charge the same budget, the state of each is that right after it, as
//     if they had come one after the other. What they ask of one budget passes whole or
//     not at all, also in shadow.
//
// allowed says whether the call passes. Its descriptors tell by themselves: where it is
// refused, those whose own limits would pass have the reason BatchRefused.
func (g *Gate) TakeDescriptors(ctx context.Context, rs []*Request, ds []*Decision) (allowed bool, failed int, err error) {
	if len(rs) == 1 {
		failed, err = g.takeOne(ctx, rs[0], ds[0])
		return err == nil && ds[0].Allowed, failed, err
	}
	t, err := g.gather(rs, ds)
	if err != nil {
		return false, -1, err
	}
	defer t.free()
	t.ordered = true
	snap := g.current.Load()
	for i := range rs {
		t.qs[i].snap = snap
		if err := t.find(i); err != nil {
			return false, i, err
		}
	}
	t.replace()
	for i := range rs {
		if t.decided[i] {
			continue
		}
		if err := t.prepare(i); err != nil {
			return false, i, err
		}
	}
	if failed, err = t.decide(ctx); err != nil {
		return false, failed, err
	}
	return !slices.ContainsFunc(ds, func(d *Decision) bool { return !d.Allowed }), -1, nil
}

// takeOne decides the only request of a call.
func (g *Gate) takeOne(ctx context.Context, r *Request, d *Decision) (failed int, err error) {
	q := question{gate: g, op: headgate.Take, request: r, called: true}
	if err := checkAtomic(r); err != nil {
		return 0, err
	}
	settled, err := q.prepare(d)
	switch {
	case err != nil:
		return 0, err
	case settled:
		return -1, nil
	}
	return -1, q.apply(ctx, d)
}

// replace settles the requests whose rules others of the call replace.
func (t *together) replace() {
	for i := range t.qs {
		by := &t.qs[i]
		if by.rule.replaces == nil {
			continue
		}
		for j := range t.qs {
			if _, ok := by.rule.replaces[t.qs[j].rule.name]; !ok || t.decided[j] || t.qs[j].app != by.app {
				continue
			}
			d := t.ds[j]
			d.Replaced, d.Allowed, d.Reason = true, true, headgate.Skipped
			t.settle(j)
		}
	}
}

// maxTries bounds how often the store is asked for one call: the answer to one try tells
// which to try next, so there are more than two only where others take what it told of.
const maxTries = 4

// choose lets apply decide the first charges of each decision, as many as it says. Where
// limits are in quota mode, the first request whose limits pass is the one whose limits
// must. t.refused tells of a refusal. All tries together have the time that one has.
func (t *together) choose(ctx context.Context, charges func(*Decision) int, apply func(context.Context, *headgate.Batch) error) (failed int, err error) {
	t.choices = t.choices[:0]
	if t.ordered && t.passes {
		t.findChoices(charges)
	}
	all, chosen, last := &t.all, -1, len(t.choices) < 2
	if len(t.choices) > 0 {
		chosen = t.choices[0]
	}
	var began time.Time
	if !last {
		began = time.Now()
	}
	for try := 1; ; try++ {
		if failed, err := t.batch(charges, chosen); err != nil {
			return failed, err
		}
		if try > 1 && all.Patience > 0 {
			all.Patience = max(1, all.Patience-time.Since(began).Microseconds())
		}
		last = last || try == maxTries
		all.Again = !last && slices.ContainsFunc(all.Charges(), isBan)
		if all.Allowed = true; len(all.Charges()) > 0 {
			if err := apply(ctx, all); err != nil {
				return -1, err
			}
		}
		if all.Allowed {
			return -1, nil
		}
		t.refused = all.Decision()
		next := -1
		if len(t.choices) > 1 && !t.othersRefuse(charges) {
			next = t.nextChoice(charges)
		}
		switch {
		case last, next < 0 && !all.Again:
			return -1, nil
		case next < 0:
			last = true // what is asked once more is the answer, which bans count
		default:
			chosen = next
		}
	}
}

// nextChoice returns the first request in quota mode whose limits would have passed the
// try that was refused, -1 if there is none. t.refused is then the refusal of the one that
// passes soonest.
func (t *together) nextChoice(charges func(*Decision) int) int {
	for k, i := range t.choices {
		refused := t.refusal(i, charges(t.ds[i]))
		if refused.Allowed {
			return i
		}
		if k == 0 || sooner(&refused, &t.refused) {
			t.refused = refused
		}
	}
	return -1
}

// refusal returns how the first n charges of request i refuse it, and whether they do.
func (t *together) refusal(i, n int) (d headgate.Decision) {
	d.Allowed, d.Retryable = true, true
	outcomes := t.all.Outcomes()
	for j, c := range t.ds[i].batch.Charges()[:n] {
		if o := &outcomes[t.places[i][j]]; !c.Shadow && !o.Allowed {
			d.Allowed, d.Retryable = false, d.Retryable && !o.Never
			d.RetryAfter = max(d.RetryAfter, o.RetryAfter)
		}
	}
	if !d.Retryable {
		d.RetryAfter = 0
	}
	return d
}

func isBan(c headgate.Charge) bool { return c.Limit.Algorithm == headgate.Ban }

func sooner(a, b *headgate.Decision) bool {
	if a.Retryable != b.Retryable {
		return a.Retryable
	}
	return a.RetryAfter < b.RetryAfter
}

// findChoices finds the requests of which one must pass. There is none if one in quota
// mode has no limit that could refuse it.
func (t *together) findChoices(charges func(*Decision) int) {
	for i, d := range t.ds {
		if !t.qs[i].rule.quotaMode || d.Replaced {
			continue
		}
		if !slices.ContainsFunc(d.limits[:min(d.n, charges(d))], func(s LimitState) bool { return s.quotaMode }) {
			t.choices = t.choices[:0]
			return
		}
		t.choices = append(t.choices, i)
	}
}

// othersRefuse reports whether a limit refuses that is not in quota mode.
func (t *together) othersRefuse(charges func(*Decision) int) bool {
	outcomes := t.all.Outcomes()
	for i, d := range t.ds {
		for j, c := range d.batch.Charges()[:charges(d)] {
			if !c.Shadow && !d.limits[j].quotaMode && !outcomes[t.places[i][j]].Allowed {
				return true
			}
		}
	}
	return false
}

// inOrder makes of the state after all requests that charge a budget, or would have, what
// it is right after those that ask for so much.
func inOrder(c *headgate.Charge, o *headgate.Outcome, taken bool, charged int64) {
	later := c.Cost - charged
	switch {
	case later == 0 || o.Allowed && !taken:
	case o.Allowed:
		over := min(later, o.Overage)
		o.Used, o.Overage, o.Remaining = o.Used-later, o.Overage-over, o.Remaining+later-over
	case c.Limit.Algorithm == headgate.LeakyBucket || c.Limit.Algorithm == headgate.Ban:
		// What remains does not tell whether they refuse.
	case charged <= o.Remaining && o.Overage == 0:
		o.Allowed, o.Never, o.Recovering, o.RetryAfter = true, false, false, 0
	}
}
