package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/records"
)

// group completes a command that is only the beginning of the name of others.
func group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(verbs...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	onlyVerbs(cmd)
	return cmd
}

// onlyVerbs lets a command that has others below it take nothing else.
func onlyVerbs(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, said []string) error {
		if len(said) == 0 {
			return nil
		}
		return usageError{unknownVerb(cmd, said[0])}
	}
	cmd.SetFlagErrorFunc(func(at *cobra.Command, err error) error {
		if at == cmd { // whose flags nobody knows: what stands before them is no verb
			err = cmp.Or(cmd.Args(cmd, cmd.Flags().Args()), err)
		}
		return usageError{flagError(err)}
	})
}

// pageFlags declares the flags that say which part of a list is shown. The function
// puts them into a query.
func pageFlags(cmd *cobra.Command) func(url.Values) error {
	limit := cmd.Flags().Uint16("limit", 50, fmt.Sprintf("at most `N` lines, up to %d", records.MaxPage))
	after := cmd.Flags().String("after", "", "go on behind `NEXT`, as an earlier answer says it at its end")
	return func(q url.Values) error {
		if *limit < 1 || *limit > records.MaxPage {
			return usageError{fmt.Errorf("--limit %d: must be 1 to %d", *limit, records.MaxPage)}
		}
		q.Set("limit", strconv.Itoa(int(*limit)))
		q.Set("cursor", *after)
		return nil
	}
}

// pages completes a verb that lists what a route has, page by page.
func pages(cmd *cobra.Command, path string, show func(io.Writer, []byte, time.Time) error) *cobra.Command {
	page := pageFlags(cmd)
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q := make(url.Values)
		if err := page(q); err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		return server.list(cmd, http.MethodGet, path+"?"+q.Encode(), nil, *asJSON, show)
	}
	return cmd
}

// jsonFlag declares --json.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print the server's answer as it is")
}

// writeNext says how to go on where a list has a next part.
func writeNext(w io.Writer, next string) {
	const bare = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:@/"
	switch {
	case next == "":
	case strings.Trim(next, bare) == "":
		fmt.Fprintf(w, "\nThere are more: --after=%s goes on.\n", next)
	case next == plain(next) && !strings.Contains(next, "'"):
		fmt.Fprintf(w, "\nThere are more: --after='%s' goes on.\n", next)
	default: // what is shown of it would be something else
		fmt.Fprintln(w, "\nThere are more: --after goes on behind the next that --json prints.")
	}
}

// whenSoon writes an instant of the last or next half year, and others with the year.
func whenSoon(at, now time.Time) string {
	switch at = at.Local(); {
	case at.Sub(now).Abs() > 182*24*time.Hour:
		return at.Format("2006-01-02 15:04")
	case at.Second() == 0:
		return at.Format("01-02 15:04")
	default:
		return at.Format("01-02 15:04:05")
	}
}
