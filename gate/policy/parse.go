package policy

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/headgate/headgate"
)

var documentKeys = keys{allowed: []string{"version", "plans", "applications", "subjects"}}

var planKeys = keys{
	allowed: []string{"limits", "on_store_error"},
	later:   map[string]string{"queue": "queues"},
}

// Parse reads a policy file in YAML or JSON. The error is a [Faults] with all
// that is wrong, at most [MaxFaults]; there is no Policy then. Warnings come
// with and without faults. The file's name only appears in both.
//
// Expressions are compiled by check; nil takes them as they are.
//
// Rates are as [ParseRate] reads them, those of quotas a count per hour, day,
// week, month or year. Durations are a number and a unit of rates, or "m" for
// minutes. A variant of a limit says rate or max anew; its burst is then that
// rate's count unless said; all else it does not say is the limit's. Paths are
// patterns of net/http without method and host, a trailing slash included; the
// first rule that matches is meant to win, and one that never can is a fault.
// A subject or plan from a header or cookie is a fault unless trusted_proxies
// is written, or known_only for the identity.
//
// A request meets at most [MaxLimits] limits, a ban being one; candidates have
// as many for themselves. An override must fit every limit that it can meet:
// that of the subject's plan, or of all plans if its record names none.
//
// Parse ends soon on any input: files are at most [MaxSize], their nesting and
// the rules and block mappings in them are bounded too.
func Parse(file string, data []byte, check Checker) (*Policy, []Warning, error) {
	r := &reader{file: file, check: check}
	var p *Policy
	if root := r.document(data); root != nil {
		v := value{r: r, node: plainNode(root)}
		v.pos = nodePos(v.node, Pos{1, 1})
		p = r.policy(v)
	}
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return p, warnings, nil
}

func (r *reader) policy(v value) *Policy {
	o := v.object(documentKeys)
	if version := o.need("version", "a policy starts with version: 1"); version.present() {
		if n, ok := version.integer(1, headgate.MaxInt); ok && n != 1 {
			version.fault("version %d is not known here: this program reads version: 1", n)
		}
	}
	p := &Policy{}
	r.planUnits = make(map[string]bool)
	r.zones = make(map[string]*time.Location)
	r.periods = make(map[string]planPeriod)
	r.domains = make(map[string]int)
	plans, _ := o.at("plans").entries("a mapping of plans")
	r.plans = make(map[string]bool, len(plans))
	for _, e := range plans {
		if r.full() {
			break
		}
		r.plans[e.name] = true
		p.Plans = append(p.Plans, r.plan(e))
	}
	r.keptPlans, r.kept = r.kept, nil
	const why = "a policy without applications decides nothing"
	applications := o.need("applications", why)
	entries, ok := applications.entries("a mapping of applications")
	if ok && len(entries) == 0 {
		applications.fault("is empty: %s", why)
	}
	for _, e := range entries {
		if r.full() {
			break
		}
		p.Applications = append(p.Applications, r.application(e))
	}
	r.targets = newTargets(p)
	subjects, _ := o.at("subjects").entries("a mapping of application/subject to what is known of them")
	for _, e := range subjects {
		if r.full() {
			break
		}
		p.Subjects = append(p.Subjects, r.subject(e))
	}
	return p
}

func (r *reader) plan(e entry) Plan {
	p := Plan{Name: r.checkName(e.key, e.name)}
	if e.is("unlimited") {
		e.fault("must be a mapping: write {limits: []} for a plan without limits")
		return p
	}
	o := e.object(planKeys)
	p.Limits = r.limits(o.at("limits"), inPlan)
	p.OnStoreError = r.onStoreError(o.at("on_store_error"))
	id := inheriting("plan/", p.Limits)
	if o.at("on_store_error").warnLocal(p.OnStoreError, id); p.OnStoreError == Inherit {
		r.closedPlans = cmp.Or(r.closedPlans, id)
	}
	addUnits(r.planUnits, p.Limits)
	r.comparePeriods(o.at("limits"), &p)
	n := countLimits(p.Limits)
	if n > MaxLimits {
		o.at("limits").fault("%d limits: a request may meet at most %d", n, MaxLimits)
	} else if n > r.largest.n {
		r.largest.name, r.largest.n = p.Name, n
	}
	return p
}

// planName returns the name of a plan that exists.
func (r *reader) planName(v value) string {
	s, ok := v.text(wantName)
	if ok {
		r.knownPlan(v, s)
	}
	return s
}

func (r *reader) knownPlan(v value, name string) {
	if !r.plans[name] {
		v.fault("there is no plan %s%s", quoted(name), didYouMean(name, sortedKeys(r.plans)))
	}
}

// sortedKeys returns the keys to choose a likely one from, or nothing of so many
// that [Near] would not look at them: sorting costs more than the fault.
func sortedKeys[V any](m map[string]V) []string {
	if len(m) > maxOptions {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}
