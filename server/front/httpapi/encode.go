package httpapi

import (
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/server/front"
)

// appendDecision appends d and the state of its limits as the contract writes
// them: every field, always in one order.
func appendDecision(b []byte, d *gate.Decision, limits []gate.LimitState) []byte {
	return append(appendOpen(b, d, limits), '}')
}

// appendAnswer appends d as it was asked for.
func (a *ask) appendAnswer(b []byte, d *gate.Decision) []byte {
	b = appendOpen(b, d, d.Limits())
	if a.fields {
		b = appendFields(b, d)
	}
	return append(b, '}')
}

// appendFields appends the header fields that tell HTTP clients of d.
func appendFields(b []byte, d *gate.Decision) []byte {
	var room [headgate.MaxCharges]ratefield.Item
	items := inlet.Items(room[:0], d)
	if len(items) == 0 {
		return b
	}
	var text [512]byte // usually enough
	b = appendString(append(b, `,"ratelimit_policy":`...), string(ratefield.AppendPolicy(text[:0], items)))
	return appendString(append(b, `,"ratelimit":`...), string(ratefield.AppendLimit(text[:0], items)))
}

// appendHeld appends the answer to a ticket.
func appendHeld(b []byte, d *gate.Decision) []byte {
	b = append(appendOpen(b, d, d.Limits()), `,"held":`...)
	return append(strconv.AppendBool(b, d.Held), '}')
}

// appendOpen leaves the object open.
func appendOpen(b []byte, d *gate.Decision, limits []gate.LimitState) []byte {
	b = append(b, `{"decision_id":"`...)
	b = appendID(b, d.ID)
	b = append(b, `","allowed":`...)
	b = strconv.AppendBool(b, d.Allowed)
	b = append(b, `,"reason":"`...)
	b = append(b, d.Reason.String()...)
	b = append(b, `","bound_by":`...)
	bound := d.BoundBy >= 0 && d.BoundBy < len(limits)
	if bound {
		b = appendString(b, limits[d.BoundBy].ID)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"retryable":`...)
	b = strconv.AppendBool(b, d.Retryable)
	b = append(b, `,"application":`...)
	b = appendString(b, d.Application)
	b = append(b, `,"rule":`...)
	b = appendString(b, d.Rule)
	b = append(b, `,"operation":`...)
	b = appendString(b, d.Operation)
	b = append(b, `,"subject":`...)
	b = appendString(b, d.Subject)
	b = append(b, `,"plan":`...)
	b = appendString(b, d.Plan)
	b = append(b, `,"cost":`...)
	b = strconv.AppendInt(b, d.Cost, 10)
	b = append(b, `,"costs":`...)
	b = appendCosts(b, d.Costs())
	b = append(b, `,"limit":`...)
	b = appendIntIf(b, bound, d.Limit)
	b = append(b, `,"remaining":`...)
	b = appendIntIf(b, bound, d.Remaining)
	b = append(b, `,"retry_after_ms":`...)
	b = appendIntIf(b, d.Retryable && (bound || d.RetryAfter > 0), front.Millis(d.RetryAfter))
	b = append(b, `,"reset_after_ms":`...)
	b = appendIntIf(b, bound, front.Millis(d.ResetAfter))
	b = append(b, `,"limits":[`...)
	b = appendLimits(b, limits)
	b = append(b, `],"mode":"`...)
	b = append(b, mode(d.Shadow)...)
	b = append(b, `","would_deny":`...)
	b = appendStringIf(b, d.WouldDeny != headgate.NoReason, d.WouldDeny.String())
	b = append(b, `,"candidate":`...)
	if sum, limits, ok := d.Candidate(); ok {
		b = appendCandidate(b, &sum, limits)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"degraded":`...)
	b = appendStringIf(b, d.Degraded != "", d.Degraded)
	b = append(b, `,"replayed":`...)
	b = strconv.AppendBool(b, d.Replayed)
	b = append(b, `,"waited_ms":`...)
	b = strconv.AppendInt(b, front.Millis(d.Waited), 10)
	b = append(b, `,"ticket":`...)
	if d.HasTicket() {
		b = append(b, '"')
		b = d.AppendTicket(b)
		b = append(b, '"')
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"policy_revision":`...)
	b = strconv.AppendUint(b, d.Revision, 10)
	if d.Delay > 0 {
		// Leaky buckets, where we did not wait it out: the caller has to.
		b = append(b, `,"delay_ms":`...)
		b = strconv.AppendInt(b, front.Millis(d.Delay), 10)
	}
	if !d.Allowed && d.Message != "" {
		b = appendString(append(b, `,"message":`...), d.Message)
	}
	return b
}

func appendCosts(b []byte, costs []gate.UnitCost) []byte {
	b = append(b, '{')
	for i := range costs {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, costs[i].Unit)
		b = append(b, ':')
		b = strconv.AppendInt(b, costs[i].Cost, 10)
	}
	return append(b, '}')
}

