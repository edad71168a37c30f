// Package gatetest is the contract of decisions as a table: policies, requests
// at given instants, and the whole answer that each must get. [Run] puts it to
// a gate in process or, through a [Decider] of one's own, to any protocol.
package gatetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
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
	Limits    []State
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
func Local(g *gate.Gate) Decider { return &local{gate: g} }

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

// Of returns d as an Answer, which shares nothing with it.
func Of(d *gate.Decision) Answer {
	a := Answer{
		Allowed: d.Allowed, Reason: d.Reason.String(), Retryable: d.Retryable, BoundBy: d.BoundByID(),
		Rule: d.Rule, Plan: d.Plan, Subject: strings.Clone(d.Subject),
		Cost: d.Cost, Limit: d.Limit, Remaining: d.Remaining, RetryAfter: d.RetryAfter, ResetAfter: d.ResetAfter,
		Shadow: d.Shadow, WouldDeny: d.WouldDeny.String(), Degraded: d.Degraded,
	}
	for _, s := range d.Limits() {
		state := State{
			ID: s.ID, Owner: s.Owner, Unit: s.Unit, Allowed: s.Allowed, Limit: s.Outcome.Limit, Used: s.Used,
			Remaining: s.Remaining, Overage: s.Overage, RetryAfter: s.RetryAfter, ResetAfter: s.ResetAfter, Shadow: s.Shadow,
		}
		if s.ResetsAt != 0 {
			state.ResetsAt = time.UnixMicro(s.ResetsAt).UTC()
		}
		a.Limits = append(a.Limits, state)
	}
	return a
}

// scenario is one part of the contract.
type scenario struct {
	name string
	// why is printed when it is broken.
	why    string
	policy string
	steps  []step
}

// step is a request and the answer or the error that it must get.
type step struct {
	at   time.Duration // since Start
	peek bool
	ask  gate.Request
	want want
	err  *failure
}

// failure is an error: its code, its field, and a word of its detail.
type failure struct {
	code          headgate.Code
	field, detail string
}

// want is an answer in few words: its zero value is an allowance for the reason
// ok. Top-level numbers are those of the limit that bound.
type want struct {
	denied, never       bool // never: not retryable
	reason              string
	rule, plan, subject string
	cost                int64
	bound               string
	wouldDeny           string
	limits              []state
}

// state is what is said of a limit. What remains follows from used and limit,
// and a quota's end from its reset.
type state struct {
	State
	calendar bool
}

// st is a limit that passes.
func st(id, owner string, used, limit int64, reset time.Duration) state {
	return state{State: State{
		ID: id, Owner: owner, Unit: "requests", Allowed: true, Limit: limit, Used: used,
		Remaining: max(0, limit-used), Overage: max(0, used-limit), ResetAfter: reset,
	}}
}

// mine is a limit that the subject owns.
func mine(id string, used, limit int64, reset time.Duration) state {
	return st(id, "subject", used, limit, reset)
}

// quota is a calendar quota of the subject.
func quota(id string, used, limit int64, reset time.Duration) state {
	s := mine(id, used, limit, reset)
	s.calendar = true
	return s
}

// refuses is s when it says no; retry 0 is never.
func (s state) refuses(retry time.Duration) state {
	s.Allowed, s.RetryAfter = false, retry
	return s
}

// inShadow is s in shadow mode.
func (s state) inShadow() state {
	s.Shadow = true
	return s
}

// answer writes w out for a decision at an instant.
func (w want) answer(at time.Time) Answer {
	a := Answer{
		Allowed: !w.denied, Reason: w.reason, Retryable: !w.never, BoundBy: w.bound,
		Rule: w.rule, Plan: w.plan, Subject: w.subject, Cost: w.cost,
		Shadow: w.wouldDeny != "", WouldDeny: w.wouldDeny,
	}
	if a.Reason == "" {
		a.Reason = "ok"
	}
	for _, s := range w.limits {
		if s.calendar {
			s.ResetsAt = at.Add(s.ResetAfter)
		}
		if s.ID == w.bound {
			a.Limit, a.Remaining, a.ResetAfter = s.Limit, s.Remaining, s.ResetAfter
			if w.denied && !w.never {
				a.RetryAfter = s.RetryAfter
			}
		}
		a.Limits = append(a.Limits, s.State)
	}
	return a
}

// Run puts the whole table to deciders. open returns one that decides by the
// policy and has no state yet; what it opens it closes with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T, policy string) Decider) {
	for _, sc := range slices.Concat(plans(), matches(), owners(), identities(), costs(), modes(), algorithms(), faults()) {
		t.Run(sc.name, func(t *testing.T) {
			d := open(t, sc.policy)
			defer func() {
				if t.Failed() {
					t.Logf("the contract: %s", sc.why)
				}
			}()
			for i, s := range sc.steps {
				s.check(t, i, d)
			}
		})
	}
}

func (s *step) check(t *testing.T, i int, d Decider) {
	t.Helper()
	at := Start.Add(s.at)
	got, err := d.Decide(t.Context(), Call{At: at, Peek: s.peek, Request: s.ask})
	switch {
	case s.err == nil && err != nil:
		t.Fatalf("step %d: %v", i, err)
	case s.err == nil:
		compare(t, i, got, s.want.answer(at))
	case err == nil:
		t.Errorf("step %d: decided %+v, want an error with code %v and field %q", i, got, s.err.code, s.err.field)
	default:
		e, ok := errors.AsType[*headgate.Error](err)
		if !ok || e.Code != s.err.code || e.Field != s.err.field || !strings.Contains(err.Error(), s.err.detail) {
			t.Errorf("step %d: error %q of code %v; want code %v, field %q and %q in it",
				i, err, headgate.CodeOf(err), s.err.code, s.err.field, s.err.detail)
		}
	}
}

// compare reports every field that differs.
func compare(t *testing.T, i int, got, want Answer) {
	t.Helper()
	gotLimits, wantLimits := got.Limits, want.Limits
	got.Limits, want.Limits = nil, nil
	fields(t, i, "", reflect.ValueOf(got), reflect.ValueOf(want))
	if len(gotLimits) != len(wantLimits) {
		t.Errorf("step %d: %d limits, want %d: %+v", i, len(gotLimits), len(wantLimits), gotLimits)
		return
	}
	for j := range wantLimits {
		fields(t, i, "limit "+wantLimits[j].ID+": ", reflect.ValueOf(gotLimits[j]), reflect.ValueOf(wantLimits[j]))
	}
}

func fields(t *testing.T, i int, of string, got, want reflect.Value) {
	t.Helper()
	for f := range want.NumField() {
		if g, w := got.Field(f).Interface(), want.Field(f).Interface(); !reflect.DeepEqual(g, w) {
			t.Errorf("step %d: %s%s is %v, want %v", i, of, want.Type().Field(f).Name, g, w)
		}
	}
}
