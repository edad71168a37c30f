package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/server/front"
)

// bounded starts a server on a real socket with a bound on connections. closed
// gets a value for each connection that ends.
func bounded(t *testing.T, most int, change func(*http.Server)) (l *front.Listener, closed chan struct{}) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = front.Bound(inner, most)
	s := NewServer(New(Config{Gate: &fakeGate{}}), slog.New(slog.DiscardHandler))
	closed = make(chan struct{}, 1000)
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	if change != nil {
		change(s)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l, closed
}

func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// healthy asks over a connection and reads the answer.
func healthy(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
}

func TestBound(t *testing.T) {
	l, closed := bounded(t, 2, nil)
	first, second := dial(t, l), dial(t, l)
	healthy(t, first)
	healthy(t, second)
	third := dial(t, l)
	if b, err := io.ReadAll(third); len(b) > 0 {
		t.Fatalf("one too many was answered %q, %v", b, err)
	}
	if l.Open() != 2 || l.Refused() != 1 {
		t.Errorf("%d open, %d refused", l.Open(), l.Refused())
	}
	healthy(t, second)
	first.Close()
	<-closed
	healthy(t, dial(t, l))
}

// TestSlowloris: clients that never end their header hold no place for long, and
// others are served beside them.
func TestSlowloris(t *testing.T) {
	const slow = 50
	l, closed := bounded(t, slow+1, func(s *http.Server) { s.ReadHeaderTimeout = 200 * time.Millisecond })
	var conns [slow]net.Conn
	for i := range conns {
		conns[i] = dial(t, l)
		fmt.Fprintf(conns[i], "POST /v1/take HTTP/1.1\r\nX-%d: ", i)
	}
	healthy(t, dial(t, l))
	for range slow {
		<-closed
	}
	for _, c := range conns {
		if b, err := io.ReadAll(c); strings.Contains(string(b), "200 OK") {
			t.Fatalf("answered %q, %v", b, err)
		}
	}
	healthy(t, dial(t, l))
}

// TestUnreadBody: the answer to a body that is too large arrives, though most of
// the body was not read.
func TestUnreadBody(t *testing.T) {
	l, _ := bounded(t, 0, nil)
	c := dial(t, l)
	go func() {
		fmt.Fprintf(c, "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", 64<<20)
		io.Copy(c, io.LimitReader(endless{}, 64<<20)) // ends when the server closes
	}()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, resp, string(body), 413, "", "the body must not be larger than 65536 bytes")
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func TestHTTP1Only(t *testing.T) {
	l, _ := bounded(t, 0, nil)
	c := dial(t, l)
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 400") {
		t.Errorf("%q %v", line, err)
	}
	if p := NewServer(nil, slog.New(slog.DiscardHandler)).Protocols; p.HTTP2() || p.UnencryptedHTTP2() || !p.HTTP1() {
		t.Errorf("protocols %v", p)
	}
}

// TestHeaderBounds: what nginx lets through we do too, and more is refused.
func TestHeaderBounds(t *testing.T) {
	for size, status := range map[int]string{32 << 10: "200 OK", 80 << 10: "431 Request Header Fields Too Large"} {
		l, _ := bounded(t, 0, nil)
		c := dial(t, l)
		go fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: %s\r\n\r\n", strings.Repeat("x", size))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.Status != status {
			t.Errorf("%d bytes: %v %v", size, resp, err)
		}
	}
}
