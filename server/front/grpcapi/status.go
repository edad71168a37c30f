package grpcapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front/problem"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is that of the google.rpc.ErrorInfo of every error. Its reason is the name of
// the JSON API's problem in capitals, and its metadata has the field at fault.
const Domain = "headgate"

// code is the status of an error of the gate. RESOURCE_EXHAUSTED is not among them: a
// refusal is an answer.
func code(err error) codes.Code {
	switch headgate.CodeOf(err) {
	case headgate.InvalidRequest, headgate.InvalidLimit:
		return codes.InvalidArgument
	case headgate.NotFound:
		return codes.NotFound
	case headgate.Conflict:
		return codes.AlreadyExists
	case headgate.Unavailable, headgate.Overloaded, headgate.Closed:
		return codes.Unavailable
	default:
		return codes.Internal
	}
}

// broken reports whether the server is at fault, so that its log must say how.
func broken(err error) bool {
	c := code(err)
	return (c == codes.Internal || c == codes.Unavailable) && !isStatus(err)
}

// statusError is an error that gRPC sends as it is.
type statusError interface {
	error
	GRPCStatus() *status.Status
}

func isStatus(err error) bool {
	_, ok := err.(statusError) // not one that a store wraps
	return ok
}

// statusOf returns err as it is told to clients: what the caller did wrong in full, of
// what went wrong inside only the kind.
func statusOf(err error) error {
	switch {
	case isStatus(err):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	p := problem.Of(err)
	info := &errdetails.ErrorInfo{Reason: strings.ToUpper(p.Name), Domain: Domain}
	details := []protoadapt.MessageV1{info}
	if p.Field != "" {
		info.Metadata = map[string]string{"field": text(p.Field)}
	}
	c := code(err)
	if p.Field != "" && c == codes.InvalidArgument {
		violation := &errdetails.BadRequest_FieldViolation{
			Field: text(p.Field), Description: text(strings.TrimPrefix(p.Detail, p.Field+": ")),
		}
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{violation}})
	}
	return detailed(c, p.Detail, details...)
}

func detailed(c codes.Code, detail string, details ...protoadapt.MessageV1) error {
	s, err := status.New(c, text(detail)).WithDetails(details...)
	if err != nil {
		panic(err) // only messages that cannot be encoded, or the code OK
	}
	return s.Err()
}

func refused(c codes.Code, reason, detail string, more ...protoadapt.MessageV1) error {
	return detailed(c, detail, append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: Domain}}, more...)...)
}

// Unauthenticated is the error for a call that shows no token, or not a good one.
func Unauthenticated(detail string) error {
	return refused(codes.Unauthenticated, "UNAUTHENTICATED", detail)
}

// Forbidden is the error for a call whose token does not permit it.
func Forbidden(detail string) error { return refused(codes.PermissionDenied, "FORBIDDEN", detail) }

// TooMany is the error for wrong tokens beyond the bound, until after is over.
func TooMany(detail string, after time.Duration) error {
	return refused(codes.ResourceExhausted, "RATE_LIMITED", detail, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}
