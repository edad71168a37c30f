package gate

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// MaxTicket is the longest ticket, in bytes.
const MaxTicket = 24 << 10

// ticket is what is needed to find again what a decision holds, on any node and
// after a change of the policy. It is not secret and not signed: the hold is a
// number that nobody guesses, and the store gives back what it knows to be held
// under it, no more.
type ticket struct {
	reserved                         bool // else only slots are held
	hold                             uint64
	holdFor                          int64 // microseconds, for a reservation
	application, rule, subject, plan string
	operation                        string
	cost                             int64
	costs                            []UnitCost // in other units than requests
	charges                          [headgate.MaxCharges]ticketCharge
	n                                int
}

// ticketCharge is a budget, and what was taken of it in its unit.
type ticketCharge struct {
	id    uint64
	owner string
	unit  string
	cost  int64
}

const (
	ticketVersion = 2
	// maxTicketCosts is how many units a ticket names at most.
	maxTicketCosts = 32
)

// HasTicket reports whether the decision holds what a ticket can release.
func (d *Decision) HasTicket() bool {
	if d.received {
		return d.ticket != ""
	}
	return d.ticketed && d.Allowed && d.batch.Op == headgate.Take && d.batch.Hold != 0
}

// AppendTicket appends the decision's ticket to b: letters, digits, '-' and '_'
// only, at most MaxTicket of them. It appends nothing if there is none.
func (d *Decision) AppendTicket(b []byte) []byte {
	if !d.HasTicket() {
		return b
	}
	if d.received {
		return append(b, d.ticket...)
	}
	t := ticket{
		reserved: d.batch.HoldFor > 0, hold: d.batch.Hold, holdFor: d.batch.HoldFor,
		application: d.Application, rule: d.Rule, subject: d.Subject, plan: d.Plan, operation: d.Operation, cost: d.Cost, costs: d.costs[:min(len(d.costs), maxTicketCosts)],
	}
	charges := d.batch.Charges()
	for i := range d.n {
		l := &d.limits[i]
		if !l.held(&d.batch) {
			continue
		}
		t.charges[t.n] = ticketCharge{l.Limit.ID[0], charges[i].Owner, l.Unit, l.Cost}
		t.n++
	}
	return base64.RawURLEncoding.AppendEncode(b, t.append(nil))
}

// held reports whether the batch that charged the limit holds something of it. A
// limit in shadow that refused was not charged; what a replay says of limits is
// their present state.
func (s *LimitState) held(b *headgate.Batch) bool {
	switch {
	case !s.Allowed && !b.Replayed:
		return false
	case s.Limit.Algorithm == headgate.Concurrency:
		return s.Cost > 0
	default:
		return b.HoldFor > 0 && s.Limit.Algorithm < headgate.Concurrency
	}
}

func (t *ticket) append(b []byte) []byte {
	b = append(b, ticketVersion)
	if t.reserved {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(b, t.hold)
	b = binary.AppendUvarint(b, uint64(t.holdFor))
	for _, s := range []string{t.application, t.rule, t.subject, t.plan, t.operation} {
		b = appendText(b, s)
	}
	b = binary.AppendUvarint(b, uint64(t.cost))
	b = binary.AppendUvarint(b, uint64(len(t.costs)))
	for _, u := range t.costs {
		b = binary.AppendUvarint(appendText(b, u.Unit), uint64(u.Cost))
	}
	b = append(b, byte(t.n))
	for i := range t.n {
		c := &t.charges[i]
		b = binary.BigEndian.AppendUint64(b, c.id)
		b = appendText(b, unless(c.owner, t.subject))
		b = appendText(b, unless(c.unit, policy.Requests))
		b = binary.AppendUvarint(b, uint64(c.cost))
	}
	return b
}

// same stands for the usual value; it is no owner and no unit.
const same = "\x00"

func unless(s, usual string) string {
	if s == usual {
		return same
	}
	return s
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errTicket = &headgate.Error{Code: headgate.InvalidRequest, Field: "ticket", Err: errors.New("is not a ticket of this server")}

// parseTicket reads what AppendTicket has written.
func parseTicket(s string) (*ticket, error) {
	if s == "" {
		return nil, invalid("ticket", "is required")
	}
	if len(s) > MaxTicket {
		return nil, invalid("ticket", "%d bytes: at most %d", len(s), MaxTicket)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") { // which base64 skips
		return nil, errTicket
	}
	r := ticketReader{b: raw}
	if r.byte() != ticketVersion {
		return nil, errTicket
	}
	t := &ticket{reserved: r.byte() == 1, hold: r.fixed(), holdFor: r.number()}
	for _, s := range []*string{&t.application, &t.rule, &t.subject, &t.plan, &t.operation} {
		*s = r.text()
	}
	t.cost = r.number()
	costs := r.number()
	if costs > maxTicketCosts {
		return nil, errTicket
	}
	for range costs {
		t.costs = append(t.costs, UnitCost{Unit: r.text(), Cost: r.number()})
	}
	if t.n = int(r.byte()); t.n > len(t.charges) {
		return nil, errTicket
	}
	for i := range t.n {
		c := &t.charges[i]
		c.id, c.owner, c.unit, c.cost = r.fixed(), r.text(), r.text(), r.number()
		if c.owner == same {
			c.owner = t.subject
		}
		if c.unit == same {
			c.unit = policy.Requests
		}
	}
	if r.bad || len(r.b) > 0 || t.hold == 0 || t.reserved != (t.holdFor > 0) || t.holdFor > headgate.MaxHold.Microseconds() {
		return nil, errTicket
	}
	return t, nil
}

// ticketReader reads bytes; after a fault it yields zeros.
type ticketReader struct {
	b   []byte
	bad bool
}

func (r *ticketReader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *ticketReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *ticketReader) fixed() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *ticketReader) number() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > headgate.MaxInt {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *ticketReader) text() string {
	n := r.number()
	if n > MaxTicket {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}
