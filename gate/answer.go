package gate

import (
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// Answer is a decision of another process, as a client reads it off a wire; see
// [Decision.Receive]. Fields that [Decision] has too mean the same.
type Answer struct {
	headgate.Decision

	ID                                          [2]uint64
	Application, Rule, Operation, Subject, Plan string
	SubjectFrom                                 SubjectSource
	PlanFrom                                    PlanSource
	CostFrom                                    CostSource
	Zone                                        *time.Location
	Anchor                                      int
	Cost                                        int64
	Corrects                                    bool
	Reserved                                    int64
	Shadow                                      bool
	WouldDeny                                   headgate.Reason
	Degraded                                    string
	Replayed                                    bool
	Waited                                      time.Duration
	Held                                        bool
	Revision                                    uint64
	Headers                                     policy.HeaderStyles
	RetryJitter                                 int
	Message                                     string

	// At is the instant of the decision; the zero Time if no store made it.
	At time.Time
	// Costs are those in other units than requests.
	Costs []UnitCost
	// Limits are at most headgate.MaxCharges; what is beyond is left out.
	Limits []AnsweredLimit
	// Candidate is nil where the rule has no limits on trial.
	Candidate *AnsweredCandidate
	// Ticket is "" where nothing is held.
	Ticket string
}

// AnsweredLimit is one limit of an Answer.
type AnsweredLimit struct {
	// State is the limit's, but for Limit and Share.
	State LimitState
	// Numbers become State.Limit, and Part, if it is not nil, State.Share. Numbers
	// that nothing can be computed with, such as those of an algorithm that is newer
	// than this code, become a limit of an algorithm that has no name.
	Numbers headgate.Limit
	Part    *headgate.Limit
}

// AnsweredCandidate is what limits on trial would have answered.
type AnsweredCandidate struct {
	Sum    headgate.Decision
	Limits []AnsweredLimit
}

// Receive makes d the decision that a tells of: all its methods then answer as they
// did where it was made, but for OwnerOf. Kept, Label, Metadata and Replaced are not
// told, nor are the overrides of limits. a may be used again.
func (d *Decision) Receive(a *Answer) {
	d.start(headgate.Peek, &Request{Application: a.Application, Operation: a.Operation, Subject: a.Subject}, a.Revision)
	d.received, d.ticket = true, a.Ticket
	d.Decision, d.ID, d.Kept = a.Decision, a.ID, false
	d.Rule, d.Plan, d.Message = a.Rule, a.Plan, a.Message
	d.SubjectFrom, d.PlanFrom, d.CostFrom = a.SubjectFrom, a.PlanFrom, a.CostFrom
	d.Zone, d.Anchor = a.Zone, a.Anchor
	d.Cost, d.Corrects, d.Reserved = a.Cost, a.Corrects, a.Reserved
	d.Shadow, d.WouldDeny, d.Degraded = a.Shadow, a.WouldDeny, a.Degraded
	d.Replayed, d.Waited, d.Held = a.Replayed, a.Waited, a.Held
	d.Headers, d.RetryJitter = a.Headers, a.RetryJitter
	d.costs = append(d.costs, a.Costs...)
	d.receive(a.Limits)
	if !a.At.IsZero() {
		d.batch.At = a.At.UnixMicro()
	}
	if d.candidacy = a.Candidate != nil; d.candidacy {
		if d.candidate == nil {
			d.candidate = new(candidate)
		}
		d.candidate.reset(headgate.Peek, 0)
		d.candidate.receive(a.Candidate.Limits)
		d.candidate.sum = a.Candidate.Sum
		d.candidate.sum.BoundBy = within(d.candidate.sum.BoundBy, d.candidate.n)
	}
	d.BoundBy = within(d.BoundBy, d.n)
}

// within is an index of one of n limits, or -1.
func within(i, n int) int {
	if i < 0 || i >= n {
		return -1
	}
	return i
}

func (t *tally) receive(limits []AnsweredLimit) {
	t.n = min(len(t.limits), len(limits))
	for i := range t.n {
		a, s := &limits[i], &t.limits[i]
		*s = a.State
		s.Limit, s.Share = received.prepare(&a.Numbers), nil
		if a.Part != nil {
			s.Share = received.prepare(a.Part)
		}
	}
}

// maxReceived bounds the limits that are kept ready for answers. Where one too many
// comes all are dropped: it takes microseconds to make one.
const maxReceived = 4096

// preparedLimits keeps the limits of answers ready.
type preparedLimits struct {
	mu    sync.RWMutex
	ready map[headgate.Limit]*headgate.Prepared
}

var received preparedLimits

func (r *preparedLimits) prepare(l *headgate.Limit) *headgate.Prepared {
	r.mu.RLock()
	p := r.ready[*l]
	r.mu.RUnlock()
	if p != nil {
		return p
	}
	p, err := l.Prepare()
	if err != nil {
		p = &headgate.Prepared{Limit: headgate.Limit{Name: l.Name, Algorithm: nameless}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ready) >= maxReceived {
		r.ready = nil
	}
	if r.ready == nil {
		r.ready = make(map[headgate.Limit]*headgate.Prepared)
	}
	r.ready[*l] = p
	return p
}

// nameless is an algorithm of which nothing is known.
const nameless = headgate.Algorithm(255)
