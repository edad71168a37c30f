// Package refusal is what HTTP middleware and the reverse proxy answer to requests that do
// not pass: the status of each reason, and a problem document (RFC 9457), a page or a text,
// as Accept asks.
package refusal

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/headgate/headgate"
)

// JSON is the media type of the documents.
const JSON = "application/problem+json"

// Registered begins the types of section 5 of draft-ietf-httpapi-ratelimit-headers-11.
const Registered = "https://iana.org/assignments/http-problem-types#"

// Problem is the part of a document that does not change.
type Problem struct {
	Type, Title string
	Status      int
}

// The problems.
var (
	QuotaExceeded   = Problem{Registered + "quota-exceeded", "Quota exceeded", http.StatusTooManyRequests}
	AbnormalUsage   = Problem{Registered + "abnormal-usage-detected", "Abnormal usage detected", http.StatusTooManyRequests}
	ReducedCapacity = Problem{Registered + "temporary-reduced-capacity", "Capacity temporarily reduced", http.StatusServiceUnavailable}
	CostExceeds     = Problem{"urn:headgate:problem:cost_exceeds_limit", "Cost exceeds the limit", http.StatusUnprocessableEntity}
	NoRule          = Problem{"urn:headgate:problem:no_rule", "No rule lets this pass", http.StatusForbidden}
	DenyListed      = Problem{"urn:headgate:problem:deny_listed", "Deny-listed", http.StatusForbidden}
	InvalidRequest  = Problem{"urn:headgate:problem:invalid_request", "Invalid request", http.StatusBadRequest}
	InternalError   = Problem{"about:blank", "Internal Server Error", http.StatusInternalServerError}
)

// Of returns the problem of a refusal: 429 if a limit of the client's refuses, 422 for a
// cost that can never pass, 403 if the client may never pass, 503 if nobody would.
func Of(r headgate.Reason) Problem {
	switch r {
	case headgate.RateLimited, headgate.QuotaExceeded, headgate.ConcurrencyExceeded, headgate.WaitTimeout, headgate.BatchRefused:
		return QuotaExceeded
	case headgate.Banned:
		return AbnormalUsage
	case headgate.CostExceedsLimit:
		return CostExceeds
	case headgate.NoRule:
		return NoRule
	case headgate.DenyListed:
		return DenyListed
	default:
		return ReducedCapacity
	}
}

// Append appends the document and leaves the object open for members.
func (p Problem) Append(dst []byte, detail string) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, p.Type...)
	dst = append(dst, `","title":"`...)
	dst = append(dst, p.Title...)
	dst = append(dst, `","status":`...)
	dst = strconv.AppendInt(dst, int64(p.Status), 10)
	dst = append(dst, `,"detail":`...)
	return AppendQuoted(dst, detail)
}

// AppendQuoted appends s as a JSON string. Plain text is not copied on the way.
func AppendQuoted(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic("refusal: a string that is no JSON: " + err.Error()) // Marshal takes every string
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
