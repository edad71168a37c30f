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
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	headgate := flag.String("headgate", "bin/headgate", "the headgate to run")
	duration := flag.Duration("duration", 5*time.Second, "how long to send requests, in whole seconds")
	flag.Parse()
	if flag.NArg() > 0 || *duration < time.Second || *duration%time.Second != 0 {
		fmt.Fprintln(os.Stderr, "usage: nginx [-headgate FILE] [-duration 5s], whole seconds")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *headgate, *duration); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, headgate string, d time.Duration) (err error) {
	s, err := startStack(ctx, headgate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()

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
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  GET %-12s %s\n", path, res.Status)
	if res.StatusCode != want {
		return fmt.Errorf("GET %s: %s, want %d", path, res.Status, want)
	}
	if want == http.StatusOK {
		return nil
	}
	for _, field := range []string{"Retry-After", "RateLimit", "RateLimit-Policy", "Headgate-Reason"} {
		if v := res.Header.Get(field); v != "" {
			fmt.Fprintf(w, "    %s: %s\n", field, v)
		}
	}
	fmt.Fprintf(w, "    %s\n", strings.TrimSpace(string(body)))
	return nil
}
