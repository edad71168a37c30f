package redisstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	defaultPrefix = "hg:"
	maxPrefix     = 64
)

// target is what a URL names.
type target struct {
	addrs          []string
	user, password string
	db             int
	cluster        bool
	// sentinel is the name under which sentinels know the servers; addrs are
	// then the sentinels'.
	sentinel                       string
	sentinelUser, sentinelPassword string
	prefix                         string
	tls                            *tls.Config // nil without
	lenient, evicting, unleased    bool
	asked                          time.Time // when Open began
}

// urlOptions are the names that may follow the question mark.
var urlOptions = []string{
	"ca", "cert", "cluster", "db", "eviction", "key", "leases", "prefix", "sentinel", "sentinel_password", "sentinel_user", "servername", "strict",
}

// Leases reports whether a URL as that of [Config] wants leases over the store:
// true unless its option leases is false. A [Store] itself takes no notice of it. The
// errors are those of [Open] that concern the URL.
func Leases(url string) (bool, error) {
	t, err := parseURL(url)
	if err != nil {
		return false, fmt.Errorf("redis: %w", err)
	}
	return !t.unleased, nil
}

// String names the servers in messages.
func (t *target) String() string {
	list := strings.Join(t.addrs, ", ")
	switch {
	case t.sentinel != "":
		return fmt.Sprintf("%q by sentinels %s", t.sentinel, list)
	case t.cluster:
		return "cluster at " + list
	default:
		return list
	}
}

// parseURL reads a URL as [Open] describes it. No error repeats what may be a
// password.
func parseURL(text string) (*target, error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found || scheme != "redis" && scheme != "rediss" {
		return nil, errors.New("the URL must begin with redis:// or, for TLS, rediss://")
	}
	// Several hosts are no URL that net/url reads, and its errors show the text.
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, rest := rest[:end], rest[end:]
	t := &target{}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if err := t.login(authority[:i]); err != nil {
			return nil, err
		}
		authority = authority[i+1:]
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	path, query, _ := strings.Cut(rest, "?")
	if fragment != "" || strings.Contains(path, "@") {
		return nil, errEscape
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("what follows ? in the URL must be NAME=VALUE pairs joined by &")
	}
	hosts := strings.Split(authority, ",")
	if authority == "" {
		hosts = []string{""}
	}
	if err := t.options(path, values, scheme == "rediss"); err != nil {
		return nil, err
	}
	return t, t.hosts(hosts)
}

var errEscape = errors.New("the URL cannot be read: in a user name or password, write %23 for #, %2F for /, %3A for :, %3F for ?, %40 for @ and %25 for %")

// login reads user and password.
func (t *target) login(text string) error {
	user, password, _ := strings.Cut(text, ":")
	var err error
	if t.user, err = url.PathUnescape(user); err != nil {
		return errEscape
	}
	if t.password, err = url.PathUnescape(password); err != nil {
		return errEscape
	}
	if t.user != "" && t.password == "" {
		return errors.New("the URL has a user without a password: write USER:PASSWORD@, or :PASSWORD@ for a password alone")
	}
	return nil
}

// hosts reads the addresses.
func (t *target) hosts(list []string) error {
	usual := "6379"
	if t.sentinel != "" {
		usual = "26379"
	}
	for _, h := range list {
		host, port := h, usual
		// A colon outside of brackets begins a port.
		if i := strings.LastIndexByte(h, ':'); i > strings.LastIndexByte(h, ']') {
			host, port = h[:i], h[i+1:]
		}
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if host == "" {
			host = "127.0.0.1"
		}
		if strings.Contains(host, ":") && net.ParseIP(host) == nil || strings.ContainsAny(host, "[]%") {
			return errEscape
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return errors.New("a port in the URL must be 1 to 65535; in a password, write %40 for @, %3A for : and %2C for ,")
		}
		t.addrs = append(t.addrs, net.JoinHostPort(host, port))
	}
	if len(t.addrs) > 1 && !t.cluster && t.sentinel == "" {
		return errors.New("several addresses need ?cluster=true, or ?sentinel=NAME if they are those of sentinels")
	}
	return nil
}

