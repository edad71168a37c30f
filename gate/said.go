package gate

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// SaidLimit is a limit that the caller says: Count per Period, in windows that are aligned
// to the Unix epoch. Count is 0 to headgate.MaxInt; 0 refuses what costs anything, with
// the reason CostExceedsLimit. Period is 1 s to 10 years, whole microseconds.
//
// Its budget is that of the application, of all entries of the descriptor and of Period:
// another Count keeps what was used. Limits of the application and of the plan count
// beside it, and the application's mode holds for it.
type SaidLimit struct {
	Count  int64
	Period time.Duration
}

// saidID is the id of a limit that the caller says.
const saidID = "override"

// The periods that a caller may say.
const (
	minSaidPeriod = time.Second
	maxSaidPeriod = 10 * 365 * 24 * time.Hour
)

// newSaid makes what stands in for the rule of a request that says its limit.
func newSaid(in scope) *rule {
	return &rule{cost: policy.Cost{Fixed: 1}, limits: []*limit{{
		id: saidID, owner: policy.OwnerSubject, unit: policy.Requests, shadow: in.shadow, percent: in.percent, said: true,
		away: awayMode(headgate.FixedWindow, in.onStoreError), written: new(policy.Limit),
	}}}
}

// matchSaid makes the limit ready that the request says.
func (q *question) matchSaid() (*rule, error) {
	said := q.request.Said
	switch {
	case q.holdFor > 0:
		return nil, invalid("limit", "what a request says itself cannot be reserved")
	case said.Count < 0 || said.Count > headgate.MaxInt:
		return nil, invalid("limit", "count %d: must be 0 to %d", said.Count, int64(headgate.MaxInt))
	case said.Period < minSaidPeriod || said.Period > maxSaidPeriod || said.Period%time.Microsecond != 0:
		return nil, invalid("limit", "period %v: must be 1 s to 10 years", said.Period)
	}
	var err error
	q.said, err = q.app.overrides.prepare(q.app.name, *said)
	return q.app.said, err
}

// maxOverrides bounds the limits that are kept ready for an application. A new one takes
// the place of the one that was not asked for the longest. That loses nothing: what is
// used of a limit is in the store, and is found when the limit is said again.
const maxOverrides = 1024

// overrides keeps the limits ready that the callers of one application say: thousands of
// them slow down nobody but the application itself.
type overrides struct {
	mu    sync.RWMutex
	ready map[SaidLimit]*saidWindow
	turn  atomic.Int64 // counts what was asked for
}

type saidWindow struct {
	prepared *headgate.Prepared
	shown    *headgate.Prepared // in answers
	used     atomic.Int64       // the turn at which it was asked for last
}

func (o *overrides) prepare(application string, said SaidLimit) (*saidWindow, error) {
	o.mu.RLock()
	ready := o.ready[said]
	o.mu.RUnlock()
	if ready == nil {
		// Not in the scope is the count, so that another one finds what was used.
		scope := fmt.Sprintf("%s/%s/%d", application, saidID, said.Period.Microseconds())
		p, err := headgate.Window(max(1, said.Count), said.Period).WithScope(scope).WithName(saidID).Prepare()
		if err != nil {
			return nil, err
		}
		ready = &saidWindow{prepared: p, shown: p}
		if said.Count == 0 {
			ready.shown = nothing(p)
		}
		ready.used.Store(o.turn.Add(1))
		o.keep(said, ready)
		return ready, nil
	}
	ready.used.Store(o.turn.Add(1))
	return ready, nil
}

// keep keeps a limit ready.
func (o *overrides) keep(said SaidLimit, ready *saidWindow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ready == nil {
		o.ready = make(map[SaidLimit]*saidWindow)
	}
	if _, is := o.ready[said]; !is && len(o.ready) >= maxOverrides {
		var oldest SaidLimit
		least := int64(math.MaxInt64)
		for l, r := range o.ready {
			if used := r.used.Load(); used < least {
				oldest, least = l, used
			}
		}
		delete(o.ready, oldest)
	}
	o.ready[said] = ready
}

// A limit of nothing has a Count that no store counts by. So it is one of 1, and what
// costs anything asks it for overNothing, which it can never hold.
const overNothing = 2

// nothing returns how a limit of nothing shows in answers.
func nothing(p *headgate.Prepared) *headgate.Prepared {
	shown := *p
	shown.Count = 0
	return &shown
}

// showNothing makes outcomes of limits of nothing what they would be if one could count
// by them.
func showNothing(states []LimitState, outcomes []headgate.Outcome) {
	for i := range states {
		if states[i].Limit.Count == 0 {
			o := &outcomes[i]
			o.Limit, o.Used, o.Remaining, o.Overage, o.ResetAfter = 0, 0, 0, 0, 0
		}
	}
}
