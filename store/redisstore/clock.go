package redisstore

import (
	"sync/atomic"
	"time"
)

// clock is what this process thinks that the servers' clocks show. Nothing is
// decided by it: it chooses which calendar periods go along with a quota. It runs
// by the time that has passed since the start, so that it does not matter how the
// machine's clock is set.
type clock struct {
	// process is the process's clock, in microseconds since the Unix epoch.
	process func() int64
	// ahead is how far the servers were ahead of it when one last answered, in
	// microseconds.
	ahead atomic.Int64
}

func (c *clock) begin() {
	start := time.Now()
	origin := start.UnixMicro()
	c.process = func() int64 { return origin + time.Since(start).Microseconds() }
}

// now returns microseconds since the Unix epoch.
func (c *clock) now() int64 { return c.process() + c.ahead.Load() }

// drift is how far off the clock may be before it is set, in microseconds.
const drift = 50_000

// note takes the instant of an answer that has just come.
func (c *clock) note(at int64) {
	ahead := at - c.process()
	if off := ahead - c.ahead.Load(); off > drift || off < -drift {
		c.ahead.Store(ahead)
	}
}
