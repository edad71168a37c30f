package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// subjectItem is what is on record of a subject, on the wire.
type subjectItem struct {
	Application string          `json:"application"`
	Subject     string          `json:"subject"`
	Known       bool            `json:"known"`
	Plan        string          `json:"plan"`
	Timezone    string          `json:"timezone"`
	Anchor      int             `json:"anchor"`
	Note        string          `json:"note"`
	Overrides   json.RawMessage `json:"overrides"`
	Ban         *banItem        `json:"ban"`
	Version     int64           `json:"version"`
	ChangedAt   *time.Time      `json:"changed_at"`
	ChangedBy   string          `json:"changed_by"`
}

type banItem struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// stateItem is a subject with what stands of it.
type stateItem struct {
	subjectItem
	EffectivePlan  string     `json:"effective_plan"`
	At             *time.Time `json:"at"`
	PolicyRevision uint64     `json:"policy_revision"`
	// Limits are null where the store cannot be asked, and Degraded says so.
	Limits   []limitItem `json:"limits"`
	Degraded *string     `json:"degraded"`
}

// limitItem is a limit as decisions have it, but for what a request asked.
type limitItem struct {
	ID           string  `json:"id"`
	Algorithm    string  `json:"algorithm"`
	Owner        string  `json:"owner"`
	Unit         string  `json:"unit"`
	Allowed      bool    `json:"allowed"`
	Limit        int64   `json:"limit"`
	Used         int64   `json:"used"`
	Remaining    int64   `json:"remaining"`
	Overage      int64   `json:"overage"`
	Rollover     int64   `json:"rollover,omitempty"`
	RetryAfterMS *int64  `json:"retry_after_ms"`
	ResetAfterMS int64   `json:"reset_after_ms"`
	ResetsAt     *string `json:"resets_at"`
	Mode         string  `json:"mode"`
	Exact        bool    `json:"exact"`
}

func subjectOf(s *records.Subject) subjectItem {
	item := subjectItem{
		Application: s.Application, Subject: s.Name, Known: s.Known, Plan: s.Plan, Timezone: s.Timezone, Anchor: s.Anchor, Note: s.Note,
		Overrides: s.Overrides, Version: s.Version, ChangedBy: s.Author,
	}
	if item.Overrides == nil {
		item.Overrides = json.RawMessage("[]")
	}
	if !s.Ban.Until.IsZero() {
		item.Ban = &banItem{s.Ban.Until, s.Ban.Reason}
	}
	if !s.Changed.IsZero() {
		item.ChangedAt = &s.Changed
	}
	return item
}

func limitOf(l *gate.LimitState) limitItem {
	up := func(d time.Duration) int64 { return (d + time.Millisecond - 1).Milliseconds() }
	item := limitItem{
		ID: l.ID, Algorithm: l.Limit.Algorithm.String(), Owner: l.Owner, Unit: l.Unit, Allowed: l.Allowed,
		Limit: l.Outcome.Limit, Used: l.Used, Remaining: l.Remaining, Overage: l.Overage, ResetAfterMS: up(l.ResetAfter),
		Mode: modeName(l.Shadow), Exact: !l.Shared && !l.Leased,
	}
	item.Rollover = l.Rollover()
	if !l.Never {
		item.RetryAfterMS = new(up(l.RetryAfter))
	}
	if l.ResetsAt != 0 {
		zone := l.Limit.Calendar.Location
		if zone == nil {
			zone = time.UTC
		}
		item.ResetsAt = new(time.UnixMicro(l.ResetsAt).In(zone).Format(time.RFC3339))
	}
	return item
}

// named reads whom a request is about: the application of the path and the subject of
// the query.
func (a *api) named(r *http.Request, who *access.Identity) (application, subject string, p *problem.Problem) {
	application = r.PathValue("application")
	if p := a.reached(who, application); p != nil {
		return "", "", p
	}
	values, p := query(r.URL.RawQuery, "subject")
	if p != nil {
		return "", "", p
	}
	switch subject = values["subject"]; {
	case subject == "":
		return "", "", problem.BadRequest("subject", "subject is required: write it into the query, as in ?subject=alice")
	case len(subject) > gate.MaxSubject:
		return "", "", problem.BadRequest("subject", fmt.Sprintf("subject: %d bytes: at most %d", len(subject), gate.MaxSubject))
	case strings.ContainsAny(subject, "\r\n\x00") || !utf8.ValidString(subject):
		return "", "", problem.BadRequest("subject", "subject: has a line break or NUL, or is no UTF-8")
	}
	return application, subject, nil
}

