package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	"modernc.org/sqlite"
)

// engine opens connections. They are used without database/sql, each by one
// goroutine at a time: a prepared statement then costs about half.
var engine sqlite.Driver

// background is for what ends by itself.
var background = context.Background()

// settings of every connection.
const settings = `
pragma busy_timeout = 10000;
pragma synchronous = full;
pragma fullfsync = on;
pragma checkpoint_fullfsync = on;
pragma wal_autocheckpoint = 0;
pragma cell_size_check = on;
pragma trusted_schema = off;
pragma temp_store = memory;
`

// conn is a connection to a database.
type conn struct {
	driver.Conn
	stmts []driver.Stmt
}

// Close closes the connection, with what was prepared on it: else SQLite would only
// take note.
func (c *conn) Close() (err error) {
	for _, s := range c.stmts {
		err = errors.Join(err, s.Close())
	}
	return errors.Join(err, c.Conn.Close())
}

const (
	// mostPath is how long a path SQLite opens, in bytes.
	mostPath = 504
	// mostDir leaves room in a directory for the longest of the files in it: those of
	// backups that are not finished, in directories of their own.
	mostDir = mostPath - 64
)

// fits fails if a path has more than most bytes, as SQLite counts them.
func fits(path string, most int) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if n := len(resolve(absolute)); n > most {
		return told{fmt.Errorf("the path %s is too long for SQLite: absolute and without symbolic links it has %d bytes, and at most %d are possible", path, n, most)}
	}
	return nil
}

// resolve follows the symbolic links in an absolute path, of which the end need not be
// there.
func resolve(path string) string {
	for there := path; ; there = filepath.Dir(there) {
		if to, err := filepath.EvalSymlinks(there); err == nil {
			return filepath.Join(to, path[len(there):])
		}
		if there == filepath.Dir(there) {
			return path
		}
	}
}

// nameOf returns the name of a database that exists, as SQLite wants it.
func nameOf(file string) (string, error) {
	if err := fits(file, mostPath); err != nil {
		return "", err
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: "mode=rw"}
	return u.String(), nil
}

// connect opens the database in file, which must exist.
func connect(file string) (*conn, error) {
	name, err := nameOf(file)
	if err != nil {
		return nil, err
	}
	dc, err := engine.Open(name)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: dc}
	if err := c.exec(background, settings); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func named(values []driver.Value) []driver.NamedValue {
	args := make([]driver.NamedValue, len(values))
	for i, v := range values {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return args
}

// exec runs statements that answer nothing.
func (c *conn) exec(ctx context.Context, query string, values ...driver.Value) error {
	_, err := c.Conn.(driver.ExecerContext).ExecContext(ctx, query, named(values))
	return err
}

// query calls row for each row of the answer, with n columns, which are row's to
// keep.
func (c *conn) query(ctx context.Context, query string, n int, row func(columns []driver.Value) error, values ...driver.Value) error {
	rows, err := c.Conn.(driver.QueryerContext).QueryContext(ctx, query, named(values))
	if err != nil {
		return err
	}
	return scan(rows, n, row)
}

func scan(rows driver.Rows, n int, row func(columns []driver.Value) error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for {
		columns := make([]driver.Value, n)
		switch err := rows.Next(columns); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := row(columns); err != nil {
			return err
		}
	}
}

// integer returns the one integer that query answers.
func (c *conn) integer(ctx context.Context, query string) (n int64, err error) {
	err = c.query(ctx, query, 1, func(columns []driver.Value) error {
		n, _ = columns[0].(int64)
		return nil
	})
	return n, err
}

// keepWAL says whether the write-ahead log stays when the last connection is closed.
func (c *conn) keepWAL(keep bool) error {
	mode := 0
	if keep {
		mode = 1
	}
	_, err := c.Conn.(sqlite.FileControl).FileControlPersistWAL("main", mode)
	return err
}

// checkpoint moves what is in the write-ahead log to the database file. It returns
// how many frames are in the log, and whether the next commit begins the log anew.
// mode is passive or restart; a restart waits for readers.
func (c *conn) checkpoint(mode string) (frames int64, done bool, err error) {
	err = c.query(background, "pragma wal_checkpoint("+mode+")", 3, func(columns []driver.Value) error {
		busy, _ := columns[0].(int64)
		frames, _ = columns[1].(int64)
		moved, _ := columns[2].(int64)
		done = busy == 0 && frames == moved
		return nil
	})
	return frames, done && err == nil, err
}

// stmt is a prepared statement.
type stmt struct {
	exe  driver.StmtExecContext
	ask  driver.StmtQueryContext
	args []driver.NamedValue
}

func (c *conn) prepare(query string) (*stmt, error) {
	s, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(background, query)
	if err != nil {
		return nil, err
	}
	c.stmts = append(c.stmts, s)
	return &stmt{exe: s.(driver.StmtExecContext), ask: s.(driver.StmtQueryContext)}, nil
}

// prepareAll prepares the queries that into names.
func (c *conn) prepareAll(into map[string]**stmt) (err error) {
	for query, s := range into {
		if *s, err = c.prepare(query); err != nil {
			return err
		}
	}
	return nil
}

func (s *stmt) bind(values []driver.Value) []driver.NamedValue {
	s.args = s.args[:0]
	for i, v := range values {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return s.args
}

// exec runs the statement.
func (s *stmt) exec(values ...driver.Value) error {
	_, err := s.exe.ExecContext(background, s.bind(values))
	return err
}

// query calls row for each row of the answer, with n columns.
func (s *stmt) query(n int, row func(columns []driver.Value) error, values ...driver.Value) error {
	rows, err := s.ask.QueryContext(background, s.bind(values))
	if err != nil {
		return err
	}
	return scan(rows, n, row)
}
