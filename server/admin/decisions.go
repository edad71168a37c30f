package admin

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/journal"
)

// decisionItem is one entry of the journal, named as in a decision.
type decisionItem struct {
	At           time.Time      `json:"at"`
	DecisionID   string         `json:"decision_id"`
	Application  string         `json:"application"`
	Rule         string         `json:"rule"`
	Operation    string         `json:"operation"`
	Subject      string         `json:"subject"`
	Plan         string         `json:"plan"`
	Cost         int64          `json:"cost"`
	Allowed      bool           `json:"allowed"`
	Reason       string         `json:"reason"`
	BoundBy      *string        `json:"bound_by"`
	RetryAfterMS *int64         `json:"retry_after_ms"`
	WouldDeny    *string        `json:"would_deny"`
	Mode         string         `json:"mode"`
	Candidate    *candidateItem `json:"candidate"`
	Degraded     *string        `json:"degraded"`
	Door         string         `json:"door"`
	Weight       int64          `json:"weight"`
}

type candidateItem struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
}

func itemOf(e *journal.Entry) decisionItem {
	d := decisionItem{
		At: e.At.UTC(), DecisionID: fmt.Sprintf("%016x%016x", e.ID[0], e.ID[1]),
		Application: e.Application, Rule: e.Rule, Operation: e.Operation, Subject: e.Subject, Plan: e.Plan, Cost: e.Cost,
		Allowed: e.Allowed, Reason: e.Reason.String(), BoundBy: orNull(e.BoundBy), WouldDeny: orNull(e.WouldDeny.String()),
		Mode: modeName(e.Shadow), Degraded: orNull(e.Degraded), Door: e.Door, Weight: e.Weight,
	}
	if e.Retryable {
		d.RetryAfterMS = new((e.RetryAfter + time.Millisecond - 1).Milliseconds())
	}
	if e.Candidate != headgate.NoReason {
		d.Candidate = &candidateItem{e.CandidateAllowed, e.Candidate.String()}
	}
	return d
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// decisions lists what was decided lately, newest first.
func (a *api) decisions(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	q, p := readQuery(r.URL.RawQuery, time.Now())
	if p == nil {
		p = outside(who, q.Application)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	entries, next := a.Journal.Query(q)
	items := make([]decisionItem, len(entries))
	for i := range entries {
		items[i] = itemOf(&entries[i])
	}
	if _, known := a.Gate.TrustedProxies(q.Application); !known && len(items) == 0 && q.Application != "" {
		// One that has left the policy is still told of.
		problem.Of(unknownApplication(q.Application)).ServeHTTP(w, r)
		return
	}
	cursor := ""
	if next != 0 {
		cursor = strconv.FormatUint(next, 36)
	}
	writeList(w, items, cursor)
}

var parameters = []string{"application", "rule", "subject", "reason", "allowed", "since", "limit", "cursor"}

// readQuery reads the parameters of the list. Each may be given once.
func readQuery(raw string, now time.Time) (*journal.Query, *problem.Problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, problem.BadRequest("", "the query cannot be read: "+err.Error())
	}
	q := &journal.Query{}
	for name, v := range values {
		if len(v) > 1 {
			return nil, problem.BadRequest(name, fmt.Sprintf("%.64q is given twice", name))
		}
		if !slices.Contains(parameters, name) {
			return nil, problem.BadRequest(name, fmt.Sprintf("%.64q: unknown parameter; there are %s", name, strings.Join(parameters, ", ")))
		}
		if v[0] == "" {
			continue
		}
		var want string
		ok := true
		switch value := v[0]; name {
		case "application":
			q.Application = value
		case "rule":
			q.Rule = value
		case "subject":
			q.Subject = value
		case "reason":
			q.Reason, ok = reasonOf(value)
			want = "a reason as decisions have it, such as rate_limited"
		case "allowed":
			ok = value == "true" || value == "false"
			q.Allowed = new(value == "true")
			want = "true or false"
		case "since":
			if q.Since, err = ParseSince(value, now); err != nil {
				return nil, problem.BadRequest(name, err.Error())
			}
		case "limit":
			n, err := strconv.Atoi(value)
			q.Limit, ok = n, err == nil && n >= 1 && n <= journal.MaxPage
			want = fmt.Sprintf("1 to %d", journal.MaxPage)
		case "cursor":
			n, err := strconv.ParseUint(value, 36, 64)
			q.Before, ok = n, err == nil && n > 0
			want = "the next of an answer"
		}
		if !ok {
			return nil, problem.BadRequest(name, fmt.Sprintf("%s %.64q: must be %s", name, v[0], want))
		}
	}
	return q, nil
}

func reasonOf(name string) (headgate.Reason, bool) {
	for r := headgate.OK; int(r) < headgate.Reasons; r++ {
		if r.String() == name {
			return r, true
		}
	}
	return headgate.NoReason, false
}

// ParseSince reads a span before now, or an instant. The error names the
// parameter, as GET /v1/decisions answers it.
func ParseSince(s string, now time.Time) (time.Time, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("since %.64q: must be a time such as 1h that is not negative, or an instant such as 2026-03-09T12:00:00Z", s)
	}
	return at, nil
}
