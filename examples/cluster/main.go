// Command cluster shows several instances of an application behind nginx that
// share one limit and one ban through Redis, each asking a Headgate of its own:
// it makes no difference which of them a request reaches. Then Redis stops to
// answer, and each limit does what the policy says.
//
// It exits 1 if anything but what the policy allows passes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == instanceFlag {
		if err := runInstance(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	stage.Main("cluster [-headgate FILE]", run)
}

// What policy.yaml says of the API: so many pass at once, and so many refusals
// bring a ban.
const (
	burst      = 40
	banAfter   = 60
	firstWave  = 120
	callers    = 30
	pagesBurst = 60
	pagesAsked = 150
)

func run(ctx context.Context, w io.Writer, headgate string) (err error) {
	s, err := startStack(ctx, headgate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	for _, step := range []func(context.Context, io.Writer) error{s.shareLimit, s.shareBan, s.losesRedis} {
		if err := step(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// shareLimit sends more requests of one key than may pass.
func (s *stack) shareLimit(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "%d requests of one key, %d at once, through nginx to %d instances (burst %d):\n\n", firstWave, callers, instances, burst)
	t, err := s.ask(ctx, "/api/orders", "key-bob", firstWave)
	if err != nil {
		return err
	}
	t.print(w)
	if t.total.passed != burst {
		return fmt.Errorf("%d passed, the policy allows %d", t.total.passed, burst)
	}
	if len(t.by) != instances {
		return fmt.Errorf("only %d instances were asked", len(t.by))
	}
	return nil
}

// shareBan shows that every instance knows who was banned, and nobody else is.
func (s *stack) shareBan(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "\nThose were more than %d refusals. The key is banned, whichever instance it asks; another is not:\n\n", banAfter)
	seen := map[string]bool{}
	for range 2 * instances {
		a, err := s.get(ctx, "/api/orders", "key-bob")
		if err != nil {
			return err
		}
		if a.status != http.StatusTooManyRequests || a.reason != "banned" {
			return fmt.Errorf("the banned key got %d %s", a.status, a.reason)
		}
		if !seen[a.instance] {
			fmt.Fprintf(w, "  key-bob    %s  %d %s, retry after %s s\n", a.instance, a.status, a.reason, a.retryAfter)
		}
		seen[a.instance] = true
	}
	a, err := s.get(ctx, "/api/orders", "key-alice")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  key-alice  %s  %d %s\n", a.instance, a.status, a.reason)
	if a.status != http.StatusOK {
		return fmt.Errorf("another key got %d %s", a.status, a.reason)
	}
	if len(seen) != instances {
		return fmt.Errorf("only %d instances were asked", len(seen))
	}
	return nil
}

// losesRedis halts Redis. Pages go on with each node's share of the limit, what
// a quota counts is closed. Then Redis goes on.
func (s *stack) losesRedis(ctx context.Context, w io.Writer) error {
	if err := s.meet(ctx); err != nil {
		return err
	}
	if err := s.redis.Pause(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nRedis hangs. Pages are limited by each node for itself, to its share of %d; the API has a quota and is closed:\n\n", pagesBurst)
	t, err := s.ask(ctx, "/", "key-carol", pagesAsked)
	if err != nil {
		return err
	}
	t.print(w)
	// What comes back while the requests are sent is little.
	if most := pagesBurst; t.total.passed == 0 || t.total.passed > most || t.degraded != pagesAsked {
		return fmt.Errorf("%d of %d passed, %d were decided without the store", t.total.passed, pagesAsked, t.degraded)
	}
	a, err := s.get(ctx, "/api/orders", "key-carol")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n  GET /api/orders  %d %s\n", a.status, a.reason)
	if a.status != http.StatusServiceUnavailable || a.degraded != "closed" {
		return fmt.Errorf("a quota without its store: %d %s, %q", a.status, a.reason, a.degraded)
	}
	if err := s.redis.Resume(); err != nil {
		return err
	}
	until, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	for {
		a, err := s.get(until, "/api/orders", "key-carol")
		if err != nil {
			return fmt.Errorf("after Redis came back: %w", err)
		}
		if a.status == http.StatusOK && a.degraded == "" {
			fmt.Fprintf(w, "\nRedis goes on. After %.1f s:\n\n  GET /api/orders  %d %s\n", time.Since(began).Seconds(), a.status, a.reason)
			return nil
		}
	}
}

// meet waits until every node knows of all others, by which it reckons its share.
func (s *stack) meet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	want := fmt.Sprintf("\nheadgate_nodes %d\n", instances)
	for _, node := range s.nodes {
		for {
			metrics, err := stage.Ask(ctx, http.DefaultTransport, "GET", node+"/metrics", "", nil)
			if err != nil {
				return err
			}
			if strings.Contains(metrics.Body, want) {
				break
			}
			<-tick.C
		}
	}
	return nil
}

// tally counts answers, by instance and in all.
type tally struct {
	mu       sync.Mutex
	by       map[string]*counts
	total    counts
	degraded int
}

type counts struct{ passed, refused int }

// ask sends n requests, several at once.
func (s *stack) ask(ctx context.Context, path, key string, n int) (*tally, error) {
	t := &tally{by: map[string]*counts{}}
	return t, stage.Each(n, callers, func(int) error {
		a, err := s.get(ctx, path, key)
		if err == nil {
			t.add(a)
		}
		return err
	})
}

func (t *tally) add(a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.by[a.instance]
	if c == nil {
		c = new(counts)
		t.by[a.instance] = c
	}
	if a.status == http.StatusOK {
		c.passed++
		t.total.passed++
	} else {
		c.refused++
		t.total.refused++
	}
	if a.degraded != "" {
		t.degraded++
	}
}

func (t *tally) print(w io.Writer) {
	fmt.Fprintf(w, "  %-12s %7s %8s\n", "", "passed", "refused")
	for i := range instances {
		name := fmt.Sprintf("instance-%d", i+1)
		if c := t.by[name]; c != nil {
			fmt.Fprintf(w, "  %-12s %7d %8d\n", name, c.passed, c.refused)
		}
	}
	fmt.Fprintf(w, "  %-12s %7d %8d\n", "all", t.total.passed, t.total.refused)
}
