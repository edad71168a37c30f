package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate/policy"
)

func newSubjectSet() *cobra.Command {
	var plan, zone, note string
	var anchor int
	var overrides, dropped []string
	var version int64
	cmd := &cobra.Command{
		Use:   "set APPLICATION SUBJECT",
		Short: "Change the record of a subject: plan, zone, note, numbers of its own",
		Long: `Change the record of a subject, or make one. What is not said stays as it is; ''
(or --anchor 0) removes. A change of plan keeps what was used.

  headgate subject set default alice --plan premium --note 'pays by invoice'
  headgate subject set default alice --override plan/daily=5000/day,for=48h

An override is LIMIT=NUMBERS with what else is to be said, separated by commas:
  LIMIT    plan/daily, sendEmail/burst, or daily alone where that is clear
  NUMBERS  a rate such as 5000/day; unlimited; a plain number for a limit of
           concurrency
  burst=N  of a bucket
  from=T, until=T
           when it begins and ends: 2026-12-24T00:00:00Z, or 2026-12-24 or
           2026-12-24T18:00 in the zone of this machine
  for=48h  how long it holds, instead of until
  note=... the rest of the text, commas and all
It takes the place of overrides of the same limit that would hold at the same
time, and ends by itself.`,
		Args: args(cobra.ExactArgs(2)),
	}
	flags := cmd.Flags()
	flags.StringVar(&plan, "plan", "", "the subject's `PLAN`; '' for none of its own")
	flags.StringVar(&zone, "timezone", "", "`ZONE` of its quotas, such as Asia/Kathmandu; '' for the limits' own")
	flags.IntVar(&anchor, "anchor", 0, "`DAY` of the month on which its monthly quotas begin, 1 to 31; 0 for the limits' own")
	flags.StringVar(&note, "note", "", "a `TEXT` for people; '' removes it")
	flags.StringArrayVar(&overrides, "override", nil, "other numbers for a limit, as `LIMIT=NUMBERS[,...]`; may be repeated")
	flags.StringArrayVar(&dropped, "drop-override", nil, "remove the overrides of a `LIMIT`; may be repeated")
	flags.Int64Var(&version, "if-version", 0, "change nothing unless the record has the version `V`, as get says it; 0: is none")
	return subjectCommand(cmd, func([]string) (askSubject, error) {
		c := subjectChange{drop: dropped}
		for name, to := range map[string]func(){
			"plan": func() { c.plan = &plan }, "timezone": func() { c.zone = &zone }, "anchor": func() { c.anchor = &anchor },
			"note": func() { c.note = &note }, "if-version": func() { c.version = &version },
		} {
			if flags.Changed(name) {
				to()
			}
		}
		if err := c.read(overrides, time.Now()); err != nil {
			return nil, usageError{err}
		}
		return c.make, nil
	}, (*subjectRecord).printRecord)
}

// subjectChange is what a command line says of a record. What it does not say is nil.
type subjectChange struct {
	plan, zone, note *string
	anchor           *int
	add              []subjectOverride
	drop             []string
	version          *int64 // the one that is expected
}

// subjectWish is a record as it is written.
type subjectWish struct {
	Plan      string            `json:"plan,omitempty"`
	Timezone  string            `json:"timezone,omitempty"`
	Anchor    int               `json:"anchor,omitempty"`
	Note      string            `json:"note,omitempty"`
	Overrides []subjectOverride `json:"overrides,omitempty"`
}

// read reads the overrides, and checks everything that can be checked without the
// policy.
func (c *subjectChange) read(overrides []string, now time.Time) error {
	if c.plan == nil && c.zone == nil && c.note == nil && c.anchor == nil && len(overrides) == 0 && len(c.drop) == 0 {
		return errors.New("nothing to change: say --plan, --timezone, --anchor, --note, --override or --drop-override")
	}
	if c.version != nil && *c.version < 0 {
		return fmt.Errorf("--if-version %d: must not be negative", *c.version)
	}
	w := subjectWish{Plan: orZero(c.plan), Timezone: orZero(c.zone), Anchor: orZero(c.anchor), Note: orZero(c.note)}
	if err := w.check("--"); err != nil {
		return err
	}
	for _, text := range overrides {
		o, err := parseOverride(text, now)
		if err == nil {
			w := subjectWish{Overrides: []subjectOverride{o}}
			err = w.check("")
		}
		if err != nil {
			return fmt.Errorf("--override %q: %w", text, err)
		}
		c.add = append(c.add, o)
	}
	return nil
}

