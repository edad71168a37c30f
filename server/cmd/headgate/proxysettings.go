package main

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front/proxy"
)

// spaced is the value of a flag that may be there several times.
type spaced string

// String returns all of them, with spaces between.
func (s *spaced) String() string { return string(*s) }

// Set adds a value.
func (s *spaced) Set(value string) error {
	*s = spaced(strings.TrimSpace(string(*s) + " " + value))
	return nil
}

// Type is that of a string.
func (s *spaced) Type() string { return "string" }

// flagOf is what a setting is called at a verb, and its default: the proxy's address is
// all that the verb proxy must know, and it is called listen there.
func flagOf(cmd *cobra.Command, s setting) (name, value string) {
	if s.name == proxyName && cmd.Name() == proxyName {
		return "listen", proxyAddress
	}
	return s.name, s.value
}

// flagIn is a setting as who has said it calls it.
func flagIn(name, from string) string {
	if strings.HasPrefix(from, "--") {
		return from
	}
	return "--" + name
}

// fromFlag is the pool that the servers of --upstream make.
const fromFlag = "default"

// forwarding is what the reverse proxy is told.
type forwarding struct {
	pools         map[string]proxy.Pool
	routes        []proxy.Route // with "/" last, if that is forwarded
	maxBody       int64
	clientTimeout time.Duration
}

// readForwarding puts flags and the configuration together. servers are URLs with spaces
// between, for all paths without a route.
func readForwarding(c *configFile, servers, application string) (f forwarding, err error) {
	f.pools = map[string]proxy.Pool{}
	for _, name := range c.names["upstreams"] {
		f.pools[name] = readPool(c, below("upstreams", name))
	}
	for _, at := range c.names["proxy.routes"] {
		var r proxy.Route
		r.Prefix, _ = c.one(below(at, "prefix"))
		r.Upstream, _ = c.one(below(at, "upstream"))
		r.Application, _ = c.one(below(at, "application"))
		r.Application = cmp.Or(r.Application, application)
		f.routes = append(f.routes, r)
	}
	if err := headgate.CheckName(application); err != nil {
		return f, usageError{fmt.Errorf("--application: %w", err)}
	}
	rest, _ := c.one("proxy.upstream")
	if servers != "" {
		if _, both := f.pools[fromFlag]; both || rest != "" {
			return f, usageError{fmt.Errorf("--upstream beside proxy.upstream or upstreams.%s of the configuration: keep one", fromFlag)}
		}
		for server := range strings.FieldsSeq(servers) {
			if err := proxy.CheckServer(server); err != nil {
				return f, usageError{fmt.Errorf("--upstream: %w", err)}
			}
		}
		f.pools[fromFlag], rest = proxy.Pool{Servers: strings.Fields(servers)}, fromFlag
	}
	if rest != "" {
		f.routes = append(f.routes, proxy.Route{Prefix: "/", Upstream: rest, Application: application})
	}
	if size, said := c.one("proxy.max_body"); said {
		f.maxBody, _ = parseBody(size)
	}
	f.clientTimeout = timeout(c, "proxy.client_timeout")
	return f, nil
}

func readPool(c *configFile, path string) proxy.Pool {
	one := func(key string) string {
		value, _ := c.one(below(path, key))
		return value
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(cmp.Or(one(key), "0"))
		return n
	}
	span := func(key string) time.Duration { return timeout(c, below(path, key)) }
	return proxy.Pool{
		Servers: c.values[below(path, "servers")], Balance: proxy.Balance(one("balance")), Host: one("host"),
		ConnectTimeout: span("connect_timeout"), ResponseTimeout: span("response_timeout"), IdleTimeout: span("idle_timeout"), MaxIdle: number("max_idle"),
		Health: proxy.Health{
			Path: one("health.path"), Interval: span("health.interval"), Timeout: span("health.timeout"),
			Unhealthy: number("health.unhealthy"), Healthy: number("health.healthy"),
		},
	}
}

// config is what the package proxy is told of it.
func (f *forwarding) config() proxy.Config {
	return proxy.Config{Pools: f.pools, Routes: f.routes, MaxBody: f.maxBody, ClientTimeout: f.clientTimeout}
}

// check looks whether a proxy can be made of it.
func (f *forwarding) check() error {
	if len(f.routes) == 0 {
		return usageError{errors.New("the proxy has nothing to forward to: name a server with --upstream, or proxy.upstream or proxy.routes in the configuration")}
	}
	if _, err := proxy.New(f.config()); err != nil {
		return usageError{fmt.Errorf("proxy: %w", err)}
	}
	return nil
}

// sameRoutes is whether all but the pools is the same.
func (f *forwarding) sameRoutes(other *forwarding) bool {
	return f.maxBody == other.maxBody && f.clientTimeout == other.clientTimeout && reflect.DeepEqual(f.routes, other.routes)
}

// none is the word for no bound.
const none = "none"

// maxTimeout is the longest time-out, in which nobody waits any more.
const maxTimeout = 30 * 24 * time.Hour

// parseBound reads a time-out, or that there is none, which is -1.
func parseBound(value string) (time.Duration, error) {
	if value == none {
		return -1, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Millisecond || d > maxTimeout {
		return 0, fmt.Errorf("%.64q: must be a time such as 500ms, 5s or 1h, from 1ms to %dh", value, maxTimeout/time.Hour)
	}
	return d, nil
}

// badBound is for time-outs that may be none.
func badBound(value string) error {
	_, err := parseBound(value)
	if err != nil {
		err = fmt.Errorf("%w, or %s", err, none)
	}
	return err
}

func badTimeout(value string) error {
	d, err := parseBound(value)
	if err == nil && d < 0 {
		err = fmt.Errorf("%q: there must be a bound, such as 5s", value)
	}
	return err
}

// timeout is one of a file without faults, 0 where it does not say.
func timeout(c *configFile, key string) time.Duration {
	value, said := c.one(key)
	if !said {
		return 0
	}
	d, _ := parseBound(value)
	return d
}

// parseBody reads a greatest size of bodies, 0 for no bound.
func parseBody(value string) (int64, error) {
	if value == "0" || value == none {
		return 0, nil
	}
	return parseSize(value)
}

func badBody(value string) error {
	_, err := parseBody(value)
	if err != nil {
		err = fmt.Errorf("%.64q: %w, or %s", value, err, none)
	}
	return err
}

func badCount(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 1 || n > 100_000 {
		return fmt.Errorf("%.64q: must be a whole number from 1 to 100000", value)
	}
	return nil
}

func badHealthPath(value string) error {
	if !strings.HasPrefix(value, "/") || strings.ContainsAny(value, " \r\n") {
		return fmt.Errorf("%.64q: must be a path such as /healthz", value)
	}
	return nil
}
