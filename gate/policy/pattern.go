package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A path pattern is that of net/http without method and host: literal
// segments, {name} for one segment that is not empty, {name...} at the end for
// the rest, which may be empty, a trailing slash for the same without a name,
// and {$} after the last slash for a path that ends there.

type segmentKind uint8

const (
	literal segmentKind = iota
	one                 // {name}
	rest                // {name...} or a trailing slash
	end                 // {$}
)

type segment struct {
	kind segmentKind
	text string // of a literal
}

// maxSegments bounds the comparison of every rule with those before it.
const maxSegments = 64

const patternWant = "text such as /api/users/{id} or /api/{rest...}"

func parsePattern(s string) ([]segment, error) {
	if len(s) > 1024 {
		return nil, fmt.Errorf("pattern of %d bytes: at most 1024", len(s))
	}
	if !strings.HasPrefix(s, "/") {
		if method, _, ok := strings.Cut(s, " "); ok && isMethod(method) {
			return nil, fmt.Errorf("%s: methods go into match.methods", quoted(s))
		}
		return nil, fmt.Errorf("%s: must start with /", quoted(s))
	}
	parts := strings.Split(s[1:], "/")
	if len(parts) > maxSegments {
		return nil, fmt.Errorf("pattern of %d segments: at most %d", len(parts), maxSegments)
	}
	segments := make([]segment, 0, len(parts))
	var names []string
	for i, part := range parts {
		seg, name, err := parseSegment(part, i == len(parts)-1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quoted(s), err)
		}
		if name != "" && slices.Contains(names, name) {
			return nil, fmt.Errorf("%s: two wildcards are called %s", quoted(s), name)
		}
		names = append(names, name)
		segments = append(segments, seg)
	}
	return segments, nil
}

func parseSegment(part string, last bool) (seg segment, name string, err error) {
	switch {
	case part == "" && last:
		return segment{kind: rest}, "", nil
	case part == "":
		return seg, "", errors.New("an empty segment matches nothing: remove the double slash")
	case part == "." || part == "..":
		return seg, "", fmt.Errorf("the segment %s matches nothing: paths are cleaned first", part)
	case part == "{$}" && last:
		return segment{kind: end}, "", nil
	case part == "{$}":
		return seg, "", errors.New("{$} must be at the end")
	case !strings.ContainsAny(part, "{}"):
		if i := strings.IndexFunc(part, notLiteral); i >= 0 {
			return seg, "", fmt.Errorf("%q may not stand in a pattern", []rune(part[i:])[0])
		}
		return segment{kind: literal, text: part}, "", nil
	}
	inner, ok := strings.CutPrefix(part, "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if !ok || !closed || strings.ContainsAny(inner, "{}") {
		return seg, "", fmt.Errorf("segment %s: a wildcard must be a whole segment, {name}", quoted(part))
	}
	name, all := strings.CutSuffix(inner, "...")
	switch {
	case !isIdentifier(name):
		return seg, "", fmt.Errorf("segment %s: a wildcard's name is letters, digits and _, not starting with a digit", quoted(part))
	case all && !last:
		return seg, "", fmt.Errorf("{%s...} must be at the end", name)
	case all:
		return segment{kind: rest}, name, nil
	}
	return segment{kind: one}, name, nil
}

// notLiteral tells what a path of a request never holds, or holds in two forms.
func notLiteral(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune("?#%*\\", c) }

func isIdentifier(s string) bool {
	for i, c := range s {
		switch {
		case c == '_', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// covers reports whether every path that b matches is matched by a.
func covers(a, b []segment) bool {
	for i, s := range a {
		if i >= len(b) {
			return false
		}
		switch s.kind {
		case rest:
			return true
		case literal:
			if b[i] != s {
				return false
			}
		case one:
			if b[i].kind != literal && b[i].kind != one {
				return false
			}
		case end:
			if b[i].kind != end {
				return false
			}
		}
	}
	return len(a) == len(b)
}

// isMethod reports whether s is a method as it is written in requests: upper
// case, since methods are case-sensitive and all that are in use are upper.
func isMethod(s string) bool {
	return isToken(s) && s == strings.ToUpper(s)
}

// isToken is the token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune("!#$%&'*+-.^_`|~", c):
		default:
			return false
		}
	}
	return s != "" && len(s) <= 128
}
