package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// echoes answers upgrades, and sends back what it gets. gone is told when one has ended.
func echoes(t *testing.T, gone chan<- string) *httptest.Server {
	return upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("%v", r.Header)
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("RateLimit", "theirs")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(io.TeeReader(buf, c))
		gone <- string(b)
	})
}

const upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"

// talk opens a WebSocket and looks at the answer.
func talk(t *testing.T, s *stand) (*bufio.Reader, net.Conn) {
	t.Helper()
	in, c := s.raw(t, upgrade)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h := res.Header; res.StatusCode != 101 || h.Get("Upgrade") != "websocket" || len(h["Ratelimit"]) != 1 || h.Get("RateLimit") != `"default";r=9;t=1` {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	return in, c
}

// TestWebSocket: what is said passes in both directions, and holds the request until it
// is over, whoever ends it.
func TestWebSocket(t *testing.T) {
	gone := make(chan string, 1)
	s := open(t, config(Pool{Servers: []string{echoes(t, gone).URL}}))
	in, c := talk(t, s)
	for _, text := range []string{"hello", strings.Repeat("x", 100_000)} {
		io.WriteString(c, text)
		b := make([]byte, len(text))
		if _, err := io.ReadFull(in, b); err != nil || string(b) != text {
			t.Fatalf("%.20q %v", b, err)
		}
		if n := s.held.Load(); n != 1 {
			t.Errorf("%d held", n)
		}
	}
	if u := s.Upstreams()[0]; u.InFlight != 1 {
		t.Errorf("%d in flight", u.InFlight)
	}
	// The client ends what it sends, and still gets what was under way.
	io.WriteString(c, "last")
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(in); string(b) != "last" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if got := <-gone; !strings.HasSuffix(got, "last") {
		t.Errorf("%.20q", got)
	}
	s.await(t)

	_, c = talk(t, s) // the client vanishes
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	<-gone
	s.await(t)
	if n := s.held.Load(); n != 0 {
		t.Errorf("%d held", n)
	}
}

// TestStop: clients of WebSockets are told to go, those too that come now, and cut off if
// they do not.
func TestStop(t *testing.T) {
	gone := make(chan string, 2)
	s := open(t, config(Pool{Servers: []string{echoes(t, gone).URL}}))
	in, c := talk(t, s)
	io.WriteString(c, "\x81\x02hi")
	if _, err := io.ReadFull(in, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(t.Context()) }()
	if b, err := io.ReadAll(in); string(b) != string(goingAway) || err != nil {
		t.Errorf("%q %v", b, err)
	}
	c.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	s.await(t)

	in, _ = talk(t, s)
	if b, err := io.ReadAll(in); string(b) != string(goingAway) || err != nil {
		t.Errorf("%q %v", b, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Stop(ctx) // whether it has ended already or is cut off
	s.Close()
	s.await(t)
}

// TestStopWithin: nothing is put into a frame that has begun.
func TestStopWithin(t *testing.T) {
	s := open(t, config(Pool{Servers: []string{echoes(t, make(chan string, 1)).URL}}))
	in, c := talk(t, s)
	io.WriteString(c, "\x81\x05he")
	if _, err := io.ReadFull(in, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil { // the client stays
		t.Error("no error")
	}
	if b, err := io.ReadAll(in); len(b) > 0 {
		t.Errorf("%q %v", b, err)
	}
	s.await(t)
}

// TestHalfClosed: an upstream that does not see that its client has gone holds nothing for
// long.
func TestHalfClosed(t *testing.T) {
	gone := make(chan struct{})
	defer close(gone)
	url, _ := script(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		<-gone
	})
	c := config(Pool{Servers: []string{url}})
	c.ClientTimeout = 50 * time.Millisecond
	s := open(t, c)
	_, conn := talk(t, s)
	conn.(*net.TCPConn).CloseWrite()
	s.await(t)
}

// TestIdleWebSocket: one on which nothing is said for the idle time-out ends.
func TestIdleWebSocket(t *testing.T) {
	gone := make(chan string, 1)
	s := open(t, config(Pool{Servers: []string{echoes(t, gone).URL}, IdleTimeout: 100 * time.Millisecond}))
	in, _ := talk(t, s)
	if b, err := io.ReadAll(in); len(b) > 0 {
		t.Errorf("%q %v", b, err)
	}
	<-gone
	s.await(t)
}

// TestRefusedUpgrade: an upstream that does not want it answers as to any request.
func TestRefusedUpgrade(t *testing.T) {
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	s := open(t, config(Pool{Servers: []string{u.URL}}))
	in, _ := s.raw(t, upgrade)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("%v %v", res, err)
	}
}

// TestOtherUpgrade: upstreams that switch to something else than was asked for do not get
// the connection.
func TestOtherUpgrade(t *testing.T) {
	for _, answer := range []string{"Upgrade: h2c\r\nConnection: Upgrade\r\n", ""} {
		url, _ := script(t, says("HTTP/1.1 101 Switching Protocols\r\n"+answer+"\r\nevil"))
		s := open(t, config(Pool{Servers: []string{url}}))
		in, _ := s.raw(t, upgrade)
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusBadGateway {
			t.Errorf("%v %v", res, err)
		}
		s.await(t)
	}
}

// TestFrames: in a stream of random frames, in random pieces, the ends of frames are found.
func TestFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var stream []byte
		ends := map[int]bool{0: true}
		for range 1 + r.IntN(5) {
			length := []int{0, 1, 125, 126, 127, 1000, 65535, 65536, 70000}[r.IntN(9)]
			mask := byte(r.IntN(2) * 0x80)
			stream = append(stream, byte(r.IntN(256)))
			switch {
			case length < 126:
				stream = append(stream, mask|byte(length))
			case length < 1<<16:
				stream = binary.BigEndian.AppendUint16(append(stream, mask|126), uint16(length))
			default:
				stream = binary.BigEndian.AppendUint64(append(stream, mask|127), uint64(length))
			}
			if mask != 0 {
				stream = append(stream, 1, 2, 3, 4)
			}
			stream = append(stream, make([]byte, length)...)
			ends[len(stream)] = true
		}
		var f frames
		for at := 0; ; {
			if f.between() != ends[at] {
				t.Fatalf("%v at %d of %d", f.between(), at, len(stream))
			}
			if at == len(stream) {
				break
			}
			n := min(1+r.IntN(1+r.IntN(2000)), len(stream)-at)
			f.pass(stream[at : at+n])
			at += n
		}
	}
}
