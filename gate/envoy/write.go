package envoy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// writer writes the policy.
type writer struct {
	reader *reader
	out    []byte
	apps   names
	rules  names // of the domain that is being written
}

// node is a descriptor that becomes a rule, and how one gets there.
type node struct {
	*descriptor
	path []*descriptor
	name string
}

// domain writes an application.
func (w *writer) domain(d *domain) {
	if w.out == nil {
		w.out = append(w.out, "version: 1\napplications:\n"...)
	}
	name := w.apps.take(d.name, d.name)
	w.text("  # from ", comment(strings.Join(d.files, ", ")), "\n  ", quote(name), ":\n")
	if name != d.name {
		w.text("    domain: ", quote(d.name), "\n")
	}
	w.text("    on_no_match: allow\n")
	w.rules = names{reserved: []string{"app", "plan", "override"}}
	nodes := w.nodes(nil, nil, d.descriptors)
	if len(nodes) == 0 {
		return
	}
	named := make(map[string][]string) // rules by the name of their rate_limit
	for i := range nodes {
		n := &nodes[i]
		path := make([]entry, len(n.path))
		for j, p := range n.path {
			path[j] = p.entry
		}
		n.name = w.rules.take(ruleText(path))
		if n.limit != nil && n.limit.name != "" {
			named[n.limit.name] = append(named[n.limit.name], n.name)
		}
	}
	w.text("    rules:\n")
	for i := range nodes {
		w.rule(&nodes[i], named)
	}
}

// nodes returns what becomes a rule, in the order of the file: descriptors with a limit,
// and those without one and with nothing below, which let pass what others beside them
// would refuse.
func (w *writer) nodes(list []node, path, level []*descriptor) []node {
	for _, d := range level {
		here := append(slices.Clip(path), d)
		if d.limit != nil || len(d.descriptors) == 0 {
			list = append(list, node{descriptor: d, path: here})
		}
		list = w.nodes(list, here, d.descriptors)
	}
	return list
}

func (w *writer) rule(n *node, named map[string][]string) {
	w.text("      # ", comment(n.at.file), ":", strconv.Itoa(n.at.pos.Line), "\n")
	w.text("      - name: ", quote(n.name), "\n        match: {descriptor: [")
	for i, p := range n.path {
		if i > 0 {
			w.text(", ")
		}
		w.text("{key: ", quote(p.key))
		if p.value != "" {
			w.text(", value: ", quote(p.value))
		}
		if p.share {
			w.text(", share_threshold: true")
		}
		if p.toMetric {
			w.text(", value_to_metric: true")
		}
		w.text("}")
	}
	w.text("]}\n")
	l := n.limit
	if l == nil {
		w.text("        skip: \"true\"\n")
		return
	}
	if n.shadow {
		w.text("        mode: shadow\n")
	}
	for _, option := range []struct {
		key string
		on  bool
	}{{"quota_mode", n.quota && !l.unlimited}, {"detailed_metric", n.detailed}} {
		if option.on {
			w.text("        ", option.key, ": true\n")
		}
	}
	w.replaces(l, named)
	if n.metadata != nil {
		w.text("        metadata: ")
		w.anything(n.metadata)
		w.text("\n")
	}
	w.text("        limits: [", w.limit(l), "]\n")
}

// replaces writes which rules the limit stands in for: all that have one of the names.
func (w *writer) replaces(l *limit, named map[string][]string) {
	var rules []string
	for _, r := range l.replaces {
		if len(named[r.name]) == 0 {
			w.reader.warn(r.at, "no rate_limit of this domain has the name %q: it replaces nothing", short(r.name))
		}
		for _, rule := range named[r.name] {
			if !slices.Contains(rules, rule) {
				rules = append(rules, rule)
			}
		}
	}
	if len(rules) == 0 {
		return
	}
	w.text("        replaces: [")
	for i, rule := range rules {
		if i > 0 {
			w.text(", ")
		}
		w.text(quote(rule))
	}
	w.text("]\n")
}

// Names of limits of which the rate_limit has none.
const (
	perUnit   = "per_" // and the unit
	unlimited = "unlimited"
)

// Unnamed reports whether the limit of a written policy that has this name got it because
// its rate_limit has none, of which envoyproxy/ratelimit tells an empty one.
func Unnamed(name string) bool {
	word, ok := strings.CutPrefix(name, perUnit)
	return name == unlimited || ok && slices.ContainsFunc(units, func(u unit) bool { return u.name == word })
}

// limit returns the limit in braces. Its name is that of the rate_limit, else one after its
// unit, which no rate_limit of that name gets.
func (w *writer) limit(l *limit) string {
	name := perUnit + l.unit.name
	if l.unlimited {
		name = unlimited
	}
	if l.name != "" {
		var one names
		if Unnamed(l.name) {
			one.reserved = []string{l.name}
		}
		name = one.take(l.name, l.name)
	}
	switch {
	case l.unlimited:
		return fmt.Sprintf("{name: %s, rate: unlimited}", quote(name))
	case w.reader.options.Calendar && l.unit.calendar != "" && l.count > 0:
		return fmt.Sprintf("{name: %s, algorithm: quota, rate: %d/%s}", quote(name), l.count, l.unit.calendar)
	default:
		return fmt.Sprintf("{name: %s, algorithm: fixed_window, rate: %d/%s}", quote(name), l.count, l.unit.window)
	}
}

func (w *writer) text(parts ...string) {
	for _, p := range parts {
		w.out = append(w.out, p...)
	}
}

// anything writes metadata in braces.
func (w *writer) anything(v any) {
	switch v := v.(type) {
	case []pair:
		w.text("{")
		for i, p := range v {
			if i > 0 {
				w.text(", ")
			}
			w.text(quoted(p.key), ": ")
			w.anything(p.value)
		}
		w.text("}")
	case []any:
		w.text("[")
		for i, e := range v {
			if i > 0 {
				w.text(", ")
			}
			w.anything(e)
		}
		w.text("]")
	case string:
		w.text(quoted(v))
	case number:
		w.text(string(v))
	case bool:
		w.text(strconv.FormatBool(v))
	default:
		w.text("null")
	}
}

// words are texts that are something else without quotes, to some readers of YAML.
var words = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}

// quote returns s as YAML reads it as text, bare where that is plain.
func quote(s string) string {
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-' || c == '/'):
		default:
			return quoted(s)
		}
	}
	if s == "" || slices.Contains(words, strings.ToLower(s)) {
		return quoted(s)
	}
	return s
}

// quoted returns s in double quotes.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c >= ' ' && unicode.IsPrint(c):
			b.WriteRune(c)
		case c < 0x100:
			fmt.Fprintf(&b, `\x%02x`, c)
		case c < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			fmt.Fprintf(&b, `\U%08x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// comment returns s as it may stand behind a #.
func comment(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(s)
	}
	return s
}

// where says where something stands, to somebody who reads file.
func where(at place, file string) string {
	if at.file == file {
		return fmt.Sprintf("line %d", at.pos.Line)
	}
	return fmt.Sprintf("%s, line %d,", at.file, at.pos.Line)
}
