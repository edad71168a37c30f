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
	EffectivePlan  string      `json:"effective_plan"`
	At             *time.Time  `json:"at"`
	PolicyRevision uint64      `json:"policy_revision"`
	Limits         []limitItem `json:"limits"`
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
			return nil, problem.BadRequest(name, fmt.Sprintf("%.64q: unknown parameter; there are %s", name, strings.Join(allowed, ", ")))
		}
		out[name] = v[0]
	}
	return out, nil
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
	if p == nil && !(utf8.ValidString(q.Prefix) && utf8.ValidString(q.After) && utf8.ValidString(q.Plan)) {
		p = problem.BadRequest("", "the query is no UTF-8")
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
	if err != nil {
		problem.Of(err).ServeHTTP(w, r)
		return
	}
	item := stateItem{subjectItem: subjectOf(s), EffectivePlan: state.Plan, PolicyRevision: state.Revision, Limits: []limitItem{}}
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
	said, err := policy.ParseSubject(a.Gate.Policy(), application, name, body)
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

// reset gives back what a subject has used of some limits.
func (a *api) reset(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	application, name, p := a.named(r, who)
	var match func(*gate.LimitState) bool
	var said string
	if p == nil {
		match, said, p = readReset(w, r)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	e := entry(r, who, "subject.reset")
	e.Application, e.Subject, e.Target = application, name, said
	if err := a.Records.Audit(r.Context(), e); err != nil {
		a.lost(w, r, err) // nothing is given back that nobody can read about
		return
	}
	s, err := a.Records.Subject(r.Context(), application, name)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		a.lost(w, r, err)
		return
	}
	s.Application, s.Name = application, name
	a.answerState(w, r, &s, func(ctx context.Context) (*gate.SubjectState, error) {
		state, err := a.Gate.Reset(ctx, application, name, match)
		if err == nil && len(state.Limits) == 0 {
			err = &headgate.Error{Code: headgate.NotFound, Field: "limits", Err: fmt.Errorf("the subject has no limit %.200s", said)}
		}
		return state, err
	})
}

// readReset reads which limits are meant, all but bans if that is not said.
func readReset(w http.ResponseWriter, r *http.Request) (match func(*gate.LimitState) bool, said string, p *problem.Problem) {
	body, p := readBody(w, r)
	if p != nil {
		return nil, "", p
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, "", unread(err)
	}
	for name := range fields {
		if name != "limits" {
			return nil, "", problem.BadRequest(name, fmt.Sprintf("%.64q: unknown field", name))
		}
	}
	const want = `limits: must be "all", "rate", "hourly", "daily", "weekly", "monthly", "yearly", or a list of ids such as ["plan/daily"]`
	var word string
	var ids []string
	switch raw := fields["limits"]; {
	case raw == nil:
		return nil, "", problem.BadRequest("limits", "limits is required: "+strings.TrimPrefix(want, "limits: must be "))
	case json.Unmarshal(raw, &word) == nil:
		unit, known := periods[word]
		if !known {
			return nil, "", problem.BadRequest("limits", want)
		}
		return func(l *gate.LimitState) bool {
			switch algorithm := l.Limit.Algorithm; word {
			case "all":
				return algorithm != headgate.Ban
			case "rate":
				return algorithm < headgate.Concurrency && algorithm != headgate.Quota
			default:
				return algorithm == headgate.Quota && l.Limit.Calendar.Unit == unit
			}
		}, word, nil
	case json.Unmarshal(raw, &ids) == nil && len(ids) > 0 && len(ids) <= maxIDs:
		return func(l *gate.LimitState) bool {
			_, short, _ := strings.Cut(l.ID, "/")
			return slices.Contains(ids, l.ID) || slices.Contains(ids, short)
		}, strings.Join(ids, " "), nil
	default:
		return nil, "", problem.BadRequest("limits", want)
	}
}

// maxIDs is how many limits one request may name.
const maxIDs = 64

var periods = map[string]headgate.CalendarUnit{
	"all": headgate.NoUnit, "rate": headgate.NoUnit,
	"hourly": headgate.Hour, "daily": headgate.Day, "weekly": headgate.Week, "monthly": headgate.Month, "yearly": headgate.Year,
}

// ban bans a subject by hand, or forgives it whatever bans it.
func (a *api) ban(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	application, name, p := a.named(r, who)
	var until time.Time
	var reason, span string
	if p == nil && r.Method == http.MethodPost {
		if p = decode(w, r, map[string]*string{"for": &span, "reason": &reason}); p == nil {
			until, p = a.readBan(span, reason)
		}
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	action := "subject.ban"
	if r.Method == http.MethodDelete {
		action = "subject.unban"
	}
	e := entry(r, who, action)
	e.Target = span
	if detail, err := json.Marshal(map[string]string{"reason": reason}); err == nil && reason != "" {
		e.Detail = string(detail)
	}
	_, s, err := a.Records.EditSubject(r.Context(), application, name, records.Whatever, e, func(s *records.Subject) error {
		s.Ban = records.Ban{Until: until, Reason: reason}
		return nil
	})
	if action == "subject.unban" && errors.Is(err, records.ErrNotFound) {
		// Not banned by hand, but maybe by its refusals.
		e.Application, e.Subject = application, name
		s, err = records.Subject{Application: application, Name: name}, a.Records.Audit(r.Context(), e)
	}
	if err != nil {
		a.lost(w, r, err)
		return
	}
	a.reach(r, s.Version)
	a.answerState(w, r, &s, func(ctx context.Context) (*gate.SubjectState, error) {
		if action == "subject.unban" {
			if _, err := a.Gate.Reset(ctx, application, name, func(l *gate.LimitState) bool { return l.Limit.Algorithm == headgate.Ban }); err != nil {
				return nil, err
			}
		}
		return a.Gate.Inspect(ctx, application, name)
	})
}

// readBan reads until when a ban shall hold.
func (a *api) readBan(span, reason string) (time.Time, *problem.Problem) {
	d, err := time.ParseDuration(span)
	switch {
	case span == "":
		return time.Time{}, problem.BadRequest("for", `for is required: how long, such as "15m"`)
	case err != nil || d < time.Second || d > gate.MaxBan:
		return time.Time{}, problem.BadRequest("for", fmt.Sprintf(`for %.64q: must be a time of 1s to %v, such as "15m"`, span, gate.MaxBan))
	case len(reason) > records.MaxNote || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0):
		return time.Time{}, problem.BadRequest("reason", fmt.Sprintf("reason: must be a text of at most %d bytes", records.MaxNote))
	}
	return time.UnixMicro(a.Gate.Now()).Add(d), nil
}
