package gate

import (
	"time"

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
	// SubjectFrom, PlanFrom and CostFrom say where they were found.
	SubjectFrom SubjectSource
	PlanFrom    PlanSource
	CostFrom    CostSource
	// Zone and Anchor say how the subject's usage is divided into months: by its record,
	// else by the quotas of its plan. Zone is nil for UTC; Anchor is the day of the month
	// on which one begins, 0 for the first.
	Zone   *time.Location
	Anchor int
	// Cost is what was asked for.
	Cost int64
	// Corrects is true in the answer to a settlement or release that ended a
	// reservation: what was charged becomes Cost, which had been Reserved.
	Corrects bool
	Reserved int64
	// Kept is true beside an error if the request was charged all the same, and stays so:
	// who asked left while it waited for its turn.
	Kept bool
	// Shadow is true if the refusal of a limit in shadow mode was overruled.
	Shadow bool
	// WouldDeny is the reason for which limits in shadow mode would have
	// refused; NoReason if none would have.
	WouldDeny headgate.Reason
	// Degraded says how the decision was made without the store: "local" by this
	// node's share of the limits that Limits names, "open" without limits, or
	// "closed"; "" if the store decided.
	Degraded string
	// Replayed is true if the request was allowed before under the same
	// idempotency key, and charged nothing this time.
	Replayed bool
	// Waited is how long the request waited in line.
	Waited time.Duration
	// Held is true in the answer to a ticket that was still open.
	Held bool
	// Revision is the revision of the policy that decided.
	Revision uint64
	// Headers are the styles of rate limit fields that the application wants,
	// RetryJitter the percentage by which to spread Retry-After upward.
	Headers     policy.HeaderStyles
	RetryJitter int
	// Message is the rule's text for refused requests, "" for the usual one.
	Message string
	// Label is what metrics call the rule: Rule, or what its detailed_metric and
	// value_to_metric make of the descriptor; "override" for a limit that the caller said.
	// At most MaxLabel bytes.
	Label string
	// Metadata is the rule's, nil for none. It must not be changed.
	Metadata any
	// Replaced is true if another rule of the same call stands in for its rule, so that
	// nothing was charged; see [Gate.TakeDescriptors].
	Replaced bool

	tally
	costs     []UnitCost
	buf       [64]byte // subjects that are made of the request
	used      int
	words     []byte          // subject and label that are made of a descriptor, kept for reuse
	input     expr.Input      // what expressions saw, if there were any
	candidate *candidate      // kept for reuse
	candidacy bool            // candidate holds the answer of candidate limits
	fallback  *headgate.Batch // for Config.Local, kept for reuse
	charged   int             // limits, of which Local decided the first n
	ticketed  bool            // the batch holds what a ticket can release
	received  bool            // another process decided; see Receive
	ticket    string          // of what was received
}

// tally is limits that are decided together, and their states. An idempotency
// charge stands behind the others in the batch, without a state.
type tally struct {
	limits [headgate.MaxCharges]LimitState
	n      int
	batch  headgate.Batch
}

func (t *tally) reset(op headgate.Op, now int64) {
	t.n = 0
	t.batch.Reset(op)
	t.batch.Now = now
}

// fill copies the outcomes of the batch into the states, and reports whether a
// limit in shadow refuses.
func (t *tally) fill() (shadow bool) {
	outcomes := t.batch.Outcomes()
	showNothing(t.limits[:t.n], outcomes)
	for i := range t.n {
		s := &t.limits[i]
		s.Outcome, s.Share, s.Later = outcomes[i], nil, 0
		shadow = shadow || s.Shadow && !s.Allowed
	}
	return shadow
}

// SubjectSource says where the subject was found.
type SubjectSource uint8

// The sources of subjects.
const (
	NoSubject SubjectSource = iota
	SubjectSaid
	SubjectIP
	SubjectHeader
	SubjectCookie
	SubjectAttribute
	SubjectDescriptor
)

// PlanSource says where the plan was found.
type PlanSource uint8

// The sources of plans.
const (
	NoPlan PlanSource = iota
	PlanOfSubject
	PlanSaid
	PlanOfRule
	PlanDefault
)

// CostSource says where the cost was found.
type CostSource uint8

// The sources of costs.
const (
	CostOfRule CostSource = iota
	CostSaid
	CostOfMethod
	CostOfExpression
)

// UnitCost is a cost in another unit than requests.
type UnitCost struct {
	Unit string
	Cost int64
	// Reserved is what Cost had been; see [Decision].Corrects.
	Reserved int64
}

