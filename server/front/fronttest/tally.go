package fronttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate/headgate/gate/gatetest"
)

// Tally counts what came of steps by what it was, to show that random requests come to
// everything that there is.
type Tally struct{ counts map[string]int }

// Add counts outcomes.
func (y *Tally) Add(list []Outcome) {
	if y.counts == nil {
		y.counts = make(map[string]int)
	}
	for i := range list {
		o := &list[i]
		if o.err != nil {
			code, field := fault(o.err)
			field, _, _ = strings.Cut(field, ".")
			y.counts[fmt.Sprintf("error %v %s", code, field)]++
			continue
		}
		y.countIf(o.told.Verdict != "", "explained")
		y.countIf(len(o.each) > 0, "each")
		y.Add(o.each)
		for _, a := range o.answers {
			if a.Reason == "" {
				y.counts["reset"]++
				continue
			}
			y.countIf(slices.ContainsFunc(a.Limits, func(s gatetest.State) bool { return s.ID == "throttle" }), "throttled")
			y.counts[a.Reason]++
			y.countIf(a.Shadow, "in shadow")
			y.countIf(a.Replayed, "replayed")
			y.countIf(a.Held, "held")
			y.countIf(a.Candidate != nil, "with candidate")
			y.countIf(a.Costs != nil, "with units")
		}
		for _, s := range o.verdict.Statuses {
			y.counts["envoy"]++
			y.countIf(s.Over, "envoy over")
			y.countIf(!s.Limited, "envoy without limit")
		}
	}
}

func (y *Tally) countIf(is bool, what string) {
	if is {
		y.counts[what]++
	}
}

// Of returns how often something came, such as "rate_limited" or "replayed".
func (y *Tally) Of(what string) int { return y.counts[what] }

func (y *Tally) String() string {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(y.counts)) {
		fmt.Fprintf(&b, "%s: %d; ", what, y.counts[what])
	}
	return strings.TrimSuffix(b.String(), "; ")
}
