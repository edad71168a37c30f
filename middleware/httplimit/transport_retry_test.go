package httplimit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

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

// The answer to a try that is repeated is closed, however much of it there is, and
// although the rest of it never comes.
func TestTransportRetriesCloseTheAnswer(t *testing.T) {
	for name, body := range map[string]io.Reader{"endless": endless{}, "stalled": stalled{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dropped := &closes{Reader: body}
				u := &upstream{answer: func(n int, _ *http.Request) (*http.Response, error) {
					resp := response(200)
					if n == 1 {
						resp = response(429, "Retry-After: 1")
						resp.Body = dropped
					}
					return resp, nil
				}}
				tr := NewTransport(inMemory(t, headgate.InFlight(1, time.Hour)), u, TransportConfig{MaxWait: 2 * time.Second, MaxPause: time.Minute, Retries: 1})
				if err := get(t, tr); err != nil || dropped.n != 1 || !slices.Equal(u.at, []time.Duration{0, time.Second}) {
					t.Errorf("got %v, the first answer was closed %d times, sent after %v", err, dropped.n, u.at)
				}
			})
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// stalled fails after an hour.
type stalled struct{}

func (stalled) Read([]byte) (int, error) {
	<-time.After(time.Hour)
	return 0, io.ErrUnexpectedEOF
}

// The same over a real connection.
func TestTransportRetriesAfterAStalledAnswer(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			return
		}
		w.Header().Set("Retry-After", "0")
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(429)
		http.NewResponseController(w).Flush()
		<-r.Context().Done() // the client closes the connection
	}))
	defer srv.Close()
	tr := NewTransport(inMemory(t, headgate.PerSecond(100)), srv.Client().Transport, TransportConfig{MaxWait: 2 * time.Second, MaxPause: 2 * time.Second, Retries: 1})
	client := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	resp, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || asked.Load() != 2 {
		t.Errorf("got %d after %d requests, want 200 after 2", resp.StatusCode, asked.Load())
	}
}

// No server can have a request sent again without a wait, nor all at the same instant.
func TestTransportRetriesWaitAtLeast(t *testing.T) {
	config := TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 2}
	const past = "Wed, 21 Oct 1998 07:28:00 GMT"
	for _, fields := range [][]string{{"Retry-After: 0"}, {"Retry-After: " + past}, {`RateLimit: "a";r=0;t=0`}, {"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 0"}} {
		synctest.Test(t, func(t *testing.T) {
			seen := map[time.Duration]bool{}
			for range 20 {
				u := &upstream{answer: refuseFirst(2, 429, fields...)}
				if err := get(t, NewTransport(inMemory(t, headgate.PerSecond(1000)), u, config)); err != nil || len(u.at) != 3 {
					t.Fatalf("%q: got %v, %d sent", fields, err, len(u.at))
				}
				for i := range 2 {
					wait := u.at[i+1] - u.at[i]
					if wait < 100*time.Millisecond || wait > 200*time.Millisecond {
						t.Fatalf("%q: sent after %v", fields, u.at)
					}
					seen[wait] = true
				}
			}
			if len(seen) < 2 {
				t.Errorf("%q: 40 equal waits: no spread", fields)
			}
		})
	}
	u := &upstream{answer: refuseFirst(1, 429, "Retry-After: 0")}
	config.MaxWait = 99 * time.Millisecond
	if err := get(t, NewTransport(inMemory(t, headgate.PerSecond(1000)), u, config)); err == nil || err.Error() != "status 429" || len(u.at) != 1 {
		t.Errorf("with less than that to wait: got %v, %d sent", err, len(u.at))
	}
}

// A request that was sent, and may not be sent again in time, was answered.
func TestTransportRetryThatIsNotAdmitted(t *testing.T) {
	const key = "https://api.example.com"
	config := TransportConfig{MaxWait: 2 * time.Second, MaxPause: time.Minute, Retries: 1}
	away := func() Budget { // after the first
		asked := 0
		return fakeBudget(func(*http.Request) (headgate.Decision, func() error, error) {
			if asked++; asked > 1 {
				return headgate.Decision{}, nil, errors.New("store is away")
			}
			return headgate.Decision{Allowed: true}, nil, nil
		})
	}
	for _, tt := range []struct {
		name    string
		budget  func(*testing.T) Budget
		waiting func(*Transport) // after half a second
	}{
		{"its own limit refuses", func(t *testing.T) Budget { return limiterBudget{newPlan(inMemory(t, headgate.PerMinute(1)))} }, func(*Transport) {}},
		{"nothing can be decided", func(*testing.T) Budget { return away() }, func(*Transport) {}},
		{"the server asks for more meanwhile", func(t *testing.T) Budget { return limiterBudget{newPlan(inMemory(t, headgate.PerSecond(9)))} }, func(tr *Transport) { tr.stops.Stop(key, time.Minute, 503) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answer := &closes{Reader: strings.NewReader("details")}
				u := &upstream{answer: func(int, *http.Request) (*http.Response, error) {
					resp := response(503, "Retry-After: 1")
					resp.Body = answer
					return resp, nil
				}}
				tr := NewTransportOver(tt.budget(t), u, config)
				time.AfterFunc(500*time.Millisecond, func() { tt.waiting(tr) })
				r := outgoing(t, strings.NewReader("x"))
				again := &closes{Reader: strings.NewReader("x")}
				r.GetBody = func() (io.ReadCloser, error) { return again, nil }
				resp, err := tr.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(resp.Body); resp.StatusCode != 503 || string(b) != "details" || err != nil || answer.n != 0 {
					t.Errorf("got %d %q, %v, closed %d times", resp.StatusCode, b, err, answer.n)
				}
				if len(u.at) != 1 || again.n != 1 {
					t.Errorf("%d were sent, the second body was closed %d times", len(u.at), again.n)
				}
			})
		})
	}
}

// A request that ends while it waits for its next try ends with that, and leaves nothing.
func TestTransportRetryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := &closes{Reader: strings.NewReader("hello")}
		u := &upstream{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n > 1 {
				return response(200), nil
			}
			resp := response(429, "Retry-After: 5")
			resp.Body = answer
			return resp, nil
		}}
		tr := NewTransport(inMemory(t, headgate.InFlight(1, time.Hour)), u, TransportConfig{MaxWait: time.Minute, MaxPause: time.Minute, Retries: 1})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := tr.RoundTrip(outgoing(t, nil).WithContext(ctx)); !errors.Is(err, context.Canceled) || answer.n != 1 || len(u.at) != 1 {
			t.Errorf("got %v, the answer was closed %d times, %d sent", err, answer.n, len(u.at))
		}
		if err := get(t, tr); err != nil {
			t.Errorf("the next: got %v", err)
		}
	})
}
