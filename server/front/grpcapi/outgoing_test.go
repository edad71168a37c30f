package grpcapi

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/server/front/fronttest"
)

// Two processes, here two clients, share over a server what they may ask a third party
// for: rates, and slots until the answer is read.
func TestOutgoingOverAServer(t *testing.T) {
	const policy = `
version: 1
applications:
  partners:
    rules:
      - {name: rate, match: {path: /rate}, limits: [{name: burst, rate: 3/h}]}
      - {name: slots, match: {path: /slots}, limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 1h}]}
`
	address := listen(t, New(Config{Gate: fronttest.Open(t, policy)}))
	partner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	defer partner.Close()
	var processes []*http.Client
	for range 2 {
		engine := newClient(t, address, client.Options{Timeout: 10 * time.Second})
		budget := httpgate.Outgoing(engine, httpgate.OutgoingConfig{Application: "partners", OnError: func(_ *http.Request, err error) { t.Error(err) }})
		processes = append(processes, &http.Client{Transport: httplimit.NewTransportOver(budget, nil, httplimit.TransportConfig{})})
	}
	sent := 0
	for i := range 8 {
		resp, err := processes[i%2].Get(partner.URL + "/rate")
		if e, ok := errors.AsType[*httplimit.LimitedError](err); ok {
			if e.Decision.Reason != headgate.RateLimited || e.RetryAfter < 19*time.Minute || e.RetryAfter > 20*time.Minute {
				t.Errorf("refused with %+v", e)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		sent++
	}
	if sent != 3 {
		t.Errorf("%d were sent, want 3", sent)
	}
	for i := range 4 {
		mine, other := processes[i%2], processes[1-i%2]
		resp, err := mine.Get(partner.URL + "/slots")
		if err != nil {
			t.Fatal(err)
		}
		_, err = other.Get(partner.URL + "/slots")
		if e, ok := errors.AsType[*httplimit.LimitedError](err); !ok || e.Decision.Reason != headgate.ConcurrencyExceeded {
			t.Errorf("beside one that is read still: got %v", err)
		}
		resp.Body.Close()
	}
}
