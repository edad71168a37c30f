package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front/proxy"
)

// configKind is what a key of the configuration file holds.
type configKind int

const (
	// scalar is one string, and list are several.
	scalar configKind = iota
	list
	// section is a mapping with the given keys, named one of names to such, and listed a
	// list of such.
	section
	named
	listed
	// later is a key of the contract for what is not built yet.
	later
)

// configKey is one key of the configuration file.
type configKey struct {
	name string
	kind configKind
	// required is for keys that must not be left out.
	required bool
	// check says what is wrong with a value. It repeats none that may hold a secret. nil
	// lets all pass.
	check func(value string) error
	// load returns what is kept instead of a value. nil keeps it.
	load func(value string) (string, error)
	// keys are those of a section, or of each named or listed entry.
	keys []configKey
}

// configKeys are all keys of the configuration file.
var configKeys = []configKey{
	{name: "version", check: oneOf("1")},
	{name: "listen", kind: section, keys: []configKey{
		{name: "http", check: badAddress}, {name: "admin", check: badAdminAddress}, {name: "grpc", check: badAddress}, {name: "resp", check: badAddress},
	}},
	{name: "proxy", kind: section, keys: []configKey{
		{name: "listen", check: badAddress}, {name: "application", check: headgate.CheckName}, {name: "upstream"},
		{name: "max_body", check: badBody}, {name: "client_timeout", check: badTimeout},
		{name: "routes", kind: listed, keys: []configKey{
			{name: "prefix", required: true, check: proxy.CheckPrefix}, {name: "upstream", required: true}, {name: "application", check: headgate.CheckName},
		}},
	}},
	{name: "tls", kind: section, keys: []configKey{
		{name: "cert", required: true, check: badFile}, {name: "key", required: true, check: badFile}, {name: "client_ca", check: badFile},
	}},
	{name: "envoy", kind: section, keys: []configKey{
		{name: "headers", check: oneOf("true", "false")}, {name: "dynamic_metadata", check: oneOf("true", "false")},
		{name: "after_the_fact", check: oneOf("true", "false")}, {name: "merge_domains", check: oneOf("true", "false")}, {name: "calendar", check: oneOf("true", "false")},
	}},
	{name: "auth", kind: section, keys: []configKey{
		{name: "decision", check: oneOf(authOpen, authToken)},
		{name: "allow_from", kind: list, check: badNetwork},
	}},
	{name: "store", check: badStore},
	{name: "records"},
	{name: "upstreams", kind: named, keys: []configKey{
		{name: "servers", kind: list, required: true, check: proxy.CheckServer},
		{name: "balance", check: oneOf(string(proxy.LeastRequests), string(proxy.RoundRobin))},
		{name: "host"},
		{name: "connect_timeout", check: badTimeout}, {name: "response_timeout", check: badBound}, {name: "idle_timeout", check: badBound},
		{name: "max_idle", check: badCount},
		{name: "health", kind: section, keys: []configKey{
			{name: "path", required: true, check: badHealthPath}, {name: "interval", check: badTimeout}, {name: "timeout", check: badTimeout},
			{name: "unhealthy", check: badCount}, {name: "healthy", check: badCount},
		}},
	}},
	{name: "queue", kind: later},
	{name: "webhooks", kind: named, keys: []configKey{
		{name: "url", required: true, check: badWebhook},
		{name: "secret_file", required: true, load: readSecret},
		{name: "events", kind: list, check: oneOf(webhookEvents...)},
	}},
	{name: "retention", kind: section, keys: []configKey{
		{name: "audit", check: badKeep}, {name: "usage_hours", check: badKeep}, {name: "usage_days", check: badKeep}, {name: "usage_months", check: badKeep},
	}},
	{name: "metrics", kind: section, keys: []configKey{
		{name: "aliases", check: oneOf("on", "off")}, {name: "subjects", check: oneOf(subjectsPlain, subjectsHashed, subjectsOff)},
	}},
	{name: "log", kind: section, keys: []configKey{
		{name: "level", check: oneOf(logLevels...)}, {name: "format", check: oneOf(logFormats...)},
	}},
}

// oneOf checks that a value is one of several.
func oneOf(all ...string) func(string) error {
	return func(value string) error {
		switch {
		case slices.Contains(all, value):
			return nil
		case len(all) == 1:
			return fmt.Errorf("%q: must be %s", value, all[0])
		}
		return fmt.Errorf("%q: must be one of %s", value, strings.Join(all, ", "))
	}
}

func badFile(value string) error {
	if value == "" {
		return errors.New("must be the name of a file")
	}
	return nil
}

func badNetwork(value string) error {
	_, err := parseNetwork(value)
	return err
}

// parseNetwork reads a network or one address, IPv4 where it can be.
func parseNetwork(value string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(value); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(value)
	if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%.64q: must be an address or network such as 10.0.0.0/8 or ::1", value)
	case p != p.Masked():
		return p, fmt.Errorf("%q: has bits beyond its length: write %v or the single address", value, p.Masked())
	}
	return p, nil
}

// forever is the word for what is kept for good.
const forever = "forever"

// maxKeep is the longest time that something is kept and then deleted: about 100 years.
const maxKeep = 36_500 * 24 * time.Hour

func badKeep(value string) error {
	_, err := parseKeep(value)
	return err
}

// parseKeep reads for how long something is kept; 0 is for good.
func parseKeep(value string) (time.Duration, error) {
	if value == forever || value == "0" {
		return 0, nil
	}
	unit := 24 * time.Hour
	number, ok := strings.CutSuffix(value, "d")
	if !ok {
		number, ok = strings.CutSuffix(value, "h")
		unit = time.Hour
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if keep := time.Duration(n) * unit; ok && err == nil && keep >= 24*time.Hour && keep <= maxKeep {
		return keep, nil
	}
	return 0, fmt.Errorf("%.64q: must be hours or days such as 90d, from 1d to %dd, or %s", value, maxKeep/(24*time.Hour), forever)
}

// badWebhook repeats nothing of the URL: it may hold a secret.
func badWebhook(value string) error {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return errors.New("must be a URL such as https://billing.example/headgate")
	case u.User != nil:
		return errors.New("must not hold a password: what is sent is signed with the secret instead")
	case u.Fragment != "":
		return errors.New("must not have a #fragment")
	case u.Scheme == "https" || u.Scheme == "http" && loopbackName(u.Hostname()):
		return nil
	}
	return errors.New("must begin with https://; http:// is for this machine only")
}

// minSecret and maxSecret bound the secret of a webhook, in bytes: a short one could be
// found by trying.
const minSecret, maxSecret = 24, 4096

// readSecret reads a secret that stands in a file, with or without an end of line. Errors
// repeat nothing of it.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+3))
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if n := len(secret); n < minSecret || n > maxSecret {
		return "", fmt.Errorf("%s: a secret of %d bytes: must be %d to %d", file, n, minSecret, maxSecret)
	}
	if coded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if _, err := base64.StdEncoding.DecodeString(coded); err != nil {
			return "", fmt.Errorf("%s: what stands behind whsec_ is not base64", file)
		}
	}
	return secret, nil
}
