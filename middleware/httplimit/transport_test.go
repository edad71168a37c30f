package httplimit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/pause"
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

func TestTransportWaits(t *testing.T) {
	for _, tt := range []struct {
		name     string
		limit    headgate.Limit
		config   TransportConfig
		deadline time.Duration // 0 for none
		at       []time.Duration
		err      time.Duration // RetryAfter of the error of the last of three; -1 for none
	}{
		{"not at all", headgate.PerSecond(1), TransportConfig{}, 0, []time.Duration{0}, time.Second},
		{"long enough", headgate.PerSecond(1), TransportConfig{MaxWait: time.Minute}, 0, []time.Duration{0, time.Second, 2 * time.Second}, -1},
		{"as long as it may", headgate.PerSecond(1), TransportConfig{MaxWait: time.Second}, 0, []time.Duration{0, time.Second, 2 * time.Second}, -1},
		{"not beyond it", headgate.PerMinute(1), TransportConfig{MaxWait: time.Minute - 1}, 0, []time.Duration{0}, time.Minute},
		{"within the deadline", headgate.PerSecond(1), TransportConfig{MaxWait: time.Minute}, 1500 * time.Millisecond, []time.Duration{0, time.Second}, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &upstream{}
				tr := NewTransport(inMemory(t, tt.limit), u, tt.config)
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				var err error
				for range 3 {
					_, err = tr.RoundTrip(outgoing(t, nil).WithContext(ctx))
				}
				if !slices.Equal(u.at, tt.at) {
					t.Errorf("sent after %v, want %v", u.at, tt.at)
				}
				if tt.err < 0 {
					if err != nil {
						t.Errorf("got %v", err)
					}
					return
				}
				e := limited(t, err)
				if e.RetryAfter != tt.err || e.Status != 0 || e.Decision.Reason != headgate.RateLimited || !e.Temporary() {
					t.Errorf("got %+v, want a refusal with %v", e, tt.err)
				}
			})
		})
	}
}

func TestTransportWaitEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{answer: refuseFirst(1, 429, "Retry-After: 30")}
		tr := NewTransport(inMemory(t, headgate.PerSecond(1)), u, TransportConfig{MaxWait: time.Hour, MaxPause: time.Hour})
		get(t, tr)
		for _, kind := range []string{"pause", "budget", "delay"} {
			if kind == "budget" {
				<-time.After(time.Minute)
				get(t, tr)
			}
			if kind == "delay" {
				tr = NewTransport(inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 9}), u, TransportConfig{})
				get(t, tr)
			}
			sent := len(u.at)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(500*time.Millisecond, cancel)
			begin := time.Now()
			closed := &closes{Reader: strings.NewReader("x")}
			if _, err := tr.RoundTrip(outgoing(t, closed).WithContext(ctx)); !errors.Is(err, context.Canceled) || time.Since(begin) != 500*time.Millisecond {
				t.Errorf("%s: got %v after %v", kind, err, time.Since(begin))
			}
			if len(u.at) != sent || closed.n != 1 {
				t.Errorf("%s: %d were sent, its body was closed %d times", kind, len(u.at)-sent, closed.n)
			}
		}
	})
}

// closes counts.
type closes struct {
	io.Reader
	n int
}

func (c *closes) Close() error { c.n++; return nil }

func TestTransportNever(t *testing.T) {
	u := &upstream{}
	tr := NewTransport(inMemory(t, headgate.PerSecond(1)), u, TransportConfig{MaxWait: time.Hour, Cost: func(*http.Request) int64 { return 2 }})
	_, err := tr.RoundTrip(outgoing(t, nil))
	if e := limited(t, err); e.Temporary() || e.RetryAfter != 0 || e.Decision.Reason != headgate.CostExceedsLimit || !strings.Contains(e.Error(), "cost_exceeds_limit") {
		t.Errorf("got %+v: %v", e, e)
	}
}

// fakeBudget answers as it says.
type fakeBudget func(*http.Request) (headgate.Decision, func() error, error)

func (f fakeBudget) Acquire(r *http.Request, _ string, _ int64) (headgate.Decision, func() error, error) {
	return f(r)
}

