package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
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
			if f, ok := errors.AsType[*fatalError](err); ok {
				return fmt.Errorf("%s: %w", what, f.error)
			}
		case <-timeout.C:
			return fmt.Errorf("%s: not within %v: %w", what, patience, err)
		}
	}
}

// fatalError says that waiting is of no use.
type fatalError struct{ error }

// keeper is a shell whose process group the servers are in. When this process
// ends, the shell removes their files and kills the group.
type keeper struct {
	dir   string
	group int
	alive io.WriteCloser // kept open
	owner *syscall.Credential
}

var keep = sync.OnceValues(func() (*keeper, error) {
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		return nil, err
	}
	k := &keeper{dir: dir}
	if os.Getuid() == 0 {
		if k.owner, err = postgres(dir); err != nil {
			return nil, err
		}
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
})

// postgres returns the user that servers run as, and gives dir to it.
func postgres(dir string) (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w: Debian's package postgresql has it", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
}

// program returns the path of one of PostgreSQL's programs.
func program(name string) (string, error) {
	if dir := os.Getenv("PGTEST_BIN"); dir != "" {
		return filepath.Join(dir, name), nil
	}
	found, newest := "", 0
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil {
		return "", err
	}
	for _, path := range dirs {
		if n, err := strconv.Atoi(strings.Split(path, "/")[4]); err == nil && n > newest {
			found, newest = path, n
		}
	}
	if found == "" {
		return "", fmt.Errorf("no %s under /usr/lib/postgresql: Debian's package postgresql has it", name)
	}
	return found, nil
}

// process is a running server program with its directory.
type process struct {
	dir   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the program has ended
}

// newProcess makes a directory with an empty database cluster. With a password
// the user postgres needs it.
func newProcess(password string) (*process, error) {
	k, err := keep()
	if err != nil {
		return nil, err
	}
	path, err := program("initdb")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(k.dir, "")
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir}
	args := []string{"-D", p.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"}
	if password == "" {
		args = append(args, "-A", "trust")
	} else {
		file := filepath.Join(dir, "password")
		if err := os.WriteFile(file, []byte(password+"\n"), 0o644); err != nil {
			return nil, err
		}
		args = append(args, "-A", "scram-sha-256", "--pwfile", file)
	}
	if k.owner != nil {
		if err := os.Chown(dir, int(k.owner.Uid), int(k.owner.Gid)); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: k.owner, Setpgid: true, Pgid: k.group}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w:\n%s", err, out)
	}
	return p, nil
}

func (p *process) data() string { return filepath.Join(p.dir, "data") }

func (p *process) log() string { return filepath.Join(p.dir, "log") }

// start starts the server with settings.
func (p *process) start(settings []string) error {
	k, err := keep()
	if err != nil {
		return err
	}
	path, err := program("postgres")
	if err != nil {
		return err
	}
	log, err := os.Create(p.log())
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", p.data()}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.dir, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: k.owner, Setpgid: true, Pgid: k.group}
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

// signal sends a signal to the server and then to its children, while it can make no
// more, and returns their ids.
func (p *process) signal(sig syscall.Signal) ([]int, error) {
	server := p.cmd.Process.Pid
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	if err := await("stop the server", func() error { return standing(server) }); err != nil {
		return nil, err
	}
	children := childrenOf(server)
	for _, pid := range children {
		_ = syscall.Kill(pid, sig) // it may just have ended
	}
	return children, p.cmd.Process.Signal(sig)
}

// standing returns nil if a process stands still.
func standing(pid int) error {
	if state, _ := stat(pid); state != "T" && state != "Z" && state != "" {
		return fmt.Errorf("the state of %d is %s", pid, state)
	}
	return nil
}

// stat returns the state of a process, "" if there is none, and its parent.
func stat(pid int) (state string, parent int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// "pid (name) state parent ..."
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	parent, _ = strconv.Atoi(string(fields[1]))
	return string(fields[0]), parent
}

func childrenOf(server int) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if _, parent := stat(pid); parent == server {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// kill ends the program and its children at once, and waits for that.
func (p *process) kill() error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	children, err := p.signal(syscall.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return await("end the server", func() error {
		for _, pid := range children {
			if state, _ := stat(pid); state != "" && state != "Z" {
				return fmt.Errorf("%d is %s", pid, state)
			}
		}
		return nil
	})
}

func (p *process) remove() {
	if p.cmd != nil {
		_ = p.kill() // the keeper comes after us
	}
	_ = os.RemoveAll(p.dir)
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
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}
