package gate

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/expr"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/internal/clientip"
)

// MaxSubject is the longest subject and owner, in bytes.
const MaxSubject = 512

// Take decides r, charges what it costs if it passes, and fills in d. The error
// is an *headgate.Error and means that nothing was decided: InvalidRequest with
// the field at fault, NotFound for an unknown application, Closed. A store that
// cannot decide is no error: the policy says what happens then, and d.Degraded
// that it did. If ctx is canceled before the store has answered, the error is its
// cause.
func (g *Gate) Take(ctx context.Context, r *Request, d *Decision) error {
	q := question{gate: g, op: headgate.Take, request: r}
	return q.decide(ctx, d)
}

// Peek answers what Take would, and charges nothing.
func (g *Gate) Peek(ctx context.Context, r *Request, d *Decision) error {
	q := question{gate: g, op: headgate.Peek, request: r}
	return q.decide(ctx, d)
}

// question is a request on its way to a decision.
type question struct {
	gate    *Gate
	op      headgate.Op
	request *Request
	snap    *snapshot
	app     *application
	rule    *rule
	plan    *plan
	record  *record // of the subject; nil if there is none
	ban     *record // that bans the subject by hand; nil for none
	path    string
	query   string

	asked   bool // the decision's input is filled in
	quota   bool // a quota is charged
	instant int64
	holdFor time.Duration    // > 0 for a reservation
	place   int              // of the subject among all, 1 to 100; 0 before it was asked for
	forced  *modeOverride    // what an operator said of modes; nil for nothing
	found   *policy.Identity // the subject; nil if it was said, or there is none
	said    *saidWindow      // the limit that the request says; nil for none
	// described says that the rule was found by the descriptor, or the request says its
	// limit.
	described bool
	called    bool // decided with others of its call, where nobody waits
}

func (q *question) decide(ctx context.Context, d *Decision) error {
	settled, err := q.prepare(d)
	if settled || err != nil {
		return err
	}
	return q.apply(ctx, d)
}

// prepare finds everything that the decision depends on but the state of limits,
// and fills the batch. settled means that no limit has a say. A reservation has a
// ticket also then, which holds nothing.
func (q *question) prepare(d *Decision) (settled bool, err error) {
	if err := q.find(d); err != nil {
		return false, err
	}
	return q.prepareFound(d)
}

// prepareFound is prepare once the rule is found.
func (q *question) prepareFound(d *Decision) (settled bool, err error) {
	if settled, err = q.resolve(d); err != nil || q.op != headgate.Take {
		return settled, err
	}
	if q.holdFor > 0 {
		d.ticketed, d.batch.HoldFor = true, q.holdFor.Microseconds()
	}
	if d.ticketed {
		d.batch.Hold = newHold()
	}
	return settled, nil
}

// find finds application and rule.
func (q *question) find(d *Decision) error {
	g, r := q.gate, q.request
	d.Kept = false // it may be of an earlier use
	if g.closed.Load() {
		return errClosed
	}
	if q.snap == nil {
		q.snap = g.current.Load()
	}
	d.start(q.op, r, q.snap.revision)
	if q.app = q.snap.applications[r.Application]; q.app == nil {
		return g.unknownApplication(r.Application)
	}
	if err := q.match(d); err != nil {
		return err
	}
	d.Application, d.Headers, d.RetryJitter = q.app.name, q.app.headers, q.app.retryJitter
	return nil
}

func (q *question) resolve(d *Decision) (settled bool, err error) {
	if err := q.subject(d); err != nil {
		return false, err
	}
	if err := q.request.checkCosts(); err != nil {
		return false, err
	}
	if q.op != headgate.Refund && q.listed(d) {
		return true, nil
	}
	if err := q.findPlan(d); err != nil {
		return false, err
	}
	if settled, err := q.passUncharged(d); settled || err != nil {
		return settled, err
	}
	if err := q.cost(d); err != nil {
		return false, err
	}
	if m := q.gate.modes.Load(); m != nil {
		q.forced = m.find(q.app.name, q.rule.name, q.now())
	}
	return false, q.charges(d)
}

