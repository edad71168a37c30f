package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// Explanation says how a decision came about, in English sentences that can be
// read out to whose request it was. They name no other subject, hold no control
// characters, and quote names that are not one plain word.
type Explanation struct {
	// Verdict is the answer in one sentence.
	Verdict string
	// Steps are the way to it, in the order in which it was gone.
	Steps []Step
}

// Step is one thing that was found on the way.
type Step struct {
	// About is match, subject, lists, plan, cost, limit:ID for each limit that
	// could apply, ban, mode, candidate, wait or retry. Match, ban and lists can
	// come more than once or not at all.
	About string
	Text  string
}

// Explain decides r as Peek does, which charges nothing and fills in d, and says
// in e how the answer came about. Where requests may wait in line, it tells what
// a Take would do. e is filled only if there is no error; errors are Peek's.
func (g *Gate) Explain(ctx context.Context, r *Request, d *Decision, e *Explanation) error {
	e.Verdict, e.Steps = "", e.Steps[:0]
	q := question{gate: g, op: headgate.Peek, request: r}
	if err := q.decide(ctx, d); err != nil {
		return err
	}
	x := explainer{q: &q, d: d, e: e, charges: d.batch.Charges(), at: d.batch.At}
	x.states = d.limits[:len(x.charges)] // which d.Limits leaves out if the store is away
	if x.at == 0 {
		x.at = q.now()
	}
	x.explain()
	return nil
}

// explainer puts a decision into words.
type explainer struct {
	q       *question
	d       *Decision
	e       *Explanation
	states  []LimitState
	charges []headgate.Charge
	at      int64 // of the decision
}

func (x *explainer) add(about, format string, args ...any) {
	x.e.Steps = append(x.e.Steps, Step{about, fmt.Sprintf(format, args...)})
}

func (x *explainer) explain() {
	x.e.Verdict = x.verdict()
	x.match()
	x.subject()
	if x.lists(); x.d.Reason == headgate.DenyListed || x.d.Reason == headgate.AllowListed || x.q.ban != nil {
		x.retry()
		return
	}
	x.plan()
	if x.d.Reason == headgate.Skipped {
		x.add("match", "The rule's skip expression %s holds for this request: it passes, and nothing is charged.", saySource(x.q.rule.written.Skip))
		return
	}
	if x.noRuleRefuses() {
		x.retry()
		return
	}
	x.cost()
	x.limits(x.applying(), x.states, x.charges)
	x.ban(x.q.app.ban)
	x.ban(x.q.rule.ban)
	x.mode()
	x.candidate()
	x.wait()
	x.retry()
}

// applying returns the limits that could have a say, in the order in which they
// are charged.
func (x *explainer) applying() []*limit {
	return slices.Concat(x.q.app.limits, x.q.rule.limits, x.q.planLimits())
}

func (x *explainer) noRuleRefuses() bool { return x.d.Reason == headgate.NoRule && !x.d.Allowed }

// subjectName is how sentences call the subject.
func (x *explainer) subjectName() string {
	if x.d.Subject == "" {
		return "a request without a subject"
	}
	return sayName(x.d.Subject)
}

// when is an instant and how far it is away.
func (x *explainer) when(after time.Duration, zone *time.Location) string {
	return sayInstant(time.UnixMicro(x.at).Add(after), zone) + ", in " + saySpan(after)
}

// zone is that in which instants of a limit are said: its own, else the
// subject's.
func (x *explainer) zone(l *headgate.Prepared) *time.Location {
	if l.Algorithm == headgate.Quota {
		return l.Calendar.Location
	}
	return x.subjectZone()
}

func (x *explainer) subjectZone() *time.Location {
	if x.q.record == nil {
		return nil
	}
	return x.q.record.timezone
}