// orZero returns what p points to, or the zero value.
func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// check says what is wrong with a wish, whatever the policy. Names of fields begin
// with prefix.
func (w *subjectWish) check(prefix string) error {
	body, err := json.Marshal(w)
	if err != nil {
		return err
	}
	_, err = policy.ParseSubject(nil, "", "", body)
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		return errors.New(prefix + strings.TrimPrefix(faults[0].Path, "overrides[0].") + ": " + faults[0].Message)
	}
	return err
}

// parseOverride reads LIMIT=NUMBERS[,burst=N][,from=T][,until=T][,for=D][,note=TEXT].
func parseOverride(text string, now time.Time) (o subjectOverride, err error) {
	var numbers, span string
	var ok bool
	if o.Limit, numbers, ok = strings.Cut(text, "="); !ok || o.Limit == "" || numbers == "" {
		return o, errors.New("must be LIMIT=NUMBERS, such as plan/daily=5000/day,for=48h")
	}
	numbers, o.Note, _ = strings.Cut(numbers, ",note=")
	parts := strings.Split(numbers, ",")
	if _, err := strconv.ParseUint(parts[0], 10, 63); err == nil {
		o.Max = json.RawMessage(strings.TrimLeft(parts[0][:len(parts[0])-1], "0") + parts[0][len(parts[0])-1:])
	} else {
		o.Rate = parts[0]
	}
	given := make(map[string]bool)
	for _, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		if given[name] {
			return o, fmt.Errorf("%s is given twice", name)
		}
		given[name] = true
		switch name {
		case "burst":
			if o.Burst, err = strconv.ParseInt(value, 10, 64); err != nil || o.Burst < 1 {
				return o, fmt.Errorf("burst %q: must be a whole number from 1", value)
			}
		case "from":
			o.From, err = localInstant(value, now.Location())
		case "until":
			o.Until, err = localInstant(value, now.Location())
		case "for":
			span = value
		default:
			return o, fmt.Errorf("%q: must be burst=, from=, until=, for= or note=", part)
		}
		if err != nil {
			return o, fmt.Errorf("%s %w", name, err)
		}
	}
	for _, name := range []string{"burst", "from", "until", "for"} {
		if strings.Contains(o.Note, ","+name+"=") {
			return o, fmt.Errorf("the note would end with ,%s=...: say note= last", name)
		}
	}
	if given["for"] {
		return o, o.lasts(span, now)
	}
	return o, nil
}

// lasts sets the end of an override by how long it holds.
func (o *subjectOverride) lasts(span string, now time.Time) error {
	d, err := time.ParseDuration(span)
	switch {
	case !o.Until.IsZero():
		return errors.New("for and until are both given: keep one")
	case err != nil || d < time.Second:
		return fmt.Errorf("for %q: must be a time from 1s, such as 48h", span)
	case o.From.IsZero():
		o.Until = now.Add(d).Truncate(time.Second)
	default:
		o.Until = o.From.Add(d)
	}
	return nil
}

// localInstant reads an instant, or a date or time in a zone.
func localInstant(s string, zone *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: must be an instant such as 2026-12-24T00:00:00Z, or 2026-12-24 or 2026-12-24T18:00 in the zone of this machine", s)
}