// now is the instant of the decision, for what is valid for a time. The store
// may decide a moment later.
func (q *question) now() int64 {
	if q.instant == 0 {
		if q.instant = q.request.Now; q.instant == 0 {
			q.instant = q.gate.Now()
		}
	}
	return q.instant
}

// start empties d for a request.
func (d *Decision) start(op headgate.Op, r *Request, revision uint64) {
	d.Decision = headgate.Decision{Retryable: true, BoundBy: -1}
	d.ID = [2]uint64{rand.Uint64(), rand.Uint64()}
	d.Application, d.Operation, d.Subject = r.Application, r.Operation, r.Subject
	d.Rule, d.Plan, d.Message, d.Degraded = "", "", "", ""
	d.SubjectFrom, d.PlanFrom, d.CostFrom = NoSubject, NoPlan, CostOfRule
	d.Cost, d.Shadow, d.WouldDeny, d.Revision = 0, false, headgate.NoReason, revision
	d.Zone, d.Anchor, d.Corrects, d.Reserved = nil, 0, false, 0
	d.Replayed, d.Held, d.Waited = false, false, 0
	d.Headers, d.RetryJitter, d.used = 0, 0, 0
	d.Label, d.Metadata, d.Replaced, d.words = "", nil, false, d.words[:0]
	d.costs, d.candidacy, d.ticketed = d.costs[:0], false, false
	d.received, d.ticket = false, ""
	d.tally.reset(op, r.Now)
}

func invalid(field, format string, args ...any) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: fmt.Errorf(format, args...)}
}

func (g *Gate) unknownApplication(name string) error {
	if name == "" {
		return invalid("application", "is required")
	}
	return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%.64q is not in the policy", name)}
}

// subject finds who asks: the one that was said, else the first that the
// application's identity finds.
func (q *question) subject(d *Decision) error {
	r := q.request
	switch {
	case q.described:
		if d.Subject = q.descriptorSubject(d); d.Subject != "" {
			d.SubjectFrom = SubjectDescriptor
		}
	case r.Subject != "":
		d.SubjectFrom = SubjectSaid
	default:
		for i := range q.app.identity {
			if id := &q.app.identity[i]; q.identify(id, d) {
				d.SubjectFrom, q.found = subjectSources[id.Kind], id
				break
			}
		}
	}
	q.record, q.ban = q.gate.recordOf(q.app, d.Subject, q.now)
	q.bill(d)
	return checkOwner("subject", d.Subject)
}

// bill finds out how usage is divided into months.
func (q *question) bill(d *Decision) {
	plan := q.plan
	if plan == nil && q.record != nil {
		plan = q.app.plans[q.record.plan]
	}
	if plan = cmp.Or(plan, q.app.defaultPlan); plan != nil {
		d.Zone, d.Anchor = plan.zone, plan.anchor
	}
	if q.record != nil {
		d.Zone, d.Anchor = cmp.Or(q.record.timezone, d.Zone), cmp.Or(q.record.anchor, d.Anchor)
	}
}

var subjectSources = [...]SubjectSource{
	policy.ByIP: SubjectIP, policy.ByHeader: SubjectHeader, policy.ByCookie: SubjectCookie, policy.ByAttribute: SubjectAttribute,
}

// listed settles requests of clients that the application's lists name, or that are
// banned by hand.
func (q *question) listed(d *Decision) bool {
	switch {
	case q.app.deny.holds(d.Subject, q.request.IP):
		d.Reason, d.Retryable = headgate.DenyListed, false
	case q.ban != nil:
		d.Reason, d.RetryAfter = headgate.Banned, time.Duration(q.ban.banned-q.now())*time.Microsecond
	case q.app.allow.holds(d.Subject, q.request.IP):
		d.Allowed, d.Reason = true, headgate.AllowListed
	default:
		return false
	}
	return true
}

