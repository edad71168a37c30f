package gate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/expr"
	"github.com/headgate/headgate/gate/policy"
)

// snapshot is a policy made ready to decide by. It never changes.
type snapshot struct {
	revision     uint64
	policy       *policy.Policy // that it was made of
	applications map[string]*application
	// prepared holds every limit by where it is written, so that the next
	// snapshot goes on with those whose numbers stay.
	prepared map[limitKey]*headgate.Prepared
	adjusted adjusted
	domains  map[string]string // applications by their Envoy domains
}

// shut reports whether every limit refuses while the store is away, and there is
// one. local says that there is somebody to decide those with on_store_error: local.
func (s *snapshot) shut(local bool) bool {
	n := 0
	for _, app := range s.applications {
		for _, l := range app.budgets {
			if l.away == policy.Open || l.away == policy.Local && local || l.shadow {
				return false
			}
		}
		n += len(app.budgets)
	}
	return n > 0
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
	descriptors branch  // of rules that match by descriptor
	noRule      *rule   // stands in when none matches
	said        *rule   // stands in for a request that says its limit
	overrides   overrides
	plans       map[string]*plan
	subjects    map[string]*record
	allow, deny list
	ban         *limit              // nil for none
	once        *headgate.Prepared  // remembers requests with an idempotency key
	budgets     map[budget]*limit   // for tickets
	units       map[string]struct{} // other than requests, that limits or rules name
}

// budget is the first half of a limit's identity, and the plan whose limit it is.
type budget struct {
	id   uint64
	plan string
}

type plan struct {
	name   string
	index  int
	limits []*limit
	// zone and anchor are those of its first monthly quota, else the zone of its first
	// quota.
	zone   *time.Location
	anchor int
}

// bill takes zone and anchor from limits as a policy has them.
func (p *plan) bill(list []policy.Limit) {
	for i := range list {
		c := &list[i].Limit.Calendar
		switch {
		case c.Unit == headgate.Month:
			p.zone, p.anchor = c.Location, c.Anchor
			return
		case c.Unit != headgate.NoUnit && p.zone == nil:
			p.zone = c.Location
		}
	}
}

type rule struct {
	name     string       // "" for the stand-in
	written  *policy.Rule // as the file has it; nil for the stand-in
	skip     *expr.Program
	cost     policy.Cost
	costExpr *expr.Program
	costs    []unitCost
	planExpr *expr.Program
	limits   []*limit
	ban      *limit // nil for none
	message  string
	maxWait  time.Duration

	candidate    []*limit
	hasCandidate bool

	labelled  bool                // metrics tell values of the descriptor
	quotaMode bool                // one of several is enough
	replaces  map[string]struct{} // names of rules
}

// unitCost is what a rule says of a request's cost in a unit.
type unitCost struct {
	unit  string
	fixed int64
	expr  *expr.Program
}

// limit is one limit as a rule, plan or application has it.
type limit struct {
	id        string
	prepared  *headgate.Prepared // nil if unlimited
	variants  []*variant         // by the index of the plan; nil entries: as prepared
	bare      *headgate.Limit    // what an override of it starts from where it is unlimited
	owner     policy.Owner       // never OwnerDefault
	across    bool               // across: all
	ownerExpr *expr.Program
	unit      string
	skip      bool // when_missing: skip
	shadow    bool
	percent   int                   // refuses that share of the subjects; 0 is everybody
	held      bool                  // slots that must be released
	said      bool                  // the numbers are the request's
	quotaMode bool                  // the rule is in quota mode
	shown     *headgate.Prepared    // in answers, for a limit of nothing; else nil
	away      policy.StoreErrorMode // never Inherit
	written   *policy.Limit         // as the file has it; nil for a ban
}

type variant struct{ prepared *headgate.Prepared } // nil if unlimited

// forPlan returns the numbers for a subject on p, which may be nil, and where
// they are from; nil for unlimited.
func (l *limit) forPlan(p *plan) (*headgate.Prepared, NumbersSource) {
	if p != nil && p.index < len(l.variants) {
		if v := l.variants[p.index]; v != nil {
			return v.prepared, NumbersOfPlan
		}
	}
	return l.prepared, NumbersOfLimit
}

// globalScope is the scope of limits with per: global, globalTrials of candidates
// with it. They hold no slash, so no application's scopes meet them. acrossAll stands in for the application's name,
// which it cannot be, in the scopes of limits with across: all.
const (
	globalScope  = "global"
	globalTrials = "candidates"
	acrossAll    = "*"
)

// limitKey is where a limit's numbers are written.
type limitKey struct{ scope, name, plan string }

// compiler makes a snapshot of a checked policy.
type compiler struct {
	file     string
	env      *expr.Env
	old      *snapshot
	next     *snapshot
	app      *application // being compiled
	faults   policy.Faults
	path     string
	programs map[string]*expr.Program
}

