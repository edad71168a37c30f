package pgtest

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/headgate/headgate/internal/servertest"
)

var keep = sync.OnceValues(func() (*servertest.Keeper, error) {
	if os.Getuid() != 0 {
		return servertest.NewKeeper("pgtest-", nil)
	}
	owner, err := postgres()
	if err != nil {
		return nil, err
	}
	return servertest.NewKeeper("pgtest-", owner)
})

// postgres returns the user that servers run as.
func postgres() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w: Debian's package postgresql has it", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
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

// process is a server program and its database cluster.
type process struct{ *servertest.Process }

// newProcess makes a directory.
func newProcess() (p process, err error) {
	k, err := keep()
	if err != nil {
		return p, err
	}
	p.Process, err = k.NewProcess()
	return p, err
}

// init makes an empty database cluster. With a password the user postgres needs it.
func (p process) init(password string) error {
	path, err := program("initdb")
	if err != nil {
		return err
	}
	args := []string{"-D", p.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"}
	if password == "" {
		args = append(args, "-A", "trust")
	} else {
		file := filepath.Join(p.Dir, "password")
		if err := os.WriteFile(file, []byte(password+"\n"), 0o644); err != nil {
			return err
		}
		args = append(args, "-A", "scram-sha-256", "--pwfile", file)
	}
	return p.Run(path, args...)
}

// put writes files into the cluster's directory, which nobody but the server reads.
func (p process) put(files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(p.data(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
		if os.Getuid() != 0 {
			continue
		}
		owner, err := postgres()
		if err != nil {
			return err
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return nil
}

func (p process) data() string { return filepath.Join(p.Dir, "data") }

// start starts the server with settings.
func (p process) start(settings []string) error {
	path, err := program("postgres")
	if err != nil {
		return err
	}
	args := []string{"-D", p.data()}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return p.Start(path, args...)
}
