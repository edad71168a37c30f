package headgate

import (
	"errors"
	"fmt"
	"time"
)

// MaxCharges is the largest number of charges that a batch holds by itself, and
// MaxRoom what [Batch.Room] can make of it.
const (
	MaxCharges = 20
	MaxRoom    = 4096
)

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
	// Renew gives what Batch.Hold holds another Batch.HoldFor from now: slots
	// of concurrency limits, and everything that was reserved. The outcome is
	// Allowed only if it was still held. Without HoldFor, slots get their TTL
	// and algorithms that hold none ignore it.
	Renew
	// Reset forgets the state of every charge, as if its key was never seen.
	Reset
	// Settle ends the reservation Batch.Hold: Cost is what the work really took.
	// What was reserved beyond it is given back, and what it took beyond the
	// reservation is charged like a Debit. A hold that was settled before or has
	// expired changes nothing; the outcome is then not Allowed.
	Settle
)

var opNames = [...]string{"take", "peek", "refund", "debit", "release", "renew", "reset", "settle"}

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
	// its refusals do not count towards the subject's ban. A ban counts those of
	// charges of its own owner.
	Parent bool
}

// Outcome is the state of one charge's limit after the operation.
type Outcome struct {
	// Allowed is whether this limit, for itself, lets the charge pass.
	Allowed bool
	// Never is true when no amount of waiting lets the cost pass.
	Never bool
	// Shared is true when the store has no room for a state of the owner's own,
	// and answers from one that several owners without room share: Used is not
	// the owner's alone, and Remaining a lower bound.
	Shared bool
	// Leased is true when part of the budget is leased out to holders: Remaining
	// is a lower bound, and a refusal may be early by what they have not spent.
	Leased bool
	// Recovering is true when the limit refuses and that may be due to the store,
	// which began anew a short while ago (see [Epoch]), and not to what was used.
	Recovering bool
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
	// Hold names what a Take takes and what Release, Renew and Settle mean: any
	// value that is not 0 and that no live hold has; it must be hard to guess.
	// A Take with 0 takes slots of concurrency limits that only their TTL frees.
	Hold uint64
	// HoldFor makes a Take with a Hold a reservation for that many microseconds,
	// up to 24 hours: every limit remembers what was taken until [Settle] or
	// until it expires, and what is held does not refill. When it expires the
	// charge is kept and slots of concurrency limits are free. 0 is no
	// reservation: only slots are held, for their limit's TTL.
	HoldFor int64
	// MaxDelay, if not 0, refuses a charge of a leaky bucket that would have to
	// wait for more microseconds than that.
	MaxDelay int64
	// Patience is how long a store that is not in memory may take to answer, in
	// microseconds; then it fails with code Unavailable. 0 is as long as ctx.
	Patience int64
	// Again says that a Take that is refused will be asked again: the refusal
	// counts towards no ban.
	Again bool
	// Key, if it is not zero, makes a Take with a charge of an [Idempotency]
	// limit happen once.
	Key RequestKey

	// Replayed is true if the Take was allowed before under the same Key: it
	// charged nothing, Hold is that of the first, and the outcomes are the
	// present states. Set by the store.
	Replayed bool

	// Allowed is whether the batch passed. Set by the store.
	Allowed bool
	// At is the instant at which the store decided, in microseconds since the
	// Unix epoch. Set by the store.
	At int64

	n        int
	charges  [MaxCharges]Charge
	outcomes [MaxCharges]Outcome
	// more and moreOutcomes stand in for the arrays in a batch with room.
	more         []Charge
	moreOutcomes []Outcome
}

// RequestKey names a request whose retries must not be charged again. The zero
// value names none.
type RequestKey struct {
	// ID identifies the request: a hash of the application, the subject and the
	// key that the caller chose, so that nobody can name another's.
	ID [2]uint64
	// Print is a hash of what is asked. A Take with the ID of an earlier one and
	// another Print fails with code Conflict.
	Print uint64
}

// Reset empties the batch and asks for op. Room that was made is given back.
func (b *Batch) Reset(op Op) {
	b.Op, b.Now, b.Hold, b.Allowed, b.At, b.n = op, 0, 0, false, 0, 0
	b.HoldFor, b.MaxDelay, b.Patience, b.Key, b.Replayed, b.Again = 0, 0, 0, RequestKey{}, false, false
	b.more, b.moreOutcomes = nil, nil
}

// Room makes room for n charges, up to MaxRoom, in an empty batch: for several
// requests that are decided together. It allocates if n is more than MaxCharges.
func (b *Batch) Room(n int) {
	if n = min(n, MaxRoom); n > MaxCharges {
		b.more, b.moreOutcomes = make([]Charge, n), make([]Outcome, n)
	}
}

