package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
)

// maxBan is gate.MaxBan in hours.
var maxBan = fmt.Sprintf("%.0fh", gate.MaxBan.Hours())

func newSubjectBan() *cobra.Command {
	var span, reason string
	cmd := &cobra.Command{
		Use:   "ban APPLICATION SUBJECT",
		Short: "Refuse everything that a subject asks, for a time",
		Long: `Refuse everything that a subject asks, for a time. Another ban takes the place of
the one before.

  headgate subject ban default mallory --for 15m --reason 'scrapes prices'`,
		Args: args(cobra.ExactArgs(2)),
	}
	cmd.Flags().StringVar(&span, "for", "", "how long: a `TIME` of 1s to "+maxBan+", such as 15m")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that says why, for the record and the audit log")
	return subjectCommand(cmd, func([]string) (askSubject, error) {
		d, err := time.ParseDuration(span)
		switch {
		case span == "":
			return nil, usageError{errors.New("--for is required: how long, such as --for 15m")}
		case err != nil || d < time.Second || d > gate.MaxBan:
			return nil, usageError{fmt.Errorf("--for %q: must be a time of 1s to %s, such as 15m", span, maxBan)}
		case len(reason) > records.MaxNote || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0):
			return nil, usageError{fmt.Errorf("--reason: must be a text of at most %d bytes", records.MaxNote)}
		}
		return func(ctx context.Context, s *subjectAt) (reply, error) {
			return s.send(ctx, http.MethodPost, "/ban", map[string]string{"for": span, "reason": reason}, "")
		}, nil
	}, showBan)
}

func newSubjectUnban() *cobra.Command {
	return subjectCommand(&cobra.Command{
		Use:   "unban APPLICATION SUBJECT",
		Short: "Forgive a subject, whether it was banned by hand or by its refusals",
		Long: `Forgive a subject, whether it was banned by hand or by its refusals. What it has
used of its limits stays: 'headgate subject reset' gives that back.

  headgate subject unban default mallory`,
		Args: args(cobra.ExactArgs(2)),
	}, func([]string) (askSubject, error) {
		return func(ctx context.Context, s *subjectAt) (reply, error) {
			return s.send(ctx, http.MethodDelete, "/ban", nil, "")
		}, nil
	}, showBan)
}

func showBan(s *subjectRecord, w io.Writer, now time.Time) {
	if banned := s.banned(now); banned != "" {
		fmt.Fprintf(w, "%s is banned %s\n", s.name(), banned)
		return
	}
	fmt.Fprintf(w, "%s is not banned\n", s.name())
}

// resetWords are the names of several limits at once.
var resetWords = []string{"all", "rate", "hourly", "daily", "weekly", "monthly", "yearly"}

func newSubjectReset() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "reset APPLICATION SUBJECT [LIMIT...]",
		Short: "Give back what a subject has used of limits",
		Long: `Give back what a subject has used of limits. LIMIT is an id such as plan/daily, or
its end where that is clear; several may be given. Or it is one word:

  all      every limit, but no bans
  rate     every limit that fills again by itself
  hourly, daily, weekly, monthly, yearly
           every quota of that period

  headgate subject reset default alice daily
  headgate subject reset default alice plan/rate plan/daily
  headgate subject reset default alice --all`,
		Args: args(cobra.MinimumNArgs(2)),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every limit; the same as the word all")
	return subjectCommand(cmd, func(limits []string) (askSubject, error) {
		var what any = limits
		switch {
		case all && len(limits) > 0:
			return nil, usageError{errors.New("--all is every limit: name none beside it")}
		case all:
			what = "all"
		case len(limits) == 0:
			return nil, usageError{errors.New("say what: --all, rate, daily, monthly, or the ids of limits such as plan/daily")}
		case len(limits) == 1 && slices.Contains(resetWords, limits[0]):
			what = limits[0]
		case slices.Contains(limits, ""):
			return nil, usageError{errors.New("a LIMIT is empty: name it, such as plan/daily")}
		}
		return func(ctx context.Context, s *subjectAt) (reply, error) {
			if _, word := what.(string); !word {
				if err := s.has(ctx, limits); err != nil {
					return reply{}, err
				}
			}
			return s.send(ctx, http.MethodPost, "/reset", map[string]any{"limits": what}, "")
		}, nil
	}, func(s *subjectRecord, w io.Writer, now time.Time) {
		fmt.Fprintf(w, "%s: %s reset\n", s.name(), count(len(s.Limits), "limit"))
		s.printLimits(w, now)
	})
}

// has returns an error unless a subject has all these limits: the server resets those
// that there are.
func (s *subjectAt) has(ctx context.Context, limits []string) error {
	got, err := s.send(ctx, http.MethodGet, "", nil, "")
	if err != nil {
		return err
	}
	var r subjectRecord
	if err := json.Unmarshal(got.body, &r); err != nil {
		return notOurs(err)
	}
	var ids []string
	for i := range r.Limits {
		ids = append(ids, r.Limits[i].ID)
	}
	for _, limit := range limits {
		if !slices.ContainsFunc(ids, func(id string) bool { return ofLimit(id, limit) }) {
			return fmt.Errorf("%s has no limit %s; it has %s", s.name(), plain(limit), plain(cmp.Or(strings.Join(ids, ", "), "none")))
		}
	}
	return nil
}
