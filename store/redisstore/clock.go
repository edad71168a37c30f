package redisstore

import (
	"sync/atomic"
	"time"
)

// clock is what this process thinks that the servers' clocks show. Nothing is
// decided by it: it chooses which calendar periods go along with a quota.
type clock struct {
	// ahead is how far the servers were ahead when one last answered, in
	// microseconds.
	ahead atomic.Int64
}

// now returns microseconds since the Unix epoch.
func (c *clock) now() int64 { return time.Now().UnixMicro() + c.ahead.Load() }

// drift is how far off the clock may be before it is set, in microseconds.
const drift = 50_000

// note takes the instant of an answer that has just come.
func (c *clock) note(at int64) {
	if off := at - c.now(); off > drift || off < -drift {
		c.ahead.Add(off)
	}
}
