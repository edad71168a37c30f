package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
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
// that it did.
func (g *Gate) Take(ctx context.Context, r *Request, d *Decision) error {
	return g.decide(ctx, headgate.Take, r, d)
}

// Peek answers what Take would, and charges nothing.
func (g *Gate) Peek(ctx context.Context, r *Request, d *Decision) error {
	return g.decide(ctx, headgate.Peek, r, d)
}

// question is a request on its way to a decision.
type question struct {
	gate    *Gate
	request *Request
	app     *application
	rule    *rule
	plan    *plan
	path    string
	query   string

	asked bool // the decision's input is filled in
}

func (g *Gate) decide(ctx context.Context, op headgate.Op, r *Request, d *Decision) error {
	if g.closed.Load() {
		return errClosed
	}
	snap := g.current.Load()
	d.start(op, r, snap.revision)
	app := snap.applications[r.Application]
	if app == nil {
		return g.unknownApplication(r.Application)
	}
	q := question{gate: g, request: r, app: app}
	if err := q.match(d); err != nil {
		return err
	}
	d.Application, d.Headers, d.RetryJitter = app.name, app.headers, app.retryJitter
	if err := q.subject(d); err != nil {
		return err
	}
	if err := q.findPlan(d); err != nil {
		return err
	}
	if settled, err := q.passUncharged(d); settled || err != nil {
		return err
	}
	if err := q.cost(d); err != nil {
		return err
	}
	if err := q.charges(d); err != nil {
		return err
	}
	return g.apply(ctx, d, q.rule.name == "")
}

