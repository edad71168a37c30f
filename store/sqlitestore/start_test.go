package sqlitestore

import (
	"bufio"
	"bytes"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// childDir, in the environment, makes the test binary a process that holds a
// directory until its standard input ends.
const childDir = "SQLITESTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

func child(dir string) int {
	c := Config{Dir: dir, Command: "headgate serve"}.withDefaults()
	_, past, err := open(background, &c, noon)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("ready clean=%v\n", past.Clean)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// start starts a process that holds dir, as user uid if that is not 0, and returns
// its first line.
func start(t *testing.T, dir string, uid uint32) (*exec.Cmd, string) {
	t.Helper()
	program := os.Args[0]
	if uid != 0 { // who may not read where the test stands
		program = filepath.Join(filepath.Dir(dir), "program")
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = t.Output()
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Dir = "/"
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, strings.TrimSpace(line)
}

// wantError fails unless err is one sentence that matches.
func wantError(t *testing.T, err error, pattern string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", pattern)
	} else if ok, bad := regexp.MatchString(pattern, err.Error()); !ok || bad != nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q, want %s", err, pattern)
	}
}

// A second process is told who holds the directory; the end of the first one, in
// whatever way, gives it back.
func TestDirectoryIsHeld(t *testing.T) {
	dir := t.TempDir()
	first, said := start(t, dir, 0)
	if said != "ready clean=false" {
		t.Fatal(said)
	}
	_, _, err := tryBegin(t, dir, noon)
	pattern := fmt.Sprintf(`in use by process %d \(headgate serve\) since 20\d\d-.*: stop it first, or name another --data$`, first.Process.Pid)
	wantError(t, err, pattern)
	wantError(t, Check(t.Context(), dir), pattern)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	j, past := begin(t, dir, noon)
	if past.Clean {
		t.Error("a process that was killed was stopped in order")
	}
	_, said = start(t, dir, 0)
	wantError(t, fmt.Errorf("%s", said), fmt.Sprintf(`in use by process %d \(%s\) since`, os.Getpid(), filepath.Base(os.Args[0])))
	end(t, j, noon, true)
	if _, said = start(t, dir, 0); said != "ready clean=true" {
		t.Error(said)
	}
}

// change runs statements on the database of a directory that nobody uses.
func change(t *testing.T, dir, query string, values ...driver.Value) {
	t.Helper()
	c, err := connect(fileOf(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.exec(t.Context(), query, values...); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, file string, at int, b []byte) {
	t.Helper()
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(all[at:], b)
	if err := os.WriteFile(file, all, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A start on what is not right is refused, with one sentence.
func TestRefusedStarts(t *testing.T) {
	for name, test := range map[string]struct {
		unclean bool
		spoil   func(t *testing.T, dir string)
		want    string
	}{
		"newer tables": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `insert into headgate_schema (version_id, is_applied) values (99, 1)`)
		}, want: `limits.db: the tables have version 99, and this program knows only 1: .* start a newer one$`},
		"no tables": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `drop table headgate_schema`)
		}, want: `limits.db is damaged: it has no tables: restore a backup`},
		"not a database": {spoil: func(t *testing.T, dir string) {
			overwrite(t, fileOf(dir), 0, bytes.Repeat([]byte("text "), 100))
		}, want: `limits.db is not a database`},
		"text": {spoil: func(t *testing.T, dir string) {
			os.WriteFile(fileOf(dir), []byte("hello"), 0o600)
		}, want: `limits.db has only 5 bytes: it was cut off`},
		"empty": {spoil: func(t *testing.T, dir string) {
			os.Truncate(fileOf(dir), 0)
		}, want: `limits.db is empty: it was cut off`},
		"half a header": {spoil: func(t *testing.T, dir string) {
			os.Truncate(fileOf(dir), 50)
		}, want: `limits.db has only 50 bytes: it was cut off`},
		"cut off": {spoil: func(t *testing.T, dir string) {
			os.Truncate(fileOf(dir), 5*pageBytes)
		}, want: `limits.db is damaged: .*malformed`},
		"another application": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `pragma application_id = 1234`)
		}, want: `limits.db is the database of another application \(its application_id is 0x4d2\): name another --data`},
		"damaged header": {spoil: func(t *testing.T, dir string) {
			overwrite(t, fileOf(dir), 16, []byte{0x13, 0x37})
		}, want: `limits.db is not a database`},
		"damaged meta": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `update meta set latest = latest - 1`)
		}, want: `limits.db is damaged: table meta is not as it was written`},
		"no meta": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `delete from meta`)
		}, want: `limits.db is damaged: table meta is empty`},
		"damaged numbers": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `update numbers set text = x'00' || substr(text, 2) where id = 2`)
		}, want: `limits.db is damaged: row 2 of table numbers`},
		"damaged limits": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `update limits set since = since + 1`)
		}, want: `limits.db is damaged: row [0-9a-f]{32} of table limits`},
		"damaged ban": {spoil: func(t *testing.T, dir string) {
			change(t, dir, `update bans set until = until - 1`)
		}, want: `limits.db is damaged: row [0-9a-f]{24} of table bans`},
		"no write-ahead log": {unclean: true, spoil: func(t *testing.T, dir string) {
			os.Remove(fileOf(dir) + walSuffix)
		}, want: `limits.db-wal is missing or empty, though the process was not stopped in order`},
		"empty write-ahead log": {unclean: true, spoil: func(t *testing.T, dir string) {
			os.Truncate(fileOf(dir)+walSuffix, 0)
		}, want: `limits.db-wal is missing or empty`},
		"write-ahead log without a frame": {unclean: true, spoil: func(t *testing.T, dir string) {
			os.Truncate(fileOf(dir)+walSuffix, walHead+frameHead)
			os.Remove(fileOf(dir) + indexSuffix)
		}, want: `limits.db-wal is missing or empty`},
		"write-ahead log without a frame, with its index": {unclean: true, spoil: func(t *testing.T, dir string) {
			os.Truncate(fileOf(dir)+walSuffix, walHead+frameHead)
		}, want: `limits.db is damaged: the write-ahead log has 0 frames that are as they were written, and had \d+`},
		"no database": {spoil: func(t *testing.T, dir string) {
			os.Remove(fileOf(dir))
		}, want: `limits.db is missing, though place says that it was there: restore a backup, or delete .*place to begin anew`},
		"log alone": {unclean: true, spoil: func(t *testing.T, dir string) {
			os.Remove(fileOf(dir))
			os.Remove(filepath.Join(dir, placeName))
		}, want: `limits.db is missing, though limits.db-wal says`},
		"link to a database": {spoil: func(t *testing.T, dir string) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			if err := errors.Join(os.Rename(fileOf(dir), elsewhere), os.Symlink(elsewhere, fileOf(dir))); err != nil {
				t.Fatal(err)
			}
		}, want: `^\S+/limits.db is a symbolic link to \S+/elsewhere, beside which its write-ahead log would be: put that file here instead, with its log if it has one, or make the data directory the link$`},
		"link to nothing": {spoil: func(t *testing.T, dir string) {
			if err := errors.Join(os.Remove(fileOf(dir)), os.Symlink("nothing", fileOf(dir))); err != nil {
				t.Fatal(err)
			}
		}, want: `limits.db is a symbolic link to nothing, beside which`},
		"directory in its place": {spoil: func(t *testing.T, dir string) {
			os.Remove(fileOf(dir))
			os.Mkdir(fileOf(dir), 0o700)
		}, want: `limits.db|is a directory`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, _ := begin(t, dir, noon)
			rng := rand.New(rand.NewPCG(1, 6))
			all := everyLimit(t)
			c := memstore.Commit{Now: noon}
			for i, l := range all {
				c.Limits = append(c.Limits, memstore.Use{ID: l.ID, Limit: l, Since: noon, Durable: true})
				c.Records = append(c.Records, recordAt(uint64(i), l, rng))
			}
			if err := j.Commit(&c); err != nil {
				t.Fatal(err)
			}
			end(t, j, noon, !test.unclean)
			test.spoil(t, dir)
			before := snapshotAll(t, dir)
			j, _, err := tryBegin(t, dir, noon)
			wantError(t, err, test.want)
			if err == nil {
				end(t, j, noon, true)
			}
			if err := Check(t.Context(), dir); err == nil && !strings.Contains(test.want, "missing or empty") {
				t.Error("a check finds nothing")
			}
			if after := snapshotAll(t, dir); before != after {
				t.Errorf("files were %s, are %s", before, after)
			}
		})
	}
	_, err := Open(t.Context(), Config{})
	wantError(t, err, `a data directory must be named`)
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	_, err = Open(t.Context(), Config{Dir: file})
	wantError(t, err, `^sqlitestore: cannot use .*file.*not a directory`)
}

