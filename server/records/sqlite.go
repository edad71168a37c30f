package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// application marks our databases: "HGRC".
	application = 0x48475243
	// readers is how many connections read an SQLite file at once.
	readers = 4
)

// sqliteName returns the name of a database file with the pragmas of a connection.
func sqliteName(file string, more ...string) (string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	q := url.Values{"_pragma": append([]string{"busy_timeout(5000)", "journal_mode(WAL)", "foreign_keys(1)"}, more...)}
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path)}
	return u.String() + "?" + q.Encode(), nil
}

func (d *DB) openSQLite(ctx context.Context, file string) (err error) {
	if file == "" {
		return errors.New("sqlite: needs a path, as in sqlite:headgate-data/records.db")
	}
	if err := makeFile(file); err != nil {
		return err
	}
	d.value = func(int) string { return "?" }
	defer func() {
		if err != nil {
			_ = d.Close() // it is not of use, and err says why
		}
	}()
	name, err := sqliteName(file, "synchronous(FULL)")
	if err != nil {
		return err
	}
	if d.write, err = sql.Open("sqlite", name+"&_txlock=immediate"); err != nil {
		return err
	}
	d.write.SetMaxOpenConns(1)
	if d.read, err = sql.Open("sqlite", name); err != nil {
		return err
	}
	d.read.SetMaxOpenConns(readers)
	d.read.SetMaxIdleConns(readers)
	if d.feed, err = sql.Open("sqlite", name); err != nil {
		return err
	}
	d.feed.SetMaxOpenConns(1)
	version, err := sqliteVersion(ctx, d.write)
	if err != nil {
		return explainSQLite(file, err)
	}
	if err := migrateSQLite(ctx, d.write, version); err != nil {
		return explainSQLite(file, err)
	}
	return nil
}

// makeFile makes an empty file, which only its owner may read, where there is none.
func makeFile(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// sqliteVersion makes sure that the file is ours, new or whole, and returns the newest
// migration that it has.
func sqliteVersion(ctx context.Context, db *sql.DB) (version int64, err error) {
	var id, tables int64
	if err := db.QueryRowContext(ctx, `select application_id, (select count(*) from sqlite_schema) from pragma_application_id`).Scan(&id, &tables); err != nil {
		return 0, err
	}
	switch {
	case tables == 0 && id == 0:
		_, err := db.ExecContext(ctx, fmt.Sprintf(`pragma application_id = %d`, application))
		return 0, err
	case id != application:
		return 0, errors.New("it is the database of another program")
	}
	var fault string
	if err := db.QueryRowContext(ctx, `pragma quick_check(1)`).Scan(&fault); err != nil {
		return 0, err
	}
	if fault != "ok" {
		return 0, fmt.Errorf("it is damaged: %s: put a copy back", strings.Join(strings.Fields(fault), " "))
	}
	var there bool
	if err := db.QueryRowContext(ctx, `select exists (select 1 from sqlite_schema where name = $1)`, schemaTable).Scan(&there); err != nil || !there {
		return 0, err
	}
	return version, db.QueryRowContext(ctx, `select coalesce(max(version_id), 0) from `+schemaTable+` where is_applied`).Scan(&version)
}

// migrateSQLite applies the migrations that db lacks, version being the newest that it
// has.
func migrateSQLite(ctx context.Context, db *sql.DB, version int64) error {
	switch {
	case version > schema:
		return fmt.Errorf("the tables have version %d, and this program knows only %d: it is older than one that has used the database; start a newer one", version, schema)
	case version == schema:
		return nil
	}
	files, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
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

// explainSQLite puts what hinders the use of a file into one sentence.
func explainSQLite(file string, err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_NOTADB:
			err = errors.New("it is no SQLite database, or its beginning is damaged")
		case sqlite3.SQLITE_CORRUPT:
			err = errors.New("it is damaged: put a copy back")
		case sqlite3.SQLITE_FULL:
			err = errors.New("the disk is full")
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
			err = errors.New("it cannot be written to")
		case sqlite3.SQLITE_BUSY:
			err = errors.New("another process is writing to it all the time")
		}
	}
	return fmt.Errorf("%s: %w", file, err)
}
