package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"

	"github.com/headgate/headgate"
)

// ErrNoPart says that a document has no such part.
var ErrNoPart = errors.New("policy: there is no such part")

// ErrEntangled says that a part cannot be changed without the rest of the document.
var ErrEntangled = errors.New("policy: the part cannot be changed alone: change the whole document")

// Part is what a document has below a name of a section: a plan, or an application.
type Part struct {
	Name string
	// JSON is the part as it is written, keys in their order.
	JSON json.RawMessage
}

// Parts returns the parts of a section, plans or applications, in the order of the
// document; none where the section is not written. The document should be one that
// [Parse] takes: the error is that of the first thing that keeps it from being read.
func Parts(document []byte, section string) ([]Part, error) {
	root, err := readMapping(document)
	if err != nil {
		return nil, err
	}
	in, _ := pairOf(root, section)
	if in == nil {
		return nil, nil
	}
	m, ok := plainNode(in.Value).(*ast.MappingNode)
	if !ok {
		return nil, fmt.Errorf("policy: %s must be a mapping, not %s", section, describe(in.Value))
	}
	parts := make([]Part, len(m.Values))
	for i, pair := range m.Values {
		parts[i] = Part{keyName(pair), appendNode(nil, pair.Value)}
		if !json.Valid(parts[i].JSON) {
			return nil, fmt.Errorf("policy: %s.%s has a number that is none in JSON", section, parts[i].Name)
		}
	}
	return parts, nil
}

// Edit returns the document with another part, JSON or YAML as it would stand below its
// name in the section; a nil part removes it, and an unknown name is added behind the
// others. Every byte elsewhere stays as it is, comments too, but for the commas and
// brackets that the change needs. A comment behind the name, or behind the braces that
// begin there, stays if the new part has none.
//
// Nothing is returned that would not be read as the old document with the new part.
// Whether that makes sense is for [Parse] to say. The error is [Faults] of what the part
// says, their positions those in the part, [ErrNoPart] where there is nothing to remove,
// or [ErrEntangled].
func Edit(document []byte, section, name string, part []byte) ([]byte, error) {
	if err := headgate.CheckName(name); err != nil {
		return nil, err
	}
	root, err := readMapping(document)
	if err != nil {
		return nil, err
	}
	var b *body
	if part != nil {
		if b, err = readPart(part, section+pathStep(name)); err != nil {
			return nil, err
		}
	}
	in, _ := pairOf(root, section)
	var old *ast.MappingValueNode
	if in != nil {
		m, ok := plainNode(in.Value).(*ast.MappingNode)
		if !ok {
			return nil, ErrEntangled
		}
		old, _ = pairOf(m, name)
	}
	if b == nil && old == nil {
		return nil, ErrNoPart
	}
	want := string(appendEdited(nil, root, section, name, b))
	e, err := newEditor(document)
	if err != nil {
		return nil, ErrEntangled
	}
	for _, verbatim := range []bool{true, false} {
		e.verbatim = verbatim
		splices, ok := e.edit(section, name, b)
		if !ok {
			return nil, ErrEntangled
		}
		out := e.apply(splices)
		r := &reader{}
		if got := r.document(out); got != nil && len(r.faults) == 0 && string(appendNode(nil, got)) == want {
			return out, nil
		}
		if !verbatim && len(out) > MaxSize {
			return nil, Faults{{File: "part", Line: 1, Column: 1, Message: fmt.Sprintf("the policy would have %d bytes: at most %d", len(out), MaxSize)}}
		}
	}
	return nil, ErrEntangled
}

// Unplaced returns the faults without the lines that their messages name, for readers who
// do not see the file.
func (f Faults) Unplaced() Faults {
	out := slices.Clone(f)
	for i := range out {
		out[i].Message = namedLine.ReplaceAllString(out[i].Message, "")
	}
	return out
}

// namedLine is how messages name another line of the file.
var namedLine = regexp.MustCompile(`(: the first is|,) in line \d+,?`)

// readMapping reads a document that is a mapping.
func readMapping(document []byte) (*ast.MappingNode, error) {
	r := &reader{file: "policy"}
	root := r.document(document)
	if _, err := r.result(); err != nil {
		return nil, fmt.Errorf("policy: the document cannot be read: %v", err)
	}
	m, ok := plainNode(root).(*ast.MappingNode)
	if !ok {
		return nil, fmt.Errorf("policy: the document must be a mapping, not %s", describe(root))
	}
	return m, nil
}

// keyName returns the name of a key.
func keyName(pair *ast.MappingValueNode) string {
	name, _ := value{node: plainNode(pair.Key)}.scalar()
	return name
}

func pairOf(m *ast.MappingNode, name string) (pair *ast.MappingValueNode, index int) {
	for i, pair := range m.Values {
		if keyName(pair) == name {
			return pair, i
		}
	}
	return nil, -1
}

// appendNode appends a value as JSON on one line. Numbers that JSON does not have stay as
// they are written, so that two values have the same text only if they are the same.
func appendNode(b []byte, node ast.Node) []byte {
	switch n := plainNode(node).(type) {
	case *ast.MappingNode:
		b = append(b, '{')
		for i, pair := range n.Values {
			b = appendPair(b, i, pair.Key, appendNode(nil, pair.Value))
		}
		return append(b, '}')
	case *ast.SequenceNode:
		b = append(b, '[')
		for i, item := range n.Values {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = appendNode(b, rejoined(item))
		}
		return append(b, ']')
	case *ast.StringNode:
		return appendText(b, n.Value)
	case *ast.LiteralNode:
		return appendText(b, n.Value.Value)
	case *ast.BoolNode:
		return fmt.Append(b, n.Value)
	case *ast.NullNode:
		return append(b, "null"...)
	default:
		return append(b, n.GetToken().Value...)
	}
}

