package fronttest_test

import (
	"context"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/server/front/fronttest"
)

// altered is a door that does one thing wrong.
type altered struct {
	gatetest.Holder
	request func(*gate.Request)        // nil leaves requests as they are; so do the others
	call    func(*gatetest.Call)       //
	claim   func(*gatetest.ClaimCall)  //
	ttl     func(time.Duration) int64  // in milliseconds
	answer  func(*gatetest.Answer)     //
	fails   func(*headgate.Error)      //
	envoy   func(*fronttest.Verdict)   //
	asks    func(*gatetest.Descriptor) //
}

func (a *altered) said(got gatetest.Answer, err error) (gatetest.Answer, error) {
	if err == nil && a.answer != nil {
		a.answer(&got)
	}
	return got, a.failed(err)
}

func (a *altered) failed(err error) error {
	if e, ok := err.(*headgate.Error); ok && a.fails != nil {
		other := *e
		a.fails(&other)
		return &other
	}
	return err
}

func (a *altered) Decide(ctx context.Context, c gatetest.Call) (gatetest.Answer, error) {
	if a.request != nil {
		a.request(&c.Request)
	}
	if a.call != nil {
		a.call(&c)
	}
	return a.said(a.Holder.Decide(ctx, c))
}

func (a *altered) Reserve(ctx context.Context, c gatetest.Call, ttl time.Duration) (gatetest.Answer, error) {
	if a.request != nil {
		a.request(&c.Request)
	}
	if a.ttl != nil {
		ttl = time.Duration(a.ttl(ttl)) * time.Millisecond
	}
	return a.said(a.Holder.Reserve(ctx, c, ttl))
}

func (a *altered) Claim(ctx context.Context, c gatetest.ClaimCall) (gatetest.Answer, error) {
	if a.claim != nil {
		a.claim(&c)
	}
	return a.said(a.Holder.Claim(ctx, c))
}

// single decides batches one by one.
type single struct{ gatetest.Holder }

func (s single) TakeAll(ctx context.Context, at time.Time, rs []gate.Request) (list []gatetest.Answer, failed int, err error) {
	for i, r := range rs {
		answers, _, err := s.Holder.TakeAll(ctx, at, []gate.Request{r})
		if err != nil {
			return nil, i, err
		}
		list = append(list, answers[0])
	}
	return list, -1, nil
}

// alteredEnvoy is the same for an Envoy's door.
type alteredEnvoy struct {
	fronttest.Envoy
	*altered
}

func (e alteredEnvoy) Call(ctx context.Context, at time.Time, domain string, ds []gatetest.Descriptor) (fronttest.Verdict, error) {
	if e.asks != nil {
		ds = append([]gatetest.Descriptor(nil), ds...)
		for i := range ds {
			e.asks(&ds[i])
		}
	}
	v, err := e.Envoy.Call(ctx, at, domain, ds)
	if err == nil && e.envoy != nil {
		e.envoy(&v)
	}
	return v, err
}

// controls are doors that the comparison must tell from the gate. Each is wrong in one
// place only, and some in few cases.
var controls = map[string]altered{
	"remaining is one too many":    {answer: func(a *gatetest.Answer) { a.Remaining++ }},
	"a limit's remaining is wrong": {answer: func(a *gatetest.Answer) { alter(a.Limits, func(s *gatetest.State) { s.Remaining++ }) }},
	"a limit's overage is lost":    {answer: func(a *gatetest.Answer) { alter(a.Limits, func(s *gatetest.State) { s.Overage = 0 }) }},
	"the end of quotas is in another zone": {answer: func(a *gatetest.Answer) {
		alter(a.Limits, func(s *gatetest.State) {
			if !s.ResetsAt.IsZero() {
				s.ResetsAt = s.ResetsAt.Add(time.Hour)
			}
		})
	}},
	"retry is a millisecond short":      {answer: func(a *gatetest.Answer) { a.RetryAfter = max(0, a.RetryAfter-time.Millisecond) }},
	"shadow is not told":                {answer: func(a *gatetest.Answer) { a.Shadow = false }},
	"replays are not told":              {answer: func(a *gatetest.Answer) { a.Replayed = false }},
	"held is not told":                  {answer: func(a *gatetest.Answer) { a.Held = false }},
	"candidates are not told":           {answer: func(a *gatetest.Answer) { a.Candidate = nil }},
	"plans are not told":                {answer: func(a *gatetest.Answer) { a.Plan = "" }},
	"no tickets are given":              {answer: func(a *gatetest.Answer) { a.Ticket = "" }},
	"a unit is dropped":                 {request: func(r *gate.Request) { delete(r.Costs, "tokens") }},
	"subjects are swapped":              {request: func(r *gate.Request) { r.Subject = swapped(r.Subject) }},
	"addresses are dropped":             {request: func(r *gate.Request) { r.IP = (gate.Request{}).IP }},
	"methods are dropped":               {request: func(r *gate.Request) { r.Method = "" }},
	"a second line is dropped":          {request: dropLines},
	"attributes are dropped":            {request: func(r *gate.Request) { delete(r.Attributes, "user") }},
	"said plans are dropped":            {request: func(r *gate.Request) { r.Plan = "" }},
	"a cost of 0 is taken for none":     {request: func(r *gate.Request) { r.CostSaid = r.Cost != 0 }},
	"idempotency keys are dropped":      {request: func(r *gate.Request) { r.IdempotencyKey = "" }},
	"peeks charge":                      {call: func(c *gatetest.Call) { c.Peek = false }},
	"instants are a millisecond off":    {call: func(c *gatetest.Call) { c.At = c.At.Add(time.Millisecond) }},
	"reservations hold for the usual":   {ttl: func(time.Duration) int64 { return 0 }},
	"settlements have no cost":          {claim: func(c *gatetest.ClaimCall) { c.Claim.CostSaid = false }},
	"settlements have no units":         {claim: func(c *gatetest.ClaimCall) { c.Claim.Costs = nil }},
	"releases are settlements":          {claim: settleReleases},
	"any application may claim":         {claim: func(c *gatetest.ClaimCall) { c.Claim.Application = "" }},
	"conflicts are faults":              {fails: func(e *headgate.Error) { e.Code = blurred(e.Code, headgate.Conflict) }},
	"what is not found is a fault":      {fails: func(e *headgate.Error) { e.Code = blurred(e.Code, headgate.NotFound) }},
	"fields are not told":               {fails: func(e *headgate.Error) { e.Field = "" }},
	"Envoys are told of one more":       {envoy: func(v *fronttest.Verdict) { v.Statuses[0].Remaining++ }},
	"Envoys are let through":            {envoy: func(v *fronttest.Verdict) { v.Over = false }},
	"Envoys are told another end":       {envoy: func(v *fronttest.Verdict) { v.Statuses[0].Reset -= time.Second }},
	"hits are counted once":             {asks: func(d *gatetest.Descriptor) { d.Hits = min(d.Hits, 1) }},
	"hits are not given back":           {asks: func(d *gatetest.Descriptor) { d.Back = false }},
	"limits that Envoys say are naught": {asks: func(d *gatetest.Descriptor) { d.Said = nil }},
}

