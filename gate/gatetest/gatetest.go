// Package gatetest is the contract of decisions as a table: policies, requests
// at given instants, and the whole answer that each must get. [Run] puts it to
// a gate in process or, through a [Holder] of one's own, to any protocol.
package gatetest

import (
	"context"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// Start is the instant at which every case starts, a Monday noon in UTC. A
// store whose instants are bounded needs it as its origin.
var Start = time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)

// Decider decides requests by one policy. Instants cross no wire: behind a
// protocol, give the gate a store that decides at the instant of the last call.
type Decider interface {
	// Decide answers c. The error, if nothing was decided, wraps an
	// *headgate.Error with the code, the field at fault and its detail.
	Decide(ctx context.Context, c Call) (Answer, error)
}

// Holder is a Decider that hands out tickets and decides batches.
type Holder interface {
	Decider
	// Reserve answers c as gate.Reserve does.
	Reserve(ctx context.Context, c Call, ttl time.Duration) (Answer, error)
	// Claim does with a ticket what c says.
	Claim(ctx context.Context, c ClaimCall) (Answer, error)
	// TakeAll answers requests that are decided together. With an error, failed
	// is the index of the one at fault.
	TakeAll(ctx context.Context, at time.Time, rs []gate.Request) (answers []Answer, failed int, err error)
}

// ClaimCall is what the holder of a ticket asks; Op is Settle, Renew or Release.
type ClaimCall struct {
	At    time.Time
	Op    headgate.Op
	Claim gate.Claim
}

// Call is one request to decide.
type Call struct {
	// At is when the decision is made; whole milliseconds, and never before
	// that of the call before.
	At time.Time
	// Peek asks for the answer and charges nothing.
	Peek bool
	// Request is what is asked; its Now is 0.
	Request gate.Request
}

// Answer is a decision as every protocol can say it. Durations of the table are
// whole milliseconds, so that no protocol rounds them.
type Answer struct {
	Allowed   bool
	Reason    string
	Retryable bool
	// BoundBy is the id of the limit that decided, "" if none did. Limit,
	// Remaining and ResetAfter are then 0.
	BoundBy                string
	Rule, Plan, Subject    string
	Cost, Limit, Remaining int64
	// RetryAfter is 0 if the request passed or can never pass.
	RetryAfter, ResetAfter time.Duration
	// Shadow is true if a limit in shadow mode would have refused, and
	// WouldDeny is its reason.
	Shadow    bool
	WouldDeny string
	Degraded  string
	// Costs are those in other units than requests; nil if there are none.
	Costs    map[string]int64
	Replayed bool
	// Held is what answers to claims say of the ticket.
	Held bool
	// Ticket is the decision's; "" if it has none.
	Ticket    string
	Candidate *Candidate // nil if the rule has no candidate limits
	Limits    []State
}

// Candidate is what candidate limits would have answered.
type Candidate struct {
	Allowed    bool
	Reason     string
	BoundBy    string
	RetryAfter time.Duration
	Limits     []State
}

// State is one limit of an answer.
type State struct {
	ID, Owner, Unit                 string
	Allowed                         bool
	Limit, Used, Remaining, Overage int64
	RetryAfter, ResetAfter          time.Duration
	// ResetsAt is in UTC, and zero for all but quotas.
	ResetsAt time.Time
	Shadow   bool
}

// Local decides by a gate of this process, whose store honours Request.Now. All
// its decisions are made in one gate.Decision, so that what one leaves behind
// shows in the next. It is not safe for concurrent use.
func Local(g *gate.Gate) Holder { return &local{gate: g} }

type local struct {
	gate     *gate.Gate
	decision gate.Decision
}

func (l *local) Decide(ctx context.Context, c Call) (Answer, error) {
	c.Request.Now = c.At.UnixMicro()
	decide := l.gate.Take
	if c.Peek {
		decide = l.gate.Peek
	}
	if err := decide(ctx, &c.Request, &l.decision); err != nil {
		return Answer{}, err
	}
	return Of(&l.decision), nil
}

func (l *local) Reserve(ctx context.Context, c Call, ttl time.Duration) (Answer, error) {
	c.Request.Now = c.At.UnixMicro()
	if err := l.gate.Reserve(ctx, &c.Request, ttl, &l.decision); err != nil {
		return Answer{}, err
	}
	return Of(&l.decision), nil
}

func (l *local) Claim(ctx context.Context, c ClaimCall) (Answer, error) {
	c.Claim.Now = c.At.UnixMicro()
	do := l.gate.Settle
	switch c.Op {
	case headgate.Renew:
		do = l.gate.Renew
	case headgate.Release:
		do = l.gate.Release
	}
	if err := do(ctx, &c.Claim, &l.decision); err != nil {
		return Answer{}, err
	}
	return Of(&l.decision), nil
}

func (l *local) TakeAll(ctx context.Context, at time.Time, rs []gate.Request) ([]Answer, int, error) {
	asks, ds := make([]*gate.Request, len(rs)), make([]*gate.Decision, len(rs))
	for i := range rs {
		rs[i].Now = at.UnixMicro()
		asks[i], ds[i] = &rs[i], new(gate.Decision)
	}
	failed, err := l.gate.TakeAll(ctx, asks, ds)
	if err != nil {
		return nil, failed, err
	}
	answers := make([]Answer, len(ds))
	for i, d := range ds {
		answers[i] = Of(d)
	}
	return answers, failed, nil
}

// Of returns d as an Answer, which shares nothing with it.
func Of(d *gate.Decision) Answer {
	a := Answer{
		Allowed: d.Allowed, Reason: d.Reason.String(), Retryable: d.Retryable, BoundBy: d.BoundByID(),
		Rule: d.Rule, Plan: d.Plan, Subject: strings.Clone(d.Subject),
		Cost: d.Cost, Limit: d.Limit, Remaining: d.Remaining, RetryAfter: d.RetryAfter, ResetAfter: d.ResetAfter,
		Shadow: d.Shadow, WouldDeny: d.WouldDeny.String(), Degraded: d.Degraded,
		Replayed: d.Replayed, Held: d.Held, Ticket: string(d.AppendTicket(nil)), Limits: States(d.Limits()),
	}
	for _, c := range d.Costs() {
		if a.Costs == nil {
			a.Costs = make(map[string]int64)
		}
		a.Costs[c.Unit] = c.Cost
	}
	if sum, limits, ok := d.Candidate(); ok {
		a.Candidate = &Candidate{Allowed: sum.Allowed, Reason: sum.Reason.String(), RetryAfter: sum.RetryAfter, Limits: States(limits)}
		if sum.BoundBy >= 0 {
			a.Candidate.BoundBy = limits[sum.BoundBy].ID
		}
	}
	return a
}

// States returns limits as those of an Answer.
func States(limits []gate.LimitState) []State {
	var out []State
	for _, s := range limits {
		state := State{
			ID: s.ID, Owner: s.Owner, Unit: s.Unit, Allowed: s.Allowed, Limit: s.Outcome.Limit, Used: s.Used,
			Remaining: s.Remaining, Overage: s.Overage, RetryAfter: s.RetryAfter, ResetAfter: s.ResetAfter, Shadow: s.Shadow,
		}
		if s.ResetsAt != 0 {
			state.ResetsAt = time.UnixMicro(s.ResetsAt).UTC()
		}
		out = append(out, state)
	}
	return out
}
