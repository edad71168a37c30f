package answer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/headgate/headgate"
)

// domain is that of every ErrorInfo of ours.
const domain = "headgate"

// Code returns the code of a refusal: RESOURCE_EXHAUSTED if a limit of the
// client's, a ban or the wait in line refuses, INVALID_ARGUMENT for a cost that
// can never pass, PERMISSION_DENIED for clients that may never pass, UNAVAILABLE
// if nobody would pass.
func Code(r headgate.Reason) codes.Code {
	switch r {
	case headgate.RateLimited, headgate.QuotaExceeded, headgate.ConcurrencyExceeded, headgate.Banned, headgate.WaitTimeout, headgate.BatchRefused:
		return codes.ResourceExhausted
	case headgate.CostExceedsLimit:
		return codes.InvalidArgument
	case headgate.NoRule, headgate.DenyListed:
		return codes.PermissionDenied
	default:
		return codes.Unavailable
	}
}

// Verdict is a decision with what callers are told of its limits.
type Verdict struct {
	headgate.Decision
	// Limit is the name of the limit that decided, "" for none.
	Limit string
	// Violations are the limits that refuse; nil where none does.
	Violations []*errdetails.QuotaFailure_Violation
}

// Violation describes a limit of that name and unit that refuses.
func Violation(name, unit string, cost int64, a headgate.Algorithm, o *headgate.Outcome) *errdetails.QuotaFailure_Violation {
	if a == headgate.Concurrency {
		unit = "concurrent-" + unit
	}
	return &errdetails.QuotaFailure_Violation{
		Subject:     "limit:" + name,
		Description: fmt.Sprintf("%v: %d asked for, %d of %d left", o.Reason(a), cost, o.Remaining, o.Limit),
		ApiService:  domain,
		QuotaMetric: unit,
		QuotaId:     name,
		QuotaValue:  o.Limit,
	}
}

// Message is what the caller is told of a refusal for which there is no better
// word than exhausted, which is that of RESOURCE_EXHAUSTED.
func Message(r headgate.Reason, exhausted string) string {
	switch {
	case r == headgate.CostExceedsLimit:
		return "This call costs more than the limit can ever hold"
	case r == headgate.NoRule:
		return "No rule lets this call pass"
	case r == headgate.DenyListed:
		return "This client may not pass"
	case Code(r) == codes.Unavailable:
		return "The service is short of capacity"
	default:
		return exhausted
	}
}

// Refusal returns the status of a refusal, to be repeated after wait. origin is
// "client" or "server".
func (v *Verdict) Refusal(wait time.Duration, message, origin string) error {
	meta := map[string]string{"origin": origin}
	if v.Limit != "" {
		meta["limit"] = v.Limit
	}
	var details []protoadapt.MessageV1
	if len(v.Violations) > 0 {
		details = append(details, &errdetails.QuotaFailure{Violations: v.Violations})
	}
	if v.Retryable {
		meta["retry_after_ms"] = strconv.FormatInt(Milliseconds(wait), 10)
		details = append(details, retry(wait))
	}
	return withDetails(Code(v.Reason), message, append(details, info(v.Reason.String(), meta))...)
}

// Undecided returns the reason and the status of a call that could not be
// decided.
func Undecided(err error) (headgate.Reason, error) {
	reason := headgate.StoreUnavailable
	if headgate.CodeOf(err) == headgate.Overloaded {
		reason = headgate.OverloadedReason
	}
	return reason, withDetails(codes.Unavailable, unchecked, info(reason.String(), nil))
}

const unchecked = "The limits of this call could not be checked"

// ProgramFault returns the status of a call for which the program is at fault. It
// does not tell the cause.
func ProgramFault() error { return withDetails(codes.Internal, unchecked, info("internal", nil)) }

// CallFault returns the status of a call that is at fault. Of the cause it tells
// the field alone.
func CallFault(err error) error {
	message, meta := "The call cannot be limited as it stands", map[string]string{}
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		message += ": " + e.Field
		meta["field"] = e.Field
	}
	return withDetails(codes.InvalidArgument, message, info("invalid_request", meta))
}

// Fault returns CallFault for errors with code InvalidRequest, else
// ProgramFault.
func Fault(err error) error {
	if headgate.CodeOf(err) == headgate.InvalidRequest {
		return CallFault(err)
	}
	return ProgramFault()
}

// Paused returns the status of a call that a client does not send, as a server
// has answered with code and asked to wait, which is to last for left.
func Paused(code codes.Code, left time.Duration) error {
	meta := map[string]string{"origin": "client", "retry_after_ms": strconv.FormatInt(Milliseconds(left), 10)}
	return withDetails(code, "Not sent: the server asked to wait", retry(left), info("paused", meta))
}

// Unsent reports whether info is that of a call which a client has not sent, by Paused or
// by a Refusal of origin "client".
func Unsent(info *errdetails.ErrorInfo) bool {
	return info.GetDomain() == domain && info.GetMetadata()["origin"] == "client"
}

func retry(wait time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}
}

func info(reason string, meta map[string]string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: strings.ToUpper(reason), Domain: domain, Metadata: meta}
}

func withDetails(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	st := status.New(code, message)
	if detailed, err := st.WithDetails(details...); err == nil {
		st = detailed
	}
	return st.Err()
}
