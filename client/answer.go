package client

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"sync"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// answer is a decision as it was read, and lists that are used again.
type answer struct {
	gate.Answer
	candidate gate.AnsweredCandidate
}

// reset drops what the answer refers to.
func (a *answer) reset() {
	costs, limits, tried := a.Costs, a.Limits, a.candidate.Limits
	clear(costs)
	clear(limits)
	clear(tried)
	*a = answer{Answer: gate.Answer{Costs: costs[:0], Limits: limits[:0]}, candidate: gate.AnsweredCandidate{Limits: tried[:0]}}
}

// read returns what m says.
func (a *answer) read(m *headgatev1.Decision) *gate.Answer {
	costs, limits := a.Costs[:0], readLimits(a.Limits[:0], m.Limits)
	for _, c := range m.Costs {
		costs = append(costs, gate.UnitCost{Unit: c.Unit, Cost: c.Cost, Reserved: c.Reserved})
	}
	a.Answer = gate.Answer{
		Decision: headgate.Decision{
			Allowed: m.Allowed, Reason: small[headgate.Reason](m.Reason), Retryable: m.Retryable, BoundBy: find(limits, m.BoundBy),
			Limit: m.Limit, Remaining: m.Remaining, ResetAfter: span(m.ResetAfterUs), RetryAfter: span(m.RetryAfterUs), Delay: span(m.DelayUs),
		},
		ID: id(m.DecisionId), Application: m.Application, Rule: m.Rule, Operation: m.Operation, Subject: m.Subject, Plan: m.Plan,
		SubjectFrom: small[gate.SubjectSource](m.SubjectFrom), PlanFrom: small[gate.PlanSource](m.PlanFrom),
		CostFrom: small[gate.CostSource](m.CostFrom - headgatev1.CostSource_COST_SOURCE_RULE),
		Zone:     zone(m.Timezone), Anchor: int(m.Anchor), Cost: m.Cost, Corrects: m.Corrects, Reserved: m.Reserved,
		Shadow: m.Mode == headgatev1.Mode_MODE_SHADOW, WouldDeny: small[headgate.Reason](m.WouldDeny), Degraded: m.Degraded,
		Replayed: m.Replayed, Waited: span(m.WaitedUs), Held: m.Held, Revision: m.PolicyRevision,
		Headers: headers(m.Headers), RetryJitter: int(m.RetryJitter), Message: m.Message,
		At: instant(m.DecidedAtUs), Costs: costs, Limits: limits, Ticket: m.Ticket,
	}
	if c := m.Candidate; c != nil {
		tried := readLimits(a.candidate.Limits[:0], c.Limits)
		a.candidate = gate.AnsweredCandidate{
			Sum: headgate.Decision{
				Allowed: c.Allowed, Reason: small[headgate.Reason](c.Reason), Retryable: c.Retryable, BoundBy: find(tried, c.BoundBy),
				Limit: c.Limit, Remaining: c.Remaining, ResetAfter: span(c.ResetAfterUs), RetryAfter: span(c.RetryAfterUs), Delay: span(c.DelayUs),
			},
			Limits: tried,
		}
		a.Candidate = &a.candidate
	}
	return &a.Answer
}

func readLimits(list []gate.AnsweredLimit, limits []*headgatev1.LimitState) []gate.AnsweredLimit {
	for _, m := range limits {
		l := gate.AnsweredLimit{
			State: gate.LimitState{
				ID: m.Id, Owner: m.Owner, Unit: m.Unit, Cost: m.Cost, Later: m.Later,
				Shadow: m.Mode == headgatev1.Mode_MODE_SHADOW, ShadowBy: small[gate.ShadowCause](m.ShadowBy),
				Numbers: small[gate.NumbersSource](m.NumbersFrom - headgatev1.NumbersSource_NUMBERS_SOURCE_LIMIT),
				Outcome: headgate.Outcome{
					Allowed: m.Allowed, Never: m.Never, Shared: m.Shared, Leased: m.Leased, Recovering: m.Recovering,
					Limit: m.Limit, Used: m.Used, Remaining: m.Remaining, Overage: m.Overage,
					RetryAfter: span(m.RetryAfterUs), ResetAfter: span(m.ResetAfterUs), Delay: span(m.DelayUs), ResetsAt: m.ResetsAtUs,
				},
			},
			Numbers: numbers(m.Algorithm, m.Numbers),
		}
		if m.Share != nil {
			l.Part = new(numbers(m.Algorithm, m.Share))
		}
		list = append(list, l)
	}
	return list
}

