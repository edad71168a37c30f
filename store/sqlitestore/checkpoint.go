package sqlitestore

import (
	"sync"
	"time"
)

const (
	// softFrames is how long the write-ahead log may become before it is moved to
	// the database file beside the commits, 20 MiB, and hardFrames, 12 MiB, how much
	// longer before the next commit waits for that. A commit of 8192 states adds
	// less than 20 MiB.
	softFrames = 20 << 20 / (pageBytes + frameHead)
	hardFrames = 12 << 20 / (pageBytes + frameHead)
)

// patience is for how many ms the checkpointer waits for those who read, as commits
// wait for it then. A [journal.Load] takes much less, and a backup much more.
const patience = `pragma busy_timeout = 20`

// checker is the connection that moves the write-ahead log to the database file.
type checker struct {
	mu sync.Mutex
	*conn
	// failing says that the latest move failed.
	failing bool
}

// runCheckpoints moves the log whenever it is long, until the journal quits.
func (j *journal) runCheckpoints() {
	for {
		select {
		case <-j.quit:
			return
		case <-j.wake:
			j.checkpoint(j.soft)
		}
	}
}

// makeRoom waits for the checkpointer if it has fallen behind.
func (j *journal) makeRoom() {
	j.mu.Lock()
	far := j.frames >= j.due+hardFrames
	j.mu.Unlock()
	if far && j.broken.Load() == nil {
		j.checkpoint(j.soft)
	}
}

// checkpoint moves a log of at least that length to the database file, first beside
// the commits, and then what they have added while they wait: else the log would
// never be at an end, and never begin anew.
func (j *journal) checkpoint(least int64) {
	j.checker.mu.Lock()
	defer j.checker.mu.Unlock()
	j.mu.Lock()
	frames := j.frames
	j.mu.Unlock()
	if frames < least {
		return
	}
	start := time.Now()
	_, _, err := j.checker.conn.checkpoint("passive")
	if err == nil {
		j.mu.Lock()
		var done bool
		frames, done, err = j.checker.conn.checkpoint("restart")
		switch {
		case done:
			j.frames, j.due = 0, j.soft
		case err == nil: // somebody reads who began long ago, as a backup does
			j.frames, j.due = frames, frames+j.soft
		}
		j.mu.Unlock()
	}
	j.observe("checkpoint", time.Since(start), kindOf(err))
	j.moved(err)
}

// moved takes down how moving the log has ended. The caller holds j.checker.mu.
func (j *journal) moved(err error) {
	told := j.checker.failing
	j.checker.failing = err != nil
	switch {
	case err == nil:
	case passing(err):
		j.mu.Lock()
		j.due = j.frames + j.soft
		j.mu.Unlock()
		if !told {
			j.log.Warn("sqlitestore: the write-ahead log could not be moved to the database file; later", "dir", j.dir, "error", err)
		}
	default:
		j.breakDown(err)
	}
}
