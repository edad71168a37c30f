package lease

import (
	"sync/atomic"
	"time"
)

// clock is the holder's clock: microseconds that never run slower than real
// time and go on while the machine sleeps, as far as anything can tell. The
// monotonic clock stops then, the wall clock does not, but is set to and fro. So
// it is the monotonic clock, and what the wall clock got ahead of it counts as
// time slept. A wall clock that is set forward makes leases end early, once; one
// that is set back changes nothing.
type clock struct {
	wall   func() int64 // the machine's clock, nil for its real one
	start  time.Time
	origin int64
	anchor atomic.Pointer[anchor]
}

// anchor is the time slept so far, and by how much the wall clock is ahead of the
// monotonic one less that.
type anchor struct{ slept, ahead int64 }

func (c *clock) begin() {
	c.start = time.Now()
	c.origin = c.read(c.start)
	c.anchor.Store(&anchor{})
}

// read returns what the machine's clock shows at t, which is now.
func (c *clock) read(t time.Time) int64 {
	if c.wall != nil {
		return c.wall()
	}
	return t.UnixMicro()
}

// now reads the clock, and beside it the monotonic clock alone, which is not moved
// by how the machine's clock is set: to estimate another clock by it.
func (c *clock) now() (now, mono int64) {
	t := time.Now()
	mono = t.Sub(c.start).Microseconds()
	return c.at(mono, c.read(t)-c.origin), mono
}

// stamp reads the clock to count from it, for one goroutine at a time. Every
// later reading is later by at least the time that has passed.
func (c *clock) stamp() int64 {
	t := time.Now()
	return c.mark(t.Sub(c.start).Microseconds(), c.read(t)-c.origin)
}

func (c *clock) at(mono, wall int64) int64 {
	a := c.anchor.Load()
	return c.origin + mono + max(a.slept, wall-mono-a.ahead)
}

// jitter is by how many microseconds wall and monotonic clock may drift apart
// before that is noted.
const jitter = 1000

func (c *clock) mark(mono, wall int64) int64 {
	a := c.anchor.Load()
	if gap := wall - mono - a.ahead - a.slept; gap > jitter || gap < -jitter {
		slept := a.slept + max(0, gap)
		a = &anchor{slept: slept, ahead: wall - mono - slept}
		c.anchor.Store(a)
	}
	return c.origin + mono + a.slept
}
