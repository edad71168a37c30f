package httpgate

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/internal/refusal"
)

var errEmpty = errors.New("the key is empty")

// refuse answers a request that the decision refuses.
func (m *middleware) refuse(w http.ResponseWriter, r *http.Request, c *call) {
	// A cached refusal would refuse those who may pass (RFC 6585, section 4).
	c.fields.set.SetString(w.Header(), "Cache-Control", "no-store")
	if m.OnLimited != nil {
		m.OnLimited(w, r, &c.d)
		return
	}
	p, detail := refusal.Of(c.d.Reason), c.d.Message
	if detail == "" && p.Status == http.StatusTooManyRequests {
		detail = m.Message
	}
	again := detail == ""
	if again {
		detail = sentence(c.d.Reason)
	}
	c.answer(w, r, refusal.Answer{Problem: p, Detail: detail, Again: again}, &c.d)
}

// undecided answers a request that the engine could not decide, and reports whether it
// passes in spite of that.
func (m *middleware) undecided(w http.ResponseWriter, r *http.Request, c *call, err error) bool {
	fault := inlet.FaultOf(err, &c.req)
	switch {
	case r.Context().Err() != nil:
		m.gone(w, r, c, err)
		return false
	case fault == inlet.OfClient, fault == inlet.OfProgram:
		m.fault(w, r, c, err, fault == inlet.OfProgram)
		return false
	}
	m.report(r, err, undecidedLine)
	yield(w)
	if m.FailOpen && fault == inlet.OfAway {
		w.Header().Set("Headgate-Degraded", "open")
		return true
	}
	reason := headgate.StoreUnavailable
	if headgate.CodeOf(err) == headgate.Overloaded {
		reason = headgate.OverloadedReason
	}
	h, set := w.Header(), &c.fields.set
	set.SetString(h, "Headgate-Degraded", "closed")
	set.SetString(h, "Headgate-Reason", reason.String())
	set.SetInteger(h, "Retry-After", engineRetry)
	c.answer(w, r, refusal.Answer{Problem: refusal.ReducedCapacity, Detail: unchecked}, nil)
	return false
}

// engineRetry is when to ask again after the engine could not decide, in seconds. Errors
// do not say it; gates of which only the store is away say the same in their decisions.
const engineRetry = 1

const unchecked = "the limits of this request could not be checked"

// fault answers a request that is at fault with 400, and one for which the program is
// with 500. Causes are told to OnError, not to the client.
func (m *middleware) fault(w http.ResponseWriter, r *http.Request, c *call, err error, ours bool) {
	if ours {
		m.report(r, err, undecidedLine)
		c.answer(w, r, refusal.Answer{Problem: refusal.InternalError, Detail: unchecked}, nil)
		return
	}
	m.report(r, err, "")
	detail := "the request cannot be limited as it stands"
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		detail += ": " + e.Field
	}
	c.answer(w, r, refusal.Answer{Problem: refusal.InvalidRequest, Detail: detail}, nil)
}

// gone answers a request that was ended while it waited: by a client that left, who gets
// nothing, or by the program.
func (m *middleware) gone(w http.ResponseWriter, r *http.Request, c *call, err error) {
	m.report(r, err, "")
	c.answer(w, r, refusal.Answer{Problem: refusal.ReducedCapacity, Detail: "the request was ended while it waited"}, nil)
}

// logEvery is how often the log is told of errors of one kind, at most.
const logEvery = 10 * time.Second

const undecidedLine = "no decision"

// report tells OnError of an error, or where there is none the log: the line, unless it is
// "", which is for faults and departures of clients.
func (m *middleware) report(r *http.Request, err error, line string) {
	switch code := headgate.CodeOf(err).String(); {
	case m.OnError != nil:
		m.OnError(r, err)
	case line != "":
		m.faults.Log(slog.Default(), slog.LevelError, line+code, line, "application", m.Application, "code", code, "error", err)
	}
}

// answer writes what the client is told. d is nil where nothing was decided.
func (c *call) answer(w http.ResponseWriter, r *http.Request, a refusal.Answer, d *gate.Decision) {
	c.members = appendMembers(c.members[:0], d)
	a.Members = c.members
	c.writer.Write(w, r, &c.fields.set, a)
}

// appendMembers appends the limits that refuse, and when the request would pass.
func appendMembers(b []byte, d *gate.Decision) []byte {
	if d == nil {
		return b
	}
	limits, sep := d.Limits(), `,"violated-policies":[`
	for i := range limits {
		if limits[i].Allowed || limits[i].Shadow {
			continue
		}
		b = refusal.AppendQuoted(append(b, sep...), limits[i].ID)
		sep = ","
	}
	if sep == "," {
		b = append(b, ']')
	}
	if d.Retryable {
		const up = time.Millisecond - time.Nanosecond
		b = append(b, `,"retry_after_ms":`...)
		b = strconv.AppendInt(b, (d.RetryAfter + up).Milliseconds(), 10)
	}
	return b
}
