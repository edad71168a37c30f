package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/sqlitestore"
)

// Who may not write to the data directory, or to a file in it, is told so, and
// nothing is lost.
func TestServeReadOnly(t *testing.T) {
	base, err := os.MkdirTemp("", "headgate")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(base) })
	must(t, os.Chmod(base, 0o755))
	self, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(filepath.Join(base, "headgate"), self, 0o755))
	s := stationIn(t, base, filepath.Join(base, "headgate"))
	if os.Getuid() == 0 { // whom modes do not stop: another user tries
		const nobody = 65534
		must(t, os.Chown(base, nobody, nobody))
		s.attributes = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	const denied = `: permission denied: the data directory and the files in it must be writable, as limits are kept there`

	must(t, os.Chmod(base, 0o555))
	s.refused(`cannot write to DATA` + denied)
	must(t, os.Chmod(base, 0o755))
	v := s.serve()
	s.passes(v, "few", "ann", 7)
	s.stop(v)
	for _, x := range []struct {
		name     string
		mode     os.FileMode
		sentence string
	}{
		{"limits.db", 0o400, `cannot write to DATA/limits\.db` + denied},
		{"limits.db", 0, `cannot write to DATA/limits\.db` + denied},
		{"lock", 0o400, `cannot write to DATA/lock` + denied},
		{"place", 0, `cannot write to DATA/place` + denied},
		{".", 0o500, `cannot write to DATA/limits\.db: attempt to write a readonly database \(1544\): the data directory and the files in it must be writable`},
		{".", 0, `cannot write to DATA` + denied},
	} {
		name := filepath.Join(s.data, x.name)
		info, err := os.Stat(name)
		must(t, err)
		must(t, os.Chmod(name, x.mode))
		s.refused(x.sentence)
		must(t, os.Chmod(name, info.Mode()))
	}
	v = s.serve()
	s.remain(v, "few", "ann", 93, 93)
	s.client.CloseIdleConnections()
	v.kill()
	for _, name := range []string{"limits.db-wal", "limits.db-shm"} {
		must(t, os.Chmod(filepath.Join(s.data, name), 0o400))
		s.refused(`cannot write to DATA/` + name + denied)
		must(t, os.Chmod(filepath.Join(s.data, name), 0o600))
	}
	v = s.serve()
	s.remain(v, "few", "ann", 92, 93)
	s.stop(v)
}

// mounted makes dir a file system of 1 MiB, and reports whether that was allowed.
func mounted(t *testing.T, dir string) bool {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "none", dir).CombinedOutput(); err != nil {
		t.Logf("not tried, as no file system can be mounted: %v: %s", err, out)
		return false
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return true
}

// While the disk is full, requests that need it are refused, or do what their limit
// says; others go on. When there is room again, so do they.
func TestServeDiskFull(t *testing.T) {
	s := newStation(t)
	disk := filepath.Join(filepath.Dir(s.data), "disk")
	if !mounted(t, disk) {
		return
	}
	s.env = []string{"HEADGATE_RECORDS=sqlite:" + filepath.Join(filepath.Dir(s.data), "records.db")} // else room comes and goes with their log
	s.data = filepath.Join(disk, "data")
	ballast := filepath.Join(disk, "ballast")
	fill := func() {
		if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
	}
	fill()
	s.refused(`cannot write to (DATA|DATA/limits\.db): the disk is full`)
	must(t, os.Remove(ballast))

	v := s.serve()
	// What was allocated already may take another commit or two.
	exhaust := func() {
		fill()
		for range 50 {
			if a := s.take(v, "few", "slack", 1); !a.Allowed {
				return
			}
		}
		t.Error("commits succeed on a disk that is full")
	}
	s.passes(v, "few", "ann", 7)
	s.passes(v, "many", "ann", 10)
	exhaust()
	for range 3 {
		s.unavailable(v, "few", "bob", 1)
		s.unavailable(v, "few", "ann", 1)
		if a := s.take(v, "open", "bob", 1); !a.Allowed || len(a.Limits) != 0 {
			t.Errorf("on_store_error: open: %+v", a)
		}
	}
	s.passes(v, "many", "ann", 10) // below its mark
	s.metric(v, "headgate_store_up 0")
	said(t, v, `level=WARN msg="sqlitestore: limits cannot be kept at the moment: what has to be written is refused" dir=\S+ error="database or disk is full \(13\)"`)
	said(t, v, `level=WARN msg="store could not decide" error="sqlitestore: commit \d+ states: database or disk is full \(13\)"`)
	must(t, os.Remove(ballast))
	s.passes(v, "few", "bob", 5)
	s.passes(v, "few", "ann", 5)
	s.metric(v, "headgate_store_up 1")
	said(t, v, `level=INFO msg="sqlitestore: limits can be kept again"`)
	s.stop(v)
	v = s.serve()
	s.remain(v, "few", "ann", 100-12-3, 100-12) // what was refused may have been charged
	s.remain(v, "few", "bob", 100-5-3, 100-5)
	s.remain(v, "many", "ann", 1_000_000-20, 1_000_000-20)

	// A stop that cannot write says so, and is as a crash.
	s.passes(v, "many", "ann", 10)
	exhaust()
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	if code := v.end(t); code != exitCouldNot {
		t.Errorf("ended with %d", code)
	}
	said(t, v, `\nheadgate: the state of limits was not written down at the stop, the next start goes on as after a crash: .*disk is full.*\n$`)
	s.refused(`cannot write to (DATA|DATA/limits\.db): the disk is full`)
	must(t, os.Remove(ballast))
	v = s.serve()
	s.remain(v, "few", "ann", 100-12-3-1, 100-12)
	s.remain(v, "many", "ann", 1_000_000-30-10_000, 1_000_000-30)
	s.stop(v)
}

