package sqlitestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// watchEvery is how often the directory is looked for. What is written after it went
// away is lost with it.
const watchEvery = time.Second

// runWatch looks for the directory until the journal quits.
func (j *journal) runWatch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.quit:
			return
		case <-tick.C:
			j.watch()
		}
	}
}

// watch makes all later commits fail if the directory, or the database in it, is not
// the one that the journal has open: what it writes would not be found by the next
// start.
func (j *journal) watch() {
	what := j.lost()
	if what == "" {
		return
	}
	why := what + " while the process ran, and nothing is kept any more: end the process, put back what was there or restore a backup, and start it again; without either, it begins anew with every limit full"
	if j.broken.CompareAndSwap(nil, &why) {
		j.log.Error("sqlitestore: limits cannot be kept any more: "+why, "dir", j.dir)
	}
}

// lost says what became of the directory, "" if it is there, or if that cannot be
// found out.
func (j *journal) lost() string {
	was, err := j.held.dir.Stat()
	if err != nil {
		return ""
	}
	switch is, err := os.Stat(j.dir); {
	case notThere(err):
		return fmt.Sprintf("the data directory %s was removed or moved away", j.dir)
	case err != nil:
		return ""
	case !os.SameFile(was, is):
		return fmt.Sprintf("the data directory %s was replaced", j.dir)
	}
	file := fileOf(j.dir)
	j.mu.Lock()
	known := j.meta.inode
	j.mu.Unlock()
	switch is, err := os.Stat(file); {
	case notThere(err):
		return fmt.Sprintf("%s was removed or moved away", file)
	case err != nil || known == 0 || inode(is) == known:
		return ""
	}
	return fmt.Sprintf("%s was replaced", file)
}

// notThere reports whether an error says that there is no such file.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
