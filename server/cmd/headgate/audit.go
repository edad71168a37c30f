package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
)

func newAudit() *cobra.Command {
	var subject, application, actor, action, since string
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what, and when",
		Long: `List who changed what, and when, the newest first: policies, subjects, tokens,
modes, and what was refused.

  headgate audit --since 24h
  headgate audit --application default --subject alice
  headgate audit --action policy.put`,
		Args: args(cobra.NoArgs),
	}
	cmd.Flags().StringVar(&subject, "subject", "", "only what was done to this `SUBJECT`")
	cmd.Flags().StringVar(&application, "application", "", "only what was done in this `APPLICATION`")
	cmd.Flags().StringVar(&actor, "actor", "", "only what the token of this `NAME` did")
	cmd.Flags().StringVar(&action, "action", "", "only this `ACTION`, such as subject.ban; subject. for all that begin so")
	cmd.Flags().StringVar(&since, "since", "", "how far back: a `TIME` such as 24h, or an instant such as 2026-03-09T12:00:00Z")
	page := pageFlags(cmd)
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if since != "" {
			if _, err := admin.ParseSince(since, time.Now()); err != nil {
				return usageError{fmt.Errorf("--%w", err)}
			}
		}
		q := url.Values{"subject": {subject}, "application": {application}, "actor": {actor}, "action": {action}, "since": {since}}
		if err := page(q); err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		return server.list(cmd, http.MethodGet, "/v1/audit?"+q.Encode(), nil, *asJSON, showAudit)
	}
	return cmd
}

// auditLine is what is printed of an entry of the audit log.
type auditLine struct {
	At                                                   time.Time
	Actor, Action, Application, Subject, Target, Refused string
	Detail                                               json.RawMessage
}

func showAudit(w io.Writer, body []byte, now time.Time) error {
	var answer struct {
		Items []auditLine
		Next  string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "nothing was changed")
		return nil
	}
	rows := [][]string{{"AT", "WHO", "ACTION", "ON"}}
	for i := range answer.Items {
		l := &answer.Items[i]
		rows = append(rows, []string{whenSoon(l.At, now), l.Actor, l.Action, l.on()})
	}
	var table strings.Builder
	writeTable(&table, rows, []int{1}, 3)
	indent := strings.Index(table.String(), "WHO")
	i := -1 // of the entry; the headings have none
	for line := range strings.Lines(table.String()) {
		io.WriteString(w, line)
		if i >= 0 {
			if what := answer.Items[i].what(now); what != "" {
				fmt.Fprintf(w, "%*s%s\n", indent, "", wrap(what, indent))
			}
		}
		i++
	}
	writeNext(w, answer.Next)
	return nil
}

// on is what something was done to: a subject, or what else there is.
func (l *auditLine) on() string {
	return cmp.Or(strings.TrimSpace(l.Application+" "+l.Subject), l.Target)
}

// what says what was done, as short as that goes.
func (l *auditLine) what(now time.Time) string {
	var parts []string
	if l.Refused != "" {
		parts = append(parts, "refused: "+l.Refused)
	}
	if l.Target != "" && l.Target != l.on() {
		parts = append(parts, l.Target)
	}
	if detail := l.detail(now); detail != "" {
		parts = append(parts, detail)
	}
	return strings.Join(parts, ", ")
}

// detail writes an object as "plan premium, note x". What it does not know is written
// as it is.
func (l *auditLine) detail(now time.Time) string {
	d := json.NewDecoder(bytes.NewReader(l.Detail))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return ""
	}
	var parts []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return ""
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return ""
		}
		word := strings.ReplaceAll(name.(string), "_", " ") // a name is a text, or it would not be JSON
		var text string
		var overrides []subjectOverride
		switch {
		case string(value) == `""` || string(value) == "null":
		case json.Unmarshal(value, &text) == nil:
			parts = append(parts, word+" "+text)
		case name == "overrides" && json.Unmarshal(value, &overrides) == nil:
			for i := range overrides {
				o := &overrides[i]
				parts = append(parts, strings.Join(slices.DeleteFunc([]string{"override", o.Limit, o.numbers(), o.holds(now), o.Note}, func(s string) bool { return s == "" }), " "))
			}
		default:
			parts = append(parts, word+" "+string(value))
		}
	}
	return strings.Join(parts, ", ")
}
