package resp

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"
)

// next finds the next command in what was read and leaves its arguments in
// w.args: none for an empty one. It reports false if its end has not come yet.
// After an error nothing more can be understood.
//
// A command that comes in pieces is read from its start again for each of them;
// only the length of each argument is looked at, of which there are few.
func (w *work) next(maxArgs, maxBytes int) (complete bool, err error) {
	w.args = w.args[:0]
	if w.in[w.at] != '*' {
		return w.inline(maxArgs, maxBytes)
	}
	b := w.in[w.at:w.end]
	n, i, err := number(b, 1)
	if err != nil || i == 0 {
		return false, badCount(err)
	}
	if n > maxArgs {
		return false, fmt.Errorf("invalid multibulk length: %d arguments are more than %d", n, maxArgs)
	}
	total := 0
	for range n {
		if i == len(b) {
			return false, nil
		}
		if b[i] != '$' {
			return false, fmt.Errorf("expected '$', got %q", b[i])
		}
		size, from, err := number(b, i+1)
		if err != nil || from == 0 {
			return false, err
		}
		if total += size; size < 0 || total > maxBytes {
			return false, fmt.Errorf("invalid bulk length: a command has at most %d bytes", maxBytes)
		}
		i = from + size + 2
		if i > len(b) {
			return false, nil
		}
		if b[i-2] != '\r' || b[i-1] != '\n' {
			return false, errors.New("an argument is not as long as it was said to be")
		}
		w.args = append(w.args, view(b[from:from+size]))
	}
	w.at += i
	return true, nil
}

func badCount(err error) error {
	if err != nil {
		return errors.New("invalid multibulk length")
	}
	return nil
}

var errLength = errors.New("invalid bulk length")

// number reads a whole number and the end of its line from b[i:]. next is where the
// next line begins, 0 if the end has not come yet. Those below 0 are all -1.
func number(b []byte, i int) (n, next int, err error) {
	start := i
	negative := i < len(b) && b[i] == '-'
	if negative {
		i++
	}
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if i-start > 8 {
			return 0, 0, errLength
		}
		n = n*10 + int(b[i]-'0')
	}
	switch {
	case i < len(b) && (b[i] != '\r' || i == start || negative && i == start+1), i+1 < len(b) && b[i+1] != '\n':
		return 0, 0, errLength
	case i+1 >= len(b):
		return 0, 0, nil
	}
	if negative {
		n = -1
	}
	return n, i + 2, nil
}

// view returns b as a string. It shares the bytes, which stay as they are until
// the command is answered.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

var errQuotes = errors.New("unbalanced quotes in request")

// inline reads a command that is a line of words, as people type it. Words may be
// quoted: "a b\n\x00" or 'a b'. They are put in order where they stand.
func (w *work) inline(maxArgs, maxBytes int) (complete bool, err error) {
	b := w.in[w.at:w.end]
	length := bytes.IndexByte(b[w.scanned:], '\n')
	if length >= 0 {
		length += w.scanned
	} else if w.scanned = len(b); len(b) <= maxBytes {
		return false, nil
	}
	if length < 0 || length > maxBytes {
		return false, errors.New("too big inline request")
	}
	w.scanned = 0
	w.at += length + 1
	line := bytes.TrimSuffix(b[:length], []byte("\r"))
	for {
		line = bytes.TrimLeft(line, " \t\v\f\r\x00")
		if len(line) == 0 {
			return true, nil
		}
		word, rest, ok := unquote(line)
		if !ok {
			return false, errQuotes
		}
		if len(w.args) == maxArgs {
			return false, fmt.Errorf("more than %d arguments", maxArgs)
		}
		w.args = append(w.args, view(word))
		line = rest
	}
}

// unquote reads one word from the start of line, which is not empty, and writes
// it where it stood: it never becomes longer.
func unquote(line []byte) (word, rest []byte, ok bool) {
	word = line[:0]
	for i := 0; i < len(line); {
		switch c := line[i]; c {
		case ' ', '\t', '\v', '\f', '\r', 0:
			return word, line[i:], true
		case '"', '\'':
			end := false
			for i++; i < len(line) && !end; {
				switch {
				case line[i] == c:
					end = true
					i++
				case line[i] == '\\' && i+1 < len(line) && (c == '"' || line[i+1] == '\''):
					meant, n := escaped(line[i+1:], c == '"')
					word, i = append(word, meant), i+1+n
				default:
					word = append(word, line[i])
					i++
				}
			}
			if !end || i < len(line) && !space(line[i]) {
				return nil, nil, false
			}
		default:
			word = append(word, c)
			i++
		}
	}
	return word, nil, true
}

func space(c byte) bool {
	return c == ' ' || c >= '\t' && c <= '\r' || c == 0
}

// escaped reads what stands behind a backslash, and how long it is.
func escaped(b []byte, double bool) (c byte, n int) {
	if !double {
		return b[0], 1
	}
	switch b[0] {
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	case 'b':
		return '\b', 1
	case 'a':
		return '\a', 1
	case 'x':
		if len(b) >= 3 && hex(b[1]) >= 0 && hex(b[2]) >= 0 {
			return byte(hex(b[1])<<4 | hex(b[2])), 3
		}
	}
	return b[0], 1
}

// hex is the value of a hexadecimal digit, -1 if it is none.
func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// fold reports whether a and b are equal but for the case of ASCII letters; b is
// in upper case.
func fold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		c := a[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != b[i] {
			return false
		}
	}
	return true
}

// integer reads a decimal number with an optional sign. ok is false for anything
// else, and for what does not fit.
func integer(s string) (n int64, ok bool) {
	digits := s
	if len(s) > 0 && s[0] == '-' {
		digits = s[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	for i := range len(digits) {
		c := digits[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	if len(digits) < len(s) {
		n = -n
	}
	return n, true
}
