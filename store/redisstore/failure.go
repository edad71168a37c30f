package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
)

// failure says why the servers did not decide.
type failure struct {
	// kind is one of the names below, for metrics.
	kind string
	// unsent says that nothing was executed, so that asking again cannot charge
	// twice; passing that asking again soon may help.
	unsent, passing bool
	err             error
}

// The kinds of failures.
const (
	kindTimeout     = "timeout"      // no answer in time; whether it was executed is not known
	kindCanceled    = "canceled"     // the caller gave up
	kindConnection  = "connection"   // the connection broke; whether it was executed is not known
	kindDial        = "dial"         // no connection
	kindIncarnation = "incarnation"  // another incarnation than the one that is known
	kindMoved       = "moved"        // slots move between masters
	kindDown        = "cluster_down" // the cluster, or the primary, is away
	kindLoading     = "loading"      // the server reads its data
	kindReadOnly    = "read_only"    // the server is a replica
	kindReplicas    = "no_replicas"  // the server misses replicas and takes no writes
	kindMemory      = "memory"       // the server has no room
	kindDisk        = "disk"         // the server cannot save, and takes no writes
	kindAuth        = "auth"         // the server does not let us in, or not do this
	kindBusy        = "busy"         // the server runs another's script
	kindClients     = "clients"      // the server takes no more connections
	kindProtocol    = "protocol"     // an answer that is none
	kindClosed      = "closed"       // the store was closed
	kindServer      = "server"       // any other error that the server answered
)

// Error returns the cause's words.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// Kind returns the name of what went wrong, for metrics.
func (f *failure) Kind() string { return f.kind }

// refusals are what servers answer without having executed anything: by the
// first word of the answer. Scripts write last, so what stops their first write
// stops all.
var refusals = map[string]failure{
	"NOSCRIPT":    {kind: kindIncarnation, unsent: true, passing: true},
	markerWord:    {kind: kindIncarnation, unsent: true, passing: true},
	"MOVED":       {kind: kindMoved, unsent: true, passing: true},
	"ASK":         {kind: kindMoved, unsent: true, passing: true},
	"TRYAGAIN":    {kind: kindMoved, unsent: true, passing: true},
	"CLUSTERDOWN": {kind: kindDown, unsent: true, passing: true},
	"MASTERDOWN":  {kind: kindDown, unsent: true, passing: true},
	"LOADING":     {kind: kindLoading, unsent: true, passing: true},
	"READONLY":    {kind: kindReadOnly, unsent: true, passing: true},
	"NOREPLICAS":  {kind: kindReplicas, unsent: true, passing: true},
	"BUSY":        {kind: kindBusy, unsent: true, passing: true},
	"OOM":         {kind: kindMemory, unsent: true},
	"MISCONF":     {kind: kindDisk, unsent: true},
	"NOAUTH":      {kind: kindAuth, unsent: true},
	"WRONGPASS":   {kind: kindAuth, unsent: true},
	"NOPERM":      {kind: kindAuth, unsent: true},
}

// What servers answer to scripts of users with too few rights begins so: that of
// Redis hides the command, and that of Valkey names it.
const (
	scriptRefused = "The user executing the script can't"
	scriptLacks   = "ACL failure in script: "
)

// errClosed is the cause of failures after Close.
var errClosed = errors.New("the store was closed")

// diagnose says what an error of the client means.
func diagnose(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if answer, ok := errors.AsType[*rueidis.RedisError](err); ok {
		return diagnoseAnswer(answer.Error(), err)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return &failure{kind: kindDial, unsent: true, passing: true, err: err}
	}
	switch {
	case errors.Is(err, errClosed), errors.Is(err, rueidis.ErrClosing):
		return &failure{kind: kindClosed, unsent: true, err: errClosed}
	case errors.Is(err, rueidis.ErrNoSlot):
		return &failure{kind: kindDown, unsent: true, passing: true, err: err}
	case errors.Is(err, context.Canceled):
		return &failure{kind: kindCanceled, err: err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return &failure{kind: kindTimeout, err: err}
	}
	return &failure{kind: kindConnection, err: err}
}

// diagnoseAnswer says what an error that a server answered means.
func diagnoseAnswer(answer string, err error) *failure {
	answer = strings.TrimPrefix(answer, "ERR ")
	word, _, _ := strings.Cut(answer, " ")
	f, ok := refusals[word]
	switch {
	case ok:
	case strings.HasPrefix(answer, "max number of clients"):
		f = failure{kind: kindClients, unsent: true, passing: true}
	case strings.HasPrefix(answer, scriptRefused), strings.HasPrefix(answer, scriptLacks), strings.Contains(answer, "without any password configured"):
		f = failure{kind: kindAuth, unsent: true}
	default:
		f = failure{kind: kindServer}
	}
	f.err = err
	return &f
}

// code returns what the failure is to callers. A full server is not away: who
// lets pass what cannot be decided must not do so because of a flood.
func (f *failure) code() headgate.Code {
	switch f.kind {
	case kindMemory:
		return headgate.Overloaded
	case kindClosed:
		return headgate.Closed
	default:
		return headgate.Unavailable
	}
}

// failed is the error of an operation. Errors that have a code already keep it.
func failed(op string, err error) error {
	if _, ok := errors.AsType[*headgate.Error](err); ok {
		return fmt.Errorf("redis: %s: %w", op, err)
	}
	f := diagnose(err)
	return fmt.Errorf("redis: %s: %w", op, &headgate.Error{Code: f.code(), Err: f})
}

// kindOf returns the kind of an error that failed made, "" for nil.
func kindOf(err error) string {
	if err == nil {
		return ""
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.kind
	}
	return headgate.CodeOf(err).String()
}
