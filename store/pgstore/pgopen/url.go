package pgopen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DialTime bounds connecting and logging in.
const DialTime = 2 * time.Second

// urlOptions are the names that may follow the question mark besides the caller's
// own: those of libpq, those of the pool, and the settings of a session that do not
// disturb what is done in it. pgx would send any other name to the server.
var urlOptions = []string{
	"channel_binding", "connect_timeout", "dbname", "host", "max_protocol_version", "min_protocol_version", "passfile", "password", "port",
	"require_auth", "service", "servicefile", "sslcert", "sslcertmode", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert",
	"sslsni", "target_session_attrs", "user",
	"pool_health_check_period", "pool_max_conn_idle_time", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter", "pool_max_conns",
	"pool_min_conns", "pool_min_idle_conns",
	"application_name", "options", "role", "search_path", "synchronous_commit",
}

var errEscape = errors.New("the URL cannot be read: in a user name or password, write %23 for #, %2F for /, %3A for :, %3F for ?, %40 for @ and %25 for %")

// ParseURL reads a URL postgres://USER:PASSWORD@HOST:PORT/DATABASE, of several hosts
// too, with options after a question mark: those of own, whose values it is given, those
// of libpq, those of the pool, and settings of a session that disturb nothing. No error
// repeats what may be a password.
func ParseURL(text string, own map[string]func(value string) error) (*pgxpool.Config, error) {
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
	if err := checkOptions(values, own); err != nil {
		return nil, err
	}
	theirs := slices.DeleteFunc(strings.Split(query, "&"), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return own[name] != nil || name == ""
	})
	pool, err := pgxpool.ParseConfig(scheme + "://" + rest + "?" + strings.Join(theirs, "&"))
	if err != nil {
		what := err.Error() // begins with the URL in quotes
		if at := strings.LastIndex(what, "`: "); at >= 0 {
			what = what[at+len("`: "):]
		}
		return nil, fmt.Errorf("the URL cannot be read: %s", what)
	}
	if !values.Has("pool_max_conns") {
		pool.MaxConns = 0
	}
	c := pool.ConnConfig
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, DialTime)
	if len(addresses(c)) > 1 && c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c.RuntimeParams["application_name"] = cmp.Or(c.RuntimeParams["application_name"], "headgate")
	return pool, nil
}

// checkOptions reads what is the caller's own, and looks at the names of the rest.
func checkOptions(values url.Values, own map[string]func(value string) error) error {
	for name, v := range values {
		if len(v) > 1 {
			return fmt.Errorf("%s: is in the URL twice", name)
		}
		value := v[0]
		switch {
		case own[name] != nil:
			if err := own[name](value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case name == "target_session_attrs" && !slices.Contains([]string{"any", "read-write", "primary"}, value):
			return errors.New("target_session_attrs: must be read-write, primary or any: other servers take no writes")
		case slices.Contains(urlOptions, name):
		case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "":
			return errEscape // may be the end of a password
		default:
			return fmt.Errorf("%q is no option of the URL: there are %s, and libpq's such as sslmode", name,
				strings.Join(append(slices.Sorted(maps.Keys(own)), "search_path", "synchronous_commit", "role", "application_name", "options", "pool_max_conns and the like"), ", "))
		}
	}
	return nil
}

// Settle returns what gives a new session its settings. They are no parameters of the
// connection, as poolers refuse those that they do not know.
func Settle(settings map[string]string) pgconn.AfterConnectFunc {
	var all strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&all, "set %s = '%s';", name, settings[name])
	}
	return func(ctx context.Context, c *pgconn.PgConn) error {
		_, err := c.Exec(ctx, all.String()).ReadAll()
		return err
	}
}