func appendPair(b []byte, i int, key ast.MapKeyNode, of []byte) []byte {
	if i > 0 {
		b = append(b, ", "...)
	}
	b = append(appendNode(b, key), ": "...)
	return append(b, of...)
}

func appendText(b []byte, s string) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a text always encodes
	}
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...)
}

// appendEdited appends what the document shall be: root with b at section and name, or
// without them if b is nil.
func appendEdited(out []byte, root *ast.MappingNode, section, name string, b *body) []byte {
	put := func(m *ast.MappingNode, name string, edit func(old *ast.MappingValueNode) []byte) []byte {
		text, n, found := []byte{'{'}, 0, false
		for _, pair := range m.Values {
			part := appendNode(nil, pair.Value)
			if !found && keyName(pair) == name {
				found = true
				if part = edit(pair); part == nil {
					continue
				}
			}
			text = appendPair(text, n, pair.Key, part)
			n++
		}
		if !found {
			if n > 0 {
				text = append(text, ", "...)
			}
			text = append(append(appendText(text, name), ": "...), edit(nil)...)
		}
		return append(text, '}')
	}
	part := func(*ast.MappingValueNode) []byte {
		if b == nil {
			return nil
		}
		return []byte(b.json)
	}
	return append(out, put(root, section, func(old *ast.MappingValueNode) []byte {
		if old == nil {
			return put(&ast.MappingNode{}, name, part)
		}
		return put(plainNode(old.Value).(*ast.MappingNode), name, part)
	})...)
}

// body is a part that is to be written into a document.
type body struct {
	json string
	// lines are the part as it is written, without the indentation of the whole; nil if
	// it cannot stand inside of another document.
	lines    []string
	flow     bool // it begins with its brace
	comments bool
}

// readPart reads a part. The path is where it will stand.
func readPart(part []byte, path string) (*body, error) {
	r := &reader{file: "part"}
	whole := Pos{1, 1}
	text := normal(bytes.TrimPrefix(part, []byte("\ufeff")))
	if !slices.ContainsFunc(strings.Split(text, "\n"), written) {
		r.fault(whole, path, "is empty: must be a mapping; {} is one without keys")
		return nil, Faults(r.faults)
	}
	root := r.document(part)
	if root != nil {
		if _, ok := plainNode(root).(*ast.MappingNode); !ok {
			r.fault(nodePos(root, whole), path, "must be a mapping, not %s", describe(root))
		}
	}
	if _, err := r.result(); err != nil {
		return nil, err
	}
	b := &body{json: string(appendNode(nil, root))}
	for _, t := range lexer.Tokenize(text) {
		switch t.Type {
		case token.DocumentHeaderType, token.DocumentEndType:
			return b, nil
		case token.CommentType:
			b.comments = true
		}
	}
	b.lines = strings.Split(text, "\n")
	blank := func(line string) bool { return strings.TrimSpace(line) == "" }
	for blank(b.lines[0]) {
		b.lines = b.lines[1:]
	}
	for blank(b.lines[len(b.lines)-1]) {
		b.lines = b.lines[:len(b.lines)-1]
	}
	b.flow = strings.HasPrefix(strings.TrimSpace(b.lines[0]), "{")
	first := b.lines[slices.IndexFunc(b.lines, written)]
	outer := first[:indentOf(first)]
	for i, line := range b.lines {
		b.lines[i] = line[min(indentOf(line), len(outer)):]
	}
	return b, nil
}

// written reports whether a line has more than a comment.
func written(line string) bool {
	line = strings.TrimSpace(line)
	return line != "" && line[0] != '#'
}

// indentOf is how many spaces a line begins with.
func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// normal returns a text with \n for all line breaks.
func normal(text []byte) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(text))
}

// under returns the body of a section that has nothing but this part.
func (b *body) under(name string, step int) *body {
	out := &body{json: "{" + string(appendText(nil, name)) + ": " + b.json + "}", comments: b.comments}
	if b.lines != nil {
		out.lines = strings.Split(b.below(plainKey(name)+":", "", step), "\n")
	}
	return out
}

// below returns the lines of a key, with its colon, and the body below it, which stands
// indent spaces from the left. The tail is the comment of the key, with the spaces before.
func (b *body) below(key, tail string, indent int) string {
	if b.comments {
		tail = ""
	}
	lines := b.lines
	switch {
	case lines == nil:
		return key + " " + b.json + tail
	case b.flow && len(lines) == 1:
		return key + " " + lines[0] + tail
	case b.flow && tail == "":
		key, lines = key+" "+lines[0], lines[1:]
	}
	var out strings.Builder
	out.WriteString(key + tail)
	for _, line := range lines {
		out.WriteByte('\n')
		if line != "" {
			out.WriteString(strings.Repeat(" ", indent) + line)
		}
	}
	return out.String()
}

// plainKey returns a name as a key in YAML, in quotes where it would not be text.
func plainKey(name string) string {
	if simpleKey.MatchString(name) && !wordKey.MatchString(name) {
		return name
	}
	return string(appendText(nil, name))
}

var (
	simpleKey = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]*$`)
	wordKey   = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|y|n|null|nan|inf)$`)
)
