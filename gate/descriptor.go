package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/headgate/headgate/gate/policy"
)

// Entry is one key and value of a descriptor.
type Entry struct{ Key, Value string }

// MaxLabel is the longest [Decision].Label in bytes; what is longer is cut.
const MaxLabel = 512

// Domain returns the application that answers for an Envoy domain, "" if none does.
func (g *Gate) Domain(domain string) string { return g.current.Load().domains[domain] }

// matchDescriptor finds the rule by the request's descriptor: nil if none has it.
func (q *question) matchDescriptor() (*rule, error) {
	r := q.request
	if len(r.Descriptor) == 0 {
		if r.Said != nil {
			return nil, invalid("limit", "only a request with a descriptor says a limit")
		}
		return nil, nil
	}
	if n := len(r.Descriptor); n > policy.MaxEntries {
		return nil, invalid("descriptor", "%d entries: at most %d", n, policy.MaxEntries)
	}
	for i := range r.Descriptor {
		e := &r.Descriptor[i]
		if e.Key == "" {
			return nil, invalid("descriptor", "entry %d has no key", i)
		}
		if len(e.Key) > policy.MaxEntryText || len(e.Value) > policy.MaxEntryText {
			return nil, invalid("descriptor", "entry %d: key of %d bytes, value of %d: at most %d each", i, len(e.Key), len(e.Value), policy.MaxEntryText)
		}
		if !utf8.ValidString(e.Key) || !utf8.ValidString(e.Value) {
			return nil, invalid("descriptor", "entry %d is not UTF-8 text", i)
		}
	}
	if r.Said != nil {
		return q.matchSaid()
	}
	return q.app.descriptors.find(r.Descriptor), nil
}

// The subject of a descriptor is the values that its rule leaves open, joined with '&'.
// What could be taken for a join, and control characters, are escaped, so that no choice
// of values makes two descriptors meet.
const (
	// noValue stands for a single value that is empty, as a subject is not.
	noValue = "%"
	// cutSubject is what is kept of a subject that is too long, before '%' and the
	// hexadecimal SHA-256 of all of it.
	cutSubject = 400
	hashDigits = 2 * sha256.Size
)

// descriptorSubject returns the subject of a request that matched by its descriptor, ""
// if the rule leaves nothing open.
func (q *question) descriptorSubject(d *Decision) string {
	from, n := len(d.words), 0
	said := q.request.Said != nil
	for i := range q.request.Descriptor {
		e := &q.request.Descriptor[i]
		if !said && !q.rule.written.Descriptor[i].Variable() {
			continue
		}
		if n++; n > 1 {
			d.words = append(d.words, '&')
		}
		if said {
			d.words = append(appendEscaped(d.words, e.Key), '=')
		}
		d.words = appendEscaped(d.words, e.Value)
	}
	switch text := d.words[from:]; {
	case n == 0:
		return ""
	case len(text) == 0:
		d.words = append(d.words, noValue...)
	case len(text) > MaxSubject || looksCut(text):
		sum := sha256.Sum256(text)
		d.words = append(d.words[:from+runeStart(text, cutSubject)], '%')
		d.words = hex.AppendEncode(d.words, sum[:])
	}
	return d.word(from)
}

// word returns what stands in d.words from there on.
func (d *Decision) word(from int) string {
	b := d.words[from:]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// looksCut reports whether a text could be what is made of a longer one.
func looksCut(text []byte) bool {
	at := len(text) - hashDigits - 1
	if at <= cutSubject-utf8.UTFMax || at > cutSubject || text[at] != '%' {
		return false
	}
	for _, c := range text[at+1:] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// runeStart returns n, or the start of the character that n would cut.
func runeStart(text []byte, n int) int {
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// appendEscaped appends s with '%', '&', '=', control characters and DEL as '%' and two
// digits.
func appendEscaped(b []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '%' && c != '&' && c != '=' && c != 0x7f {
			continue
		}
		b = append(append(b, s[from:i]...), '%', digits[c>>4], digits[c&15])
		from = i + 1
	}
	return append(b, s[from:]...)
}

// label makes what metrics call the rule.
func (q *question) label(d *Decision) string {
	w := q.rule.written
	switch {
	case q.said != nil:
		return saidID
	case !q.rule.labelled:
		return q.rule.name
	}
	from := len(d.words)
	for i := range w.Descriptor {
		e := &w.Descriptor[i]
		if i > 0 {
			d.words = append(d.words, '.')
		}
		d.words = append(d.words, e.Key...)
		value := e.Value
		if (w.DetailedMetric || e.ValueToMetric) && !e.ShareThreshold {
			value = q.request.Descriptor[i].Value
		}
		if value != "" {
			d.words = append(append(d.words, '_'), value...)
		}
	}
	if text := d.words[from:]; len(text) > MaxLabel {
		d.words = d.words[:from+runeStart(text, MaxLabel)]
	}
	return d.word(from)
}

// branch is a place in the tree of all descriptors that an application's rules match by:
// a level for each entry, so that the search costs as much as the descriptor is long.
// Patterns of one key are tried in the order of the file.
type branch struct {
	rule    *rule // of the descriptor that ends here; nil for none
	exact   map[Entry]*branch
	pattern map[string][]patterned
	any     map[string]*branch // keys with any value
}

type patterned struct {
	pattern pattern
	branch  *branch
}

// add hangs a rule where its entries lead.
func (b *branch) add(entries []policy.DescriptorEntry, r *rule) {
	for i := range entries {
		b = b.grow(&entries[i])
	}
	b.rule = r
}

func (b *branch) grow(e *policy.DescriptorEntry) *branch {
	if e.Value == "" {
		next := b.any[e.Key]
		if next == nil {
			if b.any == nil {
				b.any = make(map[string]*branch)
			}
			next = new(branch)
			b.any[e.Key] = next
		}
		return next
	}
	is := Entry{e.Key, e.Value}
	next := b.exact[is]
	if next != nil {
		return next
	}
	if b.exact == nil {
		b.exact = make(map[Entry]*branch)
	}
	next = new(branch)
	b.exact[is] = next // a pattern, too: the text itself goes before other patterns
	if e.Wildcard() {
		if b.pattern == nil {
			b.pattern = make(map[string][]patterned)
		}
		b.pattern[e.Key] = append(b.pattern[e.Key], patterned{newPattern(e.Value), next})
	}
	return next
}

// find returns the rule of the descriptor, nil if there is none. There is one way at each
// level, and none back.
func (b *branch) find(entries []Entry) *rule {
	for i := range entries {
		if b = b.next(&entries[i]); b == nil {
			return nil
		}
	}
	return b.rule
}

func (b *branch) next(e *Entry) *branch {
	if next := b.exact[*e]; next != nil {
		return next
	}
	patterns := b.pattern[e.Key]
	for i := range patterns {
		if patterns[i].pattern.matches(e.Value) {
			return patterns[i].branch
		}
	}
	return b.any[e.Key]
}

// pattern is text in which * stands for zero or more characters.
type pattern struct {
	first, last string
	between     []string // in this order between the two
}

func newPattern(s string) pattern {
	parts := strings.Split(s, "*")
	last := len(parts) - 1
	return pattern{parts[0], parts[last], parts[1:last]}
}

func (p *pattern) matches(s string) bool {
	rest, ok := strings.CutPrefix(s, p.first)
	if !ok {
		return false
	}
	if rest, ok = strings.CutSuffix(rest, p.last); !ok {
		return false
	}
	for _, part := range p.between {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return true
}
