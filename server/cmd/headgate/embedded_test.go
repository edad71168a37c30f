package main

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	if out := verb(t, exitCouldNot, "restore", file, "--data", t.TempDir()); !strings.Contains(out, "there is no file "+file) {
		t.Errorf("restore of nothing:\n%s", out)
	}
	s.stop(t)
}

// A backup that is not made says why, and names no file that nobody has named.
func TestBackupIsNotMade(t *testing.T) {
	t.Setenv("HEADGATE_ADMIN_TOKEN", strings.Repeat("t", 40))
	t.Setenv("HEADGATE_TOKEN", strings.Repeat("t", 40))
	s := startServe(t, "--http", "127.0.0.1:0", "--admin", "localhost:0")
	door := s.address(t)
	_, admin, _ := strings.Cut(s.await(t, "door=admin"), "address=")
	dir := t.TempDir()
	for _, x := range []struct {
		file, server string
		code         int
		want         string
	}{
		{"", admin, exitUsage, "headgate: the name of FILE is empty: name a file that does not exist\n"},
		{"-", admin, exitUsage, "headgate: a backup is not printed, as half of one would pass for a file: name a file that does not exist (./- for one of that name)\n"},
		{dir + "/nowhere/a", admin, exitCouldNot, "headgate: " + dir + "/nowhere/a cannot be made: there is no directory " + dir + "/nowhere\n"},
		{s.data + "/limits.db/a", admin, exitCouldNot, "headgate: " + s.data + "/limits.db/a cannot be made: " + s.data + "/limits.db is not a directory\n"},
		{"/proc/a", admin, exitCouldNot, "headgate: /proc/a cannot be made: "},
		{dir, admin, exitCouldNot, "headgate: " + dir + " exists: name a file that does not\n"},
		{dir + "/a", door, exitCouldNot, "headgate: no such route: the administration of this server is not at " + door + ", but at another address, which 'headgate serve' was given with --admin (127.0.0.1:8082 by default"},
	} {
		if out := verb(t, x.code, "backup", x.file, "--server", x.server); !strings.HasPrefix(out, x.want) || strings.Contains(out, ".part") {
			t.Errorf("backup %q:\n%s", x.file, out)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v is left", err, entries)
	}
	s.stop(t)
}

// A backup that is damaged is not called one by which it could be replaced.
func TestRestoreOfDamaged(t *testing.T) {
	dir := t.TempDir()
	s := startServe(t, "--http", "127.0.0.1:0")
	file := filepath.Join(dir, "copy")
	verb(t, exitDone, "backup", file, "--server", s.address(t), "--data", s.data)
	s.stop(t)
	whole, err := os.ReadFile(file)
	must(t, err)
	for _, x := range []struct {
		text []byte
		want string
	}{
		{nil, "it is empty: it was cut off, so it is no backup, or a damaged one: take another backup\n"},
		{whole[:50], "it has only 50 bytes: it was cut off, so it is no backup, or a damaged one: take another backup\n"},
		{whole[50:], "it is not a database, so it is no backup, or a damaged one: take another backup\n"},
		{whole[:len(whole)/2], "it is damaged: "},
	} {
		must(t, os.WriteFile(file, x.text, 0o600))
		out := verb(t, exitCouldNot, "restore", file, "--data", filepath.Join(dir, "data"))
		if !strings.HasPrefix(out, "headgate: sqlitestore: restore "+file+": "+x.want) || !strings.HasSuffix(out, ": take another backup\n") || strings.Contains(out, "restore a backup") {
			t.Errorf("restore of %d bytes:\n%s", len(x.text), out)
		}
	}
}

// A data directory that goes away while the server runs is noticed: nothing is admitted
// that would be forgotten, and the stop is none in order.
func TestServeDataRemoved(t *testing.T) {
	s := newStation(t)
	v := s.serve()
	s.passes(v, "few", "ann", 7)
	must(t, os.RemoveAll(s.data))
	for ended := time.After(patience); ; {
		s.take(v, "few", "ann", 1)
		if strings.Contains(v.said(), "level=ERROR") {
			break
		}
		select {
		case <-ended:
			t.Fatal("nothing is said")
		default:
		}
	}
	s.unavailable(v, "few", "bob", 1)
	s.metric(v, "headgate_store_up 0")
	s.client.CloseIdleConnections()
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	if code := v.end(t); code != exitCouldNot {
		t.Errorf("ended with %d", code)
	}
	const lost = `the data directory \S+ was removed or moved away while the process ran, and nothing is kept any more: `
	said(t, v, `level=ERROR msg="sqlitestore: limits cannot be kept any more: `+lost)
	said(t, v, `\nheadgate: the state of limits was not written down at the stop, the next start goes on as after a crash: .*`+lost+`.*\n$`)
	if strings.Count(v.said(), "level=ERROR") != 1 {
		t.Error("it is not said once")
	}
}

// A file lock that was removed while it was held lets nobody else in.
func TestServeLockRemoved(t *testing.T) {
	s := newStation(t)
	v := s.serve()
	s.passes(v, "few", "ann", 7)
	must(t, os.Remove(filepath.Join(s.data, "lock")))
	for range 2 {
		s.refused(`DATA is in use by another process, though its file lock, which would say by which, was removed or replaced: 'fuser -v DATA' tells; stop that first, or name another --data`)
	}
	s.remain(v, "few", "ann", 93, 93)
	s.stop(v)
}

// What was restored, and not started, is not trusted because somebody says so of a copy
// of it.
func TestRestoreOfRestored(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, policy, policyOf("10/h"))
	s := startServe(t, "--policy", policy, "--http", "127.0.0.1:0")
	address := s.address(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "copy")
	verb(t, exitDone, "take", "a", "o", "s", "4", "--server", address)
	verb(t, exitDone, "backup", file, "--server", address, "--data", s.data)
	verb(t, exitDone, "take", "a", "o", "s", "5", "--server", address)
	s.stop(t)
	verb(t, exitDone, "restore", file, "--data", filepath.Join(dir, "a"))
	out := verb(t, exitDone, "restore", "--nothing-since", filepath.Join(dir, "a", "limits.db"), "--data", filepath.Join(dir, "b"))
	if !strings.HasSuffix(out, "/b: limits go on as it has them\n") {
		t.Errorf("said %q", out)
	}
	s = startServe(t, "--policy", policy, "--http", "127.0.0.1:0", "--data", filepath.Join(dir, "b"))
	s.await(t, "every limit starts empty: the database was restored from a backup")
	address = s.address(t)
	verb(t, exitDenied, "take", "a", "o", "s", "1", "--server", address)
	verb(t, exitDenied, "take", "a", "o", "another", "1", "--server", address)
	s.stop(t)
}

