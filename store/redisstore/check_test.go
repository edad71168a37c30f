package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// What servers answer to a login, or to a user without rights, in the words that
// operators read.
func TestExplainAuth(t *testing.T) {
	const rights = `h:1: user "app" may not do all that keeping limits takes: give the rights that docs/shared-store.md lists, on keys ~hg:*`
	for _, test := range []struct{ url, answer, want string }{
		{"redis://h:1", "NOAUTH HELLO must be called with", "h:1 wants a password: write it into the URL, redis://:PASSWORD@HOST"},
		{"rediss://h:1", "NOAUTH Authentication required.", "h:1 wants a password: write it into the URL, rediss://:PASSWORD@HOST"},
		{"redis://h:1?sentinel=m", "NOAUTH Authentication required.", `"m" by sentinels h:1 wants a password: write it into the URL, redis://:PASSWORD@HOST (that of the sentinels themselves is sentinel_password)`},
		{"redis://:p@h:1", "WRONGPASS invalid", "h:1 refuses the password: it is wrong, or belongs to a user whom the URL must name, redis://USER:PASSWORD@HOST"},
		{"redis://app:p@h:1", "WRONGPASS invalid", `h:1 refuses user "app": the name or the password is wrong, or the user is off`},
		{"redis://:p@h:1", "ERR AUTH <password> called without any password configured", "h:1 does not let us in: ERR AUTH <password> called without any password configured"},
		{"redis://app:p@h:1", "NOPERM this user has no permissions to run the 'info' command", rights + ": NOPERM this user has no permissions to run the 'info' command"},
		{"redis://app:p@h:1", "ERR The user executing the script can't run this command or subcommand script: f926, on @user_script:207.", rights},
		{"redis://app:p@h:1", "ACL failure in script: User app has no permissions to run the 'hset' command script: f926, on @user_script:207.", rights + ": User app has no permissions to run the 'hset' command"},
		{"redis://h:1?prefix=x:", "NOPERM No permissions to access a key", "h:1: the default user may not do all that keeping limits takes: give the rights that docs/shared-store.md lists, on keys ~x:*: NOPERM No permissions to access a key"},
	} {
		target, err := parseURL(test.url)
		if err != nil {
			t.Fatal(err)
		}
		err = explain(target, diagnoseAnswer(test.answer, errors.New(test.answer)))
		if err.Error() != test.want {
			t.Errorf("%s, %s:\n got %v\nwant %s", test.url, test.answer, err, test.want)
		}
		if wanted := strings.HasPrefix(test.answer, "NOAUTH"); errors.Is(err, ErrPasswordWanted) != wanted {
			t.Errorf("%s: ErrPasswordWanted is %v", test.answer, !wanted)
		}
	}
}

func TestExplainBroken(t *testing.T) {
	const (
		plain  = "h:1 hangs up: if it speaks TLS, begin the URL with rediss://, and add cert=FILE and key=FILE if it wants a client certificate: "
		secure = "h:1 hangs up: if it wants a client certificate, add cert=FILE and key=FILE to the URL: "
		other  = "cannot use h:1: "
	)
	var (
		reset   = &net.OpError{Op: "read", Err: syscall.ECONNRESET}
		pipe    = &net.OpError{Op: "write", Err: syscall.EPIPE}
		alert   = errors.New("received unknown message type: 21")
		html    = errors.New("received unknown message type: 72")
		wanted  = errors.New("remote error: tls: certificate required")
		nothing = &tls.Config{}
		ours    = &tls.Config{Certificates: make([]tls.Certificate, 1)}
	)
	for _, test := range []struct {
		tls  *tls.Config
		err  error
		want string
	}{
		{nil, io.EOF, plain + "EOF"},
		{nil, reset, plain + reset.Error()},
		{nil, pipe, plain + pipe.Error()},
		{nil, alert, plain + alert.Error()},
		{nil, html, "what answers at h:1 is not Redis: look at host and port"},
		{nil, errors.New("unbounded redis message"), other + "unbounded redis message"},
		{nothing, io.EOF, secure + "EOF"},
		{nothing, fmt.Errorf("wrapped: %w", io.ErrUnexpectedEOF), secure + "wrapped: unexpected EOF"},
		{nothing, reset, secure + reset.Error()},
		{nothing, wanted, secure + wanted.Error()},
		{nothing, html, "what answers at h:1 is not Redis: look at host and port"},
		{ours, reset, other + reset.Error()},
		{ours, wanted, other + wanted.Error()},
	} {
		if err := explain(&target{addrs: []string{"h:1"}, tls: test.tls}, test.err); err.Error() != test.want {
			t.Errorf("%v:\n got %v\nwant %s", test.err, err, test.want)
		}
	}
}

// How long was waited is said in place of the clock's own words.
func TestExplainSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := &target{addrs: []string{"h:1"}, asked: time.Now()}
		<-time.After(2003 * time.Millisecond)
		for secure, want := range map[*tls.Config]string{nil: "h:1 did not answer within 2s", {}: "h:1 did not answer within 2s, or does not speak TLS"} {
			silent.tls = secure
			if err := explain(silent, context.DeadlineExceeded); err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}
