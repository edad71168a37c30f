package sqlitestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// lockName is the file in a directory that the process which uses it holds locked.
const lockName = "lock"

// errHeld says that another process holds the lock.
var errHeld = errors.New("held")

// holder is what the file says of the process that holds it.
type holder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// lock keeps other processes out of dir until it is closed or the process ends, in
// whatever way. command says who holds it.
func lock(dir, command string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explainFile(dir, err)
	}
	if err := lockFile(f); err != nil {
		if errors.Is(err, errHeld) {
			err = inUse(dir, f)
		} else {
			err = fmt.Errorf("cannot lock %s: %w", dir, plain(err))
		}
		f.Close()
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	text, err := json.Marshal(holder{PID: os.Getpid(), Host: host, Command: command, Since: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		f.Close()
		return nil, explainFile(dir, err)
	}
	return f, nil
}

// inUse says who holds the lock f.
func inUse(dir string, f *os.File) error {
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	var h holder
	if err != nil || json.Unmarshal(text, &h) != nil || h.PID == 0 {
		return fmt.Errorf("%s is in use by another process: stop it first, or name another --data", dir)
	}
	at := ""
	if host, err := os.Hostname(); err != nil || host != h.Host {
		at = " on host " + h.Host
	}
	return fmt.Errorf("%s is in use by process %d%s (%s) since %s: stop it first, or name another --data", dir, h.PID, at, h.Command, h.Since.Format(time.RFC3339))
}
