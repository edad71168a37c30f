package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/headgate/headgate"
)

// value is one value of the document and where it stands. The zero value is an
// absent one: its readers return nothing and report nothing.
type value struct {
	r    *reader
	node ast.Node
	path string
	pos  Pos
}

func (v value) present() bool { return v.r != nil }

func (v value) fault(format string, args ...any) { v.r.fault(v.pos, v.path, format, args...) }

func (v value) warn(format string, args ...any) { v.r.warn(v.pos, v.path, format, args...) }

// child makes the value of a node below v. The fallback position serves nodes
// that are not written: an empty value after "key:".
func (v value) child(node ast.Node, step string, fallback Pos) value {
	c := value{r: v.r, node: plainNode(node), path: v.path + step, pos: fallback}
	if v.path == "" {
		c.path = strings.TrimPrefix(c.path, ".")
	}
	if n, ok := c.node.(*ast.NullNode); !ok || n.Token.Type != token.ImplicitNullType {
		c.pos = nodePos(c.node, fallback)
	}
	return c
}

// plainNode looks through anchors and tags, which were reported when the file
// was screened.
func plainNode(node ast.Node) ast.Node {
	for {
		switch n := node.(type) {
		case *ast.AnchorNode:
			node = n.Value
		case *ast.TagNode:
			node = n.Value
		default:
			return node
		}
	}
}

func nodePos(node ast.Node, fallback Pos) Pos {
	if node == nil {
		return fallback
	}
	t := node.GetToken()
	if n, ok := node.(*ast.MappingNode); ok && !n.IsFlowStyle && len(n.Values) > 0 {
		// The token of a block mapping is its first colon.
		t = n.Values[0].Key.GetToken()
	}
	if t == nil || t.Position == nil {
		return fallback
	}
	return tokenPos(t)
}

// describe says what a node is, for "must be X, not Y".
func describe(node ast.Node) string {
	switch node.(type) {
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode:
		return "a number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a fraction"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode:
		return "a mapping"
	default:
		return "empty"
	}
}

// What text is wanted where any text will do.
const (
	wantText = "text"
	wantName = "text: a name"
)

// mistyped reports that v is not what is wanted.
func (v value) mistyped(want string) {
	if !v.present() {
		return
	}
	if _, ok := v.node.(*ast.AliasNode); ok {
		return // reported when the file was screened
	}
	switch is := describe(v.node); {
	case is == "empty":
		v.fault("is empty: must be %s", want)
	case is == "a number" && (want == wantText || want == wantName):
		v.fault("must be %s, not a number: put it in quotes", want)
	default:
		v.fault("must be %s, not %s", want, is)
	}
}

// text returns a string that is not empty.
func (v value) text(want string) (string, bool) {
	s, ok := v.scalar()
	switch {
	case !ok:
		v.mistyped(want)
	case s == "":
		v.fault("is empty: must be %s", want)
	default:
		return s, true
	}
	return "", false
}

func (v value) scalar() (string, bool) {
	switch n := v.node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

// is reports whether v is the word.
func (v value) is(word string) bool {
	s, ok := v.scalar()
	return ok && s == word
}

// integer returns a whole number from least to most, both not negative.
func (v value) integer(least, most int64) (int64, bool) {
	want := fmt.Sprintf("a whole number from %d to %d", least, most)
	digits := v.digits()
	if digits == "" {
		v.mistyped(want)
		return 0, false
	}
	i, err := parseDigits(digits)
	if err != nil || i < least || i > most {
		v.fault("%s: must be %s, in plain digits", quoted(digits), want)
		return 0, false
	}
	return i, true
}

// digits returns a number as it is written, "" for anything else.
func (v value) digits() string {
	switch n := v.node.(type) {
	case *ast.IntegerNode:
		return n.Token.Value
	case *ast.StringNode:
		// The lexer takes numbers beyond 64 bits for text.
		if n.Token.Type == token.StringType && strings.Trim(n.Value, "0123456789") == "" {
			return n.Value
		}
	}
	return ""
}

// parseDigits reads 0 or digits without a leading zero, up to 2^53-1. No sign,
// no underscore, no other base: such numbers read differently elsewhere.
func parseDigits(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%s is not a whole number in plain digits", quoted(s))
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%s starts with a zero", quoted(s))
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil || i > headgate.MaxInt {
		return 0, fmt.Errorf("%s is too large: at most %d", quoted(s), int64(headgate.MaxInt))
	}
	return i, nil
}

func (v value) boolean() bool {
	if n, ok := v.node.(*ast.BoolNode); ok {
		return n.Value
	}
	v.mistyped("true or false")
	return false
}

// word returns the index of the option that v is; 0 if it is absent or none.
func (v value) word(options ...string) int {
	want := "one of " + strings.Join(options, ", ")
	if len(options) == 1 {
		want = options[0]
	}
	if !v.present() {
		return 0
	}
	s, ok := v.scalar()
	if !ok {
		v.mistyped(want)
		return 0
	}
	i := slices.Index(options, s)
	if i < 0 {
		v.fault("%s: must be %s%s", quoted(s), want, didYouMean(s, options))
		return 0
	}
	return i
}

func didYouMean(s string, options []string) string {
	if o := Near(s, options); o != "" {
		return fmt.Sprintf("; did you mean %s?", o)
	}
	return ""
}

// list returns the items.
func (v value) list(want string) ([]value, bool) {
	n, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.mistyped(want)
		return nil, false
	}
	items := make([]value, len(n.Values))
	for i, item := range n.Values {
		items[i] = v.child(rejoined(item), fmt.Sprintf("[%d]", i), v.pos)
		items[i].pos = nodePos(items[i].node, v.pos)
	}
	return items, true
}

