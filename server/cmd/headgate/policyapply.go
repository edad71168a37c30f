package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/records"
)

func newPolicyApply() *cobra.Command {
	var note string
	var base int64
	var dry bool
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a policy in force, on every node",
		Long: `Put a policy in force, on every node; - reads it from standard input. It is
checked first, and with any fault nothing changes. Nothing changes either where
somebody else puts another one in force at the same time.

  headgate policy apply policy.yaml --note 'premium for everybody'
  headgate policy apply policy.yaml --dry-run`,
		Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringVar(&note, "note", "", "a `TEXT` for the history")
	cmd.Flags().Int64Var(&base, "if-revision", 0, "change nothing unless revision `N` is in force; 0: is none")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check it, and say how much it would change")
	reach := adminCommand(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkNote(note, records.MaxNote); err != nil {
			return err
		}
		expects := cmd.Flags().Changed("if-revision")
		if expects && base < 0 {
			return usageError{fmt.Errorf("--if-revision %d: must not be negative", base)}
		}
		file, err := readDocument(cmd, args[0])
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if _, err := checkPolicy(out, file.name, []byte(file.text)); err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		was, err := server.policy(cmd.Context(), 0)
		switch {
		case err != nil:
			return err
		case expects && was.revision != base:
			return fmt.Errorf("%s is in force, not revision %d: see what 'headgate policy diff %s' says, and apply it then", was.name, base, args[0])
		case dry:
			q := &request{method: http.MethodPost, path: "/v1/policy/validate", body: []byte(file.text), kind: policyType}
			if _, err := server.send(cmd.Context(), q, patient); err != nil {
				return faultsOf(err)
			}
			fmt.Fprintf(out, "%s would take the place of %s: %s\n", plain(file.name), was.name, changes(was, file))
			return nil
		case was.text == file.text && was.revision != 0:
			fmt.Fprintf(out, "%s is in force already, as %s\n", plain(file.name), was.name)
			return nil
		}
		q := &request{method: http.MethodPut, path: "/v1/policy?" + url.Values{"note": {note}}.Encode(), body: []byte(file.text), kind: policyType}
		return server.putPolicy(cmd, q, was, file)
	}
	return cmd
}

const policyType = "application/yaml"

// putPolicy does a request that makes is the policy in force instead of was, and says
// so. Nothing is done where was is not in force any more.
func (r *remote) putPolicy(cmd *cobra.Command, q *request, was, is *document) error {
	q.match = strconv.FormatInt(was.revision, 10)
	got, err := r.send(cmd.Context(), q, patient)
	if refusedAs(err, "stale") {
		return errors.New("somebody else has just changed the policy, and nothing was written: 'headgate policy history' says who; try again")
	}
	if err != nil {
		return faultsOf(err)
	}
	var made struct{ Revision int64 }
	if err := json.Unmarshal(got.body, &made); err != nil {
		return notOurs(err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "revision %d is in force instead of %s: %s\n", made.Revision, was.name, changes(was, is))
	return err
}

// faultsOf is err, but faults of a policy are no wrong usage.
func faultsOf(err error) error {
	if p, ok := errors.AsType[*serverProblem](err); ok {
		return p
	}
	return err
}

func checkNote(note string, most int) error {
	if len(note) > most || !utf8.ValidString(note) || strings.ContainsRune(note, 0) {
		return usageError{fmt.Errorf("--note: must be a text of at most %d bytes", most)}
	}
	return nil
}

// unified returns the difference of two documents, "" for none.
func unified(was, is *document) string {
	text := diff.Diff(was.name, []byte(was.text), is.name, []byte(is.text))
	_, text, _ = bytes.Cut(text, []byte("\n")) // which names both, as the next lines do
	return string(text)
}

// changes says how many lines of was another document replaces.
func changes(was, is *document) string {
	added, removed, hunks := 0, 0, false
	for line := range strings.Lines(unified(was, is)) {
		switch {
		case strings.HasPrefix(line, "@@"):
			hunks = true
		case hunks && line[0] == '+':
			added++
		case hunks && line[0] == '-':
			removed++
		}
	}
	if added+removed == 0 {
		return "no line differs"
	}
	return fmt.Sprintf("%s added, %d removed", count(added, "line"), removed)
}

func newPolicyDiff() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff FILE|REV [FILE|REV]",
		Short: "Say what a policy would change, or what a revision has changed",
		Long: `Say what a policy would change, or what a revision has changed, line by line. A
FILE alone is compared with what is in force, and so is a revision. A number is
a revision; write ./3 for a file of that name, and - for standard input.

  headgate policy diff policy.yaml     what 'headgate policy apply' would change
  headgate policy diff 3               what has changed since revision 3
  headgate policy diff 3 4             what revision 4 has changed`,
		Args: args(cobra.RangeArgs(1, 2)),
	}
	reach := adminCommand(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var files [2]*document
		var numbers [2]int64
		for i, arg := range args {
			n, err := strconv.ParseInt(arg, 10, 64)
			switch {
			case err == nil && n < 1:
				return usageError{fmt.Errorf("REV %q: must be the number of a revision, or a file", arg)}
			case err == nil:
				numbers[i] = n
			default:
				if files[i], err = readDocument(cmd, arg); err != nil {
					return err
				}
			}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		for i := range files {
			if files[i] == nil {
				if files[i], err = server.policy(cmd.Context(), numbers[i]); err != nil {
					return err
				}
			}
		}
		was, is := files[0], files[1]
		if len(args) == 1 && numbers[0] == 0 {
			was, is = is, was // a file is what comes next
		}
		difference := unified(was, is)
		if difference == "" {
			difference = fmt.Sprintf("%s is the same as %s\n", plain(is.name), plain(was.name))
		}
		return writeText(cmd.OutOrStdout(), difference)
	}
	return cmd
}

func newPolicyRollback() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "rollback REV",
		Short: "Put an earlier revision of the policy in force again",
		Long: `Put an earlier revision of the policy in force again. That is a new revision, so
it can be taken back too.

  headgate policy rollback 3 --note 'premium was too generous'`,
		Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringVar(&note, "note", "", "a `TEXT` for the history")
	reach := adminCommand(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		revision, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || revision < 1 {
			return usageError{fmt.Errorf("REV %q: must be the number of a revision, as 'headgate policy history' lists it", args[0])}
		}
		if err := checkNote(note, admin.MaxRollbackNote); err != nil {
			return err
		}
		body, err := json.Marshal(map[string]any{"revision": revision, "note": note})
		if err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		was, err := server.policy(cmd.Context(), 0)
		if err != nil {
			return err
		}
		is, err := server.policy(cmd.Context(), revision)
		if err != nil {
			return err
		}
		if was.text == is.text {
			fmt.Fprintf(cmd.OutOrStdout(), "%s is in force already, as %s\n", is.name, was.name)
			return nil
		}
		return server.putPolicy(cmd, &request{method: http.MethodPost, path: "/v1/policy/rollback", body: body}, was, is)
	}
	return cmd
}
