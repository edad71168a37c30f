package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newPlans() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plans",
		Short: "List the plans of the policy in force, with their limits",
		Long: `List the plans of the policy in force, with their limits. 'headgate subject set'
gives a subject a plan.

  headgate plans`,
		Args: args(cobra.NoArgs),
	}
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		server, err := reach()
		if err != nil {
			return err
		}
		return server.list(cmd, http.MethodGet, "/v1/plans", nil, *asJSON, showPlans)
	}
	return cmd
}

// planLimit is what is printed of a limit of a plan, as the policy has it.
type planLimit struct {
	Name, Algorithm, Unit, Mode string
	Rate, Max, Burst            json.RawMessage // texts or numbers
}

func showPlans(w io.Writer, body []byte, _ time.Time) error {
	var answer struct {
		Items []struct {
			Name   string
			Limits []planLimit
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "the policy has no plans")
		return nil
	}
	rows := [][]string{{"PLAN", "LIMIT", "NUMBERS", "ALGORITHM"}}
	for _, p := range answer.Items {
		name := p.Name
		if len(p.Limits) == 0 {
			rows = append(rows, []string{name, "none", "", ""})
		}
		for i := range p.Limits {
			l := &p.Limits[i]
			rows = append(rows, []string{name, l.Name, l.numbers(), l.how()})
			name = "" // of the plan, once
		}
	}
	writeTable(w, rows, []int{0, 1}, 3)
	return nil
}

// numbers says how much a limit lets pass.
func (l *planLimit) numbers() string {
	bare := func(raw json.RawMessage) string { return strings.Trim(string(raw), `"`) }
	numbers := bare(l.Rate)
	if l.Max != nil {
		numbers = "max " + bare(l.Max)
	}
	if l.Burst != nil {
		numbers += " burst " + bare(l.Burst)
	}
	return numbers
}

// how says how a limit counts, and what, where that is not requests.
func (l *planLimit) how() string {
	how := cmp.Or(l.Algorithm, "token_bucket")
	if l.Unit != "" && l.Unit != "requests" {
		how += " of " + l.Unit
	}
	if l.Mode == "shadow" {
		how += ", in shadow"
	}
	return how
}
