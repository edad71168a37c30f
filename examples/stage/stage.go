// Package stage is what the examples run on: programs beside them, and clients.
package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// FreePorts returns n loopback addresses on which nobody listens.
func FreePorts(n int) ([]string, error) {
	free := make([]string, n)
	for i := range free {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before all are found, or two may be one
		free[i] = l.Addr().String()
	}
	return free, nil
}

// Find returns where a program is, which the Debian packages contain. Debian's
// nginx is in /usr/sbin, which is not in the PATH of a plain user.
func Find(program, packages string) (string, error) {
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is missing; as root: apt-get update && apt-get install -y --no-install-recommends %s", program, packages)
}

// Process is a server that runs beside us.
type Process struct {
	// BySignal says that SIGTERM ends it without a status, and that this is well.
	BySignal bool

	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // how; to be read after done
}

// Start starts a program that writes to the file log.
func Start(log, program string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &Process{cmd: exec.Command(program, args...), log: log, done: make(chan struct{})}
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

// Pause halts the process, and returns when its last thread has halted.
func (p *Process) Pause() error {
	pid := p.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	_, err := syscall.Wait4(pid, nil, syscall.WUNTRACED, nil)
	return err
}

// Resume lets a paused process go on. It does nothing to another.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// OK reports whether a GET of url is answered with 200.
func OK(url string) bool {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Get(url)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Listens reports whether somebody listens at a TCP address. A request might be
// charged, a connection is not.
func Listens(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// patience is how long a server may take to start or to stop.
const patience = 10 * time.Second

// WaitUntil returns when ready does, with an error if the process ends first or
// it takes too long.
func (p *Process) WaitUntil(ctx context.Context, ready func() bool) error {
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
func (p *Process) failed(err error) error {
	said, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s %w\n%s", filepath.Base(p.cmd.Path), err, bytes.TrimSpace(said))
}

// Stop ends the process, also a paused one, and waits until it has ended. The
// error is how it ended if it was not well. Stopping it again does nothing.
func (p *Process) Stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended already
	p.Resume()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
		return p.failed(fmt.Errorf("does not stop within %v", patience))
	}
	how, ok := errors.AsType[*exec.ExitError](p.err)
	if p.err == nil || p.BySignal && ok && how.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil
	}
	return p.failed(fmt.Errorf("ended: %w", p.err))
}
