package resp

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlow: who does not come to the point is closed, who is only idle is not.
func TestSlow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		say   []string // a second after one another
		c     Config
		after time.Duration // since the start; 0 for never
	}{
		{"a stranger says nothing", nil, tokens(known), 10 * time.Second},
		{"a stranger says nothing of use", []string{"RESET\r\n", "RESET\r\n", "PING\r\n"}, tokens(known), 10 * time.Second},
		{"a stranger takes its time", []string{"A", "U", "T", "H"}, tokens(known), 10 * time.Second},
		{"known, then idle", []string{"AUTH all\r\n"}, tokens(known), 0},
		{"known no more", []string{"AUTH all\r\n", "RESET\r\n"}, tokens(known), 12 * time.Second},
		{"idle", []string{"PING\r\n"}, Config{}, 0},
		{"half a command", []string{"PING\r\n*1\r\n", "$4", "\r", "\n", "P"}, Config{}, 11 * time.Second},
		{"half of each command", slices.Concat([]string{"PI"}, slices.Repeat([]string{"NG\r\nPI"}, 15), []string{"NG\r\n"}), Config{}, 0},
		{"short of patience", []string{"P"}, Config{SlowTimeout: time.Second}, 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.c.Gate = new(fakeGate)
				s, p := onPipe(t, tt.c)
				began := time.Now()
				var closed time.Duration
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					io.Copy(io.Discard, p.Conn)
					closed = time.Since(began)
				}()
				for _, say := range tt.say {
					<-time.After(time.Second)
					p.write(say)
				}
				<-time.After(time.Hour)
				synctest.Wait()
				if open := s.Open() == 1; open != (tt.after == 0) {
					t.Fatalf("open %v", open)
				}
				if tt.after == 0 {
					return
				}
				if <-ended; closed > tt.after || closed <= tt.after-time.Second-time.Millisecond {
					t.Errorf("closed after %v, want %v", closed, tt.after)
				}
			})
		})
	}
}

// TestUnread: who does not take its replies is closed, and holds little until then.
func TestUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := onPipe(t, Config{Gate: new(fakeGate)})
		began := time.Now()
		for err := error(nil); err == nil; {
			_, err = io.WriteString(p.Conn, strings.Repeat("PING\r\n", 1000))
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("closed after %v", took)
		}
		synctest.Wait()
		if s.Open() != 0 {
			t.Error("it is still open")
		}
	})
}

// TestMaxConns: one too many is told so.
func TestMaxConns(t *testing.T) {
	s, address := start(t, Config{MaxConns: 2})
	a, b := dial(t, "tcp", address), dial(t, "tcp", address)
	equal(t, a.do("PING"), simple("PONG"))
	equal(t, b.do("PING"), simple("PONG"))
	c := dial(t, "tcp", address)
	equal(t, c.next(), refusal("ERR max number of clients reached"))
	c.ended()
	if s.Refused() != 1 {
		t.Errorf("%d refused", s.Refused())
	}
	a.do("QUIT")
	until(t, func() bool { return s.Open() == 1 })
	equal(t, dial(t, "tcp", address).do("PING"), simple("PONG"))
}

// TestIdleMemory: connections that wait for their clients hold little.
func TestIdleMemory(t *testing.T) {
	s, address := start(t, Config{})
	const n = 400
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools keep goes with the second
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := used()
	peers := make([]*peer, n)
	for i := range peers {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		peers[i] = &peer{t, nc, nil}
		peers[i].write(wire("HG.TAKE", "a", "o", "alice") + wire("PING"))
	}
	answer := make([]byte, 4096)
	for _, p := range peers {
		if _, err := io.ReadAtLeast(p.Conn, answer, 500); err != nil {
			t.Fatal(err)
		}
	}
	if each := (int64(used()) - int64(before)) / n; each > 16<<10 {
		t.Errorf("%d bytes for each connection, both ends", each)
	}
	if s.Open() != n {
		t.Errorf("%d are open", s.Open())
	}
}

