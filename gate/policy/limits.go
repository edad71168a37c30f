package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // quotas name time zones, and small systems have no files of them

	"github.com/headgate/headgate"
)

// place says in which list a limit stands.
type place uint8

const (
	inPlan place = iota
	inApplication
	inRule
	inCandidate
)

var limitKeys = keys{
	allowed: []string{
		"name", "algorithm", "rate", "burst", "max", "ttl", "slices", "timezone", "anchor", "soft", "rollover",
		"per", "across", "unit", "plans", "on_store_error", "mode", "enforce_percent", "when_missing", "release",
	},
	later: map[string]string{"adaptive": "adaptive limits"},
	elsewhere: map[string]string{
		"ban":       "a ban stands on a rule or application",
		"candidate": "candidate limits stand on a rule",
		"max_wait":  "max_wait stands on a rule",
		"costs":     "costs stand on a rule",
	},
}

// candidateLimitKeys are the keys of limits that are never enforced.
var candidateLimitKeys = keys{
	allowed: slices.DeleteFunc(slices.Clone(limitKeys.allowed), func(key string) bool {
		return key == "mode" || key == "enforce_percent" || key == "on_store_error"
	}),
	later: limitKeys.later,
	elsewhere: map[string]string{
		"mode":            neverEnforced,
		"enforce_percent": neverEnforced,
		"on_store_error":  neverEnforced,
		"ban":             neverEnforced,
		"candidate":       "candidates have no candidates",
	},
}

var variantKeys = keys{allowed: []string{"rate", "burst", "max", "ttl", "slices", "timezone", "anchor", "soft", "rollover"}}

var (
	rolloverKeys = keys{allowed: []string{"max"}}
	perKeys      = keys{allowed: []string{"expr"}}
)

// numberKeys are the algorithms that a number belongs to; the numbers of
// variants are checked by the same table.
var numberKeys = []struct {
	key   string
	takes []headgate.Algorithm
}{
	{"rate", []headgate.Algorithm{headgate.TokenBucket, headgate.LeakyBucket, headgate.FixedWindow, headgate.SlidingWindow, headgate.SlidingLog, headgate.Quota}},
	{"burst", []headgate.Algorithm{headgate.TokenBucket, headgate.LeakyBucket}},
	{"slices", []headgate.Algorithm{headgate.SlidingWindow}},
	{"timezone", []headgate.Algorithm{headgate.Quota}},
	{"anchor", []headgate.Algorithm{headgate.Quota}},
	{"soft", []headgate.Algorithm{headgate.Quota}},
	{"rollover", []headgate.Algorithm{headgate.Quota}},
	{"max", []headgate.Algorithm{headgate.Concurrency}},
	{"ttl", []headgate.Algorithm{headgate.Concurrency}},
	{"release", []headgate.Algorithm{headgate.Concurrency}},
}

// limits reads a list of limits.
func (r *reader) limits(v value, in place) []Limit {
	if !v.present() {
		return nil
	}
	if v.is("unlimited") {
		v.fault("must be a list of limits: write [] for none")
		return nil
	}
	items, _ := v.list("a list of limits")
	limits := make([]Limit, 0, len(items))
	first := make(map[string]int, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		l := r.limit(item, in)
		if line, ok := first[l.Name]; ok && l.Name != "" {
			item.fault("the name %s is taken: another limit of this list has it, in line %d", l.Name, line)
		} else {
			first[l.Name] = item.pos.Line
		}
		limits = append(limits, l)
	}
	return limits
}

func (r *reader) limit(v value, in place) Limit {
	known := limitKeys
	if in == inCandidate {
		known = candidateLimitKeys
	}
	o := v.object(known)
	l := Limit{Unit: Requests, Pos: v.pos}
	l.Name = r.name(o.need("name", "a limit needs a name"))
	if !o.ok {
		return l
	}
	if r.algorithm(o.at("algorithm"), &l) {
		if r.zero = r.byDescriptor && (l.Algorithm == headgate.FixedWindow || l.Algorithm == headgate.Quota); r.zero {
			s, _ := o.at("rate").scalar()
			l.Nothing = strings.HasPrefix(s, "0/")
		}
		r.numbers(o, &l.Limit, &l.Unlimited)
		r.zero = false
		if l.Nothing && (l.Soft || l.Rollover > 0) {
			o.at("rate").fault("a count of 0 refuses all that costs anything: leave soft and rollover out")
		}
		l.Variants = r.variants(o.at("plans"), &l, in)
	}
	if unit := o.at("unit"); unit.present() {
		l.Unit = r.name(unit)
	}
	r.owner(o, &l)
	if release := o.at("release"); release.present() {
		release.word("ttl")
		l.ReleasedByTTL = true
	} else if l.Algorithm == headgate.Concurrency && countLimits([]Limit{l}) > 0 {
		if in == inCandidate {
			r.fault(o.pos, o.path+".release", "missing: nobody releases the slots of a candidate: write release: ttl")
		} else if r.byDescriptor {
			o.warn("Envoys release nothing, and are refused where they meet this limit: write release: ttl")
		} else {
			r.kept = append(r.kept, o.value)
		}
	}
	away := o.at("on_store_error")
	if l.OnStoreError = r.onStoreError(away); closedUnlessSaid(l.Algorithm) {
		away.warnLocal(l.OnStoreError, l.Name)
	}
	if away.is("local") && l.Count == 1 && l.Burst <= 1 {
		away.warn("local is closed for a limit of 1: a node's share of it is less than one, even if there is one node")
	}
	l.Mode = r.mode(o)
	return l
}

