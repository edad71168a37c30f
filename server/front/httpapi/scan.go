package httpapi

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/headgate/headgate"
)

// scanner reads one JSON document of a known shape. It never recurses: what a
// field may hold is decided by the field, so that nesting ends where the
// contract ends. Strings without escapes are parts of s.
type scanner struct {
	s string
	i int
}

func invalid(field, format string, args ...any) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: fmt.Errorf(format, args...)}
}

// syntax says what was expected at the present byte. field is what was being
// read, "" outside of any field.
func (s *scanner) syntax(field, want string) error {
	if s.i >= len(s.s) {
		return invalid(field, "the body is not valid JSON: it ends at byte %d, expected %s", s.i, want)
	}
	r, _ := utf8.DecodeRuneInString(s.s[s.i:])
	return invalid(field, "the body is not valid JSON: at byte %d expected %s, found %q", s.i, want, r)
}

// maxDepth is the deepest nesting of values that are passed over.
const maxDepth = 64

// skip passes over one value of any kind. field is what holds it.
func (s *scanner) skip(field string) error {
	var objects uint64 // one bit for each level that is open: an object, not an array
	for depth := 0; ; {
		s.space()
		var c byte
		if s.i < len(s.s) {
			c = s.s[s.i]
		}
		if c == '{' || c == '[' {
			if depth == maxDepth {
				return invalid(field, "is nested deeper than %d levels", maxDepth)
			}
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			s.i++
			if s.closes(objects) {
				depth--
				objects >>= 1
			} else if err := s.key(field, objects); err != nil {
				return err
			} else {
				continue
			}
		} else if err := s.scalar(field); err != nil {
			return err
		}
		for {
			if depth == 0 {
				return nil
			}
			if s.closes(objects) {
				depth--
				objects >>= 1
				continue
			}
			if s.i >= len(s.s) || s.s[s.i] != ',' {
				if objects&1 == 1 {
					return s.syntax(field, "',' or '}'")
				}
				return s.syntax(field, "',' or ']'")
			}
			s.i++
			if err := s.key(field, objects); err != nil {
				return err
			}
			break
		}
	}
}

// closes passes over the end of the innermost level, if it is here.
func (s *scanner) closes(objects uint64) bool {
	s.space()
	end := byte(']')
	if objects&1 == 1 {
		end = '}'
	}
	if s.i >= len(s.s) || s.s[s.i] != end {
		return false
	}
	s.i++
	return true
}

// key passes over the name before a value, if the innermost level is an object.
func (s *scanner) key(field string, objects uint64) error {
	if objects&1 == 0 {
		return nil
	}
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != '"' {
		return s.syntax(field, "the name of a field in double quotes")
	}
	if _, err := s.text(field); err != nil {
		return err
	}
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != ':' {
		return s.syntax(field, "':'")
	}
	s.i++
	return nil
}

// scalar passes over a value that is no object and no array.
func (s *scanner) scalar(field string) error {
	if s.i < len(s.s) {
		switch c := s.s[s.i]; {
		case c == '"':
			_, err := s.text(field)
			return err
		case c == '-', c >= '0' && c <= '9':
			return s.number(field)
		}
		for _, word := range [...]string{"true", "false", "null"} {
			if strings.HasPrefix(s.s[s.i:], word) {
				s.i += len(word)
				return nil
			}
		}
	}
	return s.syntax(field, "a value")
}

// truth reads true or false.
func (s *scanner) truth(field string) (bool, error) {
	s.space()
	switch rest := s.s[s.i:]; {
	case strings.HasPrefix(rest, "true"):
		s.i += len("true")
		return true, nil
	case strings.HasPrefix(rest, "false"):
		s.i += len("false")
		return false, nil
	}
	return false, s.wrong(field, "true or false")
}

