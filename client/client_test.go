package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// decider is what code asks of that holds a gate or a client.
type decider interface {
	Take(context.Context, *gate.Request, *gate.Decision) error
	Peek(context.Context, *gate.Request, *gate.Decision) error
	Explain(context.Context, *gate.Request, *gate.Decision, *gate.Explanation) error
	TakeAll(context.Context, []*gate.Request, []*gate.Decision) (failed int, err error)
	Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error
	Settle(context.Context, *gate.Claim, *gate.Decision) error
	Renew(context.Context, *gate.Claim, *gate.Decision) error
	Release(context.Context, *gate.Claim, *gate.Decision) error
	Throttle(context.Context, *gate.Throttle, *gate.Decision) error
	Close() error
}

var (
	_ decider = (*Client)(nil)
	_ decider = (*gate.Gate)(nil)
)

// fake is a server that keeps what it was asked, and allows it. Subjects name what
// shall go wrong.
type fake struct {
	headgatev1.UnimplementedHeadgateServiceServer
	hold chan struct{} // requests of "waits" end when it is closed
	in   chan struct{} // gets a value when one has begun

	mu    sync.Mutex
	asked []proto.Message
	token []string
	user  []string
	peers map[string]bool
}

func (f *fake) note(ctx context.Context, m proto.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, proto.Clone(m))
	f.token = metadata.ValueFromIncomingContext(ctx, "authorization")
	f.user = metadata.ValueFromIncomingContext(ctx, "x-user")
	if p, ok := peer.FromContext(ctx); ok {
		f.peers[p.Addr.String()] = true
	}
}

// last is what was asked last.
func (f *fake) last() proto.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[len(f.asked)-1]
}

