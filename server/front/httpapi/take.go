package httpapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
)

// read reads a request to decide, whose body has the fields of known. It returns
// false if there was a fault, and has answered it.
func (d *door) read(c *call, w http.ResponseWriter, r *http.Request, known []string) bool {
	body, p := c.read(w, r, MaxBody)
	if p != nil {
		p.ServeHTTP(w, r)
		return false
	}
	err := c.decode(body, known)
	c.req.Releases = true // answers have tickets
	if err == nil {
		err = c.key(r.Header)
	}
	if err == nil {
		err = front.Reach(c.caller, c.req.Application)
	}
	if err != nil {
		d.fail(w, r, err)
		return false
	}
	return true
}

func (d *door) take(c *call, w http.ResponseWriter, r *http.Request) {
	if !d.read(c, w, r, takeFields) {
		return
	}
	began := time.Now()
	d.answer(c, w, r, began, d.Gate.Take(r.Context(), &c.req, &c.d))
}

func (d *door) reserve(c *call, w http.ResponseWriter, r *http.Request) {
	if !d.read(c, w, r, reserveFields) {
		return
	}
	began := time.Now()
	d.answer(c, w, r, began, d.Gate.Reserve(r.Context(), &c.req, c.ttl, &c.d))
}

func (d *door) peek(c *call, w http.ResponseWriter, r *http.Request) {
	if !d.read(c, w, r, takeFields) {
		return
	}
	if err := d.Gate.Peek(r.Context(), &c.req, &c.d); err != nil {
		d.fail(w, r, err)
		return
	}
	c.write(w)
}

func (d *door) explain(c *call, w http.ResponseWriter, r *http.Request) {
	if !d.read(c, w, r, takeFields) {
		return
	}
	var e gate.Explanation
	if err := d.Gate.Explain(r.Context(), &c.req, &c.d, &e); err != nil {
		d.fail(w, r, err)
		return
	}
	c.out = append(c.out[:0], `{"decision":`...)
	c.out = c.appendAnswer(c.out, &c.d)
	c.out = append(c.out, `,"explanation":`...)
	c.out = append(appendExplanation(c.out, &e), "}\n"...)
	c.send(w)
}

// errEnded is told to clients, if they are still there, whose request was ended
// from outside: the server stops.
var errEnded = &headgate.Error{Code: headgate.Closed, Err: errors.New("the request was ended")}

// answer sends a decision that may have charged, or its error.
func (d *door) answer(c *call, w http.ResponseWriter, r *http.Request, began time.Time, err error) {
	if err != nil && c.d.Kept {
		d.Decided(&c.d, time.Since(began))
	}
	switch {
	case err != nil && r.Context().Err() != nil:
		anew(w)
		problem.Of(errEnded).ServeHTTP(w, r)
		return
	case err != nil:
		anew(w)
		d.fail(w, r, err)
		return
	case c.d.Waited > 0:
		anew(w)
	}
	c.write(w)
	d.Decided(&c.d, time.Since(began)-c.d.Waited)
}
