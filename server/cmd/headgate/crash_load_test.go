package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// ticket is a reservation or a slot that was not given back.
type ticket struct {
	text, subject, operation string
	cost, from               int64
}

// villain is a subject that was seen to be banned, durably if sure.
type villain struct {
	subject string
	sure    bool
}

// begin begins the load.
func (c *crash) begin() {
	c.ending.Store(false)
	for i := range crashClients {
		r := rand.New(rand.NewPCG(c.rng.Uint64(), uint64(i)))
		c.load.Go(func() {
			for !c.ending.Load() {
				c.act(r)
			}
		})
	}
}

// over waits for the clients after the server has ended. What was not answered was
// decided before that, if at all.
func (c *crash) over() {
	c.load.Wait()
	c.client.CloseIdleConnections()
}

// act does something.
func (c *crash) act(r *rand.Rand) {
	s := c.subjects[r.IntN(len(c.subjects))]
	ordinary := []string{"small", "hour", "million", "daily", "fixed", "sliding", "both", "fast"}
	switch n := r.IntN(100); {
	case n < 8:
		c.batch(r, ordinary)
	case n < 18:
		c.hold(s, "hold", r.Int64N(40)+1)
	case n < 26:
		c.hold(s, "slots", 1)
	case n < 40:
		c.settle(r)
	case n < 46:
		c.once(s, fmt.Sprintf("%d-%x", c.life, r.Uint64()))
	case n < 47:
		c.offend(fmt.Sprintf("v%d-%x", c.life, r.Uint64()))
	default:
		operation := ordinary[r.IntN(len(ordinary))]
		c.take(s, operation, cost(r, operation))
	}
}

// cost is what to ask for of an operation.
func cost(r *rand.Rand, operation string) int64 {
	switch operation {
	case "million":
		return r.Int64N(9000) + 1
	case "hour", "daily":
		return r.Int64N(12) + 1
	case "fixed", "sliding":
		return r.Int64N(4) + 1
	}
	return r.Int64N(2) + 1
}

// errStalled says that the disk was too slow: the request may have been charged.
var errStalled = errors.New("not decided in time")

// ask asks the server.
func (c *crash) ask(path, body string) (answered, error) {
	a, err := c.v.ask(c.t.Context(), c.client, path, body)
	if r, ok := errors.AsType[*refusal](err); ok && r.code == http.StatusServiceUnavailable || err == nil && a.Reason == "store_unavailable" {
		err = errStalled
	}
	return a, err
}

// failed says whether a request was not answered, which only happens at the end of a
// life, or when the disk stands still.
func (c *crash) failed(what string, err error) bool {
	if errors.Is(err, errStalled) {
		c.stalled.Add(1)
	} else if err != nil && !c.ending.Load() {
		c.t.Errorf("life %d: %s: %v", c.life, what, err)
	}
	return err != nil
}

// note notes a charge of all limits of an operation.
func (c *crash) note(subject, operation string, x charge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range crashLimits {
		if l.operation == operation {
			c.accounts[subject+" "+operation+"/"+l.name].charge(x)
		}
	}
	c.answers++
	if x.least > 0 {
		c.acked[operation] += x.least
	} else if x.most > 0 {
		c.inFlight++
	}
}

// settled says what a request for cost has charged.
func settled(a *answered, err error, cost int64) (least, most int64) {
	switch {
	case err != nil:
		return 0, cost
	case a.Allowed:
		return cost, cost
	}
	return 0, 0
}

func (c *crash) take(subject, operation string, cost int64) {
	from := time.Now().UnixMicro()
	a, err := c.ask("/v1/take", bodyOf(subject, operation, fmt.Sprintf(`,"cost":%d`, cost)))
	to := time.Now().UnixMicro()
	c.failed("take "+operation, err)
	least, most := settled(&a, err, cost)
	c.note(subject, operation, charge{least: least, most: most, from: from, to: to})
	if operation == "fast" && err == nil {
		c.mu.Lock()
		c.fast = true
		c.mu.Unlock()
	}
}

func (c *crash) batch(r *rand.Rand, operations []string) {
	type item struct {
		subject, operation string
		cost               int64
	}
	var items []item
	var body []string
	for range 2 + r.IntN(11) {
		x := item{c.subjects[r.IntN(len(c.subjects))], operations[r.IntN(len(operations)-1)], 0}
		x.cost = cost(r, x.operation)
		items = append(items, x)
		body = append(body, bodyOf(x.subject, x.operation, fmt.Sprintf(`,"cost":%d`, x.cost)))
	}
	from := time.Now().UnixMicro()
	a, err := c.ask("/v1/take/batch", `{"items":[`+strings.Join(body, ",")+`]}`)
	to := time.Now().UnixMicro()
	c.failed("batch", err)
	for i, x := range items {
		one := err
		var d *answered
		if one == nil {
			if d = a.Results[i].Decision; d == nil {
				one = fmt.Errorf("item %d is not decided", i)
				c.failed("batch", one)
			} else if d.Reason == "store_unavailable" {
				one = errStalled
				c.failed("batch", one)
			}
		}
		least, most := settled(d, one, x.cost)
		c.note(x.subject, x.operation, charge{least: least, most: most, from: from, to: to})
	}
}

