package gatetest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// scenario is one part of the contract.
type scenario struct {
	name string
	// why is printed when it is broken.
	why    string
	policy string
	steps  []step
}

// step is a request and the answer or the error that it must get. It takes,
// unless peek, reserve, claim or all say otherwise.
type step struct {
	at   time.Duration // since Start
	peek bool
	away bool // the store is
	ask  gate.Request
	want want
	err  *failure

	reserve time.Duration // holds what it takes for so long
	keep    string        // what later steps call the answer's ticket
	claim   *claim        // is done with a ticket
	all     []item        // are decided together
	failed  int           // the item at fault, if err
}

// claim is what is done with a ticket: one that was kept, or these characters.
type claim struct {
	op     headgate.Op
	ticket string
	gate.Claim
}

// item is one request of several.
type item struct {
	ask  gate.Request
	want want
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
	costs               map[string]int64
	bound               string
	wouldDeny           string
	replayed            bool
	ticket, held        bool
	degraded            string
	candidate           *trial
	limits              []state
	// retry is for answers without a limit that bound.
	retry time.Duration
}

// trial is the answer of candidate limits in few words.
type trial struct {
	denied        bool
	reason, bound string
	limits        []state
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

// ended is s in the answer to a ticket that holds nothing of it any more.
func (s state) ended() state { return s.refuses(0) }

// inShadow is s in shadow mode.
func (s state) inShadow() state {
	s.Shadow = true
	return s
}

// of is s when it counts in a unit.
func (s state) of(unit string) state {
	s.Unit = unit
	return s
}

// answer writes w out for a decision at an instant.
func (w want) answer(at time.Time) Answer {
	a := Answer{
		Allowed: !w.denied, Reason: w.reason, Retryable: !w.never, BoundBy: w.bound,
		Rule: w.rule, Plan: w.plan, Subject: w.subject, Cost: w.cost, Costs: w.costs,
		Shadow: w.wouldDeny != "", WouldDeny: w.wouldDeny, RetryAfter: w.retry, Degraded: w.degraded,
		Replayed: w.replayed, Held: w.held, Limits: written(w.limits, at),
	}
	if a.Reason == "" {
		a.Reason = "ok"
	}
	if w.ticket {
		a.Ticket = anyTicket
	}
	for _, s := range a.Limits {
		if s.ID == w.bound {
			a.Limit, a.Remaining, a.ResetAfter = s.Limit, s.Remaining, s.ResetAfter
			if w.denied && !w.never {
				a.RetryAfter = s.RetryAfter
			}
		}
	}
	if w.candidate != nil {
		c := &Candidate{Allowed: !w.candidate.denied, Reason: w.candidate.reason, BoundBy: w.candidate.bound, Limits: written(w.candidate.limits, at)}
		if c.Reason == "" {
			c.Reason = "ok"
		}
		for _, s := range c.Limits {
			if s.ID == c.BoundBy && w.candidate.denied {
				c.RetryAfter = s.RetryAfter
			}
		}
		a.Candidate = c
	}
	return a
}

// anyTicket stands for a ticket, whose characters are nobody's business.
const anyTicket = "a ticket"

func written(limits []state, at time.Time) []State {
	var out []State
	for _, s := range limits {
		if s.calendar {
			s.ResetsAt = at.Add(s.ResetAfter)
		}
		out = append(out, s.State)
	}
	return out
}

// Run puts the whole table to holders, but for what [RunAway] does. open returns
// one that decides by the policy and has no state yet; what it opens it closes
// with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T, policy string) Holder) {
	for _, sc := range slices.Concat(
		plans(), matches(), owners(), identities(), costs(), units(), modes(), lists(), bans(), overrides(), candidates(),
		algorithms(), retries(), retriedTrials(), holds(), slots(), atomic(), faults(),
	) {
		t.Run(sc.name, func(t *testing.T) { play(t, &sc, open(t, sc.policy), nil) })
	}
}

// play puts one scenario to a holder. away, if not nil, takes its store away.
func play(t *testing.T, sc *scenario, h Holder, away *absence) {
	r := run{T: t, holder: h, tickets: make(map[string]string), store: away}
	defer func() {
		if t.Failed() {
			t.Logf("the contract: %s", sc.why)
		}
	}()
	for i := range sc.steps {
		r.step(i, &sc.steps[i])
	}
}

