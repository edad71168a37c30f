package grpcapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// rawConn speaks HTTP/2 by hand.
type rawConn struct {
	tb testing.TB
	net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32
}

// begin says that a connection speaks HTTP/2.
func begin(tb testing.TB, c net.Conn, settings ...http2.Setting) *rawConn {
	tb.Helper()
	r := &rawConn{tb: tb, Conn: c, framer: http2.NewFramer(c, c), next: 1}
	r.hpack = hpack.NewEncoder(&r.block)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		tb.Fatal(err)
	}
	if err := r.framer.WriteSettings(settings...); err != nil {
		tb.Fatal(err)
	}
	return r
}

func openTCP(tb testing.TB, target string, settings ...http2.Setting) *rawConn {
	tb.Helper()
	c, err := net.Dial("tcp", target)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	return begin(tb, c, settings...)
}

// headers begins a call of Take. The error is that of a connection that has ended.
func (r *rawConn) headers(more ...hpack.HeaderField) (id uint32, err error) {
	r.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "h"},
		{Name: ":path", Value: headgatev1.HeadgateService_Take_FullMethodName},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		if err := r.hpack.WriteField(f); err != nil {
			return 0, err
		}
	}
	id = r.next
	r.next += 2
	const most = 16 << 10
	block := r.block.Bytes()
	first := block[:min(len(block), most)]
	err = r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(first) == len(block)})
	for rest := block[len(first):]; len(rest) > 0 && err == nil; {
		part := rest[:min(len(rest), most)]
		rest = rest[len(part):]
		err = r.framer.WriteContinuation(id, len(rest) == 0, part)
	}
	return id, err
}

// take sends a whole call of Take.
func (r *rawConn) take(in *headgatev1.TakeRequest) (id uint32, err error) {
	if id, err = r.headers(); err != nil {
		return id, err
	}
	raw, err := proto.Marshal(in)
	if err != nil {
		r.tb.Fatal(err)
	}
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw)))
	return id, r.framer.WriteData(id, true, append(message, raw...))
}

// until reads frames until one is what is wanted, and answers settings.
func (r *rawConn) until(is func(http2.Frame) bool) {
	r.tb.Helper()
	for {
		f, err := r.framer.ReadFrame()
		if err != nil {
			r.tb.Fatalf("the connection has ended before: %v", err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			if err := r.framer.WriteSettingsAck(); err != nil {
				r.tb.Fatal(err)
			}
		}
		if is(f) {
			return
		}
	}
}

// others is a caller on another connection, for whom all goes on.
func others(t *testing.T, target string) func() {
	t.Helper()
	stub := headgatev1.NewHeadgateServiceClient(dial(t, target))
	return func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if d, err := stub.Take(ctx, &headgatev1.TakeRequest{Subject: "other one"}); err != nil || !d.Allowed {
			t.Fatalf("another caller: %v, %v", d, err)
		}
	}
}

// stuck is a gate whose requests of "stuck" end when it is told, whoever has left.
type stuck struct {
	fakeGate
	entered chan struct{} // a value for each of them
	end     chan struct{}
	most    atomic.Int64
}

func (s *stuck) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	if r.Subject == "stuck" {
		s.most.Add(1)
		s.entered <- struct{}{}
		<-s.end
	}
	return s.fakeGate.Take(ctx, r, d)
}

// TestRapidReset: who opens calls and resets them at once gets no more of them under
// way than others, and stops nobody else.
func TestRapidReset(t *testing.T) {
	const flood = 10_000
	s := &stuck{entered: make(chan struct{}, MaxStreams+flood), end: make(chan struct{})}
	target := listen(t, New(Config{Gate: s}))
	ask := others(t, target)
	c := openTCP(t, target)
	reset := func() error {
		id, err := c.take(&headgatev1.TakeRequest{Subject: "stuck"})
		if err == nil {
			<-s.entered
			err = c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		return err
	}
	for range MaxStreams {
		if err := reset(); err != nil {
			t.Fatal(err)
		}
	}
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for i := range flood {
			id, err := c.take(&headgatev1.TakeRequest{Subject: "stuck"})
			if err == nil && i > 100 { // the first would go on, if they were let in
				err = c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			if err != nil {
				return // the server has had enough, or reads no more
			}
		}
	}()
	for range 300 {
		ask()
	}
	if n := s.most.Load(); n != MaxStreams {
		t.Errorf("%d calls of one connection are under way, want %d", n, MaxStreams)
	}
	c.Close()
	<-flooded
	close(s.end)
	ask()
}

// untilReset is a gate whose requests end with their calls.
type untilReset struct {
	fakeGate
	entered chan struct{}
}

func (u *untilReset) Take(ctx context.Context, _ *gate.Request, _ *gate.Decision) error {
	u.entered <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// piped is a connection in memory, whose answers nobody reads. stop closes it and stops its
// server, which must take no time.
func piped(t *testing.T, config Config) (c *rawConn, stop func()) {
	t.Helper()
	l, s := make(pipes, 1), New(config)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	client, server := net.Pipe()
	l <- server
	go io.Copy(io.Discard, client)
	return begin(t, client), func() {
		t.Helper()
		began := time.Now()
		client.Close()
		close(l)
		s.GracefulStop()
		<-served
		if took := time.Since(began); took != 0 {
			t.Errorf("the stop took %v", took)
		}
	}
}

// TestResetsLinger: who resets its calls is let in for no more of them than a connection
// may have at one time in each resetPause.
func TestResetsLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, stopping := &untilReset{entered: make(chan struct{})}, make(chan struct{})
		c, stop := piped(t, Config{Gate: u, Stopping: stopping})
		began := time.Now()
		for range 3*MaxStreams + 1 {
			id, err := c.take(&headgatev1.TakeRequest{Subject: "s"})
			if err != nil {
				t.Fatal(err)
			}
			<-u.entered
			if err := c.framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 3*resetPause {
			t.Errorf("%d calls were let in within %v, want %v", 3*MaxStreams+1, took, 3*resetPause)
		}
		close(stopping) // nobody waits for them then
		synctest.Wait()
		stop()
	})
}

