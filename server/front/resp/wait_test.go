package resp

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// onPipe serves a door on one connection without a socket, for bubbles.
func onPipe(t *testing.T, c Config) (*Server, *peer) {
	t.Helper()
	s := New(c)
	p := another(t, s)
	t.Cleanup(func() {
		p.Close()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, p
}

func another(t *testing.T, s *Server) *peer {
	mine, its := net.Pipe()
	s.welcome(its)
	return newPeer(t, mine)
}

// TestWaits: a request that stands in line holds neither the replies before it nor
// other connections, and what comes behind it is answered after it.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := realGate(t, testPolicy)
		s, p := onPipe(t, Config{Gate: g, Now: store.Now})
		began := time.Now()
		at := func(want time.Duration) {
			t.Helper()
			if got := time.Since(began); got != want {
				t.Errorf("answered after %v, want %v", got, want)
			}
		}
		take := wire("HG.TAKE", "a", "wait", "s")
		go io.WriteString(p.Conn, wire("PING")+take+take)
		equal(t, p.next(), simple("PONG"))
		m, err := fields(p.next())
		if err != nil || m["allowed"] != int64(1) || m["waited_ms"] != int64(0) {
			t.Errorf("%v %v", m, err)
		}
		at(grace)
		other := another(t, s)
		equal(t, other.do("PING"), simple("PONG"))
		at(grace)
		p.write(wire("ECHO", "behind it"))
		m, err = fields(p.next())
		if err != nil || m["allowed"] != int64(1) || m["waited_ms"] != int64(1000) {
			t.Errorf("%v %v", m, err)
		}
		equal(t, p.next(), "behind it")
		at(time.Second)
		m, _ = fields(p.do("HG.TAKE", "a", "wait", "s", "WAIT", "0"))
		if m["allowed"] != int64(0) {
			t.Errorf("%v", m)
		}
		m, _ = fields(p.do("HG.TAKE", "a", "wait", "s")) // whose watch begins anew
		if m["allowed"] != int64(1) {
			t.Errorf("%v", m)
		}
		at(2 * time.Second)
	})
}

const clockPolicy = `
version: 1
applications:
  a:
    rules:
      - {name: o, match: {operation: o}, limits: [{name: slots, algorithm: concurrency, max: 1, ttl: 2s}]}
      - {name: wait, match: {operation: wait}, max_wait: 10s, limits: [{name: w, rate: 1/5s, burst: 1}]}
`

// TestClockAfterWait: what comes behind a request that has waited is decided when it has
// its turn, not at the instant of those before it.
func TestClockAfterWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := realGate(t, clockPolicy)
		_, p := onPipe(t, Config{Gate: g, Now: store.Now})
		answer := func() map[string]any {
			t.Helper()
			m, err := fields(p.next())
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		wait, look := wire("HG.TAKE", "a", "wait", "s"), wire("CL.THROTTLE", "k", "0", "1", "1")
		go io.WriteString(p.Conn, wait+wire("HG.RESERVE", "a", "o", "s"))
		answer()
		ticket, _ := answer()["ticket"].(string)
		// The second renewal is in the same read as the first, five seconds later.
		go io.WriteString(p.Conn, look+wire("HG.RENEW", ticket, "TTL", "60000")+wait+wire("HG.RENEW", ticket, "TTL", "3000")+look)
		equal(t, p.next().([]any)[0], int64(0))
		if m := answer(); m["held"] != int64(1) {
			t.Errorf("renewed: %v", m)
		}
		if m := answer(); m["waited_ms"] != int64(5000) {
			t.Errorf("waited: %v", m)
		}
		if m := answer(); m["held"] != int64(1) {
			t.Errorf("renewed again: %v", m)
		}
		equal(t, p.next().([]any)[0], int64(0))
		<-time.After(2 * time.Second)
		if m, _ := fields(p.do("HG.RESERVE", "a", "o", "s")); m["allowed"] != int64(0) {
			t.Error("the slot was given away while it was held")
		}
		// And what the watch has read.
		go io.WriteString(p.Conn, look+wait)
		equal(t, p.next().([]any)[0], int64(0))
		<-time.After(time.Second) // it waits by now
		p.write(look)
		answer()
		equal(t, p.next().([]any)[0], int64(0))
	})
}

// TestClockAfterWrite: a client that takes its replies late finds the commands behind
// them decided late.
func TestClockAfterWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := realGate(t, clockPolicy)
		_, p := onPipe(t, Config{Gate: g, Now: store.Now})
		look, long := wire("CL.THROTTLE", "k", "0", "1", "1"), strings.Repeat("x", 3000)
		p.write("PI") // what follows comes with one read
		p.write("NG\r\n" + look + strings.Repeat(wire("PING", long), 4) + wire("COMMAND", "DOCS") + strings.Repeat("*2\r\n$7\r\nCOMMAND\r\n$4\r\nDOCS\r\n", 8) + look)
		<-time.After(5 * time.Second)
		equal(t, p.next(), simple("PONG"))
		equal(t, p.next().([]any)[0], int64(0))
		for range 13 {
			p.next()
		}
		equal(t, p.next().([]any)[0], int64(0))
	})
}

// TestLeaves: who leaves while it waits ends the wait.
func TestLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeGate)
		s, p := onPipe(t, Config{Gate: f})
		p.write(wire("HG.TAKE", "a", "o", "waits"))
		synctest.Wait()
		p.Close()
		<-time.After(grace)
		synctest.Wait()
		if n := f.gone.Load(); n != 1 || s.Open() != 0 {
			t.Errorf("%d gave up, %d connections", n, s.Open())
		}
	})
}

// TestLeavesSocket: over a socket, too.
func TestLeavesSocket(t *testing.T) {
	f := new(fakeGate)
	s, address := start(t, Config{Gate: f})
	p := dial(t, "tcp", address)
	p.write(wire("PING") + wire("HG.TAKE", "a", "o", "waits"))
	equal(t, p.next(), simple("PONG")) // so it waits
	p.Close()
	until(t, func() bool { return f.gone.Load() == 1 && s.Open() == 0 })
}

// until waits for a condition.
func until(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatal("it never came to be")
		case <-time.After(time.Millisecond):
		}
	}
}

// TestShutdownWaits: a request that waits is waited for, until the server has no more
// time.
func TestShutdownWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeGate)
		s, p := onPipe(t, Config{Gate: f})
		p.write(wire("HG.TAKE", "a", "o", "waits"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		go func() {
			for {
				if _, err := p.read(); err != nil {
					return
				}
			}
		}()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded || time.Since(began) != 10*time.Second || f.gone.Load() != 1 || s.Open() != 0 {
			t.Errorf("%v after %v, %d gave up", err, time.Since(began), f.gone.Load())
		}
	})
}

// TestShutdown: what was read is answered, idle connections are closed, and nobody else
// is let in.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeGate)
		s, p := onPipe(t, Config{Gate: f})
		idle := another(t, s)
		half := another(t, s)
		half.write("*1\r\n$4\r\nPI")
		p.write(wire("HG.TAKE", "a", "o", "waits") + wire("PING"))
		synctest.Wait()
		done := make(chan error)
		go func() { done <- s.Shutdown(context.Background()) }()
		idle.ended()
		half.ended()
		if m, err := fields(p.next()); err != nil || m["waited_ms"] != int64(60_000) {
			t.Errorf("%v %v", m, err)
		}
		equal(t, p.next(), simple("PONG"))
		p.ended()
		if err := <-done; err != nil {
			t.Error(err)
		}
		another(t, s).ended()
	})
}
