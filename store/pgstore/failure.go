package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headgate/headgate/store/cas"
)

// SQLSTATEs that have a meaning here. The first two are our own.
const (
	stateEpoch    = "HG001" // another epoch
	stateInserted = "HG002" // somebody else has inserted the same row

	stateNoDatabase = "3D000"
	stateNoRight    = "42501"
	stateReadOnly   = "25006"
	stateInternal   = "XX000" // also of a plan whose function is gone
)

const (
	// kindEpoch is the kind of failures that are due to another epoch.
	kindEpoch = "epoch"
	// kindServer is that of what the server answers and has no name of its own.
	kindServer = "server"
)

// kinds names the failures that the server answers, by SQLSTATE. passing says that
// asking again soon may help.
var kinds = map[string]struct {
	kind    string
	passing bool
}{
	stateInserted:   {"conflict", true},
	"40001":         {"conflict", true}, // serialization_failure
	"40P01":         {"deadlock", true},
	"55P03":         {"lock_timeout", true},
	"57014":         {"timeout", true}, // statement_timeout
	"57P01":         {"restart", true}, // admin_shutdown
	"57P02":         {"restart", true}, // crash_shutdown
	"57P03":         {"starting", true},
	"53300":         {"connections", true}, // too_many_connections
	"53100":         {"disk", false},
	"53200":         {"memory", true},
	stateInternal:   {kindServer, true},
	stateReadOnly:   {"read_only", true},
	stateNoRight:    {"auth", false},
	stateNoDatabase: {"database", false},
}

// diagnose says what an error means. answered says that the server had begun its
// answer: else whatever it reports has undone everything.
func diagnose(err error, answered bool) *cas.Failure {
	if f, ok := errors.AsType[*cas.Failure](err); ok {
		return f
	}
	f := &cas.Failure{Kind: "connection", Passing: true, Err: fmt.Errorf("postgres: %w", err)}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		f.Unsent, f.Passing = !answered, false
		known, ok := kinds[answer.Code]
		switch {
		case ok:
			f.Kind, f.Passing = known.kind, known.passing
		case answer.Code == stateEpoch:
			f.Kind, f.Stale = kindEpoch, true
		case strings.HasPrefix(answer.Code, "28"):
			f.Kind = "auth"
		default:
			f.Kind = kindServer
		}
		return f
	}
	f.Unsent = pgconn.SafeToRetry(err)
	switch {
	case errors.Is(err, context.Canceled):
		f.Kind, f.Passing = "canceled", false
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		f.Kind = "timeout"
	}
	return f
}

// unconnected says what an error of getting a connection means: nothing was asked.
func unconnected(err error) *cas.Failure {
	f := diagnose(err, false)
	g := *f
	g.Unsent = true
	switch g.Kind {
	case "connection":
		g.Kind = "dial"
	case "timeout":
		g.Kind = "pool"
	}
	return &g
}
