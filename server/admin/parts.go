package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// section is a part of the policy that has parts with names.
type section struct{ key, noun string }

var (
	plans        = section{"plans", "plan"}
	applications = section{"applications", "application"}
)

// planItem is a plan, on the wire.
type planItem struct {
	Name     string          `json:"name"`
	Revision int64           `json:"revision"`
	Document json.RawMessage `json:"document"`
	// Applications are those that name the plan, of those that the token is for.
	Applications []string `json:"applications"`
	// Subjects is how many have it on record, of those applications.
	Subjects int64 `json:"subjects"`
}

// applicationItem is an application, on the wire.
type applicationItem struct {
	Name     string          `json:"name"`
	Revision int64           `json:"revision"`
	Document json.RawMessage `json:"document"`
}

// planLine is a plan in a list.
type planLine struct {
	Name   string          `json:"name"`
	Limits json.RawMessage `json:"limits"`
}

// applicationLine is an application in a list.
type applicationLine struct {
	Name        string          `json:"name"`
	DefaultPlan string          `json:"default_plan"`
	Limits      json.RawMessage `json:"limits"`
	Rules       int             `json:"rules"` // how many
}

// partChange is a revision that a request about one part has made.
type partChange struct {
	changeItem
	Name    string `json:"name"`
	Created bool   `json:"created"`
}

// parts reads a section of the newest policy. It has answered if it fails.
func (a *api) parts(w http.ResponseWriter, r *http.Request, s section) (list []policy.Part, document string, revision int64, ok bool) {
	document, revision, err := a.document(r, 0)
	if err != nil {
		a.lost(w, r, err)
		return nil, "", 0, false
	}
	if list, err = policy.Parts([]byte(document), s.key); err != nil {
		a.Logger.Error("the policy cannot be read", "revision", revision, "error", err)
		problem.Of(err).ServeHTTP(w, r)
		return nil, "", 0, false
	}
	return list, document, revision, true
}

// plans lists the plans, as the policy has them.
func (a *api) plans(w http.ResponseWriter, r *http.Request, _ *access.Identity) {
	if _, p := query(r.URL.RawQuery); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, _, _, ok := a.parts(w, r, plans)
	if !ok {
		return
	}
	items := make([]planLine, len(list))
	for i, part := range list {
		items[i] = planLine{part.Name, short(part).Limits}
	}
	writeList(w, items, "")
}

// applications lists the applications that the token is for.
func (a *api) applications(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	if _, p := query(r.URL.RawQuery); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, _, _, ok := a.parts(w, r, applications)
	if !ok {
		return
	}
	items := []applicationLine{}
	for _, part := range list {
		if who.Reaches(part.Name) {
			facts := short(part)
			items = append(items, applicationLine{part.Name, facts.DefaultPlan, facts.Limits, len(facts.Rules)})
		}
	}
	writeList(w, items, "")
}

// facts are what lists tell of a part.
type facts struct {
	DefaultPlan string            `json:"default_plan"`
	Limits      json.RawMessage   `json:"limits"`
	Rules       []json.RawMessage `json:"rules"`
}

// short returns the facts of a part. What it says elsewise than policies do, as one of
// another version of this program may, is left out.
func short(part policy.Part) facts {
	f := facts{Limits: json.RawMessage("[]")}
	if json.Unmarshal(part.JSON, &f) != nil || f.Limits == nil {
		f.Limits = json.RawMessage("[]")
	}
	return f
}

// plan answers with a plan, or changes it.
func (a *api) plan(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	name := r.PathValue("plan")
	if r.Method == http.MethodPut || r.Method == http.MethodDelete {
		if p := a.wholly(who); p != nil {
			p.ServeHTTP(w, r)
			return
		}
		a.change(w, r, who, plans, name)
		return
	}
	if _, p := query(r.URL.RawQuery); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, document, revision, ok := a.parts(w, r, plans)
	if !ok {
		return
	}
	i := slices.IndexFunc(list, func(part policy.Part) bool { return part.Name == name })
	if i < 0 {
		problem.Of(plans.unknown(name)).ServeHTTP(w, r)
		return
	}
	item := planItem{Name: name, Revision: revision, Document: list[i].JSON, Applications: []string{}}
	for _, u := range plans.uses(document, name) {
		if u.application != "" && who.Reaches(u.application) && !slices.Contains(item.Applications, u.application) {
			item.Applications = append(item.Applications, u.application)
		}
	}
	if err := a.countPlan(r, who, document, &item); err != nil {
		a.lost(w, r, err)
		return
	}
	w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(revision, 10)))
	writeJSON(w, item)
}

