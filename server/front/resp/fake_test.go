package resp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// patienceOfTests ends tests that would hang; none of them waits for it to pass.
const patienceOfTests = 30 * time.Second

// fakeGate allows everything and keeps what it was asked, which it clones: strings
// are the door's. Subjects name what shall go wrong.
type fakeGate struct {
	asked atomic.Int64
	gone  atomic.Int64 // clients that left while they waited
	seen  func(r *gate.Request)

	mu       sync.Mutex
	throttle gate.Throttle
	ttl      time.Duration
	claim    gate.Claim
}

func (f *fakeGate) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	f.asked.Add(1)
	if f.seen != nil {
		f.seen(r)
	}
	var waited time.Duration
	switch {
	case r.Application == "nowhere":
		return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%q: no such application", r.Application)}
	case r.Subject == "store away":
		return fmt.Errorf("gate: take: %w", &headgate.Error{Code: headgate.Unavailable, Err: errors.New("redis at 10.1.2.3 refused")})
	case r.Subject == "bug":
		panic("secret of the gate")
	case r.Subject == "broken":
		return errors.New("secret of the gate")
	case r.Subject == "kept":
		*d = gate.Decision{Subject: r.Subject, Kept: true}
		return errors.New("charged, and then it left")
	case r.Subject == "waits":
		waited = time.Minute
		timer := time.NewTimer(waited)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			f.gone.Add(1)
			return context.Cause(ctx)
		}
	}
	*d = gate.Decision{
		Decision: headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1},
		ID:       [2]uint64{0x0123456789abcdef, 0xf}, Application: r.Application, Operation: r.Operation, Subject: r.Subject,
		Plan: r.Plan, Cost: r.Cost, Waited: waited, Revision: 7,
	}
	return nil
}

func (f *fakeGate) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return f.Take(ctx, r, d)
}

func (f *fakeGate) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	f.ttl = ttl
	return f.Take(ctx, r, d)
}

func (f *fakeGate) Settle(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	f.claim = *q
	f.claim.Ticket, f.claim.Application = strings.Clone(q.Ticket), strings.Clone(q.Application)
	err := f.Take(ctx, &gate.Request{Application: q.Application, Cost: q.Cost}, d)
	d.Held = q.Ticket == "open"
	return err
}

func (f *fakeGate) Renew(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	return f.Settle(ctx, q, d)
}

func (f *fakeGate) Release(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	return f.Settle(ctx, q, d)
}

func (f *fakeGate) Throttle(_ context.Context, t *gate.Throttle, d *gate.Decision) error {
	f.asked.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.throttle = *t
	f.throttle.Key = strings.Clone(t.Key)
	*d = gate.Decision{
		Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, BoundBy: -1, RetryAfter: 1500 * time.Microsecond, ResetAfter: time.Second},
		Subject:  t.Key, Cost: t.Cost,
	}
	return nil
}

func (f *fakeGate) Reset(_ context.Context, application, subject string, match func(*gate.LimitState) bool) (*gate.SubjectState, error) {
	return nil, &headgate.Error{Code: headgate.NotFound, Field: "subject", Err: errors.New("nobody")}
}

const testPolicy = `
version: 1
applications:
  a:
    rules:
      - {name: o, match: {operation: o}, limits: [{name: burst, rate: 2/h}]}
      - {name: wait, match: {operation: wait}, max_wait: 10s, limits: [{name: w, rate: 1/s, burst: 1}]}
  b:
    rules:
      - {name: o, match: {operation: o}, limits: [{name: burst, rate: 2/h}]}
`

func realGate(tb testing.TB, policy string) (*gate.Gate, *memstore.Store) {
	tb.Helper()
	store := memstore.New(memstore.Config{MaxBytes: 64 << 20})
	g, err := gate.Open(tb.Context(), gate.Config{Policy: []byte(policy), Store: store})
	if err != nil {
		tb.Fatal(err)
	}
	return g, store
}

