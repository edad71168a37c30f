package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/headgate/headgate/store/cas"
)

// Codes that the service answers and that have a meaning here.
const (
	codeNoTable   = "ResourceNotFoundException"
	codeInUse     = "ResourceInUseException"
	codeNoRight   = "AccessDeniedException"
	codeUnknownOp = "UnknownOperationException"
	codeCondition = "ConditionalCheckFailedException"
)

// answers names the failures that the service answers and that undo everything, by
// code. passing says that asking again soon may help.
var answers = map[string]struct {
	kind    string
	passing bool
}{
	"ProvisionedThroughputExceededException": {"throttled", true},
	"ThrottlingException":                    {"throttled", true},
	"Throttling":                             {"throttled", true},
	"RequestLimitExceeded":                   {"throttled", true},
	"LimitExceededException":                 {"throttled", true},
	"ReplicatedWriteConflictException":       {"conflict", true},
	"TransactionConflictException":           {"conflict", true},
	codeNoTable:                              {"table", false},
	codeInUse:                                {"table", true},
	codeNoRight:                              {"auth", false},
	"UnrecognizedClientException":            {"auth", false},
	"InvalidClientTokenId":                   {"auth", false},
	"InvalidSignatureException":              {"auth", false},
	"IncompleteSignature":                    {"auth", false},
	"IncompleteSignatureException":           {"auth", false},
	"MissingAuthenticationToken":             {"auth", false},
	"MissingAuthenticationTokenException":    {"auth", false},
	"ExpiredToken":                           {"auth", false},
	"ExpiredTokenException":                  {"auth", false},
	"OptInRequired":                          {"auth", false},
	"RequestExpired":                         {"clock", false},
	"RequestTimeTooSkewed":                   {"clock", false},
	"ValidationException":                    {"request", false},
	"SerializationException":                 {"request", false},
	codeUnknownOp:                            {"request", false},
}

// diagnose says what an error of the SDK means.
func diagnose(err error) *cas.Failure {
	if f, ok := errors.AsType[*cas.Failure](err); ok {
		return f
	}
	f := &cas.Failure{Kind: "connection", Passing: true, Err: fmt.Errorf("dynamodb: %w", plain(err))}
	if answer, ok := errors.AsType[smithy.APIError](err); ok {
		if known, ok := answers[answer.ErrorCode()]; ok {
			f.Kind, f.Unsent, f.Passing = known.kind, true, known.passing
			return f
		}
	}
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && r.HTTPStatusCode() != 0 {
		// An internal error may come after the write, and an answer that cannot be read
		// does.
		status := r.HTTPStatusCode()
		f.Kind, f.Passing = "server", status < 300 || status >= 500
		f.Unsent = !f.Passing
		return f
	}
	dial, dialed := errors.AsType[*net.OpError](err)
	_, named := errors.AsType[*net.DNSError](err)
	var timeout interface{ Timeout() bool }
	switch {
	case uncredited(err):
		f.Kind, f.Unsent, f.Passing = "auth", true, false
	case named || dialed && dial.Op == "dial":
		f.Kind, f.Unsent = "dial", true
	case errors.Is(err, context.Canceled):
		f.Kind, f.Passing = "canceled", false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		f.Kind = "timeout"
	}
	return f
}

// uncredited reports whether err is that there are no credentials to sign with.
func uncredited(err error) bool {
	text := err.Error()
	return strings.Contains(text, "get identity: ") || strings.Contains(text, "get credentials: ") || strings.Contains(text, "resolve auth scheme: ")
}

// plain is err without the words of the SDK around it.
func plain(err error) error {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return fmt.Errorf("%s: %s", strings.TrimSuffix(e.ErrorCode(), "Exception"), e.ErrorMessage())
	}
	if e, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*smithy.OperationError](err); ok {
		return e.Err
	}
	return err
}

// isCode reports whether the service answered with the code.
func isCode(err error, code string) bool {
	answer, ok := errors.AsType[smithy.APIError](err)
	return ok && answer.ErrorCode() == code
}