func numbers(a headgatev1.Algorithm, m *headgatev1.LimitNumbers) headgate.Limit {
	if m == nil {
		return headgate.Limit{}
	}
	return headgate.Limit{
		Name: m.Name, Algorithm: small[headgate.Algorithm](a - headgatev1.Algorithm_ALGORITHM_TOKEN_BUCKET),
		Count: m.Count, Period: span(m.PeriodUs), Burst: m.Burst, Slices: int(m.Slices), TTL: span(m.TtlUs),
		Calendar: headgate.Calendar{Unit: small[headgate.CalendarUnit](m.CalendarUnit), Location: zone(m.Timezone), Anchor: int(m.Anchor)},
		Soft:     m.Soft, Rollover: m.Rollover,
	}
}

// find returns the index of the limit with an id, or -1.
func find(limits []gate.AnsweredLimit, id string) int {
	if id == "" {
		return -1
	}
	for i := range limits {
		if limits[i].State.ID == id {
			return i
		}
	}
	return -1
}

// small is v as one of ours, where the numbers are the same; what is beyond is the
// last.
func small[T ~uint8, V ~int32](v V) T {
	if v < 0 || v > math.MaxUint8 {
		return math.MaxUint8
	}
	return T(v)
}

// span is a duration of so many microseconds, as far as there is one.
func span(us int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Microsecond)
	return time.Duration(min(max(us, -most), most)) * time.Microsecond
}

func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us)
}

// id is the number of 32 hexadecimal digits, 0 for others.
func id(s string) (v [2]uint64) {
	var raw [16]byte
	if len(s) != 2*len(raw) {
		return v
	}
	if _, err := hex.Decode(raw[:], []byte(s)); err != nil {
		return v
	}
	return [2]uint64{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}
}

func headers(list []headgatev1.HeaderStyle) (h policy.HeaderStyles) {
	for _, style := range list {
		switch style {
		case headgatev1.HeaderStyle_HEADER_STYLE_IETF:
			h |= policy.HeadersIETF
		case headgatev1.HeaderStyle_HEADER_STYLE_DRAFT03:
			h |= policy.HeadersDraft03
		case headgatev1.HeaderStyle_HEADER_STYLE_X_DELTA:
			h |= policy.HeadersXDelta
		case headgatev1.HeaderStyle_HEADER_STYLE_X_EPOCH:
			h |= policy.HeadersXEpoch
		}
	}
	return h
}

// maxZones bounds the time zones that are kept.
const maxZones = 1024

var zones struct {
	mu     sync.RWMutex
	loaded map[string]*time.Location
}

// zone returns the time zone of a name, nil, which is UTC, where this machine does not
// know it.
func zone(name string) *time.Location {
	if name == "" {
		return nil
	}
	zones.mu.RLock()
	l, ok := zones.loaded[name]
	zones.mu.RUnlock()
	if ok {
		return l
	}
	l, err := time.LoadLocation(name)
	if err != nil {
		l = nil
	}
	zones.mu.Lock()
	defer zones.mu.Unlock()
	if have, ok := zones.loaded[name]; ok {
		return have
	}
	if zones.loaded == nil || len(zones.loaded) >= maxZones {
		zones.loaded = make(map[string]*time.Location)
	}
	zones.loaded[name] = l
	return l
}