// TestStrangersKeepNothing: who has shown no token makes the server keep no more than it has sent,
// in however many pieces that comes.
func TestStrangersKeepNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"socket": func(nc net.Conn) net.Conn { return nc },
		"other":  func(nc net.Conn) net.Conn { return struct{ net.Conn }{nc} },
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, "tcp", l.Addr().String())
			nc, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			c := tokens(known)
			c.Gate = new(fakeGate)
			x := newConn(New(c), wrap(nc))
			defer x.cancel()
			if (x.raw == nil) != (name == "other") || !x.greet() {
				t.Fatal("not what it should be")
			}
			sent := 0
			say := func(s string) {
				t.Helper()
				p.write(s)
				for sent += len(s); sent > 0; {
					had := len(x.rest)
					if x.w != nil {
						had = x.w.end
					}
					if err := x.await(); err != nil {
						t.Fatal(err)
					}
					sent -= x.w.end - had
					x.answer()
					if err := x.flush(); err != nil {
						t.Fatal(err)
					}
					x.keep()
				}
			}
			long := strings.Repeat("x", maxStrangerCommand-50)
			for _, command := range []string{wire("PING"), "PING\r\n", wire("AUTH", long), "AUTH " + long + "\r\n", wire("AUTH", "u", "all")} {
				pieces := slices.Collect(slices.Chunk([]byte(command), max(1, len(command)/200)))
				had := 0
				for i, b := range pieces {
					say(string(b))
					if had += len(b); i+1 < len(pieces) && (x.w != nil || len(x.rest) != had) {
						t.Fatalf("%d bytes sent: %d kept, work %v", had, len(x.rest), x.w != nil)
					}
				}
				if x.w != nil || x.rest != nil {
					t.Fatal("something is kept of a whole command")
				}
				want := any(refusal("NOAUTH Authentication required."))
				switch {
				case len(command) > maxToken:
					want = refusal("WRONGPASS a token has 1 to 512 bytes")
				case strings.Contains(command, "all"):
					want = simple("OK")
				}
				equal(t, p.next(), want)
			}
			say("*1\r\n$4\r\nPI") // by now it is known
			if x.w == nil || x.rest != nil {
				t.Error("no work for who is known")
			}
			say("NG\r\n" + "PI")
			say("NG\r\n")
			equal(t, p.next(), simple("PONG"))
			equal(t, p.next(), simple("PONG"))
		})
	}
}

// TestPipeline: ten thousand commands in one go, of which each is answered in its turn.
func TestPipeline(t *testing.T) {
	_, address := start(t, Config{})
	p := dial(t, "tcp", address)
	var b strings.Builder
	const n = 10_000
	for i := range n {
		b.WriteString(wire("ECHO", fmt.Sprint(i)))
	}
	go io.WriteString(p.Conn, b.String())
	for i := range n {
		if got := p.next(); got != fmt.Sprint(i) {
			t.Fatalf("reply %d is %v", i, got)
		}
	}
}

// TestTLS: over TLS everything is as it is without, and a client that does not shake
// hands is closed.
func TestTLS(t *testing.T) {
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	serve := func(c Config) (*Server, string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return startOn(t, tls.NewListener(l, &tls.Config{Certificates: web.TLS.Certificates}), c), l.Addr().String()
	}
	hasty, address := serve(Config{LoginTimeout: time.Millisecond})
	dial(t, "tcp", address).ended()
	until(t, func() bool { return hasty.Open() == 0 })
	_, address = serve(Config{})
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	nc, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, nc)
	long := strings.Repeat("x", 60_000)
	for range 3 {
		equal(t, p.do("PING"), simple("PONG"))
		equal(t, p.do("ECHO", long), long)
	}
	p.write(strings.Repeat(wire("ECHO", long[:100]), 1000))
	for range 1000 {
		equal(t, p.next(), long[:100])
	}
}

// TestSplitSocket: the conversation over a socket, in pieces that the network makes.
func TestSplitSocket(t *testing.T) {
	_, address := start(t, Config{})
	want := talk(t, New(Config{Gate: new(fakeGate)}), []byte(conversation+"QUIT\r\n"))
	for at, n := 1, 1; at < len(conversation); at, n = at+7, n+1 {
		want := strings.Replace(want, "$2\r\nid\r\n:1\r\n", fmt.Sprintf("$2\r\nid\r\n:%d\r\n", n), 1)
		p := dial(t, "tcp", address)
		p.write(conversation[:at])
		p.write(conversation[at:] + "QUIT\r\n")
		if got, err := io.ReadAll(p.Conn); err != nil || string(got) != want {
			t.Fatalf("split at %d: %q %v\nwant %q", at, got, err, want)
		}
	}
}
