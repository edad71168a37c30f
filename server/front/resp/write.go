package resp

import (
	"log/slog"
	"strconv"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front/problem"
)

const (
	crlf    = "\r\n"
	okReply = "+OK\r\n"
)

func appendInt(b []byte, n int64) []byte {
	b = append(b, ':')
	b = appendDigits(b, n)
	return append(b, crlf...)
}

// appendDigits appends n; most numbers are short.
func appendDigits(b []byte, n int64) []byte {
	u := uint64(n)
	switch {
	case u < 10:
		return append(b, '0'+byte(u))
	case u < 100:
		return append(b, pairs[2*u], pairs[2*u+1])
	case n < 0:
		return strconv.AppendInt(b, n, 10)
	case u < 10_000:
		two := 2 * (u % 100)
		return append(appendDigits(b, n/100), pairs[two], pairs[two+1])
	}
	b = appendDigits(b, n/10_000)
	u %= 10_000
	high, low := 2*(u/100), 2*(u%100)
	return append(b, pairs[high], pairs[high+1], pairs[low], pairs[low+1])
}

// pairs are the numbers from 00 to 99.
var pairs = func() (list [200]byte) {
	for i := range 100 {
		list[2*i], list[2*i+1] = '0'+byte(i/10), '0'+byte(i%10)
	}
	return list
}()

// appendBulk appends any string.
func appendBulk(b []byte, s string) []byte {
	b = append(b, '$')
	b = appendDigits(b, int64(len(s)))
	b = append(b, crlf...)
	b = append(b, s...)
	return append(b, crlf...)
}

func appendArray(b []byte, n int) []byte {
	b = append(b, '*')
	b = appendDigits(b, int64(n))
	return append(b, crlf...)
}

// appendMap opens a map of n entries: in RESP2 an array of as many pairs.
func (c *conn) appendMap(b []byte, n int) []byte {
	if !c.resp3 {
		return appendArray(b, 2*n)
	}
	b = append(b, '%')
	b = appendDigits(b, int64(n))
	return append(b, crlf...)
}

func (c *conn) appendNull(b []byte) []byte {
	if c.resp3 {
		return append(b, "_\r\n"...)
	}
	return append(b, "$-1\r\n"...)
}

// maxError is the longest text of an error, in bytes.
const maxError = 512

// appendError appends an error: a code in capitals, by which clients tell errors
// apart, and a text of one line.
func appendError(b []byte, code, text string) []byte {
	b = append(b, '-')
	b = append(b, code...)
	b = append(b, ' ')
	if len(text) > maxError {
		text = text[:maxError]
	}
	from := len(b)
	b = append(b, text...)
	for i := from; i < len(b); i++ {
		if b[i] < ' ' {
			b[i] = ' '
		}
	}
	return append(b, crlf...)
}

// codes are what the codes of the gate's errors are called here.
var codes = map[headgate.Code]string{
	headgate.InvalidRequest: "ERR", headgate.InvalidLimit: "ERR", headgate.NotFound: "NOTFOUND", headgate.Conflict: "CONFLICT",
	headgate.Unavailable: "UNAVAILABLE", headgate.Overloaded: "OVERLOADED", headgate.Closed: "CLOSED",
}

// fail answers an error of the gate. What went wrong inside is logged instead of
// told.
func (c *conn) fail(b []byte, err error) []byte {
	code := codes[headgate.CodeOf(err)]
	if code == "" {
		code = "INTERNAL"
	}
	return appendError(b, code, c.told(err))
}

// told is what the client is told of an error.
func (c *conn) told(err error) string {
	p := problem.Of(err)
	if p.Status >= 500 && c.Err() == nil {
		code := headgate.CodeOf(err).String()
		c.s.faults.Log(c.s.Logger, slog.LevelError, code, "no decision", "peer", c.peer, "code", code, "error", err)
	}
	return p.Detail
}