// countPlan counts the subjects of a plan that a token may know of.
func (a *api) countPlan(r *http.Request, who *access.Identity, document string, item *planItem) (err error) {
	if who.Everywhere() {
		item.Subjects, err = a.Records.CountSubjects(r.Context(), "", item.Name)
		return err
	}
	all, err := policy.Parts([]byte(document), applications.key)
	if err != nil {
		return err
	}
	for _, application := range all {
		if !who.Reaches(application.Name) {
			continue
		}
		n, err := a.Records.CountSubjects(r.Context(), application.Name, item.Name)
		if err != nil {
			return err
		}
		item.Subjects += n
	}
	return nil
}

// application answers with an application, or changes it.
func (a *api) application(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	name := r.PathValue("application")
	if p := outside(who, name); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodPut || r.Method == http.MethodDelete {
		a.change(w, r, who, applications, name)
		return
	}
	if _, p := query(r.URL.RawQuery); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, _, revision, ok := a.parts(w, r, applications)
	if !ok {
		return
	}
	for _, part := range list {
		if part.Name == name {
			w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(revision, 10)))
			writeJSON(w, applicationItem{name, revision, part.JSON})
			return
		}
	}
	problem.Of(unknownApplication(name)).ServeHTTP(w, r)
}

func (s section) unknown(name string) error {
	return &headgate.Error{Code: headgate.NotFound, Field: s.noun, Err: fmt.Errorf("%.64q is not in the policy", name)}
}

// partEdit is a change of one part.
type partEdit struct {
	section
	name string
	part []byte // nil to remove it
	base int64  // the revision that it is for, or [records.Whatever]
	note string
}

// mostTries is how often a change is tried, as one from elsewhere may be faster.
const mostTries = 10

// change puts a part into the policy, or removes it.
func (a *api) change(w http.ResponseWriter, r *http.Request, who *access.Identity, s section, name string) {
	edit, p := a.readEdit(w, r, s, name)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	var made partChange
	var version int64
	var err error
	a.editing.Lock()
	for range mostTries {
		made, version, p, err = a.try(r, who, edit)
		if edit.base != records.Whatever || !errors.Is(err, records.ErrStale) {
			break
		}
	}
	a.editing.Unlock()
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	if err != nil {
		a.lost(w, r, err)
		return
	}
	a.reach(r, version)
	w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(made.Revision, 10)))
	writeJSON(w, made)
}

// readEdit reads what a request wants changed.
func (a *api) readEdit(w http.ResponseWriter, r *http.Request, s section, name string) (*partEdit, *problem.Problem) {
	if p := a.pinned(); p != nil {
		return nil, p
	}
	values, p := query(r.URL.RawQuery, "note")
	if p != nil {
		return nil, p
	}
	edit := &partEdit{section: s, name: name, note: values["note"]}
	if p := checkNote(edit.note, records.MaxNote); p != nil {
		return nil, p
	}
	if edit.base, p = version(r); p != nil {
		return nil, p
	}
	err := headgate.CheckName(name)
	switch {
	case r.Method == http.MethodDelete && err != nil:
		return nil, problem.Of(s.unknown(name))
	case err != nil:
		return nil, problem.BadRequest(s.noun, fmt.Sprintf("%s: %v", s.noun, err))
	case r.Method == http.MethodDelete:
		edit.note = orNote(edit.note, s, name, "deleted")
		return edit, nil
	}
	edit.note = orNote(edit.note, s, name, "put")
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(policyTypes, kind) {
		return nil, &problem.Problem{
			Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType,
			Detail: fmt.Sprintf("the body must be one %s as a policy has it, sent as Content-Type: application/yaml or application/json", s.noun),
		}
	}
	if edit.part, err = io.ReadAll(http.MaxBytesReader(w, r.Body, policy.MaxSize)); err != nil {
		return nil, unread(err)
	}
	return edit, nil
}

func orNote(said string, s section, name, done string) string {
	if said != "" {
		return said
	}
	return s.noun + " " + name + " " + done
}