// TestGoneDoNotLinger: nothing is left of a connection that has ended.
func TestGoneDoNotLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &untilReset{entered: make(chan struct{})}
		c, stop := piped(t, Config{Gate: u})
		if _, err := c.take(&headgatev1.TakeRequest{Subject: "s"}); err != nil {
			t.Fatal(err)
		}
		<-u.entered
		stop()
	})
}

// parts is a connection that has always more.
type parts struct {
	net.Conn
	asked []int
}

func (p *parts) Read(b []byte) (int, error) {
	p.asked = append(p.asked, len(b))
	return len(b), nil
}

// TestParts: what is read ahead is read in parts, and a large message as it is.
func TestParts(t *testing.T) {
	p := new(parts)
	c := &linked{Conn: p}
	for _, n := range []int{buffer, 16 << 10, 100, buffer} {
		if _, err := c.Read(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(p.asked) != "[1024 16384 100 1024]" {
		t.Errorf("asked for %v", p.asked)
	}
}

// TestUnreadReplies: who asks and takes no answers is held to the number of calls that
// a connection may have.
func TestUnreadReplies(t *testing.T) {
	f := &fakeGate{}
	target := listen(t, New(Config{Gate: f}))
	ask := others(t, target)
	c := openTCP(t, target, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.until(func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() })
	const more = 44
	for range MaxStreams + more {
		if _, err := c.take(&headgatev1.TakeRequest{Subject: "s"}); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	c.until(func(f http2.Frame) bool {
		if r, ok := f.(*http2.RSTStreamFrame); ok && r.ErrCode == http2.ErrCodeRefusedStream {
			refused++
		}
		return refused == more
	})
	for range 100 {
		ask()
	}
	if n := f.asked.Load(); n > MaxStreams+100 {
		t.Errorf("%d requests were decided", n)
	}
}

// TestLargeHeaders: metadata beyond the bound ends the call, or its connection.
func TestLargeHeaders(t *testing.T) {
	f := &fakeGate{}
	target := listen(t, New(Config{Gate: f}))
	ask := others(t, target)
	c := openTCP(t, target)
	value := string(bytes.Repeat([]byte{'x'}, 2*MaxHeader))
	id, err := c.headers(hpack.HeaderField{Name: "authorization", Value: value})
	if err != nil {
		t.Fatal(err)
	}
	for ended := false; !ended; {
		frame, err := c.framer.ReadFrame()
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			ended = frame.StreamID == id
		case *http2.GoAwayFrame:
			ended = true
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		ended = ended || err != nil
	}
	ask()
	if f.asked.Load() != 1 {
		t.Errorf("asked %d times", f.asked.Load())
	}
}

// TestPings: who asks all the time whether we are there is sent away.
func TestPings(t *testing.T) {
	target := listen(t, New(Config{Gate: &fakeGate{}}))
	ask := others(t, target)
	c := openTCP(t, target)
	c.until(func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() })
	go func() {
		for c.framer.WritePing(false, [8]byte{}) == nil {
		}
	}()
	c.until(func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		return ok && g.ErrCode == http2.ErrCodeEnhanceYourCalm
	})
	ask()
}

// pipes is a listener whose connections are in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSilence: connections that never say what they speak, that answer no ping, or on
// which nothing is asked are closed.
func TestSilence(t *testing.T) {
	for name, tt := range map[string]struct {
		speak  func(*testing.T, net.Conn)
		closed time.Duration
	}{
		"says nothing": {func(*testing.T, net.Conn) {}, handshake},
		"says half": {func(t *testing.T, c net.Conn) {
			if _, err := io.WriteString(c, http2.ClientPreface[:10]); err != nil {
				t.Error(err)
			}
		}, handshake},
		"answers no ping": {func(t *testing.T, c net.Conn) { begin(t, c) }, pingAfter + pingTimeout},
		"only pings": {func(t *testing.T, c net.Conn) {
			r := begin(t, c)
			go func() {
				for tick := time.NewTicker(2 * minPing); ; {
					select {
					case <-tick.C:
						if r.framer.WritePing(false, [8]byte{}) != nil {
							return
						}
					case <-t.Context().Done():
						return
					}
				}
			}()
		}, maxIdle},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := make(pipes, 1)
				s := New(Config{Gate: &fakeGate{}})
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				client, server := net.Pipe()
				l <- server
				began := time.Now()
				ended := make(chan time.Duration)
				go func() {
					io.Copy(io.Discard, client)
					ended <- time.Since(began)
				}()
				tt.speak(t, client)
				if took := <-ended; took < tt.closed || took > tt.closed+tt.closed/5 {
					t.Errorf("closed after %v, want %v", took, tt.closed)
				}
				client.Close()
				close(l)
				s.Stop()
				<-served
			})
		})
	}
}

// TestIdle: connections that are open and ask nothing stop nobody.
func TestIdle(t *testing.T) {
	target := listen(t, New(Config{Gate: &fakeGate{}}))
	for range 300 {
		c := openTCP(t, target)
		c.until(func(f http2.Frame) bool { _, ok := f.(*http2.SettingsFrame); return ok })
	}
	ask := others(t, target)
	for range 100 {
		ask()
	}
}
