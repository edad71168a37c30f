package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// domain is that of the server's google.rpc.ErrorInfo.
const domain = "headgate"

// reasons are the codes that servers name.
var reasons = map[string]headgate.Code{
	"INVALID_REQUEST":        headgate.InvalidRequest,
	"NOT_FOUND":              headgate.NotFound,
	"IDEMPOTENCY_KEY_REUSED": headgate.Conflict,
	"UNAVAILABLE":            headgate.Unavailable,
	"OVERLOADED":             headgate.Overloaded,
	"CLOSED":                 headgate.Closed,
}

// answered is an error that came from the server, or from gRPC on the way to it.
type answered struct {
	status *status.Status
	detail string
}

// Error returns what the server says.
func (e *answered) Error() string { return e.detail }

// GRPCStatus returns the status as it came; status.Code and status.FromError find it.
func (e *answered) GRPCStatus() *status.Status { return e.status }

var errAnswer = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the server's answer is not whole")}

// moment is by how much a server may notice earlier than we that a deadline is over.
const moment = 20 * time.Millisecond

// failure is the error of a call in ctx, in the words of the gate; nil is nil.
func failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	if at, ok := ctx.Deadline(); ok && s.Code() == codes.DeadlineExceeded && time.Until(at) < moment {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("the request was ended: %w", context.Cause(ctx))}
	}
	for _, detail := range s.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.Domain != domain {
			continue
		}
		field := info.Metadata["field"]
		return &headgate.Error{
			Code: reasons[info.Reason], Field: field,
			Err: &answered{s, strings.TrimPrefix(s.Message(), field+": ")},
		}
	}
	code := headgate.Unknown
	if c := s.Code(); c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.Canceled {
		code = headgate.Unavailable
	}
	return &headgate.Error{Code: code, Err: &answered{s, s.Code().String() + ": " + s.Message()}}
}

// ofItem is the error of a batch of n items as that of the one at fault, if it is one.
func ofItem(err error, n int) (failed int, _ error) {
	e, ok := errors.AsType[*headgate.Error](err)
	if !ok {
		return -1, err
	}
	rest, ok := strings.CutPrefix(e.Field, "items.")
	if !ok {
		return -1, err
	}
	number, field, _ := strings.Cut(rest, ".")
	i, notNumber := strconv.Atoi(number)
	if notNumber != nil || i < 0 || i >= n {
		return -1, err
	}
	return i, &headgate.Error{Code: e.Code, Field: field, Err: e.Err}
}
