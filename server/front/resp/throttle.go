package resp

import (
	"time"

	"github.com/headgate/headgate"
)

// cellUsage is what redis-cell says.
const cellUsage = "error: Usage: cl.throttle <key> <max_burst> <count per period> <period> [<quantity>]"

// numbers reads the arguments from the third on, which are whole numbers, and
// returns the first that is none, or "".
func (w *work) numbers(into *[4]int64) (wrong string, ok bool) {
	for i, a := range w.args[2:] {
		n, ok := integer(a)
		if !ok {
			return a, false
		}
		into[i] = n
	}
	return "", true
}

// clThrottle is redis-cell's command.
func (c *conn) clThrottle(w *work) {
	if len(w.args) < 5 || len(w.args) > 6 {
		w.out = appendError(w.out, "Cell", cellUsage)
		return
	}
	n := [4]int64{3: 1}
	wrong, ok := w.numbers(&n)
	switch burst, count, period, quantity := n[0], n[1], n[2], n[3]; {
	case !ok:
		w.out = appendError(w.out, "Cell", "error: Couldn't parse as integer: "+wrong)
	case count == 0 || period == 0:
		w.out = appendError(w.out, "Cell", "error: Zero rates are not supported")
	case burst < 0 || count < 0 || period < 0 || quantity < 0:
		w.out = appendError(w.out, "Cell", "error: max_burst, count, period and quantity must not be negative")
	default:
		c.bucket(w, count, period, time.Second, burst+1, quantity)
		w.throttle.Peek = quantity == 0
		if began, err := c.throttles(w); err != nil {
			w.out = appendError(w.out, "Cell", "error: "+c.told(err))
		} else {
			w.out = appendCell(w.out, w)
			c.throttled(w, began)
		}
	}
}

// appendCell appends limited, limit, remaining, seconds to a retry, seconds to a
// reset.
func appendCell(b []byte, w *work) []byte {
	d := &w.d
	b = append(b, "*5\r\n"...)
	b = appendIs(b, !d.Allowed)
	b = appendInt(b, w.throttle.Burst)
	b = appendInt(b, d.Remaining)
	if d.Allowed || !d.Retryable {
		b = append(b, ":-1\r\n"...)
	} else {
		b = appendInt(b, seconds(d.RetryAfter))
	}
	return appendInt(b, seconds(d.ResetAfter))
}

// crabThrottle is throttlecrab's command.
func (c *conn) crabThrottle(w *work) {
	n := [4]int64{3: 1}
	wrong, ok := w.numbers(&n)
	switch burst, count, period, quantity := n[0], n[1], n[2], n[3]; {
	case !ok:
		w.out = c.fail(w.out, invalid("", "%.64q: must be a whole number", wrong))
	case burst < 1:
		w.out = c.fail(w.out, invalid("max_burst", "%d: must be at least 1", burst))
	case count < 1 || period < 1:
		w.out = c.fail(w.out, invalid("rate", "%d per %d s: both must be at least 1", count, period))
	case quantity < 0:
		w.out = c.fail(w.out, invalid("quantity", "%d: must not be negative", quantity))
	default:
		c.bucket(w, count, period, time.Second, burst, quantity)
		w.throttle.Peek = quantity == 0
		if began, err := c.throttles(w); err != nil {
			w.out = c.fail(w.out, err)
		} else {
			w.out = appendCrab(w.out, w)
			c.throttled(w, began)
		}
	}
}

// appendCrab appends allowed, limit, remaining, seconds to a reset, seconds to a
// retry.
func appendCrab(b []byte, w *work) []byte {
	d := &w.d
	b = append(b, "*5\r\n"...)
	b = appendIs(b, d.Allowed)
	b = appendInt(b, w.throttle.Burst)
	b = appendInt(b, d.Remaining)
	b = appendInt(b, seconds(d.ResetAfter))
	return appendInt(b, seconds(d.RetryAfter))
}

// hgThrottle is our own: its period is in milliseconds, its reply a decision.
func (c *conn) hgThrottle(w *work) {
	n := [4]int64{3: 1}
	wrong, ok := w.numbers(&n)
	switch burst, count, period, cost := n[0], n[1], n[2], n[3]; {
	case !ok:
		w.out = c.fail(w.out, invalid("", "%.64q: must be a whole number", wrong))
	case burst < 0:
		w.out = c.fail(w.out, invalid("burst", "%d: must not be negative; 0 is the count", burst))
	case count < 1 || period < 1:
		w.out = c.fail(w.out, invalid("rate", "%d per %d ms: both must be at least 1", count, period))
	case cost < 0 || cost > headgate.MaxInt:
		w.out = c.fail(w.out, invalid("cost", "%d: must be 0 to %d", cost, headgate.MaxInt))
	default:
		c.bucket(w, count, period, time.Millisecond, burst, cost)
		if began, err := c.throttles(w); err != nil {
			w.out = c.fail(w.out, err)
		} else {
			w.out = c.appendDecision(w.out, &w.d)
			c.decided(w, began)
		}
	}
}

// bucket describes the bucket that is asked.
func (c *conn) bucket(w *work, count, period int64, unit time.Duration, burst, cost int64) {
	t := &w.throttle
	t.Key, t.Count, t.Burst, t.Cost, t.Peek = w.args[1], count, burst, cost, false
	t.Period = time.Duration(min(period, int64(headgate.MaxPeriod/unit)+1)) * unit
	t.Now = c.instant()
}

// throttles asks the bucket.
func (c *conn) throttles(w *work) (began time.Duration, err error) {
	began = c.stopwatch()
	c.begin()
	err = c.s.Gate.Throttle(c, &w.throttle, &w.d)
	c.end()
	return began, err
}

// throttled reports a decision that has looked or taken.
func (c *conn) throttled(w *work, began time.Duration) {
	if !w.throttle.Peek {
		c.decided(w, began)
	}
}

// stopwatch is when a decision begins, if anybody wants to know. In a pipeline that is
// when the one before it has ended: a reading for each would be a tenth of its time.
func (c *conn) stopwatch() time.Duration {
	if c.s.Decided != nil && c.lap == 0 {
		c.lap = c.uptime()
	}
	return c.lap
}

// decided reports a decision that may have charged.
func (c *conn) decided(w *work, began time.Duration) {
	if c.s.Decided != nil {
		c.lap = c.uptime()
		c.s.Decided(&w.d, c.lap-began-w.d.Waited)
	}
}

// instant reads the store's clock, once for what came with one read.
func (c *conn) instant() int64 {
	if c.now == 0 && c.s.Now != nil {
		c.now = c.s.Now()
	}
	return c.now
}

// seconds rounds up: a wait that is told too short is a wait for nothing.
func seconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}