// A budget that refuses for a time that nobody knows is not asked over and over.
func TestTransportUnknownWait(t *testing.T) {
	asked := 0
	b := fakeBudget(func(*http.Request) (headgate.Decision, func() error, error) {
		asked++
		return headgate.Decision{Retryable: true, Reason: headgate.OverloadedReason}, nil, nil
	})
	err := get(t, NewTransportOver(b, &upstream{}, TransportConfig{MaxWait: time.Hour}))
	if e := limited(t, err); asked != 1 || !e.Temporary() || e.RetryAfter != 0 {
		t.Errorf("asked %d times: got %+v", asked, e)
	}
}

func TestTransportPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{answer: refuseFirst(1, 503, "Retry-After: 10")}
		config := TransportConfig{MaxPause: time.Minute, Skip: func(r *http.Request) bool { return r.URL.Path == "/health" }}
		tr := NewTransport(inMemory(t, headgate.PerSecond(1000)), u, config)
		if err := get(t, tr); err == nil || err.Error() != "status 503" {
			t.Fatalf("the answer is the caller's: got %v", err)
		}
		<-time.After(3 * time.Second)
		closed := &closes{Reader: strings.NewReader("x")}
		_, err := tr.RoundTrip(outgoing(t, closed))
		if e := limited(t, err); e.Status != 503 || e.RetryAfter != 7*time.Second || !e.Temporary() || e.Error() != "httplimit: not sent: the server asked to wait, retry after 7s" {
			t.Errorf("got %+v: %v", e, e)
		}
		if closed.n != 1 {
			t.Errorf("the body of what was not sent was closed %d times", closed.n)
		}
		other := outgoing(t, nil)
		other.URL.Host = "api.example.com:8443"
		if _, err := tr.RoundTrip(other); err != nil {
			t.Errorf("another origin: got %v", err)
		}
		skipped := outgoing(t, nil)
		skipped.URL.Path = "/health"
		if _, err := tr.RoundTrip(skipped); err != nil {
			t.Errorf("skipped: got %v", err)
		}
		<-time.After(7 * time.Second)
		if err := get(t, tr); err != nil {
			t.Errorf("after the pause: got %v", err)
		}
	})
}

