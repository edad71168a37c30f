package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	grpcstatus "google.golang.org/grpc/status"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
)

const (
	takeMethod  = headgatev1.HeadgateService_Take_FullMethodName
	envoyMethod = rls.RateLimitService_ShouldRateLimit_FullMethodName
	// callsAtOnce is how many calls a connection may have under way.
	callsAtOnce = 256
)

// hostileTake is a valid TakeRequest of application a, operation x, subject hostile:
// fields 1 to 3.
const hostileTake = "\x0a\x01a\x12\x01x\x1a\x07hostile"

// silence is how long the server lets a connection be on which nothing whole arrives.
const silence = 90 * time.Second

// spoken is an attack in HTTP/2 that must end in one of the ways, apart by "|", as ends
// says them. do returns the call whose end it is, 0 for the connection's; the server may
// close that while do speaks.
func spoken(name, ways string, do func(c *h2) (id uint32, err error)) attack {
	return attack{door: "grpc", name: name, run: func(s *siege) error {
		c, err := s.speakH2(patience)
		if err != nil {
			return err
		}
		defer c.Close()
		id, err := do(c)
		if _, cut := errors.AsType[*net.OpError](err); err != nil && !cut {
			return err
		}
		how, err := c.ends(id)
		if err != nil {
			return err
		}
		for way := range strings.SplitSeq(ways, "|") {
			if how == way {
				return nil
			}
		}
		return fmt.Errorf("it ends with %q, want %q", how, ways)
	}}
}

// flooding marks an attack as one.
func flooding(a attack) attack {
	a.flood = true
	return a
}