// algorithms are those that a limit may name.
var algorithms = []string{"token_bucket", "leaky_bucket", "fixed_window", "sliding_window", "sliding_log", "quota", "concurrency"}

// algorithm reports whether the numbers can be judged.
func (r *reader) algorithm(v value, l *Limit) bool {
	if !v.present() {
		return true
	}
	want := "one of " + strings.Join(algorithms, ", ")
	s, ok := v.text(want)
	if !ok {
		return false
	}
	switch {
	case slices.Contains(algorithms, s):
		l.Algorithm, ok = headgate.ParseAlgorithm(s)
		return ok
	case s == "ban":
		v.fault("ban is no limit: write ban: {after: 50, within: 1m, for: 15m} on the rule or application")
	default:
		v.fault("unknown algorithm %s: must be %s%s", quoted(s), want, didYouMean(s, algorithms))
	}
	return false
}

// numbers reads what the algorithm of l counts with, and prepares it. It
// removes from o what does not belong to the algorithm, as it is reported.
func (r *reader) numbers(o object, l *headgate.Limit, unlimited *bool) {
	before := r.found
	main := "rate"
	if l.Algorithm == headgate.Concurrency {
		main = "max"
	}
	*unlimited = o.at(main).is("unlimited")
	for _, n := range numberKeys {
		v := o.at(n.key)
		switch {
		case !v.present():
		case !slices.Contains(n.takes, l.Algorithm):
			v.fault("%v has no %s: only %s", l.Algorithm, n.key, algorithmList(n.takes))
			delete(o.fields, n.key)
		case *unlimited && n.key != main && n.key != "release":
			v.fault("an unlimited limit has no %s", n.key)
			delete(o.fields, n.key)
		}
	}
	if *unlimited {
		return
	}
	if main == "max" {
		l.Count, _ = o.need("max", "the number of requests that may be in flight, or unlimited").integer(1, headgate.MaxInFlight)
		if v := o.at("ttl"); v.present() {
			l.TTL = r.longer(v)
		} else if l.TTL == 0 {
			l.TTL = DefaultTTL
		}
	} else {
		r.rate(o.need("rate", "a count per time such as 100/h, or unlimited"), l)
	}
	l.Burst, _ = o.at("burst").integer(1, headgate.MaxInt)
	if v := o.at("slices"); v.present() {
		n, _ := v.integer(1, headgate.MaxSlices)
		l.Slices = int(n)
	}
	r.calendar(o, l)
	if r.found != before || !o.ok {
		return
	}
	// Names have faults of their own.
	named := *l
	named.Name = "x"
	p, err := named.Prepare()
	if err != nil {
		r.prepareFault(o, main, err)
		return
	}
	p.Name = l.Name
	*l = p.Limit
	r.warnNumbers(o, l)
}

// prepareFault reports err where the number stands that it starts with.
func (r *reader) prepareFault(o object, main string, err error) {
	err = innermost(err)
	word, _, _ := strings.Cut(err.Error(), " ")
	key := word
	if word == "count" || word == "period" {
		key = main
	}
	v := o.at(key)
	if !v.present() {
		v = o.at(main)
	}
	v.fault("%v", err)
}

func algorithmList(as []headgate.Algorithm) string {
	names := make([]string, 0, len(as))
	for _, a := range as {
		names = append(names, a.String())
	}
	return strings.Join(names, ", ")
}

func (r *reader) rate(v value, l *headgate.Limit) {
	if !v.present() {
		return
	}
	s, ok := v.text("text such as 100/h, or unlimited")
	if !ok {
		return
	}
	if rest, ok := strings.CutPrefix(s, "0/"); ok && r.zero {
		s = "1/" + rest
	}
	var err error
	if l.Algorithm == headgate.Quota {
		l.Count, l.Calendar.Unit, err = parseQuota(s)
	} else {
		l.Count, l.Period, err = ParseRate(s)
	}
	if err != nil {
		v.fault("%v%s", err, didYouMean(s, []string{"unlimited"}))
	}
}

// calendar reads what only quotas have.
func (r *reader) calendar(o object, l *headgate.Limit) {
	if v := o.at("timezone"); v.present() {
		l.Calendar.Location = r.zone(v)
	}
	if v := o.at("anchor"); v.present() {
		l.Calendar.Anchor = r.anchor(v, l.Calendar.Unit)
	}
	if v := o.at("soft"); v.present() {
		l.Soft = v.boolean()
	}
	if v := o.at("rollover"); v.present() {
		limit := v.object(rolloverKeys)
		l.Rollover, _ = limit.need("max", "the most that is carried over").integer(1, headgate.MaxInt)
	}
}