// Requests that wait for their budget learn of a pause that comes meanwhile.
func TestTransportPausesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{answer: refuseFirst(1, 429, "Retry-After: 10")}
		gate := make(chan struct{})
		slow := roundTripper(func(r *http.Request) (*http.Response, error) {
			<-gate
			return u.RoundTrip(r)
		})
		tr := NewTransport(inMemory(t, headgate.PerSecond(1)), slow, TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { get(t, tr) })
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if want := []time.Duration{0, 10 * time.Second, 11 * time.Second}; !slices.Equal(u.at, want) {
			t.Errorf("sent after %v, want %v", u.at, want)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestSaid(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	epoch := strconv.FormatInt(now.Add(40*time.Second).Unix(), 10)
	const none = -1
	for _, tt := range []struct {
		name   string
		status int
		fields []string
		want   time.Duration
	}{
		{"nothing", 429, nil, none},
		{"seconds", 429, []string{"Retry-After: 7"}, 7 * time.Second},
		{"seconds with 503", 503, []string{"Retry-After: 7"}, 7 * time.Second},
		{"now", 429, []string{"Retry-After: 0"}, 0},
		{"not with 200", 200, []string{"Retry-After: 7"}, none},
		{"not with 301", 301, []string{"Retry-After: 7"}, none},
		{"a date", 429, []string{"Retry-After: " + date(time.Minute)}, time.Minute},
		{"a date of RFC 850", 429, []string{"Retry-After: " + now.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT")}, time.Minute},
		{"a date of asctime", 429, []string{"Retry-After: " + now.Add(time.Minute).Format(time.ANSIC)}, time.Minute},
		{"a date that is over", 429, []string{"Retry-After: " + date(-time.Minute)}, 0},
		{"a date by the server's clock", 429, []string{"Date: " + date(time.Hour), "Retry-After: " + date(time.Hour+time.Minute)}, time.Minute},
		{"a Date that is none", 429, []string{"Date: today", "Retry-After: " + date(time.Minute)}, time.Minute},
		{"endless", 429, []string{"Retry-After: 99999999999999999999999999"}, 9223372036 * time.Second},
		{"negative", 429, []string{"Retry-After: -1"}, none},
		{"signed", 429, []string{"Retry-After: +1"}, none},
		{"fraction", 429, []string{"Retry-After: 1.5"}, none},
		{"unit", 429, []string{"Retry-After: 10s"}, none},
		{"words", 429, []string{"Retry-After: later"}, none},
		{"empty", 429, []string{"Retry-After: "}, none},
		{"nonsense, and RateLimit", 429, []string{"Retry-After: soon", `RateLimit: "a";r=0;t=5`}, 5 * time.Second},

		{"RateLimit", 200, []string{`RateLimit: "a";r=0;t=5`}, 5 * time.Second},
		{"Retry-After goes before it", 429, []string{"Retry-After: 2", `RateLimit: "a";r=0;t=5`}, 2 * time.Second},
		{"something left", 200, []string{`RateLimit: "a";r=1;t=5`}, none},
		{"the longest", 200, []string{`RateLimit: "a";r=0;t=5, "b";r=0;t=9;pk=:cHc=:`, `RateLimit: "c";r=3;t=99, "d";r=0;t=4`}, 9 * time.Second},
		{"without t", 200, []string{`RateLimit: "a";r=0`}, none},
		{"without r", 200, []string{`RateLimit: "a";t=5`}, none},
		{"negative t", 200, []string{`RateLimit: "a";r=0;t=-5`}, none},
		{"a decimal t", 200, []string{`RateLimit: "a";r=0;t=5.0`}, none},
		{"requests at one time", 200, []string{`RateLimit: "a";r=0;t=600, "b";r=0;t=5`, `RateLimit-Policy: "a";q=5;qu="concurrent-requests", "b";q=9;w=60`}, 5 * time.Second},
		{"a field at fault", 200, []string{`RateLimit: "a";r=0;t=5,`}, none},
		{"as draft 07 had it", 200, []string{`RateLimit: limit=10, remaining=0, reset=5`}, none},

		{"draft 03", 200, []string{"RateLimit-Limit: 9", "RateLimit-Remaining: 0", "RateLimit-Reset: 30"}, 30 * time.Second},
		{"draft 03, something left", 200, []string{"RateLimit-Remaining: 1", "RateLimit-Reset: 30"}, none},
		{"X, seconds", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30"}, 30 * time.Second},
		{"X, an instant", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch}, 40 * time.Second},
		{"X, an instant by the server's clock", 200, []string{"Date: " + date(10*time.Second), "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch}, 30 * time.Second},
		{"X, an instant that is over", 200, []string{"Date: " + date(time.Hour), "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch}, 0},
		{"X, the end of time", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 9223372036854775807"}, 1<<63 - 1},
		{"X, nonsense", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: soon"}, none},
		{"X, without reset", 200, []string{"X-RateLimit-Remaining: 0"}, none},
		{"X, negative", 200, []string{"X-RateLimit-Remaining: -1", "X-RateLimit-Reset: 30"}, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := said(response(tt.status, tt.fields...), now)
			if !ok {
				got = none
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTransportMaxPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{answer: refuseFirst(1, 429, "Retry-After: 99999999999999999999")}
		tr := NewTransport(inMemory(t, headgate.PerSecond(1000)), u, TransportConfig{MaxPause: time.Minute})
		get(t, tr)
		if e := limited(t, get(t, tr)); e.RetryAfter != time.Minute {
			t.Errorf("got %v, want a minute", e.RetryAfter)
		}
		u = &upstream{answer: refuseFirst(1, 429, "Retry-After: 60")}
		tr = NewTransport(inMemory(t, headgate.PerSecond(1000)), u, TransportConfig{})
		get(t, tr)
		if err := get(t, tr); err != nil {
			t.Errorf("without MaxPause: got %v", err)
		}
	})
}

func TestTransportRetries(t *testing.T) {
	s := func(n ...int) (at []time.Duration) {
		for _, n := range n {
			at = append(at, time.Duration(n)*time.Second)
		}
		return at
	}
	bytesOf := func() io.Reader { return bytes.NewReader([]byte("x")) }
	config := TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 2}
	for _, tt := range []struct {
		name   string
		config TransportConfig
		body   func() io.Reader // nil for none
		answer func(int, *http.Request) (*http.Response, error)
		status int
		at     []time.Duration
	}{
		{"after the wait", config, nil, refuseFirst(1, 429, "Retry-After: 5"), 200, s(0, 5)},
		{"503 too", config, nil, refuseFirst(1, 503, "Retry-After: 5"), 200, s(0, 5)},
		{"at once", config, nil, refuseFirst(2, 429, "Retry-After: 0"), 200, s(0, 0, 0)},
		{"by RateLimit", config, nil, refuseFirst(1, 429, `RateLimit: "a";r=0;t=5`), 200, s(0, 5)},
		{"as often as it may", config, nil, refuseFirst(9, 429, "Retry-After: 5"), 429, s(0, 5, 10)},
		{"a body that can be sent again", config, bytesOf, refuseFirst(2, 429, "Retry-After: 5"), 200, s(0, 5, 10)},
		{"a body that cannot", config, func() io.Reader { return iotest.OneByteReader(bytesOf()) }, refuseFirst(1, 429, "Retry-After: 5"), 429, s(0)},
		{"never another status", config, nil, refuseFirst(1, 500, "Retry-After: 5"), 500, s(0)},
		{"nor one that only tells of its limits", config, nil, refuseFirst(1, 500, `RateLimit: "a";r=0;t=5`), 500, s(0)},
		{"least of all a success", config, bytesOf, refuseFirst(1, 201, `RateLimit: "a";r=0;t=5`), 201, s(0)},
		{"nothing is said", config, nil, refuseFirst(1, 429), 429, s(0)},
		{"nonsense is said", config, nil, refuseFirst(1, 429, "Retry-After: soon"), 429, s(0)},
		{"longer than it may wait", config, nil, refuseFirst(1, 429, "Retry-After: 61"), 429, s(0)},
		{"longer than a pause", TransportConfig{MaxWait: time.Hour, MaxPause: time.Minute, Retries: 2}, nil, refuseFirst(1, 429, "Retry-After: 61"), 429, s(0)},
		{"MaxWait is for all tries", config, nil, refuseFirst(9, 429, "Retry-After: 40"), 429, s(0, 40)},
		{"not unless asked for", TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute}, nil, refuseFirst(1, 429, "Retry-After: 5"), 429, s(0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &upstream{answer: tt.answer}
				tr := NewTransport(inMemory(t, headgate.PerSecond(1000)), u, tt.config)
				var body io.Reader
				if tt.body != nil {
					body = tt.body()
				}
				resp, err := tr.RoundTrip(outgoing(t, body))
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello" {
					t.Errorf("the answer's body: got %q, %v", b, err)
				}
				if resp.StatusCode != tt.status || !slices.Equal(u.at, tt.at) {
					t.Errorf("got %d, sent after %v, want %d and %v", resp.StatusCode, u.at, tt.status, tt.at)
				}
				for _, b := range u.heard {
					if b != "x" {
						t.Errorf("the server heard %q, want the whole body each time", u.heard)
					}
				}
			})
		})
	}
}

func TestTransportRetryOfABrokenGetBody(t *testing.T) {
	u := &upstream{answer: refuseFirst(1, 429, "Retry-After: 0")}
	tr := NewTransport(inMemory(t, headgate.PerSecond(9)), u, TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 1})
	r := outgoing(t, strings.NewReader("x"))
	r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	if resp, err := tr.RoundTrip(r); err != nil || resp.StatusCode != 429 {
		t.Errorf("got %v, %v, want the server's answer", resp, err)
	}
}

// Each try is charged, so a client keeps to its own budget whatever servers say.
func TestTransportRetriesAreCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{answer: refuseFirst(9, 429, "Retry-After: 0")}
		tr := NewTransport(inMemory(t, headgate.PerSecond(1)), u, TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 3})
		if _, err := tr.RoundTrip(outgoing(t, nil)); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(u.at, want) {
			t.Errorf("sent after %v, want %v", u.at, want)
		}
	})
}

