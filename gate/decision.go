package gate

import (
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/expr"
	"github.com/headgate/headgate/gate/policy"
)

// Decision is the answer to one request. It is large and holds its own
// buffers: reuse it. What it returns is valid until it is used again.
type Decision struct {
	headgate.Decision

	// ID is unique to the decision: 128 random bits.
	ID [2]uint64
	// Application, Rule, Operation, Subject and Plan are those that were found;
	// empty where there is none.
	Application, Rule, Operation, Subject, Plan string
	// Cost is what was asked for.
	Cost int64
	// Shadow is true if the refusal of a limit in shadow mode was overruled.
	Shadow bool
	// WouldDeny is the reason for which limits in shadow mode would have
	// refused; NoReason if none would have.
	WouldDeny headgate.Reason
	// Degraded says how the decision was made without the store: "", "local",
	// "open" or "closed".
	Degraded string
	// Revision is the revision of the policy that decided.
	Revision uint64
	// Headers are the styles of rate limit fields that the application wants,
	// RetryJitter the percentage by which to spread Retry-After upward.
	Headers     policy.HeaderStyles
	RetryJitter int
	// Message is the rule's text for refused requests, "" for the usual one.
	Message string

	limits [headgate.MaxCharges]LimitState
	n      int
	open   bool // every limit lets requests pass when the store is away
	batch  headgate.Batch
	buf    [64]byte // subjects that are made of the request
	used   int
	input  expr.Input // what expressions saw, if there were any
}

// LimitState is one limit of a decision.
type LimitState struct {
	// ID is the qualified name: plan/daily, app/all, sendEmail/burst.
	ID string
	// Limit is the limit with its numbers.
	Limit *headgate.Prepared
	// Owner is whose budget it is: "subject", "application", "global" or
	// "expression".
	Owner string
	// Unit is what is counted: "requests".
	Unit string
	// Shadow is true for a limit in shadow mode.
	Shadow bool
	// Outcome is the state after the decision.
	headgate.Outcome
}

// Limits returns the state of every limit that was charged, in the order
// application, rule, plan.
func (d *Decision) Limits() []LimitState { return d.limits[:d.n] }

// BoundByID returns the id of the limit that decided, or "".
func (d *Decision) BoundByID() string {
	if d.BoundBy < 0 || d.BoundBy >= d.n {
		return ""
	}
	return d.limits[d.BoundBy].ID
}