// run is a scenario that is being played.
type run struct {
	*testing.T
	holder  Holder
	tickets map[string]string
	store   *absence
}

func (r *run) step(i int, s *step) {
	r.Helper()
	if r.store != nil {
		r.store.away.Store(s.away)
	}
	at := Start.Add(s.at)
	call := Call{At: at, Peek: s.peek, Request: s.ask}
	var got Answer
	var err error
	switch {
	case s.all != nil:
		r.together(i, s)
		return
	case s.claim != nil:
		c := s.claim.Claim
		c.Ticket = s.claim.ticket
		if kept, ok := r.tickets[c.Ticket]; ok {
			c.Ticket = kept
		}
		got, err = r.holder.Claim(r.Context(), ClaimCall{At: at, Op: s.claim.op, Claim: c})
	case s.reserve != 0:
		got, err = r.holder.Reserve(r.Context(), call, s.reserve)
	default:
		got, err = r.holder.Decide(r.Context(), call)
	}
	if r.failed(i, s, err, got) {
		return
	}
	if s.keep != "" {
		r.tickets[s.keep] = got.Ticket
	}
	r.compare(i, got, s.want.answer(at))
}

func (r *run) together(i int, s *step) {
	r.Helper()
	requests := make([]gate.Request, len(s.all))
	for j := range s.all {
		requests[j] = s.all[j].ask
	}
	at := Start.Add(s.at)
	got, failed, err := r.holder.TakeAll(r.Context(), at, requests)
	if err != nil && failed != s.failed {
		r.Errorf("step %d: item %d is at fault, want %d", i, failed, s.failed)
	}
	if r.failed(i, s, err, got) {
		return
	}
	if len(got) != len(s.all) {
		r.Fatalf("step %d: %d answers to %d requests", i, len(got), len(s.all))
	}
	for j := range got {
		r.compare(i, got[j], s.all[j].want.answer(at))
	}
}

// failed reports whether the step ends with an error, as it should or not.
func (r *run) failed(i int, s *step, err error, got any) bool {
	r.Helper()
	switch {
	case s.err == nil && err != nil:
		r.Fatalf("step %d: %v", i, err)
	case s.err == nil:
		return false
	case err == nil:
		r.Errorf("step %d: decided %+v, want an error with code %v and field %q", i, got, s.err.code, s.err.field)
	default:
		e, ok := errors.AsType[*headgate.Error](err)
		if !ok || e.Code != s.err.code || e.Field != s.err.field || !strings.Contains(err.Error(), s.err.detail) {
			r.Errorf("step %d: error %q of code %v; want code %v, field %q and %q in it",
				i, err, headgate.CodeOf(err), s.err.code, s.err.field, s.err.detail)
		}
	}
	return true
}

// compare reports every field that differs.
func (r *run) compare(i int, got, want Answer) {
	r.Helper()
	if got.Ticket != "" {
		got.Ticket = anyTicket
	}
	gotLimits, wantLimits := got.Limits, want.Limits
	got.Limits, want.Limits = nil, nil
	if g, w := got.Candidate, want.Candidate; g != nil && w != nil {
		r.limits(i, "candidate ", g.Limits, w.Limits)
		g.Limits, w.Limits, got.Candidate, want.Candidate = nil, nil, nil, nil
		r.fields(i, "candidate ", reflect.ValueOf(*g), reflect.ValueOf(*w))
	}
	r.fields(i, "", reflect.ValueOf(got), reflect.ValueOf(want))
	r.limits(i, "", gotLimits, wantLimits)
}

func (r *run) limits(i int, of string, got, want []State) {
	r.Helper()
	if len(got) != len(want) {
		r.Errorf("step %d: %d %slimits, want %d: %+v", i, len(got), of, len(want), got)
		return
	}
	for j := range want {
		r.fields(i, of+"limit "+want[j].ID+": ", reflect.ValueOf(got[j]), reflect.ValueOf(want[j]))
	}
}

func (r *run) fields(i int, of string, got, want reflect.Value) {
	r.Helper()
	for f := range want.NumField() {
		if g, w := got.Field(f).Interface(), want.Field(f).Interface(); !reflect.DeepEqual(g, w) {
			r.Errorf("step %d: %s%s is %v, want %v", i, of, want.Type().Field(f).Name, g, w)
		}
	}
}
