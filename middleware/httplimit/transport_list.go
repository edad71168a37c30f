package httplimit

import (
	"strconv"
	"strings"
)

// maxList bounds what is read of a field, in bytes.
const maxList = 4 << 10

// item is a member of RateLimit or RateLimit-Policy. Numbers that are absent, or not
// integers, are -1.
type item struct {
	name, qu string
	r, t     int64
}

// parseList reads the lines of a List of Items (RFC 9651, section 4.2.1) whose values
// are Strings or Tokens. A field at fault, and one with an Inner List, which these
// fields do not have, is none.
func parseList(lines []string) []item {
	p := parser{rest: strings.Join(lines, ", ")}
	if len(p.rest) > maxList {
		return nil
	}
	p.skip(" ")
	var list []item
	for p.rest != "" {
		it, ok := p.item()
		if !ok {
			return nil
		}
		list = append(list, it)
		p.skip(" \t")
		if p.rest == "" {
			return list
		}
		if !p.take(',') {
			return nil
		}
		p.skip(" \t")
		if p.rest == "" {
			return nil // a comma at the end
		}
	}
	return list
}

// parser has what is still to be read.
type parser struct{ rest string }

// value is a bare item: a String or Token, an Integer, or of another kind.
type value struct {
	text    string
	isText  bool
	number  int64
	integer bool
}

func (p *parser) item() (item, bool) {
	it := item{r: -1, t: -1}
	v, ok := p.bare()
	if !ok || !v.isText {
		return it, false
	}
	it.name = v.text
	for p.take(';') {
		p.skip(" ")
		key := p.while(isKey)
		if key == "" || strings.IndexByte("0123456789_-.", key[0]) >= 0 {
			return it, false
		}
		v := value{} // a parameter without a value is true
		if p.take('=') {
			if v, ok = p.bare(); !ok {
				return it, false
			}
		}
		n := int64(-1)
		if v.integer {
			n = v.number
		}
		switch key { // the last of one name counts
		case "r":
			it.r = n
		case "t":
			it.t = n
		case "qu":
			it.qu = v.text
		}
	}
	return it, true
}

func (p *parser) bare() (value, bool) {
	if p.rest == "" {
		return value{}, false
	}
	switch c := p.rest[0]; {
	case c == '"':
		s, ok := p.quoted()
		return value{text: s, isText: true}, ok
	case c == '*' || isLetter(c):
		return value{text: p.while(isToken), isText: true}, true
	case c == '-' || isDigit(c):
		return p.number()
	case c == '?':
		p.rest = p.rest[1:]
		return value{}, p.take('0') || p.take('1')
	case c == '@':
		p.rest = p.rest[1:]
		v, ok := p.number()
		return value{}, ok && v.integer
	case c == ':':
		p.rest = p.rest[1:]
		p.while(isBase64)
		return value{}, p.take(':')
	case c == '%':
		p.rest = p.rest[1:]
		return value{}, p.display()
	}
	return value{}, false
}

func (p *parser) quoted() (string, bool) {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case c < ' ' || c > '~':
			return "", false
		case c == '\\':
			if i++; i == len(p.rest) || p.rest[i] != '"' && p.rest[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(p.rest[i])
	}
	return "", false
}

// display skips a Display String behind its %. What it spells is not looked at.
func (p *parser) display() bool {
	if !p.take('"') {
		return false
	}
	end := strings.IndexByte(p.rest, '"')
	if end < 0 || strings.ContainsFunc(p.rest[:end], func(c rune) bool { return c < ' ' || c > '~' }) {
		return false
	}
	p.rest = p.rest[end+1:]
	return true
}

// number reads an Integer of up to 15 digits, or a Decimal of up to 12 and 3.
func (p *parser) number() (value, bool) {
	negative := p.take('-')
	whole := p.while(isDigit)
	if p.take('.') {
		part := p.while(isDigit)
		return value{}, 1 <= len(whole) && len(whole) <= 12 && 1 <= len(part) && len(part) <= 3
	}
	if len(whole) == 0 || len(whole) > 15 {
		return value{}, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if negative {
		n = -n
	}
	return value{number: n, integer: true}, err == nil
}

func (p *parser) take(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *parser) skip(chars string) { p.rest = strings.TrimLeft(p.rest, chars) }

func (p *parser) while(is func(byte) bool) string {
	n := 0
	for n < len(p.rest) && is(p.rest[n]) {
		n++
	}
	s := p.rest[:n]
	p.rest = p.rest[n:]
	return s
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isKey(c byte) bool {
	return 'a' <= c && c <= 'z' || isDigit(c) || strings.IndexByte("_-.*", c) >= 0
}

func isToken(c byte) bool {
	return isLetter(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
}

func isBase64(c byte) bool {
	return isLetter(c) || isDigit(c) || strings.IndexByte("+/=", c) >= 0
}
