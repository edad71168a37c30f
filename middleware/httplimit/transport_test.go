package httplimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// upstream answers requests and remembers when they came.
type upstream struct {
	answer func(n int, r *http.Request) (*http.Response, error) // n counts from 1; nil answers 200

	mu    sync.Mutex
	begin time.Time
	at    []time.Duration
	heard []string
}

func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	u.mu.Lock()
	if len(u.at) == 0 && u.begin.IsZero() {
		u.begin = time.Now()
	}
	u.at = append(u.at, time.Since(u.begin))
	n := len(u.at)
	if r.Body != nil {
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		u.heard = append(u.heard, string(b))
	}
	u.mu.Unlock()
	if u.answer == nil {
		return response(200), nil
	}
	return u.answer(n, r)
}

// response has fields of the form "Name: value".
func response(status int, fields ...string) *http.Response {
	h := http.Header{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		h.Add(name, value)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("hello"))}
}

// refuseFirst answers the first n requests with r and its fields.
func refuseFirst(n, status int, fields ...string) func(int, *http.Request) (*http.Response, error) {
	return func(i int, _ *http.Request) (*http.Response, error) {
		if i <= n {
			return response(status, fields...), nil
		}
		return response(200), nil
	}
}

func outgoing(t testing.TB, body io.Reader) *http.Request {
	t.Helper()
	method := "GET"
	if body != nil {
		method = "POST"
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://api.example.com/v1", body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// limited returns the error's *LimitedError, or fails.
func limited(t *testing.T, err error) *LimitedError {
	t.Helper()
	e, ok := errors.AsType[*LimitedError](err)
	if !ok {
		t.Fatalf("got %v, want a *LimitedError", err)
	}
	return e
}

func get(t *testing.T, rt http.RoundTripper) error {
	t.Helper()
	resp, err := rt.RoundTrip(outgoing(t, nil))
	if err != nil {
		return err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// closes counts.
type closes struct {
	io.Reader
	n int
}

func (c *closes) Close() error { c.n++; return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A server in front of which a Limiter stands, and a client that heeds it: all of it
// real.
func TestTransportAndServer(t *testing.T) {
	var served atomic.Int64
	handler := New(inMemory(t, headgate.PerHour(2).WithName("server")), Config{})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		io.WriteString(w, "hello")
	}))
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		handler.ServeHTTP(w, r)
	}))
	defer srv.Close()
	tr := NewTransport(inMemory(t, headgate.PerHour(100)), nil, TransportConfig{MaxPause: 2 * time.Hour})
	client := &http.Client{Transport: tr}
	defer client.CloseIdleConnections()
	resp, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if resp.Body.Close(); err != nil || string(b) != "hello" || resp.StatusCode != 200 {
		t.Fatalf("got %d %q, %v", resp.StatusCode, b, err)
	}
	// The second uses up what the server allows, and its answer says so.
	if resp, err = client.Get(srv.URL); err != nil || resp.StatusCode != 200 {
		t.Fatalf("second: got %v, %v", resp, err)
	}
	resp.Body.Close()
	_, err = client.Get(srv.URL)
	e := limited(t, err)
	if e.Status != 200 || e.RetryAfter < 29*time.Minute || e.RetryAfter > 30*time.Minute || asked.Load() != 2 || served.Load() != 2 {
		t.Errorf("third: got %+v, %d asked, %d served", e, asked.Load(), served.Load())
	}
	u, ok := errors.AsType[*url.Error](err)
	if !ok || !u.Temporary() || u.Timeout() {
		t.Errorf("got %v, want a temporary error of the client", err)
	}
}

func TestTransportUndecided(t *testing.T) {
	away := errors.New("store is away")
	for _, tt := range []struct {
		name     string
		err      error
		failOpen bool
		sent     int
	}{
		{"closed", away, false, 0},
		{"open", away, true, 1},
		{"a typo", &headgate.Error{Code: headgate.NotFound, Field: "application", Err: errors.New("unknown")}, true, 0},
		{"at fault", &headgate.Error{Code: headgate.InvalidRequest, Field: "cost", Err: errors.New("-1")}, true, 0},
	} {
		for _, limit := range []headgate.Limit{headgate.PerMinute(1), headgate.InFlight(1, time.Minute)} {
			t.Run(tt.name+"/"+limit.Algorithm.String(), func(t *testing.T) {
				u := &upstream{}
				var told []error
				lim := limiter(t, fakeStore{func(*headgate.Batch) error { return tt.err }}, limit)
				tr := NewTransport(lim, u, TransportConfig{FailOpen: tt.failOpen, OnError: func(_ *http.Request, err error) { told = append(told, err) }})
				_, err := tr.RoundTrip(outgoing(t, nil))
				if len(u.at) != tt.sent || (err == nil) != (tt.sent == 1) || err != nil && !errors.Is(err, tt.err) {
					t.Errorf("%d sent: got %v", len(u.at), err)
				}
				if len(told) != 1 || !errors.Is(told[0], tt.err) {
					t.Errorf("OnError was told %v", told)
				}
			})
		}
	}
}

