package inlet

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// TestShortest: renewals follow the shortest TTL of what is held.
func TestShortest(t *testing.T) {
	var d gate.Decision
	limit := func(l headgate.Limit, cost int64) gate.AnsweredLimit {
		return gate.AnsweredLimit{State: gate.LimitState{ID: l.Name, Cost: cost}, Numbers: l}
	}
	d.Receive(&gate.Answer{Limits: []gate.AnsweredLimit{
		limit(headgate.InFlight(3, time.Hour).WithName("a"), 1), limit(headgate.InFlight(3, time.Minute).WithName("b"), 1),
		limit(headgate.InFlight(3, time.Second).WithName("c"), 0), limit(headgate.PerSecond(1).WithName("d"), 1),
	}})
	if got := shortest(&d); got != time.Minute {
		t.Errorf("got %v, want 1m: of what is free nothing is held", got)
	}
	d.Receive(&gate.Answer{Limits: []gate.AnsweredLimit{limit(headgate.PerSecond(1).WithName("d"), 1)}})
	if got := shortest(&d); got != 0 {
		t.Errorf("got %v without slots", got)
	}
}
