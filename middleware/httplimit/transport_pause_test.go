package httplimit

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/pause"
)

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
