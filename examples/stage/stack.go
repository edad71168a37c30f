package stage

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

// Stack is programs that run beside us, and sites that we serve, on the loopback
// address, with all their files in one temporary directory.
type Stack struct {
	// Dir is the directory, which goes with [Stack.Stop].
	Dir       string
	packages  string
	sites     []*http.Server
	processes []*Process // in the order in which they were started
}

// NewStack makes the directory, with files in it. The Debian packages contain
// the programs that the stack finds for itself.
func NewStack(packages string, files fs.FS) (*Stack, error) {
	dir, err := os.MkdirTemp("", "headgate-example-")
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Stack{Dir: dir, packages: packages}, nil
}

// Start starts a program and waits until it is ready. What it says goes to the
// file name.log.
func (s *Stack) Start(ctx context.Context, name string, ready func() bool, program string, args ...string) (*Process, error) {
	p, err := Start(filepath.Join(s.Dir, name+".log"), program, args...)
	if err != nil {
		return nil, err
	}
	s.processes = append(s.processes, p)
	return p, p.WaitUntil(ctx, ready)
}

// Headgate starts one that decides by the file policy.yaml, with HTTP as its only
// door, and waits until it is ready. Its state is in the directory name.
func (s *Stack) Headgate(ctx context.Context, binary, name, address string, args ...string) (*Process, error) {
	args = append([]string{"serve", "--policy", filepath.Join(s.Dir, "policy.yaml"), "--http", address, "--grpc", "", "--resp", "",
		"--data", filepath.Join(s.Dir, name)}, args...)
	return s.Start(ctx, name, func() bool { return OK("http://" + address + "/readyz") }, binary, args...)
}

// Redis starts one that keeps nothing, and waits until it listens.
func (s *Stack) Redis(ctx context.Context, address string) (*Process, error) {
	program, err := Find("redis-server", s.packages)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return s.Start(ctx, "redis", func() bool { return Listens(address) },
		program, "--bind", "127.0.0.1", "--port", port, "--dir", s.Dir, "--save", "")
}

// Nginx starts one with the template nginx.conf.tmpl, of which data makes its
// configuration, and waits until it listens at the address.
func (s *Stack) Nginx(ctx context.Context, address string, data any) (*Process, error) {
	program, err := Find("nginx", s.packages)
	if err != nil {
		return nil, err
	}
	// Started by root it works as another user, who must get at its directories
	// for large bodies.
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(s.Dir, "nginx.conf")
	t, err := template.ParseFiles(file + ".tmpl")
	if err != nil {
		return nil, err
	}
	var conf bytes.Buffer
	if err := t.Execute(&conf, data); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, conf.Bytes(), 0o644); err != nil {
		return nil, err
	}
	return s.Start(ctx, "nginx", func() bool { return Listens(address) }, program, "-e", "stderr", "-p", s.Dir, "-c", file)
}

// Serve serves a site, and returns its address.
func (s *Stack) Serve(site http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: site, ReadHeaderTimeout: 10 * time.Second}
	s.sites = append(s.sites, server)
	go server.Serve(l) // ends by Close in Stop
	return l.Addr().String(), nil
}

// Stop ends everything that was started, the last first, and removes the
// directory.
func (s *Stack) Stop() error {
	var errs []error
	for i := range s.processes {
		errs = append(errs, s.processes[len(s.processes)-1-i].Stop())
	}
	for _, site := range s.sites {
		errs = append(errs, site.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}