// Add appends a charge and returns its index. A charge of the same limit and
// owner as an earlier one is merged into it, its cost added. The error, an
// *[Error] with code InvalidRequest, says that the cost is out of range, that
// the batch is full, or that two charges of one budget differ in their numbers.
func (b *Batch) Add(c Charge) (int, error) {
	if c.Cost < 0 || c.Cost > MaxInt {
		return 0, costError(c.Cost)
	}
	charges := b.room()
	for i := range b.n {
		o := &charges[i]
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
	if b.n == len(charges) {
		return 0, &Error{Code: InvalidRequest, Err: fmt.Errorf("more than %d limits in one request", len(charges))}
	}
	charges[b.n] = c
	b.n++
	return b.n - 1, nil
}

func costError(cost int64) error {
	return &Error{Code: InvalidRequest, Field: "cost", Err: fmt.Errorf("%d: must be 0 to %d", cost, int64(MaxInt))}
}

func (b *Batch) room() []Charge {
	if b.more != nil {
		return b.more
	}
	return b.charges[:]
}

// Validate refuses a batch that no store could decide: HoldFor out of its range or
// without a Hold, or a negative MaxDelay. The error is an *[Error] with code
// InvalidRequest. Every store asks it first.
func (b *Batch) Validate() error {
	switch {
	case b.HoldFor < 0 || b.HoldFor > MaxHold.Microseconds():
		return &Error{Code: InvalidRequest, Field: "ttl", Err: fmt.Errorf("hold for %d µs: must be 0 to %d", b.HoldFor, MaxHold.Microseconds())}
	case b.HoldFor > 0 && b.Hold == 0 && b.Op != Peek:
		return &Error{Code: InvalidRequest, Field: "ttl", Err: errors.New("hold without a name")}
	case b.MaxDelay < 0:
		return &Error{Code: InvalidRequest, Field: "max_delay", Err: fmt.Errorf("%d µs: must not be negative", b.MaxDelay)}
	}
	return nil
}

// Charges returns the charges. The slice is valid until the next Reset.
func (b *Batch) Charges() []Charge { return b.room()[:b.n] }

// Outcomes returns the outcomes, one per charge and in their order, which the
// store fills in. The slice is valid until the next Reset.
func (b *Batch) Outcomes() []Outcome {
	if b.more != nil {
		return b.moreOutcomes[:b.n]
	}
	return b.outcomes[:b.n]
}

// Decision sums the outcomes up.
func (b *Batch) Decision() (d Decision) {
	d.Allowed, d.Reason, d.Retryable, d.BoundBy = b.Allowed, OK, true, -1
	charges, outcomes := b.Charges(), b.Outcomes()
	if len(charges) == 0 {
		return d
	}
	if b.Allowed {
		d.tightest(charges, outcomes)
	} else {
		d.longest(charges, outcomes)
	}
	if d.BoundBy >= 0 {
		o := &outcomes[d.BoundBy]
		d.Limit, d.Remaining, d.ResetAfter = o.Limit, o.Remaining, o.ResetAfter
	}
	return d
}

// WouldDeny returns the reason for which the shadow charges of the batch refuse,
// the one that weighs most; NoReason if none does.
func (b *Batch) WouldDeny() Reason {
	r := NoReason
	charges, outcomes := b.Charges(), b.Outcomes()
	for i := range charges {
		if o := &outcomes[i]; charges[i].Shadow && !o.Allowed {
			r = heavier(r, o.Reason(charges[i].Limit.Algorithm))
		}
	}
	return r
}

// tightest finds the limit that leaves the fewest further requests of this
// cost, and the fewest tokens among those that leave equally many.
func (d *Decision) tightest(charges []Charge, outcomes []Outcome) {
	var most int64
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if c.Shadow || c.Limit.Soft || c.Limit.Algorithm >= Ban {
			continue
		}
		d.Delay = max(d.Delay, o.Delay)
		left := o.Remaining
		if c.Cost > 1 {
			left /= c.Cost
		}
		if d.BoundBy < 0 || left < most || left == most && o.Remaining < outcomes[d.BoundBy].Remaining {
			d.BoundBy, most = i, left
		}
	}
}

// longest finds the refusing limit with the longest wait, and the reason that
// weighs most among all that refuse.
func (d *Decision) longest(charges []Charge, outcomes []Outcome) {
	d.Reason = NoReason
	for i := range charges {
		c, o := &charges[i], &outcomes[i]
		if c.Shadow || o.Allowed {
			continue
		}
		d.Reason = heavier(d.Reason, o.Reason(c.Limit.Algorithm))
		d.Retryable = d.Retryable && !o.Never
		if d.BoundBy < 0 || o.longer(&outcomes[d.BoundBy]) {
			d.BoundBy = i
		}
	}
	if d.BoundBy >= 0 && d.Retryable {
		d.RetryAfter = outcomes[d.BoundBy].RetryAfter
	}
}

// Reason returns why a limit with algorithm a refuses, whose outcome this is and
// is not Allowed.
func (o *Outcome) Reason(a Algorithm) Reason {
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