func TestTransportHoldsUntilTheAnswerIsRead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(int, *http.Request) (*http.Response, error)
		end    func(*http.Response)
		held   bool // until end
	}{
		{"closed", nil, func(r *http.Response) { r.Body.Close() }, true},
		{"closed twice", nil, func(r *http.Response) { r.Body.Close(); r.Body.Close() }, true},
		{"read to its end", nil, func(r *http.Response) { io.Copy(io.Discard, r.Body) }, true},
		{"read and closed", nil, func(r *http.Response) { io.Copy(io.Discard, r.Body); r.Body.Close() }, true},
		{"broken", func(int, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))}, nil
		}, func(r *http.Response) { r.Body.Read(make([]byte, 1)) }, true},
		{"no body", func(int, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
		}, func(*http.Response) {}, false},
		{"error", func(int, *http.Request) (*http.Response, error) { return nil, errors.New("no route") }, func(*http.Response) {}, false},
		{"panic", func(int, *http.Request) (*http.Response, error) { panic("base") }, func(*http.Response) {}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var releases atomic.Int64
			store := contextCounter{memstore.New(memstore.Config{}), &releases}
			tr := NewTransport(limiter(t, store, headgate.InFlight(1, time.Hour)), &upstream{answer: tt.answer}, TransportConfig{})
			ctx, cancel := context.WithCancel(t.Context())
			var resp *http.Response
			func() {
				defer func() { recover() }()
				resp, _ = tr.RoundTrip(outgoing(t, nil).WithContext(ctx))
			}()
			if held := releases.Load() == 0; held != tt.held {
				t.Errorf("before its end: held is %v, want %v", held, tt.held)
			}
			if tt.held {
				if _, err := tr.RoundTrip(outgoing(t, nil)); limited(t, err).Decision.Reason != headgate.ConcurrencyExceeded {
					t.Errorf("a second request: got %v", err)
				}
			}
			cancel() // the slot is freed all the same
			tt.end(resp)
			if releases.Load() != 1 {
				t.Errorf("released %d times", releases.Load())
			}
			func() {
				defer func() { recover() }()
				_, err := tr.RoundTrip(outgoing(t, nil))
				if _, refused := errors.AsType[*LimitedError](err); refused {
					t.Errorf("a slot was lost: %v", err)
				}
			}()
		})
	}
}

