package grpclimit

import (
	"errors"
	"fmt"
	"math/rand/v2"
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

// pushback is the trailer that tells a client's retry policy when to come back.
const pushback = "grpc-retry-pushback-ms"

// Code returns the code of a refusal: RESOURCE_EXHAUSTED if a limit of the
// client's refuses, INVALID_ARGUMENT for a cost that can never pass, UNAVAILABLE
// if nobody would pass.
func Code(r headgate.Reason) codes.Code {
	switch r {
	case headgate.RateLimited, headgate.QuotaExceeded, headgate.ConcurrencyExceeded, headgate.Banned, headgate.WaitTimeout:
		return codes.ResourceExhausted
	case headgate.CostExceedsLimit:
		return codes.InvalidArgument
	default:
		return codes.Unavailable
	}
}

// refusal returns the status of a refusal, to be repeated after wait. message is
// that of RESOURCE_EXHAUSTED, origin "client" or "server".
func (s *state) refusal(d headgate.Decision, wait time.Duration, message, origin string) error {
	code := Code(d.Reason)
	switch code {
	case codes.InvalidArgument:
		message = "This call costs more than the limit can ever hold"
	case codes.Unavailable:
		message = "The service is short of capacity"
	}
	meta := map[string]string{"origin": origin}
	if d.BoundBy >= 0 {
		meta["limit"] = s.batch.Charges()[d.BoundBy].Limit.Name
	}
	details := []protoadapt.MessageV1{s.violations()}
	if d.Retryable {
		meta["retry_after_ms"] = strconv.FormatInt(milliseconds(wait), 10)
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	}
	return withDetails(code, message, append(details, info(d.Reason.String(), meta))...)
}

// violations names the limits that refuse.
func (s *state) violations() *errdetails.QuotaFailure {
	f := &errdetails.QuotaFailure{}
	outcomes := s.batch.Outcomes()
	for i, c := range s.batch.Charges() {
		o := &outcomes[i]
		if o.Allowed {
			continue
		}
		metric := "requests"
		if c.Limit.Algorithm == headgate.Concurrency {
			metric = "concurrent-requests"
		}
		f.Violations = append(f.Violations, &errdetails.QuotaFailure_Violation{
			Subject:     "limit:" + c.Limit.Name,
			Description: fmt.Sprintf("%v: %d asked for, %d of %d left", o.Reason(c.Limit.Algorithm), c.Cost, o.Remaining, o.Limit),
			ApiService:  domain,
			QuotaMetric: metric,
			QuotaId:     c.Limit.Name,
			QuotaValue:  o.Limit,
		})
	}
	return f
}

// undecidedStatus is the reason and the status of a call that the limiter could
// not decide.
func undecidedStatus(err error) (headgate.Reason, error) {
	reason := headgate.StoreUnavailable
	if headgate.CodeOf(err) == headgate.Overloaded {
		reason = headgate.OverloadedReason
	}
	return reason, withDetails(codes.Unavailable, "The limits of this call could not be checked", info(reason.String(), nil))
}

// faultStatus is the status of a call that is at fault, or for which the program
// is. It does not tell causes.
func faultStatus(err error) error {
	if headgate.CodeOf(err) != headgate.InvalidRequest {
		return withDetails(codes.Internal, "The limits of this call could not be checked", info("internal", nil))
	}
	message, meta := "The call cannot be limited as it stands", map[string]string{}
	if e, ok := errors.AsType[*headgate.Error](err); ok && e.Field != "" {
		message += ": " + e.Field
		meta["field"] = e.Field
	}
	return withDetails(codes.InvalidArgument, message, info("invalid_request", meta))
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

// spread returns wait and up to percent of it more.
func spread(wait time.Duration, percent int) time.Duration {
	most := wait / 100 * time.Duration(percent)
	if most <= 0 {
		return wait
	}
	return wait + rand.N(most+1)
}

// milliseconds rounds up.
func milliseconds(d time.Duration) int64 {
	return (d + time.Millisecond - time.Nanosecond).Milliseconds()
}
