package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
)

// kept are answers that leave the connection as it was, and how the requests are made.
var kept = []struct{ method, text string }{
	{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"},
	{"GET", "HTTP/1.1 200 OK\ncontent-length: 2\n\nab"},
	{"GET", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"},
	{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\nA \r\n0123456789\r\n0\r\n\r\n"},
	{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n1\r\na\r\n00\r\nX-A: b\r\nX-B: c\r\n\r\n"},
	{"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"},
	{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"},
	{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"},
	{"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
}

// TestFraming: the end of an answer is found wherever it is cut, and nothing behind it is
// taken for a part of it.
func TestFraming(t *testing.T) {
	for _, tt := range kept {
		text := tt.text + "HTTP/1.1 200 OK\r\n\r\n"
		for first := range len(text) {
			f := framing{method: tt.method}
			n := f.pass([]byte(text[:first]))
			if want := min(first, len(tt.text)); n != want {
				t.Fatalf("%q: %d of the first %d bytes", tt.text, n, first)
			}
			if f.state != ended {
				n += f.pass([]byte(text[first:]))
			}
			if n != len(tt.text) || f.state != ended {
				t.Fatalf("%q cut at %d: it ends at %d, want %d", tt.text, first, n, len(tt.text))
			}
		}
		f, n := framing{method: tt.method}, 0
		for i := range len(tt.text) {
			n += f.pass([]byte(tt.text[i : i+1]))
		}
		if n != len(tt.text) || f.state != ended {
			t.Errorf("%q byte by byte: it ends at %d", tt.text, n)
		}
	}
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\n\r\nabc", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nabc",
		"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 2*maxLine),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n",
	} {
		f := framing{method: "GET"}
		if n := f.pass([]byte(text)); n != len(text) || f.state != endless {
			t.Errorf("%q: %d bytes, state %d", text, n, f.state)
		}
	}
}

// FuzzFraming: where net/http finds the end of an answer, so does a wire, or earlier.
func FuzzFraming(f *testing.F) {
	for _, tt := range kept {
		f.Add(tt.method == "HEAD", uint16(3), tt.text+"more")
	}
	f.Fuzz(func(t *testing.T, head bool, cut uint16, text string) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		r := bufio.NewReader(strings.NewReader(text))
		var res *http.Response
		for {
			var err error
			if res, err = http.ReadResponse(r, &http.Request{Method: method}); err != nil {
				return
			}
			if res.StatusCode == http.StatusSwitchingProtocols || res.StatusCode >= http.StatusOK {
				break
			}
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.Close || res.StatusCode == http.StatusSwitchingProtocols || res.ContentLength < 0 && res.TransferEncoding == nil && res.Body != http.NoBody {
			return // the connection is not used again
		}
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		a := framing{method: method}
		first := min(int(cut), len(text))
		n := a.pass([]byte(text[:first]))
		if a.state != ended {
			n += a.pass([]byte(text[first:]))
		}
		if want := len(text) - len(rest); n != want || a.state != ended {
			t.Errorf("%q cut at %d: it ends at %d in state %d, for net/http at %d", text, first, n, a.state, want)
		}
	})
}

// TestUnasked: what a server says before a request is written is no answer, and nothing is
// written then: not the first request, and not the next one.
func TestUnasked(t *testing.T) {
	const early = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for _, before := range []int{0, 1} {
		here, there := net.Pipe()
		defer there.Close()
		here.SetDeadline(time.Now().Add(patience))
		w := &wire{Conn: here}
		defer w.Close()
		ask := func() { asking("GET").GotConn(httptrace.GotConnInfo{Conn: w}) }
		go func() {
			for range before {
				io.ReadFull(there, make([]byte, 4))
				io.WriteString(there, "HTTP/1.1 204 No Content\r\n\r\n")
			}
			io.WriteString(there, early)
		}()
		b := make([]byte, 4096)
		for range before {
			ask()
			if _, err := io.WriteString(w, "GET "); err != nil {
				t.Fatal(err)
			}
			if n, err := w.Read(b); !strings.HasPrefix(string(b[:n]), "HTTP/1.1 204") || err != nil {
				t.Fatalf("%q %v", b[:n], err)
			}
		}
		ask()
		if n, err := w.Read(b); n != 0 || !errors.Is(err, errUnasked) {
			t.Fatalf("%d requests before: %q %v", before, b[:n], err)
		}
		if n, err := io.WriteString(w, "GET "); n != 0 || !errors.Is(err, errUnasked) {
			t.Errorf("%d requests before: %d bytes written, %v", before, n, err)
		}
	}
}
