package resp

import (
	"errors"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front"
)

// take answers HG.TAKE. A request that may wait in line brings no instant: it is
// decided when its turn comes.
func (c *conn) take(w *work) {
	defer w.ask.reset()
	if err := c.reads(w, requestOptions); err != nil {
		w.out = c.fail(w.out, err)
		return
	}
	began := c.stopwatch()
	c.begin()
	err := c.s.Gate.Take(c, &w.req, &w.d)
	c.end()
	c.settled(w, began, err)
}

func (c *conn) reserve(w *work) {
	defer w.ask.reset()
	if err := c.reads(w, requestOptions|optTTL); err != nil {
		w.out = c.fail(w.out, err)
		return
	}
	began := c.stopwatch()
	c.begin()
	err := c.s.Gate.Reserve(c, &w.req, w.ttl, &w.d)
	c.end()
	c.settled(w, began, err)
}

func (c *conn) peek(w *work) {
	defer w.ask.reset()
	err := c.reads(w, requestOptions)
	if err == nil {
		w.req.Now = c.instant()
		c.begin()
		err = c.s.Gate.Peek(c, &w.req, &w.d)
		c.end()
	}
	if err != nil {
		w.out = c.fail(w.out, err)
		return
	}
	w.out = c.appendDecision(w.out, &w.d)
}

// reads reads a request, and refuses one for an application that the caller does not
// reach.
func (c *conn) reads(w *work, known option) error {
	if err := w.request(known); err != nil {
		return err
	}
	return front.Reach(c.caller, w.req.Application)
}

// errEnded is told to clients, if they are still there, whose request was ended
// from outside: the server stops.
var errEnded = &headgate.Error{Code: headgate.Closed, Err: errors.New("the request was ended")}

// settled answers a decision that may have charged, or its error.
func (c *conn) settled(w *work, began time.Duration, err error) {
	if err == nil {
		w.out = c.appendDecision(w.out, &w.d)
		c.decided(w, began)
		return
	}
	if w.d.Kept {
		c.decided(w, began)
	}
	if c.Err() != nil {
		err = errEnded
	}
	w.out = c.fail(w.out, err)
}
