package gate

import (
	"context"
	"time"

	"github.com/headgate/headgate"
)

// apply lets the store decide, and fills in the rest of d.
func (q *question) apply(ctx context.Context, d *Decision) error {
	passed := q.passed()
	var err error
	switch wait, _ := q.wait(); {
	case d.n == 0:
		d.Allowed, d.Reason = true, passed
	case wait > 0 && q.op == headgate.Take && q.waits():
		err = q.applyInLine(ctx, d, passed, wait)
	default:
		if err = q.put(ctx, d, passed); err == nil {
			err = q.rest(ctx, d)
		}
	}
	// A replay was counted before, and who is banned never gets as far as limits.
	if err == nil && q.rule.hasCandidate && !d.Replayed && d.Degraded == "" && d.Reason != headgate.Banned {
		q.applyCandidate(ctx, d)
	}
	return err
}

// waits reports whether the gate may let the request wait.
func (q *question) waits() bool { return !q.called && q.request.waits() }

// passed is the reason of an allowance.
func (q *question) passed() headgate.Reason {
	if q.rule == q.app.noRule {
		return headgate.NoRule
	}
	return headgate.OK
}

// ask lets the store decide d's batch once.
func (g *Gate) ask(ctx context.Context, d *Decision, passed headgate.Reason) error {
	d.whole()
	if err := g.store.Apply(ctx, &d.batch); err != nil {
		return g.degrade(ctx, d, passed, err)
	}
	d.sum(passed)
	return nil
}

// sum makes the answer of the batch's outcomes.
func (d *Decision) sum(passed headgate.Reason) {
	d.Shadow, d.WouldDeny = d.fill(), headgate.NoReason
	d.Decision = d.batch.Decision()
	d.Replayed = d.batch.Replayed
	if d.Shadow {
		d.WouldDeny = d.batch.WouldDeny()
	}
	if d.Allowed {
		d.Reason = passed
	}
}

// rest lets an allowed request wait for as long as a leaky bucket says. Who
// brings the instant of the decision waits by his own clock.
func (q *question) rest(ctx context.Context, d *Decision) error {
	if d.Delay == 0 || q.op != headgate.Take || !q.waits() {
		return nil
	}
	if !q.gate.lines.enter() {
		return nil // too many wait already: the caller is told the delay
	}
	defer q.gate.lines.exit()
	if err := sleep(ctx, d.Delay, nil); err != nil {
		d.Kept = q.giveUp(ctx, d)
		return err
	}
	d.Waited += d.Delay
	d.Delay = 0
	return nil
}

// giveUp frees what the charged d holds, as nobody gets its ticket. What it
// charged beside stays charged: the place of a leaky bucket cannot be given to
// another, and giving back what is not held could mint. A request with an
// idempotency key keeps all for its retry. It reports whether anything stays charged.
func (q *question) giveUp(ctx context.Context, d *Decision) (kept bool) {
	if d.batch.Hold == 0 || d.Replayed || d.batch.Key != (headgate.RequestKey{}) {
		return !d.Replayed
	}
	var b headgate.Batch
	d.holding(&b, headgate.Settle)
	if err := q.gate.keeper(d).Apply(context.WithoutCancel(ctx), &b); err != nil {
		q.gate.reportStore(err) // it expires by itself
	}
	return q.holdFor == 0 // a reservation holds all that it was charged
}

// applyCandidate decides the rule's candidate limits beside the live ones, whose
// answer it never changes: a request that they cannot decide, as it lacks an
// attribute or a cost, has no candidate's answer.
func (q *question) applyCandidate(ctx context.Context, d *Decision) {
	if d.candidate == nil {
		d.candidate = new(candidate)
	}
	c := d.candidate
	c.reset(q.op, q.request.Now)
	q.forced = nil // an operator's shadow is for what is live
	if err := q.charge(d, &c.tally, q.rule.candidate); err != nil {
		return
	}
	c.batch.Patience = q.patience(false)
	if c.n == 0 {
		c.sum, d.candidacy = headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1}, true
		return
	}
	if err := q.gate.store.Apply(ctx, &c.batch); err != nil {
		q.gate.reportStore(err)
		return
	}
	c.fill()
	c.sum, d.candidacy = c.batch.Decision(), true
}

// reportEvery is how often it is logged that the store cannot decide, in seconds.
const reportEvery = 60

// reportStore logs that the store could not decide, now and then.
func (g *Gate) reportStore(err error) {
	n, now := g.storeFailures.Add(1), time.Now().Unix()
	// A clock that was set back may not silence it.
	if last := g.storeReported.Load(); (now-last >= reportEvery || now < last) && g.storeReported.CompareAndSwap(last, now) {
		g.log.Warn("store could not decide", "error", err, "so far", n)
	}
}
