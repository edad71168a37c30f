package gate

import (
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// verdict is the answer in one sentence. Of a refusal it names every limit that
// refuses, as far as they are few.
func (x *explainer) verdict() string {
	d := x.d
	var s string
	switch {
	case d.Degraded != "":
		s = x.withoutStore()
	case d.Allowed:
		s = x.allowed()
	default:
		s = x.refused()
	}
	if sum, _, ok := d.Candidate(); ok && sum.Allowed != d.Allowed {
		if sum.Allowed {
			s += "; the rule's candidate limits would let it pass"
		} else {
			s += fmt.Sprintf("; the rule's candidate limits would refuse it (%v)", sum.Reason)
		}
	}
	return s + "."
}

func (x *explainer) withoutStore() string {
	switch {
	case x.d.Reason == headgate.OverloadedReason:
		return "Refused: the store has no room for the state of another client; ask again in " + saySpan(x.d.RetryAfter)
	case x.d.Degraded == degradedLocal:
		says := x.refused
		if x.d.Allowed {
			says = x.allowed
		}
		answer, why, _ := strings.Cut(says(), ": ")
		return answer + " by this node's share, as the store that counts cannot be asked: " + why
	case x.d.Allowed:
		return "Allowed without a check: the store cannot be asked, and every limit of the request lets requests pass then"
	}
	then := "without it %s refuses every request"
	ids := x.ids(func(s *LimitState) bool { return x.closed(s) && s.Limit.Algorithm != headgate.Ban })
	if len(ids) == 0 {
		ids = x.ids(x.closed)
	}
	if len(ids) == 0 {
		then, ids = "this node has no share of %s to decide by", x.ids(func(s *LimitState) bool { return s.away == policy.Local })
	}
	return fmt.Sprintf("Refused: the store that counts cannot be asked, and "+then+"; ask again in %s", sayFew(ids), saySpan(x.d.RetryAfter))
}

// ids returns the ids of the limits that were charged for which that holds.
func (x *explainer) ids(holds func(*LimitState) bool) []string {
	var ids []string
	for i := range x.states {
		if holds(&x.states[i]) {
			ids = append(ids, x.states[i].ID)
		}
	}
	return ids
}

// closed reports whether a limit refuses without the store.
func (x *explainer) closed(s *LimitState) bool {
	return s.away == policy.ClosedMode || s.away == policy.Local && x.q.gate.config.Local == nil
}

func (x *explainer) allowed() string {
	d := x.d
	switch d.Reason {
	case headgate.AllowListed:
		return fmt.Sprintf("Allowed: the allow list of application %s names %s", x.q.app.name, x.entry(&x.q.app.allow))
	case headgate.Skipped:
		return fmt.Sprintf("Allowed: rule %s lets this request pass uncharged", d.Rule)
	}
	var b strings.Builder
	b.WriteString("Allowed: ")
	if d.Reason == headgate.NoRule {
		b.WriteString("no rule matches, and ")
	}
	enforced := 0
	for i := range d.n {
		if s := &x.states[i]; !s.Shadow && !s.Limit.Soft && s.Limit.Algorithm != headgate.Ban {
			enforced++
		}
	}
	switch {
	case d.BoundBy >= 0:
		bound := &x.states[d.BoundBy]
		unit := ""
		if bound.Unit != "requests" {
			unit = " " + bound.Unit
		}
		fmt.Fprintf(&b, "%d of %d%s left on %s", d.Remaining, d.Decision.Limit, unit, bound.ID)
		if enforced > 1 {
			fmt.Fprintf(&b, ", the tightest of %d limits", enforced)
		}
	case d.n > 0:
		b.WriteString("no limit that applies refuses anybody")
	default:
		b.WriteString("no limit applies")
	}
	if d.BoundBy >= 0 && x.states[d.BoundBy].Shared {
		fmt.Fprintf(&b, "; the %s", x.sharing(&x.states[d.BoundBy], &x.charges[d.BoundBy]))
	}
	if d.Delay > 0 {
		fmt.Fprintf(&b, "; it starts after %s, when it is its turn", saySpan(d.Delay))
	}
	if d.Shadow {
		fmt.Fprintf(&b, "; %s would have refused it but for being in shadow", sayFew(x.refusing(true)))
	}
	return b.String()
}

func (x *explainer) refused() string {
	d := x.d
	switch {
	case d.Reason == headgate.DenyListed:
		return fmt.Sprintf("Refused for good: the deny list of application %s names %s", x.q.app.name, x.entry(&x.q.app.deny))
	case x.q.ban != nil && d.Reason == headgate.Banned:
		return fmt.Sprintf("Refused: %s is banned by hand until %s%s", x.subjectName(), x.when(d.RetryAfter, x.subjectZone()), x.banReason())
	case d.Reason == headgate.NoRule:
		return fmt.Sprintf("Refused for good: no rule of application %s matches the request, and it refuses such requests", x.q.app.name)
	}
	lead := x.lead()
	var others []string
	for i := range d.n {
		if s := &x.states[i]; i != lead && !s.Allowed && !s.Shadow {
			others = append(others, x.refusesUntil(s))
		}
	}
	also := ""
	if len(others) > 0 {
		also = "; also " + sayFew(others)
	}
	if !d.Retryable {
		return "Refused for good: " + x.cause(lead) + also
	}
	s := &x.states[lead]
	if s.Limit.Algorithm == headgate.Ban && lead == d.BoundBy {
		return "Refused: " + x.cause(lead) + also // which says until when
	}
	passes := "; the same request passes at " + x.when(d.RetryAfter, x.zone(x.states[d.BoundBy].Limit))
	switch {
	case x.states[d.BoundBy].Limit.Algorithm == headgate.Concurrency:
		passes += " or as soon as slots are released"
	case x.waits():
		passes += ", for which it may wait in line"
	}
	return "Refused: " + x.cause(lead) + also + passes
}

// lead returns the index of the limit that gave the decision its reason: the
// bound one if it did.
func (x *explainer) lead() int {
	gave := func(i int) bool {
		s := &x.states[i]
		return !s.Allowed && !s.Shadow && s.Reason(s.Limit.Algorithm) == x.d.Reason
	}
	if gave(x.d.BoundBy) {
		return x.d.BoundBy
	}
	for i := range x.d.n {
		if gave(i) {
			return i
		}
	}
	return x.d.BoundBy
}

// cause says why a limit refuses.
func (x *explainer) cause(i int) string {
	s := &x.states[i]
	switch {
	case s.Limit.Algorithm == headgate.Ban:
		return fmt.Sprintf("%s is banned until %s, after %d refusals within %s",
			x.subjectName(), x.when(s.RetryAfter, x.zone(s.Limit)), s.Limit.Count, sayExact(s.Limit.Period))
	case s.Never && s.Cost > s.Outcome.Limit:
		return fmt.Sprintf("the request costs %s and %s never holds more than %d", sayCost(s), s.ID, s.Outcome.Limit)
	case s.Recovering:
		return fmt.Sprintf("the store began anew a short while ago %s: %s", sayRecovery(s), shortage(s))
	case s.Shared:
		return fmt.Sprintf("the %s, and %s", x.sharing(s, &x.charges[i]), shortage(s))
	case s.Never || queueTooLong(s):
		return shortage(s)
	}
	who, several := x.who(s, &x.charges[i])
	has := "has"
	if several {
		has = "have"
	}
	state := fmt.Sprintf("used %d of %d %s of %s", s.Used, s.Outcome.Limit, s.Unit, s.ID)
	if s.Limit.Algorithm == headgate.Concurrency {
		state = fmt.Sprintf("%d of %d %s in flight on %s", s.Used, s.Outcome.Limit, s.Unit, s.ID)
	}
	return who + " " + has + " " + state + alsoCosts(s)
}

// sayRecovery says what becomes of a limit whose store began anew.
func sayRecovery(s *LimitState) string {
	if s.Limit.Algorithm == headgate.TokenBucket || s.Limit.Algorithm == headgate.LeakyBucket {
		return "with empty buckets"
	}
	return "and keeps windows closed until what it lost cannot be spent any more"
}

// shortage says what a limit lacks, and not who used it up.
func shortage(s *LimitState) string {
	switch {
	case s.Never:
		return fmt.Sprintf("the request costs %s and %s has %d left, and not as much in its next period", sayCost(s), s.ID, s.Remaining)
	case queueTooLong(s):
		return fmt.Sprintf("it would have to wait too long for its turn on %s", s.ID)
	case s.Limit.Algorithm == headgate.Concurrency:
		return fmt.Sprintf("%d of %d %s are in flight on %s", s.Used, s.Outcome.Limit, s.Unit, s.ID) + alsoCosts(s)
	default:
		return fmt.Sprintf("%d of %d %s of %s are used", s.Used, s.Outcome.Limit, s.Unit, s.ID) + alsoCosts(s)
	}
}

func alsoCosts(s *LimitState) string {
	if s.Cost <= 1 {
		return ""
	}
	return " and this request costs " + sayCost(s)
}

// sharing says why a state is not its owner's alone.
func (x *explainer) sharing(s *LimitState, c *headgate.Charge) string {
	who, several := x.who(s, c)
	shares := "shares"
	if several {
		shares = "share"
	}
	return fmt.Sprintf("memory for limits is full: %s %s what is left with others", who, shares)
}

// who is how sentences call the owner of a budget, and whether that is several.
func (x *explainer) who(s *LimitState, c *headgate.Charge) (name string, several bool) {
	name = sayName(c.Owner)
	switch {
	case s.Owner == "application" && strings.HasPrefix(s.Limit.Scope, acrossAll):
		return "all applications that share it", true
	case s.Owner == "application":
		return "application " + x.q.app.name, false
	case s.Owner == "global":
		return "all applications together", true
	case name == `""`:
		return "requests without a subject", true
	default:
		return name, false
	}
}

func sayCost(s *LimitState) string {
	if s.Unit == "requests" {
		return fmt.Sprint(s.Cost)
	}
	return sayCount(s.Cost, s.Unit)
}

// sayFew joins items, the first three by name.
func sayFew(items []string) string {
	if n := len(items); n > 4 {
		items = append(items[:3:3], fmt.Sprintf("%d more", n-3))
	}
	return sayList(items)
}

// refusesUntil says until when a limit refuses.
func (x *explainer) refusesUntil(s *LimitState) string {
	if s.Never {
		return s.ID + " can never hold its cost"
	}
	return s.ID + " refuses it until " + sayInstant(time.UnixMicro(x.at).Add(s.RetryAfter), x.zone(s.Limit))
}
