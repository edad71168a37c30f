package gate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// limits says of each limit of a list how it stands, and of those that were not
// charged why.
func (x *explainer) limits(list []*limit, states []LimitState, charges []headgate.Charge) {
	for _, l := range list {
		i := slices.IndexFunc(states[:len(charges)], func(s LimitState) bool { return s.ID == l.id })
		if i < 0 {
			x.add("limit:"+l.id, "%s", x.uncharged(l, states, charges))
			continue
		}
		s, c := &states[i], &charges[i]
		parts := []string{sayNumbers(s), x.numbersFrom(s), x.budget(l, s, c)}
		known := x.known(i)
		if known && x.d.Degraded != "" {
			parts = append(parts, "The store cannot be asked: this node counts its share of it (on_store_error: local)")
		}
		if known {
			if s.Shared {
				parts = append(parts, "The "+x.sharing(s, c))
			}
			if s.Recovering {
				parts = append(parts, "The store began anew a short while ago "+sayRecovery(s))
			}
			parts = append(parts, sayUse(s), x.passes(s, c), x.fullAgain(s))
		}
		parts = append(parts, x.shadow(l.percent, s), x.away(s, known))
		parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
		x.add("limit:"+l.id, "%s.", strings.Join(parts, ". "))
	}
}

// known reports whether there is an answer of the limit at i.
func (x *explainer) known(i int) bool {
	return x.d.Degraded == "" || x.d.Degraded == degradedLocal && i < x.d.n
}

// uncharged says why a limit has no say.
func (x *explainer) uncharged(l *limit, states []LimitState, charges []headgate.Charge) string {
	p, from := l.forPlan(x.q.plan)
	if p == nil {
		if from == NumbersOfPlan {
			return "Unlimited on plan " + x.d.Plan + "."
		}
		return "Unlimited."
	}
	if x.q.record != nil && l.owner == policy.OwnerSubject {
		if o := x.q.record.override(l.id, x.q.now()); o != nil && o.Unlimited {
			return fmt.Sprintf("Unlimited for %s by an override%s.", x.subjectName(), x.override(o))
		}
	}
	if i := slices.IndexFunc(charges, func(c headgate.Charge) bool { return c.Limit.ID == p.ID }); i >= 0 {
		return fmt.Sprintf("The same budget as %s, and charged there.", states[i].ID)
	}
	_, found := x.d.unitCost(l.unit)
	switch {
	case l.unit != policy.Requests && !found:
		return fmt.Sprintf("Not charged: nothing says what the request costs in %s (when_missing: skip).", l.unit)
	case l.owner == policy.OwnerExpr:
		return fmt.Sprintf("Not charged: the request lacks what its owner %s needs (when_missing: skip).", saySource(l.written.OwnerExpr))
	default:
		return "Not charged: the request has no subject (when_missing: skip)."
	}
}

// sayNumbers says what the limit allows, in plain words.
func sayNumbers(s *LimitState) string {
	l := s.Limit
	count := sayCount(l.Count, s.Unit)
	switch l.Algorithm {
	case headgate.TokenBucket:
		return fmt.Sprintf("A bucket that holds up to %s and is refilled at %d per %s", sayCount(l.Burst, s.Unit), l.Count, sayPer(l.Period))
	case headgate.LeakyBucket:
		return fmt.Sprintf("A queue that lets %s per %s out and holds up to %d", count, sayPer(l.Period), l.Burst)
	case headgate.FixedWindow:
		return fmt.Sprintf("At most %s in each window of %s, counted anew in the next", count, sayExact(l.Period))
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			return fmt.Sprintf("About %s in any %s, estimated from this window and the one before", count, sayExact(l.Period))
		}
		return fmt.Sprintf("At most %s in any %s, counted in %d slices", count, sayExact(l.Period), l.Slices)
	case headgate.SlidingLog:
		return fmt.Sprintf("At most %s in any %s, each remembered", count, sayExact(l.Period))
	case headgate.Concurrency:
		return fmt.Sprintf("At most %s at once; a slot that is not released is free after %s", count, sayExact(l.TTL))
	default:
		return sayQuota(l, count)
	}
}