// reached is the problem of an application that is not there, or not for the token.
func (a *api) reached(who *access.Identity, application string) *problem.Problem {
	if p := outside(who, application); p != nil {
		return p
	}
	if _, known := a.Gate.TrustedProxies(application); !known {
		return problem.Of(unknownApplication(application))
	}
	return nil
}

// query reads the parameters of a request. Each may be given once.
func query(raw string, allowed ...string) (map[string]string, *problem.Problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, problem.BadRequest("", "the query cannot be read: "+err.Error())
	}
	out := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) > 1 {
			return nil, problem.BadRequest(name, fmt.Sprintf("%.64q is given twice", name))
		}
		if !slices.Contains(allowed, name) {
			there := "this route has none"
			if len(allowed) > 0 {
				there = "there are " + strings.Join(allowed, ", ")
			}
			return nil, problem.BadRequest(name, fmt.Sprintf("%.64q: unknown parameter; %s", name, there))
		}
		out[name] = v[0]
	}
	return out, nil
}

// texts is the problem of a parameter that no database can look for.
func texts(values map[string]string) *problem.Problem {
	for name, value := range values {
		if !isText(value) {
			return problem.BadRequest(name, fmt.Sprintf("%s %.64q: is no UTF-8, or has NUL", name, value))
		}
	}
	return nil
}

// limitOfPage reads how many items a list shall have.
func limitOfPage(s string) (int, *problem.Problem) {
	if s == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > records.MaxPage {
		return 0, problem.BadRequest("limit", fmt.Sprintf("limit %.64q: must be 1 to %d", s, records.MaxPage))
	}
	return n, nil
}

// subjects lists what is on record.
func (a *api) subjects(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	application := r.PathValue("application")
	p := a.reached(who, application)
	var values map[string]string
	if p == nil {
		values, p = query(r.URL.RawQuery, "prefix", "plan", "banned", "limit", "cursor")
	}
	q := records.SubjectQuery{Application: application, Prefix: values["prefix"], Plan: values["plan"], After: values["cursor"]}
	if p == nil {
		q.Limit, p = limitOfPage(values["limit"])
	}
	switch banned := values["banned"]; {
	case p != nil, banned == "":
	case banned == "true":
		q.Banned = time.UnixMicro(a.Gate.Now())
	default:
		p = problem.BadRequest("banned", fmt.Sprintf("banned %.64q: must be true", banned))
	}
	if p == nil {
		p = texts(values)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, more, err := a.Records.Subjects(r.Context(), q)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	items := make([]subjectItem, len(list))
	for i := range list {
		items[i] = subjectOf(&list[i])
	}
	next := ""
	if more {
		next = list[len(list)-1].Name
	}
	writeList(w, items, next)
}

// subject answers with what is on record of a subject, and what stands of it, or
// changes the record.
func (a *api) subject(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	application, name, p := a.named(r, who)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	var s records.Subject
	var err error
	switch r.Method {
	case http.MethodPut:
		s, p, err = a.putSubject(w, r, who, application, name)
	case http.MethodDelete:
		s, p, err = a.deleteSubject(r, who, application, name)
	default:
		if s, err = a.Records.Subject(r.Context(), application, name); errors.Is(err, records.ErrNotFound) {
			s, err = records.Subject{Application: application, Name: name}, nil
		}
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	if err != nil {
		a.lost(w, r, err)
		return
	}
	a.reach(r, s.Version)
	a.answerState(w, r, &s, func(ctx context.Context) (*gate.SubjectState, error) { return a.Gate.Inspect(ctx, application, name) })
}

// answerState answers with a record and the state that look returns.
func (a *api) answerState(w http.ResponseWriter, r *http.Request, s *records.Subject, look func(context.Context) (*gate.SubjectState, error)) {
	state, err := look(r.Context())
	if state == nil {
		problem.Of(err).ServeHTTP(w, r)
		return
	}
	if !s.Known && s.Ban.Until.IsZero() { // of what has gone there is no version
		*s = records.Subject{Application: s.Application, Name: s.Name}
	}
	item := stateItem{subjectItem: subjectOf(s), EffectivePlan: state.Plan, PolicyRevision: state.Revision, Limits: []limitItem{}}
	if err != nil { // what is on record is there, and holds
		item.Degraded, item.Limits = new(headgate.StoreUnavailable.String()), nil
	}
	if !state.At.IsZero() {
		item.At = new(state.At.UTC())
	}
	for i := range state.Limits {
		item.Limits = append(item.Limits, limitOf(&state.Limits[i]))
	}
	w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(s.Version, 10)))
	writeJSON(w, item)
}

