package httpgate

import (
	"errors"
	"html"
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
	p := refusal.Of(c.d.Reason)
	detail := ""
	if c.d.Message == "" && p.Status == http.StatusTooManyRequests {
		detail = m.Message
	}
	if detail == "" {
		detail = Detail(&c.d)
	}
	c.answer(w, r, p, detail, &c.d)
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
	m.OnError(r, err)
	yield(w)
	if m.FailOpen && fault == inlet.OfAway {
		w.Header().Set("Headgate-Degraded", "open")
		return true
	}
	reason := headgate.StoreUnavailable
	if headgate.CodeOf(err) == headgate.Overloaded {
		reason = headgate.OverloadedReason
	}
	w.Header().Set("Headgate-Degraded", "closed")
	w.Header().Set("Headgate-Reason", reason.String())
	c.answer(w, r, refusal.ReducedCapacity, unchecked, nil)
	return false
}

const unchecked = "the limits of this request could not be checked"

// fault answers a request that is at fault with 400, and one for which the program is
// with 500. Causes are told to OnError, not to the client.
func (m *middleware) fault(w http.ResponseWriter, r *http.Request, c *call, err error, ours bool) {
	m.OnError(r, err)
	if ours {
		c.answer(w, r, refusal.InternalError, unchecked, nil)
		return
	}
	detail := "the request cannot be limited as it stands"
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		detail += ": " + e.Field
	}
	c.answer(w, r, refusal.InvalidRequest, detail, nil)
}

// gone answers a request that was ended while it waited: by a client that left, who gets
// nothing, or by the program.
func (m *middleware) gone(w http.ResponseWriter, r *http.Request, c *call, err error) {
	m.OnError(r, err)
	c.answer(w, r, refusal.ReducedCapacity, "the request was ended while it waited", nil)
}

// answer writes a problem in the form that the client likes best. d is nil where nothing
// was decided.
func (c *call) answer(w http.ResponseWriter, r *http.Request, p refusal.Problem, detail string, d *gate.Decision) {
	h, set := w.Header(), &c.fields.set
	switch accepted(r.Header["Accept"]) {
	case htmlForm:
		set.SetString(h, "Content-Type", "text/html; charset=utf-8")
		set.SetString(h, "Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		c.body = appendPage(c.body[:0], p, detail)
	case textForm:
		set.SetString(h, "Content-Type", "text/plain; charset=utf-8")
		c.body = append(append(c.body[:0], detail...), '\n')
	default:
		set.SetString(h, "Content-Type", refusal.JSON)
		c.body = append(appendMembers(p.Append(c.body[:0], detail), d), "}\n"...)
	}
	h.Add("Vary", "Accept")
	set.SetString(h, "Cache-Control", "no-store")
	set.SetString(h, "X-Content-Type-Options", "nosniff")
	set.SetInteger(h, "Content-Length", int64(len(c.body)))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		w.Write(c.body) // an error means that the client has gone
	}
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

func appendPage(b []byte, p refusal.Problem, detail string) []byte {
	b = append(b, `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(append(b, ' '), p.Title...)
	b = append(append(b, "</title></head><body><h1>"...), p.Title...)
	b = append(append(b, "</h1><p>"...), html.EscapeString(detail)...)
	return append(b, "</p></body></html>\n"...)
}
