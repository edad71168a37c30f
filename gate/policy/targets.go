package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// target is what an override of one limit can meet.
type target struct {
	shared string // says whose budget it is, if not one subject's
	bases  []base
}

// base is a limit that an override gives other numbers. Those that differ only
// in what overrides replace are kept once.
type base struct {
	plan  string // on which it is met, "" for any
	limit headgate.Limit
}

// targetKey names a target: the limit id of application as subjects on plan meet
// it, or as any subject does if plan is "". Limits of plans have no application.
type targetKey struct{ application, plan, id string }

// noVariant stands for the plans that a limit has no numbers for; no plan is
// called so.
const noVariant = "*"

// targets finds what overrides mean. Limits are gathered when the first override
// asks for them.
type targets struct {
	policy       *Policy
	applications map[string]*Application
	byKey        map[targetKey]*target
	names        map[string]*limitNames // by application; those of plans under ""
}

// limitNames are the ids of limits, and the ids that each short name may mean.
type limitNames struct {
	ids   map[string]bool
	short map[string][]string
}

func newTargets(p *Policy) targets {
	t := targets{
		policy: p, applications: make(map[string]*Application, len(p.Applications)),
		byKey: make(map[targetKey]*target), names: make(map[string]*limitNames),
	}
	for i := range p.Applications {
		t.applications[p.Applications[i].Name] = &p.Applications[i]
	}
	return t
}

func (t *targets) has(application string) bool {
	return application != "" && t.applications[application] != nil
}

// find returns the id that name means in the application, and what an override
// of it meets for a subject on plan, or on any if that is "".
func (t *targets) find(application, plan, name string) (id string, found *target, err error) {
	plans, own := t.gather(""), t.gather(application)
	id = name
	if !strings.Contains(name, "/") {
		switch ids := slices.Concat(plans.short[name], own.short[name]); len(ids) {
		case 0:
		case 1:
			id = ids[0]
		default:
			return "", nil, fmt.Errorf("%s could be %s or %s: write which", quoted(name), ids[0], ids[1])
		}
	}
	if !plans.ids[id] && !own.ids[id] {
		likely := slices.Concat(sortedKeys(plans.ids), sortedKeys(own.ids))
		return "", nil, fmt.Errorf("application %s has no limit %s%s", application, quoted(name), didYouMean(name, likely))
	}
	if limit, ok := strings.CutPrefix(id, "plan/"); ok {
		if found = t.byKey[targetKey{"", plan, id}]; found == nil {
			return "", nil, fmt.Errorf("the subject's plan %s has no limit %s", plan, limit)
		}
		return id, found, nil
	}
	if found = t.byKey[targetKey{application, plan, id}]; found == nil {
		found = t.byKey[targetKey{application, noVariant, id}]
	}
	return id, found, nil
}

// gather returns the names of the application's limits, or of those of plans for
// "", and keeps what overrides of them meet.
func (t *targets) gather(application string) *limitNames {
	if names := t.names[application]; names != nil {
		return names
	}
	names := &limitNames{ids: make(map[string]bool), short: make(map[string][]string)}
	t.names[application] = names
	if application == "" {
		for i := range t.policy.Plans {
			p := &t.policy.Plans[i]
			for j := range p.Limits {
				l := &p.Limits[j]
				id := names.add("plan/", l.Name)
				t.meet(targetKey{"", p.Name, id}, l, OwnerSubject, base{p.Name, l.Limit})
				t.meet(targetKey{"", "", id}, l, OwnerSubject, base{p.Name, l.Limit})
			}
		}
		return names
	}
	a := t.applications[application]
	t.list(names, application, "app/", a.Limits, OwnerApplication)
	for i := range a.Rules {
		owner := OwnerSubject
		if !a.Rules[i].HasSubject() {
			owner = OwnerApplication
		}
		if a.Rules[i].Name != "" {
			t.list(names, application, a.Rules[i].Name+"/", a.Rules[i].Limits, owner)
		}
	}
	return names
}

// add returns the id of a limit.
func (n *limitNames) add(prefix, name string) string {
	id := prefix + name
	if name != "" && !n.ids[id] {
		n.ids[id] = true
		n.short[name] = append(n.short[name], id)
	}
	return id
}

// list gathers a list of an application; owner is that of limits that say none.
func (t *targets) list(names *limitNames, application, prefix string, limits []Limit, owner Owner) {
	for i := range limits {
		l := &limits[i]
		id := names.add(prefix, l.Name)
		t.meet(targetKey{application, noVariant, id}, l, owner, base{"", l.Limit})
		t.meet(targetKey{application, "", id}, l, owner, base{"", l.Limit})
		for _, v := range l.Variants {
			t.meet(targetKey{application, v.Plan, id}, l, owner, base{v.Plan, v.Limit})
			t.meet(targetKey{application, "", id}, l, owner, base{v.Plan, v.Limit})
		}
	}
}

// meet adds numbers of l to what an override of key meets.
func (t *targets) meet(key targetKey, l *Limit, owner Owner, b base) {
	found := t.byKey[key]
	if found == nil {
		found = new(target)
		t.byKey[key] = found
	}
	if l.Owner != OwnerDefault {
		owner = l.Owner
	}
	if found.shared == "" {
		switch {
		case owner != OwnerSubject:
			found.shared = "shared between subjects"
		case l.Across:
			found.shared = "shared between applications"
		}
		if found.shared != "" && key.application == "" {
			found.shared += " on plan " + b.plan
		}
	}
	if b.limit.Count == 0 && !l.Unlimited {
		return // has faults of its own
	}
	// What overrides replace, and what Prepare judges by itself, is left out: so
	// few bases differ, however many plans there are.
	b.limit = headgate.Limit{
		Name: l.Name, Algorithm: b.limit.Algorithm, Slices: b.limit.Slices, Rollover: b.limit.Rollover,
		Calendar: headgate.Calendar{Unit: b.limit.Calendar.Unit},
	}
	for i := range found.bases {
		alike := found.bases[i].limit
		alike.Rollover = b.limit.Rollover
		if alike == b.limit {
			if b.limit.Rollover > found.bases[i].limit.Rollover {
				found.bases[i] = b // it leaves less room for the count
			}
			return
		}
	}
	found.bases = append(found.bases, b)
}
