package policy

import (
	"slices"

	"github.com/headgate/headgate"
)

// MaxRules is the largest number of rules of one application, and MaxAllRules
// of a file: each rule is compared with those before it.
const (
	MaxRules    = 2_000
	MaxAllRules = 10_000
)

var ruleKeys = keys{
	allowed: []string{"name", "match", "skip", "cost", "plan", "limits", "on_store_error", "mode", "message", "max_wait"},
	later: map[string]string{
		"allow":              "allow lists",
		"deny":               "deny lists",
		"idempotency_window": "idempotency_window",
		"ban":                "bans",
		"enforce_percent":    "enforce_percent",
		"candidate":          "candidate limits",
		"adaptive":           "adaptive limits",
		"queue":              "queues",
	},
}

var matchKeys = keys{allowed: []string{"operation", "path", "methods"}}

const matchWant = "a rule matches by operation, path or methods"

func (r *reader) rules(v value, a *Application) []Rule {
	if !v.present() {
		return nil
	}
	items, _ := v.list("a list of rules")
	if r.nRules += len(items); len(items) > MaxRules || r.nRules > MaxAllRules {
		v.fault("%d rules: at most %d in an application, and %d in all", len(items), MaxRules, MaxAllRules)
		return nil
	}
	rules := make([]Rule, 0, len(items))
	matches := make([]match, 0, len(items))
	first := make(map[string]int, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		rule, m := r.rule(item)
		if line, ok := first[rule.Name]; ok && rule.Name != "" {
			item.fault("the name %s is taken: another rule of this application has it, in line %d", rule.Name, line)
		} else {
			first[rule.Name] = item.pos.Line
		}
		for j := range matches {
			if matches[j].covers(&m) {
				m.at.fault("never reached: rules[%d] %s, in line %d, matches all of it first", j, rules[j].Name, rules[j].Pos.Line)
				break
			}
		}
		wider := countLimits(a.Limits) + r.largest.n
		if n := countLimits(rule.Limits); n > 0 && n+wider > headgate.MaxCharges && wider <= headgate.MaxCharges {
			item.fault("a request could meet %d limits, %d of this rule and %d of the application and %s: at most %d",
				n+wider, n, wider, r.largest.who(), headgate.MaxCharges)
		}
		matches, rules = append(matches, m), append(rules, rule)
	}
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

func (r *reader) rule(v value) (Rule, match) {
	o := v.object(ruleKeys)
	rule := Rule{Pos: v.pos}
	rule.Name = r.name(o.need("name", "a rule needs a name"))
	if rule.Name == "plan" || rule.Name == "app" {
		o.at("name").fault("%s is the first word of the ids of other limits: choose another name", rule.Name)
	}
	m := r.match(o.need("match", matchWant), &rule)
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
	rule.Limits = r.limits(o.at("limits"), inRule)
	rule.OnStoreError = r.onStoreError(o.at("on_store_error"))
	rule.Shadow = o.at("mode").word("enforce", "shadow") == 1
	if message := o.at("message"); message.present() {
		rule.Message, _ = message.text(wantText)
		if len(rule.Message) > 1024 {
			message.fault("%d bytes: at most 1024", len(rule.Message))
		}
	}
	if wait := o.at("max_wait"); wait.present() && r.duration(wait) > 0 {
		wait.fault("not supported yet: waiting in line; write 0s or leave it out")
	}
	return rule, m
}

func (r *reader) cost(v value) Cost {
	cost := Cost{Fixed: 1}
	if !v.present() {
		return cost
	}
	const want = "a whole number, a mapping of methods to numbers, or an expression"
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

// match is what a rule matches, for comparing it with others.
type match struct {
	at        value
	ok        bool // without faults
	operation string
	path      []segment // nil for any
	methods   []string
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
	if m.methods != nil && (o.methods == nil || slices.ContainsFunc(o.methods, func(s string) bool { return !slices.Contains(m.methods, s) })) {
		return false
	}
	return m.path == nil || o.path != nil && covers(m.path, o.path)
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
	m.operation, m.methods = rule.Operation, rule.Methods
	m.ok = r.found == before
	return m
}

func (r *reader) methods(v value) []string {
	items, ok := v.list("a list of methods such as [GET, POST]")
	if ok && len(items) == 0 {
		v.fault("is empty: leave methods out for all of them")
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
