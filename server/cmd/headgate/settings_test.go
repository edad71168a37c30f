package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// What is wrong with --store is said of who said it, and never shows a password.
func TestStoreFaults(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		t.Helper()
		name := filepath.Join(dir, "store")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("version: 1\nstore: 'redis://:hunter2@h?x=1'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name             string
		flag, text, file string
		config           string
		code             int
		want             string
	}{
		{name: "flag", flag: "hunter2", code: exitUsage, want: "--store: must be embedded, memory, or a URL that begins with redis://, rediss://, postgres://, postgresql:// or dynamodb://"},
		{name: "variable", text: "hunter2", code: exitUsage, want: "HEADGATE_STORE: must be embedded, memory, or a URL that begins with redis://, rediss://, postgres://, postgresql:// or dynamodb://"},
		{name: "file", file: "hunter2\n", code: exitUsage, want: "HEADGATE_STORE_FILE: must be embedded, memory, or a URL that begins with redis://, rediss://, postgres://, postgresql:// or dynamodb://"},
		{name: "URL in a flag", flag: "redis://:hunter2@h?leases=maybe", code: exitCouldNot, want: `--store: redis: leases: must be true or false, not "maybe"`},
		{name: "URL in a variable", text: "redis://:hunter2@h?prefix=", code: exitCouldNot, want: "HEADGATE_STORE: redis: prefix: must not be empty"},
		{name: "URL in a file", file: "redis://:hunter2@h?x=1\r\n", code: exitCouldNot, want: `HEADGATE_STORE_FILE: redis: "x" is no option of the URL: there are ca, `},
		{name: "URL in the configuration", config: config, code: exitCouldNot, want: config + `: store: redis: "x" is no option of the URL`},
		{name: "PostgreSQL in a flag", flag: "postgres://u:hunter2@h/d?leases=maybe", code: exitCouldNot, want: `--store: postgres: leases: must be true or false, not "maybe"`},
		{name: "PostgreSQL in a file", file: "postgresql://u:hunter2@h/d?lock_timeout=1\n", code: exitCouldNot, want: `HEADGATE_STORE_FILE: postgres: "lock_timeout" is no option of the URL: there are leases, `},
		{name: "no way to PostgreSQL", flag: "postgres://u:hunter2@127.0.0.1:1/d", code: exitCouldNot, want: `--store: postgres: cannot connect to 127.0.0.1:1, database "d": `},
		{name: "DynamoDB", flag: "dynamodb://limits?region=r&leases=maybe", code: exitCouldNot, want: `--store: dynamodb: leases: must be true or false, not "maybe"`},
		{name: "DynamoDB with a secret", flag: "dynamodb://key:hunter2@limits", code: exitCouldNot, want: "--store: dynamodb: the URL takes no credentials"},
		{name: "empty file", file: "\n", code: exitUsage, want: "HEADGATE_STORE_FILE: " + dir + "/store is empty: it must hold what --store would be told"},
		{name: "file of spaces", file: "  \n", code: exitUsage, want: "/store is empty"},
		{name: "two lines", file: "redis://:hunter2@h\nredis://i\n", code: exitCouldNot, want: "HEADGATE_STORE_FILE: " + dir + "/store has more than one line: it must hold one, what --store would be told"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"serve", "--data", filepath.Join(t.TempDir(), "data"), "--http", "127.0.0.1:0"}
			if test.flag != "" {
				args = append(args, "--store", test.flag)
			}
			if test.text != "" {
				t.Setenv("HEADGATE_STORE", test.text)
			}
			if test.file != "" {
				t.Setenv("HEADGATE_STORE_FILE", file(test.file))
			}
			if test.config != "" {
				args = append(args, "--config", test.config)
			}
			var out bytes.Buffer
			if code := run(t.Context(), args, io.Discard, &out); code != test.code || !strings.Contains(out.String(), test.want) || strings.Contains(out.String(), "hunter2") {
				t.Errorf("exit code %d, want %d: %s; want %q", code, test.code, &out, test.want)
			}
		})
	}
}

// Who has forgotten the password is told of the file for it, unless the URL stands
// in one.
func TestStoreWantsPassword(t *testing.T) {
	redis, postgres := redistest.Standalone(t, redistest.Options{Password: "pw"}).Addr(), pgtest.Standalone(t, pgtest.Options{Password: "pw"}).Addr()
	for url, want := range map[string]string{
		"redis://" + redis: "redis: " + redis + " wants a password: write it into the URL, redis://:PASSWORD@HOST",
		"postgres://postgres@" + postgres + "/d": "postgres: " + postgres + `, database "d" does not let user "postgres" in: the URL has no password: ` +
			"write it into the URL, postgres://USER:PASSWORD@HOST/DATABASE",
	} {
		for _, from := range []string{"--store", storeFile} {
			want := from + ": " + want
			if from != storeFile {
				want += ", best in a file that HEADGATE_STORE_FILE names"
			}
			_, err := openBackend(t.Context(), &settings{store: url, storeFrom: from, memory: 1 << 20}, func(string, string, time.Duration, string) {}, slog.New(slog.DiscardHandler))
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
	}
}

// What PostgreSQL has against us is one sentence.
func TestPostgresRefuses(t *testing.T) {
	server := pgtest.Standalone(t, pgtest.Options{Password: "hunter2"})
	standby := server.Standby(t)
	server.Exec(t, "", "create role app login password 'hunter2'")
	server.Exec(t, "", "create schema newer")
	server.Exec(t, "", "create table newer.headgate_schema as select 77 version_id, true is_applied")
	for url, want := range map[string]string{
		"postgres://postgres:hunter22@" + server.Addr() + "/postgres": `does not let user "postgres" in: password authentication failed for user "postgres"`,
		"postgres://postgres:hunter2@" + server.Addr() + "/nowhere":   `database "nowhere": there is no such database: create it, or name another one`,
		"postgres://app:hunter2@" + server.Addr() + "/postgres":       `user "app" lacks a right: permission denied for schema public: it needs usage and create on the schema`,
		server.URL("search_path=newer"):                               "the tables have version 77, and this program knows only ",
		server.URL("search_path=nowhere"):                             "there is no schema to keep the tables in: create the one that search_path names",
		standby.URL():                                                 "the server is a standby, or still recovers: name the primary, or all servers as in HOST,HOST",
	} {
		t.Setenv("HEADGATE_STORE", url)
		var out bytes.Buffer
		code := run(t.Context(), []string{"serve", "--data", filepath.Join(t.TempDir(), "data"), "--http", "127.0.0.1:0"}, io.Discard, &out)
		if text := out.String(); code != exitCouldNot || !strings.HasPrefix(text, "headgate: HEADGATE_STORE: postgres: ") || !strings.Contains(text, want) || strings.Count(text, "\n") != 1 || strings.Contains(text, "hunter2") {
			t.Errorf("exit code %d: %s; want %q", code, text, want)
		}
	}
}
