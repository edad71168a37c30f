package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// fakeGate allows everything and keeps what it was asked. Subjects name what
// shall go wrong.
type fakeGate struct {
	asked    atomic.Int64
	gone     atomic.Int64 // clients that left while they waited
	throttle gate.Throttle
	request  gate.Request
	ttl      time.Duration
	claim    gate.Claim
	ready    error
}

func (f *fakeGate) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	f.asked.Add(1)
	f.request = *r
	var waited time.Duration
	switch {
	case r.Application == "nowhere":
		return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%q: no such application", r.Application)}
	case r.Subject == "store away":
		return fmt.Errorf("gate: take: %w", &headgate.Error{Code: headgate.Unavailable, Err: errors.New("redis at 10.1.2.3 refused")})
	case r.Subject == "bug":
		panic("secret of the handler")
	case r.Subject == "broken":
		return errors.New("secret of the gate")
	case r.Subject == "waits":
		waited = time.Minute
		select {
		case <-time.After(waited):
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

func (f *fakeGate) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	*e = gate.Explanation{Verdict: "Allowed.", Steps: []gate.Step{{About: "match", Text: "No rule \"o\"."}}}
	return f.Take(ctx, r, d)
}

func (f *fakeGate) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (int, error) {
	for i, r := range rs {
		if err := f.Take(ctx, r, ds[i]); err != nil {
			return i, err
		}
	}
	return -1, nil
}

func (f *fakeGate) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	f.ttl = ttl
	return f.Take(ctx, r, d)
}

func (f *fakeGate) Settle(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	f.claim = *c
	err := f.Take(ctx, &gate.Request{Application: c.Application, Cost: c.Cost}, d)
	d.Held = c.Ticket == "open"
	return err
}

func (f *fakeGate) Renew(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	return f.Settle(ctx, c, d)
}

func (f *fakeGate) Release(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	return f.Settle(ctx, c, d)
}

func (f *fakeGate) Throttle(_ context.Context, t *gate.Throttle, d *gate.Decision) error {
	f.asked.Add(1)
	f.throttle = *t
	*d = gate.Decision{
		Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, BoundBy: -1, RetryAfter: 1500 * time.Microsecond},
		Subject:  t.Key, Cost: t.Cost,
	}
	return nil
}

func (f *fakeGate) Ready() error { return f.ready }

// serve starts a door on a fake gate.
func serve(t *testing.T, c Config) (*httptest.Server, *fakeGate) {
	t.Helper()
	f := &fakeGate{}
	if c.Gate == nil {
		c.Gate = f
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(New(c), slog.New(slog.NewTextHandler(t.Output(), nil)))
	s.Start()
	t.Cleanup(s.Close)
	return s, f
}

// countingStore counts what reaches the store.
type countingStore struct {
	headgate.Store
	applied atomic.Int64
}

func (s *countingStore) Apply(ctx context.Context, b *headgate.Batch) error {
	s.applied.Add(1)
	return s.Store.Apply(ctx, b)
}

const testPolicy = `
version: 1
applications:
  a:
    rules:
      - {name: o, match: {operation: o}, limits: [{name: burst, rate: 2/h}]}
`

func realGate(t *testing.T) (*gate.Gate, *countingStore) {
	t.Helper()
	store := &countingStore{Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})}
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(testPolicy), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return g, store
}

// send does one request and returns its status, headers and body.
func send(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func post1(t *testing.T, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

// wantProblem checks that an answer is the problem and nothing else.
func wantProblem(t *testing.T, resp *http.Response, body string, status int, field, detail string) {
	t.Helper()
	var p struct {
		Type, Title, Detail, Field string
		Status                     int
		Errors                     []struct{ Pointer, Detail string }
	}
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if resp.StatusCode != status || p.Status != status || p.Field != field || p.Detail != detail {
		t.Errorf("got %d %q %q\nwant %d %q %q", resp.StatusCode, p.Field, p.Detail, status, field, detail)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q", ct)
	}
	if !strings.HasPrefix(p.Type, "urn:headgate:problem:") || p.Title != http.StatusText(status) {
		t.Errorf("type %q, title %q", p.Type, p.Title)
	}
	if (field != "") != (len(p.Errors) == 1) {
		t.Errorf("errors %v for field %q", p.Errors, field)
	}
}
