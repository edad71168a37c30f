// Package servertest runs real servers for tests: each in a directory of its own,
// on free ports of the loopback address. However the process ends, its servers end
// and their files go: a shell that reads from a pipe of the process sees to that.
package servertest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Patience is how long anything may take that a test waits for: much, because
// tests share the machine.
const Patience = 30 * time.Second

// Await calls done until it returns nil, and fails with its last error when
// Patience is over, or at once with one that [Final] made.
func Await(what string, done func() error) error {
	err := done()
	if err == nil {
		return nil
	}
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err = done(); err == nil {
				return nil
			}
			if f, ok := errors.AsType[*final](err); ok {
				return fmt.Errorf("%s: %w", what, f.error)
			}
		case <-timeout.C:
			return fmt.Errorf("%s: not within %v: %w", what, Patience, err)
		}
	}
}

type final struct{ error }

// Final returns err as one that ends [Await].
func Final(err error) error { return &final{err} }

// Keeper keeps the servers of one process: it is a shell whose process group they
// are in.
type Keeper struct {
	dir   string
	group int
	alive io.Closer // its end is the shell's signal
	owner *syscall.Credential
}

// NewKeeper makes a directory for servers whose name begins with prefix. They run as
// owner; nil means as this process.
func NewKeeper(prefix string, owner *syscall.Credential) (*Keeper, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	k := &Keeper{dir: dir, owner: owner}
	if err := k.give(dir); err != nil {
		return nil, err
	}
	// A group that is left by its parent while a server is paused gets a hang-up.
	cmd := exec.Command("sh", "-c", `trap "" HUP; cat >/dev/null; rm -rf -- "$1"; kill -9 0`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if k.alive, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	k.group = cmd.Process.Pid
	return k, nil
}

// give makes a directory the owner's.
func (k *Keeper) give(dir string) error {
	if k.owner == nil {
		return nil
	}
	return os.Chown(dir, int(k.owner.Uid), int(k.owner.Gid))
}

// attributes are those of every program.
func (k *Keeper) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: k.owner, Setpgid: true, Pgid: k.group}
}

// firstPort to lastPort are the ports that servers get: outgoing connections
// get higher ones.
const firstPort, lastPort = 10_000, 32_000

// FreePort returns a port on which nobody listens. Somebody may before it is
// used: see [StartAt].
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		var l net.Listener
		if l, err = net.Listen("tcp", Address(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// Address returns the address of a port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// StartAt starts what launch configures for free ports, and tries others where
// somebody was faster.
func StartAt(launch func() error) error {
	var err error
	for range 10 {
		if err = launch(); !errors.Is(err, ErrPort) {
			return err
		}
	}
	return err
}
