package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var _ httpgate.Engine = (*Client)(nil)

// house is a server that decides by a gate, as far as httpgate asks.
type house struct {
	headgatev1.UnimplementedHeadgateServiceServer
	gate    *gate.Gate
	renewed chan bool // gets whether it was held, of each renewal
}

func (h *house) Take(ctx context.Context, in *headgatev1.TakeRequest) (*headgatev1.Decision, error) {
	q := gate.Request{
		Application: in.Application, Subject: in.Subject, Method: in.Request.Method, Path: in.Request.Path, Headers: http.Header{},
		WaitCap: time.Duration(in.WaitCapMs) * time.Millisecond, Releases: !in.NoRelease,
	}
	for _, f := range in.Request.Headers {
		q.Headers[f.Name] = f.Values
	}
	var d gate.Decision
	return reply(&d, h.gate.Take(ctx, &q, &d))
}

func (h *house) Renew(ctx context.Context, in *headgatev1.RenewRequest) (*headgatev1.Decision, error) {
	var d gate.Decision
	out, err := reply(&d, h.gate.Renew(ctx, &gate.Claim{Ticket: in.Ticket, Application: in.Application}, &d))
	h.renewed <- d.Held
	return out, err
}

func (h *house) Release(ctx context.Context, in *headgatev1.ReleaseRequest) (*headgatev1.Decision, error) {
	var d gate.Decision
	return reply(&d, h.gate.Release(ctx, &gate.Claim{Ticket: in.Ticket, Application: in.Application}, &d))
}

func reply(d *gate.Decision, err error) (*headgatev1.Decision, error) {
	if e, ok := errors.AsType[*headgate.Error](err); ok {
		name := map[headgate.Code]string{headgate.InvalidRequest: "INVALID_REQUEST", headgate.NotFound: "NOT_FOUND"}[e.Code]
		return nil, told(codes.InvalidArgument, e.Error(), name, e.Field)
	}
	if err != nil {
		return nil, status.FromContextError(err).Err()
	}
	out := &headgatev1.Decision{
		Allowed: d.Allowed, Reason: headgatev1.Reason(d.Reason), Retryable: d.Retryable, BoundBy: d.BoundByID(), Rule: d.Rule, Subject: d.Subject,
		RetryAfterUs: d.RetryAfter.Microseconds(), DecisionId: strings.Repeat("0a", 16), Message: d.Message, Held: d.Held, Ticket: string(d.AppendTicket(nil)),
	}
	if d.Headers&policy.HeadersIETF != 0 {
		out.Headers = append(out.Headers, headgatev1.HeaderStyle_HEADER_STYLE_IETF)
	}
	for _, l := range d.Limits() {
		out.Limits = append(out.Limits, &headgatev1.LimitState{
			Id: l.ID, Algorithm: headgatev1.Algorithm(l.Limit.Algorithm) + headgatev1.Algorithm_ALGORITHM_TOKEN_BUCKET, Owner: l.Owner, Unit: l.Unit, Cost: l.Cost,
			Allowed: l.Allowed, Limit: l.Outcome.Limit, Used: l.Used, Remaining: l.Remaining, RetryAfterUs: l.RetryAfter.Microseconds(), ResetAfterUs: l.ResetAfter.Microseconds(),
			Numbers: &headgatev1.LimitNumbers{Name: l.Limit.Name, Count: l.Limit.Count, PeriodUs: l.Limit.Period.Microseconds(), Burst: l.Limit.Limit.Burst, TtlUs: l.Limit.TTL.Microseconds()},
		})
	}
	return out, nil
}

// open makes a server of its own, and a client of it.
func (h *house) open(t *testing.T, timeout time.Duration) (*Client, *grpc.Server) {
	t.Helper()
	g, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{MaxBytes: 1 << 20}), Policy: []byte(`
version: 1
applications:
  default:
    trusted_proxies: [203.0.113.0/24]
    identity: [{header: x-user}]
    rules:
      - {name: rate, match: {path: /rate}, limits: [{name: burst, rate: 1/h}], message: Later.}
      - {name: slots, match: {path: /slots}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 2s}]}
      - {name: paced, match: {path: /paced}, limits: [{name: pace, rate: 2/s, burst: 1}], max_wait: 1750ms}
      - {name: line, match: {path: /line}, limits: [{name: doors, algorithm: concurrency, max: 1}], max_wait: 1m}
`)})
	if err != nil {
		t.Fatal(err)
	}
	h.gate, h.renewed = g, make(chan bool)
	l, s := tcp(t), grpc.NewServer()
	headgatev1.RegisterHeadgateServiceServer(s, h)
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { s.Stop(); all.Wait() })
	return newClient(t, l.Addr().String(), Options{Timeout: timeout}), s
}

func (h *house) used(t *testing.T, path string) int64 {
	t.Helper()
	var d gate.Decision
	q := gate.Request{Application: "default", Method: "GET", Path: path, Subject: "alice", Releases: true}
	if err := h.gate.Peek(t.Context(), &q, &d); err != nil {
		t.Fatal(err)
	}
	return d.Limits()[0].Used
}

