package policy

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
)

// Bounds of a file, so that reading any bytes ends soon and in little memory.
const (
	// MaxSize is the largest policy file in bytes.
	MaxSize = 4 << 20
	// maxMarks bounds the bytes that may start a token: the parser needs about
	// a kilobyte of memory for each.
	maxMarks = 1 << 19
	// maxDepth is how deep collections may nest. The parser calls itself for
	// every level, and its work grows with the square of the depth.
	maxDepth = 64
	// maxBlockWork bounds, over all block mappings, the sum of 1 + 2 + ... +
	// keys: the parser copies the rest of a block mapping at each of its keys.
	// It is one mapping of 10,000 keys. Mappings in braces have no such cost.
	maxBlockWork = 50_000_000
	// maxRefused bounds anchors, tags and the like, which nest without
	// brackets.
	maxRefused = 100
)

// document parses data. Without a root the faults tell why.
func (r *reader) document(data []byte) ast.Node {
	start := Pos{1, 1}
	if len(data) > MaxSize {
		r.fault(start, "", "the file has %d bytes: at most %d", len(data), MaxSize)
		return nil
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		r.fault(invalidAt(data), "", "not UTF-8 text")
		return nil
	}
	if i := bytes.IndexByte(data, 0); i >= 0 { // which databases do not take
		before := data[:i]
		r.fault(Pos{1 + bytes.Count(before, []byte("\n")), i - bytes.LastIndexByte(before, '\n')}, "", "there is a NUL in it")
		return nil
	}
	marks := 0
	for _, b := range data {
		switch b {
		case ',', ':', '[', ']', '{', '}', '-', '?', '&', '*', '!', '|', '>', '%', '#', '"', '\'', '\n':
			marks++
		}
	}
	if marks > maxMarks {
		r.fault(start, "", "the file is too large: %d punctuation marks and lines, at most %d", marks, maxMarks)
		return nil
	}
	file, err := r.parse(string(data))
	if err != nil {
		pos := start
		text := err.Error()
		if e, ok := errors.AsType[yaml.Error](err); ok {
			text = e.GetMessage()
			if t := e.GetToken(); t != nil && t.Position != nil {
				pos = tokenPos(t)
			}
		}
		if strings.HasSuffix(text, "must be specified") {
			text += "; inside brackets, text with any of , : [ ] { } needs quotes"
		}
		if strings.HasSuffix(text, "invalid key for this map") {
			text += "; text that starts with a colon, such as ::1, needs quotes"
		}
		r.fault(pos, "", "not valid YAML or JSON: %s", oneLine(text))
		return nil
	}
	if file == nil {
		return nil
	}
	for _, d := range file.Docs {
		if d.Body != nil {
			return d.Body
		}
	}
	r.fault(start, "", "the file is empty: a policy starts with version: 1")
	return nil
}