// contextCounter counts Releases whose context has not ended.
type contextCounter struct {
	headgate.Store
	releases *atomic.Int64
}

func (c contextCounter) Apply(ctx context.Context, b *headgate.Batch) error {
	if b.Op == headgate.Release && ctx.Err() == nil {
		c.releases.Add(1)
	}
	return c.Store.Apply(ctx, b)
}

// A try that is repeated gives its slot back first.
func TestTransportRetriesWithOneSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{answer: refuseFirst(2, 429, "Retry-After: 1")}
		tr := NewTransport(inMemory(t, headgate.InFlight(1, time.Hour)), u, TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 2})
		for range 2 {
			if err := get(t, tr); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The answer to a try that is repeated is closed, however much of it there is.
func TestTransportRetriesCloseTheAnswer(t *testing.T) {
	dropped := &closes{Reader: endless{}}
	u := &upstream{answer: func(n int, _ *http.Request) (*http.Response, error) {
		resp := response(200)
		if n == 1 {
			resp = response(429, "Retry-After: 0")
			resp.Body = dropped
		}
		return resp, nil
	}}
	tr := NewTransport(inMemory(t, headgate.InFlight(1, time.Hour)), u, TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 1})
	if err := get(t, tr); err != nil || dropped.n != 1 {
		t.Errorf("got %v, the first answer was closed %d times", err, dropped.n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A request that ends while it waits for a delay, or that finds its key stopped after
// it, holds nothing.
func TestTransportDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		lim := inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 9}, headgate.InFlight(2, time.Hour))
		tr := NewTransport(lim, u, TransportConfig{MaxPause: time.Minute})
		if err := get(t, tr); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			if _, err := tr.RoundTrip(outgoing(t, nil).WithContext(ctx)); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: got %v", err)
			}
		}
		for range 3 {
			<-time.After(9 * time.Second)
			if err := get(t, tr); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if e := limited(t, get(t, tr)); e.Status != 503 {
					t.Errorf("stopped during its delay: got %+v", e)
				}
			})
			synctest.Wait()
			tr.stops.Stop("https://api.example.com:443", 2*time.Second, 503)
			wg.Wait()
		}
		if len(u.at) != 4 {
			t.Errorf("%d were sent, want 4", len(u.at))
		}
	})
}