// match says which rule matched, and by what.
func (x *explainer) match() {
	r := x.q.request
	if x.q.described {
		x.matchDescriptor()
		return
	}
	if w := x.q.rule.written; w != nil {
		var by []string
		if w.Operation != "" {
			by = append(by, "operation "+sayName(w.Operation))
		}
		if w.Path != "" {
			by = append(by, fmt.Sprintf("path %s (pattern %s)", sayQuoted(x.q.path), sayQuoted(w.Path)))
		}
		switch {
		case len(w.Methods) == 0:
		case slices.Contains(w.Methods, r.Method):
			by = append(by, fmt.Sprintf("method %s (of %s)", sayName(r.Method), sayList(w.Methods)))
		default:
			by = append(by, "method HEAD (as GET)")
		}
		x.add("match", "Rule %s of application %s is the first that matches, by %s.", w.Name, x.q.app.name, sayList(by))
		return
	}
	var what []string
	if len(r.Descriptor) > 0 {
		what = append(what, "descriptor "+sayEntries(r.Descriptor, nil))
	}
	if r.Operation != "" {
		what = append(what, "operation "+sayName(r.Operation))
	}
	if r.Path != "" {
		what = append(what, "path "+sayQuoted(x.q.path))
	}
	if r.Method != "" {
		what = append(what, "method "+sayName(r.Method))
	}
	then := "on_no_match: plan, so the limits of the application and of the plan apply"
	switch x.q.app.onNoMatch {
	case policy.NoMatchDeny:
		then = "on_no_match: deny, so the request is refused"
	case policy.NoMatchAllow:
		then = "on_no_match: allow, so only the limits of the application apply"
	}
	x.add("match", "No rule of application %s matches %s. The application says %s.", x.q.app.name, sayList(what), then)
}

// subject says where the subject was found.
func (x *explainer) subject() {
	name := x.subjectName()
	var b strings.Builder
	switch {
	case x.q.said != nil:
		fmt.Fprintf(&b, "The subject is %s: all entries of the descriptor.", name)
	case x.q.described && x.d.Subject == "":
		b.WriteString("There is no subject: the rule leaves no value open, and its limits are the application's.")
	case x.q.described:
		fmt.Fprintf(&b, "The subject is %s: what the rule leaves open of the descriptor.", name)
	default:
		x.askedSubject(&b)
	}
	switch {
	case x.q.record == nil:
	case x.q.record == x.q.app.subjects[x.d.Subject]:
		b.WriteString(" The policy has a record of this subject.")
	default:
		b.WriteString(" There is a record of this subject.")
	}
	x.add("subject", "%s", b.String())
}

// askedSubject says where the subject was found that the request or the application's
// identity names.
func (x *explainer) askedSubject(b *strings.Builder) {
	name, r := x.subjectName(), x.q.request
	switch x.d.SubjectFrom {
	case SubjectSaid:
		fmt.Fprintf(b, "The request says that its subject is %s.", name)
	case SubjectIP:
		if ip := r.IP.Unmap().WithZone(""); ip.Is4() {
			fmt.Fprintf(b, "The subject is the client's address %s.", name)
		} else {
			fmt.Fprintf(b, "The subject is %s, the network of the client's address %v: all addresses of a /64 count as one client.", name, ip)
		}
	case SubjectHeader, SubjectCookie, SubjectAttribute:
		fmt.Fprintf(b, "The %s names the subject %s.", identityName(x.q.found), name)
	default:
		b.WriteString("The request names no subject")
		if ids := x.q.app.identity; len(ids) > 0 {
			var sources []string
			for i := range ids {
				sources = append(sources, identityName(&ids[i]))
			}
			fmt.Fprintf(b, ", and the application finds none by %s", sayList(sources))
		}
		b.WriteByte('.')
		if x.q.app.shared {
			b.WriteString(" All requests without a subject share one budget (on_no_subject: shared).")
		}
	}
}

func identityName(id *policy.Identity) string {
	known := ""
	if id.KnownOnly {
		known = " (known subjects only)"
	}
	switch id.Kind {
	case policy.ByHeader:
		return "header " + id.Name + known
	case policy.ByCookie:
		return "cookie " + id.Name + known
	case policy.ByAttribute:
		return "attribute " + sayName(id.Name) + known
	default:
		return "the client's address"
	}
}

// lists says whether a list names the client, and by which entry.
func (x *explainer) lists() {
	deny, allow := &x.q.app.deny, &x.q.app.allow
	switch {
	case x.d.Reason == headgate.DenyListed:
		x.add("lists", "The deny list of application %s names %s: the client is refused, whatever it asks.", x.q.app.name, x.entry(deny))
	case x.q.ban != nil:
		x.add("ban", "The subject is banned by hand%s: it is refused, whatever it asks.", x.banReason())
	case x.d.Reason == headgate.AllowListed:
		x.add("lists", "The allow list of application %s names %s: the client passes, and nothing is charged.", x.q.app.name, x.entry(allow))
	case deny.subjects != nil || deny.networks != nil || allow.subjects != nil || allow.networks != nil:
		x.add("lists", "Neither the deny list nor the allow list of application %s names the client.", x.q.app.name)
	}
}

