package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// schema is the newest that this program knows.
	schema = 1
	// schemaTable says which migrations were applied.
	schemaTable = "headgate_schema"
	// application marks our databases: "HGLM".
	application = 0x48474c4d
	// pageBytes is the size of a page: see doc.go.
	pageBytes = 1024
)

// schemaOf returns the newest migration that was applied, 0 for none.
func (c *conn) schemaOf(ctx context.Context) (int64, error) {
	n, err := c.integer(ctx, `select count(*) from sqlite_schema where type = 'table' and name = '`+schemaTable+`'`)
	if err != nil || n == 0 {
		return 0, err
	}
	return c.integer(ctx, `select coalesce(max(version_id), 0) from `+schemaTable+` where is_applied`)
}

// migrate applies the migrations that the database in file lacks. found is the
// newest that it has.
func migrate(ctx context.Context, file string, found int64) error {
	switch {
	case found > schema:
		return &newerError{found}
	case found == schema:
		return nil
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	name, err := nameOf(file)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, settings); err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithTableName(schemaTable),
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
