package redisstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

var (
	errConflict = &headgate.Error{Code: headgate.Conflict, Field: "idempotency_key", Err: errors.New("key was used for another request")}
	errHolds    = &headgate.Error{Code: headgate.Overloaded, Err: fmt.Errorf("%d reservations of one budget are open: at most that many", headgate.MaxInFlight)}
)

// answer is an answer on its way to be read.
type answer struct {
	text  string
	short bool
}

func (a *answer) bytes(n int) string {
	if len(a.text) < n {
		a.short = true
		return "\x00\x00\x00\x00\x00\x00\x00\x00"[:n]
	}
	s := a.text[:n]
	a.text = a.text[n:]
	return s
}

func (a *answer) byte() byte { return a.bytes(1)[0] }

// number reads a double that holds a whole number; what is more than an int64 holds
// comes as the largest.
func (a *answer) number() int64 {
	s := a.bytes(8)
	f := math.Float64frombits(binary.LittleEndian.Uint64([]byte(s)))
	if f >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(f)
}

// duration reads a number of microseconds, at least 0 and at most as long as a
// Duration can be.
func (a *answer) duration() time.Duration {
	micros := a.number()
	if micros > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(max(0, micros)) * time.Microsecond
}

func (a *answer) outcome(o *headgate.Outcome) {
	flags := a.byte()
	*o = headgate.Outcome{
		Allowed: flags&1 != 0, Never: flags&2 != 0, Leased: flags&4 != 0,
		Limit: a.number(), Used: a.number(), Remaining: a.number(), Overage: a.number(),
		RetryAfter: a.duration(), ResetAfter: a.duration(), Delay: a.duration(), ResetsAt: a.number(),
	}
}

// whole returns an error unless the answer was read to its end.
func (a *answer) whole() error {
	if a.short || a.text != "" {
		return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("an answer of the wrong size, by %d bytes", len(a.text))}
	}
	return nil
}

// decodeBatch fills in what the answer says of the charges of b with the indices which,
// nil for all. The error is one of this call, not of the group.
func decodeBatch(text string, b *headgate.Batch, which []int) (verdict, error) {
	a := answer{text: text}
	switch form := a.byte(); form {
	case formFast:
		a.levels(b, which)
	case formGeneral:
		bits := a.byte()
		b.Allowed, b.Replayed, b.At = bits&1 != 0, bits&2 != 0, a.number()
		if hold := a.bytes(8); b.Replayed {
			b.Hold = binary.BigEndian.Uint64([]byte(hold))
		}
		each(b, which, func(_ *headgate.Charge, o *headgate.Outcome) { a.outcome(o) })
	case formUndone:
	case formCalendar:
		return verdict{calendar: a.number()}, a.whole()
	case formConflict:
		b.Allowed, b.Replayed, b.At = false, false, a.number()
		return verdict{}, errConflict
	case formFull:
		b.Allowed, b.Replayed, b.At = false, false, a.number()
		return verdict{}, errHolds
	default:
		return verdict{}, unknown(form)
	}
	return verdict{}, a.whole()
}

func unknown(form byte) error {
	return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("an answer of unknown form %d", form)}
}

// each calls do for the charges of b with the indices which, nil for all.
func each(b *headgate.Batch, which []int, do func(c *headgate.Charge, o *headgate.Outcome)) {
	charges, outcomes := b.Charges(), b.Outcomes()
	if which == nil {
		for i := range charges {
			do(&charges[i], &outcomes[i])
		}
		return
	}
	for _, i := range which {
		do(&charges[i], &outcomes[i])
	}
}

// levels reads buckets as they were before the call, and does the call on them.
func (a *answer) levels(b *headgate.Batch, which []int) {
	b.Allowed, b.Replayed, b.At = a.byte() == 1, false, a.number()
	call := algo.Call{Op: headgate.Peek, Now: b.At}
	if b.Allowed {
		call.Op = b.Op
	}
	each(b, which, func(c *headgate.Charge, o *headgate.Outcome) {
		st := [2]int64{a.number(), a.number()}
		if c.Limit.Algorithm != headgate.TokenBucket { // a ban or a list of requests: there was none
			*o = headgate.Outcome{Allowed: true, Limit: c.Limit.Count, Remaining: c.Limit.Count}
			return
		}
		call.Cost = c.Cost
		algo.Apply(&call, c.Limit, st[:], o)
	})
}

// taken tells of an answer that nobody waits for whether it is a Take that was allowed
// and no replay, and the instant of the decision: what is to be undone.
func taken(text string) (at int64, ok bool) {
	a := answer{text: text}
	switch a.byte() {
	case formFast, formGeneral:
		ok = a.byte() == 1
		return a.number(), ok && !a.short
	}
	return 0, false
}

// decodeLeases fills in the replies to the requests.
func decodeLeases(text string, e headgate.Epoch, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) (verdict, error) {
	a := answer{text: text}
	switch form := a.byte(); form {
	case formAcquired:
	case formCalendar:
		return verdict{calendar: a.number()}, a.whole()
	default:
		return verdict{}, unknown(form)
	}
	a.number() // the instant
	for i := range requests {
		a.reply(e, &requests[i], &replies[i])
	}
	return verdict{}, a.whole()
}

func (a *answer) reply(e headgate.Epoch, r *headgate.LeaseRequest, reply *headgate.LeaseReply) {
	*reply = headgate.LeaseReply{
		Status: headgate.LeaseStatus(a.byte()), Epoch: e.ID, TTL: time.Duration(algo.DefaultTerms.TTL) * time.Microsecond,
		Window: a.number(), Granted: a.number(), WindowLeft: a.duration(), Count: a.number(), Holders: int(a.number()),
	}
	a.outcome(&reply.State)
	if r.Limit.Algorithm == headgate.Ban && reply.Status == headgate.LeaseOK {
		reply.Granted = max(0, r.Granted)
		if reply.State.Allowed {
			reply.Granted += max(0, r.Want)
		}
	}
}
