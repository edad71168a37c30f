package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"

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
		who := "without a user name"
		if t.user != "" {
			who = "as user " + strconv.Quote(t.user)
		}
		return fmt.Errorf("%s does not let us in %s: %w", t, who, err)
	case kindDial:
		return fmt.Errorf("cannot connect to %s: %w", t, err)
	case kindTimeout:
		if t.tls != nil {
			return fmt.Errorf("%s does not answer, or does not speak TLS: %w", t, err)
		}
		return fmt.Errorf("%s does not answer: %w", t, err)
	case kindLoading:
		return fmt.Errorf("%s is loading its data: %w", t, err)
	case kindServer:
		if t.sentinel != "" && strings.Contains(err.Error(), "unknown command") {
			return fmt.Errorf("%s: not sentinels: leave ?sentinel out, or name the sentinels: %w", t, err)
		}
		if t.sentinel != "" && strings.Contains(err.Error(), "No such master") {
			return fmt.Errorf("%s: the sentinels know no servers by that name", t)
		}
	}
	return fmt.Errorf("cannot use %s: %w", t, err)
}
