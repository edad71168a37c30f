package resp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate/server/front"
)

// TestShutdownReplies: a server that stops in the middle of what a client sends takes
// no reply back that it has given: what was charged is known to be.
func TestShutdownReplies(t *testing.T) {
	for i := range 10 {
		f := new(fakeGate)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		if i%2 == 1 {
			l = front.Bound(l, 0)
		}
		s := startOn(t, l, Config{Gate: f})
		p := dial(t, "tcp", address)
		go io.WriteString(p.Conn, strings.Repeat(wire("HG.TAKE", "a", "o", "s"), 20_000))
		until(t, func() bool { return f.asked.Load() > 100 })
		done := make(chan error)
		go func() { done <- s.Shutdown(t.Context()) }()
		if n, err := p.rest(); err != io.EOF || n != f.asked.Load() {
			t.Errorf("%d replies to %d decisions, %v", n, f.asked.Load(), err)
		}
		p.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// rest counts the replies until the end.
func (p *peer) rest() (n int64, err error) {
	for {
		if _, err := p.read(); err != nil {
			return n, err
		}
		n++
	}
}

// TestShutdownTold: whose request is ended is told so before the connection is closed.
func TestShutdownTold(t *testing.T) {
	for range 10 {
		f := new(fakeGate)
		s, address := start(t, Config{Gate: f})
		peers := make([]*peer, 5)
		for i := range peers {
			peers[i] = dial(t, "tcp", address)
			peers[i].write(wire("PING") + wire("HG.TAKE", "a", "o", "waits") + wire("PING"))
			equal(t, peers[i].next(), simple("PONG"))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		done := make(chan error)
		go func() { done <- s.Shutdown(ctx) }()
		for _, p := range peers {
			equal(t, p.next(), refusal("CLOSED the server is stopping"))
			p.ended()
			p.Close()
		}
		if err := <-done; err != context.Canceled || f.gone.Load() != 5 || s.Open() != 0 {
			t.Errorf("%v, %d gave up, %d are open", err, f.gone.Load(), s.Open())
		}
	}
}

// TestLastWords: the replies before a QUIT, or before what cannot be understood, reach
// a client that goes on sending, which is not listened to for long.
func TestLastWords(t *testing.T) {
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, tls.NewListener(front.Bound(l, 0), &tls.Config{Certificates: web.TLS.Certificates}), Config{})
	_, plain := start(t, Config{})
	for _, last := range []string{"QUIT\r\n", "*x\r\n"} {
		for _, encrypted := range []bool{false, true} {
			for range 10 {
				var p *peer
				if encrypted {
					nc, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com"})
					if err != nil {
						t.Fatal(err)
					}
					p = newPeer(t, nc)
				} else {
					p = dial(t, "tcp", plain)
				}
				const n = 1000
				p.write(strings.Repeat("PING\r\n", n) + last + strings.Repeat("PING\r\n", 10_000))
				if got, err := p.rest(); got != n+1 || err != io.EOF {
					t.Errorf("%q, encrypted %v: %d replies, %v", last, encrypted, got, err)
				}
				p.Close()
			}
		}
	}
	s, address := start(t, Config{})
	for _, more := range []int{0, 2 * maxDiscarded} {
		p := dial(t, "tcp", address)
		equal(t, p.do("QUIT"), simple("OK"))
		p.ended()
		go p.Write(make([]byte, more)) // and does not close
		until(t, func() bool { return s.Open() == 0 })
	}
}

// lives is a context that counts those that hang on it.
type lives struct {
	context.Context
	done chan struct{}
	n    atomic.Int64
}

func (l *lives) Done() <-chan struct{} { return l.done }

func (l *lives) AfterFunc(func()) (stop func() bool) {
	l.n.Add(1)
	return func() bool {
		l.n.Add(-1)
		return true
	}
}

// TestRefusedLeaveNothing: a connection that is not let in leaves nothing behind.
func TestRefusedLeaveNothing(t *testing.T) {
	s := New(Config{Gate: new(fakeGate), MaxConns: 1})
	l := &lives{Context: s.life, done: make(chan struct{})}
	s.life = l
	p := another(t, s)
	for range 10 {
		mine, its := net.Pipe()
		mine.Close()
		s.welcome(its)
	}
	if n := l.n.Load(); n != 1 || s.Refused() != 10 {
		t.Errorf("%d contexts for one connection, %d were refused", n, s.Refused())
	}
	p.Close()
	if err := s.Shutdown(t.Context()); err != nil || l.n.Load() != 0 {
		t.Errorf("%v, %d contexts", err, l.n.Load())
	}
}
