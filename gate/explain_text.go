package gate

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxName is how much of a name an explanation repeats, in bytes.
const maxName = MaxSubject

// sayName returns s as it is if it reads as one word, else quoted and escaped:
// no name can end a sentence, or move the cursor of a terminal.
func sayName(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.@:/+=#|~%*$&", r) {
			return sayQuoted(s)
		}
	}
	if s == "" || len(s) > maxName {
		return sayQuoted(s)
	}
	return s
}

func sayQuoted(s string) string {
	if len(s) <= maxName {
		return strconv.Quote(s)
	}
	return strconv.Quote(strings.ToValidUTF8(s[:maxName], "")) + "..."
}

// saySource returns an expression for people who may not know all of the
// policy: its literals, which can name other subjects, are left out, but for
// those that only say which header or attribute is looked up.
func saySource(source string) string {
	var b strings.Builder
	b.WriteByte('`')
	for i := 0; i < len(source); {
		switch c := source[i]; {
		case c == '"' || c == '\'':
			end := literalEnd(source, i)
			if literal := source[i:end]; indexes(source[:i], source[end:]) && printable(literal) {
				b.WriteString(literal)
			} else {
				b.WriteString(`"..."`)
			}
			i = end
		case strings.HasPrefix(source[i:], "//"):
			_, after, _ := strings.Cut(source[i:], "\n")
			i = len(source) - len(after)
		case c <= ' ' || c == '`' || c >= 0x7f:
			b.WriteByte(' ')
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	b.WriteByte('`')
	return strings.Join(strings.Fields(b.String()), " ")
}

// literalEnd returns the end of the literal whose quotes begin at i.
func literalEnd(source string, i int) int {
	quotes := source[i : i+1]
	if triple := strings.Repeat(quotes, 3); strings.HasPrefix(source[i:], triple) {
		quotes = triple
	}
	before := strings.TrimRight(source[:i], "rRbB")
	raw := strings.ContainsAny(source[len(before):i], "rR")
	for i += len(quotes); i < len(source); i++ {
		switch {
		case strings.HasPrefix(source[i:], quotes):
			return i + len(quotes)
		case source[i] == '\\' && !raw:
			i++
		}
	}
	return len(source)
}

// indexes reports whether a literal between before and after is the key of a
// look-up, such as attributes["org"], and not an item of a list.
func indexes(before, after string) bool {
	object, found := strings.CutSuffix(before, "[")
	if !found || !strings.HasPrefix(after, "]") {
		return false
	}
	word := strings.TrimLeftFunc(object[lastWord(object):], unicode.IsSpace)
	return word == "attributes" || strings.HasSuffix(word, ".headers") || strings.HasSuffix(word, ".query")
}

func lastWord(s string) int {
	return strings.LastIndexFunc(s, func(r rune) bool { return r != '.' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) + 1
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == '`' || r <= ' ' || r >= 0x7f })
}

// sayExact returns all of a duration: 1 h 30 min.
func sayExact(d time.Duration) string {
	const day = 24 * time.Hour
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if n := d / u.unit; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, u.name))
			d %= u.unit
		}
	}
	unit, name := time.Second, "s"
	switch {
	case d == 0 && len(parts) > 0:
		return strings.Join(parts, " ")
	case d == 0 || d >= time.Second || len(parts) > 0:
	case d >= time.Millisecond:
		unit, name = time.Millisecond, "ms"
	default:
		unit, name = time.Microsecond, "us"
	}
	return strings.Join(append(parts, strconv.FormatFloat(float64(d)/float64(unit), 'f', -1, 64)+" "+name), " ")
}

// saySpan returns a time to wait as people say it, rounded up: who comes when it
// is over does not come too early.
func saySpan(d time.Duration) string {
	const day = 24 * time.Hour
	step := time.Hour
	switch {
	case d < time.Second:
		step = time.Millisecond
	case d < 10*time.Second:
		step = 100 * time.Millisecond
	case d < time.Hour:
		step = time.Second
	case d < day:
		step = time.Minute
	}
	if rest := d % step; rest > 0 && d <= 1<<63-1-step {
		d += step - rest
	}
	return sayExact(max(0, d))
}

// sayPer returns a period behind "per".
func sayPer(d time.Duration) string {
	switch d {
	case time.Second:
		return "second"
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "24 h" // "day" is the calendar's
	default:
		return sayExact(d)
	}
}

// sayInstant returns an instant to the second, rounded up.
func sayInstant(t time.Time, zone *time.Location) string {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		t = whole.Add(time.Second)
	}
	t = t.In(cmp.Or(zone, time.UTC))
	if t.Second() == 0 {
		return t.Format("2006-01-02 15:04 MST")
	}
	return t.Format("2006-01-02 15:04:05 MST")
}

// sayCount returns n of a unit.
func sayCount(n int64, unit string) string {
	if n == 1 && unit == "requests" {
		return "1 request"
	}
	return strconv.FormatInt(n, 10) + " " + unit
}

// sayList joins names: a, b and c.
func sayList(items []string) string {
	switch n := len(items); {
	case n == 0:
		return ""
	case n == 1:
		return items[0]
	default:
		return strings.Join(items[:n-1], ", ") + " and " + items[n-1]
	}
}
