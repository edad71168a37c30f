package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

// connections is how many connections each client keeps busy.
const connections = 16

// client is one client of the site, and the limit that it meets.
type client struct {
	name, path, key, limit string
}

var clients = []client{
	{"an address without a key", "/", "", "views"},
	{"key-alice", "/api/orders", "key-alice", "calls"},
	{"key-bob", "/api/orders", "key-bob", "calls"},
}

// bucket is a limit of the policy.
type bucket struct{ rate, burst int }

// allows returns how many requests may pass in d.
func (b bucket) allows(d time.Duration) int {
	return b.burst + int(float64(b.rate)*d.Seconds())
}

// bucketOf reads the numbers of a limit from the policy file.
func bucketOf(limit string) (bucket, error) {
	policy, err := files.ReadFile("policy.yaml")
	if err != nil {
		return bucket{}, err
	}
	m := regexp.MustCompile(`\{name: ` + limit + `, rate: (\d+)/s, burst: (\d+)\}`).FindSubmatch(policy)
	if m == nil {
		return bucket{}, fmt.Errorf("policy.yaml: no limit of the form {name: %s, rate: N/s, burst: M}", limit)
	}
	rate, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return bucket{}, err
	}
	burst, err := strconv.Atoi(string(m[2]))
	return bucket{rate, burst}, err
}

// outcome is what came of one client's load.
type outcome struct {
	client
	bucket
	// alive is the time from the start of the client to its end, loaded that in
	// which it sent requests, by its own clock, and visited that from the first
	// to the last request that reached the site.
	alive, loaded, visited time.Duration
	// site is how many requests reached the site. The others are the answers
	// that the client read: 200, 429, of any other kind, and none for an error
	// of the connection.
	site, passed, refused, other, failed int
}

// drive lets every client send as many requests as it can for d, all at once.
// They must not have sent any before.
func (s *stack) drive(ctx context.Context, d time.Duration) ([]outcome, error) {
	outcomes := make([]outcome, len(clients))
	err := stage.Each(len(clients), len(clients), func(i int) (err error) {
		outcomes[i], err = s.driveOne(ctx, clients[i], d)
		return err
	})
	return outcomes, err
}

func (s *stack) driveOne(ctx context.Context, c client, d time.Duration) (outcome, error) {
	o := outcome{client: c}
	var err error
	if o.bucket, err = bucketOf(c.limit); err != nil {
		return o, err
	}
	args := []string{"--threads", "1", "--connections", strconv.Itoa(connections), "--timeout", "10s",
		"--duration", strconv.Itoa(int(d/time.Second)) + "s", "--script", filepath.Join(s.Dir, "count.lua")}
	if c.key != "" {
		args = append(args, "--header", "X-Api-Key: "+c.key)
	}
	wrk, err := stage.Find("wrk", packages)
	if err != nil {
		return o, err
	}
	began := time.Now()
	out, err := exec.CommandContext(ctx, wrk, append(args, s.url+c.path)...).CombinedOutput()
	o.alive = time.Since(began)
	if err != nil {
		return o, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	seen := s.site.visits(c.path, c.key)
	o.site, o.visited = seen.n, seen.last.Sub(seen.first)
	var micros int64
	line := out[max(0, bytes.LastIndex(out, []byte("counted "))):]
	if _, err := fmt.Sscanf(string(line), "counted %d %d %d %d %d", &o.passed, &o.refused, &o.other, &o.failed, &micros); err != nil {
		return o, fmt.Errorf("wrk: %w in what it said:\n%s", err, out)
	}
	o.loaded = time.Duration(micros) * time.Microsecond
	return o, nil
}

// check returns an error if not just the right requests passed: more than the
// policy allows in the life of the client, less than 98 % of what it allows
// between the first and the last that passed, or, lest that be a short time
// only, less than 80 % for all the time that the client wanted to pass. On a
// busy machine a client may come late to its last requests.
func (o *outcome) check() error {
	most := o.allows(o.alive)
	least := max(o.allows(o.visited)*98/100, o.allows(o.loaded)*80/100)
	switch {
	case o.other > 0 || o.failed > 0:
		return fmt.Errorf("%s: %d answers were neither 200 nor a 429 with Retry-After and RateLimit, %d requests had none", o.name, o.other, o.failed)
	case o.site > most:
		return fmt.Errorf("%s: %d passed, the policy allows %d", o.name, o.site, most)
	case o.refused == 0:
		return fmt.Errorf("%s: nothing was refused: too little load to tell", o.name)
	case o.site < least:
		return fmt.Errorf("%s: only %d passed, with %d refused: want at least %d", o.name, o.site, o.refused, least)
	case o.passed > o.site || o.passed < o.site-connections:
		// wrk stops without reading the answers that are on their way.
		return fmt.Errorf("%s: the site answered %d requests, the client read %d of the answers", o.name, o.site, o.passed)
	}
	return nil
}

func printTable(w io.Writer, outcomes []outcome) {
	const row = "%-26s %-16s %8s %9s %8s %8s %14s\n"
	fmt.Fprintf(w, row, "client", "limit", "seconds", "requests", "passed", "refused", "policy allows")
	for _, o := range outcomes {
		fmt.Fprintf(w, row, o.name, fmt.Sprintf("%d/s, burst %d", o.rate, o.burst), fmt.Sprintf("%.2f", o.alive.Seconds()),
			strconv.Itoa(o.site+o.refused), strconv.Itoa(o.site), strconv.Itoa(o.refused), strconv.Itoa(o.allows(o.alive)))
	}
}
