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
		{name: "flag", flag: "hunter2", code: exitUsage, want: "--store: must be memory, or a URL that begins with redis:// or rediss://"},
		{name: "variable", text: "hunter2", code: exitUsage, want: "HEADGATE_STORE: must be memory, or a URL that begins with redis:// or rediss://"},
		{name: "file", file: "hunter2\n", code: exitUsage, want: "HEADGATE_STORE_FILE: must be memory, or a URL that begins with redis:// or rediss://"},
		{name: "URL in a flag", flag: "redis://:hunter2@h?leases=maybe", code: exitCouldNot, want: `--store: redis: leases: must be true or false, not "maybe"`},
		{name: "URL in a variable", text: "redis://:hunter2@h?prefix=", code: exitCouldNot, want: "HEADGATE_STORE: redis: prefix: must not be empty"},
		{name: "URL in a file", file: "redis://:hunter2@h?x=1\r\n", code: exitCouldNot, want: `HEADGATE_STORE_FILE: redis: "x" is no option of the URL: there are ca, `},
		{name: "URL in the configuration", config: config, code: exitCouldNot, want: config + `: store: redis: "x" is no option of the URL`},
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
	server := redistest.Standalone(t, redistest.Options{Password: "pw"})
	for from, want := range map[string]string{
		"--store": "redis://:PASSWORD@HOST, best in a file that HEADGATE_STORE_FILE names", storeFile: "redis://:PASSWORD@HOST",
	} {
		s := &settings{store: "redis://" + server.Addr(), storeFrom: from, memory: 1 << 20}
		_, err := openBackend(t.Context(), s, func(string, string, time.Duration, string) {}, slog.New(slog.DiscardHandler))
		if want = from + ": redis: " + server.Addr() + " wants a password: write it into the URL, " + want; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
