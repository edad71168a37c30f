package policy

import (
	"slices"
	"time"

	"github.com/headgate/headgate"
)

// MaxRules is the largest number of rules of one application that do not match by
// descriptor, each of which is compared with those before it, and MaxAllRules that of
// all rules of a file.
const (
	MaxRules    = 2_000
	MaxAllRules = 10_000
)

// maxMethods bounds the methods of a rule: about 40 are registered.
const maxMethods = 64

var ruleKeys = keys{
	allowed: []string{
		"name", "match", "skip", "cost", "costs", "plan", "limits", "on_store_error", "mode", "enforce_percent",
		"ban", "candidate", "max_wait", "message", "quota_mode", "replaces", "detailed_metric", "metadata",
	},
	later: map[string]string{"adaptive": "adaptive limits", "queue": "queues"},
	elsewhere: map[string]string{
		"allow":              "allow stands on an application",
		"deny":               "deny stands on an application",
		"idempotency_window": "idempotency_window stands on an application",
	},
}

// candidateKeys leave out what could only say how a candidate is enforced.
var candidateKeys = keys{
	allowed: []string{"limits"},
	elsewhere: map[string]string{
		"mode":            neverEnforced,
		"enforce_percent": neverEnforced,
		"on_store_error":  neverEnforced,
		"ban":             neverEnforced,
		"release":         "release stands on a concurrency limit",
	},
}

const neverEnforced = "a candidate is counted and never enforced: leave this out"

var matchKeys = keys{allowed: []string{"operation", "path", "methods", "descriptor"}}

const matchWant = "a rule matches by operation, path or methods, or by descriptor"

func (r *reader) rules(v value, a *Application) []Rule {
	if !v.present() {
		return nil
	}
	items, _ := v.list("a list of rules")
	compared := 0
	for _, item := range items {
		if !asksDescriptor(item) {
			compared++
		}
	}
	if r.nRules += len(items); compared > MaxRules || len(items) > MaxDescriptorRules || r.nRules > MaxAllRules {
		v.fault("%d rules: at most %d in an application, %d with those that match by descriptor, and %d in all", len(items), MaxRules, MaxDescriptorRules, MaxAllRules)
		return nil
	}
	rules := make([]Rule, 0, len(items))
	matches := make([]match, 0, compared)
	descriptors := make(map[string]int, len(items)-compared) // the rules that have them
	var replaced []value
	first := make(map[string]int, len(items))
	wider := countCharges(a.Limits, a.Ban) + r.largest.n
	units := make(map[string]bool)
	addUnits(units, a.Limits)
	for _, item := range items {
		if r.full() {
			break
		}
		rule, m := r.rule(item, units)
		if line, ok := first[rule.Name]; ok && rule.Name != "" {
			item.fault("the name %s is taken: another rule of this application has it, in line %d", rule.Name, line)
		} else {
			first[rule.Name] = item.pos.Line
		}
		m.rule = len(rules)
		switch key := descriptorKey(rule.Descriptor); {
		case rule.Descriptor == nil:
			if by := m.coveredBy(matches); by >= 0 {
				m.at.fault("never reached: rules[%d] %s, in line %d, matches all of it first", by, rules[by].Name, rules[by].Pos.Line)
			}
			matches = append(matches, m)
		case m.ok:
			if same, ok := descriptors[key]; ok {
				m.at.fault("never reached: rules[%d] %s, in line %d, has the same entries", same, rules[same].Name, rules[same].Pos.Line)
			}
			descriptors[key] = m.rule
			replaced = append(replaced, m.replaces)
		}
		if n := countCharges(rule.Limits, rule.Ban); n > 0 && n+wider > MaxLimits && wider <= MaxLimits {
			item.fault("a request could meet %d limits, %d of this rule and %d of the application and %s: at most %d",
				n+wider, n, wider, r.largest.who(), MaxLimits)
		}
		rules = append(rules, rule)
	}
	r.warnReplaced(replaced, first)
	r.warnSlips(matches, rules)
	return rules
}

// countLimits counts the limits that can be charged.
func countLimits(limits []Limit) int {
	n := 0
	for _, l := range limits {
		if !l.Unlimited || slices.ContainsFunc(l.Variants, func(v Variant) bool { return !v.Unlimited }) {
			n++
		}
	}
	return n
}

