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
		s.setter.SetString(h, "Headgate-Limit", s.batch.Charges()[d.BoundBy].Limit.Label)
	}
	// Also where OnLimited answers: a cached refusal would refuse those who may pass
	// (RFC 6585, section 4).
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
	s.appendMembers(d)
	s.writer.Write(w, r, &s.setter, refusal.Answer{Problem: problem, Detail: detail, Members: s.members})
}

// appendMembers names the limits that refuse, and says when the request would pass. Labels
// need no escapes, see headgate.CheckName.
func (s *state) appendMembers(d headgate.Decision) {
	s.members = s.members[:0]
	outcomes, sep := s.batch.Outcomes(), `,"violated-policies":["`
	for i, c := range s.batch.Charges() {
		if outcomes[i].Allowed {
			continue
		}
		s.members = append(s.members, sep...)
		s.members = append(s.members, c.Limit.Label...)
		sep = `","`
	}
	if sep == `","` {
		s.members = append(s.members, `"]`...)
	}
	if d.Retryable {
		const up = time.Millisecond - time.Nanosecond
		s.members = append(s.members, `,"retry_after_ms":`...)
		s.members = strconv.AppendInt(s.members, (d.RetryAfter + up).Milliseconds(), 10)
	}
}

// storeRetry is when to ask again after nothing could be decided, in seconds: stores do
// not say it.
const storeRetry = "1"

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
	w.Header().Set("Retry-After", storeRetry)
	answer(w, r, refusal.ReducedCapacity, "The limits of this request could not be checked")
	return false
}

// fault answers a request that is at fault with 400, and one for which the
// program is with 500. Causes are told to OnError, not to the client.
func (m *middleware) fault(w http.ResponseWriter, r *http.Request, err error) {
	m.OnError(r, err)
	if headgate.CodeOf(err) != headgate.InvalidRequest {
		answer(w, r, refusal.InternalError, "The limits of this request could not be checked")
		return
	}
	detail := "The request cannot be limited as it stands"
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		detail += ": " + e.Field
	}
	answer(w, r, refusal.InvalidRequest, detail)
}

// answer is told where nothing was decided.
func answer(w http.ResponseWriter, r *http.Request, p refusal.Problem, detail string) {
	s := states.Get().(*state)
	s.writer.Write(w, r, &s.setter, refusal.Answer{Problem: p, Detail: detail})
	states.Put(s)
}
