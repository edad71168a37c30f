package policy

import (
	"strings"
	"time"

	"github.com/headgate/headgate"
)

var (
	subjectKeys  = keys{allowed: []string{"plan", "timezone", "anchor", "note", "overrides"}}
	overrideKeys = keys{allowed: []string{"limit", "rate", "max", "burst", "from", "until", "note"}}
)

// maxNote is the longest note of a subject or an override in bytes.
const maxNote = 256

// subject reads one record; applications and plans are known by then.
func (r *reader) subject(e entry) Subject {
	s := Subject{Pos: e.key.pos}
	var ok bool
	s.Application, s.Name, ok = strings.Cut(e.name, "/")
	known := false
	switch {
	case !ok || s.Name == "":
		e.key.fault("must be application/subject, such as email/alice")
	case checkText(s.Name) != nil:
		e.key.fault("%v", checkText(s.Name))
	case !r.targets.has(s.Application):
		e.key.fault("there is no application %s", quoted(s.Application))
	default:
		known = true
	}
	r.said(e.object(subjectKeys), &s, known)
	return s
}

// said reads what is said of a subject; known tells whether its application is there.
func (r *reader) said(o object, s *Subject, known bool) {
	if plan := o.at("plan"); r.plans == nil {
		s.Plan = r.name(plan)
	} else {
		s.Plan = r.planName(plan)
	}
	if zone := o.at("timezone"); zone.present() {
		s.Timezone = r.zone(zone)
	}
	if anchor := o.at("anchor"); anchor.present() {
		day, _ := anchor.integer(1, 31)
		s.Anchor = int(day)
	}
	s.Note = note(o.at("note"))
	known = known && (s.Plan == "" || r.plans[s.Plan])
	s.Overrides = r.overrides(o.at("overrides"), s, known)
}

// note reads a note of a person.
func note(v value) string {
	if !v.present() {
		return ""
	}
	s, _ := v.text(wantText)
	if len(s) > maxNote {
		v.fault("%d bytes: at most %d", len(s), maxNote)
	}
	if strings.ContainsRune(s, 0) {
		v.fault("there is a NUL in it")
	}
	return s
}

// overrides reads a subject's overrides; known tells whether its limits can be
// looked up.
func (r *reader) overrides(v value, s *Subject, known bool) []Override {
	if !v.present() {
		return nil
	}
	items, _ := v.list("a list of overrides")
	if len(items) > MaxOverrides {
		v.fault("%d overrides: at most %d of one subject", len(items), MaxOverrides)
		return nil
	}
	overrides := make([]Override, 0, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		overrides = append(overrides, r.override(item, s, known))
	}
	return overrides
}

func (r *reader) override(v value, s *Subject, known bool) Override {
	before := r.found
	o := v.object(overrideKeys)
	out := Override{Pos: v.pos}
	numbers := r.overrideNumbers(o, &out)
	r.overrideTime(o, &out)
	out.Note = note(o.at("note"))
	name := o.need("limit", "which limit, such as plan/daily")
	if out.Limit, _ = name.text("text: the id of a limit such as plan/daily"); out.Limit == "" || !known {
		return out
	}
	id, target, err := r.targets.find(s.Application, s.Plan, out.Limit)
	if err != nil {
		name.fault("%v", err)
		return out
	}
	out.Limit = id
	if target.shared != "" {
		name.fault("%s is %s: only a budget of one subject can have other numbers", id, target.shared)
		return out
	}
	if out.Unlimited || r.found > before {
		return out
	}
	for _, base := range target.bases {
		l, err := out.Numbers(base.limit)
		if err == nil {
			_, err = l.Prepare()
		}
		if err != nil {
			on := ""
			if base.plan != "" {
				on = "on plan " + base.plan + ": "
			}
			numbers.fault("%s%v", on, innermost(err))
			break
		}
	}
	return out
}

// overrideNumbers reads rate or max, and burst; it returns the first.
func (r *reader) overrideNumbers(o object, out *Override) value {
	rate, most, burst := o.at("rate"), o.at("max"), o.at("burst")
	numbers := rate
	switch {
	case rate.present() && most.present():
		most.fault("an override has a rate or a max, not both")
	case most.present():
		numbers = most
		if out.Unlimited = most.is("unlimited"); !out.Unlimited {
			out.Count, _ = most.integer(1, headgate.MaxInFlight)
		}
	default:
		o.need("rate", "a count per time such as 5000/day, or unlimited; max for a concurrency limit")
		out.Rate, _ = rate.scalar()
		if out.Unlimited = rate.is("unlimited"); rate.present() && !out.Unlimited {
			overrideRate(rate, out)
		}
	}
	out.Burst, _ = burst.integer(1, headgate.MaxInt)
	if burst.present() && out.Unlimited {
		burst.fault("an unlimited override has no burst")
	}
	return numbers
}

// overrideRate reads a rate for whichever algorithm it will meet: 5000/day is
// 24 hours for a bucket and the calendar's day for a quota.
func overrideRate(v value, out *Override) {
	s, ok := v.text("text such as 5000/day, or unlimited")
	if !ok {
		return
	}
	count, period, err := ParseRate(s)
	quota, unit, quotaErr := parseQuota(s)
	if err != nil && quotaErr != nil {
		v.fault("%v%s", err, didYouMean(s, []string{"unlimited"}))
		return
	}
	out.Count, out.Period, out.Unit = max(count, quota), period, unit
}

func (r *reader) overrideTime(o object, out *Override) {
	before := r.found
	out.From, out.Until = instant(o.at("from")), instant(o.at("until"))
	if r.found == before && o.at("from").present() && o.at("until").present() && !out.From.Before(out.Until) {
		o.at("until").fault("must be later than from, %s", out.From.Format(time.RFC3339))
	}
}

func instant(v value) time.Time {
	if !v.present() {
		return time.Time{}
	}
	const want = "an instant such as 2026-12-24T00:00:00Z or 2026-12-24T00:00:00+01:00"
	s, ok := v.text("text: " + want)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		v.fault("%s: must be %s", quoted(s), want)
	}
	return t
}
