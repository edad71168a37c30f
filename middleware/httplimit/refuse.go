package httplimit

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/refusal"
)

// Status returns the status of a refusal: 429 if a limit of the client's
// refuses, 422 for a cost that can never pass, 503 if nobody would pass. (403 is
// for lists and rules, which only policies have.)
func Status(r headgate.Reason) int { return refusal.Of(r).Status }

// refuse writes the answer to a refused request.
func (m *middleware) refuse(w http.ResponseWriter, r *http.Request, s *state, d headgate.Decision) {
	h := w.Header()
	if d.Retryable {
		s.setter.SetInteger(h, "Retry-After", m.retryAfter(d.RetryAfter))
	}
	s.setter.SetString(h, "Headgate-Reason", d.Reason.String())
	if d.BoundBy >= 0 {
		s.setter.SetString(h, "Headgate-Limit", s.batch.Charges()[d.BoundBy].Limit.Name)
	}
	// A cached refusal would refuse those who may pass (RFC 6585, section 4).
	s.setter.SetString(h, "Cache-Control", "no-store")
	if m.OnLimited != nil {
		m.OnLimited(w, r, d)
		return
	}
	problem, detail := refusal.Of(d.Reason), m.Message
	switch problem.Status {
	case http.StatusUnprocessableEntity:
		detail = "This request costs more than the limit can ever hold"
	case http.StatusServiceUnavailable:
		detail = "The service is short of capacity"
	}
	s.body = problem.Append(s.body[:0], detail)
	s.appendViolated()
	if d.Retryable {
		const up = time.Millisecond - time.Nanosecond
		s.body = append(s.body, `,"retry_after_ms":`...)
		s.body = strconv.AppendInt(s.body, (d.RetryAfter + up).Milliseconds(), 10)
	}
	s.body = append(s.body, "}\n"...)
	s.setter.SetString(h, "Content-Type", refusal.JSON)
	w.WriteHeader(problem.Status)
	w.Write(s.body) // an error means that the client has gone
}

// appendViolated names the limits that refuse. Their names need no escapes, see
// headgate.CheckName.
func (s *state) appendViolated() {
	outcomes, sep := s.batch.Outcomes(), `,"violated-policies":["`
	for i, c := range s.batch.Charges() {
		if outcomes[i].Allowed {
			continue
		}
		s.body = append(s.body, sep...)
		s.body = append(s.body, c.Limit.Name...)
		sep = `","`
	}
	if sep == `","` {
		s.body = append(s.body, `"]`...)
	}
}

// undecided handles an error of the limiter and reports whether the request
// passes in spite of it.
func (m *middleware) undecided(w http.ResponseWriter, r *http.Request, err error) bool {
	if headgate.CodeOf(err) == headgate.InvalidRequest {
		m.fault(w, r, err)
		return false
	}
	m.OnError(r, err)
	if m.FailOpen {
		w.Header().Set("Headgate-Degraded", "open")
		return true
	}
	reason := headgate.StoreUnavailable
	if headgate.CodeOf(err) == headgate.Overloaded {
		reason = headgate.OverloadedReason
	}
	w.Header().Set("Headgate-Degraded", "closed")
	w.Header().Set("Headgate-Reason", reason.String())
	writeProblem(w, refusal.ReducedCapacity, "The limits of this request could not be checked")
	return false
}

// fault answers a request that is at fault with 400, and one for which the
// program is with 500. Causes are told to OnError, not to the client.
func (m *middleware) fault(w http.ResponseWriter, r *http.Request, err error) {
	m.OnError(r, err)
	if headgate.CodeOf(err) != headgate.InvalidRequest {
		writeProblem(w, refusal.InternalError, "The limits of this request could not be checked")
		return
	}
	detail := "The request cannot be limited as it stands"
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		detail += ": " + e.Field
	}
	writeProblem(w, refusal.InvalidRequest, detail)
}

func writeProblem(w http.ResponseWriter, p refusal.Problem, detail string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", refusal.JSON)
	w.WriteHeader(p.Status)
	w.Write(append(p.Append(nil, detail), "}\n"...)) // an error means that the client has gone
}
