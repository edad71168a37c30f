package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/journal"
)

func newDenials() *cobra.Command {
	var subject, application, rule, since string
	var limit uint16
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "denials",
		Short: "List who was refused lately, by what, and for how long",
		Long: `List who was refused lately, by what, and for how long, newest first. A server
keeps the last few thousand; of many at once it keeps some, and "12 x" says that
a line stands for twelve.

  headgate denials --since 15m --application email`,
		Args: args(cobra.NoArgs),
	}
	cmd.Flags().StringVar(&subject, "subject", "", "only of this `SUBJECT`")
	cmd.Flags().StringVar(&application, "application", "", "only of this `APPLICATION`")
	cmd.Flags().StringVar(&rule, "rule", "", "only of this `RULE`")
	cmd.Flags().StringVar(&since, "since", "1h", "how far back: a `TIME` such as 1h, or an instant such as 2026-03-09T12:00:00Z")
	cmd.Flags().Uint16Var(&limit, "limit", 50, "at most `N` lines, up to 500")
	reach := adminCommand(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's answer as it is")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if since != "" {
			if _, err := admin.ParseSince(since, time.Now()); err != nil {
				return usageError{fmt.Errorf("--%w", err)}
			}
		}
		if limit < 1 || limit > journal.MaxPage {
			return usageError{fmt.Errorf("--limit %d: must be 1 to %d", limit, journal.MaxPage)}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		q := url.Values{
			"allowed": {"false"}, "subject": {subject}, "application": {application}, "rule": {rule},
			"since": {since}, "limit": {strconv.Itoa(int(limit))},
		}
		return server.list(cmd, http.MethodGet, "/v1/decisions?"+q.Encode(), nil, asJSON, showDenials)
	}
	return cmd
}

// denial is what is printed of a refused request.
type denial struct {
	At                              time.Time
	Application, Operation, Subject string
	Reason                          string
	BoundBy                         string `json:"bound_by"`
	RetryAfterMS                    *int64 `json:"retry_after_ms"`
	Weight                          int64
}

func showDenials(w io.Writer, body []byte, now time.Time) error {
	var answer struct {
		Items []denial
		Next  string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "nobody was refused")
		return nil
	}
	rows := [][]string{{"AT", "WHO", "WHAT", "WHY", "RETRY"}}
	for i := range answer.Items {
		d := &answer.Items[i]
		rows = append(rows, []string{d.at(now), d.Subject, strings.TrimSpace(d.Application + " " + d.Operation), d.why(), d.retry()})
	}
	writeTable(w, rows, []int{1, 2}, 3)
	if answer.Next != "" {
		fmt.Fprintln(w, "\nThere are older ones: --limit shows more.")
	}
	return nil
}

func (d *denial) at(now time.Time) string {
	if now.Sub(d.At) < 12*time.Hour {
		return d.At.Local().Format("15:04:05")
	}
	return d.At.Local().Format("01-02 15:04")
}

func (d *denial) why() string {
	why := d.Reason
	if d.BoundBy != "" {
		why += " by " + d.BoundBy
	}
	if d.Weight > 1 {
		why = fmt.Sprintf("%d x %s", d.Weight, why)
	}
	return why
}

func (d *denial) retry() string {
	switch {
	case d.RetryAfterMS == nil:
		return "never"
	case *d.RetryAfterMS == 0:
		return "now"
	}
	return coarse(*d.RetryAfterMS)
}

// coarse writes milliseconds in one unit, rounded up, in 7 characters.
func coarse(ms int64) string {
	up := func(unit int64) int64 { return (ms + unit - 1) / unit }
	switch {
	case ms < 1000:
		return fmt.Sprintf("%d ms", ms)
	case ms <= 90_000:
		return fmt.Sprintf("%d s", up(1000))
	case ms <= 90*60_000:
		return fmt.Sprintf("%d min", up(60_000))
	case ms <= 48*3_600_000:
		return fmt.Sprintf("%d h", up(3_600_000))
	}
	return fmt.Sprintf("%d d", up(24*3_600_000))
}