// parse returns nil and no error if it has reported why it went no further.
func (r *reader) parse(text string) (file *ast.File, err error) {
	// Earlier versions of the parser panicked on input that is no YAML (its
	// issues 191 and 488). A bad file must not stop a program that runs.
	defer func() {
		if p := recover(); p != nil {
			file, err = nil, fmt.Errorf("the parser gave up: %v", p)
		}
	}()
	tokens := lexer.Tokenize(text)
	if !r.screen(tokens) {
		return nil, nil
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// screen refuses what policies may not use, and what would cost the parser too
// much. It reports whether the rest may be parsed.
func (r *reader) screen(tokens token.Tokens) bool {
	s := screen{r: r, ok: true}
	for _, t := range tokens {
		if !s.token(t) {
			return false
		}
	}
	return s.ok
}

// screen measures nesting by columns: a token of a block collection that stands
// further right than those before is one level deeper.
type screen struct {
	r       *reader
	ok      bool
	content bool // a document has begun
	ended   bool // by "..."
	refused int
	work    int
	blocks  []block // open block collections, columns growing
	flow    []block // open brackets; column is 0 for braces
}

type block struct{ column, keys int }

func (s *screen) token(t *token.Token) bool {
	pos := tokenPos(t)
	switch t.Type {
	case token.CommentType:
		return true
	case token.DirectiveType:
		s.r.fault(pos, "", "YAML directives (%%) are not supported")
		return false
	case token.DocumentHeaderType:
		if s.content || s.ended {
			s.r.fault(pos, "", "a policy is one document: remove this --- and what follows, or what is before")
			return false
		}
		s.content = true
		return true
	case token.DocumentEndType:
		s.ended = true
		return true
	}
	if s.ended {
		s.r.fault(pos, "", "a policy is one document: nothing may follow \"...\"")
		return false
	}
	s.content = true
	switch t.Type {
	case token.AnchorType:
		return s.refuse(pos, "anchors (&) are not supported: write the value where it is used")
	case token.AliasType:
		return s.refuse(pos, "aliases (*) are not supported: write the value itself")
	case token.MergeKeyType:
		return s.refuse(pos, "merge keys (<<) are not supported: write the keys themselves")
	case token.TagType:
		return s.refuse(pos, "tags (!) are not supported")
	case token.MappingKeyType:
		return s.refuse(pos, "keys with \"?\" are not supported: write key: value")
	case token.MappingStartType:
		s.flow = append(s.flow, block{})
	case token.SequenceStartType:
		s.flow = append(s.flow, block{column: pos.Column})
	case token.MappingEndType, token.SequenceEndType:
		s.flow = s.flow[:max(0, len(s.flow)-1)]
	case token.SequenceEntryType:
		if len(s.flow) == 0 {
			s.open(pos.Column)
		}
	case token.MappingValueType:
		return s.key(t)
	}
	return s.deep(pos)
}

// open makes the block collection at the column the innermost one.
func (s *screen) open(column int) *block {
	for len(s.blocks) > 0 && s.blocks[len(s.blocks)-1].column > column {
		s.blocks = s.blocks[:len(s.blocks)-1]
	}
	if len(s.blocks) == 0 || s.blocks[len(s.blocks)-1].column < column {
		s.blocks = append(s.blocks, block{column: column})
	}
	return &s.blocks[len(s.blocks)-1]
}

func (s *screen) key(colon *token.Token) bool {
	pos := tokenPos(colon)
	var in *block
	if n := len(s.flow); n > 0 {
		if in = &s.flow[n-1]; in.column == 0 {
			return true
		}
	} else {
		if colon.Prev != nil {
			pos = tokenPos(colon.Prev)
		}
		in = s.open(pos.Column)
	}
	in.keys++
	if s.work += in.keys; s.work > maxBlockWork {
		s.r.fault(pos, "", "too many keys: a mapping may have 10,000 in block style; write a larger one in braces, {a: 1, b: 2}")
		return false
	}
	return s.deep(pos)
}

func (s *screen) deep(pos Pos) bool {
	if len(s.blocks)+len(s.flow) <= maxDepth {
		return true
	}
	s.r.fault(pos, "", "nested more than %d levels deep", maxDepth)
	return false
}

// refuse reports what the parser may still read, so that the other faults of
// the file are found in the same run.
func (s *screen) refuse(pos Pos, text string) bool {
	s.r.fault(pos, "", "%s", text)
	s.refused++
	return s.refused < maxRefused
}

func tokenPos(t *token.Token) Pos { return Pos{t.Position.Line, t.Position.Column} }

func invalidAt(data []byte) Pos {
	pos := Pos{1, 1}
	for len(data) > 0 {
		c, n := utf8.DecodeRune(data)
		if c == utf8.RuneError && n == 1 {
			return pos
		}
		pos.Column++
		if c == '\n' {
			pos = Pos{pos.Line + 1, 1}
		}
		data = data[n:]
	}
	return pos
}
