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
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	defaultServer = "http://127.0.0.1:8080"
	// patient is how long a server may take to answer, beside the time that a
	// request may wait in line.
	patient = 10 * time.Second
	// maxAnswer is the largest answer in bytes.
	maxAnswer = 8 << 20
)

// remote is the server that a verb asks.
type remote struct {
	address string // as --server says it
	token   string // "" for none
}

// addServerFlag declares --server; the function returns the address to ask.
func addServerFlag(cmd *cobra.Command) func() string {
	said := cmd.Flags().String("server", "", "`ADDRESS` of the server: URL, HOST:PORT or unix:PATH (default "+defaultServer+") [HEADGATE_SERVER]")
	return func() string { return cmp.Or(*said, os.Getenv("HEADGATE_SERVER"), defaultServer) }
}

// local is whether the server is on this machine.
func (r *remote) local() bool {
	if strings.HasPrefix(r.address, "unix:") {
		return true
	}
	base, _, err := dialer(r.address)
	if err != nil {
		return false
	}
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

// call sends body, nil for none, and returns the answer's body, also that of a
// problem.
func (r *remote) call(ctx context.Context, method, path string, body []byte, within time.Duration) ([]byte, error) {
	base, client, err := dialer(r.address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, r.unreachable(err, within)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the answer of %s broke off: %w", r.address, err)
	}
	if resp.StatusCode == http.StatusOK {
		return got, nil
	}
	return got, r.refused(resp, got)
}

// refused says what an answer says that is a problem.
func (r *remote) refused(resp *http.Response, body []byte) error {
	var problem struct{ Type, Detail string }
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(body, &problem) != nil {
		return fmt.Errorf("%s answered %s; is it a Headgate server?", r.address, resp.Status)
	}
	if resp.StatusCode == http.StatusNotFound && r.token != "" && strings.HasPrefix(problem.Detail, "no such route") {
		return fmt.Errorf("no such route: the administration of this server is not at %s, but at another address, which 'headgate serve' was given with --admin (%s by default where others reach --http) and --server names, or it is switched off",
			r.address, adminAddress)
	}
	err := errors.New(plain(problem.Detail))
	if problem.Type == "urn:headgate:problem:invalid_request" { // it came from the command line
		return usageError{err}
	}
	return err
}

// notOurs is the error for an answer that cannot be read.
func notOurs(err error) error {
	return fmt.Errorf("the server's answer is not what Headgate says: %w", err)
}

// dialer returns the URL under which to ask and a client that gets there.
func dialer(server string) (base string, client *http.Client, err error) {
	if path, ok := strings.CutPrefix(server, "unix:"); ok {
		if path == "" {
			return "", nil, usageError{errors.New("--server unix: needs a path, such as unix:/run/headgate.sock")}
		}
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
func (r *remote) unreachable(err error, within time.Duration) error {
	why := err
	if e, ok := errors.AsType[*url.Error](err); ok {
		why = e.Err
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("no server at %s: start one with 'headgate serve', or say where it is with --server", r.address)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from %s within %s", r.address, span(within.Milliseconds()))
	}
	return fmt.Errorf("no answer from %s: %w", r.address, why)
}
