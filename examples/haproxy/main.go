// Command haproxy shows Headgate behind HAProxy, which asks it about every
// request by a few lines of Lua: two clients send more than the policy allows,
// a third one lies about its address, and then Headgate stops.
//
// It exits 1 if anything but what the policy allows passes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	headgate := flag.String("headgate", "bin/headgate", "the headgate to run")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: haproxy [-headgate FILE]")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *headgate); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	burst    = 20 // of policy.yaml
	requests = 60 // of each client
	atOnce   = 10
)

// Each client has an address of its own.
const (
	ann  = "127.0.1.1"
	bob  = "127.0.1.2"
	liar = "127.0.1.3"
)

func run(ctx context.Context, w io.Writer, headgate string) (err error) {
	s, err := startStack(ctx, headgate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, step := range []func(context.Context, io.Writer) error{s.showLimits, s.showLiar, s.showAway} {
		if err := step(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// showLimits lets two clients send too much at once.
func (s *stack) showLimits(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "Two clients, %d requests each, %d at once, through HAProxy (burst %d):\n\n", requests, atOnce, burst)
	clients := []string{ann, bob}
	answers := make([]map[int]int, len(clients))
	errs := make([]error, len(clients))
	var both sync.WaitGroup
	for i, client := range clients {
		both.Go(func() { answers[i], errs[i] = s.flood(ctx, client, nil) })
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, client := range clients {
		fmt.Fprintf(w, "  %-10s passed %d, refused %d\n", client, answers[i][http.StatusOK], answers[i][http.StatusTooManyRequests])
		if err := s.exact(client, answers[i]); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nWhat a refused client gets:\n\n")
	return s.show(ctx, w, ann, "GET", http.StatusTooManyRequests)
}

// exact returns an error if anything but the burst passed.
func (s *stack) exact(client string, answers map[int]int) error {
	passed, refused := answers[http.StatusOK], answers[http.StatusTooManyRequests]
	if passed != burst || refused != requests-burst || s.site.visits(client) != burst {
		return fmt.Errorf("%s: answers by status %v, %d reached the site: want %d to pass", client, answers, s.site.visits(client), burst)
	}
	return nil
}

// showLiar sends another address with every request.
func (s *stack) showLiar(ctx context.Context, w io.Writer) error {
	answers, err := s.flood(ctx, liar, func(i int) http.Header {
		other := "203.0.113." + strconv.Itoa(i)
		return http.Header{"X-Forwarded-For": {other}, "X-Real-Ip": {other}, "X-Original-Uri": {"/" + other}}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nA client that names another address in X-Forwarded-For each time:\n\n")
	fmt.Fprintf(w, "  %-10s passed %d, refused %d\n", liar, answers[http.StatusOK], answers[http.StatusTooManyRequests])
	return s.exact(liar, answers)
}

// showAway stops Headgate, and starts it again.
func (s *stack) showAway(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "\nHeadgate is stopped. Reading goes on, writing is closed, as haproxy.cfg says:\n\n")
	if err := s.headgate.Stop(); err != nil {
		return err
	}
	if err := errors.Join(s.show(ctx, w, ann, "GET", http.StatusOK), s.show(ctx, w, ann, "POST", http.StatusServiceUnavailable)); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nHeadgate is back, and has not forgotten:\n\n")
	if err := s.startHeadgate(ctx); err != nil {
		return err
	}
	return s.show(ctx, w, ann, "GET", http.StatusTooManyRequests)
}

// flood sends the requests of one client, several at once, and counts the
// answers by their status. header makes the header of each; nil for none.
func (s *stack) flood(ctx context.Context, client string, header func(i int) http.Header) (map[int]int, error) {
	work := make(chan int, requests)
	for i := range requests {
		work <- i
	}
	close(work)
	var mu sync.Mutex
	var errs []error
	answers := make(map[int]int)
	transport := from(client)
	defer transport.CloseIdleConnections()
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for i := range work {
				var h http.Header
				if header != nil {
					h = header(i)
				}
				a, err := s.ask(ctx, transport, "GET", "/", "", h)
				mu.Lock()
				answers[a.status]++
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return answers, errors.Join(errs...)
}

// from returns a transport that connects from one loopback address.
func from(client string) *http.Transport {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	return &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: atOnce, ResponseHeaderTimeout: 10 * time.Second}
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *stack) ask(ctx context.Context, transport *http.Transport, method, path, body string, header http.Header) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.ports.listen+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if header != nil {
		r.Header = header
	}
	res, err := transport.RoundTrip(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b)}, err
}

// show sends one request and prints the answer, which must have the status want.
func (s *stack) show(ctx context.Context, w io.Writer, client, method string, want int) error {
	transport := from(client)
	defer transport.CloseIdleConnections()
	a, err := s.ask(ctx, transport, method, "/", "", nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  %-4s / from %s: %d\n", method, client, a.status)
	if a.status != want {
		return fmt.Errorf("%s / from %s: %d %q, want %d", method, client, a.status, a.body, want)
	}
	if want == http.StatusOK {
		return nil
	}
	for _, field := range []string{"Retry-After", "RateLimit", "RateLimit-Policy"} {
		if v := a.header.Get(field); v != "" {
			fmt.Fprintf(w, "    %s: %s\n", field, v)
		}
	}
	fmt.Fprintf(w, "    %s\n", strings.TrimSpace(a.body))
	return nil
}
