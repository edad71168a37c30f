package servertest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is a server program with its directory.
type Process struct {
	// Dir is the directory, which goes with [Process.Remove].
	Dir    string
	keeper *Keeper
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the program has ended
}

// NewProcess makes a directory for a program.
func (k *Keeper) NewProcess() (*Process, error) {
	dir, err := os.MkdirTemp(k.dir, "")
	if err != nil {
		return nil, err
	}
	return &Process{Dir: dir, keeper: k}, k.give(dir)
}

// Log is the file that the program's output goes to, anew with each start.
func (p *Process) Log() string { return filepath.Join(p.Dir, "log") }

// Run runs a program to its end.
func (p *Process) Run(path string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.SysProcAttr = p.Dir, p.keeper.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w:\n%s", filepath.Base(path), err, out)
	}
	return nil
}

// Start starts the program, which must not be running.
func (p *Process) Start(path string, args ...string) error {
	log, err := os.Create(p.Log())
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = p.Dir, log, log, p.keeper.attributes()
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

// Pid returns the program's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// ErrPort says that somebody else has the port.
var ErrPort = errors.New("the port is taken")

// Running returns why the program has ended, or nil. The error ends [Await].
func (p *Process) Running() error {
	select {
	case <-p.ended:
		tail := p.Tail()
		if strings.Contains(tail, "Address already in use") {
			return Final(ErrPort)
		}
		return Final(fmt.Errorf("the server has ended:\n%s", tail))
	default:
		return nil
	}
}

// Tail returns the end of the log.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.Log())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
}

// Pause halts the program and its children, and waits until they stand still, as
// far as the system tells.
func (p *Process) Pause() error {
	children, err := p.signal(syscall.SIGSTOP)
	if err != nil {
		return err
	}
	return each("pause", children, standing)
}

// Resume lets a paused program and its children go on.
func (p *Process) Resume() error {
	_, err := p.signal(syscall.SIGCONT)
	return err
}

// Kill ends the program and its children at once, paused or not, and waits for
// that.
func (p *Process) Kill() error {
	children, err := p.signal(syscall.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return each("end", children, func(pid int) error {
		if state, _ := stat(pid); state != "" && state != "Z" {
			return fmt.Errorf("%d is %s", pid, state)
		}
		return nil
	})
}

// Remove ends the program and removes its directory.
func (p *Process) Remove() {
	if p.cmd != nil {
		_ = p.Kill() // the keeper comes after us
	}
	_ = os.RemoveAll(p.Dir)
}

// each waits until done returns nil for each of the processes.
func each(what string, pids []int, done func(pid int) error) error {
	for _, pid := range pids {
		if err := Await(what+" the server", func() error { return done(pid) }); err != nil {
			return err
		}
	}
	return nil
}

// signal sends a signal to the program and then to its children, while it can make
// no more, and returns their ids.
func (p *Process) signal(sig syscall.Signal) ([]int, error) {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	if err := each("pause", []int{p.Pid()}, standing); err != nil {
		return nil, err
	}
	children := childrenOf(p.Pid())
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