func sayQuota(l *headgate.Prepared, count string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "At most %s per calendar %v", count, l.Calendar.Unit)
	switch a := l.Calendar.Anchor; {
	case a == 0:
	case l.Calendar.Unit == headgate.Month:
		fmt.Fprintf(&b, " from day %d", a)
	case l.Calendar.Unit == headgate.Week:
		fmt.Fprintf(&b, " from %v", time.Weekday(a%7))
	default:
		fmt.Fprintf(&b, " from %02d-%02d", a/100, a%100)
	}
	fmt.Fprintf(&b, " in zone %v", cmp.Or(l.Calendar.Location, time.UTC))
	if l.Rollover > 0 {
		fmt.Fprintf(&b, ", and what is left of the period before, up to %d", l.Rollover)
	}
	if l.Soft {
		b.WriteString("; it refuses nothing and only counts what is over")
	}
	return b.String()
}

// numbersFrom says who gave the limit its numbers, and which overrides do not
// hold now.
func (x *explainer) numbersFrom(s *LimitState) string {
	from := "The numbers are the limit's own"
	switch s.Numbers {
	case NumbersOfPlan:
		from = "The numbers are those of plan " + x.d.Plan
	case NumbersSaid:
		return "The numbers are those that the request says"
	case NumbersOfOverride:
		from = "The numbers are those of an override" + x.override(s.Override)
	}
	if x.q.record == nil || s.Owner != ownerNames[policy.OwnerSubject] {
		return from
	}
	if zone := x.q.record.timezone; zone != nil && s.Limit.Algorithm == headgate.Quota {
		from += ", the zone is that of the subject's record"
	}
	if s.Limit.Calendar.Unit == headgate.Month && x.q.record.anchor != 0 {
		from += ", the day on which months begin is that of the subject's record"
	}
	for _, o := range x.q.record.overrides {
		if o.Limit != s.ID {
			continue
		}
		switch now := x.q.now(); {
		case now >= o.until:
			from += fmt.Sprintf("; an override%s has ended", x.override(o.Override))
		case now < o.from:
			from += fmt.Sprintf("; an override%s has not begun", x.override(o.Override))
		}
	}
	return from
}

// override says what an override is for, and when it holds.
func (x *explainer) override(o *policy.Override) string {
	var b strings.Builder
	if o.Note != "" {
		b.WriteString(" " + sayQuoted(o.Note))
	}
	if !o.From.IsZero() {
		b.WriteString(" from " + sayInstant(o.From, x.subjectZone()))
	}
	if !o.Until.IsZero() {
		b.WriteString(" until " + sayInstant(o.Until, x.subjectZone()))
	}
	return b.String()
}

// budget says whose budget it is.
func (x *explainer) budget(l *limit, s *LimitState, c *headgate.Charge) string {
	across := l.written.Across
	switch l.owner {
	case policy.OwnerGlobal:
		return "All applications share it"
	case policy.OwnerApplication:
		who := "All requests of application " + x.q.app.name
		if across {
			who = "All requests of all applications that have it"
		}
		if strings.HasPrefix(l.id, "plan/") {
			who += " on plan " + x.d.Plan
		}
		return who + " share it"
	case policy.OwnerExpr:
		who := fmt.Sprintf("It is the budget of %s, by the owner's expression %s", sayName(c.Owner), saySource(l.written.OwnerExpr))
		if across {
			who += ", in all applications that have it"
		}
		return who
	default:
		who := "It is the budget of " + x.subjectName()
		switch {
		case x.d.Subject == "":
			who = "All requests without a subject share it"
		case x.d.Degraded != "" || !s.Shared:
			who += " alone"
		}
		if across {
			who += ", in all applications that have it"
		}
		return who
	}
}

// sayUse says how much is used.
func sayUse(s *LimitState) string {
	by, over := "", ""
	if s.Shared {
		by = " by all of them together"
	}
	if s.Overage > 0 {
		over = fmt.Sprintf(", %d of them over the limit", s.Overage)
	}
	return fmt.Sprintf("%d of %d are used%s%s, %d are left; this request asks for %d", s.Used, s.Outcome.Limit, by, over, s.Remaining, s.Cost)
}

// passes says whether the limit lets the request pass, and when it would.
func (x *explainer) passes(s *LimitState, c *headgate.Charge) string {
	refuses := "It refuses this request"
	if s.Shadow {
		refuses = "It would refuse this request"
	}
	switch {
	case s.Allowed && s.Delay > 0:
		return fmt.Sprintf("It lets this request pass, which may start %s later", saySpan(s.Delay))
	case s.Allowed:
		return "It lets this request pass"
	case s.Never && c.Cost > s.Outcome.Limit:
		return fmt.Sprintf("%s, and always will: it never holds more than %d", refuses, s.Outcome.Limit)
	case s.Never:
		return refuses + ", and always will: its next period does not hold as much either"
	case queueTooLong(s):
		refuses += ", which would have to wait too long for its turn"
	}
	sooner := ""
	if s.Limit.Algorithm == headgate.Concurrency {
		sooner = ", or as soon as enough slots are released"
	}
	return fmt.Sprintf("%s; the same request would pass it at %s%s", refuses, x.when(s.RetryAfter, x.zone(s.Limit)), sooner)
}