// snapshotAll lists the files of a directory that has no subdirectories with their
// sizes, but for those that come and go.
func snapshotAll(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for _, e := range entries {
		if e.Name() == lockName || strings.HasSuffix(e.Name(), "-shm") || strings.HasSuffix(e.Name(), walSuffix) {
			continue
		}
		fmt.Fprintf(&list, "%s ", e.Name())
	}
	return list.String()
}

// Who may not write to the directory, or to a file in it, is told so.
func TestNotWritable(t *testing.T) {
	if os.Getuid() == 0 { // whom modes do not stop: another user tries
		base, err := os.MkdirTemp("", "sqlitestore")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) })
		os.Chmod(base, 0o755)
		program, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, "program"), program, 0o755); err != nil {
			t.Fatal(err)
		}
		const nobody = 65534
		dir := filepath.Join(base, "data")
		notWritable(t, dir, func() { os.Chown(base, nobody, nobody) }, func(name string, mode os.FileMode) {
			os.Chown(name, nobody, nobody)
			os.Chmod(name, mode)
		}, nobody)
		return
	}
	notWritable(t, filepath.Join(t.TempDir(), "data"), func() {}, func(name string, mode os.FileMode) { os.Chmod(name, mode) }, 0)
}

func notWritable(t *testing.T, dir string, parent func(), chmod func(name string, mode os.FileMode), uid uint32) {
	t.Helper()
	j, _ := begin(t, dir, noon)
	end(t, j, noon, true)
	parent()
	const denied = `: permission denied: the data directory and the files in it must be writable, as limits are kept there$`
	for _, name := range []string{dir, fileOf(dir), filepath.Join(dir, lockName), filepath.Join(dir, placeName)} {
		chmod(name, 0o700)
	}
	for _, x := range []struct {
		name string
		mode os.FileMode
		want string
	}{
		{fileOf(dir), 0o400, `^cannot write to ` + fileOf(dir) + denied},
		{fileOf(dir), 0, `^cannot write to ` + fileOf(dir) + denied},
		{filepath.Join(dir, lockName), 0o400, `^cannot write to ` + filepath.Join(dir, lockName) + denied},
		{filepath.Join(dir, lockName), 0, `^cannot write to ` + filepath.Join(dir, lockName) + denied},
		{filepath.Join(dir, placeName), 0, `^cannot write to ` + filepath.Join(dir, placeName) + denied},
		{dir, 0o500, `^cannot write to .*: .*must be writable`},
		{dir, 0, `^cannot write to ` + dir + denied},
	} {
		chmod(x.name, x.mode)
		_, said := start(t, dir, uid)
		wantError(t, fmt.Errorf("%s", said), x.want)
		chmod(x.name, 0o700)
	}
	if _, said := start(t, dir, uid); !strings.HasPrefix(said, "ready") {
		t.Error(said)
	}
}

