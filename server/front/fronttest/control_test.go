package fronttest_test

import (
	"context"
	"slices"
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

// alteredMore does one of the things wrong that only some doors do.
type alteredMore struct {
	fronttest.More
	told     func(*gate.Explanation)
	explain  func(*gatetest.Call)
	throttle func(*gate.Throttle)
	limits   func([]string) []string
	subject  func(string) string
	items    func([]gate.Request) []gate.Request
	results  func([]fronttest.Result)
}

func (a *alteredMore) Explain(ctx context.Context, c gatetest.Call) (gatetest.Answer, gate.Explanation, error) {
	if a.explain != nil {
		a.explain(&c)
	}
	got, e, err := a.More.Explain(ctx, c)
	if a.told != nil {
		a.told(&e)
	}
	return got, e, err
}

func (a *alteredMore) Throttle(ctx context.Context, at time.Time, t gate.Throttle) (gatetest.Answer, error) {
	if a.throttle != nil {
		a.throttle(&t)
	}
	return a.More.Throttle(ctx, at, t)
}

func (a *alteredMore) Reset(ctx context.Context, at time.Time, application, subject string, limits []string) (gatetest.Answer, error) {
	if a.limits != nil {
		limits = a.limits(limits)
	}
	reset := subject
	if a.subject != nil {
		reset = a.subject(subject)
	}
	got, err := a.More.Reset(ctx, at, application, reset, limits)
	if err == nil {
		got.Subject = subject
	}
	return got, err
}

func (a *alteredMore) TakeEach(ctx context.Context, at time.Time, rs []gate.Request) ([]fronttest.Result, error) {
	if a.items != nil {
		rs = a.items(rs)
	}
	list, err := a.More.TakeEach(ctx, at, rs)
	if a.results != nil {
		a.results(list)
	}
	return list, err
}

// together decides batches that are not atomic as if they were.
type together struct {
	fronttest.More
	holder gatetest.Holder
}

func (g together) TakeEach(ctx context.Context, at time.Time, rs []gate.Request) ([]fronttest.Result, error) {
	answers, failed, err := g.holder.TakeAll(ctx, at, rs)
	list := make([]fronttest.Result, len(rs))
	for i, a := range answers {
		list[i].Answer = a
	}
	if err != nil {
		list[max(0, failed)].Err = err
	}
	return list, nil
}

// charging takes where it is to explain.
type charging struct {
	fronttest.More
	holder gatetest.Holder
}

func (g charging) Explain(ctx context.Context, c gatetest.Call) (gatetest.Answer, gate.Explanation, error) {
	a, e, err := g.More.Explain(ctx, c)
	if err == nil {
		_, err = g.holder.Decide(ctx, c)
	}
	return a, e, err
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

// controlsOfMore are the same for what only some doors do.
var controlsOfMore = map[string]alteredMore{
	"verdicts are not told":          {told: func(e *gate.Explanation) { e.Verdict = "" }},
	"the last step is not told":      {told: func(e *gate.Explanation) { e.Steps = e.Steps[:max(0, len(e.Steps)-1)] }},
	"explanations are of another":    {explain: func(c *gatetest.Call) { c.Request.Subject = swapped(c.Request.Subject) }},
	"throttles have their own burst": {throttle: func(t *gate.Throttle) { t.Burst = 0 }},
	"throttles cost one":             {throttle: func(t *gate.Throttle) { t.Cost = min(t.Cost, 1) }},
	"throttles that look take":       {throttle: func(t *gate.Throttle) { t.Peek = false }},
	"throttles have one key":         {throttle: func(t *gate.Throttle) { t.Key = t.Key[:0] + "k" }},
	"throttles are slower":           {throttle: func(t *gate.Throttle) { t.Period += time.Millisecond }},
	"all limits are reset":           {limits: func([]string) []string { return nil }},
	"bans are reset as well":         {limits: withBans},
	"another subject is reset":       {subject: swapped},
	"items are the other way round":  {items: reversed},
	"a last item is left out":        {items: func(rs []gate.Request) []gate.Request { return rs[:max(1, len(rs)-1)] }},
	"items have no keys":             {items: withoutKeys},
	"faults of items are not told":   {results: clearErrors},
	"remaining of items is wrong":    {results: oneMore},
}

func withBans(limits []string) []string {
	if limits == nil {
		return limits
	}
	return append(slices.Clone(limits), "ban")
}

func reversed(rs []gate.Request) []gate.Request {
	slices.Reverse(rs)
	return rs
}

func withoutKeys(rs []gate.Request) []gate.Request {
	for i := range rs {
		rs[i].IdempotencyKey = ""
	}
	return rs
}

func oneMore(list []fronttest.Result) {
	for i := range list {
		list[i].Answer.Remaining++
	}
}

func clearErrors(list []fronttest.Result) {
	for i := range list {
		list[i].Err = nil
	}
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
	for name, a := range controlsOfMore {
		catches(name, 0, func(d *fronttest.Door) {
			a.More = d.More
			d.More = &a
		})
	}
	catches("other batches are atomic", 0, func(d *fronttest.Door) { d.More = together{d.More, d.Holder} })
	catches("explanations charge", 2, func(d *fronttest.Door) { d.More = charging{d.More, d.Holder} })
	catches("batches are not atomic", 0, func(d *fronttest.Door) { d.Holder = single{d.Holder} })

	// What the cases never come to, no door can be wrong about.
	for _, what := range []string{
		"ok", "no_rule", "skipped", "allow_listed", "deny_listed", "banned", "batch_refused", "rate_limited", "quota_exceeded", "concurrency_exceeded",
		"cost_exceeds_limit", "in shadow", "replayed", "held", "with candidate", "with units", "envoy", "envoy over", "envoy without limit", "explained", "throttled", "each", "reset",
		"error invalid_request rate", "error invalid_request key", "error invalid_request max_wait_ms", "error not_found limits",
		"error invalid_request attributes", "error invalid_request cost", "error invalid_request costs", "error invalid_request ticket", "error invalid_request subject",
		"error not_found application", "error not_found ticket", "error conflict idempotency_key",
	} {
		if tally.Of(what) == 0 {
			t.Errorf("nothing is %s: %v", what, &tally)
		}
	}
}
