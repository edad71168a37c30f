package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

// What bucket/server.js says of the bucket, and bucket/ecosystem.config.js of the
// cluster.
const (
	capacity  = 10
	oneIn     = 3 * time.Second
	instances = 3
)

// bucket is the cluster with its bucket, and a ledger of what the bucket granted.
type bucket struct {
	*stack
	url     string
	began   time.Time // the bucket was full for the last time
	granted int       // by processes that have ended since
}

// stats is what one instance says of itself.
type stats struct {
	Instance   int `json:"instance"`
	PID        int `json:"pid"`
	Allowed    int `json:"allowed"`
	Refused    int `json:"refused"`
	FailedOpen int `json:"failedOpen"`
}

func (s *stack) showBucket(ctx context.Context, w io.Writer) error {
	free, err := stage.FreePorts(1)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(free[0])
	if err != nil {
		return err
	}
	b := &bucket{stack: s, url: "http://" + free[0]}
	if _, err := b.pm2(ctx, []string{"PORT=" + port}, "start", "bucket/ecosystem.config.js"); err != nil {
		return err
	}
	if err := until(ctx, "the bucket is there", b.isManaged); err != nil {
		return fmt.Errorf("%w\n%s", err, s.logs())
	}
	for _, step := range []func(context.Context, io.Writer) error{b.share, b.killServer, b.stopManager, b.startManager, b.reload} {
		if err := step(ctx, w); err != nil {
			return fmt.Errorf("%w\n%s", err, s.logs())
		}
	}
	_, err = b.pm2(ctx, nil, "delete", "all")
	return err
}

func (b *bucket) isManaged() (bool, error) {
	_, err := os.Stat(filepath.Join(b.Dir, "pm2", "headgate", "tokens.json"))
	return err == nil, nil
}

// share lets loadtest send more requests than the bucket has tokens.
func (b *bucket) share(ctx context.Context, w io.Writer) error {
	if _, err := b.stats(ctx); err != nil { // all instances are there
		return err
	}
	b.began = time.Now()
	fmt.Fprintf(w, "Three instances under PM2 share one bucket of %d tokens, one of which comes back in %v.\nloadtest -n 30 -c 10:\n\n", capacity, oneIn)
	t, _, err := b.drive(ctx, w, requests{N: 30, Concurrency: 10}, nil)
	if err != nil {
		return err
	}
	if len(t.by) != instances {
		return fmt.Errorf("%d instances have answered", len(t.by))
	}
	if t.total.passed < capacity {
		return fmt.Errorf("%d passed, the bucket had %d", t.total.passed, capacity)
	}
	return nil
}

// killServer kills Headgate under load: the TokenManager starts it again, with the
// bucket as it was.
func (b *bucket) killServer(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "\nThe Headgate behind the bucket is killed (-9) under load, and started again by the TokenManager:\n\n")
	_, _, err := b.drive(ctx, w, requests{N: 60, PerSecond: 30}, func() error {
		pid, err := b.serverPID(ctx)
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	})
	if err != nil {
		return err
	}
	return b.mustLog("tokenServer", "the server ended (exit code 137), and is started again")
}

// serverPID finds the process of Headgate, by the socket that it was told.
func (b *bucket) serverPID(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, "ps", "-eww", "-o", "pid=,args=").Output()
	if err != nil {
		return 0, err
	}
	program := b.headgate + " serve --resp unix:" + filepath.Join(b.Dir, "pm2", "headgate", "tokens.sock")
	for line := range strings.Lines(string(out)) {
		pid, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(args, program) {
			return strconv.Atoi(pid)
		}
	}
	return 0, errors.New("no Headgate runs")
}

// stopManager takes the TokenManager away, with its Headgate: the instances allow,
// count and log.
func (b *bucket) stopManager(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "\npm2 stop tokenServer, under load. Who gets no answer is let pass, as with pm2-token-bucket, but counted and logged:\n\n")
	_, open, err := b.drive(ctx, w, requests{N: 90, PerSecond: 30}, func() error {
		_, err := b.pm2(ctx, nil, "stop", "tokenServer")
		return err
	})
	if err != nil {
		return err
	}
	if open == 0 {
		return errors.New("nobody was let pass without the server")
	}
	return b.mustLog("clientApp", "allowed without a limit: the connection to the server")
}

