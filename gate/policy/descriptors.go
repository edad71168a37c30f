package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"

	"github.com/headgate/headgate"
)

// Bounds of descriptors, in policies and in requests.
const (
	// MaxEntries is the largest number of entries of a descriptor.
	MaxEntries = 16
	// MaxEntryText is the longest key and the longest value of an entry in bytes.
	MaxEntryText = 1024
	// MaxDescriptorRules is the largest number of rules of one application, those that
	// match by descriptor among them.
	MaxDescriptorRules = 10_000
)

// Bounds of a rule's metadata.
const (
	maxMetadataDepth = 8
	maxMetadata      = 16 << 10 // bytes of keys and texts, eight for each other value
)

// DescriptorEntry is one entry that a rule asks of a descriptor.
type DescriptorEntry struct {
	// Key is 1 to MaxEntryText bytes of UTF-8.
	Key string
	// Value is what the request's must be; * stands for zero or more characters. "" is
	// any value.
	Value string
	// ShareThreshold is `share_threshold`: all values that match a Value with * share one
	// budget.
	ShareThreshold bool
	// ValueToMetric is `value_to_metric`: metrics tell the request's value.
	ValueToMetric bool
}

// Wildcard reports whether several values match, and not any.
func (e *DescriptorEntry) Wildcard() bool { return strings.Contains(e.Value, "*") }

// Variable reports whether each value that matches has a budget of its own.
func (e *DescriptorEntry) Variable() bool {
	return e.Value == "" || e.Wildcard() && !e.ShareThreshold
}

// HasSubject reports whether the rule's limits are budgets of subjects, unless they say
// else: not where it matches by a descriptor in which nothing is left open.
func (r *Rule) HasSubject() bool {
	return r.Descriptor == nil || slices.ContainsFunc(r.Descriptor, func(e DescriptorEntry) bool { return e.Variable() })
}

var (
	entryKeys = keys{allowed: []string{"key", "value", "share_threshold", "value_to_metric"}}
	// descriptorOptions are keys of rules that match by descriptor.
	descriptorOptions = []string{"quota_mode", "replaces", "detailed_metric", "metadata"}
)

const entryWant = "an entry such as {key: remote_address} or {key: path, value: /login}"

// descriptor reads the entries of match.descriptor.
func (r *reader) descriptor(v value, rule *Rule) {
	items, ok := v.list("a list of entries such as {key: remote_address}")
	if ok && len(items) == 0 {
		v.fault("is empty: must have %s", entryWant)
	}
	if len(items) > MaxEntries {
		v.fault("%d entries: at most %d", len(items), MaxEntries)
		return
	}
	rule.Descriptor = make([]DescriptorEntry, 0, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		rule.Descriptor = append(rule.Descriptor, r.entry(item))
	}
}

func (r *reader) entry(v value) DescriptorEntry {
	o := v.object(entryKeys)
	e := DescriptorEntry{Key: r.entryText(o.need("key", "an entry needs a key"))}
	if v := o.at("value"); v.present() {
		if s, ok := v.scalar(); ok && s == "" {
			v.fault("is empty: leave value out for any value")
		} else {
			e.Value = r.entryText(v)
		}
	}
	if share := o.at("share_threshold"); share.present() {
		if e.ShareThreshold = share.boolean(); e.ShareThreshold && !e.Wildcard() {
			share.fault("only values with a * share one budget: this entry has %s", map[bool]string{true: "any value", false: "one value"}[e.Value == ""])
		}
	}
	if metric := o.at("value_to_metric"); metric.present() {
		e.ValueToMetric = metric.boolean()
	}
	return e
}

func (r *reader) entryText(v value) string {
	s, ok := v.text(wantText)
	if ok && len(s) > MaxEntryText {
		v.fault("%d bytes: at most %d", len(s), MaxEntryText)
	}
	return s
}

// descriptorKey is the same only for equal lists of keys and values.
func descriptorKey(entries []DescriptorEntry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%d %s%d %s", len(e.Key), e.Key, len(e.Value), e.Value)
	}
	return b.String()
}

// asksDescriptor reports whether a rule matches by descriptor, before it is read.
func asksDescriptor(rule value) bool {
	return hasKey(nodeAt(rule.node, "match"), "descriptor")
}

func nodeAt(node ast.Node, key string) ast.Node {
	m, ok := plainNode(node).(*ast.MappingNode)
	if !ok {
		return nil
	}
	for _, pair := range m.Values {
		if keyName(pair) == key {
			return pair.Value
		}
	}
	return nil
}

func hasKey(node ast.Node, key string) bool { return nodeAt(node, key) != nil }