func get(h http.Handler, path, user string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("X-User", user)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestHTTPGate: httpgate decides by a server as it does by a gate.
func TestHTTPGate(t *testing.T) {
	var h house
	c, server := h.open(t, 10*time.Second)
	var last error
	config := httpgate.Config{FailOpen: true, OnError: func(_ *http.Request, err error) { last = err }}
	passes := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	g := httpgate.New(c, config)(passes)

	if w := get(g, "/rate", "alice"); w.Code != 204 || w.Header().Get("RateLimit") != `"rate/burst";r=0;t=3600` || w.Header().Get("Headgate-Decision-Id") != strings.Repeat("0a", 16) {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	if w := get(g, "/rate", "alice"); w.Code != 429 || w.Header().Get("Retry-After") != "3600" || !strings.Contains(w.Body.String(), `"detail":"Later.","violated-policies":["rate/burst"]`) {
		t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := get(httpgate.New(c, httpgate.Config{Application: "lost"})(passes), "/rate", "alice"); w.Code != 500 {
		t.Errorf("unknown application: got %d %s", w.Code, w.Body)
	}
	for _, user := range []string{"\xff", ""} { // what no wire carries, and nobody
		if w := get(g, "/rate", user); w.Code != 400 {
			t.Errorf("%q: got %d %s, told %v", user, w.Code, w.Body, last)
		}
	}

	holding := httpgate.New(c, config)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		for range 5 { // 2.5 s
			if held := <-h.renewed; !held {
				t.Error("not held any more")
			}
		}
		if n := h.used(t, "/slots"); n != 1 {
			t.Errorf("%d slots are held", n)
		}
		if w := get(g, "/slots", "alice"); w.Code != 429 || w.Header().Get("Headgate-Reason") != "concurrency_exceeded" {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	}))
	if w := get(holding, "/slots", "alice"); w.Code != 200 || h.used(t, "/slots") != 0 {
		t.Errorf("got %d, %d slots are held", w.Code, h.used(t, "/slots"))
	}

	server.Stop()
	if w := get(g, "/rate", "alice"); w.Code != 204 || w.Header().Get("Headgate-Degraded") != "open" || headgate.CodeOf(last) != headgate.Unavailable {
		t.Errorf("away, open: got %d %v, told %v", w.Code, w.Header(), last)
	}
	config.FailOpen = false
	if w := get(httpgate.New(c, config)(passes), "/rate", "alice"); w.Code != 503 || w.Header().Get("Headgate-Degraded") != "closed" {
		t.Errorf("away: got %d %v", w.Code, w.Header())
	}
}

// TestHTTPGateInLine: what stands in line for longer than the client's time-out is decided,
// and not passed on as if the server were away; nor is what comes after the line has moved
// for as long as it may.
func TestHTTPGateInLine(t *testing.T) {
	var h house
	c, _ := h.open(t, 300*time.Millisecond)
	for _, open := range []bool{true, false} {
		g := httpgate.New(c, httpgate.Config{FailOpen: open, OnError: func(_ *http.Request, err error) { t.Error(err) }})
		passes := g(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		codes := map[int]int{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				w := get(passes, "/paced", map[bool]string{true: "alice", false: "bob"}[open])
				mu.Lock()
				defer mu.Unlock()
				codes[w.Code]++
				if w.Header().Get("Headgate-Degraded") != "" {
					t.Errorf("degraded: %d %v", w.Code, w.Header())
				}
			})
		}
		all.Wait()
		if codes[200] != 4 || codes[429] != 16 {
			t.Errorf("fail open %v: got %v, want 4 x 200 and 16 x 429", open, codes)
		}
	}
}

// TestHTTPGateLeavesTheLine: a client of the HTTP server that leaves while it waits leaves
// the line of the server that decides.
func TestHTTPGateLeavesTheLine(t *testing.T) {
	var h house
	c, _ := h.open(t, time.Minute)
	ran := 0
	out := make(chan struct{})
	g := httpgate.New(c, httpgate.Config{FailOpen: true})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if ran++; ran > 1 {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := httptest.NewRequest("GET", "/line", nil).WithContext(ctx)
		r.Header.Set("X-User", "alice")
		w := httptest.NewRecorder()
		go func() {
			httpgate.New(c, httpgate.Config{FailOpen: true})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("passed") })).ServeHTTP(w, r)
			close(out)
		}()
		for h.gate.Waiting() != 1 {
			select {
			case <-out:
				t.Errorf("did not wait: %d %s", w.Code, w.Body)
				return
			case <-time.After(time.Millisecond):
			}
		}
		cancel()
		<-out
	}))
	if w := get(g, "/line", "alice"); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for deadline := time.Now().Add(10 * time.Second); h.gate.Waiting() != 0 || h.used(t, "/line") != 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, %d slots are held", h.gate.Waiting(), h.used(t, "/line"))
		}
	}
}
