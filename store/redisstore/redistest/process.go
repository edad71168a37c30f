package redistest

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/headgate/headgate/internal/servertest"
)

var keep = sync.OnceValues(func() (*servertest.Keeper, error) { return servertest.NewKeeper("redistest-", nil) })

// program is what is started.
func program() (string, error) {
	name := cmp.Or(os.Getenv("REDISTEST_SERVER"), "redis-server")
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: scripts/test-deps.sh installs it", err)
	}
	return path, nil
}

// process is a server program and its configuration.
type process struct {
	*servertest.Process
	args []string // besides the configuration file
}

// newProcess makes a directory.
func newProcess(args []string) (process, error) {
	k, err := keep()
	if err != nil {
		return process{}, err
	}
	p, err := k.NewProcess()
	return process{p, args}, err
}

// configure writes the configuration file redis.conf, with dir.
func (p process) configure(config []string) error {
	config = append([]string{"dir " + strconv.Quote(p.Dir)}, config...)
	return os.WriteFile(p.config(), []byte(strings.Join(config, "\n")+"\n"), 0o600)
}

func (p process) config() string { return filepath.Join(p.Dir, "redis.conf") }

func (p process) start() error {
	path, err := program()
	if err != nil {
		return err
	}
	return p.Start(path, append([]string{p.config()}, p.args...)...)
}
