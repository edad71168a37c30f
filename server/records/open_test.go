package records

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// What was written is there after another start.
func TestReopen(t *testing.T) {
	for kind, url := range kinds {
		t.Run(kind, func(t *testing.T) {
			at := url(t)
			for i := range 3 {
				d, err := Open(t.Context(), Config{URL: at})
				if err != nil {
					t.Fatal(err)
				}
				p, err := d.AppendPolicy(t.Context(), int64(i), Policy{Document: "x"}, by("ann", "policy.put"))
				if err != nil || p.Revision != int64(i+1) {
					t.Errorf("%+v, %v", p, err)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// refused returns why a database cannot be opened, in one line.
func refused(t *testing.T, at string) string {
	t.Helper()
	d, err := Open(t.Context(), Config{URL: at})
	if err == nil {
		d.Close()
		t.Errorf("%s was opened", at)
		return ""
	}
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%q", err)
	}
	return err.Error()
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "sqlite:" + at
	}
	exec := func(at, statement string) {
		t.Helper()
		db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(at, "sqlite:"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	newer, foreign := file("newer.db", ""), file("foreign.db", "")
	d, err := Open(t.Context(), Config{URL: newer})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	exec(newer, fmt.Sprintf("insert into %s (version_id, is_applied) values (%d, 1)", schemaTable, schema+1))
	exec(foreign, "create table customers (name text)")
	for at, want := range map[string]string{
		"":                      "must be sqlite:PATH or postgres://",
		"mysql://u:hunter2@h/x": "must be sqlite:PATH or postgres://",
		"records.db":            "must be sqlite:PATH or postgres://",
		"sqlite:":               "needs a path",
		"sqlite:" + dir:         "is a directory",
		"sqlite:" + filepath.Join(dir, "newer.db", "x.db"): "not a directory",
		newer:   fmt.Sprintf("the tables have version %d, and this program knows only %d", schema+1, schema),
		foreign: "it is the database of another program",
		file("text.db", "no database at all, but a text of more than a hundred bytes, which is how long the head of a database is."): "it is no SQLite database",
		"postgres://u:hunter2@127.0.0.1:1/x":       `cannot connect to 127.0.0.1:1, database "x"`,
		"postgres://u:hunter2@h/x?leases=false":    `"leases" is no option of the URL`,
		"postgres://u:hunter2@h/x?sslmode=perhaps": "the URL cannot be read",
	} {
		if got := refused(t, at); !strings.HasPrefix(got, "records: ") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", at, got)
		}
	}
	server := pgtest.Standalone(t, pgtest.Options{Password: "open sesame"})
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "hunter2")
	if got := refused(t, u.String()); !strings.Contains(got, `does not let user "postgres" in`) {
		t.Error(got)
	}
	u.User = url.UserPassword("app", "hunter2")
	server.Exec(t, "", `create role app login password 'hunter2'`)
	if got := refused(t, u.String()); !strings.Contains(got, `user "app" lacks a right`) {
		t.Error(got)
	}
	if d, err = Open(t.Context(), Config{URL: server.URL()}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if got := refused(t, u.String()); !strings.Contains(got, "select, insert, update and delete") {
		t.Error(got)
	}
	server.Exec(t, "", `grant select, insert, update, delete on all tables in schema public to app`)
	if d, err = Open(t.Context(), Config{URL: u.String()}); err != nil {
		t.Error(err)
	} else {
		d.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{URL: "sqlite:" + filepath.Join(dir, "new.db")}); err == nil {
		t.Error("opened for nobody")
	}
}

// The file is for its owner alone.
func TestFileMode(t *testing.T) {
	at := filepath.Join(t.TempDir(), "new", "records.db")
	open(t, "sqlite:"+at)
	for name, want := range map[string]os.FileMode{at: 0o600, filepath.Dir(at): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
