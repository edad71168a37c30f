package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// auditItem is a line of the audit log, on the wire.
type auditItem struct {
	ID          int64           `json:"id"`
	At          time.Time       `json:"at"`
	Actor       string          `json:"actor"`
	Via         string          `json:"via"`
	Address     string          `json:"address"`
	Action      string          `json:"action"`
	Application string          `json:"application"`
	Subject     string          `json:"subject"`
	Target      string          `json:"target"`
	Refused     string          `json:"refused"`
	Detail      json.RawMessage `json:"detail"`
}

// audit lists the audit log, the newest first.
func (a *api) audit(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	values, p := query(r.URL.RawQuery, "application", "subject", "actor", "action", "since", "limit", "cursor")
	q := records.AuditQuery{Application: values["application"], Subject: values["subject"], Actor: values["actor"], Action: values["action"]}
	if p == nil {
		p = texts(values)
	}
	if p == nil {
		p = outside(who, q.Application)
	}
	if p == nil {
		q.Limit, p = limitOfPage(values["limit"])
	}
	if said := values["since"]; p == nil && said != "" {
		var err error
		if q.Since, err = ParseSince(said, time.Now()); err != nil {
			p = problem.BadRequest("since", err.Error())
		}
	}
	if said := values["cursor"]; p == nil && said != "" {
		var err error
		if q.Before, err = strconv.ParseInt(said, 10, 64); err != nil || q.Before < 1 {
			p = problem.BadRequest("cursor", fmt.Sprintf(`cursor %.64q: must be the "next" of an answer`, said))
		}
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, more, err := a.Records.Audits(r.Context(), q)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	items := make([]auditItem, len(list))
	for i := range list {
		e := &list[i]
		items[i] = auditItem{e.ID, e.At, e.Name, e.Via, e.Address, e.Action, e.Application, e.Subject, e.Target, e.Refused, json.RawMessage(e.Detail)}
	}
	next := ""
	if more {
		next = strconv.FormatInt(list[len(list)-1].ID, 10)
	}
	writeList(w, items, next)
}