// After a write that failed for another reason than a full disk, nothing is
// written any more, and nothing is admitted that would have to be. The next process
// knows what was acknowledged.
func TestServeWriteFails(t *testing.T) {
	s := newStation(t)
	v := s.serve("sh", "-c", `ulimit -f "$0" && exec "$@"`, "1024") // 512 KiB
	s.passes(v, "many", "ann", 10)
	passed := make(map[string]bool)
	for n := range 4000 {
		subject := fmt.Sprint("s", n)
		a := s.take(v, "few", subject, 3)
		if passed[subject] = a.Allowed; !a.Allowed {
			break
		}
	}
	s.unavailable(v, "few", "s0", 1)
	s.unavailable(v, "few", "new", 1)
	s.passes(v, "many", "ann", 10) // below its mark
	s.metric(v, "headgate_store_up 0")
	s.client.CloseIdleConnections()
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	if code := v.end(t); code != exitCouldNot {
		t.Errorf("ended with %d", code)
	}
	const again = `an earlier write failed, and what of it is on disk is not known: end the process and start it again, which reads what is`
	said(t, v, `level=ERROR msg="sqlitestore: limits cannot be kept any more: `+again+`" dir=\S+ error="disk I/O error \(\d+\)"`)
	said(t, v, `\nheadgate: the state of limits was not written down at the stop, the next start goes on as after a crash: .*`+again+`.*\n$`)
	if strings.Count(v.said(), "level=ERROR") != 1 {
		t.Error("that nothing is written is not said once")
	}

	v = s.serve()
	s.metric(v, "headgate_store_up 1")
	for subject, ok := range passed {
		least := int64(96)
		if ok {
			s.remain(v, "few", subject, least, 97)
		} else {
			s.remain(v, "few", subject, least, 100)
		}
	}
	s.remain(v, "many", "ann", 1_000_000-20-10_000, 1_000_000-20)
	s.stop(v)
}

