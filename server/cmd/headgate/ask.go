package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
)

const defaultServer = "http://127.0.0.1:8080"

// outcome is how a verb names the two answers.
type outcome struct{ allowed, denied string }

// question is the body of /v1/take and /v1/peek.
type question struct {
	Application string `json:"application"`
	Operation   string `json:"operation"`
	Subject     string `json:"subject"`
	Cost        *int64 `json:"cost,omitempty"`
}

// askCommand completes the verbs that ask a server at path.
func askCommand(cmd *cobra.Command, path string, words outcome) *cobra.Command {
	var server string
	var asJSON bool
	cmd.Flags().StringVar(&server, "server", "", "address of the server: URL, HOST:PORT or unix:PATH (HEADGATE_SERVER; default "+defaultServer+")")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's answer as it is")
	cmd.Args = args(cobra.RangeArgs(3, 4))
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		// -1 reads as a flag named 1.
		if e, ok := errors.AsType[interface {
			error
			GetSpecifiedShortnames() string
		}](err); ok {
			if _, number := strconv.ParseFloat(e.GetSpecifiedShortnames(), 64); number == nil {
				return badCost("-" + e.GetSpecifiedShortnames())
			}
		}
		return usageError{err}
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := question{Application: args[0], Operation: args[1], Subject: args[2]}
		if len(args) == 4 {
			cost, err := strconv.ParseUint(args[3], 10, 64)
			if err != nil || cost > headgate.MaxInt {
				return badCost(args[3])
			}
			q.Cost = new(int64(cost))
		}
		body, err := ask(cmd.Context(), cmp.Or(server, os.Getenv("HEADGATE_SERVER"), defaultServer), path, &q)
		if asJSON && len(body) > 0 {
			cmd.OutOrStdout().Write(body)
		}
		if err != nil {
			return err
		}
		var a answer
		if err := json.Unmarshal(body, &a); err != nil {
			return fmt.Errorf("the server's answer is not what Headgate says: %w", err)
		}
		if !asJSON {
			a.print(cmd.OutOrStdout(), words, time.Now())
		}
		if !a.Allowed {
			return errDenied
		}
		return nil
	}
	return cmd
}

func badCost(cost string) error {
	return usageError{fmt.Errorf("COST %q: must be a whole number of 0 to %d", cost, int64(headgate.MaxInt))}
}

// ask posts q and returns the answer's body, also that of a problem.
func ask(ctx context.Context, server, path string, q *question) ([]byte, error) {
	base, client, err := dialer(server)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, unreachable(server, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("the answer of %s broke off: %w", server, err)
	}
	if resp.StatusCode == http.StatusOK {
		return got, nil
	}
	var problem struct{ Detail string }
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(got, &problem) != nil {
		return nil, fmt.Errorf("%s answered %s; is it a Headgate server?", server, resp.Status)
	}
	return got, errors.New(problem.Detail)
}

// dialer returns the URL under which to ask and a client that gets there.
func dialer(server string) (base string, client *http.Client, err error) {
	if path, ok := strings.CutPrefix(server, "unix:"); ok {
		return "http://localhost", &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
		}}, nil
	}
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", nil, usageError{fmt.Errorf("--server %q: must be a URL such as %s, HOST:PORT or unix:PATH", server, defaultServer)}
	}
	return strings.TrimSuffix(server, "/"), http.DefaultClient, nil
}

// unreachable says in one sentence what is wrong.
func unreachable(server string, err error) error {
	why := err
	if e, ok := errors.AsType[*url.Error](err); ok {
		why = e.Err
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("no server at %s: start one with 'headgate serve', or say where it is with --server", server)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from %s within 10 s", server)
	}
	return fmt.Errorf("no answer from %s: %w", server, why)
}
