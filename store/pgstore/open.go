package pgstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/store/cas"
)

const (
	// oldest is the first version of PostgreSQL that will do.
	oldest = 15
	// lanes is how many groups are on their way at once; the pool has a few
	// connections more.
	lanes, spare = 8, 2
	// dialTime bounds connecting and logging in.
	dialTime = 2 * time.Second
	// lockTime and statementTime bound what the server does for us, each a bit less
	// than the callers wait.
	lockTime, statementTime = "1000ms", "1900ms"
	// migrationTime is how long a migration's statement may take.
	migrationTime = "60s"
)

// Open connects to the database of c.URL, creates or migrates the tables where
// that is needed, and makes sure that limits can be kept. It fails with one sentence
// where the server is away, older than PostgreSQL 15, a standby, does not let us in
// or do what that takes, or where the tables are newer than this program. Later
// failures are those of single calls. The error does not show the password.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, c Config) (*Store, error) {
	pc, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	if err := prepare(ctx, pc.ConnConfig); err != nil {
		return nil, explain(pc.ConnConfig, err)
	}
	t := &table{log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), lenient: c.Lenient}
	pc.AfterConnect = t.connected
	life, quit := context.WithCancel(context.WithoutCancel(ctx))
	if t.pool, err = pgxpool.NewWithConfig(life, pc); err != nil {
		quit()
		return nil, explain(pc.ConnConfig, err)
	}
	asked, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if _, err := t.Read(asked, nil); err != nil {
		quit()
		t.pool.Close()
		return nil, explain(pc.ConnConfig, err)
	}
	s := &Store{
		Store: cas.New(cas.Config{Table: t, Lanes: lanes, Observe: c.Observe, ManualClockForTest: c.ManualClockForTest}),
		table: t, log: t.log, observe: c.Observe, quit: quit,
	}
	if !c.ManualClockForTest {
		s.jobs.Go(func() { s.retain(life) })
	}
	return s, nil
}

// parseURL reads a URL as [Config] describes it. No error repeats what may be a
// password.
func parseURL(text string) (*pgxpool.Config, error) {
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		return nil, errors.New("the URL must begin with postgres://")
	}
	if _, err := url.Parse(text); err != nil {
		// The error would show what may be a password.
		return nil, errors.New("the URL cannot be read: in a user name or password, write %23 for #, %2F for /, %3A for :, %3F for ?, %40 for @ and %25 for %")
	}
	c, err := pgxpool.ParseConfig(text)
	if err != nil {
		what := err.Error() // begins with the URL in quotes
		if at := strings.LastIndex(what, "`: "); at >= 0 {
			what = what[at+len("`: "):]
		}
		return nil, fmt.Errorf("the URL cannot be read: %s", what)
	}
	if !strings.Contains(text, "pool_max_conns=") {
		c.MaxConns = lanes + spare
	}
	cc := c.ConnConfig
	cc.ConnectTimeout = cmp.Or(cc.ConnectTimeout, dialTime)
	if len(cc.Fallbacks) > 0 && cc.ValidateConnect == nil && strings.Contains(text, ",") {
		cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	for name, value := range map[string]string{
		"application_name": "headgate", "lock_timeout": lockTime, "statement_timeout": statementTime,
		"default_transaction_isolation": "read committed", "default_transaction_read_only": "off",
		// The statements are those of functions and always the same: rows by their keys.
		// What is planned while a table is small must do when it is large.
		"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
		"enable_bitmapscan": "off", "jit": "off",
	} {
		if cc.RuntimeParams[name] == "" {
			cc.RuntimeParams[name] = value
		}
	}
	return c, nil
}

// prepare makes sure that the server is of the right kind and has the tables.
func prepare(ctx context.Context, c *pgx.ConnConfig) error {
	c = c.Copy()
	c.RuntimeParams["statement_timeout"] = migrationTime
	c.RuntimeParams["synchronous_commit"] = "on" // the tables must outlive a crash
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var version int
	var standby bool
	if err := conn.QueryRow(ctx, `select current_setting('server_version_num')::int, pg_is_in_recovery()`).Scan(&version, &standby); err != nil {
		return err
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if standby {
		return errStandby
	}
	return migrate(ctx, conn, c)
}

// checkVersion takes a version as server_version_num has it.
func checkVersion(version int) error {
	if version/10000 < oldest {
		return &versionError{version}
	}
	return nil
}

// versionError says that the server is too old.
type versionError struct{ version int }

func (e *versionError) Error() string {
	return fmt.Sprintf("the server is PostgreSQL %d: must be %d or later", e.version/10000, oldest)
}

// explain puts an error of Open into one sentence.
func explain(c *pgx.ConnConfig, err error) error {
	at := fmt.Sprintf("%s, database %q", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return explainAnswer(c, at, e)
	}
	if e, ok := errors.AsType[*newerError](err); ok {
		return fmt.Errorf("%s: %w", at, e)
	}
	if e, ok := errors.AsType[*versionError](err); ok {
		return fmt.Errorf("%s: %w", at, e)
	}
	if errors.Is(err, errStandby) {
		return fmt.Errorf("%s: %w, or still recovers: name the primary, or all servers as in HOST,HOST", at, errStandby)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return fmt.Errorf("cannot connect to %s: %w", at, e)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("cannot connect to %s: %w", at, e)
	}
	if errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
		return fmt.Errorf("%s did not answer in time", at)
	}
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = e.Unwrap() // its own words repeat where
	}
	return fmt.Errorf("cannot use %s: %s", at, strings.Join(strings.Fields(err.Error()), " "))
}

// explainAnswer explains what the server answered.
func explainAnswer(c *pgx.ConnConfig, at string, e *pgconn.PgError) error {
	switch {
	case strings.HasPrefix(e.Code, "28") && c.Password == "":
		return fmt.Errorf("%s does not let user %q in, and the URL has no password: %s", at, c.User, e.Message)
	case strings.HasPrefix(e.Code, "28"):
		return fmt.Errorf("%s does not let user %q in: %s", at, c.User, e.Message)
	case e.Code == stateNoDatabase:
		return fmt.Errorf("%s: there is no such database: create it, or name another one", at)
	case e.Code == stateNoRight:
		return fmt.Errorf("%s: user %q lacks a right: %s: grant usage and create on the schema once, to create the tables", at, c.User, e.Message)
	case e.Code == "3F000":
		return fmt.Errorf("%s: there is no schema to create the tables in: create the one that search_path names", at)
	default:
		return fmt.Errorf("cannot use %s: %s (SQLSTATE %s)", at, e.Message, e.Code)
	}
}
