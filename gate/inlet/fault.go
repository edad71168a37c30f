package inlet

import (
	"errors"
	"slices"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// Fault is whose it is that a request was not decided.
type Fault uint8

// The faults.
const (
	// OfEngine: it could not decide, perhaps for what the client has sent.
	OfEngine Fault = iota
	// OfAway: it is away or closed, such as a Client whose server is away. Only then may
	// requests pass that nobody has decided.
	OfAway
	// OfClient: the request cannot be decided as it stands.
	OfClient
	// OfProgram: no request could be, whatever a client sends. The policy or the program
	// around the engine is at fault.
	OfProgram
)

// FaultOf returns whose fault the error is with which an engine answered q.
func FaultOf(err error, q *gate.Request) Fault {
	switch headgate.CodeOf(err) {
	case headgate.NotFound:
		return OfProgram
	case headgate.InvalidRequest:
		if ours(err, q) {
			return OfProgram
		}
		return OfClient
	case headgate.Unavailable, headgate.Closed:
		return OfAway
	case headgate.Unknown:
		if !wellFormed(q) {
			return OfClient
		}
	}
	return OfEngine
}

// ours reports whether an invalid request is the fault of the policy or of Config,
// whatever the client sent: limits count units that nobody says or that no limit counts,
// the plan that Config.Plan said is unknown, or the application is at fault.
func ours(err error, q *gate.Request) bool {
	e, ok := errors.AsType[*headgate.Error](err)
	return ok && (e.Field == "application" || e.Field == "costs" || e.Field == "plan" && q.Plan != "")
}

// wellFormed reports whether all that the client says is UTF-8: nothing else crosses a
// wire, and engines behind one fail.
func wellFormed(q *gate.Request) bool {
	for name, values := range q.Headers {
		if !utf8.ValidString(name) || slices.ContainsFunc(values, func(v string) bool { return !utf8.ValidString(v) }) {
			return false
		}
	}
	return utf8.ValidString(q.Method) && utf8.ValidString(q.Path) && utf8.ValidString(q.Host) && utf8.ValidString(q.Subject)
}