// countCharges is countLimits with a ban, which is charged as a limit.
func countCharges(limits []Limit, ban *Ban) int {
	n := countLimits(limits)
	if ban != nil {
		n++
	}
	return n
}

// rule reads one rule; units are what the application's limits count.
func (r *reader) rule(v value, units map[string]bool) (Rule, match) {
	o := v.object(ruleKeys)
	rule := Rule{Pos: v.pos}
	rule.Name = r.name(o.need("name", "a rule needs a name"))
	if rule.Name == "plan" || rule.Name == "app" {
		o.at("name").fault("%s is the first word of the ids of other limits: choose another name", rule.Name)
	}
	m := r.match(o.need("match", matchWant), &rule)
	m.replaces = o.at("replaces")
	r.byDescriptor = rule.Descriptor != nil
	if skip := o.at("skip"); skip.present() {
		rule.Skip = r.expr(skip, BoolExpr)
	}
	rule.Cost = r.cost(o.at("cost"))
	if plan := o.at("plan"); plan.present() {
		rule.PlanExpr = r.expr(plan, StringExpr)
		if readsHeaders(rule.PlanExpr) {
			r.sendable = append(r.sendable, sendable{plan, "reads request.headers, which any client can send: set trusted_proxies to the proxies that set them"})
		}
	}
	rule.MaxWait = r.wait(o.at("max_wait"))
	r.maxWait = rule.MaxWait
	rule.Limits = r.limits(o.at("limits"), inRule)
	r.candidate(o.at("candidate"), &rule)
	r.maxWait = 0
	rule.Costs = r.costs(o.at("costs"), &rule, units)
	rule.Ban = r.ban(o.at("ban"))
	r.clashWithBan(o.at("limits"), rule.Limits, rule.Ban)
	rule.OnStoreError = r.onStoreError(o.at("on_store_error"))
	o.at("on_store_error").warnLocal(rule.OnStoreError, inheriting(rule.Name+"/", rule.Limits))
	rule.Mode = r.mode(o)
	r.descriptorRule(o, &rule)
	r.byDescriptor = false
	if message := o.at("message"); message.present() {
		rule.Message, _ = message.text(wantText)
		if len(rule.Message) > 1024 {
			message.fault("%d bytes: at most 1024", len(rule.Message))
		}
	}
	return rule, m
}

func (r *reader) wait(v value) time.Duration {
	if !v.present() {
		return 0
	}
	d := r.duration(v)
	if d > MaxMaxWait {
		v.fault("%v: must be 0s to %dmin", d, MaxMaxWait/time.Minute)
	}
	return d
}

func (r *reader) candidate(v value, rule *Rule) {
	if !v.present() {
		return
	}
	o := v.object(candidateKeys)
	rule.HasCandidate = o.ok
	list := o.need("limits", "what is decided beside the rule's limits; [] lets everything pass")
	rule.Candidate = r.limits(list, inCandidate)
	if n := countLimits(rule.Candidate); n > MaxLimits {
		list.fault("%d limits: a candidate may have at most %d", n, MaxLimits)
	}
}

const wantCost = "a whole number, a mapping of methods to numbers, or an expression"

func (r *reader) cost(v value) Cost {
	cost := Cost{Fixed: 1}
	if !v.present() {
		return cost
	}
	const want = wantCost
	switch describe(v.node) {
	case "a number":
		cost.Fixed, _ = v.integer(0, headgate.MaxInt)
	case "text":
		cost.Expr = r.expr(v, IntExpr)
	case "a mapping":
		entries, _ := v.entries(want)
		if len(entries) == 0 {
			v.fault("is empty: must be %s", want)
		}
		cost.ByMethod = make(map[string]int64, len(entries))
		for _, e := range entries {
			if r.full() {
				break
			}
			if !isMethod(e.name) {
				e.key.fault("%s is not a method: write it as GET or POST", quoted(e.name))
				continue
			}
			cost.ByMethod[e.name], _ = e.integer(0, headgate.MaxInt)
		}
	default:
		v.mistyped(want)
	}
	return cost
}