func compile(file string, p *policy.Policy, env *expr.Env, old *snapshot) (*snapshot, error) {
	c := &compiler{file: file, env: env, old: old, programs: make(map[string]*expr.Program), next: &snapshot{
		policy:       p,
		applications: make(map[string]*application, len(p.Applications)),
		prepared:     make(map[limitKey]*headgate.Prepared),
		domains:      make(map[string]string, len(p.Applications)),
	}}
	for i := range p.Applications {
		a := &p.Applications[i]
		c.next.domains[a.Domain] = a.Name
		c.path = "applications." + a.Name
		c.next.applications[a.Name] = c.application(a, p.Plans)
	}
	for i := range p.Subjects {
		s := &p.Subjects[i]
		a := c.next.applications[s.Application]
		a.subjects[s.Name] = newRecord(s)
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
		byOperation: make(map[string]*matcher), plans: make(map[string]*plan), subjects: make(map[string]*record),
		noRule: &rule{cost: policy.Cost{Fixed: 1}}, allow: newList(&a.Allow), deny: newList(&a.Deny),
		budgets: make(map[budget]*limit), units: make(map[string]struct{}),
	}
	c.app = out
	in := scope{application: a.Name, onStoreError: a.OnStoreError, owner: policy.OwnerSubject}
	in.mode(a.Mode)
	out.said = newSaid(in)
	out.once = c.prepare(headgate.Limit{
		Name: "idempotency", Algorithm: headgate.Idempotency, Count: headgate.MaxRemembered, TTL: a.IdempotencyWindow,
	}, a.Name+"/idempotency", "", false, a.Pos, c.path+".idempotency_window")
	out.ban = c.ban(a.Ban, in, a.Name+"/app", "app/")
	for i := range plans {
		p := &plans[i]
		here := in
		here.scope, here.id, here.plan, here.onStoreError = "/plan", "plan/", p.Name, inherit(p.OnStoreError, a.OnStoreError)
		here.path = "plans." + p.Name + ".limits"
		made := &plan{name: p.Name, index: i, limits: c.limits(p.Limits, here, nil)}
		made.bill(p.Limits)
		out.plans[p.Name] = made
	}
	out.defaultPlan = out.plans[a.DefaultPlan]
	here := in
	here.scope, here.id, here.owner, here.path = "/app", "app/", policy.OwnerApplication, c.path+".limits"
	out.limits = c.limits(a.Limits, here, out.plans)
	for i := range a.Rules {
		r := &a.Rules[i]
		out.rules = append(out.rules, c.rule(r, in, fmt.Sprintf("%s.rules[%d]", c.path, i)))
		if r.Descriptor != nil {
			out.descriptors.add(r.Descriptor, out.rules[i])
			continue
		}
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

func (c *compiler) rule(r *policy.Rule, in scope, path string) *rule {
	in.scope, in.id = "/rule/"+r.Name, r.Name+"/"
	in.onStoreError = inherit(r.OnStoreError, in.onStoreError)
	in.path = path + ".limits"
	in.mode(r.Mode)
	if !r.HasSubject() {
		in.owner = policy.OwnerApplication
	}
	out := &rule{
		name: r.Name, written: r, cost: r.Cost, message: r.Message, maxWait: r.MaxWait, hasCandidate: r.HasCandidate,
		labelled:  r.DetailedMetric || slices.ContainsFunc(r.Descriptor, func(e policy.DescriptorEntry) bool { return e.ValueToMetric }),
		quotaMode: r.QuotaMode,
		skip:      c.program(r.Skip, expr.Bool, r.Pos, "skip"),
		costExpr:  c.program(r.Cost.Expr, expr.Int, r.Pos, "cost"),
		planExpr:  c.program(r.PlanExpr, expr.String, r.Pos, "plan"),
		limits:    c.limits(r.Limits, in, c.app.plans),
		ban:       c.ban(r.Ban, in, in.application+in.scope, in.id),
	}
	for _, l := range out.limits {
		l.quotaMode = r.QuotaMode
	}
	if len(r.Replaces) > 0 {
		out.replaces = make(map[string]struct{}, len(r.Replaces))
		for _, name := range r.Replaces {
			out.replaces[name] = struct{}{}
		}
	}
	for _, u := range r.Costs {
		c.app.units[u.Unit] = struct{}{}
		out.costs = append(out.costs, unitCost{u.Unit, u.Cost.Fixed, c.program(u.Cost.Expr, expr.Int, r.Pos, "costs."+u.Unit)})
	}
	if r.HasCandidate {
		in.scope, in.id, in.path = "/candidate/"+r.Name, r.Name+"/candidate/", path+".candidate.limits"
		in.trial, in.shadow, in.percent = true, false, 0
		out.candidate = c.limits(r.Candidate, in, c.app.plans)
	}
	return out
}

// ban makes the limit that refuses a subject after repeated denials.
func (c *compiler) ban(b *policy.Ban, in scope, where, id string) *limit {
	if b == nil {
		return nil
	}
	l := headgate.Limit{Name: "ban", Algorithm: headgate.Ban, Count: b.After, Period: b.Within, TTL: b.For}
	return &limit{
		id: id + "ban", owner: policy.OwnerSubject, unit: policy.Requests, shadow: in.shadow, percent: in.percent,
		away:     awayMode(l.Algorithm, in.onStoreError),
		prepared: c.prepare(l, where+"/ban", "", false, b.Pos, c.path+".ban"),
	}
}

// scope is where a list of limits stands.
type scope struct {
	application string
	scope       string // behind the application's name
	id          string // before the limit's name
	plan, path  string
	owner       policy.Owner
	trial       bool // the limits are candidates

	onStoreError policy.StoreErrorMode
	shadow       bool
	percent      int
}

// mode narrows the scope by the mode of what stands in it: what is in shadow
// stays so, and the smallest share rules.
func (s *scope) mode(m policy.Mode) {
	s.shadow = s.shadow || m.Shadow
	if m.Percent != 0 && (s.percent == 0 || m.Percent < s.percent) {
		s.percent = m.Percent
	}
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
		here := in
		here.mode(l.Mode)
		o := &limit{
			id: in.id + l.Name, owner: l.Owner, across: l.Across, unit: cmp.Or(l.Unit, policy.Requests), skip: l.SkipWhenMissing,
			shadow: here.shadow, percent: here.percent,
			away:      awayMode(l.Algorithm, inherit(l.OnStoreError, in.onStoreError)),
			held:      l.Algorithm == headgate.Concurrency && !l.ReleasedByTTL,
			ownerExpr: c.program(l.OwnerExpr, expr.String, l.Pos, path),
			written:   l,
		}
		if o.owner == policy.OwnerDefault {
			o.owner = in.owner
		}
		where := in.application + in.scope
		if l.Across {
			where = acrossAll + in.scope
		}
		switch {
		case o.owner == policy.OwnerGlobal && in.trial:
			where = globalTrials
		case o.owner == policy.OwnerGlobal:
			where = globalScope
		case in.plan != "" && o.owner != policy.OwnerSubject:
			where += "/" + in.plan // one budget per plan: subjects on others do not share it
		}
		bare := l.Limit
		bare.Scope = where
		o.bare = &bare
		if !l.Unlimited {
			o.prepared = c.prepare(l.Limit, where, in.plan, l.Across, l.Pos, path)
		}
		if l.Nothing && o.prepared != nil {
			o.shown = nothing(o.prepared)
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
				n.prepared = c.prepare(v.Limit, where, v.Plan, l.Across, l.Pos, path+".plans."+v.Plan)
			}
			o.variants[plans[v.Plan].index] = n
		}
		if o.unit != policy.Requests {
			c.app.units[o.unit] = struct{}{}
		}
		out = append(out, o)
		c.index(o, in.plan)
	}
	return out
}

