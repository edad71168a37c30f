package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front/problem"
)

// use is a place in a policy that names a part.
type use struct {
	application, pointer string
	what                 kind
}

// kind says what uses a part.
type kind uint8

const (
	defaultPlan kind = iota
	limit
	subjectOfPolicy
	subjectOnRecord
	kinds
)

// count says how many there are.
func (k kind) count(n int64) string {
	words := [kinds][2]string{
		{"default_plan", "default_plans"}, {"limit", "limits"},
		{"subject of the policy", "subjects of the policy"}, {"subject on record", "subjects on record"},
	}[k]
	if n == 1 {
		return "1 " + words[0]
	}
	return fmt.Sprintf("%d %s", n, words[1])
}

// uses returns where a policy names a plan, or an application; nothing if the policy has
// faults.
func (s section) uses(document, name string) (all []use) {
	p, _, err := policy.Parse("policy", []byte(document), nil)
	if err != nil {
		return nil
	}
	for i := range p.Subjects {
		u := &p.Subjects[i]
		if s == plans && u.Plan == name || s == applications && u.Application == name {
			all = append(all, use{pointer: pointer("subjects", u.Application+"/"+u.Name), what: subjectOfPolicy})
		}
	}
	if s == applications {
		return all
	}
	for i := range p.Applications {
		app := &p.Applications[i]
		if app.DefaultPlan == name {
			all = append(all, use{app.Name, pointer("applications", app.Name, "default_plan"), defaultPlan})
		}
		limits := func(list []policy.Limit, path ...string) {
			for j := range list {
				for _, v := range list[j].Variants {
					if v.Plan == name {
						path := append(slices.Clone(path), strconv.Itoa(j), "plans", name)
						all = append(all, use{app.Name, pointer(path...), limit})
					}
				}
			}
		}
		limits(app.Limits, "applications", app.Name, "limits")
		for j := range app.Rules {
			rule := []string{"applications", app.Name, "rules", strconv.Itoa(j)}
			limits(app.Rules[j].Limits, append(rule, "limits")...)
			limits(app.Rules[j].Candidate, append(rule, "candidate", "limits")...)
		}
	}
	return all
}

// pointer returns a JSON pointer.
func pointer(path ...string) string {
	var b strings.Builder
	for _, step := range path {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step))
	}
	return b.String()
}

// inUse is the problem of a part that something needs. A subject that is given a plan
// while that is being deleted has none then, as one has whose plan is unknown.
func (a *api) inUse(r *http.Request, edit *partEdit, document string) (*problem.Problem, error) {
	uses := edit.uses(document, edit.name)
	application, plan := edit.name, ""
	if edit.section == plans {
		application, plan = "", edit.name
	}
	n, err := a.Records.CountSubjects(r.Context(), application, plan)
	if err != nil || n == 0 && len(uses) == 0 {
		return nil, err
	}
	var counts [kinds]int64
	counts[subjectOnRecord] = n
	p := &problem.Problem{Name: "in_use", Status: http.StatusConflict}
	for i, u := range uses {
		if counts[u.what]++; i < mostErrors {
			p.Errors = append(p.Errors, problem.Error{Pointer: u.pointer, Detail: "names " + edit.noun + " " + edit.name})
		}
	}
	var said []string
	for k, n := range counts {
		if n > 0 {
			said = append(said, kind(k).count(n))
		}
	}
	p.Detail = fmt.Sprintf("%s %s is in use by %s: ", edit.noun, edit.name, strings.Join(said, ", "))
	if edit.section == plans {
		p.Detail += "give them another plan first"
	} else {
		p.Detail += "delete them first"
	}
	return p, nil
}
