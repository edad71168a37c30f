package policy

import (
	"bytes"
	"encoding/json"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// editor finds where the parts of a document stand, to replace bytes of it. It takes
// from the parser what is there, and in which lines keys and comments are; columns it
// finds itself, as the parser's are not right after a tab, and in some other places.
// So it may be wrong about text that it has no right to be wrong about: [Edit] reads
// again what comes out.
type editor struct {
	document []byte // without byte order mark
	bom      bool
	text     string           // the document with \n for all line breaks
	root     *ast.MappingNode // of text
	starts   []int            // of the lines of text; one more behind the last
	origins  []int            // of the same lines of document
	eol      string
	comments map[int]bool // lines with nothing but a comment
	end      int          // the line behind the last
	// verbatim says to put parts in as they are written, where that can be.
	verbatim bool
}

// splice replaces text[from:to].
type splice struct {
	from, to int
	text     string
}

func newEditor(document []byte) (*editor, error) {
	e := &editor{eol: "\n", comments: make(map[int]bool)}
	e.document, e.bom = bytes.CutPrefix(document, []byte("\ufeff"))
	e.text = normal(e.document)
	var err error
	if e.root, err = readMapping([]byte(e.text)); err != nil {
		return nil, err
	}
	if bytes.Contains(e.document, []byte("\r\n")) {
		e.eol = "\r\n"
	}
	at, from := 0, 0
	for line := range strings.Lines(e.text) {
		e.starts, e.origins = append(e.starts, at), append(e.origins, from)
		at += len(line)
		from += len(line)
		if i := from - 1; i < len(e.document) && e.document[i] == '\r' && i+1 < len(e.document) && e.document[i+1] == '\n' {
			from++
		}
	}
	e.starts, e.origins = append(e.starts, at), append(e.origins, from)
	e.end = len(e.starts)
	for _, t := range lexer.Tokenize(e.text) {
		switch line := t.Position.Line; t.Type {
		case token.CommentType:
			if strings.HasPrefix(strings.TrimLeft(e.line(line), " \t"), "#") {
				e.comments[line] = true
			}
		case token.DocumentEndType:
			e.end = min(e.end, line)
		}
	}
	return e, nil
}

// line returns a line without its line break, "" if there is none of the number. Lines
// count from 1.
func (e *editor) line(n int) string {
	if n < 1 || n >= len(e.starts) {
		return ""
	}
	return strings.TrimSuffix(e.text[e.starts[n-1]:e.starts[n]], "\n")
}

// lineAt returns the number of the line that holds text[at].
func (e *editor) lineAt(at int) int {
	return sort.Search(len(e.starts)-1, func(i int) bool { return e.starts[i] > at })
}

// column returns how far text[at] stands from the left, 0 or more bytes.
func (e *editor) column(at int) int { return at - e.starts[e.lineAt(at)-1] }

// behind returns the end of a line, before its line break.
func (e *editor) behind(line int) int { return e.starts[line-1] + len(e.line(line)) }

// apply returns the document with the splices, which do not overlap.
func (e *editor) apply(splices []splice) []byte {
	slices.SortStableFunc(splices, func(a, b splice) int { return a.from - b.from })
	origin := func(at int) int {
		i := sort.Search(len(e.starts), func(i int) bool { return e.starts[i] > at }) - 1
		return e.origins[i] + at - e.starts[i]
	}
	var out []byte
	if e.bom {
		out = append(out, "\ufeff"...)
	}
	done := 0
	for _, s := range splices {
		out = append(out, e.document[done:origin(s.from)]...)
		out = append(out, strings.ReplaceAll(s.text, "\n", e.eol)...)
		done = origin(s.to)
	}
	return append(out, e.document[done:]...)
}

// span is where an entry of a mapping stands, as offsets in text.
type span struct {
	key      int // the beginning of the key
	colon    int // the end of its colon, in block style
	from, to int // the value, if it is in brackets or within some
	comma    int // the comma behind it; -1 for none
	last     int // the last line of an entry in block style
}

// edit returns what makes of the document one with another part, or says that it cannot
// tell.
func (e *editor) edit(section, name string, b *body) (splices []splice, ok bool) {
	if e.root.IsFlowStyle {
		open := e.skip(0)
		if strings.HasPrefix(e.text[open:], "---") {
			open = e.skip(open + len("---"))
		}
		return e.editFlow(open, section, name, b)
	}
	entries, ok := e.block(e.root, e.end)
	if !ok {
		return nil, false
	}
	in, i := pairOf(e.root, section)
	if in == nil {
		last := entries[len(entries)-1]
		return e.insert(last, e.column(last.key), section, b.under(name, 2), 2), true
	}
	m, at := plainNode(in.Value).(*ast.MappingNode), entries[i]
	indent := e.column(at.key)
	if m.IsFlowStyle {
		if at.from, at.to, ok = e.flowValue(at.colon); !ok {
			return nil, false
		}
		if len(m.Values) > 0 {
			return e.editMapping(m, at, name, b)
		}
		block := e.part(b.under(name, 2))
		if block.lines == nil {
			return []splice{{at.colon, at.to, " " + block.json}}, true
		}
		// An empty pair of braces becomes a block; the comment behind it stays.
		end := e.behind(e.lineAt(at.to))
		return []splice{{at.colon, at.to, ""}, {end, end, block.below("", "", indent+2)}}, true
	}
	limit := e.end
	if i+1 < len(entries) {
		limit = e.lineAt(entries[i+1].key)
	}
	parts, ok := e.block(m, limit)
	if !ok {
		return nil, false
	}
	column := e.column(parts[0].key)
	step := max(column-indent, 1)
	_, j := pairOf(m, name)
	switch {
	case j < 0:
		return e.insert(parts[len(parts)-1], column, name, b, step), true
	case b == nil && len(parts) == 1:
		return []splice{e.lines(parts[0]), {at.colon, at.colon, " {}"}}, true
	case b == nil:
		return []splice{e.lines(parts[j])}, true
	default:
		return e.replace(m.Values[j], parts[j], column+step, b)
	}
}

// part returns b as it is to be put in.
func (e *editor) part(b *body) *body {
	if e.verbatim {
		return b
	}
	return &body{json: b.json}
}

// insert puts an entry behind another one of a mapping in block style.
func (e *editor) insert(after span, indent int, name string, b *body, step int) []splice {
	at := e.behind(after.last)
	text := e.part(b).below(plainKey(name)+":", "", indent+step)
	return []splice{{at, at, "\n" + strings.Repeat(" ", indent) + text}}
}

// lines cuts the lines of an entry in block style.
func (e *editor) lines(s span) splice {
	return splice{from: e.starts[e.lineAt(s.key)-1], to: e.starts[s.last]}
}

// replace puts another value into an entry in block style, which then stands indent
// spaces from the left.
func (e *editor) replace(pair *ast.MappingValueNode, at span, indent int, b *body) ([]splice, bool) {
	tail := at.colon
	if m, ok := plainNode(pair.Value).(*ast.MappingNode); ok && m.IsFlowStyle {
		from, to, ok := e.flowValue(at.colon)
		if !ok {
			return nil, false
		}
		if e.lineAt(from) == e.lineAt(at.key) {
			tail = to
		}
	}
	comment := strings.TrimRight(e.text[tail:e.behind(e.lineAt(tail))], " \t")
	if !strings.HasPrefix(strings.TrimLeft(comment, " \t"), "#") {
		comment = ""
	}
	text := e.part(b).below(e.text[at.key:at.colon], comment, indent)
	return []splice{{at.key, e.behind(at.last), text}}, true
}

// block finds the entries of a mapping in block style, which ends before a line.
func (e *editor) block(m *ast.MappingNode, limit int) ([]span, bool) {
	spans := make([]span, len(m.Values))
	for i, pair := range m.Values {
		line := nodePos(plainNode(pair.Key), Pos{}).Line
		text := e.line(line)
		if line < 1 || line >= limit || written(text[:indentOf(text)]) {
			return nil, false
		}
		s := &spans[i]
		s.key = e.starts[line-1] + indentOf(text)
		colon := e.skip(e.scalar(s.key, false))
		if !strings.HasPrefix(e.text[colon:], ":") || e.lineAt(colon) != line {
			return nil, false
		}
		s.colon = colon + 1
		if i > 0 {
			spans[i-1].last = e.lastLine(spans[i-1].key, line)
		}
	}
	if n := len(spans); n > 0 {
		spans[n-1].last = e.lastLine(spans[n-1].key, limit)
	}
	return spans, true
}

// lastLine returns the last line of an entry in block style, before a line with what
// comes next. Comments behind it are its own as long as they stand further right than
// its key.
func (e *editor) lastLine(key, limit int) int {
	first, column, last := e.lineAt(key), e.column(key), limit-1
	for last > first && (e.comments[last] || strings.TrimSpace(e.line(last)) == "") {
		last--
	}
	for line := last + 1; line < limit; line++ {
		if !e.comments[line] {
			continue
		}
		if indentOf(e.line(line)) <= column {
			break
		}
		last = line
	}
	return last
}

// editFlow is edit for a document in braces, of which the first stands at open.
func (e *editor) editFlow(open int, section, name string, b *body) ([]splice, bool) {
	entries, end, ok := e.flow(open)
	if !ok || len(entries) != len(e.root.Values) {
		return nil, false
	}
	root := span{key: open, from: open, to: end, comma: -1}
	in, i := pairOf(e.root, section)
	if in == nil {
		return e.add(root, entries, section, b.under(name, 2).json), true
	}
	return e.editMapping(plainNode(in.Value).(*ast.MappingNode), entries[i], name, b)
}

// editMapping edits a section in braces.
func (e *editor) editMapping(m *ast.MappingNode, at span, name string, b *body) ([]splice, bool) {
	parts, _, ok := e.flow(at.from)
	if !ok || len(parts) != len(m.Values) {
		return nil, false
	}
	_, j := pairOf(m, name)
	switch {
	case j < 0:
		return e.add(at, parts, name, e.flowText(b)), true
	case b == nil:
		return e.cut(parts, j), true
	default:
		return []splice{{parts[j].from, parts[j].to, e.inside(e.flowText(b), e.margin(parts[j].key), e.margin(at.key))}}, true
	}
}

// flowText returns a part for a place in braces; what is JSON stays JSON.
func (e *editor) flowText(b *body) string {
	if e.verbatim && !e.root.IsFlowStyle && b.flow && len(b.lines) == 1 && !b.comments {
		return b.lines[0]
	}
	return b.json
}

// margin returns what a line begins with before an entry; no spaces if it begins with
// another one.
func (e *editor) margin(key int) string {
	before := e.text[e.starts[e.lineAt(key)-1]:key]
	if strings.TrimLeft(before, " \t") != "" {
		return ""
	}
	return before
}

// inside returns JSON for a place in braces: on lines of its own as its surroundings are,
// whose margins are told, if they grow.
func (e *editor) inside(text, margin, outer string) string {
	unit, ok := strings.CutPrefix(margin, outer)
	if !ok || unit == "" || !e.root.IsFlowStyle {
		return text
	}
	var out bytes.Buffer
	if json.Indent(&out, []byte(text), margin, unit) != nil {
		return text // a number that JSON does not have
	}
	return out.String()
}

// add puts an entry behind the others of a mapping in braces.
func (e *editor) add(in span, entries []span, name, text string) []splice {
	key := plainKey(name) + ": "
	if e.root.IsFlowStyle {
		key = string(appendText(nil, name)) + ": "
	}
	if len(entries) == 0 {
		return []splice{{in.from + 1, in.from + 1, key + text}}
	}
	last := entries[len(entries)-1]
	margin := e.margin(last.key)
	end := last.to
	splices := []splice{{end, end, ","}}
	if last.comma >= 0 {
		end, splices = last.comma+1, nil
	}
	rest := strings.TrimLeft(e.text[end:e.behind(e.lineAt(end))], " \t")
	if margin == "" || rest != "" && rest[0] != '#' {
		return append(splices, splice{end, end, " " + key + text})
	}
	end = e.behind(e.lineAt(end))
	return append(splices, splice{end, end, "\n" + margin + key + e.inside(text, margin, e.margin(in.key))})
}

// cut removes an entry of a mapping in braces, and its lines if they have nothing else.
func (e *editor) cut(entries []span, i int) []splice {
	s := entries[i]
	from, to := s.key, s.to
	var splices []splice
	switch {
	case s.comma >= 0:
		to = s.comma + 1
	case i > 0:
		comma := entries[i-1].comma
		splices = append(splices, splice{from: comma, to: comma + 1})
	}
	first, last := e.lineAt(from), e.lineAt(to)
	before, after := e.text[e.starts[first-1]:from], e.text[to:e.behind(last)]
	switch {
	case strings.Trim(before, " \t") == "" && strings.Trim(after, " \t") == "" && first > 1:
		from, to = e.behind(first-1), e.behind(last)
	case s.comma >= 0:
		to += len(after) - len(strings.TrimLeft(after, " \t"))
	default:
		from -= len(before) - len(strings.TrimRight(before, " \t"))
	}
	return append(splices, splice{from: from, to: to})
}

// flowValue finds the brackets behind a colon.
func (e *editor) flowValue(colon int) (from, to int, ok bool) {
	from = e.skip(colon)
	if !strings.HasPrefix(e.text[from:], "{") {
		return 0, 0, false
	}
	_, to, ok = e.flow(from)
	return from, to, ok
}

// flow finds the entries of a mapping in braces, and its end.
func (e *editor) flow(open int) (entries []span, end int, ok bool) {
	if !strings.HasPrefix(e.text[open:], "{") {
		return nil, 0, false
	}
	at := e.skip(open + 1)
	for at < len(e.text) && e.text[at] != '}' {
		s := span{key: at, comma: -1}
		end := e.scalar(at, true)
		s.from, s.to = end, end // of a key without a value
		if at = e.skip(end); at < len(e.text) && e.text[at] == ':' {
			s.from = e.skip(at + 1)
			s.to = e.item(s.from)
		}
		if s.to == s.key {
			return nil, 0, false
		}
		if at = e.skip(s.to); at < len(e.text) && e.text[at] == ',' {
			s.comma = at
			at = e.skip(at + 1)
		} else if at < len(e.text) && e.text[at] != '}' {
			return nil, 0, false
		}
		entries = append(entries, s)
	}
	return entries, at + 1, at < len(e.text)
}

// item returns the end of a value within braces.
func (e *editor) item(at int) int {
	depth := 0
	for at < len(e.text) {
		switch e.text[at] {
		case '{', '[':
			depth++
			at++
		case '}', ']':
			if depth == 0 {
				return at
			}
			depth--
			at++
		case ',', ':':
			if depth == 0 {
				return at
			}
			at++
		default:
			at = e.scalar(at, true)
		}
		if depth == 0 {
			return at
		}
		at = e.skip(at)
	}
	return at
}

// skip returns where something stands that is no space, line break or comment.
func (e *editor) skip(at int) int {
	for ; at < len(e.text); at++ {
		switch c := e.text[at]; {
		case c == ' ' || c == '\t' || c == '\n':
		case c == '#' && (at == 0 || strings.IndexByte(" \t\n", e.text[at-1]) >= 0):
			at = e.behind(e.lineAt(at)) - 1
		default:
			return at
		}
	}
	return at
}

// scalar returns the end of a text in quotes or without; flow says that brackets and
// commas end it.
func (e *editor) scalar(at int, flow bool) int {
	rest := e.text[at:]
	if rest == "" {
		return at
	}
	if q := rest[0]; q == '"' || q == '\'' {
		for i := 1; i < len(rest); i++ {
			switch {
			case q == '"' && rest[i] == '\\', q == '\'' && strings.HasPrefix(rest[i:], "''"):
				i++
			case rest[i] == q:
				return at + i + 1
			}
		}
		return len(e.text)
	}
	for i := range len(rest) {
		next := rest[i+1:]
		switch c := rest[i]; {
		case c == '\n' && !flow,
			c == '#' && i > 0 && strings.IndexByte(" \t\n", rest[i-1]) >= 0,
			c == ':' && (next == "" || strings.IndexByte(" \t\n", next[0]) >= 0 || flow && strings.IndexByte(",[]{}", next[0]) >= 0),
			flow && strings.IndexByte(",[]{}", c) >= 0:
			return at + len(strings.TrimRight(rest[:i], " \t\n"))
		}
	}
	return len(e.text)
}
