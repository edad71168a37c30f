package httpapi

import (
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
)

// Bounds of a batch. An atomic one holds at most [gate.MaxAtomic] items: they are
// decided in one call of the store, and need their memory at one time.
const (
	MaxBatchBody = 1 << 20 // bytes
	MaxItems     = 1000
)

// flushAt is how much of a batch's answer is gathered before it is sent.
const flushAt = 32 << 10

// batch is the body of /v1/take/batch.
type batch struct {
	body   string
	items  []int // where each begins in body
	atomic bool
}

// decodeBatch checks that the whole body is JSON and finds its items. What is in
// them is looked at one by one: a fault there is the fault of one item.
func decodeBatch(body string) (b batch, err error) {
	b.body = body
	s, err := start(body)
	if err != nil {
		return b, err
	}
	had := false
	err = s.members(batchFields, func(name string) (err error) {
		if name == "items" {
			had = true
			return b.find(&s)
		}
		b.atomic, err = s.truth(name)
		return err
	})
	if err == nil {
		err = s.end()
	}
	switch {
	case err != nil:
	case !had:
		err = invalid("items", "is required")
	case len(b.items) == 0:
		err = invalid("items", "must be 1 to %d", MaxItems)
	case b.atomic && len(b.items) > gate.MaxAtomic:
		err = invalid("items", "%d: at most %d with atomic: true", len(b.items), gate.MaxAtomic)
	}
	return b, err
}

// find reads the array of items.
func (b *batch) find(s *scanner) error {
	s.space()
	if s.i >= len(s.s) || s.s[s.i] != '[' {
		return s.wrong("items", "an array")
	}
	for s.i++; !s.closes(0); {
		if n := len(b.items); n > 0 {
			if s.i >= len(s.s) || s.s[s.i] != ',' {
				return s.syntax("items", "',' or ']'")
			}
			s.i++
			s.space()
			if n == MaxItems {
				return invalid("items", "more than %d", MaxItems)
			}
		}
		at := s.i
		field := itemField(len(b.items), "")
		if at >= len(s.s) || s.s[at] != '{' {
			return s.wrong(field, "an object")
		}
		if err := s.skip(field); err != nil {
			return err
		}
		b.items = append(b.items, at)
	}
	return nil
}

// read reads one item.
func (b *batch) read(a *ask, i int) error {
	s := scanner{s: b.body, i: b.items[i]}
	if err := a.object(&s, takeFields); err != nil {
		return err
	}
	r := &a.req
	switch {
	case r.MaxWait > 0:
		return invalid("max_wait_ms", "items of a batch do not wait: leave it out")
	case b.atomic && r.IdempotencyKey != "":
		return invalid("idempotency_key", "only with atomic: false")
	}
	r.NoWait = true
	// Slots that were taken together could only be released one by one.
	r.Releases = !b.atomic
	return nil
}

func itemField(i int, field string) string {
	s := "items." + strconv.Itoa(i)
	if field != "" {
		s += "." + field
	}
	return s
}

// itemError is an error that one item caused as one of the batch. Others are
// left as they are.
func itemError(i int, err error) error {
	e, ok := errors.AsType[*headgate.Error](err)
	if !ok || i < 0 {
		return err
	}
	switch e.Code {
	case headgate.InvalidRequest, headgate.InvalidLimit, headgate.NotFound, headgate.Conflict:
		return &headgate.Error{Code: e.Code, Field: itemField(i, e.Field), Err: e.Err}
	}
	return err
}

func (d *door) batch(c *call, w http.ResponseWriter, r *http.Request) {
	body, p := c.read(w, r, MaxBatchBody)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	if first(r.Header["Idempotency-Key"]) != "" {
		d.fail(w, r, invalid("idempotency_key", "one key cannot name many requests: say idempotency_key in the items"))
		return
	}
	b, err := decodeBatch(body)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	c.out = append(c.out[:0], `{"results":[`...)
	a := &answers{door: d, w: w, r: r, c: c}
	defer a.interrupted()
	if b.atomic {
		d.takeAll(a, &b)
	} else {
		d.takeEach(a, &b)
	}
}

