package httpapi

import (
	"context"
	"net/http"

	"github.com/headgate/headgate/gate"
)

// decodeClaim reads the body of /v1/settle, /v1/renew or /v1/release, which has
// the fields of known.
func decodeClaim(body string, known []string) (c gate.Claim, err error) {
	s, err := start(body)
	if err != nil {
		return c, err
	}
	err = s.members(known, func(name string) (err error) {
		switch name {
		case "ticket":
			if c.Ticket, err = s.str(name); err == nil && len(c.Ticket) > gate.MaxTicket {
				err = invalid(name, "%d bytes: at most %d", len(c.Ticket), gate.MaxTicket)
			}
		case "application":
			c.Application, err = s.str(name)
		case "cost":
			c.Cost, err = s.whole(name)
			c.CostSaid = true
		case "costs":
			c.Costs, err = s.costs(nil)
		case "ttl_ms":
			c.TTL, err = s.ttl()
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && c.Ticket == "" {
		err = invalid("ticket", "is required")
	}
	return c, err
}

func (d *door) settle(c *call, w http.ResponseWriter, r *http.Request) {
	d.claim(c, w, r, settleFields, d.Gate.Settle)
}

func (d *door) renew(c *call, w http.ResponseWriter, r *http.Request) {
	d.claim(c, w, r, renewFields, d.Gate.Renew)
}

func (d *door) release(c *call, w http.ResponseWriter, r *http.Request) {
	d.claim(c, w, r, releaseFields, d.Gate.Release)
}

// claim answers what is asked about a ticket.
func (d *door) claim(c *call, w http.ResponseWriter, r *http.Request, known []string, do func(context.Context, *gate.Claim, *gate.Decision) error) {
	body, p := c.read(w, r, MaxBody)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	claim, err := decodeClaim(body, known)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	if !c.caller.Everywhere() {
		claim.Reaches = c.caller.Reaches
	}
	if err := do(r.Context(), &claim, &c.d); err != nil {
		d.fail(w, r, err)
		return
	}
	d.Corrected(&c.d)
	c.out = append(appendHeld(c.out[:0], &c.d), '\n')
	c.send(w)
}
