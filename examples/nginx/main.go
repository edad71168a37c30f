// Command nginx shows Headgate deciding real traffic. An unmodified nginx asks
// it about every request for a small site while wrk sends as many as it can;
// the right ones are refused with 429. Then Headgate stops, and the site stays
// up or is closed, as the configuration of nginx says.
//
// It prints what passed beside what the policy allows, and exits 1 if the two
// do not agree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

func main() {
	duration := flag.Duration("duration", 5*time.Second, "how long to send requests, in whole seconds")
	stage.Main("nginx [-headgate FILE] [-duration 5s], whole seconds", func(ctx context.Context, w io.Writer, headgate string) error {
		if *duration < time.Second || *duration%time.Second != 0 {
			return stage.ErrUsage
		}
		return run(ctx, w, headgate, *duration)
	})
}

func run(ctx context.Context, w io.Writer, headgate string, d time.Duration) (err error) {
	s, err := startStack(ctx, headgate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()

	fmt.Fprintf(w, "%d clients at once, %d connections each, for %v, through nginx:\n\n", len(clients), connections, d)
	outcomes, err := s.drive(ctx, d)
	if err != nil {
		return err
	}
	printTable(w, outcomes)
	var faults []error
	for i := range outcomes {
		faults = append(faults, outcomes[i].check())
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}

	fmt.Fprintf(w, "\nWhat a refused client gets (/login: 3 tries, then 10 an hour):\n\n")
	for _, want := range []int{200, 200, 200, 429} {
		if err := s.show(ctx, w, "/login", want); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nHeadgate is stopped. / stays up, /api/ is closed, as nginx.conf says:\n\n")
	if err := s.headgate.Stop(); err != nil {
		return err
	}
	return errors.Join(s.show(ctx, w, "/", 200), s.show(ctx, w, "/api/orders", 503))
}

// show asks for a path and prints the answer, which must have the status want.
func (s *stack) show(ctx context.Context, w io.Writer, path string, want int) error {
	a, err := stage.Ask(ctx, http.DefaultTransport, "GET", s.url+path, "", nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  GET %-12s %s\n", path, a.Status)
	if a.StatusCode != want {
		return fmt.Errorf("GET %s: %s, want %d", path, a.Status, want)
	}
	if want != http.StatusOK {
		a.Print(w, "Retry-After", "RateLimit", "RateLimit-Policy", "Headgate-Reason")
	}
	return nil
}
