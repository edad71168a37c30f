package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

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
