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
	"strconv"
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
	trust   trust
}

// addServerFlag declares the flags that say which server is asked; the function returns
// it, without a token.
func addServerFlag(cmd *cobra.Command) func() *remote {
	said := cmd.Flags().String("server", "", "`ADDRESS` of the server: URL, HOST:PORT or unix:PATH (default "+defaultServer+") [HEADGATE_SERVER]")
	trust := addTrustFlags(cmd)
	return func() *remote {
		return &remote{address: cmp.Or(*said, os.Getenv("HEADGATE_SERVER"), defaultServer), trust: trust()}
	}
}

// local is whether the server is on this machine.
func (r *remote) local() bool {
	if strings.HasPrefix(r.address, "unix:") {
		return true
	}
	base, _, err := r.dial()
	if err != nil {
		return false
	}
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	return loopbackName(u.Hostname())
}

// loopbackName is whether a host is this machine by its name.
func loopbackName(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// request is what a server is asked.
type request struct {
	method, path string
	body         []byte // nil for none
	kind         string // media type of body; "" for JSON
	match        string // the ETag that is expected, without quotes; "" for any
}

// reply is what a server answered, be it a problem.
type reply struct {
	body []byte
	tag  string // the ETag without its quotes; "" for none
}

// call sends body, nil for none, and returns the answer's body, also that of a
// problem.
func (r *remote) call(ctx context.Context, method, path string, body []byte, within time.Duration) ([]byte, error) {
	got, err := r.send(ctx, &request{method: method, path: path, body: body}, within)
	return got.body, err
}

// send asks the server. The error is a *[serverProblem] where its answer is a problem.
func (r *remote) send(ctx context.Context, q *request, within time.Duration) (got reply, err error) {
	base, client, err := r.dial()
	if err != nil {
		return got, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, base+q.path, bytes.NewReader(q.body))
	if err != nil {
		return got, err
	}
	if q.body != nil {
		req.Header.Set("Content-Type", cmp.Or(q.kind, "application/json"))
	}
	if q.match != "" {
		req.Header.Set("If-Match", strconv.Quote(q.match))
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return got, r.unreachable(err, within)
	}
	defer resp.Body.Close()
	got.tag = strings.Trim(resp.Header.Get("ETag"), `"`)
	if got.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return got, fmt.Errorf("the answer of %s broke off: %w", r.address, err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated {
		return got, nil
	}
	return got, r.refused(resp, got.body)
}

// serverProblem is a problem that a server answered with.
type serverProblem struct {
	Type, Detail string
	Errors       []struct{ Pointer, Detail string }
}

// Error returns the detail, or one line for each fault where there are several.
func (p *serverProblem) Error() string {
	if len(p.Errors) < 2 {
		return plain(p.Detail)
	}
	lines := []string{count(len(p.Errors), "fault")}
	for _, e := range p.Errors {
		where := strings.TrimPrefix(e.Pointer, "/")
		if where != "" {
			where += ": "
		}
		lines = append(lines, plain(where+e.Detail))
	}
	return strings.Join(lines, "\n  ")
}

// refusedAs reports whether a server answered with the problem of that name.
func refusedAs(err error, name string) bool {
	p, ok := errors.AsType[*serverProblem](err)
	return ok && p.Type == "urn:headgate:problem:"+name
}

// refused says what an answer says that is a problem.
func (r *remote) refused(resp *http.Response, body []byte) error {
	var p serverProblem
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(body, &p) != nil {
		if strings.HasPrefix(string(body), "Client sent an HTTP request to an HTTPS server") {
			return fmt.Errorf("%s speaks TLS: say https:// in --server, and who signs its certificate with --ca", r.address)
		}
		return fmt.Errorf("%s answered %s; is it a Headgate server?", r.address, resp.Status)
	}
	if resp.StatusCode == http.StatusNotFound && strings.HasPrefix(p.Detail, "no such route; decisions are at") {
		return fmt.Errorf("no such route: the administration of this server is not at %s, but at another address, which 'headgate serve' was given with --admin (%s by default where others reach --http) and --server names, or it is switched off",
			r.address, adminAddress)
	}
	if refusedAs(&p, "invalid_request") { // it came from the command line
		return usageError{&p}
	}
	return &p
}

// notOurs is the error for an answer that cannot be read.
func notOurs(err error) error {
	return fmt.Errorf("the server's answer is not what Headgate says: %w", err)
}

// dial returns the URL under which to ask and a client that gets there.
func (r *remote) dial() (base string, client *http.Client, err error) {
	server := r.address
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
	client, err = r.trust.client()
	return strings.TrimSuffix(server, "/"), client, err
}

// unreachable says in one sentence what is wrong.
func (r *remote) unreachable(err error, within time.Duration) error {
	why := err
	if e, ok := errors.AsType[*url.Error](err); ok {
		why = e.Err
	}
	dns, dnsSays := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("no server at %s: start one with 'headgate serve', or say where it is with --server", r.address)
	case strings.HasSuffix(why.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS: leave out the https:// of --server", r.address)
	case dnsSays && dns.IsNotFound:
		return fmt.Errorf("there is no host %s: say where the server is with --server", dns.Name)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from %s within %s", r.address, span(within.Milliseconds()))
	}
	return fmt.Errorf("no answer from %s: %w", r.address, why)
}