// rejoined returns the text that the lexer took for a mapping: in a list in
// brackets inside braces it splits subject:mallory and 2001:db8::1 at the colon,
// where YAML asks for a space behind it.
func rejoined(node ast.Node) ast.Node {
	m, ok := node.(*ast.MappingNode)
	if !ok || m.IsFlowStyle || len(m.Values) != 1 {
		return node
	}
	pair := m.Values[0]
	key, colon, text := pair.Key.GetToken(), pair.Start, pair.Value.GetToken()
	if !isPlain(key) || !isPlain(text) || !follows(key, colon) || !follows(colon, text) {
		return node
	}
	return ast.String(token.New(key.Value+":"+text.Value, key.Origin, key.Position))
}

func isPlain(t *token.Token) bool {
	return t != nil && t.Position != nil && (t.Type == token.StringType || t.Type == token.IntegerType)
}

// follows reports whether nothing stands between two tokens of a line.
func follows(a, b *token.Token) bool {
	return b != nil && b.Position != nil && a.Position.Line == b.Position.Line &&
		a.Position.Column+utf8.RuneCountInString(a.Value) == b.Position.Column
}

// entry is a key of a mapping and its value.
type entry struct {
	key  value // to report faults of the key itself
	name string
	value
}

// entries returns the keys in the order of the file, each once.
func (v value) entries(want string) ([]entry, bool) {
	n, ok := v.node.(*ast.MappingNode)
	if !ok {
		v.mistyped(want)
		return nil, false
	}
	entries := make([]entry, 0, len(n.Values))
	first := make(map[string]int, len(n.Values))
	for _, p := range n.Values {
		node := plainNode(p.Key)
		if _, ok := node.(*ast.MergeKeyNode); ok {
			continue
		}
		key := value{r: v.r, node: node, path: v.path, pos: nodePos(node, v.pos)}
		name, ok := key.scalar()
		if !ok {
			switch node.(type) {
			case *ast.MappingKeyNode, *ast.AliasNode: // reported when the file was screened
			default:
				key.fault("a key must be text: put %s in quotes", quoted(node.GetToken().Value))
			}
			continue
		}
		e := entry{key: key, name: name, value: v.child(p.Value, pathStep(name), key.pos)}
		e.key.path = e.path
		if line, ok := first[name]; ok {
			e.key.fault("duplicate key: the first is in line %d", line)
			continue
		}
		first[name] = key.pos.Line
		entries = append(entries, e)
	}
	return entries, true
}

func pathStep(key string) string {
	for _, c := range key {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		default:
			return "[" + quoted(key) + "]"
		}
	}
	if key == "" || len(key) > 64 {
		return "[" + quoted(key) + "]"
	}
	return "." + key
}

// keys says what an object may hold. What is later is in the contract and not
// built: it maps to the feature's name. What stands elsewhere is known and makes
// no sense here: it maps to the fault.
type keys struct {
	allowed   []string
	later     map[string]string
	elsewhere map[string]string
}

// object is a mapping with known keys.
type object struct {
	value
	ok     bool
	fields map[string]value
}

// object reads v as a mapping with the keys.
func (v value) object(k keys) object {
	o := object{value: v}
	entries, ok := v.entries("a mapping with " + strings.Join(k.allowed, ", "))
	if !ok {
		return o
	}
	o.ok, o.fields = true, make(map[string]value, len(entries))
	for _, e := range entries {
		if feature, ok := k.later[e.name]; ok {
			e.key.fault("not supported yet: %s", feature)
			continue
		}
		if why, ok := k.elsewhere[e.name]; ok {
			e.key.fault("%s", why)
			continue
		}
		if !slices.Contains(k.allowed, e.name) {
			e.key.fault("unknown key%s (allowed: %s)", didYouMean(e.name, k.allowed), strings.Join(k.allowed, ", "))
			continue
		}
		o.fields[e.name] = e.value
	}
	return o
}

// at returns the value of a key; absent if it is not written.
func (o object) at(key string) value { return o.fields[key] }

// need is at for keys that must be written.
func (o object) need(key, why string) value {
	v, ok := o.fields[key]
	if !ok && o.ok {
		path := strings.TrimPrefix(o.path+"."+key, ".")
		o.r.fault(o.pos, path, "missing: %s", why)
	}
	return v
}

// checkText refuses what no request may say as subject or operation.
func checkText(s string) error {
	if len(s) > 512 {
		return fmt.Errorf("%d bytes: at most 512", len(s))
	}
	if i := strings.IndexAny(s, "\r\n\x00"); i >= 0 {
		return fmt.Errorf("%s: no line breaks and no NUL", quoted(s))
	}
	return nil
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c == '\n' || c == '\r' }), "; ")
}
