package gate

import (
	"fmt"
	"net/netip"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/expr"
	"github.com/headgate/headgate/gate/policy"
)

// snapshot is a policy made ready to decide by. It never changes.
type snapshot struct {
	revision     uint64
	applications map[string]*application
	// prepared holds every limit by where it is written, so that the next
	// snapshot goes on with those whose numbers stay.
	prepared map[limitKey]*headgate.Prepared
}

type application struct {
	name        string
	defaultPlan *plan
	onNoMatch   policy.NoMatch
	shared      bool // on_no_subject: shared
	identity    []policy.Identity
	trusted     []netip.Prefix
	headers     policy.HeaderStyles
	retryJitter int
	limits      []*limit
	rules       []*rule
	byOperation map[string]*matcher
	anyone      matcher // rules that name no operation
	noRule      *rule   // stands in when none matches
	plans       map[string]*plan
	subjects    map[string]*plan // nil where a record names no plan
}

type plan struct {
	name   string
	index  int
	limits []*limit
}

type rule struct {
	name     string // "" for the stand-in
	skip     *expr.Program
	cost     policy.Cost
	costExpr *expr.Program
	planExpr *expr.Program
	limits   []*limit
	message  string
}

// limit is one limit as a rule, plan or application has it.
type limit struct {
	id        string
	prepared  *headgate.Prepared // nil if unlimited
	variants  []*variant         // by the index of the plan; nil entries: as prepared
	owner     policy.Owner       // never OwnerDefault
	ownerExpr *expr.Program
	skip      bool // when_missing: skip
	shadow    bool
	open      bool // on_store_error: open
}

type variant struct{ prepared *headgate.Prepared } // nil if unlimited

// forPlan returns the numbers for a subject on p, which may be nil; nil for
// unlimited.
func (l *limit) forPlan(p *plan) *headgate.Prepared {
	if p != nil && p.index < len(l.variants) {
		if v := l.variants[p.index]; v != nil {
			return v.prepared
		}
	}
	return l.prepared
}

// globalScope is the scope of limits with per: global. It holds no slash, so no
// application's scopes meet it.
const globalScope = "global"

// limitKey is where a limit's numbers are written.
type limitKey struct{ scope, name, plan string }

// compiler makes a snapshot of a checked policy.
type compiler struct {
	file     string
	env      *expr.Env
	old      *snapshot
	next     *snapshot
	faults   policy.Faults
	path     string
	programs map[string]*expr.Program
}

func compile(file string, p *policy.Policy, env *expr.Env, old *snapshot) (*snapshot, error) {
	c := &compiler{file: file, env: env, old: old, programs: make(map[string]*expr.Program), next: &snapshot{
		applications: make(map[string]*application, len(p.Applications)),
		prepared:     make(map[limitKey]*headgate.Prepared),
	}}
	for i := range p.Applications {
		a := &p.Applications[i]
		c.path = "applications." + a.Name
		c.next.applications[a.Name] = c.application(a, p.Plans)
	}
	for i := range p.Subjects {
		s := &p.Subjects[i]
		a := c.next.applications[s.Application]
		a.subjects[s.Name] = a.plans[s.Plan]
	}
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	return c.next, nil
}