// banReason is why the subject was banned by hand, if that was said.
func (x *explainer) banReason() string {
	if x.q.ban.reason == "" {
		return ""
	}
	return " for " + sayQuoted(x.q.ban.reason)
}

// entry is what of a list names the client.
func (x *explainer) entry(l *list) string {
	if l.names(x.d.Subject) {
		return "subject " + x.subjectName()
	}
	network, _ := l.network(x.q.request.IP)
	ip := x.q.request.IP.Unmap().WithZone("")
	if network.IsSingleIP() {
		return "the client's address " + ip.String()
	}
	return fmt.Sprintf("network %v, which holds the client's address %v", network, ip)
}

// plan says where the plan came from.
func (x *explainer) plan() {
	d, said := x.d, x.q.request.Plan
	ignored := ""
	if said != "" && said != d.Plan {
		ignored = fmt.Sprintf(" The request names plan %s, which the record beats.", sayName(said))
	}
	switch d.PlanFrom {
	case PlanOfSubject:
		x.add("plan", "The plan is %s, by the subject's record.%s", d.Plan, ignored)
	case PlanSaid:
		x.add("plan", "The plan is %s, as the request says.", d.Plan)
	case PlanOfRule:
		x.add("plan", "The plan is %s, by the rule's expression %s.", d.Plan, saySource(x.q.rule.written.PlanExpr))
	case PlanDefault:
		name, who := said, "The request"
		if name == "" && x.q.rule.planExpr != nil {
			name, _ = x.q.rule.planExpr.String(x.q.ask(d)) // it did not fail before
			who = fmt.Sprintf("The rule's expression %s", saySource(x.q.rule.written.PlanExpr))
		}
		if name == "" {
			x.add("plan", "The plan is %s, the application's default: nothing names another.", d.Plan)
			return
		}
		x.add("plan", "The plan is %s, the application's default. %s names plan %s, which is not in the policy.", d.Plan, who, sayName(name))
	default:
		x.add("plan", "There is no plan: nothing names one, and the application has no default.")
	}
}

// cost says what the request costs, and who says so.
func (x *explainer) cost() {
	d, rule := x.d, x.q.rule
	var b strings.Builder
	fmt.Fprintf(&b, "The request costs %d", d.Cost)
	method := x.q.request.Method
	switch {
	case d.CostFrom == CostSaid:
		b.WriteString(", as it says.")
	case d.CostFrom == CostOfMethod:
		if _, own := rule.cost.ByMethod[method]; !own {
			method = "GET, as HEAD has none"
		}
		fmt.Fprintf(&b, ", the rule's cost of method %s.", method)
	case d.CostFrom == CostOfExpression:
		fmt.Fprintf(&b, ", by the rule's expression %s.", saySource(rule.written.Cost.Expr))
	case rule.written == nil:
		b.WriteString(", as no rule says otherwise.")
	case rule.cost.ByMethod != nil:
		fmt.Fprintf(&b, ": the rule has no cost of method %s.", sayName(method))
	default:
		b.WriteString(", the rule's number.")
	}
	if d.Cost == 0 {
		b.WriteString(" What costs 0 is only checked.")
	}
	for _, c := range d.costs {
		fmt.Fprintf(&b, " It costs %s, %s.", sayCount(c.Cost, c.Unit), x.unitSource(c.Unit))
	}
	x.add("cost", "%s", b.String())
}

func (x *explainer) unitSource(unit string) string {
	if _, said := x.q.request.Costs[unit]; said {
		return "as it says"
	}
	i := slices.IndexFunc(x.q.rule.costs, func(u unitCost) bool { return u.unit == unit })
	if x.q.rule.costs[i].expr != nil {
		return "by the rule's expression " + saySource(x.q.rule.written.Costs[i].Cost.Expr)
	}
	return "the rule's number"
}

// mode says who refuses nobody at the moment.
func (x *explainer) mode() {
	if o := x.q.forced; o != nil {
		does := "made all limits refuse, whatever their mode in the policy"
		if o.Shadow {
			does = "put all limits in shadow, where they count and refuse nobody"
		}
		x.add("mode", "For requests of %s an operator has %s, until %s.", forcedScope(o), does, sayInstant(o.Until, x.subjectZone()))
	}
	if x.d.Shadow {
		x.add("mode", "But for being in shadow, these limits would have refused this request (%v): %s.", x.d.WouldDeny, sayList(x.refusing(true)))
	}
}