// sent is an attack with a message, by a client that does all else as it should. It must
// end with one of the codes.
func sent(name, method, message string, want ...codes.Code) attack {
	return attack{door: "grpc", name: name, run: func(s *siege) error {
		c, err := grpc.NewClient(s.at["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var answer []byte
		err = c.Invoke(ctx, method, []byte(message), &answer, grpc.ForceCodecV2(asIs{}))
		if err == nil || !slices.Contains(want, grpcstatus.Code(err)) {
			return fmt.Errorf("answered %q, %v, want %v", answer, err, want)
		}
		return nil
	}}
}

// asIs is a codec of messages as they are on the wire.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (asIs) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// grpcAttacks are those at the gRPC door, at Envoy's service too.
func grpcAttacks() []attack {
	long := func(n int) string { // a subject of n bytes
		return string(binary.AppendUvarint([]byte{0x1a}, uint64(n))) + strings.Repeat("x", n)
	}
	many := func(field string, n int) string { return strings.Repeat(field, n) }
	list := []attack{
		{door: "grpc", name: "silence", within: 7 * time.Second, run: func(s *siege) error { return s.drip("grpc", 7*time.Second, "", "", "\x00") }},
		{door: "grpc", name: "half a preface", within: 7 * time.Second, run: func(s *siege) error {
			return s.drip("grpc", 7*time.Second, http2.ClientPreface[:10], "", "\x00")
		}},
		{door: "grpc", name: "a preface, a byte at a time", within: 7 * time.Second, run: func(s *siege) error {
			return s.drip("grpc", 7*time.Second, "P", "", "\x00")
		}},
		exchange{"HTTP/1.1", "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", "\x00"}.attack("grpc", true),
		exchange{"a command of Redis", "*1\r\n$4\r\nPING\r\n" + strings.Repeat("*1\r\n$4\r\nPING\r\n", 10), "\x00"}.attack("grpc", true),
		exchange{"hello of TLS", "\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03" + strings.Repeat("x", 42), "\x00"}.attack("grpc", true),
		{door: "grpc", name: "come and go", flood: true, run: func(s *siege) error {
			return s.comeAndGo("grpc", http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x10\x01")
		}},
		{door: "grpc", name: "slow headers", within: silence, run: slowHeaders},
		{door: "grpc", name: "answers that nobody reads", within: silence, run: unreadAnswers},
		{door: "grpc", name: "settings that nobody reads the answers to", within: silence, run: unreadSettings},
		{door: "grpc", name: "rapid reset", flood: true, run: rapidReset},

		sent("oversized message", takeMethod, long(1<<20), codes.ResourceExhausted),
		sent("oversized message to Envoy's service", envoyMethod, long(1<<20), codes.ResourceExhausted),
		sent("large message", takeMethod, long(70_000), codes.InvalidArgument),
		sent("no message of ours", takeMethod, "\xff\xff\xff\xff", codes.InvalidArgument),
		sent("no message of Envoy's", envoyMethod, "\xff\xff\xff\xff", codes.InvalidArgument),
		sent("half a message", takeMethod, "\x1a\x7fhostile", codes.InvalidArgument),
		sent("half a message of Envoy's", envoyMethod, "\x12\x7f", codes.InvalidArgument),
		sent("a number for a text", takeMethod, "\x08\x01", codes.InvalidArgument),
		sent("a text that is none", takeMethod, "\x0a\x01\xff", codes.InvalidArgument),
		sent("thousands of fields", takeMethod, many("\x42\x02\x22\x00", 10_000), codes.InvalidArgument),
		sent("thousands of descriptors", envoyMethod, "\x0a\x01a"+many("\x12\x00", 10_000), codes.InvalidArgument),
		sent("thousands of entries", envoyMethod, "\x0a\x01a\x12\xc0\x9a\x0c"+many("\x0a\x00", 100_000), codes.InvalidArgument),
		sent("nobody's method", "/headgate.v1.HeadgateService/Give", "", codes.Unimplemented),
		spoken("message of four gigabytes", "8", func(c *h2) (uint32, error) {
			id, err := c.headers(takeMethod)
			if err == nil {
				err = c.data(id, []byte{0, 0xff, 0xff, 0xff, 0xff}, "x")
			}
			return id, err
		}),
		spoken("message that ends early", "13|3", func(c *h2) (uint32, error) {
			id, err := c.headers(takeMethod)
			if err == nil {
				err = c.data(id, []byte{0, 0, 0, 1, 0}, "x")
			}
			return id, err
		}),
		spoken("compressed by nobody knows what", "12|13", func(c *h2) (uint32, error) {
			id, err := c.headers(takeMethod)
			if err == nil {
				err = c.data(id, []byte{1, 0, 0, 0, 1}, "x")
			}
			return id, err
		}),
		spoken("large headers", "reset FRAME_SIZE_ERROR|goaway COMPRESSION_ERROR|goaway PROTOCOL_ERROR|closed", func(c *h2) (uint32, error) {
			return c.headers(takeMethod, hpack.HeaderField{Name: "authorization", Value: strings.Repeat("x", 40_000)})
		}),
		spoken("thousands of headers", "reset FRAME_SIZE_ERROR|goaway COMPRESSION_ERROR|goaway PROTOCOL_ERROR|closed", func(c *h2) (uint32, error) {
			return c.headers(takeMethod, slices.Repeat([]hpack.HeaderField{{Name: "x-y", Value: "z"}}, 5000)...)
		}),
		flooding(spoken("continued without end", "closed|goaway PROTOCOL_ERROR|goaway COMPRESSION_ERROR|goaway ENHANCE_YOUR_CALM", func(c *h2) (uint32, error) {
			err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.encode(takeMethod)})
			part := bytes.Repeat([]byte("\x00\x01x\x01y"), 3000)
			for i := 0; err == nil; i++ {
				if i == 10_000 {
					return 0, errors.New("the server has taken 10,000 continuations")
				}
				err = c.framer.WriteContinuation(1, false, part)
			}
			return 0, nil // the server has had enough
		})),
		flooding(spoken("pings", "goaway ENHANCE_YOUR_CALM|closed", func(c *h2) (uint32, error) {
			go func() {
				for err := error(nil); err == nil; {
					c.mu.Lock()
					err = c.framer.WritePing(false, [8]byte{})
					c.mu.Unlock()
				}
			}()
			return 0, nil
		})),
		flooding(spoken("settings", "0", func(c *h2) (uint32, error) {
			ended := make(chan error, 1)
			go func() {
				for range 10_000 {
					c.mu.Lock()
					err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
					c.mu.Unlock()
					if err != nil {
						ended <- err
						return
					}
				}
				ended <- nil
			}()
			for acks := 0; acks < 10_000; {
				f, err := c.framer.ReadFrame()
				if err != nil {
					return 0, err
				}
				if s, ok := f.(*http2.SettingsFrame); ok && s.IsAck() {
					acks++
				}
			}
			if err := <-ended; err != nil {
				return 0, err
			}
			return c.call(takeMethod, hostileTake)
		})),
		flooding(spoken("streams that say nothing", "reset REFUSED_STREAM", func(c *h2) (id uint32, err error) {
			for range callsAtOnce + 1 {
				if id, err = c.headers(takeMethod); err != nil {
					return id, err
				}
			}
			return id, nil
		})),
		spoken("streams backwards", "goaway PROTOCOL_ERROR|closed", func(c *h2) (uint32, error) {
			c.next = 101
			if _, err := c.headers(takeMethod); err != nil {
				return 0, err
			}
			c.next = 1
			_, err := c.headers(takeMethod)
			return 0, err
		}),
		spoken("data of no stream", "goaway PROTOCOL_ERROR|closed", func(c *h2) (uint32, error) { return 0, c.framer.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }),
		spoken("an oversized frame", "goaway FRAME_SIZE_ERROR|closed", func(c *h2) (uint32, error) {
			id, err := c.headers(takeMethod)
			if err == nil {
				err = c.framer.WriteRawFrame(http2.FrameData, 0, id, make([]byte, 20_000))
			}
			return 0, err
		}),
		spoken("a window beyond numbers", "goaway FLOW_CONTROL_ERROR|goaway PROTOCOL_ERROR|closed", func(c *h2) (uint32, error) {
			return 0, c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}),
	}
	return list
}

// rapidReset opens calls and resets them at once, twenty thousand of them. The connection
// is as good as before, or ended.
func rapidReset(s *siege) error {
	c, err := s.speakH2(patience)
	if err != nil {
		return err
	}
	defer c.Close()
	const n = 20_000
	read := make(chan struct{})
	var how string
	go func() {
		defer close(read)
		how, err = c.ends(2*n + 1)
	}()
	for range n {
		id, failed := c.call(takeMethod, hostileTake)
		if failed == nil {
			c.mu.Lock()
			failed = c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
			c.mu.Unlock()
		}
		if failed != nil {
			<-read
			return nil // it has had enough
		}
	}
	_, failed := c.call(takeMethod, hostileTake)
	<-read
	if failed == nil && err == nil && how != "0" && how != "reset REFUSED_STREAM" {
		err = fmt.Errorf("the call after them ends with %q", how)
	}
	return err
}

// slowHeaders never ends the headers of a call.
func slowHeaders(s *siege) error {
	c, err := s.speakH2(silence)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.encode(takeMethod)}); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.over() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		if err := c.framer.WriteContinuation(1, false, []byte("\x00\x01x\x01y")); err != nil {
			return fmt.Errorf("the server ends it at once: %w", err)
		}
		<-tick.C
	}
	return <-ended
}

