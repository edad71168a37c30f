package front

import (
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestCloseWrite: a counted connection can end what it sends and go on reading.
func TestCloseWrite(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := Bound(inner, 1)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := server.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(client); len(b) > 0 || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	if _, err := io.WriteString(client, "x"); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	for range 2 {
		server.Close()
	}
	if n := l.Open(); n != 0 {
		t.Errorf("%d open", n)
	}
}

// TestBound: one connection too many is closed at once, and makes no room by it.
func TestBound(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := Bound(inner, 1)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			next <- c
		}
	}()
	if b, err := io.ReadAll(dial()); len(b) > 0 || err != nil {
		t.Fatalf("one too many: %q %v", b, err)
	}
	if l.Open() != 1 || l.Refused() != 1 {
		t.Errorf("%d open, %d refused", l.Open(), l.Refused())
	}
	server.Close()
	dial()
	(<-next).Close()
}

// TestNamedClient: a client on a unix socket is nobody but somebody of this machine,
// whatever it calls its own end.
func TestNamedClient(t *testing.T) {
	t.Chdir(t.TempDir())
	inner, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	l := Bound(inner, 0)
	defer l.Close()
	client, err := net.DialUnix("unix", &net.UnixAddr{Name: "10.1.2.3:5", Net: "unix"}, &net.UnixAddr{Name: "s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if got := server.RemoteAddr().String(); got != "" {
		t.Errorf("the peer is %q", got)
	}
}

// crowd is a listener at which clients come without end, and leave at once.
type crowd struct{ net.Listener }

func (crowd) Accept() (net.Conn, error) { return gone{}, nil }

type gone struct{ net.Conn }

func (gone) Close() error { return nil }

// TestPace: who comes in one go is let in at once, and a crowd by and by.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Bound(crowd{}, 0)
		accept := func(n int) (took time.Duration) {
			began := time.Now()
			for range n {
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			return time.Since(began)
		}
		perSecond := MaxAccepts * runtime.GOMAXPROCS(0)
		for range 2 {
			if took := accept(MaxBurst); took != 0 {
				t.Errorf("the first ones took %v", took)
			}
			if took := accept(perSecond); took < time.Second-rest || took > time.Second+rest {
				t.Errorf("%d took %v, want a second", perSecond, took)
			}
			<-time.After(MaxBurst*time.Second/time.Duration(perSecond) + rest)
		}
	})
}