// try makes a change on top of the newest revision. The error is [records.ErrStale] if
// that is not the one it is for, or was not the newest any more.
func (a *api) try(r *http.Request, who *access.Identity, edit *partEdit) (made partChange, version int64, p *problem.Problem, err error) {
	before, revision, err := a.document(r, 0)
	if err != nil {
		return made, 0, nil, err
	}
	if edit.base != records.Whatever && edit.base != revision {
		return made, 0, nil, records.ErrStale
	}
	after, err := policy.Edit([]byte(before), edit.key, edit.name, edit.part)
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		for i, f := range faults {
			if f.Path == "" {
				faults[i].Message = fmt.Sprintf("line %d: %s", f.Line, f.Message)
			}
		}
		return made, 0, faulty(faults), nil
	}
	switch {
	case errors.Is(err, policy.ErrNoPart):
		return made, 0, problem.Of(edit.unknown(edit.name)), nil
	case errors.Is(err, policy.ErrEntangled):
		return made, 0, problem.BadRequest("", fmt.Sprintf("%s %s cannot be changed without the rest of the policy, because of how that is written: use PUT /v1/policy", edit.noun, edit.name)), nil
	case err != nil:
		a.Logger.Error("the policy cannot be changed", "revision", revision, "error", err)
		return made, 0, problem.Of(err), nil
	}
	action := edit.noun + ".put"
	if edit.part == nil {
		action = edit.noun + ".delete"
		if p, err := a.inUse(r, edit, before); p != nil || err != nil {
			return made, 0, p, err
		}
	}
	warnings, err := gate.Validate("policy", after)
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		p := faulty(faults.Unplaced())
		if edit.part == nil && faults[0].Path != edit.key { // else it is the last one that there must be
			p.Name, p.Status = "in_use", http.StatusConflict
			p.Detail = fmt.Sprintf("%s %s is in use: without it %s", edit.noun, edit.name, p.Detail)
		}
		return made, 0, p, nil
	}
	if err != nil {
		return made, 0, problem.Of(err), nil
	}
	if edit.section == applications && !who.Everywhere() {
		if p := sharing(string(after), edit.name); p != nil {
			return made, 0, p, nil
		}
	}
	e := entry(r, who, action)
	e.Target, e.Detail = edit.name, changeOf(before, string(after), edit.note)
	if edit.section == applications {
		e.Application = edit.name
	}
	done, err := a.Records.AppendPolicy(r.Context(), revision, records.Policy{Document: string(after), Note: edit.note}, e)
	if err != nil {
		return made, 0, nil, err
	}
	was, err := policy.Parts([]byte(before), edit.key)
	had := err == nil && slices.ContainsFunc(was, func(part policy.Part) bool { return part.Name == edit.name })
	return partChange{changeItem{revisionOf(&done), edit.warnings(who, warnings)}, edit.name, !had}, done.Version, nil, nil
}

// warnings returns those that a token may know of, without lines of a file that nobody
// has sent.
func (e *partEdit) warnings(who *access.Identity, list []policy.Warning) []warningItem {
	faults := make(policy.Faults, len(list))
	for i, w := range list {
		faults[i] = policy.Fault(w)
	}
	items := []warningItem{}
	for _, f := range faults.Unplaced() {
		own := strings.HasPrefix(f.Path, e.key+"."+e.name+".") || strings.HasPrefix(f.Path, e.key+"["+strconv.Quote(e.name)+"].")
		if own || who.Everywhere() {
			items = append(items, warningItem{problem.Pointer(f.Path), f.Message})
		}
	}
	return items
}

// sharing is the problem of an application whose limits are budgets of other applications
// too: who may change it alone would reach those.
func sharing(document, name string) *problem.Problem {
	p, _, err := policy.Parse("policy", []byte(document), nil)
	if err != nil {
		return nil // it was parsed before
	}
	for i := range p.Applications {
		app := &p.Applications[i]
		if app.Name != name {
			continue
		}
		lists := [][]policy.Limit{app.Limits}
		for j := range app.Rules {
			lists = append(lists, app.Rules[j].Limits, app.Rules[j].Candidate)
		}
		for _, l := range slices.Concat(lists...) {
			if l.Across || l.Owner == policy.OwnerGlobal {
				return &problem.Problem{
					Name: "forbidden", Status: http.StatusForbidden,
					Detail: fmt.Sprintf("limit %s is a budget that applications share: it takes a token that is for all of them", l.Name),
				}
			}
		}
	}
	return nil
}
