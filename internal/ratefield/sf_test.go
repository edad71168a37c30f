package ratefield

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// member is one Item of a structured-field List: a String with parameters that
// are Integers or Strings.
type member struct {
	name   string
	keys   []string // in order
	number map[string]int64
	text   map[string]string
}

// parseList is a strict parser of the structured fields (RFC 9651 4.2) that
// RateLimit and RateLimit-Policy may hold, and of nothing else.
func parseList(s string) ([]member, error) {
	var list []member
	for {
		m := member{number: map[string]int64{}, text: map[string]string{}}
		var err error
		if m.name, s, err = parseString(s); err != nil {
			return nil, err
		}
		for strings.HasPrefix(s, ";") {
			if s, err = m.parseParameter(s[1:]); err != nil {
				return nil, err
			}
		}
		list = append(list, m)
		if s == "" {
			return list, nil
		}
		rest, ok := strings.CutPrefix(s, ", ")
		if !ok {
			return nil, fmt.Errorf("%q where a comma and a space should be", s)
		}
		s = rest
	}
}

func (m *member) parseParameter(s string) (string, error) {
	key, rest, ok := strings.Cut(s, "=")
	if !ok || key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz") != "" {
		return "", fmt.Errorf("key %q", key)
	}
	if slices.Contains(m.keys, key) {
		return "", fmt.Errorf("key %q twice", key)
	}
	m.keys = append(m.keys, key)
	if strings.HasPrefix(rest, `"`) {
		var err error
		m.text[key], rest, err = parseString(rest)
		return rest, err
	}
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	if end < 1 || end > 15 {
		return "", fmt.Errorf("integer of %d digits in %q", end, rest)
	}
	n, err := strconv.ParseInt(rest[:end], 10, 64)
	m.number[key] = n
	return rest[end:], err
}

func parseString(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", fmt.Errorf("%q is no string", s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c == '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", "", fmt.Errorf("lone backslash in %q", s)
			}
			b.WriteByte(s[i])
		case c < 0x20 || c > 0x7e:
			return "", "", fmt.Errorf("byte %#x in %q", c, s)
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("%q does not end", s)
}
