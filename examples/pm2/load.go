package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// requests is what loadtest is told to send: so many, by so many clients, or so
// many in a second.
type requests struct {
	URL         string            `json:"url"`
	N           int               `json:"maxRequests"`
	Concurrency int               `json:"concurrency,omitempty"`
	PerSecond   int               `json:"requestsPerSecond,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
}

// tally counts answers by instance, and in all.
type tally struct {
	by    map[string]counts
	total counts
}

type counts struct{ passed, refused int }

// load sends requests by loadtest, and calls meanwhile, if it is not nil, when the
// first have been answered. A request without an answer, or with another than 200,
// 429 and 503, is an error.
func (s *stack) load(ctx context.Context, r requests, meanwhile func() error) (*tally, error) {
	what, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "node", filepath.Join(s.example, "load.mjs"), string(what))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var last string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); last == "begun" && meanwhile != nil {
			err = meanwhile()
		}
	}
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	return readTally(last)
}

func readTally(said string) (*tally, error) {
	answers := map[string]int{}
	if err := json.Unmarshal([]byte(said), &answers); err != nil {
		return nil, fmt.Errorf("load.mjs: %w: %s", err, said)
	}
	t := &tally{by: map[string]counts{}}
	for answer, n := range answers {
		status, instance, _ := strings.Cut(answer, " ")
		c := t.by[instance]
		switch status {
		case strconv.Itoa(http.StatusOK):
			c.passed += n
			t.total.passed += n
		case strconv.Itoa(http.StatusTooManyRequests), strconv.Itoa(http.StatusServiceUnavailable):
			c.refused += n
			t.total.refused += n
		default:
			return nil, fmt.Errorf("%d requests were answered %q (0: not at all)", n, answer)
		}
		t.by[instance] = c
	}
	return t, nil
}

func (t *tally) print(w io.Writer) {
	fmt.Fprintf(w, "  %-12s %7s %8s\n", "", "passed", "refused")
	for _, name := range slices.Sorted(maps.Keys(t.by)) {
		fmt.Fprintf(w, "  instance %-3s %7d %8d\n", name, t.by[name].passed, t.by[name].refused)
	}
	fmt.Fprintf(w, "  %-12s %7d %8d\n", "all", t.total.passed, t.total.refused)
}
