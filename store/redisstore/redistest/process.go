package redistest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long anything may take that a test waits for: much, because
// tests share the machine.
const patience = 30 * time.Second

// await calls done until it returns nil, and fails with its last error when
// patience is over.
func await(what string, done func() error) error {
	err := done()
	if err == nil {
		return nil
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err = done(); err == nil {
				return nil
			}
			if final, ok := errors.AsType[*fatalError](err); ok {
				return fmt.Errorf("%s: %w", what, final.error)
			}
		case <-timeout.C:
			return fmt.Errorf("%s: not within %v: %w", what, patience, err)
		}
	}
}

// fatalError ends await.
type fatalError struct{ error }

// keeper is a shell that ends the servers of this process when the process ends.
type keeper struct {
	dir   string    // of all servers
	group int       // process group of all servers
	alive io.Closer // its end is the shell's signal
}

var keep = sync.OnceValues(func() (*keeper, error) {
	dir, err := os.MkdirTemp("", "redistest-")
	if err != nil {
		return nil, err
	}
	// A group that is left by its parent while a server is paused gets a hang-up.
	cmd := exec.Command("sh", "-c", `trap "" HUP; cat >/dev/null; rm -rf -- "$1"; kill -9 0`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &keeper{dir: dir, group: cmd.Process.Pid, alive: alive}, nil
})

// program is what is started.
func program() (string, error) {
	name := cmp.Or(os.Getenv("REDISTEST_SERVER"), "redis-server")
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: scripts/test-deps.sh installs it", err)
	}
	return path, nil
}

// process is a running server program with its directory.
type process struct {
	dir   string
	args  []string // besides the configuration file
	cmd   *exec.Cmd
	ended chan struct{} // closed when the program has ended
}

// newProcess makes a directory.
func newProcess(args []string) (*process, error) {
	k, err := keep()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(k.dir, "")
	if err != nil {
		return nil, err
	}
	return &process{dir: dir, args: args}, nil
}

// configure writes the configuration file redis.conf, with dir and logfile.
func (p *process) configure(config []string) error {
	config = append([]string{"dir " + strconv.Quote(p.dir), "logfile " + strconv.Quote(p.log())}, config...)
	return os.WriteFile(filepath.Join(p.dir, "redis.conf"), []byte(strings.Join(config, "\n")+"\n"), 0o600)
}

func (p *process) log() string { return filepath.Join(p.dir, "log") }

func (p *process) start() error {
	k, err := keep()
	if err != nil {
		return err
	}
	path, err := program()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(path, append([]string{filepath.Join(p.dir, "redis.conf")}, p.args...)...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: k.group}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}(p.cmd)
	return nil
}

// errPort says that somebody else has the port.
var errPort = errors.New("the port is taken")

// running returns why the program has ended, or nil.
func (p *process) running() error {
	select {
	case <-p.ended:
		tail := p.tail()
		if strings.Contains(tail, "Address already in use") {
			return &fatalError{errPort}
		}
		return &fatalError{fmt.Errorf("the server has ended:\n%s", tail)}
	default:
		return nil
	}
}

// tail returns the end of the log.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
}

// kill ends the program, stopped or not, and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails where it has ended
	<-p.ended
}

// stop halts the program and waits until it stands still, as far as the system
// tells.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return await("pause the server", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if errors.Is(err, os.ErrNotExist) {
			return nil // no such system
		}
		if err != nil {
			return err
		}
		// "pid (name) state ..."
		if _, rest, _ := bytes.Cut(stat, []byte(") ")); !bytes.HasPrefix(rest, []byte("T")) {
			return fmt.Errorf("its state is %.1s", rest)
		}
		return nil
	})
}

func (p *process) resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *process) remove() {
	if p.cmd != nil {
		p.kill()
	}
	_ = os.RemoveAll(p.dir) // the keeper comes after us
}

// firstPort to lastPort are the ports that servers get: outgoing connections
// get higher ones.
const firstPort, lastPort = 10_000, 32_000

// freePort returns a port on which nobody listens. Somebody may before it is
// used.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		var l net.Listener
		if l, err = net.Listen("tcp", address(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// startAt starts what launch configures for free ports, and tries others where
// somebody was faster.
func startAt(launch func() error) error {
	var err error
	for range 10 {
		if err = launch(); !errors.Is(err, errPort) {
			return err
		}
	}
	return err
}
