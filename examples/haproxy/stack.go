package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

var (
	//go:embed haproxy.cfg
	haproxyConfig []byte
	//go:embed headgate.lua
	script []byte
	//go:embed policy.yaml
	policyFile []byte
)

// stack is the site, Headgate, and HAProxy before both, on free ports of the
// loopback address, with all their files in one temporary directory.
type stack struct {
	binary   string // headgate
	dir      string
	site     *site
	server   *http.Server
	headgate *stage.Process
	haproxy  *stage.Process
	ports    struct{ listen, headgate, site string }
}

// startStack starts everything and waits until it answers.
func startStack(ctx context.Context, headgate string) (_ *stack, err error) {
	s := &stack{binary: headgate, site: &site{passed: make(map[string]int)}}
	defer func() {
		if err != nil {
			s.stop() // what went wrong is in err
		}
	}()
	if s.dir, err = os.MkdirTemp("", "headgate-haproxy-"); err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{"haproxy.cfg": haproxyConfig, "headgate.lua": script, "policy.yaml": policyFile} {
		if err = os.WriteFile(filepath.Join(s.dir, name), data, 0o644); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.ports.site = l.Addr().String()
	s.server = &http.Server{Handler: s.site, ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(l) // ends by Close in stop
	free, err := stage.FreePorts(2)
	if err != nil {
		return nil, err
	}
	s.ports.listen, s.ports.headgate = free[0], free[1]
	if err = s.startHeadgate(ctx); err != nil {
		return nil, err
	}
	return s, s.startHAProxy(ctx)
}

func (s *stack) startHeadgate(ctx context.Context) (err error) {
	s.headgate, err = stage.Start(filepath.Join(s.dir, "headgate.log"),
		s.binary, "serve", "--policy", filepath.Join(s.dir, "policy.yaml"), "--http", s.ports.headgate, "--grpc", "", "--resp", "",
		"--data", filepath.Join(s.dir, "data"))
	if err != nil {
		return err
	}
	return s.headgate.WaitUntil(ctx, func() bool { return stage.OK("http://" + s.ports.headgate + "/readyz") })
}

func (s *stack) startHAProxy(ctx context.Context) error {
	binary, err := stage.Find("haproxy", "haproxy")
	if err != nil {
		return err
	}
	s.haproxy, err = stage.Start(filepath.Join(s.dir, "haproxy.log"),
		"env", "LISTEN="+s.ports.listen, "HEADGATE="+s.ports.headgate, "SITE="+s.ports.site,
		binary, "-db", "-C", s.dir, "-f", "haproxy.cfg")
	if err != nil {
		return err
	}
	return s.haproxy.WaitUntil(ctx, func() bool { return stage.Listens(s.ports.listen) })
}

func (s *stack) stopHAProxy() error {
	err := s.haproxy.Stop()
	// SIGTERM ends HAProxy without a status: that is well.
	if how, ok := errors.AsType[*exec.ExitError](err); ok && how.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil
	}
	return err
}

// stop ends everything that was started and removes the directory.
func (s *stack) stop() error {
	var errs []error
	if s.haproxy != nil {
		errs = append(errs, s.stopHAProxy())
	}
	if s.headgate != nil {
		errs = append(errs, s.headgate.Stop())
	}
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// site is what HAProxy protects. It counts the requests that reach it.
type site struct {
	mu     sync.Mutex
	passed map[string]int // by client
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lines := r.Header["X-Forwarded-For"]
	s.mu.Lock()
	s.passed[lines[len(lines)-1]]++ // what HAProxy adds stands last
	s.mu.Unlock()
	fmt.Fprintf(w, "%s %s, %d bytes\n", r.Method, r.URL.Path, n)
}

// visits returns how many requests of a client reached the site.
func (s *site) visits(client string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed[client]
}