func told(c codes.Code, message, reason, field string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "headgate"}
	if field != "" {
		info.Metadata = map[string]string{"field": field}
	}
	s, err := status.New(c, message).WithDetails(info)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func (f *fake) Take(ctx context.Context, in *headgatev1.TakeRequest) (*headgatev1.Decision, error) {
	f.note(ctx, in)
	switch in.Subject {
	case "waits":
		f.in <- struct{}{}
		select {
		case <-f.hold:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	case "bad cost":
		return nil, told(codes.InvalidArgument, "cost: -1: must be 0 to 5", "INVALID_REQUEST", "cost")
	case "lost":
		return nil, told(codes.NotFound, "application: is lost", "NOT_FOUND", "application")
	case "other":
		return nil, told(codes.AlreadyExists, "idempotency_key: was used", "IDEMPOTENCY_KEY_REUSED", "idempotency_key")
	case "away":
		return nil, told(codes.Unavailable, "the store cannot decide", "UNAVAILABLE", "")
	case "full":
		return nil, told(codes.Unavailable, "no room", "OVERLOADED", "")
	case "stopping":
		return nil, told(codes.Unavailable, "stopping", "CLOSED", "")
	case "broken":
		return nil, told(codes.Internal, "could not", "INTERNAL", "")
	case "stranger":
		return nil, told(codes.Unauthenticated, "not known", "UNAUTHENTICATED", "")
	case "proxy":
		return nil, status.Error(codes.Unavailable, "no healthy upstream")
	}
	return &headgatev1.Decision{Allowed: true, Subject: in.Subject, Reason: 200}, nil
}

func (f *fake) Peek(ctx context.Context, in *headgatev1.TakeRequest) (*headgatev1.Decision, error) {
	return f.Take(ctx, in)
}

func (f *fake) Explain(ctx context.Context, in *headgatev1.TakeRequest) (*headgatev1.ExplainResponse, error) {
	f.note(ctx, in)
	if in.Subject == "half" {
		return &headgatev1.ExplainResponse{}, nil
	}
	return &headgatev1.ExplainResponse{
		Decision:    &headgatev1.Decision{Subject: in.Subject},
		Explanation: &headgatev1.Explanation{Verdict: "Refused.", Steps: []*headgatev1.ExplanationStep{{About: "match", Text: "No rule."}}},
	}, nil
}

func (f *fake) Reserve(ctx context.Context, in *headgatev1.ReserveRequest) (*headgatev1.Decision, error) {
	f.note(ctx, in)
	return &headgatev1.Decision{Ticket: "t"}, nil
}

func (f *fake) Settle(ctx context.Context, in *headgatev1.SettleRequest) (*headgatev1.Decision, error) {
	f.note(ctx, in)
	return &headgatev1.Decision{Held: true}, nil
}

func (f *fake) Renew(ctx context.Context, in *headgatev1.RenewRequest) (*headgatev1.Decision, error) {
	f.note(ctx, in)
	return &headgatev1.Decision{Held: true}, nil
}

func (f *fake) Release(ctx context.Context, in *headgatev1.ReleaseRequest) (*headgatev1.Decision, error) {
	f.note(ctx, in)
	return &headgatev1.Decision{Held: true}, nil
}

func (f *fake) Throttle(ctx context.Context, in *headgatev1.ThrottleRequest) (*headgatev1.Decision, error) {
	f.note(ctx, in)
	return &headgatev1.Decision{Subject: in.Key}, nil
}

func (f *fake) TakeBatch(ctx context.Context, in *headgatev1.TakeBatchRequest) (*headgatev1.TakeBatchResponse, error) {
	f.note(ctx, in)
	out := new(headgatev1.TakeBatchResponse)
	for i, one := range in.Items {
		switch one.Subject {
		case "bad":
			return nil, told(codes.InvalidArgument, "items.1.cost: is bad", "INVALID_REQUEST", "items.1.cost")
		case "odd":
			return nil, told(codes.InvalidArgument, "items.9.cost: is bad", "INVALID_REQUEST", "items.9.cost")
		case "short":
			return out, nil
		case "problem":
			out.Results = append(out.Results, &headgatev1.TakeBatchResult{Result: &headgatev1.TakeBatchResult_Problem{Problem: &headgatev1.Problem{}}})
			continue
		}
		out.Results = append(out.Results, &headgatev1.TakeBatchResult{Result: &headgatev1.TakeBatchResult_Decision{
			Decision: &headgatev1.Decision{Subject: one.Subject, Cost: int64(i)},
		}})
	}
	return out, nil
}

// serve starts a fake server on a listener, and returns its address.
func serve(t *testing.T, l net.Listener, options ...grpc.ServerOption) *fake {
	t.Helper()
	f := &fake{hold: make(chan struct{}), in: make(chan struct{}, 100), peers: make(map[string]bool)}
	s := grpc.NewServer(options...)
	headgatev1.RegisterHeadgateServiceServer(s, f)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return f
}

func tcp(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newClient(t testing.TB, target string, o Options) *Client {
	t.Helper()
	c, err := New(target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// patient is the options of tests that do not look at time-outs.
var patient = Options{Timeout: 10 * time.Second}

func start(t *testing.T) (*Client, *fake) {
	t.Helper()
	l := tcp(t)
	return newClient(t, l.Addr().String(), patient), serve(t, l)
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		target string
		o      Options
		want   string
	}{
		{"", Options{}, "client: the target is empty: it must be HOST:PORT or unix:PATH"},
		{"h:1", Options{Connections: 65}, "client: 65 connections: must be 0 to 64"},
		{"h:1", Options{Connections: -1}, "client: -1 connections: must be 0 to 64"},
		{"h:1", Options{Timeout: -2}, "client: time-out of -2ns: must be positive, 0 for 500ms or -1 for none"},
	} {
		if _, err := New(tt.target, tt.o); err == nil || err.Error() != tt.want {
			t.Errorf("%q %+v: %v, want %s", tt.target, tt.o, err, tt.want)
		}
	}
	if _, err := New("dns:\x00", Options{}); err == nil || !strings.HasPrefix(err.Error(), `client: "dns:\x00": `) {
		t.Errorf("%v", err)
	}
}

// TestErrors: errors are those of the gate, and the status is not lost.
func TestErrors(t *testing.T) {
	c, _ := start(t)
	for subject, want := range map[string]headgate.Error{
		"bad cost": {Code: headgate.InvalidRequest, Field: "cost", Err: errors.New("-1: must be 0 to 5")},
		"lost":     {Code: headgate.NotFound, Field: "application", Err: errors.New("is lost")},
		"other":    {Code: headgate.Conflict, Field: "idempotency_key", Err: errors.New("was used")},
		"away":     {Code: headgate.Unavailable, Err: errors.New("the store cannot decide")},
		"full":     {Code: headgate.Overloaded, Err: errors.New("no room")},
		"stopping": {Code: headgate.Closed, Err: errors.New("stopping")},
		"broken":   {Code: headgate.Unknown, Err: errors.New("could not")},
		"stranger": {Code: headgate.Unknown, Err: errors.New("not known")},
		"proxy":    {Code: headgate.Unavailable, Err: errors.New("Unavailable: no healthy upstream")},
	} {
		d := gate.Decision{Kept: true}
		err := c.Take(t.Context(), &gate.Request{Subject: subject}, &d)
		e, ok := errors.AsType[*headgate.Error](err)
		if !ok || e.Code != want.Code || e.Field != want.Field || e.Err.Error() != want.Err.Error() || d.Kept || d.Allowed {
			t.Errorf("%s: %+v, want %+v", subject, err, want)
		}
		if status.Code(errors.Unwrap(err)) == codes.Unknown {
			t.Errorf("%s: the status is lost", subject)
		}
	}
}

// TestUnreachable: a server that is not there is an error, and no decision.
func TestUnreachable(t *testing.T) {
	l := tcp(t)
	c := newClient(t, l.Addr().String(), patient)
	l.Close()
	var d gate.Decision
	if err := c.Take(t.Context(), &gate.Request{}, &d); headgate.CodeOf(err) != headgate.Unavailable || d.Allowed {
		t.Errorf("%v", err)
	}
}

// TestTimeout: a call ends with the client's time-out or its own context, whichever is
// first.
func TestTimeout(t *testing.T) {
	l := tcp(t)
	serve(t, l)
	var d gate.Decision
	waits := &gate.Request{Subject: "waits"}
	c := newClient(t, l.Addr().String(), Options{Timeout: 10 * time.Millisecond})
	if err := c.Take(t.Context(), &gate.Request{Subject: "waits", NoWait: true}, &d); headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), "DeadlineExceeded") {
		t.Errorf("the client's time-out: %v", err)
	}
	for _, timeout := range []time.Duration{-1, 1, time.Millisecond, time.Hour, math.MaxInt64} {
		c = newClient(t, l.Addr().String(), Options{Timeout: timeout})
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, why)
		defer cancel()
		if err := c.Take(ctx, waits, &d); headgate.CodeOf(err) != headgate.Unavailable || (timeout < 0 || timeout > time.Second) && !errors.Is(err, why) {
			t.Errorf("the caller's context, time-out %v: %v", timeout, err)
		}
	}
}

