package grpcapi

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// reply is a decision as it is sent: messages that are used again for the next one.
type reply struct {
	decision  headgatev1.Decision
	candidate headgatev1.Candidate
	costs     spare[headgatev1.UnitCost]
	limits    spare[headgatev1.LimitState]
	tried     spare[headgatev1.LimitState] // of the candidate
	headers   []headgatev1.HeaderStyle
	ticket    []byte
}

// spare is a list of messages, of which those beyond its length are used again.
type spare[T any] []*T

// next makes the list longer by one message, which may be in any state.
func (s *spare[T]) next() *T {
	n := len(*s)
	if n < cap(*s) {
		*s = (*s)[:n+1]
	} else {
		*s = append(*s, nil)
	}
	if (*s)[n] == nil {
		(*s)[n] = new(T)
	}
	return (*s)[n]
}

// fill makes r say what d does. It is valid until the next one, and refers to what d
// refers to.
func (r *reply) fill(d *gate.Decision) *headgatev1.Decision {
	r.costs = r.costs[:0]
	for _, c := range d.Costs() {
		*r.costs.next() = headgatev1.UnitCost{Unit: text(c.Unit), Cost: c.Cost, Reserved: c.Reserved}
	}
	r.limits = fillLimits(r.limits[:0], d.Limits())
	r.headers = appendHeaders(r.headers[:0], d.Headers)
	r.decision = headgatev1.Decision{
		DecisionId: id(d.ID), Allowed: d.Allowed, Reason: headgatev1.Reason(d.Reason), BoundBy: d.BoundByID(), Retryable: d.Retryable,
		Application: d.Application, Rule: d.Rule, Operation: text(d.Operation), Subject: text(d.Subject), Plan: text(d.Plan),
		Cost: d.Cost, Costs: r.costs,
		Limit: d.Limit, Remaining: d.Remaining, RetryAfterUs: micros(d.RetryAfter), ResetAfterUs: micros(d.ResetAfter),
		Limits: r.limits, Mode: mode(d.Shadow), WouldDeny: headgatev1.Reason(d.WouldDeny),
		Degraded: d.Degraded, Replayed: d.Replayed, WaitedUs: micros(d.Waited), PolicyRevision: d.Revision, DelayUs: micros(d.Delay), Held: d.Held,
		Corrects: d.Corrects, Reserved: d.Reserved, Message: text(d.Message), Headers: r.headers, RetryJitter: int32(d.RetryJitter),
		SubjectFrom: headgatev1.SubjectSource(d.SubjectFrom), PlanFrom: headgatev1.PlanSource(d.PlanFrom),
		CostFrom: headgatev1.CostSource(d.CostFrom) + headgatev1.CostSource_COST_SOURCE_RULE,
		Timezone: zone(d.Zone), Anchor: int32(d.Anchor),
	}
	if at := d.At(); !at.IsZero() {
		r.decision.DecidedAtUs = at.UnixMicro()
	}
	if d.HasTicket() {
		r.ticket = d.AppendTicket(r.ticket[:0])
		r.decision.Ticket = string(r.ticket)
	}
	if sum, limits, ok := d.Candidate(); ok {
		r.tried = fillLimits(r.tried[:0], limits)
		r.candidate = headgatev1.Candidate{
			Allowed: sum.Allowed, Reason: headgatev1.Reason(sum.Reason), Retryable: sum.Retryable, Limit: sum.Limit, Remaining: sum.Remaining,
			RetryAfterUs: micros(sum.RetryAfter), ResetAfterUs: micros(sum.ResetAfter), DelayUs: micros(sum.Delay), Limits: r.tried,
		}
		if sum.BoundBy >= 0 && sum.BoundBy < len(limits) {
			r.candidate.BoundBy = limits[sum.BoundBy].ID
		}
		r.decision.Candidate = &r.candidate
	}
	return &r.decision
}