// entry is a line of the audit log for what a request does.
func entry(r *http.Request, who *access.Identity, action string) records.Entry {
	return records.Entry{Actor: records.Actor{Name: who.Name, Via: "api", Address: access.Address(r)}, Action: action}
}

// version reads the version that a request expects, in If-Match.
func version(r *http.Request) (int64, *problem.Problem) {
	said := r.Header.Get("If-Match")
	if said == "" || said == "*" {
		return records.Whatever, nil
	}
	n, err := strconv.ParseInt(strings.Trim(said, `"`), 10, 64)
	if err != nil || n < 0 {
		return 0, problem.BadRequest("", "If-Match must be the ETag of an answer")
	}
	return n, nil
}

func (a *api) putSubject(w http.ResponseWriter, r *http.Request, who *access.Identity, application, name string) (is records.Subject, p *problem.Problem, err error) {
	base, p := version(r)
	if p != nil {
		return is, p, nil
	}
	body, p := readBody(w, r)
	if p != nil {
		return is, p, nil
	}
	said, err := policy.ParseSubject(a.Gate.Policy(), application, name, withoutEmpty(body))
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		return is, faulty(faults), nil
	}
	e := entry(r, who, "subject.put")
	e.Detail = string(body)
	_, is, err = a.Records.EditSubject(r.Context(), application, name, base, e, func(s *records.Subject) error {
		s.Known, s.Plan, s.Anchor, s.Note, s.Timezone = true, said.Plan, said.Anchor, said.Note, ""
		if said.Timezone != nil {
			s.Timezone = said.Timezone.String()
		}
		var err error
		s.Overrides, err = overridesOf(said.Overrides)
		return err
	})
	return is, nil, err
}

// empty is what answers say of a subject of which nothing is said.
var empty = map[string]string{"plan": `""`, "timezone": `""`, "note": `""`, "anchor": `0`}

// withoutEmpty leaves out what is said to be empty, so that what was read can be sent
// back.
func withoutEmpty(body []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return body // whoever reads it says why
	}
	some := false
	for name, value := range empty {
		if string(fields[name]) == value {
			delete(fields, name)
			some = true
		}
	}
	if !some {
		return body
	}
	if short, err := json.Marshal(fields); err == nil {
		return short
	}
	return body
}

func (a *api) deleteSubject(r *http.Request, who *access.Identity, application, name string) (is records.Subject, p *problem.Problem, err error) {
	base, p := version(r)
	if p != nil {
		return is, p, nil
	}
	_, is, err = a.Records.EditSubject(r.Context(), application, name, base, entry(r, who, "subject.delete"), func(s *records.Subject) error {
		if !s.Known {
			return records.ErrNotFound
		}
		*s = records.Subject{Ban: s.Ban}
		return nil
	})
	return is, nil, err
}

// overrideItem is an override as a policy has it.
type overrideItem struct {
	Limit string    `json:"limit"`
	Rate  string    `json:"rate,omitempty"`
	Max   any       `json:"max,omitempty"`
	Burst int64     `json:"burst,omitempty"`
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Note  string    `json:"note,omitempty"`
}

// overridesOf writes overrides as they are kept; nil for none.
func overridesOf(list []policy.Override) (json.RawMessage, error) {
	if len(list) == 0 {
		return nil, nil
	}
	items := make([]overrideItem, len(list))
	for i := range list {
		o := &list[i]
		items[i] = overrideItem{Limit: o.Limit, Rate: o.Rate, Burst: o.Burst, From: o.From, Until: o.Until, Note: o.Note}
		switch {
		case o.Rate != "":
		case o.Unlimited:
			items[i].Max = "unlimited"
		default:
			items[i].Max = o.Count
		}
	}
	return json.Marshal(items)
}
