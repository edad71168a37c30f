package pgopen

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	// oldest is the first version of PostgreSQL that will do.
	oldest = 15
	// migrationTime is how long a migration's statement may take.
	migrationTime = "60s"
	// lockPatience is for how many seconds others may migrate.
	lockPatience = 60
)

// Tables are those that a room keeps in a database.
type Tables struct {
	// Migrations are files of SQL, the newest of which is Version.
	Migrations fs.FS
	Version    int64
	// History is the table that says which migrations were applied, Lock the advisory lock under
	// which they are.
	History string
	Lock    int64
	// Names are those of the tables.
	Names []string
}

// Directory returns a directory of files that are part of the program.
func Directory(files embed.FS, name string) fs.FS {
	sub, err := fs.Sub(files, name)
	if err != nil {
		panic(err) // the name is no path
	}
	return sub
}

// Prepare makes sure that the server of c is of the right kind and has the tables, and
// migrates them where that is needed, in a session with settings. The error is one
// sentence.
func Prepare(ctx context.Context, c *pgx.ConnConfig, t *Tables, settings map[string]string) error {
	if err := t.prepare(ctx, c.Copy(), maps.Clone(settings)); err != nil {
		return Explain(c, err)
	}
	return nil
}

func (t *Tables) prepare(ctx context.Context, c *pgx.ConnConfig, settings map[string]string) error {
	settings["statement_timeout"] = migrationTime
	settings["synchronous_commit"] = "on" // the tables must outlive a crash
	c.AfterConnect = Settle(settings)
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var version int
	var standby, nowhere bool
	asked, cancel := context.WithTimeout(ctx, DialTime)
	defer cancel()
	if err := conn.QueryRow(asked, `select current_setting('server_version_num')::int, pg_is_in_recovery(), current_schema() is null`).Scan(&version, &standby, &nowhere); err != nil {
		return err
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if standby {
		return ErrStandby
	}
	if nowhere {
		return errNoSchema
	}
	if err := t.migrate(ctx, conn, c); err != nil {
		return err
	}
	return t.check(ctx, conn)
}

// checkVersion takes a version as server_version_num has it.
func checkVersion(version int) error {
	if version/10000 < oldest {
		return &versionError{version}
	}
	return nil
}

// applied returns the newest migration that was applied, 0 for none.
func (t *Tables) applied(ctx context.Context, c *pgx.Conn) (version int64, err error) {
	err = c.QueryRow(ctx, `select coalesce(max(version_id), 0) from `+t.History+` where is_applied`).Scan(&version)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == stateNoTable {
		return 0, nil
	}
	return version, err
}

// migrate applies the migrations that are missing. It needs rights to create only
// where there are any.
func (t *Tables) migrate(ctx context.Context, c *pgx.Conn, config *pgx.ConnConfig) error {
	found, err := t.applied(ctx, c)
	switch {
	case err != nil:
		return fmt.Errorf("read the version of the tables: %w", err)
	case found > t.Version:
		return &newerError{found, t.Version}
	case found == t.Version:
		return nil
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(t.Lock), lock.WithLockTimeout(1, lockPatience))
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, t.Migrations, goose.WithTableName(t.History), goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("create the tables: %w", err)
	}
	return nil
}

// check makes sure that all tables are there and may be used.
func (t *Tables) check(ctx context.Context, c *pgx.Conn) error {
	asked, cancel := context.WithTimeout(ctx, DialTime)
	defer cancel()
	e := new(tableError)
	err := c.QueryRow(asked, `
		select name, id is null
		from unnest($1::text[]) name, to_regclass(name) id
		where id is null or not (
			has_table_privilege(id, 'select') and has_table_privilege(id, 'insert')
			and has_table_privilege(id, 'update') and has_table_privilege(id, 'delete')
		)
		order by id is not null
		limit 1`, t.Names).Scan(&e.name, &e.gone)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return cmp.Or(err, error(e))
}
