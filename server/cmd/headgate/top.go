package main

import (
	"cmp"
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

	"github.com/headgate/headgate/server/records"
)

func newTop() *cobra.Command {
	var by, application string
	var limit uint16
	var every time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "List the subjects that do most at present",
		Long: `List the subjects that have made most requests in the last 5 to 10 minutes, or
were refused most, or cost most, on the node that is asked.

  headgate top --by denied --application email
  headgate top --watch 2s                             until Ctrl-C`,
		Args: args(cobra.NoArgs),
	}
	cmd.Flags().StringVar(&by, "by", "requests", "by their `WHAT`: requests, denied or cost")
	cmd.Flags().StringVar(&application, "application", "", "only of this `APPLICATION`")
	cmd.Flags().Uint16Var(&limit, "limit", 20, fmt.Sprintf("at most `N` subjects, up to %d", records.MaxPage))
	cmd.Flags().DurationVar(&every, "watch", 0, "list them anew every `TIME` of 1s or more")
	reach := adminCommand(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's answer as it is")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case !slices.Contains(topRanks, by):
			return usageError{fmt.Errorf("--by %q: must be requests, denied or cost", by)}
		case limit < 1 || limit > records.MaxPage:
			return usageError{fmt.Errorf("--limit %d: must be 1 to %d", limit, records.MaxPage)}
		case cmd.Flags().Changed("watch") && every < time.Second:
			return usageError{fmt.Errorf("--watch %v: must be 1s or more", every)}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		q := url.Values{"by": {by}, "limit": {strconv.Itoa(int(limit))}}
		if application != "" {
			q.Set("application", application)
		}
		show := func(w io.Writer, body []byte, now time.Time) error { return showTop(w, body, by, now) }
		for {
			if every > 0 && !asJSON && isTerminal(cmd.OutOrStdout()) {
				io.WriteString(cmd.OutOrStdout(), "\x1b[H\x1b[2J") // from the top of an empty screen
			}
			err := server.list(cmd, http.MethodGet, "/v1/top?"+q.Encode(), nil, asJSON, show)
			if err != nil || every == 0 {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(every):
			}
		}
	}
	return cmd
}

// topRanks are the values of --by.
var topRanks = []string{"requests", "denied", "cost"}

func showTop(w io.Writer, body []byte, by string, now time.Time) error {
	var answer struct {
		Items []struct {
			Application, Subject string
			Count, Over          int64
		}
		Since time.Time
		Node  string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	since := "since " + whenSoon(answer.Since, now)
	if answer.Node != "" {
		since += " on " + plain(answer.Node)
	}
	if len(answer.Items) == 0 {
		_, err := fmt.Fprintf(w, "nobody %s %s\n", topNobody[by], since)
		return err
	}
	rows := [][]string{{strings.ToUpper(by), "WHO", "APPLICATION"}}
	rough := false
	for _, t := range answer.Items {
		n := strconv.FormatInt(t.Count, 10)
		if t.Over > 0 {
			n, rough = fmt.Sprintf("%d to %d", t.Count-t.Over, t.Count), true
		}
		rows = append(rows, []string{n, t.Subject, cmp.Or(t.Application, "-")})
	}
	writeTable(w, rows, []int{1, 2}, 0)
	if rough {
		since += "; of very many subjects some are known in bounds"
	}
	_, err := fmt.Fprintf(w, "\n%s\n", since)
	return err
}

// topNobody is what nobody did.
var topNobody = map[string]string{"requests": "has made a request", "denied": "was refused", "cost": "has cost anything"}
