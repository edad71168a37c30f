package httplimit

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

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

// A request that has ended before it is sent is not charged.
func TestTransportEndedBefore(t *testing.T) {
	u := &upstream{}
	tr := NewTransport(inMemory(t, headgate.PerHour(2)), u, TransportConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		closed := &closes{Reader: strings.NewReader("x")}
		if _, err := tr.RoundTrip(outgoing(t, closed).WithContext(ctx)); !errors.Is(err, context.Canceled) || closed.n != 1 {
			t.Errorf("got %v, its body was closed %d times", err, closed.n)
		}
	}
	if len(u.at) != 0 {
		t.Errorf("%d were sent", len(u.at))
	}
	for range 2 {
		if err := get(t, tr); err != nil {
			t.Errorf("a later one: got %v", err)
		}
	}
}

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
			tr.stops.Stop("https://api.example.com", 2*time.Second, 503)
			wg.Wait()
		}
		if len(u.at) != 4 {
			t.Errorf("%d were sent, want 4", len(u.at))
		}
	})
}
