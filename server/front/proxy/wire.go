package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
)

var errUnasked = errors.New("the server sent what nobody asked for")

// wire is a connection to a server by HTTP/1. It gives net/http nothing beyond the end of
// an answer: that would pass for the answer of the next request, whose client is another
// one. With a surplus it reports the end of the connection together with the last of the
// answer, so it is not used again; where one comes between two requests the second one is
// not written.
type wire struct {
	net.Conn

	mu     sync.Mutex
	next   bool // what is written next begins a request
	asked  bool // a request has begun to be written, and its answer has not ended
	broken bool
	answer framing
}

// asking tells a wire of the request that gets it.
func asking(method string) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if w, ok := got.Conn.(*wire); ok {
			w.mu.Lock()
			w.broken = w.broken || w.asked
			w.next, w.answer = true, framing{method: method}
			w.mu.Unlock()
		}
	}}
}

// Read implements [net.Conn].
func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	if w.answer.state == inBody && int64(len(p)) == w.answer.rest && len(p) > 1 {
		p = p[:len(p)-1] // so that the last read has room for a surplus
	}
	w.mu.Unlock()
	n, err := w.Conn.Read(p)
	if n <= 0 {
		return n, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.asked || w.broken {
		w.broken = true
		return 0, errUnasked
	}
	used := w.answer.pass(p[:n])
	w.asked = w.answer.state != ended
	if used < n {
		w.broken = true
		return used, io.EOF
	}
	return n, err
}

// Write implements [net.Conn].
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.next {
		if w.broken {
			w.mu.Unlock()
			return 0, errUnasked
		}
		w.next, w.asked = false, true
	}
	w.mu.Unlock()
	return w.Conn.Write(p)
}

// CloseWrite ends what is sent, once the connection is a WebSocket's.
func (w *wire) CloseWrite() error {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// Where an answer stands.
const (
	inHeader = iota
	inBody   // of a known length
	inChunk
	inSize    // the line before a chunk
	inTrailer // the lines behind the last one
	endless   // it ends with the connection, or is none
	ended
)

// maxLine bounds the lines of a chunked body, in bytes; net/http takes no longer ones.
const maxLine = 4096

// framing finds the end of an answer. Its header is read by net/http, so both find the same.
type framing struct {
	method string // of the request
	state  int
	text   []byte // of the header, or of a line, that has not ended
	rest   int64  // bytes of the body or chunk to come
}

// pass takes what comes next, and returns how much of it is the answer's.
func (f *framing) pass(p []byte) int {
	n := 0
	for n < len(p) && f.state != ended {
		switch f.state {
		case inHeader:
			n += f.header(p[n:])
		case inBody, inChunk:
			k := min(f.rest, int64(len(p)-n))
			n += int(k)
			if f.rest -= k; f.rest > 0 {
				break
			}
			if f.state == inChunk {
				f.state = inSize
			} else {
				f.state = ended
			}
		case inSize, inTrailer:
			n += f.line(p[n:])
		case endless:
			return len(p)
		}
	}
	return n
}

var lines = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

func (f *framing) header(p []byte) int {
	before := len(f.text)
	text := p
	if before > 0 {
		f.text = append(f.text, p...)
		text = f.text
	}
	end := headerEnd(text, max(0, before-2))
	if end < 0 {
		f.text = append(f.text[:before], p...) // net/http bounds how much there may be
		return len(p)
	}
	f.text = nil
	r := lines.Get().(*bufio.Reader)
	r.Reset(bytes.NewReader(text[:end]))
	res, err := http.ReadResponse(r, &http.Request{Method: f.method})
	switch {
	case err != nil || r.Buffered() > 0 || res.StatusCode == http.StatusSwitchingProtocols:
		f.state = endless
	case res.StatusCode < http.StatusOK: // an interim one
	case res.Body == http.NoBody:
		f.state = ended
	case res.TransferEncoding != nil:
		f.state = inSize
	case res.ContentLength > 0:
		f.state, f.rest = inBody, res.ContentLength
	default:
		f.state = endless
	}
	r.Reset(nil)
	lines.Put(r)
	return end - before
}

// headerEnd returns where the header ends that text begins with, -1 if it does not, and
// looks for the end of its last line no earlier than from.
func headerEnd(text []byte, from int) int {
	for i := from; ; i++ {
		k := bytes.IndexByte(text[i:], '\n')
		if k < 0 {
			return -1
		}
		i += k
		switch after := text[i+1:]; {
		case bytes.HasPrefix(after, []byte("\n")):
			return i + 2
		case bytes.HasPrefix(after, []byte("\r\n")):
			return i + 3
		}
	}
}

func (f *framing) line(p []byte) int {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		if f.text = append(f.text, p...); len(f.text) > maxLine {
			f.state = endless
		}
		return len(p)
	}
	line := bytes.TrimSuffix(append(f.text, p[:i]...), []byte("\r"))
	f.text = f.text[:0]
	if f.state == inTrailer {
		if len(line) == 0 {
			f.state = ended
		}
		return i + 1
	}
	digits, _, _ := bytes.Cut(line, []byte(";"))
	size, err := strconv.ParseUint(string(bytes.TrimRight(digits, " \t")), 16, 62)
	switch {
	case err != nil:
		f.state = endless
	case size == 0:
		f.state = inTrailer
	default:
		f.state, f.rest = inChunk, int64(size)+2 // with CRLF
	}
	return i + 1
}