// wrong says that a value of another type than want begins here.
func (s *scanner) wrong(field, want string) error {
	if s.i >= len(s.s) {
		return s.syntax(field, want)
	}
	rest := s.s[s.i:]
	var kind string
	switch c := rest[0]; {
	case c == '{':
		kind = "an object"
	case c == '[':
		kind = "an array"
	case c == '"':
		kind = "a string"
	case c == '-', c >= '0' && c <= '9':
		kind = "a number"
	case strings.HasPrefix(rest, "true"), strings.HasPrefix(rest, "false"):
		kind = "a boolean"
	case strings.HasPrefix(rest, "null"):
		kind = "null"
	default:
		return s.syntax(field, want)
	}
	return invalid(field, "must be %s, not %s", want, kind)
}

func (s *scanner) space() {
	for s.i < len(s.s) {
		switch s.s[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// open reads the beginning of an object.
func (s *scanner) open(field string) error {
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != '{' {
		if field == "" && s.i < len(s.s) && strings.IndexByte(`["-0123456789tfn`, s.s[s.i]) >= 0 {
			return invalid("", "the body must be a JSON object")
		}
		return s.wrong(field, "an object")
	}
	s.i++
	return nil
}

// member reads the name of the next member and its colon, or the end of the
// object. first is true for the first call after open.
func (s *scanner) member(field string, first bool) (name string, more bool, err error) {
	s.space()
	if s.i < len(s.s) && s.s[s.i] == '}' {
		s.i++
		return "", false, nil
	}
	if !first {
		if s.i >= len(s.s) || s.s[s.i] != ',' {
			return "", false, s.syntax(field, "',' or '}'")
		}
		s.i++
		s.space()
	}
	if s.i >= len(s.s) || s.s[s.i] != '"' {
		return "", false, s.syntax(field, "the name of a field in double quotes")
	}
	if name, err = s.text(field); err != nil {
		return "", false, err
	}
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != ':' {
		return "", false, s.syntax(field, "':'")
	}
	s.i++
	return name, true, nil
}

// members reads an object, each member of known at most once; value reads that
// of the member it is given.
func (s *scanner) members(known []string, value func(name string) error) error {
	if err := s.open(""); err != nil {
		return err
	}
	var had seen
	for first := true; ; first = false {
		name, more, err := s.member("", first)
		if err != nil || !more {
			return err
		}
		if err := had.add(known, "", name); err != nil {
			return err
		}
		if err := value(name); err != nil {
			return err
		}
	}
}

// end checks that nothing follows the document.
func (s *scanner) end() error {
	s.space()
	if s.i < len(s.s) {
		return s.syntax("", "the end of the body")
	}
	return nil
}

// str reads a string value.
func (s *scanner) str(field string) (string, error) {
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != '"' {
		return "", s.wrong(field, "a string")
	}
	return s.text(field)
}

// texts reads a string, or an array of strings.
func (s *scanner) texts() ([]string, error) {
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != '"' && s.s[s.i] != '[' {
		return nil, s.wrong("", "a string or an array of strings")
	}
	if s.s[s.i] == '"' {
		v, err := s.text("")
		return []string{v}, err
	}
	s.i++
	var vs []string
	for s.space(); s.i >= len(s.s) || s.s[s.i] != ']'; s.space() {
		if len(vs) > 0 {
			if s.i >= len(s.s) || s.s[s.i] != ',' {
				return nil, s.syntax("", "',' or ']'")
			}
			s.i++
		}
		v, err := s.str("")
		if err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	s.i++
	return vs, nil
}

// text reads a string of which the opening quote is at the present byte.
func (s *scanner) text(field string) (string, error) {
	start := s.i + 1
	for i := start; i < len(s.s); i++ {
		switch c := s.s[i]; {
		case c == '"':
			s.i = i + 1
			return s.s[start:i], nil
		case c == '\\':
			s.i = i
			return s.escaped(field, s.s[start:i])
		case c < ' ':
			s.i = i
			return "", s.syntax(field, "a character of a string (control characters are written \\u00XX)")
		}
	}
	s.i = len(s.s)
	return "", s.syntax(field, "the closing quote of a string")
}

// escaped goes on with a string from its first backslash.
func (s *scanner) escaped(field, head string) (string, error) {
	out := append(make([]byte, 0, len(head)+32), head...)
	for s.i < len(s.s) {
		c := s.s[s.i]
		switch {
		case c == '"':
			s.i++
			return string(out), nil
		case c < ' ':
			return "", s.syntax(field, "a character of a string (control characters are written \\u00XX)")
		case c != '\\':
			out = append(out, c)
			s.i++
			continue
		}
		s.i++
		if s.i >= len(s.s) {
			break
		}
		at := strings.IndexByte(`"\/bfnrt`, s.s[s.i])
		if at >= 0 {
			out = append(out, "\"\\/\b\f\n\r\t"[at])
			s.i++
			continue
		}
		r, err := s.unicode(field)
		if err != nil {
			return "", err
		}
		out = utf8.AppendRune(out, r)
	}
	return "", s.syntax(field, "the closing quote of a string")
}

// unicode reads uXXXX, or two of them for a surrogate pair. Half a pair is
// refused: replaced by U+FFFD it would make different subjects equal.
func (s *scanner) unicode(field string) (rune, error) {
	if s.s[s.i] != 'u' {
		return 0, s.syntax(field, `one of "\/bfnrtu after a backslash`)
	}
	s.i++
	r, err := s.hex4(field)
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if strings.HasPrefix(s.s[s.i:], `\u`) {
		s.i += 2
		low, err := s.hex4(field)
		if err != nil {
			return 0, err
		}
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, nil
		}
	}
	return 0, invalid(field, "holds half of a surrogate pair, \\u%04x, which is no character", r)
}

func (s *scanner) hex4(field string) (rune, error) {
	var r rune
	for range 4 {
		if s.i >= len(s.s) {
			return 0, s.syntax(field, "four hexadecimal digits")
		}
		switch c := s.s[s.i]; {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, s.syntax(field, "four hexadecimal digits")
		}
		s.i++
	}
	return r, nil
}

// whole reads a whole number of 0 to headgate.MaxInt. A point, an exponent and
// a sign are refused even where the value would be whole: -0, 1.0, 1e3.
func (s *scanner) whole(field string) (int64, error) {
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != '-' && (s.s[s.i] < '0' || s.s[s.i] > '9') {
		return 0, s.wrong(field, "a whole number")
	}
	start := s.i
	if err := s.number(field); err != nil {
		return 0, err
	}
	token := s.s[start:s.i]
	n, err := strconv.ParseUint(token, 10, 64)
	if err == nil && n <= headgate.MaxInt {
		return int64(n), nil
	}
	if len(token) > 40 {
		token = token[:40] + "..."
	}
	switch {
	case token[0] == '-':
		return 0, invalid(field, "%s: must not be negative", token)
	case errors.Is(err, strconv.ErrSyntax):
		return 0, invalid(field, "%s: must be a whole number, without point or exponent", token)
	default:
		return 0, invalid(field, "%s: must be at most %d", token, int64(headgate.MaxInt))
	}
}

// number passes over a number as RFC 8259 writes it.
func (s *scanner) number(field string) error {
	if s.s[s.i] == '-' {
		s.i++
	}
	if s.i < len(s.s) && s.s[s.i] == '0' {
		s.i++
	} else if !s.digits() {
		return s.syntax(field, "a digit")
	}
	if s.i < len(s.s) && s.s[s.i] == '.' {
		s.i++
		if !s.digits() {
			return s.syntax(field, "a digit")
		}
	}
	if s.i < len(s.s) && s.s[s.i]|0x20 == 'e' {
		s.i++
		if s.i < len(s.s) && (s.s[s.i] == '+' || s.s[s.i] == '-') {
			s.i++
		}
		if !s.digits() {
			return s.syntax(field, "a digit")
		}
	}
	return nil
}

// digits passes over digits and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.s) && s.s[s.i] >= '0' && s.s[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}
