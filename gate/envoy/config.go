package envoy

import (
	"slices"
	"strings"
	"unicode"

	"github.com/headgate/headgate/gate/policy"
)

// domain is what the files say of one domain.
type domain struct {
	name  string
	at    place
	files []string
	level
}

// level is descriptors that stand side by side.
type level struct {
	descriptors []*descriptor
	index       map[entry]*descriptor
}

type entry struct{ key, value string }

// descriptor is one descriptor of a configuration.
type descriptor struct {
	entry
	at       place
	limit    *limit // nil for none
	shadow   bool
	quota    bool
	detailed bool
	toMetric bool
	share    bool
	metadata []pair // nil for none
	level
}

// limit is a rate_limit.
type limit struct {
	unlimited bool
	count     uint32
	unit      unit
	name      string
	replaces  []reference
}

type reference struct {
	name string
	at   place
}

// unit is a unit of time: how its windows are written as a rate, and as a rate of quotas,
// which is "" where there is none.
type unit struct{ name, window, calendar string }

var units = []unit{
	{"second", "s", ""}, {"minute", "min", ""}, {"hour", "h", "hour"}, {"day", "d", "day"},
	{"week", "7d", "week"}, {"month", "30d", "month"}, {"year", "365d", "year"},
}

const wantUnit = "second, minute, hour, day, week, month or year"

// The keys of each mapping. All of them are known everywhere: one in the wrong place was
// never an error.
var (
	rootKeys       = []string{"domain", "descriptors"}
	descriptorKeys = []string{
		"key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric",
		"share_threshold", "metadata",
	}
	limitKeys   = []string{"unit", "requests_per_unit", "unlimited", "name", "replaces"}
	replaceKeys = []string{"name"}
	allKeys     = slices.Concat(rootKeys, descriptorKeys, limitKeys)
)

// object is a mapping by its keys.
type object map[string]value

// object reads a mapping of which the keys mean something.
func (v value) object(what string, keys []string) (object, bool) {
	fields, ok := v.fields()
	if !ok {
		return nil, false
	}
	o := make(object, len(fields))
	for _, f := range fields {
		switch {
		case slices.Contains(keys, f.name):
			o[f.name] = f.value
		case slices.Contains(allKeys, f.name):
			v.r.warn(f.key, "means nothing in %s, and is passed over: only %s do", what, strings.Join(keys, ", "))
		default:
			v.r.fault(f.key, "unknown key (known here: %s)", strings.Join(keys, ", "))
		}
	}
	return o, true
}

// file reads one file.
func (r *reader) file(f *File) {
	if !slices.Contains(r.names, f.Name) {
		r.names = append(r.names, f.Name)
	}
	root, ok := r.document(f)
	if !ok || r.full() {
		return
	}
	o, ok := root.object("a file", rootKeys)
	if !ok {
		return
	}
	name, at := o["domain"].text(), o["domain"].place
	if name == "" {
		root.missing("domain", "a file of configuration says of which domain it is")
		return
	}
	d := r.domains[name]
	switch {
	case d == nil:
		d = &domain{name: name, at: at}
		r.domains[name] = d
		r.order = append(r.order, d)
		checkDomain(o["domain"], name)
	case !r.options.MergeDomains:
		r.fault(at, "domain %q is that of %s: put both into one file, or allow it with envoy.merge_domains in the configuration, --merge-domains of convert", short(name), d.at.file)
		return
	}
	d.files = append(d.files, f.Name)
	r.level(o["descriptors"], &d.level, 1)
}

func (r *reader) level(v value, l *level, depth int) {
	for _, item := range v.list() {
		if r.full() {
			return
		}
		if depth > policy.MaxEntries {
			item.fault("nested more than %d levels deep", policy.MaxEntries)
			return
		}
		d := r.descriptor(item, depth)
		if d == nil {
			continue
		}
		if first := l.index[d.entry]; first != nil {
			item.fault("duplicate: %s has the same key and value", where(first.at, item.file))
			continue
		}
		if l.index == nil {
			l.index = make(map[entry]*descriptor)
		}
		l.index[d.entry] = d
		l.descriptors = append(l.descriptors, d)
	}
}

func (r *reader) descriptor(v value, depth int) *descriptor {
	if v.empty() {
		v.fault("must be a mapping with a key")
		return nil
	}
	o, ok := v.object("a descriptor", descriptorKeys)
	if !ok {
		return nil
	}
	d := &descriptor{
		entry: entry{o["key"].text(), o["value"].text()}, at: v.place,
		shadow: o["shadow_mode"].truth(), quota: o["quota_mode"].truth(), detailed: o["detailed_metric"].truth(),
		toMetric: o["value_to_metric"].truth(), share: o["share_threshold"].truth(),
	}
	switch {
	case d.key == "":
		v.missing("key", "a descriptor needs a key")
	case strings.Contains(d.key, "*"):
		o["key"].fault("a * belongs into value: in a key it would stand for other keys too")
	}
	for name, text := range map[string]string{"key": d.key, "value": d.value} {
		if len(text) > policy.MaxEntryText {
			o[name].fault("%d bytes: at most %d", len(text), policy.MaxEntryText)
		}
	}
	if d.share && !strings.Contains(d.value, "*") {
		o["share_threshold"].fault("only with a * in value")
	}
	if limit := o["rate_limit"]; !limit.empty() {
		d.limit = r.limit(limit)
	} else {
		for _, s := range []string{"shadow_mode", "quota_mode", "detailed_metric", "metadata"} {
			if at := o[s]; !at.empty() {
				at.warn("means nothing without a rate_limit beside it")
			}
		}
	}
	if m := o["metadata"]; !m.empty() {
		d.metadata = m.metadata()
	}
	r.level(o["descriptors"], &d.level, depth+1)
	return d
}

func (r *reader) limit(v value) *limit {
	o, ok := v.object("rate_limit", limitKeys)
	if !ok {
		return nil
	}
	l := &limit{unlimited: o["unlimited"].truth(), name: o["name"].text()}
	word := o["unit"].text()
	i := slices.IndexFunc(units, func(u unit) bool { return strings.EqualFold(u.name, word) })
	switch {
	case l.unlimited && word != "":
		o["unit"].fault("an unlimited limit has no unit")
	case l.unlimited:
		if n := o["requests_per_unit"]; !n.empty() {
			n.warn("means nothing: the limit is unlimited")
		}
	case word == "":
		v.missing("unit", wantUnit)
	case i < 0:
		o["unit"].fault("%q: must be %s", short(word), wantUnit)
	default:
		l.unit = units[i]
	}
	if n := o["requests_per_unit"]; !l.unlimited && n.empty() {
		v.warn("without requests_per_unit, which is then 0, it refuses all that matches: write it, 0 too")
	} else if !l.unlimited {
		l.count = n.count()
	}
	l.replaces = replaces(o["replaces"], l.name)
	return l
}

func replaces(v value, own string) []reference {
	var list []reference
	for _, item := range v.list() {
		o, ok := item.object("replaces", replaceKeys)
		if !ok {
			continue
		}
		switch name := o["name"].text(); name {
		case "":
			item.missing("name", "the name of another rate_limit")
		case own:
			o["name"].fault("%q is the name of this limit itself", short(own))
		default:
			list = append(list, reference{name, o["name"].place})
		}
	}
	return list
}

func checkDomain(v value, name string) {
	if len(name) > 256 {
		v.fault("%d bytes: at most 256", len(name))
	}
	if i := strings.IndexFunc(name, unicode.IsControl); i >= 0 {
		v.fault("has a control character at byte %d", i)
	}
}
