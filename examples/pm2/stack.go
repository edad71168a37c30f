package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

//go:embed nginx.conf.tmpl
var files embed.FS

// stack is a PM2 of its own with what it runs, and Redis and nginx beside it.
type stack struct {
	*stage.Stack
	example  string // where the applications and their packages are
	headgate string
	env      []string // of PM2, and so of what it runs
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
	if s.Stack, err = stage.NewStack("nginx-light redis-server nodejs npm", files); err != nil {
		return nil, err
	}
	s.env = append(os.Environ(), "PM2_HOME="+filepath.Join(s.Dir, "pm2"), "HEADGATE_BIN="+s.headgate, "SCRATCH="+s.Dir,
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
	files, _ := filepath.Glob(filepath.Join(s.Dir, "pm2", "logs", "*-error*.log")) // the pattern is well-formed
	for _, file := range files {
		said, err := os.ReadFile(file)
		if err == nil && len(said) > 0 {
			fmt.Fprintf(&all, "%s:\n%s\n", filepath.Base(file), said)
		}
	}
	return all.String()
}

// stop ends everything that was started and removes the directory.
func (s *stack) stop() error {
	// Also when the context has ended: PM2 would go on by itself.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.pm2(ctx, nil, "kill")
	return errors.Join(err, s.Stop())
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