// Another program that reads the database does not hinder a start, which says what
// that costs.
func TestStartBesideReader(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 19))
	l := everyLimit(t)[0]
	j, _ := begin(t, dir, noon)
	first := recordAt(1, l, rng)
	commit(t, j, noon, first)
	end(t, j, noon, false)
	r, err := newReading(fileOf(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.keepWAL(true), r.exec(t.Context(), `begin; select count(*) from state`)); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	c := Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&said, nil))}.withDefaults()
	j, past, err := open(t.Context(), &c, noon)
	if err != nil {
		t.Fatal(err)
	}
	const warning = "another program reads the database, so limits.db does not say yet that it is in use"
	if past.Lost != 0 || !strings.Contains(said.String(), warning) {
		t.Errorf("%+v, said %q", past, said.String())
	}
	second := recordAt(2, l, rng)
	commit(t, j, noon, second)
	for _, want := range []memstore.Record{first, second} {
		if got := mustFind(t, j, want.Key); !same(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	end(t, j, noon, false)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	said.Reset()
	if j, past, err = open(t.Context(), &c, noon); err != nil || past.Lost != 0 || said.Len() > 0 {
		t.Fatalf("%v, %+v, said %q", err, past, said.String())
	}
	end(t, j, noon, true)
}

// A start that is killed at any point of its own work leaves a directory that the
// next one can start from.
func TestFirstStartIsRepeated(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(fileOf(dir)+".new", []byte("half a database"), 0o600)
	os.WriteFile(fileOf(dir)+".new-journal", []byte("and a journal"), 0o600)
	os.WriteFile(fileOf(dir)+".new-wal", bytes.Repeat([]byte("log"), 1000), 0o600)
	j, past := begin(t, dir, noon)
	if past.Latest != 0 {
		t.Errorf("%+v", past)
	}
	end(t, j, noon, false)
	os.Remove(filepath.Join(dir, placeName)) // before the place was written
	j, past = begin(t, dir, noon)
	if past.Lost != 0 {
		t.Errorf("%+v", past)
	}
	end(t, j, noon, false)
	old, inode, err := readPlace(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, _ = begin(t, dir, noon)
	end(t, j, noon, false)
	if err := writePlace(dir, [16]byte(old), inode); err != nil {
		t.Fatal(err)
	}
	if j, past = begin(t, dir, noon); past.Lost != 0 {
		t.Errorf("%+v", past)
	}
	end(t, j, noon, true)
}

// SQLite is translated together with the C library that it is tested on: another one,
// which some other module may raise it to, is untested.
func TestLibraryIsItsOwn(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "modernc.org/sqlite", "modernc.org/libc").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "modernc.org/sqlite v1.60.1\nmodernc.org/libc v1.77.1\n"; string(out) != want {
		t.Errorf("%s, want %s", out, want)
	}
}

// A limit is told again by each process that uses it, and when it becomes durable. A
// start says from when on processes may have lost something.
func TestUsesAreToldAgain(t *testing.T) {
	dir := t.TempDir()
	l := prepare(t, headgate.Limit{Name: "x", Algorithm: headgate.FixedWindow, Count: 10, Period: time.Second})
	const hour = 3_600_000_000
	for i, x := range []struct {
		began   int64 // of the life
		durable bool
		clean   bool // how it ends
		want    int64
	}{
		{noon, false, false, 0},
		{noon + hour, true, false, noon},
		{noon + hour + 1_000_000, true, false, noon}, // the one before was short
		{noon + 2*hour, true, true, noon + hour + 1_000_000},
		{noon + 2*hour + 1, true, false, noon + 2*hour},
	} {
		j, past := begin(t, dir, x.began)
		if past.Began != x.want {
			t.Errorf("life %d: processes since %d, want %d", i, past.Began-noon, x.want-noon)
		}
		if i > 0 && (len(past.Limits) != 1 || past.Limits[0].Durable != (i > 1) || past.Limits[0].Since >= x.began) {
			t.Errorf("life %d: %+v", i, past.Limits)
		}
		c := memstore.Commit{Now: x.began, Limits: []memstore.Use{{ID: l.ID, Limit: l, Since: x.began, Durable: x.durable}}}
		if err := j.Commit(&c); err != nil {
			t.Fatal(err)
		}
		end(t, j, x.began, x.clean)
	}
}