func checkOwner(field, s string) error {
	if len(s) > MaxSubject {
		return invalid(field, "%d bytes: at most %d", len(s), MaxSubject)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '\r' || c == '\n' || c == 0 {
			return invalid(field, "has a line break or NUL")
		}
	}
	return nil
}

func (q *question) identify(id *policy.Identity, d *Decision) bool {
	r := q.request
	if r.Stranger && !id.KnownOnly && (id.Kind == policy.ByHeader || id.Kind == policy.ByCookie) {
		return false // or every request would bring a budget of its own
	}
	var name string
	switch id.Kind {
	case policy.ByIP:
		if !r.IP.IsValid() {
			return false
		}
		d.Subject = d.text(clientip.AppendKey(d.buf[d.used:d.used], r.IP))
		return true
	case policy.ByHeader:
		if v := r.Headers[id.Name]; len(v) == 1 { // two of them name nobody
			name = v[0]
		}
	case policy.ByCookie:
		name = cookie(r.Headers, id.Name)
	case policy.ByAttribute:
		name = r.Attributes[id.Name]
	}
	if name == "" {
		return false
	}
	if id.KnownOnly {
		if known, _ := q.gate.recordOf(q.app, name, q.now); known == nil {
			return false
		}
	}
	d.Subject = name
	return true
}

// cookie returns the value of the first cookie with the name.
func cookie(h http.Header, name string) string {
	for _, line := range h["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			if n, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && n == name {
				return strings.Trim(v, `"`)
			}
		}
	}
	return ""
}

// text keeps b, which was written at the end of d.buf, as a string.
func (d *Decision) text(b []byte) string {
	d.used += len(b)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// findPlan finds the plan: that of the subject's record, else the request's,
// else the rule's, else the application's default.
func (q *question) findPlan(d *Decision) error {
	name, field, from := "", "plan of the record", PlanOfSubject
	if q.record != nil {
		name = q.record.plan
	}
	if q.plan = q.app.plans[name]; q.plan != nil {
		d.PlanFrom = from
	} else {
		if name == "" {
			name, field, from = q.planSaid(), "plan", PlanSaid
		}
		if name == "" && q.rule.planExpr != nil {
			var err error
			field, from = "plan expression", PlanOfRule
			in := q.ask(d)
			if q.request.Stranger {
				in.Headers = nil
			}
			name, err = q.rule.planExpr.String(in)
			in.Headers = q.request.Headers
			if err != nil {
				return missing(err)
			}
		}
		if q.plan, d.PlanFrom = q.app.plans[name], from; q.plan == nil {
			if name != "" {
				if q.app.defaultPlan == nil {
					return invalid("plan", "%s %.64q is not in the policy", field, name)
				}
				q.gate.unknownPlan(q.app.name, name)
			}
			q.plan, d.PlanFrom = q.app.defaultPlan, PlanDefault
		}
	}
	if q.plan == nil {
		d.PlanFrom = NoPlan
		return nil
	}
	d.Plan = q.plan.name
	q.bill(d)
	return nil
}

// planSaid returns the plan that the request says, "" for none.
func (q *question) planSaid() string {
	name := q.request.Plan
	if q.request.PlanGuessed && (q.described || q.app.plans[name] == nil) {
		return ""
	}
	return name
}

// unknownPlan counts, and logs ever more rarely.
func (g *Gate) unknownPlan(application, plan string) {
	if n := g.unknownPlans.Add(1); n&(n-1) == 0 {
		g.log.Warn("request names an unknown plan, the default plan decides", "application", application, "plan", fmt.Sprintf("%.64q", plan), "so far", n)
	}
}

// ask returns what expressions see.
func (q *question) ask(d *Decision) *expr.Input {
	if !q.asked {
		r := q.request
		q.asked = true
		if q.described && r.Path != "" {
			q.path, q.query, _ = splitPath(r.Path) // a path that is none is not asked for
		}
		d.input = expr.Input{
			Method: r.Method, Path: q.path, Query: q.query, Host: r.Host, Headers: r.Headers,
			Operation: r.Operation, Attributes: r.Attributes,
		}
		if r.IP.IsValid() {
			d.input.IP = r.IP.Unmap().String()
		}
	}
	d.input.Subject, d.input.Plan = d.Subject, d.Plan
	return &d.input
}

func missing(err error) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: "attributes", Err: err}
}

