package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

func newSubject() *cobra.Command {
	return group(&cobra.Command{
		Use:   "subject",
		Short: "Say who may use how much: plans, overrides, resets, bans",
		Long: `Say who may use how much. A subject is whoever an application counts: a user, an
API key, an address. It needs no record to be counted; a record gives it a plan,
a zone and numbers of its own.

  headgate subject get default alice
  headgate subject set default alice --plan premium
  headgate subject ban default mallory --for 15m --reason 'scrapes prices'`,
	}, newSubjectList(), newSubjectGet(), newSubjectSet(), newSubjectRemove(), newSubjectReset(), newSubjectBan(), newSubjectUnban())
}

func newSubjectList() *cobra.Command {
	var plan, prefix string
	var banned bool
	cmd := &cobra.Command{
		Use:   "ls APPLICATION",
		Short: "List the subjects of an application that are on record",
		Long: `List the subjects of an application that are on record, by their names. Those
who are merely counted have none: 'headgate subject get' shows them too.

  headgate subject ls default --plan premium --limit 500
  headgate subject ls default --banned`,
		Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringVar(&plan, "plan", "", "only those whose record names this `PLAN`")
	cmd.Flags().StringVar(&prefix, "prefix", "", "only those whose name begins with `TEXT`")
	cmd.Flags().BoolVar(&banned, "banned", false, "only those who are banned now, by hand")
	page := pageFlags(cmd)
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkApplication(args[0]); err != nil {
			return err
		}
		q := url.Values{"plan": {plan}, "prefix": {prefix}}
		if banned {
			q.Set("banned", "true")
		}
		if err := page(q); err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		nobody := "nobody is on record"
		if plan != "" || prefix != "" || banned {
			nobody = "nobody of that kind is on record"
		}
		return server.list(cmd, http.MethodGet, "/v1/applications/"+args[0]+"/subjects?"+q.Encode(), nil, *asJSON, showSubjects(nobody))
	}
	return cmd
}

// showSubjects returns what prints subjects, or nobody where there are none.
func showSubjects(nobody string) func(io.Writer, []byte, time.Time) error {
	return func(w io.Writer, body []byte, now time.Time) error {
		var answer struct {
			Items []subjectRecord
			Next  string
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return notOurs(err)
		}
		if len(answer.Items) == 0 {
			fmt.Fprintln(w, nobody)
			return nil
		}
		rows := [][]string{{"SUBJECT", "PLAN", "OVERRIDES", "BANNED", "NOTE"}}
		for i := range answer.Items {
			s := &answer.Items[i]
			overrides, banned := "", ""
			if n := len(s.Overrides); n > 0 {
				overrides = strconv.Itoa(n)
			}
			if s.Ban != nil {
				banned = s.Ban.short(now)
			}
			rows = append(rows, []string{s.Subject, s.Plan, overrides, banned, s.Note})
		}
		writeTable(w, rows, []int{4, 0}, 1)
		writeNext(w, answer.Next)
		return nil
	}
}

func newSubjectGet() *cobra.Command {
	return subjectCommand(&cobra.Command{
		Use:   "get APPLICATION SUBJECT",
		Short: "Say what is on record of a subject, and what it has used of every limit",
		Long: `Say what is on record of a subject, and what it has used of every limit.

  headgate subject get default alice`,
		Args: args(cobra.ExactArgs(2)),
	}, func([]string) (askSubject, error) {
		return func(ctx context.Context, s *subjectAt) (reply, error) {
			return s.send(ctx, http.MethodGet, "", nil, "")
		}, nil
	}, (*subjectRecord).print)
}

func newSubjectRemove() *cobra.Command {
	return subjectCommand(&cobra.Command{
		Use:   "rm APPLICATION SUBJECT",
		Short: "Forget the record of a subject: its plan, zone, note and overrides",
		Long: `Forget the record of a subject: its plan, zone, note and overrides. What it has
used of its limits stays, and so does a ban.

  headgate subject rm default alice`,
		Args: args(cobra.ExactArgs(2)),
	}, func([]string) (askSubject, error) {
		return func(ctx context.Context, s *subjectAt) (reply, error) {
			got, err := s.send(ctx, http.MethodDelete, "", nil, "")
			if p, ok := errors.AsType[*serverProblem](err); ok && p.Detail == nothingOnRecord {
				p.Detail = s.name() + " is not on record"
			}
			return got, err
		}, nil
	}, func(s *subjectRecord, w io.Writer, now time.Time) {
		fmt.Fprintf(w, "%s: forgotten; %s\n", s.name(), s.rule())
		if banned := s.banned(now); banned != "" {
			fmt.Fprintf(w, "It is still banned %s.\n", banned)
		}
	})
}

// nothingOnRecord is what the server says of a record that is not there.
const nothingOnRecord = "nothing is on record here"

// askSubject does what a verb is for, and returns the server's answer.
type askSubject func(context.Context, *subjectAt) (reply, error)

// subjectCommand completes a verb about one subject, which its first two arguments
// name. prepare is given the others, and fails where the command line makes no sense;
// show prints what is known of the subject then.
func subjectCommand(cmd *cobra.Command, prepare func(rest []string) (askSubject, error), show func(*subjectRecord, io.Writer, time.Time)) *cobra.Command {
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := cmp.Or(checkApplication(args[0]), checkSubject(args[1])); err != nil {
			return err
		}
		ask, err := prepare(args[2:])
		if err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), &subjectAt{server, args[0], args[1]})
		if *asJSON {
			cmd.OutOrStdout().Write(got.body)
			return err
		}
		if err != nil {
			return err
		}
		var s subjectRecord
		if err := json.Unmarshal(got.body, &s); err != nil {
			return notOurs(err)
		}
		show(&s, cmd.OutOrStdout(), time.Now())
		return nil
	}
	return cmd
}

// subjectAt is a subject and who knows it.
type subjectAt struct {
	server               *remote
	application, subject string
}

// send asks for what is under a subject; body is nil for none, and match the version
// that is expected, "" for any.
func (s *subjectAt) send(ctx context.Context, method, under string, body any, match string) (reply, error) {
	q := &request{method: method, path: "/v1/applications/" + s.application + "/subject" + under + "?" + url.Values{"subject": {s.subject}}.Encode(), match: match}
	if body != nil {
		var err error
		if q.body, err = json.Marshal(body); err != nil {
			return reply{}, err
		}
	}
	return s.server.send(ctx, q, patient)
}

func (s *subjectAt) name() string { return plain(s.application + " " + s.subject) }

func checkApplication(name string) error {
	if err := headgate.CheckName(name); err != nil {
		return usageError{fmt.Errorf("APPLICATION: %w", err)}
	}
	return nil
}

func checkSubject(name string) error {
	switch {
	case name == "":
		return usageError{errors.New("SUBJECT is empty: say who it is about")}
	case len(name) > gate.MaxSubject:
		return usageError{fmt.Errorf("SUBJECT: %d bytes: at most %d", len(name), gate.MaxSubject)}
	case strings.ContainsAny(name, "\r\n\x00") || !utf8.ValidString(name):
		return usageError{errors.New("SUBJECT: has a line break or NUL, or is no UTF-8")}
	}
	return nil
}
