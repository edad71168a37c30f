package gate

import (
	"fmt"

	"github.com/headgate/headgate/gate/policy"
)

// matchDescriptor says which rule has the descriptor.
func (x *explainer) matchDescriptor() {
	r, w := x.q.request, x.q.rule.written
	if w == nil {
		x.add("match", "The request says its limit itself, for descriptor %s of application %s: no rule is looked for.", sayEntries(r.Descriptor, nil), x.q.app.name)
		return
	}
	more := ""
	if w.QuotaMode {
		more += " In a call with other rules in quota mode, one that passes is enough (quota_mode)."
	}
	if len(w.Replaces) > 0 {
		more += fmt.Sprintf(" In the same call nothing is charged for %s (replaces).", sayFew(w.Replaces))
	}
	x.add("match", "Rule %s of application %s has the descriptor, by %s.%s", w.Name, x.q.app.name, sayEntries(r.Descriptor, w.Descriptor), more)
}

// sayEntries says what a descriptor has, and what of it the rule asks for.
func sayEntries(entries []Entry, asked []policy.DescriptorEntry) string {
	said := make([]string, len(entries))
	for i, e := range entries {
		said[i] = sayQuoted(e.Key) + " " + sayQuoted(e.Value)
		switch {
		case asked == nil:
		case asked[i].Value == "":
			said[i] += " (any value)"
		case asked[i].Wildcard():
			said[i] += fmt.Sprintf(" (pattern %s)", sayQuoted(asked[i].Value))
		}
	}
	return sayList(said)
}