// A database that is damaged is never one that has seen nothing: serve does not
// start, or refuses the requests that need what is damaged.
func TestServeDamaged(t *testing.T) {
	const subjects = 300
	whole := newStation(t)
	v := whole.serve()
	for n := range subjects {
		whole.passes(v, "few", fmt.Sprint("s", n), 3)
	}
	whole.stop(v)
	info, err := os.Stat(whole.database())
	must(t, err)
	garbage := bytes.Repeat([]byte{0xa5, 0x5a, 0x13, 0x37}, 512)
	const damaged = `DATA/limits\.db is damaged: .*: restore a backup, or move it, limits\.db-wal and place away to begin anew with every limit full`
	for _, test := range []struct {
		name, sentence string
		spoil          func(s *station)
	}{
		{"magic", `DATA/limits\.db is not a database: restore a backup, or name another --data`, func(s *station) { s.overwrite(0, garbage[:16]) }},
		{"header", `DATA/limits\.db is not a database: restore a backup, or name another --data`, func(s *station) { s.overwrite(16, garbage[:8]) }},
		{"schema", damaged, func(s *station) { s.overwrite(100, garbage[:900]) }},
		{"middle", damaged, func(s *station) { s.overwrite(info.Size()/2, garbage) }},
		{"zeros", damaged, func(s *station) { s.overwrite(info.Size()/2, make([]byte, 2048)) }},
		{"cut off", damaged, func(s *station) { must(t, os.Truncate(s.database(), info.Size()/2)) }},
		{"empty", `DATA/limits\.db is empty: it was cut off: restore a backup`, func(s *station) { must(t, os.Truncate(s.database(), 0)) }},
		{"newer schema", `cannot use DATA/limits\.db: the tables have version 99, and this program knows only 1: it is older than one that has used the database; start a newer one`,
			func(s *station) { s.edit(`insert into headgate_schema (version_id, is_applied) values (99, 1)`) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := whole.elsewhere()
			s.t = t
			test.spoil(s)
			before, err := os.ReadFile(s.database())
			must(t, err)
			s.refused(test.sentence)
			s.refused(test.sentence)
			if after, err := os.ReadFile(s.database()); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the database was changed: %v", err)
			}
			if test.name == "newer schema" {
				s.edit(`delete from headgate_schema where version_id = 99`)
				v := s.serve()
				s.remain(v, "few", "s1", 97, 97)
				s.stop(v)
			}
			if test.sentence == damaged { // and what it advises helps
				must(t, os.Rename(s.database(), s.database()+".damaged"))
				must(t, os.Remove(filepath.Join(s.data, "place")))
				log := s.database() + "-wal"
				if _, err := os.Stat(log); err == nil {
					s.refused(`DATA/limits\.db is missing, though limits\.db-wal says that it was there: restore a backup, or delete DATA/limits\.db-wal to begin anew with every limit full`)
					must(t, os.Remove(log))
				}
				v := s.serve()
				s.remain(v, "few", "s1", 100, 100)
				s.stop(v)
			}
		})
	}
	t.Run("log", func(t *testing.T) {
		s := whole.elsewhere()
		s.t = t
		v := s.serve()
		for n := range 20 {
			s.passes(v, "few", fmt.Sprint("s", n), 1)
		}
		s.client.CloseIdleConnections()
		v.kill()
		log, err := os.ReadFile(s.database() + "-wal")
		must(t, err)
		log[len(log)/2] ^= 1
		must(t, os.WriteFile(s.database()+"-wal", log, 0o600))
		const commits = `DATA/limits\.db is damaged: frame \d+ of the write-ahead log is not as it was written, and \d+ commits come after it: restore a backup, or move it, .*`
		s.refused(commits)
		s.refused(commits)
		log[len(log)/2] ^= 1
		must(t, os.WriteFile(s.database()+"-wal", log, 0o600))
		v = s.serve()
		s.remain(v, "few", "s1", 95, 96)
		s.stop(v)
	})
	t.Run("rows", func(t *testing.T) {
		s := whole.elsewhere()
		s.t = t
		spoiled := s.spoilRows()
		v := s.serve()
		failed := 0
		for n := range subjects {
			a, err := v.ask(t.Context(), s.client, "/v1/peek", bodyOf(fmt.Sprint("s", n), "few", ""))
			switch {
			case err != nil:
				t.Fatal(err)
			case a.Reason == headgate.StoreUnavailable.String():
				failed++
				s.unavailable(v, "few", fmt.Sprint("s", n), 1)
			case len(a.Limits) != 1 || a.Limits[0].Remaining != 97:
				t.Errorf("s%d: %+v", n, a)
			}
		}
		if failed != spoiled || failed == 0 {
			t.Errorf("%d rows were damaged, and %d requests failed", spoiled, failed)
		}
		s.metric(v, "headgate_store_up 1")
		said(t, v, `level=WARN msg="store could not decide" error="sqlitestore: read a state: row [0-9a-f]{24} of table state is not as it was written"`)
		s.stop(v)
	})
}

// spoilRows changes the last byte of the first row in each page that has rows of
// states, and returns how many these are.
func (s *station) spoilRows() (spoiled int) {
	s.t.Helper()
	b, err := os.ReadFile(s.database())
	must(s.t, err)
	const (
		page = 1024 // of package sqlitestore
		leaf = 0x0a // of a table without rowid
		head = 8    // of a leaf; the places of its rows follow
	)
	for at := page; at < len(b); at += page {
		// Other tables have no more than a row or two.
		if rows := binary.BigEndian.Uint16(b[at+3:]); b[at] == leaf && rows > 4 {
			row := at + int(binary.BigEndian.Uint16(b[at+head:]))
			end := row + int(b[row]) // which begins with its length
			s.overwrite(int64(end), []byte{b[end] ^ 0x10})
			spoiled++
		}
	}
	return spoiled
}

