package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"
)

// oldest is the first version of Redis that will do. Older ones replicate scripts,
// so that a promoted replica would not be known for another server.
const oldest = 7

// server is what a server says of itself.
type server map[string]string

// ask returns what a server says of itself.
func ask(ctx context.Context, c rueidis.Client) (server, error) {
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return nil, err
	}
	s := make(server)
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(line, ":"); found {
			s[name] = strings.TrimSpace(value)
		}
	}
	return s, nil
}

// checkKind returns an error unless the server at addr is of the kind that the
// URL says.
func (s server) checkKind(addr string, cluster bool) error {
	mode := s["redis_mode"]
	if mode == "" {
		mode = s["server_mode"] // Valkey
	}
	switch {
	case mode == "sentinel":
		return fmt.Errorf("%s is a sentinel: add ?sentinel=NAME with the name under which it knows the servers", addr)
	case mode == "cluster" && !cluster:
		return fmt.Errorf("%s is a server of a cluster: add ?cluster=true", addr)
	case mode != "cluster" && cluster:
		return fmt.Errorf("%s is not a server of a cluster: leave ?cluster=true out", addr)
	}
	return nil
}

// check returns an error unless the server at addr can keep limits. The warning,
// which may be empty, is for the operator.
func (s server) check(addr string, evicting bool) (warning string, err error) {
	major, _, _ := strings.Cut(s["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldest {
		return "", fmt.Errorf("%s has version %q: must be Redis %d.0 or later, or Valkey", addr, s["redis_version"], oldest)
	}
	switch {
	case s["loading"] == "1":
		return "", fmt.Errorf("%s is loading its data: try again when it has", addr)
	case s["role"] != "master":
		return "", fmt.Errorf("%s is a replica of %s:%s: name the primary, or let sentinels or the cluster say which it is", addr, s["master_host"], s["master_port"])
	}
	policy := s["maxmemory_policy"]
	if policy == "" || policy == "noeviction" {
		return "", nil
	}
	if s["maxmemory"] == "0" {
		return fmt.Sprintf("%s would evict keys if it had a maxmemory (maxmemory-policy %s), which forgets limits; noeviction would not", addr, policy), nil
	}
	if evicting {
		return fmt.Sprintf("%s evicts keys when it is full (maxmemory-policy %s), which forgets limits: whoever fills it gets fresh ones", addr, policy), nil
	}
	return "", fmt.Errorf("%s evicts keys when it is full (maxmemory-policy %s), which forgets limits: set maxmemory-policy noeviction, or accept it with ?eviction=accept", addr, policy)
}

// explain puts an error of connecting to t into one sentence.
func explain(t *target, err error) error {
	d := diagnose(err)
	switch d.kind {
	case kindAuth:
		return explainAuth(t, d)
	case kindDial:
		return fmt.Errorf("cannot connect to %s: %w", t, err)
	case kindTimeout:
		waited := time.Since(t.asked).Round(10 * time.Millisecond)
		if t.tls != nil {
			return fmt.Errorf("%s did not answer within %v, or does not speak TLS", t, waited)
		}
		return fmt.Errorf("%s did not answer within %v", t, waited)
	case kindLoading:
		return fmt.Errorf("%s is loading its data: %w", t, err)
	case kindServer:
		if t.sentinel != "" && strings.Contains(err.Error(), "unknown command") {
			return fmt.Errorf("%s: not sentinels: leave ?sentinel out, or name the sentinels: %w", t, err)
		}
		if t.sentinel != "" && strings.Contains(err.Error(), "No such master") {
			return fmt.Errorf("%s: the sentinels know no servers by that name", t)
		}
	case kindConnection:
		return explainBroken(t, err)
	}
	return fmt.Errorf("cannot use %s: %w", t, err)
}

// ErrPasswordWanted is what [Open] wraps where servers want a password and the URL
// has none.
var ErrPasswordWanted = errors.New("wants a password")

// explainAuth puts into one sentence that the servers do not let us in, or not do
// what we must.
func explainAuth(t *target, d *failure) error {
	scheme, user := "redis", "the default user"
	if t.tls != nil {
		scheme = "rediss"
	}
	if t.user != "" {
		user = "user " + strconv.Quote(t.user)
	}
	sentinels := ""
	if t.sentinel != "" {
		sentinels = " (that of the sentinels themselves is sentinel_password)"
	}
	answer := strings.TrimPrefix(d.Error(), "ERR ")
	switch word, _, _ := strings.Cut(answer, " "); {
	case word == "NOAUTH":
		return fmt.Errorf("%s %w: write it into the URL, %s://:PASSWORD@HOST%s", t, ErrPasswordWanted, scheme, sentinels)
	case word == "WRONGPASS" && t.user == "":
		return fmt.Errorf("%s refuses the password: it is wrong, or belongs to a user whom the URL must name, %s://USER:PASSWORD@HOST%s", t, scheme, sentinels)
	case word == "WRONGPASS":
		return fmt.Errorf("%s refuses %s: the name or the password is wrong, or the user is off%s", t, user, sentinels)
	case word != "NOPERM" && !strings.HasPrefix(answer, scriptRefused) && !strings.HasPrefix(answer, scriptLacks):
		return fmt.Errorf("%s does not let us in: %w", t, d)
	}
	// Where the script failed is of no use to who gives rights.
	if i := strings.LastIndex(answer, " script: "); i >= 0 && strings.Contains(answer, "@user_script") {
		answer = answer[:i]
	}
	if strings.HasPrefix(answer, scriptRefused) {
		answer = ""
	} else {
		answer = ": " + strings.TrimPrefix(answer, scriptLacks)
	}
	return fmt.Errorf("%s: %s may not do all that keeping limits takes: give the rights that docs/shared-store.md lists, on keys ~%s*%s", t, user, t.prefix, answer)
}

// explainBroken puts into one sentence why a connection broke while we said hello,
// or what came over it that is no answer.
func explainBroken(t *target, err error) error {
	const noType = "unknown message type: "
	text := err.Error()
	closed := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch alert := strings.HasSuffix(text, noType+"21"); { // what TLS begins alerts with
	case t.tls == nil && (closed || alert):
		return fmt.Errorf("%s hangs up: if it speaks TLS, begin the URL with rediss://, and add cert=FILE and key=FILE if it wants a client certificate: %w", t, err)
	case t.tls != nil && len(t.tls.Certificates) == 0 && (closed || strings.Contains(text, "tls: certificate required")):
		return fmt.Errorf("%s hangs up: if it wants a client certificate, add cert=FILE and key=FILE to the URL: %w", t, err)
	case strings.Contains(text, noType):
		return fmt.Errorf("what answers at %s is not Redis: look at host and port", t)
	}
	return fmt.Errorf("cannot use %s: %w", t, err)
}
