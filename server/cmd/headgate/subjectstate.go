package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// subjectRecord is what is on record of a subject, and what stands of it.
type subjectRecord struct {
	Application, Subject string
	Known                bool
	Plan, Timezone, Note string
	Anchor               int
	Overrides            []subjectOverride
	Ban                  *subjectBan
	Version              int64
	ChangedAt            time.Time `json:"changed_at"`
	ChangedBy            string    `json:"changed_by"`
	EffectivePlan        string    `json:"effective_plan"`
	Limits               []subjectLimit
}

// subjectOverride is an override, also as it is sent back.
type subjectOverride struct {
	Limit string `json:"limit"`
	Rate  string `json:"rate,omitempty"`
	// Max is a number or "unlimited"; nil where there is a rate.
	Max   json.RawMessage `json:"max,omitempty"`
	Burst int64           `json:"burst,omitempty"`
	From  time.Time       `json:"from,omitzero"`
	Until time.Time       `json:"until,omitzero"`
	Note  string          `json:"note,omitempty"`
}

type subjectBan struct {
	Until  time.Time
	Reason string
}

type subjectLimit struct {
	answerLimit
	Overage int64
	Exact   bool
}

func (s *subjectRecord) name() string { return plain(s.Application + " " + s.Subject) }

// rule says which plan rules a subject.
func (s *subjectRecord) rule() string {
	switch {
	case s.EffectivePlan == "":
		return "it has no plan"
	case s.Plan == "":
		return fmt.Sprintf("its plan is %s, unless a request or rule names one", plain(s.EffectivePlan))
	default:
		return "its plan is " + plain(s.EffectivePlan)
	}
}

// print writes everything.
func (s *subjectRecord) print(w io.Writer, now time.Time) {
	s.printRecord(w, now)
	s.printLimits(w, now)
}

// printRecord writes what people have said of a subject.
func (s *subjectRecord) printRecord(w io.Writer, now time.Time) {
	not := ""
	if !s.Known {
		not = " is not on record"
	}
	fmt.Fprintln(w, s.name()+not)
	facts := [][2]string{{"plan", s.planFact()}, {"zone", s.Timezone}, {"anchor", ""}, {"note", s.Note}, {"banned", ""}, {"changed", ""}}
	if s.Anchor != 0 {
		facts[2][1] = fmt.Sprintf("months begin on day %d", s.Anchor)
	}
	facts[4][1] = s.banned(now)
	if !s.ChangedAt.IsZero() {
		facts[5][1] = fmt.Sprintf("%s by %s, version %d", whenSoon(s.ChangedAt, now), s.ChangedBy, s.Version)
	}
	for _, f := range facts {
		if f[1] != "" {
			fmt.Fprintf(w, "  %-9s%s\n", f[0], wrap(f[1], 11))
		}
	}
	if len(s.Overrides) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{{"OVERRIDE", "NUMBERS", "HOLDS", "NOTE"}}
	for i := range s.Overrides {
		o := &s.Overrides[i]
		rows = append(rows, []string{o.Limit, o.numbers(), o.holds(now), o.Note})
	}
	writeTable(w, rows, []int{3, 0}, 2)
}

// banned says until when and why a subject is banned, "" for one that is not.
func (s *subjectRecord) banned(now time.Time) string {
	var bans []string
	if s.Ban != nil && s.Ban.Until.After(now) {
		bans = append(bans, s.Ban.say(now))
	}
	for i := range s.Limits {
		if l := &s.Limits[i]; l.bans() {
			where := plain(strings.TrimSuffix(l.ID, "/ban"))
			bans = append(bans, fmt.Sprintf("by its refusals of %s, for another %s", where, span(l.ResetAfterMS)))
		}
	}
	return strings.Join(bans, "; ")
}

func (s *subjectRecord) planFact() string {
	switch {
	case s.EffectivePlan == "":
		return "none"
	case s.Plan == "":
		return s.EffectivePlan + ", unless a request or rule names one"
	case s.Plan != s.EffectivePlan: // the policy has lost it
		return fmt.Sprintf("%s on record, %s in force", s.Plan, s.EffectivePlan)
	default:
		return s.Plan
	}
}

// printLimits writes what is used of every limit, after an empty line.
func (s *subjectRecord) printLimits(w io.Writer, now time.Time) {
	fmt.Fprintln(w)
	if len(s.Limits) == 0 {
		fmt.Fprintln(w, "no limit of its own bounds it")
		return
	}
	rows := [][]string{{"LIMIT", "STATE", "USED", "LEFT", "FULL AGAIN"}}
	for i := range s.Limits {
		l := &s.Limits[i]
		used := fmt.Sprintf("%d of %d", l.Used, l.Limit)
		if l.Unit != "" && l.Unit != "requests" {
			used += " " + l.Unit
		}
		left := strconv.FormatInt(l.Remaining, 10)
		if !l.Exact {
			left += " or more"
		}
		rows = append(rows, []string{l.ID, l.standing(), used, left, l.reset(now)})
	}
	writeTable(w, rows, []int{0}, 4)
}

// standing says whether a limit lets anything pass.
func (l *subjectLimit) standing() string {
	s := "passes"
	switch {
	case l.bans():
		s = "bans"
	case l.Remaining <= 0:
		s = "used up"
	case !l.Allowed:
		s = "refuses"
	}
	if l.Mode == "shadow" {
		s += ", in shadow"
	}
	return s
}

// bans reports whether a ban is in force that the subject's refusals brought about.
func (l *subjectLimit) bans() bool { return l.Algorithm == "ban" && !l.Allowed }

// say says until when and why somebody is banned.
func (b *subjectBan) say(now time.Time) string {
	s := fmt.Sprintf("until %s, in %s", whenSoon(b.Until, now), span(b.Until.Sub(now).Milliseconds()))
	if b.Reason != "" {
		s += ": " + plain(b.Reason)
	}
	return s
}

// short says how long a ban still holds.
func (b *subjectBan) short(now time.Time) string {
	if d := b.Until.Sub(now); d > 0 {
		return "for " + coarse(d.Milliseconds())
	}
	return ""
}

// numbers says how much an override gives.
func (o *subjectOverride) numbers() string {
	switch {
	case o.Rate != "" && o.Burst != 0:
		return fmt.Sprintf("%s burst %d", o.Rate, o.Burst)
	case o.Rate != "":
		return o.Rate
	default:
		return "max " + strings.Trim(string(o.Max), `"`)
	}
}

// holds says when an override holds.
func (o *subjectOverride) holds(now time.Time) string {
	from, until := whenSoon(o.From, now), whenSoon(o.Until, now)
	switch {
	case o.From.IsZero() && o.Until.IsZero():
		return "always"
	case !o.Until.IsZero() && !now.Before(o.Until):
		return "over since " + until
	case !now.Before(o.From) && o.Until.IsZero():
		return "since " + from
	case !now.Before(o.From):
		return "until " + until
	case o.Until.IsZero():
		return "from " + from
	default:
		return from + " to " + until
	}
}