func alter(list []gatetest.State, change func(*gatetest.State)) {
	for i := range list {
		change(&list[i])
	}
}

func swapped(subject string) string {
	switch subject {
	case "ann":
		return "bob"
	case "bob":
		return "ann"
	default:
		return subject
	}
}

func dropLines(r *gate.Request) {
	for name, lines := range r.Headers {
		r.Headers[name] = lines[:1]
	}
}

func settleReleases(c *gatetest.ClaimCall) {
	if c.Op == headgate.Release {
		c.Op = headgate.Settle
	}
}

func blurred(code, of headgate.Code) headgate.Code {
	if code == of {
		return headgate.InvalidRequest
	}
	return code
}

// controlSeeds is how many cases a wrong door has to be caught in.
const controlSeeds = 40

// steps is how many are enough to show what some of the controls do, if those that are not
// needed are left out: what is wrong with an answer, with a ticket, and with the state.
var steps = map[string]int{"remaining is one too many": 1, "held is not told": 2, "peeks charge": 2}

// TestComparisonCatches: a door that does one thing wrong is caught, and shown by few
// steps.
func TestComparisonCatches(t *testing.T) {
	var cases []*fronttest.Case
	var wants [][]fronttest.Outcome
	var tally fronttest.Tally
	for seed := range uint64(controlSeeds) {
		c := fronttest.NewCase(1+seed, stepsOfSeed)
		cases = append(cases, c)
		wants = append(wants, c.Play(t.Context(), fronttest.Local(fronttest.Open(t, c.Policy))))
		tally.Add(wants[seed])
	}
	catches := func(name string, few int, wrong func(*fronttest.Door)) {
		t.Run(name, func(t *testing.T) {
			open := func(policy string) fronttest.Door {
				d := overHTTP(t, policy)
				wrong(&d)
				return d
			}
			for i, c := range cases {
				diff := c.Compare(t.Context(), wants[i], open(c.Policy))
				switch {
				case diff == nil:
					continue
				case few == 0:
					return
				}
				if diff = diff.Shrink(t, open); len(diff.Case.Steps) > few {
					t.Errorf("%d steps show it, not %d: %v", len(diff.Case.Steps), few, diff)
				}
				return
			}
			t.Errorf("not caught by %d cases", len(cases))
		})
	}
	for name, a := range controls {
		catches(name, steps[name], func(d *fronttest.Door) {
			a.Holder = d.Holder
			d.Holder, d.Envoy = &a, alteredEnvoy{d.Envoy, &a}
		})
	}
	catches("batches are not atomic", 0, func(d *fronttest.Door) { d.Holder = single{d.Holder} })

	// What the cases never come to, no door can be wrong about.
	for _, what := range []string{
		"ok", "no_rule", "skipped", "allow_listed", "deny_listed", "banned", "batch_refused", "rate_limited", "quota_exceeded", "concurrency_exceeded",
		"cost_exceeds_limit", "in shadow", "replayed", "held", "with candidate", "with units", "envoy", "envoy over", "envoy without limit",
		"error invalid_request attributes", "error invalid_request cost", "error invalid_request costs", "error invalid_request ticket", "error invalid_request subject",
		"error not_found application", "error not_found ticket", "error conflict idempotency_key",
	} {
		if tally.Of(what) == 0 {
			t.Errorf("nothing is %s: %v", what, &tally)
		}
	}
}
