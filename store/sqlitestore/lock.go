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

// hold keeps other processes out of a directory.
type hold struct {
	// file is locked and says who holds it, dir is locked as well: file may be removed
	// by somebody who takes it for left over. The database itself is not locked, as
	// closing a file takes SQLite's own locks off it.
	file, dir *os.File
}

// Close gives the directory back.
func (h *hold) Close() error { return errors.Join(h.dir.Close(), h.file.Close()) }

// lock keeps other processes out of dir until it is closed or the process ends, in
// whatever way. command says who holds it.
func lock(dir, command string) (_ *hold, err error) {
	h := new(hold)
	if h.file, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, explainFile(dir, err)
	}
	if h.dir, err = os.Open(dir); err != nil {
		h.file.Close()
		return nil, explainFile(dir, err)
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if err := lockFile(h.file); err != nil {
		return nil, notLocked(dir, err, inUse(dir, h.file))
	}
	if err := lockFile(h.dir); err != nil {
		return nil, notLocked(dir, err, fmt.Errorf("%s is in use by another process, though its file %s, which would say by which, was removed or replaced: 'fuser -v %s' tells; stop that first, or name another --data",
			dir, lockName, dir))
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	text, err := json.Marshal(holder{PID: os.Getpid(), Host: host, Command: command, Since: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		err = h.file.Truncate(0)
	}
	if err == nil {
		_, err = h.file.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		return nil, explainFile(dir, err)
	}
	return h, nil
}

// notLocked returns held if err says that another process has the lock.
func notLocked(dir string, err, held error) error {
	if errors.Is(err, errHeld) {
		return held
	}
	return fmt.Errorf("cannot lock %s: %w", dir, plain(err))
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
