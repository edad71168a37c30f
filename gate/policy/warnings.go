package policy

import (
	"fmt"
	"math/bits"
	"regexp"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// warnNumbers tells of numbers that are allowed and seldom meant.
//
// The advice is a burst of 5 to 10 times the rate of a second, but a rate of
// 100/h with a burst of 110 is as sound: its burst is an hour's worth. So only
// what is far off either way is told: a burst that is written and holds less
// than one second of the rate, so that a client which collects a second's work
// is refused though it keeps the rate; and one of more than 100 times the
// rate's count, so that one quiet client may send 100 periods' worth at once.
func (r *reader) warnNumbers(o object, l *headgate.Limit) {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		if l.Algorithm == headgate.LeakyBucket && r.maxWait == 0 && exceeds(l.Burst, int64(l.Period), l.Count, int64(MaxMaxWait)) {
			o.warn("a request may be told to wait %v, until those before it have left: set a smaller burst, or max_wait on the rule", drain(l))
		}
		burst := o.at("burst")
		if !burst.present() {
			return
		}
		if exceeds(l.Count, int64(time.Second), l.Burst, int64(l.Period)) {
			burst.warn("burst %d is less than one second of the rate: a client that sends a second's requests at once is refused though it keeps the rate", l.Burst)
		}
		if exceeds(l.Burst, 1, l.Count, 100) {
			burst.warn("burst %d is more than 100 times the rate's %d: that much may pass at once; 5 to 10 times a second's rate is usual", l.Burst, l.Count)
		}
	case headgate.FixedWindow:
		if r.byDescriptor {
			return // who asks with descriptors expects these windows
		}
		o.warn("fixed_window bounds its aligned windows only: up to %d may pass in a short time around a boundary; sliding_window never passes more than %d", 2*l.Count, l.Count)
	case headgate.SlidingWindow:
		if l.Slices == 1 {
			at := o.at("slices")
			if !at.present() {
				at = o.value // a variant has the slices of its limit
			}
			at.warn("with one slice sliding_window is an estimate that bounds its aligned windows only: 10 slices never pass more than %d", l.Count)
		}
	}
}

// drain returns how long a full bucket takes to empty. Prepare holds it to 100
// years, so it fits.
func drain(l *headgate.Limit) time.Duration {
	hi, lo := bits.Mul64(uint64(l.Burst), uint64(l.Period))
	ns, _ := bits.Div64(hi, lo, uint64(l.Count))
	return time.Duration(ns).Round(time.Second)
}

// exceeds reports whether a*b > c*d, for numbers that are not negative.
func exceeds(a, b, c, d int64) bool {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	hi2, lo2 := bits.Mul64(uint64(c), uint64(d))
	return hi > hi2 || hi == hi2 && lo > lo2
}

// warnKept tells of limits of an application with identity, to which requests
// may come by doors that cannot release, and of those of plans once.
func (r *reader) warnKept() {
	for _, limits := range [][]value{r.kept, r.keptPlans} {
		for _, l := range limits {
			l.warn("doors that cannot release, such as forward-auth, refuse requests that meet this limit: write release: ttl if requests come by them")
		}
	}
	r.keptPlans = nil
}

// planPeriod is for how long the limit of a plan counts, "" if it has no period.
type planPeriod struct{ plan, period string }

// compare warns at v if the limit that is here counts for another time than in
// the plan that first had a period: whatever its plan, a subject has one budget.
func (first *planPeriod) compare(v value, limit string, here planPeriod) {
	switch {
	case here.period == "":
	case first.period == "":
		*first = here
	case here.period != first.period:
		v.warn("%s counts per %s here and per %s on %s: a subject that changes plan is forgiven what it has used when the shorter period ends", limit, here.period, first.period, first.plan)
	}
}

// comparePeriods compares the limits of a plan with those of the same name of
// the plans before it.
func (r *reader) comparePeriods(limits value, p *Plan) {
	for i := range p.Limits {
		l := &p.Limits[i]
		if l.Owner != OwnerDefault && l.Owner != OwnerSubject {
			continue // one budget per plan
		}
		first := r.periods[l.Name]
		at := value{r: r, path: fmt.Sprintf("%s[%d]", limits.path, i), pos: l.Pos}
		first.compare(at, l.Name, planPeriod{"plan " + p.Name, periodOf(&l.Limit, l.Unlimited)})
		r.periods[l.Name] = first
	}
}

// periodOf says after how long l forgets all at once or bit by bit, "" for
// buckets, slots and limits without numbers.
func periodOf(l *headgate.Limit, unlimited bool) string {
	if unlimited || l.Count == 0 {
		return ""
	}
	switch l.Algorithm {
	case headgate.FixedWindow, headgate.SlidingWindow, headgate.SlidingLog:
		return l.Period.String()
	case headgate.Quota:
		return l.Calendar.Unit.String()
	default:
		return ""
	}
}

// warnSlips tells of operations that look like one, written in two ways: the
// requests that name the other one then meet no rule.
func (r *reader) warnSlips(matches []match, rules []Rule) {
	var seen []*match
	known := make(map[string]bool)
	for i := range matches {
		m := &matches[i]
		if !m.ok || m.operation == "" || known[m.operation] {
			continue
		}
		known[m.operation] = true
		for _, o := range seen {
			if slip(o.operation, m.operation) {
				m.at.warn("operation %s is written %s in rules[%d] %s, in line %d: a request that names one does not meet the rule of the other", quoted(m.operation), quoted(o.operation), o.rule, rules[o.rule].Name, rules[o.rule].Pos.Line)
				break
			}
		}
		seen = append(seen, m)
	}
}

// slip reports whether two names are likely one with a typing error: they differ
// in case, or in one letter, added, lost, changed or swapped with its neighbour.
// Numbers, plurals and words of less than 5 letters, such as get and set, differ
// on purpose, and so do long names.
func slip(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b) > maxWord || len(b) > len(a)+1 {
		return false
	}
	if strings.EqualFold(a, b) {
		return true
	}
	head := 0
	for head < len(a) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	was, is, after := a[head:len(a)-tail], b[head:len(b)-tail], b[len(b)-tail:]
	swapped := len(was) == 2 && len(is) == 2 && was[0] == is[1] && was[1] == is[0]
	switch {
	case !swapped && len(is) > 1:
		return false
	case strings.Trim(was+is, lower) != "":
		return false
	case was == "" && is == "s" && strings.TrimLeft(after, lower) == after:
		return false // a plural
	}
	return len(wordAround(b, head)) >= 5
}

const lower = "abcdefghijklmnopqrstuvwxyz"

// wordAround returns the word that s[at], a lower-case letter, is in: lower-case
// letters, and the capital before them.
func wordAround(s string, at int) string {
	start := len(strings.TrimRight(s[:at], lower))
	if start > 0 && 'A' <= s[start-1] && s[start-1] <= 'Z' {
		start--
	}
	return s[start : len(s)-len(strings.TrimLeft(s[at:], lower))]
}

// requestUse finds each use of request and the field that is read directly.
var requestUse = regexp.MustCompile(`\brequest\b(?:\s*\.\s*([a-z]+)\b)?`)

// readsHeaders reports whether an expression may read a header. It errs on the
// side of yes: any use of request but for its other fields counts.
func readsHeaders(source string) bool {
	for _, use := range requestUse.FindAllStringSubmatch(source, -1) {
		switch use[1] {
		case "method", "path", "query", "ip", "host":
		default:
			return true
		}
	}
	return false
}
