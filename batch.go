package headgate

import (
	"fmt"
	"time"
)

// MaxCharges is the largest number of charges that one batch holds.
const MaxCharges = 16

// Op is what a batch asks of the store.
type Op uint8

// The operations. All of them treat a batch as a whole.
const (
	// Take charges every limit, or none if one of them refuses.
	Take Op = iota
	// Peek answers what Take would, and changes nothing. The outcome of each
	// charge is the state as it stands, the cost not taken.
	Peek
	// Refund gives back what an earlier Take charged, never above capacity.
	// Windows and quotas credit the current period only. It is outside the
	// law that no interval exceeds its limit: only for callers that are
	// trusted to tell the truth. Leaky buckets, whose slots are in order of
	// time, Concurrency and Ban ignore it.
	Refund
	// Debit charges without asking, for work that is already done. A bucket
	// goes into debt by at most its capacity; what exceeds a limit is
	// reported as overage. Concurrency and Ban ignore it.
	Debit
	// Release frees the concurrency slots that Batch.Hold took. Other
	// algorithms ignore it.
	Release
	// Renew gives the slots of Batch.Hold another TTL from now. The outcome is
	// Allowed only if the slot was still held. Other algorithms ignore it.
	Renew
	// Reset forgets the state of every charge, as if its key was never seen.
	Reset
)

var opNames = [...]string{"take", "peek", "refund", "debit", "release", "renew", "reset"}

// String returns the operation's name.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Charge asks one limit for a cost on behalf of an owner.
type Charge struct {
	Limit *Prepared
	// Owner is whose budget it is: any bytes. The store hashes it; only a
	// store that was asked to keep keys for listing keeps it in clear.
	Owner string
	// Cost is the number of tokens, 0 to MaxInt. 0 checks and charges nothing.
	Cost int64
	// Shadow charges the limit when it and the batch pass, and lets the batch
	// pass when it refuses.
	Shadow bool
	// Parent says that the owner is not the subject of the request, so that
	// its refusals do not count towards the subject's ban.
	Parent bool
}

// Outcome is the state of one charge's limit after the operation.
type Outcome struct {
	// Allowed is whether this limit, for itself, lets the charge pass.
	Allowed bool
	// Never is true when no amount of waiting lets the cost pass.
	Never bool
	// Limit is the capacity: burst, count or slots, rollover included.
	Limit int64
	// Used and Remaining are whole tokens; Remaining is never negative.
	Used, Remaining int64
	// Overage is what was used above Limit.
	Overage int64
	// RetryAfter is when the same charge would pass if nobody else came; 0
	// when allowed or never. Exact to the microsecond.
	RetryAfter time.Duration
	// ResetAfter is when the state equals "never seen": bucket full, window
	// ended, newest slot expired, ban over.
	ResetAfter time.Duration
	// Delay is how long an allowed charge of a leaky bucket must wait before
	// it starts.
	Delay time.Duration
	// ResetsAt is the end of a quota's period in microseconds since the Unix
	// epoch; 0 for other algorithms.
	ResetsAt int64
}

// Batch is the charges of one request, which a store decides together, and
// their outcomes. The zero value is an empty Take. A batch is large: reuse it.
// It is not safe for concurrent use.
type Batch struct {
	// Op is what is asked.
	Op Op
	// Now is the instant of the decision in microseconds since the Unix epoch.
	// 0 lets the store read its clock, and is what every caller wants that
	// does not hold a reading of that same clock (see [Clock]).
	Now int64
	// Hold names the concurrency slots that a Take takes and that Release and
	// Renew mean: any value that is not 0 and that no live hold has. A Take
	// with 0 takes slots that only their TTL frees.
	Hold uint64

	// Allowed is whether the batch passed. Set by the store.
	Allowed bool
	// At is the instant at which the store decided, in microseconds since the
	// Unix epoch. Set by the store.
	At int64

	n        int
	charges  [MaxCharges]Charge
	outcomes [MaxCharges]Outcome
}

// Reset empties the batch and asks for op.
func (b *Batch) Reset(op Op) {
	b.Op, b.Now, b.Hold, b.Allowed, b.At, b.n = op, 0, 0, false, 0, 0
}

