package sqlitestore

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// A disk that is full fails a commit, of which nothing is left; when there is room
// again, commits succeed.
func TestDiskFull(t *testing.T) {
	l := everyLimit(t)[0]
	many := func(rng *rand.Rand) (records []memstore.Record) {
		for n := range uint64(2000) {
			records = append(records, recordAt(100+n, l, rng))
		}
		return records
	}
	full := func(t *testing.T, dir string, fill, free func(j *journal)) {
		rng := rand.New(rand.NewPCG(1, 7))
		j, _ := begin(t, dir, noon)
		first := recordAt(1, l, rng)
		commit(t, j, noon, first)
		fill(j)
		changed := recordAt(1, l, rng)
		records := append(many(rng), changed)
		frames := j.frames
		for range 3 {
			err := j.Commit(&memstore.Commit{Now: noon + hour, Records: records})
			if headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != "disk_full" {
				t.Fatalf("%v: kind %s", err, kindOf(err))
			}
			if got := mustFind(t, j, first.Key); !same(got, first) {
				t.Fatalf("%+v, want %+v", got, first)
			}
			if got := mustFind(t, j, records[0].Key); got.Limit != nil {
				t.Fatalf("half a commit is there: %+v", got)
			}
			if j.frames != frames {
				t.Fatalf("%d frames are counted, where %d are", j.frames, frames)
			}
		}
		free(j)
		if err := j.Commit(&memstore.Commit{Now: noon + hour, Records: records}); err != nil {
			t.Fatal(err)
		}
		end(t, j, noon, false)
		j, past := begin(t, dir, noon)
		if past.Latest != noon+hour {
			t.Errorf("latest %d", past.Latest)
		}
		for _, r := range records {
			if got := mustFind(t, j, r.Key); !same(got, r) {
				t.Fatalf("%+v, want %+v", got, r)
			}
		}
		end(t, j, noon, true)
	}
	t.Run("pages", func(t *testing.T) {
		limit := func(pages int) func(j *journal) {
			return func(j *journal) {
				if err := j.w.query(t.Context(), fmt.Sprintf("pragma max_page_count = %d", pages), 1, ignore); err != nil {
					t.Fatal(err)
				}
			}
		}
		full(t, t.TempDir(), limit(50), limit(1<<30))
	})
	t.Run("disk", func(t *testing.T) {
		dir := t.TempDir()
		if err := mount(t, dir, "1m"); err != nil {
			t.Logf("only simulated, as no file system can be mounted: %v", err)
			return
		}
		ballast := dir + "/ballast"
		if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		_, _, err := tryBegin(t, dir, noon)
		wantError(t, err, `^cannot write to .*: the disk is full$`)
		if err := os.Truncate(ballast, 1<<20-16<<10); err != nil { // the lock fits, and not the database
			t.Fatal(err)
		}
		_, _, err = tryBegin(t, dir, noon)
		wantError(t, err, `the disk is full|the disk failed`)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		full(t, dir, func(*journal) {
			if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if err := os.Truncate(ballast, 700<<10); err != nil { // some of the next commit fits
				t.Fatal(err)
			}
			if err := os.WriteFile(ballast+"2", make([]byte, 180<<10), 0o600); err != nil {
				t.Fatal(err)
			}
		}, func(*journal) {
			os.Remove(ballast)
			if err := resize(dir, "8m"); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// After a write that failed nothing is written any more, though it may succeed: what
// of it is on disk is not known. The next process finds what was acknowledged.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	l := everyLimit(t)[0]
	rng := rand.New(rand.NewPCG(1, 8))
	j, _ := begin(t, dir, noon)
	first := recordAt(1, l, rng)
	commit(t, j, noon, first)
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := old
	limit.Cur = 64 << 10
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	var records []memstore.Record
	for n := range uint64(3000) {
		records = append(records, recordAt(1+n, l, rng))
	}
	err := j.Commit(&memstore.Commit{Now: noon + hour, Records: records})
	if err2 := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err2 != nil {
		t.Fatal(err2)
	}
	if headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != "io" {
		t.Fatalf("%v: kind %s", err, kindOf(err))
	}
	for range 2 {
		err := j.Commit(&memstore.Commit{Now: noon + hour, Records: records[:1]})
		if headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(fmt.Sprint(err), "end the process and start it again") {
			t.Errorf("%v", err)
		}
	}
	if err := j.Commit(&memstore.Commit{Now: noon + hour, Clean: true}); err == nil {
		t.Error("a broken journal was stopped in order")
	}
	end(t, j, noon, false)
	j, past := begin(t, dir, noon)
	if past.Clean || past.Latest != noon {
		t.Errorf("%+v", past)
	}
	if got := mustFind(t, j, first.Key); !same(got, first) {
		t.Errorf("%+v, want %+v", got, first)
	}
	end(t, j, noon, true)
}

// A row that is not as it was written fails the Load of its key, by name, and is
// never "never seen". The walker reports it.
func TestDamagedRows(t *testing.T) {
	dir := t.TempDir()
	l := everyLimit(t)[0]
	rng := rand.New(rand.NewPCG(1, 9))
	j, _ := begin(t, dir, noon)
	var records []memstore.Record
	for n := range uint64(50) {
		records = append(records, recordAt(n, l, rng))
	}
	commit(t, j, noon, records...)
	end(t, j, noon, true)
	spoil := []string{
		`update state set until = until + 1 where key = ?`,
		`update state set numbers = numbers + 1 where key = ?`,
		`update state set value = substr(value, 1, length(value) - 1) where key = ?`,
		`update state set value = '' where key = ?`,
		`update state set value = substr(value, 1, 6) || x'55' || substr(value, 8) where key = ?`,
		`update state set value = (select s.value from state s where s.key <> state.key limit 1) where key = ?`,
	}
	for i, query := range spoil {
		change(t, dir, query, appendKey(nil, records[i].Key))
	}
	j, _ = begin(t, dir, noon)
	for i, r := range records {
		got, err := find(j, r.Key)
		if i >= len(spoil) {
			if err != nil || !same(got, r) {
				t.Errorf("%+v: %v, want %+v", got, err, r)
			}
			continue
		}
		wantError(t, err, fmt.Sprintf(`^sqlitestore: read a state: row %x of table state is not as it was written$`, appendKey(nil, r.Key)))
		if got.Limit != nil || headgate.CodeOf(err) != headgate.Unavailable || kindOf(err) != "corrupt" {
			t.Errorf("%+v, %v", got, kindOf(err))
		}
	}
	for range 6 {
		if err := j.walk(20); err != nil {
			t.Fatal(err)
		}
	}
	if j.walker.told != 2*int64(len(spoil)) { // in two passes
		t.Errorf("the walker has told of %d", j.walker.told)
	}
	// A commit makes the row good again.
	commit(t, j, noon, records[0])
	if got := mustFind(t, j, records[0].Key); !same(got, records[0]) {
		t.Errorf("%+v", got)
	}
	end(t, j, noon, true)
	if err := Check(t.Context(), dir); err == nil || strings.Count(err.Error(), "not as it was written") != len(spoil)-1 {
		t.Errorf("%v", err)
	}
}

// Rows that say nothing any more go, and so do numbers that no row refers to.
func TestWalk(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 10))
	j, _ := begin(t, dir, noon)
	all := everyLimit(t)
	ban := all[len(all)-1]
	var records []memstore.Record
	for n := range uint64(1000) {
		r := recordAt(n, all[n%9], rng)
		r.Until = noon + int64(n) + 1
		records = append(records, r)
	}
	for n := uint64(1000); n < 1010; n++ {
		r := recordAt(n, ban, rng)
		r.Until = noon + int64(n) + 1
		records = append(records, r)
	}
	c := memstore.Commit{Now: noon, Records: records, Limits: []memstore.Use{{ID: all[1].ID, Limit: all[1], Since: noon}}}
	if err := j.Commit(&c); err != nil {
		t.Fatal(err)
	}
	pass := func() {
		t.Helper()
		for rows := j.walker.rows; ; rows = j.walker.rows {
			if err := j.walk(300); err != nil {
				t.Fatal(err)
			}
			if j.walker.rows-rows < 300 {
				return
			}
		}
	}
	count := func(table string) int64 {
		t.Helper()
		n, err := j.w.integer(t.Context(), `select count(*) from `+table)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, at := range []int64{0, 1, 500, 999} {
		commit(t, j, noon+at)
		pass()
		if n := count("state"); n != 1000-at {
			t.Errorf("%d rows at %d", n, at)
		}
		if got := mustFind(t, j, records[at].Key); !same(got, records[at]) {
			t.Errorf("%+v, want %+v", got, records[at])
		}
	}
	commit(t, j, noon+1005)
	pass() // forgets the bans, and what rows refer to
	pass() // and the numbers
	if n := count("bans"); n != 5 {
		t.Errorf("%d bans", n)
	}
	if n := count("numbers"); n != 2 { // in use, and of the bans
		t.Errorf("%d numbers", n)
	}
	r := recordAt(5, all[5], rng) // its numbers are gone, and come again
	commit(t, j, noon+1005, r)
	if got := mustFind(t, j, r.Key); !same(got, r) {
		t.Errorf("%+v, want %+v", got, r)
	}
	end(t, j, noon+1005, true)
	if err := Check(t.Context(), dir); err != nil {
		t.Error(err)
	}
	j, past := begin(t, dir, noon)
	if len(past.Bans) != 5 || len(past.Limits) != 1 {
		t.Errorf("%+v", past)
	}
	if got := mustFind(t, j, r.Key); !same(got, r) {
		t.Errorf("%+v, want %+v", got, r)
	}
	end(t, j, noon, true)
}

// A row that was written again after the walker has seen it stays.
func TestWalkSparesWhatWasWritten(t *testing.T) {
	j, _ := begin(t, t.TempDir(), noon)
	rng := rand.New(rand.NewPCG(1, 11))
	r := recordAt(1, everyLimit(t)[0], rng)
	commit(t, j, noon, r)
	seen := []expired{{appendKey(nil, r.Key), r.Until}}
	r.Until += hour
	commit(t, j, noon, r)
	if err := j.expire(seen); err != nil {
		t.Fatal(err)
	}
	if got := mustFind(t, j, r.Key); !same(got, r) {
		t.Errorf("%+v, want %+v", got, r)
	}
	end(t, j, noon, true)
}

// The write-ahead log begins anew while commits go on, and stays bounded.
func TestLogStaysShort(t *testing.T) {
	dir := t.TempDir()
	j, _ := begin(t, dir, noon)
	rng := rand.New(rand.NewPCG(1, 12))
	l := everyLimit(t)[0]
	moved := 0
	j.observe = func(op string, _ time.Duration, failure string) {
		if op == "checkpoint" {
			moved++
		}
		if failure != "" {
			t.Errorf("%s: %s", op, failure)
		}
	}
	const short = 300
	j.due, j.soft = short, short
	for range 60 {
		var records []memstore.Record
		for range 100 {
			records = append(records, recordAt(rng.Uint64N(1000), l, rng))
		}
		commit(t, j, noon, records...)
		select {
		case <-j.wake:
			j.checkpoint(short)
		default:
		}
	}
	info, err := os.Stat(fileOf(dir) + walSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(2 * short * (pageBytes + 24)); info.Size() > most || moved < 10 {
		t.Errorf("%d bytes, most %d, after %d checkpoints", info.Size(), most, moved)
	}
	// Somebody who reads keeps the log from beginning anew, and commits go on.
	r, err := newReading(fileOf(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.exec(t.Context(), `begin; select count(*) from state`); err != nil {
		t.Fatal(err)
	}
	if ms, err := j.checker.integer(t.Context(), `pragma busy_timeout`); err != nil || ms > 100 {
		t.Errorf("the checkpointer waits for readers, and commits for it, %d ms: %v", ms, err)
	}
	commit(t, j, noon, recordAt(1, l, rng))
	j.frames = short
	j.checkpoint(short)
	if j.frames == 0 || j.due <= short {
		t.Errorf("%d frames, due at %d", j.frames, j.due)
	}
	commit(t, j, noon, recordAt(2, l, rng))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	j.frames = j.due + hardFrames
	commit(t, j, noon, recordAt(3, l, rng)) // makes room first
	if j.frames > 10 || j.due != short {
		t.Errorf("%d frames, due at %d", j.frames, j.due)
	}
	end(t, j, noon, true)
}

// What processes that were killed have left in the log counts: else the log would
// grow over their lives.
func TestLogOfEarlierLives(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 13))
	l := everyLimit(t)[0]
	for range 5 {
		j, _ := begin(t, dir, noon)
		info, err := os.Stat(fileOf(dir) + walSuffix)
		if err != nil {
			t.Fatal(err)
		}
		if j.frames*(pageBytes+frameHead)+pageBytes+frameHead < info.Size() {
			t.Errorf("%d frames are known of a log of %d bytes", j.frames, info.Size())
		}
		for range 20 {
			commit(t, j, noon, recordAt(rng.Uint64N(1000), l, rng), recordAt(rng.Uint64N(1000), l, rng))
		}
		end(t, j, noon, false)
	}
}

// A log that cannot be moved is told once, until it was moved again, and so are rows
// that cannot be looked for.
func TestMoveFails(t *testing.T) {
	j, _ := begin(t, t.TempDir(), noon)
	defer end(t, j, noon, true)
	var said strings.Builder
	j.log = slog.New(slog.NewTextHandler(&said, nil))
	if err := j.w.query(t.Context(), `pragma max_page_count = 1`, 1, ignore); err != nil {
		t.Fatal(err)
	}
	full := j.w.exec(t.Context(), `create table large as select zeroblob(1000000)`)
	if !passing(full) {
		t.Fatal(full)
	}
	for i, x := range []struct {
		err  error
		told int
	}{{full, 1}, {full, 1}, {nil, 1}, {full, 2}, {full, 2}} {
		j.moved(x.err)
		j.walked(x.err)
		for _, what := range []string{"the write-ahead log could not be moved", "rows that are over could not be looked for"} {
			if n := strings.Count(said.String(), `level=WARN msg="sqlitestore: `+what); n != x.told {
				t.Errorf("%d: %s: told %d times, want %d", i, what, n, x.told)
			}
		}
	}
	j.frames = j.soft
	j.checkpoint(j.soft)
	if j.checker.failing || j.frames != 0 {
		t.Errorf("%d frames after a move", j.frames)
	}
}
