package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newPolicy() *cobra.Command {
	return group(&cobra.Command{
		Use:   "policy",
		Short: "Look at the policy in force, change it, and take changes back",
		Long: `Look at the policy in force, change it, and take changes back. Every change is a
revision, and none is lost.

  headgate policy get > policy.yaml
  headgate policy diff policy.yaml
  headgate policy apply policy.yaml --note 'premium for everybody'
  headgate policy rollback 3`,
	}, newPolicyGet(), newPolicyApply(), newPolicyDiff(), newPolicyHistory(), newPolicyRollback())
}

func newPolicyGet() *cobra.Command {
	var revision int64
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Print the policy in force, or an earlier revision",
		Long: `Print the policy in force, or an earlier revision, as it was written.

  headgate policy get > policy.yaml
  headgate policy get --revision 3`,
		Args: args(cobra.NoArgs),
	}
	cmd.Flags().Int64Var(&revision, "revision", 0, "this revision `N`, as history lists it (default the one in force)")
	reach := adminCommand(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if revision < 1 && cmd.Flags().Changed("revision") {
			return usageError{fmt.Errorf("--revision %d: must be the number of a revision", revision)}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		p, err := server.policy(cmd.Context(), revision)
		if err != nil {
			return err
		}
		return writeText(cmd.OutOrStdout(), p.text)
	}
	return cmd
}

// document is a policy as somebody wrote it.
type document struct {
	name     string // of the file, or "revision 3"
	text     string
	revision int64 // 0 for one that is not on record
}

// policy returns a revision of the policy, 0 for the one in force.
func (r *remote) policy(ctx context.Context, revision int64) (*document, error) {
	path := "/v1/policy"
	if revision != 0 {
		path += "?revision=" + strconv.FormatInt(revision, 10)
	}
	got, err := r.send(ctx, &request{method: http.MethodGet, path: path}, patient)
	if p, ok := errors.AsType[*serverProblem](err); ok && p.Detail == nothingOnRecord {
		p.Detail = fmt.Sprintf("there is no revision %d: 'headgate policy history' lists them", revision)
	}
	if err != nil {
		return nil, err
	}
	d := &document{text: string(got.body)}
	if d.revision, err = strconv.ParseInt(got.tag, 10, 64); err != nil {
		return nil, notOurs(err)
	}
	d.name = "revision " + got.tag
	if d.revision == 0 {
		d.name = "the built-in policy"
	}
	return d, nil
}

// readDocument reads a file, - for standard input.
func readDocument(cmd *cobra.Command, file string) (*document, error) {
	d := &document{name: file}
	var data []byte
	var err error
	if file == "-" {
		d.name = "(standard input)"
		data, err = io.ReadAll(cmd.InOrStdin())
	} else {
		data, err = os.ReadFile(file)
	}
	d.text = string(data)
	return d, err
}

// writeText writes a text of several lines: to a terminal without what could move its
// cursor, and elsewhere as it is.
func writeText(w io.Writer, text string) error {
	if isTerminal(w) {
		text = plainLines(text)
	}
	_, err := io.WriteString(w, text)
	return err
}

// plainLines is plain for a text with lines and tabs.
func plainLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		cells := strings.Split(line, "\t")
		for j := range cells {
			cells[j] = plain(cells[j])
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

func newPolicyHistory() *cobra.Command {
	return pages(&cobra.Command{
		Use:   "history",
		Short: "List the revisions of the policy",
		Long: `List the revisions of the policy, the newest first.

  headgate policy history --limit 5`,
		Args: args(cobra.NoArgs),
	}, "/v1/policy/revisions", showRevisions)
}

func showRevisions(w io.Writer, body []byte, now time.Time) error {
	var answer struct {
		Items []struct {
			Revision          int64
			At                time.Time
			Author, Via, Note string
		}
		Next string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "nothing is on record: the built-in policy is in force")
		return nil
	}
	rows := [][]string{{"REVISION", "AT", "WHO", "VIA", "NOTE"}}
	for _, r := range answer.Items {
		rows = append(rows, []string{strconv.FormatInt(r.Revision, 10), whenSoon(r.At, now), r.Author, r.Via, r.Note})
	}
	writeTable(w, rows, []int{2}, 4)
	writeNext(w, answer.Next)
	return nil
}
