package pgstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// schema is the newest that this program knows.
	schema = 1
	// schemaTable says which migrations were applied.
	schemaTable = "headgate_schema"
	// schemaLock is the advisory lock under which they are.
	schemaLock = 0x6865616467617465 // "headgate"
	// schemaPatience is for how many seconds others may hold it.
	schemaPatience = 60
)

// schemaOf returns the newest migration that was applied, 0 for none.
func schemaOf(ctx context.Context, c *pgx.Conn) (version int64, err error) {
	err = c.QueryRow(ctx, `select coalesce(max(version_id), 0) from `+schemaTable+` where is_applied`).Scan(&version)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == stateNoTable {
		return 0, nil
	}
	return version, err
}

// migrate applies the migrations that are missing. It needs rights to create only
// where there are any.
func migrate(ctx context.Context, c *pgx.Conn, config *pgx.ConnConfig) error {
	found, err := schemaOf(ctx, c)
	switch {
	case err != nil:
		return fmt.Errorf("read the version of the tables: %w", err)
	case found > schema:
		return &newerError{found}
	case found == schema:
		return nil
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(schemaLock), lock.WithLockTimeout(1, schemaPatience))
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(schemaTable), goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("create the tables: %w", err)
	}
	return nil
}

// newerError says that the tables are those of a newer program.
type newerError struct{ found int64 }

func (e *newerError) Error() string {
	return fmt.Sprintf("the tables have version %d, and this program knows only %d: it is older than one that has used the database; start a newer one", e.found, schema)
}
