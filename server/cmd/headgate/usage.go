package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
)

func newUsage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "List who used how much, by the hour, day or month",
		Long: `List who used how much, by the hour, day or month, in the time zone of each
subject. What was used in the last seconds is not in it yet.

  headgate usage --subject alice
  headgate usage --application email --period month --from 2026-01
  headgate usage export --period month --from 2026-03 --to 2026-04 -o march.csv`,
		Args: args(cobra.NoArgs),
	}
	filter := usageFlags(cmd)
	page := pageFlags(cmd)
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := filter()
		if err != nil {
			return err
		}
		if err := page(q); err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		return server.list(cmd, http.MethodGet, "/v1/usage?"+q.Encode(), nil, *asJSON, func(w io.Writer, body []byte, _ time.Time) error {
			return showUsage(w, body, q.Get("period"))
		})
	}
	cmd.AddCommand(newUsageExport())
	return cmd
}

var usagePeriods = []string{"hour", "day", "month"}

// usageFlags declares the flags that say which usage is meant. The function returns them
// as a query.
func usageFlags(cmd *cobra.Command) func() (url.Values, error) {
	q := make(map[string]*string)
	flag := func(name, usual, text string) { q[name] = cmd.Flags().String(name, usual, text) }
	flag("application", "", "only of this `APPLICATION`")
	flag("subject", "", "only of this `SUBJECT`")
	flag("operation", "", "only of this `OPERATION`")
	flag("plan", "", "only what was used on this `PLAN`")
	flag("unit", "", "only in this `UNIT`, such as requests")
	flag("period", "day", "by the `PERIOD`: hour, day or month")
	flag("from", "", "only what begins at `TIME` or later: a day such as 2026-03-09 or a month such as 2026-03, by the calendar of each subject, an instant such as 2026-03-09T12:00:00Z, or how long ago, such as 24h")
	flag("to", "", "only what begins before `TIME`")
	cmd.Flags().SortFlags = false
	return func() (url.Values, error) {
		out := make(url.Values)
		for name, value := range q {
			if *value != "" {
				out.Set(name, *value)
			}
		}
		if !slices.Contains(usagePeriods, *q["period"]) {
			return nil, usageError{fmt.Errorf("--period %q: must be hour, day or month", *q["period"])}
		}
		var ends [2]time.Time
		for i, name := range []string{"from", "to"} {
			var err error
			if ends[i], _, err = admin.ParseBound(name, *q[name], time.Now()); err != nil {
				return nil, usageError{fmt.Errorf("--%w", err)}
			}
		}
		if !ends[0].IsZero() && !ends[1].IsZero() && !ends[0].Before(ends[1]) {
			return nil, usageError{fmt.Errorf("--to %s: must be later than --from %s: what begins at --to is left out", *q["to"], *q["from"])}
		}
		return out, nil
	}
}

// usageLine is what is printed of a row.
type usageLine struct {
	Application, Subject, Operation, Plan, Unit string
	From                                        time.Time
	Allowed, Denied, Cost, Overage              int64
	Final                                       bool
}

func showUsage(w io.Writer, body []byte, period string) error {
	var answer struct {
		Items []usageLine
		Next  string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "nothing was used")
		return nil
	}
	rows := [][]string{{strings.ToUpper(period), "WHO", "WHAT", "PLAN", "ALLOWED", "DENIED", "COST", "OVER"}}
	open := false
	for i := range answer.Items {
		u := &answer.Items[i]
		cost := strconv.FormatInt(u.Cost, 10)
		if u.Unit != "requests" {
			cost += " " + u.Unit
		}
		rows = append(rows, []string{
			u.begins(period), u.Subject, strings.TrimSpace(u.Application + " " + u.Operation), u.Plan,
			strconv.FormatInt(u.Allowed, 10), strconv.FormatInt(u.Denied, 10), cost, strconv.FormatInt(u.Overage, 10),
		})
		open = open || !u.Final
	}
	if !slices.ContainsFunc(answer.Items, func(u usageLine) bool { return u.Overage != 0 }) {
		for i := range rows {
			rows[i] = rows[i][:7]
		}
	}
	writeTable(w, rows, []int{1, 2}, 3)
	if open {
		fmt.Fprintln(w, "\n* is not final yet.")
	}
	writeNext(w, answer.Next)
	return nil
}

// begins says when a row begins, in its time zone.
func (u *usageLine) begins(period string) string {
	layout := time.DateOnly
	switch {
	case period == "hour":
		layout = "2006-01-02 15:04"
	case period == "month" && u.From.Day() == 1:
		layout = "2006-01"
	}
	at := u.From.Format(layout)
	if !u.Final {
		at += "*"
	}
	return at
}
