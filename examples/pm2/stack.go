package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

//go:embed nginx.conf.tmpl
var nginxConf string

const packages = "nginx-light redis-server nodejs npm"

// stack is a PM2 of its own with what it runs, and Redis and nginx beside it, on
// free ports of the loopback address, with all their files in one temporary
// directory.
type stack struct {
	dir       string
	example   string // where the applications and their packages are
	headgate  string
	env       []string         // of PM2, and so of what it runs
	processes []*stage.Process // in the order in which they were started
}

func newStack(ctx context.Context, headgate, example string) (_ *stack, err error) {
	s := new(stack)
	if s.headgate, err = filepath.Abs(headgate); err != nil {
		return nil, err
	}
	if s.example, err = filepath.Abs(example); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.program("pm2")); err != nil {
		return nil, fmt.Errorf("the packages of npm are missing: npm ci in %s and in clients/node: %w", example, err)
	}
	if s.dir, err = os.MkdirTemp("", "headgate-pm2-"); err != nil {
		return nil, err
	}
	// nginx started by root works as another user.
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	s.env = append(os.Environ(), "PM2_HOME="+filepath.Join(s.dir, "pm2"), "HEADGATE_BIN="+s.headgate, "SCRATCH="+s.dir,
		"POLICY="+filepath.Join(s.example, "policy.yaml"))
	// Its start takes a while, in which a port that is free would not stay so.
	if _, err := s.pm2(ctx, nil, "ping"); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// program returns where a program of the packages is.
func (s *stack) program(name string) string {
	return filepath.Join(s.example, "node_modules", ".bin", name)
}

// pm2 runs PM2 with what else its applications shall find in their environment.
func (s *stack) pm2(ctx context.Context, env []string, args ...string) (string, error) {
	return s.node(ctx, env, "pm2", args...)
}

// node runs a program of the packages and returns what it said.
func (s *stack) node(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.program(name), args...)
	cmd.Env = append(s.env, env...)
	cmd.Dir = s.example
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, s.logs())
	}
	return string(out), nil
}

// logs returns what the applications of PM2 have said on stderr.
func (s *stack) logs() string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.dir, "pm2", "logs", "*-error*.log")) // the pattern is well-formed
	for _, file := range files {
		said, err := os.ReadFile(file)
		if err == nil && len(said) > 0 {
			fmt.Fprintf(&all, "%s:\n%s\n", filepath.Base(file), said)
		}
	}
	return all.String()
}

// start starts a program beside PM2 and waits until it is ready.
func (s *stack) start(ctx context.Context, address, program string, args ...string) error {
	p, err := stage.Start(filepath.Join(s.dir, filepath.Base(program)+".log"), program, args...)
	if err != nil {
		return err
	}
	s.processes = append(s.processes, p)
	return p.WaitUntil(ctx, func() bool { return stage.Listens(address) })
}

func (s *stack) startRedis(ctx context.Context, address string) error {
	program, err := stage.Find("redis-server", packages)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	return s.start(ctx, address, program, "--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--save", "")
}

func (s *stack) startNginx(ctx context.Context, address string, shops []string) error {
	program, err := stage.Find("nginx", packages)
	if err != nil {
		return err
	}
	t, err := template.New("nginx.conf").Parse(nginxConf)
	if err != nil {
		return err
	}
	var conf bytes.Buffer
	if err := t.Execute(&conf, map[string]any{"Listen": address, "Shops": shops}); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o644); err != nil {
		return err
	}
	return s.start(ctx, address, program, "-e", "stderr", "-p", s.dir, "-c", file)
}

// stop ends everything that was started, the last first, and removes the
// directory.
func (s *stack) stop() error {
	var errs []error
	for i := range s.processes {
		errs = append(errs, s.processes[len(s.processes)-1-i].Stop())
	}
	// Also when the context has ended: PM2 would go on by itself.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.pm2(ctx, nil, "kill")
	return errors.Join(append(errs, err, os.RemoveAll(s.dir))...)
}

// patience is how long what PM2 runs may take to start, each time, and PM2 to end.
const patience = 20 * time.Second

// until returns when done does, with an error that says what for if that takes too
// long.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %v: %s", patience, what))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
