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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"
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
	headgate *process
	nginx    *process
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
	if s.ports.Listen, s.ports.Headgate, err = freePorts(); err != nil {
		return nil, err
	}
	s.url = "http://" + s.ports.Listen
	if err = s.writeFiles(); err != nil {
		return nil, err
	}
	if err = s.startHeadgate(ctx); err != nil {
		return nil, err
	}
	return s, s.startNginx(ctx)
}

// freePorts returns two loopback addresses on which nobody listens.
func freePorts() (string, string, error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer a.Close()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer b.Close()
	return a.Addr().String(), b.Addr().String(), nil
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
	s.headgate, err = startProcess(filepath.Join(s.dir, "headgate.log"),
		s.binary, "serve", "--policy", filepath.Join(s.dir, "policy.yaml"), "--http", s.ports.Headgate,
		"--data", filepath.Join(s.dir, "data"))
	if err != nil {
		return err
	}
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	return s.headgate.waitUntil(ctx, func() bool {
		res, err := client.Get("http://" + s.ports.Headgate + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (s *stack) startNginx(ctx context.Context) error {
	binary, err := find("nginx")
	if err != nil {
		return err
	}
	s.nginx, err = startProcess(filepath.Join(s.dir, "nginx.log"),
		binary, "-e", "stderr", "-p", s.dir, "-c", filepath.Join(s.dir, "nginx.conf"))
	if err != nil {
		return err
	}
	// A request would be charged, a connection is not.
	return s.nginx.waitUntil(ctx, func() bool {
		c, err := net.Dial("tcp", s.ports.Listen)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// find returns where a program is. Debian's nginx is in /usr/sbin, which is not
// in the PATH of a plain user.
func find(program string) (string, error) {
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is missing; as root: apt-get update && apt-get install -y --no-install-recommends nginx-light wrk", program)
}

// stop ends everything that was started and removes the directory.
func (s *stack) stop() error {
	var errs []error
	for _, p := range []*process{s.nginx, s.headgate} {
		if p != nil {
			errs = append(errs, p.stop())
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

// process is a server that runs beside us.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // how; to be read after done
}

// startProcess starts a program that writes to the file log.
func startProcess(log, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{cmd: exec.Command(program, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// patience is how long a server may take to start or to stop.
const patience = 10 * time.Second

// waitUntil returns when ready does, with an error if the process ends first or
// it takes too long.
func (p *process) waitUntil(ctx context.Context, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-p.done:
			return p.failed(fmt.Errorf("ended: %w", p.err))
		case <-ctx.Done():
			return p.failed(fmt.Errorf("does not answer: %w", ctx.Err()))
		case <-tick.C:
		}
	}
	return nil
}

// failed adds what the process has said.
func (p *process) failed(err error) error {
	said, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s %w\n%s", filepath.Base(p.cmd.Path), err, bytes.TrimSpace(said))
}

// stop ends the process and waits until it has ended. The error is how it ended
// if it was not well. Stopping it again does nothing.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended already
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
		return p.failed(fmt.Errorf("does not stop within %v", patience))
	}
	if p.err != nil {
		return p.failed(fmt.Errorf("ended: %w", p.err))
	}
	return nil
}
