package httplimit

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate"
)

// Status returns the status of a refusal: 429 if a limit of the client's
// refuses, 422 for a cost that can never pass, 503 if nobody would pass.
func Status(r headgate.Reason) int {
	switch r {
	case headgate.RateLimited, headgate.QuotaExceeded, headgate.ConcurrencyExceeded, headgate.Banned, headgate.WaitTimeout:
		return http.StatusTooManyRequests
	case headgate.CostExceedsLimit:
		return http.StatusUnprocessableEntity
	default:
		return http.StatusServiceUnavailable
	}
}

// A problem is the part of a body that does not change. The types at iana.org
// are those of section 5 of draft-ietf-httpapi-ratelimit-headers-11.
type problem struct {
	typ, title string
	status     int
}

const registered = "https://iana.org/assignments/http-problem-types#"

var (
	quotaExceeded   = problem{registered + "quota-exceeded", "Quota exceeded", http.StatusTooManyRequests}
	abnormalUsage   = problem{registered + "abnormal-usage-detected", "Abnormal usage detected", http.StatusTooManyRequests}
	reducedCapacity = problem{registered + "temporary-reduced-capacity", "Capacity temporarily reduced", http.StatusServiceUnavailable}
	costExceeds     = problem{"urn:headgate:problem:cost_exceeds_limit", "Cost exceeds the limit", http.StatusUnprocessableEntity}
	invalidRequest  = problem{"urn:headgate:problem:invalid_request", "Invalid request", http.StatusBadRequest}
	internalError   = problem{"about:blank", "Internal Server Error", http.StatusInternalServerError}
)

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
	switch status := Status(d.Reason); {
	case status == http.StatusUnprocessableEntity:
		s.body = costExceeds.appendTo(s.body[:0], quote("This request costs more than the limit can ever hold"))
	case status == http.StatusServiceUnavailable:
		s.body = reducedCapacity.appendTo(s.body[:0], quote("The service is short of capacity"))
	case d.Reason == headgate.Banned:
		s.body = abnormalUsage.appendTo(s.body[:0], m.message)
	default:
		s.body = quotaExceeded.appendTo(s.body[:0], m.message)
	}
	s.appendViolated()
	if d.Retryable {
		const up = time.Millisecond - time.Nanosecond
		s.body = append(s.body, `,"retry_after_ms":`...)
		s.body = strconv.AppendInt(s.body, (d.RetryAfter + up).Milliseconds(), 10)
	}
	s.body = append(s.body, "}\n"...)
	s.setter.SetString(h, "Content-Type", problemJSON)
	w.WriteHeader(Status(d.Reason))
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
	reducedCapacity.write(w, "The limits of this request could not be checked")
	return false
}

// fault answers a request that is at fault with 400, and one for which the
// program is with 500. Causes are told to OnError, not to the client.
func (m *middleware) fault(w http.ResponseWriter, r *http.Request, err error) {
	m.OnError(r, err)
	if headgate.CodeOf(err) != headgate.InvalidRequest {
		internalError.write(w, "The limits of this request could not be checked")
		return
	}
	detail := "The request cannot be limited as it stands"
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		detail += ": " + e.Field
	}
	invalidRequest.write(w, detail)
}

const problemJSON = "application/problem+json"

func (p problem) write(w http.ResponseWriter, detail string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", problemJSON)
	w.WriteHeader(p.status)
	w.Write(append(p.appendTo(nil, quote(detail)), "}\n"...)) // an error means that the client has gone
}

// appendTo leaves the object open. detail is a JSON string.
func (p problem) appendTo(dst, detail []byte) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, p.typ...)
	dst = append(dst, `","title":"`...)
	dst = append(dst, p.title...)
	dst = append(dst, `","status":`...)
	dst = strconv.AppendInt(dst, int64(p.status), 10)
	dst = append(dst, `,"detail":`...)
	return append(dst, detail...)
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("httplimit: a string that is no JSON: " + err.Error()) // Marshal takes every string
	}
	return b
}