// takeEach decides items one after the other, all at one instant if the store's
// clock is ours to read.
func (d *door) takeEach(a *answers, b *batch) {
	c := a.c
	var at int64
	if d.Now != nil {
		at = d.Now()
	}
	began := time.Now()
	for i := range b.items {
		c.ask.reset()
		err := b.read(&c.ask, i)
		if err == nil {
			err = front.Reach(c.caller, c.req.Application)
		}
		ended := a.r.Context().Err() != nil
		switch {
		case err != nil:
		case ended:
			err = errEnded // nobody may read this any more, so it is not charged
		default:
			c.req.Now = at
			err = d.Gate.Take(a.r.Context(), &c.req, &c.d)
		}
		if err != nil {
			p := problem.Of(itemError(i, err))
			if p.Status >= http.StatusInternalServerError && !ended {
				d.log(a.r, err)
			}
			a.problem(p)
			began = time.Now()
			continue
		}
		a.decision(&c.ask, &c.d)
		now := time.Now()
		d.Decided(&c.d, now.Sub(began))
		began = now
	}
	a.end()
}

// takeAll decides the items together.
func (d *door) takeAll(a *answers, b *batch) {
	n := len(b.items)
	asks, decisions := make([]ask, n), make([]gate.Decision, n)
	rs, ds := make([]*gate.Request, n), make([]*gate.Decision, n)
	var now int64
	if d.Now != nil {
		now = d.Now()
	}
	for i := range n {
		err := b.read(&asks[i], i)
		if err == nil {
			err = front.Reach(a.c.caller, asks[i].req.Application)
		}
		if err != nil {
			d.fail(a.w, a.r, itemError(i, err))
			return
		}
		asks[i].req.Now = now
		rs[i], ds[i] = &asks[i].req, &decisions[i]
	}
	began := time.Now()
	failed, err := d.Gate.TakeAll(a.r.Context(), rs, ds)
	if err != nil {
		d.fail(a.w, a.r, itemError(failed, err))
		return
	}
	for i := range ds {
		a.decision(&asks[i], ds[i])
		d.Decided(ds[i], time.Since(began))
	}
	a.end()
}

// answers writes the results of a batch, and sends them while there is more to
// come: they may be a thousand times as long as one decision.
type answers struct {
	door *door
	w    http.ResponseWriter
	r    *http.Request
	c    *call
	n    int
	sent bool // the answer has begun and can only be broken off
}

func (a *answers) decision(q *ask, d *gate.Decision) {
	a.next()
	a.c.out = append(a.c.out, `{"decision":`...)
	a.c.out = append(q.appendAnswer(a.c.out, d), '}')
}

func (a *answers) problem(p *problem.Problem) {
	a.next()
	a.c.out = append(a.c.out, `{"problem":`...)
	a.c.out = append(p.Append(a.c.out), '}')
}

func (a *answers) next() {
	if a.n > 0 {
		a.c.out = append(a.c.out, ',')
	}
	a.n++
	if len(a.c.out) < flushAt {
		return
	}
	a.w.Header()["Content-Type"] = contentType
	a.sent = true
	anew(a.w)
	a.w.Write(a.c.out)
	a.c.out = a.c.out[:0]
}

func (a *answers) end() {
	a.c.out = append(a.c.out, "]}\n"...)
	anew(a.w)
	if a.sent {
		a.w.Write(a.c.out)
		return
	}
	a.c.send(a.w)
}

// interrupted breaks an answer off that has begun when a panic ended it. Left to
// net/http's next handler it would be ended like a whole one.
func (a *answers) interrupted() {
	if !a.sent {
		return
	}
	if p := recover(); p != nil {
		if p != http.ErrAbortHandler {
			a.door.panicked(a.r, p, debug.Stack())
		}
		panic(http.ErrAbortHandler)
	}
}