func fillLimits(list spare[headgatev1.LimitState], limits []gate.LimitState) spare[headgatev1.LimitState] {
	for i := range limits {
		l, m := &limits[i], list.next()
		numbers := m.Numbers
		if numbers == nil {
			numbers = new(headgatev1.LimitNumbers)
		}
		fillNumbers(numbers, l.Limit)
		*m = headgatev1.LimitState{
			Id: l.ID, Algorithm: algorithm(l.Limit.Algorithm), Owner: l.Owner, Unit: l.Unit, Allowed: l.Allowed,
			Limit: l.Outcome.Limit, Used: l.Used, Remaining: l.Remaining, Overage: l.Overage, Rollover: l.Rollover(),
			RetryAfterUs: micros(l.RetryAfter), ResetAfterUs: micros(l.ResetAfter), ResetsAtUs: l.ResetsAt,
			Mode: mode(l.Shadow), Exact: !l.Shared && !l.Leased, Shared: l.Shared, Leased: l.Leased, Recovering: l.Recovering, Never: l.Never,
			DelayUs: micros(l.Delay), Cost: l.Cost, Later: l.Later, ShadowBy: headgatev1.ShadowCause(l.ShadowBy),
			NumbersFrom: headgatev1.NumbersSource(l.Numbers) + headgatev1.NumbersSource_NUMBERS_SOURCE_LIMIT, Numbers: numbers,
		}
		if l.Share != nil {
			m.Share = new(headgatev1.LimitNumbers)
			fillNumbers(m.Share, l.Share)
		}
	}
	return list
}

func fillNumbers(n *headgatev1.LimitNumbers, p *headgate.Prepared) {
	*n = headgatev1.LimitNumbers{
		Name: p.Name, Count: p.Count, PeriodUs: p.Period.Microseconds(), Burst: p.Burst, Slices: int32(p.Slices), TtlUs: p.TTLMicros,
		CalendarUnit: headgatev1.CalendarUnit(p.Calendar.Unit), Timezone: zone(p.Calendar.Location), Anchor: int32(p.Calendar.Anchor),
		Soft: p.Soft, Rollover: p.Limit.Rollover,
	}
}

func algorithm(a headgate.Algorithm) headgatev1.Algorithm {
	return headgatev1.Algorithm(a) + headgatev1.Algorithm_ALGORITHM_TOKEN_BUCKET
}

// styles are the header styles in the order of their bits.
var styles = [...]headgatev1.HeaderStyle{
	headgatev1.HeaderStyle_HEADER_STYLE_IETF, headgatev1.HeaderStyle_HEADER_STYLE_DRAFT03,
	headgatev1.HeaderStyle_HEADER_STYLE_X_DELTA, headgatev1.HeaderStyle_HEADER_STYLE_X_EPOCH,
}

func appendHeaders(list []headgatev1.HeaderStyle, h policy.HeaderStyles) []headgatev1.HeaderStyle {
	for i, style := range styles {
		if h&(1<<i) != 0 {
			list = append(list, style)
		}
	}
	return list
}

func mode(shadow bool) headgatev1.Mode {
	if shadow {
		return headgatev1.Mode_MODE_SHADOW
	}
	return headgatev1.Mode_MODE_ENFORCE
}

// micros rounds up: a wait that is told too short is a wait for nothing.
func micros(d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	if d%time.Microsecond > 0 {
		us++
	}
	return us
}

func zone(l *time.Location) string {
	if l == nil {
		return ""
	}
	return l.String()
}

func id(v [2]uint64) string {
	var raw [16]byte
	var digits [32]byte
	binary.BigEndian.PutUint64(raw[:8], v[0])
	binary.BigEndian.PutUint64(raw[8:], v[1])
	hex.Encode(digits[:], raw[:])
	return string(digits[:])
}

// text is s as a message can hold it. Subjects that expressions make of a path may be
// any bytes.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
