package envoy

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/headgate/headgate"
)

// Bounds of metadata, which are those of policies.
const (
	maxMetadataDepth = 8
	maxMetadata      = 16 << 10 // bytes of keys and texts, eight for each value
)

// pair is one key of a mapping of metadata.
type pair struct {
	key   string
	value any
}

// number is a number as it is to be written.
type number string

// metadata reads a mapping of anything: text, numbers, bools, null, lists and mappings as
// string, number, bool, nil, []any and []pair.
func (v value) metadata() []pair {
	if _, ok := v.node.(*ast.MappingNode); !ok {
		v.fault("must be a mapping")
		return nil
	}
	size := 0
	m, _ := v.anything(&size, 1).([]pair)
	if size > maxMetadata {
		v.fault("more than %d bytes", maxMetadata)
	}
	return m
}

func (v value) anything(size *int, depth int) any {
	switch *size += 8; {
	case *size > maxMetadata:
		return nil // reported when all of it ends
	case depth > maxMetadataDepth:
		v.fault("nested more than %d levels deep", maxMetadataDepth)
		return nil
	}
	switch n := v.node.(type) {
	case *ast.MappingNode:
		fields, _ := v.fields()
		m := make([]pair, 0, len(fields))
		for _, f := range fields {
			*size += len(f.name)
			m = append(m, pair{f.name, f.anything(size, depth+1)})
		}
		return m
	case *ast.SequenceNode:
		items := v.list()
		list := make([]any, 0, len(items))
		for _, item := range items {
			list = append(list, item.anything(size, depth+1))
		}
		return list
	case *ast.BoolNode:
		return n.Value
	case *ast.NullNode:
		return nil
	case *ast.IntegerNode:
		return v.integer(n)
	case *ast.FloatNode:
		if !math.IsInf(n.Value, 0) && !math.IsNaN(n.Value) {
			return fraction(n.Value)
		}
	case *ast.StringNode, *ast.LiteralNode:
		s := v.text()
		if n, ok := n.(*ast.StringNode); ok && n.Token.Type == token.StringType && exponent.MatchString(s) {
			if f, err := strconv.ParseFloat(s, 64); err == nil {
				return fraction(f)
			}
		}
		*size += len(s)
		return s
	}
	v.fault("must be text, a finite number, true, false, null, a list or a mapping")
	return nil
}

// exponent is a number that the lexer takes for text.
var exponent = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$`)

// fraction writes f so that it reads as a fraction everywhere.
func fraction(f float64) number {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return number(s)
}

func (v value) integer(n *ast.IntegerNode) any {
	switch i := n.Value.(type) {
	case int64:
		if i >= -headgate.MaxInt && i <= headgate.MaxInt {
			return number(strconv.FormatInt(i, 10))
		}
	case uint64:
		if i <= headgate.MaxInt {
			return number(strconv.FormatUint(i, 10))
		}
	}
	v.fault("%s is too large a number: put it in quotes", short(n.GetToken().Value))
	return nil
}
