package redisstore

import (
	"encoding/binary"
	"math"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// header returns the first argument of a group.
func header(mode byte, e headgate.Epoch, now int64) []byte {
	buf := make([]byte, 0, 1+7+8+8)
	buf = append(buf, mode)
	buf = appendEpoch(buf, e.ID)
	buf = appendNumber(buf, e.Since)
	return appendNumber(buf, now)
}

// batch makes p the call that asks op of the charges of b, which must be in one
// partition. A Take with a trial that is not 0 and no reservation of its own holds what
// it charges for two seconds under that id, so that it can be undone. To undo, say op,
// trial and batch again; b.At is then the instant at which the Take was decided, and it
// must not have been a replay.
func (p *payload) batch(s *scheme, op scriptOp, b *headgate.Batch, trial uint64) {
	charges := b.Charges()
	p.fast = fits(op, b, trial)
	p.take = p.fast && op == scriptOp(headgate.Take)
	form := byte(formGeneral)
	if p.fast {
		form = formFast
	}
	p.begin(form, op, len(charges))
	if !p.fast {
		p.general(b, trial)
	}
	owners := owners{p: p, s: s}
	for i := range charges {
		c := &charges[i]
		p.charge(s, &owners, c, p.flags(op, b, c))
		if p.fast {
			p.plain(c)
		}
	}
	p.end()
}

// begin starts a call of n charges, and end ends it.
func (p *payload) begin(form byte, op scriptOp, n int) {
	p.keys = p.keys[:0]
	p.blob = append(p.blob[:0], form, byte(op), byte(n), byte(n>>8), 0, 0, 1, 0)
}

func (p *payload) end() { binary.LittleEndian.PutUint16(p.blob[4:], uint16(len(p.keys))) }

// times makes p so many equal calls.
func (p *payload) times(n int) { binary.LittleEndian.PutUint16(p.blob[6:], uint16(n)) }

// leases makes p the call that does the requests, which must be in one partition.
func (p *payload) leases(s *scheme, requests []headgate.LeaseRequest) {
	p.fast, p.take = false, false
	p.begin(formGeneral, opAcquire, len(requests))
	p.general(new(headgate.Batch), 0)
	owners := owners{p: p, s: s}
	for i := range requests {
		r := &requests[i]
		p.charge(s, &owners, &headgate.Charge{Limit: r.Limit, Owner: r.Owner}, 0)
		p.request(r)
	}
	p.end()
}

// fits reports whether fast.lua can decide the batch, if it finds nothing but what it
// knows.
func fits(op scriptOp, b *headgate.Batch, trial uint64) bool {
	charges := b.Charges()
	if len(charges) < 1 || len(charges) > headgate.MaxCharges || op > scriptOp(headgate.Peek) || b.HoldFor != 0 || trial != 0 {
		return false
	}
	for i := range charges {
		switch l := charges[i].Limit; l.Algorithm {
		case headgate.TokenBucket, headgate.FixedWindow, headgate.Quota, headgate.Ban:
		case headgate.SlidingWindow:
			if l.Slices == 1 {
				return false
			}
		case headgate.Idempotency:
			if b.Key != (headgate.RequestKey{}) && op == scriptOp(headgate.Take) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// The flags of a charge.
const (
	flagShadow = 1 << iota
	flagParent
	flagAbsent
	flagCounts
)

func (p *payload) flags(op scriptOp, b *headgate.Batch, c *headgate.Charge) (flags byte) {
	if c.Shadow {
		flags |= flagShadow
	}
	if c.Parent {
		flags |= flagParent
	}
	if p.fast && c.Limit.Algorithm >= headgate.Ban {
		flags |= flagAbsent
		if c.Limit.Algorithm == headgate.Ban && op == scriptOp(headgate.Take) && !b.Again {
			flags |= flagCounts
		}
	}
	return flags
}

func (p *payload) general(b *headgate.Batch, trial uint64) {
	buf := binary.BigEndian.AppendUint64(p.blob, b.Hold)
	buf = appendNumber(buf, b.HoldFor)
	buf = appendNumber(buf, min(b.MaxDelay, headgate.MaxInt))
	bits := byte(0)
	if b.Again {
		bits |= 1
	}
	if b.Key != (headgate.RequestKey{}) {
		bits |= 2
	}
	buf = append(buf, bits)
	buf = binary.BigEndian.AppendUint64(buf, b.Key.ID[0])
	buf = binary.BigEndian.AppendUint64(buf, b.Key.ID[1])
	buf = binary.BigEndian.AppendUint64(buf, b.Key.Print)
	buf = binary.BigEndian.AppendUint64(buf, trial)
	p.blob = appendNumber(buf, b.At)
}

func (p *payload) charge(s *scheme, owners *owners, c *headgate.Charge, flags byte) {
	l := c.Limit
	key, owner := owners.place(c)
	buf := binary.LittleEndian.AppendUint16(p.blob, key)
	buf = binary.BigEndian.AppendUint64(buf, l.ID[0])
	buf = binary.BigEndian.AppendUint64(buf, l.ID[1])
	buf = append(buf, flags, 0, 0)
	from := len(buf)
	buf = appendNumbers(buf, l)
	binary.LittleEndian.PutUint16(buf[from-2:], uint16(len(buf)-from))
	buf = appendNumber(buf, c.Cost)
	buf = binary.LittleEndian.AppendUint16(buf, owner)
	calendar := ""
	if l.Algorithm == headgate.Quota {
		if len(p.around) == 0 {
			calendar = s.calendars.around(l.Calendar, s.now())
		} else {
			calendar = s.calendars.across(l.Calendar, p.around)
		}
	}
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(calendar)))
	p.blob = append(buf, calendar...)
}

// plain appends what fast.lua needs to know of a limit. A cost that never fits a bucket is
// more than the capacity.
func (p *payload) plain(c *headgate.Charge) {
	l := c.Limit
	slices, rate, capacity, need := byte(0), int64(0), l.Count, c.Cost
	switch l.Algorithm {
	case headgate.TokenBucket:
		rate, capacity, need = l.N, l.Cap, l.Cap+1
		if c.Cost <= l.Burst {
			need = c.Cost * l.P
		}
	case headgate.FixedWindow:
		rate = l.WindowMicros
	case headgate.SlidingWindow:
		slices, rate = byte(l.Slices), l.SliceMicros
	case headgate.Quota:
		if l.Soft {
			rate |= 1
		}
		if l.Rollover > 0 {
			rate |= 2
		}
	default: // a ban or a list of requests
		need = 0
	}
	buf := append(p.blob, byte(l.Algorithm), slices)
	p.blob = appendNumber(appendNumber(appendNumber(buf, rate), capacity), need)
}

func (p *payload) request(r *headgate.LeaseRequest) {
	buf := binary.BigEndian.AppendUint64(p.blob, r.Holder[0])
	buf = binary.BigEndian.AppendUint64(buf, r.Holder[1])
	buf = appendEpoch(buf, r.Epoch)
	for _, n := range [...]int64{r.Window, r.Granted, r.Settled, r.Returned, r.Want, r.Min, r.Floor, r.FloorWindow} {
		buf = appendNumber(buf, max(-headgate.MaxInt, min(headgate.MaxInt, n)))
	}
	t := &algo.DefaultTerms
	for _, n := range [...]int64{t.TTL, t.Grace, t.Least, t.Floor, t.PerHolder, t.Out, int64(t.Holders)} {
		buf = appendNumber(buf, n)
	}
	p.blob = buf
}

// owners numbers the owners of a call's charges and the keys where their budgets
// stand, which are one for each owner that is not empty.
type owners struct {
	p      *payload
	s      *scheme
	last   string
	number uint16
	known  map[string]uint16 // from the second owner on
}

// place returns the number of the charge's key, from 1, and that of its owner: 0 for the
// owner that is empty.
func (o *owners) place(c *headgate.Charge) (key, owner uint16) {
	if c.Owner == "" {
		return o.add(c), 0
	}
	if c.Owner != o.last {
		if o.last != "" {
			if o.known == nil {
				o.known = make(map[string]uint16)
			}
			o.known[o.last] = o.number
		}
		o.last = c.Owner
		n, ok := o.known[c.Owner]
		if !ok {
			n = o.add(c)
		}
		o.number = n
	}
	return o.number, o.number
}

func (o *owners) add(c *headgate.Charge) uint16 {
	o.p.keys = append(o.p.keys, o.s.key(c.Owner, c.Limit))
	return uint16(len(o.p.keys))
}

// appendNumber appends n, which is within ±2^53, as a double.
func appendNumber(buf []byte, n int64) []byte {
	return binary.LittleEndian.AppendUint64(buf, math.Float64bits(float64(n)))
}

func appendEpoch(buf []byte, id uint64) []byte {
	var eight [8]byte
	binary.LittleEndian.PutUint64(eight[:], id)
	return append(buf, eight[:7]...)
}