// unreadAnswers has no window for answers: only as many calls are under way as may be.
func unreadAnswers(s *siege) error {
	c, err := s.speakH2(silence, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	if err != nil {
		return err
	}
	defer c.Close()
	const more = 100
	asked := make(chan error, 1)
	go func() {
		for range callsAtOnce + more {
			if _, err := c.call(takeMethod, hostileTake); err != nil {
				asked <- err
				return
			}
		}
		asked <- nil
	}()
	for refused := 0; refused < more; {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			if f.ErrCode != http2.ErrCodeRefusedStream {
				return fmt.Errorf("a call is reset with %v", f.ErrCode)
			}
			refused++
		case *http2.DataFrame:
			return errors.New("an answer comes without a window")
		}
	}
	if err := <-asked; err != nil {
		return err
	}
	return c.over()
}

// unreadSettings sends settings and reads no answers: the server stops reading.
func unreadSettings(s *siege) error {
	c, err := s.speakH2(silence)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if err := c.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	frame := "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x10\x00\x00"
	batch, sent := []byte(strings.Repeat(frame, 4096)), 0
	for {
		n, err := c.Write(batch)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil // it has had enough
		}
		if sent > 256<<20 {
			return fmt.Errorf("the server has taken %d bytes", sent)
		}
	}
	return c.over()
}
