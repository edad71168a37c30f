// Package webproxy is the examples of proxies that ask Headgate about every
// request: two clients send more than the policy allows, a third one lies about
// its address, and then Headgate stops.
package webproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"sync"

	"github.com/headgate/headgate/examples/stage"
)

// Burst is how many requests of a client the policy lets pass.
const Burst = 20

// Patient is a Timeout within which a Headgate answers that does not hang.
const Patient = "10s"

const (
	requests = 60 // of each client
	atOnce   = 10
)

// Each client has an address of its own.
const (
	ann  = "127.0.1.1"
	bob  = "127.0.1.2"
	liar = "127.0.1.3"
)

// Example is one proxy.
type Example struct {
	Name   string
	Config string // what says what becomes of requests without Headgate
	Files  fs.FS  // its files, and policy.yaml
	// Command starts it beside its files. Its environment has LISTEN, HEADGATE
	// and SITE, all addresses, and PORT, that of LISTEN. Its Debian package has
	// the name of the program.
	Command []string
	// Timeout is how long the proxy waits for Headgate, in its TIMEOUT; "" is what its
	// configuration says by default.
	Timeout string
	// BySignal says that SIGTERM ends it without a status.
	BySignal bool
}

// Main is the main function of the example. It exits 1 if anything but what the
// policy allows passes.
func (e Example) Main() { stage.Main(e.Command[0]+" [-headgate FILE]", e.Run) }

// Run runs the example with a Headgate.
func (e Example) Run(ctx context.Context, w io.Writer, headgate string) (err error) {
	e.Timeout = Patient // nothing hangs here, and a machine that stalls opens no door
	s, err := e.Start(ctx, headgate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	for _, step := range []func(context.Context, io.Writer) error{s.showLimits, s.showLiar, s.showAway} {
		if err := step(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// showLimits lets two clients send too much at once.
func (s *Stack) showLimits(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "Two clients, %d requests each, %d at once, through %s (burst %d):\n\n", requests, atOnce, s.example.Name, Burst)
	clients := []string{ann, bob}
	answers := make([]map[int]int, len(clients))
	err := stage.Each(len(clients), len(clients), func(i int) (err error) {
		answers[i], err = s.flood(ctx, clients[i], nil)
		return err
	})
	if err != nil {
		return err
	}
	for i, client := range clients {
		if err := s.printExact(w, client, answers[i]); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nWhat a refused client gets:\n\n")
	return s.show(ctx, w, ann, "GET", http.StatusTooManyRequests)
}

// printExact returns an error if anything but the burst passed.
func (s *Stack) printExact(w io.Writer, client string, answers map[int]int) error {
	passed, refused := answers[http.StatusOK], answers[http.StatusTooManyRequests]
	fmt.Fprintf(w, "  %-10s passed %d, refused %d\n", client, passed, refused)
	if passed != Burst || refused != requests-Burst || s.Visits(client) != Burst {
		return fmt.Errorf("%s: answers by status %v, %d reached the site: want %d to pass", client, answers, s.Visits(client), Burst)
	}
	return nil
}

// showLiar sends another address with every request.
func (s *Stack) showLiar(ctx context.Context, w io.Writer) error {
	answers, err := s.flood(ctx, liar, func(i int) http.Header {
		other := "203.0.113." + strconv.Itoa(i)
		return http.Header{"X-Forwarded-For": {other}, "X-Real-Ip": {other}, "X-Original-Uri": {"/" + other}}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nA client that names another address in X-Forwarded-For each time:\n\n")
	return s.printExact(w, liar, answers)
}

// showAway stops Headgate, and starts it again.
func (s *Stack) showAway(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "\nHeadgate is stopped. Reading goes on, writing is closed, as %s says:\n\n", s.example.Config)
	if err := s.Headgate.Stop(); err != nil {
		return err
	}
	if err := errors.Join(s.show(ctx, w, ann, "GET", http.StatusOK), s.show(ctx, w, ann, "POST", http.StatusServiceUnavailable)); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nHeadgate is back, and has not forgotten:\n\n")
	if err := s.StartHeadgate(ctx); err != nil {
		return err
	}
	return s.show(ctx, w, ann, "GET", http.StatusTooManyRequests)
}

// flood sends the requests of one client, several at once, and counts the
// answers by their status. header makes the header of each; nil for none.
func (s *Stack) flood(ctx context.Context, client string, header func(i int) http.Header) (map[int]int, error) {
	var mu sync.Mutex
	answers := make(map[int]int)
	transport := stage.From(client)
	defer transport.CloseIdleConnections()
	err := stage.Each(requests, atOnce, func(i int) error {
		var h http.Header
		if header != nil {
			h = header(i)
		}
		a, err := stage.Ask(ctx, transport, "GET", s.URL+"/", "", h)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		answers[a.StatusCode]++
		return nil
	})
	return answers, err
}

// show sends one request and prints the answer, which must have the status want.
func (s *Stack) show(ctx context.Context, w io.Writer, client, method string, want int) error {
	transport := stage.From(client)
	defer transport.CloseIdleConnections()
	a, err := stage.Ask(ctx, transport, method, s.URL+"/", "", nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  %-4s / from %s: %d\n", method, client, a.StatusCode)
	if a.StatusCode != want {
		return fmt.Errorf("%s / from %s: %d %q, want %d", method, client, a.StatusCode, a.Body, want)
	}
	if want != http.StatusOK {
		a.Print(w, "Retry-After", "RateLimit", "RateLimit-Policy")
	}
	return nil
}