// index lets tickets find the limit by its budget. Limits of several plans with
// one name are one budget, so the plan goes with it.
func (c *compiler) index(l *limit, plan string) {
	// The identity is made of scope and name, whatever the numbers: an unlimited
	// limit, which has none, may get them from an override.
	p, err := headgate.PerSecond(1).WithScope(l.bare.Scope).WithName(l.bare.Name).Prepare()
	if err != nil {
		return // it has a fault already
	}
	// Of the limits that share a budget the first gave decisions its name.
	if b := (budget{p.ID[0], plan}); c.app.budgets[b] == nil {
		c.app.budgets[b] = l
	}
}

// prepare makes a limit ready under its scope, or goes on with the one that the
// old snapshot has: its state then stays untouched by the reload. A shared one
// must have the same numbers wherever it stands.
func (c *compiler) prepare(l headgate.Limit, where, plan string, shared bool, pos policy.Pos, path string) *headgate.Prepared {
	l.Scope = where
	p, err := l.Prepare()
	if err != nil {
		c.fault(pos, path, "%v", err)
		return nil
	}
	if where == globalScope || where == globalTrials {
		plan, shared = "", true // one budget, whichever plan names it
	}
	key := limitKey{where, l.Name, plan}
	if q := c.next.prepared[key]; q != nil {
		if shared && !q.SameNumbers(p) {
			c.fault(pos, path, "the shared limit %q has other numbers elsewhere in this policy", l.Name)
		}
		return q
	}
	if c.old != nil {
		if q := c.old.prepared[key]; q != nil && q.SameNumbers(p) {
			p = q
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