// startManager brings the TokenManager back: the bucket is as it was.
func (b *bucket) startManager(ctx context.Context, w io.Writer) error {
	if _, err := b.pm2(ctx, nil, "restart", "tokenServer"); err != nil {
		return err
	}
	// Each instance finds out at its next request.
	err := until(ctx, "the instances ask the server again", func() (bool, error) {
		before, err := b.stats(ctx)
		if err != nil {
			return false, err
		}
		for range instances {
			if _, err := b.get(ctx, "/"); err != nil {
				return false, err
			}
		}
		after, err := b.stats(ctx)
		return err == nil && sum(after).FailedOpen == sum(before).FailedOpen, err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\npm2 restart tokenServer. The bucket was not filled by it:\n\n")
	_, _, err = b.drive(ctx, w, requests{N: 30, Concurrency: 10}, nil)
	return err
}

// reload reloads the application under load.
func (b *bucket) reload(ctx context.Context, w io.Writer) error {
	before, err := b.stats(ctx)
	if err != nil {
		return err
	}
	b.granted = sum(before).Allowed
	fmt.Fprintf(w, "\npm2 reload clientApp, under load. Every request is answered, and the bucket stays as it is:\n\n")
	t, err := b.load(ctx, requests{URL: b.url, N: 150, PerSecond: 30}, func() error {
		_, err := b.pm2(ctx, nil, "reload", "clientApp")
		return err
	})
	if err != nil {
		return err
	}
	t.print(w)
	after, err := b.stats(ctx)
	if err != nil {
		return err
	}
	for i, s := range after {
		if s.PID == before[i].PID {
			return fmt.Errorf("instance %d was not reloaded", i)
		}
	}
	return b.check(w, t.total.passed-sum(after).FailedOpen)
}

// drive sends requests and checks what came of them against what the instances
// counted, and against the bucket. It also returns how many passed as nobody
// answered.
func (b *bucket) drive(ctx context.Context, w io.Writer, r requests, meanwhile func() error) (*tally, int, error) {
	before, err := b.stats(ctx)
	if err != nil {
		return nil, 0, err
	}
	r.URL = b.url
	t, err := b.load(ctx, r, meanwhile)
	if err != nil {
		return nil, 0, err
	}
	t.print(w)
	after, err := b.stats(ctx)
	if err != nil {
		return nil, 0, err
	}
	was, is := sum(before), sum(after)
	open := is.FailedOpen - was.FailedOpen
	if t.total.passed != is.Allowed-was.Allowed+open || t.total.refused != is.Refused-was.Refused {
		return nil, 0, fmt.Errorf("the instances counted otherwise: %+v, before %+v", is, was)
	}
	if open > 0 {
		fmt.Fprintf(w, "\n  %d of these passed without a limit\n", open)
	}
	return t, open, b.check(w, is.Allowed)
}

// check holds what the bucket has granted in all against what it may have. It may
// grant to processes that have ended, too.
func (b *bucket) check(w io.Writer, granted int) error {
	granted += b.granted
	elapsed := time.Since(b.began)
	most := capacity + int(elapsed/oneIn)
	fmt.Fprintf(w, "\n  the bucket has granted %d in %.1f s, and may have granted %d\n", granted, elapsed.Seconds(), most)
	if granted > most {
		return errors.New("it granted too many")
	}
	return nil
}

// stats asks until every instance has said what it counted.
func (b *bucket) stats(ctx context.Context) ([]stats, error) {
	all := make([]stats, instances)
	seen := map[int]bool{}
	err := until(ctx, "every instance answers", func() (bool, error) {
		for range instances {
			body, err := b.get(ctx, "/stats")
			if errors.Is(err, syscall.ECONNREFUSED) {
				return false, nil // none has started yet
			}
			var s stats
			if err == nil {
				err = json.Unmarshal(body, &s)
			}
			if err != nil {
				return false, err
			}
			if s.Instance < 0 || s.Instance >= instances {
				return false, fmt.Errorf("there is an instance %d", s.Instance)
			}
			all[s.Instance] = s
			seen[s.Instance] = true
		}
		return len(seen) == instances, nil
	})
	return all, err
}

func sum(all []stats) (t stats) {
	for _, s := range all {
		t.Allowed += s.Allowed
		t.Refused += s.Refused
		t.FailedOpen += s.FailedOpen
	}
	return t
}

// get asks one instance: each request has a connection of its own, or it would be
// always the same.
func (b *bucket) get(ctx context.Context, path string) ([]byte, error) {
	a, err := stage.Ask(ctx, &http.Transport{DisableKeepAlives: true}, "GET", b.url+path, "", nil)
	return []byte(a.Body), err
}

// mustLog fails unless an application has said something.
func (b *bucket) mustLog(application, what string) error {
	files, err := filepath.Glob(filepath.Join(b.Dir, "pm2", "logs", application+"-error*.log"))
	if err != nil {
		return err
	}
	for _, name := range files {
		said, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if strings.Contains(string(said), what) {
			return nil
		}
	}
	return fmt.Errorf("%s has not logged %q", application, what)
}
