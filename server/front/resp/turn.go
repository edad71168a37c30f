package resp

import "sync/atomic"

// turnSize is how many commands a client may ask one after the other, without waiting for
// a reply, before it needs a turn for as many more.
const turnSize = 128

// turn is the share of a connection in the processors. Clients that ask without a pause
// have all of them but one between them, by turns: those who ask now and then are not
// behind every command that others have sent. Nobody has a turn while it waits for a
// store, a line, or its client.
type turn struct {
	left   int  // commands to go
	greedy bool // they need a turn
	has    atomic.Bool
}

// rested is called when a client has sent no more than was read.
func (c *conn) rested() { c.left, c.greedy = turnSize, false }

// mayGo reports whether the next command may be answered, after a wait for a turn if need
// be. It reports false if the connection has ended meanwhile.
func (c *conn) mayGo() bool {
	if c.left > 0 && (!c.greedy || c.has.Load()) {
		c.left--
		return true
	}
	c.pass()
	select {
	case c.s.turns <- struct{}{}:
	case <-c.patience.Context.Done():
		return false
	}
	c.has.Store(true)
	c.left, c.greedy = turnSize-1, true
	c.later()
	return true
}

// pass ends the turn, if it is one. It is called by who waits in place of the connection,
// too.
func (c *conn) pass() {
	if c.has.Load() && c.has.CompareAndSwap(true, false) {
		<-c.s.turns
	}
}
