package records

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

//go:embed migrations
var migrations embed.FS

const (
	// schema is the newest that this program knows.
	schema = 3
	// schemaTable says which migrations were applied. In PostgreSQL the state of limits may
	// be beside it.
	schemaTable = "headgate_records_schema"
)

// Config says where records are.
type Config struct {
	// URL is sqlite:PATH, of a file that is made where there is none, or
	// postgres://USER:PASSWORD@HOST:PORT/DATABASE with options as those of the store.
	URL string
	// Logger is told of what happens between calls; nil discards it.
	Logger *slog.Logger
}

// Open opens the database, and makes or migrates its tables where that is needed. It
// fails with one sentence that shows no password.
func Open(ctx context.Context, c Config) (*DB, error) {
	d := &DB{log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), bell: make(chan struct{})}
	var err error
	switch scheme, rest, _ := strings.Cut(c.URL, ":"); scheme {
	case "sqlite":
		err = d.openSQLite(ctx, rest)
	case "postgres", "postgresql":
		err = d.openPostgres(ctx, c.URL)
	default:
		err = errors.New("must be sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE")
	}
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	return d, nil
}

// Close closes the database.
func (d *DB) Close() error {
	var errs []error
	for _, db := range []*sql.DB{d.feed, d.read, d.write} {
		if db != nil { // it may not have come to that
			errs = append(errs, db.Close()) // nothing where it is closed
		}
	}
	err := errors.Join(errs...)
	if d.quit != nil {
		d.quit()
	}
	return err
}