// descriptorRule reads what only rules with match.descriptor have, and refuses what they
// cannot have.
func (r *reader) descriptorRule(o object, rule *Rule) {
	if rule.Descriptor == nil {
		for _, key := range descriptorOptions {
			if v := o.at(key); v.present() {
				v.fault("only a rule with match: {descriptor: ...} has %s", key)
			}
		}
		return
	}
	if wait := o.at("max_wait"); rule.MaxWait > 0 {
		wait.fault("who asks with descriptors does not wait: leave max_wait out")
	}
	if v := o.at("quota_mode"); v.present() {
		rule.QuotaMode = v.boolean()
	}
	if v := o.at("detailed_metric"); v.present() {
		rule.DetailedMetric = v.boolean()
	}
	rule.Replaces = r.replaces(o.at("replaces"), rule.Name)
	if v := o.at("metadata"); v.present() {
		rule.Metadata = r.metadata(v)
	}
	if rule.HasSubject() {
		return
	}
	if ban := o.at("ban"); ban.present() {
		ban.fault("there is no subject to ban: every entry has one value, or one budget for all of them")
	}
	for i := range rule.Limits {
		if l := &rule.Limits[i]; l.Owner == OwnerSubject {
			r.fault(l.Pos, fmt.Sprintf("%s[%d].per", o.at("limits").path, i), "there is no subject: every entry has one value, or one budget for all of them; leave per out")
		}
	}
}

func (r *reader) replaces(v value, own string) []string {
	if !v.present() {
		return nil
	}
	items, ok := v.list("a list of names of rules")
	if ok && len(items) == 0 {
		v.fault("is empty: leave replaces out")
	}
	if len(items) > MaxDescriptorRules {
		v.fault("%d rules: at most %d", len(items), MaxDescriptorRules)
		return nil
	}
	names := make([]string, 0, len(items))
	seen := make(map[string]bool, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		name := r.name(item)
		switch {
		case name == "":
		case name == own:
			item.fault("%s is this rule: it cannot replace itself", name)
		case seen[name]:
			item.fault("is listed twice")
		default:
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// warnReplaced tells of names in replaces that no rule has.
func (r *reader) warnReplaced(lists []value, known map[string]int) {
	for _, list := range lists {
		n, ok := list.node.(*ast.SequenceNode)
		if !ok {
			continue
		}
		for i := range n.Values {
			item := list.child(n.Values[i], fmt.Sprintf("[%d]", i), list.pos)
			if name, ok := item.scalar(); ok && known[name] == 0 {
				item.warn("there is no rule %s in this application: it replaces nothing", quoted(name))
			}
		}
	}
}

// metadata decodes what doors hand on as it is: mappings with text keys, lists, texts,
// numbers, true, false and null.
func (r *reader) metadata(v value) any {
	if _, ok := v.entries("a mapping"); !ok {
		return nil
	}
	d := decoder{r: r, at: v}
	out := d.value(v, 1)
	if d.size > maxMetadata {
		v.fault("more than %d bytes", maxMetadata)
	}
	return out
}

// decoder measures what it decodes.
type decoder struct {
	r    *reader
	at   value
	size int
}

func (d *decoder) value(v value, depth int) any {
	if d.size > maxMetadata || d.r.full() {
		return nil
	}
	if depth > maxMetadataDepth {
		v.fault("nested more than %d levels deep", maxMetadataDepth)
		return nil
	}
	d.size += 8
	switch n := v.node.(type) {
	case *ast.MappingNode:
		entries, _ := v.entries("a mapping")
		out := make(map[string]any, len(entries))
		for _, e := range entries {
			d.size += len(e.name)
			out[e.name] = d.value(e.value, depth+1)
		}
		return out
	case *ast.SequenceNode:
		items, _ := v.list("a list")
		out := make([]any, len(items))
		for i, item := range items {
			out[i] = d.value(item, depth+1)
		}
		return out
	case *ast.BoolNode:
		return n.Value
	case *ast.NullNode:
		return nil
	case *ast.IntegerNode:
		return d.integer(v, n)
	case *ast.FloatNode:
		if math.IsInf(n.Value, 0) || math.IsNaN(n.Value) {
			break
		}
		return n.Value
	default:
		if s, ok := v.scalar(); ok {
			d.size += len(s)
			return s
		}
	}
	v.fault("must be text, a finite number, true, false, null, a list or a mapping")
	return nil
}

// integer returns a number as doors write it exactly.
func (d *decoder) integer(v value, n *ast.IntegerNode) any {
	switch i := n.Value.(type) {
	case int64:
		if i >= -headgate.MaxInt && i <= headgate.MaxInt {
			return i
		}
	case uint64:
		if i <= headgate.MaxInt {
			return int64(i)
		}
	}
	v.fault("%s is too large a number: put it in quotes", quoted(n.GetToken().Value))
	return nil
}

// maxDomain is the longest domain in bytes.
const maxDomain = 256

// domain reads the Envoy domain that an application answers for: its name unless said.
func (r *reader) domain(v value, a *Application, at value) string {
	domain := a.Name
	if v.present() {
		at = v
		domain, _ = v.text(wantText)
		switch {
		case len(domain) > maxDomain:
			v.fault("%d bytes: at most %d", len(domain), maxDomain)
		case strings.ContainsFunc(domain, unicode.IsControl) || !utf8.ValidString(domain):
			v.fault("%s: no control characters", quoted(domain))
		}
	}
	if domain == "" {
		return "" // has a fault already
	}
	if line, ok := r.domains[domain]; ok {
		at.fault("the domain %s is taken: another application has it, in line %d", quoted(domain), line)
	} else {
		r.domains[domain] = at.pos.Line
	}
	return domain
}
