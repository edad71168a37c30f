package bench

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// The floors of the doors are servers that count what they are asked and always
// answer the same, which is what Headgate has answered once: "resp:", or "grpc:" with
// a method, and then ":" and the answer in hexadecimal digits.
const (
	floorRESP = "resp:"
	floorGRPC = "grpc:"
)

// startFloor starts one.
func startFloor(tb testing.TB, kind, method string, answer []byte) *daemon {
	tb.Helper()
	return startDaemon(tb, kind+method+":"+hex.EncodeToString(answer))
}

// asked is what a floor has counted.
var asked atomic.Int64

// serveFloor serves a floor until its input ends. It writes its address first, and
// for each line of input what it has counted.
func serveFloor(as string) error {
	door, rest, _ := strings.Cut(as, ":")
	method, digits, _ := strings.Cut(rest, ":")
	answer, err := hex.DecodeString(digits)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	ended := make(chan error, 1)
	go func() {
		if door+":" == floorRESP {
			ended <- serveRESP(l, answer)
			return
		}
		ended <- serveGRPC(l, method, answer)
	}()
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Println(asked.Load())
		}
		ended <- nil
	}()
	return <-ended
}

// serveGRPC serves all services whose floors there are; answer is that of method.
func serveGRPC(l net.Listener, method string, answer []byte) error {
	e := &empty{new(rls.RateLimitResponse), new(headgatev1.Decision), new(headgatev1.TakeBatchResponse)}
	var to proto.Message
	switch method {
	case methodRLS:
		to = e.limit
	case methodTake:
		to = e.decision
	case methodBatch:
		to = e.batch
	default:
		return fmt.Errorf("no floor for %q", method)
	}
	if err := proto.Unmarshal(answer, to); err != nil {
		return err
	}
	s := grpc.NewServer()
	rls.RegisterRateLimitServiceServer(s, e)
	headgatev1.RegisterHeadgateServiceServer(s, &emptyHeadgate{empty: e})
	return s.Serve(l)
}

// empty is a service whose answers stand.
type empty struct {
	limit    *rls.RateLimitResponse
	decision *headgatev1.Decision
	batch    *headgatev1.TakeBatchResponse
}

var errEmptyRequest = errors.New("an empty request")

func (e *empty) ShouldRateLimit(_ context.Context, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	if len(r.Descriptors) == 0 {
		return nil, errEmptyRequest
	}
	asked.Add(1)
	return e.limit, nil
}

type emptyHeadgate struct {
	headgatev1.UnimplementedHeadgateServiceServer
	*empty
}

func (e *emptyHeadgate) Take(_ context.Context, r *headgatev1.TakeRequest) (*headgatev1.Decision, error) {
	if r.Subject == "" {
		return nil, errEmptyRequest
	}
	asked.Add(1)
	return e.decision, nil
}

func (e *emptyHeadgate) TakeBatch(_ context.Context, r *headgatev1.TakeBatchRequest) (*headgatev1.TakeBatchResponse, error) {
	if len(r.Items) == 0 {
		return nil, errEmptyRequest
	}
	asked.Add(int64(len(r.Items)))
	return e.batch, nil
}

// serveRESP answers every command but CONFIG, which benchmarks ask for, with answer:
// what one read brings with one write.
func serveRESP(l net.Listener, answer []byte) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := answerRESP(c, answer); err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
}

var noConfig = []byte("-ERR no such command\r\n")

func answerRESP(c net.Conn, answer []byte) error {
	in, out := make([]byte, 0, 16<<10), make([]byte, 0, 16<<10)
	for {
		if len(in) == cap(in) {
			in = append(in, 0)[:len(in)]
		}
		n, err := c.Read(in[len(in):cap(in)])
		if err != nil {
			return err
		}
		in = in[:len(in)+n]
		at, commands := 0, int64(0)
		for {
			size, name, err := command(in[at:])
			if err != nil {
				return err
			}
			if size == 0 {
				break
			}
			at += size
			if string(name) == "CONFIG" {
				out = append(out, noConfig...)
				continue
			}
			commands++
			out = append(out, answer...)
		}
		in = in[:copy(in, in[at:])]
		asked.Add(commands)
		if _, err := c.Write(out); err != nil {
			return err
		}
		out = out[:0]
	}
}

var errCommand = errors.New("not an array of bulk strings")

// command returns how long the command is that b begins with, or 0 if more of it is
// still to come, and its first word.
func command(b []byte) (size int, name []byte, err error) {
	words, at, err := numbered(b, '*')
	if err != nil || at == 0 {
		return 0, nil, err
	}
	for i := range words {
		n, head, err := numbered(b[at:], '$')
		if err != nil || head == 0 {
			return 0, nil, err
		}
		at += head
		if len(b) < at+n+2 {
			return 0, nil, nil
		}
		if i == 0 {
			name = b[at : at+n]
		}
		at += n + 2
	}
	return at, name, nil
}

// numbered reads a line of a mark and a number.
func numbered(b []byte, mark byte) (n, size int, err error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	if b[0] != mark {
		return 0, 0, errCommand
	}
	for i, d := range b[1:] {
		switch {
		case d == '\n':
			return n, i + 2, nil
		case d == '\r':
		case d < '0' || d > '9' || n > 1<<20:
			return 0, 0, errCommand
		default:
			n = 10*n + int(d-'0')
		}
	}
	return 0, 0, nil
}