func (c *compiler) fault(pos policy.Pos, path, format string, args ...any) {
	c.faults = append(c.faults, policy.Fault{
		File: c.file, Line: pos.Line, Column: pos.Column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

func (c *compiler) application(a *policy.Application, plans []policy.Plan) *application {
	out := &application{
		name: a.Name, onNoMatch: a.OnNoMatch, shared: a.SharedNoSubject, identity: a.Identity,
		trusted: a.TrustedProxies, headers: a.Headers, retryJitter: a.RetryJitter,
		byOperation: make(map[string]*matcher), plans: make(map[string]*plan), subjects: make(map[string]*plan),
		noRule: &rule{cost: policy.Cost{Fixed: 1}},
	}
	in := scope{application: a.Name, onStoreError: a.OnStoreError, shadow: a.Shadow, owner: policy.OwnerSubject}
	for i := range plans {
		p := &plans[i]
		here := in
		here.scope, here.id, here.plan, here.onStoreError = a.Name+"/plan", "plan/", p.Name, inherit(p.OnStoreError, a.OnStoreError)
		here.path = "plans." + p.Name + ".limits"
		out.plans[p.Name] = &plan{name: p.Name, index: i, limits: c.limits(p.Limits, here, nil)}
	}
	out.defaultPlan = out.plans[a.DefaultPlan]
	here := in
	here.scope, here.id, here.owner, here.path = a.Name+"/app", "app/", policy.OwnerApplication, c.path+".limits"
	out.limits = c.limits(a.Limits, here, out.plans)
	for i := range a.Rules {
		r := &a.Rules[i]
		here := in
		here.scope, here.id, here.shadow = a.Name+"/rule/"+r.Name, r.Name+"/", a.Shadow || r.Shadow
		here.onStoreError = inherit(r.OnStoreError, a.OnStoreError)
		here.path = fmt.Sprintf("%s.rules[%d].limits", c.path, i)
		out.rules = append(out.rules, &rule{
			name: r.Name, cost: r.Cost, message: r.Message,
			skip:     c.program(r.Skip, expr.Bool, r.Pos, "skip"),
			costExpr: c.program(r.Cost.Expr, expr.Int, r.Pos, "cost"),
			planExpr: c.program(r.PlanExpr, expr.String, r.Pos, "plan"),
			limits:   c.limits(r.Limits, here, out.plans),
		})
		m := &out.anyone
		if r.Operation != "" {
			if m = out.byOperation[r.Operation]; m == nil {
				m = new(matcher)
				out.byOperation[r.Operation] = m
			}
		}
		m.add(i, r.Path, r.Methods)
	}
	return out
}

// scope is where a list of limits stands.
type scope struct {
	application, scope, id, plan, path string
	owner                              policy.Owner
	onStoreError                       policy.StoreErrorMode
	shadow                             bool
}

func inherit(near, far policy.StoreErrorMode) policy.StoreErrorMode {
	if near != policy.Inherit {
		return near
	}
	return far
}

func (c *compiler) limits(list []policy.Limit, in scope, plans map[string]*plan) []*limit {
	var out []*limit
	for i := range list {
		l := &list[i]
		path := fmt.Sprintf("%s[%d]", in.path, i)
		o := &limit{
			id: in.id + l.Name, owner: l.Owner, skip: l.SkipWhenMissing, shadow: in.shadow || l.Shadow,
			open:      inherit(l.OnStoreError, in.onStoreError) == policy.Open,
			ownerExpr: c.program(l.OwnerExpr, expr.String, l.Pos, path),
		}
		if o.owner == policy.OwnerDefault {
			o.owner = in.owner
		}
		where := in.scope
		switch {
		case o.owner == policy.OwnerGlobal:
			where = globalScope
		case in.plan != "" && o.owner != policy.OwnerSubject:
			where += "/" + in.plan // one budget per plan: subjects on others do not share it
		}
		if !l.Unlimited {
			o.prepared = c.prepare(l.Limit, where, in.plan, l.Pos, path)
		}
		if len(l.Variants) > 0 && (plans == nil || o.owner != policy.OwnerSubject) {
			c.fault(l.Pos, path+".plans", "numbers by plan need a budget per subject (per: subject): others are shared across plans")
			continue
		}
		for j := range l.Variants {
			v := &l.Variants[j]
			if o.variants == nil {
				o.variants = make([]*variant, len(plans))
			}
			n := new(variant)
			if !v.Unlimited {
				n.prepared = c.prepare(v.Limit, where, v.Plan, l.Pos, path+".plans."+v.Plan)
			}
			o.variants[plans[v.Plan].index] = n
		}
		out = append(out, o)
	}
	return out
}

// prepare makes a limit ready under its scope, or goes on with the one that the
// old snapshot has: its state then stays untouched by the reload.
func (c *compiler) prepare(l headgate.Limit, where, plan string, pos policy.Pos, path string) *headgate.Prepared {
	l.Scope = where
	p, err := l.Prepare()
	if err != nil {
		c.fault(pos, path, "%v", err)
		return nil
	}
	if where == globalScope {
		plan = "" // one budget, whichever plan names it
	}
	key := limitKey{where, l.Name, plan}
	if q := c.next.prepared[key]; q != nil {
		if !q.SameNumbers(p) {
			c.fault(pos, path, "the global limit %q has other numbers elsewhere in this policy", l.Name)
		}
		return q
	}
	if c.old != nil {
		if q := c.old.prepared[key]; q != nil {
			if q.SameNumbers(p) {
				p = q
			} else {
				l.Generation = q.Generation + 1
				if p, err = l.Prepare(); err != nil {
					c.fault(pos, path, "%v", err)
				}
			}
		}
	}
	c.next.prepared[key] = p
	return p
}

// program compiles source once; nil for "".
func (c *compiler) program(source string, kind expr.Kind, pos policy.Pos, path string) *expr.Program {
	if source == "" {
		return nil
	}
	key := fmt.Sprintf("%d %s", kind, source)
	if p := c.programs[key]; p != nil {
		return p
	}
	p, err := c.env.Compile(source, kind)
	if err != nil {
		c.fault(pos, path, "%v", err)
		return nil
	}
	c.programs[key] = p
	return p
}