// start serves a door on a socket of the loopback device, and returns its address.
func start(tb testing.TB, c Config) (*Server, string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return startOn(tb, l, c), l.Addr().String()
}

func startOn(tb testing.TB, l net.Listener, c Config) *Server {
	tb.Helper()
	if c.Gate == nil {
		c.Gate = new(fakeGate)
	}
	s := New(c)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patienceOfTests)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != ErrClosed {
			tb.Errorf("serve: %v", err)
		}
	})
	return s
}

// peer is a client that reads replies without knowing what they mean.
type peer struct {
	testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(tb testing.TB, network, address string) *peer {
	tb.Helper()
	nc, err := net.Dial(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	return newPeer(tb, nc)
}

func newPeer(tb testing.TB, nc net.Conn) *peer {
	tb.Cleanup(func() { nc.Close() })
	return &peer{tb, nc, bufio.NewReader(nc)}
}

// The replies that are no string, int64, nil or []any.
type (
	simple  string
	refusal string
	dict    []any // names and values by turns, as a map of RESP3
)

// wire is a command on the wire.
func wire(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

func (p *peer) write(s string) {
	p.Helper()
	if _, err := io.WriteString(p.Conn, s); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) do(args ...string) any {
	p.Helper()
	p.write(wire(args...))
	return p.next()
}

func (p *peer) next() any {
	p.Helper()
	v, err := p.read()
	if err != nil {
		p.Fatal(err)
	}
	return v
}

func (p *peer) read() (any, error) { return readReply(p.r) }

func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	kind, rest, ok := line[0], strings.TrimSuffix(line[1:], "\r\n"), strings.HasSuffix(line, "\r\n")
	if !ok {
		return nil, fmt.Errorf("line %q", line)
	}
	switch kind {
	case '+':
		return simple(rest), nil
	case '-':
		return refusal(rest), nil
	case '_':
		if rest != "" {
			return nil, fmt.Errorf("line %q", line)
		}
		return nil, nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("line %q", line)
	}
	switch {
	case kind == ':':
		return n, nil
	case kind == '$' && n == -1:
		return nil, nil
	case kind == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil || string(b[n:]) != "\r\n" {
			return nil, fmt.Errorf("bulk %q: %w", b, err)
		}
		return string(b[:n]), nil
	case kind == '*' || kind == '%':
		if kind == '%' {
			n *= 2
		}
		list := make([]any, n)
		for i := range list {
			if list[i], err = readReply(r); err != nil {
				return nil, err
			}
		}
		if kind == '%' {
			return dict(list), nil
		}
		return list, nil
	}
	return nil, fmt.Errorf("line %q", line)
}

// fields are the entries of a map of either version.
func fields(v any) (map[string]any, error) {
	list, ok := v.([]any)
	if d, is := v.(dict); is {
		list, ok = d, true
	}
	if !ok || len(list)%2 != 0 {
		return nil, fmt.Errorf("%v is no map", v)
	}
	m := make(map[string]any)
	for i := 0; i < len(list); i += 2 {
		name, ok := list[i].(string)
		if _, twice := m[name]; !ok || twice {
			return nil, fmt.Errorf("%v: entry %v", v, list[i])
		}
		m[name] = list[i+1]
	}
	return m, nil
}

// ended checks that the server has closed the connection.
func (p *peer) ended() {
	p.Helper()
	p.SetReadDeadline(time.Now().Add(patienceOfTests))
	if v, err := p.read(); err == nil {
		p.Errorf("got %v, want the end of the connection", v)
	} else if errors.Is(err, context.DeadlineExceeded) {
		p.Error("the connection is still open")
	}
}

func equal(tb testing.TB, got, want any) {
	tb.Helper()
	if g, w := fmt.Sprintf("%T %q", got, got), fmt.Sprintf("%T %q", want, want); g != w {
		tb.Errorf("got  %s\nwant %s", g, w)
	}
}
