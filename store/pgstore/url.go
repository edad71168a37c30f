package pgstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// target is what a URL names.
type target struct {
	pool              *pgxpool.Config
	lenient, unleased bool
}

// urlOptions are the names that may follow the question mark besides leases and
// strict: those of libpq, those of the pool, and the settings of a session that do not
// disturb what is done in it. pgx would send any other name to the server.
var urlOptions = []string{
	"channel_binding", "connect_timeout", "dbname", "host", "max_protocol_version", "min_protocol_version", "passfile", "password", "port",
	"require_auth", "service", "servicefile", "sslcert", "sslcertmode", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert",
	"sslsni", "target_session_attrs", "user",
	"pool_health_check_period", "pool_max_conn_idle_time", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter", "pool_max_conns",
	"pool_min_conns", "pool_min_idle_conns",
	"application_name", "options", "role", "search_path", "synchronous_commit",
}

// sessionSettings are those of every session: what the server does for us is bounded
// and always done in the same way.
var sessionSettings = map[string]string{
	"lock_timeout": lockTime, "statement_timeout": statementTime,
	"default_transaction_isolation": "read committed", "default_transaction_read_only": "off",
	// The statements are those of functions and always the same: rows by their keys.
	// What is planned while a table is small must do when it is large.
	"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
	"enable_bitmapscan": "off", "jit": "off",
}

// settle returns what gives a new session its settings. They are no parameters of the
// connection, as poolers refuse those that they do not know.
func settle(settings map[string]string) pgconn.AfterConnectFunc {
	var all strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&all, "set %s = '%s';", name, settings[name])
	}
	return func(ctx context.Context, c *pgconn.PgConn) error {
		_, err := c.Exec(ctx, all.String()).ReadAll()
		return err
	}
}

var errEscape = errors.New("the URL cannot be read: in a user name or password, write %23 for #, %2F for /, %3A for :, %3F for ?, %40 for @ and %25 for %")

// Leases reports whether a URL as that of [Config] wants leases over the store:
// true unless its option leases is false. A [Store] itself takes no notice of it. The
// errors are those of [Open] that concern the URL.
func Leases(url string) (bool, error) {
	t, err := parseURL(url)
	if err != nil {
		return false, fmt.Errorf("postgres: %w", err)
	}
	return !t.unleased, nil
}

// parseURL reads a URL as [Config] describes it. No error repeats what may be a
// password.
func parseURL(text string) (*target, error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found || scheme != "postgres" && scheme != "postgresql" {
		return nil, errors.New("the URL must begin with postgres://")
	}
	// Several hosts with ports are no URL that net/url reads. pgx reads passwords that
	// are not escaped in its own way, and its errors may show the rest of them.
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Count(authority, "@") > 1 || strings.ContainsAny(path+query, "@#") || strings.Contains(authority, "#") {
		return nil, errEscape
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("what follows ? in the URL must be NAME=VALUE pairs joined by &")
	}
	t := new(target)
	if err := t.options(values); err != nil {
		return nil, err
	}
	theirs := slices.DeleteFunc(strings.Split(query, "&"), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return name == "leases" || name == "strict" || name == ""
	})
	if t.pool, err = pgxpool.ParseConfig(scheme + "://" + rest + "?" + strings.Join(theirs, "&")); err != nil {
		what := err.Error() // begins with the URL in quotes
		if at := strings.LastIndex(what, "`: "); at >= 0 {
			what = what[at+len("`: "):]
		}
		return nil, fmt.Errorf("the URL cannot be read: %s", what)
	}
	if !values.Has("pool_max_conns") {
		t.pool.MaxConns = lanes + spare
	}
	c := t.pool.ConnConfig
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, dialTime)
	if len(addresses(c)) > 1 && c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c.RuntimeParams["application_name"] = cmp.Or(c.RuntimeParams["application_name"], "headgate")
	c.AfterConnect = settle(sessionSettings)
	return t, nil
}

// options reads what is ours, and looks at the names of the rest.
func (t *target) options(values url.Values) error {
	for name, v := range values {
		if len(v) > 1 {
			return fmt.Errorf("%s: is in the URL twice", name)
		}
		value := v[0]
		var err error
		switch {
		case name == "leases":
			var leases bool
			leases, err = strconv.ParseBool(value)
			t.unleased = !leases
		case name == "strict":
			var strict bool
			strict, err = strconv.ParseBool(value)
			t.lenient = !strict
		case name == "target_session_attrs" && !slices.Contains([]string{"any", "read-write", "primary"}, value):
			return errors.New("target_session_attrs: must be read-write, primary or any: other servers take no writes")
		case slices.Contains(urlOptions, name):
		case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "":
			return errEscape // may be the end of a password
		default:
			return fmt.Errorf("%q is no option of the URL: there are leases, strict, search_path, synchronous_commit, role, application_name, options, pool_max_conns and the like, and libpq's such as sslmode", name)
		}
		if err != nil {
			return fmt.Errorf("%s: must be true or false, not %q", name, value)
		}
	}
	return nil
}
