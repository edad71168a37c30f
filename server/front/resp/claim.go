package resp

import (
	"context"

	"github.com/headgate/headgate/gate"
)

func (c *conn) settle(w *work)  { c.claim(w, optCost|optCosts|optApplication|optBrief, c.s.Gate.Settle) }
func (c *conn) renew(w *work)   { c.claim(w, optTTL|optApplication|optBrief, c.s.Gate.Renew) }
func (c *conn) release(w *work) { c.claim(w, optApplication|optBrief, c.s.Gate.Release) }

// claim answers what is asked about a ticket.
func (c *conn) claim(w *work, known option, do func(context.Context, *gate.Claim, *gate.Decision) error) {
	defer w.ask.reset()
	q, err := w.readClaim(known)
	if err == nil {
		q.Now = c.instant()
		if !c.caller.Everywhere() {
			q.Reaches = c.caller.Reaches
		}
		c.begin()
		err = do(c, &q, &w.d)
		c.end()
	}
	if err != nil {
		w.out = c.fail(w.out, err)
		return
	}
	w.out = c.appendHeld(w.out, &w.d)
	c.s.Corrected(&w.d)
}

// readClaim reads a ticket and the options of known.
func (w *work) readClaim(known option) (q gate.Claim, err error) {
	if err := w.text(); err != nil {
		return q, err
	}
	q.Ticket = w.args[1]
	switch {
	case q.Ticket == "":
		return q, invalid("ticket", "is required")
	case len(q.Ticket) > gate.MaxTicket:
		return q, invalid("ticket", "%d bytes: at most %d", len(q.Ticket), gate.MaxTicket)
	}
	s := scanner{args: w.args[2:]}
	for len(s.args) > 0 {
		o, v, err := s.next(known)
		if err == nil && o == optApplication {
			q.Application = v[0]
		} else if err == nil {
			err = w.set(o, v)
		}
		if err != nil {
			return q, err
		}
	}
	q.Cost, q.CostSaid, q.Costs, q.TTL = w.req.Cost, w.req.CostSaid, w.req.Costs, w.ttl
	return q, nil
}
