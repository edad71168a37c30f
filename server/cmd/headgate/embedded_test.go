package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What was used is still used after a stop, and after another start.
func TestServeKeepsState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, policyOf("5/h"))
	s := startServe(t, "--policy", file, "--http", "127.0.0.1:0")
	take := []string{"take", "a", "o", "s", "5", "--server"}
	verb(t, exitDone, append(take, s.address(t))...)
	s.stop(t)

	again := startServe(t, "--policy", file, "--http", "127.0.0.1:0", "--data", s.data)
	address := again.address(t)
	verb(t, exitDenied, append(take, address)...)
	_, metrics := get(t, "http://"+address+"/metrics")
	for _, line := range []string{"headgate_store_up 1", `headgate_store_duration_seconds_count{op="load",store="embedded"} `} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("no line %s in\n%s", line, metrics)
		}
	}
	if out := verb(t, exitCouldNot, "serve", "--http", "127.0.0.1:0", "--data", s.data); !strings.Contains(out, "is in use by process ") {
		t.Errorf("a second server on the same directory:\n%s", out)
	}
	again.stop(t)
}

// A backup of a running server, restored, admits nothing that the server has
// admitted after it; unless the operator says that there is nothing.
func TestBackupAndRestore(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, policy, policyOf("10/h"))
	s := startServe(t, "--policy", policy, "--http", "127.0.0.1:0")
	address := s.address(t)
	take := func(code int, address, cost string) {
		t.Helper()
		verb(t, code, "take", "a", "o", "s", cost, "--server", address)
	}
	take(exitDone, address, "4")
	dir := t.TempDir()
	file := filepath.Join(dir, "copy")
	backup := []string{"backup", file, "--server", address, "--data", s.data}
	if out := verb(t, exitDone, backup...); !strings.HasPrefix(out, file+": ") || !strings.Contains(out, "KiB") {
		t.Errorf("backup:\n%s", out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: others can read it", info, err)
	}
	if out := verb(t, exitCouldNot, backup...); !strings.Contains(out, "exists: name a file that does not") {
		t.Errorf("a second backup to the same file:\n%s", out)
	}
	take(exitDone, address, "5") // of which the backup knows nothing
	if out := verb(t, exitCouldNot, "restore", file, "--data", s.data); !strings.Contains(out, "is in use by process ") {
		t.Errorf("restore to a server that runs:\n%s", out)
	}
	s.stop(t)
	if out := verb(t, exitCouldNot, "restore", file, "--data", s.data); !strings.Contains(out, "limits.db exists: ") {
		t.Errorf("restore over what is there:\n%s", out)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v: beside the backup", entries, err)
	}

	verb(t, exitDone, "restore", file, "--data", filepath.Join(dir, "a"))
	s = startServe(t, "--policy", policy, "--http", "127.0.0.1:0", "--data", filepath.Join(dir, "a"))
	s.await(t, "every limit starts empty: the database was restored from a backup")
	address = s.address(t)
	take(exitDenied, address, "1")
	verb(t, exitDenied, "take", "a", "o", "another", "1", "--server", address)
	s.stop(t)

	verb(t, exitDone, "restore", "--nothing-since", file, "--data", filepath.Join(dir, "b"))
	s = startServe(t, "--policy", policy, "--http", "127.0.0.1:0", "--data", filepath.Join(dir, "b"))
	address = s.address(t)
	take(exitDenied, address, "7")
	take(exitDone, address, "6")
	s.stop(t)
}

// A start removes what a backup has left that was not finished, and no file of the
// operator's, who may keep backups in the data directory.
func TestServeRemovesUnfinishedBackups(t *testing.T) {
	data := filepath.Join(t.TempDir(), "[data]")
	called := func(string, time.Duration, string) {}
	live := func(do func(b *backend)) {
		t.Helper()
		b, err := openEmbedded(t.Context(), &settings{data: data, memory: 64 << 20}, called, slog.New(slog.NewTextHandler(t.Output(), nil)))
		must(t, err)
		do(b)
		must(t, b.close())
	}
	kept := []string{"backup-monday.db", backups + "monday.db"}
	live(func(b *backend) {
		for _, name := range kept {
			must(t, b.embedded.Backup(t.Context(), filepath.Join(data, name)))
		}
		must(t, os.Mkdir(filepath.Join(data, "backup-2026"), 0o700))
		// What a kill leaves while it is sent.
		left, err := os.MkdirTemp(data, backups)
		must(t, err)
		must(t, b.embedded.Backup(t.Context(), filepath.Join(left, "copy")))
	})
	kept = append(kept, "backup-2026")
	live(func(b *backend) {
		for _, name := range kept {
			if _, err := os.Stat(filepath.Join(data, name)); err != nil {
				t.Error(err)
			}
		}
		sent, err := b.backup(data)(t.Context())
		must(t, err)
		must(t, sent.Close())
		entries, err := os.ReadDir(data)
		must(t, err)
		for _, e := range entries {
			if e.IsDir() && e.Name() != "backup-2026" {
				t.Errorf("%s is left", e.Name())
			}
		}
	})
}

// Who has no state of his own has no backup.
func TestNoBackup(t *testing.T) {
	s := startServe(t, "--http", "127.0.0.1:0", "--store", "memory")
	file := filepath.Join(t.TempDir(), "copy")
	if out := verb(t, exitCouldNot, "backup", file, "--server", s.address(t), "--data", s.data); !strings.Contains(out, "is not in this server's data directory") {
		t.Errorf("backup of memory:\n%s", out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was made for nothing")
	}
	if out := verb(t, exitUsage, "backup"); !strings.Contains(out, "usage: headgate backup FILE") {
		t.Errorf("backup without a file:\n%s", out)
	}
	if out := verb(t, exitCouldNot, "restore", file, "--data", t.TempDir()); !strings.Contains(out, "no such file") {
		t.Errorf("restore of nothing:\n%s", out)
	}
	s.stop(t)
}