func (r *reader) zone(v value) *time.Location {
	s, ok := v.text("text: a time zone such as Europe/Paris")
	if !ok {
		return nil
	}
	loc, known := r.zones[s]
	if !known && len(s) <= 64 && s != "Local" { // which is another zone on every machine
		loc, _ = time.LoadLocation(s) // reads files: once for a name, not for every subject
		r.zones[s] = loc
	}
	if loc == nil {
		v.fault("%s is not a time zone: write its IANA name, such as Europe/Paris or UTC", quoted(s))
		return nil
	}
	return loc
}

func (r *reader) anchor(v value, unit headgate.CalendarUnit) int {
	switch unit {
	case headgate.Month:
		day, _ := v.integer(1, 31)
		return int(day)
	case headgate.Week:
		return v.word(weekdays...) + 1
	case headgate.Year:
		if s, ok := v.text("text: month and day, such as 04-01"); ok {
			at, err := parseYearDay(s)
			if err != nil {
				v.fault("%v", err)
			}
			return at
		}
	case headgate.Hour, headgate.Day:
		v.fault("a quota per %v has no anchor: only week, month and year", unit)
	}
	return 0
}

// variants reads the numbers for subjects on plans. A variant says rate or max
// anew; a bucket's burst is then the rate's count unless said, as everywhere;
// the rest is the limit's unless said.
func (r *reader) variants(v value, l *Limit, in place) []Variant {
	if !v.present() {
		return nil
	}
	if in == inPlan {
		v.fault("the limits of a plan have no plans of their own: only those of rules and applications")
		return nil
	}
	entries, _ := v.entries("a mapping of plans to numbers")
	variants := make([]Variant, 0, len(entries))
	first := planPeriod{"other plans", periodOf(&l.Limit, l.Unlimited)}
	for _, e := range entries {
		if r.full() {
			break
		}
		r.knownPlan(e.key, e.name)
		variant := Variant{Plan: e.name, Limit: l.Limit}
		if e.is("unlimited") {
			variant.Unlimited = true
		} else {
			r.numbers(e.object(variantKeys), &variant.Limit, &variant.Unlimited)
		}
		first.compare(e.value, l.Name, planPeriod{"plan " + e.name, periodOf(&variant.Limit, variant.Unlimited)})
		variants = append(variants, variant)
	}
	return variants
}

func (r *reader) owner(o object, l *Limit) {
	per := o.at("per")
	const want = "subject, application, global or {expr: ...}"
	switch {
	case !per.present():
	case per.is("subject"):
		l.Owner = OwnerSubject
	case per.is("application"):
		l.Owner = OwnerApplication
	case per.is("global"):
		l.Owner = OwnerGlobal
	default:
		if s, ok := per.scalar(); ok {
			per.fault("%s: must be %s%s", quoted(s), want, didYouMean(s, []string{"subject", "application", "global"}))
			break
		}
		if describe(per.node) != "a mapping" {
			per.mistyped(want)
			break
		}
		expr := per.object(perKeys)
		l.Owner = OwnerExpr
		l.OwnerExpr = r.expr(expr.need("expr", "an expression that yields the owner"), StringExpr)
		if readsHeaders(l.OwnerExpr) {
			expr.at("expr").warn("the owner comes from a header: who can set it can choose whose budget is charged")
		}
	}
	missing := o.at("when_missing")
	l.SkipWhenMissing = missing.word("deny", "skip") == 1
	if missing.present() && l.Owner != OwnerExpr && l.Unit == Requests {
		missing.fault("only a limit with per: {expr: ...} or another unit than requests needs what may be missing")
	}
	across := o.at("across")
	across.word("all")
	l.Across = across.is("all")
	if l.Across && l.Owner == OwnerGlobal {
		across.warn("per: global is shared between applications without it")
	}
}

func (r *reader) name(v value) string {
	s, ok := v.text(wantName)
	if !ok {
		return ""
	}
	return r.checkName(v, s)
}

// checkName returns name, or "" after a fault at v.
func (r *reader) checkName(v value, name string) string {
	if err := headgate.CheckName(name); err != nil {
		v.fault("%s", cut(err.Error()))
		return ""
	}
	return name
}

func (r *reader) duration(v value) time.Duration {
	s, ok := v.text("text: a duration such as 30s")
	if !ok {
		return 0
	}
	d, err := parseDuration(s)
	if err != nil {
		v.fault("%v", err)
	}
	return d
}

// expr returns the source of an expression that compiles.
func (r *reader) expr(v value, kind ExprKind) string {
	s, ok := v.text("text: an expression")
	if !ok {
		return ""
	}
	if r.check != nil {
		if err := r.check(s, kind); err != nil {
			v.fault("%s", oneLine(err.Error()))
		}
	}
	return s
}

// cut shortens the text of an error that may quote a long value.
func cut(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s...", strings.ToValidUTF8(s[:most], ""))
}
