package pgstore

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
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
	// lanes is how many groups are on their way at once: few, because a large group
	// costs a server hardly more than a small one. The pool has some connections more.
	lanes, spare = 2, 8
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
	to, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	pc := to.pool
	if err := prepare(ctx, pc.ConnConfig); err != nil {
		return nil, explain(pc.ConnConfig, err)
	}
	t := &table{log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), lenient: c.Lenient || to.lenient}
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
	if t.lenient {
		t.log.Warn("postgres: strict=false: after a promotion or a restore limits go on with what the server has kept, which may lack charges", "store", place(pc.ConnConfig))
	}
	s := &Store{
		Store: cas.New(cas.Config{Table: t, Lanes: lanes, Observe: c.Observe, ManualClockForTest: c.ManualClockForTest}),
		table: t, log: t.log, quit: quit,
	}
	if !c.ManualClockForTest {
		s.jobs.Go(func() { s.retain(life) })
	}
	return s, nil
}

// prepare makes sure that the server is of the right kind and has the tables.
func prepare(ctx context.Context, c *pgx.ConnConfig) error {
	c = c.Copy()
	settings := maps.Clone(sessionSettings)
	settings["statement_timeout"] = migrationTime
	settings["synchronous_commit"] = "on" // the tables must outlive a crash
	c.AfterConnect = settle(settings)
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var version int
	var standby, nowhere bool
	asked, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if err := conn.QueryRow(asked, `select current_setting('server_version_num')::int, pg_is_in_recovery(), current_schema() is null`).Scan(&version, &standby, &nowhere); err != nil {
		return err
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if standby {
		return errStandby
	}
	if nowhere {
		return errNoSchema
	}
	if err := migrate(ctx, conn, c); err != nil {
		return err
	}
	return checkTables(ctx, conn)
}

// checkTables makes sure that all tables are there and may be used.
func checkTables(ctx context.Context, c *pgx.Conn) error {
	asked, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	e := new(tableError)
	err := c.QueryRow(asked, `
		select name, id is null
		from unnest(array['headgate_epoch', 'headgate_item', 'headgate_life', 'headgate_node', 'headgate_sweep']) name, to_regclass(name) id
		where id is null or not (
			has_table_privilege(id, 'select') and has_table_privilege(id, 'insert')
			and has_table_privilege(id, 'update') and has_table_privilege(id, 'delete')
		)
		order by id is not null
		limit 1`).Scan(&e.name, &e.gone)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return cmp.Or(err, error(e))
}

// tableError says that a table is gone, or lacks a right.
type tableError struct {
	name string
	gone bool
}

func (e *tableError) Error() string {
	if e.gone {
		return fmt.Sprintf("table %q is gone: restore it, or name a new schema in search_path, where all budgets are full", e.name)
	}
	return "permission denied for table " + e.name
}

// errNoSchema says that no schema of the search path is there, or none may be used.
var errNoSchema = errors.New("there is no schema to keep the tables in")

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

// ErrPasswordWanted is what [Open] wraps where the server wants a password and the
// URL has none.
var ErrPasswordWanted = errors.New("the URL has no password")

// addresses lists the servers that a URL names.
func addresses(c *pgx.ConnConfig) []string {
	all := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, f := range c.Fallbacks { // with TLS and without, a server is there twice
		if a := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// place names servers and database in messages.
func place(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s, database %q", strings.Join(addresses(c), ", "), c.Database)
}

// explain puts an error of Open into one sentence.
func explain(c *pgx.ConnConfig, err error) error {
	at := place(c)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		_, connecting := errors.AsType[*pgconn.ConnectError](err)
		return explainAnswer(c, at, e, connecting)
	}
	if e, ok := errors.AsType[*newerError](err); ok {
		return fmt.Errorf("%s: %w", at, e)
	}
	if e, ok := errors.AsType[*tableError](err); ok && e.gone {
		return fmt.Errorf("%s: %w", at, e)
	} else if ok {
		return lacking(c, at, e.Error())
	}
	if e, ok := errors.AsType[*versionError](err); ok {
		return fmt.Errorf("%s: %w", at, e)
	}
	if errors.Is(err, errStandby) {
		return fmt.Errorf("%s: %w, or still recovers: name the primary, or all servers as in HOST,HOST", at, errStandby)
	}
	if errors.Is(err, errNoSchema) {
		return fmt.Errorf("%s: %w: create the one that search_path names, and let user %q use it", at, errNoSchema, c.User)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return fmt.Errorf("cannot connect to %s: %w", at, e)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("cannot connect to %s: %w", at, e)
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%s shows a certificate that cannot be trusted: %w: sslrootcert is to name the file of its authority", at, e.Err)
	}
	if errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
		return fmt.Errorf("%s did not answer in time", at)
	}
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = e.Unwrap() // its own words repeat where
	}
	return fmt.Errorf("cannot use %s: %s", at, strings.Join(strings.Fields(err.Error()), " "))
}

// explainAnswer explains what the server answered, connecting or later.
func explainAnswer(c *pgx.ConnConfig, at string, e *pgconn.PgError, connecting bool) error {
	switch {
	case e.Code == stateWrongPassword && c.Password == "":
		return fmt.Errorf("%s does not let user %q in: %w: write it into the URL, postgres://USER:PASSWORD@HOST/DATABASE", at, c.User, ErrPasswordWanted)
	case strings.HasPrefix(e.Code, "28"):
		return fmt.Errorf("%s does not let user %q in: %s", at, c.User, e.Message)
	case e.Code == stateNoDatabase:
		return fmt.Errorf("%s: there is no such database: create it, or name another one", at)
	case e.Code == stateNoRight && connecting:
		return fmt.Errorf("%s: user %q lacks a right: %s", at, c.User, e.Message)
	case e.Code == stateNoRight:
		return lacking(c, at, e.Message)
	default:
		return fmt.Errorf("cannot use %s: %s (SQLSTATE %s)", at, e.Message, e.Code)
	}
}

func lacking(c *pgx.ConnConfig, at, what string) error {
	return fmt.Errorf("%s: user %q lacks a right: %s: it needs usage and create on the schema to create the tables, and once they are there usage, and select, insert, update and delete on them", at, c.User, what)
}

// stateWrongPassword is the SQLSTATE of a password that is wrong or missing.
const stateWrongPassword = "28P01"
