package httpgate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

const outgoingPolicy = `
version: 1
plans:
  bronze: {limits: [{name: hourly, rate: 2/h}]}
applications:
  default:
    rules:
      - {name: v1, match: {path: "/v1/{rest...}"}, limits: [{name: burst, rate: 1/s}]}
      - {name: line, match: {path: /line}, limits: [{name: burst, rate: 1/s}], max_wait: 30s}
      - {name: slots, match: {path: /slots}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 8s}]}
      - {name: leaky, match: {path: /leaky}, limits: [{name: drip, algorithm: leaky_bucket, rate: 1/s, burst: 3}]}
      - {name: charge, match: {operation: charge}, limits: [{name: burst, rate: 2/h}]}
      - {name: words, match: {path: /words}, limits: [{name: tokens, rate: 100/h, unit: tokens}]}
`

// sent is a RoundTripper that remembers when requests were sent.
type sent struct {
	begin time.Time
	at    []time.Duration
}

func (s *sent) RoundTrip(*http.Request) (*http.Response, error) {
	s.at = append(s.at, time.Since(s.begin))
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("hello"))}, nil
}

func ask(t *testing.T, rt http.RoundTripper, url string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(r)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func TestOutgoing(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name    string
		url     string
		config  OutgoingConfig
		maxWait time.Duration
		at      []time.Duration // of three requests
		reason  headgate.Reason // of the last
	}{
		{"waits for the rate", "https://api.example.com/v1/a?secret=1", OutgoingConfig{}, time.Minute, []time.Duration{0, s, 2 * s}, 0},
		{"or fails", "https://api.example.com/v1/a", OutgoingConfig{}, 0, []time.Duration{0}, headgate.RateLimited},
		{"what no rule limits", "https://api.example.com/v2", OutgoingConfig{}, 0, []time.Duration{0, 0, 0}, 0},
		{"it waits itself, not in line", "https://api.example.com/line", OutgoingConfig{}, time.Minute, []time.Duration{0, s, 2 * s}, 0},
		{"and not unless it may", "https://api.example.com/line", OutgoingConfig{}, 0, []time.Duration{0}, headgate.RateLimited},
		{"a leaky bucket's delay", "https://api.example.com/leaky", OutgoingConfig{}, 0, []time.Duration{0, s, 2 * s}, 0},
		{"one slot after the other", "https://api.example.com/slots", OutgoingConfig{}, 0, []time.Duration{0, 0, 0}, 0},
		{"an operation", "https://api.example.com/", OutgoingConfig{Operation: func(*http.Request) string { return "charge" }}, 0, []time.Duration{0, 0}, headgate.RateLimited},
		{"a plan", "https://other.example.com/", OutgoingConfig{Plan: func(*http.Request) string { return "bronze" }}, 0, []time.Duration{0, 0}, headgate.RateLimited},
		{"costs", "https://api.example.com/words", OutgoingConfig{Costs: func(*http.Request) map[string]int64 { return map[string]int64{"tokens": 50} }}, 0, []time.Duration{0, 0}, headgate.RateLimited},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
				defer g.Close()
				base := &sent{begin: time.Now()}
				tr := httplimit.NewTransportOver(Outgoing(g, tt.config), base, httplimit.TransportConfig{MaxWait: tt.maxWait})
				var err error
				for range 3 {
					err = ask(t, tr, tt.url)
				}
				if !slices.Equal(base.at, tt.at) {
					t.Errorf("sent after %v, want %v", base.at, tt.at)
				}
				var reason headgate.Reason
				if e, ok := errors.AsType[*httplimit.LimitedError](err); ok {
					reason = e.Decision.Reason
				} else if err != nil {
					t.Error(err)
				}
				if reason != tt.reason {
					t.Errorf("the last was refused by %v, want %v", reason, tt.reason)
				}
			})
		})
	}
}

// What is said of a request to the engine.
func TestOutgoingTells(t *testing.T) {
	var got gate.Request
	e := engine{take: func(_ context.Context, r *gate.Request, d *gate.Decision) error {
		got = *r
		d.Receive(&gate.Answer{}) // or what an earlier one held would be held again
		d.Allowed = true
		return nil
	}}
	r, err := http.NewRequest("POST", "https://api.example.com/a%2Fb?token=secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	if d, release, err := Outgoing(e, OutgoingConfig{Application: "partners"}).Acquire(r, "acme", 7); err != nil || !d.Allowed || release != nil {
		t.Errorf("got %+v, %v", d, err)
	}
	want := gate.Request{Application: "partners", Subject: "acme", Cost: 7, CostSaid: true, Method: "POST", Host: "api.example.com", Path: "/a%2Fb", NoWait: true, Releases: true}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A slot is held, and renewed beyond its TTL, until the answer is closed.
func TestOutgoingSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
		defer g.Close()
		var told []error
		config := OutgoingConfig{OnError: func(_ *http.Request, err error) { told = append(told, err) }}
		tr := httplimit.NewTransportOver(Outgoing(g, config), &sent{}, httplimit.TransportConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", "https://api.example.com/slots", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		<-time.After(time.Minute)
		err = ask(t, tr, "https://api.example.com/slots")
		if e, ok := errors.AsType[*httplimit.LimitedError](err); !ok || e.Decision.Reason != headgate.ConcurrencyExceeded {
			t.Errorf("after a minute: got %v", err)
		}
		resp.Body.Close()
		resp.Body.Close()
		if err := ask(t, tr, "https://api.example.com/slots"); err != nil || len(told) != 0 {
			t.Errorf("after its end: got %v, told %v", err, told)
		}
	})
}

func TestOutgoingUndecided(t *testing.T) {
	away := errors.New("no server")
	for _, failOpen := range []bool{false, true} {
		e := engine{take: func(context.Context, *gate.Request, *gate.Decision) error { return away }}
		base := &sent{begin: time.Now()}
		tr := httplimit.NewTransportOver(Outgoing(e, OutgoingConfig{}), base, httplimit.TransportConfig{FailOpen: failOpen})
		if err := ask(t, tr, "https://api.example.com/"); (err == nil) != failOpen || err != nil && !errors.Is(err, away) || len(base.at) == 1 != failOpen {
			t.Errorf("fail open %v: got %v, %d sent", failOpen, err, len(base.at))
		}
	}
	g := open(t, outgoingPolicy, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
	defer g.Close()
	tr := httplimit.NewTransportOver(Outgoing(g, OutgoingConfig{Application: "partnres"}), &sent{}, httplimit.TransportConfig{FailOpen: true})
	if err := ask(t, tr, "https://api.example.com/"); headgate.CodeOf(err) != headgate.NotFound {
		t.Errorf("an unknown application: got %v", err)
	}
}

func TestOutgoingPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Outgoing(nil, OutgoingConfig{})
}