func forcedScope(o *modeOverride) string {
	switch {
	case o.Rule != "":
		return "rule " + o.Rule
	case o.Application != "":
		return "application " + o.Application
	default:
		return "all applications"
	}
}

// refusing returns the ids of the limits that refuse: those in shadow, or those
// that are not.
func (x *explainer) refusing(shadow bool) []string {
	var ids []string
	for i := range x.d.n {
		if s := &x.states[i]; !s.Allowed && s.Shadow == shadow {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// candidate says what the limits on trial would have answered.
func (x *explainer) candidate() {
	if !x.q.rule.hasCandidate {
		return
	}
	sum, states, ok := x.d.Candidate()
	if !ok {
		x.add("candidate", "The rule's candidate limits were not asked, as the store cannot decide.")
		return
	}
	would := "would let this request pass too"
	switch {
	case sum.Allowed && !x.d.Allowed:
		would = "would let this request pass"
	case !sum.Allowed && x.d.Allowed:
		would = "would refuse this request"
	case !sum.Allowed:
		would = "would refuse this request too"
	}
	x.add("candidate", "The rule's candidate limits, which are on trial beside those of the rule and refuse nobody, %s (%v).", would, sum.Reason)
	x.limits(x.q.rule.candidate, states, x.d.candidate.batch.Charges())
}

// wait says whether a Take would wait in line.
func (x *explainer) wait() {
	longest, said := x.q.wait()
	if !said || len(x.states) == 0 {
		return
	}
	r, by := x.q.request, "by the rule's max_wait"
	switch {
	case r.WaitCap > 0 && longest == r.WaitCap:
		by = "the most that this way of asking allows"
	case r.MaxWaitSaid:
		by = "as it says"
	}
	if longest <= 0 {
		x.add("wait", "The request does not wait in line, %s.", by)
		return
	}
	then := "It has nothing to wait for."
	switch {
	case x.d.Degraded != "" && x.d.Degraded != degradedLocal:
		then = "Nobody waits for the store."
	case x.d.Allowed && x.d.Delay > 0:
		then = fmt.Sprintf("A take waits %s for its turn.", saySpan(x.d.Delay))
	case x.d.Allowed:
	case x.waits():
		then = fmt.Sprintf("A take waits %s and then passes, unless others stand before it; if it still cannot pass when the time is over, it is refused with wait_timeout.", saySpan(x.d.RetryAfter))
	case r.Now != 0:
		then = "A take that says its own instant is refused at once."
	default:
		then = "That is not enough: a take is refused at once."
	}
	x.add("wait", "The request may wait in line for up to %s, %s. %s", sayExact(longest), by, then)
}

// waits reports whether a Take that is refused now would wait in line.
func (x *explainer) waits() bool {
	longest, _ := x.q.wait()
	return !x.d.Allowed && x.d.Retryable && x.d.Degraded != degradedClosed && x.d.BoundBy >= 0 && x.q.request.waits() &&
		x.d.RetryAfter <= longest && x.d.startsAfter() <= longest
}

// retry says when to ask again after a refusal.
func (x *explainer) retry() {
	d := x.d
	switch {
	case d.Allowed:
	case d.Degraded == degradedClosed:
		x.add("retry", "Ask again in %s.", saySpan(d.RetryAfter))
	case x.q.ban != nil && d.Reason == headgate.Banned:
		x.add("retry", "The ban ends at %s.", x.when(d.RetryAfter, x.subjectZone()))
	case d.BoundBy < 0:
		x.add("retry", "Asking again does not help as long as the policy stays as it is.")
	default:
		var until []string
		for i := range d.n {
			if s := &x.states[i]; !s.Allowed && !s.Shadow {
				until = append(until, x.refusesUntil(s))
			}
		}
		if !d.Retryable {
			x.add("retry", "Asking again does not help, unless it costs less: %s.", sayList(until))
			return
		}
		bound := &x.states[d.BoundBy]
		each := ""
		if len(until) > 1 {
			each = ": " + sayList(until)
		}
		x.add("retry", "The same request passes at %s, if nobody uses the same budgets before%s.", x.when(d.RetryAfter, x.zone(bound.Limit)), each)
	}
}