// once takes with an idempotency key, for the first time or again.
func (c *crash) once(subject, key string) {
	c.mu.Lock()
	_, again := c.keys[key]
	if !again && c.asked[subject] == headgate.MaxRemembered {
		c.mu.Unlock()
		return // a retry of more than these would be charged
	}
	if !again {
		c.asked[subject]++
	}
	c.keys[key] = subject
	c.mu.Unlock()
	from := time.Now().UnixMicro()
	a, err := c.ask("/v1/take", bodyOf(subject, "once", fmt.Sprintf(`,"idempotency_key":%q`, key)))
	to := time.Now().UnixMicro()
	least, most := settled(&a, err, 1)
	if c.failed("take once", err) && again {
		return
	}
	if a.Replayed { // it was charged when it was not answered
		least, most = 0, 0
	}
	c.note(subject, "once", charge{least: least, most: most, from: from, to: to})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.keys, key)
	}
	if a.Allowed {
		c.onces[subject]++
	}
}

// hold reserves, or takes a slot.
func (c *crash) hold(subject, operation string, cost int64) {
	path, more := "/v1/take", ""
	if operation == "hold" {
		path, more = "/v1/reserve", fmt.Sprintf(`,"cost":%d,"ttl_ms":3600000`, cost)
	}
	from := time.Now().UnixMicro()
	a, err := c.ask(path, bodyOf(subject, operation, more))
	to := time.Now().UnixMicro()
	c.failed("hold", err)
	least, most := settled(&a, err, cost)
	c.note(subject, operation, charge{least: least, most: most, from: from, to: to})
	if least > 0 {
		c.mu.Lock()
		c.tickets = append(c.tickets, &ticket{*a.Ticket, subject, operation, cost, from})
		c.mu.Unlock()
	}
}

// settle ends something that is held, perhaps since an earlier life.
func (c *crash) settle(r *rand.Rand) {
	c.mu.Lock()
	if len(c.tickets) == 0 {
		c.mu.Unlock()
		return
	}
	i := r.IntN(len(c.tickets))
	x := c.tickets[i]
	c.tickets = slices.Delete(c.tickets, i, i+1)
	c.mu.Unlock()
	path, body, back := "/v1/release", fmt.Sprintf(`{"ticket":%q}`, x.text), x.cost
	if x.operation == "hold" && r.IntN(2) == 0 {
		used := r.Int64N(x.cost + 1)
		path, body, back = "/v1/settle", fmt.Sprintf(`{"ticket":%q,"cost":%d}`, x.text, used), x.cost-used
	}
	from := time.Now().UnixMicro()
	a, err := c.ask(path, body)
	to := time.Now().UnixMicro()
	switch {
	case c.failed(path, err):
		c.note(x.subject, x.operation, charge{least: -back, from: from, to: to, of: x.from})
	case !*a.Held && x.operation == "hold":
		c.mu.Lock()
		c.findings = append(c.findings, fmt.Sprintf("life %d: the reservation of %d by %s is gone", c.life, x.cost, x.subject))
		c.mu.Unlock()
	case *a.Held && path == "/v1/settle" && x.from/day.Microseconds() == to/day.Microseconds():
		c.note(x.subject, x.operation, charge{least: -back, most: -back, from: from, to: to})
	case *a.Held: // a kill may forget that it was given back
		c.note(x.subject, x.operation, charge{least: -back, from: from, to: to, of: x.from})
	}
}

// offend has a subject banned. Nobody waits for a ban to be written, but what is
// written later is not written without it.
func (c *crash) offend(subject string) {
	v := villain{subject: subject}
	for range 8 {
		a, err := c.ask("/v1/take", bodyOf(subject, "villain", ""))
		if c.failed("offend", err) {
			return
		}
		if a.Reason == "banned" {
			_, err := c.ask("/v1/take", bodyOf(subject, "small", ""))
			v.sure = !c.failed("after the ban", err)
			c.mu.Lock()
			c.villains = append(c.villains, v)
			c.mu.Unlock()
			return
		}
	}
	c.t.Errorf("%s is not banned", subject)
}