// queueTooLong reports whether a leaky bucket with room refuses only because its
// delay is longer than the request may wait.
func queueTooLong(s *LimitState) bool {
	return s.Limit.Algorithm == headgate.LeakyBucket && !s.Allowed && !s.Never && s.Cost <= s.Remaining
}

// fullAgain says when nothing of it is used any more.
func (x *explainer) fullAgain(s *LimitState) string {
	if s.ResetAfter <= 0 {
		return ""
	}
	if s.Limit.Algorithm == headgate.Quota {
		return "Its period ends at " + x.when(s.ResetAfter, x.zone(s.Limit))
	}
	return "Without further requests it is full again at " + x.when(s.ResetAfter, x.zone(s.Limit))
}

// shadow says why a limit refuses nobody, or to whom a share that is refused
// extends.
func (x *explainer) shadow(percent int, s *LimitState) string {
	switch {
	case s.ShadowBy == ShadowByPolicy:
		return "It is in shadow (mode: shadow): it counts and refuses nobody"
	case s.ShadowBy == ShadowByPercent:
		return fmt.Sprintf("It is in shadow here (enforce_percent: %d): %s is in the %d %% that are not refused yet", percent, x.subjectName(), 100-percent)
	case s.ShadowBy == ShadowByOperator:
		return fmt.Sprintf("It is in shadow until %s, as an operator has said", sayInstant(x.q.forced.Until, x.zone(s.Limit)))
	case percent != 0 && x.q.forced == nil && x.q.place > 0 && x.q.place <= percent:
		return fmt.Sprintf("It refuses %d %% of the subjects (enforce_percent), and %s is one of them", percent, x.subjectName())
	default:
		return ""
	}
}

// away says what becomes of the limit when the store cannot be asked.
func (x *explainer) away(s *LimitState, known bool) string {
	when := "If the store is away"
	if !known {
		when = "Its state is not known, as the store cannot be asked; then"
	}
	switch {
	case known && x.d.Degraded != "":
		return "" // that was said
	case x.d.Reason == headgate.OverloadedReason:
		return "Its state is not known, as the store has no room; on_store_error does not count then"
	case strings.Contains(s.ID, "/candidate/"):
		return ""
	case s.Shadow:
		return when + " it refuses nothing"
	case s.away == policy.Open:
		return when + " it lets requests pass (on_store_error: open)"
	case x.closed(s):
		return when + " it refuses requests (closed)"
	default:
		return when + " each node admits its share of it (on_store_error: local)"
	}
}

// ban says how near a ban is, or how long it lasts.
func (x *explainer) ban(l *limit) {
	if l == nil {
		return
	}
	p := l.prepared
	terms := fmt.Sprintf("%s refuses a subject for %s after %d refusals within %s", l.id, sayExact(p.TTL), p.Count, sayExact(p.Period))
	i := slices.IndexFunc(x.states, func(s LimitState) bool { return s.ID == l.id })
	switch {
	case i < 0 && x.d.Subject == "":
		x.add("ban", "%s. A request without a subject is not banned for what others did.", terms)
		return
	case i < 0:
		x.add("ban", "%s. No limit applies, so there is nothing to ban for.", terms)
		return
	}
	s := &x.states[i]
	parts := []string{terms, "It counts refusals by limits that are the subject's own and not in shadow"}
	switch {
	case !x.known(i):
		parts = append(parts, "Its state is not known, as the store did not answer for it")
	case !s.Allowed:
		parts = append(parts, fmt.Sprintf("%s is banned until %s", x.subjectName(), x.when(s.RetryAfter, x.zone(p))))
	default:
		parts = append(parts, fmt.Sprintf("%d of %d are counted: %s is not banned", s.Used, s.Outcome.Limit, x.subjectName()))
	}
	if x.known(i) && x.d.Degraded != "" {
		parts = append(parts, "That is what this node knows, as the store cannot be asked")
	}
	if cause := x.shadow(l.percent, s); cause != "" {
		parts = append(parts, cause)
	}
	x.add("ban", "%s.", strings.Join(parts, ". "))
}
