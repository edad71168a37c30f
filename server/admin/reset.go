package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

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
			return nil, &headgate.Error{Code: headgate.NotFound, Field: "limits", Err: fmt.Errorf("the subject has no limit %.200s", said)}
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
	case json.Unmarshal(raw, &ids) == nil && len(ids) > 0 && len(ids) <= maxIDs && !slices.ContainsFunc(ids, func(id string) bool { return id == "" || !isText(id) }):
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
