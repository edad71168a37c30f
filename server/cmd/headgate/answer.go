package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// outcome is how a verb names the two answers.
type outcome struct{ allowed, denied string }

// answer is what is printed of a decision.
type answer struct {
	Allowed                              bool
	Reason, Application, Rule, Operation string
	Subject, Plan, Mode                  string
	BoundBy                              string `json:"bound_by"`
	Cost, Limit, Remaining               int64
	Retryable                            bool
	RetryAfterMS                         int64  `json:"retry_after_ms"`
	DelayMS                              int64  `json:"delay_ms"`
	WouldDeny                            string `json:"would_deny"`
	Degraded                             string
	Costs                                map[string]int64
	Candidate                            *struct {
		Allowed bool
		Reason  string
	}
	Replayed bool
	WaitedMS int64 `json:"waited_ms"`
	Limits   []answerLimit
}

type answerLimit struct {
	ID, Algorithm, Owner, Mode, Unit string
	Allowed                          bool
	Limit, Used, Remaining           int64
	ResetAfterMS                     int64     `json:"reset_after_ms"`
	ResetsAt                         time.Time `json:"resets_at"`
}

// print writes the answer as a sentence and a table.
func (a *answer) print(w io.Writer, words outcome, now time.Time) {
	verdict := words.allowed
	if !a.Allowed {
		verdict = words.denied
	}
	fmt.Fprintf(w, "%s: %s\n", verdict, a.why())
	fmt.Fprintf(w, "%s\n", plain(strings.Join(a.facts(), " · ")))
	a.table(w, now)
}

// table writes the state of every limit, after an empty line.
func (a *answer) table(w io.Writer, now time.Time) {
	if len(a.Limits) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LIMIT\tSTATE\tALGORITHM\tUSED\tLEFT\tFULL AGAIN")
	for i := range a.Limits {
		l := &a.Limits[i]
		unit := ""
		if l.Unit != "" && l.Unit != "requests" {
			unit = " " + l.Unit
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d of %d%s\t%d\t%s\n", l.ID, l.state(a.BoundBy), l.Algorithm, l.Used, l.Limit, unit, l.Remaining, l.reset(now))
	}
	t.Flush()
}

// why is the reason in words.
func (a *answer) why() string {
	if a.Allowed {
		switch {
		case a.DelayMS > 0:
			return "start in " + span(a.DelayMS)
		case a.BoundBy != "":
			return fmt.Sprintf("%d of %d left on %s", a.Remaining, a.Limit, a.BoundBy)
		case a.Reason == "ok" && len(a.Limits) > 0:
			return "no limit is enforced"
		case a.Reason == "ok":
			return "no limit applies"
		default:
			return a.Reason
		}
	}
	why := a.Reason
	if a.BoundBy != "" {
		why += " by " + a.BoundBy
	}
	switch {
	case !a.Retryable && a.Reason == "cost_exceeds_limit":
		return fmt.Sprintf("%s: cost %d can never pass a limit of %d", why, a.Cost, a.Limit)
	case !a.Retryable:
		return why + ", it cannot pass as it stands"
	case a.RetryAfterMS > 0:
		return why + ", would pass in " + span(a.RetryAfterMS)
	}
	return why
}

// facts is what the decision found.
func (a *answer) facts() []string {
	costs := []string{strconv.FormatInt(a.Cost, 10)}
	for _, unit := range slices.Sorted(maps.Keys(a.Costs)) {
		costs = append(costs, fmt.Sprintf("%d %s", a.Costs[unit], unit))
	}
	f := []string{a.Application + " " + a.Operation, "subject " + a.Subject, "cost " + strings.Join(costs, " + ")}
	if a.Plan != "" {
		f = append(f, "plan "+a.Plan)
	}
	if a.Rule != "" {
		f = append(f, "rule "+a.Rule)
	} else {
		f = append(f, "no rule")
	}
	if a.WouldDeny != "" {
		f = append(f, "shadow limits would refuse: "+a.WouldDeny)
	}
	if a.Candidate != nil && !a.Candidate.Allowed {
		f = append(f, "candidate limits would refuse: "+a.Candidate.Reason)
	}
	if a.WaitedMS > 0 {
		f = append(f, "waited "+span(a.WaitedMS))
	}
	if a.Replayed {
		f = append(f, "charged before under its idempotency key")
	}
	if a.Degraded != "" {
		f = append(f, "decided without the store: "+a.Degraded)
	}
	return f
}

func (l *answerLimit) reset(now time.Time) string {
	switch {
	case l.ResetAfterMS == 0:
		return "now"
	case l.ResetsAt.IsZero():
		return "in " + span(l.ResetAfterMS)
	}
	if l.ResetsAt.Sub(now) > 18*time.Hour {
		return l.ResetsAt.Format("2006-01-02 15:04 MST") // both would be too wide
	}
	return "in " + span(l.ResetAfterMS) + " (" + l.ResetsAt.Format("15:04 MST") + ")"
}

func (l *answerLimit) state(bound string) string {
	switch {
	case !l.Allowed && l.Mode == "shadow":
		return "would refuse"
	case !l.Allowed:
		return "refuses"
	case l.ID == bound:
		return "tightest"
	}
	return "passes"
}

// span writes milliseconds as people read them, rounded up.
func span(ms int64) string {
	switch {
	case ms < 1000:
		return fmt.Sprintf("%d ms", ms)
	case ms < 60_000:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", float64((ms+99)/100)/10), ".0") + " s"
	}
	s := (ms + 999) / 1000
	switch {
	case s < 3600:
		return pair(s/60, "min", s%60, "s")
	case s < 86400:
		m := (s + 59) / 60
		return pair(m/60, "h", m%60, "min")
	}
	h := (s + 3599) / 3600
	return pair(h/24, "d", h%24, "h")
}

func pair(a int64, unitA string, b int64, unitB string) string {
	if b == 0 {
		return fmt.Sprintf("%d %s", a, unitA)
	}
	return fmt.Sprintf("%d %s %d %s", a, unitA, b, unitB)
}