// costs reads the costs in other units than requests.
func (r *reader) costs(v value, rule *Rule, units map[string]bool) []UnitCost {
	if !v.present() {
		return nil
	}
	entries, ok := v.entries("a mapping of units to numbers or expressions")
	if ok && len(entries) == 0 {
		v.fault("is empty: leave costs out")
	}
	if len(entries) > MaxLimits {
		v.fault("%d units: a request may meet at most %d limits", len(entries), MaxLimits)
		return nil
	}
	own := make(map[string]bool)
	addUnits(own, rule.Limits)
	addUnits(own, rule.Candidate)
	costs := make([]UnitCost, 0, len(entries))
	for _, e := range entries {
		if r.checkName(e.key, e.name) == "" {
			continue
		}
		if e.name == Requests {
			e.key.fault("requests are counted by cost: write cost instead")
			continue
		}
		cost := UnitCost{Unit: e.name}
		switch describe(e.node) {
		case "a number":
			cost.Cost.Fixed, _ = e.integer(0, headgate.MaxInt)
		case "text":
			cost.Cost.Expr = r.expr(e.value, IntExpr)
		default:
			e.mistyped("a whole number or an expression")
		}
		if !own[e.name] && !units[e.name] && !r.planUnits[e.name] {
			e.key.warn("no limit of this rule, its application or a plan counts %s", e.name)
		}
		costs = append(costs, cost)
	}
	return costs
}

// addUnits adds what the limits count.
func addUnits(units map[string]bool, limits []Limit) {
	for i := range limits {
		units[limits[i].Unit] = true
	}
}

// match is what a rule matches, for comparing it with others.
type match struct {
	at        value
	ok        bool // without faults
	operation string
	path      []segment // nil for any
	methods   []string  // sorted

	rule     int   // its index
	replaces value // of the rule
}

// coveredBy returns the first rule that covers m, -1 if none does.
func (m *match) coveredBy(others []match) int {
	for i := range others {
		if others[i].covers(m) {
			return others[i].rule
		}
	}
	return -1
}

// covers reports whether m matches every request that o matches. It finds what
// can be told from the patterns; several rules together are not weighed.
func (m *match) covers(o *match) bool {
	if !m.ok || !o.ok {
		return false
	}
	if m.operation != "" && m.operation != o.operation {
		return false
	}
	if m.methods != nil && (o.methods == nil || !holds(m.methods, o.methods)) {
		return false
	}
	return m.path == nil || o.path != nil && covers(m.path, o.path)
}

// holds reports whether every one of some is in all; both are sorted.
func holds(all, some []string) bool {
	if len(some) > len(all) {
		return false
	}
	for _, s := range all {
		if len(some) > 0 && some[0] == s {
			some = some[1:]
		}
	}
	return len(some) == 0
}

func (r *reader) match(v value, rule *Rule) match {
	before := r.found
	m := match{at: v}
	if !v.present() {
		return m
	}
	o := v.object(matchKeys)
	if o.ok && len(o.fields) == 0 && r.found == before {
		v.fault("is empty: %s; on_no_match says what becomes of all other requests", matchWant)
	}
	if descriptor := o.at("descriptor"); descriptor.present() {
		if len(o.fields) > 1 {
			v.fault("descriptor stands alone: Envoys that ask with descriptors say no operation, path or methods")
		}
		r.descriptor(descriptor, rule)
		m.ok = r.found == before
		return m
	}
	if operation := o.at("operation"); operation.present() {
		rule.Operation, _ = operation.text(wantName)
		if err := checkText(rule.Operation); err != nil {
			operation.fault("%v", err)
		}
	}
	if path := o.at("path"); path.present() {
		rule.Path, _ = path.text(patternWant)
		if rule.Path != "" {
			var err error
			if m.path, err = parsePattern(rule.Path); err != nil {
				path.fault("%v", err)
			}
		}
	}
	if methods := o.at("methods"); methods.present() {
		rule.Methods = r.methods(methods)
	}
	m.operation, m.methods = rule.Operation, slices.Sorted(slices.Values(rule.Methods))
	m.ok = r.found == before
	return m
}

func (r *reader) methods(v value) []string {
	items, ok := v.list("a list of methods such as [GET, POST]")
	if ok && len(items) == 0 {
		v.fault("is empty: leave methods out for all of them")
	}
	if len(items) > maxMethods {
		v.fault("%d methods: at most %d", len(items), maxMethods)
		return nil
	}
	methods := make([]string, 0, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		s, ok := item.text("text: a method such as GET")
		switch {
		case !ok:
		case !isMethod(s):
			item.fault("%s is not a method: write it as GET or POST", quoted(s))
		case slices.Contains(methods, s):
			item.fault("%s is listed twice", s)
		default:
			methods = append(methods, s)
		}
	}
	return methods
}