// make changes the record. If somebody else changes it at the same time, it is read
// and changed once more, unless a version is expected.
func (c *subjectChange) make(ctx context.Context, s *subjectAt) (got reply, err error) {
	for range 2 {
		if got, err = s.send(ctx, http.MethodGet, "", nil, ""); err != nil {
			return got, err
		}
		var r subjectRecord
		if err := json.Unmarshal(got.body, &r); err != nil {
			return got, notOurs(err)
		}
		if c.version != nil && r.Version != *c.version {
			return got, fmt.Errorf("%s has version %d, not %d: look at it with 'headgate subject get' before you change it", s.name(), r.Version, *c.version)
		}
		wish, err := c.apply(&r)
		if err != nil {
			return got, err
		}
		got, err = s.send(ctx, http.MethodPut, "", wish, strconv.FormatInt(r.Version, 10))
		switch {
		case !refusedAs(err, "stale"):
			return got, wish.blame(err)
		case c.version != nil:
			return got, fmt.Errorf("somebody else has just changed %s, and nothing was written: look at it with 'headgate subject get'", s.name())
		}
	}
	return got, fmt.Errorf("others change %s at the same time, and nothing was written: try again", s.name())
}

// blame says in err which overrides are at fault, instead of how many there are before
// them.
func (w *subjectWish) blame(err error) error {
	p, ok := errors.AsType[*serverProblem](err)
	if !ok {
		return err
	}
	for i := range p.Errors {
		e := &p.Errors[i]
		number, field, _ := strings.Cut(strings.TrimPrefix(e.Pointer, "/overrides/"), "/")
		if n, err := strconv.Atoi(number); err == nil && n >= 0 && n < len(w.Overrides) && field != "" {
			e.Pointer = "/override of " + w.Overrides[n].Limit
			if len(p.Errors) == 1 {
				p.Detail = fmt.Sprintf("override of %s: %s", w.Overrides[n].Limit, e.Detail)
			}
		}
	}
	return err
}

// apply returns the record r with the changes.
func (c *subjectChange) apply(r *subjectRecord) (*subjectWish, error) {
	w := &subjectWish{Plan: r.Plan, Timezone: r.Timezone, Anchor: r.Anchor, Note: r.Note}
	if c.plan != nil {
		w.Plan = *c.plan
	}
	if c.zone != nil {
		w.Timezone = *c.zone
	}
	if c.anchor != nil {
		w.Anchor = *c.anchor
	}
	if c.note != nil {
		w.Note = *c.note
	}
	for i := range r.Overrides {
		o := &r.Overrides[i]
		drops := slices.ContainsFunc(c.drop, o.of)
		replaces := slices.ContainsFunc(c.add, func(n subjectOverride) bool { return o.of(n.Limit) && o.overlaps(&n) })
		if !drops && !replaces {
			w.Overrides = append(w.Overrides, *o)
		}
	}
	for _, limit := range c.drop {
		if !slices.ContainsFunc(r.Overrides, func(o subjectOverride) bool { return o.of(limit) }) {
			return nil, fmt.Errorf("%s has no override of %s%s", r.name(), plain(limit), r.overridden())
		}
	}
	w.Overrides = append(w.Overrides, c.add...)
	return w, nil
}

// overridden says of which limits there are overrides.
func (r *subjectRecord) overridden() string {
	var limits []string
	for i := range r.Overrides {
		limits = append(limits, plain(r.Overrides[i].Limit))
	}
	if len(limits) == 0 {
		return ", nor of another limit"
	}
	return "; it has some of " + strings.Join(slices.Compact(slices.Sorted(slices.Values(limits))), ", ")
}

// of reports whether an override is one of a limit.
func (o *subjectOverride) of(limit string) bool { return ofLimit(o.Limit, limit) }

// ofLimit reports whether the limit that is said is the one with an id, such as
// plan/daily, or its end.
func ofLimit(id, limit string) bool {
	_, short, _ := strings.Cut(id, "/")
	return limit == id || limit == short
}

// overlaps reports whether two overrides hold at once at some time.
func (o *subjectOverride) overlaps(p *subjectOverride) bool {
	return (o.Until.IsZero() || p.From.Before(o.Until)) && (p.Until.IsZero() || o.From.Before(p.Until))
}