// LimitState is one limit of a decision.
type LimitState struct {
	// ID is the qualified name: plan/daily, app/all, sendEmail/burst. That of a
	// ban ends in /ban.
	ID string
	// Limit is the limit with its numbers. Its Count is 0 for one that refuses all that
	// costs anything.
	Limit *headgate.Prepared
	// Share is this node's share of it by which Config.Local decided, whose state
	// the Outcome is; nil if it was decided whole.
	Share *headgate.Prepared
	// Owner is whose budget it is: "subject", "application", "global" or
	// "expression".
	Owner string
	// Unit is what is counted: "requests", or the key of the request's costs.
	Unit string
	// Cost is what was asked of this limit, in its unit.
	Cost int64
	// Later is what those behind it in an atomic batch were charged, which Used holds too.
	Later int64
	// Shadow is true for a limit that refuses nobody, and ShadowBy says why.
	Shadow   bool
	ShadowBy ShadowCause
	// Numbers says where the limit's numbers are from; Override is the one in
	// force if they are from an override.
	Numbers  NumbersSource
	Override *policy.Override

	away      policy.StoreErrorMode // never Inherit
	quotaMode bool                  // one of several such limits of a call is enough
	// Outcome is the state after the decision.
	headgate.Outcome
}

// ShadowCause says why a limit refuses nobody.
type ShadowCause uint8

// The causes.
const (
	NotShadow ShadowCause = iota
	// ShadowByPolicy: `mode: shadow`.
	ShadowByPolicy
	// ShadowByPercent: the subject is not in the share that enforce_percent
	// refuses.
	ShadowByPercent
	// ShadowByOperator: [Gate.SetMode].
	ShadowByOperator
	// ShadowByQuotaMode: `quota_mode`, and another limit of that mode lets the same call
	// pass.
	ShadowByQuotaMode
)

// NumbersSource says where a limit's numbers are from.
type NumbersSource uint8

// The sources of numbers.
const (
	NumbersOfLimit NumbersSource = iota
	// NumbersOfPlan: the limit's `plans`.
	NumbersOfPlan
	// NumbersOfOverride: an override of the subject.
	NumbersOfOverride
	// NumbersSaid: the request's Said.
	NumbersSaid
)

// QuotaMode reports whether the limit is of a rule with `quota_mode`: of all such limits
// of a call, one that passes is enough.
func (s *LimitState) QuotaMode() bool { return s.quotaMode }

// Rollover is how much of a quota's Limit is left over from the period before.
func (s *LimitState) Rollover() int64 {
	if s.Limit.Algorithm != headgate.Quota || s.Limit.Rollover == 0 || s.Share != nil {
		return 0
	}
	return max(0, s.Outcome.Limit-s.Limit.Count)
}

// Limits returns the state of every limit that was charged, bans included, in
// the order application, rule, plan.
func (d *Decision) Limits() []LimitState { return d.limits[:d.n] }

// At returns the instant of the decision by the clock of the store that made it: from
// then ResetAfter and RetryAfter count. It is the zero Time if none did.
func (d *Decision) At() time.Time {
	if d.n == 0 || d.batch.At == 0 {
		return time.Time{}
	}
	return time.UnixMicro(d.batch.At)
}

// Costs returns what was asked for in other units than requests.
func (d *Decision) Costs() []UnitCost { return d.costs }

// OwnerOf returns whose budget the limit is that Limits returns at i: a subject, what
// an expression made, or "" for that of an application or of all. Of what was received
// it knows subjects only.
func (d *Decision) OwnerOf(i int) string {
	switch {
	case !d.received:
		return d.batch.Charges()[i].Owner
	case d.limits[i].Owner == ownerNames[policy.OwnerSubject]:
		return d.Subject
	default:
		return ""
	}
}

// BoundByID returns the id of the limit that decided, or "".
func (d *Decision) BoundByID() string {
	if d.BoundBy < 0 || d.BoundBy >= d.n {
		return ""
	}
	return d.limits[d.BoundBy].ID
}

// Candidate returns what the rule's candidate limits would have answered, and
// their states; ok is false if the rule has none.
func (d *Decision) Candidate() (sum headgate.Decision, limits []LimitState, ok bool) {
	if !d.candidacy {
		return headgate.Decision{}, nil, false
	}
	return d.candidate.sum, d.candidate.limits[:d.candidate.n], true
}

// candidate is the answer of limits on trial.
type candidate struct {
	tally
	sum headgate.Decision
}