// passUncharged settles requests that are decided without a charge.
func (q *question) passUncharged(d *Decision) (settled bool, err error) {
	switch {
	case q.rule.skip != nil:
		skip, err := q.rule.skip.Bool(q.ask(d))
		if err != nil {
			return false, missing(err)
		}
		if skip {
			d.Allowed, d.Reason = true, headgate.Skipped
		}
		return skip, nil
	case q.rule == q.app.noRule && q.app.onNoMatch == policy.NoMatchDeny:
		d.Reason, d.Retryable = headgate.NoRule, false
		return true, nil
	default:
		return false, nil
	}
}

// cost finds what the request costs.
func (q *question) cost(d *Decision) error {
	r := q.request
	switch {
	case r.CostSaid:
		d.Cost, d.CostFrom = r.Cost, CostSaid
	case q.rule.costExpr != nil:
		n, err := q.rule.costExpr.Int(q.ask(d))
		if err != nil {
			return missing(err)
		}
		d.Cost, d.CostFrom = n, CostOfExpression
	default:
		d.Cost = q.rule.cost.Fixed
		method := r.Method
		if _, ok := q.rule.cost.ByMethod[method]; !ok && method == "HEAD" {
			method = "GET"
		}
		if n, ok := q.rule.cost.ByMethod[method]; ok {
			d.Cost, d.CostFrom = n, CostOfMethod
		}
	}
	if err := checkCost("cost", d.Cost); err != nil {
		return err
	}
	if len(r.Costs) == 0 && len(q.rule.costs) == 0 {
		return nil
	}
	return q.unitCosts(d)
}

// checkCosts looks at what the caller says, also where nothing will be charged.
func (r *Request) checkCosts() error {
	if r.CostSaid {
		if err := checkCost("cost", r.Cost); err != nil {
			return err
		}
	}
	for unit, cost := range r.Costs {
		if cost < 0 || cost > headgate.MaxInt {
			return checkCost("costs."+unit, cost)
		}
	}
	return nil
}

func checkCost(field string, cost int64) error {
	if cost < 0 || cost > headgate.MaxInt {
		return invalid(field, "%d: must be 0 to %d", cost, int64(headgate.MaxInt))
	}
	return nil
}

func (a *application) checkUnitCost(unit string, cost int64) error {
	if unit == policy.Requests {
		return invalid("costs."+unit, "requests are counted by cost: say cost instead")
	}
	if _, ok := a.units[unit]; !ok {
		return invalid("costs", "no limit of this application counts %.64q", unit)
	}
	if cost < 0 || cost > headgate.MaxInt {
		return checkCost("costs."+unit, cost)
	}
	return nil
}

// unitCosts finds the costs in other units than requests: those that the request
// says, by name, then those that only the rule knows.
func (q *question) unitCosts(d *Decision) error {
	for unit, cost := range q.request.Costs {
		if err := q.app.checkUnitCost(unit, cost); err != nil {
			return err
		}
		d.costs = append(d.costs, UnitCost{Unit: unit, Cost: cost})
	}
	slices.SortFunc(d.costs, func(a, b UnitCost) int { return strings.Compare(a.Unit, b.Unit) })
	for i := range q.rule.costs {
		u := &q.rule.costs[i]
		if _, said := q.request.Costs[u.unit]; said {
			continue
		}
		cost := u.fixed
		if u.expr != nil {
			var err error
			if cost, err = u.expr.Int(q.ask(d)); err != nil {
				return missing(err)
			}
		}
		if err := q.app.checkUnitCost(u.unit, cost); err != nil {
			return err
		}
		d.costs = append(d.costs, UnitCost{Unit: u.unit, Cost: cost})
	}
	return nil
}
