package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
)

func TestDiagnoses(t *testing.T) {
	const again, unsent, unknown = "again", "unsent", "unknown"
	for _, test := range []struct {
		answer string
		kind   string
		then   string
		code   headgate.Code
	}{
		{"NOSCRIPT No matching script. Please use EVAL.", kindIncarnation, again, headgate.Unavailable},
		{"HGEPOCH another incarnation", kindIncarnation, again, headgate.Unavailable},
		{"MOVED 3999 127.0.0.1:6381", kindMoved, again, headgate.Unavailable},
		{"ASK 3999 127.0.0.1:6381", kindMoved, again, headgate.Unavailable},
		{"TRYAGAIN Multiple keys request during rehashing of slot", kindMoved, again, headgate.Unavailable},
		{"CLUSTERDOWN The cluster is down", kindDown, again, headgate.Unavailable},
		{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", kindDown, again, headgate.Unavailable},
		{"LOADING Redis is loading the dataset in memory", kindLoading, again, headgate.Unavailable},
		{"READONLY You can't write against a read only replica.", kindReadOnly, again, headgate.Unavailable},
		{"NOREPLICAS Not enough good replicas to write.", kindReplicas, again, headgate.Unavailable},
		{"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", kindBusy, again, headgate.Unavailable},
		{"ERR max number of clients reached", kindClients, again, headgate.Unavailable},
		{"OOM command not allowed when used memory > 'maxmemory'.", kindMemory, unsent, headgate.Overloaded},
		{"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", kindDisk, unsent, headgate.Unavailable},
		{"NOAUTH Authentication required.", kindAuth, unsent, headgate.Unavailable},
		{"WRONGPASS invalid username-password pair or user is disabled.", kindAuth, unsent, headgate.Unavailable},
		{"NOPERM this user has no permissions to run the 'evalsha' command", kindAuth, unsent, headgate.Unavailable},
		{"ERR AUTH <password> called without any password configured for the default user.", kindAuth, unsent, headgate.Unavailable},
		{"The user executing the script can't run this command or subcommand script: 0, on @user_script:1.", kindAuth, unsent, headgate.Unavailable},
		{"ACL failure in script: User app has no permissions to run the 'hset' command script: 0, on @user_script:1.", kindAuth, unsent, headgate.Unavailable},
		{"max number of clients reached", kindClients, again, headgate.Unavailable},
		{"ERR user_script:7: attempt to index a nil value", kindServer, unknown, headgate.Unavailable},
		{"WHATEVER", kindServer, unknown, headgate.Unavailable},
	} {
		d := diagnoseAnswer(test.answer, errors.New(test.answer))
		then := unknown
		switch {
		case d.unsent && d.passing:
			then = again
		case d.unsent:
			then = unsent
		case d.passing:
			t.Errorf("%s: passes though it may have been executed", test.answer)
		}
		if d.kind != test.kind || then != test.then || d.code() != test.code || d.Error() != test.answer {
			t.Errorf("%s: %s, %s, %v; want %s, %s, %v", test.answer, d.kind, then, d.code(), test.kind, test.then, test.code)
		}
	}
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, test := range []struct {
		err           error
		kind          string
		unsent, again bool
		code          headgate.Code
	}{
		{dial, kindDial, true, true, headgate.Unavailable},
		{fmt.Errorf("wrapped: %w", dial), kindDial, true, true, headgate.Unavailable},
		{&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, kindConnection, false, false, headgate.Unavailable},
		{io.EOF, kindConnection, false, false, headgate.Unavailable},
		{os.ErrDeadlineExceeded, kindTimeout, false, false, headgate.Unavailable},
		{context.DeadlineExceeded, kindTimeout, false, false, headgate.Unavailable},
		{context.Canceled, kindCanceled, false, false, headgate.Unavailable},
		{rueidis.ErrNoSlot, kindDown, true, true, headgate.Unavailable},
		{rueidis.ErrClosing, kindClosed, true, false, headgate.Closed},
		{errClosed, kindClosed, true, false, headgate.Closed},
	} {
		d := diagnose(test.err)
		if d.kind != test.kind || d.unsent != test.unsent || d.passing != test.again || d.code() != test.code {
			t.Errorf("%v: %+v, code %v", test.err, d, d.code())
		}
	}
}

// Errors have a code, a kind and the operation, and keep the code that they have.
func TestErrorsOfOperations(t *testing.T) {
	err := failed("take", diagnoseAnswer("OOM no room", errors.New("OOM no room")))
	if headgate.CodeOf(err) != headgate.Overloaded || kindOf(err) != kindMemory || err.Error() != "redis: take: OOM no room" {
		t.Errorf("%v: %v, %s", err, headgate.CodeOf(err), kindOf(err))
	}
	var k interface{ Kind() string }
	if !errors.As(err, &k) || k.Kind() != kindMemory {
		t.Error("no kind")
	}
	err = failed("take", errConflict)
	if headgate.CodeOf(err) != headgate.Conflict || kindOf(err) != "conflict" || !strings.HasPrefix(err.Error(), "redis: take: idempotency_key") {
		t.Errorf("%v: %v, %s", err, headgate.CodeOf(err), kindOf(err))
	}
	if kindOf(nil) != "" {
		t.Error("no error has a kind")
	}
}