// appendCandidate appends what limits on trial would have answered.
func appendCandidate(b []byte, sum *headgate.Decision, limits []gate.LimitState) []byte {
	b = append(b, `{"allowed":`...)
	b = strconv.AppendBool(b, sum.Allowed)
	b = append(b, `,"reason":"`...)
	b = append(b, sum.Reason.String()...)
	b = append(b, `","bound_by":`...)
	bound := sum.BoundBy >= 0 && sum.BoundBy < len(limits)
	if bound {
		b = appendString(b, limits[sum.BoundBy].ID)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"retry_after_ms":`...)
	b = appendIntIf(b, sum.Retryable && bound, front.Millis(sum.RetryAfter))
	b = append(b, `,"limits":[`...)
	b = appendLimits(b, limits)
	return append(b, `]}`...)
}

func appendExplanation(b []byte, e *gate.Explanation) []byte {
	b = append(b, `{"verdict":`...)
	b = appendString(b, e.Verdict)
	b = append(b, `,"steps":[`...)
	for i := range e.Steps {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"about":`...)
		b = appendString(b, e.Steps[i].About)
		b = append(b, `,"text":`...)
		b = appendString(b, e.Steps[i].Text)
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

func appendLimits(b []byte, limits []gate.LimitState) []byte {
	for i := range limits {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLimit(b, &limits[i])
	}
	return b
}

func appendLimit(b []byte, l *gate.LimitState) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, l.ID)
	b = append(b, `,"algorithm":"`...)
	b = append(b, l.Limit.Algorithm.String()...)
	b = append(b, `","owner":`...)
	b = appendString(b, l.Owner)
	b = append(b, `,"unit":`...)
	b = appendString(b, l.Unit)
	b = append(b, `,"allowed":`...)
	b = strconv.AppendBool(b, l.Allowed)
	b = append(b, `,"limit":`...)
	b = strconv.AppendInt(b, l.Outcome.Limit, 10)
	b = append(b, `,"used":`...)
	b = strconv.AppendInt(b, l.Used, 10)
	b = append(b, `,"remaining":`...)
	b = strconv.AppendInt(b, l.Remaining, 10)
	b = append(b, `,"overage":`...)
	b = strconv.AppendInt(b, l.Overage, 10)
	if n := l.Rollover(); n > 0 {
		b = append(b, `,"rollover":`...)
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, `,"retry_after_ms":`...)
	b = appendIntIf(b, !l.Never, front.Millis(l.RetryAfter))
	b = append(b, `,"reset_after_ms":`...)
	b = strconv.AppendInt(b, front.Millis(l.ResetAfter), 10)
	b = append(b, `,"resets_at":`...)
	if l.ResetsAt == 0 {
		b = append(b, "null"...)
	} else {
		b = append(b, '"')
		b = instant(l).AppendFormat(b, time.RFC3339)
		b = append(b, '"')
	}
	b = append(b, `,"mode":"`...)
	b = append(b, mode(l.Shadow)...)
	b = append(b, `","exact":`...)
	b = strconv.AppendBool(b, !l.Shared && !l.Leased)
	if l.Recovering {
		b = append(b, `,"recovering":true`...)
	}
	return append(b, '}')
}

// instant is the end of a quota's period on the clock of its time zone.
func instant(l *gate.LimitState) time.Time {
	loc := l.Limit.Calendar.Location
	if loc == nil {
		loc = time.UTC
	}
	return time.UnixMicro(l.ResetsAt).In(loc)
}

func mode(shadow bool) string {
	if shadow {
		return "shadow"
	}
	return "enforce"
}

func appendID(b []byte, id [2]uint64) []byte {
	var raw [16]byte
	for i := range 8 {
		raw[i] = byte(id[0] >> (56 - 8*i))
		raw[8+i] = byte(id[1] >> (56 - 8*i))
	}
	return hex.AppendEncode(b, raw[:])
}

func appendIntIf(b []byte, is bool, v int64) []byte {
	if !is {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, v, 10)
}

func appendStringIf(b []byte, is bool, v string) []byte {
	if !is {
		return append(b, "null"...)
	}
	return appendString(b, v)
}

// appendString appends s in quotes, byte for byte as encoding/json does
// without HTML escaping.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[from:i]...)
			b = appendEscape(b, c)
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(append(b, s[from:i]...), `\ufffd`...)
		case r == '\u2028':
			b = append(append(b, s[from:i]...), `\u2028`...)
		case r == '\u2029':
			b = append(append(b, s[from:i]...), `\u2029`...)
		default:
			i += n
			continue
		}
		i += n
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
}
