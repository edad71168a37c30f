package envoy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/headgate/headgate/gate/policy"
)

// Bounds of what is read, so that it ends soon whatever is in the files.
const (
	maxTokens = 1 << 19 // of a file
	maxNest   = 64
	maxKeys   = 1000    // of a mapping in block style: the parser looks at all of them for each
	maxNodes  = 1 << 20 // of all files, what aliases stand for included
)

// value is one value of a document and where it stands.
type value struct {
	place
	r       *reader
	node    ast.Node
	anchors map[string]ast.Node // of the document
}

// document returns the file's mapping, or reports why there is none.
func (r *reader) document(f *File) (value, bool) {
	start := place{file: f.Name, pos: policy.Pos{Line: 1, Column: 1}}
	if len(f.Data) > MaxFile {
		r.fault(start, "the file has %d bytes: at most %d", len(f.Data), MaxFile)
		return value{}, false
	}
	data := bytes.TrimPrefix(f.Data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		r.fault(start, "not UTF-8 text")
		return value{}, false
	}
	file, err := parse(string(data))
	if err != nil {
		at := start
		var text string
		if e, ok := errors.AsType[yaml.Error](err); ok {
			text = e.GetMessage() // all that Error adds takes long in a long file
			if t := e.GetToken(); t != nil && t.Position != nil {
				at.pos = position(t)
			}
		} else {
			text = err.Error()
		}
		r.fault(at, "not valid YAML: %s", strings.ReplaceAll(text, "\n", "; "))
		return value{}, false
	}
	root := value{place: start, r: r, anchors: make(map[string]ast.Node)}
	for _, d := range file.Docs {
		switch {
		case d.Body == nil:
		case root.node == nil:
			root.node = d.Body
		default:
			at := start
			if t := d.Body.GetToken(); t != nil && t.Position != nil {
				at.pos = position(t)
			}
			r.fault(at, "a second document: a file is read up to the first ---; put this one in a file of its own")
			return value{}, false
		}
	}
	if root.node == nil {
		r.fault(start, "the file is empty: it needs a domain")
		return value{}, false
	}
	root = root.plain(root.node)
	return root, root.node != nil
}

// parse bounds what the parser, which calls itself for every level, has to do.
func parse(text string) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil { // earlier versions of it did on input that is no YAML
			file, err = nil, fmt.Errorf("the parser gave up: %v", p)
		}
	}()
	tokens := lexer.Tokenize(text)
	if len(tokens) > maxTokens {
		return nil, fmt.Errorf("%d words and marks: at most %d", len(tokens), maxTokens)
	}
	flow := 0
	type block struct{ column, keys int }
	var open []block
	for _, t := range tokens {
		if flow > 0 && t.Type == token.SequenceEntryType { // which costs the parser ever more
			return nil, fmt.Errorf("line %d: a - within [ ] or { }", t.Position.Line)
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.MappingValueType, token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			if flow > 0 {
				break
			}
			column := t.Position.Column
			if t.Type == token.MappingValueType && t.Prev != nil {
				column = t.Prev.Position.Column
			}
			b := block{column: column}
			for len(open) > 0 && open[len(open)-1].column >= column {
				if last := open[len(open)-1]; last.column == column {
					b.keys = last.keys
				}
				open = open[:len(open)-1]
			}
			if t.Type != token.SequenceEntryType {
				b.keys++
			}
			if b.keys > maxKeys {
				return nil, fmt.Errorf("line %d: more than %d keys in a mapping", t.Position.Line, maxKeys)
			}
			open = append(open, b)
		}
		if flow+len(open) > maxNest {
			return nil, fmt.Errorf("line %d is nested more than %d levels deep", t.Position.Line, maxNest)
		}
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

func position(t *token.Token) policy.Pos {
	return policy.Pos{Line: t.Position.Line, Column: t.Position.Column}
}

// plain returns v with the node, or with what the node stands for if it is an alias.
func (v value) plain(node ast.Node) value {
	if v.r.nodes++; v.r.nodes > maxNodes {
		if v.r.nodes == maxNodes+1 {
			v.r.fault(v.place, "more than %d values in all files, aliases counted as what they stand for", maxNodes)
		}
		v.node = nil
		return v
	}
	if n, ok := node.(*ast.AnchorNode); ok {
		v.anchors[n.Name.GetToken().Value] = n.Value
		node = n.Value
	}
	switch n := node.(type) {
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		v.pos = position(n.GetToken())
		if v.node = v.anchors[name]; v.node == nil {
			v.fault("*%s: there is no &%s before it", short(name), short(name))
		}
		return v
	case *ast.TagNode:
		v.fault("tags (!) are not supported")
		v.node = nil
		return v
	}
	v.node = node
	if t := node.GetToken(); t != nil && t.Position != nil {
		switch m := node.(type) {
		case *ast.NullNode: // may have no place of its own
		case *ast.MappingNode:
			if v.pos = position(t); !m.IsFlowStyle && len(m.Values) > 0 {
				v.pos = position(m.Values[0].Key.GetToken()) // the mapping's is its first colon
			}
		default:
			v.pos = position(t)
		}
	}
	return v
}

func (v value) present() bool { return v.r != nil && v.node != nil }

func (v value) fault(format string, args ...any) { v.r.fault(v.place, format, args...) }

func (v value) warn(format string, args ...any) { v.r.warn(v.place, format, args...) }

// missing reports a key that must be there and is not, or is empty.
func (v value) missing(key, why string) {
	v.path = strings.TrimPrefix(v.path+"."+key, ".")
	v.fault("missing: %s", why)
}

// empty reports whether nothing, or null, is written.
func (v value) empty() bool {
	if !v.present() {
		return true
	}
	_, null := v.node.(*ast.NullNode)
	return null
}

// text returns what is written as text, with numbers and truth as they are spelled; ""
// if nothing is.
func (v value) text() string {
	if v.empty() {
		return ""
	}
	switch n := v.node.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode, *ast.BoolNode:
		return n.GetToken().Value
	default:
		v.fault("must be text")
	}
	return ""
}

