package headgate

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an [Error] is.
type Code uint8

// The codes. A refusal is not among them: it is a [Decision].
const (
	// Unknown is a failure without a code.
	Unknown Code = iota
	// InvalidLimit: a limit's numbers are impossible or too large.
	InvalidLimit
	// InvalidRequest: a request cannot be decided as it stands.
	InvalidRequest
	// NotFound: the request names something that does not exist.
	NotFound
	// Unavailable: the store could not decide.
	Unavailable
	// Overloaded: the store has no room for the state of another key.
	Overloaded
	// Closed: the store or gate was closed.
	Closed
	// Conflict: the request's idempotency key was used for another one.
	Conflict
)

var codeNames = [...]string{"unknown", "invalid_limit", "invalid_request", "not_found", "unavailable", "overloaded", "closed", "conflict"}

// String returns the code's name.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// Error is a failure to decide.
type Error struct {
	Code Code
	// Field is the part of the request at fault, as the JSON API names it,
	// such as "cost" or "request.path"; empty if none is.
	Field string
	Err   error
}

// Error returns the field, if there is one, and the cause.
func (e *Error) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Err.Error()
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first *Error that err wraps, else Unknown.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Unknown
}