// A data directory whose name SQLite would take for a URI is one like any other.
func TestServeDataLikeURI(t *testing.T) {
	t.Chdir(t.TempDir())
	const data = "file:x"
	s := startServe(t, "--http", "127.0.0.1:0", "--data", data)
	address := s.address(t)
	verb(t, exitDone, "backup", "copy", "--server", address, "--data", data)
	s.stop(t)
	verb(t, exitDone, "restore", "copy", "--data", data+"2")
}

// readyz fails unless /readyz answers with status soon.
func (s *station) readyz(v *victim, status int) {
	s.t.Helper()
	for ended := time.After(patience); ; {
		got, _ := get(s.t, v.url+"/readyz")
		if got == status {
			return
		}
		select {
		case <-ended:
			s.t.Fatalf("/readyz is %d, want %d", got, status)
		default:
		}
	}
}

// A server that can write nothing down, and whose limits all refuse then, is not ready.
// One whose disk has room again is, without anybody who asks it for a decision.
func TestServeNotReady(t *testing.T) {
	closed := "version: 1\napplications: {a: {on_store_error: closed, rules: [{name: few, match: {operation: few}, limits: [" + slowYear("quota", 100) + "]}]}}\n"
	s := newStation(t)
	must(t, os.WriteFile(s.policy, []byte(closed), 0o644))
	v := s.serve()
	s.passes(v, "few", "ann", 1)
	s.readyz(v, http.StatusOK)
	must(t, os.RemoveAll(s.data))
	s.readyz(v, http.StatusServiceUnavailable)
	s.metric(v, "headgate_store_up 0")
	v.kill()

	disk := filepath.Join(filepath.Dir(s.data), "disk")
	if !mounted(t, disk) {
		return
	}
	s.data = filepath.Join(disk, "data")
	v = s.serve()
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	for ended := time.After(patience); s.take(v, "few", "ann", 1).Allowed; { // until what was allocated already is used
		select {
		case <-ended:
			t.Fatal("commits succeed on a disk that is full")
		default:
		}
	}
	s.readyz(v, http.StatusServiceUnavailable)
	must(t, os.Remove(ballast))
	s.readyz(v, http.StatusOK)
	s.metric(v, "headgate_store_up 1")
	s.passes(v, "few", "bob", 1)
	s.stop(v)
}

// Data directories that cannot be used are called by what is wrong with them.
func TestServeRefusesData(t *testing.T) {
	s := newStation(t)
	s.stop(s.serve())
	elsewhere := filepath.Join(filepath.Dir(s.data), "elsewhere")
	must(t, os.Rename(s.database(), elsewhere))
	must(t, os.Symlink(elsewhere, s.database()))
	s.refused(`DATA/limits\.db is a symbolic link to ` + elsewhere + `, beside which its write-ahead log would be: put that file here instead, with its log if it has one, or make the data directory the link`)
	must(t, os.Rename(elsewhere, s.database()))
	link := filepath.Join(filepath.Dir(s.data), "link")
	must(t, os.Symlink(s.data, link))
	s.data = link
	s.stop(s.serve())
	s.data = filepath.Join(filepath.Dir(link), strings.Repeat("a/", 220))
	must(t, os.MkdirAll(filepath.Dir(s.data), 0o700))
	s.refused(`the path DATA is too long for SQLite: absolute and without symbolic links it has \d+ bytes, and at most 440 are possible`)
}