// The body of a 101 is written to as well.
func TestTransportUpgrade(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, line)
	}))
	defer srv.Close()
	tr := NewTransport(inMemory(t, headgate.InFlight(1, time.Hour)), srv.Client().Transport, TransportConfig{})
	client := &http.Client{Transport: tr}
	upgrade := func() (*http.Response, error) {
		r, err := http.NewRequest("GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Connection", "upgrade")
		r.Header.Set("Upgrade", "echo")
		return client.Do(r)
	}
	resp, err := upgrade()
	if err != nil {
		t.Fatal(err)
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body of %s is a %T, which cannot be written to", resp.Status, resp.Body)
	}
	io.WriteString(rw, "hello\n")
	if _, err := upgrade(); limited(t, err).Decision.Reason != headgate.ConcurrencyExceeded {
		t.Errorf("beside it: got %v", err)
	}
	if b, err := io.ReadAll(rw); err != nil || string(b) != "hello\n" {
		t.Errorf("got %q, %v", b, err)
	}
	rw.Close()
	if resp, err = upgrade(); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
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

func TestTransportReleaseFails(t *testing.T) {
	lim := limiter(t, fakeStore{func(b *headgate.Batch) error {
		if b.Op == headgate.Release {
			return errors.New("lost")
		}
		b.Allowed = true
		return nil
	}}, headgate.InFlight(1, time.Hour))
	var told error
	tr := NewTransport(lim, &upstream{}, TransportConfig{OnError: func(_ *http.Request, err error) { told = err }})
	if err := get(t, tr); err != nil || told == nil || told.Error() != "release: lost" {
		t.Errorf("got %v, OnError was told %v", err, told)
	}
}

func TestByOrigin(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"https://api.example.com/a?b", "https://api.example.com:443"},
		{"HTTPS://API.Example.com", "https://api.example.com:443"},
		{"http://api.example.com", "http://api.example.com:80"},
		{"http://api.example.com:8080", "http://api.example.com:8080"},
		{"https://user:secret@api.example.com", "https://api.example.com:443"},
		{"http://[2001:DB8::1]/", "http://[2001:db8::1]:80"},
		{"/no/host", ""},
		{"http://" + strings.Repeat("a", 255), ""},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ByOrigin(&http.Request{URL: u})
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: got %q, %v, want %q", tt.url, got, err, tt.want)
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

func TestTransportPausesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		u := &upstream{answer: func(int, *http.Request) (*http.Response, error) { return response(429, "Retry-After: 60"), nil }}
		tr := NewTransport(inMemory(t, headgate.PerSecond(1)), u, TransportConfig{MaxPause: time.Hour, Key: func(*http.Request) (string, error) {
			return strconv.Itoa(n), nil
		}})
		for n = range pause.MaxKeys + 10 {
			get(t, tr)
		}
		stopped := 0
		for i := range pause.MaxKeys + 10 {
			if left, _ := tr.stops.Left(strconv.Itoa(i)); left > 0 {
				stopped++
			}
		}
		if stopped != pause.MaxKeys {
			t.Errorf("%d keys are stopped, want %d", stopped, pause.MaxKeys)
		}
	})
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