func TestTransportKeys(t *testing.T) {
	for name, key := range map[string]func(*http.Request) (string, error){
		"empty":  func(*http.Request) (string, error) { return "", nil },
		"broken": func(*http.Request) (string, error) { return "", errors.New("no database") },
	} {
		u := &upstream{}
		closed := &closes{Reader: strings.NewReader("x")}
		var told error
		tr := NewTransport(inMemory(t, headgate.PerSecond(1)), u, TransportConfig{Key: key, FailOpen: true, OnError: func(_ *http.Request, err error) { told = err }})
		if _, err := tr.RoundTrip(outgoing(t, closed)); err == nil || told == nil || len(u.at) != 0 || closed.n != 1 {
			t.Errorf("%s: got %v, told %v, %d sent, body closed %d times", name, err, told, len(u.at), closed.n)
		}
	}
}

// Two processes, here two limiters over one store, share what they may ask for.
func TestTransportsShareABudget(t *testing.T) {
	store := memstore.New(memstore.Config{})
	u := &upstream{}
	var refusals int
	for range 2 {
		tr := NewTransport(limiter(t, store, headgate.PerHour(3).WithName("partner")), u, TransportConfig{})
		for range 3 {
			if err := get(t, tr); err != nil {
				limited(t, err)
				refusals++
			}
		}
	}
	if len(u.at) != 3 || refusals != 3 {
		t.Errorf("%d were sent and %d refused, want 3 and 3", len(u.at), refusals)
	}
}

func TestTransportClosesIdleConnections(t *testing.T) {
	closed := false
	base := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return closeTold{c, &closed}, err
	}}
	srv := httptest.NewServer(teapot)
	defer srv.Close()
	client := &http.Client{Transport: NewTransport(inMemory(t, headgate.PerSecond(1)), base, TransportConfig{})}
	resp, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	if !closed {
		t.Error("the connection is open still")
	}
}

type closeTold struct {
	net.Conn
	told *bool
}

func (c closeTold) Close() error { *c.told = true; return c.Conn.Close() }

func TestNewTransportPanics(t *testing.T) {
	lim := inMemory(t, headgate.PerHour(1))
	for name, build := range map[string]func(){
		"no limiter":            func() { NewTransport(nil, nil, TransportConfig{}) },
		"no budget":             func() { NewTransportOver(nil, nil, TransportConfig{}) },
		"wait below 0":          func() { NewTransport(lim, nil, TransportConfig{MaxWait: -1}) },
		"pause below 0":         func() { NewTransport(lim, nil, TransportConfig{MaxPause: -1}) },
		"retries below 0":       func() { NewTransport(lim, nil, TransportConfig{Retries: -1}) },
		"retries without wait":  func() { NewTransport(lim, nil, TransportConfig{Retries: 1, MaxPause: 1}) },
		"retries without pause": func() { NewTransport(lim, nil, TransportConfig{Retries: 1, MaxWait: 1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			build()
		}()
	}
}

func TestTransportAllocations(t *testing.T) {
	resp := response(200)
	base := roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })
	tr := NewTransport(inMemory(t, headgate.PerSecond(1_000_000)), base, TransportConfig{MaxWait: time.Second, MaxPause: time.Second, Key: func(*http.Request) (string, error) { return "k", nil }})
	r := outgoing(t, nil)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := tr.RoundTrip(r); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkTransport(b *testing.B) {
	resp, sent := response(200), 0
	base := roundTripper(func(*http.Request) (*http.Response, error) { sent++; return resp, nil })
	tr := NewTransport(inMemory(b, headgate.PerSecond(100_000_000)), base, TransportConfig{MaxWait: time.Second, MaxPause: time.Second})
	r, calls := outgoing(b, nil), 0
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.RoundTrip(r); err != nil {
			b.Fatal(err)
		}
		calls++
	}
	if sent != calls {
		b.Fatalf("%d of %d were sent", sent, calls)
	}
}
