package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

//go:embed nginx.conf.tmpl
var nginxConf string

//go:embed policy.yaml
var policyFile []byte

// stack is the site, Headgate, and nginx before both, on free ports of the
// loopback address, with all their files in one temporary directory.
type stack struct {
	binary   string // headgate
	dir      string
	url      string // of nginx, without a slash at the end
	site     *site
	server   *http.Server
	headgate *stage.Process
	nginx    *stage.Process
	ports    struct{ Listen, Headgate, Site string }
}

// startStack starts everything and waits until it answers.
func startStack(ctx context.Context, headgate string) (_ *stack, err error) {
	s := &stack{binary: headgate, site: &site{passed: make(map[string]visits)}}
	defer func() {
		if err != nil {
			s.stop() // what went wrong is in err
		}
	}()
	if s.dir, err = os.MkdirTemp("", "headgate-nginx-"); err != nil {
		return nil, err
	}
	// nginx started by root works as another user, who must get at its
	// directories for large bodies.
	if err = os.Chmod(s.dir, 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.ports.Site = l.Addr().String()
	s.server = &http.Server{Handler: s.site, ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(l) // ends by Close in stop
	free, err := stage.FreePorts(2)
	if err != nil {
		return nil, err
	}
	s.ports.Listen, s.ports.Headgate = free[0], free[1]
	s.url = "http://" + s.ports.Listen
	if err = s.writeFiles(); err != nil {
		return nil, err
	}
	if err = s.startHeadgate(ctx); err != nil {
		return nil, err
	}
	return s, s.startNginx(ctx)
}

func (s *stack) writeFiles() error {
	t, err := template.New("nginx.conf").Parse(nginxConf)
	if err != nil {
		return err
	}
	var conf bytes.Buffer
	if err := t.Execute(&conf, s.ports); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "nginx.conf"), conf.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "policy.yaml"), policyFile, 0o644)
}

func (s *stack) startHeadgate(ctx context.Context) (err error) {
	s.headgate, err = stage.Start(filepath.Join(s.dir, "headgate.log"),
		s.binary, "serve", "--policy", filepath.Join(s.dir, "policy.yaml"), "--http", s.ports.Headgate, "--grpc", "", "--resp", "",
		"--data", filepath.Join(s.dir, "data"))
	if err != nil {
		return err
	}
	return s.headgate.WaitUntil(ctx, func() bool { return stage.OK("http://" + s.ports.Headgate + "/readyz") })
}

func (s *stack) startNginx(ctx context.Context) error {
	binary, err := stage.Find("nginx", "nginx-light wrk")
	if err != nil {
		return err
	}
	s.nginx, err = stage.Start(filepath.Join(s.dir, "nginx.log"),
		binary, "-e", "stderr", "-p", s.dir, "-c", filepath.Join(s.dir, "nginx.conf"))
	if err != nil {
		return err
	}
	return s.nginx.WaitUntil(ctx, func() bool { return stage.Listens(s.ports.Listen) })
}

// stop ends everything that was started and removes the directory.
func (s *stack) stop() error {
	var errs []error
	for _, p := range []*stage.Process{s.nginx, s.headgate} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// site is what nginx protects. It counts the requests that reach it.
type site struct {
	mu     sync.Mutex
	passed map[string]visits // by path and key
}

// visits is how often a client reached the site, and when.
type visits struct {
	n           int
	first, last time.Time
}

// ServeHTTP answers /status/N with that status, and says of any other request
// what came of it.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.record(r.URL.Path + " " + r.Header.Get("X-Api-Key"))
	if status, ok := strings.CutPrefix(r.URL.Path, "/status/"); ok {
		n, err := strconv.Atoi(status)
		if err != nil || n < 200 || n > 599 {
			n = http.StatusNotFound
		}
		w.WriteHeader(n)
		fmt.Fprintln(w, "the site's own answer")
		return
	}
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s, %d bytes\n", r.Method, r.URL.Path, n)
}

func (s *site) record(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.passed[client]
	v.last = time.Now()
	if v.n == 0 {
		v.first = v.last
	}
	v.n++
	s.passed[client] = v
}

func (s *site) visits(path, key string) visits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed[path+" "+key]
}
