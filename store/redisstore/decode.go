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
	short bool // it ended early, or is none
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

func (a *answer) count() int {
	s := a.bytes(2)
	return int(s[0]) | int(s[1])<<8
}

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

// quantity reads a number that is within ±2^53, or the answer is none.
func (a *answer) quantity() int64 {
	n := a.number()
	if n > headgate.MaxInt || n < -headgate.MaxInt {
		a.short = true
		return 0
	}
	return n
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
		return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("an answer that is none; %d bytes are left of it", len(a.text))}
	}
	return nil
}

// decodeBatch fills in what the answer says of b, which was decided under the epoch. The
// error is one of this call, not of the group.
func decodeBatch(r reply, e headgate.Epoch, b *headgate.Batch) (verdict, error) {
	a := answer{text: r.text}
	switch form := a.byte(); form {
	case formFast:
		a.states(b, int64(r.rank))
	case formGeneral:
		bits := a.byte()
		b.Allowed, b.Replayed, b.At = bits&1 != 0, bits&2 != 0, a.number()
		if hold := a.bytes(8); b.Replayed {
			b.Hold = binary.BigEndian.Uint64([]byte(hold))
		}
		outcomes := b.Outcomes()
		for i := range outcomes {
			a.outcome(&outcomes[i])
		}
	case formUndone:
	case formCalendar:
		return verdict{calendar: a.number()}, a.whole()
	case formConflict, formFull:
		b.Allowed, b.Replayed, b.At = false, false, a.number()
		if err := a.whole(); err != nil {
			return verdict{}, err
		}
		if form == formConflict {
			return verdict{}, errConflict
		}
		return verdict{}, errHolds
	default:
		return verdict{}, unknown(form)
	}
	if b.Op == headgate.Take || b.Op == headgate.Peek {
		charges, outcomes := b.Charges(), b.Outcomes()
		for i := range charges {
			recovering(&outcomes[i], charges[i].Limit, b.At, e)
		}
	}
	return verdict{}, a.whole()
}

// recovering notes in the outcome of a limit whether it refuses because the epoch is
// young.
func recovering(o *headgate.Outcome, l *headgate.Prepared, at int64, e headgate.Epoch) {
	o.Recovering = !o.Allowed && !o.Never && algo.Recovering(l, at, e)
}

func unknown(form byte) error {
	return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("an answer of unknown form %d", form)}
}

// states reads the states as they were before the equal calls, and does those on them
// that were allowed before this one, and then this one.
func (a *answer) states(b *headgate.Batch, rank int64) {
	allowed := int64(a.count())
	b.Allowed, b.Replayed, b.At = rank < allowed, false, a.quantity()
	op := headgate.Peek
	if b.Allowed {
		op = b.Op
	}
	call := algo.Call{Now: b.At}
	var words [2 + headgate.MaxSlices]int64
	charges, outcomes := b.Charges(), b.Outcomes()
	for i := range charges {
		l, o := charges[i].Limit, &outcomes[i]
		if l.Algorithm >= headgate.Ban { // of which there was nothing
			*o = headgate.Outcome{Allowed: true, Limit: l.Count, Remaining: l.Count}
			continue
		}
		st := words[:algo.Words(l)]
		for j := range st {
			st[j] = a.quantity()
		}
		if a.short {
			return
		}
		if n := min(rank, allowed); n > 0 && charges[i].Cost > 0 {
			if charges[i].Shadow && !l.Soft { // it may have refused some of them
				call.Op, call.Cost = headgate.Peek, 0
				algo.Apply(&call, l, st, o)
				n = min(n, o.Remaining/charges[i].Cost)
			}
			call.Op, call.Cost = headgate.Take, headgate.MaxInt
			if n <= headgate.MaxInt/charges[i].Cost {
				call.Cost = n * charges[i].Cost
			}
			algo.Apply(&call, l, st, o)
		}
		call.Op, call.Cost = op, charges[i].Cost
		algo.Apply(&call, l, st, o)
	}
}

// taken tells of an answer that nobody waits for whether it is a Take that was allowed
// and no replay: what is to be undone.
func taken(r reply) bool {
	a := answer{text: r.text}
	switch a.byte() {
	case formFast:
		return r.rank < a.count()
	case formGeneral:
		return a.byte() == 1
	default:
		return false
	}
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
	at := a.number()
	for i := range requests {
		a.reply(e, &requests[i], &replies[i])
		recovering(&replies[i].State, requests[i].Limit, at, e)
	}
	return verdict{at: at}, a.whole()
}

func (a *answer) reply(e headgate.Epoch, r *headgate.LeaseRequest, reply *headgate.LeaseReply) {
	*reply = headgate.LeaseReply{
		Status: headgate.LeaseStatus(a.byte()), Epoch: e.ID, TTL: time.Duration(algo.DefaultTerms.TTL) * time.Microsecond,
		Window: a.number(), Granted: a.number(), WindowLeft: a.duration(), Count: a.number(), Holders: int(a.number()),
	}
	a.outcome(&reply.State)
	if r.Limit.Algorithm == headgate.Ban && reply.Status == headgate.LeaseOK {
		reply.Granted = tokens(r.Granted)
		if reply.State.Allowed {
			reply.Granted = tokens(reply.Granted + tokens(r.Want))
		}
	}
}

// tokens cuts n to what can be a number of tokens.
func tokens(n int64) int64 { return max(0, min(headgate.MaxInt, n)) }