// TestClose: it waits for calls that are under way, and ends those that come after.
func TestClose(t *testing.T) {
	l := tcp(t)
	f := serve(t, l)
	c := newClient(t, l.Addr().String(), patient)
	taken := make(chan error)
	go func() { taken <- c.Take(t.Context(), &gate.Request{Subject: "waits"}, new(gate.Decision)) }()
	<-f.in
	closed := make(chan error)
	go func() { closed <- c.Close() }()
	for c.enter() == nil {
		c.calls.Done()
	}
	select {
	case err := <-closed:
		t.Fatalf("closed before the call ended: %v", err)
	default:
	}
	close(f.hold)
	if err := <-taken; err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := c.Take(t.Context(), &gate.Request{}, new(gate.Decision)); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("after Close: %v", err)
	}
}

// TestCloseTogether: whoever closes it, and however often, it is closed once, and then.
func TestCloseTogether(t *testing.T) {
	c, _ := start(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := c.Take(t.Context(), &gate.Request{}, new(gate.Decision)); headgate.CodeOf(err) != headgate.Closed {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestConnections: calls go over all of them in turn, with the token.
func TestConnections(t *testing.T) {
	l := tcp(t)
	f := serve(t, l)
	c := newClient(t, l.Addr().String(), Options{Timeout: 10 * time.Second, Connections: 3, Token: "hg_secret"})
	for range 9 {
		if err := c.Take(t.Context(), &gate.Request{}, new(gate.Decision)); err != nil {
			t.Fatal(err)
		}
	}
	if f.mu.Lock(); len(f.peers) != 3 || !slices.Equal(f.token, []string{"Bearer hg_secret"}) {
		t.Errorf("%d connections, token %q", len(f.peers), f.token)
	}
	f.mu.Unlock()
}

// TestMetadataIsTheCallers: what a program sends along with its own calls, such as the tokens
// of its users, is not for the server that decides.
func TestMetadataIsTheCallers(t *testing.T) {
	l := tcp(t)
	f := serve(t, l)
	for _, token := range []string{"", "hg_secret"} {
		c := newClient(t, l.Addr().String(), Options{Timeout: 10 * time.Second, Token: token})
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer of the user", "x-user", "alice")
		if err := c.Take(ctx, &gate.Request{}, new(gate.Decision)); err != nil {
			t.Fatal(err)
		}
		var want []string
		if token != "" {
			want = []string{"Bearer " + token}
		}
		f.mu.Lock()
		if !slices.Equal(f.token, want) || len(f.user) != 0 {
			t.Errorf("token %q: the server got %q and %q", token, f.token, f.user)
		}
		f.mu.Unlock()
	}
}

func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
	var d gate.Decision
	if err := newClient(t, "unix:"+path, patient).Take(t.Context(), &gate.Request{Subject: "s"}, &d); err != nil || d.Subject != "s" {
		t.Errorf("%v", err)
	}
}

// TestTLS: a server is believed if its certificate is good, and not otherwise.
func TestTLS(t *testing.T) {
	certificate, pool := certify(t)
	l := tcp(t)
	serve(t, l, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}})))
	var d gate.Decision
	o := patient
	o.TLS, o.Token = &tls.Config{RootCAs: pool}, "t"
	if err := newClient(t, l.Addr().String(), o).Take(t.Context(), &gate.Request{Subject: "s"}, &d); err != nil || d.Subject != "s" {
		t.Errorf("%v", err)
	}
	o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	for _, o := range []Options{o, patient} {
		if err := newClient(t, l.Addr().String(), o).Take(t.Context(), &gate.Request{}, &d); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("%v", err)
		}
	}
}