// truth reads a bool, in all spellings of YAML 1.1.
func (v value) truth() bool {
	if v.empty() {
		return false
	}
	switch n := v.node.(type) {
	case *ast.BoolNode:
		return n.Value
	case *ast.StringNode:
		if n.Token.Type != token.StringType {
			break // in quotes
		}
		switch strings.ToLower(n.Value) {
		case "y", "yes", "on":
			return true
		case "n", "no", "off":
			return false
		}
	}
	v.fault("must be true or false")
	return false
}

// count reads a number of requests.
func (v value) count() uint32 {
	digits := ""
	switch n := v.node.(type) {
	case *ast.IntegerNode:
		digits = n.GetToken().Value
	case *ast.StringNode: // the lexer takes numbers beyond 64 bits for text
		if n.Token.Type == token.StringType {
			digits = n.Value
		}
	}
	var c uint64
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' || c > 1<<32 || len(digits) > 1 && digits[0] == '0' {
			c = 1 << 32
			break
		}
		c = c*10 + uint64(digits[i]-'0')
	}
	if digits == "" || c >= 1<<32 {
		v.fault("must be a whole number from 0 to 4294967295, in plain digits")
		return 0
	}
	return uint32(c)
}

// list returns the items.
func (v value) list() []value {
	if v.empty() {
		return nil
	}
	n, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.fault("must be a list")
		return nil
	}
	items := make([]value, 0, len(n.Values))
	for i, item := range n.Values {
		c := v
		c.path = fmt.Sprintf("%s[%d]", v.path, i)
		if c = c.plain(item); c.present() {
			items = append(items, c)
		}
	}
	return items
}

// field is a key of a mapping and its value.
type field struct {
	name string
	key  place
	value
}

// fields returns the keys of a mapping in the order of the file; ok is false if it is none.
func (v value) fields() (fields []field, ok bool) {
	if v.empty() {
		return nil, true
	}
	n, ok := v.node.(*ast.MappingNode)
	if !ok {
		v.fault("must be a mapping")
		return nil, false
	}
	seen := make(map[string]int, len(n.Values))
	for _, p := range n.Values {
		key := v.place
		t := p.Key.GetToken()
		if t != nil && t.Position != nil {
			key.pos = position(t)
		}
		var name string
		switch k := p.Key.(type) {
		case *ast.StringNode:
			name = k.Value
		case *ast.MergeKeyNode:
			v.r.fault(key, "merge keys (<<) are not supported: write the keys themselves")
			continue
		default:
			v.r.fault(key, "a key must be text")
			continue
		}
		key.path = strings.TrimPrefix(v.path+"."+short(name), ".")
		if line, is := seen[name]; is {
			v.r.fault(key, "duplicate key: the first is in line %d", line)
			continue
		}
		seen[name] = key.pos.Line
		c := v
		c.place = key
		if c = c.plain(p.Value); c.present() {
			fields = append(fields, field{name, key, c})
		}
	}
	return fields, true
}

// short cuts what messages quote.
func short(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "..."
	}
	return s
}