// options reads the path and what follows the question mark.
func (t *target) options(path string, values url.Values, secure bool) error {
	for name, v := range values {
		if len(v) > 1 {
			return fmt.Errorf("%s: is in the URL twice", name)
		}
	}
	t.prefix = defaultPrefix
	db := strings.TrimPrefix(path, "/")
	files := map[string]string{}
	for name, v := range values {
		value := v[0]
		var err error
		switch name {
		case "cluster":
			t.cluster, err = strconv.ParseBool(value)
		case "strict":
			var strict bool
			strict, err = strconv.ParseBool(value)
			t.lenient = !strict
		case "leases":
			var leases bool
			leases, err = strconv.ParseBool(value)
			t.unleased = !leases
		case "sentinel":
			if t.sentinel = value; value == "" {
				return errors.New("sentinel: must be the name under which the sentinels know the servers, such as mymaster")
			}
		case "sentinel_user":
			t.sentinelUser = value
		case "sentinel_password":
			t.sentinelPassword = value
		case "prefix":
			t.prefix, err = value, checkPrefix(value)
		case "db":
			if db != "" {
				return errors.New("db: is in the URL twice")
			}
			db = value
		case "eviction":
			if t.evicting = value == "accept"; !t.evicting {
				return errors.New("eviction: must be accept")
			}
		case "ca", "cert", "key", "servername":
			if !secure {
				return fmt.Errorf("%s: is for TLS, so the URL must begin with rediss://", name)
			}
			if files[name] = value; value == "" {
				return fmt.Errorf("%s: must not be empty", name)
			}
		default:
			if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
				return errEscape // may be the end of a password
			}
			last := len(urlOptions) - 1
			return fmt.Errorf("%q is no option of the URL: there are %s and %s", name, strings.Join(urlOptions[:last], ", "), urlOptions[last])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, plain(err))
		}
	}
	if db != "" {
		n, err := strconv.Atoi(db)
		if err != nil || n < 0 {
			return errors.New("the database must be a number, as in redis://HOST/0")
		}
		t.db = n
	}
	switch {
	case t.cluster && t.sentinel != "":
		return errors.New("cluster and sentinel: servers are one or the other")
	case t.cluster && t.db != 0:
		return errors.New("a cluster has no databases but 0")
	case t.sentinel == "" && (t.sentinelUser != "" || t.sentinelPassword != ""):
		return errors.New("sentinel_user and sentinel_password need ?sentinel=NAME")
	}
	if !secure {
		return nil
	}
	var err error
	t.tls, err = secureBy(files)
	return err
}

// plain shortens errors of package strconv, which name its functions.
func plain(err error) error {
	if e, ok := errors.AsType[*strconv.NumError](err); ok {
		return fmt.Errorf("must be true or false, not %q", e.Num)
	}
	return err
}

// checkPrefix refuses prefixes that would move keys to other slots, that nobody
// can type, or that would not tell our keys from others'.
func checkPrefix(prefix string) error {
	switch {
	case prefix == "":
		return fmt.Errorf("must not be empty: leave it out for %s", defaultPrefix)
	case len(prefix) > maxPrefix:
		return fmt.Errorf("must have at most %d bytes, not %d", maxPrefix, len(prefix))
	}
	for _, c := range prefix {
		if c <= ' ' || c > '~' || c == '{' || c == '}' {
			return fmt.Errorf("must be printable ASCII without spaces and braces, so without %q", c)
		}
	}
	return nil
}

// secureBy makes the TLS configuration from the named files.
func secureBy(files map[string]string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files["servername"]}
	if name := files["ca"]; name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", name)
		}
	}
	if (files["cert"] == "") != (files["key"] == "") {
		return nil, errors.New("cert and key: one needs the other")
	}
	if files["cert"] != "" {
		pair, err := tls.LoadX509KeyPair(files["cert"], files["key"])
		if err != nil {
			return nil, fmt.Errorf("cert and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