// Add appends a charge and returns its index. A charge of the same limit and
// owner as an earlier one is merged into it, its cost added. The error, an
// *[Error] with code InvalidRequest, says that the cost is out of range, that
// the batch is full, or that two charges of one budget differ in their numbers.
func (b *Batch) Add(c Charge) (int, error) {
	if c.Cost < 0 || c.Cost > MaxInt {
		return 0, costError(c.Cost)
	}
	for i := range b.n {
		o := &b.charges[i]
		if o.Limit.ID != c.Limit.ID || o.Owner != c.Owner {
			continue
		}
		if o.Limit != c.Limit && !o.Limit.SameNumbers(c.Limit) {
			return 0, &Error{Code: InvalidRequest, Err: fmt.Errorf("limit %q is charged twice with different numbers", c.Limit.Name)}
		}
		if o.Cost > MaxInt-c.Cost {
			return 0, costError(c.Cost)
		}
		o.Cost += c.Cost
		o.Shadow, o.Parent = o.Shadow && c.Shadow, o.Parent && c.Parent
		return i, nil
	}
	if b.n == MaxCharges {
		return 0, &Error{Code: InvalidRequest, Err: fmt.Errorf("more than %d limits in one request", MaxCharges)}
	}
	b.charges[b.n] = c
	b.n++
	return b.n - 1, nil
}

func costError(cost int64) error {
	return &Error{Code: InvalidRequest, Field: "cost", Err: fmt.Errorf("%d: must be 0 to %d", cost, int64(MaxInt))}
}

// Charges returns the charges. The slice is valid until the next Reset.
func (b *Batch) Charges() []Charge { return b.charges[:b.n] }

// Outcomes returns the outcomes, one per charge and in their order, which the
// store fills in. The slice is valid until the next Reset.
func (b *Batch) Outcomes() []Outcome { return b.outcomes[:b.n] }

// Decision sums the outcomes up.
func (b *Batch) Decision() Decision {
	d := Decision{Allowed: b.Allowed, Reason: OK, Retryable: true, BoundBy: -1}
	if b.n == 0 {
		return d
	}
	if b.Allowed {
		b.tightest(&d)
	} else {
		b.longest(&d)
	}
	if d.BoundBy >= 0 {
		o := &b.outcomes[d.BoundBy]
		d.Limit, d.Remaining, d.ResetAfter = o.Limit, o.Remaining, o.ResetAfter
	}
	return d
}

// tightest finds the limit that leaves the fewest further requests of this
// cost, and the fewest tokens among those that leave equally many.
func (b *Batch) tightest(d *Decision) {
	var most int64
	for i := range b.n {
		c, o := &b.charges[i], &b.outcomes[i]
		if c.Shadow || c.Limit.Algorithm == Ban || c.Limit.Soft {
			continue
		}
		d.Delay = max(d.Delay, o.Delay)
		left := o.Remaining
		if c.Cost > 1 {
			left /= c.Cost
		}
		if d.BoundBy < 0 || left < most || left == most && o.Remaining < b.outcomes[d.BoundBy].Remaining {
			d.BoundBy, most = i, left
		}
	}
}

// longest finds the refusing limit with the longest wait, and the reason that
// weighs most among all that refuse.
func (b *Batch) longest(d *Decision) {
	d.Reason = NoReason
	for i := range b.n {
		c, o := &b.charges[i], &b.outcomes[i]
		if c.Shadow || o.Allowed {
			continue
		}
		d.Reason = heavier(d.Reason, o.reason(c.Limit.Algorithm))
		d.Retryable = d.Retryable && !o.Never
		if d.BoundBy < 0 || o.longer(&b.outcomes[d.BoundBy]) {
			d.BoundBy = i
		}
	}
	if d.BoundBy >= 0 && d.Retryable {
		d.RetryAfter = b.outcomes[d.BoundBy].RetryAfter
	}
}

// WouldDeny returns the reason for which the shadow charges of the batch refuse,
// the one that weighs most; NoReason if none does.
func (b *Batch) WouldDeny() Reason {
	r := NoReason
	for i := range b.n {
		if o := &b.outcomes[i]; b.charges[i].Shadow && !o.Allowed {
			r = heavier(r, o.reason(b.charges[i].Limit.Algorithm))
		}
	}
	return r
}

func (o *Outcome) reason(a Algorithm) Reason {
	if o.Never {
		return CostExceedsLimit
	}
	return a.reason()
}

func (o *Outcome) longer(than *Outcome) bool {
	if o.Never != than.Never {
		return o.Never
	}
	return o.RetryAfter > than.RetryAfter
}