// start empties d for a request.
func (d *Decision) start(op headgate.Op, r *Request, revision uint64) {
	d.Decision = headgate.Decision{Retryable: true, BoundBy: -1}
	d.ID = [2]uint64{rand.Uint64(), rand.Uint64()}
	d.Application, d.Operation, d.Subject = r.Application, r.Operation, r.Subject
	d.Rule, d.Plan, d.Message, d.Degraded = "", "", "", ""
	d.Cost, d.Shadow, d.WouldDeny, d.Revision = 0, false, headgate.NoReason, revision
	d.Headers, d.RetryJitter, d.n, d.used = 0, 0, 0, 0
	d.batch.Reset(op)
	d.batch.Now = r.Now
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

// match finds the rule.
func (q *question) match(d *Decision) error {
	r := q.request
	if r.Operation == "" && r.Path == "" {
		return invalid("operation", "operation or request.path is required")
	}
	if r.Path != "" {
		var err error
		if q.path, q.query, err = splitPath(r.Path); err != nil {
			return err
		}
	}
	best := q.app.anyone.find(r.Method, q.path, noMatch)
	if r.Operation != "" {
		if m := q.app.byOperation[r.Operation]; m != nil {
			best = m.find(r.Method, q.path, best)
		}
	}
	q.rule = q.app.noRule
	if best != noMatch {
		q.rule = q.app.rules[best]
	}
	d.Rule, d.Message = q.rule.name, q.rule.message
	return nil
}

// subject finds who asks: the one that was said, else the first that the
// application's identity finds.
func (q *question) subject(d *Decision) error {
	r := q.request
	if r.Subject == "" {
		for i := range q.app.identity {
			if q.identify(&q.app.identity[i], d) {
				break
			}
		}
	}
	return checkOwner("subject", d.Subject)
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
	if _, known := q.app.subjects[name]; id.KnownOnly && !known {
		return false
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
	if q.plan = q.app.subjects[d.Subject]; q.plan == nil {
		name, field := q.request.Plan, "plan"
		if name == "" && q.rule.planExpr != nil {
			var err error
			field = "plan expression"
			if name, err = q.rule.planExpr.String(q.ask(d)); err != nil {
				return missing(err)
			}
		}
		if q.plan = q.app.plans[name]; q.plan == nil {
			if name != "" {
				if q.app.defaultPlan == nil {
					return invalid("plan", "%s %.64q is not in the policy", field, name)
				}
				q.gate.unknownPlan(q.app.name, name)
			}
			q.plan = q.app.defaultPlan
		}
	}
	if q.plan != nil {
		d.Plan = q.plan.name
	}
	return nil
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
	case q.rule.name == "" && q.app.onNoMatch == policy.NoMatchDeny:
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
		d.Cost = r.Cost
	case q.rule.costExpr != nil:
		n, err := q.rule.costExpr.Int(q.ask(d))
		if err != nil {
			return missing(err)
		}
		d.Cost = n
	default:
		d.Cost = q.rule.cost.Fixed
		method := r.Method
		if _, ok := q.rule.cost.ByMethod[method]; !ok && method == "HEAD" {
			method = "GET"
		}
		if n, ok := q.rule.cost.ByMethod[method]; ok {
			d.Cost = n
		}
	}
	if d.Cost < 0 || d.Cost > headgate.MaxInt {
		return invalid("cost", "%d: must be 0 to %d", d.Cost, int64(headgate.MaxInt))
	}
	return nil
}

// charges puts every limit that applies into the batch.
func (q *question) charges(d *Decision) error {
	d.open = true
	if err := q.charge(d, q.app.limits); err != nil {
		return err
	}
	if err := q.charge(d, q.rule.limits); err != nil {
		return err
	}
	if q.plan == nil || q.rule.name == "" && q.app.onNoMatch == policy.NoMatchAllow {
		return nil
	}
	return q.charge(d, q.plan.limits)
}

func (q *question) charge(d *Decision, limits []*limit) error {
	for _, l := range limits {
		p := l.forPlan(q.plan)
		if p == nil {
			continue
		}
		c := headgate.Charge{Limit: p, Cost: d.Cost, Shadow: l.shadow, Parent: l.owner != policy.OwnerSubject}
		owner := "subject"
		switch l.owner {
		case policy.OwnerSubject:
			if c.Owner = d.Subject; c.Owner == "" && !q.app.shared {
				if l.skip {
					continue
				}
				return invalid("subject", "is required by limit %s", l.id)
			}
		case policy.OwnerApplication:
			owner = "application"
		case policy.OwnerGlobal:
			owner = "global"
		case policy.OwnerExpr:
			owner = "expression"
			name, err := l.ownerExpr.String(q.ask(d))
			if err == nil && name == "" {
				err = errors.New("the owner of limit " + l.id + " is empty")
			}
			if err != nil {
				if l.skip {
					continue
				}
				return missing(err)
			}
			if err := checkOwner("attributes", name); err != nil {
				return err
			}
			c.Owner = name
		}
		i, err := d.batch.Add(c)
		if err != nil {
			return err
		}
		s := &d.limits[i]
		if i == d.n { // else merged with the same budget in a wider scope
			d.n++
			s.ID, s.Limit, s.Owner, s.Unit = l.id, p, owner, "requests"
		}
		s.Shadow = d.batch.Charges()[i].Shadow
		d.open = d.open && (l.open || l.shadow) // a shadow refuses nothing
	}
	return nil
}

// apply lets the store decide, and fills in the rest of d.
func (g *Gate) apply(ctx context.Context, d *Decision, noRule bool) error {
	passed := headgate.OK
	if noRule {
		passed = headgate.NoRule
	}
	if d.n == 0 {
		d.Allowed, d.Reason = true, passed
		return nil
	}
	if err := g.store.Apply(ctx, &d.batch); err != nil {
		return g.degrade(d, passed, err)
	}
	outcomes := d.batch.Outcomes()
	for i := range outcomes {
		s := &d.limits[i]
		s.Outcome = outcomes[i]
		if s.Shadow && !s.Allowed {
			d.Shadow = true
		}
	}
	d.Decision = d.batch.Decision()
	if d.Shadow {
		d.WouldDeny = d.batch.WouldDeny()
	}
	if d.Allowed {
		d.Reason = passed
	}
	return nil
}

// reportStore logs that the store could not decide, at most once a second.
func (g *Gate) reportStore(err error) {
	n, now := g.storeFailures.Add(1), time.Now().Unix()
	if last := g.storeReported.Load(); now != last && g.storeReported.CompareAndSwap(last, now) {
		g.log.Warn("store could not decide", "error", err, "so far", n)
	}
}

// storeRetry is when to ask again after the store could not decide.
const storeRetry = time.Second

// degrade decides without the store: a request whose limits are all open
// passes, for the reason passed; every other is refused. A store that is there
// but has no room for another key is not away: whoever floods it with keys must
// not open it.
func (g *Gate) degrade(d *Decision, passed headgate.Reason, err error) error {
	code := headgate.CodeOf(err)
	if code == headgate.InvalidRequest {
		return err
	}
	g.reportStore(err)
	d.n = 0
	if code == headgate.Overloaded {
		d.Reason, d.RetryAfter, d.Degraded = headgate.OverloadedReason, storeRetry, "closed"
		return nil
	}
	if d.open {
		d.Allowed, d.Reason, d.Degraded = true, passed, "open"
		return nil
	}
	d.Reason, d.RetryAfter, d.Degraded = headgate.StoreUnavailable, storeRetry, "closed"
	return nil
}
