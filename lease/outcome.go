package lease

import (
	"time"

	"github.com/headgate/headgate"
)

// view is what the authority last told of a budget.
type view struct {
	state headgate.Outcome
	at    int64 // on the holder's clock
}

// outcome fills in o for a charge that left so many tokens in the lease. What
// others did since the last word of the authority is not in it.
func (v *view) outcome(l *headgate.Prepared, left, now int64, o *headgate.Outcome) {
	s := &v.state
	*o = headgate.Outcome{Allowed: true, Leased: true, Limit: s.Limit, ResetsAt: s.ResetsAt}
	since := time.Duration(max(0, now-v.at)) * time.Microsecond
	o.ResetAfter = max(0, s.ResetAfter-since)
	if l.Algorithm == headgate.Ban {
		o.Leased = false
		o.Used, o.Remaining, o.Overage = s.Used, s.Remaining, s.Overage
		return
	}
	o.Used = max(0, s.Used-left)
	o.Remaining = max(0, s.Limit-o.Used)
	o.Overage = max(0, o.Used-s.Limit)
	if l.Algorithm == headgate.TokenBucket {
		o.ResetAfter = time.Duration((o.Used*l.P+l.N-1)/l.N) * time.Microsecond
	}
}