// If the clock was set back while the process was away, the log says so, and what
// was used stays used.
func TestServeClockSetBack(t *testing.T) {
	s := newStation(t)
	store, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: s.data})
	must(t, err)
	g, err := gate.Open(t.Context(), gate.Config{PolicyFile: s.policy, Store: store})
	must(t, err)
	var d gate.Decision
	later := time.Now().Add(3 * time.Hour)
	must(t, g.Take(t.Context(), &gate.Request{Application: "a", Operation: "few", Subject: "ann", Cost: 7, CostSaid: true, Now: later.UnixMicro()}, &d))
	if !d.Allowed {
		t.Fatalf("%+v", d)
	}
	must(t, g.Close())
	must(t, store.Close())
	for life := range int64(3) {
		v := s.serve()
		said(t, v, `level=WARN msg="sqlitestore: the clock was set back while the process was away: limits go on by the latest instant that they have seen, ahead of it" dir=\S+ by=2h5\d`)
		s.remain(v, "few", "ann", 93-life, 93-life)
		s.passes(v, "few", "ann", 1)
		s.passes(v, "few", fmt.Sprint("life ", life), 100)
		if a := s.take(v, "few", fmt.Sprint("life ", life), 1); a.Allowed {
			t.Errorf("%+v", a)
		}
		s.stop(v)
	}
}

// A second process on a directory is told who holds it, and the first does not
// notice; a kill gives it back.
func TestServeTwice(t *testing.T) {
	s := newStation(t)
	v := s.serve()
	s.passes(v, "few", "ann", 7)
	held := fmt.Sprintf(`DATA is in use by process %d \(headgate serve\) since 20\d\d-\d\d-\d\dT[0-9:]+Z: stop it first, or name another --data`, v.cmd.Process.Pid)
	for range 2 {
		s.refused(held)
		s.passes(v, "few", "ann", 1)
	}
	s.client.CloseIdleConnections()
	v.kill()
	v = s.serve()
	s.remain(v, "few", "ann", 100-9-1, 100-9)
	s.stop(v)
}

// What was copied with cp -r while a process used it, or after a kill, starts with
// nothing left; after a stop in order a copy goes on. The original goes on anyway.
func TestServeCopied(t *testing.T) {
	s := newStation(t)
	v := s.serve()
	s.passes(v, "few", "ann", 7)
	s.passes(v, "many", "ann", 5)
	s.stop(v)
	c := s.elsewhere()
	for _, x := range []*station{c, s} {
		v = x.serve()
		x.remain(v, "few", "ann", 93, 93)
		x.remain(v, "few", "bob", 100, 100)
		x.remain(v, "many", "ann", 1_000_000-5, 1_000_000-5)
		if strings.Contains(v.said(), `level=WARN msg="sqlitestore`) {
			t.Errorf("said\n%s", v.said())
		}
	}

	var ending atomic.Bool
	var used atomic.Int64
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := 0; !ending.Load(); n++ {
				if _, err := v.ask(t.Context(), s.client, "/v1/take", bodyOf("ann", "many", `,"cost":10`)); err != nil {
					t.Error(err)
					return
				}
				used.Add(10)
				if _, err := v.ask(t.Context(), s.client, "/v1/take", bodyOf(fmt.Sprint(i, " ", n), "few", "")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const nothing = `level=WARN msg="sqlitestore: charges may be missing, so every limit starts empty: the database was copied while it was in use"`
	for range 2 {
		c := s.elsewhere()
		w := c.serve()
		said(t, w, nothing)
		c.nothingLeft(w)
		c.client.CloseIdleConnections()
		w.kill()
		w = c.serve() // and still
		c.nothingLeft(w)
		w.kill()
	}
	ending.Store(true)
	load.Wait()
	s.client.CloseIdleConnections()
	v.kill()
	c = s.elsewhere()
	w := c.serve()
	said(t, w, nothing)
	c.nothingLeft(w)
	w.kill()

	v = s.serve()
	left := 1_000_000 - 5 - used.Load()
	s.remain(v, "few", "ann", 92, 93)
	s.remain(v, "many", "ann", left-10_000, left)
	s.stop(v)
}
